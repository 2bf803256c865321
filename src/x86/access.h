/*
 * x86/access.h: operands. How every semantic reads and writes registers and
 * memory: effective address, segment, soft TLB. The fast path is inline; what
 * misses goes to x86/mmu.h through x86/access.c.
 */
#ifndef X86_ACCESS_H
#define X86_ACCESS_H

#include <string.h>

#include "x86/insn.h"
#include "x86/intr.h"
#include "x86/mmu.h"
#include "x86/tlb.h"

/* --- registers, by byte offset (struct x86_insn) ------------------------------ */
#define X86_GPR8(cpu, off)  (*((uint8_t *)(cpu) + (off)))
#define X86_GPR16(cpu, off) (*(uint16_t *)((uint8_t *)(cpu) + (off)))
#define X86_GPR32(cpu, off) (*(uint32_t *)((uint8_t *)(cpu) + (off))) /* read; to write use x86_set_gpr */
#define X86_GPR64(cpu, off) (*(uint64_t *)((uint8_t *)(cpu) + (off)))

static inline uint64_t x86_get_gpr(const struct x86_cpu *cpu, unsigned off, unsigned size)
{
    switch (size) {
    case 1:
        return X86_GPR8(cpu, off);
    case 2:
        return X86_GPR16(cpu, off);
    case 4:
        return X86_GPR32(cpu, off);
    default:
        return X86_GPR64(cpu, off);
    }
}

/* 32-bit writes zero the upper half; 8 and 16-bit ones leave the rest. */
static inline void x86_set_gpr(struct x86_cpu *cpu, unsigned off, unsigned size, uint64_t value)
{
    switch (size) {
    case 1:
        X86_GPR8(cpu, off) = (uint8_t)value;
        break;
    case 2:
        X86_GPR16(cpu, off) = (uint16_t)value;
        break;
    case 4:
        X86_GPR64(cpu, off) = (uint32_t)value;
        break;
    default:
        X86_GPR64(cpu, off) = value;
    }
}

/* --- addresses ------------------------------------------------------------------- */

/* Effective address (offset in its segment) of the instruction's memory operand. */
static inline uint64_t x86_effective(const struct x86_cpu *cpu, const struct x86_insn *in)
{
    uint64_t ea = X86_GPR64(cpu, in->base) + (X86_GPR64(cpu, in->index) << in->scale) + (uint64_t)in->disp;

    return in->addrsize == 8 ? ea : in->addrsize == 4 ? (uint32_t)ea : (uint16_t)ea;
}

/* Segment checks (limit, type, null) for size bytes at offset; access: enum x86_access. X86_NEXT or X86_FAULT
 * (#GP(0), #SS(0)). Only called where seg_flat says that checks are needed. */
enum x86_rc x86_check_segment(struct x86_cpu *cpu, unsigned seg, uint64_t offset, unsigned size, unsigned access);

/* The whole of segmentation: offset to linear. Does not check that the linear address is canonical: the MMU does. */
static inline enum x86_rc x86_linear(struct x86_cpu *cpu, unsigned seg, uint64_t offset, unsigned size, unsigned access,
                                     gva_t *lin)
{
    *lin = (cpu->seg_base[seg] + offset) & cpu->lin_mask;
    if (likely(cpu->seg_flat >> seg & 1))
        return X86_NEXT;
    return x86_check_segment(cpu, seg, offset, size, access);
}

/* --- memory ------------------------------------------------------------------------ */

/* The host address of size bytes at lin if the soft TLB allows the access and it stays in a page, else NULL. */
static inline void *x86_tlb_read(struct x86_cpu *cpu, gva_t lin, unsigned size)
{
    const struct x86_tlb_entry *e = x86_tlb_slot(cpu->tlb->current, lin);
    void *host = x86_tlb_host(e, e->read, lin, size);

    cpu->counters.tlb_hits += host != NULL;
    return host;
}

static inline void *x86_tlb_write(struct x86_cpu *cpu, gva_t lin, unsigned size)
{
    const struct x86_tlb_entry *e = x86_tlb_slot(cpu->tlb->current, lin);
    void *host = x86_tlb_host(e, e->write, lin, size);

    cpu->counters.tlb_hits += host != NULL;
    return host;
}

