/* SPDX-License-Identifier: Apache-2.0 */
/* events.h - the stream of events for whoever manages the VM: JSON objects, each followed by an empty line.
 *
 *     {"timestamp": {"secs": 1, "nanos": 500}, "source": "vm", "event": "booted", "properties": null}
 *
 * Any thread may emit; the lock inside is a leaf, and nobody holds it while writing. A thread of the stream's own writes: a
 * reader that is slow, or not there yet, finds up to EVENTS_QUEUE_BYTES waiting besides what the descriptor holds. The last
 * EVENTS_RESERVE_BYTES are not for the source "virtio-device", whose events the guest causes as often as it likes. What does
 * not fit is lost as a whole, and the stream says so before its next event: source "vmm", event "events-lost", with the
 * property "count". A file that takes no more (its disk is full) is tried again, and goes on where it stopped. */
#pragma once
#include "base/err.h"
#include "base/forward.h"

#define EVENTS_QUEUE_BYTES (64u * 1024)
#define EVENTS_RESERVE_BYTES (8u * 1024)

struct events;
struct log_sink;

/* Timestamps count from here. A file is created or emptied; a FIFO needs no reader to be opened. */
int events_open_path(const char *path, struct events **ret_ev, struct err *e);
/* The descriptor is made non-blocking; it is closed by events_free(), and stays the caller's on failure. */
int events_open_fd(int fd, struct events **ret_ev, struct err *e);
/* Where it is said, once, that nothing can be written. Before the first event. sink outlives ev. NULL is fine, twice. */
void events_log_to(struct events *ev, const struct log_sink *sink);
/* What still waits is written as far as the reader takes it now. NULL is fine. */
void events_free(struct events *ev);

/* properties_json: an object, or NULL. ev NULL: nobody listens. */
void events_emit(struct events *ev, const char *source, const char *event, const char *properties_json);
/* With the properties id and, unless it is NULL, bdf. */
void events_emit_device(struct events *ev, const char *source, const char *event, const char *id, const char *bdf);
