/* SPDX-License-Identifier: Apache-2.0 */
/* Configuration space of one bus: headers, capabilities, and the two ways in (PCI 3.0, 3.2.2.3.2 and 6; PCIe 5.0, 7.2.2). */
#include "base/bytes.h"
#include "base/checked.h"
#include "bus/pci.h"
#include "bus/pci_regs.h"

#include <assert.h>
#include <stdatomic.h>
#include <string.h>

/* 3.2.2.3.2: CONFIG_ADDRESS. The other bits are reserved and read as zeroes. */
#define CONFIG_ADDRESS_ENABLE 0x80000000u
#define CONFIG_ADDRESS_BITS 0x80fffffcu
#define CONFIG_DATA_OFFSET 4u
#define RESET_CONTROL_OFFSET 1u

#define MEANINGFUL_BYTES 256u /* of configuration space that hold anything */

/* --- what a device is made of ----------------------------------------------------------------------------------- */

void pci_device_init(struct pci_device *d, const struct pci_class *cls, const char *name, uint16_t vendor, uint16_t device,
                     uint32_t class_code, uint16_t subsystem_vendor, uint16_t subsystem, uint8_t revision)
{
	*d = (struct pci_device){ .cls = cls, .name = name, .n_next_capability = PCI_FIRST_CAPABILITY };
	uint8_t *c = d->config;
	put_le16(&c[PCI_VENDOR_ID], vendor);
	put_le16(&c[PCI_DEVICE_ID], device);
	c[PCI_REVISION_ID] = revision;
	c[PCI_CLASS_PROG] = (uint8_t)class_code;
	put_le16(&c[PCI_CLASS_PROG + 1], (uint16_t)(class_code >> 8));
	put_le16(&c[PCI_SUBSYSTEM_VENDOR_ID], subsystem_vendor);
	put_le16(&c[PCI_SUBSYSTEM_ID], subsystem);

	/* No I/O BARs: that bit of the command is hardwired to zero. */
	put_le16(&d->writable[PCI_COMMAND], PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER | PCI_COMMAND_PARITY | PCI_COMMAND_SERR |
	                                            PCI_COMMAND_INTX_DISABLE);
	d->writable[PCI_CACHE_LINE_SIZE] = 0xff;
	d->writable[PCI_LATENCY_TIMER] = 0xff;
	d->writable[PCI_INTERRUPT_LINE] = 0xff;
	(void)pthread_mutex_init(&d->msix.lock, NULL);
}

void pci_device_bar(struct pci_device *d, unsigned bar, uint64_t n_bytes, bool is_64bit, bool is_prefetchable)
{
	assert(!d->bus && bar < PCI_N_BARS && !d->bars[bar].n_bytes);
	assert(is_power_of_two(n_bytes) && n_bytes >= 16 && (is_64bit || n_bytes <= 1u << 31));
	assert(!is_64bit || (bar + 1 < PCI_N_BARS && !d->bars[bar + 1].n_bytes));
	assert(bar == 0 || !d->bars[bar - 1].is_64bit);

	d->bars[bar] = (struct pci_bar){ .n_bytes = n_bytes, .is_64bit = is_64bit, .is_prefetchable = is_prefetchable };
	unsigned at = PCI_BASE_ADDRESS_0 + 4 * bar;
	put_le32(&d->config[at], (is_64bit ? PCI_BASE_ADDRESS_64BIT : 0) | (is_prefetchable ? PCI_BASE_ADDRESS_PREFETCH : 0));
	/* 6.2.5.1: the address bits below the size are hardwired to zero; that is how software finds the size. */
	uint64_t address_bits = ~(n_bytes - 1);
	put_le32(&d->writable[at], (uint32_t)address_bits);
	if (is_64bit)
		put_le32(&d->writable[at + 4], (uint32_t)(address_bits >> 32));
}

