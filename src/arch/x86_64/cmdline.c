/* SPDX-License-Identifier: Apache-2.0 */
/* The kernel's command line: the user's words and, when there is no ACPI to list the virtio devices, one word for each
 * of them. Those go before a word "--", because the kernel hands everything after it to init. */
#include "arch/x86_64/payload.h"
#include "base/checked.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#define DEVICE_WORD_BYTES 64

/* Where the word "--" starts, or the end. Quotes join words, as in the kernel's next_arg(); there is no escaping. */
static size_t find_init_words(const char *cmdline)
{
	bool is_quoted = false, is_word_start = true;
	size_t i = 0;
	for (; cmdline[i]; i++) {
		bool is_space = !is_quoted && (cmdline[i] == ' ' || cmdline[i] == '\t' || cmdline[i] == '\n');
		if (is_word_start && cmdline[i] == '-' && cmdline[i + 1] == '-' &&
		    (cmdline[i + 2] == '\0' || strchr(" \t\n", cmdline[i + 2])))
			return i;
		if (cmdline[i] == '"')
			is_quoted = !is_quoted;
		is_word_start = is_space;
	}
	return i;
}

/* " virtio_mmio.device=4K@0xfec20000:10" for each (Linux, Documentation/admin-guide/kernel-parameters.txt). */
static size_t device_words(const struct x86_machine *m, char *ret_words, size_t n_capacity)
{
	size_t n = 0;
	if (m->has_acpi)
		return 0;
	for (size_t i = 0; i < m->n_mmio; i++) {
		const struct x86_mmio_device *d = &m->mmio[i];
		int k = snprintf(ret_words + n, n_capacity - n,
		                 " virtio_mmio.device=%" PRIu64 "K@0x%" PRIx64 ":%" PRIu32, d->n_bytes / 1024,
		                 d->address, d->pin);
		assert(k > 0 && (size_t)k < n_capacity - n);
		n += (size_t)k;
	}
	return n;
}

int cmdline_write(const struct mem_map *mem, const char *cmdline, const struct x86_machine *m, const struct kernel *k,
                  const char *label, struct err *e)
{
	char words[X86_MAX_MMIO_DEVICES * DEVICE_WORD_BYTES];
	if (!cmdline)
		cmdline = "";
	size_t n_cmdline = strlen(cmdline), n_words = device_words(m, words, sizeof words);
	size_t n_first = n_words ? find_init_words(cmdline) : n_cmdline;
	bool has_rest = n_first < n_cmdline;
	/* In front of "--" there is a blank, or nothing; behind the words goes another. */
	size_t n_total = n_cmdline + n_words + (has_rest && n_words ? 1 : 0);

	if (n_total > k->max_cmdline_chars) {
		if (k->max_cmdline_chars < X86_CMDLINE_MAX_BYTES - 1)
			return err_set(e, E2BIG, "command line: %zu bytes: %s takes at most %" PRIu32, n_total, label,
			               k->max_cmdline_chars);
		return err_set(e, E2BIG, "command line: %zu bytes: with its terminating zero more than the limit of %u",
		               n_total, X86_CMDLINE_MAX_BYTES);
	}

	struct span s;
	bool is_ram = mem_span(mem, GPA(X86_CMDLINE), n_total + 1, &s);
	assert(is_ram);
	span_write(s, 0, cmdline, n_first);
	span_write(s, n_first, words, n_words);
	if (has_rest) {
		size_t at = n_first + n_words;
		if (n_words)
			span_write(s, at++, " ", 1);
		span_write(s, at, cmdline + n_first, n_cmdline - n_first);
	}
	span_write(s, n_total, "", 1);
	mem_mark_dirty(mem, GPA(X86_CMDLINE), n_total + 1);
	return 0;
}
