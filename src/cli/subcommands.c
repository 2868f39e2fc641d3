/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/subcommands.h"

#include "base/checked.h"
#include "base/text.h"
#include "cli/doctor.h"
#include "cli/document.h"
#include "cli/image.h"
#include "cli/remote.h"

#include <string.h>

#define HELP_COLUMN 29

const struct subcommand subcommands[] = {
	{ "remote", "...", "Talk to a running VMM over its API socket", remote_main, false },
	{ "doctor", "[--json]", "Can this machine run Linux guests, and why", doctor_main, false },
	{ "image", "...", "Make, examine and change disk images", image_main, true },
	{ "document", "...", "The manual pages, the API's description, shell completion", document_main, false },
};
const size_t n_subcommands = ARRAY_LEN(subcommands);

void subcommands_write_help(struct text *t)
{
	text_append(t, "\nSub-commands:\n");
	for (size_t i = 0; i < n_subcommands; i++) {
		text_scoped words = TEXT_INIT;
		text_appendf(&words, "varan %s %s", subcommands[i].name, subcommands[i].words);
		text_appendf(t, "  %-*s%s\n", HELP_COLUMN, text_get(&words), subcommands[i].about);
	}
}
