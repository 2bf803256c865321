/* tests/unit/test_task.c: hardware task switches. */
#include "guest.h"
#include "x86/intr.h"

#define TARGET 0x12340
#define T2     (TSS2 | 3)

/* The second task, 32-bit, at privilege 3. */
static void build_task(struct guest *g)
{
    poke(g, TSS2_AT + 0x20, TARGET, 4);
    poke(g, TSS2_AT + 0x24, FLAG_FIXED | FLAG_ZF, 4);
    for (unsigned i = 0; i < 8; i++)
        poke(g, TSS2_AT + 0x28 + 4 * i, 0x11111111 * (i + 1), 4);
    poke(g, TSS2_AT + 0x38, STACK3, 4);
    poke(g, TSS2_AT + 0x48, DATA3, 2);
    poke(g, TSS2_AT + 0x4c, CODE3, 2);
    poke(g, TSS2_AT + 0x50, DATA3, 2);
    poke(g, TSS2_AT + 0x54, DATA3, 2);
    poke(g, TSS2_AT + 0x58, 0, 2);
    poke(g, TSS2_AT + 0x5c, 0, 2);
    poke(g, TSS2_AT + 0x60, LDT, 2);
}

static void begin(struct guest *g)
{
    guest_protected(g, 0);
    build_task(g);
    for (unsigned i = 0; i < 8; i++)
        if (i != RSP)
            g->cpu.gpr[i] = 0xa0a0a0a0 + i;
}

static enum x86_rc far_to(struct guest *g, uint8_t opcode, uint16_t selector)
{
    return EXEC_BYTES(g, opcode, 0, 0, 0, 0, (uint8_t)selector, (uint8_t)(selector >> 8));
}
#define JMP  0xea
#define CALL 0x9a

static unsigned tss_type(const struct guest *g, uint16_t selector)
{
    return peek(g, GDT_AT + (selector & ~7u) + 5, 1) & 0xf;
}

static void expect_second_task(const struct guest *g)
{
    const struct x86_cpu *cpu = &g->cpu;

    assert_int_equal(cpu->rip, TARGET);
    assert_int_equal(cpu->cpl, 3);
    assert_int_equal(cpu->gpr[RAX], 0x11111111);
    assert_int_equal(cpu->gpr[RDI], 0x88888888);
    assert_int_equal(cpu->seg[SEG_CS].selector, CODE3);
    assert_int_equal(cpu->seg[SEG_SS].selector, DATA3);
    assert_false(cpu->seg[SEG_FS].attr & ATTR_P);
    assert_int_equal(cpu->ldtr.selector, LDT);
    assert_int_equal(cpu->ldtr.base, LDT_AT);
    assert_int_equal(cpu->tr.base, TSS2_AT);
    assert_true(cpu->cr0 & CR0_TS);
    assert_int_equal(tss_type(g, TSS2), SYS_TSS_BUSY);
}

static void call_and_iret(void **state)
{
    struct guest *g = *state;
    struct x86_cpu *cpu = &g->cpu;

    begin(g);
    cpu->dr[7] = 0x4ff;
    assert_int_equal(far_to(g, CALL, TSS2), X86_JUMP);
    expect_second_task(g);
    assert_int_equal(cpu->gpr[RSP], STACK3);
    assert_int_equal(cpu->rflags, FLAG_FIXED | FLAG_ZF | FLAG_NT);
    assert_int_equal(cpu->dr[7], 0x4aa);
    assert_int_equal(tss_type(g, TSS), SYS_TSS_BUSY);
    assert_int_equal(peek(g, TSS2_AT, 2), TSS);
    assert_int_equal(peek(g, TSS_AT + 0x20, 4), CODE_AT + 7);
    assert_int_equal(peek(g, TSS_AT + 0x24, 4), FLAG_FIXED | FLAG_IF);
    assert_int_equal(peek(g, TSS_AT + 0x28, 4), 0xa0a0a0a0);
    assert_int_equal(peek(g, TSS_AT + 0x38, 4), STACK0);
    assert_int_equal(peek(g, TSS_AT + 0x4c, 2), CODE0);

    assert_int_equal(EXEC_BYTES(g, 0xcf), X86_JUMP); /* iret: NT */
    assert_int_equal(cpu->rip, CODE_AT + 7);
    assert_int_equal(cpu->cpl, 0);
    assert_int_equal(cpu->tr.base, TSS_AT);
    assert_int_equal(cpu->gpr[RCX], 0xa0a0a0a1);
    assert_int_equal(cpu->rflags, FLAG_FIXED | FLAG_IF);
    assert_int_equal(tss_type(g, TSS2), SYS_TSS);
    assert_int_equal(tss_type(g, TSS), SYS_TSS_BUSY);
    assert_int_equal(peek(g, TSS2_AT + 0x24, 4), FLAG_FIXED | FLAG_ZF);
    assert_int_equal(peek(g, TSS2_AT + 0x20, 4), TARGET + 1);
}

