/* SPDX-License-Identifier: Apache-2.0 */
/* Entered by the Linux 64-bit boot protocol: long mode, identity mapping, RSI = the zero page. */
	.section .text.start, "ax"
	.globl start
start:
	cli
	lea stack_end(%rip), %rsp
	mov %rsi, %rdi
	call payload_main
1:	hlt
	jmp 1b

	.bss
	.balign 16
	.space 65536
stack_end:
	.section .note.GNU-stack, "", @progbits
