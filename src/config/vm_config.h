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
#include "config/generic_vhost_user.h"

#define VM_MAX_DEVICES 4096 /* of one kind: far above what a machine has room for */

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

enum core_scheduling { CORE_SCHEDULING_OFF, CORE_SCHEDULING_VM, CORE_SCHEDULING_VCPU };
enum cpu_profile { CPU_PROFILE_HOST }; /* what the guest sees of the host's CPU: all */

struct cpus_config {
	uint8_t boot_vcpus, max_vcpus;
	bool has_topology;
	struct cpu_topology_config topology;
	bool kvm_hyperv;
	uint8_t max_phys_bits;
	bool has_amx; /* features: amx */
	bool nested;
	uint8_t pad_[1];
	enum core_scheduling core_scheduling;
	enum cpu_profile profile;
	uint8_t pad2_[4];
	struct cpu_affinity_config *affinity;
	size_t n_affinity;
};

enum hotplug_method { HOTPLUG_ACPI, HOTPLUG_VIRTIO_MEM };

struct memory_zone_config {
	char *id;
	char *file;
	uint64_t size;
	uint64_t hotplug_size, hotplugged_size, hugepage_size;
	uint32_t host_numa_node;
	bool has_hotplug_size, has_hotplugged_size, has_hugepage_size, has_host_numa_node;
	bool shared, hugepages, prefault, reserve;
	uint8_t pad_[4];
};

struct memory_config {
	uint64_t size; /* 0: described by zones */
	uint64_t hotplug_size, hotplugged_size, hugepage_size;
	struct memory_zone_config *zones;
	size_t n_zones;
	enum hotplug_method hotplug_method;
	bool has_hotplug_size, has_hotplugged_size, has_hugepage_size;
	bool mergeable, shared, hugepages, prefault, reserve, thp;
	uint8_t pad_[3];
};

struct fw_cfg_item_config {
	char *name, *file, *string;
};

struct fw_cfg_config { /* what a firmware is told by QEMU's fw_cfg interface */
	bool e820, kernel, cmdline, initramfs, acpi_table;
	uint8_t pad_[3];
	struct fw_cfg_item_config *items;
	size_t n_items;
};

struct payload_config {
	char *kernel, *firmware, *initramfs, *cmdline, *igvm, *host_data;
	struct fw_cfg_config fw_cfg_config;
	bool has_fw_cfg_config;
	uint8_t pad_[7];
};

struct platform_config {
	uint16_t *iommu_segments;
	size_t n_iommu_segments;
	char *serial_number, *uuid; /* older names of the system's */
	char **oem_strings;
	size_t n_oem_strings;
	char *system_manufacturer, *system_product_name, *system_version, *system_serial_number, *system_uuid,
		*system_sku_number, *system_family, *chassis_asset_tag;
	uint16_t num_pci_segments;
	uint8_t iommu_address_width;
	bool iommufd, vfio_p2p_dma, tdx, sev_snp;
	bool has_iommufd_fd;
	int32_t iommufd_fd;
	uint8_t pad_[4];
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

struct rate_limit_group_config {
	char *id;
	struct rate_limiter_config rate_limiter_config;
};

struct queue_affinity_config {
	uint16_t queue_index;
	uint8_t pad_[6];
	uint64_t *host_cpus;
	size_t n_host_cpus;
};

enum image_type { IMAGE_UNKNOWN, IMAGE_RAW, IMAGE_QCOW2, IMAGE_FIXED_VHD, IMAGE_VHDX, IMAGE_FLAT_VMDK };
enum lock_granularity { LOCK_BYTE_RANGE, LOCK_FULL };
enum disk_sync { SYNC_FULL, SYNC_RELAXED, SYNC_NONE };

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
	enum disk_sync sync;
	uint16_t queue_size;
	uint16_t pci_segment;
	bool has_rate_limiter_config, has_pci_device_id;
	uint8_t pci_device_id;
	bool readonly, direct, iommu, vhost_user;
	bool disable_io_uring, disable_aio;
	bool backing_files, sparse;
	uint8_t pad_[5];
};

enum vhost_mode { VHOST_CLIENT, VHOST_SERVER };

