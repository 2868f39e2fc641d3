/* SPDX-License-Identifier: Apache-2.0 */
#include "vm/vm_info.h"

#include "base/text.h"
#include "config/vm_config.h"
#include "schema/schema.h"
#include "vm/vm.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

static int fill_path(struct console_config *c, const char *path, struct err *e)
{
	if (c->mode != CONSOLE_PTY || !path)
		return 0;
	free(c->file);
	c->file = strdup(path);
	return c->file ? 0 : err_set(e, ENOMEM, "no memory");
}

static int write_config(struct vm *vm, const struct vm_config *c, struct text *json, struct err *e)
{
	struct vm_config copy;
	/* Names descriptors, but owns none. */
	int rc = schema_copy(&vm_config_schema, &copy, c, e);
	if (rc < 0)
		return rc;
	rc = fill_path(&copy.serial, vm_serial_path(vm), e);
	if (rc >= 0)
		rc = fill_path(&copy.console, vm_console_path(vm), e);
	if (rc >= 0)
		rc = schema_write_json(&vm_config_schema, &copy, 0, json, e);
	schema_done(&vm_config_schema, &copy);
	return rc;
}

int vm_info_write(struct vm *vm, const struct vm_config *c, struct text *json, struct err *e)
{
	uint64_t n_hotplugged = c->memory.has_hotplugged_size ? c->memory.hotplugged_size : 0;
	for (size_t i = 0; i < c->memory.n_zones; i++)
		n_hotplugged += c->memory.zones[i].has_hotplugged_size ? c->memory.zones[i].hotplugged_size : 0;

	text_append(json, "{\"config\":");
	int rc = write_config(vm, c, json, e);
	if (rc < 0)
		return rc;
	/* What was there at boot: devices that plug memory would add what is plugged now. */
	text_appendf(json, ",\"state\":\"%s\",\"memory_actual_size\":%" PRIu64, vm_state_name(vm_state(vm)),
	             vm_config_ram_bytes(c) - n_hotplugged);
	if (vm_state(vm) == VM_RUNNING || vm_state(vm) == VM_PAUSED) {
		text_append(json, ",\"device_tree\":");
		vm_device_tree(vm, json);
	}
	text_append_char(json, '}');
	return json->is_out_of_memory ? err_set(e, ENOMEM, "no memory") : 0;
}
