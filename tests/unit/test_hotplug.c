/* SPDX-License-Identifier: Apache-2.0 */
/* Disks that come and go on a running machine, whose guest is a few instructions at the hotplug registers. */
#include "base/checked.h"
#include "base/clock.h"
#include "machine_kit.h"
#include "vhost_backend.h"
#include "vm/events.h"

#include <errno.h>

/* 32 bits, flat, no paging, no interrupts: reads both news registers, ejects what it is asked for, and again. */
GUEST(obedient, 32,
      "1: mov 0xfec11000, %eax\n"
      "mov 0xfec11004, %eax\n"
      "test %eax, %eax\n"
      "jz 2f\n"
      "mov %eax, 0xfec11008\n"
      "2: mov $20000, %ecx\n"
      "3: dec %ecx\n"
      "jnz 3b\n"
      "jmp 1b");

/* Reads what it is asked for, and does nothing. */
GUEST(deaf, 32,
      "1: mov 0xfec11004, %eax\n"
      "mov $20000, %ecx\n"
      "2: dec %ecx\n"
      "jnz 2b\n"
      "jmp 1b");

/* Looks at nothing at all. */
GUEST(absent, 32, "1: pause\njmp 1b");

/* Ejects everything, all the time, in every segment. */
GUEST(hostile, 32,
      "xor %ecx, %ecx\n"
      "1: movl $0xffffffff, 0xfec11008\n"
      "inc %ecx\n"
      "mov %ecx, %eax\n"
      "and $1, %eax\n"
      "mov %eax, 0xfec1100c\n"
      "mov $20000, %edx\n"
      "2: dec %edx\n"
      "jnz 2b\n"
      "jmp 1b");

TEST(a_disk_comes_and_goes_a_hundred_times)
{
	struct driver d;
	struct image i = new_image();
	struct pci_device_info info;
	struct err e = { 0 };
	driver_init(&d, CODE(obedient), 0);
	boot(&d);
	uint32_t n_gsis = 0;
	for (unsigned n = 1; n <= 100; n++) {
		struct disk_config c = disk_of(&i, "data");
		if (machine_add_device(d.m, "disks", &c, &info, &e) < 0)
			test_fail(__FILE__, __LINE__, "%s", e.text);
		STR_EQ(info.id, "data");
		STR_EQ(info.bdf, "0000:00:02.0"); /* behind the entropy device */
		OK(!is_unlocked(&i));
		OK(is_in_tree(&d, "data") && !is_being_removed(&d, "data"));
		if (n == 1)
			n_gsis = d.m->router.n_gsis;
		EQ(d.m->router.n_gsis, n_gsis);
		EQ(machine_remove_device(d.m, "data", &e), 0);
		wait_removed(&d, n);
		STR_EQ(d.removed[n - 1], "data 0000:00:02.0");
		OK(!is_in_tree(&d, "data"));
		OK(is_unlocked(&i));
		EQ(d.m->n_devices, 1);
		EQ(d.m->pci.n_mappings, 1);
	}
	EQ(d.m->wary_slots, 0);
	driver_done(&d);
	EQ(d.n_removed, 100);
	EQ(d.n_asked_for, 100);
	(void)close(i.fd);
}

static _Atomic unsigned n_warnings;

static void count_warnings(void *context, const struct log_record *r)
{
	(void)context;
	if (r->level == LOG_WARN && strstr(r->text, "has no effect with vhost_user"))
		n_warnings++;
}

