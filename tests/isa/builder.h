/*
 * tests/isa/builder.h: a state in the making, shared by states.c (registers and
 * addresses) and operands.c (what single instructions need).
 */
#ifndef TESTS_ISA_BUILDER_H
#define TESTS_ISA_BUILDER_H

#include "values.h"

struct builder {
    struct isa_state *state;
    struct isa_memory *memory;
    const struct isa_insn *in;
    struct isa_rng *rng;
    uint16_t pinned; /* registers that hold an address already */
};

/* Writes to the windows' initial content; what falls outside is dropped. */
void build_poke(struct builder *b, uint64_t lin, const void *data, unsigned size);
void build_poke64(struct builder *b, uint64_t lin, uint64_t value, unsigned size);
/* Number of a general-purpose register of any width; -1: it is none. */
int build_gpr_number(ZydisRegister reg);
/* The part of a register that an operand names; the rest stays. */
void build_set_register(struct builder *b, ZydisRegister reg, uint64_t value);
/* An address for size bytes in or about a window: aligned, not, across pages, across its end. */
uint64_t build_in_window(struct builder *b, enum isa_window_kind kind, unsigned size);
/* The same, mostly in the data window (low: the one for 16-bit addresses), seldom anywhere. */
uint64_t build_some_address(struct builder *b, unsigned size, bool low);
uint64_t build_segment_base(const struct isa_insn *in, const struct isa_state *state, ZydisRegister segment);
uint64_t build_displacement(const ZydisDecodedOperand *op);
/* Linear address of a memory operand in the state as it is. */
uint64_t build_linear(const struct builder *b, const ZydisDecodedOperand *op);
uint64_t build_reg_value(const struct builder *b, ZydisRegister reg);
/* Sets base and index so that the operand lies at target. */
void build_aim(struct builder *b, const ZydisDecodedOperand *op, uint64_t target);

/* operands.c: after the registers and addresses have been chosen. */
void build_special_operands(struct builder *b);

#endif
