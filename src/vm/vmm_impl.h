/* SPDX-License-Identifier: Apache-2.0 */
/* vmm_impl.h - what the files behind vmm.h share. */
#pragma once
#include "config/devices.h"
#include "vm/vmm.h"

struct vmm {
	struct vmm_params p;
	struct log log;
	struct hv *hv;
	struct vm_config *config; /* NULL: no VM; else vm is there, too */
	struct vm *vm;
	struct device_names names;

	bool is_until_poweroff, has_ended;
	_Atomic bool is_stopping;
	struct err failure;
	char *report;
};

bool vmm_has_machine(const struct vmm *vmm);
void vmm_on_device_removed(void *context, const char *id, const char *bdf, bool was_asked_for);

/* Chains of causes. All but the last return the code that they were given. */
int vmm_because(int rc, const char *operation, struct err *e); /* puts the operation in front of why it failed */
int vmm_one_cause(int rc, struct err *e); /* of a text that names what a client chose, before that */
int vmm_not_created(const char *operation, struct err *e);
int vmm_not_running(const char *operation, struct err *e); /* also when there is no VM at all */
