/* SPDX-License-Identifier: Apache-2.0 */
/* Theory of operation.
 *
 * A message is a header (kind, flags, length of the payload, in the machine's byte order), a payload, and descriptors that
 * travel beside its first byte. One request is under way at a time: it is sent, and if it has an answer that is awaited,
 * so that whatever arrives at any other moment is a violation. What the backend asks has a socket of its own, which is
 * served meanwhile. With REPLY_ACK, which most backends have, every request has an answer, and a failure is known where it
 * happens. */
#include "backend/vhost_user.h"

#include "base/checked.h"
#include "base/cleanup.h"
#include "base/clock.h"

#include <assert.h>
#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

/* Front-end message types */
enum {
	GET_FEATURES = 1, SET_FEATURES = 2, SET_OWNER = 3, SET_MEM_TABLE = 5, SET_VRING_NUM = 8, SET_VRING_ADDR = 9,
	SET_VRING_BASE = 10, GET_VRING_BASE = 11, SET_VRING_KICK = 12, SET_VRING_CALL = 13, GET_PROTOCOL_FEATURES = 15,
	SET_PROTOCOL_FEATURES = 16, GET_QUEUE_NUM = 17, SET_VRING_ENABLE = 18, SET_BACKEND_REQ_FD = 21, GET_CONFIG = 24,
	SET_CONFIG = 25, GET_INFLIGHT_FD = 31, SET_INFLIGHT_FD = 32, GET_MAX_MEM_SLOTS = 36, ADD_MEM_REG = 37,
};

static const char *const names[] = {
	[GET_FEATURES] = "GET_FEATURES", [SET_FEATURES] = "SET_FEATURES", [SET_OWNER] = "SET_OWNER",
	[SET_MEM_TABLE] = "SET_MEM_TABLE", [SET_VRING_NUM] = "SET_VRING_NUM", [SET_VRING_ADDR] = "SET_VRING_ADDR",
	[SET_VRING_BASE] = "SET_VRING_BASE", [GET_VRING_BASE] = "GET_VRING_BASE", [SET_VRING_KICK] = "SET_VRING_KICK",
	[SET_VRING_CALL] = "SET_VRING_CALL", [GET_PROTOCOL_FEATURES] = "GET_PROTOCOL_FEATURES",
	[SET_PROTOCOL_FEATURES] = "SET_PROTOCOL_FEATURES", [GET_QUEUE_NUM] = "GET_QUEUE_NUM",
	[SET_VRING_ENABLE] = "SET_VRING_ENABLE", [SET_BACKEND_REQ_FD] = "SET_BACKEND_REQ_FD", [GET_CONFIG] = "GET_CONFIG",
	[SET_CONFIG] = "SET_CONFIG", [GET_INFLIGHT_FD] = "GET_INFLIGHT_FD", [SET_INFLIGHT_FD] = "SET_INFLIGHT_FD",
	[GET_MAX_MEM_SLOTS] = "GET_MAX_MEM_SLOTS", [ADD_MEM_REG] = "ADD_MEM_REG",
};

/* Header: flags */
#define VERSION 1u
#define VERSION_MASK 3u
#define FLAG_REPLY 4u
#define FLAG_NEED_REPLY 8u

struct header {
	uint32_t request, flags, size;
};

_Static_assert(sizeof(struct header) == 12, "as in messages");

struct vring_state {
	uint32_t index, num;
};

struct vring_addr {
	uint32_t index, flags;
	uint64_t desc, used, avail, log;
};

struct region {
	uint64_t gpa, size, user_address, mmap_offset;
};

struct mem_table {
	uint32_t n, padding;
	struct region regions[VHOST_USER_MAX_TABLE];
};

struct single_region {
	uint64_t padding;
	struct region region;
};

struct config {
	uint32_t offset, size, flags;
	uint8_t bytes[VHOST_USER_MAX_CONFIG_BYTES];
};

