/* SPDX-License-Identifier: Apache-2.0 */
#include "api/routes.h"

#include "api/bodies.h"
#include "base/cleanup.h"
#include "base/log.h"
#include "config/devices.h"
#include "config/generic_vhost_user.h"
#include "config/migration.h"
#include "config/restore.h"
#include "config/vm_config.h"
#include "schema/schema.h"
#include "vm/vmm.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

static int ping(struct route_call *c, struct err *e)
{
	text_scoped build = TEXT_INIT;
	struct ping_answer a = { .version = (char *)(uintptr_t)c->version, .pid = getpid() };
	text_appendf(&build, "v%s", c->version);
	a.build_version = build.bytes;
	a.features = (char **)(uintptr_t)c->features;
	while (c->features && c->features[a.n_features])
		a.n_features++;
	return schema_write_json(&ping_schema, &a, 0, c->json, e);
}

/* The answer is written before the process ends: api_close() sees to that. */
static int stop(struct route_call *c, struct err *e)
{
	(void)e;
	c->is_200_empty = true;
	vmm_stop(c->vmm);
	return 0;
}

/* Descriptors come beside a request, not in it. Clients send their own numbers all the same. */
static void warn_of_descriptors(const struct route_call *c)
{
	const struct log log = { .sink = c->log_sink, .object = "api" };
	log_warn(&log, "%s: 'fds' in the body mean nothing here, and are ignored", c->route->name);
}

static int create(struct route_call *c, struct err *e)
{
	if (vm_config_drop_descriptors(c->body))
		warn_of_descriptors(c);
	int rc = vmm_create(c->vmm, c->body, e);
	c->is_body_taken = rc == 0;
	return rc;
}

static int boot(struct route_call *c, struct err *e)
{
	return vmm_boot(c->vmm, e);
}

static int pause_vm(struct route_call *c, struct err *e)
{
	return vmm_pause(c->vmm, e);
}

static int resume(struct route_call *c, struct err *e)
{
	return vmm_resume(c->vmm, e);
}

static int shutdown_vm(struct route_call *c, struct err *e)
{
	return vmm_shutdown(c->vmm, e);
}

static int reboot(struct route_call *c, struct err *e)
{
	return vmm_reboot(c->vmm, e);
}

static int power_button(struct route_call *c, struct err *e)
{
	return vmm_power_button(c->vmm, e);
}

static int nmi(struct route_call *c, struct err *e)
{
	return vmm_nmi(c->vmm, e);
}

static int delete_vm(struct route_call *c, struct err *e)
{
	return vmm_delete(c->vmm, e);
}

static int info(struct route_call *c, struct err *e)
{
	return vmm_info(c->vmm, c->json, e);
}

static int counters(struct route_call *c, struct err *e)
{
	return vmm_counters(c->vmm, c->json, e);
}

/* What came beside the request becomes part of the device; numbers in the body are of the client's process. */
static int name_descriptors(struct route_call *c, struct err *e)
{
	if (c->route->body != &net_schema)
		return c->n_fds ? err_set(e, ENOTSUP, "not supported yet: --device fd") : 0;
	struct net_config *net = c->body;
	if (net->fds)
		warn_of_descriptors(c);
	free(ptr_take(net->fds));
	net->n_fds = 0;
	if (c->n_fds == 0)
		return 0;
	net->fds = calloc(c->n_fds, sizeof *net->fds);
	if (!net->fds)
		return err_set(e, ENOMEM, "out of memory");
	for (; net->n_fds < c->n_fds; net->n_fds++)
		net->fds[net->n_fds] = c->fds[net->n_fds];
	return 0;
}

