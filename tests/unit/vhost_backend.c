/* SPDX-License-Identifier: Apache-2.0 */
/* Spec: QEMU's docs/interop/vhost-user.rst; of in-flight descriptions the layout for split virtqueues. */
#include "vhost_backend.h"

#include "base/bytes.h"
#include "base/checked.h"
#include "base/cleanup.h"
#include "base/clock.h"
#include "test.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdatomic.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define USUAL_FEATURES (1ull << 32 | 1ull << 30 | 1ull << 28 | 1ull << 12 | 1ull << 11 | 1ull << 9 | 1ull << 6 | 1ull << 2 | \
                        1ull << 1) /* SIZE_MAX, and its field stays 0 */
#define USUAL_PROTOCOL_FEATURES (1ull << 0 | 1ull << 3 | 1ull << 5 | 1ull << 9)
#define PROTOCOL_INFLIGHT (1ull << 12)
#define MAX_PAYLOAD 512u
#define RELEASE_AFTER_NS (50 * NS_PER_MS)

struct message {
	uint32_t request, flags, size;
	uint8_t payload[MAX_PAYLOAD];
};

/* --- requests of the disk --------------------------------------------------------------------------------------------- */

static uint8_t *at_gpa(struct vhost_backend *b, uint64_t gpa, uint32_t n_bytes)
{
	for (unsigned i = 0; i < b->n_regions; i++) {
		struct vhost_backend_region *r = &b->regions[i];
		if (gpa >= r->gpa && gpa - r->gpa <= r->n_bytes && n_bytes <= r->n_bytes - (gpa - r->gpa))
			return r->host + (gpa - r->gpa);
	}
	test_fail(__FILE__, __LINE__, "the backend is given the address 0x%llx", (unsigned long long)gpa);
}

static uint8_t *at_user(struct vhost_backend *b, uint64_t address)
{
	for (unsigned i = 0; i < b->n_regions; i++) {
		struct vhost_backend_region *r = &b->regions[i];
		if (address >= r->user_address && address - r->user_address < r->n_bytes)
			return r->host + (address - r->user_address);
	}
	test_fail(__FILE__, __LINE__, "the backend is given a ring at 0x%llx", (unsigned long long)address);
}

static uint16_t load(const uint8_t *p)
{
	return __atomic_load_n((const uint16_t *)(const void *)p, __ATOMIC_ACQUIRE);
}

static void store(uint8_t *p, uint16_t v)
{
	__atomic_store_n((uint16_t *)(void *)p, v, __ATOMIC_RELEASE);
}

static void call(struct vhost_backend_queue *q)
{
	uint64_t one = 1;
	if (q->call_fd >= 0)
		(void)!write(q->call_fd, &one, sizeof one);
}

/* The account (QueueRegionSplit): 16 bytes, then 16 for each descriptor: inflight at 0, counter at 8. */
static void note(struct vhost_backend_queue *q, uint16_t head, bool is_in_flight)
{
	if (!q->inflight)
		return;
	uint8_t *d = q->inflight + 16 + 16u * head;
	if (is_in_flight) {
		put_le64(d + 8, q->counter++);
		d[0] = 1;
		return;
	}
	d[0] = 0;
	put_le16(q->inflight + 14, q->n_used);
}

static void give_back(struct vhost_backend *b, struct vhost_backend_queue *q, uint16_t head, uint32_t n_written)
{
	uint8_t *e = q->used + 4 + 8u * (q->n_used % q->size);
	put_le32(e, b->lies ? head + 1u : head);
	put_le32(e + 4, n_written);
	q->n_used++;
	store(q->used + 2, q->n_used);
	note(q, head, false);
	if (!b->is_mute)
		call(q);
}

