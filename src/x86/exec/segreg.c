/*
 * x86/exec/segreg.c: instructions that move segment registers.
 */
#include "x86/exec/far.h"
#include "x86/exec/system.h"

static void assign(struct x86_cpu *cpu, unsigned seg, const struct x86_segment *value)
{
    cpu->seg[seg] = *value;
    x86_update_mode(cpu);
}

EXEC(mov_to_seg)
{
    struct x86_segment value;
    uint64_t selector = X86_GPR16(cpu, in->r1);
    enum x86_rc rc;

    if (in->shape != SHAPE_RR) {
        rc = x86_read_operand(cpu, in, &selector, 2);
        if (rc)
            return rc;
    }
    rc = x86_check_segment_load(cpu, in->r0, (uint16_t)selector, &value);
    if (rc)
        return rc;
    assign(cpu, in->r0, &value);
    if (in->r0 == SEG_SS)
        cpu->int_shadow = SHADOW_MOV_SS;
    return X86_NEXT;
}

EXEC(mov_from_seg) /* arg: the segment register */
{
    uint16_t selector = cpu->seg[in->arg].selector;

    if (in->shape == SHAPE_MR)
        return x86_write_operand(cpu, in, selector, 2);
    x86_set_gpr(cpu, in->r0, in->w0, selector);
    return X86_NEXT;
}

EXEC(push_seg)
{
    return x86_push(cpu, cpu->seg[in->r0].selector, in->opsize);
}

EXEC(pop_seg)
{
    struct x86_stack stack = x86_current_stack(cpu);
    struct x86_segment value;
    uint64_t selector = 0;
    enum x86_rc rc = x86_read(cpu, SEG_SS, stack.sp & stack.mask, &selector, in->opsize);

    if (rc)
        return rc;
    rc = x86_check_segment_load(cpu, in->r0, (uint16_t)selector, &value);
    if (rc)
        return rc;
    x86_set_gpr(cpu, RSP * 8, cpu->stack_size, cpu->gpr[RSP] + in->opsize);
    assign(cpu, in->r0, &value);
    if (in->r0 == SEG_SS)
        cpu->int_shadow = SHADOW_MOV_SS;
    return X86_NEXT;
}

EXEC(load_far_pointer) /* arg: the segment register */
{
    struct x86_segment value;
    uint64_t offset;
    uint16_t selector;
    enum x86_rc rc = x86_read_far_pointer(cpu, in, &offset, &selector);

    if (rc)
        return rc;
    rc = x86_check_segment_load(cpu, in->arg, selector, &value);
    if (rc)
        return rc;
    x86_set_gpr(cpu, in->r0, in->opsize, offset);
    assign(cpu, in->arg, &value);
    return X86_NEXT;
}
