/*
 * fuzz/fuzz_cpu.c: any bytes as code and system tables. The first bytes choose
 * mode, privilege and registers; then come changes to the descriptor tables and
 * TSSs, which start out sound, and then instructions. Everything decoded is
 * executed and every fault delivered, on a quarter megabyte of RAM of its own.
 */
#include <stdlib.h>
#include <string.h>

#include "x86/access.h"
#include "x86/bus.h"
#include "x86/io.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define RAM_SIZE  KIB(256)
#define GDT_AT    0x1000
#define IDT_AT    0x2000
#define TSS_AT    0x3000 /* and the second one 0x400 further */
#define TABLES_AT 0x1000
#define TABLES    0x3000
#define CODE_AT   0x8000
#define STACK_AT  0x10000
#define PAGES_AT  0x20000
#define STEPS     64 /* instructions at the most */

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

struct header {
    uint8_t mode, cpl, flags, tables;
    uint64_t gpr[16];
    uint16_t rflags;
};

struct patch { /* of the tables */
    uint16_t at;
    uint8_t bytes[6];
};

static struct x86_cpu cpu;
static struct x86_tlb tlb;
static uint8_t *ram;

static uint8_t *page(struct x86_cpu *c, gpa_t gpa, unsigned *flags)
{
    *flags = 0;
    return gpa < RAM_SIZE ? ram + gpa : NULL;
}

static void written(struct x86_cpu *c, gpa_t gpa, unsigned len)
{
}

static enum x86_rc mmio(struct x86_cpu *c, gpa_t gpa, uint64_t *data, unsigned size, bool write)
{
    return x86_io(c, X86_IO_MMIO, gpa, data, size, write);
}

static enum x86_rc port(struct x86_cpu *c, uint16_t number, uint32_t *data, unsigned size, bool write)
{
    uint64_t value = *data;
    enum x86_rc rc = x86_io(c, X86_IO_PORT, number, &value, size, write);

    *data = (uint32_t)value;
    return rc;
}

static uint64_t clock_value(struct x86_cpu *c)
{
    return 12345;
}

static void send_ipi(struct x86_cpu *c, const struct x86_apic_message *message)
{
}

static void eoi(struct x86_cpu *c, uint8_t vector)
{
}

static unsigned cpu_count(struct x86_cpu *c)
{
    return 1;
}

static const struct x86_bus_ops bus = {
    .page = page,
    .written = written,
    .mmio = mmio,
    .port = port,
    .tsc = clock_value,
    .tsc_hz = clock_value,
    .ns = clock_value,
    .wall_ns = clock_value,
    .send_ipi = send_ipi,
    .eoi = eoi,
    .cpu_count = cpu_count,
};

static void put(gpa_t at, uint64_t value, unsigned size)
{
    memcpy(ram + at, &value, size);
}

static void build_memory(bool wide)
{
    unsigned gate = wide ? 16 : 8;

    memset(ram, 0, RAM_SIZE);
    memcpy(ram + GDT_AT, gdt, sizeof(gdt));
    for (unsigned v = 0; v < 256; v++)
        put(IDT_AT + v * gate, 0x0000ee0000008000 | (uint64_t)(wide ? 0x38 : 0x08) << 16, 8);
    put(TSS_AT + 4, STACK_AT, 4);
    put(TSS_AT + 8, wide ? 0 : 0x10, 4);
    put(TSS_AT + 0x66, 0x40, 2);
    memcpy(ram + TSS_AT + 0x400, ram + TSS_AT, 0x68);
    put(TSS_AT + 0x400 + 0x20, CODE_AT, 4);
    put(TSS_AT + 0x400 + 0x4c, 0x08, 4);
    put(TSS_AT + 0x400 + 0x50, 0x10, 4);
    put(PAGES_AT, (PAGES_AT + 0x1000) | 7, 8);
    put(PAGES_AT + 0x1000, (PAGES_AT + 0x2000) | 7, 8);
    put(PAGES_AT + 0x2000, 0x87, 8); /* one page of 2 MiB */
}

static struct x86_segment segment(unsigned selector)
{
    uint64_t raw = gdt[selector / 8];

    return (struct x86_segment){
        .limit = raw & BIT(55) ? 0xffffffff : 0xffff, .selector = (uint16_t)selector, .attr = raw >> 40 & 0xf0ff};
}

