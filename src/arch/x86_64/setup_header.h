/* SPDX-License-Identifier: Apache-2.0 */
/* setup_header.h - offsets in a bzImage and in the zero page, which are the same for the setup header (Linux,
 * Documentation/arch/x86/boot.rst, "The Real-Mode Kernel Header", and zero-page.rst). Constants only. */
#pragma once

#define ZERO_PAGE_BYTES 4096
#define ZERO_PAGE_ACPI_RSDP_ADDR 0x070
#define ZERO_PAGE_E820_ENTRIES 0x1e8
#define ZERO_PAGE_E820_TABLE 0x2d0
#define ZERO_PAGE_E820_MAX 128
#define ZERO_PAGE_HEADER_END 0x290 /* what comes after the header's room */

#define SETUP_SECTS 0x1f1 /* the header's first byte */
#define SETUP_SYSSIZE 0x1f4
#define SETUP_VID_MODE 0x1fa
#define SETUP_BOOT_FLAG 0x1fe
#define SETUP_JUMP 0x200
#define SETUP_HEADER 0x202
#define SETUP_VERSION 0x206
#define SETUP_TYPE_OF_LOADER 0x210
#define SETUP_LOADFLAGS 0x211
#define SETUP_RAMDISK_IMAGE 0x218
#define SETUP_RAMDISK_SIZE 0x21c
#define SETUP_HEAP_END_PTR 0x224
#define SETUP_EXT_LOADER_VER 0x226
#define SETUP_EXT_LOADER_TYPE 0x227
#define SETUP_CMD_LINE_PTR 0x228
#define SETUP_INITRD_ADDR_MAX 0x22c
#define SETUP_KERNEL_ALIGNMENT 0x230
#define SETUP_RELOCATABLE_KERNEL 0x234
#define SETUP_XLOADFLAGS 0x236
#define SETUP_CMDLINE_SIZE 0x238
#define SETUP_HARDWARE_SUBARCH 0x23c
#define SETUP_SETUP_DATA 0x250
#define SETUP_PREF_ADDRESS 0x258
#define SETUP_INIT_SIZE 0x260

#define SETUP_BOOT_FLAG_VALUE 0xaa55
#define SETUP_MAGIC 0x53726448u /* "HdrS" */
#define SETUP_LOADED_HIGH 0x01u
#define SETUP_CAN_USE_HEAP 0x80u
#define SETUP_XLF_KERNEL_64 0x01u
#define SETUP_LOADER_UNKNOWN 0xffu
#define SETUP_VID_MODE_NORMAL 0xffffu
