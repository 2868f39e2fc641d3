/* SPDX-License-Identifier: Apache-2.0 */
#include "config/names.h"
#include "config/placement.h"
#include "config/rules.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>

#define T struct numa_distance_config
static const struct field distance_rows[] = {
	ROW_U32(T, destination, .flags = ROW_REQUIRED, .help = "The other node"),
	ROW_U8(T, distance, .flags = ROW_REQUIRED, .help = "Distance to it; 10 is that of a node to itself"),
	ROW_PAD(T, pad_),
};
static const struct schema distance_schema =
	SCHEMA(T, distance_rows, .name = "NumaDistance", .help = "How far another NUMA node is");
#undef T

#define T struct numa_config
static const struct field numa_rows[] = {
	ROW_U32(T, guest_numa_id, .help = "Number of the node"),
	ROW_INTEGERS(T, cpus, uint8_t, .help = "Its vCPUs"),
	ROW_LIST(T, distances, struct numa_distance_config, &distance_schema, .flags = ROW_TUPLES,
	         .placeholder = "[<node>@<distance>,...]", .help = "How far other nodes are"),
	ROW_STRINGS(T, memory_zones, .help = "Its memory zones"),
	ROW_STRINGS(T, sgx_epc_sections, .help = "Its sections of enclave memory"),
	ROW_INTEGERS(T, pci_segments, uint16_t, .help = "Its PCI segments"),
	ROW_PAD(T, pad_),
};
const struct schema numa_schema =
	SCHEMA(T, numa_rows, .name = "NumaConfig", .option = "numa", .help = "A NUMA node of the guest");
#undef T

struct claims {
	struct names zones;
	uint64_t *segments; /* per segment: 0, or 1 + the node that has it */
};

static int claim_zones(struct claims *k, const struct numa_config *node, struct err *e)
{
	for (size_t i = 0; i < node->n_memory_zones; i++) {
		uint32_t owner;
		if (!names_add(&k->zones, node->memory_zones[i], node->guest_numa_id, &owner))
			return err_set(e, EINVAL,
			               "Memory zone: %s belongs to multiple NUMA nodes %" PRIu32 " and %" PRIu32,
			               node->memory_zones[i], owner, node->guest_numa_id);
	}
	return 0;
}

static int claim_segments(struct claims *k, const struct numa_config *node, uint16_t n_segments, struct err *e)
{
	for (size_t i = 0; i < node->n_pci_segments; i++) {
		uint16_t segment = node->pci_segments[i];
		if (segment >= n_segments)
			return err_set(e, EINVAL, "Invalid PCI segment id: %u", segment);
		if (!segment && node->guest_numa_id)
			return err_set(e, EINVAL,
			               "Default PCI segment assigned to non-zero NUMA node %" PRIu32,
			               node->guest_numa_id);
		if (k->segments[segment])
			return err_set(e, EINVAL,
			               "PCI segment: %u belongs to multiple NUMA nodes %" PRIu64 " and %" PRIu32,
			               segment, k->segments[segment] - 1, node->guest_numa_id);
		k->segments[segment] = 1ull + node->guest_numa_id;
	}
	return 0;
}

int numa_check(const struct vm_config *c, struct err *e)
{
	struct claims k = { 0 };
	uint16_t n_segments = placement_segments(c);
	size_t n_zones = 0;
	for (size_t i = 0; i < c->n_numa; i++)
		n_zones += c->numa[i].n_memory_zones;

	int rc = names_init(&k.zones, n_zones);
	k.segments = calloc(n_segments + 1u, sizeof *k.segments);
	if (rc < 0 || !k.segments)
		rc = err_set(e, ENOMEM, "--numa: out of memory");
	for (size_t i = 0; rc == 0 && i < c->n_numa; i++) {
		rc = claim_zones(&k, &c->numa[i], e);
		if (rc == 0)
			rc = claim_segments(&k, &c->numa[i], n_segments, e);
	}
	names_done(&k.zones);
	free(k.segments);
	return rc;
}
