/* SPDX-License-Identifier: Apache-2.0 */
/* pci.c - the bus: slots, address windows, BARs, INTx. Theory of operation.
 *
 * The guest may write any address into a BAR at any time, on any vCPU. Where a BAR answers is computed from its bytes
 * after each write (pci_bars_update) and kept in one compact table that window accesses search; the table is in the order
 * of slots, so that among BARs that overlap the lowest slot answers. A BAR outside the windows answers nowhere.
 *
 * The two halves of a 64-bit address are written one after the other. PCI leaves it to software to turn decoding off
 * meanwhile; where it does not, a BAR with one new half answers nowhere, instead of at an address that nobody meant,
 * until the other half is written, or until an access finds nobody: then the half was all that the guest wanted to
 * change, and the BAR settles where its bytes say.
 *
 * bar_moved() is called under no lock. Two vCPUs may move a device's BARs at once: the first one tells all changes until
 * there are none left, the second one leaves its own to the first (pci_bars_tell). */
#include "bus/pci.h"

#include "base/bytes.h"
#include "base/checked.h"
#include "bus/pci_regs.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

#define PORT_CONFIG 0xcf8u
#define PORT_CONFIG_BYTES 8u
#define HALF_LOW 1u
#define HALF_HIGH 2u

/* --- BARs ------------------------------------------------------------------------------------------------------- */

static uint64_t bar_value(const struct pci_bar *bar, const uint8_t *config, unsigned i)
{
	const uint8_t *p = &config[PCI_BASE_ADDRESS_0 + 4 * i];
	uint64_t low = get_le32(p) & ~0xfu;
	return bar->is_64bit ? low | (uint64_t)get_le32(p + 4) << 32 : low;
}

static void bar_set_value(const struct pci_bar *bar, uint8_t *config, unsigned i, uint64_t address)
{
	uint8_t *p = &config[PCI_BASE_ADDRESS_0 + 4 * i];
	put_le32(p, (uint32_t)address | (get_le32(p) & 0xfu));
	if (bar->is_64bit)
		put_le32(p + 4, (uint32_t)(address >> 32));
}

static bool window_holds(const struct pci_window *w, uint64_t address, uint64_t n_bytes)
{
	return address >= w->start && n_bytes <= w->n_bytes && address - w->start <= w->n_bytes - n_bytes;
}

static bool overlaps(uint64_t a, uint64_t n_a_bytes, uint64_t b, uint64_t n_b_bytes)
{
	return a < b ? b - a < n_a_bytes : a - b < n_b_bytes;
}

/* Under the lock. */
static void rebuild_mappings(struct pci_bus *b)
{
	b->n_mappings = 0;
	b->has_half_written = false;
	for (unsigned slot = 0; slot < PCI_N_SLOTS; slot++) {
		struct pci_device *d = b->slots[slot];
		for (unsigned i = 0; d && i < PCI_N_BARS; i++) {
			const struct pci_bar *bar = &d->bars[i];
			b->has_half_written |= bar->half_written != 0;
			if (bar->address)
				b->mappings[b->n_mappings++] = (struct pci_mapping){
					.start = bar->address, .n_bytes = bar->n_bytes, .device = d, .bar = i
				};
		}
	}
}

static void bar_update(struct pci_device *d, unsigned i, unsigned offset, unsigned n_bytes)
{
	struct pci_bus *b = d->bus;
	struct pci_bar *bar = &d->bars[i];
	unsigned first = PCI_BASE_ADDRESS_0 + 4 * i;
	bool is_decoding = get_le16(&d->config[PCI_COMMAND]) & PCI_COMMAND_MEMORY;
	uint64_t value = bar_value(bar, d->config, i);

	if (bar->is_64bit) {
		if (overlaps(offset, n_bytes, first, 4))
			bar->half_written |= HALF_LOW;
		if (overlaps(offset, n_bytes, first + 4, 4))
			bar->half_written |= HALF_HIGH;
	}
	/* Sizing writes all ones to a half and then what was there: that changes nothing either. */
	if (!is_decoding || bar->half_written == (HALF_LOW | HALF_HIGH) || value == bar->settled_address)
		bar->half_written = 0;
	if (!bar->half_written)
		bar->settled_address = value;

	bool is_inside = window_holds(&b->low, value, bar->n_bytes) || window_holds(&b->high, value, bar->n_bytes);
	bar->address = is_decoding && !bar->half_written && is_inside ? value : 0;
}