/* Header, data, status: 5.2.6. Each buffer in a descriptor of its own. */
static void do_request(struct vhost_backend *b, struct vhost_backend_queue *q, uint16_t head)
{
	const uint8_t *d = q->desc + 16u * head;
	const uint8_t *header = at_gpa(b, get_le64(d), 16);
	uint32_t type = get_le32(header), n_written = 1;
	uint64_t at = get_le64(header + 8) * 512;
	for (;;) {
		OK(get_le16(d + 12) & 1);
		d = q->desc + 16u * get_le16(d + 14);
		uint32_t n = get_le32(d + 8);
		uint8_t *data = at_gpa(b, get_le64(d), n);
		if (!(get_le16(d + 12) & 1)) {
			*data = 0;
			break;
		}
		OK(at + n <= b->how.n_sectors * 512);
		if (type == 0) {
			memcpy(data, b->disk + at, n);
			n_written += n;
		} else if (type == 1) {
			memcpy(b->disk + at, data, n);
		}
		at += n;
	}
	b->n_done++;
	give_back(b, q, head, n_written);
}

static void take(struct vhost_backend *b, struct vhost_backend_queue *q, uint16_t head)
{
	OK(head < q->size);
	uint64_t sector = get_le64(at_gpa(b, get_le64(q->desc + 16u * head), 16) + 8);
	note(q, head, true);
	if (sector >= b->held_from) {
		q->held[q->n_held++] = head;
		b->n_held++;
	} else {
		do_request(b, q, head);
	}
}

static void run_queue(struct vhost_backend *b, struct vhost_backend_queue *q)
{
	uint64_t n;
	(void)!read(q->kick_fd, &n, sizeof n);
	while (!q->is_stopped && q->n_next_avail != load(q->avail + 2)) {
		uint16_t head = get_le16(q->avail + 4 + 2u * (q->n_next_avail++ % q->size));
		take(b, q, head);
	}
}

static void release(struct vhost_backend *b)
{
	for (unsigned i = 0; i < VHOST_BACKEND_MAX_QUEUES; i++) {
		struct vhost_backend_queue *q = &b->queues[i];
		while (q->n_held) /* the last first */
			do_request(b, q, q->held[--q->n_held]);
	}
	b->release_ns = 0;
}

/* What the last one had in flight, in the order of its counters. */
static void resubmit(struct vhost_backend *b, struct vhost_backend_queue *q)
{
	uint16_t heads[VHOST_BACKEND_MAX_SIZE], n = 0;
	q->n_used = load(q->used + 2);
	if (get_le16(q->inflight + 8) == 0) { /* a new account */
		put_le16(q->inflight + 8, 1);
		return;
	}
	EQ(q->n_next_avail, q->n_used); /* where the front end has to let it begin */
	for (unsigned i = 0; i < q->size; i++) {
		if (!q->inflight[16 + 16 * i])
			continue;
		uint16_t at = n++;
		uint64_t counter = get_le64(q->inflight + 24 + 16 * i);
		for (; at > 0 && get_le64(q->inflight + 24 + 16u * heads[at - 1]) > counter; at--)
			heads[at] = heads[at - 1];
		heads[at] = (uint16_t)i;
		q->counter = max_u64(q->counter, counter + 1);
	}
	q->n_next_avail = (uint16_t)(q->n_used + n);
	for (unsigned i = 0; i < n; i++)
		take(b, q, heads[i]);
}

/* --- messages --------------------------------------------------------------------------------------------------------- */

static void send_fd(int fd, const void *bytes, size_t n, int passed)
{
	union {
		struct cmsghdr h;
		uint8_t bytes[CMSG_SPACE(sizeof passed)];
	} control = { 0 };
	struct iovec iov = { (void *)(uintptr_t)bytes, n };
	struct msghdr m = { .msg_iov = &iov, .msg_iovlen = 1 };
	if (passed >= 0) {
		m.msg_control = &control;
		m.msg_controllen = sizeof control;
		struct cmsghdr *h = CMSG_FIRSTHDR(&m);
		h->cmsg_level = SOL_SOCKET;
		h->cmsg_type = SCM_RIGHTS;
		h->cmsg_len = CMSG_LEN(sizeof passed);
		memcpy(CMSG_DATA(h), &passed, sizeof passed);
	}
	(void)!sendmsg(fd, &m, MSG_NOSIGNAL);
}

