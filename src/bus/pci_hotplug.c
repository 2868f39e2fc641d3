/* SPDX-License-Identifier: Apache-2.0 */
/* A removal is a conversation: we set a bit in DOWN and raise the event; the guest's _EVT method reads DOWN and notifies
 * the slot's object; the guest's driver lets go of the device and writes the slot's bit to EJECT. Only then is anything
 * taken down. From that write on the slot reads as empty, so that a guest which looks again before the main thread has
 * had its turn does not find what it has just given away. A guest may eject what nobody asked for: it is the guest's
 * device, and ACPI lets it. */
#include "bus/pci_hotplug.h"

#include "base/bytes.h"

#include <assert.h>

#define REGISTER_BYTES 4u

_Static_assert(PCI_N_SLOTS == 32, "one bit a slot");

void pci_hotplug_init(struct pci_hotplug *h, struct pci_bus *bus, void (*ejection)(void *context), void *context)
{
	*h = (struct pci_hotplug){ .bus = bus, .segment = bus->segment, .ejection = ejection, .context = context };
	(void)pthread_mutex_init(&h->lock, NULL);
}

void pci_hotplug_done(struct pci_hotplug *h)
{
	if (!h->bus)
		return;
	(void)pthread_mutex_destroy(&h->lock);
	*h = (struct pci_hotplug){ 0 };
}

/* --- our side ------------------------------------------------------------------------------------------------------- */

static uint32_t bit_of(unsigned slot)
{
	assert(slot < PCI_N_SLOTS);
	return 1u << slot;
}

void pci_hotplug_filled(struct pci_hotplug *h, unsigned slot, bool is_news)
{
	(void)pthread_mutex_lock(&h->lock);
	h->removable |= bit_of(slot);
	if (is_news)
		h->up |= bit_of(slot);
	(void)pthread_mutex_unlock(&h->lock);
}

void pci_hotplug_emptied(struct pci_hotplug *h, unsigned slot)
{
	(void)pthread_mutex_lock(&h->lock);
	h->removable &= ~bit_of(slot);
	h->up &= ~bit_of(slot);
	h->down &= ~bit_of(slot);
	h->ejected &= ~bit_of(slot);
	(void)pthread_mutex_unlock(&h->lock);
}

void pci_hotplug_ask(struct pci_hotplug *h, unsigned slot)
{
	(void)pthread_mutex_lock(&h->lock);
	assert(h->removable & bit_of(slot));
	h->down |= bit_of(slot);
	(void)pthread_mutex_unlock(&h->lock);
}

uint32_t pci_hotplug_unread(struct pci_hotplug *h)
{
	(void)pthread_mutex_lock(&h->lock);
	uint32_t slots = h->up | h->down;
	(void)pthread_mutex_unlock(&h->lock);
	return slots;
}

bool pci_hotplug_is_heard(struct pci_hotplug *h, unsigned slot)
{
	(void)pthread_mutex_lock(&h->lock);
	bool is_heard = !(h->down & bit_of(slot));
	(void)pthread_mutex_unlock(&h->lock);
	return is_heard;
}

uint32_t pci_hotplug_take_ejected(struct pci_hotplug *h)
{
	(void)pthread_mutex_lock(&h->lock);
	uint32_t slots = h->ejected;
	h->ejected = 0;
	(void)pthread_mutex_unlock(&h->lock);
	return slots;
}

/* --- the guest's side: vCPU threads --------------------------------------------------------------------------------- */

/* Of a register, the bits that n_bytes bytes from `offset` hold; what crosses into the next register is nobody's. */
static uint32_t covered(uint64_t offset, unsigned n_bytes)
{
	uint32_t mask = 0;
	for (uint64_t i = offset % REGISTER_BYTES; i < offset % REGISTER_BYTES + n_bytes && i < REGISTER_BYTES; i++)
		mask |= 0xffu << (8 * i);
	return mask;
}

static uint32_t take(uint32_t *bits, uint32_t mask)
{
	uint32_t taken = *bits & mask;
	*bits &= ~mask;
	return taken;
}

/* Bytes of UP and DOWN that the access does not cover are left for the next one. */
static void hotplug_read(void *context, uint64_t offset, uint8_t *ret_bytes, unsigned n_bytes)
{
	struct pci_hotplug *h = context;
	uint32_t mask = covered(offset, n_bytes), v = 0;

	(void)pthread_mutex_lock(&h->lock);
	bool is_ours = h->segment == h->bus->segment;
	switch (offset - offset % REGISTER_BYTES) {
	case PCI_HOTPLUG_UP:
		v = is_ours ? take(&h->up, mask) : 0;
		break;
	case PCI_HOTPLUG_DOWN:
		v = is_ours ? take(&h->down, mask) : 0;
		break;
	case PCI_HOTPLUG_SEGMENT:
		v = h->segment & mask;
		break;
	default: /* EJECT has nothing to say */
		break;
	}
	(void)pthread_mutex_unlock(&h->lock);

	unsigned shift = 8 * (unsigned)(offset % REGISTER_BYTES);
	for (unsigned i = 0; i < n_bytes && shift < 32; i++, shift += 8)
		ret_bytes[i] = (uint8_t)(v >> shift);
}

static void hotplug_write(void *context, uint64_t offset, const uint8_t *bytes, unsigned n_bytes)
{
	struct pci_hotplug *h = context;
	uint32_t mask = covered(offset, n_bytes);
	uint32_t v = (uint32_t)(get_le(bytes, n_bytes) << (8 * (offset % REGISTER_BYTES))) & mask;
	bool has_ejected = false;

	(void)pthread_mutex_lock(&h->lock);
	switch (offset - offset % REGISTER_BYTES) {
	case PCI_HOTPLUG_EJECT:
		/* What cannot go, is not there or was let go before is no news. */
		v &= h->segment == h->bus->segment ? h->removable & ~h->ejected : 0;
		h->ejected |= v;
		pci_bus_hide(h->bus, v);
		has_ejected = v != 0;
		break;
	case PCI_HOTPLUG_SEGMENT:
		h->segment = (h->segment & ~mask) | v;
		break;
	default: /* UP and DOWN are ours */
		break;
	}
	(void)pthread_mutex_unlock(&h->lock);
	if (has_ejected)
		h->ejection(h->context);
}

const struct bus_ops pci_hotplug_bus_ops = { .read = hotplug_read, .write = hotplug_write };
