/*
 * desc.h: descriptors: the GDT, the IDT and the TSS the kit starts with, and
 * how tests change them.
 */
#ifndef KIT_DESC_H
#define KIT_DESC_H

#include "kit/kit.h"

/* The order serves SYSCALL/SYSRET and SYSENTER/SYSEXIT. */
enum {
    KCODE = 0x08, /* 64-bit in long, 32-bit in prot */
    KDATA = 0x10,
    UCODE32 = 0x1b, /* selectors of ring 3 carry their RPL */
    UDATA = 0x23,
    UCODE64 = 0x2b,
    UDATA2 = 0x33,
    TSS_SEL = 0x38, /* 16 bytes in long */
    KCODE32 = 0x48,
    KCODE64 = 0x50,
    KCODE16 = 0x58,
    KDATA16 = 0x60,  /* limit 64 KiB, base 0 */
    FREE_SEL = 0x68, /* from here to GDT_SIZE: the tests' */
    GDT_SIZE = 0x100,
};
#define UCODE (LONG_MODE ? UCODE64 : UCODE32)

/* Access bytes. */
enum {
    ACC_P = 0x80,
    ACC_CODE = 0x9a, /* present, readable */
    ACC_DATA = 0x92, /* present, writable */
    ACC_USER = 0x60,
    ACC_DOWN = 0x04,
    ACC_CONFORMING = 0x04,
    ACC_LDT = 0x82,
    ACC_TSS16 = 0x81,
    ACC_TSS = 0x89,
    ACC_TSS_BUSY = 0x8b,
    ACC_CALL_GATE16 = 0x84,
    ACC_CALL_GATE = 0x8c,
    ACC_TASK_GATE = 0x85,
    ACC_INT_GATE16 = 0x86,
    ACC_INT_GATE = 0x8e,
    ACC_TRAP_GATE = 0x8f,
};
/* Flags, as the high nibble of descriptor byte 6. */
enum { FLAG_G = 0x80, FLAG_D = 0x40, FLAG_L = 0x20 };

struct table_register {
    uint16_t limit;
    word base;
} __attribute__((packed));

extern uint64_t gdt[GDT_SIZE / 8];

struct tss32 {
    uint32_t link, esp0, ss0, esp1, ss1, esp2, ss2, cr3, eip, eflags;
    uint32_t eax, ecx, edx, ebx, esp, ebp, esi, edi;
    uint32_t es, cs, ss, ds, fs, gs, ldt;
    uint16_t trap, iomap;
    uint8_t io[0x2000 + 1]; /* the I/O permission bitmap (SDM vol. 1, 19.5.2) */
} __attribute__((packed));

struct tss64 {
    uint32_t reserved0;
    uint64_t rsp[3], reserved1, ist[7], reserved2;
    uint16_t reserved3, iomap;
    uint8_t io[0x2000 + 1];
} __attribute__((packed));

#ifdef __x86_64__
extern struct tss64 tss;
#else
extern struct tss32 tss;
#endif

void desc_init(void); /* called before the tests */
/* limit in bytes (or in pages with FLAG_G). */
void gdt_set(unsigned selector, uint32_t base, uint32_t limit, unsigned access, unsigned flags);
/* A system descriptor: 16 bytes in long mode. */
void gdt_set_system(unsigned selector, word base, uint32_t limit, unsigned access);
/* Call and task gates. count: parameters (32-bit). */
void gdt_set_gate(unsigned selector, word target, unsigned target_selector, unsigned access, unsigned count);
void idt_set(unsigned vector, word target, unsigned selector, unsigned access, unsigned ist);
void idt_set_ist(unsigned vector, unsigned ist);
void idt_set_access(unsigned vector, unsigned access);
void load_tr(unsigned selector);
struct table_register read_gdtr(void);
struct table_register read_idtr(void);
void write_gdtr(struct table_register r);
void write_idtr(struct table_register r);

#endif
