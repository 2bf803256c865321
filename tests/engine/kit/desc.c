/* desc.c: the kit's GDT, IDT and TSS. */
#include "kit/desc.h"

uint64_t gdt[GDT_SIZE / 8] __attribute__((aligned(16)));
/* A gate is two words of 64 bits in long mode, one in protected mode. */
static uint64_t idt[256 * (1 + LONG_MODE)] __attribute__((aligned(16)));
extern const char trap_stubs[], trap_stub_size[];
extern char trap_stack_top[];

#ifdef __x86_64__
struct tss64 tss __attribute__((aligned(16)));
#else
struct tss32 tss __attribute__((aligned(16)));
#endif

void gdt_set(unsigned selector, uint32_t base, uint32_t limit, unsigned access, unsigned flags)
{
    gdt[selector >> 3] = (limit & 0xffff) | (uint64_t)(base & 0xffffff) << 16 | (uint64_t)access << 40 |
                         (uint64_t)(limit >> 16 & 15) << 48 | (uint64_t)flags << 48 | (uint64_t)(base >> 24) << 56;
}

void gdt_set_system(unsigned selector, word base, uint32_t limit, unsigned access)
{
    gdt_set(selector, (uint32_t)base, limit, access, 0);
    if (LONG_MODE)
        gdt[(selector >> 3) + 1] = (uint64_t)base >> 32;
}

void gdt_set_gate(unsigned selector, word target, unsigned target_selector, unsigned access, unsigned count)
{
    gdt[selector >> 3] = (target & 0xffff) | (uint64_t)target_selector << 16 | (uint64_t)count << 32 |
                         (uint64_t)access << 40 | (uint64_t)(target >> 16 & 0xffff) << 48;
    if (LONG_MODE)
        gdt[(selector >> 3) + 1] = (uint64_t)target >> 32;
}

void idt_set(unsigned vector, word target, unsigned selector, unsigned access, unsigned ist)
{
    uint64_t *gate = &idt[vector * (1 + LONG_MODE)];

    gate[0] = (target & 0xffff) | (uint64_t)selector << 16 | (uint64_t)ist << 32 | (uint64_t)access << 40 |
              (uint64_t)(target >> 16 & 0xffff) << 48;
    if (LONG_MODE)
        gate[1] = (uint64_t)target >> 32;
}

void idt_set_ist(unsigned vector, unsigned ist)
{
    uint64_t *gate = &idt[vector * (1 + LONG_MODE)];

    *gate = (*gate & ~(7ull << 32)) | (uint64_t)ist << 32;
}

void idt_set_access(unsigned vector, unsigned access)
{
    uint64_t *gate = &idt[vector * (1 + LONG_MODE)];

    *gate = (*gate & ~(0xffull << 40)) | (uint64_t)access << 40;
}

void load_tr(unsigned selector)
{
    asm volatile("ltr %w0" : : "r"(selector) : "memory");
}

struct table_register read_gdtr(void)
{
    struct table_register r;

    asm volatile("sgdt %0" : "=m"(r));
    return r;
}

struct table_register read_idtr(void)
{
    struct table_register r;

    asm volatile("sidt %0" : "=m"(r));
    return r;
}

void write_gdtr(struct table_register r)
{
    asm volatile("lgdt %0" : : "m"(r) : "memory");
}

void write_idtr(struct table_register r)
{
    asm volatile("lidt %0" : : "m"(r) : "memory");
}

static void load_segments(void)
{
    asm volatile("push" W " %0\n push" W " $1f\n lret" W "\n1:" : : "i"(KCODE) : "memory");
    asm volatile("mov %0, %%ds\n mov %0, %%es\n mov %0, %%ss\n mov %1, %%fs\n mov %1, %%gs"
                 :
                 : "r"(KDATA), "r"(0)
                 : "memory");
}

void desc_init(void)
{
    unsigned kernel = LONG_MODE ? FLAG_G | FLAG_L : FLAG_G | FLAG_D;

    gdt_set(KCODE, 0, 0xfffff, ACC_CODE, kernel);
    gdt_set(KDATA, 0, 0xfffff, ACC_DATA, FLAG_G | FLAG_D);
    gdt_set(UCODE32, 0, 0xfffff, ACC_CODE | ACC_USER, FLAG_G | FLAG_D);
    gdt_set(UDATA, 0, 0xfffff, ACC_DATA | ACC_USER, FLAG_G | FLAG_D);
    gdt_set(UCODE64, 0, 0xfffff, ACC_CODE | ACC_USER, FLAG_G | FLAG_L);
    gdt_set(UDATA2, 0, 0xfffff, ACC_DATA | ACC_USER, FLAG_G | FLAG_D);
    gdt_set(KCODE32, 0, 0xfffff, ACC_CODE, FLAG_G | FLAG_D);
    gdt_set(KCODE64, 0, 0xfffff, ACC_CODE, FLAG_G | FLAG_L);
    gdt_set(KCODE16, 0, 0xffff, ACC_CODE, 0);
    gdt_set(KDATA16, 0, 0xffff, ACC_DATA, 0);
    write_gdtr((struct table_register){GDT_SIZE - 1, (word)gdt});
    load_segments();

#ifdef __x86_64__
    tss.rsp[0] = (word)trap_stack_top;
#else
    tss.esp0 = (word)trap_stack_top;
    tss.ss0 = KDATA;
#endif
    tss.iomap = sizeof tss;
    gdt_set_system(TSS_SEL, (word)&tss, sizeof tss - 1, ACC_TSS);
    load_tr(TSS_SEL);
    asm volatile("lldt %w0" : : "r"(0)); /* at reset it is null but usable */

    for (unsigned v = 0; v < 256; v++)
        idt_set(v, (word)trap_stubs + v * (word)trap_stub_size, KCODE,
                v == BP || v == OF || v == 0x80 ? ACC_INT_GATE | ACC_USER : ACC_INT_GATE, 0);
    write_idtr((struct table_register){sizeof idt - 1, (word)idt});
}
