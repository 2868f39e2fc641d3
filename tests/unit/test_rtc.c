/* SPDX-License-Identifier: Apache-2.0 */
/* The clock: fields in all four formats, setting it, stopping it, update in progress, register C, CMOS memory. */
#include "device/rtc.h"
#include "test.h"

/* 2024-02-29 (a Thursday) 23:59:58.25 UTC */
static struct timespec host_time = { .tv_sec = 1709251198, .tv_nsec = 250000000 };

static void host_now(struct timespec *ret_t)
{
	*ret_t = host_time;
}

static uint8_t rd(struct rtc *r, unsigned reg)
{
	uint8_t v = (uint8_t)reg;
	rtc_bus_ops.write(r, 0, &v, 1);
	rtc_bus_ops.read(r, 1, &v, 1);
	return v;
}

static void wr(struct rtc *r, unsigned reg, unsigned value)
{
	uint8_t v = (uint8_t)reg;
	rtc_bus_ops.write(r, 0, &v, 1);
	v = (uint8_t)value;
	rtc_bus_ops.write(r, 1, &v, 1);
}

static void advance(int64_t s, int64_t ns)
{
	ns += host_time.tv_nsec;
	host_time.tv_sec += s + ns / 1000000000;
	host_time.tv_nsec = ns % 1000000000;
}

static void open_rtc(struct rtc *r)
{
	struct rtc_params p = { .n_low_ram_bytes = 3ull << 30, .n_high_ram_bytes = 1ull << 30, .now = host_now };
	rtc_init(r, &p);
}

TEST(time_in_bcd_and_over_midnight)
{
	struct rtc r;
	open_rtc(&r);
	EQ(rd(&r, 0x0a), 0x26);
	EQ(rd(&r, 0x0b), 0x02);
	EQ(rd(&r, 0x0d), 0x80);
	EQ(rd(&r, 0), 0x58);
	EQ(rd(&r, 2), 0x59);
	EQ(rd(&r, 4), 0x23);
	EQ(rd(&r, 6), 5);
	EQ(rd(&r, 7), 0x29);
	EQ(rd(&r, 8), 0x02);
	EQ(rd(&r, 9), 0x24);
	EQ(rd(&r, 0x32), 0x20);
	advance(2, 0);
	EQ(rd(&r, 0), 0);
	EQ(rd(&r, 4), 0);
	EQ(rd(&r, 6), 6);
	EQ(rd(&r, 7), 1);
	EQ(rd(&r, 8), 3);
	rtc_done(&r);
}

TEST(time_in_binary_and_in_twelve_hours)
{
	struct rtc r;
	open_rtc(&r);
	wr(&r, 0x0b, 0x06);
	EQ(rd(&r, 0), 58);
	EQ(rd(&r, 4), 23);
	EQ(rd(&r, 0x32), 20);
	wr(&r, 0x0b, 0x04);
	EQ(rd(&r, 4), 0x80 | 11);
	wr(&r, 0x0b, 0x00);
	EQ(rd(&r, 4), 0x80 | 0x11);
	advance(2, 0); /* midnight is 12 AM */
	EQ(rd(&r, 4), 0x12);
	advance(12 * 3600, 0);
	EQ(rd(&r, 4), 0x92);
	rtc_done(&r);
}

TEST(set_stops_the_clock_and_the_offset_stays)
{
	struct rtc r;
	open_rtc(&r);
	wr(&r, 0x0b, 0x82);
	advance(100, 0);
	EQ(rd(&r, 0), 0x58); /* stopped */
	EQ(rd(&r, 0x0a), 0x26);
	wr(&r, 0, 0x30);
	wr(&r, 2, 0x15);
	wr(&r, 4, 0x08);
	wr(&r, 7, 0x31);
	wr(&r, 8, 0x12);
	wr(&r, 9, 0x99);
	wr(&r, 0x32, 0x19);
	EQ(rd(&r, 9), 0x99);
	wr(&r, 0x0b, 0x02);
	EQ(rd(&r, 0), 0x30);
	EQ(rd(&r, 6), 6); /* 1999-12-31 was a Friday, whatever was written */
	advance(86400, 0);
	EQ(rd(&r, 0), 0x30);
	EQ(rd(&r, 2), 0x15);
	EQ(rd(&r, 4), 0x08);
	EQ(rd(&r, 7), 0x01);
	EQ(rd(&r, 8), 0x01);
	EQ(rd(&r, 9), 0x00);
	EQ(rd(&r, 0x32), 0x20);
	rtc_done(&r);
}

TEST(a_single_field_can_be_set_while_it_runs)
{
	struct rtc r;
	open_rtc(&r);
	wr(&r, 2, 0x00);
	EQ(rd(&r, 2), 0x00);
	EQ(rd(&r, 0), 0x58);
	advance(3, 0);
	EQ(rd(&r, 2), 0x01);
	rtc_done(&r);
}

