/* SPDX-License-Identifier: Apache-2.0 */
/* rules.h - the rules of one section of the configuration, called by vm_config_validate() in its order. Inside
 * src/config/ only. Each returns 0, or -EINVAL with Cloud Hypervisor's text. */
#pragma once
#include "config/vm_config.h"

struct names;

int cpus_check_counts(const struct cpus_config *c, struct err *e);
int cpus_check_topology(const struct cpus_config *c, struct err *e);
int memory_check(const struct memory_config *m, struct err *e);
bool memory_is_shared(const struct memory_config *m);
int memory_check_shared(const struct memory_config *m, struct err *e); /* for a vhost-user device */
int balloon_check(const struct balloon_config *b, const struct memory_config *m, struct err *e);
int console_check(const struct console_config *c, struct err *e);
int rate_limit_group_check(const struct rate_limit_group_config *g, struct err *e);
int disk_check(const struct disk_config *d, const struct vm_config *c, const struct names *groups, struct err *e);
int net_check(const struct net_config *n, const struct vm_config *c, struct err *e);
int fs_check(const struct fs_config *f, const struct vm_config *c, struct err *e);
int generic_vhost_user_check(const struct generic_vhost_user_config *g, const struct vm_config *c, struct err *e);
int device_check(const struct device_config *d, const struct vm_config *c, struct err *e);
int vsock_check_cid(const struct vsock_config *v, struct err *e);
int numa_check(const struct vm_config *c, struct err *e);
int pci_segment_check(const struct pci_segment_config *s, const struct vm_config *c, struct err *e);
int platform_check(const struct platform_config *p, struct err *e);
int landlock_check(const struct landlock_config *l, struct err *e);