/* It goes also while the other process is away. */
TEST(a_disk_of_another_process_comes_and_goes)
{
	static struct vhost_backend backend;
	static const struct log_sink sink = { .write = count_warnings, .max_level = LOG_WARN };
	struct driver d;
	struct pci_device_info info;
	struct err e = { 0 };
	vhost_backend_init(&backend);
	vhost_backend_start(&backend);
	driver_init(&d, CODE(obedient), 0);
	d.config.memory.shared = true;
	boot(&d);
	struct disk_config c = {
		.vhost_user = true, .vhost_socket = backend.path, .id = (char *)(uintptr_t)"data", .num_queues = 2,
		.queue_size = 64, .sparse = true,
	}, away = c;
	/* The main thread has others to serve. */
	away.vhost_socket = (char *)(uintptr_t)"/var/tmp/there-is-no-such-socket";
	uint64_t start = clock_now_ns();
	EQ(machine_add_device(d.m, "disks", &away, &info, &e), -EIO);
	STR_HAS(e.text, "cannot connect to");
	OK(clock_now_ns() - start < 3 * NS_PER_S);
	d.m->p.log_sink = &sink;
	for (unsigned n = 1; n <= 6; n++) {
		c.serial = n == 1 ? (char *)(uintptr_t)"of the image" : NULL;
		c.direct = n == 1;
		if (machine_add_device(d.m, "disks", &c, &info, &e) < 0)
			test_fail(__FILE__, __LINE__, "%s", e.text);
		EQ(n_warnings, 2);
		OK(is_in_tree(&d, "data"));
		text_scoped counters = TEXT_INIT;
		machine_device_counters(d.m, &counters);
		STR_HAS(text_get(&counters), "\"data\":{\"reconnects\":0}");
		EQ(machine_resize_disk(d.m, "data", 2 << 20, &e), -ENOTSUP);
		STR_HAS(e.text, "disk 'data' is another process's");
		struct pmem_config pmem = { .file = (char *)(uintptr_t)"/tmp", .has_size = true, .size = 2 << 20,
			                    .id = (char *)(uintptr_t)"memory" };
		EQ(machine_add_device(d.m, "pmem", &pmem, &info, &e), -ENOTSUP);
		STR_HAS(e.text, "not supported yet: --pmem beside --disk vhost_user");
		if (n % 2)
			vhost_backend_kill(&backend);
		EQ(machine_remove_device(d.m, "data", &e), 0);
		wait_removed(&d, n);
		OK(!is_in_tree(&d, "data"));
		if (n % 2)
			vhost_backend_start(&backend);
	}
	driver_done(&d);
	vhost_backend_kill(&backend);
	vhost_backend_done(&backend);
}

TEST(the_device_tree_says_what_goes)
{
	struct driver d;
	struct image i = new_image();
	struct pci_device_info info;
	struct err e = { 0 };
	driver_init(&d, CODE(deaf), 0);
	boot(&d);
	struct disk_config c = disk_of(&i, "_disk0");
	EQ(machine_add_device(d.m, "disks", &c, &info, &e), 0);
	STR_EQ(info.id, "_disk0");
	json_t *tree = tree_of(&d), *function = json_object_get(tree, "_virtio-pci-_disk0"),
	       *disk = json_object_get(tree, "_disk0");
	const char *id, *parent, *child, *bdf, *type;
	json_int_t base, size;
	int index, is_prefetchable;
	EQ(json_unpack(function, "{s:s,s:[{s:{s:i,s:I,s:I,s:s,s:b}}],s:n,s:[s],s:s!}", "id", &id, "resources", "PciBar", "index",
	               &index, "base", &base, "size", &size, "type_", &type, "prefetchable", &is_prefetchable, "parent",
	               "children", &child, "pci_bdf", &bdf), 0);
	STR_EQ(id, "_virtio-pci-_disk0");
	STR_EQ(child, "_disk0");
	STR_EQ(bdf, "0000:00:02.0");
	STR_EQ(type, "Mmio64");
	EQ(index, 0);
	EQ(size, 0x80000);
	OK((uint64_t)base >= d.m->x86.pci.high_start && base % size == 0);
	EQ(json_unpack(disk, "{s:s,s:[],s:s,s:[],s:n!}", "id", &id, "resources", "parent", &parent, "children", "pci_bdf"), 0);
	STR_EQ(parent, "_virtio-pci-_disk0");
	OK(json_object_get(tree, "__rng") && json_object_get(tree, "__ioapic"));
	json_decref(tree);

	EQ(machine_remove_device(d.m, "_virtio-pci-_disk0", &e), 0); /* its function's name means it as well */
	OK(is_being_removed(&d, "_disk0") && is_being_removed(&d, "_virtio-pci-_disk0"));
	driver_done(&d);
	(void)close(i.fd);
}

