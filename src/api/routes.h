/* SPDX-License-Identifier: Apache-2.0 */
/* routes.h - the table of routes: dispatch and OpenAPI come from it. Inside src/api/ only. */
#pragma once
#include "api/http.h"

struct log_sink;
struct route;
struct schema;
struct vmm;

#define API_ROOT "/api/v1/"

/* What an operation gets, and what it answers with. */
struct route_call {
	struct vmm *vmm;
	const struct log_sink *log_sink;
	const char *version;
	const char *const *features;
	const struct route *route;
	int *fds;           /* that came with the request: what is taken becomes -1 */
	size_t n_fds;
	void *body;         /* read by the route's schema; NULL when it has none */
	bool is_body_taken; /* its members belong to somebody else now */
	struct text *json;  /* the answer; none: 204 */
	bool is_200_empty;  /* 200 with an empty body instead */
};

enum route_flags {
	ROUTE_NEEDS_VM = 1 << 0,   /* 404 without one; what needs one that runs is answered with 500 */
	ROUTE_ADDS = 1 << 1,       /* a device: 204 before boot, 200 later */
	ROUTE_BY_ID = 1 << 2,      /* 404 for an id that does not exist */
	ROUTE_TAKES_FDS = 1 << 3,  /* descriptors come with the request */
	ROUTE_EMPTY_200 = 1 << 4,  /* 200 without a body */
	ROUTE_MAY_CONFLICT = 1 << 5, /* 409 for an identifier or a path that is taken; so has what ROUTE_ADDS */
	ROUTE_COLD_ONLY = 1 << 6,  /* ROUTE_ADDS, but not yet to a VM that runs */
};

struct route {
	enum http_method method;
	const char *name; /* behind API_ROOT */
	const char *operation; /* operationId: what generated clients call it; NULL: by path and method */
	const char *summary;
	const struct schema *body;
	const char *answer; /* component of what 200 brings; NULL: 204 */
	unsigned flags;
	struct {
		const char *member; /* of the configuration: the list that a new device joins */
		const char *noun;   /* what it is called when that fails */
	} added;
	/* NULL: known, and not supported yet. A negative errno decides about the status as vm/vmm.h says. */
	int (*run)(struct route_call *c, struct err *e);
};

extern const struct route api_routes[];
extern const size_t api_n_routes;

/* Finds the route, reads the body, runs the operation, and fills the answer. `c` brings what is not of the request. */
void route_dispatch(const struct route_call *c, const struct http_request *r, struct http_answer *a);