struct inflight {
	uint64_t mmap_size, mmap_offset;
	uint16_t n_queues, queue_size;
};

/* The fields; backends written in C send what C pads them to. */
#define INFLIGHT_BYTES 20u

#define MAX_MESSAGE_FDS 8u
/* For VIRTIO_MAX_QUEUES of the largest size that is 33 MiB. We do not map it, but what is absurd is not to go unsaid. */
#define MAX_INFLIGHT_BYTES (1ull << 30)

/* --- connecting ------------------------------------------------------------------------------------------------------- */

void vhost_user_init(struct vhost_user *c)
{
	*c = (struct vhost_user){ .fd = -1, .request_fd = -1 };
}

int vhost_user_connect(struct vhost_user *c, const char *path, struct err *e)
{
	struct sockaddr_un a = { .sun_family = AF_UNIX };
	size_t n = strlen(path);
	assert(c->fd < 0);
	if (n >= sizeof a.sun_path)
		return err_set(e, ENAMETOOLONG, "cannot connect to '%s': a socket's path has at most %zu bytes", path,
		               sizeof a.sun_path - 1);
	memcpy(a.sun_path, path, n);
	fd_scoped fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (fd < 0)
		return err_set_errno(e, errno, "cannot make a socket");
	if (connect(fd, (const struct sockaddr *)&a, sizeof a) < 0)
		return err_set_errno(e, errno, "cannot connect to '%s'", path);
	vhost_user_init(c);
	c->fd = fd_take(&fd);
	return 0;
}

void vhost_user_close(struct vhost_user *c)
{
	fd_close(&c->fd);
	fd_close(&c->request_fd);
	c->n_request_bytes = 0;
}

/* --- bytes and descriptors -------------------------------------------------------------------------------------------- */

static int wait_for(const struct vhost_user *c, struct pollfd *p, nfds_t n_fds)
{
	for (;;) {
		uint64_t now = clock_now_ns();
		if (now >= c->deadline_ns)
			return -ETIMEDOUT;
		int n = poll(p, n_fds, (int)min_u64((c->deadline_ns - now) / NS_PER_MS + 1, 60000));
		if (n > 0)
			return 0;
		if (n < 0 && errno != EINTR)
			return -errno;
	}
}

static void put_fds(struct msghdr *m, const int *fds, unsigned n_fds)
{
	m->msg_controllen = CMSG_SPACE(n_fds * sizeof *fds);
	struct cmsghdr *h = CMSG_FIRSTHDR(m);
	h->cmsg_level = SOL_SOCKET;
	h->cmsg_type = SCM_RIGHTS;
	h->cmsg_len = CMSG_LEN(n_fds * sizeof *fds);
	memcpy(CMSG_DATA(h), fds, n_fds * sizeof *fds);
}

/* The descriptors go with the first byte. */
static int send_bytes(const struct vhost_user *c, int fd, const void *bytes, size_t n_bytes, const int *fds, unsigned n_fds)
{
	union {
		struct cmsghdr align;
		uint8_t bytes[CMSG_SPACE(MAX_MESSAGE_FDS * sizeof(int))];
	} control = { 0 };
	assert(n_fds <= MAX_MESSAGE_FDS);
	for (size_t n_sent = 0; n_sent < n_bytes;) {
		struct iovec iov = { (void *)((uintptr_t)bytes + n_sent), n_bytes - n_sent };
		struct msghdr m = { .msg_iov = &iov, .msg_iovlen = 1 };
		if (n_fds && n_sent == 0) {
			m.msg_control = &control;
			m.msg_controllen = sizeof control;
			put_fds(&m, fds, n_fds);
		}
		ssize_t n = sendmsg(fd, &m, MSG_NOSIGNAL | MSG_DONTWAIT);
		if (n > 0)
			n_sent += (size_t)n;
		else if (n < 0 && errno != EAGAIN && errno != EINTR)
			return -errno;
		else if (n < 0 && errno == EAGAIN) {
			struct pollfd p = { .fd = fd, .events = POLLOUT };
			int rc = wait_for(c, &p, 1);
			if (rc < 0)
				return rc;
		}
	}
	return 0;
}

