/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/descriptors.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/resource.h>
#include <unistd.h>

#define TABLE_SIZE 4096

void fill_standard_descriptors(void)
{
	for (int fd = 0; fd <= STDERR_FILENO; fd++) {
		if (fcntl(fd, F_GETFD) < 0 && open("/dev/null", O_RDWR) < 0)
			return;
	}
}

void widen_descriptor_table(void)
{
	struct rlimit limit;
	if (getrlimit(RLIMIT_NOFILE, &limit) < 0)
		return;
	int n = limit.rlim_cur < TABLE_SIZE ? (int)limit.rlim_cur : TABLE_SIZE;
	if (n <= STDERR_FILENO + 1 || fcntl(n - 1, F_GETFD) >= 0 || errno != EBADF)
		return;
	/* Whatever it is: a copy at the last number, closed again, leaves the room. */
	int fd = fcntl(STDERR_FILENO, F_DUPFD_CLOEXEC, n - 1);
	if (fd >= 0)
		(void)close(fd);
}
