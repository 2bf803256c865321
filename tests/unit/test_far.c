/* tests/unit/test_far.c: far jumps, calls and returns. */
#include "guest.h"

#define CODE_ATTR (ATTR_P | ATTR_S | ATTR_CODE | ATTR_READABLE)
#define CALL_GATE (ATTR_P | SYS_CALL | ATTR_DPL)
#define GATE_USER (GATE | 3)
#define TARGET    0x12340

static void set_call_gate(struct guest *g, uint16_t selector, uint32_t offset, unsigned attr, unsigned params)
{
    set_gdt(g, GATE, gate(selector, offset, attr) | (uint64_t)params << 32);
    if (x86_long_mode(&g->cpu))
        set_gdt(g, GATE + 8, 0);
}

/* JMP or CALL ptr16:32. */
static enum x86_rc far_pointer(struct guest *g, uint8_t opcode, uint16_t selector, uint32_t offset)
{
    return EXEC_BYTES(g, opcode, (uint8_t)offset, (uint8_t)(offset >> 8), (uint8_t)(offset >> 16),
                      (uint8_t)(offset >> 24), (uint8_t)selector, (uint8_t)(selector >> 8));
}
#define JMP  0xea
#define CALL 0x9a

static void real_mode(void **state)
{
    struct guest *g = *state;
    struct x86_cpu *cpu = &g->cpu;

    guest_real(g);
    assert_int_equal(EXEC_BYTES(g, CALL, 0x34, 0x12, 0x00, 0x10), X86_JUMP);
    assert_int_equal(cpu->rip, 0x1234);
    assert_int_equal(cpu->seg[SEG_CS].base, 0x10000);
    assert_int_equal(peek(g, 0x6ffc, 4), CODE_AT + 5);
    assert_int_equal(EXEC_BYTES(g, 0xca, 0x02, 0x00), X86_JUMP); /* retf 2 */
    assert_int_equal(cpu->rip, CODE_AT + 5);
    assert_int_equal(cpu->seg_base[SEG_CS], 0);
    assert_int_equal(cpu->gpr[RSP], 0x7002);
    expect_fault(g, EXEC_BYTES(g, 0x66, JMP, 0, 0, 1, 0, 0, 0), VEC_GP, 0); /* offset 64 KiB */
}

/* To protected mode and on to 64-bit mode, as boot code does it. */
static void mode_switches(void **state)
{
    struct guest *g = *state;
    struct x86_cpu *cpu = &g->cpu;

    guest_long(g, 0); /* tables */
    cpu->cr0 = CR0_ET;
    cpu->cr4 = 0;
    cpu->msr.efer = 0;
    guest_real(g);
    poke(g, 0x500, GDT_END - 1 + ((uint64_t)GDT_AT << 16), 6);
    assert_int_equal(EXEC_BYTES(g, 0x0f, 0x01, 0x16, 0x00, 0x05), X86_NEXT); /* lgdt [0x500] */
    cpu->gpr[RAX] = cpu->cr0 | CR0_PE;
    assert_int_equal(EXEC_BYTES(g, 0x0f, 0x22, 0xc0), X86_NEXT);
    assert_int_equal(cpu->mode, MODE_PROT16);
    assert_int_equal(EXEC_BYTES(g, 0x66, JMP, 0x00, 0x80, 0x00, 0x00, CODE0, 0x00), X86_JUMP);
    assert_int_equal(cpu->mode, MODE_PROT32);
    cpu->gpr[RAX] = CR4_PAE;
    assert_int_equal(EXEC_BYTES(g, 0x0f, 0x22, 0xe0), X86_NEXT);
    cpu->gpr[RCX] = 0xc0000080;
    cpu->gpr[RAX] = EFER_LME;
    cpu->gpr[RDX] = 0;
    assert_int_equal(EXEC_BYTES(g, 0x0f, 0x30), X86_NEXT);
    cpu->gpr[RAX] = PAGES_AT;
    assert_int_equal(EXEC_BYTES(g, 0x0f, 0x22, 0xd8), X86_NEXT);
    cpu->gpr[RAX] = CR0_PE | CR0_PG;
    assert_int_equal(EXEC_BYTES(g, 0x0f, 0x22, 0xc0), X86_NEXT);
    assert_int_equal(cpu->mode, MODE_COMPAT32);
    assert_int_equal(far_pointer(g, JMP, CODE64, CODE_AT), X86_JUMP);
    assert_int_equal(cpu->mode, MODE_LONG64);
    /* and back: push CODE0; push target; retf */
    poke(g, STACK0, 0x9000, 4);
    poke(g, STACK0 + 4, CODE0, 4);
    cpu->gpr[RSP] = STACK0;
    assert_int_equal(EXEC_BYTES(g, 0xcb), X86_JUMP);
    assert_int_equal(cpu->mode, MODE_COMPAT32);
    assert_int_equal(cpu->rip, 0x9000);
    assert_int_equal(cpu->gpr[RSP], STACK0 + 8);
}

