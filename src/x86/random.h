/*
 * x86/random.h: what RDRAND and RDSEED draw from: a generator that is part of
 * the processor's state, so that two engines in lockstep draw the same numbers.
 * Its runner seeds it from the host's entropy.
 */
#ifndef X86_RANDOM_H
#define X86_RANDOM_H

#include "base/types.h"

/* ChaCha's block function (RFC 8439, 2.3) in counter mode: who sees some numbers can tell no others. */
struct x86_random {
    uint32_t key[8];
    uint64_t count; /* numbers drawn */
};

uint64_t x86_random_next(struct x86_random *random);

#endif
