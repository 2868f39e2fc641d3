/* SPDX-License-Identifier: Apache-2.0 */
#include "cli/terminal_guard.h"

#include <signal.h>
#include <stdbool.h>
#include <stddef.h>
#include <termios.h>
#include <unistd.h>

static struct termios at_start;
static volatile sig_atomic_t has_terminal;

/* tcsetattr() is async-signal-safe. The signal is raised again with its default action by SA_RESETHAND. */
static void on_fatal(int signal)
{
	if (has_terminal)
		(void)tcsetattr(STDIN_FILENO, TCSANOW, &at_start);
	(void)raise(signal);
}

void terminal_guard_install(void)
{
	static const int fatal[] = { SIGABRT, SIGBUS, SIGFPE, SIGILL, SIGSEGV, SIGSYS, SIGQUIT, SIGXCPU, SIGTRAP,
	                             SIGALRM, SIGVTALRM, SIGPROF, SIGPWR, SIGSTKFLT };

	if (tcgetattr(STDIN_FILENO, &at_start) < 0)
		return;
	has_terminal = true;
	struct sigaction a = { .sa_handler = on_fatal, .sa_flags = (int)(SA_RESETHAND | SA_NODEFER) };
	(void)sigemptyset(&a.sa_mask);
	for (size_t i = 0; i < sizeof fatal / sizeof fatal[0]; i++)
		(void)sigaction(fatal[i], &a, NULL);
}
