/* SPDX-License-Identifier: Apache-2.0 */
#include "config/devices.h"

#include "base/checked.h"
#include "config/names.h"
#include "config/preserved.h"
#include "schema/schema.h"

#include <assert.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Where the devices of one kind are; the identifier is a char * at `id` of each. The order is that in which a machine
 * makes them. */
struct device_list {
	const char *member;
	const char *kind; /* in made-up identifiers */
	const struct schema *schema;
	size_t at, count; /* of the pointer and of the number; or of the object and of the bool that says it is there */
	size_t id, has_slot, slot;
	size_t file, only_reads; /* when has_file */
	bool has_file, is_single;
};

#define DEVICE(m, kind_, schema_, T)                                                            \
	.member = #m, .kind = kind_, .schema = schema_, .at = offsetof(struct vm_config, m),     \
	.id = offsetof(struct T, id), .has_slot = offsetof(struct T, has_pci_device_id),         \
	.slot = offsetof(struct T, pci_device_id)
#define LIST(m) .count = offsetof(struct vm_config, n_##m)
#define FILE_OF(T, file_, only_reads_) \
	.has_file = true, .file = offsetof(struct T, file_), .only_reads = offsetof(struct T, only_reads_)
static const struct device_list lists[] = {
	{ DEVICE(disks, "_disk", &disk_schema, disk_config), LIST(disks), FILE_OF(disk_config, path, readonly) },
	{ DEVICE(net, "_net", &net_schema, net_config), LIST(net) },
	{ DEVICE(fs, "_fs", &fs_schema, fs_config), LIST(fs) },
	{ DEVICE(generic_vhost_user, "_generic_vhost_user", &generic_vhost_user_schema, generic_vhost_user_config),
	  LIST(generic_vhost_user) },
	{ DEVICE(pmem, "_pmem", &pmem_schema, pmem_config), LIST(pmem), FILE_OF(pmem_config, file, discard_writes) },
	{ DEVICE(vsock, "_vsock", &vsock_schema, vsock_config), .count = offsetof(struct vm_config, has_vsock),
	  .is_single = true },
	{ DEVICE(vdpa, "_vdpa", &vdpa_schema, vdpa_config), LIST(vdpa) },
	{ DEVICE(devices, "_vfio", &device_schema, device_config), LIST(devices) },
	{ DEVICE(user_devices, "_vfio_user", &user_device_schema, user_device_config), LIST(user_devices) },
};
#undef FILE_OF
#undef LIST
#undef DEVICE

static char *items_of(const struct device_list *l, const struct vm_config *c, size_t *ret_n)
{
	const char *base = (const char *)c;
	if (l->is_single) {
		*ret_n = c->has_vsock;
		return (char *)(uintptr_t)(base + l->at);
	}
	char *items;
	memcpy(&items, base + l->at, sizeof items);
	memcpy(ret_n, base + l->count, sizeof *ret_n);
	return items;
}

static char *id_of(const struct device_list *l, const char *item)
{
	char *id;
	memcpy(&id, item + l->id, sizeof id);
	return id;
}

static bool has_id(const struct device_list *l, const char *item, const char *id)
{
	const char *own = id_of(l, item);
	return own && strcmp(own, id) == 0;
}

/* With one device more: whether it keeps the rules, and what follows from it. An IOMMU that it brought goes with it. */
static int accept(struct vm_config *c, struct err *e)
{
	bool had_iommu = c->iommu, was_derived = c->is_iommu_derived;
	int rc = vm_config_validate(c, e);
	if (rc == 0)
		rc = vm_config_complete(c, e);
	if (rc < 0) {
		c->iommu = had_iommu;
		c->is_iommu_derived = was_derived;
	}
	return rc;
}

static int add_vsock(struct vm_config *c, const struct vsock_config *vsock, struct err *e)
{
	if (c->has_vsock)
		return err_set(e, EEXIST, "There is a vsock device already");
	int rc = schema_copy(&vsock_schema, &c->vsock, vsock, e);
	if (rc < 0)
		return rc;
	c->has_vsock = true;
	rc = accept(c, e);
	if (rc < 0) {
		schema_done(&vsock_schema, &c->vsock);
		c->has_vsock = false;
	}
	return rc;
}

