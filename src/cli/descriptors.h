/* SPDX-License-Identifier: Apache-2.0 */
/* descriptors.h - the process's table of descriptors, put in order before anything is opened. */
#pragma once

/* Closed standard descriptors are opened on /dev/null: nothing of ours is to get their numbers. */
void fill_standard_descriptors(void);
/* The kernel makes every thread wait when the table grows under many of them: it is made large while there is one. Best
 * effort. */
void widen_descriptor_table(void);
