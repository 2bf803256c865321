/* tests/unit/test_intr.c: delivery of exceptions and interrupts, and the way back. */
#include <stdlib.h>

#include "guest.h"
#include "x86/intr.h"

#define INT_GATE  (ATTR_P | SYS_INT)
#define TRAP_GATE (ATTR_P | SYS_TRAP)
#define USER_GATE (INT_GATE | ATTR_DPL)

static void deliver(struct guest *g, uint8_t vector)
{
    x86_raise(&g->cpu, vector);
    x86_deliver_exception(&g->cpu);
}

static void deliver_error(struct guest *g, uint8_t vector, uint32_t error)
{
    x86_raise_error(&g->cpu, vector, error);
    x86_deliver_exception(&g->cpu);
}

static void expect_handler(const struct guest *g, uint8_t vector)
{
    assert_false(g->cpu.shutdown);
    assert_int_equal(g->cpu.rip, HANDLER + 16 * vector);
}

/* --- 64-bit mode --------------------------------------------------------------- */

static void long_from_user(void **state)
{
    struct guest *g = *state;
    struct x86_cpu *cpu = &g->cpu;

    guest_long(g, 3);
    set_gate(g, VEC_GP, CODE64, INT_GATE, 0);
    cpu->rflags |= FLAG_CF | FLAG_TF | FLAG_AC;
    cpu->halted = true;
    cpu->int_shadow = SHADOW_STI;
    cpu->gpr[RSP] = STACK3 - 3;
    deliver_error(g, VEC_GP, 0x18);
    expect_handler(g, VEC_GP);
    assert_int_equal(cpu->cpl, 0);
    assert_int_equal(cpu->seg[SEG_CS].selector, CODE64);
    assert_int_equal(cpu->seg[SEG_SS].selector, 0);
    assert_false(cpu->seg[SEG_SS].attr & ATTR_P);
    assert_int_equal(cpu->gpr[RSP], STACK0 - 48);
    assert_int_equal(peek(g, STACK0 - 48, 8), 0x18);
    assert_int_equal(peek(g, STACK0 - 40, 8), CODE_AT);
    assert_int_equal(peek(g, STACK0 - 32, 8), USER64);
    assert_int_equal(peek(g, STACK0 - 24, 8), FLAG_FIXED | FLAG_IF | FLAG_CF | FLAG_TF | FLAG_AC | FLAG_RF);
    assert_int_equal(peek(g, STACK0 - 16, 8), STACK3 - 3);
    assert_int_equal(peek(g, STACK0 - 8, 8), DATA3);
    assert_int_equal(cpu->rflags, FLAG_FIXED | FLAG_CF | FLAG_AC);
    assert_false(cpu->halted);
    assert_int_equal(cpu->int_shadow, SHADOW_NONE);
    assert_int_equal(cpu->counters.exceptions, 1);

    cpu->gpr[RSP] += 8;
    cpu->nmi_masked = true;
    cpu->seg[SEG_GS].base = cpu->seg_base[SEG_GS] = 0x1234;
    assert_int_equal(EXEC_BYTES(g, 0x48, 0xcf), X86_JUMP); /* iretq */
    assert_int_equal(cpu->cpl, 3);
    assert_int_equal(cpu->rip, CODE_AT);
    assert_int_equal(cpu->seg[SEG_CS].selector, USER64);
    assert_int_equal(cpu->seg[SEG_SS].selector, DATA3);
    assert_int_equal(cpu->gpr[RSP], STACK3 - 3);
    assert_int_equal(cpu->rflags, FLAG_FIXED | FLAG_IF | FLAG_CF | FLAG_TF | FLAG_AC | FLAG_RF);
    assert_false(cpu->nmi_masked);
    assert_int_equal(cpu->seg_base[SEG_GS], 0x1234);
}

