/* SPDX-License-Identifier: Apache-2.0 */
/* The vhost-user front end against a backend whose answers, requests and used ring are the input.
 *
 * The input: a byte that says which of the two below; then messages (kind of request, a byte of oddities, length, payload),
 * all of which the backend has said before it is asked, and then it hangs up. Or: steps of a driver, of a backend that may
 * be honest, and of one that writes into its rings as it likes. */
#include "backend/vhost_user.h"
#include "base/bytes.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "device/vhost_user_relay.h"
#include "loop/loop.h"
#include "queue_setup.h"

#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define MUST(cond) ((cond) ? (void)0 : abort())

struct input {
	const uint8_t *in;
	size_t n;
};

static uint8_t take8(struct input *i)
{
	if (!i->n)
		return 0;
	i->n--;
	return *i->in++;
}

/* --- messages --- */

static void say(int fd, struct input *in, bool is_request)
{
	uint8_t m[12 + 255] = { 0 };
	uint32_t request = take8(in), odd = take8(in), n = take8(in);
	union {
		struct cmsghdr h;
		uint8_t bytes[CMSG_SPACE(3 * sizeof(int))];
	} control = { 0 };
	for (uint32_t k = 0; k < n; k++)
		m[12 + k] = take8(in);
	put_le32(m, odd & 0x80 ? request << 24 : request);
	put_le32(m + 4, odd & 4 ? odd : (is_request ? 1u : 5u) | (odd & 8));
	put_le32(m + 8, odd & 0x10 ? n + odd : odd & 0x20 ? n << 24 : n);
	struct iovec iov = { m, 12 + n };
	struct msghdr h = { .msg_iov = &iov, .msg_iovlen = 1 };
	unsigned n_fds = odd & 3;
	if (n_fds) {
		h.msg_control = &control;
		h.msg_controllen = CMSG_SPACE(n_fds * sizeof(int));
		struct cmsghdr *c = CMSG_FIRSTHDR(&h);
		c->cmsg_level = SOL_SOCKET;
		c->cmsg_type = SCM_RIGHTS;
		c->cmsg_len = CMSG_LEN(n_fds * sizeof(int));
		for (unsigned k = 0; k < n_fds; k++)
			memcpy(CMSG_DATA(c) + k * sizeof fd, &fd, sizeof fd);
	}
	(void)!sendmsg(fd, &h, MSG_NOSIGNAL | MSG_DONTWAIT);
}

static int converse(struct vhost_user *c, struct vhost_user_inflight *i, struct err *e)
{
	uint8_t space[60] = { 0 };
	uint64_t n;
	uint16_t base;
	struct vhost_user_region regions[9];
	struct vhost_user_ring ring = { .index = 1, .size = 64, .kick_fd = 0, .call_fd = 0 };
	for (unsigned k = 0; k < 9; k++)
		regions[k] = (struct vhost_user_region){ .fd = 0, .gpa = k << 20, .n_bytes = 1 << 20 };
	int rc = vhost_user_negotiate(c, ~0ull, e);
	if (rc >= 0)
		rc = vhost_user_queue_num(c, &n, e);
	if (rc >= 0)
		rc = vhost_user_get_config(c, space, sizeof space, e);
	if (rc >= 0)
		rc = vhost_user_open_requests(c, e);
	if (rc >= 0)
		rc = vhost_user_set_config(c, 32, space, 1, e);
	if (rc >= 0)
		rc = vhost_user_set_features(c, 1ull << 32, e);
	if (rc >= 0)
		rc = vhost_user_set_memory(c, regions, c->protocol_features & VHOST_USER_PROTOCOL_F_CONFIGURE_MEM_SLOTS ? 9 : 2, e);
	if (rc >= 0)
		rc = vhost_user_get_inflight(c, 2, 128, i, e);
	if (rc >= 0) {
		MUST(i->fd >= 0 && i->n_bytes);
		rc = vhost_user_set_inflight(c, i, e);
	}
	if (rc >= 0)
		rc = vhost_user_start_ring(c, &ring, e);
	if (rc >= 0)
		rc = vhost_user_stop_ring(c, 1, &base, e);
	return rc;
}

static void messages(struct input *in, bool is_request)
{
	struct vhost_user c;
	struct vhost_user_inflight inflight = { .fd = -1 };
	struct err e = { 0 };
	int ends[2];
	MUST(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) == 0);
	while (in->n)
		say(ends[1], in, is_request);
	(void)shutdown(ends[1], SHUT_WR);
	vhost_user_init(&c);
	c.deadline_ns = clock_now_ns() + NS_PER_S;
	if (is_request) {
		c.request_fd = ends[0];
		c.protocol_features = VHOST_USER_PROTOCOL_F_REPLY_ACK;
		while (vhost_user_serve(&c, &e) > 0)
			;
	} else {
		c.fd = ends[0];
		int rc = converse(&c, &inflight, &e);
		MUST(rc >= 0 || (e.code == -rc && e.text[0]));
	}
	fd_close(&inflight.fd);
	vhost_user_close(&c);
	close(ends[1]);
}

/* --- rings --- */

#define MEMORY_BYTES 0x10000u
#define SIZE 16u
#define AVAIL 0x1000u
#define USED 0x2000u

