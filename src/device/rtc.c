/* SPDX-License-Identifier: Apache-2.0 */
/* Theory of operation.
 *
 * Running, the clock is `now() + offset_ns`, and a read of a time register computes its field. SET in register B, or a
 * divider held in reset in register A, stops it: the fields are then plain memory, and when it starts again the offset
 * is computed from them. After a divider reset the first second ends after half a second (data sheet, "Divider
 * Stages"), which is what drivers count on when they set the time to the second's fraction.
 *
 * Update in progress is the last 2228 us of a second, 244 us of warning and 1984 us of update: a driver that finds UIP
 * clear has 244 us. The flags of register C are computed when it is read, for the time since it was read last. */
#include "device/rtc.h"

#include "base/checked.h"
#include "base/clock.h"

#include <assert.h>
#include <string.h>

enum {
	SECONDS, SECONDS_ALARM, MINUTES, MINUTES_ALARM, HOURS, HOURS_ALARM, WEEKDAY, DAY, MONTH, YEAR,
	REG_A, REG_B, REG_C, REG_D,
};

#define CENTURY 0x32u /* where PC firmware keeps it */

#define A_UIP 0x80u
#define A_DIVIDER_RESET 0x60u
#define A_DIVIDER_32KHZ 0x20u
#define A_RATE 0x0fu
#define B_SET 0x80u
#define B_INTERRUPTS 0x70u /* PIE, AIE, UIE: the order of PF, AF, UF in C */
#define B_SQWE 0x08u
#define B_BINARY 0x04u
#define B_24_HOURS 0x02u
#define C_IRQF 0x80u
#define C_PF 0x40u
#define C_AF 0x20u
#define C_UF 0x10u
#define D_VALID 0x80u

#define HOUR_PM 0x80u
#define ALARM_ANY 0xc0u

#define S_PER_DAY 86400
#define NS ((int64_t)NS_PER_S)
#define UPDATE_NS (2228 * 1000)

struct date {
	int64_t year;
	int month, day, weekday; /* 1..12, 1..31, 1..7 (Sunday is 1) */
	int hour, minute, second;
};

static int64_t floor_div(int64_t a, int64_t b)
{
	return a / b - (a % b < 0);
}

/* Gregorian, proleptic; days since 1970-01-01. Years are counted from March, so that leap days come last. */
static int64_t days_of(int64_t year, int month, int day)
{
	int64_t y = year - (month <= 2);
	int64_t era = floor_div(y, 400), year_of_era = y - era * 400;
	int64_t day_of_year = (153 * (month + (month > 2 ? -3 : 9)) + 2) / 5 + day - 1;
	return era * 146097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719468;
}

static struct date date_of(int64_t seconds)
{
	int64_t days = floor_div(seconds, S_PER_DAY), rest = seconds - days * S_PER_DAY;
	int64_t z = days + 719468, era = floor_div(z, 146097), day_of_era = z - era * 146097;
	int64_t year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36524 - day_of_era / 146096) / 365;
	int64_t day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
	int64_t shifted_month = (5 * day_of_year + 2) / 153;
	int month = (int)(shifted_month < 10 ? shifted_month + 3 : shifted_month - 9);
	return (struct date){
		.year = year_of_era + era * 400 + (month <= 2),
		.month = month,
		.day = (int)(day_of_year - (153 * shifted_month + 2) / 5 + 1),
		.weekday = (int)((days % 7 + 11) % 7) + 1, /* 1970-01-01 was a Thursday */
		.hour = (int)(rest / 3600),
		.minute = (int)(rest / 60 % 60),
		.second = (int)(rest % 60),
	};
}

/* --- fields as registers --------------------------------------------------------------------------------------------- */

static uint8_t encode(const struct rtc *r, int v)
{
	return (uint8_t)(r->cmos[REG_B] & B_BINARY ? v : v / 10 % 10 << 4 | v % 10);
}

