/* SPDX-License-Identifier: Apache-2.0 */
/* The script is a fixed part, which knows how command lines are built, and two tables: the options (and commands) of each
 * context, and what an option takes. A context is the name of a program, with the sub-command behind it: "varan",
 * "varan remote", "varan remote add-disk". What a value may be is a list of words: '-' none at all, '@' a path, "key=" with
 * its own choices behind, or a word by itself; in front, '+' says that further values may follow. */
#include "cli/completion.h"

#include "base/checked.h"
#include "base/text.h"
#include "cli/document.h"
#include "cli/remote_tables.h"
#include "config/options.h"
#include "schema/schema.h"

#include <string.h>

static const char start[] =
	"# SPDX-License-Identifier: Apache-2.0\n"
	"# Completion of varan, cloud-hypervisor and ch-remote for bash, as `varan document completion` prints it.\n"
	"# Source it, or put it where bash-completion looks: /usr/share/bash-completion/completions/varan\n\n";

static const char end[] =
	"# Adds the candidates that begin with what is there, less what readline leaves alone in front of a word break.\n"
	"_varan_add() { # prefix, candidates...\n"
	"\tlocal prefix=$1 breaks= kept= word\n"
	"\tshift\n"
	"\t[[ $COMP_WORDBREAKS == *=* ]] && breaks+='='\n"
	"\t[[ $COMP_WORDBREAKS == *:* ]] && breaks+=':'\n"
	"\t[[ $breaks ]] && kept=${cur%\"${cur##*[$breaks]}\"}\n"
	"\tfor word; do\n"
	"\t\tword=$prefix$word\n"
	"\t\t[[ $word == \"$cur\"* ]] && COMPREPLY+=(\"${word#\"$kept\"}\")\n"
	"\tdone\n"
	"}\n\n"
	"_varan_add_paths() { # prefix, start of the path\n"
	"\tlocal path paths=()\n"
	"\twhile IFS= read -r path; do\n"
	"\t\tif [[ -d $path ]]; then paths+=(\"$path/\"); else paths+=(\"$path\"); fi\n"
	"\tdone < <(compgen -f -- \"$2\")\n"
	"\tcompopt -o nospace 2>/dev/null\n"
	"\t_varan_add \"$1\" \"${paths[@]}\"\n"
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
	"\t\t\t_varan_add_paths \"$prefix$key=\" \"$value\"\n"
	"\t\telse\n"
	"\t\t\tcompopt -o nospace 2>/dev/null\n"
	"\t\t\t_varan_add \"$prefix$key=\" ${choices//|/ }\n"
	"\t\tfi\n"
	"\tdone\n"
	"}\n\n"
	"_varan() {\n"
	"\tlocal words cur= context pending= word n_words=0 REPLY\n"
	"\tCOMPREPLY=()\n"
	"\tread -ra words <<<\"${COMP_LINE:0:COMP_POINT}\"\n"
	"\tif [[ ${COMP_LINE:0:COMP_POINT} == *[![:space:]] ]]; then\n"
	"\t\tcur=${words[-1]}\n"
	"\t\tunset 'words[-1]'\n"
	"\tfi\n"
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
	"\t\t((n_words == 0)) && _varan_add_values \"$REPLY\" '' \"$cur\"\n"
	"\tfi\n"
	"}\n"
	"complete -F _varan varan cloud-hypervisor ch-remote\n";

/* What stands between the quotes of a case; rows hold no quotes. */
static void write_takes(const char *context, const struct option_row *r, struct text *t)
{
	text_appendf(t, "\t'%s %s%s') REPLY='%s", context, r->arity == OPTION_WORD ? "" : "--",
	             r->arity == OPTION_WORD ? "" : r->name, r->arity == OPTION_MANY ? "+" : "");
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
	if (!is_takes)
		text_appendf(t, "\t'%s') REPLY='", context);
	for (size_t i = 0; i < table->n_rows; i++) {
		const struct option_row *r = &table->rows[i];
		if (!r->name || (r->arity == OPTION_WORD && r->ends_parsing))
			continue;
		if (is_takes)
			write_takes(context, r, t);
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

static void write_all(bool is_takes, struct text *t)
{
	write_table("varan", &varan_options, is_takes, t);
	write_table("cloud-hypervisor", &varan_options, is_takes, t);
	write_remote("varan remote", false, is_takes, t);
	write_remote("ch-remote", true, is_takes, t);
	if (is_takes) {
		text_append(t, "\t'varan ') REPLY='remote doctor document' ;;\n\t'varan document ') REPLY='");
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
	text_append(t, "\t*) REPLY= ;;\n\tesac\n}\n\n_varan_takes() { # context, option; no option: the first bare word\n"
	               "\tcase \"$1 $2\" in\n");
	write_all(true, t);
	text_append(t, "\t*) REPLY= ;;\n\tesac\n}\n\n");
	text_append(t, end);
}
