/* SPDX-License-Identifier: Apache-2.0 */
/* Running a vCPU, and getting it out again.
 *
 * A kick must not be lost, whatever it races with, and should not cost a signal when the vCPU is not in the guest. Two
 * flags decide, both sequentially consistent:
 *
 *     kick                                run
 *       is_kicked = true                    is_in_guest = true
 *       run->immediate_exit = 1             if is_kicked: do not enter
 *       if is_in_guest: signal              KVM_RUN
 *                                           is_in_guest = false
 *
 * Either the runner sees is_kicked and stays out, or the kicker sees is_in_guest and signals. A signal that comes before
 * KVM_RUN has begun is spent on the handler, which does nothing; but then immediate_exit was set before it, and KVM_RUN
 * returns at once. One that comes after KVM_RUN returned does no harm but an EINTR.
 *
 * The runner takes a kick by clearing immediate_exit first and is_kicked second: a kick between the two may leave
 * immediate_exit set for a kick that was handed out already, which costs one return of HV_EXIT_NONE, and no kick. */
#include "base/checked.h"
#include "base/cleanup.h"
#include "hv/kvm_internal.h"

#include <assert.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>

static int map_run(struct hv_vcpu *c, struct err *e)
{
	c->run_bytes = c->vm->hv->run_bytes;
	void *p = mmap(NULL, c->run_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, c->fd, 0);
	if (p == MAP_FAILED)
		return err_set_errno(e, errno, "kvm: vcpu%u: cannot map the shared pages", c->index);
	c->run = p;
	return 0;
}

int hv_vcpu_new(struct hv_vm *vm, unsigned index, struct hv_vcpu **ret_c, struct err *e)
{
	struct hv *hv = vm->hv;
	if (index >= hv->n_max_vcpu_ids)
		return err_set(e, EINVAL, "kvm: vcpu%u: numbers end at %u", index, hv->n_max_vcpu_ids - 1);
	struct hv_vcpu *c = calloc(1, sizeof *c);
	if (!c)
		return err_set(e, ENOMEM, "kvm: vcpu%u: no memory", index);
	c->vm = vm;
	c->index = index;
	vm->n_vcpus++;

	c->fd = kvm_call_value(vm->fd, KVM_CREATE_VCPU, index);
	int rc = c->fd < 0 ? err_set_errno(e, -c->fd, "kvm: cannot create vcpu%u", index) : map_run(c, e);
	if (rc < 0) {
		hv_vcpu_free(c);
		return rc;
	}
	if (!hv->tsc_khz) {
		int khz = kvm_call_value(c->fd, KVM_GET_TSC_KHZ, 0);
		hv->tsc_khz = khz > 0 ? (uint64_t)khz : 0;
	}
	*ret_c = c;
	return 0;
}

void hv_vcpu_free(struct hv_vcpu *c)
{
	if (!c)
		return;
	assert(!atomic_load(&c->is_in_guest));
	assert(c->vm->n_vcpus > 0);
	c->vm->n_vcpus--;
	if (c->run)
		(void)munmap(c->run, c->run_bytes);
	fd_close(&c->fd);
	free(c->cpuid);
	free(c);
}

/* --- kicks ---------------------------------------------------------------------------------------------------------- */

/* Interrupts KVM_RUN by being handled at all. */
static void on_kick_signal(int signal_number)
{
	(void)signal_number;
}

/* A handler belongs to the whole process, the one thing here that does; installing it again changes nothing. */
static int install_kick_handler(struct err *e)
{
	struct sigaction now, wanted = { .sa_handler = on_kick_signal };
	(void)sigemptyset(&wanted.sa_mask);

	if (sigaction(SIGRTMIN, NULL, &now) < 0)
		return err_set_errno(e, errno, "kvm: cannot read the handler of signal %d", SIGRTMIN);
	if (!(now.sa_flags & SA_SIGINFO) && now.sa_handler == on_kick_signal)
		return 0;
	if ((now.sa_flags & SA_SIGINFO) || (now.sa_handler != SIG_DFL && now.sa_handler != SIG_IGN))
		return err_set(e, EBUSY, "kvm: signal %d (SIGRTMIN), which gets vCPUs out of the guest, is in use by this process",
		               SIGRTMIN);
	/* No SA_RESTART, though KVM_RUN would not be restarted anyway: a blocked device handler must notice, too. */
	if (sigaction(SIGRTMIN, &wanted, NULL) < 0)
		return err_set_errno(e, errno, "kvm: cannot handle signal %d", SIGRTMIN);
	return 0;
}

