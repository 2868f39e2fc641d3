/* SPDX-License-Identifier: Apache-2.0 */
/* doctor.h - `varan doctor [--json]`: can this machine's hypervisor run Linux guests, and why. */
#pragma once

/* The exit status: 0 when guests run here directly, 1 when not, 2 for wrong words. */
int doctor_main(int argc, char **argv);