/* Any byte becomes a number of at most max. */
static int decode(const struct rtc *r, uint8_t v, int min, int max)
{
	int n = r->cmos[REG_B] & B_BINARY ? v : (v >> 4) * 10 + (v & 15);
	return n < min ? min : n > max ? max : n;
}

static uint8_t encode_hour(const struct rtc *r, int hour)
{
	if (r->cmos[REG_B] & B_24_HOURS)
		return encode(r, hour);
	return (uint8_t)(encode(r, hour % 12 ? hour % 12 : 12) | (hour >= 12 ? HOUR_PM : 0));
}

static int decode_hour(const struct rtc *r, uint8_t v)
{
	if (r->cmos[REG_B] & B_24_HOURS)
		return decode(r, v, 0, 23);
	return decode(r, v & (uint8_t)~HOUR_PM, 1, 12) % 12 + (v & HOUR_PM ? 12 : 0);
}

static void store_date(struct rtc *r, const struct date *d)
{
	r->cmos[SECONDS] = encode(r, d->second);
	r->cmos[MINUTES] = encode(r, d->minute);
	r->cmos[HOURS] = encode_hour(r, d->hour);
	r->cmos[WEEKDAY] = encode(r, d->weekday);
	r->cmos[DAY] = encode(r, d->day);
	r->cmos[MONTH] = encode(r, d->month);
	r->cmos[YEAR] = encode(r, (int)(d->year % 100));
	r->cmos[CENTURY] = encode(r, (int)(d->year / 100));
}

static int64_t seconds_from_registers(const struct rtc *r)
{
	int64_t year = decode(r, r->cmos[CENTURY], 0, 99) * 100 + decode(r, r->cmos[YEAR], 0, 99);
	int month = decode(r, r->cmos[MONTH], 1, 12), day = decode(r, r->cmos[DAY], 1, 31);
	int64_t s = decode_hour(r, r->cmos[HOURS]) * 3600 + decode(r, r->cmos[MINUTES], 0, 59) * 60 +
	            decode(r, r->cmos[SECONDS], 0, 59);
	return days_of(year, month, day) * S_PER_DAY + s;
}

/* --- the clock ------------------------------------------------------------------------------------------------------- */

/* Half of what nanoseconds reach, so that the sum or difference of two fits: the years 1823 to 2116. A guest that sets
 * another gets the nearest. */
#define MAX_SECONDS (INT64_MAX / NS / 2)

static int64_t clamp_seconds(int64_t s)
{
	return s > MAX_SECONDS ? MAX_SECONDS : s < -MAX_SECONDS ? -MAX_SECONDS : s;
}

static int64_t host_ns(const struct rtc *r)
{
	struct timespec t;
	r->now(&t);
	return clamp_seconds(t.tv_sec) * NS + t.tv_nsec;
}

static int64_t guest_ns(const struct rtc *r)
{
	int64_t t;
	if (!checked_add(host_ns(r), r->offset_ns, &t))
		t = r->offset_ns; /* cannot be: both are at most half the range */
	return t;
}

static void stop_clock(struct rtc *r)
{
	int64_t t = guest_ns(r), s = floor_div(t, NS);
	struct date d = date_of(s);
	store_date(r, &d);
	r->stopped_fraction_ns = t - s * NS;
	r->is_stopped = true;
}

static void start_clock(struct rtc *r)
{
	int64_t t = clamp_seconds(seconds_from_registers(r)) * NS + r->stopped_fraction_ns;
	if (!checked_sub(t, host_ns(r), &r->offset_ns))
		r->offset_ns = 0;
	r->is_stopped = false;
	r->flags_ns = t;
}

static bool has_divider_reset(const struct rtc *r)
{
	return (r->cmos[REG_A] & A_DIVIDER_RESET) == A_DIVIDER_RESET;
}

/* Registers A and B: either stops the clock, both must let it run. */
static void write_control(struct rtc *r, unsigned reg, uint8_t v)
{
	bool had_divider_reset = has_divider_reset(r);
	r->cmos[reg] = v;
	if (had_divider_reset && !has_divider_reset(r))
		r->stopped_fraction_ns = NS / 2;
	bool is_stop = (r->cmos[REG_B] & B_SET) || has_divider_reset(r);
	if (is_stop && !r->is_stopped)
		stop_clock(r);
	else if (!is_stop && r->is_stopped)
		start_clock(r);
}

