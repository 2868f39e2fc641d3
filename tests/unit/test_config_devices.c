/* SPDX-License-Identifier: Apache-2.0 */
/* Devices that are added to a configuration, removed from it, and named. */
#include "base/clock.h"
#include "config/devices.h"
#include "config/names.h"
#include "config/preserved.h"
#include "schema/schema.h"
#include "test.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <unistd.h>

static void make(struct vm_config *c)
{
	EQ(vm_config_init(c, NULL), 0);
	c->has_payload = true;
}

static void read_device(const struct schema *s, const char *text, void *device)
{
	struct err e = { 0 };
	if (schema_parse_option(s, text, device, &e) < 0)
		test_fail(__FILE__, __LINE__, "%s", e.text);
}

static int add(struct vm_config *c, const char *member, const struct schema *s, const char *text, struct err *e)
{
	void *device = malloc(s->size);
	OK(device);
	read_device(s, text, device);
	int rc = vm_config_add_device(c, member, device, e);
	schema_done(s, device);
	free(device);
	return rc;
}

static void add_well(struct vm_config *c, const char *member, const struct schema *s, const char *text)
{
	struct err e = { 0 };
	if (add(c, member, s, text, &e) < 0)
		test_fail(__FILE__, __LINE__, "%s: %s", text, e.text);
}

TEST(devices_are_appended)
{
	struct vm_config c;
	make(&c);
	add_well(&c, "disks", &disk_schema, "path=/a,id=a,queue_affinity=[0@[1,2]]");
	add_well(&c, "disks", &disk_schema, "path=/b");
	add_well(&c, "net", &net_schema, "tap=t0,iommu=on");
	add_well(&c, "vsock", &vsock_schema, "cid=3,socket=/s,id=v");
	EQ(c.n_disks, 2);
	STR_EQ(c.disks[0].path, "/a");
	EQ(c.disks[0].queue_affinity[0].n_host_cpus, 2);
	STR_EQ(c.disks[1].path, "/b");
	EQ(c.n_net, 1);
	OK(c.has_vsock && c.vsock.cid == 3);
	/* What follows from a device is filled in. */
	OK(c.iommu && c.net[0].has_mac && c.net[0].mac[0] == 0x2e);
	vm_config_done(&c);
}

/* What is refused leaves the configuration as it was, an absent list absent. */
TEST(refused_devices_leave_nothing)
{
	static const struct {
		const char *member;
		const struct schema *s;
		const char *text, *error;
		int rc;
	} cases[] = {
		{ "disks", &disk_schema, "path=/b,id=a", "Identifier a is not unique", -EEXIST },
		{ "disks", &disk_schema, "path=/b,id=__a", "Identifier __a is invalid", -EINVAL },
		{ "disks", &disk_schema, "path=/b,num_queues=2", "Number of vCPUs is insufficient for number of queues",
		  -EINVAL },
		{ "net", &net_schema, "id=a", "Identifier a is not unique", -EEXIST },
		{ "net", &net_schema, "mtu=1", "Provided MTU 1 is lower than 1280 (expected by VIRTIO specification)",
		  -EINVAL },
		{ "fs", &fs_schema, "tag=t,socket=/s", "Using vhost-user requires using shared memory or huge pages",
		  -EINVAL },
		{ "devices", &device_schema, "path=/dev0", "Duplicated device path: /dev0", -EEXIST },
		{ "vsock", &vsock_schema, "cid=1,socket=/s", "1 is a special VSOCK CID", -EINVAL },
	};
	struct vm_config c, before;
	make(&c);
	add_well(&c, "disks", &disk_schema, "path=/a,id=a");
	add_well(&c, "devices", &device_schema, "path=/dev0,id=d");
	EQ(vm_config_copy(&before, &c, NULL), 0);
	for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
		struct err e = { 0 };
		EQ(add(&c, cases[i].member, cases[i].s, cases[i].text, &e), cases[i].rc);
		STR_EQ(e.text, cases[i].error);
		OK(schema_equal(&vm_config_schema, &c, &before));
	}
	OK(!c.net && !c.fs && !c.has_vsock);
	add_well(&c, "vsock", &vsock_schema, "cid=3,socket=/s");
	EQ(add(&c, "vsock", &vsock_schema, "cid=4,socket=/t", NULL), -EEXIST);
	EQ(c.vsock.cid, 3);
	vm_config_done(&c);
	vm_config_done(&before);
}