unsigned pci_device_capability(struct pci_device *d, uint8_t id, const uint8_t *bytes, const uint8_t *writable, unsigned n_bytes)
{
	unsigned at = d->n_next_capability;
	assert(!d->bus && at + 2 + n_bytes <= sizeof d->config);

	d->config[at] = id;
	memcpy(&d->config[at + 2], bytes, n_bytes);
	if (writable)
		memcpy(&d->writable[at + 2], writable, n_bytes);
	if (d->last_capability)
		*d->last_capability = (uint8_t)at;
	else
		d->config[PCI_CAPABILITY_LIST] = (uint8_t)at;
	d->last_capability = &d->config[at + 1];
	d->config[PCI_STATUS] |= PCI_STATUS_CAP_LIST;
	d->n_next_capability = (unsigned)align_up(at + 2 + n_bytes, 4);
	return at;
}

void pci_device_done(struct pci_device *d)
{
	if (!d || !d->cls)
		return;
	assert(!d->bus);
	msix_done(d);
	(void)pthread_mutex_destroy(&d->msix.lock);
	*d = (struct pci_device){ 0 };
}

/* --- reads and writes ------------------------------------------------------------------------------------------- */

/* Several functions in a device are not offered: header type bit 7 is clear, and functions above 0 do not exist. */
static struct pci_device *device_at(const struct pci_bus *b, unsigned slot, unsigned function)
{
	assert(slot < PCI_N_SLOTS);
	bool is_hidden = atomic_load_explicit(&b->hidden_slots, memory_order_relaxed) >> slot & 1;
	return function == 0 && !is_hidden ? b->slots[slot] : NULL;
}

/* How much of the access lies in the bytes that mean something. */
static unsigned meaningful(unsigned offset, unsigned n_bytes)
{
	if (offset >= MEANINGFUL_BYTES)
		return 0;
	return n_bytes < MEANINGFUL_BYTES - offset ? n_bytes : MEANINGFUL_BYTES - offset;
}

static void config_read(struct pci_bus *b, unsigned slot, unsigned function, unsigned offset, uint8_t *ret_bytes,
                        unsigned n_bytes)
{
	struct pci_device *d = device_at(b, slot, function);
	if (!d) {
		/* 6.1: what a host bridge answers for devices that do not exist. */
		memset(ret_bytes, 0xff, n_bytes);
		return;
	}
	/* PCIe 5.0, 7.6.3: extended space that starts with zeroes has no capabilities. What crosses into the next function is
	 * nobody's. */
	memset(ret_bytes, 0, n_bytes);
	if (offset + n_bytes > PCI_CONFIG_BYTES)
		memset(&ret_bytes[PCI_CONFIG_BYTES - offset], 0xff, offset + n_bytes - PCI_CONFIG_BYTES);
	unsigned n = meaningful(offset, n_bytes);
	if (n == 0 || (d->cls->config_read && d->cls->config_read(d, offset, ret_bytes, n)))
		return;
	(void)pthread_mutex_lock(&b->lock);
	memcpy(ret_bytes, &d->config[offset], n);
	(void)pthread_mutex_unlock(&b->lock);
}

static bool touches(unsigned offset, unsigned n_bytes, unsigned at, unsigned n_at_bytes)
{
	return offset < at + n_at_bytes && at < offset + n_bytes;
}

static void config_write(struct pci_bus *b, unsigned slot, unsigned function, unsigned offset, const uint8_t *bytes,
                         unsigned n_bytes)
{
	struct pci_device *d = device_at(b, slot, function);
	unsigned n = meaningful(offset, n_bytes);
	if (!d || n == 0 || (d->cls->config_write && d->cls->config_write(d, offset, bytes, n)))
		return;

	bool has_command = touches(offset, n, PCI_COMMAND, 2);
	bool has_bars = has_command || touches(offset, n, PCI_BASE_ADDRESS_0, 4 * PCI_N_BARS);
	bool has_msix = d->msix.n_vectors && touches(offset, n, d->msix.capability + PCI_MSIX_FLAGS, 2);

	(void)pthread_mutex_lock(&b->lock);
	for (unsigned i = 0; i < n; i++) {
		uint8_t *c = &d->config[offset + i];
		uint8_t w = d->writable[offset + i];
		*c = (uint8_t)((*c & ~w) | (bytes[i] & w));
	}
	if (has_msix)
		msix_control_changed(d);
	if (has_bars)
		pci_bars_update(d, offset, n);
	if (has_command || has_msix)
		pci_intx_update(d);
	(void)pthread_mutex_unlock(&b->lock);

	if (has_bars)
		pci_bars_tell(d);
	if (has_msix)
		msix_commit(d);
}

