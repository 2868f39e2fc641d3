/* SPDX-License-Identifier: Apache-2.0 */
/* The states of a VM and what may be asked in each, with guests of a few instructions. Texts are what clients match. */
#include "backend/terminal.h"
#include "base/checked.h"
#include "base/clock.h"
#include "base/text.h"
#include "hv_box.h"
#include "loop/loop.h"
#include "schema/schema.h"
#include "tiny_kernel.h"
#include "vm/events.h"
#include "vm/vmm.h"

#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define NO_VM "VM is not created\nVmNotCreated"
#define NOT_RUNNING "VM is not running\nVmNotRunning"

/* Kernels, entered in flat 32-bit mode by their PVH note. */
GUEST(idle, 32, "1: cli; hlt; jmp 1b");
GUEST(power_off, 32, "mov $0x600, %dx; mov $0x34, %al; out %al, %dx; 1: cli; hlt; jmp 1b");
GUEST(lost, 32, "mov $0xd0000000, %eax; jmp *%eax");
GUEST(reset, 32, "mov $0xfe, %al; out %al, $0x64; 1: cli; hlt; jmp 1b");

/* A word by the serial port, each way to end it, and then a word that nobody is to hear. */
#define SAY(c) "mov $0x3f8, %dx; mov $'" c "', %al; out %al, %dx;"
#define AND_GO_ON SAY("!") "1: cli; hlt; jmp 1b"
GUEST(power_off_and_go_on, 32, SAY("a") "mov $0x600, %dx; mov $0x34, %al; out %al, %dx;" AND_GO_ON);
GUEST(reset_and_go_on, 32, SAY("a") "mov $0xfe, %al; out %al, $0x64;" AND_GO_ON);
GUEST(cf9_and_go_on, 32, SAY("a") "mov $0xcf9, %dx; mov $6, %al; out %al, %dx;" AND_GO_ON);

struct bench {
	struct loop *loop;
	struct events *events;
	struct vmm *vmm;
	int events_fd, kernel_fd;
	struct timer timer;
	unsigned n_wanted; /* of the event "rebooted" */
	struct err e;
};

static void bench_init(struct bench *b, const uint8_t *code, const uint8_t *end)
{
	box_need_kvm();
	*b = (struct bench){ .events_fd = memfd_create("events", MFD_CLOEXEC), .kernel_fd = tiny_kernel_open(code, end) };
	OK(loop_new(&b->loop, &b->e) == 0);
	OK(events_open_fd(dup(b->events_fd), &b->events, &b->e) == 0);
	struct vmm_params p = { .loop = b->loop, .events = b->events };
	OK(vmm_new(&p, &b->vmm, &b->e) == 0);
}

static void bench_done(struct bench *b)
{
	timer_cancel(&b->timer);
	vmm_free(b->vmm);
	events_free(b->events);
	loop_free(b->loop);
	(void)close(b->kernel_fd);
	(void)close(b->events_fd);
}

static struct vm_config new_config(const struct bench *b)
{
	struct vm_config c;
	char path[64];
	OK(vm_config_init(&c, NULL) == 0);
	(void)snprintf(path, sizeof path, "/proc/self/fd/%d", b->kernel_fd);
	c.has_payload = true;
	c.payload.kernel = strdup(path);
	c.memory.size = 64u << 20;
	c.console.mode = CONSOLE_OFF;
	return c;
}

static void create(struct bench *b)
{
	struct vm_config c = new_config(b);
	OK(vmm_create(b->vmm, &c, &b->e) == 0);
	OK(!c.payload.kernel); /* taken over */
	vm_config_done(&c);
}

static json_t *info(struct bench *b)
{
	text_scoped t = TEXT_INIT;
	if (vmm_info(b->vmm, &t, &b->e) < 0)
		return NULL;
	json_t *o = json_loads(text_get(&t), 0, NULL);
	OK(json_is_object(o));
	return o;
}

static void expect_state(struct bench *b, const char *state)
{
	json_t *o = info(b);
	STR_EQ(json_string_value(json_object_get(o, "state")), state);
	/* There is a tree as long as there are devices. */
	bool has_machine = strcmp(state, "Running") == 0 || strcmp(state, "Paused") == 0;
	EQ(json_is_object(json_object_get(o, "device_tree")), has_machine);
	json_decref(o);
}

/* All of the stream as "source/event[:id] ..."; ends the emitting. */
static void expect_events(struct bench *b, const char *expected)
{
	events_free(b->events);
	b->events = NULL;
	static char bytes[1 << 20];
	text_scoped got = TEXT_INIT;
	ssize_t n = pread(b->events_fd, bytes, sizeof bytes - 1, 0);
	OK(n >= 0);
	bytes[n] = '\0';
	for (const char *at = bytes, *end; (end = strstr(at, "\n\n")) != NULL; at = end + 2) {
		json_t *o = json_loadb(at, (size_t)(end - at), 0, NULL);
		json_t *id = json_object_get(json_object_get(o, "properties"), "id");
		OK(o);
		text_appendf(&got, "%s%s/%s%s%s", got.n_bytes ? " " : "", json_string_value(json_object_get(o, "source")),
		             json_string_value(json_object_get(o, "event")), id ? ":" : "", id ? json_string_value(id) : "");
		json_decref(o);
	}
	STR_EQ(text_get(&got), expected);
}

