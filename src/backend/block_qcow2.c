// SPDX-License-Identifier: Apache-2.0
/* qcow2: requests.
 *
 * Theory of operation.
 *
 * Tables. The L1 table and the refcount table are in memory, and a bounded part of the L2 tables and refcount blocks, as
 * slices (block_qcow2_cache.c). They are changed in memory only; a commit writes what changed, in an order that is sound
 * at every point (block_qcow2_commit.c). Commits come with flushes, with a cache half of which is dirty, and with the end.
 *
 * Who may change them. All is under the image's lock, a leaf that is never held over I/O. A loop takes it, looks at what
 * is in memory, and changes that at once where nothing more is needed: most writes that allocate never leave their loop.
 * What needs I/O (a slice that is not there, a new table, a commit) wants the turn: the right to be the only one who
 * changes tables, from before the lock is let go of for I/O until after. The one that has it works on a worker thread,
 * as a call; the others' changes are parked meanwhile, reads and writes in place go on. When the turn is given back all
 * that is parked is asked again.
 *
 * A write. Bytes whose clusters are there, and this image's alone, are moved in place. For others:
 *   START  clusters are allocated and counted, in memory; the request enters the list `writes`, where others that want the
 *          same guest clusters see it and park;
 *   COPY   what the request leaves of the first and the last cluster is copied there from where it was (a call, without
 *          the turn), or is zeroes in a part of the file that nobody ever wrote, and left out;
 *   DATA   the request's bytes go there, by the engine, straight from the guest's memory;
 *   LINK   the L2 entries are set, in memory; what they referred to before is freed later (block_qcow2_refcount.c).
 * When anything fails the guest is told, the entries stay as they were, and the clusters are freed later (FAIL).
 *
 * Zero clusters, discards. Whole clusters: the entries change, and no data is written. Parts of clusters: zeroes are
 * written like data, and discards are left out.
 *
 * A flush is one sync when no table changed, else a commit, whose syncs make data durable too. Where nothing is to be synced
 * (BLOCK_SYNC_NONE) a commit is its writes, in their order: sound for whoever reads the file, unless the host dies.
 *
 * A look-up's result stays true while its request holds the image (block_hold()): a place is used for something else only
 * after all who may have looked it up before it was given up have let go. Reads hold it, and writes in place: what others
 * use is in `writes`, where nobody else gives it up. Who is parked, or has the turn, holds nothing: both may wait for the
 * holds of others, where the list of what was given up is full. */
#include "backend/block_qcow2.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>

/* Given up by discards: a commit gives so much to the host without waiting for a flush. */
#define COMMIT_UNLINKED_BYTES (64ull << 20)

static struct qcow2_write *write_of(struct block_request *r)
{
	return (struct qcow2_write *)(void *)r->scratch;
}

/* --- the turn --- */

static void give_turn(struct qcow2 *q)
{
	block_lock(q->image);
	assert(q->image->is_turn_taken);
	q->image->is_turn_taken = false;
	struct block_request *woken = block_unpark(q->image);
	(void)pthread_cond_broadcast(&q->turn_is_free);
	block_unlock(q->image);
	block_wake(woken);
}

void qcow2_turn_take(struct qcow2 *q)
{
	block_lock(q->image);
	while (q->image->is_turn_taken)
		(void)pthread_cond_wait(&q->turn_is_free, &q->image->lock);
	q->image->is_turn_taken = true;
	block_unlock(q->image);
}

void qcow2_turn_give(struct qcow2 *q)
{
	give_turn(q);
}

/* Locked, on the loop; unlocks. The call runs with the turn, finish() gives it back. */
static enum block_next take_turn(struct qcow2 *q, struct block_request *r, long (*call)(struct block_request *))
{
	assert(!q->image->is_turn_taken);
	q->image->is_turn_taken = true;
	write_of(r)->has_turn = true;
	block_unlock(q->image);
	r->step = (struct block_step){ .op = BLOCK_STEP_CALL, .call = call };
	return BLOCK_NEXT_STEP;
}

/* --- holds --- */

/* A hold is gone: those who wait for the last one of an epoch get on. */
static void wake_stuck(struct qcow2 *q)
{
	if (!atomic_load(&q->is_room_wanted) || !block_epoch_is_over(q->image))
		return;
	block_lock(q->image);
	atomic_store(&q->is_room_wanted, false);
	struct block_request *woken = block_unpark(q->image);
	block_unlock(q->image);
	block_wake(woken);
}

