/* tests/unit/guest.c: the fixture of the system-mode tests. */
#include "guest.h"

#include <stdlib.h>
#include <string.h>

static uint8_t *page(struct x86_cpu *cpu, gpa_t gpa, unsigned *flags)
{
    struct guest *g = cpu->bus_ctx;

    *flags = 0;
    return gpa < RAM_SIZE ? g->ram + gpa : NULL;
}

static void written(struct x86_cpu *cpu, gpa_t gpa, unsigned len)
{
}

static enum x86_rc mmio(struct x86_cpu *cpu, gpa_t gpa, uint64_t *data, unsigned size, bool write)
{
    cpu->io = (struct x86_io){.kind = X86_IO_MMIO, .write = write, .size = (uint8_t)size, .addr = gpa, .data = *data};
    return X86_EXIT;
}

static enum x86_rc port(struct x86_cpu *cpu, uint16_t number, uint32_t *data, unsigned size, bool write)
{
    struct guest *g = cpu->bus_ctx;

    g->port = number;
    g->port_size = size;
    g->port_count++;
    if (write)
        g->port_data = *data;
    else
        *data = 0x87654321;
    return X86_NEXT;
}

static uint64_t zero(struct x86_cpu *cpu)
{
    return 0;
}

static uint64_t giga(struct x86_cpu *cpu)
{
    return 1000000000;
}

static unsigned one(struct x86_cpu *cpu)
{
    return 1;
}

static const struct x86_bus_ops bus = {
    .page = page,
    .written = written,
    .mmio = mmio,
    .port = port,
    .tsc = zero,
    .tsc_hz = giga,
    .ns = zero,
    .cpu_count = one,
};

int guest_setup(void **state)
{
    struct guest *g = aligned_alloc(64, ALIGN_UP(sizeof(*g), 64));

    memset(g, 0, sizeof(*g));
    g->cpu.bus = &bus;
    g->cpu.bus_ctx = g;
    g->cpu.tlb = &g->tlb;
    x86_cpu_reset(&g->cpu);
    x86_tlb_init(&g->cpu);
    *state = g;
    return 0;
}

int guest_teardown(void **state)
{
    free(*state);
    return 0;
}

uint64_t peek(const struct guest *g, gpa_t gpa, unsigned size)
{
    uint64_t value = 0;

    assert_true(gpa + size <= RAM_SIZE);
    memcpy(&value, g->ram + gpa, size);
    return value;
}

void poke(struct guest *g, gpa_t gpa, uint64_t value, unsigned size)
{
    assert_true(gpa + size <= RAM_SIZE);
    memcpy(g->ram + gpa, &value, size);
}

uint64_t descriptor(uint32_t base, uint32_t limit, unsigned attr)
{
    if (limit > 0xfffff) {
        limit >>= 12;
        attr |= ATTR_G;
    }
    return (limit & 0xffff) | (uint64_t)(limit >> 16 & 0xf) << 48 | (uint64_t)(base & 0xffffff) << 16 |
           (uint64_t)(base >> 24) << 56 | (uint64_t)(attr & 0xf0ff) << 40;
}

uint64_t gate(uint16_t selector, uint32_t offset, unsigned attr)
{
    return (offset & 0xffff) | (uint64_t)selector << 16 | (uint64_t)(attr & 0xffff) << 40 |
           (uint64_t)(offset >> 16) << 48;
}

void set_gdt(struct guest *g, uint16_t selector, uint64_t raw)
{
    poke(g, GDT_AT + (selector & ~7u), raw, 8);
}

void set_gate(struct guest *g, uint8_t vector, uint16_t selector, unsigned attr, unsigned ist)
{
    unsigned size = x86_long_mode(&g->cpu) ? 16 : 8;
    gpa_t at = g->cpu.idtr.base + vector * size;

    poke(g, at, gate(selector, HANDLER + 16 * vector, attr) | (uint64_t)ist << 32, 8);
    if (size == 16)
        poke(g, at + 8, 0, 8);
}

static unsigned dpl(unsigned level)
{
    return level << ATTR_DPL_SHIFT;
}

static void build_gdt(struct guest *g, bool wide)
{
    const unsigned code = ATTR_P | ATTR_S | ATTR_CODE | ATTR_READABLE | ATTR_DB;
    const unsigned code64 = ATTR_P | ATTR_S | ATTR_CODE | ATTR_READABLE | ATTR_L;
    const unsigned data = ATTR_P | ATTR_S | ATTR_WRITABLE | ATTR_DB;

    set_gdt(g, CODE0, descriptor(0, 0xffffffff, code));
    set_gdt(g, DATA0, descriptor(0, 0xffffffff, data));
    set_gdt(g, CODE3, descriptor(0, 0xffffffff, code | dpl(3)));
    set_gdt(g, DATA3, descriptor(0, 0xffffffff, data | dpl(3)));
    set_gdt(g, TSS, descriptor(TSS_AT, 0x87, ATTR_P | SYS_TSS));
    set_gdt(g, CODE64, descriptor(0, 0xffffffff, code64));
    set_gdt(g, USER64, descriptor(0, 0xffffffff, code64 | dpl(3)));
    set_gdt(g, CONFORMING, descriptor(0, 0xffffffff, (wide ? code64 : code) | ATTR_CONFORMING));
    set_gdt(g, CODE16, descriptor(0, 0xffff, (code & ~ATTR_DB)));
    set_gdt(g, DATA16, descriptor(0, 0xffff, (data & ~ATTR_DB)));
    set_gdt(g, TSS2, descriptor(TSS2_AT, 0x67, ATTR_P | SYS_TSS | dpl(3)));
    set_gdt(g, LDT, descriptor(LDT_AT, 0x1f, ATTR_P | SYS_LDT));
    set_gdt(g, CODE1, descriptor(0, 0xffffffff, code | dpl(1)));
    set_gdt(g, DATA1, descriptor(0, 0xffffffff, data | dpl(1)));
    set_gdt(g, ABSENT, descriptor(0, 0xffffffff, data & ~ATTR_P));
    set_gdt(g, READONLY, descriptor(0, 0xffffffff, data & ~ATTR_WRITABLE));
    set_gdt(g, EXECONLY, descriptor(0, 0xffffffff, code & ~ATTR_READABLE));
    g->cpu.gdtr = (struct x86_table){GDT_AT, GDT_END - 1};
}

