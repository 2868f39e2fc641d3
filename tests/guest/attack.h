/* SPDX-License-Identifier: Apache-2.0 */
#pragma once
#include "virtio.h"

enum expectation {
	MUST_BREAK,  /* DEVICE_NEEDS_RESET */
	MUST_ANSWER, /* DEVICE_NEEDS_RESET, or a used buffer */
	MUST_LIVE,   /* whatever comes of it, a reset brings the device back */
};

struct attack {
	const char *name;
	void (*set_up)(struct ring *r);
	enum expectation expectation;
};

extern const struct attack attacks[];
extern const unsigned n_attacks;

/* Whether the device serves a good request after a reset; on its request queue. */
bool is_alive(const struct device *d, struct ring *r);
unsigned request_queue(const struct device *d);

/* Register attacks by name: bad queue addresses and sizes at DRIVER_OK, late changes, wrong orders. Returns failures. */
unsigned attack_registers(const struct device *d, struct ring *r);
/* Random garbage from the seed in registers, configuration space, ports and rings. Returns failures. */
unsigned attack_at_random(const struct device *d, unsigned n_devices, struct ring *r, uint64_t n_rounds);

unsigned verdict(const struct device *d, const char *name, const char *what);
