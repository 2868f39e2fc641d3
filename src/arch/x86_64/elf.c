/* SPDX-License-Identifier: Apache-2.0 */
/* An ELF kernel for x86-64 (System V ABI, "ELF Header" and "Program Header"): a Linux vmlinux, or any kernel with a PVH
 * entry note (Xen, docs/misc/pvh). All program headers are checked before the first byte is loaded; segments are loaded
 * at their physical addresses. Everything of ours is below 1 MiB, so that a segment has to be above. */
#include "arch/x86_64/payload.h"
#include "base/bytes.h"
#include "base/checked.h"

#include <assert.h>
#include <elf.h>
#include <errno.h>
#include <inttypes.h>
#include <string.h>

#define MAX_SEGMENTS 64 /* Linux has 5 */
#define MAX_NOTES 256   /* Linux has about 20 */
#define LOWEST_ADDRESS 0x100000ull

/* Xen, public/elfnote.h: the physical address of the 32-bit entry point. */
#define XEN_ELFNOTE_PHYS32_ENTRY 18
#define NOTE_WINDOW_BYTES 4096

struct segment {
	uint32_t type;
	bool is_writable;
	uint64_t offset, n_file_bytes; /* in the file */
	uint64_t address, n_bytes;     /* in memory */
	uint64_t align;
};

struct segments {
	struct segment all[MAX_SEGMENTS];
	unsigned n;
};

bool elf_is(const struct payload_head *h)
{
	return h->n_bytes >= SELFMAG && memcmp(h->bytes, ELFMAG, SELFMAG) == 0;
}

/* The header as the file has it: this code runs on x86-64 only, and only little-endian files pass. */
static int check_header(const struct payload_file *f, const struct payload_head *h, Elf64_Ehdr *ret_h, struct err *e)
{
	if (h->n_bytes < sizeof *ret_h)
		return err_set(e, EINVAL, "%s: ELF header: the file ends inside it", f->label);
	memcpy(ret_h, h->bytes, sizeof *ret_h);

	if (ret_h->e_ident[EI_CLASS] != ELFCLASS64)
		return err_set(e, EINVAL, "%s: ELF header: class %u, must be 2 (64-bit)", f->label,
		               ret_h->e_ident[EI_CLASS]);
	if (ret_h->e_ident[EI_DATA] != ELFDATA2LSB)
		return err_set(e, EINVAL, "%s: ELF header: not little-endian", f->label);
	if (ret_h->e_ident[EI_VERSION] != EV_CURRENT || ret_h->e_version != EV_CURRENT)
		return err_set(e, EINVAL, "%s: ELF header: version must be 1", f->label);
	if (ret_h->e_machine != EM_X86_64)
		return err_set(e, EINVAL, "%s: ELF header: for machine %u, must be %d (x86-64)", f->label,
		               ret_h->e_machine, EM_X86_64);
	if (ret_h->e_type != ET_EXEC)
		return err_set(e, EINVAL, "%s: ELF header: type %u, must be %d (executable)", f->label, ret_h->e_type,
		               ET_EXEC);
	if (ret_h->e_phentsize != sizeof(Elf64_Phdr))
		return err_set(e, EINVAL, "%s: ELF header: program headers of %u bytes, must be %zu", f->label,
		               ret_h->e_phentsize, sizeof(Elf64_Phdr));
	if (ret_h->e_phnum == 0)
		return err_set(e, EINVAL, "%s: ELF header: no program headers", f->label);
	if (ret_h->e_phnum > MAX_SEGMENTS)
		return err_set(e, EINVAL, "%s: ELF header: %u program headers, at most %d are allowed", f->label,
		               ret_h->e_phnum, MAX_SEGMENTS);
	uint64_t n_bytes = ret_h->e_phnum * sizeof(Elf64_Phdr);
	if (ret_h->e_phoff > f->n_bytes || n_bytes > f->n_bytes - ret_h->e_phoff)
		return err_set(e, EINVAL, "%s: ELF header: program headers end behind the end of the file", f->label);
	return 0;
}

