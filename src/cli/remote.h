/* SPDX-License-Identifier: Apache-2.0 */
/* remote.h - `varan remote`, the client of the API; as `ch-remote`, what that prints and how it ends. */
#pragma once

/* argv[0] is the name under which we are called: with the base name "ch-remote" answers are printed as they come, and
 * else for people (or --json). The exit status: 0, 1 when something failed, 2 for a mistake on the command line. */
int remote_main(int argc, char **argv);
