/*
 * x86/task.c: hardware task switches. The order is the SDM's (vol. 3, 7.3): all
 * that can fault in the old task is done first; then the new task's registers
 * are loaded, and what is wrong with them is the new task's fault.
 */
#include "x86/task.h"
#include "x86/segment.h"

#define DR6_BT     BIT(15)
#define DR7_LOCAL  0x155ull /* L0..L3, LE */
#define TASK_FLAGS 0x3f7fd7ull

/* The dynamic part of a TSS (SDM vol. 3, 7.2.1 and 7.6), the same for both sizes. */
struct task {
    uint32_t cr3, eip, eflags, gpr[8];
    uint16_t seg[6], ldt; /* seg: enum x86_seg */
    bool trap;
};

struct layout {
    uint8_t limit;                      /* least limit of the descriptor */
    uint8_t word;                       /* bytes of a register's slot */
    uint8_t first, size;                /* what the processor saves: EIP to the last segment */
    uint8_t eip, eflags, gpr, seg, ldt; /* offsets */
    uint8_t segs;
};
static const struct layout tss16 = {0x2b, 2, 0x0e, 0x1c, 0x0e, 0x10, 0x12, 0x22, 0x2a, 4};
static const struct layout tss32 = {0x67, 4, 0x20, 0x40, 0x20, 0x24, 0x28, 0x48, 0x60, 6};
#define TSS32_CR3  0x1c
#define TSS32_TRAP 0x64
#define TSS_MAX    0x68

static const struct layout *layout_of(const struct x86_segment *tss)
{
    return tss->attr & 8 ? &tss32 : &tss16;
}

static uint32_t get(const uint8_t *image, unsigned offset, unsigned size)
{
    uint32_t value = 0;

    memcpy(&value, image + offset, size);
    return value;
}

static enum x86_rc read_task(struct x86_cpu *cpu, const struct x86_segment *tss, struct task *task)
{
    const struct layout *l = layout_of(tss);
    uint8_t image[TSS_MAX];
    enum x86_rc rc = x86_system_read(cpu, (uint32_t)tss->base, image, l->limit + 1u);

    if (rc)
        return rc;
    *task = (struct task){.eip = get(image, l->eip, l->word), .eflags = get(image, l->eflags, l->word)};
    for (unsigned i = 0; i < 8; i++)
        task->gpr[i] = get(image, l->gpr + i * l->word, l->word);
    for (unsigned i = 0; i < l->segs; i++)
        task->seg[i] = (uint16_t)get(image, l->seg + i * l->word, 2);
    task->ldt = (uint16_t)get(image, l->ldt, 2);
    if (l == &tss32) {
        task->cr3 = get(image, TSS32_CR3, 4);
        task->trap = image[TSS32_TRAP] & 1;
    }
    return X86_NEXT;
}

static enum x86_rc save_task(struct x86_cpu *cpu, uint64_t rip, uint64_t rflags)
{
    const struct layout *l = layout_of(&cpu->tr);
    uint8_t image[TSS_MAX] = {0};

    memcpy(image + l->eip, &rip, l->word);
    memcpy(image + l->eflags, &rflags, l->word);
    for (unsigned i = 0; i < 8; i++)
        memcpy(image + l->gpr + i * l->word, &cpu->gpr[i], l->word);
    for (unsigned i = 0; i < l->segs; i++)
        memcpy(image + l->seg + i * l->word, &cpu->seg[i].selector, 2);
    return x86_system_write(cpu, (uint32_t)(cpu->tr.base + l->first), image + l->first, l->size);
}

/* The descriptor of the task to switch to. */
static enum x86_rc check_tss(struct x86_cpu *cpu, uint16_t selector, bool ret, struct x86_descriptor *d)
{
    uint8_t vector = ret ? VEC_TS : VEC_GP;
    uint32_t error = selector & SELECTOR_ERROR;
    unsigned type;
    enum x86_rc rc;

