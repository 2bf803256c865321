/*
 * x86/segment.h: segment descriptors: fetched from the GDT or LDT, checked,
 * loaded (AMD APM vol. 2 chapter 4; SDM vol. 3 chapters 3 and 5), and the
 * implicit supervisor accesses that descriptor tables and the TSS are read by.
 */
#ifndef X86_SEGMENT_H
#define X86_SEGMENT_H

#include "x86/access.h"

#define SELECTOR_RPL   3u
#define SELECTOR_TI    4u
#define SELECTOR_ERROR 0xfffcu /* what of a selector goes into an error code */

/* Types of system descriptors (S = 0), APM vol. 2, 4.8.3. */
enum x86_system_type {
    SYS_TSS16 = 1,
    SYS_LDT = 2,
    SYS_TSS16_BUSY = 3,
    SYS_CALL16 = 4,
    SYS_TASK_GATE = 5,
    SYS_INT16 = 6,
    SYS_TRAP16 = 7,
    SYS_TSS = 9,
    SYS_TSS_BUSY = 11,
    SYS_CALL = 12,
    SYS_INT = 14,
    SYS_TRAP = 15,
};
#define TYPE_BUSY 2u

/* A descriptor as read: unpacked, with what is needed to go on. */
struct x86_descriptor {
    struct x86_segment seg; /* as it would be loaded */
    uint64_t raw, high;     /* high: upper half of a 16-byte one */
    gva_t lin;              /* where it lies */
};

static inline unsigned x86_dpl(const struct x86_segment *seg)
{
    return (seg->attr & ATTR_DPL) >> ATTR_DPL_SHIFT;
}

static inline bool x86_null_selector(uint16_t selector)
{
    return !(selector & SELECTOR_ERROR);
}

static inline bool x86_is_code(uint16_t attr)
{
    return (attr & (ATTR_S | ATTR_CODE)) == (ATTR_S | ATTR_CODE);
}

static inline bool x86_is_data(uint16_t attr)
{
    return (attr & (ATTR_S | ATTR_CODE)) == ATTR_S;
}

static inline bool x86_is_conforming(uint16_t attr)
{
    return (attr & (ATTR_S | ATTR_CODE | ATTR_CONFORMING)) == (ATTR_S | ATTR_CODE | ATTR_CONFORMING);
}

/* The type of a system descriptor; 0 (reserved, never used) for code and data. */
static inline unsigned x86_system_type(uint16_t attr)
{
    return attr & ATTR_S ? 0 : attr & ATTR_TYPE;
}

/* Linear address in a descriptor table or TSS: 64 bits in long mode, compatibility mode too. */
static inline gva_t x86_table_linear(const struct x86_cpu *cpu, uint64_t lin)
{
    return x86_long_mode(cpu) ? lin : (uint32_t)lin;
}

static inline void *x86_tlb_system(const struct x86_cpu *cpu, gva_t lin, unsigned size, bool write)
{
    unsigned index = cpu->cr4 & CR4_SMAP ? MMU_SUPERVISOR_SMAP : MMU_SUPERVISOR;
    const struct x86_tlb_entry *e = x86_tlb_slot(&cpu->tlb->space->table[index], lin);

    return x86_tlb_host(e, write ? e->write : e->read, lin, size);
}

/* Implicit supervisor accesses, whatever the CPL. */
static inline enum x86_rc x86_system_read(struct x86_cpu *cpu, gva_t lin, void *data, unsigned size)
{
    void *host = x86_tlb_system(cpu, lin, size, false);

    if (likely(host)) {
        memcpy(data, host, size);
        return X86_NEXT;
    }
    return x86_read_linear(cpu, lin, data, size, ACCESS_READ | ACCESS_IMPLICIT);
}

static inline enum x86_rc x86_system_write(struct x86_cpu *cpu, gva_t lin, const void *data, unsigned size)
{
    void *host = x86_tlb_system(cpu, lin, size, true);

    if (likely(host)) {
        memcpy(host, data, size);
        return X86_NEXT;
    }
    return x86_write_linear(cpu, lin, data, size, ACCESS_WRITE | ACCESS_IMPLICIT);
}

static inline struct x86_segment x86_unpack_descriptor(uint64_t raw, uint16_t selector)
{
    struct x86_segment seg = {
        .base = (raw >> 16 & 0xffffff) | (raw >> 32 & 0xff000000),
        .limit = (uint32_t)((raw & 0xffff) | (raw >> 32 & 0xf0000)),
        .selector = selector,
        .attr = (uint16_t)(raw >> 40 & 0xf0ff),
    };

    if (seg.attr & ATTR_G)
        seg.limit = seg.limit << 12 | 0xfff;
    return seg;
}

/* Reads the 8-byte descriptor of a selector that is not null. Outside its table: exception `vector` with the selector
 * as error code. */
