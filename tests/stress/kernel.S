/*
 * kernel.S: the guest's kernel, copied to G_PROGRAM: one handler for all
 * exceptions, SYSCALL's two entries. Each exception is hashed and logged; then
 * the guest goes on where it was, or in another context, chosen by a generator
 * of its own, so that a seed decides all.
 */
#include "stress_layout.h"

#define LOW -0x80000000 /* STRESS_KERNEL, as a displacement */

    .section .rodata
    .globl stress_program, stress_program_end, stress_start, stress_common, stress_syscall, stress_syscall32
    .balign 16
stress_program:

/* On the stack: vector, error code, RIP, CS, RFLAGS, RSP, SS. */
stress_common:
    cld
    push %rax
    push %rcx
    push %rdx
    push %rbx
    push %rbp
    push %rsi
    push %rdi
    push %r8
    push %r9
    push %r10
    push %r11
    push %r12
    push %r13
    push %r14
    push %r15
    mov %rsp, %rbp
    mov $(LOW + G_KERNEL), %rbx

    mov K_HASH(%rbx), %rax
    xor %edx, %edx
    cmpq $14, 15*8(%rbp)
    jne 1f
    mov %cr2, %rdx
1:  xor %rdx, %rax
    testb $7, K_COUNT(%rbx) /* vector state now and then: most of the time the kernel does not touch it */
    jnz 1f
    stmxcsr -8(%rsp)
    fnstsw -4(%rsp)
    movw $0, -2(%rsp)
    xor -8(%rsp), %rax
    movq %xmm1, %rsi
    xor %rsi, %rax
    movq %xmm6, %rsi
    rol $7, %rsi
    xor %rsi, %rax
1:  mov %rbp, %rsi
    mov $22, %ecx
    mov $0x9e3779b97f4a7c15, %rdi
2:  xor (%rsi), %rax
    rol $23, %rax
    imul %rdi, %rax
    add $8, %rsi
    dec %ecx
    jnz 2b
    mov %rax, K_HASH(%rbx)

    mov K_COUNT(%rbx), %rcx
    mov %ecx, %esi
    and $(LOG_ENTRIES - 1), %esi
    shl $5, %esi
    mov 15*8(%rbp), %rdi
    mov %rdi, LOW + G_LOG(%rsi)
    mov 17*8(%rbp), %rdi
    mov %rdi, LOW + G_LOG + 8(%rsi)
    mov %rax, LOW + G_LOG + 16(%rsi)
    mov %rdx, LOW + G_LOG + 24(%rsi)
    inc %rcx
    mov %rcx, K_COUNT(%rbx)
    cmp K_LIMIT(%rbx), %rcx
    jb 3f
    mov $0, %eax
    out %al, $STRESS_PORT
3:
    mov $6364136223846793005, %rax
    imul K_RANDOM(%rbx), %rax
    mov $1442695040888963407, %rdx
    add %rdx, %rax
    mov %rax, K_RANDOM(%rbx)
    mov %rax, %r8

    mov 15*8(%rbp), %rdi
    cmp $2, %edi /* NMI */
    je 7f
    cmp $VECTOR_INT, %edi
    jne 4f
    mov $0x80b, %ecx /* x2APIC EOI */
    xor %eax, %eax
    xor %edx, %edx
    wrmsr
7:  mov %r8, %rax
    shr $62, %rax
    jnz go_on
    jmp another
4:  cmp $1, %edi
    jne 5f
    mov %r8, %rax /* single-step: goes on for a while */
    shr $60, %rax
    jnz go_on
    andq $~0x100, 19*8(%rbp)
    jmp go_on
5:  cmp $VECTOR_FUEL, %edi
    jne 6f
    movl $FUEL, LOW + G_DATA /* the first page of data */
    test %r8, %r8
    js go_on
6:  cmp $3, %edi
    jne another
    test %r8, %r8
    js go_on

