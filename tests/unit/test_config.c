/* SPDX-License-Identifier: Apache-2.0 */
/* The configuration's rows and rules, against Cloud Hypervisor's behaviour; and guard 1b: no hidden padding. */
#include "base/text.h"

/* clang reports it where the struct is laid out, gcc where it is declared: here. Padding without a row would escape the
 * check of every byte, which looks at whole structs. */
#pragma GCC diagnostic push
#pragma GCC diagnostic error "-Wpadded"
#include "config/vm_config.h"
#include "config/generic_vhost_user.h"
#include "config/migration.h"
#include "config/restore.h"
#pragma GCC diagnostic pop

#include "config/options.h"
#include "config/rate_limiter.h"
#include "schema_kit.h"

#include <errno.h>

static const struct schema *const all[] = {
	&vm_config_schema,   &cpus_schema,        &memory_schema,  &memory_zone_schema,
	&payload_schema,     &platform_schema,    &disk_schema,    &rate_limit_group_schema,
	&net_schema,         &rng_schema,         &balloon_schema, &fs_schema,
	&pmem_schema,        &serial_schema,      &console_schema, &debug_console_schema,
	&device_schema,      &user_device_schema, &vdpa_schema,    &vsock_schema,
	&sgx_epc_schema,     &numa_schema,        &tpm_schema,     &pci_segment_schema,
	&landlock_schema,    &machine_schema,     &restore_schema, &rate_limiter_schema,
	&rtc_schema,         &ivshmem_schema,     &pvmemcontrol_schema, &migrated_zone_schema,
	&send_migration_schema, &receive_migration_schema, &generic_vhost_user_schema,
};

TEST(tables_are_sound)
{
	for (size_t i = 0; i < ARRAY_LEN(all); i++) {
		struct err e = { 0 };
		if (schema_is_sound(all[i], &e) < 0)
			test_fail(__FILE__, __LINE__, "%s", e.text);
	}
}

TEST(every_byte_belongs_to_a_row)
{
	for (size_t i = 0; i < ARRAY_LEN(all); i++)
		check_every_byte(all[i]);
}

TEST(round_trips)
{
	for (size_t i = 0; i < ARRAY_LEN(all); i++)
		check_round_trips(all[i], 200);
}

/* What becomes of an option string, or of a command line: an error text, or the object that this JSON describes
 * (apostrophes stand for quotation marks), or, with neither, the defaults. tests/vectors has the long lists. */
struct option_vector {
	const char *input;
	const char *json;
	const char *error;
};

/* JSON with apostrophes in place of quotation marks. */
static void parse_json(const struct schema *s, const char *json, void *object)
{
	struct err e = { 0 };
	char *copy = strdup(json);
	OK(copy);
	for (char *c = copy; *c; c++)
		*c = *c == '\'' ? '"' : *c;
	if (schema_parse_json(s, copy, strlen(copy), 0, object, &e) < 0)
		test_fail(__FILE__, __LINE__, "%s: %s", e.text, copy);
	free(copy);
}

static void check_vectors(const struct schema *s, const struct option_vector *v, size_t n)
{
	void *found = malloc(s->size), *expected = malloc(s->size);
	OK(found && expected);
	for (size_t i = 0; i < n; i++, v++) {
		struct err e = { 0 };
		memset(found, 0xff, s->size);
		int rc = schema_parse_option(s, v->input, found, &e);
		if ((rc < 0) != (v->error != NULL))
			test_fail(__FILE__, __LINE__, "'%s': %d %s", v->input, rc, e.text);
		if (v->error) {
			STR_EQ(e.text, v->error);
			continue;
		}
		if (v->json)
			parse_json(s, v->json, expected);
		else
			EQ(schema_init(s, expected, NULL), 0);
		if (!schema_equal(s, found, expected))
			test_fail(__FILE__, __LINE__, "'%s' is not %s", v->input, v->json ? v->json : "all defaults");
		schema_done(s, found);
		schema_done(s, expected);
	}
	free(found);
	free(expected);
}

TEST(newer_disk_keys)
{
	static const struct option_vector vectors[] = {
		{ "path=/d,image_type=qcow2,backing_files=on",
		  .json = "{'path':'/d','image_type':'Qcow2','backing_files':true}" },
		{ "image_type=VMDK", .json = "{'image_type':'FlatVmdk'}" },
		{ "image_type=unknown", .error = "Error parsing --disk: unable to convert unknown for image_type" },
		{ "sparse=off,lock_granularity=full", .json = "{'sparse':false,'lock_granularity':'Full'}" },
		{ "sync=none", .json = "{'sync':'None'}" },
		{ "sync=relaxed", .json = "{'sync':'Relaxed'}" },
		{ "sync=full", .json = "{}" },
		{ "sync=off", .error = "Error parsing --disk: unable to convert off for sync" },
		{ "pci_device_id=31", .json = "{'pci_device_id':31}" },
		{ "pci_device_id=32", .error = "Error parsing --disk: unable to convert 32 for pci_device_id" },
		{ "pci_device_id=0", .error = "Error parsing --disk: unable to convert 0 for pci_device_id" },
		{ "bw_size=1M,bw_refill_time=1", .error = "Error parsing --disk: unable to convert 1M for bw_size" },
		{ "size=1", .error = "Error parsing --disk: unknown option: size" },
		{ "queue_size=x,path=/d,readonly=x",
		  .error = "Error parsing --disk: unable to convert x for readonly" },
	};
	check_vectors(&disk_schema, vectors, ARRAY_LEN(vectors));
}