TEST(devices_are_removed)
{
	struct vm_config c;
	make(&c);
	c.memory.shared = true;
	add_well(&c, "disks", &disk_schema, "path=/a,id=a");
	add_well(&c, "disks", &disk_schema, "path=/b");
	add_well(&c, "disks", &disk_schema, "path=/c,id=c");
	add_well(&c, "net", &net_schema, "id=n");
	add_well(&c, "fs", &fs_schema, "tag=t,socket=/s,id=f");
	add_well(&c, "pmem", &pmem_schema, "file=/p,id=p");
	add_well(&c, "devices", &device_schema, "path=/d,id=d");
	add_well(&c, "user_devices", &user_device_schema, "socket=/u,id=u");
	add_well(&c, "vdpa", &vdpa_schema, "path=/v,id=v");
	add_well(&c, "vsock", &vsock_schema, "cid=3,socket=/s,id=s");

	OK(!vm_config_remove_device(&c, "nobody") && !vm_config_remove_device(&c, ""));
	static const char *const ids[] = { "a", "n", "f", "p", "d", "u", "v", "s", "c" };
	for (size_t i = 0; i < sizeof ids / sizeof ids[0]; i++) {
		OK(vm_config_has_device(&c, ids[i]));
		OK(vm_config_remove_device(&c, ids[i]));
		OK(!vm_config_has_device(&c, ids[i]));
		OK(!vm_config_remove_device(&c, ids[i]));
	}
	/* Without an identifier nothing matches. */
	EQ(c.n_disks, 1);
	STR_EQ(c.disks[0].path, "/b");
	EQ(c.n_net + c.n_fs + c.n_pmem + c.n_devices + c.n_user_devices + c.n_vdpa + c.has_vsock, 0);
	vm_config_done(&c);
}

/* Of what is no device, nothing goes; of several with one identifier (which only an unchecked one has), all. */
TEST(what_removal_covers)
{
	struct vm_config c;
	void *group;
	make(&c);
	EQ(schema_append(&rate_limit_group_schema, &c.rate_limit_groups, &c.n_rate_limit_groups, &group, NULL), 0);
	free(c.rate_limit_groups[0].id);
	c.rate_limit_groups[0].id = strdup("x");
	OK(!vm_config_remove_device(&c, "x"));
	EQ(c.n_rate_limit_groups, 1);
	for (int i = 0; i < 3; i++) {
		struct disk_config *d;
		EQ(schema_append(&disk_schema, &c.disks, &c.n_disks, (void **)&d, NULL), 0);
		d->id = strdup(i == 1 ? "y" : "x");
	}
	OK(vm_config_remove_device(&c, "x"));
	EQ(c.n_disks, 1);
	STR_EQ(c.disks[0].id, "y");
	vm_config_done(&c);
}

/* One count for all kinds, in the order in which devices are made; taken names are stepped over. */
TEST(names)
{
	struct vm_config c;
	struct device_names names = { 0 };
	char id[DEVICE_ID_BYTES];
	make(&c);
	c.memory.shared = true;
	add_well(&c, "generic_vhost_user", &generic_vhost_user_schema, "socket=/g,device_type=26,queue_sizes=[1]");
	add_well(&c, "user_devices", &user_device_schema, "socket=/u");
	add_well(&c, "devices", &device_schema, "path=/d");
	add_well(&c, "vdpa", &vdpa_schema, "path=/v");
	add_well(&c, "vsock", &vsock_schema, "cid=3,socket=/s");
	add_well(&c, "pmem", &pmem_schema, "file=/p");
	add_well(&c, "fs", &fs_schema, "tag=t,socket=/s,id=_net1");
	add_well(&c, "net", &net_schema, "");
	add_well(&c, "disks", &disk_schema, "path=/a");
	add_well(&c, "disks", &disk_schema, "path=/b,id=mine");
	EQ(vm_config_name_devices(&c, &names, NULL), 0);
	STR_EQ(c.disks[0].id, "_disk0");
	STR_EQ(c.disks[1].id, "mine");
	STR_EQ(c.net[0].id, "_net2");
	STR_EQ(c.fs[0].id, "_net1");
	STR_EQ(c.generic_vhost_user[0].id, "_generic_vhost_user3");
	STR_EQ(c.pmem[0].id, "_pmem4");
	STR_EQ(c.vsock.id, "_vsock5");
	STR_EQ(c.vdpa[0].id, "_vdpa6");
	STR_EQ(c.devices[0].id, "_vfio7");
	STR_EQ(c.user_devices[0].id, "_vfio_user8");
	EQ(vm_config_validate(&c, NULL), 0);

	/* A name does not come back when its device is gone. */
	OK(vm_config_remove_device(&c, "_disk0"));
	EQ(device_name_next(&names, &c, "_disk", id), 0);
	STR_EQ(id, "_disk9");
	EQ(vm_config_name_devices(&c, &names, NULL), 0);
	EQ(names.n_named, 10);
	names.n_named = UINT32_MAX;
	EQ(device_name_next(&names, &c, "_disk", id), -ENOSPC);
	vm_config_done(&c);
}

