/* SPDX-License-Identifier: Apache-2.0 */
#include "bus/irq.h"
#include "fake_hv.h"
#include "test.h"

#include <errno.h>
#include <unistd.h>

static const struct hv_msi to_apic_1 = { .address = 0xfee01000, .data = 0x31 };
static const struct hv_msi to_apic_2 = { .address = 0xfee02000, .data = 0x42 };

static uint64_t drain(int fd)
{
	uint64_t n = 0;
	return read(fd, &n, sizeof n) == sizeof n ? n : 0;
}

TEST(commit_calls_the_engine_only_for_changes)
{
	struct hv_vm vm = FAKE_VM;
	struct irq_router r;
	struct irq_msi a, b;
	EQ(irq_router_init(&r, &vm, HV_IRQCHIP_SPLIT, NULL, NULL), 0);
	EQ(irq_msi_alloc(&r, &a, NULL), 0);
	EQ(irq_msi_alloc(&r, &b, NULL), 0);
	OK(a.gsi >= IRQ_N_PINS && b.gsi >= IRQ_N_PINS && a.gsi != b.gsi);

	EQ(irq_commit(&r, NULL), 0);
	EQ(vm.n_set_routes, 0);
	EQ(vm.n_irqfd_calls, 0);

	irq_msi_set(&a, &to_apic_1);
	irq_msi_set(&b, &to_apic_2);
	EQ(vm.n_set_routes, 0);
	EQ(irq_commit(&r, NULL), 0);
	EQ(vm.n_set_routes, 1);
	EQ(vm.n_routes, 2);
	EQ(fake_route(&vm, b.gsi)->msi.address, 0xfee02000);
	EQ(fake_route(&vm, b.gsi)->msi.data, 0x42);
	EQ(fake_irqfd_of(&vm, a.gsi), a.event_fd);

	irq_msi_set(&a, &to_apic_1);
	EQ(irq_commit(&r, NULL), 0);
	EQ(vm.n_set_routes, 1);
	irq_msi_set(&a, &to_apic_2);
	EQ(irq_commit(&r, NULL), 0);
	EQ(vm.n_set_routes, 2);
	EQ(vm.n_irqfd_calls, 2);

	irq_msi_unset(&a);
	EQ(irq_commit(&r, NULL), 0);
	EQ(vm.n_routes, 1);

	irq_msi_free(&a);
	irq_msi_free(&b);
	irq_msi_free(&b);
	EQ(vm.n_irqfds, 0);
	irq_router_done(&r);
}

TEST(raise_follows_the_route_before_and_after_commit)
{
	struct hv_vm vm = FAKE_VM;
	struct irq_router r;
	struct irq_msi m;
	EQ(irq_router_init(&r, &vm, HV_IRQCHIP_SPLIT, NULL, NULL), 0);
	EQ(irq_msi_alloc(&r, &m, NULL), 0);

	irq_msi_raise(&m); /* leads nowhere yet */
	EQ(vm.n_messages, 0);
	irq_msi_set(&m, &to_apic_1);
	irq_msi_raise(&m);
	EQ(vm.n_messages, 1);
	EQ(vm.messages[0].address, to_apic_1.address);
	EQ(irq_commit(&r, NULL), 0);
	irq_msi_raise(&m);
	EQ(vm.n_messages, 1);
	EQ(drain(m.event_fd), 1);

	/* Between the change and its commit the engine still has the old route: no event may take it. */
	irq_msi_set(&m, &to_apic_2);
	irq_msi_raise(&m);
	EQ(drain(m.event_fd), 0);
	EQ(vm.n_messages, 2);
	EQ(vm.messages[1].address, to_apic_2.address);

	irq_msi_free(&m);
	irq_router_done(&r);
}