static void long_same_level_and_ist(void **state)
{
    struct guest *g = *state;
    struct x86_cpu *cpu = &g->cpu;

    guest_long(g, 0);
    set_gate(g, 0x20, CODE64, TRAP_GATE, 0);
    set_gate(g, VEC_NMI, CODE64, INT_GATE, 1);
    cpu->gpr[RSP] = STACK0 - 4;
    x86_deliver_interrupt(cpu, 0x20);
    expect_handler(g, 0x20);
    assert_int_equal(cpu->gpr[RSP], STACK0 - 16 - 40);
    assert_int_equal(peek(g, STACK0 - 40, 8), FLAG_FIXED | FLAG_IF); /* no RF */
    assert_int_equal(cpu->seg[SEG_SS].selector, DATA0);
    assert_true(cpu->rflags & FLAG_IF);
    assert_int_equal(cpu->counters.interrupts, 1);

    x86_deliver_interrupt(cpu, VEC_NMI);
    expect_handler(g, VEC_NMI);
    assert_true(cpu->nmi_masked);
    assert_int_equal(cpu->gpr[RSP], IST_STACK - 40);
    assert_false(cpu->rflags & FLAG_IF);
}

static void long_software(void **state)
{
    struct guest *g = *state;
    struct x86_cpu *cpu = &g->cpu;

    guest_long(g, 3);
    set_gate(g, 0x80, CODE64, INT_GATE, 0);
    expect_fault(g, EXEC_BYTES(g, 0xcd, 0x80), VEC_GP, 0x80 * 8 + 2);
    set_gate(g, 0x80, CODE64, USER_GATE & ~ATTR_P, 0);
    expect_fault(g, EXEC_BYTES(g, 0xcd, 0x80), VEC_NP, 0x80 * 8 + 2);
    set_gate(g, 0x80, 0, USER_GATE, 0);
    expect_fault(g, EXEC_BYTES(g, 0xcd, 0x80), VEC_GP, 0);
    set_gate(g, 0x80, CODE0, USER_GATE, 0); /* not 64-bit code */
    expect_fault(g, EXEC_BYTES(g, 0xcd, 0x80), VEC_GP, CODE0);
    set_gate(g, 0x80, DATA0, USER_GATE, 0);
    expect_fault(g, EXEC_BYTES(g, 0xcd, 0x80), VEC_GP, DATA0);
    cpu->idtr.limit = 0x80f - 1;
    set_gate(g, 0x80, CODE64, USER_GATE, 0);
    expect_fault(g, EXEC_BYTES(g, 0xcd, 0x80), VEC_GP, 0x80 * 8 + 2);
    assert_int_equal(cpu->rip, CODE_AT);
    assert_int_equal(cpu->gpr[RSP], STACK3);
    cpu->idtr.limit = 0xfff;
    assert_int_equal(EXEC_BYTES(g, 0xcd, 0x80), X86_JUMP);
    expect_handler(g, 0x80);
    assert_int_equal(peek(g, STACK0 - 40, 8), CODE_AT + 2);
}

static void long_conforming_stays_at_its_level(void **state)
{
    struct guest *g = *state;

    guest_long(g, 3);
    set_gate(g, 0x80, CONFORMING, USER_GATE, 0);
    assert_int_equal(EXEC_BYTES(g, 0xcd, 0x80), X86_JUMP);
    assert_int_equal(g->cpu.cpl, 3);
    assert_int_equal(g->cpu.seg[SEG_CS].selector, CONFORMING | 3);
    assert_int_equal(g->cpu.seg[SEG_SS].selector, DATA3);
    assert_int_equal(g->cpu.gpr[RSP], STACK3 - 40);
}

/* From 32-bit code; a stack of the interrupt stack table may lie above 4 GiB. */
static void long_from_compatibility_mode(void **state)
{
    struct guest *g = *state;
    struct x86_cpu *cpu = &g->cpu;

    guest_long(g, 0);
    set_gate(g, 0x80, CODE64, INT_GATE, 1);
    poke(g, PAGES_AT + 8 * 0x100, (PAGES_AT + 0x1000) | 7, 8); /* all again at 0xffff800000000000 */
    poke(g, TSS_AT + 0x24, 0xffff800000000000 | IST_STACK, 8);
    cpu->seg[SEG_CS] = x86_unpack_descriptor(peek(g, GDT_AT + CODE0, 8), CODE0);
    x86_update_mode(cpu);
    assert_int_equal(cpu->mode, MODE_COMPAT32);
    assert_int_equal(EXEC_BYTES(g, 0xcd, 0x80), X86_JUMP);
    assert_int_equal(cpu->mode, MODE_LONG64);
    assert_int_equal(cpu->gpr[RSP], (0xffff800000000000 | IST_STACK) - 40);
    assert_int_equal(peek(g, IST_STACK - 40, 8), CODE_AT + 2);
    assert_int_equal(EXEC_BYTES(g, 0x48, 0xcf), X86_JUMP);
    assert_int_equal(cpu->mode, MODE_COMPAT32);
    assert_int_equal(cpu->gpr[RSP], STACK0);
}