static void jump(void **state)
{
    struct guest *g = *state;

    begin(g);
    assert_int_equal(far_to(g, JMP, TSS2), X86_JUMP);
    expect_second_task(g);
    assert_int_equal(tss_type(g, TSS), SYS_TSS);
    assert_false(g->cpu.rflags & FLAG_NT);
    assert_int_equal(peek(g, TSS2_AT, 2), 0);
    expect_fault(g, far_to(g, JMP, T2), VEC_GP, TSS2); /* busy */
}

static void through_gates(void **state)
{
    struct guest *g = *state;

    begin(g);
    set_gdt(g, GATE, gate(TSS2, 0, ATTR_P | SYS_TASK_GATE));
    assert_int_equal(far_to(g, JMP, GATE), X86_JUMP);
    expect_second_task(g);

    begin(g);
    poke(g, IDT_AT + 8 * VEC_GP, gate(TSS2, 0, ATTR_P | SYS_TASK_GATE), 8);
    x86_raise_gp(&g->cpu, 0x1234);
    x86_deliver_exception(&g->cpu);
    expect_second_task(g);
    assert_true(g->cpu.rflags & FLAG_NT);
    assert_int_equal(g->cpu.gpr[RSP], STACK3 - 4);
    assert_int_equal(peek(g, STACK3 - 4, 4), 0x1234);
    assert_int_equal(peek(g, TSS_AT + 0x20, 4), CODE_AT);
    assert_int_equal(peek(g, TSS_AT + 0x24, 4), FLAG_FIXED | FLAG_IF | FLAG_RF);
    g->cpu.gpr[RSP] += 4;
    assert_int_equal(EXEC_BYTES(g, 0xcf), X86_JUMP);
    assert_int_equal(g->cpu.rip, CODE_AT);
    assert_int_equal(g->cpu.cpl, 0);
}

static void sixteen_bits(void **state)
{
    struct guest *g = *state;
    struct x86_cpu *cpu = &g->cpu;
    const uint16_t seg[] = {DATA0, CODE16, DATA16, DATA0};

    begin(g);
    set_gdt(g, TSS2, descriptor(TSS2_AT, 0x2b, ATTR_P | SYS_TSS16));
    poke(g, TSS2_AT + 0x0e, 0x1234, 2);
    poke(g, TSS2_AT + 0x10, FLAG_FIXED | FLAG_CF, 2);
    for (unsigned i = 0; i < 8; i++)
        poke(g, TSS2_AT + 0x12 + 2 * i, 0x1111 * (i + 1), 2);
    for (unsigned i = 0; i < 4; i++)
        poke(g, TSS2_AT + 0x22 + 2 * i, seg[i], 2);
    poke(g, TSS2_AT + 0x2a, 0, 2);
    assert_int_equal(far_to(g, CALL, TSS2), X86_JUMP);
    assert_int_equal(cpu->mode, MODE_PROT16);
    assert_int_equal(cpu->rip, 0x1234);
    assert_int_equal(cpu->gpr[RDI] & 0xffff, 0x8888);
    assert_int_equal(cpu->rflags, FLAG_FIXED | FLAG_CF | FLAG_NT);
    assert_int_equal(cpu->seg[SEG_SS].selector, DATA16);
    assert_int_equal(EXEC_BYTES(g, 0xcf), X86_JUMP);
    assert_int_equal(cpu->mode, MODE_PROT32);
    assert_int_equal(peek(g, TSS2_AT + 0x0e, 2), 0x1235);
    assert_int_equal(peek(g, TSS2_AT + 0x10, 2), FLAG_FIXED | FLAG_CF);
    assert_int_equal(peek(g, TSS2_AT + 0x24, 2), CODE16);
}

static void to_virtual_8086(void **state)
{
    struct guest *g = *state;

    begin(g);
    poke(g, TSS2_AT + 0x20, 0x100, 4);
    poke(g, TSS2_AT + 0x24, FLAG_FIXED | FLAG_VM, 4);
    poke(g, TSS2_AT + 0x4c, 0x800, 2);
    assert_int_equal(far_to(g, JMP, TSS2), X86_JUMP);
    assert_int_equal(g->cpu.mode, MODE_VM86);
    assert_int_equal(g->cpu.cpl, 3);
    assert_int_equal(g->cpu.seg[SEG_CS].base, 0x8000);
    assert_int_equal(g->cpu.seg[SEG_DS].base, DATA3 << 4);
}

