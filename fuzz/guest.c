/* fuzz/guest.c: see guest.h. */
#include "guest.h"

#include <string.h>

#include "x86/access.h"

#define TABLES 0x3000 /* bytes, from the GDT on */

/* clang-format off */
static const uint64_t gdt[] = {
    0,
    0x00cf9b000000ffff, 0x00cf93000000ffff, /* 08, 10: 32-bit code and data */
    0x00cffb000000ffff, 0x00cff3000000ffff, /* 18, 20: at privilege 3 */
    0x00008b0030000067, 0,                  /* 28: TSS */
    0x00af9b000000ffff, 0x00affb000000ffff, /* 38, 40: 64-bit code */
    0x00cf9f000000ffff, 0x00af9f000000ffff, /* 48, 50: conforming */
    0x00009b000000ffff, 0x000093000000ffff, /* 58, 60: 16-bit */
    0x0000890034000067, 0,                  /* 68: another TSS */
    0x0000ec0200088100, 0,                  /* 78: call gate */
    0x0000ec0000388100, 0,                  /* 88: call gate to 64-bit code */
    0x0000e50000680000,                     /* 98: task gate */
    0x0000820010000080, 0,                  /* a0: the GDT as LDT */
};
/* clang-format on */

static void put(uint8_t *ram, gpa_t at, uint64_t value, unsigned size)
{
    memcpy(ram + at, &value, size);
}

static void build_memory(uint8_t *ram, bool wide)
{
    unsigned gate = wide ? 16 : 8;

    memset(ram, 0, GUEST_RAM);
    memcpy(ram + GUEST_GDT, gdt, sizeof(gdt));
    for (unsigned v = 0; v < 256; v++)
        put(ram, GUEST_IDT + v * gate, 0x0000ee0000008000 | (uint64_t)(wide ? 0x38 : 0x08) << 16, 8);
    put(ram, GUEST_TSS + 4, GUEST_STACK, 4);
    put(ram, GUEST_TSS + 8, wide ? 0 : 0x10, 4);
    put(ram, GUEST_TSS + 0x66, 0x40, 2);
    memcpy(ram + GUEST_TSS + 0x400, ram + GUEST_TSS, 0x68);
    put(ram, GUEST_TSS + 0x400 + 0x20, GUEST_CODE, 4);
    put(ram, GUEST_TSS + 0x400 + 0x4c, 0x08, 4);
    put(ram, GUEST_TSS + 0x400 + 0x50, 0x10, 4);
    put(ram, GUEST_PAGES, (GUEST_PAGES + 0x1000) | 7, 8);
    put(ram, GUEST_PAGES + 0x1000, (GUEST_PAGES + 0x2000) | 7, 8);
    put(ram, GUEST_PAGES + 0x2000, 0x87, 8); /* one page of 2 MiB */
}

static struct x86_segment segment(unsigned selector)
{
    uint64_t raw = gdt[selector / 8];

    return (struct x86_segment){
        .limit = raw & BIT(55) ? 0xffffffff : 0xffff, .selector = (uint16_t)selector, .attr = raw >> 40 & 0xf0ff};
}

/* Real, 16-bit, 32-bit, virtual-8086, compatibility, 64-bit mode. */
static void enter_mode(struct x86_cpu *cpu, uint8_t *ram, const struct guest_header *h)
{
    unsigned mode = h->mode % 6, cpl = mode == 0 ? 0 : mode == 3 || h->cpl & 1 ? 3 : 0;
    bool wide = mode >= 4;

    build_memory(ram, wide);
    cpu->rip = GUEST_CODE;
    cpu->cr0 = CR0_ET;
    for (unsigned s = 0; s < 6; s++) {
        cpu->seg[s].base = 0;
        cpu->seg[s].selector = 0;
    }
    if (mode) {
        unsigned cs = mode == 5 ? (cpl ? 0x43 : 0x38) : mode == 1 ? 0x58 : cpl ? 0x1b : 0x08;

        cpu->cr0 |= CR0_PE;
        for (unsigned s = 0; s < 6; s++)
            cpu->seg[s] = segment(mode == 1 ? 0x60 : cpl ? 0x23 : 0x10);
        cpu->seg[SEG_CS] = segment(cs);
    }
    if (mode == 3) {
        cpu->rflags |= FLAG_VM;
        for (unsigned s = 0; s < 6; s++)
            cpu->seg[s] = (struct x86_segment){.limit = 0xffff, .attr = ATTR_P | ATTR_S | ATTR_DPL | ATTR_WRITABLE};
    }
    if (wide || (h->flags & GUEST_PAGING)) {
        cpu->cr4 = CR4_PAE;
        cpu->cr3 = GUEST_PAGES;
        cpu->pdpte[0] = (GUEST_PAGES + 0x2000) | 1;
        cpu->cr0 |= mode ? CR0_PG : 0;
        cpu->msr.efer = wide ? EFER_LME | EFER_LMA | EFER_SCE | EFER_NXE : 0;
    }
    cpu->cr4 |= CR4_OSFXSR | CR4_OSXSAVE;
    cpu->xcr0 = XCR0_X87 | XCR0_SSE | (x86_feature(FEATURE_AVX) ? XCR0_AVX : 0);
    cpu->gdtr = (struct x86_table){GUEST_GDT, sizeof(gdt) - 1};
    cpu->idtr = mode ? (struct x86_table){GUEST_IDT, 0xfff} : (struct x86_table){0, 0x3ff};
    cpu->tr = (struct x86_segment){GUEST_TSS, 0x67, 0x28, ATTR_P | 11};
    cpu->ldtr = (struct x86_segment){GUEST_GDT, sizeof(gdt) - 1, 0xa0, ATTR_P | 2};
    cpu->rflags |= h->rflags & (FLAGS_STATUS | FLAG_DF | FLAG_IOPL | FLAG_NT | FLAG_IF);
    memcpy(cpu->gpr, h->gpr, sizeof(cpu->gpr));
    if (h->flags & GUEST_OWN_STACK)
        cpu->gpr[RSP] = GUEST_STACK;
}

bool guest_build(struct x86_cpu *cpu, uint8_t *ram, const uint8_t **data, size_t *size)
{
    struct guest_header h;

    if (*size < sizeof(h))
        return false;
    memcpy(&h, *data, sizeof(h));
    *data += sizeof(h);
    *size -= sizeof(h);
    enter_mode(cpu, ram, &h);
    for (unsigned i = 0; i < h.tables % 8 && *size >= sizeof(struct guest_patch); i++) {
        struct guest_patch patch;

        memcpy(&patch, *data, sizeof(patch));
        memcpy(ram + GUEST_GDT + patch.at % (TABLES - sizeof(patch)), patch.bytes, sizeof(patch.bytes));
        *data += sizeof(patch);
        *size -= sizeof(patch);
    }
    return true;
}