/* Others compare what vm.info says: a key of ours is there only where somebody asked for what they do not have. */
TEST(a_disks_sync_is_not_said_when_it_is_the_default)
{
	static const struct {
		const char *option, *json;
	} cases[] = {
		{ "path=/d", NULL }, { "path=/d,sync=full", NULL }, { "path=/d,sync=relaxed", "\"sync\":\"Relaxed\"" },
		{ "path=/d,sync=none", "\"sync\":\"None\"" },
	};
	for (size_t n = 0; n < ARRAY_LEN(cases); n++) {
		struct disk_config d;
		struct err e = { 0 };
		text_scoped t = TEXT_INIT;
		EQ(schema_parse_option(&disk_schema, cases[n].option, &d, &e), 0);
		EQ(schema_write_json(&disk_schema, &d, 0, &t, &e), 0);
		if (cases[n].json)
			STR_HAS(text_get(&t), cases[n].json);
		else
			OK(!strstr(text_get(&t), "sync"));
		schema_done(&disk_schema, &d);
	}
}

TEST(machine_keys)
{
	static const struct option_vector vectors[] = {
		{ .input = "" },
		{ .input = "transport=pci,irqchip=split,acpi=on,map_kernel=readonly" },
		{ "transport=MMIO,irqchip=kernel,acpi=off",
		  .json = "{'transport':'Mmio','irqchip':'Kernel','acpi':false}" },
		{ "transport=isa", .error = "Error parsing --machine: unable to convert isa for transport" },
		{ "cpu=1", .error = "Error parsing --machine: unknown option: cpu" },
	};
	check_vectors(&machine_schema, vectors, ARRAY_LEN(vectors));
}

TEST(the_largest_size_is_kept)
{
	struct memory_config m;
	EQ(schema_parse_option(&memory_schema, "size=18446744073709551615", &m, NULL), 0);
	OK(m.size == UINT64_MAX);
	schema_done(&memory_schema, &m);
}

TEST(defaults)
{
	struct vm_config c;
	EQ(vm_config_init(&c, NULL), 0);
	EQ(c.cpus.boot_vcpus, 1);
	EQ(c.cpus.max_vcpus, 1);
	EQ(c.cpus.max_phys_bits, 46);
	EQ(c.memory.size, 512 << 20);
	OK(c.memory.thp && !c.memory.shared && c.memory.hotplug_method == HOTPLUG_ACPI);
	OK(!c.has_payload && !c.disks && !c.iommu);
	STR_EQ(c.rng.src, "/dev/urandom");
	OK(c.serial.mode == CONSOLE_NULL && c.console.mode == CONSOLE_TTY);
	OK(c.machine.transport == TRANSPORT_PCI && c.machine.irqchip == IRQCHIP_SPLIT && c.machine.acpi);
	vm_config_done(&c);
}

/* Whole command lines. "K" stands for a kernel; apostrophes enclose an argument with spaces or nothing in it. */

#define MAX_ARGUMENTS 16

struct words {
	char *bytes;
	char *argv[MAX_ARGUMENTS];
	int argc;
};

static char *put_word(struct words *w, char *out, const char *word)
{
	size_t n = strlen(word) + 1;
	w->argv[w->argc++] = memcpy(out, word, n);
	return out + n;
}

static void split_words(const char *line, struct words *w)
{
	w->bytes = calloc(2, strlen(line) + 64);
	OK(w->bytes);
	char *out = w->bytes;
	w->argc = 0;
	out = put_word(w, out, "varan");
	for (const char *c = line; *c; c += *c == ' ') {
		if (strncmp(c, "K", 1) == 0 && (!c[1] || c[1] == ' ')) {
			out = put_word(w, put_word(w, out, "--kernel"), "/path/to/kernel");
			c++;
			continue;
		}
		OK(w->argc < MAX_ARGUMENTS - 2);
		w->argv[w->argc++] = out;
		bool is_quoted = false;
		for (; *c && (*c != ' ' || is_quoted); c++) {
			if (*c == '\'')
				is_quoted = !is_quoted;
			else
				*out++ = *c;
		}
		*out++ = '\0';
	}
}

/* The configuration of a command line; -EINVAL and its text when there is none. */
static int config_of(const char *arguments, struct vm_config *ret_c, struct err *e)
{
	struct words w;
	struct command_line line;
	split_words(arguments, &w);
	int rc = command_line_parse(w.argc, w.argv, &varan_options, &line, e);
	if (rc < 0)
		test_fail(__FILE__, __LINE__, "'%s': %s", arguments, e->text);
	rc = vm_config_from_command_line(&line, ret_c, e);
	command_line_done(&line);
	free(w.bytes);
	return rc;
}

#define INVALID(text) .error = "Error validating configuration: " text
#define PAYLOAD "'payload':{'kernel':'/path/to/kernel'}"