/* The VMM and its VM go before the stream ends. */
static void finish(struct bench *b, const char *expected_events)
{
	vmm_free(b->vmm);
	b->vmm = NULL;
	expect_events(b, expected_events);
	bench_done(b);
}

#define REFUSED(b, call, code_, text_)                                            \
	do {                                                                      \
		(b)->e = (struct err){ 0 };                                       \
		EQ(call, -(code_));                                               \
		EQ((b)->e.code, code_);                                           \
		STR_EQ((b)->e.text, text_);                                       \
	} while (0)

/* --- states ------------------------------------------------------------------------------------------------------------- */

static int add_disk(struct bench *b, const struct disk_config *disk, struct pci_device_info *ret)
{
	const struct device_addition a = { .member = "disks", .option = "disk", .noun = "disk", .device = disk };
	return vmm_add_device(b->vmm, &a, ret, &b->e);
}

static void refuse_all_that_need_a_machine(struct bench *b)
{
	text_scoped t = TEXT_INIT;
	REFUSED(b, vmm_pause(b->vmm, &b->e), EBUSY, "The VM could not be paused\n" NOT_RUNNING);
	REFUSED(b, vmm_resume(b->vmm, &b->e), EBUSY, "The VM could not resume\n" NOT_RUNNING);
	REFUSED(b, vmm_shutdown(b->vmm, &b->e), EBUSY, "The VM could not shutdown\n" NOT_RUNNING);
	REFUSED(b, vmm_power_button(b->vmm, &b->e), EBUSY, "Error triggering power button\n" NOT_RUNNING);
	REFUSED(b, vmm_nmi(b->vmm, &b->e), EBUSY, "Error triggering NMI\n" NOT_RUNNING);
	REFUSED(b, vmm_counters(b->vmm, &t, &b->e), EBUSY, "The VM info is not available\n" NOT_RUNNING);
	REFUSED(b, vmm_reboot(b->vmm, &b->e), ENOENT, "The VM could not reboot\n" NO_VM);
}

TEST(without_a_vm_nothing_works_but_delete)
{
	struct bench b;
	struct disk_config disk;
	struct pci_device_info device;
	text_scoped t = TEXT_INIT;
	bench_init(&b, idle, idle_end);
	OK(schema_init(&disk_schema, &disk, NULL) == 0);

	refuse_all_that_need_a_machine(&b);
	REFUSED(&b, vmm_boot(b.vmm, &b.e), ENOENT, "The VM could not boot\nVM config is missing\nVmMissingConfig");
	REFUSED(&b, vmm_info(b.vmm, &t, &b.e), ENOENT, "The VM info is not available\n" NO_VM);
	REFUSED(&b, add_disk(&b, &disk, &device), ENOENT, "The disk could not be added to the VM\n" NO_VM);
	REFUSED(&b, vmm_remove_device(b.vmm, "a", &b.e), ENOENT, "The device could not be removed from the VM\n" NO_VM);
	EQ(vmm_delete(b.vmm, &b.e), 0);
	OK(!vmm_vm(b.vmm));
	schema_done(&disk_schema, &disk);
	finish(&b, "vm/rebooting vm/booting vmm/shutdown");
}

TEST(a_created_vm_waits_for_its_boot)
{
	struct bench b;
	bench_init(&b, idle, idle_end);
	create(&b);
	expect_state(&b, "Created");
	refuse_all_that_need_a_machine(&b);

	struct vm_config second = new_config(&b);
	REFUSED(&b, vmm_create(b.vmm, &second, &b.e), EBUSY,
	        "The VM could not be created\nVM is already created\nVmAlreadyCreated");
	OK(second.payload.kernel); /* still the caller's */
	EQ(vmm_delete(b.vmm, &b.e), 0);
	EQ(vmm_create(b.vmm, &second, &b.e), 0);
	vm_config_done(&second);
	expect_state(&b, "Created");
	finish(&b, "vm/rebooting vm/deleted vm/deleted vmm/shutdown");
}

TEST(a_configuration_that_breaks_a_rule_is_not_taken)
{
	struct bench b;
	bench_init(&b, idle, idle_end);
	struct vm_config c = new_config(&b);
	c.cpus.boot_vcpus = 2;
	c.cpus.max_vcpus = 1;
	EQ(vmm_create(b.vmm, &c, &b.e), -EINVAL);
	STR_HAS(b.e.text, "The VM could not be created\nFailed to validate config\n");
	OK(!vmm_vm(b.vmm));
	c.cpus.max_vcpus = 2;
	EQ(vmm_create(b.vmm, &c, &b.e), 0);
	vm_config_done(&c);
	bench_done(&b);
}