TEST(what_is_asked_twice_and_what_cannot_be_is_refused)
{
	struct driver d;
	struct image i = new_image(), j = new_image();
	struct pci_device_info info;
	struct err e = { 0 };
	driver_init(&d, CODE(absent), 0);
	boot(&d);
	struct disk_config c = disk_of(&i, "data"), other = disk_of(&j, "data");
	EQ(machine_remove_device(d.m, "data", &e), -ENOENT);
	STR_HAS(e.text, "there is no device 'data'");
	EQ(machine_remove_device(d.m, "__rng", &e), -ENOTSUP);
	STR_HAS(e.text, "device '__rng' cannot be removed");
	EQ(machine_remove_device(d.m, "__ioapic", &e), -ENOTSUP);
	EQ(machine_add_device(d.m, "disks", &c, &info, &e), 0);
	EQ(machine_add_device(d.m, "disks", &other, &info, &e), -EEXIST);
	STR_HAS(e.text, "there is a device 'data' already");
	OK(is_unlocked(&j));
	EQ(machine_remove_device(d.m, "data", &e), 0);
	EQ(machine_remove_device(d.m, "data", &e), -EBUSY);
	STR_HAS(e.text, "'data' is being removed already");
	EQ(machine_add_device(d.m, "disks", &other, &info, &e), -EEXIST);
	STR_HAS(e.text, "'data' is being removed: its id is free once the guest has let go of it");

	other.id = (char *)(uintptr_t)"other";
	other.has_pci_device_id = true;
	other.pci_device_id = 2;
	EQ(machine_add_device(d.m, "disks", &other, &info, &e), -EINVAL);
	STR_HAS(e.text, "pci_device_id=2 is taken by 'data'");
	other.pci_device_id = 32;
	EQ(machine_add_device(d.m, "disks", &other, &info, &e), -EINVAL);
	other.pci_device_id = 0;
	EQ(machine_add_device(d.m, "disks", &other, &info, &e), -EINVAL);
	other.pci_device_id = 31;
	EQ(machine_add_device(d.m, "disks", &other, &info, &e), 0);
	STR_EQ(info.bdf, "0000:00:1f.0");
	char long_id[65];
	memset(long_id, 'x', 64);
	long_id[64] = '\0';
	other.id = long_id;
	EQ(machine_add_device(d.m, "disks", &other, &info, &e), -EINVAL);
	STR_HAS(e.text, "longer than 63 bytes");
	/* What the host refuses is not the asker's mistake, whatever its errno. */
	struct disk_config bad = disk_of(&j, "bad");
	bad.queue_size = 0;
	EQ(machine_add_device(d.m, "disks", &bad, &info, &e), -EIO);
	bad.queue_size = 128;
	bad.path = (char *)(uintptr_t)"/no/disk";
	EQ(machine_add_device(d.m, "disks", &bad, &info, &e), -EIO);
	EQ(e.code, EIO);
	EQ(d.n_removed, 0);
	/* The machine ends while the guest was asked: the device is gone, and that is said; the other one stays. */
	driver_done(&d);
	EQ(d.n_removed, 1);
	STR_EQ(d.removed[0], "data 0000:00:02.0");
	OK(is_unlocked(&i) && is_unlocked(&j));
	(void)close(i.fd);
	(void)close(j.fd);
}

