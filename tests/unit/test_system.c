/* tests/unit/test_system.c: system instructions: who may, what is refused, what changes. */
#include "guest.h"
#include "x86/exec/system.h"

/* --- segment registers ------------------------------------------------------------ */

static void segment_loads(void **state)
{
    static const struct {
        unsigned seg;
        uint16_t selector;
        unsigned cpl;
        uint8_t vector; /* 0: loads */
        uint16_t error;
    } cases[] = {
        {SEG_DS, DATA3, 3, 0, 0},
        {SEG_DS, DATA0, 0, 0, 0},
        {SEG_DS, DATA0, 3, VEC_GP, DATA0},
        {SEG_DS, DATA0 | 3, 0, VEC_GP, DATA0},
        {SEG_ES, 0, 3, 0, 0},
        {SEG_FS, 3, 3, 0, 0},
        {SEG_GS, CODE3, 3, 0, 0},
        {SEG_GS, CONFORMING | 3, 3, 0, 0},
        {SEG_DS, EXECONLY, 0, VEC_GP, EXECONLY},
        {SEG_DS, READONLY, 0, 0, 0},
        {SEG_DS, ABSENT, 0, VEC_NP, ABSENT},
        {SEG_DS, TSS, 0, VEC_GP, TSS},
        {SEG_DS, GDT_END, 0, VEC_GP, GDT_END},
        {SEG_DS, DATA0 | 4, 0, VEC_GP, DATA0 | 4},
        {SEG_SS, DATA0, 0, 0, 0},
        {SEG_SS, 0, 0, VEC_GP, 0},
        {SEG_SS, DATA3, 0, VEC_GP, DATA3 & ~3u},
        {SEG_SS, DATA0, 3, VEC_GP, DATA0},
        {SEG_SS, DATA0 | 3, 0, VEC_GP, DATA0},
        {SEG_SS, READONLY, 0, VEC_GP, READONLY},
        {SEG_SS, CODE0, 0, VEC_GP, CODE0},
        {SEG_SS, ABSENT, 0, VEC_SS, ABSENT},
    };
    struct guest *g = *state;

    for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
        unsigned seg = cases[i].seg;

        guest_protected(g, cases[i].cpl);
        const struct x86_segment before = g->cpu.seg[seg];

        g->cpu.gpr[RAX] = cases[i].selector;
        enum x86_rc rc = EXEC_BYTES(g, 0x8e, (uint8_t)(0xc0 | seg << 3));

        if (cases[i].vector) {
            expect_fault(g, rc, cases[i].vector, cases[i].error);
            assert_memory_equal(&before, &g->cpu.seg[seg], sizeof(before));
            continue;
        }
        assert_int_equal(rc, X86_NEXT);
        assert_int_equal(g->cpu.seg[seg].selector, cases[i].selector);
        assert_int_equal(!!(g->cpu.seg[seg].attr & ATTR_P), !x86_null_selector(cases[i].selector));
        assert_int_equal(g->cpu.int_shadow, seg == SEG_SS ? SHADOW_MOV_SS : SHADOW_NONE);
        if (!x86_null_selector(cases[i].selector))
            assert_true(peek(g, GDT_AT + (cases[i].selector & ~7u) + 5, 1) & ATTR_ACCESSED);
    }
    expect_fault(g, EXEC_BYTES(g, 0x8e, 0xc8), VEC_UD, 0); /* mov cs, ax */
}

/* Descriptor tables are read and marked as the supervisor, whoever loads the selector. */
static void tables_are_the_supervisors(void **state)
{
    const gpa_t pte = PAGES_AT + 0x3000 + (GDT_AT >> PAGE_SHIFT) * 8;
    struct guest *g = *state;

    guest_long(g, 3);
    poke(g, pte, GDT_AT | 3, 8); /* not the user's, writable */
    g->cpu.gpr[RAX] = DATA3;
    assert_int_equal(EXEC_BYTES(g, 0x8e, 0xe0), X86_NEXT);
    assert_true(peek(g, GDT_AT + (DATA3 & ~7u) + 5, 1) & ATTR_ACCESSED);

    guest_long(g, 3);
    g->cpu.cr0 |= CR0_WP;
    poke(g, pte, GDT_AT | 1, 8);
    expect_fault(g, EXEC_BYTES(g, 0x8e, 0xe0), VEC_PF, PF_P | PF_W);
    assert_int_equal(g->cpu.exc.cr2, GDT_AT + (DATA3 & ~7u) + 5);
    poke(g, pte, 0, 8);
    x86_tlb_flush(&g->cpu);
    expect_fault(g, EXEC_BYTES(g, 0x8e, 0xe0), VEC_PF, 0);
    assert_int_equal(g->cpu.exc.cr2, GDT_AT + (DATA3 & ~7u));
    assert_false(g->cpu.seg[SEG_FS].attr & ATTR_P);
}