TEST(engine_failure_is_returned_and_loses_nothing)
{
	struct hv_vm vm = FAKE_VM;
	struct irq_router r;
	struct irq_msi m;
	struct err e = { 0 };
	EQ(irq_router_init(&r, &vm, HV_IRQCHIP_SPLIT, NULL, NULL), 0);
	EQ(irq_msi_alloc(&r, &m, NULL), 0);

	vm.routes_rc = -EINVAL;
	irq_msi_set(&m, &to_apic_1);
	EQ(irq_commit(&r, &e), -EINVAL);
	STR_HAS(e.text, "fake: no routes");
	irq_msi_raise(&m);
	EQ(vm.n_messages, 1);
	irq_commit_or_log(&r);
	EQ(vm.n_set_routes, 2);

	vm.routes_rc = 0;
	vm.irqfd_rc = -ENOMEM;
	EQ(irq_commit(&r, &e), -ENOMEM);
	irq_msi_raise(&m);
	EQ(vm.n_messages, 2);
	EQ(drain(m.event_fd), 0);
	EQ(irq_commit(&r, &e), 0); /* not tried again and again */
	EQ(vm.n_irqfd_calls, 1);

	irq_msi_free(&m);
	irq_router_done(&r);
}

#if defined(__x86_64__)
TEST(message_to_no_apic_reaches_no_engine)
{
	struct hv_vm vm = FAKE_VM;
	struct irq_router r;
	struct irq_msi m;
	const struct hv_msi bad[] = { { .address = 0 }, { .address = 0xfef00000 }, { .address = 0x1fee00000 },
		                      { .address = UINT64_MAX }, { .address = 0xfedffffc } };
	EQ(irq_router_init(&r, &vm, HV_IRQCHIP_SPLIT, NULL, NULL), 0);
	EQ(irq_msi_alloc(&r, &m, NULL), 0);
	irq_msi_set(&m, &to_apic_1);
	EQ(irq_commit(&r, NULL), 0);
	for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
		irq_msi_set(&m, &bad[i]);
		EQ(irq_commit(&r, NULL), 0);
		EQ(vm.n_routes, 0);
		EQ(vm.n_messages, 0);
	}
	irq_msi_set(&m, &to_apic_1);
	EQ(irq_commit(&r, NULL), 0);
	EQ(vm.n_routes, 1);
	irq_msi_free(&m);
	irq_router_done(&r);
}
#endif

TEST(vectors_run_out_and_come_back)
{
	struct irq_router r;
	struct irq_msi m;
	struct err e = { 0 };
	EQ(irq_router_init(&r, NULL, HV_IRQCHIP_SPLIT, NULL, NULL), 0);
	memset(&r.is_used[IRQ_N_PINS], 1, IRQ_MAX_GSIS - IRQ_N_PINS);
	EQ(irq_msi_alloc(&r, &m, &e), -ENOSPC);
	irq_msi_free(&m);
	r.is_used[IRQ_MAX_GSIS - 1] = 0;
	EQ(irq_msi_alloc(&r, &m, &e), 0);
	EQ(m.gsi, IRQ_MAX_GSIS - 1);
	irq_msi_set(&m, &to_apic_1);
	EQ(irq_commit(&r, &e), 0);
	irq_msi_free(&m);
	EQ(r.is_used[IRQ_MAX_GSIS - 1], 0);
	irq_router_done(&r);
}

TEST(without_a_vm_the_event_descriptor_is_written)
{
	struct irq_router r;
	struct irq_msi m;
	EQ(irq_router_init(&r, NULL, HV_IRQCHIP_SPLIT, NULL, NULL), 0);
	EQ(irq_msi_alloc(&r, &m, NULL), 0);
	irq_msi_raise(&m);
	irq_msi_set(&m, &to_apic_1);
	EQ(irq_commit(&r, NULL), 0);
	irq_msi_raise(&m);
	EQ(drain(m.event_fd), 2);
	EQ(irq_send(&r, &to_apic_1), 1);
	irq_msi_free(&m);
	irq_router_done(&r);
}

