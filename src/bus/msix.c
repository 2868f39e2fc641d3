/* SPDX-License-Identifier: Apache-2.0 */
/* msix.c - MSI-X (PCI 3.0, 6.8.2). Theory of operation.
 *
 * A vector is active while MSI-X is enabled and neither the function nor the vector is masked. Only then does its entry
 * become a route: writes to masked entries cost no engine call, and enabling many vectors at once costs one. Raising an
 * active vector writes its event descriptor; raising another sets its pending bit, and whatever makes it active (6.8.2.9)
 * fires it. Mask, pending bit and raise are under one lock, so that no interrupt leaves after a mask was written, and
 * none is lost between the look at the mask and the pending bit. */
#include "base/bytes.h"
#include "base/checked.h"
#include "bus/pci.h"
#include "bus/pci_regs.h"

#include <assert.h>
#include <errno.h>
#include <stdlib.h>

#define ENTRY_DWORDS (PCI_MSIX_ENTRY_BYTES / 4)
#define VECTOR_CONTROL_MASK 1u

int pci_device_msix(struct pci_device *d, struct irq_router *r, unsigned n_vectors, unsigned bar, uint32_t table_offset,
                    uint32_t pba_offset, struct err *e)
{
	struct msix *m = &d->msix;
	assert(!m->n_vectors && n_vectors >= 1 && n_vectors <= PCI_MSIX_MAX_VECTORS);
	assert(bar < PCI_N_BARS && d->bars[bar].n_bytes && table_offset % 8 == 0 && pba_offset % 8 == 0);
	assert((uint64_t)table_offset + n_vectors * PCI_MSIX_ENTRY_BYTES <= d->bars[bar].n_bytes);
	assert((uint64_t)pba_offset + align_up(n_vectors, 64) / 8 <= d->bars[bar].n_bytes);

	m->vectors = calloc(n_vectors, sizeof *m->vectors);
	if (!m->vectors)
		return err_set(e, ENOMEM, "pci: '%s': no memory for %u MSI-X vectors", d->name, n_vectors);
	m->router = r;
	m->n_vectors = n_vectors;
	for (unsigned i = 0; i < n_vectors; i++)
		m->vectors[i] = (struct msix_vector){ .is_masked = true, .msi = { .event_fd = -1 } };
	for (unsigned i = 0; i < n_vectors; i++) {
		int rc = irq_msi_alloc(r, &m->vectors[i].msi, e);
		if (rc < 0) {
			err_prefix(e, "pci: '%s': MSI-X vector %u: ", d->name, i);
			msix_done(d);
			return rc;
		}
	}
	m->table_bar = m->pba_bar = bar;
	m->table_offset = table_offset;
	m->pba_offset = pba_offset;

	uint8_t bytes[10];
	static const uint8_t writable[10] = { 0, (PCI_MSIX_FLAGS_ENABLE | PCI_MSIX_FLAGS_MASKALL) >> 8 };
	put_le16(&bytes[0], (uint16_t)(n_vectors - 1));
	put_le32(&bytes[2], table_offset | bar);
	put_le32(&bytes[6], pba_offset | bar);
	m->capability = pci_device_capability(d, PCI_CAP_ID_MSIX, bytes, writable, sizeof bytes);
	return 0;
}

void msix_done(struct pci_device *d)
{
	struct msix *m = &d->msix;
	for (unsigned i = 0; i < m->n_vectors; i++)
		irq_msi_free(&m->vectors[i].msi);
	free(m->vectors);
	m->vectors = NULL;
	m->n_vectors = 0;
}

/* Under the lock. */
static bool is_active(const struct msix *m, const struct msix_vector *v)
{
	return m->is_enabled && !m->is_function_masked && !v->is_masked;
}

/* Under the lock, after anything about the vector changed. The route reaches the engine with msix_commit(). */
static void activate(struct msix *m, struct msix_vector *v)
{
	if (!is_active(m, v))
		return;
	const struct hv_msi msi = { .address = (uint64_t)v->address_high << 32 | v->address_low, .data = v->data };
	irq_msi_set(&v->msi, &msi);
	if (v->is_pending) {
		v->is_pending = false;
		irq_msi_raise(&v->msi);
	}
}

void msix_commit(struct pci_device *d)
{
	irq_commit_or_log(d->msix.router);
}

void msix_control_changed(struct pci_device *d)
{
	struct msix *m = &d->msix;
	uint16_t control = get_le16(&d->config[m->capability + PCI_MSIX_FLAGS]);

	(void)pthread_mutex_lock(&m->lock);
	m->is_enabled = control & PCI_MSIX_FLAGS_ENABLE;
	m->is_function_masked = control & PCI_MSIX_FLAGS_MASKALL;
	for (unsigned i = 0; i < m->n_vectors; i++) {
		/* What was pending for a driver that turned MSI-X off is nothing to the next one. */
		m->vectors[i].is_pending &= m->is_enabled;
		activate(m, &m->vectors[i]);
	}
	(void)pthread_mutex_unlock(&m->lock);
}