TEST(a_console_that_cannot_be_opened_fails_the_creation)
{
	struct bench b;
	bench_init(&b, idle, idle_end);
	struct vm_config c = new_config(&b);
	c.cpus.boot_vcpus = c.cpus.max_vcpus = 2; /* the second waits for its start, and is to end with the first */
	c.serial.mode = CONSOLE_FILE;
	c.serial.file = strdup("/no/folder/file");
	REFUSED(&b, vmm_create(b.vmm, &c, &b.e), EIO,
	        "The VM could not be created\n--serial: cannot open '/no/folder/file' for output: No such file or directory");
	OK(!vmm_vm(b.vmm) && c.serial.file);
	vm_config_done(&c);
	bench_done(&b);
}

TEST(a_vm_runs_pauses_and_stops)
{
	struct bench b;
	bench_init(&b, idle, idle_end);
	create(&b);
	EQ(vmm_boot(b.vmm, &b.e), 0);
	expect_state(&b, "Running");
	REFUSED(&b, vmm_boot(b.vmm, &b.e), EBUSY, "The VM could not boot\ninvalid VM state transition: Running to Running");
	REFUSED(&b, vmm_resume(b.vmm, &b.e), EBUSY,
	        "The VM could not resume\nCannot resume VM\nFailed to resume migratable component\n"
	        "Invalid transition: InvalidStateTransition(Running, Running)");
	EQ(vmm_nmi(b.vmm, &b.e), 0);
	EQ(vmm_power_button(b.vmm, &b.e), 0);

	EQ(vmm_pause(b.vmm, &b.e), 0);
	expect_state(&b, "Paused");
	REFUSED(&b, vmm_pause(b.vmm, &b.e), EBUSY,
	        "The VM could not be paused\nCannot pause VM\nFailed to pause migratable component\n"
	        "Invalid transition: InvalidStateTransition(Paused, Paused)");
	EQ(vmm_nmi(b.vmm, &b.e), 0);
	expect_state(&b, "Paused");
	EQ(vmm_power_button(b.vmm, &b.e), 0);
	EQ(vmm_resume(b.vmm, &b.e), 0);
	expect_state(&b, "Running");

	EQ(vmm_shutdown(b.vmm, &b.e), 0);
	expect_state(&b, "Created");
	refuse_all_that_need_a_machine(&b);
	finish(&b, "vm/booting vm/booted vm/booting vm/pausing vm/paused vm/resuming vm/resumed vm/shutdown vm/rebooting "
	           "vm/deleted vmm/shutdown");
}

TEST(a_vm_boots_again_and_again)
{
	struct bench b;
	bench_init(&b, idle, idle_end);
	create(&b);
	for (int i = 0; i < 3; i++) {
		EQ(vmm_boot(b.vmm, &b.e), 0);
		EQ(vmm_shutdown(b.vmm, &b.e), 0);
	}
	EQ(vmm_boot(b.vmm, &b.e), 0);
	EQ(vmm_pause(b.vmm, &b.e), 0);
	EQ(vmm_reboot(b.vmm, &b.e), 0);
	expect_state(&b, "Running");
	EQ(vmm_pause(b.vmm, &b.e), 0);
	EQ(vmm_boot(b.vmm, &b.e), 0); /* as vm.resume */
	expect_state(&b, "Running");
	EQ(vmm_delete(b.vmm, &b.e), 0);
	EQ(vmm_delete(b.vmm, &b.e), 0);
	OK(!info(&b));
	finish(&b, "vm/booting vm/booted vm/shutdown vm/booting vm/booted vm/shutdown vm/booting vm/booted vm/shutdown "
	           "vm/booting vm/booted vm/pausing vm/paused vm/rebooting vm/rebooted vm/pausing vm/paused "
	           "vm/booting vm/resuming vm/resumed vm/booted vm/shutdown vm/deleted vmm/shutdown");
}

TEST(a_boot_that_fails_may_be_tried_again)
{
	struct bench b;
	bench_init(&b, idle, idle_end);
	create(&b);
	uint8_t first;
	OK(pread(b.kernel_fd, &first, 1, 0) == 1 && pwrite(b.kernel_fd, "x", 1, 0) == 1);
	EQ(vmm_boot(b.vmm, &b.e), -EIO); /* neither the client's mistake nor a thing that is not there */
	STR_HAS(b.e.text, "The VM could not boot\nkernel '/proc/self/fd/");
	expect_state(&b, "Created");
	refuse_all_that_need_a_machine(&b);
	OK(pwrite(b.kernel_fd, &first, 1, 0) == 1);
	EQ(vmm_boot(b.vmm, &b.e), 0);
	finish(&b, "vm/booting vm/rebooting vm/booting vm/booted vm/shutdown vm/deleted vmm/shutdown");
}

TEST(a_reboot_that_fails_is_told)
{
	struct bench b;
	bench_init(&b, idle, idle_end);
	create(&b);
	EQ(vmm_boot(b.vmm, &b.e), 0);
	OK(pwrite(b.kernel_fd, "x", 1, 0) == 1);
	EQ(vmm_reboot(b.vmm, &b.e), -EIO);
	STR_HAS(b.e.text, "The VM could not reboot\nkernel '/proc/self/fd/");
	expect_state(&b, "Created");
	finish(&b, "vm/booting vm/booted vm/rebooting vm/shutdown vm/deleted vmm/shutdown");
}