another:
    /* A page is mapped otherwise. */
    mov %r8, %rax
    shr $50, %eax
    test $7, %al
    jnz 1f
    mov %r8, %rsi
    shr $20, %rsi
    and $63, %esi
    imul $24, %rsi, %rsi
    mov LOW + G_CHANGES(%rsi), %rdi
    mov LOW + G_CHANGES + 8(%rsi), %rax
    mov %rax, (%rdi)
    mov LOW + G_CHANGES + 16(%rsi), %rdi
    invlpg (%rdi)
    cmpq $0, K_FLUSH(%rbx)
    je 1f
    mov %cr4, %rax
    xor $0x80, %rax
    mov %rax, %cr4
    xor $0x80, %rax
    mov %rax, %cr4
    /* A page of code gets its first contents again. */
1:  mov %r8, %rax
    shr $45, %rax
    test $31, %al
    jnz 1f
    mov %r8, %rsi
    shr $30, %rsi
    and $7, %esi
    shl $12, %esi
    lea LOW + G_CODE(%rsi), %rdi
    lea LOW + G_PRISTINE(%rsi), %rsi
    mov $4096, %ecx
    rep movsb
1:  mov %r8, %r9
    shr $33, %r9
    and $255, %r9d
    shl $8, %r9d
    lea LOW + G_CONTEXTS(%r9), %r9
    test $(3 << 28), %r8d
    jnz 1f
    mov C_CR3(%r9), %rax
    mov %rax, %cr3
1:  mov C_DS(%r9), %eax
    mov %eax, %ds
    mov C_ES(%r9), %eax
    mov %eax, %es
    mov C_FS(%r9), %eax
    mov %eax, %fs
    mov C_GS(%r9), %eax
    mov %eax, %gs
    test $(1 << 19), %r8d
    jz 1f
    mov $0xc0000100, %ecx
    mov C_FSBASE(%r9), %rax
    mov %rax, %rdx
    shr $32, %rdx
    wrmsr
    mov $0xc0000101, %ecx
    mov C_GSBASE(%r9), %rax
    mov %rax, %rdx
    shr $32, %rdx
    wrmsr
1:  mov %r8, %rax
    shr $55, %rax
    test $7, %al
    jnz 1f
    mov %r8, %rsi
    shr $38, %rsi
    and $3, %esi
    shl $10, %esi
    mov $7, %eax
    xor %edx, %edx
    xrstor64 LOW + G_FPU(%rsi)
    /* All registers, or the pointers only: RBX, RBP, RSI, RDI, R12 to R15. */
1:  test $(1 << 27), %r8d
    jz 1f
    mov %r9, %rsi
    mov %rbp, %rdi
    mov $15, %ecx
    rep movsq
    jmp 2f
1:
    .irp reg, 0, 1, 2, 3, 8, 9, 10, 11
    mov \reg*8(%r9), %rax
    mov %rax, \reg*8(%rbp)
    .endr
2:  lea C_RIP(%r9), %rsi
    lea 17*8(%rbp), %rdi
    mov $5, %ecx
    rep movsq

go_on:
    pop %r15
    pop %r14
    pop %r13
    pop %r12
    pop %r11
    pop %r10
    pop %r9
    pop %r8
    pop %rdi
    pop %rsi
    pop %rbp
    pop %rbx
    pop %rdx
    pop %rcx
    pop %rax
    add $16, %rsp
    iretq

/* System calls come back at once. */
stress_syscall:
    mov %rsp, LOW + G_KERNEL + K_RSP
    mov $(LOW + G_STACK - 0x800), %rsp
    push %rax
    pushf
    incq LOW + G_KERNEL + K_CALLS
    popf
    pop %rax
    mov LOW + G_KERNEL + K_RSP, %rsp
    sysretq
stress_syscall32:
    mov %rsp, LOW + G_KERNEL + K_RSP
    mov $(LOW + G_STACK - 0x800), %rsp
    push %rax
    lea 3(%rax), %eax
    pop %rax
    mov LOW + G_KERNEL + K_RSP, %rsp
    sysretl

/* The first exception. */
stress_start:
    ud2
stress_program_end:
    .section .note.GNU-stack, "", @progbits