static void write_time(struct rtc *r, unsigned reg, uint8_t v)
{
	bool was_stopped = r->is_stopped;
	if (!was_stopped)
		stop_clock(r);
	r->cmos[reg] = v;
	if (!was_stopped)
		start_clock(r);
}

static bool is_time(unsigned reg)
{
	return reg == CENTURY || (reg <= YEAR && reg != SECONDS_ALARM && reg != MINUTES_ALARM && reg != HOURS_ALARM);
}

static uint8_t read_time(const struct rtc *r, unsigned reg)
{
	if (r->is_stopped)
		return r->cmos[reg];
	struct date d = date_of(floor_div(guest_ns(r), NS));
	switch (reg) {
	case SECONDS: return encode(r, d.second);
	case MINUTES: return encode(r, d.minute);
	case HOURS: return encode_hour(r, d.hour);
	case WEEKDAY: return encode(r, d.weekday);
	case DAY: return encode(r, d.day);
	case MONTH: return encode(r, d.month);
	case YEAR: return encode(r, (int)(d.year % 100));
	default: return encode(r, (int)(d.year / 100));
	}
}

static uint8_t read_a(const struct rtc *r)
{
	if (r->is_stopped)
		return r->cmos[REG_A];
	int64_t t = guest_ns(r), fraction = t - floor_div(t, NS) * NS;
	return (uint8_t)(r->cmos[REG_A] | (fraction >= NS - UPDATE_NS ? A_UIP : 0));
}

/* --- register C ------------------------------------------------------------------------------------------------------ */

static bool alarm_matches(const struct rtc *r, unsigned reg, int v)
{
	uint8_t alarm = r->cmos[reg];
	if ((alarm & ALARM_ANY) == ALARM_ANY)
		return true;
	return alarm == (reg == HOURS_ALARM ? encode_hour(r, v) : encode(r, v));
}

/* Does the alarm go off in (from, to]? Steps over whole hours and minutes that do not match; at worst one step a second,
 * for the seconds since the last read and at most a day. */
static bool has_alarm_between(const struct rtc *r, int64_t from, int64_t to)
{
	if (to - from > S_PER_DAY)
		from = to - S_PER_DAY;
	for (int64_t s = from + 1; s <= to;) {
		int64_t t = s - floor_div(s, S_PER_DAY) * S_PER_DAY;
		if (!alarm_matches(r, HOURS_ALARM, (int)(t / 3600)))
			s += 3600 - t % 3600;
		else if (!alarm_matches(r, MINUTES_ALARM, (int)(t / 60 % 60)))
			s += 60 - t % 60;
		else if (!alarm_matches(r, SECONDS_ALARM, (int)(t % 60)))
			s++;
		else
			return true;
	}
	return false;
}

/* The periodic rate with a 32.768 kHz crystal (data sheet, table 5); 0: none. Rates 1 and 2 are 8 and 9 again. */
static int64_t period_ns(const struct rtc *r)
{
	unsigned rate = r->cmos[REG_A] & A_RATE;
	if (rate == 0 || (r->cmos[REG_A] & 0x70u) != A_DIVIDER_32KHZ)
		return 0;
	if (rate <= 2)
		rate += 7;
	return ((int64_t)1 << (rate - 1)) * NS / 32768;
}

static uint8_t read_c(struct rtc *r)
{
	if (!r->is_stopped) {
		int64_t now = guest_ns(r), period = period_ns(r);
		int64_t from_s = floor_div(r->flags_ns, NS), to_s = floor_div(now, NS);
		if (to_s > from_s)
			r->flags |= C_UF;
		if (has_alarm_between(r, from_s, to_s))
			r->flags |= C_AF;
		if (period && floor_div(now, period) > floor_div(r->flags_ns, period))
			r->flags |= C_PF;
		r->flags_ns = now;
	}
	uint8_t v = r->flags;
	if (v & r->cmos[REG_B] & B_INTERRUPTS)
		v |= C_IRQF;
	r->flags = 0;
	return v;
}