/* .json: the same configuration. A member that is derived, such as iommu, has to be spelt out there. */
static const struct option_vector lines[] = {
	{ "K", .json = "{" PAYLOAD "}" },
	{ "K", .json = "{" PAYLOAD ",'serial':{'mode':'Null'},'console':{'mode':'Tty'}}" },
	{ "K --cpus boot=1", .json = "{" PAYLOAD "}" },
	{ "K --cpus boot=1,max=3", .json = "{" PAYLOAD ",'cpus':{'boot_vcpus':1,'max_vcpus':3}}" },
	{ "K --cpus boot=2,max=4", .json = "{" PAYLOAD ",'cpus':{'boot_vcpus':2,'max_vcpus':4}}" },
	{ "K --cpus ''", .json = "{" PAYLOAD "}" },
	{ "K --memory size=1073741824", .json = "{" PAYLOAD ",'memory':{'size':1073741824}}" },
	{ "K --memory size=1G,mergeable=on", .json = "{" PAYLOAD ",'memory':{'size':1073741824,'mergeable':true}}" },
	{ "K --memory size=1G,mergeable=off", .json = "{" PAYLOAD ",'memory':{'size':1073741824,'mergeable':false}}" },
	{ "K --memory size=1G,hotplug_size=1G",
	  .json = "{" PAYLOAD ",'memory':{'size':1073741824,'hotplug_method':'Acpi','hotplug_size':1073741824}}" },
	{ "K --memory size=1G,hotplug_method=virtio-mem,hotplug_size=1G",
	  .json = "{" PAYLOAD ",'memory':{'size':1073741824,'hotplug_method':'VirtioMem','hotplug_size':1073741824}}" },
	{ "K --memory size=2G,hotplug_size=0", .json = "{" PAYLOAD ",'memory':{'size':2147483648,'hotplug_size':0}}" },
	{ "K --memory size=1G,hotplugged_size=2G",
	  .json = "{" PAYLOAD ",'memory':{'size':1073741824,'hotplugged_size':2147483648}}" },
	{ "K --memory size=0", .json = "{" PAYLOAD ",'memory':{'size':0}}" },
	{ "K --cmdline 'arg1=foo arg2=bar'",
	  .json = "{'payload':{'kernel':'/path/to/kernel','cmdline':'arg1=foo arg2=bar'}}" },
	{ "K --cmdline=-foo", .json = "{'payload':{'kernel':'/path/to/kernel','cmdline':'-foo'}}" },
	{ "K --cmdline=", .json = "{'payload':{'kernel':'/path/to/kernel','cmdline':''}}" },
	{ "K --cmdline ''", .json = "{'payload':{'kernel':'/path/to/kernel','cmdline':''}}" },
	{ "K --initramfs /i", .json = "{'payload':{'kernel':'/path/to/kernel','initramfs':'/i'}}" },
	{ "--firmware /fw --kernel /k", .json = "{'payload':{'kernel':'/k','firmware':'/fw'}}" },
	{ "--initramfs /i", INVALID("No kernel specified") },
	{ "K --disk path=/path/to/disk/1 path=/path/to/disk/2",
	  .json = "{" PAYLOAD ",'disks':[{'path':'/path/to/disk/1'},{'path':'/path/to/disk/2'}]}" },
	{ "K --disk path=/a --disk path=/b path=/c -v --disk=path=/d",
	  .json = "{" PAYLOAD ",'disks':[{'path':'/a'},{'path':'/b'},{'path':'/c'},{'path':'/d'}]}" },
	{ "K --disk=path=/a", .json = "{" PAYLOAD ",'disks':[{'path':'/a'}]}" },
	{ "K --disk path=/a path=/a", .json = "{" PAYLOAD ",'disks':[{'path':'/a'},{'path':'/a'}]}" },
	{ "K --disk num_queues=1", .json = "{" PAYLOAD ",'disks':[{}]}" },
	{ "K --disk ''", .json = "{" PAYLOAD ",'disks':[{}]}" },
	{ "K --memory shared=true --disk vhost_user=true,socket=/tmp/sock1",
	  .json =
	      "{" PAYLOAD
	      ",'memory':{'shared':true,'size':536870912},'disks':[{'vhost_user':true,'vhost_socket':'/tmp/sock1'}]}" },
	{ "K --memory hugepages=on --disk vhost_user=on,socket=/s",
	  .json = "{" PAYLOAD
	          ",'memory':{'hugepages':true,'size':536870912},'disks':[{'vhost_user':true,'vhost_socket':'/s'}]}" },
	{ "K --disk path=/d,num_queues=0", .json = "{" PAYLOAD ",'disks':[{'path':'/d','num_queues':0}]}" },
	{ "K --disk path=/d,queue_size=100", .json = "{" PAYLOAD ",'disks':[{'path':'/d','queue_size':100}]}" },
	{ "K --disk path=/a,id=_x", .json = "{" PAYLOAD ",'disks':[{'path':'/a','id':'_x'}]}" },
	{ "K --cpus boot=2 --disk path=/d,num_queues=2",
	  .json = "{" PAYLOAD ",'cpus':{'boot_vcpus':2,'max_vcpus':2},'disks':[{'path':'/d','num_queues':2}]}" },
	{ "K --disk path=/d,iommu=on", .json = "{" PAYLOAD ",'disks':[{'path':'/d','iommu':true}],'iommu':true}" },
	{ "K --rng src=/path/to/entropy/source", .json = "{" PAYLOAD ",'rng':{'src':'/path/to/entropy/source'}}" },
	{ "K --rng iommu=on", .json = "{" PAYLOAD ",'rng':{'src':'/dev/urandom','iommu':true},'iommu':true}" },
	{ "K --serial null --console tty", .json = "{" PAYLOAD "}" },
	{ "K --serial tty --console off", .json = "{" PAYLOAD ",'serial':{'mode':'Tty'},'console':{'mode':'Off'}}" },
	{ "K --serial pty --console pty", .json = "{" PAYLOAD ",'serial':{'mode':'Pty'},'console':{'mode':'Pty'}}" },
	{ "K --serial tty --console tty", .json = "{" PAYLOAD ",'serial':{'mode':'Tty'}}" },
	{ "K --console file=/c,iommu=on",
	  .json = "{" PAYLOAD ",'console':{'mode':'File','file':'/c','iommu':true},'iommu':true}" },
	{ "K --serial file=/c,iommu=on", .json = "{" PAYLOAD ",'serial':{'mode':'File','file':'/c','iommu':true}}" },
	{ "K --machine transport=mmio", .json = "{" PAYLOAD ",'machine':{'transport':'Mmio'}}" },
	{ "K -vvv -v --log-file /l", .json = "{" PAYLOAD "}" },
	{ "K --cpus boot=8,topology=2:2:1:2",
	  .json = "{" PAYLOAD ",'cpus':{'boot_vcpus':8,'max_vcpus':8,"
	          "'topology':{'threads_per_core':2,'cores_per_die':2,'dies_per_package':1,'packages':2}}}" },
	{ "K --cpus boot=255,topology=255:1:1:1",
	  .json = "{" PAYLOAD ",'cpus':{'boot_vcpus':255,'max_vcpus':255,"
	          "'topology':{'threads_per_core':255,'cores_per_die':1,'dies_per_package':1,'packages':1}}}" },
	{ "K --memory size=1G,hugepages=on,hugepage_size=2M",
	  .json = "{" PAYLOAD ",'memory':{'size':1073741824,'hugepages':true,'hugepage_size':2097152}}" },
	{ "K --memory size=1G,hugepages=on,hugepage_size=1G",
	  .json = "{" PAYLOAD ",'memory':{'size':1073741824,'hugepages':true,'hugepage_size':1073741824}}" },

	{ "K --console ''", .error = "Error parsing --console: invalid console mode given" },
	{ "K --serial foo", .error = "Error parsing --console: unknown option: foo" },
	{ "K --serial file=", INVALID("Path missing when using file console mode") },
	{ "K --disk bogus=1 --cpus bogus=1", .error = "Error parsing --disk: unknown option: bogus" },
	{ "K --memory bogus=1 --cpus bogus=2", .error = "Error parsing --cpus: unknown option: bogus" },
	{ "K --serial bogus --console nonsense", .error = "Error parsing --console: unknown option: nonsense" },
	{ "K --console bogus --rng x=1", .error = "Error parsing --rng: unknown option: x" },
	{ "K --disk path=/a bogus=1 --disk path=/b,id=b", .error = "Error parsing --disk: unknown option: bogus" },
	{ "K --cpus boot=4,max=2", INVALID("Max CPUs lower than boot CPUs") },
	{ "K --cpus boot=32,max=16", INVALID("Max CPUs lower than boot CPUs") },
	{ "K --cpus boot=0", INVALID("Number of boot vCPUs is zero") },
	{ "K --cpus boot=16,topology=2:8:1:2", INVALID("Product of CPU topology parts does not match maximum vCPUs") },
	{ "K --cpus boot=1,topology=2:128:1:1", INVALID("Product of CPU topology parts does not match maximum vCPUs") },
	{ "K --cpus boot=1,topology=0:1:1:1", INVALID("No part of the CPU topology can be zero") },
	{ "K --memory size=1G,hugepage_size=2M", INVALID("Huge page size specified but huge pages not enabled") },
	{ "K --memory size=1G,hugepages=on,hugepage_size=3M", INVALID("Huge page size is not power of 2: 3145728") },
	{ "K --memory size=1G,hugepages=on,hugepage_size=0", INVALID("Huge page size is not power of 2: 0") },
	{ "K --disk path=/d,socket=/s", INVALID("Disk path and vhost socket both provided") },
	{ "K --disk path=/d,vhost_user=on", INVALID("Using vhost-user requires using shared memory or huge pages") },
	{ "K --disk vhost_user=on,socket=/s", INVALID("Using vhost-user requires using shared memory or huge pages") },
	{ "K --memory size=0 --disk vhost_user=on,socket=/s",
	  INVALID("Using vhost-user requires using shared memory or huge pages") },
	{ "K --memory shared=on --disk vhost_user=on", INVALID("No socket provided when using vhost-user") },
	{ "K --memory shared=on --disk vhost_user=on,socket=/s,iommu=on",
	  INVALID("Device does not support being placed behind IOMMU") },
	{ "K --disk path=/d,num_queues=2", INVALID("Number of vCPUs is insufficient for number of queues") },
	{ "K --cpus boot=1,max=4 --disk path=/d,num_queues=2",
	  INVALID("Number of vCPUs is insufficient for number of queues") },
	{ "K --disk path=/d,num_queues=18446744073709551615",
	  INVALID("Number of vCPUs is insufficient for number of queues") },
	{ "K --disk path=/d,rate_limit_group=foo", INVALID("Invalid rate-limiter group") },
	{ "K --disk path=/a,id=__x", INVALID("Identifier __x is invalid") },
	{ "K --disk path=/a,id=x path=/b,id=x", INVALID("Identifier x is not unique") },
	{ "K --disk path=/d,pci_segment=1", INVALID("Invalid PCI segment id: 1") },
	{ "K --disk path=/d,pci_segment=99", INVALID("Invalid PCI segment id: 99") },
	{ "K --cpus boot=4,max=2 --disk path=/d,socket=/s", INVALID("Max CPUs lower than boot CPUs") },
	{ "K --cpus boot=1,topology=0:1:1:1 --disk path=/d,id=__d", INVALID("Identifier __d is invalid") },
	{ "K --disk path=/d,id=__d path=/e,socket=/s", INVALID("Identifier __d is invalid") },
	{ "K --disk path=/d,num_queues=2,rate_limit_group=g", INVALID("Invalid rate-limiter group") },
	{ "K --cpus topology=0:1:1:1 --memory hugepage_size=2M", INVALID("No part of the CPU topology can be zero") },
};

