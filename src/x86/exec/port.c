/*
 * x86/exec/port.c: IN, OUT, and who may use which port.
 */
#include "x86/bus.h"
#include "x86/exec/system.h"

#define TSS_IO_BASE 0x66 /* offset of the I/O map base, 32 and 64-bit TSS */

/* SDM vol. 1, 19.5.2: two bytes of the bitmap are always read. */
static enum x86_rc check_bitmap(struct x86_cpu *cpu, uint16_t port, unsigned size)
{
    uint16_t base, bits;
    unsigned offset;
    enum x86_rc rc;

    if (!(cpu->tr.attr & ATTR_P) || !(cpu->tr.attr & 8) || cpu->tr.limit < TSS_IO_BASE + 1)
        return x86_raise_gp(cpu, 0);
    rc = x86_system_read(cpu, x86_table_linear(cpu, cpu->tr.base + TSS_IO_BASE), &base, 2);
    if (rc)
        return rc;
    offset = base + port / 8u;
    if (offset + 1 > cpu->tr.limit)
        return x86_raise_gp(cpu, 0);
    rc = x86_system_read(cpu, x86_table_linear(cpu, cpu->tr.base + offset), &bits, 2);
    if (rc)
        return rc;
    return bits >> (port & 7) & ((1u << size) - 1) ? x86_raise_gp(cpu, 0) : X86_NEXT;
}

enum x86_rc x86_check_port(struct x86_cpu *cpu, uint16_t port, unsigned size)
{
    if (likely(cpu->cpl <= (cpu->rflags & FLAG_IOPL) >> 12 && !(cpu->rflags & FLAG_VM)))
        return X86_NEXT;
    return check_bitmap(cpu, port, size);
}

static uint16_t port_operand(const struct x86_cpu *cpu, const struct x86_insn *in)
{
    return in->shape == SHAPE_RR ? (uint16_t)cpu->gpr[RDX] : (uint8_t)in->imm;
}

EXEC(in)
{
    uint16_t port = port_operand(cpu, in);
    uint32_t data = 0;
    enum x86_rc rc = x86_check_port(cpu, port, in->opsize);

    if (rc)
        return rc;
    rc = cpu->bus->port(cpu, port, &data, in->opsize, false);
    if (rc)
        return rc;
    x86_check_io_breakpoints(cpu, port, in->opsize);
    x86_set_gpr(cpu, RAX * 8, in->opsize, data);
    return X86_NEXT;
}

EXEC(out)
{
    uint16_t port = port_operand(cpu, in);
    uint32_t data = (uint32_t)x86_get_gpr(cpu, RAX * 8, in->opsize);
    enum x86_rc rc = x86_check_port(cpu, port, in->opsize);

    if (rc)
        return rc;
    x86_check_io_breakpoints(cpu, port, in->opsize);
    return cpu->bus->port(cpu, port, &data, in->opsize, true);
}
