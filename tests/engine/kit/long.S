/*
 * long.S: start of the 64-bit image (multiboot leaves us in 32-bit protected
 * mode), trap entry, context_run().
 */
#define PUSH push

/* struct context, see kit.h */
#define C_SP 32
#define C_R8 64
#define C_IP 128
#define C_FLAGS 136
#define C_CS 144
#define C_SS 152
#define C_DS 160
#define C_ES 168
#define C_FS 176
#define C_GS 184

#define KDATA 0x10

    .section .multiboot, "a"
    .balign 4
    .long 0x1badb002, 0, -0x1badb002

    .text
    .code32
    .globl _start
_start:
    cld
    mov $start_stack_top, %esp
    mov %ebx, %ebp
    movl $(boot_pdpt + 3), boot_pml4
    orl $4, boot_pml4
    movl $(boot_pd + 7), boot_pdpt
    mov $0x83, %eax /* present, writable, 2 MiB */
    xor %ecx, %ecx
1:  mov %eax, boot_pd(, %ecx, 8)
    add $0x200000, %eax
    inc %ecx
    cmp $8, %ecx
    jne 1b

    mov %cr4, %eax
    or $0x20, %eax /* PAE */
    mov %eax, %cr4
    mov $boot_pml4, %eax
    mov %eax, %cr3
    mov $0xc0000080, %ecx
    rdmsr
    or $0x901, %eax /* SCE, LME, NXE */
    wrmsr
    mov %cr0, %eax
    and $0x9fffffff, %eax /* CD and NW off */
    or $0x80010033, %eax /* PG, WP, NE, ET, MP, PE */
    mov %eax, %cr0
    lgdt boot_gdtr
    ljmp $8, $1f
    .code64
1:  mov $KDATA, %eax
    mov %eax, %ds
    mov %eax, %es
    mov %eax, %ss
    mov %ebp, %edi
    xor %ebp, %ebp
    call kit_main

    .balign 8
boot_gdt:
    .quad 0, 0x00af9a000000ffff, 0x00cf92000000ffff
boot_gdtr:
    .word 23
    .long boot_gdt

/* --- traps: struct raw_frame of kit.c ------------------------------------------- */
trap_common:
    cld
    sub $32, %rsp
    mov %ds, (%rsp)
    mov %es, 8(%rsp)
    mov %fs, 16(%rsp)
    mov %gs, 24(%rsp)
    push %r15
    push %r14
    push %r13
    push %r12
    push %r11
    push %r10
    push %r9
    push %r8
    push %rdi
    push %rsi
    push %rbp
    push %rsp
    push %rbx
    push %rdx
    push %rcx
    push %rax
    mov %rsp, %rdi
    mov %rsp, %rbx
    and $-16, %rsp
    call trap_entry
    test %al, %al
    jnz context_return
    mov %rbx, %rsp
    pop %rax
    pop %rcx
    pop %rdx
    pop %rbx
    add $8, %rsp
    pop %rbp
    pop %rsi
    pop %rdi
    pop %r8
    pop %r9
    pop %r10
    pop %r11
    pop %r12
    pop %r13
    pop %r14
    pop %r15
    add $(32 + 16), %rsp
    iretq

    .globl context_run, context_iret
context_run:
    push %rbx
    push %rbp
    push %r12
    push %r13
    push %r14
    push %r15
    mov %rsp, run_sp
    mov %rdi, run_context
    mov C_DS(%rdi), %eax
    mov %eax, %ds
    mov C_ES(%rdi), %eax
    mov %eax, %es
    /* A load of FS or GS would change its base too. */
    mov C_FS(%rdi), %eax
    mov %fs, %ecx
    cmp %ax, %cx
    je 1f
    mov %eax, %fs
1:  mov C_GS(%rdi), %eax
    mov %gs, %ecx
    cmp %ax, %cx
    je 1f
    mov %eax, %gs
1:  push C_SS(%rdi)
    push C_SP(%rdi)
    push C_FLAGS(%rdi)
    push C_CS(%rdi)
    push C_IP(%rdi)
    mov (C_R8 + 0)(%rdi), %r8
    mov (C_R8 + 8)(%rdi), %r9
    mov (C_R8 + 16)(%rdi), %r10
    mov (C_R8 + 24)(%rdi), %r11
    mov (C_R8 + 32)(%rdi), %r12
    mov (C_R8 + 40)(%rdi), %r13
    mov (C_R8 + 48)(%rdi), %r14
    mov (C_R8 + 56)(%rdi), %r15
    mov 0(%rdi), %rax
    mov 8(%rdi), %rcx
    mov 16(%rdi), %rdx
    mov 24(%rdi), %rbx
    mov 40(%rdi), %rbp
    mov 48(%rdi), %rsi
    mov 56(%rdi), %rdi
context_iret:
    iretq

context_return:
    mov run_sp, %rsp
    mov $KDATA, %eax
    mov %eax, %ds
    mov %eax, %es
    mov %eax, %ss
    pop %r15
    pop %r14
    pop %r13
    pop %r12
    pop %rbp
    pop %rbx
    ret

    .section .bss
    .balign 4096
boot_pml4:
    .space 4096
boot_pdpt:
    .space 4096
boot_pd:
    .space 4096

    .text
#include "stubs.inc"
