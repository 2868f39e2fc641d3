/* SPDX-License-Identifier: Apache-2.0 */
/* machine.h - what the guest sees, assembled in one visible order: memory, hypervisor, interrupts, buses, devices, boot
 * data, vCPUs. Built anew at every boot, taken down as a whole. Main thread, but for the callback. */
#pragma once
#include "base/err.h"
#include "base/forward.h"
#include "base/log.h"
#include "config/vm_config.h"
#include "vm/vcpu.h"

struct char_backend;
struct hv;
struct machine;

struct machine_params {
	const struct vm_config *config;
	struct hv *hv;
	struct loop *io_loop;
	struct char_backend *serial, *console; /* NULL: the device does not exist */
	const struct log_sink *log_sink;
	int lease_signal; /* as vm_params */
	/* The guest reset, powered off, crashed, or a vCPU failed. vCPU threads. */
	void (*event)(void *context, enum vcpu_event what, const char *report);
	void *context;
};

int machine_new(const struct machine_params *p, struct machine **ret_m, struct err *e); /* vCPUs do not run yet */
void machine_free(struct machine *m);                                                   /* stops everything; NULL is fine */
int machine_start(struct machine *m, struct err *e);
void machine_pause(struct machine *m);
void machine_resume(struct machine *m);
/* False when the guest has no way to notice (no ACPI). */
bool machine_power_button(struct machine *m);

/* A mapped file is about to change: copies take the place of its pages. */
int machine_keep_files(struct machine *m);
/* A huge page takes the place of mapped pages, where they are to stay for a while only. 1: there are more. */
int machine_settle_files(struct machine *m);

struct text;
void machine_counters(struct machine *m, struct text *t);
