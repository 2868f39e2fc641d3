/* SPDX-License-Identifier: Apache-2.0 */
/* advice.h - what the kernel is told of guest memory, wherever it comes from. Inside src/mem/ only. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <sys/mman.h>

/* Advice only: a kernel without one of these still runs the guest. */
static inline void advise(void *host, size_t n_bytes, bool has_thp, bool is_mergeable)
{
	(void)madvise(host, n_bytes, MADV_DONTDUMP);
	if (has_thp)
		(void)madvise(host, n_bytes, MADV_HUGEPAGE);
	if (is_mergeable)
		(void)madvise(host, n_bytes, MADV_MERGEABLE);
}