static void direct(void **state)
{
    static const struct {
        uint16_t selector;
        uint32_t offset;
        unsigned cpl;
        uint8_t vector; /* 0: goes through */
        uint16_t error;
        uint16_t cs;
    } cases[] = {
        {CODE0, TARGET, 0, 0, 0, CODE0},
        {CODE0 | 3, TARGET, 0, VEC_GP, CODE0, 0},
        {CODE0, TARGET, 3, VEC_GP, CODE0, 0},
        {CODE3, TARGET, 3, 0, 0, CODE3},
        {CODE3 & ~3u, TARGET, 3, 0, 0, CODE3},
        {CODE3, TARGET, 0, VEC_GP, CODE3 & ~3u, 0},
        {CONFORMING, TARGET, 3, 0, 0, CONFORMING | 3},
        {CONFORMING | 3, TARGET, 0, 0, 0, CONFORMING},
        {CODE16, 0xffff, 0, 0, 0, CODE16},
        {CODE16, 0x10000, 0, VEC_GP, 0, 0},
        {0, TARGET, 0, VEC_GP, 0, 0},
        {3, TARGET, 0, VEC_GP, 0, 0},
        {GDT_END, TARGET, 0, VEC_GP, GDT_END, 0},
        {DATA0, TARGET, 0, VEC_GP, DATA0, 0},
        {LDT, TARGET, 0, VEC_GP, LDT, 0},
        {TSS, TARGET, 0, VEC_GP, TSS, 0},             /* busy */
        {CODE0 | 4, TARGET, 0, VEC_GP, CODE0 | 4, 0}, /* no LDT */
    };
    struct guest *g = *state;

    for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
        guest_protected(g, cases[i].cpl);
        enum x86_rc rc = far_pointer(g, JMP, cases[i].selector, cases[i].offset);

        if (cases[i].vector) {
            expect_fault(g, rc, cases[i].vector, cases[i].error);
            assert_int_equal(g->cpu.rip, CODE_AT);
            continue;
        }
        assert_int_equal(rc, X86_JUMP);
        assert_int_equal(g->cpu.rip, cases[i].offset);
        assert_int_equal(g->cpu.seg[SEG_CS].selector, cases[i].cs);
        assert_int_equal(g->cpu.cpl, cases[i].cpl);
        assert_true(peek(g, GDT_AT + (cases[i].selector & ~7u) + 5, 1) & ATTR_ACCESSED);
    }
    guest_protected(g, 0);
    set_gdt(g, CODE16, descriptor(0, 0xffff, CODE_ATTR & ~ATTR_P));
    expect_fault(g, far_pointer(g, JMP, CODE16, 0), VEC_NP, CODE16);
}

static void call_and_return(void **state)
{
    struct guest *g = *state;
    struct x86_cpu *cpu = &g->cpu;

    guest_protected(g, 3);
    assert_int_equal(far_pointer(g, CALL, CONFORMING, TARGET), X86_JUMP);
    assert_int_equal(cpu->gpr[RSP], STACK3 - 8);
    assert_int_equal(peek(g, STACK3 - 8, 4), CODE_AT + 7);
    assert_int_equal(peek(g, STACK3 - 4, 4), CODE3);
    assert_int_equal(EXEC_BYTES(g, 0xcb), X86_JUMP);
    assert_int_equal(cpu->rip, CODE_AT + 7);
    assert_int_equal(cpu->gpr[RSP], STACK3);
    poke(g, STACK3 + 4, CODE0, 4); /* not inwards */
    expect_fault(g, EXEC_BYTES(g, 0xcb), VEC_GP, CODE0);
}

