/* SPDX-License-Identifier: Apache-2.0 */
#include "config/placement.h"
#include "config/rate_limiter.h"
#include "config/rules.h"

#include <errno.h>

#define MIN_MTU 1280 /* virtio 1.2, 5.1.4 */

static const struct enum_name vhost_mode_names[] = {
	{ .json = "Client", .word = "client", .value = VHOST_CLIENT },
	{ .json = "Server", .word = "server", .value = VHOST_SERVER },
	{ 0 },
};

#define T struct net_config
static const struct field net_rows[] = {
	ROW_STRING(T, tap, .help = "Name of the TAP interface; without it one is made"),
	ROW_IPV4(T, ip, .def_string = "192.168.249.1", .help = "Address of the host's side"),
	ROW_IPV4(T, mask, .def_string = "255.255.255.0", .help = "Its netmask"),
	ROW_MAC(T, mac, .has = HAS(T, has_mac), .help = "Address of the guest's side [default: random]"),
	ROW_MAC(T, host_mac, .has = HAS(T, has_host_mac), .help = "Address of the host's side"),
	ROW_BOOL(T, offload_tso, .def = true, .help = "Offer TCP segmentation offload"),
	ROW_BOOL(T, offload_ufo, .def = true, .help = "Offer UDP fragmentation offload"),
	ROW_BOOL(T, offload_csum, .def = true, .help = "Offer checksum offload"),
	ROW_U16(T, mtu, .has = HAS(T, has_mtu), .help = "MTU that the guest sees, at least 1280"),
	ROW_BOOL(T, iommu, .help = "Place behind the guest's IOMMU"),
	ROW_U16(T, queue_size, .def = 256, .help = "Entries of a queue"),
	ROW_U64(T, num_queues, .def = 2, .help = "Queues of both directions together, at most two per boot vCPU"),
	ROW_BOOL(T, vhost_user, .help = "The backend is another process"),
	ROW_PATH(T, vhost_socket, .key = "socket", .help = "Its Unix socket"),
	ROW_ENUM(T, vhost_mode, enum vhost_mode, vhost_mode_names, .def = VHOST_CLIENT,
	         .help = "Whether to connect to that socket, or to listen there"),
	ROW_STRING(T, id, .help = "Device identifier"),
	ROW_INTEGERS(T, fds, int32_t, .key = "fd", .flags = ROW_DESCRIPTORS, .max_items = 4096,
	             .help = "Open TAP descriptors, one per pair of queues"),
	ROWS_OF_PLACEMENT(T),
	ROW_OBJECT(T, rate_limiter_config, struct rate_limiter_config, &rate_limiter_schema, .key = "",
	           .flags = ROW_FLAT, .has = HAS(T, has_rate_limiter_config), .is_present = rate_limiter_is_present,
	           .help = "A budget for each direction"),
	ROW_PAD(T, pad_),
};
const struct schema net_schema =
	SCHEMA(T, net_rows, .name = "NetConfig", .option = "net", .help = "A network device");
#undef T

static int check_queues(const struct net_config *n, const struct vm_config *c, struct err *e)
{
	if (n->num_queues < 2)
		return err_set(e, EINVAL, "Number of queues to virtio_net less than 2");
	if (n->fds && (n->num_queues % 2 || n->num_queues / 2 != n->n_fds))
		return err_set(e, EINVAL, "Number of queues to virtio_net does not match the number of input FDs");
	for (size_t i = 0; i < n->n_fds; i++)
		if (n->fds[i] <= 2)
			return err_set(e, EINVAL, "Reserved fd number (<= 2)");
	if (n->num_queues / 2 > c->cpus.boot_vcpus)
		return err_set(e, EINVAL, "Number of vCPUs is insufficient for number of queues");
	return 0;
}

int net_check(const struct net_config *n, const struct vm_config *c, struct err *e)
{
	int rc;
	if (n->vhost_user && (rc = memory_check_shared(&c->memory, e)) < 0)
		return rc;
	if ((rc = check_queues(n, c, e)) < 0)
		return rc;
	if (n->vhost_user && n->iommu)
		return err_set(e, EINVAL, "Device does not support being placed behind IOMMU");
	if ((rc = placement_check(c, n->pci_segment, n->iommu ? BEHIND_IOMMU_YES : BEHIND_IOMMU_NO, e)) < 0)
		return rc;
	if (n->has_mtu && n->mtu < MIN_MTU)
		return err_set(e, EINVAL, "Provided MTU %u is lower than %u (expected by VIRTIO specification)", n->mtu,
		               MIN_MTU);
	/* The last word is what Cloud Hypervisor prints; it should be offload_csum. */
	if (!n->offload_csum && (n->offload_tso || n->offload_ufo))
		return err_set(e, EINVAL, "\"offload_tso\" and \"offload_ufo\" depend on \"offload_tso\"");
	return 0;
}
