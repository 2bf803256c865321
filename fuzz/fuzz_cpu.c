/*
 * fuzz/fuzz_cpu.c: any bytes as code and system tables. The first bytes choose
 * mode, privilege and registers; then come changes to the descriptor tables and
 * TSSs, which start out sound, and then instructions. Everything decoded is
 * executed and every fault delivered, on a quarter megabyte of RAM of its own.
 */
#include <stdlib.h>
#include <string.h>

#include "guest.h"
#include "x86/access.h"
#include "x86/bus.h"
#include "x86/io.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define STEPS 64 /* instructions at the most */

static struct x86_cpu cpu;
static struct x86_tlb tlb;
static uint8_t *ram;

static uint8_t *page(struct x86_cpu *c, gpa_t gpa, unsigned *flags)
{
    *flags = 0;
    return gpa < GUEST_RAM ? ram + gpa : NULL;
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
    struct x86_insn in;
    unsigned length;

    if (!ram) {
        ram = malloc(GUEST_RAM);
        cpu.tlb = &tlb;
        cpu.bus = &bus;
        if (!ram)
            return 0;
    }
    x86_cpu_reset(&cpu);
    if (!guest_build(&cpu, ram, &data, &size))
        return 0;
    x86_update_mode(&cpu);
    x86_tlb_init(&cpu);
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
