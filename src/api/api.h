/* SPDX-License-Identifier: Apache-2.0 */
/* api.h - the HTTP API on a Unix socket: Cloud Hypervisor's routes, served by the main loop.
 *
 * Main thread only. Whoever may connect to the socket owns the VMM; still, clients are hostile: what they send is
 * bounded, and they can neither stall nor end the process but by the routes that say so. An operation that takes time
 * holds the other clients up, as the VM has one owner. */
#pragma once
#include "base/err.h"
#include "base/forward.h"

struct api;
struct log_sink;
struct text;
struct vmm;

struct api_params {
	struct loop *loop; /* the main loop; outlives the API */
	struct vmm *vmm;   /* outlives the API */
	const char *path;  /* a socket is made there, mode 0600 whatever the umask; gone again at the end */
	int fd;            /* >= 0: a socket that listens already, inherited; then path is not looked at */
	const struct log_sink *log_sink;
	const char *version;         /* of the program, "0.1.0": what vmm.ping tells */
	const char *const *features; /* what is compiled in; ends with NULL */
};

/* A path that another process serves is refused; the file that a dead one left is replaced. The descriptor is the API's
 * on success, and stays the caller's on failure. */
int api_open(const struct api_params *p, struct api **ret_api, struct err *e);
/* Answers that were given are still written, for a bounded time: to vmm.shutdown the client gets its 200. */
void api_close(struct api *api);

/* The `paths:` and `components:` of the OpenAPI document, from the table of routes. */
void api_write_openapi_paths(struct text *t);
void api_write_man(struct text *t); /* varan-api(7), from the same table */