static int add_to_list(const struct device_list *l, struct vm_config *c, const void *device, struct err *e)
{
	char *base = (char *)c;
	size_t n;
	void *added;
	bool was_absent = !items_of(l, c, &n);
	if (n >= VM_MAX_DEVICES)
		return err_set(e, EINVAL, "%d devices of this kind are the most that a VM can have", VM_MAX_DEVICES);
	int rc = schema_append(l->schema, base + l->at, &n, &added, e);
	if (rc < 0)
		return rc;
	memcpy(base + l->count, &n, sizeof n);
	schema_done(l->schema, added);
	rc = schema_copy(l->schema, added, device, e);
	if (rc == 0)
		rc = accept(c, e);
	if (rc == 0)
		return 0;

	schema_done(l->schema, added);
	n--;
	memcpy(base + l->count, &n, sizeof n);
	if (was_absent) {
		free(items_of(l, c, &n));
		memset(base + l->at, 0, sizeof(void *));
	}
	return rc;
}

static const struct device_list *list_of(const char *member)
{
	const struct device_list *l = NULL;
	for (size_t i = 0; i < ARRAY_LEN(lists) && !l; i++)
		if (strcmp(lists[i].member, member) == 0)
			l = &lists[i];
	assert(l);
	return l;
}

int vm_config_add_device(struct vm_config *c, const char *member, const void *device, struct err *e)
{
	const struct device_list *l = list_of(member);
	return l->is_single ? add_vsock(c, device, e) : add_to_list(l, c, device, e);
}

void vm_config_describe(const char *member, const void *device, struct device_facts *ret_f)
{
	const struct device_list *l = list_of(member);
	const char *base = device;
	bool has_slot, only_reads = false;
	char *file = NULL;
	uint8_t slot;
	memcpy(&has_slot, base + l->has_slot, sizeof has_slot);
	memcpy(&slot, base + l->slot, sizeof slot);
	if (l->has_file) {
		memcpy(&file, base + l->file, sizeof file);
		memcpy(&only_reads, base + l->only_reads, sizeof only_reads);
	}
	*ret_f = (struct device_facts){
		.id = id_of(l, base), .prefix = l->kind, .file = file, .only_reads = only_reads, .slot = has_slot ? slot : -1,
	};
}

bool vm_config_next(const struct vm_config *c, struct device_cursor *d)
{
	for (; d->list < ARRAY_LEN(lists); d->list++, d->n_seen = 0) {
		const struct device_list *l = &lists[d->list];
		size_t n;
		const char *items = items_of(l, c, &n);
		if (d->n_seen < n) {
			d->member = l->member;
			d->device = items + l->schema->size * d->n_seen++;
			return true;
		}
	}
	return false;
}

void *vm_config_with_id(const char *member, const void *device, const char *id)
{
	const struct device_list *l = list_of(member);
	char *copy = malloc(l->schema->size);
	if (copy) {
		memcpy(copy, device, l->schema->size);
		memcpy(copy + l->id, &id, sizeof id);
	}
	return copy;
}

static bool remove_from(const struct device_list *l, struct vm_config *c, const char *id)
{
	size_t n, n_kept = 0, size = l->schema->size;
	char *items = items_of(l, c, &n);
	for (size_t i = 0; i < n; i++) {
		char *item = items + i * size;
		if (has_id(l, item, id))
			schema_done(l->schema, item);
		else if (n_kept++ != i)
			memcpy(items + (n_kept - 1) * size, item, size);
	}
	if (l->is_single)
		c->has_vsock = n_kept > 0;
	else
		memcpy((char *)c + l->count, &n_kept, sizeof n_kept);
	return n_kept != n;
}

/* Of the devices that have this identifier. */
static void close_descriptors(struct vm_config *c, const char *id)
{
	for (size_t i = 0; i < c->n_net; i++)
		if (c->net[i].id && strcmp(c->net[i].id, id) == 0)
			vm_config_close_preserved(c, c->net[i].fds, c->net[i].n_fds);
}

bool vm_config_remove_device(struct vm_config *c, const char *id)
{
	bool is_removed = false;
	close_descriptors(c, id);
	for (size_t i = 0; i < ARRAY_LEN(lists); i++)
		is_removed |= remove_from(&lists[i], c, id);
	vm_config_update_iommu(c);
	return is_removed;
}