static void null_ss_in_64_bit_mode(void **state)
{
    struct guest *g = *state;

    guest_long(g, 0);
    g->cpu.gpr[RAX] = 0;
    assert_int_equal(EXEC_BYTES(g, 0x8e, 0xd0), X86_NEXT);
    assert_int_equal(g->cpu.cpl, 0);
    g->cpu.gpr[RAX] = 3;
    expect_fault(g, EXEC_BYTES(g, 0x8e, 0xd0), VEC_GP, 0);
    guest_long(g, 3);
    expect_fault(g, EXEC_BYTES(g, 0x8e, 0xd0), VEC_GP, 0);
}

static void segments_on_the_stack(void **state)
{
    struct guest *g = *state;
    struct x86_cpu *cpu = &g->cpu;

    guest_protected(g, 0);
    poke(g, STACK0 - 4, 0xffffffff, 4);
    assert_int_equal(EXEC_BYTES(g, 0x1e), X86_NEXT); /* push ds */
    assert_int_equal(cpu->gpr[RSP], STACK0 - 4);
    assert_int_equal(peek(g, STACK0 - 4, 4), DATA3);
    assert_int_equal(EXEC_BYTES(g, 0x0f, 0xa1), X86_NEXT); /* pop fs */
    assert_int_equal(cpu->seg[SEG_FS].selector, DATA3);
    assert_int_equal(cpu->gpr[RSP], STACK0);
    poke(g, STACK0, GDT_END, 4);
    expect_fault(g, EXEC_BYTES(g, 0x0f, 0xa1), VEC_GP, GDT_END);
    assert_int_equal(cpu->gpr[RSP], STACK0);
    poke(g, 0x6000, 0x11223344 | (uint64_t)DATA0 << 32, 6);
    cpu->gpr[RBX] = 0x6000;
    assert_int_equal(EXEC_BYTES(g, 0x0f, 0xb2, 0x23), X86_NEXT); /* lss esp, [ebx] */
    assert_int_equal(cpu->gpr[RSP], 0x11223344);
    assert_int_equal(cpu->seg[SEG_SS].selector, DATA0);
    poke(g, 0x6004, GDT_END, 2);
    expect_fault(g, EXEC_BYTES(g, 0xc5, 0x03), VEC_GP, GDT_END); /* lds eax, [ebx] */
    assert_int_equal(cpu->seg[SEG_DS].selector, DATA3);
}

/* --- descriptor tables -------------------------------------------------------------- */

