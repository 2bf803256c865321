/*
 * tests/unit/native.h: runs one instruction on the host, on given registers and
 * flags. Memory operands must lie in the fixture's RAM.
 */
#ifndef TESTS_UNIT_NATIVE_H
#define TESTS_UNIT_NATIVE_H

#include <stdbool.h>
#include <stdint.h>

struct native_state {
    uint64_t gpr[16];
    uint64_t rflags; /* status flags and DF */
};

/* true: it ran; false: #DE, state as before the instruction. */
bool native_run(struct native_state *state, const uint8_t *bytes, unsigned size);

#endif
