/* SPDX-License-Identifier: Apache-2.0 */
/* events.h - the stream of events for whoever manages the VM: JSON objects, each followed by an empty line.
 *
 *     {"timestamp": {"secs": 1, "nanos": 500}, "source": "vm", "event": "booted", "properties": null}
 *
 * Any thread may emit, under no lock of its own that others wait for; emitting never blocks. A thread writes: a reader
 * that is slow, or not there yet, finds up to EVENTS_QUEUE_BYTES waiting besides what the descriptor holds. Above that
 * events are lost, whole ones and the newest first, and the stream says so: source "vmm", event "events-lost", with
 * the property "count". */
#pragma once
#include "base/err.h"
#include "base/forward.h"

#define EVENTS_QUEUE_BYTES (64u * 1024)

struct events;

/* Timestamps count from here. A file is created or emptied; a FIFO needs no reader to be opened. */
int events_open_path(const char *path, struct events **ret_ev, struct err *e);
/* The descriptor is made non-blocking; it is closed by events_free(), and stays the caller's on failure. */
int events_open_fd(int fd, struct events **ret_ev, struct err *e);
/* What still waits is written as far as the reader takes it now. NULL is fine. */
void events_free(struct events *ev);

/* properties_json: an object, or NULL. ev NULL: nobody listens. */
void events_emit(struct events *ev, const char *source, const char *event, const char *properties_json);
/* With the properties id and, unless it is NULL, bdf. */
void events_emit_device(struct events *ev, const char *source, const char *event, const char *id, const char *bdf);