/* Privilege 3 calls privilege 0 with three parameters, which RETF releases on both stacks. */
static void call_gate_32(void **state)
{
    struct guest *g = *state;
    struct x86_cpu *cpu = &g->cpu;

    guest_protected(g, 3);
    set_call_gate(g, CODE0, TARGET, CALL_GATE, 3);
    for (unsigned i = 0; i < 3; i++)
        poke(g, STACK3 - 12 + 4 * i, 0x100 + i, 4);
    cpu->gpr[RSP] = STACK3 - 12;
    assert_int_equal(far_pointer(g, CALL, GATE_USER, 0xdeadbeef), X86_JUMP);
    assert_int_equal(cpu->cpl, 0);
    assert_int_equal(cpu->rip, TARGET);
    assert_int_equal(cpu->seg[SEG_CS].selector, CODE0);
    assert_int_equal(cpu->seg[SEG_SS].selector, DATA0);
    assert_int_equal(cpu->gpr[RSP], STACK0 - 28);
    assert_int_equal(peek(g, STACK0 - 28, 4), CODE_AT + 7);
    assert_int_equal(peek(g, STACK0 - 24, 4), CODE3);
    for (unsigned i = 0; i < 3; i++)
        assert_int_equal(peek(g, STACK0 - 20 + 4 * i, 4), 0x100 + i);
    assert_int_equal(peek(g, STACK0 - 8, 4), STACK3 - 12);
    assert_int_equal(peek(g, STACK0 - 4, 4), DATA3);

    cpu->seg[SEG_FS] = cpu->seg[SEG_SS];
    assert_int_equal(EXEC_BYTES(g, 0xca, 12, 0), X86_JUMP);
    assert_int_equal(cpu->cpl, 3);
    assert_int_equal(cpu->rip, CODE_AT + 7);
    assert_int_equal(cpu->gpr[RSP], STACK3);
    assert_int_equal(cpu->seg[SEG_FS].selector, 0);
    assert_int_equal(cpu->seg[SEG_DS].selector, DATA3);
}

static void call_gate_16(void **state)
{
    struct guest *g = *state;

    guest_protected(g, 3);
    set_call_gate(g, CODE1, 0x55551234, ATTR_P | SYS_CALL16 | ATTR_DPL, 1);
    poke(g, STACK3, 0xabcd, 2);
    assert_int_equal(far_pointer(g, CALL, GATE_USER, 0), X86_JUMP);
    assert_int_equal(g->cpu.cpl, 1);
    assert_int_equal(g->cpu.rip, 0x1234);
    assert_int_equal(g->cpu.gpr[RSP], STACK1 - 10);
    assert_int_equal(peek(g, STACK1 - 6, 2), 0xabcd);
    assert_int_equal(peek(g, STACK1 - 4, 2), STACK3 & 0xffff);
    assert_int_equal(EXEC_BYTES(g, 0x66, 0xca, 2, 0), X86_JUMP);
    assert_int_equal(g->cpu.cpl, 3);
    assert_int_equal(g->cpu.gpr[RSP], (STACK3 & 0xffff) + 2);
}

static void call_gate_faults(void **state)
{
    static const struct {
        uint8_t opcode;
        uint16_t target;
        unsigned attr;
        uint8_t vector;
        uint16_t error;
    } cases[] = {
        {CALL, CODE0, CALL_GATE & ~ATTR_DPL, VEC_GP, GATE},
        {CALL, CODE0, CALL_GATE & ~ATTR_P, VEC_NP, GATE},
        {CALL, 0, CALL_GATE, VEC_GP, 0},
        {CALL, DATA0, CALL_GATE, VEC_GP, DATA0},
        {CALL, GDT_END, CALL_GATE, VEC_GP, GDT_END},
        {JMP, CODE0, CALL_GATE, VEC_GP, CODE0}, /* a jump does not gain privilege */
    };
    struct guest *g = *state;

    for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
        guest_protected(g, 3);
        set_call_gate(g, cases[i].target, TARGET, cases[i].attr, 0);
        expect_fault(g, far_pointer(g, cases[i].opcode, GATE_USER, 0), cases[i].vector, cases[i].error);
        assert_int_equal(g->cpu.gpr[RSP], STACK3);
    }
    guest_protected(g, 3);
    set_call_gate(g, CONFORMING, TARGET, CALL_GATE, 0);
    assert_int_equal(far_pointer(g, JMP, GATE_USER, 0), X86_JUMP);
    assert_int_equal(g->cpu.cpl, 3);
}