static struct vhost_user_relay relay;
static struct iovec scratch[SIZE];

static void kick(struct virtio_device *v, unsigned queue)
{
	(void)v;
	(void)queue;
	(void)vhost_user_relay_take(&relay, scratch);
}

static const struct virtio_class relay_class = {
	.name = "relay", .n_queues = 1, .size = sizeof(struct virtio_device), .queue_size = SIZE, .kick = kick,
};

struct driver {
	struct mem_map mem;
	struct virtio_device *v;
	struct loop *loop;
	uint16_t n_offered, n_backend; /* of the driver; taken by an honest backend */
	uint8_t *rings;
};

static void start(struct driver *d)
{
	uint8_t zeroes[MEMORY_BYTES] = { 0 };
	MUST(mem_write(&d->mem, GPA(0), zeroes, sizeof zeroes));
	for (unsigned k = 0; k < SIZE; k++) {
		uint8_t b[16] = { 0 };
		put_le64(b, 0x4000 + k * 16);
		put_le32(b + 8, 16);
		put_le16(b + 12, 2);
		MUST(mem_write(&d->mem, GPA(16 * k), b, sizeof b));
	}
	d->n_offered = 0;
	virtio_set_status(d->v, 3);
	virtio_ack_features(d->v, 1, 1);
	virtio_set_status(d->v, 3 | VIRTIO_STATUS_FEATURES_OK);
	struct queue_config c = { .size = SIZE, .is_ready = true, .desc = 0, .avail = AVAIL, .used = USED };
	MUST(queue_setup(d->v, 0, &c));
	virtio_set_status(d->v, 3 | VIRTIO_STATUS_FEATURES_OK | VIRTIO_STATUS_DRIVER_OK);
}

static void attach(struct driver *d)
{
	vhost_user_relay_detach(&relay);
	memset(d->rings, 0, vhost_user_relay_bytes(SIZE));
	vhost_user_relay_attach(&relay, d->rings);
	d->n_backend = 0;
	MUST(get_le16(d->rings + 2) == relay.n_in_flight);
}

/* The rings of the backend: available first, used in the next page. */
static void give_back(struct driver *d, uint8_t which)
{
	uint8_t *avail = d->rings, *used = d->rings + 4096;
	if (d->n_backend == get_le16(avail + 2))
		return;
	uint16_t idx = get_le16(used + 2);
	memset(used + 4 + 8u * (idx % SIZE), 0, 8);
	put_le16(used + 4 + 8u * (idx % SIZE), which & 1 ? which >> 1 : get_le16(avail + 4 + 2u * (d->n_backend % SIZE)));
	put_le16(used + 2, (uint16_t)(idx + 1));
	d->n_backend++;
}

static void offer(struct driver *d, uint8_t head)
{
	uint8_t b[2];
	put_le16(b, head);
	MUST(mem_write(&d->mem, GPA(AVAIL + 4 + 2ull * (d->n_offered % SIZE)), b, 2));
	put_le16(b, ++d->n_offered);
	MUST(mem_write(&d->mem, GPA(AVAIL + 2), b, 2));
	virtio_kick(d->v, 0);
	for (int k = 0; k < 4; k++)
		(void)loop_run_once(d->loop, 0);
}

static void step(struct driver *d, struct input *in)
{
	uint8_t op = take8(in), value = take8(in);
	switch (op % 8) {
	case 0:
	case 1:
	case 2:
		offer(d, value % (SIZE + (op > 200)));
		break;
	case 3:
		give_back(d, value);
		break;
	case 4:
		if (vhost_user_relay_give_back(&relay) < 0)
			attach(d);
		break;
	case 5:
		d->rings[op & 8 ? value * 16u : 4096 + value] = take8(in);
		break;
	case 6:
		attach(d);
		break;
	default:
		virtio_set_status(d->v, 0);
		vhost_user_relay_forget(&relay);
		start(d);
		attach(d);
		break;
	}
	MUST(relay.n_in_flight <= SIZE && relay.n_in_flight == d->v->queues[0].n_in_flight);
}

static void rings(struct input *in)
{
	static struct loop *loop;
	struct driver d = { 0 };
	if (!loop)
		MUST(loop_new(&loop, NULL) == 0);
	d.loop = loop;
	mem_map_init(&d.mem);
	struct mem_region_params region = { .start = GPA(0), .n_bytes = MEMORY_BYTES };
	MUST(mem_map_add(&d.mem, &region, NULL) == 0);
	struct virtio_params p = { .id = "_fuzz0", .mem = &d.mem, .io_loop = loop };
	MUST(virtio_device_new(&relay_class, &p, NULL, &d.v, NULL) == 0);
	MUST(vhost_user_relay_init(&relay, d.v, 0, NULL) == 0);
	d.rings = calloc(1, vhost_user_relay_bytes(SIZE));
	MUST(d.rings);
	start(&d);
	attach(&d);
	while (in->n)
		step(&d, in);
	virtio_device_free(d.v);
	vhost_user_relay_done(&relay);
	free(d.rings);
	mem_map_done(&d.mem);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_bytes);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_bytes)
{
	struct input in = { data, n_bytes };
	uint8_t what = take8(&in);
	if (what & 1)
		rings(&in);
	else
		messages(&in, what & 2);
	return 0;
}