static int add_device(struct route_call *c, struct err *e)
{
	const struct route *route = c->route;
	struct pci_device_info device = { 0 };
	const struct device_addition added = {
		.member = route->added.member,
		.noun = route->added.noun,
		.option = route->body->option,
		.device = c->body,
		.fds = c->fds,
		.n_fds = c->n_fds,
	};
	int rc = route->flags & ROUTE_TAKES_FDS ? name_descriptors(c, e) : 0;
	if (rc >= 0)
		rc = vmm_add_device(c->vmm, &added, &device, e);
	if (rc < 0 || !device.bdf[0])
		return rc;
	const struct pci_device_answer a = { device.id, device.bdf };
	return schema_write_json(&pci_device_schema, &a, 0, c->json, e);
}

static int remove_device(struct route_call *c, struct err *e)
{
	const struct remove_device_body *body = c->body;
	return vmm_remove_device(c->vmm, body->id, e);
}

static int resize_disk(struct route_call *c, struct err *e)
{
	const struct resize_disk_body *body = c->body;
	return vmm_resize_disk(c->vmm, body->id, body->desired_size, e);
}

#define GET_ROUTE .method = HTTP_GET
#define PUT_ROUTE .method = HTTP_PUT

const struct route api_routes[] = {
	{ GET_ROUTE, .name = "vmm.ping", .summary = "Whether somebody answers, and who", .answer = "VmmPingResponse", .run = ping },
	{ PUT_ROUTE, .name = "vmm.shutdown", .operation = "shutdownVMM", .summary = "End the VM and the process",
	  .flags = ROUTE_EMPTY_200, .run = stop },
	{ GET_ROUTE, .name = "vm.info", .summary = "Configuration, state and devices of the VM", .answer = "VmInfo",
	  .flags = ROUTE_NEEDS_VM, .run = info },
	{ GET_ROUTE, .name = "vm.counters", .summary = "Counters of the VM's devices", .answer = "VmCounters", .run = counters },
	{ PUT_ROUTE, .name = "vm.create", .operation = "createVM", .summary = "Keep the configuration of a VM; nothing runs yet",
	  .body = &vm_config_schema, .flags = ROUTE_MAY_CONFLICT, .run = create },
	{ PUT_ROUTE, .name = "vm.delete", .operation = "deleteVM",
	  .summary = "Forget the VM, shutting it down first; fine when there is none", .run = delete_vm },
	{ PUT_ROUTE, .name = "vm.boot", .operation = "bootVM", .summary = "Boot the VM that was created", .flags = ROUTE_NEEDS_VM,
	  .run = boot },
	{ PUT_ROUTE, .name = "vm.pause", .operation = "pauseVM", .summary = "Pause the VM", .run = pause_vm },
	{ PUT_ROUTE, .name = "vm.resume", .operation = "resumeVM", .summary = "Let a paused VM go on", .run = resume },
	{ PUT_ROUTE, .name = "vm.shutdown", .operation = "shutdownVM", .summary = "Shut the VM down without asking its guest",
	  .run = shutdown_vm },
	{ PUT_ROUTE, .name = "vm.reboot", .operation = "rebootVM", .summary = "Boot the VM anew without asking its guest",
	  .flags = ROUTE_NEEDS_VM, .run = reboot },
	{ PUT_ROUTE, .name = "vm.power-button", .operation = "power-buttonVM", .summary = "Press the guest's power button",
	  .run = power_button },
	{ PUT_ROUTE, .name = "vm.nmi", .summary = "Send the guest a non-maskable interrupt", .run = nmi },
	{ PUT_ROUTE, .name = "vm.add-disk", .summary = "Add a disk", .body = &disk_schema, .answer = "PciDeviceInfo",
	  .flags = ROUTE_NEEDS_VM | ROUTE_ADDS, .run = add_device, .added = { "disks", "disk" } },
	{ PUT_ROUTE, .name = "vm.add-net", .summary = "Add a network device; its TAP descriptors may come with the request",
	  .body = &net_schema, .answer = "PciDeviceInfo",
	  .flags = ROUTE_NEEDS_VM | ROUTE_ADDS | ROUTE_COLD_ONLY | ROUTE_TAKES_FDS,
	  .run = add_device, .added = { "net", "network device" } },
	{ PUT_ROUTE, .name = "vm.add-fs", .summary = "Add a shared file system", .body = &fs_schema, .answer = "PciDeviceInfo",
	  .flags = ROUTE_NEEDS_VM | ROUTE_ADDS | ROUTE_COLD_ONLY,
	  .run = add_device, .added = { "fs", "fs" } },
	{ PUT_ROUTE, .name = "vm.add-pmem", .summary = "Add a persistent memory device", .body = &pmem_schema,
	  .answer = "PciDeviceInfo", .flags = ROUTE_NEEDS_VM | ROUTE_ADDS,
	  .run = add_device, .added = { "pmem", "pmem device" } },
	{ PUT_ROUTE, .name = "vm.add-vsock", .summary = "Add a vsock device; at most one", .body = &vsock_schema,
	  .answer = "PciDeviceInfo", .flags = ROUTE_NEEDS_VM | ROUTE_ADDS | ROUTE_COLD_ONLY,
	  .run = add_device, .added = { "vsock", "vsock device" } },
	{ PUT_ROUTE, .name = "vm.add-vdpa", .summary = "Add a vDPA device", .body = &vdpa_schema, .answer = "PciDeviceInfo",
	  .flags = ROUTE_NEEDS_VM | ROUTE_ADDS | ROUTE_COLD_ONLY,
	  .run = add_device, .added = { "vdpa", "vDPA device" } },
	{ PUT_ROUTE, .name = "vm.add-device", .summary = "Add a VFIO device; by a descriptor not supported yet",
	  .body = &device_schema, .answer = "PciDeviceInfo",
	  .flags = ROUTE_NEEDS_VM | ROUTE_ADDS | ROUTE_COLD_ONLY | ROUTE_TAKES_FDS,
	  .run = add_device, .added = { "devices", "device" } },
	{ PUT_ROUTE, .name = "vm.add-user-device", .summary = "Add a vfio-user device", .body = &user_device_schema,
	  .answer = "PciDeviceInfo", .flags = ROUTE_NEEDS_VM | ROUTE_ADDS | ROUTE_COLD_ONLY,
	  .run = add_device, .added = { "user_devices", "user device" } },
	{ PUT_ROUTE, .name = "vm.add-generic-vhost-user", .summary = "Add a vhost-user device of any type",
	  .body = &generic_vhost_user_schema, .answer = "PciDeviceInfo", .flags = ROUTE_NEEDS_VM | ROUTE_ADDS | ROUTE_COLD_ONLY,
	  .run = add_device, .added = { "generic_vhost_user", "generic vhost-user device" } },
	{ PUT_ROUTE, .name = "vm.remove-device",
	  .summary = "Ask the guest to let go of a device; the event device-removed says when it is gone",
	  .body = &remove_device_schema, .flags = ROUTE_NEEDS_VM | ROUTE_BY_ID, .run = remove_device },
	{ PUT_ROUTE, .name = "vm.resize", .summary = "Change vCPUs, RAM or balloon", .body = &resize_schema,
	  .flags = ROUTE_NEEDS_VM },
	{ PUT_ROUTE, .name = "vm.resize-disk", .summary = "Make a disk of the running guest larger", .body = &resize_disk_schema,
	  .flags = ROUTE_NEEDS_VM | ROUTE_BY_ID, .run = resize_disk },
	{ PUT_ROUTE, .name = "vm.resize-zone", .summary = "Change the size of a memory zone", .body = &resize_zone_schema,
	  .flags = ROUTE_NEEDS_VM | ROUTE_BY_ID },
	{ PUT_ROUTE, .name = "vm.snapshot", .summary = "Write a snapshot of the paused VM", .body = &snapshot_schema,
	  .flags = ROUTE_NEEDS_VM },
	{ PUT_ROUTE, .name = "vm.coredump", .summary = "Write a core dump of the paused guest", .body = &coredump_schema,
	  .flags = ROUTE_NEEDS_VM },
	{ PUT_ROUTE, .name = "vm.restore", .summary = "Make a VM from a snapshot", .body = &restore_schema,
	  .flags = ROUTE_TAKES_FDS },
	{ PUT_ROUTE, .name = "vm.receive-migration", .summary = "Receive a VM", .body = &receive_migration_schema,
	  .flags = ROUTE_TAKES_FDS },
	{ PUT_ROUTE, .name = "vm.send-migration", .summary = "Send the VM to another host", .body = &send_migration_schema,
	  .flags = ROUTE_NEEDS_VM },
};
const size_t api_n_routes = ARRAY_LEN(api_routes);