/* A flat segment has no check but this: its limit is where linear addresses wrap. For accesses off the fast path. */
enum x86_rc x86_check_end(struct x86_cpu *cpu, unsigned seg, uint64_t offset, unsigned size, unsigned access);

/* What the two below come to off the fast path: lin is where x86_linear() put offset. Here the end of a flat segment is
 * looked at: an operand that reaches over 4 GiB. */
enum x86_rc x86_read_slow(struct x86_cpu *cpu, unsigned seg, uint64_t offset, gva_t lin, void *data, unsigned size);
enum x86_rc x86_write_slow(struct x86_cpu *cpu, unsigned seg, uint64_t offset, gva_t lin, const void *data,
                           unsigned size);

/* Reads or writes size bytes at seg:offset at the current privilege. All or nothing. */
static inline enum x86_rc x86_read(struct x86_cpu *cpu, unsigned seg, uint64_t offset, void *data, unsigned size)
{
    gva_t lin;
    void *host;
    enum x86_rc rc = x86_linear(cpu, seg, offset, size, ACCESS_READ, &lin);

    if (unlikely(rc))
        return rc;
    host = x86_tlb_read(cpu, lin, size);
    if (likely(host)) {
        memcpy(data, host, size);
        return X86_NEXT;
    }
    return x86_read_slow(cpu, seg, offset, lin, data, size);
}

static inline enum x86_rc x86_write(struct x86_cpu *cpu, unsigned seg, uint64_t offset, const void *data, unsigned size)
{
    gva_t lin;
    void *host;
    enum x86_rc rc = x86_linear(cpu, seg, offset, size, ACCESS_WRITE, &lin);

    if (unlikely(rc))
        return rc;
    host = x86_tlb_write(cpu, lin, size);
    if (likely(host)) {
        memcpy(host, data, size);
        return X86_NEXT;
    }
    return x86_write_slow(cpu, seg, offset, lin, data, size);
}

/* One value of 1, 2, 4 or 8 bytes at a host address, aligned or not: a single host access when size is a constant. */
static inline __attribute__((always_inline)) uint64_t x86_host_get(const void *host, unsigned size)
{
    uint64_t value = 0;

    memcpy(&value, host, size);
    return value;
}

static inline __attribute__((always_inline)) void x86_host_put(void *host, uint64_t value, unsigned size)
{
    memcpy(host, &value, size);
}

/* The same for one value of 1, 2, 4 or 8 bytes (size is a constant, so that it inlines), zero-extended to 64 bits. The
 * copy that only the slow path sees keeps *value in a register on the fast one. */
static inline __attribute__((always_inline)) enum x86_rc x86_load(struct x86_cpu *cpu, unsigned seg, uint64_t offset,
                                                                  uint64_t *value, unsigned size)
{
    gva_t lin;
    const void *host;
    uint64_t slow = 0;
    enum x86_rc rc = x86_linear(cpu, seg, offset, size, ACCESS_READ, &lin);

    if (unlikely(rc))
        return rc;
    host = x86_tlb_read(cpu, lin, size);
    if (likely(host)) {
        *value = x86_host_get(host, size);
        return X86_NEXT;
    }
    rc = x86_read_slow(cpu, seg, offset, lin, &slow, size);
    *value = slow;
    return rc;
}

static inline __attribute__((always_inline)) enum x86_rc x86_store(struct x86_cpu *cpu, unsigned seg, uint64_t offset,
                                                                   uint64_t value, unsigned size)
{
    gva_t lin;
    void *host;
    uint64_t slow;
    enum x86_rc rc = x86_linear(cpu, seg, offset, size, ACCESS_WRITE, &lin);

    if (unlikely(rc))
        return rc;
    host = x86_tlb_write(cpu, lin, size);
    if (likely(host)) {
        x86_host_put(host, value, size);
        return X86_NEXT;
    }
    slow = value;
    return x86_write_slow(cpu, seg, offset, lin, &slow, size);
}

