/* SPDX-License-Identifier: Apache-2.0 */
/* terminal_guard.h - gives the terminal's mode back when the program dies by a fatal signal or an assertion. The orderly
 * way is backend/terminal.h's; this one remembers what the mode was at the start. Signal handlers reach only file-scope
 * variables, which is why this stands in cli/ and not in the library. */
#pragma once

void terminal_guard_install(void);
