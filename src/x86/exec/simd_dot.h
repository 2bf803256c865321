/*
 * exec/simd_dot.h: the exceptions of dot products, which are several operations in
 * turn. Knows nothing of instructions.
 */
#ifndef X86_EXEC_SIMD_DOT_H
#define X86_EXEC_SIMD_DOT_H

#include "base/types.h"

/* DPPS (size 4) or DPPD (size 8) of one or two 16-byte lanes, with exceptions unmasked in mxcsr: the ones that are
 * flagged. An unmasked one ends it: the steps after it are not made. */
uint32_t x86_dot_exceptions(const uint8_t *const a[2], const uint8_t *const b[2], unsigned lanes, unsigned size,
                            unsigned imm, uint32_t mxcsr);

/* Is the element (2, 4 or 8 bytes) a denormal? */
bool x86_is_tiny(const uint8_t *p, unsigned size);

/* What is flagged of the exceptions that a run with all of them masked raised, if mxcsr unmasks some (SDM vol. 1,
 * 11.5.2 and 11.5.3): all found before computing; if one of them is unmasked nothing is computed, so none after. */
uint32_t x86_flagged(uint32_t raised, uint32_t mxcsr);

#endif
