/*
 * tests/isa/values.h: numbers worth trying.
 */
#ifndef TESTS_ISA_VALUES_H
#define TESTS_ISA_VALUES_H

#include "isa.h"

uint64_t isa_corner(struct isa_rng *rng); /* integers at the edges of every width */
uint32_t isa_f32(struct isa_rng *rng);
uint64_t isa_f64(struct isa_rng *rng);
void isa_f80(uint8_t out[10], struct isa_rng *rng);
/* size bytes of one kind of data: floats, doubles, integers, small bytes, ... */
void isa_fill(uint8_t *out, unsigned size, struct isa_rng *rng);
/* x87, MXCSR, vector registers; consistent (ES follows the flags). */
void isa_fill_fpu(struct x86_fpu *fpu, struct isa_rng *rng);

#endif
