/*
 * exec/x87_env.h: the x87 environment as FNSTENV, FNSAVE, FLDENV and FRSTOR have
 * it in memory: four formats, by operand size and by protected or real mode
 * (AMD APM vol. 2, 11.5.4).
 */
#ifndef X86_EXEC_X87_ENV_H
#define X86_EXEC_X87_ENV_H

#include "x86/cpu.h"

#define X87_ENV_SIZE 28

/* Bytes of the environment for an operand size of 2, or of 4 and 8. */
static inline unsigned x86_env_size(unsigned opsize)
{
    return opsize == 2 ? 14 : 28;
}

/* Writes it to env and returns its size. */
unsigned x86_env_store(const struct x86_cpu *cpu, unsigned opsize, uint8_t env[X87_ENV_SIZE]);
/* Takes in what env says; registers keep their contents. */
void x86_env_load(struct x86_cpu *cpu, unsigned opsize, const uint8_t env[X87_ENV_SIZE]);

#endif