void pci_bars_update(struct pci_device *d, unsigned offset, unsigned n_bytes)
{
	for (unsigned i = 0; i < PCI_N_BARS; i++)
		if (d->bars[i].n_bytes)
			bar_update(d, i, offset, n_bytes);
	rebuild_mappings(d->bus);
}

void pci_bars_tell(struct pci_device *d)
{
	struct pci_bus *b = d->bus;

	(void)pthread_mutex_lock(&b->lock);
	bool is_mine = !d->is_telling;
	for (unsigned i = 0; is_mine && i < PCI_N_BARS;) {
		struct pci_bar *bar = &d->bars[i];
		uint64_t old_address = bar->told_address, new_address = bar->address;
		if (old_address == new_address) {
			i++;
			continue;
		}
		bar->told_address = new_address;
		if (!d->cls->bar_moved)
			continue;
		d->is_telling = true;
		(void)pthread_mutex_unlock(&b->lock);
		d->cls->bar_moved(d, i, old_address, new_address);
		(void)pthread_mutex_lock(&b->lock);
		d->is_telling = false;
		i = 0; /* others may have changed meanwhile, and have left it to us */
	}
	(void)pthread_mutex_unlock(&b->lock);
}

/* Under the lock: ends the wait for other halves. */
static void settle(struct pci_bus *b)
{
	for (unsigned slot = 0; slot < PCI_N_SLOTS; slot++) {
		struct pci_device *d = b->slots[slot];
		for (unsigned i = 0; d && i < PCI_N_BARS; i++)
			if (d->bars[i].half_written)
				d->bars[i].settled_address = bar_value(&d->bars[i], d->config, i);
		if (d)
			pci_bars_update(d, 0, 0);
	}
}

/* --- windows ---------------------------------------------------------------------------------------------------- */

static bool search(const struct pci_bus *b, uint64_t address, unsigned n_bytes, struct pci_mapping *ret_m)
{
	for (unsigned i = 0; i < b->n_mappings; i++) {
		const struct pci_mapping *m = &b->mappings[i];
		if (address - m->start < m->n_bytes && address >= m->start) {
			*ret_m = *m;
			/* One that crosses the end is nobody's. */
			return m->n_bytes - (address - m->start) >= n_bytes;
		}
	}
	return false;
}

static bool find_mapping(struct pci_bus *b, uint64_t address, unsigned n_bytes, struct pci_mapping *ret_m)
{
	(void)pthread_mutex_lock(&b->lock);
	bool is_found = search(b, address, n_bytes, ret_m);
	bool was_settled = !is_found && b->has_half_written;
	if (was_settled) {
		settle(b);
		is_found = search(b, address, n_bytes, ret_m);
	}
	(void)pthread_mutex_unlock(&b->lock);

	for (unsigned slot = 0; was_settled && slot < PCI_N_SLOTS; slot++)
		if (b->slots[slot])
			pci_bars_tell(b->slots[slot]);
	return is_found;
}

static void window_read(void *context, uint64_t offset, uint8_t *ret_bytes, unsigned n_bytes)
{
	const struct pci_window_range *r = context;
	uint64_t address = r->start + offset;
	struct pci_mapping m;
	if (find_mapping(r->bus, address, n_bytes, &m) && m.device->cls->bar_read)
		m.device->cls->bar_read(m.device, m.bar, address - m.start, ret_bytes, n_bytes);
	else
		memset(ret_bytes, 0xff, n_bytes);
}

