/* SPDX-License-Identifier: Apache-2.0 */
#include "config/preserved.h"

#include "base/checked.h"
#include "base/cleanup.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

/* Half of what the process may have: the other half is for whoever wants to delete the VM. */
static size_t max_preserved(void)
{
	struct rlimit limit;
	if (getrlimit(RLIMIT_NOFILE, &limit) < 0)
		return 0;
	return (size_t)min_u64(limit.rlim_cur / 2, UINT16_MAX);
}

int vm_config_preserve(struct vm_config *c, const int32_t *fds, size_t n, struct err *e)
{
	if (n == 0)
		return 0;
	if (n > max_preserved() - min_u64(max_preserved(), c->n_preserved_fds))
		return err_set(e, EMFILE, "too many descriptors: a VM keeps %zu at most", max_preserved());
	int32_t *all = reallocarray(c->preserved_fds, c->n_preserved_fds + n, sizeof *all);
	if (!all)
		return err_set(e, ENOMEM, "out of memory");
	memmove(all + n, all, c->n_preserved_fds * sizeof *all);
	memcpy(all, fds, n * sizeof *all);
	c->preserved_fds = all;
	c->n_preserved_fds += n;
	return 0;
}

static void drop(struct vm_config *c, size_t first, size_t n)
{
	if (n == 0)
		return;
	c->n_preserved_fds -= n;
	memmove(c->preserved_fds + first, c->preserved_fds + first + n,
	        (c->n_preserved_fds - first) * sizeof *c->preserved_fds);
	if (c->n_preserved_fds == 0)
		free(ptr_take(c->preserved_fds));
}

void vm_config_unpreserve(struct vm_config *c, size_t n)
{
	drop(c, 0, n);
}

void vm_config_close_preserved(struct vm_config *c, const int32_t *fds, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		size_t k = 0;
		while (k < c->n_preserved_fds && c->preserved_fds[k] != fds[i])
			k++;
		if (k == c->n_preserved_fds)
			continue;
		fd_close(&c->preserved_fds[k]);
		drop(c, k, 1);
	}
}

static void rename_fd(int32_t *fds, size_t n, int32_t from, int32_t to)
{
	for (size_t i = 0; i < n; i++)
		if (fds[i] == from)
			fds[i] = to;
}

/* No name is changed twice, as the new ones are none of the old ones. */
static void rename_in_devices(struct vm_config *c, int32_t from, int32_t to)
{
	for (size_t i = 0; i < c->n_net; i++)
		rename_fd(c->net[i].fds, c->net[i].n_fds, from, to);
}

int preserved_copy(struct vm_config *copy, struct err *e)
{
	for (size_t i = 0; i < copy->n_preserved_fds; i++) {
		int old = copy->preserved_fds[i];
		int fd = fcntl(old, F_DUPFD_CLOEXEC, 3);
		if (fd < 0) {
			int rc = err_set_errno(e, errno, "cannot duplicate a descriptor");
			copy->n_preserved_fds = i;
			preserved_done(copy);
			return rc;
		}
		copy->preserved_fds[i] = fd;
		rename_in_devices(copy, old, fd);
	}
	return 0;
}

void preserved_done(struct vm_config *c)
{
	for (size_t i = 0; i < c->n_preserved_fds; i++)
		fd_close(&c->preserved_fds[i]);
	free(ptr_take(c->preserved_fds));
	c->n_preserved_fds = 0;
}