/* Real, 16-bit, 32-bit, virtual-8086, compatibility, 64-bit mode. */
static void enter_mode(const struct header *h)
{
    unsigned mode = h->mode % 6, cpl = mode == 0 ? 0 : mode == 3 || h->cpl & 1 ? 3 : 0;
    bool wide = mode >= 4;

    x86_cpu_reset(&cpu);
    build_memory(wide);
    cpu.rip = CODE_AT;
    cpu.cr0 = CR0_ET;
    for (unsigned s = 0; s < 6; s++) {
        cpu.seg[s].base = 0;
        cpu.seg[s].selector = 0;
    }
    if (mode) {
        unsigned cs = mode == 5 ? (cpl ? 0x43 : 0x38) : mode == 1 ? 0x58 : cpl ? 0x1b : 0x08;

        cpu.cr0 |= CR0_PE;
        for (unsigned s = 0; s < 6; s++)
            cpu.seg[s] = segment(mode == 1 ? 0x60 : cpl ? 0x23 : 0x10);
        cpu.seg[SEG_CS] = segment(cs);
    }
    if (mode == 3) {
        cpu.rflags |= FLAG_VM;
        for (unsigned s = 0; s < 6; s++)
            cpu.seg[s] = (struct x86_segment){.limit = 0xffff, .attr = ATTR_P | ATTR_S | ATTR_DPL | ATTR_WRITABLE};
    }
    if (wide || (h->flags & 1)) {
        cpu.cr4 = CR4_PAE;
        cpu.cr3 = PAGES_AT;
        cpu.pdpte[0] = (PAGES_AT + 0x2000) | 1;
        cpu.cr0 |= mode ? CR0_PG : 0;
        cpu.msr.efer = wide ? EFER_LME | EFER_LMA | EFER_SCE | EFER_NXE : 0;
    }
    cpu.cr4 |= CR4_OSFXSR | CR4_OSXSAVE;
    cpu.xcr0 = XCR0_X87 | XCR0_SSE | (x86_feature(FEATURE_AVX) ? XCR0_AVX : 0);
    cpu.gdtr = (struct x86_table){GDT_AT, sizeof(gdt) - 1};
    cpu.idtr = mode ? (struct x86_table){IDT_AT, 0xfff} : (struct x86_table){0, 0x3ff};
    cpu.tr = (struct x86_segment){TSS_AT, 0x67, 0x28, ATTR_P | 11};
    cpu.ldtr = (struct x86_segment){GDT_AT, sizeof(gdt) - 1, 0xa0, ATTR_P | 2};
    cpu.rflags |= h->rflags & (FLAGS_STATUS | FLAG_DF | FLAG_IOPL | FLAG_NT | FLAG_IF);
    memcpy(cpu.gpr, h->gpr, sizeof(cpu.gpr));
    if (h->flags & 2)
        cpu.gpr[RSP] = STACK_AT;
    x86_update_mode(&cpu);
    x86_tlb_init(&cpu);
}

/* What must hold after every instruction. */
static void check(void)
{
    struct x86_cpu before = cpu;

    x86_update_mode(&cpu);
    if (cpu.mode != before.mode || cpu.cpl != before.cpl || cpu.stack_size != before.stack_size ||
        cpu.seg_flat != before.seg_flat || memcmp(cpu.seg_base, before.seg_base, sizeof(cpu.seg_base)) ||
        cpu.lin_mask != before.lin_mask)
        abort(); /* somebody forgot x86_update_mode() */
    if ((cpu.rflags & (FLAG_FIXED | BIT(3) | BIT(5) | BIT(15))) != FLAG_FIXED || cpu.rflags >> 22)
        abort();
    if (cpu.zero || (cpu.cpl && !(cpu.cr0 & CR0_PE)))
        abort();
}

static void execute(const struct x86_insn *in)
{
    enum x86_rc rc;

    x86_io_forget(&cpu);
    for (unsigned tries = 0; tries < 4 * X86_IO_LOG; tries++) {
        x86_io_restart(&cpu);
        rc = in->exec(&cpu, in);
        if (rc != X86_EXIT)
            break;
        x86_io_complete(&cpu, 0x5a5a5a5a5a5a5a5a);
    }
    if (rc == X86_EXIT)
        abort(); /* it never has enough */
    if (rc == X86_NEXT)
        cpu.rip += in->length;
    x86_io_forget(&cpu);
    if (rc == X86_FAULT)
        x86_deliver_exception(&cpu);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct header h;
    struct patch patch;
    struct x86_insn in;
    unsigned length;

    if (size < sizeof(h))
        return 0;
    if (!ram) {
        ram = malloc(RAM_SIZE);
        cpu.tlb = &tlb;
        cpu.bus = &bus;
        if (!ram)
            return 0;
    }
    memcpy(&h, data, sizeof(h));
    data += sizeof(h);
    size -= sizeof(h);
    enter_mode(&h);
    for (unsigned i = 0; i < h.tables % 8 && size >= sizeof(patch); i++) {
        memcpy(&patch, data, sizeof(patch));
        memcpy(ram + TABLES_AT + patch.at % (TABLES - sizeof(patch)), patch.bytes, sizeof(patch.bytes));
        data += sizeof(patch);
        size -= sizeof(patch);
    }
    for (unsigned step = 0; step < STEPS && size && !cpu.shutdown; step++) {
        length = x86_decode(&in, cpu.mode, data, (unsigned)MIN(size, 15u));
        if (length > MIN(size, 15u) || (!length && size >= 15))
            abort();
        if (!length)
            break;
        execute(&in);
        check();
        if (data[0] == 0xf4 && !cpu.shutdown)
            x86_deliver_interrupt(&cpu, (uint8_t)(0x20 + step));
        data += length;
        size -= length;
    }
    return 0;
}