/* Before the switch: the old task's faults, with nothing changed. */
static void faults_of_the_old_task(void **state)
{
    static const struct {
        uint16_t selector;
        unsigned attr, limit;
        uint8_t vector;
        uint16_t error;
    } cases[] = {
        {TSS2, ATTR_P | SYS_TSS_BUSY, 0x67, VEC_GP, TSS2}, {TSS2, SYS_TSS, 0x67, VEC_NP, TSS2},
        {TSS2, ATTR_P | SYS_TSS, 0x66, VEC_TS, TSS2},      {TSS2, ATTR_P | SYS_TSS16, 0x2a, VEC_TS, TSS2},
        {TSS2 | 3, ATTR_P | SYS_TSS, 0x67, VEC_GP, TSS2},
    };
    struct guest *g = *state;

    for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
        begin(g);
        set_gdt(g, TSS2, descriptor(TSS2_AT, cases[i].limit, cases[i].attr));
        expect_fault(g, far_to(g, CALL, cases[i].selector), cases[i].vector, cases[i].error);
        assert_int_equal(g->cpu.rip, CODE_AT);
        assert_int_equal(g->cpu.tr.base, TSS_AT);
        assert_int_equal(tss_type(g, TSS), SYS_TSS_BUSY);
        assert_int_equal(peek(g, TSS2_AT, 2), 0);
    }
    begin(g);
    g->cpu.rflags |= FLAG_NT;
    poke(g, TSS_AT, TSS2, 2); /* IRET wants a busy one */
    expect_fault(g, EXEC_BYTES(g, 0xcf), VEC_TS, TSS2);
}

/* After it: the new task's. */
static void faults_of_the_new_task(void **state)
{
    static const struct {
        unsigned offset;
        uint32_t value;
        uint8_t vector;
        uint16_t error;
    } cases[] = {
        {0x4c, DATA3, VEC_TS, DATA3 & ~3u}, {0x4c, 0, VEC_TS, 0},         {0x4c, CODE0 | 3, VEC_TS, CODE0},
        {0x50, DATA0, VEC_TS, DATA0},       {0x50, 0, VEC_TS, 0},         {0x54, DATA0, VEC_TS, DATA0},
        {0x48, GDT_END, VEC_TS, GDT_END},   {0x60, DATA0, VEC_TS, DATA0}, {0x60, TSS2 | 4, VEC_TS, TSS2 | 4},
    };
    struct guest *g = *state;

    for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
        begin(g);
        poke(g, TSS2_AT + cases[i].offset, cases[i].value, 2);
        expect_fault(g, far_to(g, JMP, TSS2), cases[i].vector, cases[i].error);
        assert_int_equal(g->cpu.rip, TARGET);
        assert_int_equal(g->cpu.tr.base, TSS2_AT);
        assert_int_equal(g->cpu.cpl, cases[i].offset == 0x4c ? cases[i].value & 3 : 3);
    }
    begin(g);
    set_gdt(g, CODE3, descriptor(0, TARGET - 1, ATTR_P | ATTR_S | ATTR_CODE | ATTR_DB | ATTR_DPL));
    expect_fault(g, far_to(g, JMP, TSS2), VEC_GP, 0);
    assert_int_equal(g->cpu.rip, TARGET);
}

static void debug_trap(void **state)
{
    struct guest *g = *state;

    begin(g);
    poke(g, TSS2_AT + 0x64, 1, 1);
    set_gate(g, VEC_DB, CODE0, ATTR_P | SYS_INT, 0);
    assert_int_equal(far_to(g, JMP, TSS2), X86_FAULT);
    expect_second_task(g);
    poke(g, TSS2_AT + 4, STACK1, 4);
    poke(g, TSS2_AT + 8, DATA0, 2);
    x86_deliver_exception(&g->cpu);
    assert_int_equal(g->cpu.rip, HANDLER + 16 * VEC_DB);
    assert_int_equal(g->cpu.dr[6], 0xffff8ff0);
    assert_int_equal(peek(g, STACK1 - 20, 4), TARGET);
}

static void none_in_long_mode(void **state)
{
    struct guest *g = *state;

    guest_long(g, 0);
    poke(g, CODE_AT + 0x100, (uint64_t)TSS2 << 32, 6);
    set_gdt(g, TSS2 + 8, 0);
    g->cpu.gpr[RBX] = CODE_AT + 0x100;
    expect_fault(g, EXEC_BYTES(g, 0xff, 0x2b), VEC_GP, TSS2);
    set_gate(g, 0x30, TSS2, ATTR_P | SYS_TASK_GATE, 0);
    expect_fault(g, EXEC_BYTES(g, 0xcd, 0x30), VEC_GP, 0x30 * 8 + 2);
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, guest_setup, guest_teardown)
    const struct CMUnitTest tests[] = {
        T(call_and_iret),          T(jump),
        T(through_gates),          T(sixteen_bits),
        T(to_virtual_8086),        T(faults_of_the_old_task),
        T(faults_of_the_new_task), T(debug_trap),
        T(none_in_long_mode),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