    if (x86_null_selector(selector) || (selector & SELECTOR_TI))
        return x86_raise_error(cpu, vector, error);
    rc = x86_read_descriptor(cpu, selector, vector, d);
    if (rc)
        return rc;
    type = x86_system_type(d->seg.attr);
    if (ret ? type != SYS_TSS_BUSY && type != SYS_TSS16_BUSY : type != SYS_TSS && type != SYS_TSS16)
        return x86_raise_error(cpu, vector, error);
    if (!(d->seg.attr & ATTR_P))
        return x86_raise_error(cpu, VEC_NP, error);
    if (d->seg.limit < layout_of(&d->seg)->limit)
        return x86_raise_error(cpu, VEC_TS, error);
    return X86_NEXT;
}

static enum x86_rc check_writable(struct x86_cpu *cpu, gva_t lin)
{
    gpa_t gpa;

    return x86_translate(cpu, lin, ACCESS_WRITE | ACCESS_IMPLICIT, &gpa);
}

static gva_t tr_descriptor(const struct x86_cpu *cpu)
{
    return (uint32_t)(cpu->gdtr.base + (cpu->tr.selector & ~7u));
}

/* All of the switch that the old task can fault in, and the memory it leaves behind. */
static enum x86_rc leave_task(struct x86_cpu *cpu, const struct x86_descriptor *d, enum x86_task_cause cause,
                              uint64_t rip, uint64_t rflags)
{
    bool nested = cause == TASK_CALL || cause == TASK_INT, ret = cause == TASK_IRET;
    uint16_t link = cpu->tr.selector;
    enum x86_rc rc;

    if (!(cpu->tr.attr & ATTR_P) || cpu->tr.limit < layout_of(&cpu->tr)->limit)
        return x86_raise_error(cpu, VEC_TS, cpu->tr.selector & SELECTOR_ERROR);
    rc = nested ? check_writable(cpu, (uint32_t)d->seg.base) : check_writable(cpu, tr_descriptor(cpu) + 5);
    if (!rc && !ret)
        rc = check_writable(cpu, d->lin + 5);
    if (!rc)
        rc = save_task(cpu, rip, ret ? rflags & ~(uint64_t)FLAG_NT : rflags);
    if (!rc)
        rc = nested ? x86_system_write(cpu, (uint32_t)d->seg.base, &link, 2)
                    : x86_set_busy(cpu, tr_descriptor(cpu), false);
    if (!rc && !ret)
        rc = x86_set_busy(cpu, d->lin, true);
    return rc;
}

/* Registers that are loaded before any descriptor is looked at; segments only as selectors. */
static void load_registers(struct x86_cpu *cpu, const struct task *task, bool nested)
{
    unsigned cpl = task->seg[SEG_CS] & SELECTOR_RPL;

    cpu->rip = task->eip;
    cpu->rflags = (task->eflags & TASK_FLAGS) | FLAG_FIXED | (nested ? FLAG_NT : 0);
    for (unsigned i = 0; i < 8; i++)
        cpu->gpr[i] = task->gpr[i];
    for (unsigned i = 0; i < 6; i++)
        cpu->seg[i] = (struct x86_segment){.selector = task->seg[i]};
    cpu->seg[SEG_SS].attr = (uint16_t)(cpl << ATTR_DPL_SHIFT);
    cpu->ldtr = (struct x86_segment){.selector = task->ldt};
    cpu->dr[7] &= ~DR7_LOCAL;
}

static enum x86_rc load_cs(struct x86_cpu *cpu, uint16_t selector)
{
    unsigned rpl = selector & SELECTOR_RPL;
    struct x86_descriptor d;
    enum x86_rc rc;

    if (x86_null_selector(selector))
        return x86_raise_error(cpu, VEC_TS, 0);
    rc = x86_read_descriptor(cpu, selector, VEC_TS, &d);
    if (rc)
        return rc;
    if (!x86_is_code(d.seg.attr) || (x86_is_conforming(d.seg.attr) ? x86_dpl(&d.seg) > rpl : x86_dpl(&d.seg) != rpl))
        return x86_raise_error(cpu, VEC_TS, selector & SELECTOR_ERROR);
    if (!(d.seg.attr & ATTR_P))
        return x86_raise_error(cpu, VEC_NP, selector & SELECTOR_ERROR);
    rc = x86_set_accessed(cpu, &d);
    if (!rc)
        cpu->seg[SEG_CS] = d.seg;
    return rc;
}

