/*
 * exec/simd_mask.c: vector moves that access only the elements their mask selects:
 * MASKMOVDQU, MASKMOVQ, VMASKMOV, VPMASKMOV and the gathers. Unselected elements
 * never fault. SDM vol. 2, the instructions' own pages.
 */
#include <string.h>

#include "x86/exec/fpu.h"
#include "x86/exec/probe.h"
#include "x86/exec/simd_special.h"
#include "x86/zydis.h"

/* A YMM register put together, and back. */
static void get_ymm(const struct x86_cpu *cpu, unsigned reg, uint8_t value[32])
{
    memcpy(value, cpu->fpu.xmm[reg], 16);
    memcpy(value + 16, cpu->fpu.ymm_high[reg], 16);
}

static void set_ymm(struct x86_cpu *cpu, unsigned reg, const uint8_t value[32])
{
    memcpy(cpu->fpu.xmm[reg], value, 16);
    memcpy(cpu->fpu.ymm_high[reg], value + 16, 16);
}

/* --- elements: like x86_read() and x86_write(), but never #AC ------------------------------- */

/* Segmentation, with the end of a flat segment. */
static enum x86_rc element_linear(struct x86_cpu *cpu, unsigned seg, uint64_t offset, unsigned size, unsigned access,
                                  gva_t *lin)
{
    enum x86_rc rc = x86_linear(cpu, seg, offset, size, access, lin);

    if (!rc && unlikely(offset + size - 1 > cpu->lin_mask))
        rc = x86_check_segment(cpu, seg, offset, size, access);
    return rc;
}

static enum x86_rc read_element(struct x86_cpu *cpu, unsigned seg, uint64_t offset, void *data, unsigned size)
{
    gva_t lin;
    const void *host;
    enum x86_rc rc = element_linear(cpu, seg, offset, size, ACCESS_READ, &lin);

    if (rc)
        return rc;
    host = x86_tlb_read(cpu, lin, size);
    if (!host && (rc = x86_check_end(cpu, seg, offset, size, ACCESS_READ)))
        return rc;
    if (!host)
        return x86_read_linear(cpu, lin, data, size,
                               ACCESS_READ | ACCESS_UNALIGNED | (seg == SEG_SS ? ACCESS_STACK : 0));
    memcpy(data, host, size);
    return X86_NEXT;
}

static enum x86_rc write_element(struct x86_cpu *cpu, unsigned seg, uint64_t offset, const void *data, unsigned size)
{
    gva_t lin;
    void *host;
    enum x86_rc rc = element_linear(cpu, seg, offset, size, ACCESS_WRITE, &lin);

    if (rc)
        return rc;
    host = x86_tlb_write(cpu, lin, size);
    if (!host && (rc = x86_check_end(cpu, seg, offset, size, ACCESS_WRITE)))
        return rc;
    if (!host)
        return x86_write_linear(cpu, lin, data, size,
                                ACCESS_WRITE | ACCESS_UNALIGNED | (seg == SEG_SS ? ACCESS_STACK : 0));
    memcpy(host, data, size);
    return X86_NEXT;
}

/* --- stores of selected elements -------------------------------------------------------- */

/* Bit i of selected: element i of `size` bytes is written. All are checked before any is written. */
static enum x86_rc store_selected(struct x86_cpu *cpu, unsigned seg, uint64_t ea, uint64_t ea_mask, const uint8_t *data,
                                  unsigned size, uint32_t selected)
{
    enum x86_rc rc;

    for (uint32_t left = selected; left; left &= left - 1) {
        rc = x86_probe_write(cpu, seg, (ea + (unsigned)__builtin_ctz(left) * size) & ea_mask, size, ACCESS_UNALIGNED);
        if (rc)
            return rc;
    }
    for (; selected; selected &= selected - 1) {
        unsigned i = (unsigned)__builtin_ctz(selected);

        rc = write_element(cpu, seg, (ea + i * size) & ea_mask, data + i * size, size);
        if (rc)
            return rc;
    }
    return X86_NEXT;
}

static uint64_t address_mask(const struct x86_insn *in)
{
    return in->addrsize == 8 ? UINT64_MAX : in->addrsize == 4 ? UINT32_MAX : UINT16_MAX;
}

/* The top bits of `count` elements of `size` bytes. */
static uint32_t sign_mask(const uint8_t *mask, unsigned count, unsigned size)
{
    uint32_t selected = 0;

    for (unsigned i = 0; i < count; i++)
        selected |= (uint32_t)(mask[i * size + size - 1] >> 7) << i;
    return selected;
}

/* --- MASKMOVDQU, MASKMOVQ: bytes to seg:rDI ----------------------------------------------- */

static enum x86_rc exec_maskmovdqu(struct x86_cpu *cpu, const struct x86_insn *in)
{
    enum x86_rc rc = in->flags & INSN_VEX ? x86_need_avx(cpu) : x86_need_sse(cpu);

    if (rc)
        return rc;
    return store_selected(cpu, in->seg, cpu->gpr[RDI] & address_mask(in), address_mask(in), cpu->fpu.xmm[in->r0], 1,
                          sign_mask(cpu->fpu.xmm[in->r1], 16, 1));
}

/* The change to MMX state comes first: a fault does not undo it. */
static enum x86_rc exec_maskmovq(struct x86_cpu *cpu, const struct x86_insn *in)
{
    enum x86_rc rc = x86_need_mmx(cpu);