/* What came beside bytes; all of it is closed but the first, and that too when nobody wants it. */
static int take_fds(struct msghdr *m, int *ret_fd)
{
	bool is_wrong = (m->msg_flags & MSG_CTRUNC) != 0;
	for (struct cmsghdr *h = CMSG_FIRSTHDR(m); h; h = CMSG_NXTHDR(m, h)) {
		if (h->cmsg_level != SOL_SOCKET || h->cmsg_type != SCM_RIGHTS)
			continue;
		size_t n = (h->cmsg_len - CMSG_LEN(0)) / sizeof(int);
		for (size_t i = 0; i < n; i++) {
			int fd;
			memcpy(&fd, CMSG_DATA(h) + i * sizeof fd, sizeof fd);
			if (ret_fd && *ret_fd < 0) {
				*ret_fd = fd;
				continue;
			}
			is_wrong = true;
			fd_close(&fd);
		}
	}
	return is_wrong ? -EPROTO : 0;
}

/* As much as is there: the number of bytes, -EAGAIN, -EPIPE when the backend has gone, -EPROTO for descriptors that are not
 * expected. ret_fd, which is -1 before, takes one; NULL: none is. */
static ssize_t receive_some(int fd, void *ret_bytes, size_t n_bytes, int *ret_fd)
{
	union {
		struct cmsghdr align;
		uint8_t bytes[CMSG_SPACE(MAX_MESSAGE_FDS * sizeof(int))];
	} control;
	struct iovec iov = { ret_bytes, n_bytes };
	struct msghdr m = {
		.msg_iov = &iov, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control,
	};
	ssize_t n = recvmsg(fd, &m, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
	if (n < 0)
		return errno == EINTR ? -EAGAIN : -errno;
	int rc = take_fds(&m, ret_fd);
	if (rc < 0)
		return rc;
	return n == 0 ? -EPIPE : n;
}

/* Some backends ask and await our answer before they give theirs. */
static int wait_for_answer(struct vhost_user *c)
{
	struct pollfd p[] = { { .fd = c->fd, .events = POLLIN }, { .fd = c->request_fd, .events = POLLIN } };
	struct err why = { 0 };
	int rc = wait_for(c, p, 2);
	if (rc >= 0 && p[1].revents && vhost_user_serve(c, &why) < 0)
		rc = -EBADMSG;
	return rc;
}

static int receive(struct vhost_user *c, void *ret_bytes, size_t n_bytes, int *ret_fd)
{
	for (size_t n_got = 0; n_got < n_bytes;) {
		ssize_t n = receive_some(c->fd, (uint8_t *)ret_bytes + n_got, n_bytes - n_got, ret_fd);
		if (n > 0) {
			n_got += (size_t)n;
			continue;
		}
		int rc = n == -EAGAIN ? wait_for_answer(c) : (int)n;
		if (rc < 0)
			return rc;
	}
	return 0;
}

/* --- requests and answers --------------------------------------------------------------------------------------------- */

struct request {
	uint32_t what;
	const void *payload;
	size_t n_bytes;
	const int *fds;
	unsigned n_fds;
};

struct answer {
	void *payload;
	size_t n_min, n_max; /* bytes that it may have */
	size_t n_bytes;      /* that it had */
	int *fd;             /* one may come along; NULL: none may */
};

static int failed(uint32_t what, int rc, struct err *e)
{
	if (rc == -ETIMEDOUT)
		return err_set(e, ETIMEDOUT, "%s: the backend does not answer", names[what]);
	if (rc == -EPIPE || rc == -ECONNRESET)
		return err_set(e, EPIPE, "%s: the backend has closed the connection", names[what]);
	if (rc == -EPROTO)
		return err_set(e, EPROTO, "%s: the backend sends descriptors that are not wanted", names[what]);
	return err_set_errno(e, -rc, "%s", names[what]);
}

static int send_request(struct vhost_user *c, const struct request *q, uint32_t flags, struct err *e)
{
	uint8_t message[sizeof(struct header) + sizeof(struct mem_table) + sizeof(struct config)];
	struct header h = { .request = q->what, .flags = VERSION | flags, .size = (uint32_t)q->n_bytes };
	assert(sizeof h + q->n_bytes <= sizeof message);
	memcpy(message, &h, sizeof h);
	if (q->n_bytes)
		memcpy(message + sizeof h, q->payload, q->n_bytes);
	int rc = send_bytes(c, c->fd, message, sizeof h + q->n_bytes, q->fds, q->n_fds);
	return rc < 0 ? failed(q->what, rc, e) : 0;
}

static int receive_answer(struct vhost_user *c, uint32_t what, struct answer *a, struct err *e)
{
	struct header h;
	fd_scoped fd = -1;
	int rc = receive(c, &h, sizeof h, a->fd ? &fd : NULL);
	if (rc < 0)
		return failed(what, rc, e);
	if (h.request != what || (h.flags & VERSION_MASK) != VERSION || !(h.flags & FLAG_REPLY))
		return err_set(e, EPROTO, "%s: the backend answers with message %u, flags 0x%x", names[what], h.request, h.flags);
	if (h.size < a->n_min || h.size > a->n_max)
		return err_set(e, EPROTO, "%s: the backend answers with %u bytes", names[what], h.size);
	rc = receive(c, a->payload, h.size, a->fd ? &fd : NULL);
	if (rc < 0)
		return failed(what, rc, e);
	a->n_bytes = h.size;
	if (a->fd)
		*a->fd = fd_take(&fd);
	return 0;
}

/* A request with an answer of its own. */
static int ask(struct vhost_user *c, const struct request *q, struct answer *a, struct err *e)
{
	int rc = send_request(c, q, 0, e);
	return rc < 0 ? rc : receive_answer(c, q->what, a, e);
}

/* A request without one: whether it worked is known with REPLY_ACK only. */
static int tell(struct vhost_user *c, const struct request *q, struct err *e)
{
	bool is_answered = (c->protocol_features & VHOST_USER_PROTOCOL_F_REPLY_ACK) != 0;
	int rc = send_request(c, q, is_answered ? FLAG_NEED_REPLY : 0, e);
	if (rc < 0 || !is_answered)
		return rc;
	uint64_t result;
	struct answer a = { .payload = &result, .n_min = sizeof result, .n_max = sizeof result };
	rc = receive_answer(c, q->what, &a, e);
	if (rc >= 0 && result != 0)
		rc = err_set(e, EPROTO, "%s: the backend refuses", names[q->what]);
	return rc;
}

static int get_u64(struct vhost_user *c, uint32_t what, uint64_t *ret_v, struct err *e)
{
	uint64_t v;
	struct request q = { .what = what };
	struct answer a = { .payload = &v, .n_min = sizeof v, .n_max = sizeof v };
	int rc = ask(c, &q, &a, e);
	if (rc >= 0)
		*ret_v = v;
	return rc;
}

static int set_u64(struct vhost_user *c, uint32_t what, uint64_t v, struct err *e)
{
	struct request q = { .what = what, .payload = &v, .n_bytes = sizeof v };
	return tell(c, &q, e);
}

/* --- the device ------------------------------------------------------------------------------------------------------- */

int vhost_user_negotiate(struct vhost_user *c, uint64_t wanted_protocol_features, struct err *e)
{
	uint64_t offered = 0;
	struct request owner = { .what = SET_OWNER };
	c->protocol_features = 0;
	int rc = get_u64(c, GET_FEATURES, &c->features, e);
	if (rc >= 0 && !(c->features & VHOST_USER_F_PROTOCOL_FEATURES))
		rc = err_set(e, EPROTO, "the backend is too old: it has no protocol features");
	if (rc >= 0)
		rc = get_u64(c, GET_PROTOCOL_FEATURES, &offered, e);
	if (rc >= 0)
		rc = set_u64(c, SET_PROTOCOL_FEATURES, offered & wanted_protocol_features, e);
	if (rc >= 0) {
		c->protocol_features = offered & wanted_protocol_features;
		rc = tell(c, &owner, e);
	}
	return rc;
}

int vhost_user_queue_num(struct vhost_user *c, uint64_t *ret_n, struct err *e)
{
	*ret_n = 1;
	return c->protocol_features & VHOST_USER_PROTOCOL_F_MQ ? get_u64(c, GET_QUEUE_NUM, ret_n, e) : 0;
}

int vhost_user_get_config(struct vhost_user *c, void *ret_space, uint32_t n_bytes, struct err *e)
{
	struct config want = { .size = n_bytes }, got;
	assert(n_bytes <= sizeof want.bytes);
	size_t n = offsetof(struct config, bytes) + n_bytes;
	struct request q = { .what = GET_CONFIG, .payload = &want, .n_bytes = n };
	struct answer a = { .payload = &got, .n_min = 0, .n_max = n };
	int rc = ask(c, &q, &a, e);
	if (rc < 0)
		return rc;
	if (a.n_bytes != n || got.offset != 0 || got.size != n_bytes)
		return err_set(e, EPROTO, "GET_CONFIG: the backend has no configuration space of %u bytes", n_bytes);
	memcpy(ret_space, got.bytes, n_bytes);
	return 0;
}

int vhost_user_set_config(struct vhost_user *c, uint32_t offset, const void *bytes, uint32_t n_bytes, struct err *e)
{
	struct config to = { .offset = offset, .size = n_bytes };
	assert(n_bytes <= sizeof to.bytes);
	memcpy(to.bytes, bytes, n_bytes);
	struct request q = { .what = SET_CONFIG, .payload = &to, .n_bytes = offsetof(struct config, bytes) + n_bytes };
	return tell(c, &q, e);
}

int vhost_user_set_features(struct vhost_user *c, uint64_t features, struct err *e)
{
	return set_u64(c, SET_FEATURES, features, e);
}

static struct region region_of(const struct vhost_user_region *r)
{
	return (struct region){
		.gpa = r->gpa, .size = r->n_bytes, .user_address = r->user_address, .mmap_offset = r->fd_offset,
	};
}

static int add_regions(struct vhost_user *c, const struct vhost_user_region *regions, size_t n, struct err *e)
{
	uint64_t n_slots;
	if (!(c->protocol_features & VHOST_USER_PROTOCOL_F_CONFIGURE_MEM_SLOTS))
		return err_set(e, EPROTO, "the backend knows at most %u regions of memory, and there are %zu",
		               VHOST_USER_MAX_TABLE, n);
	int rc = get_u64(c, GET_MAX_MEM_SLOTS, &n_slots, e);
	if (rc >= 0 && n_slots < n)
		rc = err_set(e, EPROTO, "the backend knows at most %llu regions of memory, and there are %zu",
		             (unsigned long long)n_slots, n);
	for (size_t i = 0; rc >= 0 && i < n; i++) {
		struct single_region one = { .region = region_of(&regions[i]) };
		struct request q = {
			.what = ADD_MEM_REG, .payload = &one, .n_bytes = sizeof one, .fds = &regions[i].fd, .n_fds = 1,
		};
		rc = tell(c, &q, e);
	}
	return rc;
}

int vhost_user_set_memory(struct vhost_user *c, const struct vhost_user_region *regions, size_t n, struct err *e)
{
	struct mem_table table = { .n = (uint32_t)n };
	int fds[VHOST_USER_MAX_TABLE];
	if (n > VHOST_USER_MAX_TABLE)
		return add_regions(c, regions, n, e);
	for (size_t i = 0; i < n; i++) {
		table.regions[i] = region_of(&regions[i]);
		fds[i] = regions[i].fd;
	}
	struct request q = {
		.what = SET_MEM_TABLE,
		.payload = &table,
		.n_bytes = offsetof(struct mem_table, regions) + n * sizeof table.regions[0],
		.fds = fds,
		.n_fds = (unsigned)n,
	};
	return tell(c, &q, e);
}

int vhost_user_get_inflight(struct vhost_user *c, uint16_t n_queues, uint16_t queue_size,
                            struct vhost_user_inflight *ret_i, struct err *e)
{
	struct inflight want = { .n_queues = n_queues, .queue_size = queue_size }, got = { 0 };
	fd_scoped fd = -1;
	struct request q = { .what = GET_INFLIGHT_FD, .payload = &want, .n_bytes = sizeof want };
	struct answer a = { .payload = &got, .n_min = INFLIGHT_BYTES, .n_max = sizeof got, .fd = &fd };
	int rc = ask(c, &q, &a, e);
	if (rc < 0)
		return rc;
	if (fd < 0 || got.mmap_size == 0 || got.mmap_size > MAX_INFLIGHT_BYTES || got.n_queues != n_queues ||
	    got.queue_size != queue_size)
		return err_set(e, EPROTO, "GET_INFLIGHT_FD: the backend answers with %llu bytes for %u queues of %u%s",
		               (unsigned long long)got.mmap_size, got.n_queues, got.queue_size,
		               fd < 0 ? ", and no descriptor" : "");
	*ret_i = (struct vhost_user_inflight){
		.fd = fd_take(&fd), .offset = got.mmap_offset, .n_bytes = got.mmap_size, .n_queues = n_queues,
		.queue_size = queue_size,
	};
	return 0;
}

int vhost_user_set_inflight(struct vhost_user *c, const struct vhost_user_inflight *i, struct err *e)
{
	struct inflight to = {
		.mmap_size = i->n_bytes, .mmap_offset = i->offset, .n_queues = i->n_queues, .queue_size = i->queue_size,
	};
	struct request q = { .what = SET_INFLIGHT_FD, .payload = &to, .n_bytes = sizeof to, .fds = &i->fd, .n_fds = 1 };
	return tell(c, &q, e);
}

/* --- rings ------------------------------------------------------------------------------------------------------------ */

static int set_state(struct vhost_user *c, uint32_t what, unsigned index, uint32_t num, struct err *e)
{
	struct vring_state s = { .index = index, .num = num };
	struct request q = { .what = what, .payload = &s, .n_bytes = sizeof s };
	return tell(c, &q, e);
}

static int set_fd(struct vhost_user *c, uint32_t what, unsigned index, int fd, struct err *e)
{
	uint64_t v = index;
	struct request q = { .what = what, .payload = &v, .n_bytes = sizeof v, .fds = &fd, .n_fds = 1 };
	return tell(c, &q, e);
}

int vhost_user_start_ring(struct vhost_user *c, const struct vhost_user_ring *r, struct err *e)
{
	struct vring_addr a = { .index = r->index, .desc = r->desc, .used = r->used, .avail = r->avail };
	struct request address = { .what = SET_VRING_ADDR, .payload = &a, .n_bytes = sizeof a };
	assert(r->index < 256); /* set_fd(): bits 0 to 7 */
	int rc = set_state(c, SET_VRING_NUM, r->index, r->size, e);
	if (rc >= 0)
		rc = set_state(c, SET_VRING_BASE, r->index, r->base, e);
	if (rc >= 0)
		rc = tell(c, &address, e);
	if (rc >= 0)
		rc = set_fd(c, SET_VRING_CALL, r->index, r->call_fd, e);
	if (rc >= 0)
		rc = set_fd(c, SET_VRING_KICK, r->index, r->kick_fd, e);
	if (rc >= 0)
		rc = set_state(c, SET_VRING_ENABLE, r->index, 1, e);
	return rc;
}

int vhost_user_stop_ring(struct vhost_user *c, unsigned index, uint16_t *ret_base, struct err *e)
{
	struct vring_state which = { .index = index }, got;
	struct request q = { .what = GET_VRING_BASE, .payload = &which, .n_bytes = sizeof which };
	struct answer a = { .payload = &got, .n_min = sizeof got, .n_max = sizeof got };
	int rc = ask(c, &q, &a, e);
	if (rc < 0)
		return rc;
	if (got.index != index || got.num > UINT16_MAX)
		return err_set(e, EPROTO, "GET_VRING_BASE: the backend answers with index %u of ring %u", got.num, got.index);
	*ret_base = (uint16_t)got.num;
	return 0;
}

/* --- what the backend asks -------------------------------------------------------------------------------------------- */

int vhost_user_open_requests(struct vhost_user *c, struct err *e)
{
	int ends[2];
	if (!(c->protocol_features & VHOST_USER_PROTOCOL_F_BACKEND_REQ))
		return 0;
	/* Theirs may block: that is what backends expect. */
	if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) < 0)
		return err_set_errno(e, errno, "cannot make a pair of sockets");
	fd_scoped ours = ends[0], theirs = ends[1];
	struct request q = { .what = SET_BACKEND_REQ_FD, .fds = &theirs, .n_fds = 1 };
	int rc = tell(c, &q, e);
	if (rc >= 0)
		c->request_fd = fd_take(&ours);
	return rc;
}

