/*
 * exec/x87_exec.c: executing x87 instructions on the host's own unit: the short way
 * where it is right, else the whole one (exec/x87_stub.c), or, to move registers,
 * none. Knows stubs, not how they are made.
 */
#include <string.h>

#include "x86/exec/fpu.h"
#include "x86/exec/native_internal.h"
#include "x86/exec/probe.h"
#include "x86/zydis.h"

/* The first bytes of an FXSAVE image are those of struct x86_fpu. */
#define BUFFER_SIZE    16
#define X87_IMAGE_SIZE offsetof(struct x86_fpu, xmm)

/* in->imm is FOP: the low three bits of the first opcode byte, and ModRM. */
static void set_pointers(struct x86_cpu *cpu, const struct x86_insn *in, bool memory, uint64_t ea)
{
    bool wide = cpu->mode == MODE_LONG64;

    cpu->fpu.fop = (uint16_t)in->imm;
    cpu->fpu.fip = wide ? cpu->rip : (uint32_t)cpu->rip;
    cpu->fcs = cpu->seg[SEG_CS].selector;
    if (memory) {
        cpu->fpu.fdp = wide ? ea : (uint32_t)ea;
        cpu->fds = cpu->seg[in->seg].selector;
    }
}

/* Of the unmasked exceptions only precision lets a store go ahead (APM vol. 1, 6.8.3). */
static bool store_suppressed(const struct x86_fpu *image)
{
    return image->fsw & ~image->fcw & (FSW_EXCEPTIONS & ~0x20u);
}

static enum x86_rc write_result(struct x86_cpu *cpu, const struct x86_insn *in, uint64_t ea, const uint8_t *buffer)
{
    switch (in->memsize) { /* constant sizes are copied inline */
    case 4:
        return x86_write(cpu, in->seg, ea, buffer, 4);
    case 8:
        return x86_write(cpu, in->seg, ea, buffer, 8);
    default:
        return x86_write(cpu, in->seg, ea, buffer, MIN(in->memsize, BUFFER_SIZE));
    }
}

static enum x86_rc read_operand(struct x86_cpu *cpu, const struct x86_insn *in, uint64_t ea, uint8_t *buffer)
{
    switch (in->memsize) {
    case 4:
        return x86_read(cpu, in->seg, ea, buffer, 4);
    case 8:
        return x86_read(cpu, in->seg, ea, buffer, 8);
    default:
        return x86_read(cpu, in->seg, ea, buffer, MIN(in->memsize, BUFFER_SIZE));
    }
}

static bool is_full(const struct x86_cpu *cpu, unsigned index)
{
    return cpu->fpu.ftw >> ((x86_fpu_top(cpu) + index) & 7) & 1;
}

static void pop(struct x86_cpu *cpu)
{
    cpu->fpu.ftw &= (uint8_t) ~(1u << x86_fpu_top(cpu));
    x86_fpu_set_top(cpu, (x86_fpu_top(cpu) + 1) & 7);
}

static void push(struct x86_cpu *cpu, const uint8_t value[16])
{
    x86_fpu_set_top(cpu, (x86_fpu_top(cpu) - 1) & 7);
    cpu->fpu.ftw |= (uint8_t)(1u << x86_fpu_top(cpu));
    memcpy(cpu->fpu.st[0], value, 16);
}

/* No stack fault can come; nor an underflow that only an unmasked exception would show, the exact one. */
static bool light_possible(const struct x86_cpu *cpu, const struct x86_stub *stub)
{
    struct x86_light s = stub->stack;

    return stub->light && (cpu->fpu.fcw & EXC_UE) && (!s.st0 || is_full(cpu, 0)) &&
           (!s.other || is_full(cpu, s.index)) && (!s.push || !is_full(cpu, 7));
}

/* The short way; *done false: an unmasked exception comes of it, nothing was changed. */
static enum x86_rc run_light(struct x86_cpu *cpu, const struct x86_insn *in, uint64_t ea, uint8_t *buffer, bool *done)
{
    const struct x86_stub *stub = in->native;
    static const uint16_t codes[] = {[CODES_C1] = FSW_C1, [CODES_ALL] = FSW_CC, [CODES_NONE] = 0};
    uint16_t control = cpu->fpu.fcw | FSW_EXCEPTIONS, cc = codes[stub->stack.codes], fsw;
    uint8_t st0[16], other[16];
    enum x86_rc rc = X86_NEXT;
    uint64_t result;

    memcpy(st0, cpu->fpu.st[0], 16);
    memcpy(other, cpu->fpu.st[stub->stack.index], 16);
    result = stub->light(buffer, st0, other, cpu->rflags & FLAGS_STATUS, &control);
    fsw = (uint16_t)result;
    *done = !(fsw & ~cpu->fpu.fcw & FSW_EXCEPTIONS);
    if (*done && (stub->flags & STUB_STORE))
        rc = write_result(cpu, in, ea, buffer);
    if (!*done || rc)
        return rc;
    cpu->fpu.fsw = (uint16_t)((cpu->fpu.fsw & ~cc) | (fsw & (cc | FSW_EXCEPTIONS)));
    cpu->rflags = (cpu->rflags & ~(uint64_t)FLAGS_STATUS) | (result >> 32 & FLAGS_STATUS);
    if (stub->stack.other)
        memcpy(cpu->fpu.st[stub->stack.index], other, 16);
    if (stub->stack.push)
        push(cpu, st0);
    else if (!stub->stack.pop)
        memcpy(cpu->fpu.st[0], st0, 16);
    for (unsigned i = 0; i < stub->stack.pop; i++)
        pop(cpu);
    set_pointers(cpu, in, stub->flags & (STUB_LOAD | STUB_STORE), ea);
    return X86_NEXT;
}

