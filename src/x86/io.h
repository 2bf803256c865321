/*
 * x86/io.h: how an instruction does I/O when the device is outside the engine.
 *
 * A semantic that needs a port or an MMIO register asks x86_io(). If that
 * access has not been done yet the instruction is left (X86_EXIT) with nothing
 * changed; the engine returns the exit, the machine serves it, x86_io_complete()
 * logs the answer, and the instruction starts anew: this time x86_io() finds
 * the answers in the log, in order, and the instruction runs to its end. So
 * every instruction, however many accesses it makes, is all or nothing.
 */
#ifndef X86_IO_H
#define X86_IO_H

#include "x86/cpu.h"

/* size: 1, 2, 4 or 8 bytes; *data is given (write) or filled (read). X86_NEXT or X86_EXIT. */
enum x86_rc x86_io(struct x86_cpu *cpu, enum x86_io_kind kind, uint64_t addr, uint64_t *data, unsigned size,
                   bool write);
/* The access in cpu->io has been done; data is what was read. */
void x86_io_complete(struct x86_cpu *cpu, uint64_t data);

/* At the start of an instruction (restart) and at its end or fault (forget). */
static inline void x86_io_restart(struct x86_cpu *cpu)
{
    cpu->io_pos = 0;
}

static inline void x86_io_forget(struct x86_cpu *cpu)
{
    cpu->io_pos = cpu->io_count = 0;
}

#endif