TEST(whole_command_lines)
{
	for (size_t i = 0; i < ARRAY_LEN(lines); i++) {
		struct vm_config found, expected;
		struct err e = { 0 };
		memset(&found, 0xff, sizeof found);
		int rc = config_of(lines[i].input, &found, &e);
		if ((rc < 0) != (lines[i].error != NULL))
			test_fail(__FILE__, __LINE__, "'%s': %d %s", lines[i].input, rc, e.text);
		if (rc < 0) {
			STR_EQ(e.text, lines[i].error);
			continue;
		}
		parse_json(&vm_config_schema, lines[i].json, &expected);
		found.is_iommu_derived = false; /* from devices here, said there */
		if (!schema_equal(&vm_config_schema, &found, &expected))
			test_fail(__FILE__, __LINE__, "'%s' is not %s", lines[i].input, lines[i].json);
		vm_config_done(&found);
		vm_config_done(&expected);
	}
}

TEST(what_differs_is_not_equal)
{
	static const char *const pairs[][2] = {
		{ "K --cpus boot=2,max=4", "{" PAYLOAD ",'cpus':{'boot_vcpus':1,'max_vcpus':3}}" },
		{ "K --memory size=1G,mergeable=on", "{" PAYLOAD ",'memory':{'size':1073741824,'mergeable':false}}" },
		{ "K --disk path=/path/to/disk/1 path=/path/to/disk/2",
		  "{" PAYLOAD ",'disks':[{'path':'/path/to/disk/1'}]}" },
		{ "K --disk path=/d,iommu=on", "{" PAYLOAD ",'disks':[{'path':'/d','iommu':true}]}" },
		{ "K", "{" PAYLOAD ",'disks':[]}" },
		{ "K", "{'payload':{'kernel':'/path/to/kernel','cmdline':''}}" },
	};
	for (size_t i = 0; i < ARRAY_LEN(pairs); i++) {
		struct vm_config a, b;
		struct err e = { 0 };
		EQ(config_of(pairs[i][0], &a, &e), 0);
		parse_json(&vm_config_schema, pairs[i][1], &b);
		if (schema_equal(&vm_config_schema, &a, &b))
			test_fail(__FILE__, __LINE__, "'%s' equals %s", pairs[i][0], pairs[i][1]);
		vm_config_done(&a);
		vm_config_done(&b);
	}
}

