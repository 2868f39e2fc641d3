/* SPDX-License-Identifier: Apache-2.0 */
/* Disks: a block image, and a rate limit when one is asked for; or another process that serves one. */
#include "backend/block.h"
#include "base/checked.h"
#include "base/clock.h"
#include "device/rate_limit.h"
#include "device/vhost_user_blk.h"
#include "device/virtio_blk.h"
#include "vm/machine_internal.h"
#include "vm/unsupported.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* Backends are often started together with the machine, not with a disk that comes later: the main thread would wait. */
#define BACKEND_WAIT_NS (5 * NS_PER_S)

struct disk {
	struct block_image *image;
	struct rate_limit *own_limit; /* NULL: it has none to itself */
};

static struct disk *disk_of(const struct attached *a)
{
	return a->backend;
}

static int refuse(const void *config, struct err *e)
{
	return refuse_unsupported_disk(config, e);
}

static int make_device(struct machine *m, struct attached *a, const struct disk_config *c, struct rate_limit *limit,
                       struct err *e)
{
	struct virtio_blk_params p = {
		.image = disk_of(a)->image, .limit = limit, .is_readonly = c->readonly, .n_queues = (unsigned)c->num_queues,
	};
	if (c->serial)
		memcpy(p.serial, c->serial, strnlen(c->serial, sizeof p.serial));

	struct virtio_queue_cpus *cpus = calloc(c->n_queue_affinity + 1, sizeof *cpus);
	if (!cpus)
		return err_set(e, ENOMEM, "%s: no memory", a->id);
	for (size_t i = 0; i < c->n_queue_affinity; i++) {
		const struct queue_affinity_config *from = &c->queue_affinity[i];
		cpus[i] = (struct virtio_queue_cpus){ from->queue_index, from->host_cpus, from->n_host_cpus };
	}
	struct virtio_params how = { .queue_size = c->queue_size, .queue_cpus = cpus, .n_queue_cpus = c->n_queue_affinity };
	int rc = machine_make_virtio(m, a, &virtio_blk, &how, &p, e);
	free(cpus);
	return rc;
}

static enum block_type block_type_of(enum image_type type)
{
	switch (type) {
	case IMAGE_UNKNOWN:
		break;
	case IMAGE_RAW:
		return BLOCK_TYPE_RAW;
	case IMAGE_QCOW2:
		return BLOCK_TYPE_QCOW2;
	case IMAGE_FIXED_VHD:
		return BLOCK_TYPE_VHD;
	case IMAGE_VHDX:
		return BLOCK_TYPE_VHDX;
	case IMAGE_FLAT_VMDK:
		return BLOCK_TYPE_VMDK;
	}
	return BLOCK_TYPE_AUTO;
}

static enum block_sync block_sync_of(enum disk_sync sync)
{
	switch (sync) {
	case SYNC_FULL:
		break;
	case SYNC_RELAXED:
		return BLOCK_SYNC_RELAXED;
	case SYNC_NONE:
		return BLOCK_SYNC_NONE;
	}
	return BLOCK_SYNC_FULL;
}

static int open_image(struct machine *m, struct attached *a, const struct disk_config *c, struct err *e)
{
	struct log log = { .sink = m->p.log_sink, .object = a->id };
	struct block_params b = {
		.path = c->path,
		.is_readonly = c->readonly,
		.is_direct = c->direct,
		.has_no_io_uring = c->disable_io_uring,
		.has_discard = c->sparse,
		.image_type = block_type_of(c->image_type),
		.may_use_backing_files = c->backing_files,
		.sync = block_sync_of(c->sync),
		.log = &log,
	};
	struct rate_limit *limit = NULL;
	int rc = machine_limit_disk(m, c, &disk_of(a)->own_limit, &limit, e);
	if (rc >= 0)
		rc = block_open(&b, &disk_of(a)->image, e);
	return rc < 0 ? rc : make_device(m, a, c, limit, e);
}

