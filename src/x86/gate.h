/*
 * x86/gate.h: one delivery through the IDT or IVT, between intr.c (which decides
 * what is delivered and what follows if that fails) and gate.c.
 */
#ifndef X86_GATE_H
#define X86_GATE_H

#include "x86/cpu.h"

struct x86_delivery {
    uint8_t vector;
    bool soft; /* INT n, INT3, INTO: the gate's DPL counts */
    bool has_error;
    uint32_t error;
    uint64_t rip;    /* where the handler returns to */
    uint64_t rflags; /* as pushed */
};

#define IDT_ERROR(vector) ((vector)*8u + 2u) /* error code that names a gate: IDT bit */

/* X86_JUMP: done. X86_FAULT: not delivered, nothing changed (but that a task switch may have been completed: its own
 * faults belong to the new task). The EXT bit is the caller's. X86_EXIT: a table or stack is not memory. */
enum x86_rc x86_deliver(struct x86_cpu *cpu, const struct x86_delivery *d);

#endif
