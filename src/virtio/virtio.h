/* SPDX-License-Identifier: Apache-2.0 */
/* virtio.h - a virtio device as the transports see it, and as its one file describes it. Spec: virtio 1.2, 2 and 3.
 *
 * Registers are read and written by vCPU threads through a transport, under the device's lock (a leaf). A status change
 * that starts, stops or resets the device runs the class's functions on the queues' owner loops: the vCPU waits for the
 * loop, holding `transition`, which only vCPU and main threads ever take. kick() and everything that touches a started
 * queue runs on that queue's loop. */
#pragma once
#include "base/err.h"
#include "base/forward.h"
#include "base/log.h"
#include "loop/loop.h"
#include "mem/mem.h"
#include "virtio/queue.h"
#include <pthread.h>

#define VIRTIO_MAX_QUEUES 64u
#define VIRTIO_MAX_SPACE_BYTES 256u

/* 2.1 Device status field */
#define VIRTIO_STATUS_ACKNOWLEDGE 1u
#define VIRTIO_STATUS_DRIVER 2u
#define VIRTIO_STATUS_DRIVER_OK 4u
#define VIRTIO_STATUS_FEATURES_OK 8u
#define VIRTIO_STATUS_DEVICE_NEEDS_RESET 64u
#define VIRTIO_STATUS_FAILED 128u

/* 5 Device types */
#define VIRTIO_ID_NET 1u
#define VIRTIO_ID_BLOCK 2u
#define VIRTIO_ID_CONSOLE 3u
#define VIRTIO_ID_ENTROPY 4u
#define VIRTIO_ID_PMEM 27u

/* 6 Reserved feature bits */
#define VIRTIO_F_INDIRECT_DESC (1ull << 28)
#define VIRTIO_F_EVENT_IDX (1ull << 29)
#define VIRTIO_F_VERSION_1 (1ull << 32)
#define VIRTIO_F_ACCESS_PLATFORM (1ull << 33)

#define VIRTIO_NO_VECTOR 0xffffu

struct schema;
struct virtio_device;

struct virtio_class {
	const char *name;       /* "block": the word in logs and errors */
	uint32_t virtio_id;
	unsigned n_queues;      /* when fixed; 0: open() sets v->n_queues */
	/* Offered by every device of the class; open() may add to v->offered. VERSION_1, EVENT_IDX and INDIRECT_DESC come
	 * from the core. */
	uint64_t features;
	unsigned n_space_bytes; /* of the device's own configuration space */
	size_t size;            /* of the struct that starts with a struct virtio_device */
	unsigned queue_size;    /* default for all queues; open() finds the one in force in v->queue_size */
	bool has_queue_threads; /* each queue has a loop thread of its own while started, "<id>_q<N>"; else the shared I/O loop */

	const struct schema *config, *state; /* what a user sets; what a snapshot holds */

	/* Takes host resources; main thread. params is the class's own plain struct. Half-open on failure: close follows. */
	int (*open)(struct virtio_device *v, const void *params, struct err *e);
	void (*close)(struct virtio_device *v);
	/* DRIVER_OK: v->acked and the queues' addresses are final. Called once per queue, on its loop. */
	int (*start)(struct virtio_device *v, unsigned queue, struct err *e);
	/* Nothing of this queue is in flight when it returns (it may run its own part of the loop's work to wait for
	 * the host's I/O). On the queue's loop. */
	void (*stop)(struct virtio_device *v, unsigned queue);
	void (*reset)(struct virtio_device *v); /* back to what open() left; every queue is stopped; cannot fail */
	/* Chains may be waiting; take them with queue_next(). The core brackets it with queue_begin/queue_end and signals. */
	void (*kick)(struct virtio_device *v, unsigned queue);
	/* 2.5 Device configuration space. Under the device's lock: copies only, no log. A NULL space_read reads v->space;
	 * space_write says whether the driver may write that. */
	void (*space_read)(struct virtio_device *v, unsigned offset, uint8_t *ret_bytes, unsigned n_bytes);
	bool (*space_write)(struct virtio_device *v, unsigned offset, const uint8_t *bytes, unsigned n_bytes);
	/* What the device has done since it was made: a call of add() for each number. Any thread. May be NULL. */
	void (*counters)(struct virtio_device *v, void (*add)(void *context, const char *name, uint64_t value),
	                 void *context);
	/* Before a restore is believed. */
	int (*validate)(const struct virtio_device *v, const void *state, struct err *e);
};

