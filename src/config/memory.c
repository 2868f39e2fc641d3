/* SPDX-License-Identifier: Apache-2.0 */
#include "config/rules.h"
#include "schema/schema.h"

#include <errno.h>
#include <inttypes.h>

static const struct enum_name hotplug_method_names[] = {
	{ .json = "Acpi", .word = "acpi", .value = HOTPLUG_ACPI },
	{ .json = "VirtioMem", .word = "virtio-mem", .value = HOTPLUG_VIRTIO_MEM },
	{ 0 },
};

#define T struct memory_zone_config
static const struct field zone_rows[] = {
	ROW_STRING(T, id, .flags = ROW_REQUIRED, .help = "Name of the zone"),
	ROW_SIZE(T, size, .def = 512ull << 20, .flags = ROW_REQUIRED_JSON, .help = "RAM at boot"),
	ROW_PATH(T, file, .help = "Backing file, or a directory to make one in"),
	ROW_BOOL(T, shared, .help = "Map RAM shared with other processes"),
	ROW_BOOL(T, hugepages, .help = "Back RAM with huge pages"),
	ROW_SIZE(T, hugepage_size, .has = HAS(T, has_hugepage_size), .help = "Size of those pages; a power of two"),
	ROW_U32(T, host_numa_node, .has = HAS(T, has_host_numa_node), .help = "Host NUMA node to take it from"),
	ROW_SIZE(T, hotplug_size, .has = HAS(T, has_hotplug_size), .help = "RAM that can be added later"),
	ROW_SIZE(T, hotplugged_size, .has = HAS(T, has_hotplugged_size),
	         .help = "Part of that already present at boot"),
	ROW_BOOL(T, prefault, .help = "Populate RAM at start"),
	ROW_BOOL(T, reserve, .help = "Reserve swap space for RAM"),
	ROW_PAD(T, pad_),
};
const struct schema memory_zone_schema =
	SCHEMA(T, zone_rows, .name = "MemoryZoneConfig", .option = "memory-zone", .help = "A region of guest RAM");
#undef T

#define T struct memory_config
static const struct field memory_rows[] = {
	ROW_SIZE(T, size, .def = 512ull << 20, .flags = ROW_REQUIRED_JSON, .help = "RAM at boot"),
	ROW_BOOL(T, mergeable, .help = "Let the host merge identical pages"),
	ROW_ENUM(T, hotplug_method, enum hotplug_method, hotplug_method_names, .def = HOTPLUG_ACPI,
	         .help = "How RAM is added while the VM runs"),
	ROW_SIZE(T, hotplug_size, .has = HAS(T, has_hotplug_size), .help = "RAM that can be added later"),
	ROW_SIZE(T, hotplugged_size, .has = HAS(T, has_hotplugged_size),
	         .help = "Part of that already present at boot"),
	ROW_BOOL(T, shared, .help = "Map RAM shared with other processes"),
	ROW_BOOL(T, hugepages, .help = "Back RAM with huge pages"),
	ROW_SIZE(T, hugepage_size, .has = HAS(T, has_hugepage_size), .help = "Size of those pages; a power of two"),
	ROW_BOOL(T, prefault, .help = "Populate RAM at start"),
	ROW_BOOL(T, reserve, .help = "Reserve swap space for RAM"),
	ROW_BOOL(T, thp, .def = true, .help = "Advise transparent huge pages for private anonymous RAM"),
	ROW_IGNORED("file", .help = "Accepted, and without effect"),
	ROW_LIST(T, zones, struct memory_zone_config, &memory_zone_schema, .max_items = 4096,
	         .help = "Regions of RAM; the size is then 0"),
	ROW_PAD(T, pad_),
};
const struct schema memory_schema =
	SCHEMA(T, memory_rows, .name = "MemoryConfig", .option = "memory", .help = "Guest RAM");
#undef T

int memory_check(const struct memory_config *m, struct err *e)
{
	if (!m->has_hugepage_size)
		return 0;
	if (!m->hugepages)
		return err_set(e, EINVAL, "Huge page size specified but huge pages not enabled");
	if (!is_power_of_two(m->hugepage_size))
		return err_set(e, EINVAL, "Huge page size is not power of 2: %" PRIu64, m->hugepage_size);
	return 0;
}

/* Zones count only when they are all that there is. */
bool memory_is_shared(const struct memory_config *m)
{
	if (m->shared || m->hugepages)
		return true;
	if (m->size)
		return false;
	for (size_t i = 0; i < m->n_zones; i++)
		if (!m->zones[i].shared && !m->zones[i].hugepages)
			return false;
	return m->n_zones > 0;
}

int memory_check_shared(const struct memory_config *m, struct err *e)
{
	if (!memory_is_shared(m))
		return err_set(e, EINVAL, "Using vhost-user requires using shared memory or huge pages");
	return 0;
}