static void break_kernel(struct timer *t)
{
	struct bench *b = container_of(t, struct bench, timer);
	if (vm_state(vmm_vm(b->vmm)) == VM_RUNNING) {
		timer_set(b->loop, t, clock_now_ns() + NS_PER_MS, break_kernel);
		return;
	}
	expect_state(b, "Shutdown");
	vmm_stop(b->vmm);
}

TEST(a_reset_that_fails_is_told_once)
{
	struct bench b;
	bench_init(&b, reset, reset_end);
	create(&b);
	EQ(vmm_boot(b.vmm, &b.e), 0);
	OK(pwrite(b.kernel_fd, "x", 1, 0) == 1);
	timer_set(b.loop, &b.timer, 0, break_kernel);
	EQ(vmm_run(b.vmm, false, &b.e), 0);
	finish(&b, "vm/booting vm/booted vm/rebooting vm/shutdown vm/deleted vmm/shutdown");
}

/* --- what guests do -------------------------------------------------------------------------------------------------------- */

TEST(a_power_off_ends_the_run)
{
	struct bench b;
	bench_init(&b, power_off, power_off_end);
	create(&b);
	EQ(vmm_boot(b.vmm, &b.e), 0);
	EQ(vmm_run(b.vmm, true, &b.e), 0);
	OK(!vmm_vm(b.vmm) && !vmm_report(b.vmm));
	finish(&b, "vm/booting vm/booted vm/shutdown vm/deleted vmm/shutdown");
}

TEST(a_vcpu_that_cannot_go_on_ends_the_run_with_a_report)
{
	struct bench b;
	bench_init(&b, lost, lost_end);
	create(&b);
	EQ(vmm_boot(b.vmm, &b.e), 0);
	EQ(vmm_run(b.vmm, true, &b.e), -EIO);
	STR_EQ(b.e.text, "the machine cannot go on");
	STR_HAS(vmm_report(b.vmm), "vcpu0 cannot go on");
	STR_HAS(vmm_report(b.vmm), "rip 00000000d0000000");
	finish(&b, "vm/booting vm/booted vm/shutdown vm/deleted vmm/shutdown");
}

static void stop_after_power_off(struct timer *t)
{
	struct bench *b = container_of(t, struct bench, timer);
	if (vm_state(vmm_vm(b->vmm)) == VM_RUNNING) {
		timer_set(b->loop, t, clock_now_ns() + NS_PER_MS, stop_after_power_off);
		return;
	}
	expect_state(b, "Shutdown");
	refuse_all_that_need_a_machine(b);
	if (b->n_wanted-- == 0) {
		vmm_stop(b->vmm);
		return;
	}
	EQ(vmm_boot(b->vmm, &b->e), 0);
	timer_set(b->loop, t, clock_now_ns() + NS_PER_MS, stop_after_power_off);
}

TEST(a_power_off_leaves_the_vm_when_that_is_asked_for)
{
	struct bench b;
	bench_init(&b, power_off, power_off_end);
	create(&b);
	EQ(vmm_boot(b.vmm, &b.e), 0);
	b.n_wanted = 1;
	timer_set(b.loop, &b.timer, 0, stop_after_power_off);
	EQ(vmm_run(b.vmm, false, &b.e), 0);
	finish(&b, "vm/booting vm/booted vm/shutdown vm/rebooting vm/booting vm/booted vm/shutdown vm/rebooting vm/deleted "
	           "vmm/shutdown");
}

static void stop_after_reboots(struct timer *t)
{
	struct bench *b = container_of(t, struct bench, timer);
	char bytes[4096] = "";
	unsigned n = 0;
	OK(pread(b->events_fd, bytes, sizeof bytes - 1, 0) >= 0);
	for (const char *at = bytes; (at = strstr(at, "\"rebooted\"")) != NULL; at++)
		n++;
	if (n >= b->n_wanted)
		vmm_stop(b->vmm);
	else
		timer_set(b->loop, t, clock_now_ns() + NS_PER_MS, stop_after_reboots);
}

TEST(a_reset_boots_again_until_the_vmm_is_stopped)
{
	struct bench b;
	bench_init(&b, reset, reset_end);
	create(&b);
	EQ(vmm_boot(b.vmm, &b.e), 0);
	b.n_wanted = 2;
	timer_set(b.loop, &b.timer, 0, stop_after_reboots);
	EQ(vmm_run(b.vmm, true, &b.e), 0);
	bench_done(&b);
}

/* A processor that is being reset does not execute the next instruction, however long we take to reset it. Linux would
 * try another way, and a triple fault in the end. */
