/* SPDX-License-Identifier: Apache-2.0 */
#include "config/vm_config.h"

#include "base/checked.h"
#include "config/preserved.h"
#include "schema/schema.h"

#include <errno.h>
#include <sys/random.h>

#define DEBUG_CONSOLE_PORT 0xe9

static int check(const void *object, struct err *e)
{
	return vm_config_validate(object, e);
}

static void set_defaults(void *object)
{
	struct vm_config *c = object;
	c->debug_console.has_iobase = true;
	c->debug_console.iobase = DEBUG_CONSOLE_PORT;
}

#define T struct vm_config
static const struct field vm_rows[] = {
	ROW_OBJECT(T, cpus, struct cpus_config, &cpus_schema, .help = "Virtual CPUs"),
	ROW_OBJECT(T, memory, struct memory_config, &memory_schema, .help = "Guest RAM"),
	ROW_OBJECT(T, payload, struct payload_config, &payload_schema, .has = HAS(T, has_payload),
	           .help = "What boots"),
	ROW_LIST(T, rate_limit_groups, struct rate_limit_group_config, &rate_limit_group_schema,
	         .max_items = VM_MAX_DEVICES, .help = "Budgets of I/O that disks share"),
	ROW_LIST(T, disks, struct disk_config, &disk_schema, .max_items = VM_MAX_DEVICES, .help = "Block devices"),
	ROW_LIST(T, net, struct net_config, &net_schema, .max_items = VM_MAX_DEVICES, .help = "Network devices"),
	ROW_OBJECT(T, rng, struct rng_config, &rng_schema, .help = "Entropy device"),
	ROW_OBJECT(T, balloon, struct balloon_config, &balloon_schema, .has = HAS(T, has_balloon),
	           .help = "Memory balloon"),
	ROW_LIST(T, fs, struct fs_config, &fs_schema, .max_items = VM_MAX_DEVICES, .help = "File systems of the host"),
	ROW_LIST(T, generic_vhost_user, struct generic_vhost_user_config, &generic_vhost_user_schema,
	         .max_items = VM_MAX_DEVICES, .help = "Devices of other processes, by vhost-user"),
	ROW_LIST(T, pmem, struct pmem_config, &pmem_schema, .max_items = VM_MAX_DEVICES,
	         .help = "Persistent memory devices"),
	ROW_OBJECT(T, serial, struct console_config, &serial_schema, .help = "Legacy serial port"),
	ROW_OBJECT(T, console, struct console_config, &console_schema, .help = "virtio console"),
	ROW_OBJECT(T, debug_console, struct debug_console_config, &debug_console_schema, .help = "Debug port console"),
	ROW_LIST(T, devices, struct device_config, &device_schema, .max_items = VM_MAX_DEVICES,
	         .help = "Devices of the host, by VFIO"),
	ROW_LIST(T, user_devices, struct user_device_config, &user_device_schema, .max_items = VM_MAX_DEVICES,
	         .help = "Devices of other processes, by vfio-user"),
	ROW_LIST(T, vdpa, struct vdpa_config, &vdpa_schema, .max_items = VM_MAX_DEVICES,
	         .help = "vDPA devices of the host"),
	ROW_OBJECT(T, vsock, struct vsock_config, &vsock_schema, .has = HAS(T, has_vsock),
	           .help = "Sockets between host and guest"),
	ROW_OBJECT(T, rtc, struct rtc_config, &rtc_schema, .has = HAS(T, has_rtc),
	           .help = "Clock of the host, as a virtio device"),
	ROW_BOOL(T, pvpanic, .help = "A device by which the guest reports that it panics"),
	ROW_BOOL(T, iommu, .help = "Whether there is an IOMMU for the devices that ask for one"),
	ROW_BOOL(T, is_iommu_derived, .flags = ROW_NO_JSON | ROW_NO_OPTION, .help = "Whether only they ask for the IOMMU"),
	ROW_LIST(T, sgx_epc, struct sgx_epc_config, &sgx_epc_schema, .max_items = VM_MAX_DEVICES,
	         .help = "Memory for SGX enclaves"),
	ROW_LIST(T, numa, struct numa_config, &numa_schema, .max_items = VM_MAX_DEVICES, .help = "NUMA nodes"),
	ROW_BOOL(T, watchdog, .help = "A device that resets a guest that stopped feeding it"),
	ROW_BOOL(T, gdb, .help = "Whether a debugger can attach"),
	ROW_LIST(T, pci_segments, struct pci_segment_config, &pci_segment_schema, .max_items = VM_MAX_DEVICES,
	         .help = "Shares of the address space for devices"),
	ROW_OBJECT(T, platform, struct platform_config, &platform_schema, .has = HAS(T, has_platform),
	           .help = "PCI segments, IOMMU segments, SMBIOS identity"),
	ROW_OBJECT(T, tpm, struct tpm_config, &tpm_schema, .has = HAS(T, has_tpm), .help = "TPM, emulated by swtpm"),
	ROW_OBJECT(T, ivshmem, struct ivshmem_config, &ivshmem_schema, .has = HAS(T, has_ivshmem),
	           .help = "Memory that VMs share"),
	ROW_OBJECT(T, pvmemcontrol, struct pvmemcontrol_config, &pvmemcontrol_schema, .has = HAS(T, has_pvmemcontrol),
	           .help = "Control of the host's backing of memory"),
	ROW_BOOL(T, landlock_enable, .help = "Confine the process to the files that its VM is made of"),
	ROW_LIST(T, landlock_rules, struct landlock_config, &landlock_schema, .max_items = VM_MAX_DEVICES,
	         .help = "What the process may use besides"),
	ROW_OBJECT(T, machine, struct machine_config, &machine_schema,
	           .help = "Varan's own: how the machine is put together"),
	ROW_INTEGERS(T, preserved_fds, int32_t, .flags = ROW_NO_JSON | ROW_NO_OPTION | ROW_NO_RECORD,
	             .help = "Descriptors that came with the devices that name them"),
	ROW_PAD(T, pad_),
};
const struct schema vm_config_schema = SCHEMA(T, vm_rows, .name = "VmConfig", .help = "Description of a VM",
                                              .check = check, .set_defaults = set_defaults);
