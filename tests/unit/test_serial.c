/* SPDX-License-Identifier: Apache-2.0 */
/* The 16550A: registers as PC16550D's data sheet has them, and interrupts that are neither lost nor told too often. */
#include "backend/char.h"
#include "bus/irq.h"
#include "device/serial.h"
#include "test.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sys/eventfd.h>
#include <sys/stat.h>
#include <unistd.h>

enum { DATA, IER, IIR, LCR, MCR, LSR, MSR, SCR, FCR = IIR };

#define OUT2 0x08
#define LOOP 0x10

struct bench {
	struct loop *loop;
	struct char_backend *b;
	struct irq_line line;
	struct serial s;
	int peer; /* the pty's other side; -1: output to a file */
	char path[64];
};

static uint8_t rd(struct bench *t, unsigned reg)
{
	uint8_t v = 0x55;
	serial_bus_ops.read(&t->s, reg, &v, 1);
	return v;
}

static void wr(struct bench *t, unsigned reg, unsigned v)
{
	uint8_t byte = (uint8_t)v;
	serial_bus_ops.write(&t->s, reg, &byte, 1);
}

/* Interrupts since the last call. */
static unsigned pulses(struct bench *t)
{
	uint64_t n = 0;
	return read(t->line.event_fd, &n, sizeof n) == sizeof n ? (unsigned)n : 0;
}

static void bench_open(struct bench *t, enum char_mode mode)
{
	memset(t, 0, sizeof *t);
	(void)snprintf(t->path, sizeof t->path, "/tmp/varan-serial-%d", (int)getpid());
	EQ(loop_new(&t->loop, NULL), 0);
	struct char_params p = { .mode = mode, .path = t->path };
	EQ(char_open(&p, t->loop, &t->b, NULL), 0);
	t->peer = mode == CHAR_PTY ? open(char_path(t->b), O_RDWR | O_NOCTTY | O_CLOEXEC | O_NONBLOCK) : -1;
	t->line = (struct irq_line){ .pin = 4, .event_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC) };
	serial_init(&t->s, &t->line, t->b);
}

static void bench_close(struct bench *t)
{
	serial_done(&t->s);
	char_close(t->b);
	loop_free(t->loop);
	(void)close(t->line.event_fd);
	if (t->peer >= 0)
		(void)close(t->peer);
	(void)unlink(t->path);
}

static void turn(struct bench *t)
{
	for (int i = 0; i < 5; i++)
		(void)loop_run_once(t->loop, 1);
}

/* A pseudo-terminal hands on what is written in its own time. */
static void type(struct bench *t, const char *s)
{
	EQ(write(t->peer, s, strlen(s)), strlen(s));
	for (int i = 0; i < 500 && loop_run_once(t->loop, 10) == 0; i++)
		;
	turn(t);
}

static void wait_data(struct bench *t)
{
	for (int i = 0; i < 500 && !(rd(t, LSR) & 0x01); i++)
		(void)loop_run_once(t->loop, 10);
}

static size_t file_bytes(const struct bench *t)
{
	struct stat st;
	EQ(stat(t->path, &st), 0);
	return (size_t)st.st_size;
}

TEST(registers_after_reset)
{
	struct bench t;
	bench_open(&t, CHAR_NULL);
	EQ(rd(&t, IER), 0);
	EQ(rd(&t, IIR), 0x01);
	EQ(rd(&t, LCR), 0);
	EQ(rd(&t, MCR), 0);
	EQ(rd(&t, LSR), 0x60);
	EQ(rd(&t, MSR), 0xb0);
	EQ(rd(&t, DATA), 0);
	EQ(pulses(&t), 0);
	bench_close(&t);
}