static void expect_last_instruction(const uint8_t *code, const uint8_t *end)
{
	struct bench b;
	char path[] = "/tmp/varan-vmm-serial-XXXXXX", bytes[2];
	int fd = mkstemp(path);
	OK(fd >= 0);
	bench_init(&b, code, end);
	struct vm_config c = new_config(&b);
	c.cpus.boot_vcpus = c.cpus.max_vcpus = 2; /* the second waits for its start, and is to end with the first */
	c.serial.mode = CONSOLE_FILE;
	c.serial.file = strdup(path);
	OK(vmm_create(b.vmm, &c, &b.e) == 0);
	vm_config_done(&c);
	EQ(vmm_boot(b.vmm, &b.e), 0);
	for (unsigned n = 0; n < 5000 && pread(fd, bytes, 1, 0) == 0; n++)
		test_sleep_us(1000);
	test_sleep_us(200000); /* the request waits for the loop, which nobody runs */
	EQ(vmm_delete(b.vmm, &b.e), 0);
	EQ(pread(fd, bytes, sizeof bytes, 0), 1);
	EQ(bytes[0], 'a');
	(void)close(fd);
	(void)unlink(path);
	bench_done(&b);
}

TEST(what_ends_the_machine_is_the_last_instruction)
{
	expect_last_instruction(power_off_and_go_on, power_off_and_go_on_end);
	expect_last_instruction(reset_and_go_on, reset_and_go_on_end);
	expect_last_instruction(cf9_and_go_on, cf9_and_go_on_end);
}

static void resume_later(struct timer *t)
{
	struct bench *b = container_of(t, struct bench, timer);
	expect_state(b, "Paused");
	EQ(vmm_resume(b->vmm, &b->e), 0);
}

/* What the guest asked for before it was paused is not done to a paused VM, and not forgotten. */
TEST(a_pause_holds_a_power_off_back)
{
	struct bench b;
	bench_init(&b, power_off, power_off_end);
	create(&b);
	EQ(vmm_boot(b.vmm, &b.e), 0);
	test_sleep_us(300000); /* the guest is done; its message waits for the loop */
	EQ(vmm_pause(b.vmm, &b.e), 0);
	timer_set(b.loop, &b.timer, 0, resume_later);
	EQ(vmm_run(b.vmm, true, &b.e), 0);
	finish(&b, "vm/booting vm/booted vm/pausing vm/paused vm/resuming vm/resumed vm/shutdown vm/deleted vmm/shutdown");
}

/* --- devices and answers ----------------------------------------------------------------------------------------------- */

static struct disk_config new_disk(const char *id, const char *path)
{
	struct disk_config d;
	OK(schema_init(&disk_schema, &d, NULL) == 0);
	d.id = id ? strdup(id) : NULL;
	d.path = strdup(path);
	d.image_type = IMAGE_RAW;
	return d;
}

static int add(struct bench *b, const char *id, const char *path, struct pci_device_info *ret)
{
	struct disk_config d = new_disk(id, path);
	int rc = add_disk(b, &d, ret);
	schema_done(&disk_schema, &d);
	return rc;
}

static char *new_image(void)
{
	static char path[] = "/tmp/varan-vmm-disk-XXXXXX";
	memcpy(path + sizeof path - 7, "XXXXXX", 6);
	int fd = mkstemp(path);
	OK(fd >= 0 && ftruncate(fd, 1 << 20) == 0);
	(void)close(fd);
	return path;
}

static size_t count_disks(struct bench *b)
{
	json_t *o = info(b);
	size_t n = json_array_size(json_object_get(json_object_get(o, "config"), "disks"));
	json_decref(o);
	return n;
}

TEST(before_boot_disks_come_and_go_in_the_configuration)
{
	struct bench b;
	struct pci_device_info device;
	bench_init(&b, idle, idle_end);
	create(&b);
	EQ(add(&b, "a", "/no/disk/a", &device), 0);
	STR_EQ(device.id, ""); /* nothing that a guest has */
	STR_EQ(device.bdf, "");
	EQ(add(&b, NULL, "/no/disk/b", &device), 0);
	EQ(count_disks(&b), 2);
	EQ(add(&b, "a", "/no/disk/c", &device), -EEXIST);
	STR_EQ(b.e.text, "The disk could not be added to the VM\nFailed to validate config\nIdentifier a is not unique");
	EQ(count_disks(&b), 2);

	REFUSED(&b, vmm_remove_device(b.vmm, "b", &b.e), ENOENT,
	        "The device could not be removed from the VM\nNo device with id \"b\" to remove");
	EQ(vmm_remove_device(b.vmm, "a", &b.e), 0);
	EQ(count_disks(&b), 1);
	EQ(vmm_remove_device(b.vmm, "a", &b.e), -ENOENT);
	bench_done(&b);
}