    if (rc)
        return rc;
    x86_mmx_enter(cpu);
    return store_selected(cpu, in->seg, cpu->gpr[RDI] & address_mask(in), address_mask(in), cpu->fpu.st[in->r0], 1,
                          sign_mask(cpu->fpu.st[in->r1], 8, 1));
}

x86_exec_fn *x86_select_maskmov(struct x86_insn *in, const struct x86_zydis *zydis)
{
    return in->mnemonic == ZYDIS_MNEMONIC_MASKMOVQ ? exec_maskmovq : exec_maskmovdqu;
}

/* --- VMASKMOVPS, VMASKMOVPD, VPMASKMOVD, VPMASKMOVQ; in->arg is the element's size -------- */

static enum x86_rc exec_vmaskmov_load(struct x86_cpu *cpu, const struct x86_insn *in)
{
    uint8_t mask[32], value[32] = {0};
    unsigned size = in->arg, count = in->memsize / size;
    uint64_t ea = x86_effective(cpu, in);
    uint32_t selected;
    enum x86_rc rc = x86_need_avx(cpu);

    if (rc)
        return rc;
    get_ymm(cpu, in->r1, mask);
    for (selected = sign_mask(mask, count, size); selected; selected &= selected - 1) {
        unsigned at = (unsigned)__builtin_ctz(selected) * size;

        rc = read_element(cpu, in->seg, (ea + at) & address_mask(in), value + at, size);
        if (rc)
            return rc;
    }
    set_ymm(cpu, in->r0, value);
    return X86_NEXT;
}

static enum x86_rc exec_vmaskmov_store(struct x86_cpu *cpu, const struct x86_insn *in)
{
    uint8_t mask[32], value[32];
    unsigned size = in->arg;
    uint64_t ea = x86_effective(cpu, in);
    enum x86_rc rc = x86_need_avx(cpu);

    if (rc)
        return rc;
    get_ymm(cpu, in->r0, mask);
    get_ymm(cpu, in->r1, value);
    return store_selected(cpu, in->seg, ea, address_mask(in), value, size, sign_mask(mask, in->memsize / size, size));
}

x86_exec_fn *x86_select_vmaskmov(struct x86_insn *in, const struct x86_zydis *zydis)
{
    if (in->memsize != 16 && in->memsize != 32)
        return NULL;
    return in->shape == SHAPE_RRM ? exec_vmaskmov_load : in->shape == SHAPE_MRR ? exec_vmaskmov_store : NULL;
}

/* --- gathers; in->arg: enum gather_bits, and the index register ----------------------------- */

static int64_t gather_index(const uint8_t *indexes, unsigned i, bool wide)
{
    int32_t narrow;
    int64_t value;

    if (wide) {
        memcpy(&value, indexes + 8 * i, 8);
        return value;
    }
    memcpy(&narrow, indexes + 4 * i, 4);
    return narrow;
}

/* As many elements as fit in the destination and have an index. */
static unsigned gather_count(const struct x86_insn *in)
{
    unsigned bytes = in->flags & INSN_VEX_L ? 32 : 16;

    return bytes / (in->arg & (GATHER_ELEMENT8 | GATHER_INDEX8) ? 8 : 4);
}

/* A fault leaves the elements before it loaded and their mask cleared, so that the instruction, started anew, goes on
 * where it was. An MMIO read that is not there yet (X86_EXIT) leaves nothing: the log has the ones done. */
static enum x86_rc exec_gather(struct x86_cpu *cpu, const struct x86_insn *in)
{
    uint8_t mask[32], value[32], indexes[32];
    unsigned size = in->arg & GATHER_ELEMENT8 ? 8 : 4, count = gather_count(in);
    uint64_t ea = X86_GPR64(cpu, in->base) + (uint64_t)in->disp;
    enum x86_rc rc = x86_need_avx(cpu);
    uint32_t selected;

    if (rc)
        return rc;
    get_ymm(cpu, in->r1, mask);
    get_ymm(cpu, in->r0, value);
    get_ymm(cpu, in->arg & GATHER_INDEX, indexes);
    selected = sign_mask(mask, count, size);
    for (unsigned i = 0; i < count; i++) {
        uint64_t at = ea + ((uint64_t)gather_index(indexes, i, in->arg & GATHER_INDEX8) << in->scale);

        if (selected >> i & 1)
            rc = read_element(cpu, in->seg, at & address_mask(in), value + i * size, size);
        if (rc)
            break;
        memset(mask + i * size, 0, size);
    }
    if (rc == X86_EXIT)
        return rc;
    if (!rc) {
        memset(mask, 0, sizeof(mask));
        memset(value + count * size, 0, sizeof(value) - count * size);
    }
    set_ymm(cpu, in->r0, value);
    set_ymm(cpu, in->r1, mask);
    return rc;
}

x86_exec_fn *x86_select_gather(struct x86_insn *in, const struct x86_zydis *zydis)
{
    unsigned index = (unsigned)ZydisRegisterGetId(zydis->op[1].mem.index);

    if (in->shape != SHAPE_RMR || index > GATHER_INDEX || in->r0 == in->r1 || in->r0 == index || in->r1 == index)
        return NULL; /* the three must be distinct */
    in->arg |= (uint8_t)index;
    return exec_gather;
}
