/* SPDX-License-Identifier: Apache-2.0 */
/* rtc.h - the MC146818 clock and its CMOS memory, at an index and a data port (Motorola MC146818A data sheet).
 *
 * The clock is the host's CLOCK_REALTIME in UTC plus an offset that the guest makes by setting it; nothing ticks, every
 * read computes. There is no interrupt line: flags in register C are right when polled. vCPU threads; one lock, a leaf.
 * All registers hold whatever the guest writes: every value is made a time, or masked, when it is used. */
#pragma once
#include "base/forward.h"
#include "bus/bus.h"
#include <pthread.h>
#include <time.h>

#define RTC_PORT 0x70u
#define RTC_PORT_BYTES 2u
#define RTC_CMOS_BYTES 128u

struct rtc_params {
	uint64_t n_low_ram_bytes;  /* below 4 GiB */
	uint64_t n_high_ram_bytes; /* above */
	void (*now)(struct timespec *ret_t); /* NULL: CLOCK_REALTIME */
};

struct rtc {
	void (*now)(struct timespec *ret_t);
	pthread_mutex_t lock;
	uint8_t index;
	uint8_t cmos[RTC_CMOS_BYTES]; /* time registers: valid while the clock is stopped */
	int64_t offset_ns;            /* the guest's time less the host's */
	int64_t stopped_fraction_ns;  /* of the second, when SET stopped the clock */
	bool is_stopped;
	uint8_t flags;                /* of register C, gathered up to flags_ns */
	int64_t flags_ns;             /* the guest's time */
};

void rtc_init(struct rtc *r, const struct rtc_params *p);
void rtc_done(struct rtc *r);

extern const struct bus_ops rtc_bus_ops; /* context: struct rtc */