TEST(a_running_vm_takes_disks_and_names_them)
{
	struct bench b;
	struct pci_device_info device;
	char *path = new_image();
	bench_init(&b, idle, idle_end);
	create(&b);
	EQ(vmm_boot(b.vmm, &b.e), 0);
	EQ(add(&b, NULL, path, &device), 0);
	STR_EQ(device.id, "_disk0");
	STR_HAS(device.bdf, "0000:00:");
	EQ(count_disks(&b), 1);
	EQ(add(&b, "_disk0", path, &device), -EEXIST);
	EQ(add(&b, "other", "/no/disk", &device), -EIO);
	STR_HAS(b.e.text, "The disk could not be added to the VM\nError from device manager\n");
	EQ(count_disks(&b), 1);

	text_scoped counters = TEXT_INIT;
	EQ(vmm_counters(b.vmm, &counters, &b.e), 0);
	json_t *o = json_loads(text_get(&counters), 0, NULL), *disk = json_object_get(o, "_disk0");
	EQ(json_object_size(disk), 10);
	EQ(json_integer_value(json_object_get(disk, "read_bytes")), 0);
	OK(json_is_integer(json_object_get(disk, "write_latency_avg")));
	json_decref(o);

	/* This guest never lets go; the machine's end does. */
	EQ(vmm_remove_device(b.vmm, "_disk0", &b.e), 0);
	OK(vmm_remove_device(b.vmm, "_disk0", &b.e) < 0);
	STR_HAS(b.e.text, "The device could not be removed from the VM\nError from device manager\n");
	EQ(vmm_remove_device(b.vmm, "other", &b.e), -ENOENT);
	EQ(count_disks(&b), 1);
	EQ(vmm_reboot(b.vmm, &b.e), 0);
	EQ(count_disks(&b), 0);
	EQ(add(&b, NULL, path, &device), 0);
	STR_EQ(device.id, "_disk1"); /* names are not used again */
	EQ(vmm_reboot(b.vmm, &b.e), 0);
	EQ(count_disks(&b), 1);
	finish(&b, "vm/booting vm/booted vm/rebooting vm/device-removed:_disk0 vm/rebooted vm/rebooting vm/rebooted vm/shutdown "
	           "vm/deleted vmm/shutdown");
	OK(unlink(path) == 0);
}

static int add_to_group(struct bench *b, const char *id, const char *path, const char *group)
{
	struct pci_device_info device;
	struct disk_config d = new_disk(id, path);
	d.rate_limit_group = strdup(group);
	int rc = add_disk(b, &d, &device);
	schema_done(&disk_schema, &d);
	return rc;
}

TEST(disks_join_and_leave_a_rate_limit_group)
{
	struct bench b;
	char *path = new_image();
	bench_init(&b, idle, idle_end);
	struct vm_config c = new_config(&b);
	void *added;
	EQ(schema_append(&rate_limit_group_schema, &c.rate_limit_groups, &c.n_rate_limit_groups, &added, &b.e), 0);
	struct rate_limit_group_config *group = added;
	free(group->id);
	group->id = strdup("group");
	group->rate_limiter_config = (struct rate_limiter_config){ .has_ops = true, .ops = { .size = 1, .refill_time = 1 } };
	EQ(vmm_create(b.vmm, &c, &b.e), 0);
	vm_config_done(&c);
	EQ(vmm_boot(b.vmm, &b.e), 0); /* a group without a disk is one */
	EQ(add_to_group(&b, "a", path, "other"), -EINVAL);
	STR_HAS(b.e.text, "Invalid rate-limiter group");
	EQ(count_disks(&b), 0);
	EQ(add_to_group(&b, "a", path, "group"), 0);
	EQ(vmm_remove_device(b.vmm, "a", &b.e), 0);
	EQ(vmm_reboot(b.vmm, &b.e), 0);
	EQ(add_to_group(&b, "b", path, "group"), 0);
	EQ(vmm_reboot(b.vmm, &b.e), 0);
	EQ(count_disks(&b), 1);
	bench_done(&b);
	OK(unlink(path) == 0);
}

static int add_behind_iommu(struct bench *b, const char *path)
{
	struct pci_device_info device;
	struct disk_config d = new_disk("behind", path);
	d.iommu = true;
	int rc = add_disk(b, &d, &device);
	schema_done(&disk_schema, &d);
	return rc;
}

/* There is none yet. What asked for it can be taken away again, and then all is as before. */
TEST(a_disk_behind_an_iommu_leaves_nothing_behind)
{
	struct bench b;
	char *path = new_image();
	bench_init(&b, idle, idle_end);
	create(&b);
	EQ(add_behind_iommu(&b, path), 0); /* a part of the configuration, as others that no machine can have yet */
	REFUSED(&b, vmm_boot(b.vmm, &b.e), ENOTSUP, "The VM could not boot\nnot supported yet: iommu=on");
	EQ(vmm_remove_device(b.vmm, "behind", &b.e), 0);
	EQ(vmm_boot(b.vmm, &b.e), 0);

	REFUSED(&b, add_behind_iommu(&b, path), ENOTSUP,
	        "The disk could not be added to the VM\nError from device manager\nnot supported yet: --disk iommu");
	EQ(count_disks(&b), 0);
	EQ(vmm_reboot(b.vmm, &b.e), 0);
	bench_done(&b);
	OK(unlink(path) == 0);
}

