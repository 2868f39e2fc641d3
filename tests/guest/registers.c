/* SPDX-License-Identifier: Apache-2.0 */
#include "attack.h"

#define ALL_OK (ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK)


#define NOT_MEMORY 0x600000000000ull

static unsigned try_bad_queue(const struct device *d, struct ring *r, const char *name, unsigned size, uint64_t desc,
                              uint64_t avail, uint64_t used)
{
	unsigned queue = request_queue(d);
	device_set_status(d, 0);
	fill(r, 0, sizeof *r);
	device_set_status(d, ACKNOWLEDGE | DRIVER);
	device_accept(d, F_VERSION_1 | F_EVENT_IDX);
	device_set_status(d, ACKNOWLEDGE | DRIVER | FEATURES_OK);
	device_set_queue(d, queue, size, desc, avail, used);
	device_set_status(d, ALL_OK);
	device_kick(d, queue);
	return verdict(d, name, is_alive(d, r) ? "PASS" : "FAIL the device does not come back");
}

static unsigned bad_queues(const struct device *d, struct ring *r)
{
	uint64_t desc = (uintptr_t)r->desc, avail = (uintptr_t)&r->avail, used = (uintptr_t)&r->used;
	unsigned n = 0;
	static const unsigned sizes[] = { 0, 3, 15, 0x8000, 0xffff };
	for (unsigned i = 0; i < sizeof sizes / sizeof sizes[0]; i++)
		n += try_bad_queue(d, r, "d1_bad_size", sizes[i], desc, avail, used);
	n += try_bad_queue(d, r, "d2_desc_unaligned", QSIZE, desc + 8, avail, used);
	n += try_bad_queue(d, r, "d2_avail_unaligned", QSIZE, desc, avail + 1, used);
	n += try_bad_queue(d, r, "d2_used_unaligned", QSIZE, desc, avail, used + 2);
	n += try_bad_queue(d, r, "d2_desc_nowhere", QSIZE, NOT_MEMORY, avail, used);
	n += try_bad_queue(d, r, "d2_avail_nowhere", QSIZE, desc, NOT_MEMORY, used);
	n += try_bad_queue(d, r, "d2_used_nowhere", QSIZE, desc, avail, NOT_MEMORY);
	n += try_bad_queue(d, r, "d2_used_wraps", QSIZE, desc, avail, ~0ull - 3);
	n += try_bad_queue(d, r, "d2_used_in_a_device", QSIZE, desc, avail, 0xfec00000);
	n += try_bad_queue(d, r, "d15_all_rings_in_one_place", QSIZE, desc, desc, desc);
	return n;
}

static unsigned late_changes(const struct device *d, struct ring *r)
{
	unsigned queue = request_queue(d), n = 0;
	if (!device_start(d, r, queue, 0))
		return verdict(d, "m5_queue_is_frozen", "FAIL does not start");
	device_set_queue(d, queue, 0xffff, NOT_MEMORY, NOT_MEMORY, NOT_MEMORY);
	device_kick(d, queue);
	n += verdict(d, "m5_queue_is_frozen", device_status(d) & NEEDS_RESET ? "FAIL a late change took effect" : "PASS");

	device_set_status(d, 0);
	device_set_status(d, ACKNOWLEDGE | DRIVER);
	device_accept(d, ~0ull);
	device_set_status(d, ACKNOWLEDGE | DRIVER | FEATURES_OK);
	n += verdict(d, "features_not_offered_are_refused", device_status(d) & FEATURES_OK ? "FAIL they were accepted" : "PASS");

	device_set_status(d, 0);
	device_set_status(d, DRIVER_OK);
	n += verdict(d, "driver_ok_out_of_order", device_status(d) & DRIVER_OK ? "FAIL it was accepted" : "PASS");

	for (unsigned i = 0; i < 64; i++)
		device_set_status(d, i % 2 ? ALL_OK : 0);
	for (unsigned i = 0; i < 70000; i += 4099)
		device_kick(d, i);
	for (unsigned i = 0; i < 4096; i += 4)
		device_write_space(d, i, 0xffffffff);
	n += verdict(d, "status_storm", is_alive(d, r) ? "PASS" : "FAIL the device does not come back");
	return n;
}

unsigned attack_registers(const struct device *d, struct ring *r)
{
	return bad_queues(d, r) + late_changes(d, r);
}
