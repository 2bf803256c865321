/* stress_layout.h: guest-physical addresses, for C and assembler; all of it is mapped at STRESS_KERNEL + address. */
#ifndef TESTS_STRESS_LAYOUT_H
#define TESTS_STRESS_LAYOUT_H

#define STRESS_RAM    0x200000
#define STRESS_KERNEL 0xffffffff80000000

#define G_TABLES   0x1000 /* page tables, grown as they are needed */
#define G_PROGRAM  0x40000
#define G_STUBS    0x42000
#define G_IDT      0x44000
#define G_GDT      0x45000
#define G_TSS      0x46000
#define G_STACK    0x4a000 /* tops */
#define G_NMI      0x4c000
#define G_KERNEL   0x4c000 /* the kernel's data: K_* */
#define G_LOG      0x50000
#define G_CONTEXTS 0x70000
#define G_PRISTINE 0x90000
#define G_FPU      0xa0000
#define G_CHANGES  0xa4000
#define G_CODE     0xb0000
#define G_DATA     0xc0000
#define G_USTACK   0xd0000
#define G_OTHER    0xe0000 /* pages to map instead */

/* struct stress_kernel */
#define K_HASH   0x00
#define K_COUNT  0x08
#define K_LIMIT  0x10
#define K_RANDOM 0x18
#define K_RSP    0x20
#define K_CALLS  0x28
#define K_FLUSH  0x30 /* page changes need a flush of all PCIDs */

#define LOG_ENTRIES 4096 /* of 32 bytes: vector, RIP, hash, CR2 */

/* A context: what the kernel starts next. */
#define C_GPR    0x00 /* in the order of PUSH, from RAX down; see kernel.S */
#define C_RIP    0x78
#define C_CS     0x80
#define C_FLAGS  0x88
#define C_RSP    0x90
#define C_SS     0x98
#define C_DS     0xa0
#define C_ES     0xa8
#define C_FS     0xb0
#define C_GS     0xb8
#define C_FSBASE 0xc0
#define C_GSBASE 0xc8
#define C_CR3    0xd0
#define C_SIZE   0x100

#define STRESS_PORT   0xf4
#define VECTOR_FUEL   0x82
#define VECTOR_INT    0x30 /* injected from outside */
#define FUEL          200
#define PCID_NO_FLUSH (1ull << 63)

#endif