TEST(the_divisor_hides_behind_dlab)
{
	struct bench t;
	bench_open(&t, CHAR_NULL);
	wr(&t, IER, 0xff);
	EQ(rd(&t, IER), 0x0f);
	wr(&t, LCR, 0x83);
	wr(&t, DATA, 0x12);
	wr(&t, IER, 0x34);
	EQ(rd(&t, DATA), 0x12);
	EQ(rd(&t, IER), 0x34);
	wr(&t, LCR, 0x03);
	EQ(rd(&t, IER), 0x0f);
	EQ(rd(&t, LCR), 0x03);
	wr(&t, SCR, 0xa5);
	EQ(rd(&t, SCR), 0xa5);
	bench_close(&t);
}

TEST(output_reaches_the_backend_line_by_line)
{
	struct bench t;
	char got[16] = "";
	bench_open(&t, CHAR_FILE);
	for (const char *s = "ok\r\n"; *s; s++)
		wr(&t, DATA, (unsigned char)*s);
	int fd = open(t.path, O_RDONLY | O_CLOEXEC);
	EQ(read(fd, got, sizeof got), 4);
	STR_EQ(got, "ok\r\n");
	(void)close(fd);
	bench_close(&t);
}

TEST(a_driver_that_ends_its_transmission_flushes_what_has_no_newline)
{
	struct bench t;
	bench_open(&t, CHAR_FILE);
	wr(&t, IER, 0x02);
	wr(&t, DATA, '$');
	wr(&t, DATA, ' ');
	EQ(file_bytes(&t), 0);
	wr(&t, IER, 0x00);
	EQ(file_bytes(&t), 2);
	bench_close(&t);
}

TEST(the_transmitter_interrupts_once_a_fifo_and_again_when_enabled)
{
	struct bench t;
	bench_open(&t, CHAR_NULL);
	wr(&t, MCR, OUT2);
	wr(&t, FCR, 0x01);
	wr(&t, IER, 0x02);
	EQ(pulses(&t), 1); /* enabled while empty */
	EQ(rd(&t, IIR), 0xc2);
	EQ(rd(&t, IIR), 0xc1); /* reading it has cleared it */
	EQ(pulses(&t), 0);
	for (int i = 0; i < 16; i++)
		wr(&t, DATA, 'x');
	EQ(pulses(&t), 1);
	EQ(rd(&t, IIR), 0xc2);
	EQ(rd(&t, IIR), 0xc1);
	wr(&t, IER, 0x00);
	wr(&t, IER, 0x02);
	EQ(pulses(&t), 1);
	EQ(rd(&t, IIR), 0xc2);
	wr(&t, IER, 0x02); /* no change, no interrupt */
	EQ(pulses(&t), 0);
	EQ(rd(&t, IIR), 0xc1);
	bench_close(&t);
}

TEST(nothing_interrupts_without_out2_and_what_waits_does_once_it_is_set)
{
	struct bench t;
	bench_open(&t, CHAR_NULL);
	wr(&t, IER, 0x02);
	EQ(pulses(&t), 0);
	wr(&t, MCR, OUT2);
	EQ(pulses(&t), 1);
	EQ(rd(&t, IIR), 0x02);
	bench_close(&t);
}

TEST(input_interrupts_by_trigger_level_or_time_out)
{
	struct bench t;
	bench_open(&t, CHAR_PTY);
	wr(&t, MCR, OUT2);
	wr(&t, FCR, 0x81); /* trigger at 8 */
	wr(&t, IER, 0x01);
	EQ(pulses(&t), 0);
	type(&t, "abc");
	OK(pulses(&t) >= 1);
	EQ(rd(&t, IIR), 0xcc);
	EQ(rd(&t, IIR), 0xcc); /* reading does not clear it */
	EQ(rd(&t, LSR) & 0x01, 1);
	type(&t, "defgh");
	OK(pulses(&t) >= 1);
	EQ(rd(&t, IIR), 0xc4);
	for (const char *s = "abcdefgh"; *s; s++)
		EQ(rd(&t, DATA), *s);
	EQ(rd(&t, IIR), 0xc1);
	EQ(rd(&t, LSR), 0x60);
	EQ(pulses(&t), 0);
	bench_close(&t);
}