TEST(a_divider_reset_makes_the_next_second_half)
{
	struct rtc r;
	open_rtc(&r);
	wr(&r, 0x0a, 0x76); /* as Linux does it: SET and divider reset */
	wr(&r, 0x0b, 0x82);
	wr(&r, 0, 0x10);
	wr(&r, 0x0b, 0x02);
	EQ(rd(&r, 0), 0x10);
	advance(5, 0);
	EQ(rd(&r, 0), 0x10); /* the divider is still in reset */
	wr(&r, 0x0a, 0x26);
	advance(0, 499000000);
	EQ(rd(&r, 0), 0x10);
	advance(0, 2000000);
	EQ(rd(&r, 0), 0x11);
	rtc_done(&r);
}

TEST(update_in_progress_before_the_second_ends)
{
	struct rtc r;
	open_rtc(&r);
	EQ(rd(&r, 0x0a) & 0x80, 0);
	advance(0, 747000000);
	EQ(rd(&r, 0x0a) & 0x80, 0);
	advance(0, 1000000); /* .998 */
	EQ(rd(&r, 0x0a) & 0x80, 0x80);
	EQ(rd(&r, 0), 0x58);
	advance(0, 2000000);
	EQ(rd(&r, 0x0a) & 0x80, 0);
	EQ(rd(&r, 0), 0x59);
	/* And it is the machine's alone: a write of it is void. */
	wr(&r, 0x0a, 0xa6);
	EQ(rd(&r, 0x0a), 0x26);
	rtc_done(&r);
}

TEST(register_c_tells_updates_alarms_and_periods_once)
{
	struct rtc r;
	open_rtc(&r);
	wr(&r, 1, 0x05);
	wr(&r, 3, 0x00);
	wr(&r, 5, 0x00);
	EQ(rd(&r, 1), 0x05);
	wr(&r, 0x0a, 0x20); /* no periodic rate */
	EQ(rd(&r, 0x0c), 0);
	advance(1, 0);
	EQ(rd(&r, 0x0c), 0x10);
	EQ(rd(&r, 0x0c), 0);
	advance(5, 0); /* 00:00:04 */
	EQ(rd(&r, 0x0c), 0x10);
	advance(1, 0);
	wr(&r, 0x0b, 0x22); /* alarm interrupt enabled: IRQF follows it */
	EQ(rd(&r, 0x0c), 0x80 | 0x30);
	wr(&r, 3, 0xff); /* any minute */
	advance(60, 0);
	EQ(rd(&r, 0x0c), 0x80 | 0x30);
	advance(40, 0);
	EQ(rd(&r, 0x0c), 0x10);
	advance(10 * 86400, 0);
	EQ(rd(&r, 0x0c), 0xb0);

	wr(&r, 0x0a, 0x2f); /* 500 ms */
	(void)rd(&r, 0x0c);
	advance(0, 100000000);
	EQ(rd(&r, 0x0c) & 0x40, 0);
	advance(0, 500000000);
	EQ(rd(&r, 0x0c) & 0x40, 0x40);
	rtc_done(&r);
}

TEST(memory_sizes_and_scratch_bytes)
{
	struct rtc r;
	open_rtc(&r);
	EQ(rd(&r, 0x15) | rd(&r, 0x16) << 8, 640);
	EQ(rd(&r, 0x30) | rd(&r, 0x31) << 8, 0xffff);
	EQ(rd(&r, 0x34) | rd(&r, 0x35) << 8, 0xbf00);
	EQ(rd(&r, 0x5b) | rd(&r, 0x5c) << 8 | rd(&r, 0x5d) << 16, 1 << 14);
	wr(&r, 0x0f, 0xaa);
	wr(&r, 0x7f, 0x55);
	EQ(rd(&r, 0x0f), 0xaa);
	EQ(rd(&r, 0xff), 0x55); /* bit 7 is the NMI mask */
	uint8_t v;
	rtc_bus_ops.read(&r, 0, &v, 1);
	EQ(v, 0x7f);
	wr(&r, 0x0d, 0);
	EQ(rd(&r, 0x0d), 0x80);
	wr(&r, 0x0c, 0xff);
	rtc_done(&r);
}

TEST(nonsense_in_the_fields_is_some_time_and_no_harm)
{
	struct rtc r;
	open_rtc(&r);
	for (unsigned b = 0; b < 8; b++) {
		wr(&r, 0x0b, 0x80 | b);
		for (unsigned reg = 0; reg < 10; reg++)
			wr(&r, reg, 0xff);
		wr(&r, 0x32, 0xff);
		wr(&r, 0x0b, b);
		for (unsigned reg = 0; reg < 0x80; reg++)
			(void)rd(&r, reg);
		OK((rd(&r, 0x0b) & 4 ? rd(&r, 8) : (rd(&r, 8) >> 4) * 10 + (rd(&r, 8) & 15)) <= 12);
	}
	rtc_done(&r);
}

TEST(the_host_clock_is_the_default)
{
	struct rtc r;
	struct rtc_params p = { 0 };
	rtc_init(&r, &p);
	wr(&r, 0x0b, 0x06);
	time_t now = time(NULL);
	struct tm tm;
	(void)gmtime_r(&now, &tm);
	OK(rd(&r, 9) + 100 * (rd(&r, 0x32) - 19) == tm.tm_year || tm.tm_yday == 0);
	rtc_done(&r);
}
