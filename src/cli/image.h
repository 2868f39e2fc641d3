/* SPDX-License-Identifier: Apache-2.0 */
/* image.h - `varan image COMMAND ...`: disk images as files, without a VM. */
#pragma once
#include "config/command_line.h"

int image_main(int argc, char **argv); /* argv[0] is "image"; the exit status */

/* For completion and manual. */
const struct option_table *image_global_table(void);
const struct option_table *image_command_table(size_t n); /* NULL behind the last */
const char *image_command_name(size_t n);
void image_write_man(struct text *t); /* varan-image(1) */
