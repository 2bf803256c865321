/*
 * modes.S: pieces of code that turn modes, for modes.c. Each is copied to LOW
 * (7000h), its `0:`, and is entered there in 32-bit protected mode, CS flat.
 */
#define LOW 0x7000
#define LOW_SEG 0x0700
#define OLD_IDTR 0x5000 /* the kit's, saved */
#define REAL_IDTR 0x5008
#define REAL_STACK 0x4f00

/* desc.h */
#define KCODE 0x08
#define KDATA 0x10
#define KCODE64 0x50
#define KCODE16 0x58
#define KDATA16 0x60

    .macro piece name
    .balign 16
    .code32
    .globl \name, \name\()_end
\name:
0:
    .endm

    .macro end name
\name\()_end:
    .endm

/* To real mode: CS = LOW_SEG, DS = ES = SS = 0, limits of 64 KiB. ESP is kept in EBP. */
    .macro to_real
    mov %esp, %ebp
    sidt OLD_IDTR
    lidt REAL_IDTR
    ljmp $KCODE16, $LOW + .Lprot16_\@ - 0b
    .code16
.Lprot16_\@:
    mov $KDATA16, %ax
    mov %ax, %ds
    mov %ax, %es
    mov %ax, %ss
    mov %ax, %fs
    mov %ax, %gs
    mov %cr0, %eax
    and $~1, %eax
    mov %eax, %cr0
    ljmp $LOW_SEG, $.Lreal_\@ - 0b
.Lreal_\@:
    xor %ax, %ax
    mov %ax, %ds
    mov %ax, %es
    mov %ax, %ss
    mov $REAL_STACK, %sp
    .endm

/* And back, with EAX as it is; ends the context. */
    .macro to_protected
    mov %eax, %cs:.Leax_\@ - 0b
    mov %cr0, %eax
    or $1, %eax
    mov %eax, %cr0
    ljmpl $KCODE, $LOW + .Lprot32_\@ - 0b
    .code32
.Lprot32_\@:
    mov $KDATA, %eax
    mov %eax, %ds
    mov %eax, %es
    mov %eax, %ss
    mov %ebp, %esp
    xor %eax, %eax
    mov %eax, %fs
    mov %eax, %gs
    lidt OLD_IDTR
    mov LOW + .Leax_\@ - 0b, %eax
    int $0x80
.Leax_\@:
    .long 0
    .endm

    .text
/* Segments are paragraphs; INT n goes through the vectors at IDTR's base. */
    piece real_trip
    to_real
    mov %cs, %cx
    mov $0x0512, %ax
    mov %ax, %ds
    movw $0x1234, 0x10
    mov %ds, %dx
    smsw %bx
    sti
    int $0x21
    cli
    mov $0x600d, %ax
    to_protected
    end real_trip

/* Handlers, at LOW + 800h. This one keeps the flags that INT saved in DI and those it runs with in SI. */
    piece real_handler
    .code16
    mov %sp, %si
    mov %ss:4(%si), %di
    pushf
    pop %si
    iret
    end real_handler

/* Counts in CX and returns to DI. */
    piece real_skip
    .code16
    inc %cx
    mov %sp, %si
    mov %di, %ss:(%si)
    iret
    end real_skip

/* A word over the limit, and a byte beyond it. */
    piece real_limit
    to_real
    mov $0xffff, %bx
    mov $1f - 0b, %di
    mov (%bx), %ax
1:  mov $0x10000, %ebx
    mov $1f - 0b, %di
    addr32 mov (%ebx), %al
1:  to_protected
    end real_limit

    piece real_faults
    to_real
    xor %cx, %cx
    xor %dx, %dx
    mov $1f - 0b, %di
    div %cx
1:  mov $0x11, %bl
    mov $1f - 0b, %di
    ud2
1:  mov $0x22, %bh
    to_protected
    end real_faults

/* DS gets a limit of 4 GiB in protected mode; the load in real mode changes selector and base only. */
    piece real_unreal
    to_real
    mov %cr0, %eax
    or $1, %al
    mov %eax, %cr0
    mov $KDATA, %dx
    mov %dx, %ds
    and $0xfe, %al
    mov %eax, %cr0
    xor %dx, %dx
    mov %dx, %ds
    mov $0x01020010, %ebx
    addr32 mov (%ebx), %ecx
    addr32 movl $0x600df00d, 4(%ebx)
    to_protected
    end real_unreal

/* 32-bit operands; a stack at 8000:0002 that wraps. */
    piece real_wide
    to_real
    mov $0x12345678, %ecx
    pushl %ecx
    popl %edx
    addr32 lea 0x10(%ecx, %ecx), %ebx
    mov $0x8000, %ax
    mov %ax, %ss
    mov $2, %sp
    push %cx
    push %dx
    mov %sp, %si
    xor %ax, %ax
    mov %ax, %ss
    mov $REAL_STACK, %sp
    to_protected
    end real_wide

/* Long mode and back; ECX: CR3. EAX: EFER in compatibility mode, EDX: what 64-bit code made, ESI: EFER after. */
    piece long_trip
    mov %ecx, %cr3
    mov %cr4, %eax
    or $0x20, %eax /* PAE */
    mov %eax, %cr4
    mov $0xc0000080, %ecx
    rdmsr
    or $0x100, %eax /* LME */
    wrmsr
    mov %cr0, %eax
    or $0x80000000, %eax
    mov %eax, %cr0 /* compatibility mode from here */
    rdmsr
    mov %eax, %edi
    mov $1, %edx
    dec %edx /* 4Ah: a prefix in 64-bit code */
    ljmp $KCODE64, $LOW + 1f - 0b
    .code64
1:  movabs $0x123456789abcdef0, %r8
    mov %r8, %rdx
    shr $32, %rdx
    lea (%rip), %rbx
    push %r8
    pop %r10
    cmp %r8, %r10
    sete %dl
    ljmp *2f(%rip)
2:  .long LOW + 3f - 0b
    .word KCODE
    .code32
3:  mov %cr0, %eax
    and $0x7fffffff, %eax
    mov %eax, %cr0
    push %edx
    rdmsr
    mov %eax, %esi
    and $~0x100, %eax
    wrmsr
    pop %edx
    mov %edi, %eax
    int $0x80
    end long_trip
