/* SPDX-License-Identifier: Apache-2.0 */
/* What is told of a machine's devices: the device tree of vm.info and the numbers of vm.counters, as JSON. */
#include "base/text.h"
#include "vm/machine_internal.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>

static void append_json(struct text *t, json_t *o)
{
	char *bytes = o ? json_dumps(o, JSON_COMPACT) : NULL;
	json_decref(o);
	if (bytes)
		text_append(t, bytes);
	else
		t->is_out_of_memory = true;
	free(bytes);
}

static json_t *string_or_null(const char *s)
{
	return s ? json_string(s) : json_null();
}

/* --- the device tree ----------------------------------------------------------------------------------------------------- */

/* Where the guest has programmed them, decoding or not. */
static json_t *bars_of(const struct pci_device *d)
{
	json_t *all = json_array();
	for (unsigned i = 0; i < PCI_N_BARS; i++) {
		const struct pci_bar *bar = &d->bars[i];
		if (!bar->n_bytes)
			continue;
		(void)json_array_append_new(all, json_pack("{s:{s:i,s:I,s:I,s:s,s:b}}", "PciBar", "index", (int)i, "base",
		                                           (json_int_t)pci_bar_address(d, i), "size", (json_int_t)bar->n_bytes,
		                                           "type_", bar->is_64bit ? "Mmio64" : "Mmio32", "prefetchable",
		                                           bar->is_prefetchable));
	}
	return all;
}

static void add_node(json_t *tree, const char *id, json_t *resources, const char *parent, const char *child,
                     const char *bdf, bool is_leaving)
{
	json_t *children = json_array();
	if (child)
		(void)json_array_append_new(children, json_string(child));
	json_t *node = json_pack("{s:s,s:o,s:o,s:o,s:o}", "id", id, "resources", resources, "parent", string_or_null(parent),
	                         "children", children, "pci_bdf", string_or_null(bdf));
	if (is_leaving)
		(void)json_object_set_new(node, "being_removed", json_true());
	(void)json_object_set_new(tree, id, node);
}

/* What it brings into the guest's address space. */
static json_t *memory_of(const struct attached *a)
{
	json_t *all = json_array();
	if (a->memory.n_bytes)
		(void)json_array_append_new(all, json_pack("{s:{s:I,s:I}}", "MmioAddressRange", "base",
		                                           (json_int_t)a->memory.start.v, "size",
		                                           (json_int_t)a->memory.n_bytes));
	return all;
}

static void add_device(json_t *tree, const struct attached *a)
{
	if (!a->pci) {
		add_node(tree, a->id, memory_of(a), NULL, NULL, NULL, false);
		return;
	}
	const struct pci_device *d = virtio_pci_function(a->pci);
	char bdf[PCI_BDF_CHARS];
	text_scoped function = TEXT_INIT;
	text_appendf(&function, PREFIX_PCI_ID "%s", a->id);
	pci_device_bdf(d, bdf);
	add_node(tree, text_get(&function), bars_of(d), NULL, a->id, bdf, a->is_leaving);
	add_node(tree, a->id, memory_of(a), text_get(&function), NULL, NULL, a->is_leaving);
}

void machine_device_tree(struct machine *m, struct text *json)
{
	json_t *tree = json_object();
	if (m->has_ioapic)
		add_node(tree, "__ioapic", json_array(), NULL, NULL, NULL, false);
	if (m->has_serial)
		add_node(tree, "__serial", json_array(), NULL, NULL, NULL, false);
	list_for_each(l, &m->devices)
		add_device(tree, list_entry(l, struct attached, link));
	append_json(json, tree);
}

/* --- counters -------------------------------------------------------------------------------------------------------------- */

static void add_counter(void *context, const char *name, uint64_t value)
{
	json_t *counters = context;
	(void)json_object_set_new(counters, name, json_integer((json_int_t)value));
}

void machine_device_counters(struct machine *m, struct text *json)
{
	json_t *all = json_object();
	list_for_each(l, &m->devices) {
		const struct attached *a = list_entry(l, struct attached, link);
		if (!a->v->cls->counters)
			continue;
		json_t *counters = json_object();
		a->v->cls->counters(a->v, add_counter, counters);
		(void)json_object_set_new(all, a->id, counters);
	}
	append_json(json, all);
}
