/* SPDX-License-Identifier: Apache-2.0 */
/* The hostile guest: bare metal, one vCPU. On its command line: `seed=N rounds=N`. It says one line a case on the serial
 * port, `CASE device transport name: verdict`, and `DONE n cases, n failed` before it powers off. With `spin=1` it does
 * nothing, for ever. */
#include "attack.h"

#define PATIENCE 40000u /* looks at a register before a device counts as silent: seconds, where an exit costs 50 us */

void payload_main(const uint8_t *zero_page);

static struct ring ring;
static struct device devices[MAX_DEVICES];
static unsigned n_cases;

unsigned verdict(const struct device *d, const char *name, const char *what)
{
	print("CASE ");
	print(d->name);
	print(d->is_pci ? " pci " : " mmio ");
	print(name);
	print(": ");
	print(what);
	print("\n");
	n_cases++;
	return !equal(what, "PASS", 4);
}

unsigned request_queue(const struct device *d)
{
	return d->type == 3 ? 1 : 0; /* the console's transmit queue */
}

static bool wait_used(const struct device *d, struct ring *r, uint16_t n)
{
	for (unsigned i = 0; i < PATIENCE; i++) {
		if ((uint16_t)(r->used.idx) >= n)
			return true;
		if (device_status(d) & NEEDS_RESET)
			return false;
	}
	return false;
}

/* block: header, 512 bytes, status; the others: one buffer. */
static void good_request(const struct device *d, struct ring *r)
{
	uintptr_t data = (uintptr_t)r->data;
	if (d->type == 2) {
		r->data[4096] = 0xff;
		r->desc[0] = (struct desc){ data, 16, D_NEXT, 1 }; /* type 0: read, sector 0 */
		r->desc[1] = (struct desc){ data + 512, 512, D_NEXT | D_WRITE, 2 };
		r->desc[2] = (struct desc){ data + 4096, 1, D_WRITE, 0 };
	} else if (d->type == 3) {
		r->data[0] = '.';
		r->desc[0] = (struct desc){ data, 1, 0, 0 };
	} else {
		r->desc[0] = (struct desc){ data, 16, D_WRITE, 0 };
	}
	r->avail.ring[0] = 0;
	__asm__ volatile("" ::: "memory");
	r->avail.idx = 1;
}

/* Says why not, once it is not. */
static bool not_alive(const struct device *d, const struct ring *r, const char *why)
{
	print("NOT ALIVE: ");
	print(why);
	print(", status ");
	print_hex(device_status(d));
	print(", used ");
	print_number(r->used.idx);
	print("\n");
	return false;
}

bool is_alive(const struct device *d, struct ring *r)
{
	if (!device_start(d, r, request_queue(d), 0))
		return not_alive(d, r, "does not start");
	good_request(d, r);
	device_kick(d, request_queue(d));
	if (!wait_used(d, r, 1))
		return not_alive(d, r, "does not answer");
	if (d->type == 2 && r->data[4096] != 0)
		return not_alive(d, r, "answers with an error");
	device_set_status(d, 0);
	return device_status(d) == 0 || not_alive(d, r, "does not reset");
}

static bool wait_needs_reset(const struct device *d)
{
	for (unsigned i = 0; i < PATIENCE; i++) {
		if (device_status(d) & NEEDS_RESET)
			return true;
	}
	return false;
}

static unsigned attack_one(const struct device *d, const struct attack *a)
{
	unsigned queue = request_queue(d);
	if (!device_start(d, &ring, queue, F_INDIRECT))
		return verdict(d, a->name, "FAIL does not start");
	a->set_up(&ring);
	device_kick(d, queue);

	const char *what = "PASS";
	if (a->expectation == MUST_BREAK && !wait_needs_reset(d))
		what = "WEDGED neither an answer nor NEEDS_RESET";
	if (a->expectation == MUST_ANSWER && !wait_used(d, &ring, 1) && !(device_status(d) & NEEDS_RESET))
		what = "WEDGED neither an answer nor NEEDS_RESET";
	if (!is_alive(d, &ring))
		what = "FAIL the device does not come back after a reset";
	return verdict(d, a->name, what);
}

void payload_main(const uint8_t *zero_page)
{
	/* Linux boot protocol: cmd_line_ptr at 0x228 of the zero page. */
	const char *cmdline = (const char *)(uintptr_t)(*(const uint32_t *)(const void *)(zero_page + 0x228));
	uint64_t seed = option(cmdline, "seed=", 1), n_rounds = option(cmdline, "rounds=", 200);
	unsigned n_failed = 0;

	kit_start(seed);
	if (option(cmdline, "spin=", 0)) {
		print("SPINS\n");
		for (;;)
			__asm__ volatile("pause");
	}
	unsigned n = devices_find(devices, cmdline);
	print("ATTACK seed ");
	print_number(seed);
	print(", devices ");
	print_number(n);
	print("\n");
	for (unsigned i = 0; i < n; i++) {
		if (!is_alive(&devices[i], &ring)) {
			n_failed += verdict(&devices[i], "alive_at_the_start", "FAIL");
			continue;
		}
		for (unsigned k = 0; k < n_attacks; k++)
			n_failed += attack_one(&devices[i], &attacks[k]);
		n_failed += attack_registers(&devices[i], &ring);
	}
	if (n)
		n_failed += attack_at_random(devices, n, &ring, n_rounds);
	print("DONE ");
	print_number(n_cases);
	print(" cases, ");
	print_number(n_failed);
	print(" failed\n");
	power_off();
}
