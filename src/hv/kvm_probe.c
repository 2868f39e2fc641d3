/* SPDX-License-Identifier: Apache-2.0 */
/* What this machine's KVM is. The kernel does not say whether guest kernel code runs on the CPU itself: there are
 * modules that interpret it, at a thousandth of the speed and with gaps. So a tiny guest is asked, and no list of names:
 * it must get through instructions that a stock kernel needs, and a loop of it in ring 0 must take about as long as the
 * same loop here. The ratio holds inside an emulated host, too, where both are slow. */
#include "hv/kvm_internal.h"

#include <dirent.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

/* Above, guest kernel code is not run but interpreted: hardware is at 1, emulated hardware below 10, an interpreter in
 * the thousands. */
#define MAX_RATIO 50u

/* The module behind KVM: the one for the CPU's own extensions, or else one that does without them. */
static void find_vendor_module(char *ret_name, size_t n_bytes)
{
	const char *own = kvm_arch_vendor_module();
	char path[64];

	*ret_name = '\0';
	if (own) {
		(void)snprintf(path, sizeof path, "/sys/module/%s", own);
		if (access(path, F_OK) == 0) {
			(void)snprintf(ret_name, n_bytes, "%s", own);
			return;
		}
	}
	DIR *d = opendir("/sys/module");
	if (!d)
		return;
	for (const struct dirent *entry; (entry = readdir(d)) != NULL;) {
		/* The vendors' modules are there without being in use when they are built in. */
		if (strncmp(entry->d_name, "kvm_", 4) == 0 && strcmp(entry->d_name, "kvm_amd") != 0 &&
		    strcmp(entry->d_name, "kvm_intel") != 0 && strlen(entry->d_name) < n_bytes) {
			memcpy(ret_name, entry->d_name, strlen(entry->d_name) + 1);
			break;
		}
	}
	(void)closedir(d);
}

static bool has_nested_paging(const char *module)
{
	/* The two vendors' words for it. */
	static const char *const parameters[] = { "npt", "ept" };
	bool is_on = false;

	for (size_t i = 0; i < 2 && !is_on; i++) {
		char path[128];
		(void)snprintf(path, sizeof path, "/sys/module/%s/parameters/%s", module, parameters[i]);
		FILE *f = fopen(path, "re");
		if (!f)
			continue;
		int c = fgetc(f);
		is_on = c == 'Y' || c == '1';
		(void)fclose(f);
	}
	return is_on;
}

/* One sentence. Times in hundredths of a nanosecond at least, since a CPU needs less than one. */
static void judge(const struct kvm_probe *p, struct hv_report *ret)
{
	bool is_slow = p->guest_ps > MAX_RATIO * p->host_ps;
	char times[80] = "";
	if (p->guest_ps)
		(void)snprintf(times, sizeof times, "%llu.%02llu ns per instruction, %llu.%02llu on the host",
		               (unsigned long long)p->guest_ps / 1000, (unsigned long long)p->guest_ps % 1000 / 10,
		               (unsigned long long)p->host_ps / 1000, (unsigned long long)p->host_ps % 1000 / 10);

	ret->probe_ns_per_instruction_x1000 = p->guest_ps;
	ret->has_hardware_virtualization = p->is_complete && p->guest_ps && !is_slow;
	if (ret->has_hardware_virtualization)
		(void)snprintf(ret->reason, sizeof ret->reason, "a probe guest's kernel code runs on the CPU (%s)", times);
	else if (!p->guest_ps)
		(void)snprintf(ret->reason, sizeof ret->reason, "a probe guest could not run: %s", p->failure);
	else
		(void)snprintf(ret->reason, sizeof ret->reason, "a probe guest's kernel code %s (%s)%s%.60s",
		               is_slow ? "is interpreted" : "runs on the CPU", times,
		               p->is_complete ? "" : is_slow ? ", and " : ", but ", p->is_complete ? "" : p->failure);
}

int hv_probe(struct hv_report *ret_r, struct err *e)
{
	struct hv *hv;
	int rc = hv_open(&hv, NULL, e);
	if (rc < 0)
		return rc;

	struct hv_report r = {
		.name = "kvm",
		.api_version = kvm_call_value(hv->fd, KVM_GET_API_VERSION, 0),
		.has_irqfd = kvm_check(hv->fd, KVM_CAP_IRQFD) > 0,
		.has_ioeventfd = kvm_check(hv->fd, KVM_CAP_IOEVENTFD) > 0,
		.has_split_irqchip = kvm_check(hv->fd, KVM_CAP_SPLIT_IRQCHIP) > 0,
		.has_immediate_exit = kvm_check(hv->fd, KVM_CAP_IMMEDIATE_EXIT) > 0,
	};
	find_vendor_module(r.vendor_module, sizeof r.vendor_module);
	if (r.vendor_module[0])
		r.has_nested_paging = has_nested_paging(r.vendor_module);

	struct kvm_probe p = { .hv = hv };
	kvm_arch_probe(&p);
	r.has_dirty_log = p.has_dirty_log;
	judge(&p, &r);
	hv_close(hv);
	*ret_r = r;
	return 0;
}