static void table_registers(void **state)
{
    struct guest *g = *state;
    struct x86_cpu *cpu = &g->cpu;

    guest_long(g, 0);
    poke(g, 0x6000, 0x123, 2);
    poke(g, 0x6002, 0xffff800000001000, 8);
    cpu->gpr[RBX] = 0x6000;
    assert_int_equal(EXEC_BYTES(g, 0x0f, 0x01, 0x1b), X86_NEXT); /* lidt [rbx] */
    assert_int_equal(cpu->idtr.limit, 0x123);
    assert_int_equal(cpu->idtr.base, 0xffff800000001000);
    cpu->gpr[RBX] = 0x6010;
    assert_int_equal(EXEC_BYTES(g, 0x0f, 0x01, 0x0b), X86_NEXT); /* sidt [rbx] */
    assert_memory_equal(g->ram + 0x6000, g->ram + 0x6010, 10);
    poke(g, 0x6012, 0x800000000000, 8);
    expect_fault(g, EXEC_BYTES(g, 0x0f, 0x01, 0x1b), VEC_GP, 0);

    assert_int_equal(EXEC_BYTES(g, 0x0f, 0x00, 0xc8), X86_NEXT); /* str eax */
    assert_int_equal(cpu->gpr[RAX], TSS);
    cpu->gpr[RAX] = TSS;
    expect_fault(g, EXEC_BYTES(g, 0x0f, 0x00, 0xd8), VEC_GP, TSS); /* ltr ax: busy */
    set_gdt(g, TSS2 + 8, 0xffff8000);
    cpu->gpr[RAX] = TSS2;
    assert_int_equal(EXEC_BYTES(g, 0x0f, 0x00, 0xd8), X86_NEXT);
    assert_int_equal(cpu->tr.base, 0xffff800000000000 | TSS2_AT);
    assert_int_equal(peek(g, GDT_AT + TSS2 + 5, 1) & 0xf, SYS_TSS_BUSY);
    set_gdt(g, LDT + 8, 0);
    cpu->gpr[RAX] = LDT;
    assert_int_equal(EXEC_BYTES(g, 0x0f, 0x00, 0xd0), X86_NEXT); /* lldt ax */
    assert_int_equal(cpu->ldtr.limit, 0x1f);
    poke(g, LDT_AT + 8, descriptor(0x777, 0xfff, ATTR_P | ATTR_S | ATTR_WRITABLE), 8);
    cpu->gpr[RAX] = 12;
    assert_int_equal(EXEC_BYTES(g, 0x8e, 0xe0), X86_NEXT); /* mov fs, ax: from the LDT */
    assert_int_equal(cpu->seg[SEG_FS].base, 0x777);
    cpu->gpr[RAX] = 0;
    assert_int_equal(EXEC_BYTES(g, 0x0f, 0x00, 0xd0), X86_NEXT);
    expect_fault(g, EXEC_BYTES(g, 0x0f, 0x00, 0xd8), VEC_GP, 0); /* ltr: not null */
}

static void descriptor_queries(void **state)
{
    static const struct {
        uint16_t selector;
        unsigned cpl;
        bool lar, lsl, verr, verw;
    } cases[] = {
        {CODE3, 3, true, true, true, false},        {DATA3, 3, true, true, true, true},
        {DATA0, 3, false, false, false, false},     {DATA0, 0, true, true, true, true},
        {DATA0 | 3, 0, false, false, false, false}, {READONLY, 0, true, true, true, false},
        {EXECONLY, 0, true, true, false, false},    {CONFORMING, 3, true, true, true, false},
        {TSS, 0, true, true, false, false},         {GATE, 0, true, false, false, false},
        {0, 0, false, false, false, false},         {GDT_END, 0, false, false, false, false},
        {4, 0, false, false, false, false},
    };
    struct guest *g = *state;

    for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
        guest_protected(g, cases[i].cpl);
        set_gdt(g, GATE, gate(CODE0, 0, ATTR_P | SYS_CALL | ATTR_DPL));
        g->cpu.gpr[RCX] = cases[i].selector;
        g->cpu.gpr[RAX] = 0x55;
        assert_int_equal(EXEC_BYTES(g, 0x0f, 0x02, 0xc1), X86_NEXT);
        assert_int_equal(!!(g->cpu.rflags & FLAG_ZF), cases[i].lar);
        assert_int_equal(g->cpu.gpr[RAX] == 0x55, !cases[i].lar);
        assert_int_equal(EXEC_BYTES(g, 0x0f, 0x03, 0xc1), X86_NEXT);
        assert_int_equal(!!(g->cpu.rflags & FLAG_ZF), cases[i].lsl);
        assert_int_equal(EXEC_BYTES(g, 0x0f, 0x00, 0xe1), X86_NEXT);
        assert_int_equal(!!(g->cpu.rflags & FLAG_ZF), cases[i].verr);
        assert_int_equal(EXEC_BYTES(g, 0x0f, 0x00, 0xe9), X86_NEXT);
        assert_int_equal(!!(g->cpu.rflags & FLAG_ZF), cases[i].verw);
    }
    guest_protected(g, 3);
    g->cpu.gpr[RCX] = DATA3;
    EXEC_BYTES(g, 0x0f, 0x02, 0xc1);
    assert_int_equal(g->cpu.gpr[RAX], 0xcff200);
    EXEC_BYTES(g, 0x0f, 0x03, 0xc1);
    assert_int_equal(g->cpu.gpr[RAX], 0xffffffff);
    g->cpu.gpr[RAX] = DATA0;
    g->cpu.gpr[RCX] = 3;
    EXEC_BYTES(g, 0x63, 0xc8); /* arpl ax, cx */
    assert_int_equal(g->cpu.gpr[RAX], DATA0 | 3);
    assert_true(g->cpu.rflags & FLAG_ZF);
    EXEC_BYTES(g, 0x63, 0xc8);
    assert_false(g->cpu.rflags & FLAG_ZF);
}

