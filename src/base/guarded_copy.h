/* SPDX-License-Identifier: Apache-2.0 */
/* guarded_copy.h - copies from and to memory that may not be there: a mapped file that somebody has cut off, or whose file
 * system is full. Touching such a page would end the process by SIGBUS. */
#pragma once
#include "base/forward.h"

/* One of the two is our own memory. False: not all of it is there; what is not reads as zeroes, and is not written. A system
 * call; where a filter forbids that (EPERM, EACCES, ENOSYS), a plain copy. */
bool guarded_read(void *ret_bytes, const void *from, size_t n_bytes);
bool guarded_write(void *to, const void *bytes, size_t n_bytes);
