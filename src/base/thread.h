/* SPDX-License-Identifier: Apache-2.0 */
/* thread.h - starting a thread of ours: a small stack, a name that tools see, and no signals but its own faults.
 *
 * Signals for the process belong to the main thread's descriptor. Those that a thread raises by its own fault stay
 * unblocked: the kernel would end the process without running any handler, and the terminal would stay raw. */
#pragma once
#include "base/err.h"
#include "base/forward.h"
#include <pthread.h>

#define THREAD_STACK_BYTES (256u * 1024)

/* The name is cut to 15 bytes, as the kernel does. */
int thread_start(pthread_t *ret_t, const char *name, size_t stack_bytes, void *(*fn)(void *), void *arg, struct err *e);