/* What a driver sets of a queue through a transport's registers; addresses by their halves. */
enum virtio_queue_field {
	VIRTIO_QUEUE_NO_FIELD, /* a register that is none of these */
	VIRTIO_QUEUE_SIZE, VIRTIO_QUEUE_READY,
	VIRTIO_QUEUE_DESC_LOW, VIRTIO_QUEUE_DESC_HIGH,
	VIRTIO_QUEUE_AVAIL_LOW, VIRTIO_QUEUE_AVAIL_HIGH,
	VIRTIO_QUEUE_USED_LOW, VIRTIO_QUEUE_USED_HIGH,
};

/* How a device reaches its driver. Any thread. */
struct virtio_transport_ops {
	void (*signal_queue)(void *transport, unsigned queue);
	void (*signal_config)(void *transport); /* configuration changed, or DEVICE_NEEDS_RESET */
	/* The queues are stopped and status is about to read 0: forget pending interrupts. May be NULL. */
	void (*reset)(void *transport);
};

struct virtio_queue_slot {
	struct virtio_device *v;
	unsigned index;
	struct loop *loop;          /* the owner */
	struct loop_thread thread;  /* when has_queue_threads */
	struct host_cpus *cpus;     /* that it may run on; NULL: all */
	struct source kick_source;
	int kick_fd;                /* the ioeventfd */
	struct loop_message again;  /* when a run's budget was used up */
	bool is_paused;             /* the loop's */
};

struct virtio_device {
	const struct virtio_class *cls;
	char *id; /* "_disk0", "__rng" */
	struct log log;
	struct log_limit guest_limit;
	const struct mem_map *mem;
	struct loop *io_loop; /* the shared one; open() may put one of the device's own in its place */
	void (*changed)(void *context, const struct virtio_device *v, bool is_active); /* as virtio_params */
	void *context;

	pthread_mutex_t lock;       /* registers: status, features, queue configuration, space, generation */
	pthread_mutex_t transition; /* serializes start, stop and reset; never taken by an I/O loop */

	unsigned n_queues, queue_size; /* final after open() */
	struct queue *queues;
	struct virtio_queue_slot *slots;

	uint64_t offered, acked;
	_Atomic uint32_t status;
	_Atomic uint32_t config_generation;
	uint32_t driver_generation; /* when the driver came: what it may have read */
	bool is_started, is_paused;
	/* Another process walks the rings and is kicked by kick_fd itself: the core starts and stops them, and does no more.
	 * Final after open(). */
	bool has_foreign_rings;
	uint8_t space[VIRTIO_MAX_SPACE_BYTES];

	const struct virtio_transport_ops *ops;
	void *transport;
};

/* --- for whoever builds a machine ---------------------------------------------------------------------------------- */

struct virtio_queue_cpus {
	unsigned queue;
	const uint64_t *cpus; /* numbers of the host's */
	size_t n_cpus;
};

struct virtio_params {
	const char *id;
	const struct mem_map *mem;
	struct loop *io_loop; /* shared I/O loop */
	const struct log_sink *log_sink;
	unsigned queue_size;  /* 0: the class's default; else a power of two, 2..32768 */
	/* Where the threads of queues may run, of classes that have such; of several for one queue the last counts. Read when
	 * the device is made. */
	const struct virtio_queue_cpus *queue_cpus;
	size_t n_queue_cpus;
	/* The driver took the device into use, or reset one that was. vCPU threads, under no lock; may be NULL. */
	void (*changed)(void *context, const struct virtio_device *v, bool is_active);
	void *context;
};

