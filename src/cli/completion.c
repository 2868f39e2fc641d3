/* SPDX-License-Identifier: Apache-2.0 */
/* The script is a fixed part, which knows how command lines are built, and two tables: the options (and commands) of each
 * context, and what an option takes. A context is the name of a program, with the sub-command behind it: "varan",
 * "varan remote", "varan remote add-disk". What a value may be is a list of words: '-' none at all, '@' a path, "key=" with
 * its own choices behind, or a word by itself; in front, '+' says that further values may follow. */
#include "cli/completion.h"

#include "base/checked.h"
#include "base/text.h"
#include "cli/document.h"
#include "cli/image.h"
#include "cli/remote_tables.h"
#include "cli/subcommands.h"
#include "config/options.h"
#include "schema/schema.h"

#include <string.h>

static const char start[] =
	"# SPDX-License-Identifier: Apache-2.0\n"
	"# Completion of varan, cloud-hypervisor and ch-remote for bash, as `varan document completion` prints it.\n"
	"# Source it, or put it where bash-completion looks: /usr/share/bash-completion/completions/varan\n\n";

static const char end[] =
	"# Splits the line into words as they were typed, and notes where readline begins to replace: behind the last word break\n"
	"# that is not escaped. Fails inside quotes, and behind them: what readline takes for the word then is another thing.\n"
	"_varan_split() { # line\n"
	"\tlocal line=$1 i c quote= is_quoted=\n"
	"\twords=() cur= kept=\n"
	"\tfor ((i = 0; i < ${#line}; i++)); do\n"
	"\t\tc=${line:i:1}\n"
	"\t\tcase $quote$c in\n"
	"\t\t\\\\ | \\\"\\\\)\n"
	"\t\t\t((++i))\n"
	"\t\t\tcur+=$c${line:i:1}\n"
	"\t\t\t;;\n"
	"\t\t\\' | \\\")\n"
	"\t\t\tquote=$c is_quoted=1 cur+=$c\n"
	"\t\t\t;;\n"
	"\t\t\\'\\' | \\\"\\\")\n"
	"\t\t\tquote= cur+=$c\n"
	"\t\t\t;;\n"
	"\t\t' ' | $'\\t' | $'\\n')\n"
	"\t\t\t[[ $cur ]] && words+=(\"$cur\")\n"
	"\t\t\tcur= kept= is_quoted=\n"
	"\t\t\t;;\n"
	"\t\t*)\n"
	"\t\t\tcur+=$c\n"
	"\t\t\t[[ ! $quote && $COMP_WORDBREAKS == *\"$c\"* ]] && kept=$cur\n"
	"\t\t\t;;\n"
	"\t\tesac\n"
	"\tdone\n"
	"\t[[ ! $is_quoted ]]\n"
	"}\n\n"
	"# Adds the candidates that begin with what is there, less what readline leaves alone.\n"
	"_varan_add() { # prefix, candidates...\n"
	"\tlocal prefix=$1 word\n"
	"\tshift\n"
	"\tfor word; do\n"
	"\t\tword=$prefix$word\n"
	"\t\t[[ $word == \"$cur\"* ]] && COMPREPLY+=(\"${word#\"$kept\"}\")\n"
	"\tdone\n"
	"}\n\n"
	"# Names come from anywhere and may hold anything, so what is added to the line is quoted for the shell.\n"
	"_varan_add_paths() { # prefix, start of the path as it was typed, whether it is a value among others\n"
	"\tlocal typed=$2 start= i c path paths rest options\n"
	"\tfor ((i = 0; i < ${#typed}; i++)); do\n"
	"\t\tc=${typed:i:1}\n"
	"\t\tcase $c in\n"
	"\t\t\\\\) ((++i)) ;;\n"
	"\t\t[\\$\\`]) return ;; # only the shell knows what it will be\n"
	"\t\tesac\n"
	"\t\tstart+=${typed:i:1}\n"
	"\tdone\n"
	"\t[[ $typed == '~/'* ]] && start=$HOME${start#\\~}\n"
	"\toptions=$(shopt -p nullglob failglob)\n"
	"\tshopt -s nullglob\n"
	"\tshopt -u failglob\n"
	"\tpaths=(\"$start\"*)\n"
	"\teval \"$options\"\n"
	"\tcompopt -o nospace 2>/dev/null\n"
	"\tfor path in ${paths[@]+\"${paths[@]}\"}; do\n"
	"\t\t[[ $path == \"$start\"* ]] || continue\n"
	"\t\trest=${path#\"$start\"}\n"
	"\t\t[[ ${3-} && $rest == *[],\\\"[]* ]] && continue # not to be said without quotes of our own\n"
	"\t\t[[ $rest ]] && printf -v rest %q \"$rest\"\n"
	"\t\t[[ -d $path ]] && rest+=/\n"
	"\t\t_varan_add \"$1\" \"$typed$rest\"\n"
	"\tdone\n"
	"}\n\n"
	"_varan_add_values() { # what the option takes, prefix, start of the value\n"
	"\tlocal takes=${1#+} prefix=$2 value=$3 last word key choices\n"
	"\tif [[ $takes == @ ]]; then\n"
	"\t\t_varan_add_paths \"$prefix\" \"$value\"\n"
	"\t\treturn\n"
	"\tfi\n"
	"\tlocal opened=${value//[!\\[]/} closed=${value//[!\\]]/}\n"
	"\t((${#opened} > ${#closed})) && return # inside of a list\n"
	"\tlast=${value##*,}\n"
	"\tprefix+=${value%\"$last\"}\n"
	"\tif [[ $last != *=* ]]; then\n"
	"\t\t[[ $takes == *=* ]] && compopt -o nospace 2>/dev/null\n"
	"\t\tfor word in $takes; do\n"
	"\t\t\tcase $word in\n"
	"\t\t\t*=*) word=${word%%=*}= ;;\n"
	"\t\t\tesac\n"
	"\t\t\t_varan_add \"$prefix\" \"$word\"\n"
	"\t\tdone\n"
	"\t\treturn\n"
	"\tfi\n"
	"\tkey=${last%%=*} value=${last#*=}\n"
	"\tfor word in $takes; do\n"
	"\t\t[[ $word == \"$key\"=* ]] || continue\n"
	"\t\tchoices=${word#*=}\n"
	"\t\tif [[ $choices == @ ]]; then\n"
	"\t\t\t_varan_add_paths \"$prefix$key=\" \"$value\" 1\n"
	"\t\telse\n"
	"\t\t\tcompopt -o nospace 2>/dev/null\n"
	"\t\t\t_varan_add \"$prefix$key=\" ${choices//|/ }\n"
	"\t\tfi\n"
	"\tdone\n"
	"}\n\n"
	"_varan() {\n"
	"\tlocal words cur kept context pending= word n_words=0 REPLY\n"
	"\tCOMPREPLY=()\n"
	"\t_varan_split \"${COMP_LINE:0:COMP_POINT}\" || return\n"
	"\tcontext=${words[0]##*/}\n"
	"\tfor word in \"${words[@]:1}\"; do\n"
	"\t\tif [[ $word == --*=* ]]; then\n"
	"\t\t\tpending=\n"
	"\t\telif [[ $word == -?* ]]; then\n"
	"\t\t\tpending=$word\n"
	"\t\t\t_varan_takes \"$context\" \"$word\"\n"
	"\t\t\t[[ $REPLY == - ]] && pending=\n"
	"\t\telif [[ $pending ]]; then\n"
	"\t\t\t_varan_takes \"$context\" \"$pending\"\n"
	"\t\t\t[[ $REPLY == +* ]] || pending=\n"
	"\t\telse\n"
	"\t\t\t_varan_options \"$context $word\"\n"
	"\t\t\tif [[ $REPLY ]]; then context+=\" $word\"; else ((++n_words)); fi\n"
	"\t\tfi\n"
	"\tdone\n"
	"\tif [[ $cur == --*=* ]]; then\n"
	"\t\t_varan_takes \"$context\" \"${cur%%=*}\"\n"
	"\t\t_varan_add_values \"$REPLY\" \"${cur%%=*}=\" \"${cur#*=}\"\n"
	"\telif [[ $cur == -* ]]; then\n"
	"\t\t_varan_options \"$context\"\n"
	"\t\t_varan_add '' $REPLY\n"
	"\telif [[ $pending ]]; then\n"
	"\t\t_varan_takes \"$context\" \"$pending\"\n"
	"\t\t_varan_add_values \"$REPLY\" '' \"$cur\"\n"
	"\telse\n"
	"\t\t_varan_takes \"$context\" ''\n"
	"\t\t[[ $n_words == 0 || $REPLY == +* ]] && _varan_add_values \"$REPLY\" '' \"$cur\"\n"
	"\tfi\n"
	"}\n"
	"complete -F _varan varan cloud-hypervisor ch-remote\n";