struct net_config {
	char *tap;
	char *vhost_socket;
	char *id;
	int32_t *fds; /* one TAP descriptor per pair of queues */
	size_t n_fds;
	struct rate_limiter_config rate_limiter_config;
	uint64_t num_queues; /* of both directions together */
	enum vhost_mode vhost_mode;
	uint8_t ip[4], mask[4]; /* of the host's side */
	uint8_t mac[6], host_mac[6];
	uint16_t queue_size;
	uint16_t mtu;
	uint16_t pci_segment;
	bool has_mac, has_host_mac, has_mtu, has_pci_device_id, has_rate_limiter_config;
	uint8_t pci_device_id;
	bool offload_tso, offload_ufo, offload_csum;
	bool iommu, vhost_user;
	uint8_t pad_[7];
};

struct rng_config {
	char *src;
	bool iommu;
	uint8_t pad_[7];
};

struct balloon_config {
	uint64_t size;
	char *id;
	uint16_t pci_segment;
	bool has_pci_device_id;
	uint8_t pci_device_id;
	bool deflate_on_oom, free_page_reporting, iommu;
	uint8_t pad_[1];
};

struct rtc_config {
	char *id;
	uint16_t pci_segment;
	bool has_pci_device_id;
	uint8_t pci_device_id;
	bool iommu;
	uint8_t pad_[3];
};

struct fs_config {
	char *tag;
	char *socket;
	char *id;
	uint64_t num_queues;
	uint16_t queue_size;
	uint16_t pci_segment;
	bool has_pci_device_id;
	uint8_t pci_device_id;
	uint8_t pad_[2];
};

struct pmem_config {
	char *file;
	char *id;
	uint64_t size;
	uint16_t pci_segment;
	bool has_size, has_pci_device_id;
	uint8_t pci_device_id;
	bool iommu, discard_writes;
	uint8_t pad_[1];
};

enum console_mode { CONSOLE_OFF, CONSOLE_PTY, CONSOLE_TTY, CONSOLE_NULL, CONSOLE_FILE, CONSOLE_SOCKET };

struct console_config {
	char *file, *socket;
	char *id; /* and the places on PCI: of --console alone */
	enum console_mode mode;
	uint16_t pci_segment;
	bool has_pci_device_id;
	uint8_t pci_device_id;
	bool iommu;
	uint8_t pad_[7];
};

struct debug_console_config {
	char *file;
	enum console_mode mode; /* not CONSOLE_SOCKET */
	uint16_t iobase;
	bool has_iobase; /* without: 0xe9 */
	uint8_t pad_[1];
};

struct device_config { /* VFIO */
	char *path; /* NULL: by fd */
	char *id;
	uint8_t *x_exclude_mmap_bars;
	size_t n_x_exclude_mmap_bars;
	uint16_t pci_segment;
	bool has_pci_device_id, has_x_nv_gpudirect_clique;
	uint8_t pci_device_id, x_nv_gpudirect_clique;
	bool iommu;
	bool has_fd;
	int32_t fd;
	uint8_t pad_[4];
};

struct user_device_config { /* vfio-user */
	char *socket;
	char *id;
	uint16_t pci_segment;
	bool has_pci_device_id;
	uint8_t pci_device_id;
	uint8_t pad_[4];
};

struct vdpa_config {
	char *path;
	char *id;
	uint64_t num_queues;
	uint16_t pci_segment;
	bool has_pci_device_id;
	uint8_t pci_device_id;
	bool iommu;
	uint8_t pad_[3];
};

struct vsock_config {
	char *socket;
	char *id;
	uint32_t cid;
	uint16_t pci_segment;
	bool has_pci_device_id;
	uint8_t pci_device_id;
	bool iommu;
	uint8_t pad_[7];
};

struct sgx_epc_config {
	char *id;
	uint64_t size;
	bool prefault;
	uint8_t pad_[7];
};

struct numa_distance_config {
	uint32_t destination;
	uint8_t distance;
	uint8_t pad_[3];
};

