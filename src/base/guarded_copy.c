/* SPDX-License-Identifier: Apache-2.0 */
#include "base/guarded_copy.h"

#include <errno.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

typedef ssize_t copy_fn(pid_t, const struct iovec *, unsigned long, const struct iovec *, unsigned long, unsigned long);

/* How much was copied: the kernel stops where a page is missing. */
static size_t copy(copy_fn *fn, void *ours, void *theirs, size_t n_bytes)
{
	struct iovec local = { ours, n_bytes }, remote = { theirs, n_bytes };
	ssize_t n = fn(getpid(), &local, 1, &remote, 1, 0);
	if (n >= 0)
		return (size_t)n;
	if (errno != EPERM && errno != EACCES && errno != ENOSYS)
		return 0;
	/* Forbidden, by a filter: what is there is not to be taken for missing. */
	if (fn == process_vm_readv)
		memcpy(ours, theirs, n_bytes);
	else
		memcpy(theirs, ours, n_bytes);
	return n_bytes;
}

bool guarded_read(void *ret_bytes, const void *from, size_t n_bytes)
{
	size_t n = copy(process_vm_readv, ret_bytes, (void *)(uintptr_t)from, n_bytes);
	memset((uint8_t *)ret_bytes + n, 0, n_bytes - n);
	return n == n_bytes;
}

bool guarded_write(void *to, const void *bytes, size_t n_bytes)
{
	return copy(process_vm_writev, (void *)(uintptr_t)bytes, to, n_bytes) == n_bytes;
}
