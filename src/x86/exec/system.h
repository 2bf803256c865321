/*
 * x86/exec/system.h: checks of the system instructions that user-mode
 * semantics need too.
 */
#ifndef X86_EXEC_SYSTEM_H
#define X86_EXEC_SYSTEM_H

#include "x86/cpu.h"

/* May the current privilege access size bytes of ports from port on: IOPL, I/O permission bitmap (SDM vol. 1, 19.5).
 * X86_NEXT or X86_FAULT (#GP(0), faults of reading the TSS). */
enum x86_rc x86_check_port(struct x86_cpu *cpu, uint16_t port, unsigned size);

#endif