static int read_segments(const struct payload_file *f, const struct payload_head *h, const Elf64_Ehdr *header,
                         struct segments *ret_s, struct err *e)
{
	Elf64_Phdr raw[MAX_SEGMENTS];
	size_t n_bytes = header->e_phnum * sizeof raw[0];

	/* Linux has them right after the header. */
	if (header->e_phoff <= h->n_bytes && n_bytes <= h->n_bytes - header->e_phoff) {
		memcpy(raw, h->bytes + header->e_phoff, n_bytes);
	} else {
		int rc = payload_read(f, header->e_phoff, raw, n_bytes, e);
		if (rc < 0)
			return rc;
	}
	ret_s->n = header->e_phnum;
	for (unsigned i = 0; i < ret_s->n; i++)
		ret_s->all[i] = (struct segment){
			.type = raw[i].p_type,
			.is_writable = raw[i].p_flags & PF_W,
			.offset = raw[i].p_offset,
			.n_file_bytes = raw[i].p_filesz,
			.address = raw[i].p_paddr,
			.n_bytes = raw[i].p_memsz,
			.align = raw[i].p_align,
		};
	return 0;
}

static bool is_loaded(const struct segment *s)
{
	return s->type == PT_LOAD && s->n_bytes > 0;
}

static int check_in_file(const struct payload_file *f, const struct segment *s, unsigned i, struct err *e)
{
	if (s->offset > f->n_bytes || s->n_file_bytes > f->n_bytes - s->offset)
		return err_set(e, EINVAL,
		               "%s: segment %u: bytes 0x%" PRIx64 "+0x%" PRIx64 " end behind the end of the file "
		               "(0x%" PRIx64 ")", f->label, i, s->offset, s->n_file_bytes, f->n_bytes);
	return 0;
}

static int check_segment(const struct mem_map *mem, const struct payload_file *f, const struct segments *all,
                         unsigned i, struct err *e)
{
	const struct segment *s = &all->all[i];
	struct span unused;
	uint64_t end;

	if (s->n_file_bytes > s->n_bytes)
		return err_set(e, EINVAL,
		               "%s: segment %u: more bytes in the file (0x%" PRIx64 ") than in memory (0x%" PRIx64 ")",
		               f->label, i, s->n_file_bytes, s->n_bytes);
	int rc = check_in_file(f, s, i, e);
	if (rc < 0 || !is_loaded(s))
		return rc;

	if (!checked_add(s->address, s->n_bytes, &end))
		return err_set(e, EINVAL,
		               "%s: segment %u: 0x%" PRIx64 "+0x%" PRIx64 " passes the end of the address space",
		               f->label, i, s->address, s->n_bytes);
	if (s->address < LOWEST_ADDRESS)
		return err_set(e, EINVAL, "%s: segment %u: at 0x%" PRIx64 ", below 1 MiB, where the boot data is",
		               f->label, i, s->address);
	if (!mem_span(mem, GPA(s->address), s->n_bytes, &unused))
		return err_set(e, EINVAL,
		               "%s: segment %u: 0x%" PRIx64 " to 0x%" PRIx64 " is not all in the guest's memory",
		               f->label, i, s->address, end);
	for (unsigned j = 0; j < i; j++) {
		const struct segment *other = &all->all[j];
		if (is_loaded(other) && s->address < other->address + other->n_bytes && other->address < end)
			return err_set(e, EINVAL, "%s: segment %u: overlaps segment %u at 0x%" PRIx64, f->label, i, j,
			               max_u64(s->address, other->address));
	}
	return 0;
}

/* --- the PVH note ------------------------------------------------------------------------------------------------- */