bool vm_config_has_device(const struct vm_config *c, const char *id)
{
	for (size_t i = 0; i < ARRAY_LEN(lists); i++) {
		const struct device_list *l = &lists[i];
		size_t n;
		const char *items = items_of(l, c, &n);
		for (size_t k = 0; k < n; k++)
			if (has_id(l, items + k * l->schema->size, id))
				return true;
	}
	return false;
}

static void take(struct names *taken, const char *id)
{
	uint32_t owner;
	if (id)
		(void)names_add(taken, id, 0, &owner);
}

/* Every identifier that c has; they stay c's. */
static int find_taken(const struct vm_config *c, struct names *ret_taken)
{
	size_t n_ids = c->n_rate_limit_groups + c->memory.n_zones + c->n_sgx_epc + 3, n;
	for (size_t i = 0; i < ARRAY_LEN(lists); i++) {
		(void)items_of(&lists[i], c, &n);
		n_ids += n;
	}
	int rc = names_init(ret_taken, n_ids);
	if (rc < 0)
		return rc;
	for (size_t i = 0; i < ARRAY_LEN(lists); i++) {
		const char *items = items_of(&lists[i], c, &n);
		for (size_t k = 0; k < n; k++)
			take(ret_taken, id_of(&lists[i], items + k * lists[i].schema->size));
	}
	for (size_t i = 0; i < c->n_rate_limit_groups; i++)
		take(ret_taken, c->rate_limit_groups[i].id);
	for (size_t i = 0; i < c->memory.n_zones; i++)
		take(ret_taken, c->memory.zones[i].id);
	for (size_t i = 0; i < c->n_sgx_epc; i++)
		take(ret_taken, c->sgx_epc[i].id);
	take(ret_taken, c->console.id);
	take(ret_taken, c->balloon.id);
	take(ret_taken, c->rtc.id);
	return 0;
}

static int next_free(struct device_names *names, const struct names *taken, const char *kind,
                     char ret_id[DEVICE_ID_BYTES])
{
	do {
		if (names->n_named == UINT32_MAX)
			return -ENOSPC;
		int n = snprintf(ret_id, DEVICE_ID_BYTES, "%s%u", kind, names->n_named++);
		assert(n > 0 && n < DEVICE_ID_BYTES);
	} while (names_have(taken, ret_id));
	return 0;
}

int device_name_next(struct device_names *names, const struct vm_config *c, const char *kind,
                     char ret_id[DEVICE_ID_BYTES])
{
	struct names taken;
	int rc = find_taken(c, &taken);
	if (rc == 0)
		rc = next_free(names, &taken, kind, ret_id);
	names_done(&taken);
	return rc;
}

/* What is made here need not be remembered: the count does not come by it again. */
static int name_list(const struct device_list *l, struct vm_config *c, struct device_names *names,
                     const struct names *taken, struct err *e)
{
	size_t n;
	char *items = items_of(l, c, &n);
	for (size_t i = 0; i < n; i++) {
		char *item = items + i * l->schema->size, id[DEVICE_ID_BYTES];
		if (id_of(l, item))
			continue;
		int rc = next_free(names, taken, l->kind, id);
		if (rc < 0)
			return err_set_errno(e, -rc, "no name for a device");
		char *copy = strdup(id);
		if (!copy)
			return err_set(e, ENOMEM, "out of memory");
		memcpy(item + l->id, &copy, sizeof copy);
	}
	return 0;
}

int vm_config_name_devices(struct vm_config *c, struct device_names *names, struct err *e)
{
	struct names taken;
	int rc = find_taken(c, &taken);
	if (rc < 0)
		rc = err_set(e, ENOMEM, "out of memory");
	for (size_t i = 0; rc == 0 && i < ARRAY_LEN(lists); i++)
		rc = name_list(&lists[i], c, names, &taken, e);
	names_done(&taken);
	return rc;
}

bool vm_config_drop_descriptors(struct vm_config *c)
{
	bool had_any = false;
	for (size_t i = 0; i < c->n_net; i++) {
		struct net_config *n = &c->net[i];
		had_any |= n->fds != NULL;
		free(n->fds);
		n->fds = NULL;
		n->n_fds = 0;
	}
	return had_any;
}
