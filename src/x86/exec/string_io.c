/*
 * x86/exec/string_io.c: INS and OUTS. Each iteration is one transaction with the
 * device (x86/io.h): all faults come before the port is touched.
 */
#include "x86/access.h"
#include "x86/bus.h"
#include "x86/exec/string_ops.h"
#include "x86/exec/system.h"

/* Would a write of size bytes at seg:offset fault? Asked before a port is read, as what was read would be lost. */
static enum x86_rc probe_write(struct x86_cpu *cpu, unsigned seg, uint64_t offset, unsigned size)
{
    gva_t lin;
    gpa_t gpa;
    enum x86_rc rc = x86_linear(cpu, seg, offset, size, ACCESS_WRITE, &lin);

    if (rc || x86_tlb_write(cpu, lin, size))
        return rc;
    rc = x86_translate(cpu, lin, ACCESS_WRITE, &gpa);
    if (!rc && (lin & ~PAGE_MASK) + size > PAGE_SIZE)
        rc = x86_translate(cpu, (lin + size - 1) & cpu->lin_mask, ACCESS_WRITE, &gpa);
    return rc;
}

static enum x86_rc ins(struct x86_cpu *cpu, const struct x86_insn *in)
{
    uint64_t offset = string_offset(in, cpu->gpr[RDI]);
    uint32_t data = 0;
    enum x86_rc rc = probe_write(cpu, SEG_ES, offset, in->opsize);

    if (!rc)
        rc = cpu->bus->port(cpu, X86_GPR16(cpu, RDX * 8), &data, in->opsize, false);
    if (!rc)
        rc = x86_write(cpu, SEG_ES, offset, &data, in->opsize);
    return rc;
}

static enum x86_rc outs(struct x86_cpu *cpu, const struct x86_insn *in)
{
    uint32_t data = 0;
    enum x86_rc rc = x86_read(cpu, in->seg, string_offset(in, cpu->gpr[RSI]), &data, in->opsize);

    return rc ? rc : cpu->bus->port(cpu, X86_GPR16(cpu, RDX * 8), &data, in->opsize, true);
}

static enum x86_rc string_io(struct x86_cpu *cpu, const struct x86_insn *in)
{
    bool repeated = in->flags & (INSN_REP | INSN_REPNE);
    uint64_t count = repeated ? string_offset(in, cpu->gpr[RCX]) : 1;
    uint64_t step = cpu->rflags & FLAG_DF ? -(uint64_t)in->opsize : in->opsize;
    unsigned pointer = in->arg == STRING_INS ? RDI : RSI;
    enum x86_rc rc;

    rc = x86_check_port(cpu, X86_GPR16(cpu, RDX * 8), in->opsize); /* even with a count of 0 */
    if (!rc && !count)
        return X86_NEXT;
    if (!rc)
        rc = in->arg == STRING_INS ? ins(cpu, in) : outs(cpu, in);
    if (rc)
        return rc;
    x86_check_io_breakpoints(cpu, X86_GPR16(cpu, RDX * 8), in->opsize);
    x86_set_gpr(cpu, pointer * 8, in->addrsize, cpu->gpr[pointer] + step);
    if (!repeated)
        return X86_NEXT;
    x86_set_gpr(cpu, RCX * 8, in->addrsize, count - 1);
    return count == 1 ? X86_NEXT : X86_AGAIN;
}

x86_exec_fn *x86_select_string_io(struct x86_insn *in, const struct x86_zydis *zydis)
{
    in->opsize = MIN(in->opsize, 4); /* REX.W means nothing here */
    return string_io;
}