/* False: the connection is to end. */
static bool answer(struct vhost_backend *b, struct message *m, const void *payload, uint32_t n_bytes, int fd)
{
	enum vhost_backend_wrong wrong = b->how.wrong_request == m->request ? b->how.wrong : ANSWER_RIGHT;
	uint8_t bytes[12 + 2 * MAX_PAYLOAD] = { 0 };
	memcpy(bytes + 12, payload, n_bytes);
	if (wrong == ANSWER_SHORT)
		n_bytes--;
	if (wrong == ANSWER_LONG)
		n_bytes += 8;
	if (wrong == ANSWER_OTHER_VALUE)
		memset(bytes + 12, 0xff, n_bytes);
	put_le32(bytes, m->request + (wrong == ANSWER_OTHER_REQUEST));
	put_le32(bytes + 4, wrong == ANSWER_NOT_A_REPLY ? 1 : 5);
	put_le32(bytes + 8, wrong == ANSWER_HUGE ? UINT32_MAX : n_bytes);
	if (wrong == ANSWER_NEVER)
		return true;
	if (wrong == ANSWER_HANG_UP)
		return false;
	send_fd(b->fd, bytes, 12 + n_bytes, wrong == ANSWER_WITH_FD ? b->stop_fd : fd);
	return true;
}

static bool answer_u64(struct vhost_backend *b, struct message *m, uint64_t v)
{
	return answer(b, m, &v, sizeof v, -1);
}

static void fill_config(const struct vhost_backend *b, uint8_t *space)
{
	put_le64(space, b->how.n_sectors);
	put_le32(space + 12, b->how.seg_max);
	put_le32(space + 36, b->how.discard_max);
	put_le32(space + 20, 512);
	space[32] = 1;
	put_le16(space + 34, 99); /* which is not what the driver is to see */
}

static void set_memory(struct vhost_backend *b, struct message *m, int *fds, unsigned n_fds)
{
	uint32_t n = get_le32(m->payload);
	OK(n <= 8 && n == n_fds);
	for (unsigned i = 0; i < b->n_regions; i++)
		(void)munmap(b->regions[i].host, b->regions[i].n_bytes);
	for (unsigned i = 0; i < n; i++) {
		const uint8_t *p = m->payload + 8 + 32 * i;
		struct vhost_backend_region *r = &b->regions[i];
		r->gpa = get_le64(p);
		r->n_bytes = get_le64(p + 8);
		r->user_address = get_le64(p + 16);
		OK(fcntl(fds[i], F_GET_SEALS) & F_SEAL_SHRINK); /* else we could end the VM */
		r->host = mmap(NULL, r->n_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fds[i], (off_t)get_le64(p + 24));
		OK(r->host != MAP_FAILED);
	}
	b->n_regions = n;
}

/* Not twice: as backends do, and more than the table holds. */
static bool add_memory(struct vhost_backend *b, struct message *m, int fd)
{
	const uint8_t *p = m->payload + 8;
	struct vhost_backend_region *r = &b->regions[b->n_regions];
	OK(b->n_regions < sizeof b->regions / sizeof *b->regions);
	for (unsigned i = 0; i < b->n_regions; i++) {
		if (b->regions[i].gpa == get_le64(p)) {
			b->n_refused_regions++;
			return false;
		}
	}
	*r = (struct vhost_backend_region){ get_le64(p), get_le64(p + 8), get_le64(p + 16), NULL };
	r->host = mmap(NULL, r->n_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, (off_t)get_le64(p + 24));
	OK(r->host != MAP_FAILED);
	b->n_regions++;
	return true;
}

static size_t account_bytes(unsigned queue_size)
{
	return align_up(16 + 16 * (size_t)queue_size, 64);
}

static bool get_inflight(struct vhost_backend *b, struct message *m)
{
	unsigned n_queues = get_le16(m->payload + 16), size = get_le16(m->payload + 18);
	fd_scoped fd = memfd_create("inflight", MFD_CLOEXEC);
	OK(m->size == 24 && ftruncate(fd, (off_t)(account_bytes(size) * n_queues)) == 0);
	put_le64(m->payload, account_bytes(size) * n_queues);
	return answer(b, m, m->payload, 24, fd);
}

