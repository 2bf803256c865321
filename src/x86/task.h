/*
 * x86/task.h: hardware task switches (SDM vol. 3 chapter 7; AMD APM vol. 2
 * chapter 12). There are none in long mode.
 */
#ifndef X86_TASK_H
#define X86_TASK_H

#include "x86/gate.h"

enum x86_task_cause { TASK_JMP, TASK_CALL, TASK_IRET, TASK_INT };

/* Switches to the task of a TSS selector; rip is what the old task resumes at. X86_JUMP: done. X86_FAULT: either
 * nothing was changed, or the switch is complete and the fault (or debug trap) is the new task's: RIP is right for it
 * in both cases. */
enum x86_rc x86_task_switch(struct x86_cpu *cpu, uint16_t selector, enum x86_task_cause cause, uint64_t rip);
/* Through a task gate of the IDT: the error code, if any, goes to the new task's stack. */
enum x86_rc x86_task_interrupt(struct x86_cpu *cpu, uint16_t selector, const struct x86_delivery *d);
/* IRET with NT set: to the task that the back link names. */
enum x86_rc x86_task_return(struct x86_cpu *cpu, uint64_t rip);

#endif