/* CR2 is the first slot pushed on the page that is missing, as a processor pushes downwards. */
static void long_stack_fault(void **state)
{
    struct guest *g = *state;

    guest_long(g, 0);
    set_gate(g, VEC_UD, CODE64, INT_GATE, 0);
    set_gate(g, VEC_DF, CODE64, INT_GATE, 1);
    set_gate(g, VEC_PF, CODE64, INT_GATE, 1);
    g->cpu.gpr[RSP] = 0x21010;
    poke(g, PAGES_AT + 0x3000 + 0x20 * 8, 0, 8);
    deliver(g, VEC_UD);
    expect_handler(g, VEC_PF);
    assert_int_equal(g->cpu.cr2, 0x20ff8);
    assert_int_equal(peek(g, IST_STACK - 48, 8), PF_W);
}

static void ist_without_canonical_stack(void **state)
{
    struct guest *g = *state;

    guest_long(g, 3);
    set_gate(g, VEC_UD, CODE64, INT_GATE, 0);
    set_gate(g, VEC_SS, CODE64, INT_GATE, 1);
    poke(g, TSS_AT + 4, 0x8000000000001000, 8);
    deliver(g, VEC_UD);
    expect_handler(g, VEC_SS);
    assert_int_equal(peek(g, IST_STACK - 48, 8), 1); /* EXT */
}

/* --- what follows when delivery fails --------------------------------------------- */

static void benign_then_contributory(void **state)
{
    struct guest *g = *state;

    guest_long(g, 0);
    set_gate(g, VEC_NP, CODE64, INT_GATE, 0);
    set_gate(g, VEC_UD, CODE64, INT_GATE & ~ATTR_P, 0);
    deliver(g, VEC_UD);
    expect_handler(g, VEC_NP);
    assert_int_equal(peek(g, STACK0 - 48, 8), VEC_UD * 8 + 3);
    assert_int_equal(g->cpu.rip, HANDLER + 16 * VEC_NP);
}

static void interrupt_without_gate(void **state)
{
    struct guest *g = *state;

    guest_long(g, 0);
    set_gate(g, VEC_GP, CODE64, INT_GATE, 0);
    x86_deliver_interrupt(&g->cpu, 0x77);
    expect_handler(g, VEC_GP);
    assert_int_equal(peek(g, STACK0 - 48, 8), 0x77 * 8 + 3);
}

static void double_faults(void **state)
{
    static const struct {
        uint8_t first;
        bool doubled;
    } cases[] = {{VEC_DE, true}, {VEC_DB, false}, {VEC_BR, false}, {VEC_TS, true},  {VEC_NP, true},
                 {VEC_SS, true}, {VEC_GP, true},  {VEC_PF, true},  {VEC_MF, false}, {VEC_AC, false}};
    struct guest *g = *state;

    for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
        guest_long(g, 0);
        set_gate(g, VEC_GP, CODE64, INT_GATE, 0);
        set_gate(g, VEC_NP, CODE64, INT_GATE, 0);
        set_gate(g, VEC_DF, CODE64, INT_GATE, 0);
        set_gate(g, cases[i].first, CODE64, INT_GATE & ~ATTR_P, 0);
        deliver(g, cases[i].first);
        expect_handler(g, cases[i].doubled ? VEC_DF : VEC_NP);
        assert_int_equal(peek(g, STACK0 - 48, 8), cases[i].doubled ? 0 : cases[i].first * 8 + 3);
    }
}

static void triple_fault(void **state)
{
    struct guest *g = *state;

    guest_long(g, 3);
    x86_raise_pf(&g->cpu, 0xdead000, PF_U);
    x86_deliver_exception(&g->cpu);
    assert_true(g->cpu.shutdown);
    assert_int_equal(g->cpu.shutdown_cause.vectors[0], VEC_PF);
    assert_int_equal(g->cpu.shutdown_cause.vectors[1], VEC_GP);
    assert_int_equal(g->cpu.shutdown_cause.vectors[2], VEC_DF);
    assert_int_equal(g->cpu.shutdown_cause.vectors[3], VEC_GP);
    assert_int_equal(g->cpu.shutdown_cause.rip, CODE_AT);
    assert_int_equal(g->cpu.shutdown_cause.cr2, 0xdead000);
    assert_int_equal(g->cpu.shutdown_cause.error, PF_U);
    assert_int_equal(g->cpu.rip, CODE_AT);
}