static void window_write(void *context, uint64_t offset, const uint8_t *bytes, unsigned n_bytes)
{
	const struct pci_window_range *r = context;
	uint64_t address = r->start + offset;
	struct pci_mapping m;
	if (find_mapping(r->bus, address, n_bytes, &m) && m.device->cls->bar_write)
		m.device->cls->bar_write(m.device, m.bar, address - m.start, bytes, n_bytes);
}

static const struct bus_ops window_ops = { .read = window_read, .write = window_write };

/* --- INTx ------------------------------------------------------------------------------------------------------- */

/* PCI 3.0, 6.2.2 and 6.2.3: Interrupt Disable keeps a function from asserting INTx, not from saying in its status that it
 * would. 6.8.2.3: a function with MSI-X enabled may not use INTx (and virtio 1.2, 4.1.4.5.1, has no status then). */
void pci_intx_update(struct pci_device *d)
{
	struct pci_bus *b = d->bus;
	bool is_raised = d->is_intx_raised && !d->msix.is_enabled;
	bool is_disabled = get_le16(&d->config[PCI_COMMAND]) & PCI_COMMAND_INTX_DISABLE;
	bool is_asserted = is_raised && !is_disabled;

	uint8_t *status = &d->config[PCI_STATUS];
	*status = (uint8_t)(is_raised ? *status | PCI_STATUS_INTERRUPT : *status & ~PCI_STATUS_INTERRUPT);
	if (!d->intx || is_asserted == d->is_intx_asserted)
		return;
	d->is_intx_asserted = is_asserted;
	unsigned *n_raised = &b->intx_raised[d->slot % ARRAY_LEN(b->intx)];
	assert(is_asserted || *n_raised > 0);
	*n_raised += is_asserted ? 1u : -1u;
	/* Under the lock, so that the line sees the changes in their order. */
	if (*n_raised == (is_asserted ? 1u : 0u))
		irq_line_set(d->intx, is_asserted);
}

void pci_intx_set(struct pci_device *d, bool level)
{
	struct pci_bus *b = d->bus;
	if (!b)
		return;
	(void)pthread_mutex_lock(&b->lock);
	d->is_intx_raised = level;
	pci_intx_update(d);
	(void)pthread_mutex_unlock(&b->lock);
}

/* --- slots ------------------------------------------------------------------------------------------------------ */

/* The end of a BAR that lies in [address, +n_bytes), now or once it decodes; 0 when there is none. */
static uint64_t occupied_until(const struct pci_bus *b, const struct pci_device *newcomer, uint64_t address, uint64_t n_bytes)
{
	for (unsigned slot = 0; slot <= PCI_N_SLOTS; slot++) {
		const struct pci_device *d = slot < PCI_N_SLOTS ? b->slots[slot] : newcomer;
		for (unsigned i = 0; d && i < PCI_N_BARS; i++) {
			const struct pci_bar *bar = &d->bars[i];
			uint64_t start = bar_value(bar, d->config, i);
			if (bar->n_bytes && start && overlaps(address, n_bytes, start, bar->n_bytes))
				return start + bar->n_bytes;
		}
	}
	return 0;
}

/* First fit. Each turn passes a BAR, so that it ends. */
static bool place(const struct pci_bus *b, const struct pci_device *d, const struct pci_window *w, uint64_t n_bytes,
                  uint64_t *ret_address)
{
	uint64_t address = w->start, end;

	for (;;) {
		if (!checked_align_up(address, n_bytes, &address) || !window_holds(w, address, n_bytes))
			return false;
		end = occupied_until(b, d, address, n_bytes);
		if (end == 0)
			break;
		if (end <= address)
			return false;
		address = end;
	}
	*ret_address = address;
	return true;
}