static void warn_of_no_effect(struct machine *m, const struct disk_config *c)
{
	struct log log = { .sink = m->p.log_sink, .object = c->id };
	const struct {
		bool is_said;
		const char *name;
	} options[] = {
		{ c->serial, "serial" }, { c->direct, "direct" }, { c->sync != SYNC_FULL, "sync" },
		{ c->image_type != IMAGE_UNKNOWN, "image_type" }, { !c->sparse, "sparse" },
	};
	for (size_t i = 0; i < ARRAY_LEN(options); i++) {
		if (options[i].is_said)
			log_warn(&log, "%s has no effect with vhost_user: it is the backend's matter", options[i].name);
	}
}

/* One that another process serves: what else is said of the image is said to that process. */
static int open_vhost(struct machine *m, struct attached *a, const struct disk_config *c, struct err *e)
{
	struct vhost_user_blk_params p = {
		.common = {
			.socket = c->vhost_socket,
			.n_queues = (unsigned)c->num_queues,
			.connect_wait_ns = m->has_hotplug ? 0 : BACKEND_WAIT_NS,
		},
		.is_readonly = c->readonly,
	};
	struct virtio_params how = { .queue_size = c->queue_size };
	/* It knows the guest's RAM only, where a buffer of a guest with DAX need not be. */
	if (machine_has_kind(m, &machine_pmem))
		return err_set(e, ENOTSUP, "%s: not supported yet: --disk vhost_user beside --pmem", c->id);
	warn_of_no_effect(m, c);
	return machine_make_virtio(m, a, &vhost_user_blk, &how, &p, e);
}

static int open_disk(struct machine *m, struct attached *a, const void *config, struct err *e)
{
	const struct disk_config *c = config;
	if (c->queue_size == 0) /* which would mean the class's own */
		return err_set(e, EINVAL, "%s: queue_size 0 is not a power of two from 2 to %u", c->id, QUEUE_MAX_SIZE);
	struct disk *disk = calloc(1, sizeof *disk);
	if (!disk)
		return err_set(e, ENOMEM, "%s: no memory", c->id);
	a->backend = disk;
	return c->vhost_user ? open_vhost(m, a, c, e) : open_image(m, a, c, e);
}

static void close_disk(struct attached *a)
{
	struct disk *disk = disk_of(a);
	if (!disk)
		return;
	block_close(disk->image);
	rate_limit_free(disk->own_limit);
	free(disk);
}

bool machine_has_vhost_disk(const struct machine *m)
{
	list_for_each(l, &m->devices) {
		const struct attached *a = list_entry(l, struct attached, link);
		if (a->v && a->v->cls == &vhost_user_blk)
			return true;
	}
	return false;
}

const struct device_kind machine_disks = {
	.member = "disks",
	.option = "--disk",
	.refuse = refuse,
	.open = open_disk,
	.close = close_disk,
};

/* On the main thread, which waits for the image as it does when a disk comes or goes: vCPUs and queues go on meanwhile. A raw
 * file grows at once; a qcow2 image writes its header, perhaps a longer table, and waits for the host's file system. */
int machine_resize_disk(struct machine *m, const char *id, uint64_t n_bytes, struct err *e)
{
	struct attached *a = machine_find_device(m, id);
	if (a && a->v->cls == &vhost_user_blk)
		return err_set(e, ENOTSUP, "disk '%s' is another process's, and is resized there", id);
	if (!a || a->kind != &machine_disks)
		return err_set(e, ENOENT, "there is no disk '%s'", id);
	int rc = machine_hosts_error(block_resize(disk_of(a)->image, n_bytes, e), e);
	if (rc < 0)
		return rc;
	virtio_blk_resized(a->v);
	log_info(&m->log, "'%s' has %llu bytes now", a->id, (unsigned long long)n_bytes);
	return 0;
}