static void set_inflight(struct vhost_backend *b, struct message *m, int fd)
{
	unsigned n_queues = get_le16(m->payload + 16), size = get_le16(m->payload + 18);
	if (b->inflight)
		(void)munmap(b->inflight, b->n_inflight_bytes);
	b->n_inflight_bytes = get_le64(m->payload);
	b->inflight = mmap(NULL, b->n_inflight_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, (off_t)get_le64(m->payload + 8));
	OK(b->inflight != MAP_FAILED && n_queues <= VHOST_BACKEND_MAX_QUEUES);
	for (unsigned i = 0; i < n_queues; i++)
		b->queues[i].inflight = b->inflight + i * account_bytes(size);
}

static void set_addresses(struct vhost_backend *b, struct message *m)
{
	struct vhost_backend_queue *q = &b->queues[get_le32(m->payload)];
	q->desc = at_user(b, get_le64(m->payload + 8));
	q->used = at_user(b, get_le64(m->payload + 16));
	q->avail = at_user(b, get_le64(m->payload + 24));
}

/* False, without the account that was promised: as libvhost-user does. */
static bool set_kick(struct vhost_backend *b, unsigned index, int fd)
{
	struct vhost_backend_queue *q = &b->queues[index];
	if ((b->protocol_features & PROTOCOL_INFLIGHT) && !q->inflight)
		return false;
	fd_close(&q->kick_fd);
	q->kick_fd = dup(fd);
	if (b->how.blocks) /* as those do that wait by reading */
		OK(fcntl(q->kick_fd, F_SETFL, 0) == 0 && fcntl(q->call_fd, F_SETFL, 0) == 0);
	q->is_stopped = false;
	q->n_used = load(q->used + 2);
	if (q->inflight)
		resubmit(b, q);
	return true;
}

static void say_config_change(struct vhost_backend *b);

static bool get_base(struct vhost_backend *b, struct message *m)
{
	struct vhost_backend_queue *q = &b->queues[get_le32(m->payload)];
	uint8_t state[8];
	q->is_stopped = true;
	fd_close(&q->kick_fd);
	fd_close(&q->call_fd);
	put_le32(state, get_le32(m->payload));
	put_le32(state + 4, q->n_next_avail);
	if (b->asks_at_stop)
		say_config_change(b);
	if (b->releases_at_stop)
		b->release_ns = clock_now_ns() + RELEASE_AFTER_NS;
	return answer(b, m, state, sizeof state, -1);
}

static bool get_config(struct vhost_backend *b, struct message *m)
{
	OK(m->size == 12 + 60 && get_le32(m->payload) == 0 && get_le32(m->payload + 4) == 60);
	fill_config(b, m->payload + 12);
	b->n_given_configs++;
	while (b->holds_config)
		test_sleep_us(1000);
	return answer(b, m, m->payload, m->size, -1);
}

static bool acknowledge(struct vhost_backend *b, struct message *m)
{
	return m->flags & 8 ? answer_u64(b, m, 0) : true;
}

