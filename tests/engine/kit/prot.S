/*
 * prot.S: start of the 32-bit image, trap entry, context_run().
 */
#define PUSH pushl

/* struct context, see kit.h */
#define C_AX 0
#define C_CX 4
#define C_DX 8
#define C_BX 12
#define C_SP 16
#define C_BP 20
#define C_SI 24
#define C_DI 28
#define C_IP 32
#define C_FLAGS 36
#define C_CS 40
#define C_SS 44
#define C_DS 48
#define C_ES 52
#define C_FS 56
#define C_GS 60

#define KDATA 0x10
#define FLAG_VM 0x20000

    .section .multiboot, "a"
    .balign 4
    .long 0x1badb002, 0, -0x1badb002

    .text
    .globl _start
_start:
    cld
    mov $start_stack_top, %esp
    mov %cr0, %eax
    and $0x9fffffff, %eax /* CD and NW off */
    or $0x10033, %eax     /* WP, NE, ET, MP, PE */
    mov %eax, %cr0
    xor %ebp, %ebp
    push $0
    push %ebx
    call kit_main

/* --- traps: struct raw_frame of kit.c ------------------------------------------- */
trap_common:
    cld
    pusha
    push %ds
    push %es
    push %fs
    push %gs
    mov $KDATA, %eax
    mov %eax, %ds
    mov %eax, %es
    mov %esp, %ebx
    and $-16, %esp
    sub $12, %esp
    push %ebx
    call trap_entry
    test %al, %al
    jnz context_return
    mov %ebx, %esp
    pop %gs
    pop %fs
    pop %es
    pop %ds
    popa
    add $8, %esp
    iret

/* Within a ring IRET takes no stack pointer: the new stack is loaded first and IRET's frame pushed there. */
    .globl context_run, context_iret
context_run:
    mov 4(%esp), %eax
    push %ebx
    push %ebp
    push %esi
    push %edi
    mov %esp, run_sp
    mov %eax, run_context
    mov C_CX(%eax), %ecx
    mov C_DX(%eax), %edx
    mov C_BX(%eax), %ebx
    mov C_BP(%eax), %ebp
    mov C_SI(%eax), %esi
    mov C_DI(%eax), %edi
    testl $FLAG_VM, C_FLAGS(%eax)
    jnz vm86
    mov C_FS(%eax), %fs
    mov C_GS(%eax), %gs
    mov C_ES(%eax), %es
    mov C_DS(%eax), %ds
    testl $3, %cs:C_CS(%eax)
    jnz outer
    mov %cs:C_SS(%eax), %ss
    mov %cs:C_SP(%eax), %esp
    jmp inner
vm86:
    pushl C_GS(%eax)
    pushl C_FS(%eax)
    pushl C_DS(%eax)
    pushl C_ES(%eax)
outer:
    pushl %cs:C_SS(%eax)
    pushl %cs:C_SP(%eax)
inner:
    pushl %cs:C_FLAGS(%eax)
    pushl %cs:C_CS(%eax)
    pushl %cs:C_IP(%eax)
    mov %cs:C_AX(%eax), %eax
context_iret:
    iret

context_return:
    mov $KDATA, %eax
    mov %eax, %ds
    mov %eax, %es
    mov %eax, %ss
    mov run_sp, %esp
    pop %edi
    pop %esi
    pop %ebp
    pop %ebx
    ret

#include "stubs.inc"