/* JSON configurations, read and then validated. */
TEST(json_configurations)
{
	static const struct {
		const char *json, *reading, *checking; /* what the error has, if any */
	} cases[] = {
		{ "{}", NULL, "No kernel specified" },
		{ "{'payload':null}", NULL, "No kernel specified" },
		{ "{'payload':{}}", NULL, NULL },
		{ "{'payload':{'kernel':'/k'}}", NULL, NULL },
		{ "{'payload':{'kernel':'/k','bogus':1}}", NULL, NULL },
		{ "{'payload':{'kernel':'/k'},'cpus':{'boot_vcpus':1}}", "cpus: missing member 'max_vcpus'", NULL },
		{ "{'payload':{'kernel':'/k'},'cpus':{'boot_vcpus':1,'max_vcpus':1}}", NULL, NULL },
		{ "{'payload':{'kernel':'/k'},'cpus':{'boot_vcpus':4,'max_vcpus':2}}", NULL,
		  "Max CPUs lower than boot CPUs" },
		{ "{'payload':{'kernel':'/k'},'memory':{}}", "memory: missing member 'size'", NULL },
		{ "{'payload':{'kernel':'/k'},'memory':{'size':'1G'}}",
		  "memory.size: expected a number, found a string", NULL },
		{ "{'payload':{'kernel':'/k'},'memory':{'size':1073741824,'hotplug_method':'acpi'}}",
		  "memory.hotplug_method: unknown value 'acpi', expected Acpi or VirtioMem", NULL },
		{ "{'payload':{'kernel':'/k'},'memory':{'size':1073741824,'hotplug_method':'VirtioMem'}}", NULL, NULL },
		{ "{'payload':{'kernel':'/k'},'serial':{'mode':'tty'}}",
		  "serial.mode: unknown value 'tty', expected Off, Pty, Tty", NULL },
		{ "{'payload':{'kernel':'/k'},'serial':{}}", "serial: missing member 'mode'", NULL },
		{ "{'payload':{'kernel':'/k'},'serial':{'mode':'Tty'}}", NULL, NULL },
		{ "{'payload':{'kernel':'/k'},'serial':{'mode':'File'}}", NULL,
		  "Path missing when using file console mode" },
		{ "{'payload':{'kernel':'/k'},'console':{'mode':'File'}}", NULL,
		  "Path missing when using file console mode" },
		{ "{'payload':{'kernel':'/k'},'console':{'mode':'Socket'}}", NULL, NULL },
		{ "{'payload':{'kernel':'/k'},'disks':[{'path':'/d'}]}", NULL, NULL },
		{ "{'payload':{'kernel':'/k'},'disks':[{}]}", NULL, NULL },
		{ "{'payload':{'kernel':'/k'},'disks':[{'path':'/d','rate_limiter_config':{'bw':1}}]}",
		  "disks[0].rate_limiter_config: unknown member 'bw'", NULL },
		{ "{'payload':{'kernel':'/k'},'disks':[{'path':'/d','rate_limiter_config':{}}]}", NULL, NULL },
		{ "{'payload':{'kernel':'/k'},'disks':[{'path':'/d','rate_limiter_config':{'ops':{'size':1}}}]}",
		  "disks[0].rate_limiter_config.ops: missing member 'refill_time'", NULL },
		{ "{'payload':{'kernel':'/k'},'disks':[{},{'queue_size':70000}]}",
		  "disks[1].queue_size: 70000 is not within 0 to 65535", NULL },
		{ "{'payload':{'kernel':'/k'},'disks':[{'path':'/d','id':''}]}", NULL, NULL },
		{ "{'payload':{'kernel':'/k'},'disks':[{'path':'/d','id':''},{'path':'/e','id':''}]}", NULL,
		  "Identifier  is not unique" },
		{ "{'payload':{'kernel':'/k'},'iommu':true}", NULL, NULL },
		{ "{'payload':{'kernel':'/k'},'rng':{}}", "rng: missing member 'src'", NULL },
		{ "{'payload':{'kernel':'/k'},'rng':{'src':'/dev/random'}}", NULL, NULL },
	};
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		struct vm_config c;
		struct err e = { 0 };
		char *json = strdup(cases[i].json);
		OK(json);
		for (char *p = json; *p; p++)
			*p = *p == '\'' ? '"' : *p;
		int rc = schema_parse_json(&vm_config_schema, json, strlen(json), 0, &c, &e);
		free(json);
		if ((rc < 0) != (cases[i].reading != NULL))
			test_fail(__FILE__, __LINE__, "%s: %d %s", cases[i].json, rc, e.text);
		if (rc < 0) {
			STR_HAS(e.text, cases[i].reading);
			continue;
		}
		rc = schema_check(&vm_config_schema, &c, &e);
		EQ(rc, !cases[i].checking ? 0 : strstr(cases[i].checking, "not unique") ? -EEXIST : -EINVAL);
		if (cases[i].checking)
			STR_EQ(e.text, cases[i].checking);
		vm_config_done(&c);
	}
}

