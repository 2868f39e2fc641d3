/* SPDX-License-Identifier: Apache-2.0 */
/* document.h - `varan document NAME`: the documents that come out of the rows, so that they cannot lie. They are
 * committed under docs/; tools/check-documents compares. */
#pragma once

int document_main(int argc, char **argv); /* the exit status */

struct text;
/* What can be printed. */
void document_write_names(const char *separator, struct text *t);
