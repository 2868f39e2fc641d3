/* SPDX-License-Identifier: Apache-2.0 */
/* document.h - `varan document man|openapi`: the documents that come out of the rows, so that they cannot lie. They are
 * committed under docs/; tools/check-documents compares. */
#pragma once

int document_main(int argc, char **argv); /* the exit status */