TEST(an_id_that_looks_like_a_function_is_found_first)
{
	struct driver d;
	struct image i = new_image(), j = new_image();
	struct err e = { 0 };
	driver_init(&d, CODE(absent), 2);
	d.config.disks[0].path = strdup(i.path);
	d.config.disks[1].path = strdup(j.path);
	free(d.config.disks[1].id);
	d.config.disks[1].id = strdup("_virtio-pci-_disk0");
	boot(&d);
	EQ(machine_remove_device(d.m, "_virtio-pci-_disk0", &e), 0);
	EQ(machine_presence(d.m, "_virtio-pci-_disk0"), DEVICE_LEAVING);
	EQ(machine_presence(d.m, "_disk0"), DEVICE_THERE);
	driver_done(&d);
	(void)close(i.fd);
	(void)close(j.fd);
}

TEST(a_guest_is_asked_again_by_who_insists)
{
	struct driver d;
	struct image i = new_image(), j = new_image();
	struct pci_device_info info;
	struct err e = { 0 };
	driver_init(&d, CODE(deaf), 0);
	boot(&d);
	struct disk_config c = disk_of(&i, "data"), other = disk_of(&j, "other");
	EQ(machine_add_device(d.m, "disks", &c, &info, &e), 0);
	EQ(machine_remove_device(d.m, "data", &e), 0);
	for (unsigned n = 0; !pci_hotplug_is_heard(&d.m->hotplug, 2) && n < 6000; n++)
		test_sleep_us(10000);
	EQ(machine_remove_device(d.m, "data", &e), -EBUSY);
	OK(!strstr(e.text, "asked again")); /* it is at it, perhaps */
	struct attached *a = machine_find_device(d.m, "data");
	a->asked_ns -= 6ull * 1000 * 1000 * 1000;
	EQ(machine_remove_device(d.m, "data", &e), -EBUSY);
	STR_HAS(e.text, "it has been asked again");
	EQ(d.m->wary_slots, 1 << 2);
	/* The second question may be answered when somebody else is in the slot: others are taken first. */
	uint8_t eject[4] = { 1 << 2 };
	OK(bus_write(&d.m->mmio, X86_PCI_HOTPLUG + PCI_HOTPLUG_EJECT, eject, 4));
	wait_removed(&d, 1);
	EQ(machine_add_device(d.m, "disks", &other, &info, &e), 0);
	STR_EQ(info.bdf, "0000:00:03.0");
	driver_done(&d);
	(void)close(i.fd);
	(void)close(j.fd);
}

TEST(a_paused_guest_answers_when_it_runs_again)
{
	struct driver d;
	struct image i = new_image();
	struct pci_device_info info;
	struct err e = { 0 };
	driver_init(&d, CODE(obedient), 0);
	boot(&d);
	machine_pause(d.m);
	struct disk_config c = disk_of(&i, "data");
	EQ(machine_add_device(d.m, "disks", &c, &info, &e), 0);
	EQ(machine_remove_device(d.m, "data", &e), 0);
	for (unsigned n = 0; n < 20; n++)
		(void)loop_run_once(d.loop, 10);
	EQ(d.n_removed, 0);
	OK(is_being_removed(&d, "data"));
	OK(!vcpus_pause(&d.m->vcpus)); /* still paused */
	machine_resume(d.m);
	wait_removed(&d, 1);
	driver_done(&d);
	(void)close(i.fd);
}

TEST(a_guest_that_ejects_everything_keeps_what_stays)
{
	struct driver d;
	struct image images[3] = { new_image(), new_image(), new_image() };
	struct pci_device_info info;
	struct err e = { 0 };
	driver_init(&d, CODE(hostile), 2);
	d.config.disks[0].path = strdup(images[0].path);
	d.config.disks[1].path = strdup(images[1].path);
	boot(&d);
	wait_removed(&d, 2);
	STR_EQ(d.removed[0], "_disk0 0000:00:01.0");
	STR_EQ(d.removed[1], "_disk1 0000:00:02.0");
	for (unsigned n = 3; n < 20; n++) {
		struct disk_config c = disk_of(&images[2], "data");
		EQ(machine_add_device(d.m, "disks", &c, &info, &e), 0);
		wait_removed(&d, n);
	}
	OK(is_in_tree(&d, "__rng"));
	EQ(d.m->n_devices, 1);
	EQ(d.m->x86.fixed_slots, 1 | 1 << 3); /* host bridge, entropy */
	/* What it ejects last of all is not lost when the machine ends before the main loop has had its turn. */
	struct disk_config c = disk_of(&images[2], "data");
	EQ(machine_add_device(d.m, "disks", &c, &info, &e), 0);
	for (unsigned n = 0; n < 6000; n++) {
		(void)pthread_mutex_lock(&d.m->hotplug.lock);
		uint32_t ejected = d.m->hotplug.ejected;
		(void)pthread_mutex_unlock(&d.m->hotplug.lock);
		if (ejected)
			break;
		test_sleep_us(10000);
	}
	driver_done(&d);
	EQ(d.n_removed, 20);
	EQ(d.n_asked_for, 0);
	for (unsigned n = 0; n < 3; n++)
		(void)close(images[n].fd);
}