static int more_of_request(struct vhost_user *c, size_t n_wanted, struct err *e)
{
	while (c->n_request_bytes < n_wanted) {
		ssize_t n = receive_some(c->request_fd, c->request + c->n_request_bytes, n_wanted - c->n_request_bytes, NULL);
		if (n == -EAGAIN)
			return 0;
		if (n < 0)
			return err_set_errno(e, (int)-n, "cannot read the backend's requests");
		c->n_request_bytes += (unsigned)n;
	}
	return 1;
}

/* 1: a request; 0: none is whole yet. */
static int take_request(struct vhost_user *c, uint32_t *ret_request, struct err *e)
{
	struct header h;
	int rc = more_of_request(c, sizeof h, e);
	if (rc <= 0)
		return rc;
	memcpy(&h, c->request, sizeof h);
	if ((h.flags & VERSION_MASK) != VERSION || (h.flags & FLAG_REPLY) || h.size > sizeof c->request - sizeof h)
		return err_set(e, EPROTO, "the backend asks with message %u, flags 0x%x, %u bytes", h.request, h.flags, h.size);
	rc = more_of_request(c, sizeof h + h.size, e);
	if (rc <= 0)
		return rc;
	c->n_request_bytes = 0;
	*ret_request = h.request;
	return 1;
}

/* The request that was taken last, if an answer is wanted. */
static int answer_request(struct vhost_user *c, uint64_t value, struct err *e)
{
	struct header h;
	uint8_t message[sizeof h + sizeof value];
	memcpy(&h, c->request, sizeof h);
	if (!(h.flags & FLAG_NEED_REPLY) || !(c->protocol_features & VHOST_USER_PROTOCOL_F_REPLY_ACK))
		return 0;
	h.flags = VERSION | FLAG_REPLY;
	h.size = sizeof value;
	memcpy(message, &h, sizeof h);
	memcpy(message + sizeof h, &value, sizeof value);
	int rc = send_bytes(c, c->request_fd, message, sizeof message, NULL, 0);
	return rc < 0 ? err_set_errno(e, -rc, "cannot answer the backend's request") : 0;
}

int vhost_user_serve(struct vhost_user *c, struct err *e)
{
	uint32_t request;
	int rc = take_request(c, &request, e);
	if (rc <= 0)
		return rc;
	rc = answer_request(c, c->on_request ? c->on_request(c, request) : 1, e);
	return rc < 0 ? rc : 1;
}