TEST(kernel_irqchip_has_pin_routes_and_levels)
{
	struct hv_vm vm = FAKE_VM;
	struct irq_router r;
	struct irq_line edge, level;
	EQ(irq_router_init(&r, &vm, HV_IRQCHIP_KERNEL, NULL, NULL), 0);
	EQ(irq_commit(&r, NULL), 0);
	EQ(vm.n_set_routes, 1);
	EQ(vm.n_routes, IRQ_N_PINS);
	for (uint32_t pin = 0; pin < IRQ_N_PINS; pin++) {
		EQ(vm.routes[pin].kind, HV_ROUTE_PIN);
		EQ(vm.routes[pin].gsi, pin);
		EQ(vm.routes[pin].pin, pin);
	}
	EQ(irq_line_init(&edge, &r, 4, false, NULL), 0);
	EQ(fake_irqfd_of(&vm, 4), edge.event_fd);
	irq_line_pulse(&edge);
	EQ(drain(edge.event_fd), 1);
	EQ(irq_line_init(&level, &r, 16, true, NULL), 0);
	irq_line_set(&level, true);
	EQ(vm.lines, 1u << 16);
	irq_line_set(&level, false);
	EQ(vm.lines, 0);
	irq_line_done(&edge);
	irq_line_done(&edge);
	irq_line_done(&level);
	EQ(vm.n_irqfds, 0);
	irq_router_done(&r);
}

TEST(edge_lines_share_a_pin_and_level_lines_do_not)
{
	struct hv_vm vm = FAKE_VM;
	struct irq_router r;
	struct irq_line a, b, c;
	struct err e = { 0 };
	EQ(irq_router_init(&r, &vm, HV_IRQCHIP_SPLIT, NULL, NULL), 0);
	EQ(irq_line_init(&a, &r, 5, false, &e), 0);
	EQ(irq_line_init(&b, &r, 5, false, &e), 0);
	EQ(irq_line_init(&c, &r, 5, true, &e), -EBUSY);
	STR_HAS(e.text, "pin 5");
	irq_line_done(&a);
	EQ(irq_line_init(&c, &r, 5, true, &e), -EBUSY);
	irq_line_done(&b);
	EQ(irq_line_init(&c, &r, 5, true, &e), 0);
	EQ(irq_line_init(&a, &r, 5, true, &e), -EBUSY);
	EQ(irq_line_init(&a, &r, 5, false, &e), -EBUSY);
	EQ(irq_line_init(&a, &r, IRQ_N_PINS, false, &e), -EINVAL);
	irq_line_done(&c);

	vm.irqfd_rc = -EMFILE;
	EQ(irq_line_init(&a, &r, 5, false, &e), -EMFILE);
	EQ(r.is_used[5], 0);
	irq_router_done(&r);
}

/* Each thread moves its own vector about and commits; all others commit with it. */
enum { N_THREADS = 4, N_ROUNDS = 300 };

struct mover {
	pthread_t thread;
	struct irq_msi msi;
	unsigned index;
};

static void *move_about(void *arg)
{
	struct mover *m = arg;
	for (uint32_t i = 0; i < N_ROUNDS; i++) {
		const struct hv_msi msi = { .address = 0xfee00000 | m->index << 12, .data = i };
		if (i % 7 == 3)
			irq_msi_unset(&m->msi);
		irq_msi_set(&m->msi, &msi);
		if (i % 2)
			irq_msi_raise(&m->msi);
		if (irq_commit(m->msi.router, NULL) != 0)
			return arg;
		irq_msi_raise(&m->msi);
	}
	return NULL;
}

TEST(commits_from_many_threads_end_with_the_last_routes)
{
	struct hv_vm vm = FAKE_VM;
	struct irq_router r;
	struct mover movers[N_THREADS];
	EQ(irq_router_init(&r, &vm, HV_IRQCHIP_SPLIT, NULL, NULL), 0);
	for (unsigned i = 0; i < N_THREADS; i++) {
		movers[i].index = i;
		EQ(irq_msi_alloc(&r, &movers[i].msi, NULL), 0);
	}
	for (unsigned i = 0; i < N_THREADS; i++)
		EQ(pthread_create(&movers[i].thread, NULL, move_about, &movers[i]), 0);
	for (unsigned i = 0; i < N_THREADS; i++) {
		void *failed;
		EQ(pthread_join(movers[i].thread, &failed), 0);
		OK(!failed);
	}
	EQ(vm.n_routes, N_THREADS);
	EQ(vm.n_irqfds, N_THREADS);
	for (unsigned i = 0; i < N_THREADS; i++) {
		const struct hv_route *route = fake_route(&vm, movers[i].msi.gsi);
		OK(route);
		EQ(route->msi.address, 0xfee00000 | i << 12);
		EQ(route->msi.data, N_ROUNDS - 1);
		irq_msi_free(&movers[i].msi);
	}
	irq_router_done(&r);
}