/* Notes of one segment, through a window that is moved along: most are skipped by their sizes, unread. */
struct notes {
	const struct payload_file *file;
	unsigned segment;
	uint64_t at, end;       /* in the file */
	uint64_t align;
	uint64_t window_at;     /* what the window holds */
	size_t n_window_bytes;
	uint8_t window[NOTE_WINDOW_BYTES];
};

/* Makes [at, at + n_bytes) visible; n_bytes is ours, and inside the segment. */
static int notes_window(struct notes *n, uint64_t at, size_t n_bytes, const uint8_t **ret_bytes, struct err *e)
{
	assert(n_bytes <= NOTE_WINDOW_BYTES && at <= n->end && n_bytes <= n->end - at);
	if (at < n->window_at || at + n_bytes > n->window_at + n->n_window_bytes) {
		size_t n_read = (size_t)min_u64(n->end - at, NOTE_WINDOW_BYTES);
		int rc = payload_read(n->file, at, n->window, n_read, e);
		if (rc < 0)
			return rc;
		n->window_at = at;
		n->n_window_bytes = n_read;
	}
	*ret_bytes = n->window + (at - n->window_at);
	return 0;
}

static int pvh_entry_of(struct notes *n, uint64_t at, uint32_t n_desc_bytes, struct gpa *ret_entry, struct err *e)
{
	const uint8_t *p = NULL;
	/* An address of the kernel's width: 4 bytes by the specification, 8 in Linux. */
	if (n_desc_bytes != 4 && n_desc_bytes != 8)
		return err_set(e, EINVAL, "%s: segment %u: the PVH entry note holds %" PRIu32 " bytes, must be 4 or 8",
		               n->file->label, n->segment, n_desc_bytes);
	int rc = notes_window(n, at, n_desc_bytes, &p, e);
	if (rc < 0)
		return rc;
	uint64_t entry = get_le(p, n_desc_bytes);
	if (entry > UINT32_MAX)
		return err_set(e, EINVAL, "%s: segment %u: PVH entry 0x%" PRIx64 " is not a 32-bit address",
		               n->file->label, n->segment, entry);
	*ret_entry = GPA(entry);
	return 1;
}

/* 1 and the entry, 0 when this note is another; moves on to the next. */
static int take_note(struct notes *n, unsigned index, struct gpa *ret_entry, struct err *e)
{
	const uint8_t *p = NULL;
	Elf64_Nhdr header;

	if (n->end - n->at < sizeof header)
		return err_set(e, EINVAL, "%s: segment %u: note %u: the segment ends inside its header", n->file->label,
		               n->segment, index);
	int rc = notes_window(n, n->at, sizeof header, &p, e);
	if (rc < 0)
		return rc;
	memcpy(&header, p, sizeof header);

	/* Two 32-bit sizes: 64-bit sums of them do not overflow. The last note need not be padded. */
	uint64_t n_name = align_up(sizeof header + (uint64_t)header.n_namesz, n->align);
	uint64_t n_note = n_name + header.n_descsz;
	if (n_note > n->end - n->at)
		return err_set(e, EINVAL,
		               "%s: segment %u: note %u: its sizes (%" PRIu32 ", %" PRIu32 ") pass the segment's end",
		               n->file->label, n->segment, index, header.n_namesz, header.n_descsz);

	uint64_t at = n->at;
	n->at += min_u64(align_up(n_note, n->align), n->end - n->at);
	if (header.n_type != XEN_ELFNOTE_PHYS32_ENTRY || header.n_namesz != 4)
		return 0;
	rc = notes_window(n, at + sizeof header, 4, &p, e);
	if (rc < 0 || memcmp(p, "Xen", 4) != 0)
		return rc;
	return pvh_entry_of(n, at + n_name, header.n_descsz, ret_entry, e);
}

