/* SPDX-License-Identifier: Apache-2.0 */
/* machine_kit.h - a machine on the real hypervisor, whose guest is a few instructions at its hotplug registers, for tests of
 * what comes and goes. One include a program. */
#pragma once
#include "base/bytes.h"
#include "base/text.h"
#include "hv_box.h"
#include "loop/loop.h"
#include "vm/machine.h"
#include "vm/machine_internal.h"
#include "vm/vmm.h"

#include <elf.h>
#include <fcntl.h>
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define LOAD 0x1000000u
#define SECONDS_LIMIT 60
#define MAX_REMOVED 128

struct kernel {
	Elf64_Ehdr header;
	Elf64_Phdr segments[2];
	uint8_t note[24];
	uint8_t code[256];
};

struct driver {
	struct vm_config config;
	struct hv *hv;
	struct loop *loop;
	struct loop_thread io;
	struct machine *m;
	int kernel_fd;
	char kernel_path[40];
	_Atomic bool has_failed;
	char *report; /* of a failure */
	unsigned n_removed, n_asked_for;
	char removed[MAX_REMOVED][80]; /* "id bdf" */
};

static inline void on_event(void *context, enum vcpu_event what, const char *report)
{
	struct driver *d = context;
	(void)what;
	if (!d->has_failed)
		d->report = strdup(report ? report : "the guest ended");
	d->has_failed = true;
}

static inline void on_removed(void *context, const char *id, const char *bdf, bool was_asked_for)
{
	struct driver *d = context;
	OK(d->n_removed < MAX_REMOVED);
	d->n_asked_for += was_asked_for;
	(void)snprintf(d->removed[d->n_removed++], sizeof d->removed[0], "%s %s", id, bdf);
}

static inline void write_kernel(struct driver *d, const uint8_t *code, const uint8_t *end)
{
	struct kernel k = {
		.header = {
			.e_ident = { 0x7f, 'E', 'L', 'F', ELFCLASS64, ELFDATA2LSB, EV_CURRENT },
			.e_type = ET_EXEC, .e_machine = EM_X86_64, .e_version = EV_CURRENT,
			.e_phoff = offsetof(struct kernel, segments), .e_ehsize = sizeof(Elf64_Ehdr),
			.e_phentsize = sizeof(Elf64_Phdr), .e_phnum = 2,
		},
		.segments = {
			{ .p_type = PT_LOAD, .p_offset = offsetof(struct kernel, code), .p_paddr = LOAD,
			  .p_filesz = sizeof k.code, .p_memsz = sizeof k.code },
			{ .p_type = PT_NOTE, .p_offset = offsetof(struct kernel, note), .p_filesz = sizeof k.note, .p_align = 4 },
		},
	};
	put_le32(&k.note[0], 4);
	put_le32(&k.note[4], 8);
	put_le32(&k.note[8], 18); /* XEN_ELFNOTE_PHYS32_ENTRY */
	memcpy(&k.note[12], "Xen", 4);
	put_le64(&k.note[16], LOAD);
	OK((size_t)(end - code) <= sizeof k.code);
	memcpy(k.code, code, (size_t)(end - code));
	d->kernel_fd = memfd_create("kernel", MFD_CLOEXEC);
	OK(d->kernel_fd >= 0 && write(d->kernel_fd, &k, sizeof k) == sizeof k);
	(void)snprintf(d->kernel_path, sizeof d->kernel_path, "/proc/self/fd/%d", d->kernel_fd);
}

static inline void boot(struct driver *d)
{
	struct err e = { 0 };
	const struct machine_params p = {
		.config = &d->config,
		.hv = d->hv,
		.loop = d->loop,
		.io_loop = d->io.loop,
		.event = on_event,
		.removed = on_removed,
		.context = d,
	};
	if (machine_new(&p, &d->m, &e) < 0 || machine_start(d->m, &e) < 0)
		test_fail(__FILE__, __LINE__, "%s", e.text);
}

/* n_disks: of the configuration, each an empty file in memory. */
static inline void driver_init(struct driver *d, const uint8_t *code, const uint8_t *end, unsigned n_disks)
{
	struct err e = { 0 };
	box_need_kvm();
	*d = (struct driver){ 0 };
	write_kernel(d, code, end);
	EQ(vm_config_init(&d->config, &e), 0);
	d->config.memory.size = 64 << 20;
	d->config.payload.kernel = strdup(d->kernel_path);
	d->config.disks = calloc(8, sizeof *d->config.disks);
	d->config.n_disks = n_disks;
	for (unsigned i = 0; i < 8; i++) {
		char id[] = "_disk0";
		id[5] = (char)('0' + i);
		d->config.disks[i] = (struct disk_config){ .num_queues = 1, .queue_size = 128 };
		if (i < n_disks)
			d->config.disks[i].id = strdup(id);
	}
	if (hv_open(&d->hv, NULL, &e) < 0)
		test_fail(__FILE__, __LINE__, "%s", e.text);
	EQ(loop_new(&d->loop, NULL), 0);
	EQ(loop_thread_start(&d->io, "io", NULL), 0);
}

static inline void driver_done(struct driver *d)
{
	machine_free(d->m);
	loop_flush(d->loop); /* what the machine left there frees itself */
	loop_free(d->loop);
	loop_thread_stop(&d->io);
	hv_close(d->hv);
	vm_config_done(&d->config);
	(void)close(d->kernel_fd);
	if (d->has_failed)
		test_fail(__FILE__, __LINE__, "%s", d->report);
}

/* A disk's file; its path is what to open. The file ends with the descriptor. */
struct image {
	int fd;
	char path[40];
};

static inline struct image new_image(void)
{
	struct image i = { .fd = memfd_create("disk", MFD_CLOEXEC) };
	OK(i.fd >= 0 && ftruncate(i.fd, 1 << 20) == 0);
	(void)snprintf(i.path, sizeof i.path, "/proc/self/fd/%d", i.fd);
	return i;
}

static inline struct disk_config disk_of(struct image *i, const char *id)
{
	return (struct disk_config){ .path = i->path, .id = (char *)(uintptr_t)id, .num_queues = 1, .queue_size = 128 };
}

/* Nobody holds a lock on it. */
static inline bool is_unlocked(const struct image *i)
{
	int fd = open(i->path, O_RDWR | O_CLOEXEC);
	OK(fd >= 0);
	struct flock l = { .l_type = F_WRLCK, .l_whence = SEEK_SET };
	EQ(fcntl(fd, F_OFD_GETLK, &l), 0);
	(void)close(fd);
	return l.l_type == F_UNLCK;
}

static inline void wait_removed(struct driver *d, unsigned n)
{
	for (unsigned i = 0; d->n_removed < n && i < SECONDS_LIMIT * 100; i++)
		OK(loop_run_once(d->loop, 10) >= 0);
	EQ(d->n_removed, n);
}

static inline json_t *tree_of(struct driver *d)
{
	text_scoped t = TEXT_INIT;
	machine_device_tree(d->m, &t);
	json_t *tree = json_loads(text_get(&t), 0, NULL);
	OK(json_is_object(tree));
	return tree;
}

static inline bool is_being_removed(struct driver *d, const char *id)
{
	json_t *tree = tree_of(d), *node = json_object_get(tree, id);
	OK(node);
	bool is_leaving = json_is_true(json_object_get(node, "being_removed"));
	json_decref(tree);
	return is_leaving;
}

static inline bool is_in_tree(struct driver *d, const char *id)
{
	json_t *tree = tree_of(d);
	bool is_there = json_object_get(tree, id) != NULL;
	json_decref(tree);
	return is_there;
}

#define CODE(name) name, name##_end