/* The port of the debug console is a default of the whole; a console that is described has what its description says. */
TEST(defaults_of_the_whole)
{
	struct vm_config c;
	parse_json(&vm_config_schema, "{}", &c);
	OK(c.debug_console.has_iobase && c.debug_console.iobase == 0xe9);
	vm_config_done(&c);
	parse_json(&vm_config_schema, "{'debug_console':{'mode':'Off'},'console':{'mode':'Null'}}", &c);
	OK(!c.debug_console.has_iobase && c.console.mode == CONSOLE_NULL);
	vm_config_done(&c);
	EQ(config_of("K --debug-console off", &c, NULL), 0);
	OK(!c.debug_console.has_iobase);
	vm_config_done(&c);
}

/* Numbers of descriptors mean nothing elsewhere. */
TEST(descriptors_do_not_travel)
{
	struct net_config n;
	struct text json = TEXT_INIT, record = TEXT_INIT;
	EQ(schema_parse_option(&net_schema, "fd=[3,7]", &n, NULL), 0);
	OK(n.n_fds == 2 && n.fds[0] == 3 && n.fds[1] == 7);
	EQ(schema_write_json(&net_schema, &n, 0, &json, NULL), 0);
	STR_HAS(text_get(&json), "\"fds\":[-1,-1]");
	EQ(schema_write_record(&net_schema, &n, &record, NULL), 0);
	schema_done(&net_schema, &n);
	parse_json(&net_schema, "{'fds':[3,7]}", &n);
	OK(n.n_fds == 2 && n.fds[0] == -1 && n.fds[1] == -1);
	schema_done(&net_schema, &n);
	EQ(schema_read_record(&net_schema, text_get(&record), record.n_bytes, &n, NULL), 0);
	OK(n.n_fds == 2 && n.fds[0] == -1 && n.fds[1] == -1);
	schema_done(&net_schema, &n);
	text_done(&json);
	text_done(&record);
}

/* Addresses that are made up differ; those that are given stay. */
TEST(random_addresses)
{
	struct vm_config c;
	EQ(config_of("K --net tap=a --net mac= --net mac=12:34:56:78:90:ab", &c, NULL), 0);
	OK(c.net[0].has_mac && c.net[0].mac[0] == 0x2e && c.net[1].mac[0] == 0x2e);
	OK(memcmp(c.net[0].mac, c.net[1].mac, 6) != 0);
	EQ(c.net[2].mac[5], 0xab);
	vm_config_done(&c);
}

/* What is above 2^63 - 1 is printed when it is asked for, and not otherwise. */
TEST(numbers_beyond_json)
{
	struct vm_config c;
	struct text t = TEXT_INIT;
	EQ(config_of("K --memory size=18446744073709551615", &c, NULL), 0);
	EQ(schema_write_json(&vm_config_schema, &c, 0, &t, NULL), -ERANGE);
	text_done(&t);
	EQ(schema_write_json(&vm_config_schema, &c, SCHEMA_LARGE_NUMBERS, &t, NULL), 0);
	STR_HAS(text_get(&t), "\"memory\":{\"size\":18446744073709551615,");
	text_done(&t);
	vm_config_done(&c);
}