/* A guest can reset a device all day. */
TEST(events_of_a_device_are_limited)
{
	struct driver d;
	struct events *ev;
	static char bytes[1 << 16];
	int fd = memfd_create("events", MFD_CLOEXEC);
	driver_init(&d, CODE(absent), 0);
	boot(&d);
	EQ(events_open_fd(dup(fd), &ev, NULL), 0);
	d.m->p.events = ev;
	struct virtio_device *v = machine_find_device(d.m, "__rng")->v;
	for (unsigned n = 0; n < 1000; n++)
		v->changed(v->context, v, n % 2 == 0);
	driver_done(&d);
	events_free(ev);
	unsigned n_events = 0;
	OK(pread(fd, bytes, sizeof bytes - 1, 0) > 0);
	for (const char *at = bytes; (at = strstr(at, "\"virtio-device\"")) != NULL; at++)
		n_events++;
	OK(n_events >= LOG_LIMIT_BURST && n_events <= 2 * LOG_LIMIT_BURST);
	(void)close(fd);
}

TEST(disks_get_the_slots_that_they_ask_for)
{
	struct driver d;
	struct image images[3] = { new_image(), new_image(), new_image() };
	driver_init(&d, CODE(absent), 3);
	for (unsigned n = 0; n < 3; n++)
		d.config.disks[n].path = strdup(images[n].path);
	d.config.disks[2].has_pci_device_id = true;
	d.config.disks[2].pci_device_id = 1;
	boot(&d);
	STR_EQ(d.m->pci.slots[1]->name, "_disk2");
	STR_EQ(d.m->pci.slots[2]->name, "_disk0");
	STR_EQ(d.m->pci.slots[3]->name, "_disk1");
	driver_done(&d);
	for (unsigned n = 0; n < 3; n++)
		(void)close(images[n].fd);
}

TEST(without_pci_or_acpi_there_is_no_hotplug)
{
	for (unsigned n = 0; n < 2; n++) {
		struct driver d;
		struct image i = new_image(), j = new_image();
		struct pci_device_info info;
		struct err e = { 0 };
		driver_init(&d, CODE(absent), 1);
		d.config.disks[0].path = strdup(i.path);
		if (n == 0)
			d.config.machine.transport = TRANSPORT_MMIO;
		else
			d.config.machine.acpi = false;
		boot(&d);
		struct disk_config c = disk_of(&j, "other");
		EQ(machine_add_device(d.m, "disks", &c, &info, &e), -ENOTSUP);
		STR_HAS(e.text, "hotplug needs PCI and ACPI");
		EQ(machine_remove_device(d.m, "_disk0", &e), -ENOTSUP);
		STR_HAS(e.text, "hotplug needs PCI and ACPI");
		EQ(machine_remove_device(d.m, "_disk7", &e), -ENOENT);
		OK(is_in_tree(&d, "_disk0"));
		uint8_t bytes[4];
		OK(!bus_read(&d.m->mmio, X86_PCI_HOTPLUG, bytes, 4));
		driver_done(&d);
		(void)close(i.fd);
		(void)close(j.fd);
	}
}
