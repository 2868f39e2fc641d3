/* SPDX-License-Identifier: Apache-2.0 */
/* completion.h - bash completion for all the names of the program, from the rows of its options and commands. */
#pragma once
struct text;

void completion_write_bash(struct text *t);