/* --- ports ----------------------------------------------------------------------------------------------------------- */

static uint8_t read_register(struct rtc *r)
{
	unsigned reg = r->index;
	if (is_time(reg))
		return read_time(r, reg);
	switch (reg) {
	case REG_A: return read_a(r);
	case REG_C: return read_c(r);
	case REG_D: return D_VALID;
	default: return r->cmos[reg];
	}
}

static void write_register(struct rtc *r, uint8_t v)
{
	unsigned reg = r->index;
	if (is_time(reg))
		write_time(r, reg, v);
	else if (reg == REG_A)
		write_control(r, reg, v & (uint8_t)~A_UIP);
	else if (reg == REG_B)
		write_control(r, reg, v & B_SET ? v & (uint8_t)~0x10u : v); /* SET clears UIE */
	else if (reg != REG_C && reg != REG_D)
		r->cmos[reg] = v;
}

/* Only bytes: the index and the data port are two registers. */
static void rtc_read(void *context, uint64_t offset, uint8_t *ret_bytes, unsigned n_bytes)
{
	struct rtc *r = context;
	(void)pthread_mutex_lock(&r->lock);
	for (unsigned i = 0; i < n_bytes; i++)
		ret_bytes[i] = offset + i == 0 ? r->index : read_register(r);
	(void)pthread_mutex_unlock(&r->lock);
}

static void rtc_write(void *context, uint64_t offset, const uint8_t *bytes, unsigned n_bytes)
{
	struct rtc *r = context;
	(void)pthread_mutex_lock(&r->lock);
	for (unsigned i = 0; i < n_bytes; i++) {
		if (offset + i == 0)
			r->index = bytes[i] & (RTC_CMOS_BYTES - 1); /* bit 7 masks the NMI, which we do not have */
		else
			write_register(r, bytes[i]);
	}
	(void)pthread_mutex_unlock(&r->lock);
}

const struct bus_ops rtc_bus_ops = { .read = rtc_read, .write = rtc_write };

static void read_host_clock(struct timespec *ret_t)
{
	(void)clock_gettime(CLOCK_REALTIME, ret_t);
}

static void put_clipped(uint8_t *at, uint64_t v, unsigned n_bytes)
{
	uint64_t max = (1ull << (8 * n_bytes)) - 1;
	if (v > max)
		v = max;
	for (unsigned i = 0; i < n_bytes; i++)
		at[i] = (uint8_t)(v >> (8 * i));
}

/* Where PC firmware keeps memory sizes: base and extended memory in KiB, above 16 MiB and above 4 GiB in 64 KiB units. */
static void store_memory_sizes(struct rtc *r, const struct rtc_params *p)
{
	uint64_t mib = 1ull << 20, low = p->n_low_ram_bytes;
	put_clipped(&r->cmos[0x15], 640, 2);
	put_clipped(&r->cmos[0x17], low > mib ? (low - mib) >> 10 : 0, 2);
	put_clipped(&r->cmos[0x30], low > mib ? (low - mib) >> 10 : 0, 2);
	put_clipped(&r->cmos[0x34], low > 16 * mib ? (low - 16 * mib) >> 16 : 0, 2);
	put_clipped(&r->cmos[0x5b], p->n_high_ram_bytes >> 16, 3);
}

void rtc_init(struct rtc *r, const struct rtc_params *p)
{
	memset(r, 0, sizeof *r);
	r->now = p->now ? p->now : read_host_clock;
	(void)pthread_mutex_init(&r->lock, NULL);
	r->cmos[REG_A] = A_DIVIDER_32KHZ | 6;
	r->cmos[REG_B] = B_24_HOURS;
	store_memory_sizes(r, p);
	r->flags_ns = guest_ns(r);
}

void rtc_done(struct rtc *r)
{
	(void)pthread_mutex_destroy(&r->lock);
}