static int add_net(struct bench *b, const char *id, int *fds, size_t n_fds, struct pci_device_info *ret)
{
	struct net_config net;
	EQ(schema_init(&net_schema, &net, NULL), 0);
	net.id = strdup(id);
	net.fds = calloc(n_fds, sizeof *net.fds);
	for (; net.n_fds < n_fds; net.n_fds++)
		net.fds[net.n_fds] = fds[net.n_fds];
	const struct device_addition a = { .member = "net", .option = "net", .noun = "network device", .device = &net, .fds = fds,
		                           .n_fds = n_fds };
	int rc = vmm_add_device(b->vmm, &a, ret, &b->e);
	schema_done(&net_schema, &net);
	return rc;
}

static bool is_open(int fd)
{
	return fcntl(fd, F_GETFD) >= 0;
}

/* As Kata and libvirt give networks to a VM before it boots; its boot then says what is missing. */
TEST(descriptors_of_a_device_belong_to_the_configuration)
{
	struct bench b;
	struct pci_device_info device = { .bdf = "x" };
	bench_init(&b, idle, idle_end);
	create(&b);
	int first = open("/dev/null", O_RDONLY | O_CLOEXEC), second = open("/dev/null", O_RDONLY | O_CLOEXEC);
	int fds[2] = { first, second };
	REFUSED(&b, add_net(&b, "net", fds, 2, &device), EINVAL,
	        "The network device could not be added to the VM\nFailed to validate config\n"
	        "Number of queues to virtio_net does not match the number of input FDs");
	OK(fds[0] == first && fds[1] == second);
	EQ(add_net(&b, "net", fds, 1, &device), 0);
	STR_EQ(device.bdf, "");
	OK(fds[0] == -1 && is_open(first));
	EQ(add_net(&b, "other", &fds[1], 1, &device), 0);
	REFUSED(&b, vmm_boot(b.vmm, &b.e), ENOTSUP, "The VM could not boot\nnot supported yet: --net");
	EQ(vmm_remove_device(b.vmm, "net", &b.e), 0);
	OK(!is_open(first) && is_open(second));
	EQ(vmm_delete(b.vmm, &b.e), 0);
	OK(!is_open(second));
	bench_done(&b);
}

TEST(what_has_no_device_yet_does_not_join_a_running_guest)
{
	struct bench b;
	struct pci_device_info device;
	bench_init(&b, idle, idle_end);
	create(&b);
	EQ(vmm_boot(b.vmm, &b.e), 0);
	int fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
	REFUSED(&b, add_net(&b, "net", &fd, 1, &device), ENOTSUP,
	        "The network device could not be added to the VM\nnot supported yet: --net");
	OK(is_open(fd));
	EQ(vmm_reboot(b.vmm, &b.e), 0); /* it is not in the configuration */
	OK(close(fd) == 0);
	bench_done(&b);
}

static int add_pmem(struct bench *b, const char *id, const char *file, struct pci_device_info *ret)
{
	struct pmem_config pmem;
	EQ(schema_init(&pmem_schema, &pmem, NULL), 0);
	pmem.id = id ? strdup(id) : NULL;
	pmem.file = strdup(file);
	const struct device_addition a = { .member = "pmem", .option = "pmem", .noun = "pmem device", .device = &pmem };
	int rc = vmm_add_device(b->vmm, &a, ret, &b->e);
	schema_done(&pmem_schema, &pmem);
	return rc;
}

TEST(persistent_memory_joins_a_running_guest)
{
	struct bench b;
	struct pci_device_info device;
	char *path = strdup(new_image()), *other = new_image();
	OK(truncate(path, 2 << 20) == 0 && truncate(other, 4 << 20) == 0);
	bench_init(&b, idle, idle_end);
	create(&b);
	EQ(add_pmem(&b, "cold", path, &device), 0);
	EQ(vmm_boot(b.vmm, &b.e), 0);
	REFUSED(&b, add_pmem(&b, "cold", other, &device), EEXIST,
	        "The pmem device could not be added to the VM\nFailed to validate config\nIdentifier cold is not unique");
	REFUSED(&b, add_pmem(&b, NULL, "/no/such/file", &device), EIO,
	        "The pmem device could not be added to the VM\nError from device manager\n"
	        "cannot open '/no/such/file': No such file or directory");
	EQ(add_pmem(&b, NULL, other, &device), 0);
	STR_HAS(device.id, "_pmem");
	OK(device.bdf[0]);
	EQ(vmm_reboot(b.vmm, &b.e), 0); /* with both */
	EQ(vmm_remove_device(b.vmm, device.id, &b.e), 0);
	REFUSED(&b, add_pmem(&b, "again", other, &device), EEXIST,
	        "The pmem device could not be added to the VM\nError from device manager\n"
	        "device '_pmem1' is being removed: its file is free once the guest has let go of it");
	EQ(vmm_reboot(b.vmm, &b.e), 0); /* which takes it out */
	EQ(add_pmem(&b, "again", other, &device), 0);
	bench_done(&b);
	OK(unlink(path) == 0 && unlink(other) == 0);
	free(path);
}