static void let_go(struct qcow2 *q, struct block_request *r)
{
	block_release(q->image, &write_of(r)->hold);
	wake_stuck(q);
}

/* Locked. No commit makes room: somebody holds the image since before. Who then parks is woken when that has changed. */
static bool is_stuck(struct qcow2 *q)
{
	if (!q->draining.n || qcow2_free_has_room(q, QCOW2_MAX_FREE_RUNS / 2))
		return false;
	atomic_store(&q->is_room_wanted, true);
	return !block_epoch_is_over(q->image);
}

static enum block_next park(struct qcow2 *q, struct block_request *r)
{
	assert(!write_of(r)->hold.is_held);
	block_park(q->image, r);
	block_unlock(q->image);
	wake_stuck(q);
	return BLOCK_NEXT_PARKED;
}

static enum block_next done(struct qcow2 *q, struct block_request *r, int result)
{
	let_go(q, r);
	r->result = result;
	return BLOCK_NEXT_DONE;
}

/* --- what a request is about --- */

static uint64_t offset_of(const struct block_request *r)
{
	return r->offset_bytes + r->n_done_bytes;
}

static uint64_t n_left(const struct block_request *r)
{
	return r->n_bytes - r->n_done_bytes;
}

/* Whole clusters from where the request is. The last one of a disk may be a part only, and then is none: the disk may grow
 * while requests are in flight, and what is behind the old end is another request's. */
static struct qcow2_range whole_clusters(const struct qcow2 *q, const struct block_request *r)
{
	uint64_t at = offset_of(r), end = at + n_left(r);
	struct qcow2_range range = { .first = at >> q->cluster_bits };
	if (at & (q->cluster_bytes - 1))
		return range;
	range.n = (end >> q->cluster_bits) - range.first;
	return range;
}

/* Zeroes as data: where entries cannot say it, and parts of clusters. */
static bool can_say_zero(const struct qcow2 *q)
{
	return q->version >= 3 || !q->image->backing;
}

static bool is_zeroing_entries(const struct qcow2 *q, const struct block_request *r)
{
	return r->op == BLOCK_DISCARD ||
	       (r->op == BLOCK_WRITE_ZEROES && can_say_zero(q) && whole_clusters(q, r).n > 0);
}

/* How far the request's data go from here: a WRITE_ZEROES has whole clusters behind its first part. */
static uint64_t n_data(const struct qcow2 *q, const struct block_request *r)
{
	uint64_t n = n_left(r), in_cluster = offset_of(r) & (q->cluster_bytes - 1);
	return r->op == BLOCK_WRITE_ZEROES ? min_u64(n, q->cluster_bytes - in_cluster) : n;
}

static void advance(struct qcow2 *q, struct block_request *r, uint64_t n_clusters)
{
	r->n_done_bytes = min_u64(r->n_bytes, r->n_done_bytes + (n_clusters << q->cluster_bits));
}

/* --- calls: on a worker --- */

static bool is_short_of_room(const struct qcow2 *q)
{
	return qcow2_cache_is_full(&q->l2) || qcow2_cache_is_full(&q->refcounts) ||
	       !qcow2_free_has_room(q, QCOW2_MAX_FREE_RUNS / 2);
}

static int64_t zero_some(struct qcow2 *q, struct block_request *r, bool can_block)
{
	struct qcow2_range range = whole_clusters(q, r);
	bool is_discard = r->op == BLOCK_DISCARD;
	return qcow2_zero(q, &range, is_discard, is_discard || r->may_unmap, can_block);
}

#define NO_ROOM 1 /* of a call: nothing was done, and it is to be asked for again */

static long change_call(struct block_request *r)
{
	struct block_image *i = r->lane->image;
	struct qcow2 *q = qcow2_of(i);
	struct qcow2_write *w = write_of(r);
	int64_t rc = 0;
	block_lock(i);
	if (is_short_of_room(q)) {
		block_unlock(i);
		rc = qcow2_commit(q);
		block_lock(i);
		if (rc >= 0 && !qcow2_free_has_room(q, QCOW2_MAX_FREE_RUNS / 2)) {
			block_unlock(i);
			return NO_ROOM;
		}
	}
	if (rc >= 0 && w->phase == QCOW2_PHASE_LINK) {
		rc = qcow2_link(q, w, true);
	} else if (rc >= 0 && is_zeroing_entries(q, r)) {
		rc = zero_some(q, r, true);
		if (rc > 0)
			advance(q, r, (uint64_t)rc);
	} else if (rc >= 0) {
		rc = qcow2_allocate(q, w, offset_of(r), n_data(q, r), true);
	}
	block_unlock(i);
	return rc == -EAGAIN ? -EIO : rc < 0 ? (long)rc : 0;
}

