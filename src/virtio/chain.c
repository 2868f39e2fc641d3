/* SPDX-License-Identifier: Apache-2.0 */
/* Copies between a chain and our own memory. The iovecs lie in guest memory: each byte is copied once. */
#include "base/checked.h"
#include "base/guarded_copy.h"
#include "virtio/queue.h"

#include <errno.h>
#include <stdatomic.h>
#include <string.h>

/* The iovecs of one direction. */
static const struct iovec *part(const struct chain *c, bool is_writable, unsigned *ret_n)
{
	*ret_n = is_writable ? c->n_in : c->n_out;
	return is_writable ? c->iov + c->n_out : c->iov;
}

/* What cannot be written is lost: it is the answer, and nobody is left to be told. */
static void give(const struct chain *c, void *to, const void *bytes, size_t n_bytes)
{
	if (c->may_fault)
		(void)guarded_write(to, bytes, n_bytes);
	else
		memcpy(to, bytes, n_bytes);
}

/* False: not all of it is there. */
static bool take(const struct chain *c, void *ret_bytes, const void *from, size_t n_bytes)
{
	if (c->may_fault)
		return guarded_read(ret_bytes, from, n_bytes);
	memcpy(ret_bytes, from, n_bytes);
	return true;
}

static size_t copy(const struct chain *c, bool is_writable, size_t offset, uint8_t *bytes, size_t n_bytes)
{
	unsigned n;
	const struct iovec *iov = part(c, is_writable, &n);
	size_t n_copied = 0;

	for (unsigned i = 0; i < n && n_copied < n_bytes; i++) {
		if (offset >= iov[i].iov_len) {
			offset -= iov[i].iov_len;
			continue;
		}
		size_t n_here = (size_t)min_u64(iov[i].iov_len - offset, n_bytes - n_copied);
		uint8_t *at = (uint8_t *)iov[i].iov_base + offset;
		if (is_writable)
			give(c, at, bytes + n_copied, n_here);
		else if (!take(c, bytes + n_copied, at, n_here))
			break;
		n_copied += n_here;
		offset = 0;
	}
	atomic_signal_fence(memory_order_seq_cst);
	return n_copied;
}

size_t chain_read(const struct chain *c, size_t offset, void *ret_bytes, size_t n_bytes)
{
	return copy(c, false, offset, ret_bytes, n_bytes);
}

size_t chain_write(const struct chain *c, size_t offset, const void *bytes, size_t n_bytes)
{
	/* copy() only reads from it in this direction. */
	return copy(c, true, offset, (uint8_t *)(uintptr_t)bytes, n_bytes);
}

int chain_slice(const struct chain *c, bool is_writable, size_t offset, size_t n_bytes, struct iovec *ret_iov, int n_max)
{
	unsigned n;
	const struct iovec *iov = part(c, is_writable, &n);
	int n_out = 0;

	for (unsigned i = 0; i < n && n_bytes; i++) {
		if (offset >= iov[i].iov_len) {
			offset -= iov[i].iov_len;
			continue;
		}
		if (n_out == n_max)
			return -ENOSPC;
		size_t n_here = (size_t)min_u64(iov[i].iov_len - offset, n_bytes);
		ret_iov[n_out++] = (struct iovec){ .iov_base = (uint8_t *)iov[i].iov_base + offset, .iov_len = n_here };
		n_bytes -= n_here;
		offset = 0;
	}
	return n_out;
}