/* Nothing may be pushed below a stack segment's limit: #SS of the new stack. */
static void call_gate_without_room(void **state)
{
    struct guest *g = *state;

    guest_protected(g, 3);
    set_call_gate(g, CODE0, TARGET, CALL_GATE, 0);
    set_gdt(g, DATA16, descriptor(0, 0xffff, ATTR_P | ATTR_S | ATTR_WRITABLE));
    poke(g, TSS_AT + 4, 6, 4);
    poke(g, TSS_AT + 8, DATA16, 2);
    expect_fault(g, far_pointer(g, CALL, GATE_USER, 0), VEC_SS, DATA16);
}

static void call_gate_64(void **state)
{
    struct guest *g = *state;
    struct x86_cpu *cpu = &g->cpu;

    guest_long(g, 3);
    set_call_gate(g, CODE64, TARGET, CALL_GATE, 0);
    poke(g, CODE_AT + 0x100, (uint64_t)GATE_USER << 32, 6);
    cpu->gpr[RBX] = CODE_AT + 0x100;
    cpu->gpr[RSP] = STACK3 - 4;
    assert_int_equal(EXEC_BYTES(g, 0xff, 0x1b), X86_JUMP); /* call far [rbx] */
    assert_int_equal(cpu->cpl, 0);
    assert_int_equal(cpu->rip, TARGET);
    assert_int_equal(cpu->gpr[RSP], STACK0 - 32);
    assert_int_equal(cpu->seg[SEG_SS].selector, 0);
    assert_int_equal(peek(g, STACK0 - 32, 8), CODE_AT + 2);
    assert_int_equal(peek(g, STACK0 - 24, 8), USER64);
    assert_int_equal(peek(g, STACK0 - 16, 8), STACK3 - 4);
    assert_int_equal(peek(g, STACK0 - 8, 8), DATA3);
    assert_int_equal(EXEC_BYTES(g, 0x48, 0xcb), X86_JUMP);
    assert_int_equal(cpu->cpl, 3);
    assert_int_equal(cpu->gpr[RSP], STACK3 - 4);

    set_gdt(g, GATE + 8, 0x1f00ull << 32); /* the upper half must not look like a descriptor */
    expect_fault(g, EXEC_BYTES(g, 0xff, 0x1b), VEC_GP, GATE);
    set_gdt(g, GATE + 8, 0x800000);
    expect_fault(g, EXEC_BYTES(g, 0xff, 0x1b), VEC_GP, 0); /* not canonical */
    set_call_gate(g, CODE0, TARGET, CALL_GATE, 0);
    expect_fault(g, EXEC_BYTES(g, 0xff, 0x1b), VEC_GP, CODE0); /* not 64-bit */
    set_call_gate(g, CODE64, TARGET, ATTR_P | SYS_CALL16 | ATTR_DPL, 0);
    expect_fault(g, EXEC_BYTES(g, 0xff, 0x1b), VEC_GP, GATE);
}