static const struct route *find(const char *path)
{
	const size_t n = sizeof API_ROOT - 1;
	if (strncmp(path, API_ROOT, n) != 0)
		return NULL;
	for (size_t i = 0; i < api_n_routes; i++)
		if (strcmp(api_routes[i].name, path + n) == 0)
			return &api_routes[i];
	return NULL;
}

/* Cloud Hypervisor's mapping; 405 is not among what it answers. */
static unsigned status_of(int rc)
{
	switch (rc) {
	case -ENOENT:
		return 404;
	case -EEXIST:
		return 409;
	case -EINVAL:
		return 400;
	default:
		return 500;
	}
}

/* The chain of errors: what kind, then the lines of `e`. */
static void refuse(struct http_answer *a, unsigned status, const char *kind, const struct err *e)
{
	text_scoped lines = TEXT_INIT;
	text_appendf(&lines, "%s\n%s", kind, e->text);
	http_answer_errors(a, status, text_get(&lines));
}

/* What can be said without looking into the body. */
static int check_form(const struct route *route, const struct http_request *r, struct err *e)
{
	if (r->method != route->method)
		return err_set(e, EINVAL, "%s wants %s", route->name, route->method == HTTP_GET ? "GET" : "PUT");
	if (route->body && !r->body)
		return err_set(e, EINVAL, "%s wants a body: %s", route->name, route->body->name);
	/* A body of a GET means nothing, and is skipped. */
	if (!route->body && r->body && r->method == HTTP_PUT)
		return err_set(e, EINVAL, "%s takes no body", route->name);
	if (r->n_fds && !(route->flags & ROUTE_TAKES_FDS))
		return err_set(e, EINVAL, "%s takes no descriptors, and %zu came with it", route->name, r->n_fds);
	return 0;
}

