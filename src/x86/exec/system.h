/*
 * x86/exec/system.h: what the files of system.c's table share, and the port
 * permission check that INS and OUTS need too.
 */
#ifndef X86_EXEC_SYSTEM_H
#define X86_EXEC_SYSTEM_H

#include "x86/segment.h"

/* May the current code access size bytes of ports: CPL against IOPL, then the TSS's I/O permission bitmap. X86_NEXT,
 * or X86_FAULT (#GP(0), #PF on the bitmap). */
enum x86_rc x86_check_port(struct x86_cpu *cpu, uint16_t port, unsigned size);

/* Is the guest told that it runs on an Intel processor? AMD's SYSCALL, SYSRET, SYSENTER differ. */
static inline bool x86_vendor_intel(struct x86_cpu *cpu)
{
    uint32_t regs[4];

    x86_cpuid(cpu, 0, 0, regs);
    return regs[1] == 0x756e6547; /* "Genu" */
}

#define EXEC(name) enum x86_rc exec_##name(struct x86_cpu *cpu, const struct x86_insn *in)

/* exec/segreg.c */
EXEC(mov_to_seg);
EXEC(mov_from_seg);
EXEC(push_seg);
EXEC(pop_seg);
EXEC(load_far_pointer);
/* exec/tables.c */
EXEC(lgdt);
EXEC(lidt);
EXEC(sgdt);
EXEC(sidt);
EXEC(lldt);
EXEC(sldt);
EXEC(ltr);
EXEC(str);
EXEC(lar);
EXEC(lsl);
EXEC(verr);
EXEC(verw);
EXEC(arpl);
/* exec/control.c */
EXEC(mov_to_cr);
EXEC(mov_from_cr);
EXEC(mov_to_dr);
EXEC(mov_from_dr);
EXEC(clts);
EXEC(lmsw);
EXEC(smsw);
EXEC(invlpg);
EXEC(invpcid);
EXEC(cache_flush);
EXEC(hlt);
/* exec/flags.c */
EXEC(cli);
EXEC(sti);
EXEC(stac);
EXEC(clac);
EXEC(pushf);
EXEC(popf);
EXEC(int);
EXEC(int1);
EXEC(int3);
EXEC(into);
/* exec/model.c */
EXEC(cpuid);
EXEC(rdtsc);
EXEC(rdtscp);
EXEC(rdpmc);
EXEC(rdpid);
EXEC(rdmsr);
EXEC(wrmsr);
EXEC(rdfsbase);
EXEC(wrfsbase);
EXEC(swapgs);
EXEC(hypercall);
/* exec/port.c */
EXEC(in);
EXEC(out);
/* exec/syscall.c */
EXEC(syscall);
EXEC(sysret);
EXEC(sysenter);
EXEC(sysexit);
/* exec/far.c, exec/return.c */
EXEC(jmp_far);
EXEC(jmp_far_memory);
EXEC(call_far);
EXEC(call_far_memory);
EXEC(ret_far);
EXEC(iret);

#endif
