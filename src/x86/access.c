/*
 * x86/access.c: operands off the fast path: segment checks, read-modify-write
 * of what cannot be changed in place, the stack.
 */
#include "x86/access.h"

#include "x86/bus.h"
#include "x86/zydis.h"

#include "x86/mmu_internal.h"

static enum x86_rc segment_fault(struct x86_cpu *cpu, unsigned seg)
{
    return x86_raise_error(cpu, seg == SEG_SS ? VEC_SS : VEC_GP, 0);
}

/* May a protected-mode access be made through a segment of this type? AMD APM vol. 2, 4.7 and 4.12. */
static bool type_allows(uint16_t attr, unsigned access)
{
    bool writable_data = (attr & (ATTR_CODE | ATTR_WRITABLE)) == ATTR_WRITABLE;

    if ((access & ACCESS_KIND) == ACCESS_WRITE)
        return writable_data;
    return !(attr & ATTR_CODE) || (attr & ATTR_READABLE);
}

enum x86_rc x86_check_segment(struct x86_cpu *cpu, unsigned seg, uint64_t offset, unsigned size, unsigned access)
{
    const struct x86_segment *s = &cpu->seg[seg];
    uint64_t last = offset + size - 1;
    bool expand_down = false;

    if (cpu->mode == MODE_LONG64)
        return X86_NEXT;
    if (x86_protected(cpu)) {
        if (!(s->attr & ATTR_P))
            return segment_fault(cpu, seg);
        if (!type_allows(s->attr, access))
            return x86_raise_gp(cpu, 0);
        expand_down = (s->attr & (ATTR_CODE | ATTR_EXPAND_DOWN)) == ATTR_EXPAND_DOWN;
    }
    if (expand_down) {
        if (offset > s->limit && last <= (s->attr & ATTR_DB ? 0xffffffff : 0xffff))
            return X86_NEXT;
    } else if (last <= s->limit) {
        return X86_NEXT;
    }
    return segment_fault(cpu, seg);
}

enum x86_rc x86_check_end(struct x86_cpu *cpu, unsigned seg, uint64_t offset, unsigned size, unsigned access)
{
    return offset + size - 1 > cpu->lin_mask ? x86_check_segment(cpu, seg, offset, size, access) : X86_NEXT;
}

enum x86_rc x86_read_slow(struct x86_cpu *cpu, unsigned seg, uint64_t offset, gva_t lin, void *data, unsigned size)
{
    enum x86_rc rc = x86_check_end(cpu, seg, offset, size, ACCESS_READ);

    return rc ? rc : x86_read_linear(cpu, lin, data, size, seg == SEG_SS ? ACCESS_READ | ACCESS_STACK : ACCESS_READ);
}

enum x86_rc x86_write_slow(struct x86_cpu *cpu, unsigned seg, uint64_t offset, gva_t lin, const void *data,
                           unsigned size)
{
    enum x86_rc rc = x86_check_end(cpu, seg, offset, size, ACCESS_WRITE);

    return rc ? rc : x86_write_linear(cpu, lin, data, size, seg == SEG_SS ? ACCESS_WRITE | ACCESS_STACK : ACCESS_WRITE);
}

static unsigned operand_access(const struct x86_insn *in, unsigned kind)
{
    return in->seg == SEG_SS ? kind | ACCESS_STACK : kind;
}

static bool is_locked(const struct x86_insn *in)
{
    return (in->flags & INSN_LOCK) || in->mnemonic == ZYDIS_MNEMONIC_XCHG;
}

static bool crosses_page(gva_t lin, unsigned size)
{
    return (lin & ~PAGE_MASK) > PAGE_SIZE - size;
}

enum x86_rc x86_lock_devices(struct x86_cpu *cpu, const struct x86_insn *in)
{
    return cpu->bus->lock_devices && is_locked(in) ? cpu->bus->lock_devices(cpu, true) : X86_NEXT;
}

enum x86_rc x86_unlock_devices(struct x86_cpu *cpu, const struct x86_insn *in, enum x86_rc rc)
{
    if (rc != X86_EXIT && cpu->bus->lock_devices && is_locked(in))
        cpu->bus->lock_devices(cpu, false);
    return rc;
}

static enum x86_rc end_rmw(struct x86_cpu *cpu, const struct x86_insn *in, const struct x86_rmw *rmw, enum x86_rc rc)
{
    if (rmw->exclusive)
        cpu->bus->exclusive(cpu, false);
    return rmw->device ? x86_unlock_devices(cpu, in, rc) : rc;
}

enum x86_rc x86_rmw_slow(struct x86_cpu *cpu, const struct x86_insn *in, struct x86_rmw *rmw, unsigned size)
{
    bool watched = false;
    enum x86_rc rc = x86_check_end(cpu, in->seg, x86_effective(cpu, in), size, ACCESS_WRITE);