static long commit_call(struct block_request *r)
{
	return qcow2_commit(qcow2_of(r->lane->image));
}

static long copy_call(struct block_request *r)
{
	return qcow2_copy_rest(qcow2_of(r->lane->image), write_of(r));
}

/* Only to have the slice; anybody may load it. */
static long load_call(struct block_request *r)
{
	struct qcow2 *q = qcow2_of(r->lane->image);
	struct qcow2_slice *s;
	unsigned index;
	block_lock(q->image);
	int rc = qcow2_l2_slice(q, offset_of(r) >> q->cluster_bits, true, &s, &index);
	block_unlock(q->image);
	return rc;
}

/* --- writes --- */

static enum block_next write_data(struct block_lane *lane, struct block_request *r, uint64_t place, uint64_t n_bytes)
{
	struct qcow2 *q = qcow2_of(lane->image);
	const struct block_file *f = q->file;
	if (r->op == BLOCK_WRITE)
		return block_transfer_prepare(lane, r, f, place, n_bytes);
	size_t n = (size_t)min_u64(n_bytes, BLOCK_ZEROES_BYTES);
	r->bounce_iov = (struct iovec){ .iov_base = lane->image->zeroes, .iov_len = n };
	r->step = (struct block_step){
		.op = BLOCK_STEP_WRITE, .file = f, .iov = &r->bounce_iov, .n_iov = 1,
		.is_buffered = f->is_direct && ((place | n) & (f->offset_align - 1)),
		.offset_bytes = place, .n_bytes = n,
	};
	return BLOCK_NEXT_STEP;
}

/* Locked; unlocks. */
static enum block_next allocate(struct qcow2 *q, struct block_request *r, bool *ret_again)
{
	struct qcow2_write *w = write_of(r);
	block_release(q->image, &w->hold);
	if (q->image->is_turn_taken || qcow2_is_being_written(q, offset_of(r) >> q->cluster_bits, 1) || is_stuck(q))
		return park(q, r);
	int rc = is_short_of_room(q) ? -EAGAIN : qcow2_allocate(q, w, offset_of(r), n_data(q, r), false);
	if (rc == -EAGAIN)
		return take_turn(q, r, change_call);
	block_unlock(q->image);
	wake_stuck(q);
	if (rc < 0)
		return done(q, r, rc);
	*ret_again = true;
	return BLOCK_NEXT_STEP;
}

/* Zeroes where zeroes are need not be written. */
static uint64_t n_zero_already(const struct qcow2 *q, const struct block_request *r, const struct block_extent *x)
{
	if (r->op != BLOCK_WRITE_ZEROES)
		return 0;
	bool is_zero = x->kind == BLOCK_EXTENT_ZERO || (x->kind == BLOCK_EXTENT_HOLE && !q->image->backing);
	return is_zero ? x->n_bytes : 0;
}

static enum block_next start(struct block_lane *lane, struct block_request *r, bool *ret_again)
{
	struct qcow2 *q = qcow2_of(lane->image);
	struct block_extent x;
	block_hold(lane->image, &write_of(r)->hold);
	block_lock(lane->image);
	int rc = r->op == BLOCK_WRITE_ZEROES ? qcow2_find(q, offset_of(r), n_data(q, r), false, false, &x) : 0;
	if (rc >= 0 && r->op == BLOCK_WRITE_ZEROES && n_zero_already(q, r, &x)) {
		block_unlock(lane->image);
		let_go(q, r);
		r->n_done_bytes += x.n_bytes;
		*ret_again = true;
		return BLOCK_NEXT_STEP;
	}
	if (rc >= 0)
		rc = qcow2_find(q, offset_of(r), n_data(q, r), false, true, &x);
	if (rc == -ENOENT)
		return allocate(q, r, ret_again);
	block_unlock(lane->image);
	if (rc == -EAGAIN) {
		let_go(q, r);
		r->step = (struct block_step){ .op = BLOCK_STEP_CALL, .call = load_call };
		return BLOCK_NEXT_STEP;
	}
	return rc < 0 ? done(q, r, rc) : write_data(lane, r, x.offset_bytes, x.n_bytes);
}

/* Locked; unlocks. The request's clusters are linked, or given up: it is no longer in anybody's way. */
static void leave(struct qcow2 *q, struct qcow2_write *w)
{
	struct qcow2_write **at = &q->writes;
	while (*at != w)
		at = &(*at)->next;
	*at = w->next;
	w->is_allocated = false;
	w->phase = QCOW2_PHASE_START;
	struct block_request *woken = block_unpark(q->image);
	block_unlock(q->image);
	block_wake(woken);
}