/* Thousands of devices are named at once; more than a second would mean that each looks at all others. */
TEST(devices_are_described_whatever_they_are)
{
	struct vm_config c;
	struct device_facts f;
	EQ(vm_config_init(&c, NULL), 0);
	c.has_payload = true;
	c.memory.shared = true;
	add_well(&c, "vsock", &vsock_schema, "cid=3,socket=/s,id=v,pci_device_id=7");
	add_well(&c, "pmem", &pmem_schema, "file=/p");
	add_well(&c, "disks", &disk_schema, "path=/d,id=d,readonly=on,pci_device_id=31");
	add_well(&c, "disks", &disk_schema, "path=/e");

	static const char *const members[] = { "disks", "disks", "pmem", "vsock" };
	size_t n = 0;
	for (struct device_cursor d = { 0 }; vm_config_next(&c, &d); n++) {
		OK(n < ARRAY_LEN(members));
		STR_EQ(d.member, members[n]);
	}
	EQ(n, ARRAY_LEN(members));

	vm_config_describe("disks", &c.disks[0], &f);
	STR_EQ(f.id, "d");
	STR_EQ(f.prefix, "_disk");
	STR_EQ(f.file, "/d");
	OK(f.only_reads);
	EQ(f.slot, 31);
	vm_config_describe("disks", &c.disks[1], &f);
	OK(!f.id && !f.only_reads);
	EQ(f.slot, -1);
	vm_config_describe("vsock", &c.vsock, &f);
	STR_EQ(f.prefix, "_vsock");
	OK(!f.file);
	EQ(f.slot, 7);

	struct pmem_config *named = vm_config_with_id("pmem", &c.pmem[0], "mine");
	OK(named && !c.pmem[0].id);
	STR_EQ(named->id, "mine");
	STR_EQ(named->file, "/p");
	free(named);
	vm_config_done(&c);
}

TEST(names_of_thousands)
{
	struct vm_config c;
	struct device_names names = { 0 };
	make(&c);
	for (unsigned i = 0; i < 4096; i++) {
		struct disk_config *d;
		struct net_config *n;
		struct pmem_config *p;
		EQ(schema_append(&disk_schema, &c.disks, &c.n_disks, (void **)&d, NULL), 0);
		EQ(schema_append(&net_schema, &c.net, &c.n_net, (void **)&n, NULL), 0);
		EQ(schema_append(&pmem_schema, &c.pmem, &c.n_pmem, (void **)&p, NULL), 0);
		EQ(asprintf(&d->id, "_net%u", 2 * i) > 0, 1);
	}
	uint64_t start = clock_now_ns();
	EQ(vm_config_name_devices(&c, &names, NULL), 0);
	OK(clock_now_ns() - start < NS_PER_S);
	STR_EQ(c.net[0].id, "_net1"); /* every other name is taken */
	STR_EQ(c.net[1].id, "_net3");
	STR_EQ(c.net[4095].id, "_net8191");
	STR_EQ(c.pmem[0].id, "_pmem8192");
	vm_config_done(&c);
}

/* The random address is the only thing that can fail after the rules. */
static bool has_no_random;