static enum x86_rc exec_x87(struct x86_cpu *cpu, const struct x86_insn *in)
{
    const struct x86_stub *stub = in->native;
    uint8_t buffer[BUFFER_SIZE] __attribute__((aligned(16)));
    struct x86_fpu image;
    uint64_t ea = x86_effective(cpu, in), flags;
    enum x86_rc rc = x86_need_x87_waiting(cpu);

    if (!rc && (stub->flags & STUB_LOAD))
        rc = read_operand(cpu, in, ea, buffer);
    if (rc)
        return rc;
    if (likely(light_possible(cpu, stub))) {
        bool done;

        rc = run_light(cpu, in, ea, buffer, &done);
        if (likely(done))
            return rc;
    }
    memcpy(&image, &cpu->fpu, X87_IMAGE_SIZE);
    image.fip = image.fdp = 0;
    image.mxcsr = MXCSR_INIT;
    flags = stub->run(buffer, &image, (void *)(uintptr_t)(cpu->rflags & FLAGS_STATUS), NULL, NULL, NULL);
    if (stub->flags & STUB_STORE)
        rc = store_suppressed(&image) ? x86_probe_write(cpu, in->seg, ea, stub->memsize, 0)
                                      : write_result(cpu, in, ea, buffer);
    if (rc)
        return rc;
    cpu->fpu.fsw = image.fsw;
    cpu->fpu.ftw = image.ftw;
    memcpy(cpu->fpu.st, image.st, sizeof(cpu->fpu.st));
    cpu->rflags = (cpu->rflags & ~(uint64_t)FLAGS_STATUS) | (flags & FLAGS_STATUS);
    set_pointers(cpu, in, stub->flags & (STUB_LOAD | STUB_STORE), ea);
    return X86_NEXT;
}

/* FLD, FXCH, FST and FSTP of ST(in->r3): only copies, if no stack fault comes. */
enum move { MOVE_NONE, MOVE_FLD, MOVE_FXCH, MOVE_FST, MOVE_FSTP }; /* in->arg */

static enum x86_rc exec_move(struct x86_cpu *cpu, const struct x86_insn *in)
{
    bool full = is_full(cpu, in->r3);
    uint8_t value[16];
    enum x86_rc rc = x86_need_x87_waiting(cpu);

    if (rc)
        return rc;
    if (in->arg == MOVE_FLD ? !full || is_full(cpu, 7) : !is_full(cpu, 0) || (in->arg == MOVE_FXCH && !full))
        return exec_x87(cpu, in);
    memcpy(value, cpu->fpu.st[in->arg == MOVE_FLD ? in->r3 : 0], 16);
    cpu->fpu.fsw &= (uint16_t)~FSW_C1;
    set_pointers(cpu, in, false, 0);
    if (in->arg == MOVE_FLD) {
        push(cpu, value);
        return X86_NEXT;
    }
    if (in->arg == MOVE_FXCH)
        memcpy(cpu->fpu.st[0], cpu->fpu.st[in->r3], 16);
    else
        cpu->fpu.ftw |= (uint8_t)(1u << ((x86_fpu_top(cpu) + in->r3) & 7));
    memcpy(cpu->fpu.st[in->r3], value, 16);
    if (in->arg == MOVE_FSTP)
        pop(cpu);
    return X86_NEXT;
}

static enum move find_move(uint8_t opcode, unsigned reg)
{
    if (opcode == 0xd9)
        return reg == 0 ? MOVE_FLD : reg == 1 ? MOVE_FXCH : MOVE_NONE;
    if (opcode == 0xdd)
        return reg == 2 ? MOVE_FST : reg == 3 ? MOVE_FSTP : MOVE_NONE;
    return MOVE_NONE;
}

x86_exec_fn *x86_native_x87(struct x86_insn *in, const struct x86_zydis *zydis)
{
    const struct ZydisDecodedInstructionModRm_ *modrm = &zydis->insn.raw.modrm;
    enum move move = modrm->mod == 3 ? find_move(zydis->insn.opcode, modrm->reg) : MOVE_NONE;

    in->native = x86_native_x87_stub(in, zydis);
    in->imm = (zydis->insn.opcode & 7u) << 8 | modrm->mod << 6 | modrm->reg << 3 | modrm->rm;
    if (!in->native)
        return NULL;
    in->arg = (uint8_t)move;
    in->r3 = modrm->rm;
    return move == MOVE_NONE ? exec_x87 : exec_move;
}
