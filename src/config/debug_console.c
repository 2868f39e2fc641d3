/* SPDX-License-Identifier: Apache-2.0 */
/* What the guest writes to one I/O port. Faults are reported under the console's name, as Cloud Hypervisor does. */
#include "config/vm_config.h"
#include "schema/schema.h"

/* A port has no socket, so the word is unknown here; the value is, because JSON knows it. */
static const struct enum_name mode_names[] = {
	{ .json = "Off", .word = "off", .value = CONSOLE_OFF },
	{ .json = "Pty", .word = "pty", .value = CONSOLE_PTY },
	{ .json = "Tty", .word = "tty", .value = CONSOLE_TTY },
	{ .json = "Null", .word = "null", .value = CONSOLE_NULL },
	{ .json = "File", .word = "file", .value = CONSOLE_FILE, .takes_value = true },
	{ .json = "Socket", .value = CONSOLE_SOCKET },
	{ 0 },
};

#define T struct debug_console_config
static const struct field debug_console_rows[] = {
	ROW_ENUM(T, mode, enum console_mode, mode_names, .def = CONSOLE_OFF, .flags = ROW_REQUIRED_JSON | ROW_MODE,
	         .missing = "invalid console mode given", .help = "Where the output goes"),
	ROW_PATH(T, file, .flags = ROW_IN_MODE | ROW_PLAIN_TEXT, .mode = CONSOLE_FILE,
	         .missing = "Error validating configuration: Path missing when using file console mode",
	         .help = "Output goes to this file"),
	ROW_U16(T, iobase, .has = HAS(T, has_iobase), .flags = ROW_HEX | ROW_PLAIN_TEXT, .placeholder = "<0x...>",
	        .refusal = "Error validating configuration: The IO port was not properly provided in hex or a `0x` "
	                   "prefix is missing: ",
	        .help = "The port, in hexadecimal [default: 0xe9]"),
	ROW_PAD(T, pad_),
};
const struct schema debug_console_schema = SCHEMA(T, debug_console_rows, .name = "DebugConsoleConfig",
                                                  .option = "console", .help = "Debug port console");