/* --- privilege ------------------------------------------------------------------------- */

static void privileged(void **state)
{
    static const struct {
        uint8_t size, bytes[5];
    } gp[] = {
        {3, {0x0f, 0x22, 0xc0}},
        {3, {0x0f, 0x20, 0xc0}},
        {3, {0x0f, 0x23, 0xc0}},
        {3, {0x0f, 0x21, 0xc0}},
        {2, {0x0f, 0x06}},
        {3, {0x0f, 0x01, 0xf0}},
        {3, {0x0f, 0x01, 0x13}},
        {3, {0x0f, 0x01, 0x1b}},
        {3, {0x0f, 0x00, 0xd0}},
        {3, {0x0f, 0x00, 0xd8}},
        {3, {0x0f, 0x01, 0x3b}},
        {2, {0x0f, 0x08}},
        {2, {0x0f, 0x09}},
        {1, {0xf4}},
        {1, {0xfa}},
        {1, {0xfb}},
        {2, {0x0f, 0x30}},
        {2, {0x0f, 0x32}},
        {2, {0x0f, 0x33}},
        {3, {0x0f, 0x01, 0xf8}},
        {3, {0x48, 0x0f, 0x07}},
        {2, {0xe4, 0x60}},
        {2, {0xe6, 0x60}},
        {1, {0xec}},
        {5, {0x66, 0x0f, 0x38, 0x82, 0x03}},
    };
    static const struct {
        uint8_t size, bytes[5];
    } ud[] = {
        {3, {0x0f, 0x01, 0xca}}, {3, {0x0f, 0x01, 0xcb}}, {3, {0x0f, 0x01, 0xc8}},       {3, {0x0f, 0x01, 0xc9}},
        {2, {0x0f, 0xaa}},       {3, {0x0f, 0x01, 0xd8}}, {4, {0xf3, 0x0f, 0xae, 0xc0}},
    };
    struct guest *g = *state;

    guest_long(g, 3);
    g->cpu.gpr[RBX] = 0x6000;
    for (unsigned i = 0; i < ARRAY_SIZE(gp); i++)
        expect_fault(g, exec_bytes(g, gp[i].bytes, gp[i].size), VEC_GP, 0);
    for (unsigned i = 0; i < ARRAY_SIZE(ud); i++)
        expect_fault(g, exec_bytes(g, ud[i].bytes, ud[i].size), VEC_UD, 0);
    assert_int_equal(EXEC_BYTES(g, 0x0f, 0x31), X86_NEXT);
    g->cpu.cr4 |= CR4_TSD | CR4_UMIP;
    expect_fault(g, EXEC_BYTES(g, 0x0f, 0x31), VEC_GP, 0);
    expect_fault(g, EXEC_BYTES(g, 0x0f, 0x01, 0xe0), VEC_GP, 0); /* smsw */
    expect_fault(g, EXEC_BYTES(g, 0x0f, 0x01, 0x03), VEC_GP, 0); /* sgdt */
    expect_fault(g, EXEC_BYTES(g, 0x0f, 0x00, 0xc8), VEC_GP, 0); /* str */
    g->cpu.gpr[RAX] = 5;
    assert_int_equal(EXEC_BYTES(g, 0x0f, 0x01, 0xc1), X86_NEXT); /* vmcall */
    assert_int_equal((int64_t)g->cpu.gpr[RAX], -1);
    guest_long(g, 0);
    assert_int_equal(EXEC_BYTES(g, 0x0f, 0x01, 0xd9), X86_NEXT); /* vmmcall */
    assert_int_equal((int64_t)g->cpu.gpr[RAX], -1000);
}