struct numa_config {
	uint8_t *cpus;
	size_t n_cpus;
	struct numa_distance_config *distances;
	size_t n_distances;
	char **memory_zones;
	size_t n_memory_zones;
	char **sgx_epc_sections;
	size_t n_sgx_epc_sections;
	uint16_t *pci_segments;
	size_t n_pci_segments;
	uint32_t guest_numa_id;
	uint8_t pad_[4];
};

struct pci_segment_config {
	uint32_t mmio32_aperture_weight, mmio64_aperture_weight;
	uint16_t pci_segment;
	uint8_t pad_[2];
};

struct tpm_config {
	char *socket;
};

struct ivshmem_config {
	char *path;
	uint64_t size;
};

struct pvmemcontrol_config {
	uint8_t pad_[8]; /* nothing to say but that it is there */
};

struct landlock_config {
	char *path;
	char *access; /* "r", "w" or both */
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
	struct rate_limit_group_config *rate_limit_groups;
	size_t n_rate_limit_groups;
	struct disk_config *disks;
	size_t n_disks;
	struct net_config *net;
	size_t n_net;
	struct rng_config rng;
	struct balloon_config balloon;
	struct fs_config *fs;
	size_t n_fs;
	struct generic_vhost_user_config *generic_vhost_user;
	size_t n_generic_vhost_user;
	struct pmem_config *pmem;
	size_t n_pmem;
	struct console_config serial, console;
	struct debug_console_config debug_console;
	struct device_config *devices;
	size_t n_devices;
	struct user_device_config *user_devices;
	size_t n_user_devices;
	struct vdpa_config *vdpa;
	size_t n_vdpa;
	struct vsock_config vsock;
	struct rtc_config rtc;
	struct sgx_epc_config *sgx_epc;
	size_t n_sgx_epc;
	struct numa_config *numa;
	size_t n_numa;
	struct pci_segment_config *pci_segments;
	size_t n_pci_segments;
	struct platform_config platform;
	struct tpm_config tpm;
	struct ivshmem_config ivshmem;
	struct pvmemcontrol_config pvmemcontrol;
	struct landlock_config *landlock_rules;
	size_t n_landlock_rules;
	struct machine_config machine;
	int32_t *preserved_fds; /* open, owned: config/preserved.h */
	size_t n_preserved_fds;
	bool has_payload, has_balloon, has_vsock, has_platform, has_tpm, has_rtc, has_ivshmem, has_pvmemcontrol;
	bool iommu; /* some device is to be placed behind the guest's IOMMU */
	bool pvpanic, watchdog, gdb, landlock_enable;
	bool is_iommu_derived; /* from the devices: the user did not say it */
	uint8_t pad_[2];
};

extern const struct schema vm_config_schema, cpus_schema, memory_schema, memory_zone_schema, payload_schema,
	platform_schema, rate_limit_group_schema, disk_schema, net_schema, rng_schema, balloon_schema, fs_schema,
	pmem_schema, serial_schema, console_schema, debug_console_schema, device_schema, user_device_schema,
	vdpa_schema, vsock_schema, rtc_schema, sgx_epc_schema, numa_schema, pci_segment_schema, tpm_schema,
	landlock_schema, machine_schema, ivshmem_schema, pvmemcontrol_schema;

int vm_config_init(struct vm_config *c, struct err *e); /* all defaults */
void vm_config_done(struct vm_config *c);
int vm_config_copy(struct vm_config *to, const struct vm_config *from, struct err *e);

/* Every rule over several settings, in the order and with the texts of Cloud Hypervisor. -EEXIST: an identifier or a
 * path that is taken; -EINVAL: any other. */
int vm_config_validate(const struct vm_config *c, struct err *e);
/* What is derived and not said: whether there is an IOMMU, addresses for networks without one. For a configuration
 * that came as JSON, once it is accepted; one from a command line is complete. */
int vm_config_complete(struct vm_config *c, struct err *e);
/* After devices have gone: an IOMMU that only they asked for goes, too. */
void vm_config_update_iommu(struct vm_config *c);

/* Not an error, but worth a line in the log; false, and nothing in t, when there is nothing to say. */
bool vm_config_warning(const struct vm_config *c, struct text *t);
/* Global size, zones, and what is plugged already. Saturates. */
uint64_t vm_config_ram_bytes(const struct vm_config *c);
