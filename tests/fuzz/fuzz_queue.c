/* SPDX-License-Identifier: Apache-2.0 */
/* The walk of a split ring whose every byte the input chooses. The input: size, feature bits, then the memory that holds
 * the three rings and the indirect tables. Chains are read, written and given back. */
#include "mem/mem.h"
#include "virtio/queue.h"
#include "virtio/virtio.h"

#include <stdlib.h>
#include <string.h>

#define MEMORY_BYTES 0x4000u
#define DESC 0x0u
#define AVAIL 0x800u
#define USED 0x1000u

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_bytes);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_bytes)
{
	static struct iovec iov[64];
	struct mem_map mem;
	struct queue q;
	uint8_t scratch[128];

	if (n_bytes < 2)
		return 0;
	mem_map_init(&mem);
	struct mem_region_params p = { .start = GPA(0), .n_bytes = MEMORY_BYTES };
	if (mem_map_add(&mem, &p, NULL) < 0 || queue_init(&q, 64, NULL) < 0)
		abort();
	(void)mem_write(&mem, GPA(0), data + 2, n_bytes - 2 < MEMORY_BYTES ? n_bytes - 2 : MEMORY_BYTES);

	q.config = (struct queue_config){ .size = (uint16_t)(1u << (data[0] % 8)), .desc = DESC, .avail = AVAIL, .used = USED };
	uint64_t features = (data[1] & 1 ? VIRTIO_F_EVENT_IDX : 0) | (data[1] & 2 ? VIRTIO_F_INDIRECT_DESC : 0);
	if (queue_start(&q, &mem, features, NULL) == 0) {
		struct chain c = { .iov = iov, .n_iov_capacity = 64 };
		for (int run = 0; run < 4; run++) {
			queue_quiet(&q);
			queue_begin(&q);
			while (queue_next(&q, &c) > 0) {
				(void)chain_read(&c, data[1] >> 4, scratch, sizeof scratch);
				if (data[1] & 4)
					(void)chain_write(&c, 0, scratch, sizeof scratch);
				if (data[1] & 8 && q.n_in_flight % 3 == 2)
					queue_undo(&q, &c);
				else
					queue_put(&q, &c, UINT32_MAX);
			}
			(void)queue_wants_signal(&q);
			(void)queue_end(&q);
		}
		queue_stop(&q);
	}
	queue_done(&q);
	mem_map_done(&mem);
	return 0;
}