TEST(warning_about_the_terminal)
{
	struct vm_config c;
	text_scoped t = TEXT_INIT, three = TEXT_INIT;
	EQ(vm_config_init(&c, NULL), 0);
	OK(!vm_config_warning(&c, &t) && !t.n_bytes);
	c.serial.mode = CONSOLE_TTY;
	OK(vm_config_warning(&c, &t));
	STR_EQ(text_get(&t), "Using TTY output for multiple consoles: [\"virtio-console\", \"serial-console\"]");
	c.debug_console.mode = CONSOLE_TTY;
	OK(vm_config_warning(&c, &three));
	STR_HAS(text_get(&three), "[\"virtio-console\", \"serial-console\", \"debug-console\"]");
	vm_config_done(&c);
}

/* What is not a usage error, and what is. */
static const struct {
	const char *arguments, *error;
	int rc;
} usages[] = {
	{ "--help", "", 0 },
	{ "-h --bogus", "", 0 },
	{ "--version", "", 0 },
	{ "K --net a --net b -V", "", 0 },
	{ "K --net a -h", "", 0 },
	{ "K -vV", "", 0 },
	{ "K -v -v", "", 0 },
	{ "K --", "", 0 },
	{ "--cpus nonsense=1", "", 0 },
	{ "--bogus", "unexpected argument '--bogus' found", -EINVAL },
	{ "--bogus=1 --help", "unexpected argument '--bogus' found", -EINVAL },
	{ "stray", "unexpected argument 'stray' found", -EINVAL },
	{ "--kernel", "a value is required for '--kernel <kernel>' but none was supplied", -EINVAL },
	{ "--kernel -v", "a value is required for '--kernel <kernel>' but none was supplied", -EINVAL },
	{ "--kernel --", "a value is required for '--kernel <kernel>' but none was supplied", -EINVAL },
	{ "--kernel /a --kernel /b", "the argument '--kernel <kernel>' cannot be used multiple times", -EINVAL },
	{ "K --kernel=/b", "the argument '--kernel <kernel>' cannot be used multiple times", -EINVAL },
	{ "K --cpus boot=1 --cpus boot=2", "the argument '--cpus <cpus>' cannot be used multiple times", -EINVAL },
	{ "K --disk", "a value is required for '--disk <disk>...' but none was supplied", -EINVAL },
	{ "K --disk path=/a --disk", "a value is required for '--disk <disk>...' but none was supplied", -EINVAL },
	{ "K --disk=path=/a path=/b", "unexpected argument 'path=/b' found", -EINVAL },
	{ "K --cpus boot=1 boot=2", "unexpected argument 'boot=2' found", -EINVAL },
	{ "K --dis path=/a", "unexpected argument '--dis' found", -EINVAL },
	{ "K --v", "unexpected argument '--v' found", -EINVAL },
	{ "K -- path=/a", "unexpected argument 'path=/a' found", -EINVAL },
	{ "K --disk path=/a -- path=/b", "unexpected argument 'path=/b' found", -EINVAL },
	{ "-k /a", "unexpected argument '-k' found", -EINVAL },
	{ "-vk", "unexpected argument '-k' found", -EINVAL },
	{ "K --cmdline -foo", "unexpected argument '-f' found", -EINVAL },
	{ "K --cmdline -v", "a value is required for '--cmdline <cmdline>' but none was supplied", -EINVAL },
	{ "-VV", "the argument '--version' cannot be used multiple times", -EINVAL },
	{ "--version=1", "unexpected value '1' for '--version' found; no more were expected", -EINVAL },
	{ "-v=3", "unexpected value '3' for '-v...' found; no more were expected", -EINVAL },
	{ "K --pvpanic on", "unexpected argument 'on' found", -EINVAL },
	{ "K --pvpanic=true", "unexpected value 'true' for '--pvpanic' found; no more were expected", -EINVAL },
	{ "K --watchdog --watchdog", "the argument '--watchdog' cannot be used multiple times", -EINVAL },
	{ "K --seccomp TRUE", "invalid value 'TRUE' for '--seccomp <seccomp>'\n  [possible values: true, false, log]",
	  -EINVAL },
	{ "K --seccomp",
	  "a value is required for '--seccomp <seccomp>' but none was supplied\n  [possible values: true, false, log]",
	  -EINVAL },
	{ "K --gdb path=/x", "unexpected argument '--gdb' found", -EINVAL },
	{ "K --dbus-service-name a", "unexpected argument '--dbus-service-name' found", -EINVAL },
	{ "K --host-data ab", "unexpected argument '--host-data' found", -EINVAL },
	{ "--igvm /x", "unexpected argument '--igvm' found", -EINVAL },
	{ "K --platform num_pci_segments=2 extra", "unexpected argument 'extra' found", -EINVAL },
	{ "K --tpm socket=/a socket=/b", "unexpected argument 'socket=/b' found", -EINVAL },
	{ "K --net a --bogus", "unexpected argument '--bogus' found", -EINVAL },
};

