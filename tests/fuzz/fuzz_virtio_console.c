/* SPDX-License-Identifier: Apache-2.0 */
/* The virtio console with rings and registers by the input, and keys from the host in between. */
#include "backend/char.h"
#include "backend/terminal.h"
#include "device/virtio_console.h"
#include "fuzz_rings.h"

#include <fcntl.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_bytes);

struct host {
	struct loop *loop;
	struct char_backend *b;
	struct terminal terminal;
	int keys;
};

static struct host *host(void)
{
	static struct host h;
	if (h.loop)
		return &h;
	int in[2], out = open("/dev/null", O_WRONLY | O_CLOEXEC);
	MUST(out >= 0 && pipe2(in, O_CLOEXEC | O_NONBLOCK) == 0 && loop_new(&h.loop, NULL) == 0);
	h.keys = in[1];
	terminal_init(&h.terminal, in[0], out);
	struct char_params p = { .mode = CHAR_TTY, .terminal = &h.terminal };
	MUST(char_open(&p, h.loop, &h.b, NULL) == 0);
	return &h;
}

static void type(struct virtio_device *v, uint8_t byte, void *context)
{
	struct host *h = context;
	uint8_t keys[256];
	(void)v;
	memset(keys, byte, sizeof keys);
	if (byte & 0x40)
		(void)!write(h->keys, keys, byte);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_bytes)
{
	struct host *h = host();
	struct virtio_console_params p = { .backend = h->b };
	if (n_bytes >= FUZZ_HEADER_BYTES)
		fuzz_rings(&virtio_console, &p, h->loop, data, n_bytes, type, h);
	return 0;
}