/* 1 and the entry, 0 when there is no such note. */
static int find_pvh_entry(const struct payload_file *f, const struct segments *s, struct gpa *ret_entry, struct err *e)
{
	unsigned n_notes = 0;
	for (unsigned i = 0; i < s->n; i++) {
		const struct segment *p = &s->all[i];
		if (p->type != PT_NOTE)
			continue;
		struct notes n = { .file = f, .segment = i, .at = p->offset, .end = p->offset + p->n_file_bytes };
		/* 8 for .note.gnu.property in a segment of its own; else 4, also where the header says 0 or 1. */
		n.align = p->align == 8 ? 8 : 4;
		while (n.at < n.end) {
			if (n_notes == MAX_NOTES)
				return err_set(e, EINVAL, "%s: segment %u: more than %d notes", f->label, i, MAX_NOTES);
			int rc = take_note(&n, n_notes++, ret_entry, e);
			if (rc != 0)
				return rc;
		}
	}
	return 0;
}

/* --- all together ------------------------------------------------------------------------------------------------- */

static int check_entry(const struct payload_file *f, const struct segments *s, const struct kernel *k, struct err *e)
{
	const char *what = k->protocol == X86_BOOT_PVH ? "PVH" : "ELF";
	/* Loaded bytes of low RAM: that is what the first page tables reach. */
	for (unsigned i = 0; i < s->n; i++) {
		const struct segment *p = &s->all[i];
		if (p->type == PT_LOAD && k->entry.v >= p->address && k->entry.v - p->address < p->n_file_bytes &&
		    k->entry.v < X86_LOW_RAM_END)
			return 0;
	}
	return err_set(e, EINVAL, "%s: %s entry 0x%" PRIx64 " is not in a loaded segment below 3 GiB", f->label, what,
	               k->entry.v);
}

static int check_all(const struct mem_map *mem, const struct payload_file *f, const struct segments *s,
                     uint64_t *ret_end, struct err *e)
{
	uint64_t end = 0;
	for (unsigned i = 0; i < s->n; i++) {
		const struct segment *p = &s->all[i];
		int rc = 0;
		if (p->type == PT_LOAD)
			rc = check_segment(mem, f, s, i, e);
		else if (p->type == PT_NOTE)
			rc = check_in_file(f, p, i, e);
		if (rc < 0)
			return rc;
		if (is_loaded(p) && p->address < X86_LOW_RAM_END)
			end = max_u64(end, p->address + p->n_bytes);
	}
	if (end == 0)
		return err_set(e, EINVAL, "%s: no segment to load below 3 GiB", f->label);
	*ret_end = end;
	return 0;
}

int elf_load(const struct mem_map *mem, const struct payload_file *f, const struct payload_head *h,
             struct kernel *ret_k, struct err *e)
{
	Elf64_Ehdr header;
	struct segments s;
	struct kernel k = { .initramfs_end = X86_LOW_RAM_END, .max_cmdline_chars = X86_CMDLINE_MAX_BYTES - 1 };

	int rc = check_header(f, h, &header, e);
	if (rc == 0)
		rc = read_segments(f, h, &header, &s, e);
	if (rc == 0)
		rc = check_all(mem, f, &s, &k.end, e);
	if (rc < 0)
		return rc;

	rc = find_pvh_entry(f, &s, &k.entry, e);
	if (rc < 0)
		return rc;
	k.protocol = rc > 0 ? X86_BOOT_PVH : X86_BOOT_LINUX64;
	if (k.protocol == X86_BOOT_LINUX64)
		k.entry = GPA(header.e_entry);
	rc = check_entry(f, &s, &k, e);

	for (unsigned i = 0; i < s.n && rc == 0; i++) {
		const struct segment *p = &s.all[i];
		struct payload_part part = { .offset = p->offset, .n_bytes = p->n_file_bytes, .is_written = p->is_writable };
		if (p->type == PT_LOAD && p->n_file_bytes > 0)
			rc = payload_load(f, &part, mem, GPA(p->address), e);
	}
	if (rc == 0)
		*ret_k = k;
	return rc;
}