static void port_bitmap(void **state)
{
    struct guest *g = *state;
    struct x86_cpu *cpu = &g->cpu;

    guest_protected(g, 3);
    g->ram[TSS_AT + 0x68 + 0x60 / 8] = 0xfe;
    assert_int_equal(x86_check_port(cpu, 0x60, 1), X86_NEXT);
    expect_fault(g, x86_check_port(cpu, 0x60, 2), VEC_GP, 0);
    expect_fault(g, x86_check_port(cpu, 0x61, 1), VEC_GP, 0);
    g->ram[TSS_AT + 0x68 + 1] = 0x7f; /* across bytes: port 0xf and on */
    g->ram[TSS_AT + 0x68 + 2] = 0xf8;
    assert_int_equal(x86_check_port(cpu, 0xf, 4), X86_NEXT);
    expect_fault(g, x86_check_port(cpu, 0x10, 4), VEC_GP, 0);
    cpu->tr.limit = 0x68 + 2; /* two bytes are read */
    expect_fault(g, x86_check_port(cpu, 0x10, 1), VEC_GP, 0);
    assert_int_equal(x86_check_port(cpu, 0xf, 1), X86_NEXT);
    cpu->tr.limit = 0x66;
    expect_fault(g, x86_check_port(cpu, 0xf, 1), VEC_GP, 0);
    cpu->rflags |= FLAG_IOPL;
    assert_int_equal(x86_check_port(cpu, 0x1234, 4), X86_NEXT);

    cpu->gpr[RDX] = 0x12345678;
    cpu->gpr[RAX] = 0xaaaaaaaa;
    assert_int_equal(EXEC_BYTES(g, 0x66, 0xed), X86_NEXT); /* in ax, dx */
    assert_int_equal(g->port, 0x5678);
    assert_int_equal(g->port_size, 2);
    assert_int_equal(cpu->gpr[RAX], 0xaaaa4321);
    assert_int_equal(EXEC_BYTES(g, 0xe6, 0xf4), X86_NEXT); /* out 0xf4, al */
    assert_int_equal(g->port, 0xf4);
    assert_int_equal(g->port_data, 0x21);
    assert_int_equal(g->port_count, 2);
}

/* --- flags --------------------------------------------------------------------------------- */

static void popf(void **state)
{
    static const struct {
        unsigned cpl, iopl;
        uint32_t fixed; /* of 0x257fd5, what cannot be set */
    } cases[] = {{0, 0, 0}, {3, 0, FLAG_IF | FLAG_IOPL}, {3, 3, 0}};
    const uint32_t settable = 0x247fd5;
    struct guest *g = *state;

    for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
        guest_protected(g, cases[i].cpl);
        g->cpu.rflags = FLAG_FIXED | cases[i].iopl << 12 | FLAG_RF;
        poke(g, g->cpu.gpr[RSP], 0xffffffff, 4);
        assert_int_equal(EXEC_BYTES(g, 0x9d), X86_NEXT);
        assert_int_equal(g->cpu.rflags, FLAG_FIXED | (settable & ~cases[i].fixed) | cases[i].iopl << 12);
        g->cpu.rflags |= FLAG_RF;
        assert_int_equal(EXEC_BYTES(g, 0x9c), X86_NEXT);
        assert_int_equal(peek(g, g->cpu.gpr[RSP], 4), g->cpu.rflags & ~FLAG_RF);
        poke(g, g->cpu.gpr[RSP], 0, 4);
        assert_int_equal(EXEC_BYTES(g, 0x66, 0x9d), X86_NEXT);
        assert_int_equal(g->cpu.rflags & (FLAG_AC | FLAG_ID), FLAG_AC | FLAG_ID);
    }
}

static void interrupt_flag(void **state)
{
    struct guest *g = *state;

    guest_long(g, 0);
    assert_int_equal(EXEC_BYTES(g, 0xfb), X86_NEXT);
    assert_int_equal(g->cpu.int_shadow, SHADOW_NONE); /* it was set already */
    assert_int_equal(EXEC_BYTES(g, 0xfa), X86_NEXT);
    assert_false(g->cpu.rflags & FLAG_IF);
    assert_int_equal(EXEC_BYTES(g, 0xfb), X86_NEXT);
    assert_true(g->cpu.rflags & FLAG_IF);
    assert_int_equal(g->cpu.int_shadow, SHADOW_STI);
    assert_int_equal(EXEC_BYTES(g, 0xf4), X86_NEXT);
    assert_true(g->cpu.halted);
}

/* --- system calls, MSRs, control registers ------------------------------------------------- */