TEST(a_driver_that_left_data_behind_is_called_again_when_more_comes)
{
	struct bench t;
	bench_open(&t, CHAR_PTY);
	wr(&t, MCR, OUT2);
	wr(&t, FCR, 0x01);
	wr(&t, IER, 0x01);
	type(&t, "ab");
	OK(pulses(&t) >= 1);
	EQ(rd(&t, DATA), 'a');
	EQ(pulses(&t), 0);
	type(&t, "c");
	OK(pulses(&t) >= 1);
	bench_close(&t);
}

TEST(without_fifos_one_byte_is_held_and_the_rest_waits)
{
	struct bench t;
	bench_open(&t, CHAR_PTY);
	type(&t, "xyz");
	EQ(rd(&t, IIR), 0x01);
	for (const char *s = "xyz"; *s; s++) {
		wait_data(&t);
		EQ(rd(&t, LSR) & 0x01, 1);
		EQ(rd(&t, DATA), *s);
		EQ(rd(&t, LSR) & 0x01, 0);
	}
	bench_close(&t);
}

TEST(a_full_fifo_stops_the_host_and_loses_nothing)
{
	struct bench t;
	bench_open(&t, CHAR_PTY);
	wr(&t, FCR, 0x01);
	char text[100];
	for (size_t i = 0; i + 1 < sizeof text; i++)
		text[i] = (char)('!' + i % 90);
	text[sizeof text - 1] = '\0';
	type(&t, text);
	for (size_t i = 0; i + 1 < sizeof text; i++) {
		wait_data(&t);
		EQ(rd(&t, LSR), 0x61); /* no overrun */
		EQ(rd(&t, DATA), text[i]);
	}
	EQ(rd(&t, LSR), 0x60);
	bench_close(&t);
}

TEST(loopback_turns_output_into_input_and_flags_an_overrun)
{
	struct bench t;
	bench_open(&t, CHAR_PTY);
	wr(&t, MCR, LOOP | OUT2);
	wr(&t, FCR, 0x01);
	wr(&t, IER, 0x04);
	for (int i = 0; i < 17; i++)
		wr(&t, DATA, (unsigned)('a' + i));
	EQ(pulses(&t), 1);
	EQ(rd(&t, IIR), 0xc6);
	EQ(rd(&t, LSR), 0x63);
	EQ(rd(&t, LSR), 0x61); /* the error is cleared by the read */
	EQ(rd(&t, IIR), 0xc1);
	for (int i = 0; i < 16; i++)
		EQ(rd(&t, DATA), 'a' + i); /* the 17th was lost */
	EQ(rd(&t, DATA), 0);

	/* Without FIFOs the newer takes the older's place. */
	wr(&t, FCR, 0);
	wr(&t, DATA, '1');
	wr(&t, DATA, '2');
	EQ(rd(&t, LSR), 0x63);
	EQ(rd(&t, DATA), '2');

	/* The wire is cut meanwhile; what was typed comes afterwards. */
	type(&t, "w");
	EQ(rd(&t, LSR), 0x60);
	wr(&t, MCR, OUT2);
	turn(&t);
	EQ(rd(&t, DATA), 'w');
	char got[4];
	EQ(read(t.peer, got, sizeof got), -1); /* nothing of it went out */
	bench_close(&t);
}

TEST(loopback_wires_the_modem_lines)
{
	struct bench t;
	bench_open(&t, CHAR_NULL);
	(void)rd(&t, MSR);
	wr(&t, MCR, LOOP | OUT2 | 0x02); /* Linux's test for a UART */
	EQ(rd(&t, MSR) & 0xf0, 0x90);
	EQ(rd(&t, MSR) & 0x0f, 0); /* deltas are cleared by the read */
	wr(&t, MCR, LOOP | 0x01);
	EQ(rd(&t, MSR), 0x20 | 0x08 | 0x02 | 0x01);
	wr(&t, MCR, LOOP | 0x04); /* the ring indicator begins: no delta */
	EQ(rd(&t, MSR), 0x40 | 0x02);
	wr(&t, MCR, LOOP);
	EQ(rd(&t, MSR), 0x04);
	bench_close(&t);
}