static enum block_next link_clusters(struct qcow2 *q, struct block_request *r, bool *ret_again)
{
	struct qcow2_write *w = write_of(r);
	block_lock(q->image);
	if (q->image->is_turn_taken || is_stuck(q))
		return park(q, r);
	int rc = is_short_of_room(q) ? -EAGAIN : qcow2_link(q, w, false);
	if (rc == -EAGAIN)
		return take_turn(q, r, change_call);
	*ret_again = true;
	if (rc >= 0) {
		leave(q, w);
		return BLOCK_NEXT_STEP;
	}
	block_unlock(q->image);
	w->error = rc;
	w->phase = QCOW2_PHASE_FAIL;
	return BLOCK_NEXT_STEP;
}

static enum block_next fail(struct qcow2 *q, struct block_request *r)
{
	struct qcow2_write *w = write_of(r);
	block_lock(q->image);
	if (q->image->is_turn_taken) /* a commit may be reading the list */
		return park(q, r);
	if (!w->is_reused) /* without room they are leaked, as a crash would leak them */
		(void)qcow2_free_later(q, w->host >> q->cluster_bits, w->range.n);
	leave(q, w);
	return done(q, r, w->error);
}

static enum block_next prepare_write(struct block_lane *lane, struct block_request *r)
{
	struct qcow2 *q = qcow2_of(lane->image);
	struct qcow2_write *w = write_of(r);
	block_transfer_cancel(r);
	for (;;) {
		bool is_again = false;
		enum block_next next = BLOCK_NEXT_STEP;
		switch ((enum qcow2_phase)w->phase) {
		case QCOW2_PHASE_START:
			if (n_left(r) == 0)
				return done(q, r, 0);
			if (is_zeroing_entries(q, r))
				return BLOCK_NEXT_WAIT; /* the caller's */
			next = start(lane, r, &is_again);
			break;
		case QCOW2_PHASE_COPY:
			r->step = (struct block_step){ .op = BLOCK_STEP_CALL, .call = copy_call };
			return BLOCK_NEXT_STEP;
		case QCOW2_PHASE_DATA:
			return write_data(lane, r, w->host + (offset_of(r) - (w->range.first << q->cluster_bits)),
			                  w->end - offset_of(r));
		case QCOW2_PHASE_LINK:
			next = link_clusters(q, r, &is_again);
			break;
		case QCOW2_PHASE_FAIL:
			return fail(q, r);
		}
		if (!is_again)
			return next;
	}
}

/* --- zeroes, discards, flushes --- */

/* The parts at the ends of a discard are left out. */
static void cut_discard(const struct qcow2 *q, struct block_request *r)
{
	uint64_t in_cluster = offset_of(r) & (q->cluster_bytes - 1);
	if (in_cluster)
		r->n_done_bytes += min_u64(n_left(r), q->cluster_bytes - in_cluster);
	if (whole_clusters(q, r).n == 0)
		r->n_done_bytes = r->n_bytes;
}

static bool is_worth_a_commit(const struct qcow2 *q, const struct block_request *r)
{
	uint64_t n = 0;
	for (unsigned k = 0; r->op == BLOCK_DISCARD && q->has_punch && k < q->unlinked.n; k++)
		n += q->unlinked.runs[k].n;
	return n << q->cluster_bits >= COMMIT_UNLINKED_BYTES;
}

/* False: what is left is data. */
static bool prepare_entries(struct qcow2 *q, struct block_request *r, enum block_next *ret_next)
{
	for (;;) {
		if (r->op == BLOCK_DISCARD)
			cut_discard(q, r);
		if (n_left(r) && !is_zeroing_entries(q, r))
			return false;
		block_lock(q->image);
		bool is_taken = q->image->is_turn_taken;
		if (!n_left(r)) {
			bool is_big = !is_taken && is_worth_a_commit(q, r) && !r->method;
			if (is_big) {
				r->method = 1; /* once */
				*ret_next = take_turn(q, r, commit_call);
				return true;
			}
			block_unlock(q->image);
			*ret_next = done(q, r, 0);
			return true;
		}
		struct qcow2_range range = whole_clusters(q, r);
		if (is_taken || qcow2_is_being_written(q, range.first, 1) || is_stuck(q)) {
			*ret_next = park(q, r);
			return true;
		}
		int64_t n = is_short_of_room(q) ? -EAGAIN : zero_some(q, r, false);
		if (n == -EAGAIN) {
			*ret_next = take_turn(q, r, change_call);
			return true;
		}
		block_unlock(q->image);
		if (n < 0) {
			*ret_next = done(q, r, (int)n);
			return true;
		}
		advance(q, r, (uint64_t)n);
	}
}