static void syscall_and_sysret(void **state)
{
    struct guest *g = *state;
    struct x86_cpu *cpu = &g->cpu;

    guest_long(g, 3);
    cpu->msr.star = (uint64_t)0x10 << 48 | (uint64_t)CODE64 << 32;
    cpu->msr.lstar = 0x9000;
    cpu->msr.cstar = 0xa000;
    cpu->msr.sfmask = FLAG_IF | FLAG_DF;
    cpu->rflags |= FLAG_DF | FLAG_CF | FLAG_RF;
    assert_int_equal(EXEC_BYTES(g, 0x0f, 0x05), X86_JUMP);
    assert_int_equal(cpu->rip, 0x9000);
    assert_int_equal(cpu->cpl, 0);
    assert_int_equal(cpu->mode, MODE_LONG64);
    assert_int_equal(cpu->gpr[RCX], CODE_AT + 2);
    assert_int_equal(cpu->gpr[R11], FLAG_FIXED | FLAG_IF | FLAG_DF | FLAG_CF);
    assert_int_equal(cpu->rflags, FLAG_FIXED | FLAG_CF);
    assert_int_equal(cpu->seg[SEG_CS].selector, CODE64);
    assert_int_equal(cpu->seg[SEG_SS].selector, CODE64 + 8);
    cpu->gpr[R11] |= FLAG_VM | FLAG_RF;
    assert_int_equal(EXEC_BYTES(g, 0x48, 0x0f, 0x07), X86_JUMP);
    assert_int_equal(cpu->rip, CODE_AT + 2);
    assert_int_equal(cpu->cpl, 3);
    assert_int_equal(cpu->seg[SEG_CS].selector, 0x23);
    assert_int_equal(cpu->seg[SEG_SS].selector, 0x1b);
    assert_int_equal(cpu->rflags, FLAG_FIXED | FLAG_IF | FLAG_DF | FLAG_CF);

    guest_long(g, 0);
    cpu->gpr[RCX] = 0xffffffff00001234;
    assert_int_equal(EXEC_BYTES(g, 0x0f, 0x07), X86_JUMP);
    assert_int_equal(cpu->rip, 0x1234);
    assert_int_equal(cpu->mode, MODE_COMPAT32);
    assert_int_equal(cpu->seg[SEG_CS].selector, 0x13);
    if (x86_vendor_intel(cpu)) {
        expect_fault(g, EXEC_BYTES(g, 0x0f, 0x05), VEC_UD, 0);
    } else {
        assert_int_equal(EXEC_BYTES(g, 0x0f, 0x05), X86_JUMP);
        assert_int_equal(cpu->rip, 0xa000);
        assert_int_equal(cpu->mode, MODE_LONG64);
    }
    cpu->msr.efer &= ~EFER_SCE;
    expect_fault(g, EXEC_BYTES(g, 0x0f, 0x05), VEC_UD, 0);
}

static void sysenter_and_sysexit(void **state)
{
    struct guest *g = *state;
    struct x86_cpu *cpu = &g->cpu;

    guest_protected(g, 3);
    expect_fault(g, EXEC_BYTES(g, 0x0f, 0x34), VEC_GP, 0);
    cpu->msr.sysenter_cs = CODE0;
    cpu->msr.sysenter_eip = 0x9000;
    cpu->msr.sysenter_esp = STACK1;
    assert_int_equal(EXEC_BYTES(g, 0x0f, 0x34), X86_JUMP);
    assert_int_equal(cpu->cpl, 0);
    assert_int_equal(cpu->rip, 0x9000);
    assert_int_equal(cpu->gpr[RSP], STACK1);
    assert_int_equal(cpu->rflags, FLAG_FIXED);
    cpu->gpr[RDX] = 0x1111;
    cpu->gpr[RCX] = 0x2222;
    assert_int_equal(EXEC_BYTES(g, 0x0f, 0x35), X86_JUMP);
    assert_int_equal(cpu->cpl, 3);
    assert_int_equal(cpu->rip, 0x1111);
    assert_int_equal(cpu->gpr[RSP], 0x2222);
    assert_int_equal(cpu->seg[SEG_CS].selector, CODE0 + 16 + 3);
}