TEST(modem_changes_interrupt_last_in_order)
{
	struct bench t;
	bench_open(&t, CHAR_NULL);
	wr(&t, MCR, LOOP | OUT2);
	(void)rd(&t, MSR);
	wr(&t, IER, 0x0a);
	EQ(pulses(&t), 1);
	wr(&t, MCR, LOOP | OUT2 | 0x02);
	EQ(pulses(&t), 1);
	EQ(rd(&t, IIR), 0x02);
	EQ(rd(&t, IIR), 0x00);
	EQ(rd(&t, MSR), 0x91);
	EQ(rd(&t, IIR), 0x01);
	bench_close(&t);
}

TEST(fifo_control_clears_and_needs_its_enable_bit)
{
	struct bench t;
	bench_open(&t, CHAR_NULL);
	wr(&t, FCR, 0xc0); /* not enabled: nothing happens */
	EQ(rd(&t, IIR), 0x01);
	wr(&t, MCR, LOOP);
	wr(&t, FCR, 0x01);
	EQ(rd(&t, IIR), 0xc1);
	wr(&t, DATA, 'q');
	wr(&t, FCR, 0x03);
	EQ(rd(&t, LSR), 0x60);
	wr(&t, DATA, 'q');
	wr(&t, FCR, 0x00); /* turning them off empties them, too */
	EQ(rd(&t, LSR), 0x60);
	bench_close(&t);
}

TEST(wide_accesses_are_split_into_ports)
{
	struct bench t;
	uint8_t out[8] = { 'A', 0x0f, 0x01, 0x03, 0x0b, 0, 0, 0x77 }, in[8] = { 0 };
	bench_open(&t, CHAR_NULL);
	serial_bus_ops.write(&t.s, 0, out, 8);
	serial_bus_ops.read(&t.s, 0, in, 8);
	EQ(in[1], 0x0f);
	EQ(in[2], 0xc2);
	EQ(in[3], 0x03);
	EQ(in[4], 0x0b);
	EQ(in[5], 0x60);
	EQ(in[7], 0x77);
	serial_bus_ops.write(&t.s, 6, out, 2);
	EQ(rd(&t, SCR), 0x0f);
	bench_close(&t);
}

TEST(no_backend_and_no_line_will_do)
{
	struct serial s;
	uint8_t v = 'x';
	serial_init(&s, NULL, NULL);
	v = OUT2;
	serial_bus_ops.write(&s, MCR, &v, 1);
	v = 2;
	serial_bus_ops.write(&s, IER, &v, 1);
	serial_bus_ops.write(&s, DATA, &v, 1);
	serial_done(&s);
}

static void *vcpu(void *arg)
{
	struct bench *t = arg;
	for (int i = 0; i < 5000; i++) {
		wr(t, DATA, i % 40 == 39 ? '\n' : 'v');
		(void)rd(t, IIR);
		if (rd(t, LSR) & 1)
			(void)rd(t, DATA);
	}
	return NULL;
}

TEST(vcpus_and_the_loop_at_once)
{
	struct bench t;
	char got[4096];
	bench_open(&t, CHAR_PTY);
	wr(&t, MCR, OUT2);
	wr(&t, IER, 0x0f);
	pthread_t threads[2];
	for (int i = 0; i < 2; i++)
		EQ(pthread_create(&threads[i], NULL, vcpu, &t), 0);
	for (int i = 0; i < 200; i++) {
		(void)!write(t.peer, "input", 5);
		(void)loop_run_once(t.loop, 1);
		(void)!read(t.peer, got, sizeof got);
	}
	for (int i = 0; i < 2; i++)
		EQ(pthread_join(threads[i], NULL), 0);
	bench_close(&t);
}