int hv_vcpu_attach_thread(struct hv_vcpu *c, struct err *e)
{
	int rc = install_kick_handler(e);
	if (rc < 0)
		return rc;

	sigset_t kick;
	(void)sigemptyset(&kick);
	(void)sigaddset(&kick, SIGRTMIN);
	rc = pthread_sigmask(SIG_UNBLOCK, &kick, NULL);
	if (rc)
		return err_set_errno(e, rc, "kvm: vcpu%u: cannot unblock signal %d", c->index, SIGRTMIN);

	assert(!atomic_load(&c->is_in_guest));
	c->thread = pthread_self();
	atomic_store(&c->thread_id, gettid());
	return 0;
}

static void set_immediate_exit(struct hv_vcpu *c, uint8_t v)
{
	__atomic_store_n(&c->run->immediate_exit, v, __ATOMIC_SEQ_CST);
}

void hv_vcpu_kick(struct hv_vcpu *c)
{
	atomic_store(&c->is_kicked, true);
	set_immediate_exit(c, 1);
	/* By the kernel's number and not by pthread_t, which must not be used once its thread was joined. */
	if (atomic_load(&c->is_in_guest))
		(void)tgkill(getpid(), atomic_load(&c->thread_id), SIGRTMIN);
}

static bool take_kick(struct hv_vcpu *c)
{
	set_immediate_exit(c, 0); /* first: see the top */
	return atomic_exchange(&c->is_kicked, false);
}

/* --- running -------------------------------------------------------------------------------------------------------- */

/* One writer: no locked instruction is needed. */
static inline void count(_Atomic uint64_t *counter)
{
	atomic_store_explicit(counter, atomic_load_explicit(counter, memory_order_relaxed) + 1, memory_order_relaxed);
}

/* 0: the shared pages hold an exit. */
static int enter(struct hv_vcpu *c)
{
	int rc = -EINTR;

	atomic_store(&c->is_in_guest, true);
	if (!atomic_load(&c->is_kicked))
		rc = ioctl(c->fd, KVM_RUN, 0) < 0 ? -errno : 0;
	atomic_store_explicit(&c->is_in_guest, false, memory_order_release);
	return rc;
}

int hv_vcpu_run(struct hv_vcpu *c, struct hv_exit *ret_exit)
{
	assert(atomic_load_explicit(&c->thread_id, memory_order_relaxed) && pthread_equal(c->thread, pthread_self()));
	int rc = 0;

	*ret_exit = (struct hv_exit){ .kind = HV_EXIT_NONE, .n_repeat = 1 };
	if (c->has_pending_exit)
		c->has_pending_exit = false;
	else
		rc = enter(c);

	switch (rc) {
	case 0:
		c->run_errno = 0;
		c->has_exited = true;
		count(&c->n_exits[min_u64(c->run->exit_reason, KVM_N_REASONS - 1)]);
		kvm_exit_decode(c, ret_exit);
		return 0;
	case -EINTR:
		/* Without a kick, some other signal: the caller runs us again. */
		ret_exit->kind = take_kick(c) ? HV_EXIT_KICKED : HV_EXIT_NONE;
		count(ret_exit->kind == HV_EXIT_KICKED ? &c->n_kicks : &c->n_interruptions);
		return 0;
	case -EAGAIN:
		/* A vCPU that waits for its start-up IPI was woken. */
		count(&c->n_interruptions);
		return 0;
	default:
		/* EFAULT: memory behind a slot is gone, or KVM_EXIT_MEMORY_FAULT; ENOEXEC, EINVAL, EIO: see the report. */
		c->run_errno = -rc;
		count(&c->n_errors);
		ret_exit->kind = HV_EXIT_FAILED;
		return 0;
	}
}

int hv_vcpu_complete(struct hv_vcpu *c)
{
	if (c->has_pending_exit)
		return 1;

	/* "Userspace can re-enter the guest with an unmasked signal pending or with the immediate_exit field set to
	 * complete pending operations without allowing further instructions to be executed" (api.rst, 5, KVM_EXIT_IO). */
	set_immediate_exit(c, 1);
	int rc = ioctl(c->fd, KVM_RUN, 0) < 0 ? -errno : 0;
	/* A kick that comes now is kept in is_kicked, which the next run looks at first. */
	set_immediate_exit(c, 0);

	if (rc == -EINTR || rc == -EAGAIN)
		return 0;
	if (rc < 0)
		return rc;
	/* The rest of an access that the kernel handles in pieces. */
	c->has_pending_exit = true;
	return 1;
}
