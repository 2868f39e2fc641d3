/* SPDX-License-Identifier: Apache-2.0 */
/* vm_config.h - the only description of a VM: what every command line, API body and builder call turns into.
 *
 * Plain structs, filled by the rows of schema/. Strings and lists are owned by the config (vm_config_done() frees
 * them); an absent string is NULL, an absent list is NULL, an empty list is not NULL with a count of 0. Names, defaults
 * and bounds are those of Cloud Hypervisor's configuration. Padding is spelt out (pad_): a test checks that every byte
 * of a struct belongs to a row. No locking: a config belongs to one thread at a time. */
#pragma once
#include "base/err.h"
#include "base/forward.h"
#include "base/text.h"

struct schema;

struct cpu_topology_config {
	uint8_t threads_per_core, cores_per_die, dies_per_package, packages;
};

struct cpu_affinity_config {
	uint8_t vcpu;
	uint8_t pad_[7];
	uint64_t *host_cpus;
	size_t n_host_cpus;
};

struct cpus_config {
	uint8_t boot_vcpus, max_vcpus;
	bool has_topology;
	struct cpu_topology_config topology;
	bool kvm_hyperv;
	uint8_t max_phys_bits;
	bool has_amx; /* features: amx */
	uint8_t pad_[6];
	struct cpu_affinity_config *affinity;
	size_t n_affinity;
};

enum hotplug_method { HOTPLUG_ACPI, HOTPLUG_VIRTIO_MEM };

struct memory_config {
	uint64_t size;
	uint64_t hotplug_size, hotplugged_size, hugepage_size;
	enum hotplug_method hotplug_method;
	bool has_hotplug_size, has_hotplugged_size, has_hugepage_size;
	bool mergeable, shared, hugepages, prefault, thp;
	uint8_t pad_[4];
};

struct payload_config {
	char *kernel, *firmware, *initramfs, *cmdline;
};

/* A bucket of `size` tokens, refilled in refill_time ms; one_time_burst tokens more at the start. */
struct token_bucket_config {
	uint64_t size, one_time_burst, refill_time;
};

struct rate_limiter_config {
	struct token_bucket_config bandwidth, ops;
	bool has_bandwidth, has_ops;
	uint8_t pad_[6];
};

struct queue_affinity_config {
	uint16_t queue_index;
	uint8_t pad_[6];
	uint64_t *host_cpus;
	size_t n_host_cpus;
};

enum image_type { IMAGE_UNKNOWN, IMAGE_RAW, IMAGE_QCOW2, IMAGE_FIXED_VHD, IMAGE_VHDX, IMAGE_FLAT_VMDK };
enum lock_granularity { LOCK_BYTE_RANGE, LOCK_FULL };

struct disk_config {
	char *path;
	char *vhost_socket;
	char *id;
	char *serial;
	char *rate_limit_group;
	struct queue_affinity_config *queue_affinity;
	size_t n_queue_affinity;
	struct rate_limiter_config rate_limiter_config;
	uint64_t num_queues;
	enum image_type image_type; /* IMAGE_UNKNOWN: nothing said */
	enum lock_granularity lock_granularity;
	uint16_t queue_size;
	uint16_t pci_segment;
	bool has_rate_limiter_config, has_pci_device_id;
	uint8_t pci_device_id;
	bool readonly, direct, iommu, vhost_user;
	bool disable_io_uring, disable_aio;
	bool backing_files, sparse;
	uint8_t pad_[1];
};

struct rng_config {
	char *src;
	bool iommu;
	uint8_t pad_[7];
};

enum console_mode { CONSOLE_OFF, CONSOLE_PTY, CONSOLE_TTY, CONSOLE_NULL, CONSOLE_FILE, CONSOLE_SOCKET };

struct console_config {
	char *file, *socket;
	enum console_mode mode;
	bool iommu;
	uint8_t pad_[3];
};

/* Ours: how the machine is put together. */
enum machine_transport { TRANSPORT_PCI, TRANSPORT_MMIO };
enum machine_irqchip { IRQCHIP_SPLIT, IRQCHIP_KERNEL };
/* What of guest memory begins as pages of the kernel's file, instead of a copy: nothing, what the guest is not going to
 * write to (for its first seconds), all that can be (for good, and of the initramfs too). */
enum machine_map_kernel { MAP_KERNEL_OFF, MAP_KERNEL_READONLY, MAP_KERNEL_ALL };

struct machine_config { /* --machine transport=pci|mmio,irqchip=split|kernel,acpi=on|off,map_kernel=off|readonly|all */
	enum machine_transport transport;
	enum machine_irqchip irqchip;
	enum machine_map_kernel map_kernel;
	bool acpi;
	uint8_t pad_[3];
};

struct vm_config {
	struct cpus_config cpus;
	struct memory_config memory;
	struct payload_config payload;
	struct disk_config *disks;
	size_t n_disks;
	struct rng_config rng;
	struct console_config serial, console;
	struct machine_config machine;
	bool has_payload;
	bool iommu; /* some device is to be placed behind the guest's IOMMU */
	uint8_t pad_[6];
};

extern const struct schema vm_config_schema, cpus_schema, memory_schema, payload_schema, disk_schema, rng_schema,
	serial_schema, console_schema, machine_schema;

int vm_config_init(struct vm_config *c, struct err *e); /* all defaults */
void vm_config_done(struct vm_config *c);
/* Every rule over several settings, in the order and with the texts of Cloud Hypervisor. */
int vm_config_validate(const struct vm_config *c, struct err *e);

/* Whether a device of c asks for the guest's IOMMU; what c->iommu must then say. */
bool vm_config_needs_iommu(const struct vm_config *c);
/* Not an error, but worth a line in the log; NULL when there is nothing to say. */
const char *vm_config_warning(const struct vm_config *c);