ssize_t getrandom(void *bytes, size_t n, unsigned flags)
{
	(void)flags;
	if (has_no_random) {
		errno = EAGAIN;
		return -1;
	}
	memset(bytes, 0x5a, n);
	return (ssize_t)n;
}

TEST(what_cannot_be_completed_is_not_added)
{
	struct vm_config c, before;
	make(&c);
	add_well(&c, "net", &net_schema, "id=a");
	EQ(vm_config_copy(&before, &c, NULL), 0);
	has_no_random = true;
	EQ(add(&c, "net", &net_schema, "id=b,iommu=on", NULL), -EAGAIN);
	OK(schema_equal(&vm_config_schema, &c, &before) && !c.iommu);
	has_no_random = false;
	add_well(&c, "net", &net_schema, "id=b,iommu=on");
	OK(c.n_net == 2 && c.iommu);
	vm_config_done(&c);
	vm_config_done(&before);
}

TEST(descriptors_of_a_body_are_dropped)
{
	struct vm_config c;
	make(&c);
	add_well(&c, "net", &net_schema, "tap=t");
	OK(!vm_config_drop_descriptors(&c));
	add_well(&c, "net", &net_schema, "fd=[7]");
	OK(vm_config_drop_descriptors(&c));
	OK(!c.net[1].fds && !c.net[1].n_fds);
	OK(!vm_config_drop_descriptors(&c));
	vm_config_done(&c);
}

TEST(names_of_any_number)
{
	enum { N = 3000 };
	static char text[N][8];
	struct names n;
	uint32_t owner = 0;
	EQ(names_init(&n, N), 0);
	for (uint32_t i = 0; i < N; i++) {
		(void)snprintf(text[i], sizeof text[i], "%x", i);
		OK(!names_have(&n, text[i]));
		OK(names_add(&n, text[i], i, &owner));
		OK(names_have(&n, text[i]));
	}
	for (uint32_t i = 0; i < N; i++) {
		char copy[8];
		memcpy(copy, text[i], sizeof copy);
		OK(!names_add(&n, copy, 0, &owner));
		EQ(owner, i);
	}
	names_done(&n);
}

TEST(copies_are_their_own)
{
	struct vm_config a, b;
	make(&a);
	add_well(&a, "disks", &disk_schema, "path=/a,id=a");
	add_well(&a, "net", &net_schema, "fd=[7],id=n");
	EQ(vm_config_copy(&b, &a, NULL), 0);
	OK(schema_equal(&vm_config_schema, &a, &b));
	OK(vm_config_remove_device(&b, "a"));
	EQ(a.n_disks, 1);
	EQ(b.n_disks, 0);
	EQ(b.net[0].fds[0], 7);
	vm_config_done(&a);
	vm_config_done(&b);
}

static int32_t open_null(void)
{
	int fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
	OK(fd > 2);
	return fd;
}

static bool is_open(int fd)
{
	return fcntl(fd, F_GETFD) >= 0;
}

TEST(descriptors_that_a_config_owns)
{
	struct vm_config a, b;
	make(&a);
	add_well(&a, "net", &net_schema, "fd=[7],id=n");
	int32_t fds[3] = { open_null(), open_null(), open_null() };
	a.net[0].fds[0] = fds[1];
	EQ(vm_config_preserve(&a, NULL, 0, NULL), 0);
	OK(!a.preserved_fds);
	EQ(vm_config_preserve(&a, fds, 1, NULL), 0);
	EQ(vm_config_preserve(&a, &fds[1], 2, NULL), 0);
	EQ(a.n_preserved_fds, 3); /* the new ones in front */
	EQ(a.preserved_fds[0], fds[1]);
	EQ(a.preserved_fds[1], fds[2]);
	EQ(a.preserved_fds[2], fds[0]);

	/* A copy has its own, and its networks name them. */
	EQ(vm_config_copy(&b, &a, NULL), 0);
	EQ(b.n_preserved_fds, 3);
	for (size_t i = 0; i < 3; i++)
		OK(is_open(b.preserved_fds[i]) && b.preserved_fds[i] != a.preserved_fds[i]);
	EQ(b.net[0].fds[0], b.preserved_fds[0]);
	EQ(a.net[0].fds[0], fds[1]);
	int32_t own = b.preserved_fds[0], other = b.preserved_fds[1];
	OK(vm_config_remove_device(&b, "n"));
	OK(!is_open(own) && is_open(other));
	EQ(b.n_preserved_fds, 2);
	vm_config_done(&b);
	OK(!is_open(other) && is_open(fds[0]) && is_open(fds[1]) && is_open(fds[2]));

	vm_config_unpreserve(&a, 2);
	EQ(a.n_preserved_fds, 1);
	EQ(a.preserved_fds[0], fds[0]);
	vm_config_done(&a);
	OK(!is_open(fds[0]) && is_open(fds[1]) && is_open(fds[2]));
	EQ(close(fds[1]) | close(fds[2]), 0);
}