static enum x86_rc load_segments(struct x86_cpu *cpu, const struct task *task)
{
    static const uint8_t data[] = {SEG_DS, SEG_ES, SEG_FS, SEG_GS};
    unsigned cpl = task->seg[SEG_CS] & SELECTOR_RPL;
    enum x86_rc rc = x86_check_ldt(cpu, task->ldt, VEC_TS, VEC_TS, &cpu->ldtr);

    if (rc)
        return rc;
    if (cpu->rflags & FLAG_VM) {
        for (unsigned i = 0; i < 6; i++)
            cpu->seg[i] = x86_real_segment(cpu, i, task->seg[i]);
        return X86_NEXT;
    }
    rc = load_cs(cpu, task->seg[SEG_CS]);
    if (!rc)
        rc = x86_check_ss(cpu, task->seg[SEG_SS], cpl, false, VEC_TS, &cpu->seg[SEG_SS]);
    for (unsigned i = 0; i < ARRAY_SIZE(data) && !rc; i++)
        rc = x86_check_data(cpu, task->seg[data[i]], cpl, VEC_TS, &cpu->seg[data[i]]);
    return rc;
}

static enum x86_rc enter_task(struct x86_cpu *cpu, const struct x86_descriptor *d, enum x86_task_cause cause,
                              const struct task *task)
{
    enum x86_rc rc = X86_NEXT;

    cpu->tr = d->seg;
    cpu->tr.attr |= TYPE_BUSY;
    cpu->cr0 |= CR0_TS;
    load_registers(cpu, task, cause == TASK_CALL || cause == TASK_INT);
    x86_update_mode(cpu);
    if ((cpu->cr0 & CR0_PG) && layout_of(&d->seg) == &tss32 && task->cr3 != cpu->cr3)
        rc = x86_write_cr3(cpu, task->cr3);
    if (!rc)
        rc = load_segments(cpu, task);
    x86_update_mode(cpu);
    if (!rc && task->eip > cpu->seg[SEG_CS].limit)
        rc = x86_raise_gp(cpu, 0);
    return rc;
}

static enum x86_rc switch_task(struct x86_cpu *cpu, uint16_t selector, enum x86_task_cause cause, uint64_t rip,
                               const struct x86_delivery *delivery)
{
    struct x86_descriptor d;
    struct task task;
    enum x86_rc rc = check_tss(cpu, selector, cause == TASK_IRET, &d);

    if (!rc)
        rc = read_task(cpu, &d.seg, &task);
    if (!rc)
        rc = leave_task(cpu, &d, cause, rip, delivery ? delivery->rflags : cpu->rflags);
    if (!rc)
        rc = enter_task(cpu, &d, cause, &task);
    if (!rc && delivery && delivery->has_error) {
        struct x86_stack stack = x86_current_stack(cpu);
        uint64_t error = delivery->error;

        rc = x86_stack_push(cpu, &stack, &error, 1, layout_of(&d.seg)->word);
        if (!rc)
            x86_stack_load(cpu, &stack, cpu->gpr[RSP]);
    }
    if (!rc && task.trap) {
        rc = x86_raise(cpu, VEC_DB);
        cpu->exc.cr2 = DR6_BT;
    }
    return rc ? rc : X86_JUMP;
}

enum x86_rc x86_task_switch(struct x86_cpu *cpu, uint16_t selector, enum x86_task_cause cause, uint64_t rip)
{
    return switch_task(cpu, selector, cause, rip, NULL);
}

enum x86_rc x86_task_interrupt(struct x86_cpu *cpu, uint16_t selector, const struct x86_delivery *d)
{
    return switch_task(cpu, selector, TASK_INT, d->rip, d);
}

enum x86_rc x86_task_return(struct x86_cpu *cpu, uint64_t rip)
{
    uint16_t link;
    enum x86_rc rc = x86_system_read(cpu, (uint32_t)cpu->tr.base, &link, 2);

    return rc ? rc : switch_task(cpu, link, TASK_IRET, rip, NULL);
}
