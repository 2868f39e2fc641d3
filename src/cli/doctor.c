/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/doctor.h"

#include "base/checked.h"
#include "hv/hv.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>

static void print_text(const struct hv_report *r)
{
	const struct {
		const char *name;
		bool is_there;
	} facts[] = {
		{ "hardware virtualization", r->has_hardware_virtualization },
		{ "nested paging", r->has_nested_paging },
		{ "interrupts by descriptor (irqfd)", r->has_irqfd },
		{ "kicks by descriptor (ioeventfd)", r->has_ioeventfd },
		{ "split interrupt controller", r->has_split_irqchip },
		{ "immediate exit", r->has_immediate_exit },
		{ "dirty log", r->has_dirty_log },
	};
	struct utsname u;

	printf("hypervisor: %s, API version %d, module %s\n", r->name, r->api_version,
	       r->vendor_module[0] ? r->vendor_module : "unknown");
	if (uname(&u) == 0)
		printf("host kernel: %s %s\n", u.release, u.machine);
	for (size_t i = 0; i < ARRAY_LEN(facts); i++)
		printf("%s: %s\n", facts[i].name, facts[i].is_there ? "yes" : "no");
	if (r->probe_ns_per_instruction_x1000)
		printf("guest kernel code: %.3f ns an instruction (measured)\n", (double)r->probe_ns_per_instruction_x1000 / 1000);
	printf("verdict: %s: %s\n", r->has_hardware_virtualization ? "Linux guests run here" : "Linux guests do not run here",
	       r->reason);
}

static int print_json(const struct hv_report *r)
{
	json_t *o = json_pack("{s:s, s:i, s:s, s:b, s:b, s:b, s:b, s:b, s:b, s:b, s:I, s:s}", "hypervisor", r->name, "api_version",
	                      r->api_version, "vendor_module", r->vendor_module, "runs_linux", r->has_hardware_virtualization,
	                      "nested_paging", r->has_nested_paging, "irqfd", r->has_irqfd, "ioeventfd", r->has_ioeventfd,
	                      "split_irqchip", r->has_split_irqchip, "immediate_exit", r->has_immediate_exit, "dirty_log",
	                      r->has_dirty_log, "picoseconds_per_guest_instruction",
	                      (json_int_t)r->probe_ns_per_instruction_x1000, "reason", r->reason);
	if (!o || json_dumpf(o, stdout, JSON_INDENT(2)) < 0) {
		json_decref(o);
		return 1;
	}
	printf("\n");
	json_decref(o);
	return 0;
}

int doctor_main(int argc, char **argv)
{
	bool is_json = argc == 2 && strcmp(argv[1], "--json") == 0;
	if (argc > 2 || (argc == 2 && !is_json)) {
		fprintf(stderr, "error: unexpected argument '%s' found\n\nUsage: varan doctor [--json]\n", argv[argc > 2 ? 2 : 1]);
		return 2;
	}
	struct hv_report r = { 0 };
	struct err e = { 0 };
	if (hv_probe(&r, &e) < 0) {
		fprintf(stderr, "varan doctor: %s\n", e.text);
		return 1;
	}
	if (is_json) {
		if (print_json(&r))
			return 1;
	} else {
		print_text(&r);
	}
	return r.has_hardware_virtualization ? 0 : 1;
}
