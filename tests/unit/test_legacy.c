/* SPDX-License-Identifier: Apache-2.0 */
/* The small register devices: power, keyboard controller, PM timer, debug ports, event device. */
#include "backend/char.h"
#include "base/clock.h"
#include "bus/irq.h"
#include "device/debug_port.h"
#include "device/devices.h"
#include "device/ged.h"
#include "device/pm_timer.h"
#include "device/power.h"
#include "base/log.h"
#include "test.h"

#include <fcntl.h>
#include <sys/eventfd.h>
#include <sys/stat.h>
#include <unistd.h>

struct requests {
	int n_off, n_reset;
};

static void on_request(void *context, enum power_request what)
{
	struct requests *r = context;
	if (what == POWER_OFF)
		r->n_off++;
	else
		r->n_reset++;
}

static uint8_t rd(const struct bus_ops *ops, void *device, unsigned offset)
{
	uint8_t v = 0;
	ops->read(device, offset, &v, 1);
	return v;
}

static void wr(const struct bus_ops *ops, void *device, unsigned offset, unsigned value)
{
	uint8_t v = (uint8_t)value;
	ops->write(device, offset, &v, 1);
}

TEST(sleep_control_turns_off_for_s5_only)
{
	struct requests n = { 0 };
	struct power p;
	power_init(&p, on_request, &n);
	EQ(rd(&power_bus_ops, &p, 0), 0);
	for (unsigned v = 0; v < 256; v++) {
		n = (struct requests){ 0 };
		wr(&power_bus_ops, &p, 0, v);
		EQ(n.n_off, (v & 0x3c) == 0x34);
		EQ(n.n_reset, v == 1);
	}
}

TEST(the_keyboard_controller_is_absent_but_resets)
{
	struct requests n = { 0 };
	struct power p;
	power_init(&p, on_request, &n);
	/* Output always full: a driver that drains it gives up; input never full: one that wants to write need not wait. */
	for (int i = 0; i < 20; i++) {
		EQ(rd(&power_keyboard_ops, &p, 4) & 0x03, 0x01);
		(void)rd(&power_keyboard_ops, &p, 0);
	}
	for (unsigned v = 0; v < 256; v++) {
		n.n_reset = 0;
		wr(&power_keyboard_ops, &p, 4, v);
		EQ(n.n_reset, v >= 0xf0 && !(v & 1));
	}
	n.n_reset = 0;
	wr(&power_keyboard_ops, &p, 0, 0x00); /* data without a command */
	EQ(n.n_reset, 0);
	wr(&power_keyboard_ops, &p, 4, 0xd1);
	wr(&power_keyboard_ops, &p, 0, 0xdf); /* A20 on, no reset */
	EQ(n.n_reset, 0);
	wr(&power_keyboard_ops, &p, 4, 0xd1);
	wr(&power_keyboard_ops, &p, 0, 0xfe);
	EQ(n.n_reset, 1);
	EQ(n.n_off, 0);
}

TEST(port_61_has_no_nmi_reason_and_timer_2_has_run_out)
{
	struct requests n = { 0 };
	struct power p;
	power_init(&p, on_request, &n);
	uint8_t first = rd(&power_keyboard_ops, &p, 1), second = rd(&power_keyboard_ops, &p, 1);
	EQ(first & 0xe0, 0x20);
	EQ((first ^ second) & 0x10, 0x10); /* refresh toggles */
	wr(&power_keyboard_ops, &p, 1, 0xff);
	EQ(rd(&power_keyboard_ops, &p, 1) & 0xef, 0x23);
	EQ(n.n_reset, 0);
}

TEST(reset_control_resets_on_its_bit)
{
	struct requests n = { 0 };
	struct power p;
	power_init(&p, on_request, &n);
	wr(&power_reset_control_ops, &p, 0, 0x02);
	EQ(n.n_reset, 0);
	EQ(rd(&power_reset_control_ops, &p, 0), 0x02);
	wr(&power_reset_control_ops, &p, 0, 0x0e);
	EQ(n.n_reset, 1);
	wr(&power_reset_control_ops, &p, 0, 0x06);
	EQ(n.n_reset, 2);
}

TEST(the_pm_timer_counts_at_its_rate_and_wraps)
{
	struct pm_timer t = { .start_ns = 1000 };
	EQ(pm_timer_value(&t, 1000), 0);
	EQ(pm_timer_value(&t, 1000 + NS_PER_S), 3579545);
	EQ(pm_timer_value(&t, 1000 + NS_PER_S / 2), 1789772);
	uint64_t year_ns = 365ull * 86400 * NS_PER_S;
	EQ(pm_timer_value(&t, 1000 + year_ns), (uint32_t)(365ull * 86400 * 3579545));

	pm_timer_init(&t);
	uint8_t b[4];
	pm_timer_bus_ops.read(&t, 0, b, 4);
	uint32_t first = (uint32_t)(b[0] | b[1] << 8 | b[2] << 16);
	test_sleep_us(2000);
	pm_timer_bus_ops.read(&t, 0, b, 4);
	OK((uint32_t)(b[0] | b[1] << 8 | b[2] << 16) - first >= 7000);
}