/* What stands between the quotes of a case; rows hold no quotes. */
static void write_takes(const char *context, const struct option_row *r, bool has_more, struct text *t)
{
	text_appendf(t, "\t'%s %s%s') REPLY='%s", context, r->arity == OPTION_WORD ? "" : "--",
	             r->arity == OPTION_WORD ? "" : r->name, r->arity == OPTION_MANY || has_more ? "+" : "");
	if (r->arity == OPTION_FLAG)
		text_append_char(t, '-');
	else if (r->schema)
		schema_write_keys(r->schema, t);
	else if (r->is_path)
		text_append_char(t, '@');
	for (size_t i = 0; r->possible_values && r->possible_values[i]; i++)
		text_appendf(t, "%s%s", i ? " " : "", r->possible_values[i]);
	text_append(t, "' ;;\n");
}

/* One context: its entry in the table of options, or its entries in that of what they take. */
static void write_table(const char *context, const struct option_table *table, bool is_takes, struct text *t)
{
	bool has_word = false;
	if (!is_takes)
		text_appendf(t, "\t'%s') REPLY='", context);
	for (size_t i = 0; i < table->n_rows; i++) {
		const struct option_row *r = &table->rows[i];
		bool is_word = r->arity == OPTION_WORD;
		if (!r->name || (is_word && (r->ends_parsing || has_word)))
			continue;
		has_word |= is_word;
		if (is_takes)
			write_takes(context, r, is_word && i + 1 < table->n_rows && r[1].arity == OPTION_WORD && r[1].is_path, t);
		else if (r->arity != OPTION_WORD)
			text_appendf(t, "--%s ", r->name);
	}
	if (!is_takes)
		text_append(t, "' ;;\n");
}

