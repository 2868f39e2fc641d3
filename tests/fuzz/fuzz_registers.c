/* SPDX-License-Identifier: Apache-2.0 */
/* The small register devices, driven by four-byte steps: device and direction, offset, width, value. The clock's date is
 * checked to be one, whatever was written; no device may write beyond the access. */
#include "base/clock.h"
#include "bus/irq.h"
#include "device/debug_port.h"
#include "device/ged.h"
#include "device/pm_timer.h"
#include "device/power.h"
#include "device/rtc.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_bytes);

#define MUST(cond) ((cond) ? (void)0 : abort())

static struct timespec now;

static void fake_now(struct timespec *ret_t)
{
	*ret_t = now;
}

static void on_request(void *context, enum power_request what)
{
	unsigned *n = context;
	MUST(what == POWER_OFF || what == POWER_RESET);
	++*n;
}

struct machine {
	struct rtc rtc;
	struct power power;
	struct pm_timer pm_timer;
	struct debug_port debug_port;
	struct debug_console debug_console;
	struct ged ged;
};

struct window {
	const struct bus_ops *ops;
	void *context;
	unsigned n_bytes;
};

static struct window window_of(struct machine *m, unsigned which)
{
	switch (which % 8) {
	case 0: return (struct window){ &power_bus_ops, &m->power, POWER_PORT_BYTES };
	case 1: return (struct window){ &power_keyboard_ops, &m->power, POWER_KEYBOARD_PORT_BYTES };
	case 2: return (struct window){ &power_reset_control_ops, &m->power, POWER_RESET_CONTROL_PORT_BYTES };
	case 3: return (struct window){ &pm_timer_bus_ops, &m->pm_timer, PM_TIMER_PORT_BYTES };
	case 4: return (struct window){ &debug_port_bus_ops, &m->debug_port, DEBUG_PORT_BYTES };
	case 5: return (struct window){ &debug_console_bus_ops, &m->debug_console, DEBUG_CONSOLE_PORT_BYTES };
	case 6: return (struct window){ &ged_bus_ops, &m->ged, GED_REGISTER_BYTES };
	default: return (struct window){ &rtc_bus_ops, &m->rtc, RTC_PORT_BYTES };
	}
}

/* With the width that the bus guarantees: inside the range, 1 to 8. */
static void access_window(const struct window *w, bool is_write, unsigned offset, unsigned n, uint8_t value)
{
	uint8_t bytes[16];
	offset %= w->n_bytes;
	n = n % 8 + 1;
	if (offset + n > w->n_bytes)
		n = w->n_bytes - offset;
	memset(bytes, is_write ? value : 0, sizeof bytes);
	memset(bytes + n, 0xee, sizeof bytes - n);
	if (is_write && w->ops->write)
		w->ops->write(w->context, offset, bytes, n);
	else if (!is_write && w->ops->read)
		w->ops->read(w->context, offset, bytes, n);
	for (unsigned i = n; i < sizeof bytes; i++)
		MUST(bytes[i] == 0xee);
}

static uint8_t read_clock(struct rtc *r, uint8_t reg)
{
	uint8_t v;
	rtc_bus_ops.write(r, 0, &reg, 1);
	rtc_bus_ops.read(r, 1, &v, 1);
	return v;
}

static void set_clock(struct rtc *r, uint8_t reg, uint8_t v)
{
	rtc_bus_ops.write(r, 0, &reg, 1);
	rtc_bus_ops.write(r, 1, &v, 1);
}

static void check_date(struct rtc *r)
{
	set_clock(r, 0x0a, 0x26);
	set_clock(r, 0x0b, 0x06); /* binary, 24 hours, running */
	uint8_t month = read_clock(r, 8), day = read_clock(r, 7);
	MUST(read_clock(r, 0) < 60 && read_clock(r, 2) < 60 && read_clock(r, 4) < 24);
	MUST(month >= 1 && month <= 12 && day >= 1 && day <= 31);
	MUST(read_clock(r, 6) >= 1 && read_clock(r, 6) <= 7 && read_clock(r, 9) < 100);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_bytes)
{
	static struct irq_line line = { .event_fd = -1 };
	struct machine m = { 0 };
	unsigned n_requests = 0;

	if (line.event_fd < 0)
		line.event_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	now = (struct timespec){ .tv_sec = 1700000000 };
	struct rtc_params p = { .n_low_ram_bytes = 1ull << 31, .now = fake_now };
	rtc_init(&m.rtc, &p);
	power_init(&m.power, on_request, &n_requests);
	pm_timer_init(&m.pm_timer);
	debug_port_init(&m.debug_port, NULL);
	ged_init(&m.ged, &line);

	for (size_t i = 0; i + 3 < n_bytes && i < 1024; i += 4) {
		struct window w = window_of(&m, data[i]);
		access_window(&w, data[i] & 8, data[i + 1], data[i + 2], data[i + 3]);
		if (data[i] & 0x10)
			ged_raise(&m.ged, data[i + 3]);
		if (data[i] & 0x20)
			now.tv_nsec = data[i + 3] * 3900000l;
		if (data[i] & 0x40)
			now.tv_sec += (int64_t)data[i + 2] << (data[i + 3] % 24);
	}
	check_date(&m.rtc);
	rtc_done(&m.rtc);
	return 0;
}
