/* SPDX-License-Identifier: Apache-2.0 */
/* devices.h - the list of the virtio devices: one line in devices.c makes a class known. Constant; any thread. */
#pragma once
#include "virtio/virtio.h"

extern const struct virtio_class *const virtio_classes[];
extern const size_t n_virtio_classes;

const struct virtio_class *virtio_class_find(const char *name); /* NULL: none of that name */