static bool handle(struct vhost_backend *b, struct message *m, int *fds, unsigned n_fds)
{
	uint32_t index = get_le32(m->payload);
	struct vhost_backend_queue *q = &b->queues[index < VHOST_BACKEND_MAX_QUEUES ? index : 0];
	uint64_t inflight = b->how.has_inflight ? PROTOCOL_INFLIGHT : 0;
	if (b->slow_request == m->request)
		test_sleep_us(1000 * b->slow_ms);
	switch (m->request) {
	case 1:
		return answer_u64(b, m, b->how.features ? b->how.features : USUAL_FEATURES);
	case 2:
		b->driver_features = get_le64(m->payload);
		break;
	case 5:
		set_memory(b, m, fds, n_fds);
		break;
	case 8:
		q->size = get_le32(m->payload + 4);
		break;
	case 9:
		set_addresses(b, m);
		break;
	case 10:
		q->n_next_avail = (uint16_t)get_le32(m->payload + 4);
		break;
	case 11:
		return get_base(b, m);
	case 12:
		if (!set_kick(b, index, fds[0]))
			return false;
		break;
	case 13:
		fd_close(&q->call_fd);
		q->call_fd = dup(fds[0]);
		break;
	case 15:
		return answer_u64(b, m, (b->how.protocol_features ? b->how.protocol_features : USUAL_PROTOCOL_FEATURES) | inflight);
	case 16:
		b->protocol_features = get_le64(m->payload);
		break;
	case 17:
		return answer_u64(b, m, b->how.n_queues);
	case 21:
		fd_close(&b->request_fd);
		b->request_fd = dup(fds[0]);
		break;
	case 24:
		return get_config(b, m);
	case 25:
		OK(get_le32(m->payload) == 32 && get_le32(m->payload + 4) == 1);
		b->writeback = m->payload[12];
		break;
	case 31:
		return get_inflight(b, m);
	case 32:
		set_inflight(b, m, fds[0]);
		break;
	case 36:
		return answer_u64(b, m, sizeof b->regions / sizeof *b->regions);
	case 37:
		return answer_u64(b, m, !add_memory(b, m, fds[0]));
	default:
		break;
	}
	return acknowledge(b, m);
}

/* False when the connection has ended. */
static bool receive(struct vhost_backend *b)
{
	struct message m = { 0 };
	int fds[8];
	unsigned n_fds = 0;
	union {
		struct cmsghdr h;
		uint8_t bytes[CMSG_SPACE(sizeof fds)];
	} control;
	struct iovec iov = { &m, 12 };
	struct msghdr h = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control };
	if (recvmsg(b->fd, &h, MSG_WAITALL | MSG_CMSG_CLOEXEC) != 12)
		return false;
	struct cmsghdr *c = CMSG_FIRSTHDR(&h);
	if (c) {
		n_fds = (unsigned)((c->cmsg_len - CMSG_LEN(0)) / sizeof(int));
		memcpy(fds, CMSG_DATA(c), n_fds * sizeof(int));
	}
	OK(m.size <= MAX_PAYLOAD && (m.flags & 3) == 1);
	bool is_well = m.size == 0 || recv(b->fd, m.payload, m.size, MSG_WAITALL) == (ssize_t)m.size;
	if (is_well)
		is_well = handle(b, &m, fds, n_fds);
	for (unsigned i = 0; i < n_fds; i++)
		close(fds[i]);
	return is_well;
}

/* --- life ------------------------------------------------------------------------------------------------------------- */

static void forget_connection(struct vhost_backend *b)
{
	fd_close(&b->fd);
	fd_close(&b->request_fd);
	for (unsigned i = 0; i < VHOST_BACKEND_MAX_QUEUES; i++) {
		struct vhost_backend_queue *q = &b->queues[i];
		fd_close(&q->old_kick_fd);
		fd_close(&q->old_call_fd);
		*q = (struct vhost_backend_queue){
			.kick_fd = -1, .call_fd = -1, .old_kick_fd = q->kick_fd, .old_call_fd = q->call_fd,
		};
	}
	for (unsigned i = 0; i < b->n_regions; i++)
		(void)munmap(b->regions[i].host, b->regions[i].n_bytes);
	b->n_regions = 0;
	if (b->inflight)
		(void)munmap(b->inflight, b->n_inflight_bytes);
	b->inflight = NULL;
	b->release_ns = 0;
}

static void say_config_change(struct vhost_backend *b)
{
	uint8_t h[12] = { 0 }, reply[20];
	put_le32(h, 2);
	put_le32(h + 4, 1 | 8);
	send_fd(b->request_fd, h, sizeof h, -1);
	OK(recv(b->request_fd, reply, sizeof reply, MSG_WAITALL) == sizeof reply);
	OK(get_le32(reply) == 2 && get_le32(reply + 4) == 5 && get_le64(reply + 12) == 0);
}