int virtio_device_new(const struct virtio_class *cls, const struct virtio_params *p, const void *params,
                      struct virtio_device **ret_v, struct err *e);
void virtio_device_free(struct virtio_device *v); /* stops it first; vCPUs do not run */
/* Stops and resets as the driver's writing 0 to status would; main or vCPU thread. */
void virtio_device_reset(struct virtio_device *v);

/* Between these nothing of the device is in flight, and no chain is taken: its state is still. vCPUs are out. */
void virtio_device_pause(struct virtio_device *v);
void virtio_device_resume(struct virtio_device *v);

/* --- for transports; vCPU threads ----------------------------------------------------------------------------------- */

/* ops NULL unbinds: afterwards no loop is in a callback. Main thread, vCPUs do not run, the queues are stopped. */
void virtio_bind_transport(struct virtio_device *v, const struct virtio_transport_ops *ops, void *transport);
uint32_t virtio_status(struct virtio_device *v);
/* All of 2.1 and 3.1: order of bits, FEATURES_OK refused for bits not offered, start at DRIVER_OK, reset at 0. */
void virtio_set_status(struct virtio_device *v, uint32_t status);
uint32_t virtio_features(struct virtio_device *v, unsigned word);                /* 32 bits of the offer; 0 beyond */
void virtio_ack_features(struct virtio_device *v, unsigned word, uint32_t bits); /* ignored after FEATURES_OK */
uint32_t virtio_acked_features(struct virtio_device *v, unsigned word);
/* A copy; a zeroed one for queues that do not exist. */
struct queue_config virtio_queue_config(struct virtio_device *v, unsigned queue, unsigned *ret_max_size);
/* False, and nothing done, for a value that the field may not have, after DRIVER_OK, and for queues that do not exist: the
 * caller logs it, under no lock. */
bool virtio_change_queue(struct virtio_device *v, unsigned queue, enum virtio_queue_field field, uint32_t value);
void virtio_space_read(struct virtio_device *v, uint64_t offset, uint8_t *ret_bytes, unsigned n_bytes);
void virtio_space_write(struct virtio_device *v, uint64_t offset, const uint8_t *bytes, unsigned n_bytes);
uint32_t virtio_config_generation(struct virtio_device *v);
int virtio_kick_fd(struct virtio_device *v, unsigned queue); /* to bind as ioeventfd */
void virtio_kick(struct virtio_device *v, unsigned queue);   /* when the notify register was written the slow way */

/* --- for classes; the queue's loop ---------------------------------------------------------------------------------- */

/* Signals the driver if it wants to be told of what was put. After a batch of completions. */
void virtio_signal(struct virtio_device *v, unsigned queue);
/* Signals the driver, as whoever walks a foreign ring has decided. */
void virtio_signal_foreign(struct virtio_device *v, unsigned queue);
/* Runs kick() again soon, without a kick: when what was short is there again. Any thread that stop() waits for. */
void virtio_kick_again(struct virtio_device *v, unsigned queue);
/* A ring or a device rule is broken beyond an answer: DEVICE_NEEDS_RESET, logged, the driver told. */
void virtio_needs_reset(struct virtio_device *v, unsigned queue, enum queue_fault why);
/* Any thread: new bytes in v->space (copied under the lock), generation up, the driver told, at DRIVER_OK if need be. */
void virtio_space_update(struct virtio_device *v, unsigned offset, const void *bytes, unsigned n_bytes);
/* Its two halves, for who has to look under the lock at what the driver wrote. True: the driver is to be told, without it. */
bool virtio_space_put(struct virtio_device *v, unsigned offset, const void *bytes, unsigned n_bytes);
void virtio_signal_config(struct virtio_device *v);
static inline bool virtio_has_feature(const struct virtio_device *v, uint64_t bit)
{
	return (v->acked & bit) != 0;
}
