/* SPDX-License-Identifier: Apache-2.0 */
/* guarded_copy.h - copies from and to memory that may not be there: a mapped file that somebody has cut off, or whose file
 * system is full. Touching such a page would end the process by SIGBUS. */
#pragma once
#include <stddef.h>

/* One of the two is our own memory. What cannot be read reads as zeroes; what cannot be written is lost. A system call. */
void guarded_read(void *ret_bytes, const void *from, size_t n_bytes);
void guarded_write(void *to, const void *bytes, size_t n_bytes);
