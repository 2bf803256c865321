/* engine/lockstep/compare.c: what must be equal, as one table. */
#include "engine/lockstep/compare.h"

#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

struct field {
    const char *name;
    uint16_t offset, size, count; /* count values of size bytes, 1..8 */
    uint64_t software;            /* bits that are not to be compared with hardware */
};

#define ALL UINT64_MAX

#define ONE(name, member)                                                                                              \
    {                                                                                                                  \
        name, offsetof(struct x86_cpu, member), sizeof(((struct x86_cpu *)0)->member), 1, 0                            \
    }
#define MANY(name, member, width)                                                                                      \
    {                                                                                                                  \
        name, offsetof(struct x86_cpu, member), width, sizeof(((struct x86_cpu *)0)->member) / (width), 0              \
    }
/* Only between software engines. */
#define SOFTWARE(name, member, width)                                                                                  \
    {                                                                                                                  \
        name, offsetof(struct x86_cpu, member), width, sizeof(((struct x86_cpu *)0)->member) / (width), ALL            \
    }
/* Whether the hidden part shows the bit that a load sets in the descriptor is each processor's own. */
#define ACCESSED 1
#define SEGMENT(name, member)                                                                                          \
    ONE(name, member.selector), ONE(name " base", member.base), ONE(name " limit", member.limit),                      \
    {                                                                                                                  \
        name " attr", offsetof(struct x86_cpu, member.attr), 2, 1, ACCESSED                                            \
    }

static const struct field fields[] = {
    ONE("rip", rip),
    MANY("gpr", gpr, 8),
    /* TF is the step's own; whether RF is seen depends on when the processor gives its state away. */
    {"rflags", offsetof(struct x86_cpu, rflags), 8, 1, FLAG_TF | FLAG_RF},
    SEGMENT("es", seg[SEG_ES]),
    SEGMENT("cs", seg[SEG_CS]),
    SEGMENT("ss", seg[SEG_SS]),
    SEGMENT("ds", seg[SEG_DS]),
    SEGMENT("fs", seg[SEG_FS]),
    SEGMENT("gs", seg[SEG_GS]),
    SEGMENT("ldtr", ldtr),
    SEGMENT("tr", tr),
    ONE("gdtr base", gdtr.base),
    ONE("gdtr limit", gdtr.limit),
    ONE("idtr base", idtr.base),
    ONE("idtr limit", idtr.limit),
    ONE("cr0", cr0),
    ONE("cr2", cr2),
    ONE("cr3", cr3),
    ONE("cr4", cr4),
    ONE("xcr0", xcr0),
    MANY("pdpte", pdpte, 8),
    MANY("dr", dr, 8),
    MANY("msr", msr, 8),
    ONE("fcw", fpu.fcw),
    ONE("fsw", fpu.fsw),
    ONE("ftw", fpu.ftw),
    /* An AMD processor saves them with a pending exception only (APM vol. 2, 11.4.4). */
    SOFTWARE("fop", fpu.fop, 2),
    SOFTWARE("fip", fpu.fip, 8),
    SOFTWARE("fdp", fpu.fdp, 8),
    ONE("mxcsr", fpu.mxcsr),
    MANY("st", fpu.st, 8),
    MANY("xmm", fpu.xmm, 8),
    SOFTWARE("xsave header", fpu.xstate_bv, 8),
    MANY("ymm", fpu.ymm_high, 8),
    SOFTWARE("int_shadow", int_shadow, 1), /* SVM does not tell which of the two it is */
    ONE("nmi_masked", nmi_masked),
    ONE("halted", halted),
    ONE("shutdown", shutdown),
    {"apic tpr", offsetof(struct x86_cpu, lapic.tpr), 4, 1, 15}, /* KVM keeps CR8's bits only on an AMD processor */
    /* Its timer runs in real time; in lockstep it is off. */
    SOFTWARE("apic irr", lapic.irr, 4),
    MANY("apic isr", lapic.isr, 4),
    MANY("apic lvt", lapic.lvt, 4),
    SOFTWARE("apic timer", lapic.timer_initial, 4),
    SOFTWARE("apic deadline", lapic.timer_deadline_ns, 8),
    SOFTWARE("tsc deadline", lapic.tsc_deadline, 8),
};

static uint64_t value(const struct x86_cpu *cpu, const struct field *field, unsigned i, bool hardware)
{
    uint64_t v = 0;

    memcpy(&v, (const uint8_t *)cpu + field->offset + i * field->size, field->size);
    return hardware ? v & ~field->software : v;
}

unsigned compare_cpus(const struct x86_cpu *leader, const struct x86_cpu *follower, bool hardware, char *text,
                      size_t size)
{
    unsigned differences = 0;
    size_t used = 0;

    for (unsigned f = 0; f < ARRAY_SIZE(fields); f++) {
        const struct field *field = &fields[f];

        if (!memcmp((const uint8_t *)leader + field->offset, (const uint8_t *)follower + field->offset,
                    (size_t)field->size * field->count))
            continue;
        for (unsigned i = 0; i < field->count; i++) {
            uint64_t a = value(leader, field, i, hardware), b = value(follower, field, i, hardware);

            if (a == b)
                continue;
            differences++;
            if (used < size)
                used += (size_t)snprintf(text + used, size - used, "%s%s[%u] %#lx / %#lx", used ? ", " : "",
                                         field->name, i, a, b);
        }
    }
    return differences;
}

#define CHUNK 1024 /* pages */

/* A page that was swapped out would be taken for untouched. */
static void find_touched(unsigned char *touched, const struct mem_slot *slot, uint64_t at, unsigned pages)
{
    if (mincore(slot->host + at, pages * PAGE_SIZE, touched))
        memset(touched, 1, pages);
}

bool compare_next_page(const struct mem_slot *leader, const struct mem_slot *follower, uint64_t *at)
{
    unsigned char touched[2][CHUNK];

    while (*at < leader->size) {
        const unsigned pages = (unsigned)MIN((leader->size - *at) / PAGE_SIZE, CHUNK);

        find_touched(touched[0], leader, *at, pages);
        find_touched(touched[1], follower, *at, pages);
        for (unsigned i = 0; i < pages; i++, *at += PAGE_SIZE)
            if (((touched[0][i] | touched[1][i]) & 1) && memcmp(leader->host + *at, follower->host + *at, PAGE_SIZE))
                return true;
    }
    return false;
}

bool compare_memory(const struct mem *leader, const struct mem *follower, gpa_t *where)
{
    for (unsigned i = 0; i < mem_slot_count(leader); i++) {
        const struct mem_slot *a = mem_slot(leader, i), *b = mem_slot(follower, i);
        uint64_t at = 0;

        if (!compare_next_page(a, b, &at))
            continue;
        while (a->host[at] == b->host[at])
            at++;
        *where = a->gpa + at;
        return false;
    }
    return true;
}
