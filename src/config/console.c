/* SPDX-License-Identifier: Apache-2.0 */
/* --serial and --console share one grammar, and one name in its errors; they differ in the default, and the serial port is
 * not on PCI. The mode is the first of the names below that is mentioned, in this order, wherever it stands in the string. */
#include "config/rules.h"
#include "schema/schema.h"

#include <errno.h>

static const struct enum_name mode_names[] = {
	{ .json = "Off", .word = "off", .value = CONSOLE_OFF },
	{ .json = "Pty", .word = "pty", .value = CONSOLE_PTY },
	{ .json = "Tty", .word = "tty", .value = CONSOLE_TTY },
	{ .json = "Null", .word = "null", .value = CONSOLE_NULL },
	{ .json = "File", .word = "file", .value = CONSOLE_FILE, .takes_value = true },
	{ .json = "Socket", .word = "socket", .value = CONSOLE_SOCKET, .takes_value = true },
	{ 0 },
};

#define T struct console_config
/* A path is looked for while the string is parsed, but its absence reads as a rule of validation. */
#define ROWS(default_mode, not_serial)                                                                                     \
	{                                                                                                       \
		ROW_ENUM(T, mode, enum console_mode, mode_names, .def = default_mode,                           \
		         .flags = ROW_REQUIRED_JSON | ROW_MODE,                                                 \
		         .missing = "invalid console mode given", .help = "Where the other end of the line is"),\
		ROW_PATH(T, file, .flags = ROW_IN_MODE | ROW_PLAIN_TEXT, .mode = CONSOLE_FILE,                  \
		         .missing = "Error validating configuration: Path missing when using file console mode",\
		         .help = "Output goes to this file; no input"),                                         \
		ROW_PATH(T, socket, .flags = ROW_IN_MODE | ROW_PLAIN_TEXT, .mode = CONSOLE_SOCKET,              \
		         .missing = "Error validating configuration: Path missing when using socket console mode",\
		         .help = "Listen on this Unix socket; one client at a time sees output and gives input"),\
		ROW_BOOL(T, iommu, .help = "Place behind the guest's IOMMU"),                                   \
		ROW_STRING(T, id, .flags = not_serial, .help = "Device identifier"),                            \
		ROW_U16(T, pci_segment, .flags = not_serial, .help = "PCI segment"),                            \
		ROW_U8(T, pci_device_id, .has = HAS(T, has_pci_device_id), .min = 1, .max = 31,                 \
		       .flags = not_serial, .help = "PCI device number"),                                       \
		ROW_PAD(T, pad_),                                                                               \
	}
static const struct field serial_rows[] = ROWS(CONSOLE_NULL, ROW_NO_JSON | ROW_NO_OPTION);
static const struct field console_rows[] = ROWS(CONSOLE_TTY, 0);

const struct schema serial_schema =
	SCHEMA(T, serial_rows, .name = "SerialConfig", .option = "console", .help = "Legacy serial port");
const struct schema console_schema =
	SCHEMA(T, console_rows, .name = "ConsoleConfig", .option = "console", .help = "virtio console");
#undef T

int console_check(const struct console_config *c, struct err *e)
{
	if (c->mode == CONSOLE_FILE && !c->file)
		return err_set(e, EINVAL, "Path missing when using file console mode");
	return 0;
}