static enum block_next prepare_flush(struct qcow2 *q, struct block_request *r)
{
	if (r->method) /* the commit was it */
		return done(q, r, 0);
	block_lock(q->image);
	if (qcow2_needs_commit(q)) {
		if (q->image->is_turn_taken)
			return park(q, r);
		r->method = 1;
		return take_turn(q, r, commit_call);
	}
	block_unlock(q->image);
	if (q->image->has_no_sync)
		return done(q, r, 0);
	r->step = (struct block_step){ .op = BLOCK_STEP_SYNC, .file = q->file };
	return BLOCK_NEXT_STEP;
}

/* --- the format --- */

static enum block_next prepare(struct block_lane *lane, struct block_request *r)
{
	struct qcow2 *q = qcow2_of(lane->image);
	enum block_next next;
	if (r->op == BLOCK_READ) {
		next = block_read_prepare(lane, r);
		if (next == BLOCK_NEXT_DONE)
			wake_stuck(q);
		return next;
	}
	/* A call that was never carried out is asked for again, with the turn still its request's. */
	if (write_of(r)->has_turn)
		return BLOCK_NEXT_STEP;
	let_go(q, r); /* so is a write in place, but from its look-up on */
	if (lane->image->limits.is_readonly)
		return done(q, r, r->op == BLOCK_FLUSH ? 0 : -EROFS);
	if (r->op == BLOCK_FLUSH)
		return prepare_flush(q, r);
	for (;;) {
		if (write_of(r)->phase == QCOW2_PHASE_START && is_zeroing_entries(q, r) && prepare_entries(q, r, &next))
			return next;
		next = prepare_write(lane, r);
		if (next != BLOCK_NEXT_WAIT || !is_zeroing_entries(q, r) || write_of(r)->phase != QCOW2_PHASE_START)
			return next;
	}
}

/* A phase's step failed. True: the request is done. */
static bool fail_step(struct block_request *r, int error)
{
	struct qcow2_write *w = write_of(r);
	r->result = error;
	if (!w->is_allocated)
		return true;
	w->error = error;
	w->phase = QCOW2_PHASE_FAIL;
	return false;
}

static bool finish_call(struct qcow2 *q, struct block_request *r, long result)
{
	struct qcow2_write *w = write_of(r);
	bool was_link = w->phase == QCOW2_PHASE_LINK && w->has_turn && result != NO_ROOM;
	if (w->has_turn) {
		w->has_turn = false;
		give_turn(q);
	}
	if (result < 0) {
		r->method = 0;
		return fail_step(r, (int)result);
	}
	if (w->phase == QCOW2_PHASE_COPY && r->step.call == copy_call)
		w->phase = QCOW2_PHASE_DATA;
	if (was_link) {
		block_lock(q->image);
		leave(q, w);
	}
	return false;
}

static bool finish(struct block_lane *lane, struct block_request *r, long result)
{
	struct qcow2 *q = qcow2_of(lane->image);
	struct qcow2_write *w = write_of(r);
	if (r->op == BLOCK_READ) {
		bool is_done = block_read_finish(lane, r, result);
		wake_stuck(q);
		return is_done;
	}
	let_go(q, r);
	if (r->step.op == BLOCK_STEP_CALL)
		return finish_call(q, r, result);
	if (block_should_retry(r, result)) {
		block_transfer_cancel(r);
		return false;
	}
	if (r->op == BLOCK_FLUSH) {
		r->result = (int)result;
		return true;
	}
	result = block_transfer_finish(lane, r, result);
	if (result <= 0)
		return fail_step(r, result ? (int)result : -EIO);
	if (w->phase == QCOW2_PHASE_DATA && offset_of(r) == w->end)
		w->phase = QCOW2_PHASE_LINK;
	return false;
}

const struct block_format block_qcow2_format = {
	.name = "qcow2",
	.prepare = prepare,
	.finish = finish,
	.can_park = true,
	.needs_buffered = true,
	.open = qcow2_open,
	.close = qcow2_close,
	.map = qcow2_map,
	.read_packed = qcow2_read_packed,
	.resize = qcow2_resize,
	.check = qcow2_check,
	.info = qcow2_info,
};