/* The instruction's memory operand; size as above. */
static inline __attribute__((always_inline)) enum x86_rc
x86_read_operand(struct x86_cpu *cpu, const struct x86_insn *in, uint64_t *value, unsigned size)
{
    return x86_load(cpu, in->seg, x86_effective(cpu, in), value, size);
}

static inline __attribute__((always_inline)) enum x86_rc
x86_write_operand(struct x86_cpu *cpu, const struct x86_insn *in, uint64_t value, unsigned size)
{
    return x86_store(cpu, in->seg, x86_effective(cpu, in), value, size);
}

/* A read-modify-write of a memory operand. Where the operand is plain RAM within one page, *host points to it and the
 * caller changes it in place (atomically if INSN_LOCK); on X86_NEXT with *host NULL (MMIO, page-crossing, watched or
 * read-only page, breakpoint) the old value is in *value and the caller ends with x86_rmw_finish(). In both cases
 * every fault has been taken and write permission checked before the caller computes. */
struct x86_rmw {
    void *host; /* not NULL: in place */
    gva_t lin;
    uint64_t value; /* old value when host is NULL */
    bool exclusive; /* ditto: other processors stand still until x86_rmw_finish() */
    bool device;    /* ditto: and do not reach devices */
};
/* Around a read-modify-write of what is not memory, if the instruction is locked. rc: what has come of it; the devices
 * stay locked while the instruction waits for an exit. */
enum x86_rc x86_lock_devices(struct x86_cpu *cpu, const struct x86_insn *in);
enum x86_rc x86_unlock_devices(struct x86_cpu *cpu, const struct x86_insn *in, enum x86_rc rc);
enum x86_rc x86_rmw_slow(struct x86_cpu *cpu, const struct x86_insn *in, struct x86_rmw *rmw, unsigned size);
static inline __attribute__((always_inline)) enum x86_rc x86_rmw_begin(struct x86_cpu *cpu, const struct x86_insn *in,
                                                                       struct x86_rmw *rmw, unsigned size)
{
    enum x86_rc rc = x86_linear(cpu, in->seg, x86_effective(cpu, in), size, ACCESS_WRITE, &rmw->lin);

    if (unlikely(rc))
        return rc;
    rmw->host = x86_tlb_write(cpu, rmw->lin, size);
    if (likely(rmw->host))
        return X86_NEXT;
    return x86_rmw_slow(cpu, in, rmw, size);
}
/* Writes the new value where host is NULL. X86_NEXT; X86_EXIT: an MMIO write is wanted; X86_AGAIN: another processor
 * was faster. The caller returns anything but X86_NEXT as it is, having changed nothing. */
enum x86_rc x86_rmw_finish(struct x86_cpu *cpu, const struct x86_insn *in, const struct x86_rmw *rmw, uint64_t value,
                           unsigned size);

/* Stack, at the current stack size; size 2, 4 or 8. Push writes memory before RSP changes; pop changes RSP after the
 * read. */
enum x86_rc x86_push(struct x86_cpu *cpu, uint64_t value, unsigned size);
enum x86_rc x86_pop(struct x86_cpu *cpu, uint64_t *value, unsigned size);

/* May a near branch go to target (already truncated to the operand size): CS limit or canonicality. X86_NEXT, or
 * X86_FAULT with #GP(0). */
static inline enum x86_rc x86_check_branch(struct x86_cpu *cpu, uint64_t target)
{
    if (likely(cpu->mode == MODE_LONG64)) {
        if (unlikely(!x86_canonical(target)))
            return x86_raise_gp(cpu, 0);
    } else if (unlikely(target > cpu->seg[SEG_CS].limit)) {
        return x86_raise_gp(cpu, 0);
    }
    return X86_NEXT;
}

/* Near branch after that check. X86_JUMP or X86_FAULT. */
static inline enum x86_rc x86_branch(struct x86_cpu *cpu, uint64_t target)
{
    enum x86_rc rc = x86_check_branch(cpu, target);

    if (unlikely(rc))
        return rc;
    cpu->rip = target;
    return X86_JUMP;
}

#endif