TEST(usage)
{
	for (size_t i = 0; i < ARRAY_LEN(usages); i++) {
		struct words w;
		struct command_line line;
		struct err e = { 0 };
		split_words(usages[i].arguments, &w);
		int rc = command_line_parse(w.argc, w.argv, &varan_options, &line, &e);
		if (rc != usages[i].rc)
			test_fail(__FILE__, __LINE__, "'%s' gave %d: %s", usages[i].arguments, rc, e.text);
		STR_EQ(e.text, usages[i].error);
		command_line_done(&line);
		free(w.bytes);
	}
}

TEST(what_was_given)
{
	struct words w;
	struct command_line line;
	size_t n;
	split_words("K --disk a b -vv --disk=c -v --log-file /l", &w);
	EQ(command_line_parse(w.argc, w.argv, &varan_options, &line, NULL), 0);
	EQ(command_line_count(&line, "v"), 3);
	EQ(command_line_count(&line, "version"), 0);
	STR_EQ(command_line_value(&line, "log-file"), "/l");
	STR_EQ(command_line_value(&line, "memory"), "size=512M");
	OK(!command_line_value(&line, "firmware"));
	const char *const *disks = command_line_values(&line, "disk", &n);
	EQ(n, 3);
	STR_EQ(disks[0], "a");
	STR_EQ(disks[1], "b");
	STR_EQ(disks[2], "c");
	OK(!line.is_empty);
	command_line_done(&line);
	free(w.bytes);

	split_words("", &w);
	EQ(command_line_parse(w.argc, w.argv, &varan_options, &line, NULL), 0);
	OK(line.is_empty);
	command_line_done(&line);
	free(w.bytes);
}

/* The bound of JSON is that of the command line, and is told of the option. */
TEST(too_many_of_a_kind)
{
	enum { N = 4097 };
	static char *argv[N + 4];
	static char program[] = "varan", kernel[] = "--kernel", k[] = "k", option[] = "--disk", disk[] = "path=/d";
	struct command_line line;
	struct vm_config c;
	struct err e = { 0 };
	argv[0] = program;
	argv[1] = kernel;
	argv[2] = k;
	argv[3] = option;
	for (int i = 0; i < N; i++)
		argv[4 + i] = disk;
	EQ(command_line_parse(N + 4, argv, &varan_options, &line, &e), 0);
	EQ(vm_config_from_command_line(&line, &c, &e), -EINVAL);
	STR_EQ(e.text, "Error parsing --disk: 4097 are more than 4096");
	command_line_done(&line);
	EQ(command_line_parse(N + 3, argv, &varan_options, &line, &e), 0);
	EQ(vm_config_from_command_line(&line, &c, &e), 0);
	vm_config_done(&c);
	command_line_done(&line);
}

/* What an option that is absent leaves in a configuration. */
static const void *default_of(const struct vm_config *c, const struct schema *s)
{
	for (uint32_t i = 0; i < vm_config_schema.n_fields; i++)
		if (vm_config_schema.fields[i].schema == s)
			return (const char *)c + vm_config_schema.fields[i].at;
	test_fail(__FILE__, __LINE__, "%s is not in a configuration", s->name);
}

/* The defaults that the help shows are the ones that the rows give. */
TEST(shown_defaults_are_true)
{
	struct vm_config c;
	EQ(vm_config_init(&c, NULL), 0);
	for (size_t i = 0; i < varan_options.n_rows; i++) {
		const struct option_row *r = &varan_options.rows[i];
		if (!r->schema || !r->def)
			continue;
		uint8_t *a = malloc(r->schema->size);
		OK(a);
		EQ(schema_parse_option(r->schema, r->def, a, NULL), 0);
		if (!schema_equal(r->schema, a, default_of(&c, r->schema)))
			test_fail(__FILE__, __LINE__, "--%s: '%s' is not the default", r->name, r->def);
		schema_done(r->schema, a);
		free(a);
	}
	vm_config_done(&c);
}

TEST(help)
{
	struct text t = TEXT_INIT;
	struct err e = { .text = "unexpected argument 'x' found" };
	command_line_write_help(&varan_options, &t);
	for (const char *l = text_get(&t); *l;) {
		size_t n = strcspn(l, "\n");
		if (n > 80)
			test_fail(__FILE__, __LINE__, "%.*s", (int)n, l);
		l += n + 1;
	}
	STR_HAS(text_get(&t), "Usage: varan [OPTIONS]\n");
	STR_HAS(text_get(&t),
	        "      --disk <disk>...\n          Block devices, one value each\n            path=<path>  ");
	STR_HAS(text_get(&t), "\n            off|pty|tty|null|file=<path>|socket=<path>\n");
	STR_HAS(text_get(&t), "bw_one_time_burst=<number>\n");
	STR_HAS(text_get(&t), "  -v...\n");
	STR_HAS(text_get(&t), "  -V, --version\n");
	STR_HAS(text_get(&t), "\n            off|pty|tty|null|file=<path>\n");
	STR_HAS(text_get(&t), "  --dry-run\n          Varan's own: ");
	OK(!strstr(text_get(&t), "--gdb"));
	text_done(&t);

	command_line_write_usage_error(&varan_options, &e, &t);
	STR_EQ(
	    text_get(&t),
	    "error: unexpected argument 'x' found\n\nUsage: varan [OPTIONS]\n\nFor more information, try '--help'.\n");
	text_done(&t);

	command_line_write_man_options(&varan_options, &t);
	STR_HAS(text_get(&t), ".TP\n\\fB\\-\\-disk <disk>...\\fR\n");
	text_done(&t);
}