    if (!rc)
        rc = x86_rmw_prepare(cpu, rmw->lin, size, operand_access(in, ACCESS_WRITE), &rmw->host, &watched);
    rmw->value = 0;
    if (rc || (rmw->host && !watched))
        return rc;
    /* A locked operand over a page's end lies in two places of the host's memory: no instruction reaches both. */
    rmw->exclusive = crosses_page(rmw->lin, size) && cpu->bus->exclusive && is_locked(in);
    rmw->device = !rmw->host && !crosses_page(rmw->lin, size);
    rmw->host = NULL;
    if (rmw->exclusive)
        cpu->bus->exclusive(cpu, true);
    if (rmw->device && (rc = x86_lock_devices(cpu, in)))
        return rc;
    rc = x86_read_linear(cpu, rmw->lin, &rmw->value, size, operand_access(in, ACCESS_READ));
    return rc ? end_rmw(cpu, in, rmw, rc) : X86_NEXT;
}

/* Puts value where old still is: the others' writes in between must not get lost. */
__attribute__((no_sanitize("alignment"))) static bool exchange(void *host, uint64_t old, uint64_t value, unsigned size)
{
    uint8_t old8 = (uint8_t)old;
    uint16_t old16 = (uint16_t)old;
    uint32_t old32 = (uint32_t)old;

    switch (size) {
    case 1:
        return __atomic_compare_exchange_n((uint8_t *)host, &old8, (uint8_t)value, false, __ATOMIC_SEQ_CST,
                                           __ATOMIC_SEQ_CST);
    case 2:
        return __atomic_compare_exchange_n((uint16_t *)host, &old16, (uint16_t)value, false, __ATOMIC_SEQ_CST,
                                           __ATOMIC_SEQ_CST);
    case 4:
        return __atomic_compare_exchange_n((uint32_t *)host, &old32, (uint32_t)value, false, __ATOMIC_SEQ_CST,
                                           __ATOMIC_SEQ_CST);
    default:
        return __atomic_compare_exchange_n((uint64_t *)host, &old, value, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
    }
}

static enum x86_rc finish(struct x86_cpu *cpu, const struct x86_insn *in, const struct x86_rmw *rmw, uint64_t value,
                          unsigned size)
{
    void *host;
    enum x86_rc rc = x86_rmw_pointer(cpu, rmw->lin, size, operand_access(in, ACCESS_WRITE), &host);

    if (rc)
        return rc;
    if (!host)
        return x86_write_linear(cpu, rmw->lin, &value, size, operand_access(in, ACCESS_WRITE));
    if (!exchange(host, rmw->value, value, size))
        return X86_AGAIN;
    x86_rmw_written(cpu, rmw->lin, size, ACCESS_WRITE);
    return X86_NEXT;
}

enum x86_rc x86_rmw_finish(struct x86_cpu *cpu, const struct x86_insn *in, const struct x86_rmw *rmw, uint64_t value,
                           unsigned size)
{
    return end_rmw(cpu, in, rmw, finish(cpu, in, rmw, value, size));
}

static uint64_t stack_mask(const struct x86_cpu *cpu)
{
    return cpu->stack_size == 8 ? ~0ull : BIT(8 * cpu->stack_size) - 1;
}

static inline __attribute__((always_inline)) enum x86_rc push(struct x86_cpu *cpu, uint64_t value, unsigned size)
{
    uint64_t rsp = (cpu->gpr[RSP] - size) & stack_mask(cpu);
    enum x86_rc rc = x86_write(cpu, SEG_SS, rsp, &value, size);

    if (likely(!rc))
        x86_set_gpr(cpu, RSP * 8, cpu->stack_size, rsp);
    return rc;
}

static inline __attribute__((always_inline)) enum x86_rc pop(struct x86_cpu *cpu, uint64_t *value, unsigned size)
{
    uint64_t rsp = cpu->gpr[RSP] & stack_mask(cpu);
    enum x86_rc rc;

    *value = 0;
    rc = x86_read(cpu, SEG_SS, rsp, value, size);
    if (likely(!rc))
        x86_set_gpr(cpu, RSP * 8, cpu->stack_size, rsp + size);
    return rc;
}

/* Constant sizes, so that the copy is one instruction. */
enum x86_rc x86_push(struct x86_cpu *cpu, uint64_t value, unsigned size)
{
    return size == 8 ? push(cpu, value, 8) : size == 4 ? push(cpu, value, 4) : push(cpu, value, 2);
}

enum x86_rc x86_pop(struct x86_cpu *cpu, uint64_t *value, unsigned size)
{
    return size == 8 ? pop(cpu, value, 8) : size == 4 ? pop(cpu, value, 4) : pop(cpu, value, 2);
}