static void load(struct guest *g, unsigned seg, uint16_t selector)
{
    g->cpu.seg[seg] = x86_unpack_descriptor(peek(g, GDT_AT + (selector & ~7u), 8), selector);
    g->cpu.seg[seg].attr |= ATTR_ACCESSED;
}

static void start(struct guest *g, uint16_t cs, uint16_t ss, gva_t sp)
{
    load(g, SEG_CS, cs);
    load(g, SEG_SS, ss);
    load(g, SEG_DS, DATA3);
    load(g, SEG_ES, DATA3);
    g->cpu.seg[SEG_FS] = g->cpu.seg[SEG_GS] = (struct x86_segment){0};
    g->cpu.tr = (struct x86_segment){TSS_AT, 0x87, TSS, ATTR_P | SYS_TSS_BUSY};
    poke(g, GDT_AT + TSS + 5, ATTR_P | SYS_TSS_BUSY, 1);
    poke(g, TSS_AT + 0x66, 0x68, 2); /* I/O permission bitmap: none */
    memset(g->ram + TSS_AT + 0x68, 0xff, 0x20);
    g->cpu.ldtr = (struct x86_segment){0};
    g->cpu.rip = CODE_AT;
    g->cpu.gpr[RSP] = sp;
    g->cpu.rflags = FLAG_FIXED | FLAG_IF;
    x86_update_mode(&g->cpu);
}

void guest_real(struct guest *g)
{
    g->cpu.seg[SEG_CS].base = 0;
    g->cpu.seg[SEG_CS].selector = 0;
    g->cpu.idtr = (struct x86_table){0, 0x3ff};
    g->cpu.rip = CODE_AT;
    g->cpu.gpr[RSP] = 0x7000;
    g->cpu.rflags = FLAG_FIXED | FLAG_IF;
    x86_update_mode(&g->cpu);
}

void guest_protected(struct guest *g, unsigned cpl)
{
    build_gdt(g, false);
    g->cpu.cr0 |= CR0_PE;
    g->cpu.idtr = (struct x86_table){IDT_AT, 0x7ff};
    poke(g, TSS_AT + 4, STACK0, 4);
    poke(g, TSS_AT + 8, DATA0, 2);
    poke(g, TSS_AT + 12, STACK1, 4);
    poke(g, TSS_AT + 16, DATA1, 2);
    start(g, cpl ? CODE3 : CODE0, cpl ? DATA3 : DATA0, cpl ? STACK3 : STACK0);
}

void guest_long(struct guest *g, unsigned cpl)
{
    build_gdt(g, true);
    poke(g, PAGES_AT, (PAGES_AT + 0x1000) | 7, 8);
    poke(g, PAGES_AT + 0x1000, (PAGES_AT + 0x2000) | 7, 8);
    poke(g, PAGES_AT + 0x2000, (PAGES_AT + 0x3000) | 7, 8);
    for (unsigned i = 0; i < RAM_SIZE >> PAGE_SHIFT; i++)
        poke(g, PAGES_AT + 0x3000 + i * 8, i << PAGE_SHIFT | 7, 8);
    g->cpu.cr4 = CR4_PAE;
    g->cpu.cr3 = PAGES_AT;
    g->cpu.cr0 |= CR0_PE | CR0_PG;
    g->cpu.msr.efer = EFER_LME | EFER_LMA | EFER_SCE;
    g->cpu.idtr = (struct x86_table){IDT_AT, 0xfff};
    poke(g, TSS_AT + 4, STACK0, 8);
    poke(g, TSS_AT + 0x24, IST_STACK, 8);
    x86_tlb_flush(&g->cpu);
    start(g, cpl ? USER64 : CODE64, cpl ? DATA3 : DATA0, cpl ? STACK3 : STACK0);
}

enum x86_rc exec_bytes(struct guest *g, const uint8_t *bytes, unsigned size)
{
    struct x86_cpu *cpu = &g->cpu;
    struct x86_insn in;
    unsigned length = x86_decode(&in, cpu->mode, bytes, size);
    enum x86_rc rc;

    assert_true(length == size || x86_insn_undefined(&in));
    rc = in.exec(cpu, &in);
    if (rc == X86_NEXT)
        cpu->rip += in.length;
    return rc;
}

void expect_fault(struct guest *g, enum x86_rc rc, uint8_t vector, uint32_t error)
{
    assert_int_equal(rc, X86_FAULT);
    assert_int_equal(g->cpu.exc.vector, vector);
    assert_int_equal(g->cpu.exc.error, error);
}