static void run(const struct route *route, struct route_call *c, struct http_answer *a)
{
	struct err e = { 0 };
	int rc = route->run ? route->run(c, &e) : err_set(&e, ENOTSUP, "not supported yet: %s", route->name);
	/* No text means that somebody forgot it; the client gets at least the reason's name. */
	if (rc < 0 && !e.text[0])
		(void)err_set_errno(&e, -rc, "%s", route->name);
	if (rc < 0)
		refuse(a, status_of(rc), "Error from API", &e);
	else
		a->status = c->json->n_bytes || c->is_200_empty ? 200 : 204;
}

void route_dispatch(const struct route_call *common, const struct http_request *r, struct http_answer *a)
{
	struct err e = { 0 };
	struct route_call c = *common;
	const struct route *route = find(r->path);
	c.route = route;
	c.fds = r->fds;
	c.n_fds = r->n_fds;
	if (!route) {
		http_answer_errors(a, 404, "Not Found");
		return;
	}
	if (check_form(route, r, &e) < 0) {
		refuse(a, 400, "Bad Request", &e);
		return;
	}
	c.json = &a->body;
	if (!route->body) {
		run(route, &c, a);
		return;
	}
	free_scoped void *body = malloc(route->body->size);
	c.body = body;
	if (!body) {
		http_answer_errors(a, 500, "Internal Server Error\nout of memory");
		return;
	}
	int rc = schema_parse_json(route->body, r->body, r->n_body_bytes, 0, body, &e);
	if (rc < 0) {
		refuse(a, rc == -ENOMEM ? 500 : 400, "Failed to deserialize JSON", &e);
		return;
	}
	run(route, &c, a);
	if (!c.is_body_taken)
		schema_done(route->body, body);
}
