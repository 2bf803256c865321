/*
 * exec/simd_move.c: loads and stores of whole vector registers, the most frequent
 * vector instructions, without a stub; and VZEROUPPER, VZEROALL. Their
 * register-to-register forms are the host's like all others.
 */
#include <string.h>

#include "x86/access.h"
#include "x86/exec/fpu.h"
#include "x86/exec/native_internal.h"
#include "x86/exec/simd_special.h"
#include "x86/zydis.h"

typedef uint64_t xmm_value __attribute__((vector_size(16)));

/* Always inline, so that the size and the checks are constants. A load of less than 16 bytes zeroes the rest, in one
 * store, so that the next load of the register finds it whole; a VEX one also zeroes the upper half. */
static inline __attribute__((always_inline)) enum x86_rc exec_load(struct x86_cpu *cpu, const struct x86_insn *in,
                                                                   unsigned size, bool vex)
{
    const struct x86_stub *stub = in->native;
    uint64_t ea = x86_effective(cpu, in), low = 0;
    xmm_value value[2] = {{0}, {0}};
    enum x86_rc rc = vex ? x86_need_avx(cpu) : x86_need_sse(cpu);

    if (unlikely(rc))
        return rc;
    if (size >= 16 && unlikely((cpu->seg_base[in->seg] + ea) & stub->align))
        return x86_raise_gp(cpu, 0);
    rc = size < 16 ? x86_read(cpu, in->seg, ea, &low, size) : x86_read(cpu, in->seg, ea, value, size);
    if (unlikely(rc))
        return rc;
    if (size < 16)
        value[0] = (xmm_value){low, 0};
    memcpy(cpu->fpu.xmm[in->r0], &value[0], 16);
    if (vex)
        memcpy(cpu->fpu.ymm_high[in->r0], &value[1], 16);
    return X86_NEXT;
}

static inline __attribute__((always_inline)) enum x86_rc exec_store(struct x86_cpu *cpu, const struct x86_insn *in,
                                                                    unsigned size, bool vex)
{
    const struct x86_stub *stub = in->native;
    uint64_t ea = x86_effective(cpu, in);
    uint8_t value[32];
    enum x86_rc rc = vex ? x86_need_avx(cpu) : x86_need_sse(cpu);

    if (unlikely(rc))
        return rc;
    if (size >= 16 && unlikely((cpu->seg_base[in->seg] + ea) & stub->align))
        return x86_raise_gp(cpu, 0);
    memcpy(value, cpu->fpu.xmm[in->r0], 16);
    if (size == 32)
        memcpy(value + 16, cpu->fpu.ymm_high[in->r0], 16);
    return x86_write(cpu, in->seg, ea, value, size);
}

#define MOVE(name, direction, size, vex)                                                                               \
    static enum x86_rc name(struct x86_cpu *cpu, const struct x86_insn *in)                                            \
    {                                                                                                                  \
        return direction(cpu, in, size, vex);                                                                          \
    }
MOVE(load4, exec_load, 4, false)
MOVE(load8, exec_load, 8, false)
MOVE(load16, exec_load, 16, false)
MOVE(vload4, exec_load, 4, true)
MOVE(vload8, exec_load, 8, true)
MOVE(vload16, exec_load, 16, true)
MOVE(vload32, exec_load, 32, true)
MOVE(store4, exec_store, 4, false)
MOVE(store8, exec_store, 8, false)
MOVE(store16, exec_store, 16, false)
MOVE(vstore4, exec_store, 4, true)
MOVE(vstore8, exec_store, 8, true)
MOVE(vstore16, exec_store, 16, true)
MOVE(vstore32, exec_store, 32, true)

/* The stub is made all the same: it checks the encoding, has the alignment, and executes the other forms. */
x86_exec_fn *x86_select_move(struct x86_insn *in, const struct x86_zydis *zydis)
{
    static x86_exec_fn *const moves[2][2][4] = {
        {{load4, load8, load16, NULL}, {vload4, vload8, vload16, vload32}},
        {{store4, store8, store16, NULL}, {vstore4, vstore8, vstore16, vstore32}},
    };
    x86_exec_fn *native = x86_native_vector(in, zydis);
    const struct x86_stub *stub = in->native;

    if (!native || (stub->flags & STUB_MMX) || (in->shape != SHAPE_RM && in->shape != SHAPE_MR) ||
        in->memsize_log2 < 2 || in->memsize_log2 > 5)
        return native;
    native = moves[in->shape == SHAPE_MR][!!(stub->flags & STUB_VEX)][in->memsize_log2 - 2];
    return native;
}

static enum x86_rc exec_vzeroupper(struct x86_cpu *cpu, const struct x86_insn *in)
{
    enum x86_rc rc = x86_need_avx(cpu);

    if (rc)
        return rc;
    memset(cpu->fpu.ymm_high, 0, 8 * 16);
    if (cpu->mode == MODE_LONG64)
        memset(cpu->fpu.ymm_high[8], 0, 8 * 16);
    return X86_NEXT;
}

static enum x86_rc exec_vzeroall(struct x86_cpu *cpu, const struct x86_insn *in)
{
    enum x86_rc rc = exec_vzeroupper(cpu, in);

    if (!rc)
        memset(cpu->fpu.xmm, 0, cpu->mode == MODE_LONG64 ? sizeof(cpu->fpu.xmm) : 8 * 16);
    return rc;
}

x86_exec_fn *x86_select_vzero(struct x86_insn *in, const struct x86_zydis *zydis)
{
    return in->mnemonic == ZYDIS_MNEMONIC_VZEROALL ? exec_vzeroall : exec_vzeroupper;
}