static void no_memory_to_deliver_through(void **state)
{
    struct guest *g = *state;

    guest_protected(g, 0);
    g->cpu.idtr.base = RAM_SIZE;
    x86_deliver_interrupt(&g->cpu, 0x20);
    assert_true(g->cpu.shutdown);
}

/* The handler of #AC on a misaligned stack of privilege 3 faults again and again. */
static void endless_alignment_checks(void **state)
{
    struct guest *g = *state;

    guest_long(g, 3);
    set_gate(g, VEC_AC, CONFORMING, INT_GATE, 0);
    g->cpu.cr0 |= CR0_AM;
    g->cpu.rflags |= FLAG_AC;
    guest_protected(g, 3);
    g->cpu.cr0 = CR0_PE | CR0_AM;
    g->cpu.msr.efer = 0;
    g->cpu.rflags |= FLAG_AC;
    x86_update_mode(&g->cpu);
    x86_tlb_flush(&g->cpu);
    set_gate(g, VEC_AC, CONFORMING, INT_GATE, 0);
    g->cpu.gpr[RSP] = STACK3 - 1;
    deliver_error(g, VEC_AC, 0);
    assert_true(g->cpu.shutdown);
}

/* --- debug exceptions ---------------------------------------------------------------- */

static void debug_registers(void **state)
{
    struct guest *g = *state;
    struct x86_cpu *cpu = &g->cpu;

    guest_long(g, 0);
    set_gate(g, VEC_DB, CODE64, INT_GATE, 0);
    cpu->dr[6] = 0xffff0ff1;
    cpu->dr[7] = 0x2400;                                         /* GD */
    expect_fault(g, EXEC_BYTES(g, 0x0f, 0x21, 0xc0), VEC_DB, 0); /* mov rax, dr0 */
    x86_deliver_exception(cpu);
    expect_handler(g, VEC_DB);
    assert_int_equal(cpu->dr[6], 0xffff2ff0);
    assert_int_equal(cpu->dr[7], 0x400);
    assert_true(peek(g, STACK0 - 24, 8) & FLAG_RF);

    cpu->rip = CODE_AT;
    assert_int_equal(EXEC_BYTES(g, 0xf1), X86_JUMP); /* int1 */
    expect_handler(g, VEC_DB);
    assert_int_equal(cpu->dr[6], 0xffff2ff0);
}

/* --- legacy protected mode --------------------------------------------------------------- */

static void protected_inner_32(void **state)
{
    struct guest *g = *state;
    struct x86_cpu *cpu = &g->cpu;

    guest_protected(g, 3);
    set_gate(g, VEC_GP, CODE0, INT_GATE, 0);
    deliver_error(g, VEC_GP, 0x33);
    expect_handler(g, VEC_GP);
    assert_int_equal(cpu->cpl, 0);
    assert_int_equal(cpu->gpr[RSP], STACK0 - 24);
    assert_int_equal(cpu->seg[SEG_SS].selector, DATA0);
    assert_int_equal(peek(g, STACK0 - 24, 4), 0x33);
    assert_int_equal(peek(g, STACK0 - 20, 4), CODE_AT);
    assert_int_equal(peek(g, STACK0 - 16, 4), CODE3);
    assert_int_equal(peek(g, STACK0 - 12, 4), FLAG_FIXED | FLAG_IF | FLAG_RF);
    assert_int_equal(peek(g, STACK0 - 8, 4), STACK3);
    assert_int_equal(peek(g, STACK0 - 4, 4), DATA3);
    cpu->gpr[RSP] += 4;
    cpu->seg[SEG_ES] = cpu->seg[SEG_SS]; /* a privilege 0 segment must not be left to privilege 3 */
    assert_int_equal(EXEC_BYTES(g, 0xcf), X86_JUMP);
    assert_int_equal(cpu->cpl, 3);
    assert_int_equal(cpu->gpr[RSP], STACK3);
    assert_int_equal(cpu->seg[SEG_ES].selector, 0);
    assert_false(cpu->seg[SEG_ES].attr & ATTR_P);
    expect_fault(g, EXEC_BYTES(g, 0x26, 0x8b, 0x03), VEC_GP, 0); /* mov eax, es:[ebx] */
    assert_int_equal(cpu->seg[SEG_DS].selector, DATA3);
}