static int place_bars(const struct pci_bus *b, struct pci_device *d, struct err *e)
{
	for (unsigned i = 0; i < PCI_N_BARS; i++)
		if (d->bars[i].n_bytes)
			bar_set_value(&d->bars[i], d->config, i, 0);
	for (unsigned i = 0; i < PCI_N_BARS; i++) {
		const struct pci_bar *bar = &d->bars[i];
		uint64_t address;
		if (!bar->n_bytes)
			continue;
		if ((!bar->is_64bit || !place(b, d, &b->high, bar->n_bytes, &address)) &&
		    !place(b, d, &b->low, bar->n_bytes, &address))
			return err_set(e, ENOSPC, "pci: cannot attach '%s': no window has room for 0x%" PRIx64 " bytes of BAR %u",
			               d->name, bar->n_bytes, i);
		bar_set_value(bar, d->config, i, address);
	}
	return 0;
}

static int choose_slot(const struct pci_bus *b, const struct pci_device *d, int slot, struct err *e)
{
	if (slot >= PCI_N_SLOTS)
		return err_set(e, EINVAL, "pci: cannot attach '%s': slot %d: there are %d", d->name, slot, PCI_N_SLOTS);
	if (slot >= 0 && b->slots[slot])
		return err_set(e, EEXIST, "pci: cannot attach '%s': slot %d has '%s'", d->name, slot, b->slots[slot]->name);
	for (int i = 0; slot < 0 && i < PCI_N_SLOTS; i++)
		if (!b->slots[i])
			slot = i;
	if (slot < 0)
		return err_set(e, ENOSPC, "pci: cannot attach '%s': all %d slots are in use", d->name, PCI_N_SLOTS);
	return slot;
}

int pci_bus_attach(struct pci_bus *b, struct pci_device *d, int slot, struct err *e)
{
	assert(!d->bus);
	slot = choose_slot(b, d, slot, e);
	if (slot < 0)
		return slot;

	uint8_t saved[sizeof d->config];
	memcpy(saved, d->config, sizeof saved);
	int rc = place_bars(b, d, e);
	if (rc < 0) {
		memcpy(d->config, saved, sizeof saved);
		return rc;
	}
	d->slot = (unsigned)slot;
	d->bus = b;
	put_le16(&d->config[PCI_COMMAND], PCI_COMMAND_MEMORY);
	if (b->has_intx && d != &b->host_bridge) {
		d->intx = &b->intx[d->slot % ARRAY_LEN(b->intx)];
		d->config[PCI_INTERRUPT_PIN] = 1; /* INTA# */
		d->config[PCI_INTERRUPT_LINE] = (uint8_t)d->intx->pin;
	}

	(void)pthread_mutex_lock(&b->lock);
	b->slots[d->slot] = d;
	pci_bars_update(d, 0, sizeof d->config);
	(void)pthread_mutex_unlock(&b->lock);
	pci_bars_tell(d);
	return 0;
}

void pci_bus_detach(struct pci_device *d)
{
	struct pci_bus *b = d->bus;
	if (!b)
		return;
	(void)pthread_mutex_lock(&b->lock);
	d->is_intx_raised = false;
	pci_intx_update(d);
	for (unsigned i = 0; i < PCI_N_BARS; i++) {
		d->bars[i].address = 0;
		d->bars[i].half_written = 0;
	}
	b->slots[d->slot] = NULL;
	atomic_fetch_and(&b->hidden_slots, ~(1u << d->slot));
	rebuild_mappings(b);
	(void)pthread_mutex_unlock(&b->lock);
	pci_bars_tell(d);
	d->intx = NULL;
	d->bus = NULL;
}

void pci_bus_hide(struct pci_bus *b, uint32_t slots)
{
	atomic_fetch_or(&b->hidden_slots, slots);
}

void pci_device_bdf(const struct pci_device *d, char ret_bdf[PCI_BDF_CHARS])
{
	assert(d->bus && d->slot < PCI_N_SLOTS);
	(void)snprintf(ret_bdf, PCI_BDF_CHARS, "%04x:00:%02x.0", d->bus->segment, d->slot & 0x1fu);
}

uint64_t pci_bar_address(const struct pci_device *d, unsigned bar)
{
	assert(d->bus && bar < PCI_N_BARS);
	(void)pthread_mutex_lock(&d->bus->lock);
	uint64_t address = bar_value(&d->bars[bar], d->config, bar);
	(void)pthread_mutex_unlock(&d->bus->lock);
	return address;
}

