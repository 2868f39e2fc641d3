/* SPDX-License-Identifier: Apache-2.0 */
#include "api/api.h"

#include "api/routes.h"

#include <errno.h>
#include <stdlib.h>

struct api {
	struct http *http;
	struct route_call common;
};

static void handle(void *context, const struct http_request *r, struct http_answer *a)
{
	const struct api *api = context;
	route_dispatch(&api->common, r, a);
}

int api_open(const struct api_params *p, struct api **ret_api, struct err *e)
{
	struct api *api = calloc(1, sizeof *api);
	if (!api)
		return err_set(e, ENOMEM, "API: out of memory");
	api->common = (struct route_call){ .vmm = p->vmm, .log_sink = p->log_sink, .version = p->version, .features = p->features };
	const struct http_params http = {
		.loop = p->loop,
		.log_sink = p->log_sink,
		.path = p->path,
		.fd = p->fd,
		.handle = handle,
		.context = api,
	};
	int rc = http_open(&http, &api->http, e);
	if (rc < 0) {
		free(api);
		return rc;
	}
	*ret_api = api;
	return 0;
}

void api_close(struct api *api)
{
	if (!api)
		return;
	http_close(api->http);
	free(api);
}