static void protected_16_bit_gate(void **state)
{
    struct guest *g = *state;
    struct x86_cpu *cpu = &g->cpu;

    guest_protected(g, 0);
    poke(g, IDT_AT + 8 * 0x30, gate(CODE0, 0x1234abcd, ATTR_P | SYS_TRAP16), 8);
    cpu->gpr[RSP] = STACK0;
    assert_int_equal(EXEC_BYTES(g, 0xcd, 0x30), X86_JUMP);
    assert_int_equal(cpu->rip, 0xabcd);
    assert_int_equal(cpu->gpr[RSP], STACK0 - 6);
    assert_int_equal(peek(g, STACK0 - 6, 2), CODE_AT + 2);
    assert_int_equal(peek(g, STACK0 - 4, 2), CODE0);
    assert_true(cpu->rflags & FLAG_IF);
    assert_int_equal(EXEC_BYTES(g, 0x66, 0xcf), X86_JUMP);
    assert_int_equal(cpu->rip, CODE_AT + 2);
    assert_int_equal(cpu->gpr[RSP], STACK0);
}

static void protected_bad_inner_stacks(void **state)
{
    static const struct {
        uint16_t ss;
        uint8_t vector;
        uint16_t error;
    } cases[] = {
        {0, VEC_TS, 0},
        {DATA3, VEC_TS, DATA3 & ~3u},
        {CODE0, VEC_TS, CODE0},
        {READONLY, VEC_TS, READONLY},
        {GDT_END, VEC_TS, GDT_END},
        {ABSENT, VEC_SS, ABSENT},
    };
    struct guest *g = *state;

    for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
        guest_protected(g, 3);
        set_gate(g, 0x40, CODE0, USER_GATE, 0);
        poke(g, TSS_AT + 8, cases[i].ss, 2);
        expect_fault(g, EXEC_BYTES(g, 0xcd, 0x40), cases[i].vector, cases[i].error);
        assert_int_equal(g->cpu.gpr[RSP], STACK3);
        assert_int_equal(g->cpu.cpl, 3);
    }
    guest_protected(g, 3);
    g->cpu.tr.limit = 8;
    expect_fault(g, EXEC_BYTES(g, 0xcd, 0x40), VEC_TS, TSS);
}

static void virtual_8086(void **state)
{
    static const uint8_t segs[] = {SEG_ES, SEG_DS, SEG_FS, SEG_GS};
    struct guest *g = *state;
    struct x86_cpu *cpu = &g->cpu;
    const uint64_t frame[] = {0x100, 0x800, FLAG_VM | FLAG_FIXED | FLAG_IF, 0xfffe, 0x2000, 0x11, 0x22, 0x33, 0x44};

    guest_protected(g, 0);
    cpu->gpr[RSP] = STACK0 - sizeof(frame) / 2;
    for (unsigned i = 0; i < ARRAY_SIZE(frame); i++)
        poke(g, cpu->gpr[RSP] + 4 * i, frame[i], 4);
    assert_int_equal(EXEC_BYTES(g, 0xcf), X86_JUMP);
    assert_int_equal(cpu->mode, MODE_VM86);
    assert_int_equal(cpu->cpl, 3);
    assert_int_equal(cpu->rip, 0x100);
    assert_int_equal(cpu->seg[SEG_CS].base, 0x8000);
    assert_int_equal(cpu->seg[SEG_SS].base, 0x20000);
    assert_int_equal(cpu->gpr[RSP], 0xfffe);
    for (unsigned i = 0; i < 4; i++)
        assert_int_equal(cpu->seg[segs[i]].base, 0x110 * (i + 1));

    /* IOPL is 0: all that touches IF is the monitor's. */
    expect_fault(g, EXEC_BYTES(g, 0xfa), VEC_GP, 0);
    expect_fault(g, EXEC_BYTES(g, 0x9c), VEC_GP, 0);
    expect_fault(g, EXEC_BYTES(g, 0x9d), VEC_GP, 0);
    expect_fault(g, EXEC_BYTES(g, 0xcf), VEC_GP, 0);
    expect_fault(g, EXEC_BYTES(g, 0xcd, 0x40), VEC_GP, 0);
    expect_fault(g, EXEC_BYTES(g, 0x0f, 0x00, 0xc0), VEC_UD, 0); /* sldt */

    set_gate(g, VEC_GP, CODE1, INT_GATE, 0); /* must be privilege 0 */
    set_gate(g, VEC_DF, CODE0, INT_GATE, 0);
    deliver_error(g, VEC_GP, 0);
    expect_handler(g, VEC_DF);
    assert_int_equal(cpu->mode, MODE_PROT32);
    assert_int_equal(cpu->cpl, 0);
    assert_int_equal(cpu->gpr[RSP], STACK0 - 40);
    for (unsigned i = 0; i < ARRAY_SIZE(frame); i++)
        assert_int_equal(peek(g, STACK0 - 36 + 4 * i, 4), frame[i]);
    for (unsigned i = 0; i < 4; i++)
        assert_false(cpu->seg[segs[i]].attr & ATTR_P);
}

