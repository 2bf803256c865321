/*
 * exec/simd_special.h: vector instructions that the host cannot execute from a
 * stub: those that touch only selected elements of memory, and those that only
 * move, which are faster in C.
 */
#ifndef X86_EXEC_SIMD_SPECIAL_H
#define X86_EXEC_SIMD_SPECIAL_H

#include "x86/insn.h"

/* arg of a gather's row: element and index are 8 bytes wide; the index register is added when selecting. */
enum gather_bits { GATHER_INDEX = 0x0f, GATHER_ELEMENT8 = 0x10, GATHER_INDEX8 = 0x20 };

/* Select functions for table rows. */
x86_exec_fn *x86_select_move(struct x86_insn *in, const struct x86_zydis *zydis);     /* whole registers */
x86_exec_fn *x86_select_maskmov(struct x86_insn *in, const struct x86_zydis *zydis);  /* MASKMOVQ, (V)MASKMOVDQU */
x86_exec_fn *x86_select_vmaskmov(struct x86_insn *in, const struct x86_zydis *zydis); /* VMASKMOVPx, VPMASKMOVx */
x86_exec_fn *x86_select_gather(struct x86_insn *in, const struct x86_zydis *zydis);   /* VGATHERxPx, VPGATHERxx */
x86_exec_fn *x86_select_vzero(struct x86_insn *in, const struct x86_zydis *zydis);    /* VZEROUPPER, VZEROALL */

#endif