bool msix_raise(struct pci_device *d, unsigned vector)
{
	struct msix *m = &d->msix;
	if (vector >= m->n_vectors)
		return false;

	(void)pthread_mutex_lock(&m->lock);
	bool is_enabled = m->is_enabled;
	if (is_enabled) {
		struct msix_vector *v = &m->vectors[vector];
		if (is_active(m, v))
			irq_msi_raise(&v->msi);
		else
			v->is_pending = true;
	}
	(void)pthread_mutex_unlock(&m->lock);
	return is_enabled;
}

/* --- the table and the pending bits ----------------------------------------------------------------------------- */

/* The bytes of the pending bit array: whole 64-bit words (6.8.2.10). */
static uint64_t pba_bytes(const struct msix *m)
{
	return align_up(m->n_vectors, 64) / 8;
}

static bool is_table(const struct msix *m, uint64_t offset)
{
	return offset >= m->table_offset && offset - m->table_offset < (uint64_t)m->n_vectors * PCI_MSIX_ENTRY_BYTES;
}

static bool is_pba(const struct msix *m, uint64_t offset)
{
	return offset >= m->pba_offset && offset - m->pba_offset < pba_bytes(m);
}

/* Under the lock; zeroes behind the end. */
static uint32_t table_dword(const struct msix *m, uint64_t index)
{
	if (index / ENTRY_DWORDS >= m->n_vectors)
		return 0;
	const struct msix_vector *v = &m->vectors[index / ENTRY_DWORDS];
	const uint32_t dwords[ENTRY_DWORDS] = { v->address_low, v->address_high, v->data, v->is_masked ? VECTOR_CONTROL_MASK : 0 };
	return dwords[index % ENTRY_DWORDS];
}

static uint32_t pba_dword(const struct msix *m, uint64_t index)
{
	uint32_t v = 0;
	for (unsigned bit = 0; bit < 32 && index * 32 + bit < m->n_vectors; bit++)
		v |= (uint32_t)m->vectors[index * 32 + bit].is_pending << bit;
	return v;
}

bool msix_bar_read(struct pci_device *d, uint64_t offset, uint8_t *ret_bytes, unsigned n_bytes)
{
	struct msix *m = &d->msix;
	bool has_table = is_table(m, offset), has_pba = is_pba(m, offset);
	if (!has_table && !has_pba)
		return false;

	uint64_t at = offset - (has_table ? m->table_offset : m->pba_offset);
	(void)pthread_mutex_lock(&m->lock);
	/* 6.8.2: software reads whole double words or pairs of them. Other widths get the bytes that are there. */
	for (unsigned i = 0; i < n_bytes;) {
		uint64_t index = (at + i) / 4;
		uint32_t dword = has_table ? table_dword(m, index) : pba_dword(m, index);
		do {
			ret_bytes[i] = (uint8_t)(dword >> 8 * ((at + i) % 4));
			i++;
		} while (i < n_bytes && (at + i) % 4 != 0);
	}
	(void)pthread_mutex_unlock(&m->lock);
	return true;
}

/* Under the lock. 6.8.2.5 to 6.8.2.8: the address is that of a double word; reserved control bits read as zeroes. */
static void set_table_dword(struct msix *m, uint64_t index, uint32_t value)
{
	if (index / ENTRY_DWORDS >= m->n_vectors)
		return;
	struct msix_vector *v = &m->vectors[index / ENTRY_DWORDS];
	switch (index % ENTRY_DWORDS) {
	case 0:
		v->address_low = value & ~3u;
		break;
	case 1:
		v->address_high = value;
		break;
	case 2:
		v->data = value;
		break;
	default:
		v->is_masked = value & VECTOR_CONTROL_MASK;
		break;
	}
}

bool msix_bar_write(struct pci_device *d, uint64_t offset, const uint8_t *bytes, unsigned n_bytes)
{
	struct msix *m = &d->msix;
	if (is_pba(m, offset))
		return true; /* read-only */
	if (!is_table(m, offset))
		return false;
	/* 6.8.2: other accesses are undefined; they do nothing. */
	uint64_t at = offset - m->table_offset;
	if ((n_bytes != 4 && n_bytes != 8) || at % n_bytes != 0)
		return true;

	struct msix_vector *v = &m->vectors[at / PCI_MSIX_ENTRY_BYTES];
	(void)pthread_mutex_lock(&m->lock);
	for (unsigned i = 0; i < n_bytes; i += 4)
		set_table_dword(m, (at + i) / 4, get_le32(&bytes[i]));
	activate(m, v);
	bool is_committing = is_active(m, v);
	(void)pthread_mutex_unlock(&m->lock);
	if (is_committing)
		msix_commit(d);
	return true;
}
