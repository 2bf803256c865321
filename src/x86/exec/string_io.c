/*
 * x86/exec/string_io.c: INS and OUTS. Each iteration is one transaction with the
 * device (x86/io.h): all faults come before the port is touched.
 */
#include "x86/access.h"
#include "x86/bus.h"
#include "x86/exec/probe.h"
#include "x86/exec/string_ops.h"
#include "x86/exec/system.h"

static enum x86_rc ins(struct x86_cpu *cpu, const struct x86_insn *in)
{
    uint64_t offset = string_offset(in, cpu->gpr[RDI]);
    uint32_t data = 0;
    /* What was read from the port would be lost if the write faulted. */
    enum x86_rc rc = x86_probe_write(cpu, SEG_ES, offset, in->opsize, 0);

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