/* --- the bus ---------------------------------------------------------------------------------------------------- */

static int add_ranges(struct pci_bus *b, struct bus *mmio, struct bus *ports, struct err *e)
{
	const struct bus_range ranges[] = {
		{ b->ecam, PCI_ECAM_BYTES, &pci_ecam_ops, b, "pci-ecam" },
		{ b->low.start, b->low.n_bytes, &window_ops, &b->low_range, "pci-low-window" },
		{ b->high.start, b->high.n_bytes, &window_ops, &b->high_range, "pci-high-window" },
	};
	int rc = 0;

	for (size_t i = 0; i < ARRAY_LEN(ranges) && rc == 0; i++)
		if (ranges[i].n_bytes)
			rc = bus_add(mmio, &ranges[i], e);
	if (rc == 0 && ports) {
		const struct bus_range config = { PORT_CONFIG, PORT_CONFIG_BYTES, &pci_port_ops, b, "pci-config-ports" };
		rc = bus_add(ports, &config, e);
	}
	return rc;
}

/* Only ours go: a range of another's at one of our addresses is why we failed. */
static void remove_range(struct bus *bus, const void *context, uint64_t start)
{
	for (size_t i = 0; bus && i < bus->n_ranges; i++)
		if (bus->ranges[i].start == start && bus->ranges[i].context == context) {
			bus_remove(bus, start);
			return;
		}
}

static const struct pci_class host_bridge_class = { 0 };

int pci_bus_init(struct pci_bus *b, const struct pci_bus_params *p, struct bus *mmio, struct bus *ports, struct err *e)
{
	*b = (struct pci_bus){ .segment = p->segment, .low = p->low, .high = p->high, .ecam = p->ecam };
	b->log = p->log ? *p->log : (struct log){ .sink = NULL, .object = "pci" };
	(void)pthread_mutex_init(&b->lock, NULL);
	b->low_range = (struct pci_window_range){ b, p->low.start };
	b->high_range = (struct pci_window_range){ b, p->high.start };
	b->mmio = mmio;
	b->ports = ports;
	b->reset_control = p->reset_control;
	b->reset_control_context = p->reset_control_context;
	/* Address 0 means "nowhere". */
	assert((!b->low.n_bytes || b->low.start) && (!b->high.n_bytes || b->high.start));

	int rc = add_ranges(b, mmio, ports, e);
	b->has_intx = rc == 0 && p->router;
	for (uint32_t i = 0; b->has_intx && rc == 0 && i < ARRAY_LEN(b->intx); i++)
		rc = irq_line_init(&b->intx[i], p->router, PCI_INTX_FIRST_PIN + i, true, e);
	if (rc == 0) {
		/* The identity of Cloud Hypervisor's host bridge, which guest images know. */
		pci_device_init(&b->host_bridge, &host_bridge_class, "host-bridge", 0x8086, 0x0d57, 0x060000, 0, 0, 0);
		rc = pci_bus_attach(b, &b->host_bridge, 0, e);
	}
	if (rc < 0)
		pci_bus_done(b);
	return rc < 0 ? rc : 0;
}

void pci_bus_done(struct pci_bus *b)
{
	if (!b || !b->mmio)
		return;
	pci_bus_detach(&b->host_bridge);
	pci_device_done(&b->host_bridge);
	for (unsigned slot = 0; slot < PCI_N_SLOTS; slot++)
		assert(!b->slots[slot]);
	for (size_t i = 0; i < ARRAY_LEN(b->intx); i++)
		irq_line_done(&b->intx[i]);
	remove_range(b->mmio, b, b->ecam);
	remove_range(b->mmio, &b->low_range, b->low.start);
	remove_range(b->mmio, &b->high_range, b->high.start);
	remove_range(b->ports, b, PORT_CONFIG);
	(void)pthread_mutex_destroy(&b->lock);
	*b = (struct pci_bus){ 0 };
}