enum x86_rc x86_read_descriptor(struct x86_cpu *cpu, uint16_t selector, uint8_t vector, struct x86_descriptor *d);
/* For a descriptor already read that turned out to be a system one: in long mode, its upper half (base, and the type
 * field that must be zero). */
enum x86_rc x86_read_descriptor_high(struct x86_cpu *cpu, uint8_t vector, struct x86_descriptor *d);
/* Sets the accessed bit, in memory too. */
enum x86_rc x86_set_accessed(struct x86_cpu *cpu, struct x86_descriptor *d);
/* Sets or clears a TSS descriptor's busy bit in memory. */
enum x86_rc x86_set_busy(struct x86_cpu *cpu, gva_t descriptor, bool busy);

/* All checks of loading a data segment or SS in protected mode at a privilege level, up to the accessed bit; `vector`
 * (#GP or #TS) for what is no #NP or #SS. null_ok: a null SS is allowed below privilege 3 (64-bit mode). */
enum x86_rc x86_check_data(struct x86_cpu *cpu, uint16_t selector, unsigned cpl, uint8_t vector,
                           struct x86_segment *out);
enum x86_rc x86_check_ss(struct x86_cpu *cpu, uint16_t selector, unsigned cpl, bool null_ok, uint8_t vector,
                         struct x86_segment *out);
/* LLDT's checks; `vector` is for the type and the table, `absent` for P = 0. */
enum x86_rc x86_check_ldt(struct x86_cpu *cpu, uint16_t selector, uint8_t vector, uint8_t absent,
                          struct x86_segment *out);

/* What MOV, POP and LDS do to ES, SS, DS, FS, GS in every mode: the register as it would be. */
enum x86_rc x86_check_segment_load(struct x86_cpu *cpu, unsigned seg, uint16_t selector, struct x86_segment *out);
/* The same for real and virtual-8086 mode, for CS too: cannot fail. */
struct x86_segment x86_real_segment(const struct x86_cpu *cpu, unsigned seg, uint16_t selector);

/* The inner stack pointer of a privilege level in the current TSS; ss is not given in long mode (NULL). #TS, #PF. */
enum x86_rc x86_tss_stack(struct x86_cpu *cpu, unsigned level, uint64_t *sp, uint16_t *ss);
/* Long mode: interrupt stack table entry 1..7. */
enum x86_rc x86_tss_ist(struct x86_cpu *cpu, unsigned ist, uint64_t *sp);

/* After a return to an outer level: data segments it may not have become null (SDM vol. 2, RET, IRET). */
static inline void x86_null_inner_segments(struct x86_cpu *cpu, unsigned cpl)
{
    static const uint8_t data[] = {SEG_ES, SEG_DS, SEG_FS, SEG_GS};

    for (unsigned i = 0; i < ARRAY_SIZE(data); i++) {
        struct x86_segment *s = &cpu->seg[data[i]];

        /* Bases stay: FS and GS of a 64-bit program are null with a base of their own. */
        if ((s->attr & ATTR_P) && !x86_is_conforming(s->attr) && x86_dpl(s) < cpl) {
            s->selector = 0;
            s->attr = 0;
        }
    }
}

/* Are size bytes at offset inside the segment's limit (expand-down too)? */
bool x86_in_limit(const struct x86_segment *seg, uint64_t offset, unsigned size);

/* A stack to push on that need not be the current one. */
struct x86_stack {
    struct x86_segment ss;
    uint64_t sp, mask; /* mask: 16, 32 or 64 bits of sp count */
    bool flat;         /* 64-bit mode: no base, no limit */
    unsigned access;   /* 0: at the current privilege; ACCESS_IMPLICIT: a more privileged level's stack */
    uint32_t error;    /* of #SS */
};
#define X86_STACK_SLOTS 40

struct x86_stack x86_current_stack(const struct x86_cpu *cpu);
struct x86_stack x86_legacy_stack(const struct x86_segment *ss, uint64_t sp);
/* Pushes n (up to X86_STACK_SLOTS) values of size bytes, the first one first; all or nothing. Moves sp. */
enum x86_rc x86_stack_push(struct x86_cpu *cpu, struct x86_stack *stack, const uint64_t *values, unsigned n,
                           unsigned size);
/* Loads SS:RSP: only the bits of RSP under the mask, the others are of `upper`. */
void x86_stack_load(struct x86_cpu *cpu, const struct x86_stack *stack, uint64_t upper);

/* The address of the instruction after this one. */
static inline uint64_t x86_next_rip(const struct x86_cpu *cpu, const struct x86_insn *in)
{
    uint64_t next = cpu->rip + in->length;

    return cpu->mode == MODE_LONG64 ? next : (uint32_t)next;
}

#endif
