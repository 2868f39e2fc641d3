/* SPDX-License-Identifier: Apache-2.0 */
/* fuzz_rings.h - a virtio device whose rings, buffers and register accesses are the input's, on one thread.
 *
 * The input: feature bits, queue sizes, 14 steps, then guest memory from address 0. Queue i has its rings in the 4 KiB
 * page i; everything may overlap everything else. */
#pragma once
#include "loop/loop.h"
#include "queue_setup.h"
#include "virtio/virtio.h"

#include <stdlib.h>
#include <string.h>

#define MUST(cond) ((cond) ? (void)0 : abort())

#define FUZZ_HEADER_BYTES 16u
#define FUZZ_N_STEPS (FUZZ_HEADER_BYTES - 2)
#define FUZZ_MEMORY_BYTES 0x10000u
#define FUZZ_MAX_QUEUE_SIZE 32u

static inline void fuzz_signal_queue(void *transport, unsigned queue)
{
	(void)transport;
	(void)queue;
}

static inline void fuzz_signal_config(void *transport)
{
	(void)transport;
}

static inline void fuzz_start(struct virtio_device *v, const uint8_t *data)
{
	virtio_set_status(v, VIRTIO_STATUS_ACKNOWLEDGE | VIRTIO_STATUS_DRIVER);
	uint64_t features = VIRTIO_F_VERSION_1 | (data[0] & 1 ? VIRTIO_F_EVENT_IDX : 0) |
	                    (data[0] & 2 ? VIRTIO_F_INDIRECT_DESC : 0);
	virtio_ack_features(v, 0, (uint32_t)features);
	virtio_ack_features(v, 1, (uint32_t)(features >> 32));
	virtio_set_status(v, VIRTIO_STATUS_ACKNOWLEDGE | VIRTIO_STATUS_DRIVER | VIRTIO_STATUS_FEATURES_OK);
	for (unsigned i = 0; i < v->n_queues; i++) {
		uint64_t page = 0x1000ull * i;
		struct queue_config c = {
			.size = (uint16_t)(1u << (data[1] >> (4 * (i & 1)) & 7) % 6), .is_ready = true,
			.desc = page, .avail = page + 0x400, .used = page + 0x800,
		};
		(void)queue_setup(v, i, &c);
	}
	virtio_set_status(v, VIRTIO_STATUS_ACKNOWLEDGE | VIRTIO_STATUS_DRIVER | VIRTIO_STATUS_FEATURES_OK |
	                             VIRTIO_STATUS_DRIVER_OK);
}

/* One input against a fresh device. step(v, byte, context) does what is the device's own, and may be NULL. */
static inline void fuzz_rings(const struct virtio_class *cls, const void *params, struct loop *loop, const uint8_t *data,
                              size_t n_bytes, void (*step)(struct virtio_device *v, uint8_t byte, void *context),
                              void *context)
{
	static const struct virtio_transport_ops ops = {
		.signal_queue = fuzz_signal_queue, .signal_config = fuzz_signal_config,
	};
	struct mem_map mem;
	struct virtio_device *v;

	mem_map_init(&mem);
	struct mem_region_params r = { .start = GPA(0), .n_bytes = FUZZ_MEMORY_BYTES };
	MUST(mem_map_add(&mem, &r, NULL) == 0);
	size_t n = n_bytes - FUZZ_HEADER_BYTES;
	MUST(mem_write(&mem, GPA(0), data + FUZZ_HEADER_BYTES, n < FUZZ_MEMORY_BYTES ? n : FUZZ_MEMORY_BYTES));
	struct virtio_params p = { .id = "_fuzz0", .mem = &mem, .io_loop = loop, .queue_size = FUZZ_MAX_QUEUE_SIZE };
	MUST(virtio_device_new(cls, &p, params, &v, NULL) == 0);
	virtio_bind_transport(v, &ops, NULL);
	fuzz_start(v, data);

	for (unsigned i = 0; i < FUZZ_N_STEPS; i++) {
		uint8_t byte = data[2 + i], space[8];
		virtio_kick(v, byte % v->n_queues);
		if (byte & 0x10)
			virtio_space_read(v, byte >> 5, space, 1 + byte % 8);
		if (byte & 0x20) {
			memset(space, byte, sizeof space);
			virtio_space_write(v, byte & 15, space, 1 + byte % 8);
		}
		if (step)
			step(v, byte, context);
		for (int turn = 0; turn < 4; turn++)
			(void)loop_run_once(loop, 0);
		if (byte == 0xff) {
			virtio_set_status(v, 0);
			fuzz_start(v, data);
		}
	}
	virtio_device_free(v);
	mem_map_done(&mem);
}
