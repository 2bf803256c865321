/* x86/raise.c: cpu->exc, filled in. Delivery is in intr.c. */
#include "x86/intr.h"

enum x86_rc x86_raise(struct x86_cpu *cpu, uint8_t vector)
{
    cpu->exc = (struct x86_event){.vector = vector};
    return X86_FAULT;
}

enum x86_rc x86_raise_error(struct x86_cpu *cpu, uint8_t vector, uint32_t error)
{
    cpu->exc = (struct x86_event){.vector = vector, .has_error = true, .error = error};
    return X86_FAULT;
}

enum x86_rc x86_raise_pf(struct x86_cpu *cpu, gva_t lin, uint32_t error)
{
    cpu->exc = (struct x86_event){.vector = VEC_PF, .has_error = true, .error = error, .cr2 = lin};
    return X86_FAULT;
}