TEST(an_iommu_that_the_user_wants_stays)
{
	struct bench b;
	bench_init(&b, idle, idle_end);
	struct vm_config c = new_config(&b);
	c.iommu = true;
	EQ(vmm_create(b.vmm, &c, &b.e), 0);
	EQ(add_behind_iommu(&b, "/no/disk"), 0);
	EQ(vmm_remove_device(b.vmm, "behind", &b.e), 0);
	REFUSED(&b, vmm_boot(b.vmm, &b.e), ENOTSUP, "The VM could not boot\nnot supported yet: iommu=on");
	bench_done(&b);
}

TEST(what_goes_is_not_free_before_it_has_gone)
{
	struct bench b;
	struct pci_device_info device;
	char *path = new_image();
	bench_init(&b, idle, idle_end);
	create(&b);
	EQ(vmm_boot(b.vmm, &b.e), 0);
	EQ(add(&b, "data", path, &device), 0);
	EQ(vmm_remove_device(b.vmm, "data", &b.e), 0);
#define GOING "The disk could not be added to the VM\nError from device manager\ndevice 'data' is being removed: "
	REFUSED(&b, add(&b, "data", "/no/disk", &device), EEXIST, GOING "its id is free once the guest has let go of it");
	REFUSED(&b, add(&b, "other", path, &device), EEXIST, GOING "its file is free once the guest has let go of it");
#undef GOING
	bench_done(&b);
	OK(unlink(path) == 0);
}

/* It puts away what nobody wanted back: that is for now. */
GUEST(ejects, 32, "1: movl $0xffffffff, 0xfec11008; pause; jmp 1b");

static void wait_event(struct bench *b, const char *word, unsigned n_wanted)
{
	for (unsigned tries = 0; tries < 6000; tries++) {
		char bytes[8192] = "";
		unsigned n = 0;
		OK(pread(b->events_fd, bytes, sizeof bytes - 1, 0) >= 0);
		for (const char *at = bytes; (at = strstr(at, word)) != NULL; at++)
			n++;
		if (n >= n_wanted)
			return;
		OK(loop_run_once(b->loop, 10) >= 0);
	}
	test_fail(__FILE__, __LINE__, "no %u times %s", n_wanted, word);
}

TEST(what_a_guest_ejects_unasked_is_back_at_the_next_boot)
{
	struct bench b;
	struct pci_device_info device;
	char *path = new_image();
	bench_init(&b, ejects, ejects_end);
	create(&b);
	EQ(add(&b, "data", path, &device), 0);
	EQ(vmm_boot(b.vmm, &b.e), 0);
	wait_event(&b, "device-removed", 1);
	EQ(count_disks(&b), 1);
#define AWAY "The disk could not be added to the VM\nError from device manager\ndevice 'data' was ejected by the guest and is " \
	     "back at the next boot: its "
	REFUSED(&b, add(&b, "data", "/no/disk", &device), EEXIST, AWAY "id is free once it is removed");
	REFUSED(&b, add(&b, "other", path, &device), EEXIST, AWAY "file is free once it is removed");
#undef AWAY
	EQ(vmm_reboot(b.vmm, &b.e), 0);
	wait_event(&b, "device-removed", 2);
	EQ(count_disks(&b), 1);
	EQ(vmm_remove_device(b.vmm, "data", &b.e), 0); /* at once: the guest has nothing to say any more */
	EQ(count_disks(&b), 0);
	EQ(vmm_remove_device(b.vmm, "data", &b.e), -ENOENT);
	EQ(add(&b, "data", path, &device), 0);
	bench_done(&b);
	OK(unlink(path) == 0);
}

TEST(info_is_the_configuration_and_more)
{
	struct bench b;
	bench_init(&b, idle, idle_end);
	struct vm_config c = new_config(&b);
	c.serial.mode = CONSOLE_PTY;
	EQ(vmm_create(b.vmm, &c, &b.e), 0);
	for (int i = 0; i < 2; i++) {
		json_t *o = info(&b), *config = json_object_get(o, "config"), *serial = json_object_get(config, "serial");
		EQ(json_integer_value(json_object_get(o, "memory_actual_size")), 64 << 20);
		EQ(json_integer_value(json_object_get(json_object_get(config, "memory"), "size")), 64 << 20);
		STR_EQ(json_string_value(json_object_get(serial, "mode")), "Pty");
		STR_EQ(json_string_value(json_object_get(serial, "file")), vm_serial_path(vmm_vm(b.vmm)));
		OK(access(json_string_value(json_object_get(serial, "file")), F_OK) == 0);
		OK(!json_object_get(json_object_get(config, "console"), "file"));
		json_decref(o);
		EQ(i == 0 ? vmm_boot(b.vmm, &b.e) : 0, 0);
	}
	/* What info says can be created again. */
	text_scoped t = TEXT_INIT;
	EQ(vmm_info(b.vmm, &t, &b.e), 0);
	json_t *o = json_loads(text_get(&t), 0, NULL);
	char *config = json_dumps(json_object_get(o, "config"), JSON_COMPACT);
	EQ(schema_parse_json(&vm_config_schema, config, strlen(config), 0, &c, &b.e), 0);
	vm_config_done(&c);
	free(config);
	json_decref(o);
	bench_done(&b);
}
