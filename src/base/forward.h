/* SPDX-License-Identifier: Apache-2.0 */
/* forward.h - the standard types, and the names of structs that headers pass by pointer only. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct err;
struct log;
struct loop;