struct lines {
	int n;
	char last[128];
};

static void keep_line(void *context, const struct log_record *r)
{
	struct lines *l = context;
	l->n++;
	(void)snprintf(l->last, sizeof l->last, "%s", r->text);
}

TEST(post_codes_are_logged_at_a_limited_rate)
{
	struct lines l = { 0 };
	struct log_sink sink = { .write = keep_line, .context = &l, .max_level = LOG_WARN };
	struct log log = { .sink = &sink, .object = "test" };
	struct debug_port d;
	debug_port_init(&d, &log);
	wr(&debug_port_bus_ops, &d, 0, 0x41);
	STR_HAS(l.last, "[Debug I/O port: Kernel code 0x41] 0.");
	STR_HAS(l.last, " seconds");
	for (int i = 0; i < 10000; i++)
		wr(&debug_port_bus_ops, &d, 0, 0);
	OK(l.n <= LOG_LIMIT_BURST);
	STR_EQ(debug_port_range(0x1f), "Firmware");
	STR_EQ(debug_port_range(0x20), "Bootloader");
	STR_EQ(debug_port_range(0x7f), "Userspace");
	STR_EQ(debug_port_range(0x80), "Custom");
	EQ(rd(&debug_port_bus_ops, &d, 0), 0);
}

TEST(the_debug_console_is_found_and_writes)
{
	struct loop *l;
	char path[64];
	struct stat st;
	(void)snprintf(path, sizeof path, "/tmp/varan-debug-%d", (int)getpid());
	EQ(loop_new(&l, NULL), 0);
	struct debug_console d;
	debug_console_init(&d, NULL, NULL);
	wr(&debug_console_bus_ops, &d, 0, 'x'); /* nobody there */
	struct char_params p = { .mode = CHAR_FILE, .path = path };
	EQ(char_open(&p, l, &d.backend, NULL), 0);
	EQ(rd(&debug_console_bus_ops, &d, 0), 0xe9);
	wr(&debug_console_bus_ops, &d, 0, 'h');
	wr(&debug_console_bus_ops, &d, 0, '\n');
	EQ(stat(path, &st), 0);
	EQ(st.st_size, 2);
	char_close(d.backend);
	debug_console_done(&d);
	loop_free(l);
	(void)unlink(path);
}

static char console_line[256];

static void keep_console_line(void *context, const struct log_record *r)
{
	(void)context;
	(void)snprintf(console_line, sizeof console_line, "%s", r->text);
}

TEST(the_debug_console_writes_lines_to_the_log)
{
	struct log_sink sink = { .write = keep_console_line, .max_level = LOG_DEBUG };
	struct log log = { .sink = &sink, .object = "machine" };
	struct debug_console d;
	debug_console_init(&d, NULL, &log);
	for (const char *s = "hi \x1b[2J\r\n"; *s; s++)
		wr(&debug_console_bus_ops, &d, 0, (uint8_t)*s);
	STR_EQ(console_line, "guest: hi ?[2J");
	for (int i = 0; i < 1000; i++) /* no end of line: it is cut */
		wr(&debug_console_bus_ops, &d, 0, 'y');
	EQ(strlen(console_line), strlen("guest: ") + DEBUG_CONSOLE_LINE_BYTES);
	debug_console_done(&d);
}

TEST(an_event_is_told_once_and_by_an_interrupt)
{
	struct ged g;
	struct irq_line line = { .pin = 9, .event_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC) };
	uint64_t n;
	uint8_t b[4] = { 0 };
	ged_init(&g, &line);
	ged_bus_ops.read(&g, 0, b, 4);
	EQ(b[0], 0);
	ged_raise(&g, GED_EVENT_POWER_BUTTON);
	EQ(read(line.event_fd, &n, sizeof n), 8);
	EQ(n, 1);
	ged_raise(&g, 0x4);
	ged_bus_ops.read(&g, 0, b, 4);
	EQ(b[0], GED_EVENT_POWER_BUTTON | 0x4);
	ged_bus_ops.read(&g, 0, b, 4);
	EQ(b[0], 0);

	/* Only what was read is cleared. */
	ged_raise(&g, 0x0101);
	EQ(rd(&ged_bus_ops, &g, 1), 1);
	EQ(rd(&ged_bus_ops, &g, 0), 1);
	EQ(rd(&ged_bus_ops, &g, 0), 0);
	(void)close(line.event_fd);
}

TEST(the_list_of_devices_names_each_once)
{
	OK(n_virtio_classes >= 3);
	for (size_t i = 0; i < n_virtio_classes; i++)
		OK(virtio_class_find(virtio_classes[i]->name) == virtio_classes[i]);
	OK(!virtio_class_find("toaster"));
}