static void turn(struct vhost_backend *b)
{
	struct pollfd p[3 + VHOST_BACKEND_MAX_QUEUES] = {
		{ .fd = b->stop_fd, .events = POLLIN }, { .fd = b->fd < 0 ? b->listen_fd : b->fd, .events = POLLIN },
	};
	for (unsigned i = 0; i < VHOST_BACKEND_MAX_QUEUES; i++)
		p[2 + i] = (struct pollfd){ .fd = b->queues[i].kick_fd, .events = POLLIN };
	(void)poll(p, 2 + VHOST_BACKEND_MAX_QUEUES, 5);
	for (unsigned i = 0; i < VHOST_BACKEND_MAX_QUEUES; i++) {
		if (p[2 + i].revents)
			run_queue(b, &b->queues[i]);
	}
	if (b->release_ns && clock_now_ns() > b->release_ns)
		release(b);
	if (b->request_fd >= 0 && atomic_exchange(&b->wants_config_change, false))
		say_config_change(b);
	if (!p[1].revents)
		return;
	if (b->fd < 0) {
		b->fd = accept4(b->listen_fd, NULL, NULL, SOCK_CLOEXEC);
		b->n_connections++;
	} else if (!receive(b)) {
		forget_connection(b);
	}
}

static void *serve(void *arg)
{
	struct vhost_backend *b = arg;
	uint64_t n;
	while (read(b->stop_fd, &n, sizeof n) < 0)
		turn(b);
	forget_connection(b);
	return NULL;
}

void vhost_backend_init(struct vhost_backend *b)
{
	memset(b, 0, sizeof *b);
	b->fd = b->listen_fd = b->stop_fd = b->request_fd = -1;
	b->held_from = UINT64_MAX;
	b->writeback = -1;
	b->how = (struct vhost_backend_how){ .n_queues = 2, .n_sectors = 1024, .seg_max = 14 };
	(void)snprintf(b->dir, sizeof b->dir, "/var/tmp/varan-vhost-XXXXXX");
	OK(mkdtemp(b->dir));
	(void)snprintf(b->path, sizeof b->path, "%s/socket", b->dir);
	for (unsigned i = 0; i < VHOST_BACKEND_MAX_QUEUES; i++)
		b->queues[i] = (struct vhost_backend_queue){ .kick_fd = -1, .call_fd = -1, .old_kick_fd = -1, .old_call_fd = -1 };
}

void vhost_backend_done(struct vhost_backend *b)
{
	OK(b->listen_fd < 0);
	for (unsigned i = 0; i < VHOST_BACKEND_MAX_QUEUES; i++) {
		fd_close(&b->queues[i].old_kick_fd);
		fd_close(&b->queues[i].old_call_fd);
	}
	(void)rmdir(b->dir);
}

void vhost_backend_start(struct vhost_backend *b)
{
	struct sockaddr_un a = { .sun_family = AF_UNIX };
	(void)snprintf(a.sun_path, sizeof a.sun_path, "%s", b->path);
	b->stop_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	b->listen_fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	OK(bind(b->listen_fd, (const struct sockaddr *)&a, sizeof a) == 0 && listen(b->listen_fd, 1) == 0);
	b->n_held = 0;
	OK(pthread_create(&b->thread, NULL, serve, b) == 0);
}

void vhost_backend_kill(struct vhost_backend *b)
{
	uint64_t one = 1;
	(void)unlink(b->path);
	OK(write(b->stop_fd, &one, sizeof one) == sizeof one);
	OK(pthread_join(b->thread, NULL) == 0);
	fd_close(&b->listen_fd);
	fd_close(&b->stop_fd);
}

uint8_t vhost_backend_byte(const struct vhost_backend *b, uint64_t offset)
{
	(void)atomic_load(&b->n_done); /* counted after the data is there */
	return b->disk[offset];
}

void vhost_backend_change_config(struct vhost_backend *b)
{
	b->wants_config_change = true;
}