/* --- ECAM (PCIe 5.0, 7.2.2): bus 0 of the segment --------------------------------------------------------------- */

static void ecam_read(void *context, uint64_t offset, uint8_t *ret_bytes, unsigned n_bytes)
{
	config_read(context, offset >> 15 & 0x1f, offset >> 12 & 7, offset & 0xfff, ret_bytes, n_bytes);
}

static void ecam_write(void *context, uint64_t offset, const uint8_t *bytes, unsigned n_bytes)
{
	config_write(context, offset >> 15 & 0x1f, offset >> 12 & 7, offset & 0xfff, bytes, n_bytes);
}

const struct bus_ops pci_ecam_ops = { .read = ecam_read, .write = ecam_write };

/* --- ports 0xcf8 and 0xcfc (PCI 3.0, 3.2.2.3.2) ----------------------------------------------------------------- */

static uint32_t config_address(struct pci_bus *b)
{
	(void)pthread_mutex_lock(&b->lock);
	uint32_t v = b->config_address;
	(void)pthread_mutex_unlock(&b->lock);
	return v;
}

/* Only a full double word is CONFIG_ADDRESS; all else there is an ordinary port access, and no port answers. */
static bool is_address_access(uint64_t offset, unsigned n_bytes)
{
	return offset == 0 && n_bytes == 4;
}

static bool is_data_access(uint64_t offset, unsigned n_bytes)
{
	return offset >= CONFIG_DATA_OFFSET && offset + n_bytes <= CONFIG_DATA_OFFSET + 4;
}

static bool is_reset_access(const struct pci_bus *b, uint64_t offset, unsigned n_bytes)
{
	return b->reset_control && offset == RESET_CONTROL_OFFSET && n_bytes == 1;
}

static bool is_on_our_bus(uint32_t address)
{
	return (address & CONFIG_ADDRESS_ENABLE) && (address >> 16 & 0xff) == 0;
}

static void port_read(void *context, uint64_t offset, uint8_t *ret_bytes, unsigned n_bytes)
{
	struct pci_bus *b = context;

	memset(ret_bytes, 0xff, n_bytes);
	if (is_address_access(offset, n_bytes)) {
		put_le32(ret_bytes, config_address(b));
	} else if (is_data_access(offset, n_bytes)) {
		uint32_t a = config_address(b);
		if (is_on_our_bus(a))
			config_read(b, a >> 11 & 0x1f, a >> 8 & 7, (a & 0xfc) + (unsigned)(offset - CONFIG_DATA_OFFSET), ret_bytes,
			            n_bytes);
	} else if (is_reset_access(b, offset, n_bytes) && b->reset_control->read) {
		ret_bytes[0] = 0;
		b->reset_control->read(b->reset_control_context, 0, ret_bytes, n_bytes);
	}
}

static void port_write(void *context, uint64_t offset, const uint8_t *bytes, unsigned n_bytes)
{
	struct pci_bus *b = context;

	if (is_address_access(offset, n_bytes)) {
		(void)pthread_mutex_lock(&b->lock);
		b->config_address = get_le32(bytes) & CONFIG_ADDRESS_BITS;
		(void)pthread_mutex_unlock(&b->lock);
	} else if (is_data_access(offset, n_bytes)) {
		uint32_t a = config_address(b);
		if (is_on_our_bus(a))
			config_write(b, a >> 11 & 0x1f, a >> 8 & 7, (a & 0xfc) + (unsigned)(offset - CONFIG_DATA_OFFSET), bytes,
			             n_bytes);
	} else if (is_reset_access(b, offset, n_bytes) && b->reset_control->write) {
		b->reset_control->write(b->reset_control_context, 0, bytes, n_bytes);
	}
}

const struct bus_ops pci_port_ops = { .read = port_read, .write = port_write };