TEST(want_of_descriptors)
{
	struct vm_config a, b;
	struct err e = { 0 };
	struct rlimit before, few;
	make(&a);
	int32_t fds[8];
	for (size_t i = 0; i < ARRAY_LEN(fds); i++)
		fds[i] = open_null();
	EQ(getrlimit(RLIMIT_NOFILE, &before), 0);
	few = before;
	few.rlim_cur = (rlim_t)fds[7] + 3; /* room for two more */
	EQ(setrlimit(RLIMIT_NOFILE, &few), 0);
	OK(few.rlim_cur / 2 < 16);
	int32_t many[16] = { 0 };
	EQ(vm_config_preserve(&a, many, 16, &e), -EMFILE);
	STR_HAS(e.text, "too many descriptors");
	EQ(vm_config_preserve(&a, fds, 4, NULL), 0);
	EQ(vm_config_copy(&b, &a, &e), -EMFILE);
	OK(is_open(fds[0]) && is_open(fds[3]) && !is_open(fds[7] + 1));
	EQ(setrlimit(RLIMIT_NOFILE, &before), 0);
	vm_config_done(&a);
	for (size_t i = 4; i < ARRAY_LEN(fds); i++)
		EQ(close(fds[i]), 0);
}

/* A snapshot is somebody else's: what it says must not be taken for descriptors of ours. */
TEST(descriptors_are_not_recorded)
{
	struct vm_config a, b;
	text_scoped t = TEXT_INIT;
	make(&a);
	int32_t fd = open_null();
	EQ(vm_config_preserve(&a, &fd, 1, NULL), 0);
	EQ(schema_write_record(&vm_config_schema, &a, &t, NULL), 0);
	OK(!memmem(t.bytes, t.n_bytes, "preserved_fds", 13));
	EQ(schema_read_record(&vm_config_schema, t.bytes, t.n_bytes, &b, NULL), 0);
	EQ(b.n_preserved_fds, 0);
	vm_config_done(&b);
	vm_config_done(&a);
}

TEST(no_more_devices_than_a_configuration_can_have)
{
	struct vm_config c;
	struct err e = { 0 };
	make(&c);
	c.vdpa = calloc(VM_MAX_DEVICES, sizeof *c.vdpa);
	c.n_vdpa = VM_MAX_DEVICES;
	struct vdpa_config one = { 0 };
	EQ(vm_config_add_device(&c, "vdpa", &one, &e), -EINVAL);
	STR_HAS(e.text, "4096 devices of this kind are the most");
	vm_config_done(&c);
}

TEST(ram)
{
	struct vm_config c;
	void *zone;
	make(&c);
	EQ(vm_config_ram_bytes(&c), 512 << 20);
	c.memory.hotplugged_size = 1;
	EQ(vm_config_ram_bytes(&c), 512 << 20);
	c.memory.has_hotplugged_size = true;
	EQ(schema_append(&memory_zone_schema, &c.memory.zones, &c.memory.n_zones, &zone, NULL), 0);
	c.memory.zones[0].size = 2;
	c.memory.zones[0].hotplugged_size = 4;
	c.memory.zones[0].has_hotplugged_size = true;
	EQ(vm_config_ram_bytes(&c), (512 << 20) + 7);
	c.memory.zones[0].size = UINT64_MAX;
	OK(vm_config_ram_bytes(&c) == UINT64_MAX);
	vm_config_done(&c);
}