static void software_interrupts(void **state)
{
    struct guest *g = *state;

    guest_protected(g, 3);
    set_gate(g, VEC_BP, CODE0, USER_GATE, 0);
    set_gate(g, VEC_OF, CODE0, INT_GATE, 0);
    assert_int_equal(EXEC_BYTES(g, 0xce), X86_NEXT);
    g->cpu.rflags |= FLAG_OF;
    expect_fault(g, EXEC_BYTES(g, 0xce), VEC_GP, VEC_OF * 8 + 2);
    assert_int_equal(EXEC_BYTES(g, 0xcc), X86_JUMP);
    expect_handler(g, VEC_BP);
    assert_int_equal(peek(g, STACK0 - 20, 4), CODE_AT + 2);
}

/* --- real mode -------------------------------------------------------------------------------- */

static void real_mode(void **state)
{
    struct guest *g = *state;
    struct x86_cpu *cpu = &g->cpu;

    guest_real(g);
    poke(g, 0x21 * 4, 0x12345678, 4);
    cpu->rflags |= FLAG_TF;
    cpu->gpr[RSP] = 0x11237000;
    assert_int_equal(EXEC_BYTES(g, 0xcd, 0x21), X86_JUMP);
    assert_int_equal(cpu->rip, 0x5678);
    assert_int_equal(cpu->seg[SEG_CS].base, 0x12340);
    assert_int_equal(cpu->gpr[RSP], 0x11236ffa);
    assert_int_equal(peek(g, 0x6ffa, 2), CODE_AT + 2);
    assert_int_equal(peek(g, 0x6ffc, 2), 0);
    assert_int_equal(peek(g, 0x6ffe, 2), FLAG_FIXED | FLAG_IF | FLAG_TF);
    assert_int_equal(cpu->rflags, FLAG_FIXED);
    assert_int_equal(EXEC_BYTES(g, 0xcf), X86_JUMP);
    assert_int_equal(cpu->rip, CODE_AT + 2);
    assert_int_equal(cpu->rflags, FLAG_FIXED | FLAG_IF | FLAG_TF);
    assert_int_equal(cpu->gpr[RSP], 0x11237000);
}

static void real_mode_without_room(void **state)
{
    struct guest *g = *state;

    guest_real(g);
    g->cpu.gpr[RSP] = 1; /* a frame would wrap across the limit: #SS, whose frame does too, ... */
    deliver(g, VEC_UD);
    assert_true(g->cpu.shutdown);
    guest_setup(state);
    free(g);
    g = *state;
    guest_real(g);
    g->cpu.idtr.limit = 3; /* no entry for #GP, nor for #DF */
    deliver(g, VEC_UD);
    assert_true(g->cpu.shutdown);
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, guest_setup, guest_teardown)
    const struct CMUnitTest tests[] = {
        T(long_from_user),
        T(long_same_level_and_ist),
        T(long_software),
        T(long_conforming_stays_at_its_level),
        T(long_from_compatibility_mode),
        T(long_stack_fault),
        T(ist_without_canonical_stack),
        T(benign_then_contributory),
        T(interrupt_without_gate),
        T(double_faults),
        T(triple_fault),
        T(no_memory_to_deliver_through),
        T(endless_alignment_checks),
        T(debug_registers),
        T(protected_inner_32),
        T(protected_16_bit_gate),
        T(protected_bad_inner_stacks),
        T(virtual_8086),
        T(software_interrupts),
        T(real_mode),
        T(real_mode_without_room),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