static void outer_return_faults(void **state)
{
    static const struct {
        uint16_t cs, ss;
        uint32_t eip;
        uint8_t vector;
        uint16_t error;
    } cases[] = {
        {0, DATA3, 0, VEC_GP, 0},
        {CODE3, 0, 0, VEC_GP, 0},
        {CODE3, DATA0, 0, VEC_GP, DATA0},
        {CODE3, DATA0 | 3, 0, VEC_GP, DATA0},
        {CODE3, CODE3, 0, VEC_GP, CODE3 & ~3u},
        {CODE0 | 3, DATA3, 0, VEC_GP, CODE0},
        {DATA3, DATA3, 0, VEC_GP, DATA3 & ~3u},
        {GDT_END | 3, DATA3, 0, VEC_GP, GDT_END},
        {CODE3, ABSENT | 3, 0, VEC_SS, ABSENT},
        {CODE16 | 3, DATA3, 0x10000, VEC_GP, 0},
    };
    struct guest *g = *state;

    for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
        for (unsigned iret = 0; iret < 2; iret++) {
            uint64_t sp = STACK0 - 20;

            guest_protected(g, 0);
            set_gdt(g, ABSENT, descriptor(0, 0xffffffff, ATTR_S | ATTR_WRITABLE | ATTR_DPL));
            set_gdt(g, CODE16, descriptor(0, 0xffff, CODE_ATTR | ATTR_DPL));
            g->cpu.gpr[RSP] = sp;
            poke(g, sp, cases[i].eip, 4);
            poke(g, sp + 4, cases[i].cs, 4);
            sp += 8;
            if (iret)
                poke(g, sp, FLAG_FIXED, 4), sp += 4;
            poke(g, sp, STACK3, 4);
            poke(g, sp + 4, cases[i].ss, 4);
            expect_fault(g, iret ? EXEC_BYTES(g, 0xcf) : EXEC_BYTES(g, 0xcb), cases[i].vector, cases[i].error);
            assert_int_equal(g->cpu.cpl, 0);
            assert_int_equal(g->cpu.gpr[RSP], STACK0 - 20);
        }
    }
}

static void iretq_to_null_ss(void **state)
{
    struct guest *g = *state;
    const uint64_t frame[] = {TARGET, CODE64, FLAG_FIXED, STACK0 - 256, 0};

    guest_long(g, 0);
    g->cpu.gpr[RSP] = STACK0 - 64;
    for (unsigned i = 0; i < 5; i++)
        poke(g, STACK0 - 64 + 8 * i, frame[i], 8);
    assert_int_equal(EXEC_BYTES(g, 0x48, 0xcf), X86_JUMP);
    assert_int_equal(g->cpu.gpr[RSP], STACK0 - 256);
    assert_int_equal(g->cpu.cpl, 0);
    g->cpu.gpr[RSP] = STACK0 - 64;
    poke(g, STACK0 - 64 + 8, USER64, 8);
    expect_fault(g, EXEC_BYTES(g, 0x48, 0xcf), VEC_GP, 0);
    poke(g, STACK0 - 64 + 32, DATA3, 8);
    poke(g, STACK0 - 64, 0x800000000000, 8);
    expect_fault(g, EXEC_BYTES(g, 0x48, 0xcf), VEC_GP, 0);
    g->cpu.rflags |= FLAG_NT;
    expect_fault(g, EXEC_BYTES(g, 0x48, 0xcf), VEC_GP, 0);
}

/* What IRET may change in RFLAGS at each privilege level. */
static void iret_flags(void **state)
{
    struct guest *g = *state;
    const uint32_t all = 0x3f7fd7 & ~FLAG_VM;

    for (unsigned cpl = 0; cpl <= 3; cpl += 3) {
        uint64_t sp = (cpl ? STACK3 : STACK0) - 12;

        guest_protected(g, cpl);
        poke(g, sp, TARGET, 4);
        poke(g, sp + 4, cpl ? CODE3 : CODE0, 4);
        poke(g, sp + 8, all & ~FLAG_IF, 4);
        g->cpu.gpr[RSP] = sp;
        assert_int_equal(EXEC_BYTES(g, 0xcf), X86_JUMP);
        assert_int_equal(g->cpu.rflags, cpl ? (all & ~(FLAG_IOPL | FLAG_VIF | FLAG_VIP)) : all & ~FLAG_IF);
    }
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, guest_setup, guest_teardown)
    const struct CMUnitTest tests[] = {
        T(real_mode),    T(mode_switches),       T(direct),           T(call_and_return),
        T(call_gate_32), T(call_gate_16),        T(call_gate_faults), T(call_gate_without_room),
        T(call_gate_64), T(outer_return_faults), T(iretq_to_null_ss), T(iret_flags),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