static void write_remote(const char *context, bool is_ch, bool is_takes, struct text *t)
{
	write_table(context, remote_global_table(is_ch), is_takes, t);
	if (is_takes)
		text_appendf(t, "\t'%s ') REPLY='", context);
	for (size_t i = 0; is_takes && i < n_remote_commands; i++)
		if (!is_ch || !remote_commands[i].is_ours)
			text_appendf(t, "%s ", remote_commands[i].name);
	if (is_takes)
		text_append(t, "' ;;\n");
	for (size_t i = 0; i < n_remote_commands; i++) {
		const struct remote_command *c = &remote_commands[i];
		struct remote_table rows;
		text_scoped name = TEXT_INIT;
		if (is_ch && c->is_ours)
			continue;
		remote_table_init(&rows, is_ch, c);
		text_appendf(&name, "%s %s", context, c->name);
		write_table(text_get(&name), &rows.table, is_takes, t);
	}
}

static void write_image(bool is_takes, struct text *t)
{
	write_table("varan image", image_global_table(), is_takes, t);
	if (is_takes) {
		text_append(t, "\t'varan image ') REPLY='");
		for (size_t i = 0; image_command_table(i); i++)
			text_appendf(t, "%s%s", i ? " " : "", image_command_name(i));
		text_append(t, "' ;;\n");
	}
	for (size_t i = 0; image_command_table(i); i++)
		write_table(image_command_table(i)->program, image_command_table(i), is_takes, t);
}

static void write_all(bool is_takes, struct text *t)
{
	write_table("varan", &varan_options, is_takes, t);
	write_table("cloud-hypervisor", &varan_options, is_takes, t);
	write_remote("varan remote", false, is_takes, t);
	write_remote("ch-remote", true, is_takes, t);
	write_image(is_takes, t);
	if (is_takes) {
		text_append(t, "\t'varan ') REPLY='");
		for (size_t i = 0; i < n_subcommands; i++)
			text_appendf(t, "%s%s", i ? " " : "", subcommands[i].name);
		text_append(t, "' ;;\n\t'varan document ') REPLY='");
		document_write_names(" ", t);
		text_append(t, "' ;;\n");
	} else {
		text_append(t, "\t'varan doctor') REPLY='--json' ;;\n"
		               "\t'varan document') REPLY=' ' ;;\n");
	}
}

void completion_write_bash(struct text *t)
{
	text_append(t, start);
	text_append(t, "_varan_options() { # context\n\tcase $1 in\n");
	write_all(false, t);
	text_append(t, "\t*) REPLY= ;;\n\tesac\n}\n\n"
	               "_varan_takes() { # context, option; no option: the first bare word, with + the next ones too\n"
	               "\tcase \"$1 $2\" in\n");
	write_all(true, t);
	text_append(t, "\t*) REPLY= ;;\n\tesac\n}\n\n");
	text_append(t, end);
}