#undef T

int vm_config_init(struct vm_config *c, struct err *e)
{
	return schema_init(&vm_config_schema, c, e);
}

void vm_config_done(struct vm_config *c)
{
	preserved_done(c);
	schema_done(&vm_config_schema, c);
}

int vm_config_copy(struct vm_config *to, const struct vm_config *from, struct err *e)
{
	int rc = schema_copy(&vm_config_schema, to, from, e);
	if (rc < 0)
		return rc;
	rc = preserved_copy(to, e);
	if (rc < 0)
		schema_done(&vm_config_schema, to);
	return rc;
}

/* Not by the serial port: its iommu has no effect. */
static bool needs_iommu(const struct vm_config *c)
{
	bool needs = c->rng.iommu || c->console.iommu || (c->has_vsock && c->vsock.iommu) ||
		     (c->has_balloon && c->balloon.iommu) || (c->has_rtc && c->rtc.iommu) ||
		     (c->has_platform && c->platform.iommu_segments);
	for (size_t i = 0; !needs && i < c->n_disks; i++)
		needs = c->disks[i].iommu;
	for (size_t i = 0; !needs && i < c->n_net; i++)
		needs = c->net[i].iommu;
	for (size_t i = 0; !needs && i < c->n_pmem; i++)
		needs = c->pmem[i].iommu;
	for (size_t i = 0; !needs && i < c->n_vdpa; i++)
		needs = c->vdpa[i].iommu;
	for (size_t i = 0; !needs && i < c->n_devices; i++)
		needs = c->devices[i].iommu;
	return needs;
}

void vm_config_update_iommu(struct vm_config *c)
{
	if (c->is_iommu_derived)
		c->iommu = c->is_iommu_derived = needs_iommu(c);
}

int vm_config_complete(struct vm_config *c, struct err *e)
{
	if (!c->iommu)
		c->iommu = c->is_iommu_derived = needs_iommu(c);
	for (size_t i = 0; i < c->n_net; i++) {
		struct net_config *n = &c->net[i];
		if (n->has_mac)
			continue;
		if (getrandom(n->mac, sizeof n->mac, 0) != sizeof n->mac)
			return err_set_errno(e, errno, "--net: no random address");
		n->mac[0] = 0x2e; /* unicast, locally administered */
		n->has_mac = true;
	}
	return 0;
}

bool vm_config_warning(const struct vm_config *c, struct text *t)
{
	const struct {
		bool is_used;
		const char *name;
	} consoles[] = {
		{ c->console.mode == CONSOLE_TTY, "virtio-console" },
		{ c->serial.mode == CONSOLE_TTY, "serial-console" },
		{ c->debug_console.mode == CONSOLE_TTY, "debug-console" },
	};
	text_scoped list = TEXT_INIT;
	unsigned n = 0;
	for (size_t i = 0; i < ARRAY_LEN(consoles); i++)
		if (consoles[i].is_used)
			text_appendf(&list, "%s\"%s\"", n++ ? ", " : "", consoles[i].name);
	if (n > 1)
		text_appendf(t, "Using TTY output for multiple consoles: [%s]", text_get(&list));
	return n > 1;
}

static uint64_t add(uint64_t a, uint64_t b)
{
	uint64_t sum;
	return checked_add(a, b, &sum) ? sum : UINT64_MAX;
}

uint64_t vm_config_ram_bytes(const struct vm_config *c)
{
	const struct memory_config *m = &c->memory;
	uint64_t ram = add(m->size, m->has_hotplugged_size ? m->hotplugged_size : 0);
	for (size_t i = 0; i < m->n_zones; i++) {
		const struct memory_zone_config *z = &m->zones[i];
		ram = add(ram, add(z->size, z->has_hotplugged_size ? z->hotplugged_size : 0));
	}
	return ram;
}