static void bases(void **state)
{
    struct guest *g = *state;
    struct x86_cpu *cpu = &g->cpu;

    guest_long(g, 0);
    cpu->seg[SEG_GS].base = cpu->seg_base[SEG_GS] = 0x1000;
    cpu->msr.kernel_gs_base = 0x2000;
    assert_int_equal(EXEC_BYTES(g, 0x0f, 0x01, 0xf8), X86_NEXT);
    assert_int_equal(cpu->seg_base[SEG_GS], 0x2000);
    assert_int_equal(cpu->msr.kernel_gs_base, 0x1000);
    cpu->cr4 |= CR4_FSGSBASE;
    cpu->gpr[RAX] = 0xffff800012345678;
    assert_int_equal(EXEC_BYTES(g, 0xf3, 0x48, 0x0f, 0xae, 0xd0), X86_NEXT); /* wrfsbase rax */
    assert_int_equal(cpu->seg_base[SEG_FS], 0xffff800012345678);
    assert_int_equal(EXEC_BYTES(g, 0xf3, 0x0f, 0xae, 0xc1), X86_NEXT); /* rdfsbase ecx */
    assert_int_equal(cpu->gpr[RCX], 0x12345678);
    cpu->gpr[RAX] = 0x800000000000;
    expect_fault(g, EXEC_BYTES(g, 0xf3, 0x48, 0x0f, 0xae, 0xd8), VEC_GP, 0); /* wrgsbase rax */
}

static void control_registers(void **state)
{
    struct guest *g = *state;
    struct x86_cpu *cpu = &g->cpu;

    guest_long(g, 0);
    cpu->gpr[RAX] = 5;
    assert_int_equal(EXEC_BYTES(g, 0x44, 0x0f, 0x22, 0xc0), X86_NEXT); /* mov cr8, rax */
    assert_int_equal(cpu->lapic.tpr, 0x50);
    assert_int_equal(EXEC_BYTES(g, 0x44, 0x0f, 0x20, 0xc1), X86_NEXT);
    assert_int_equal(cpu->gpr[RCX], 5);
    cpu->gpr[RAX] = 16;
    expect_fault(g, EXEC_BYTES(g, 0x44, 0x0f, 0x22, 0xc0), VEC_GP, 0);
    cpu->gpr[RAX] = 0xe;                                         /* TS EM MP, PE stays */
    assert_int_equal(EXEC_BYTES(g, 0x0f, 0x01, 0xf0), X86_NEXT); /* lmsw ax */
    assert_int_equal(cpu->cr0 & 0xf, 0xf);
    assert_int_equal(EXEC_BYTES(g, 0x0f, 0x06), X86_NEXT); /* clts */
    assert_int_equal(cpu->cr0 & 0xf, 0x7);
    cpu->gpr[RAX] = 0xffffffff;
    assert_int_equal(EXEC_BYTES(g, 0x0f, 0x23, 0xf0), X86_NEXT); /* mov dr6, rax */
    assert_int_equal(cpu->dr[6], 0xffffefff);
    assert_int_equal(EXEC_BYTES(g, 0x0f, 0x21, 0xe1), X86_NEXT); /* mov rcx, dr4 */
    assert_int_equal(cpu->gpr[RCX], 0xffffefff);
    cpu->cr4 |= CR4_DE;
    expect_fault(g, EXEC_BYTES(g, 0x0f, 0x21, 0xe1), VEC_UD, 0);
    cpu->gpr[RAX] = 1ull << 32;
    expect_fault(g, EXEC_BYTES(g, 0x0f, 0x23, 0xf8), VEC_GP, 0);
    cpu->gpr[RAX] = 4;
    cpu->gpr[RBX] = 0x6000;
    if (x86_feature(FEATURE_INVPCID))
        expect_fault(g, EXEC_BYTES(g, 0x66, 0x0f, 0x38, 0x82, 0x03), VEC_GP, 0);
}

int main(void)
{
#define T(name) cmocka_unit_test_setup_teardown(name, guest_setup, guest_teardown)
    const struct CMUnitTest tests[] = {
        T(segment_loads),
        T(tables_are_the_supervisors),
        T(null_ss_in_64_bit_mode),
        T(segments_on_the_stack),
        T(table_registers),
        T(descriptor_queries),
        T(privileged),
        T(port_bitmap),
        T(popf),
        T(interrupt_flag),
        T(syscall_and_sysret),
        T(sysenter_and_sysexit),
        T(bases),
        T(control_registers),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
