/* tests/unit/test_lapic.c: the local APIC by hand-moved time. */
#include "x86/lapic_internal.h"
#include "x86/msr.h"
#include "x86_fake.h"

enum {
    ID = 0x20,
    VERSION = 0x30,
    TPR = 0x80,
    PPR = 0xa0,
    EOI = 0xb0,
    LDR = 0xd0,
    DFR = 0xe0,
    SVR = 0xf0,
    ISR = 0x100,
    TMR = 0x180,
    IRR = 0x200,
    ESR = 0x280,
    ICR = 0x300,
    ICR2 = 0x310,
    TIMER = 0x320,
    LINT0 = 0x350,
    LVTERR = 0x370,
    TMICT = 0x380,
    TMCCT = 0x390,
    TDCR = 0x3e0
};
#define MSR_APIC_BASE 0x1b
#define MSR_DEADLINE  0x6e0
#define X2(reg)       (0x800 + (reg) / 16)
#define PERIODIC      BIT(17)
#define DEADLINE      BIT(18)
#define ON            0x1ffu

static struct fake *enabled(uint32_t id)
{
    struct fake *f = fake_new(id);

    x86_lapic_write(&f->cpu, SVR, ON);
    x86_lapic_write(&f->cpu, TDCR, 0xb); /* by 1 */
    atomic_store(&f->cpu.events, 0);
    return f;
}

static void deliver(struct fake *f, uint8_t vector, bool level)
{
    const struct x86_apic_message m = {.vector = vector, .delivery = APIC_FIXED, .level = level, .assert_level = true};

    x86_lapic_deliver(&f->cpu, &m);
}

static int take(struct fake *f)
{
    int vector;

    x86_lapic_sync(&f->cpu);
    vector = x86_lapic_pending(&f->cpu);
    if (vector >= 0)
        x86_lapic_acknowledge(&f->cpu, (uint8_t)vector);
    return vector;
}

static void test_reset(void **state)
{
    struct fake *f = fake_new(3);

    assert_int_equal(f->cpu.lapic.base_msr, X86_APIC_BASE | X86_APIC_BASE_ENABLE);
    assert_true(f->cpu.wait_for_sipi);
    assert_int_equal(x86_lapic_read(&f->cpu, ID), 3 << 24);
    assert_int_equal(x86_lapic_read(&f->cpu, VERSION), 0x50014);
    assert_int_equal(x86_lapic_read(&f->cpu, SVR), 0xff);
    assert_int_equal(x86_lapic_read(&f->cpu, DFR), 0xffffffff);
    assert_int_equal(x86_lapic_read(&f->cpu, TIMER), LVT_MASKED);
    assert_true(x86_lapic_next_ns(&f->cpu) == UINT64_MAX);
    /* Disabled by software: interrupts are not accepted, LVT masks stay. */
    deliver(f, 0x40, false);
    assert_int_equal(take(f), -1);
    x86_lapic_write(&f->cpu, TIMER, 0x40);
    assert_int_equal(x86_lapic_read(&f->cpu, TIMER), 0x40 | LVT_MASKED);
    fake_free(f);
    f = fake_new(0);
    assert_true(f->cpu.lapic.base_msr & X86_APIC_BASE_BSP);
    assert_false(f->cpu.wait_for_sipi);
    fake_free(f);
}

static void test_priority(void **state)
{
    struct fake *f = enabled(0);

    deliver(f, 0x31, false);
    assert_true(f->cpu.events & X86_EV_APIC);
    deliver(f, 0x52, false);
    deliver(f, 0x55, false);
    assert_int_equal(take(f), 0x55);
    assert_int_equal(x86_lapic_read(&f->cpu, PPR), 0x50);
    assert_int_equal(take(f), -1); /* 0x52 is of the same class */
    deliver(f, 0x61, false);
    assert_int_equal(take(f), 0x61);
    assert_int_equal(x86_lapic_read(&f->cpu, ISR + 0x20), BIT(0x15));
    assert_int_equal(x86_lapic_read(&f->cpu, ISR + 0x30), BIT(0x01));
    assert_int_equal(x86_lapic_read(&f->cpu, IRR + 0x20), BIT(0x12));
    x86_lapic_write(&f->cpu, EOI, 0);
    assert_int_equal(take(f), -1);
    x86_lapic_write(&f->cpu, EOI, 0);
    assert_int_equal(take(f), 0x52);
    x86_lapic_write(&f->cpu, EOI, 0);
    x86_lapic_write(&f->cpu, TPR, 0x30);
    assert_int_equal(x86_lapic_read(&f->cpu, PPR), 0x30);
    assert_int_equal(take(f), -1);
    atomic_store(&f->cpu.events, 0);
    x86_lapic_set_tpr(&f->cpu, 0x20);
    assert_true(f->cpu.events & X86_EV_APIC);
    assert_int_equal(x86_read_cr8(&f->cpu.lapic), 2);
    assert_int_equal(take(f), 0x31);
    x86_lapic_write(&f->cpu, EOI, 0);
    x86_lapic_write(&f->cpu, EOI, 0); /* nothing is in service */
    assert_int_equal(f->eoi_count, 0);
    fake_free(f);
}

static void test_level(void **state)
{
    struct fake *f = enabled(0);

    deliver(f, 0x41, true);
    assert_int_equal(take(f), 0x41);
    assert_int_equal(x86_lapic_read(&f->cpu, TMR + 0x20), BIT(1));
    x86_lapic_write(&f->cpu, EOI, 0);
    assert_int_equal(f->eoi_count, 1);
    assert_int_equal(f->eoi[0], 0x41);
    deliver(f, 0x41, false);
    assert_int_equal(take(f), 0x41);
    x86_lapic_write(&f->cpu, EOI, 0);
    assert_int_equal(f->eoi_count, 1);
    fake_free(f);
}

static void test_one_shot(void **state)
{
    struct fake *f = enabled(0);

    f->ns = 1000;
    x86_lapic_write(&f->cpu, TDCR, 0); /* by 2 */
    x86_lapic_write(&f->cpu, TIMER, 0x40);
    x86_lapic_write(&f->cpu, TMICT, 500);
    assert_int_equal(x86_lapic_next_ns(&f->cpu), 2000);
    f->ns = 1500;
    assert_int_equal(x86_lapic_read(&f->cpu, TMCCT), 250);
    assert_int_equal(take(f), -1);
    f->ns = 1999;
    assert_int_equal(take(f), -1);
    f->ns = 2000;
    assert_int_equal(take(f), 0x40);
    assert_int_equal(x86_lapic_read(&f->cpu, TMCCT), 0);
    assert_true(x86_lapic_next_ns(&f->cpu) == UINT64_MAX);
    x86_lapic_write(&f->cpu, EOI, 0);
    f->ns = 10000;
    assert_int_equal(take(f), -1);
    /* Another divisor goes on from the count that is left. */
    x86_lapic_write(&f->cpu, TMICT, 1000);
    f->ns += 1000;
    x86_lapic_write(&f->cpu, TDCR, 0xb);
    assert_int_equal(x86_lapic_next_ns(&f->cpu), f->ns + 500);
    x86_lapic_write(&f->cpu, TMICT, 0);
    f->ns += 1000;
    assert_int_equal(take(f), -1);
    /* Masked: it counts, and says nothing. */
    x86_lapic_write(&f->cpu, TIMER, 0x40 | LVT_MASKED);
    x86_lapic_write(&f->cpu, TMICT, 100);
    assert_true(x86_lapic_next_ns(&f->cpu) == UINT64_MAX);
    f->ns += 50;
    assert_int_equal(x86_lapic_read(&f->cpu, TMCCT), 50);
    f->ns += 50;
    assert_int_equal(take(f), -1);
    assert_int_equal(x86_lapic_read(&f->cpu, TMCCT), 0);
    fake_free(f);
}

static void test_periodic(void **state)
{
    struct fake *f = enabled(0);

    x86_lapic_write(&f->cpu, TIMER, 0x40 | PERIODIC);
    x86_lapic_write(&f->cpu, TMICT, 100);
    for (unsigned i = 1; i <= 5; i++) {
        f->ns = 100 * i - 1;
        assert_int_equal(take(f), -1);
        f->ns = 100 * i + i;
        assert_int_equal(take(f), 0x40);
        x86_lapic_write(&f->cpu, EOI, 0);
        assert_int_equal(x86_lapic_next_ns(&f->cpu), 100 * (i + 1)); /* lateness does not add up */
    }
    f->ns = 1234; /* several periods missed are one interrupt */
    assert_int_equal(take(f), 0x40);
    x86_lapic_write(&f->cpu, EOI, 0);
    assert_int_equal(take(f), -1);
    assert_int_equal(x86_lapic_next_ns(&f->cpu), 1300);
    assert_int_equal(x86_lapic_read(&f->cpu, TMCCT), 66);
    fake_free(f);
}

static void test_deadline(void **state)
{
    struct fake *f = enabled(0);
    uint64_t value;

    assert_true(x86_wrmsr(&f->cpu, MSR_DEADLINE, 5000)); /* not in that mode: dropped */
    assert_true(x86_rdmsr(&f->cpu, MSR_DEADLINE, &value));
    assert_int_equal(value, 0);
    x86_lapic_write(&f->cpu, TIMER, 0x40 | DEADLINE);
    x86_lapic_write(&f->cpu, TMICT, 100); /* dropped as well */
    assert_int_equal(x86_lapic_read(&f->cpu, TMCCT), 0);
    assert_true(x86_wrmsr(&f->cpu, 0x3b, 1000)); /* TSC_ADJUST */
    assert_true(x86_wrmsr(&f->cpu, MSR_DEADLINE, 5001));
    assert_in_range(x86_lapic_next_ns(&f->cpu), 2001, 2003); /* (5001 - 1000) / 2, rounded up */
    f->ns = 2000;
    assert_int_equal(take(f), -1);
    f->ns = x86_lapic_next_ns(&f->cpu);
    assert_int_equal(take(f), 0x40);
    assert_true(x86_rdmsr(&f->cpu, MSR_DEADLINE, &value));
    assert_int_equal(value, 0);
    x86_lapic_write(&f->cpu, EOI, 0);
    /* In the past: at once. Far away: never, but no overflow. Leaving the mode disarms. */
    assert_true(x86_wrmsr(&f->cpu, MSR_DEADLINE, 1));
    assert_int_equal(x86_lapic_next_ns(&f->cpu), 0);
    assert_int_equal(take(f), 0x40);
    x86_lapic_write(&f->cpu, EOI, 0);
    assert_true(x86_wrmsr(&f->cpu, MSR_DEADLINE, UINT64_MAX));
    assert_true(x86_lapic_next_ns(&f->cpu) > UINT64_MAX / 4);
    x86_lapic_write(&f->cpu, TIMER, 0x40);
    assert_true(x86_lapic_next_ns(&f->cpu) == UINT64_MAX);
    x86_lapic_write(&f->cpu, TIMER, 0x40 | DEADLINE);
    assert_true(x86_rdmsr(&f->cpu, MSR_DEADLINE, &value));
    assert_int_equal(value, 0);
    fake_free(f);
}

static void test_ipis(void **state)
{
    struct fake *f = enabled(2);
    const struct x86_apic_message *m = f->ipi;

    x86_lapic_write(&f->cpu, ICR2, 5u << 24);
    x86_lapic_write(&f->cpu, ICR, 0x4041); /* fixed, physical, assert */
    assert_int_equal(f->ipi_count, 1);
    assert_int_equal(m->destination, 5);
    assert_int_equal(m->vector, 0x41);
    assert_int_equal(m->delivery, APIC_FIXED);
    assert_int_equal(m->source, 2);
    assert_false(m->logical || m->x2apic || m->level);
    x86_lapic_write(&f->cpu, ICR, 0xc0000 | 0x4000 | APIC_NMI << 8); /* all but self */
    assert_int_equal(m[1].shorthand, 3);
    assert_int_equal(m[1].delivery, APIC_NMI);
    assert_false(x86_lapic_accepts(&f->cpu, &m[1]));
    x86_lapic_write(&f->cpu, ICR, 0x80000 | 0x40fe); /* all */
    assert_int_equal(f->ipi_count, 3);
    assert_true(x86_lapic_accepts(&f->cpu, &m[2]));
    x86_lapic_write(&f->cpu, ICR, 0x40000 | 0x51); /* self: does not go out */
    assert_int_equal(f->ipi_count, 3);
    assert_int_equal(take(f), 0x51);
    x86_lapic_write(&f->cpu, ICR, 0x8500); /* INIT, level, de-assert */
    x86_lapic_deliver(&f->cpu, &m[3]);
    assert_false(f->cpu.events & X86_EV_INIT);
    x86_lapic_write(&f->cpu, ICR, 0xc500);
    x86_lapic_deliver(&f->cpu, &m[4]);
    assert_true(f->cpu.events & X86_EV_INIT);
    x86_lapic_write(&f->cpu, ICR, 0x4600 | 0x9a);
    x86_lapic_deliver(&f->cpu, &m[5]);
    assert_true(f->cpu.events & X86_EV_SIPI);
    x86_cpu_init(&f->cpu); /* the vector outlives the INIT before it */
    assert_int_equal(f->cpu.lapic.sipi_vector, 0x9a);
    assert_true(f->cpu.wait_for_sipi);
    x86_lapic_deliver(&f->cpu, &m[1]);
    assert_true(f->cpu.events & X86_EV_NMI);
    fake_free(f);
}

static void test_errors(void **state)
{
    struct fake *f = enabled(0);

    x86_lapic_write(&f->cpu, LVTERR, 0x70);
    x86_lapic_write(&f->cpu, ICR, 0x4005);
    assert_int_equal(f->ipi_count, 0);
    assert_int_equal(take(f), 0x70);
    x86_lapic_write(&f->cpu, EOI, 0);
    assert_int_equal(x86_lapic_read(&f->cpu, ESR), 0); /* shown after a write only */
    x86_lapic_write(&f->cpu, ESR, 0);
    assert_int_equal(x86_lapic_read(&f->cpu, ESR), ESR_SEND_VECTOR);
    x86_lapic_write(&f->cpu, ESR, 0);
    assert_int_equal(x86_lapic_read(&f->cpu, ESR), 0);
    deliver(f, 0x0f, false);
    assert_int_equal(take(f), 0x70);
    x86_lapic_write(&f->cpu, EOI, 0);
    x86_lapic_read(&f->cpu, 0x3a0);
    x86_lapic_write(&f->cpu, ESR, 0);
    assert_int_equal(x86_lapic_read(&f->cpu, ESR), ESR_RECEIVE_VECTOR | ESR_REGISTER);
    for (unsigned offset = 0; offset < 0x1000; offset += 4) { /* whatever there is */
        x86_lapic_read(&f->cpu, offset);
        x86_lapic_write(&f->cpu, offset, 0xffffffff);
    }
    fake_free(f);
}

static const struct {
    const char *name;
    uint32_t id, ldr, dfr;
    bool x2apic;
    struct x86_apic_message m;
    bool accepts;
} destinations[] = {
    {"physical", 3, 0, ~0u, false, {.destination = 3}, true},
    {"physical, another", 3, 0, ~0u, false, {.destination = 4}, false},
    {"broadcast", 3, 0, ~0u, false, {.destination = 0xff}, true},
    {"logical broadcast", 3, 0, ~0u, false, {.destination = 0xff, .logical = true}, true},
    {"flat", 3, 0x08000000, ~0u, false, {.destination = 0x18, .logical = true}, true},
    {"flat, others", 3, 0x08000000, ~0u, false, {.destination = 0x17, .logical = true}, false},
    {"cluster", 3, 0x24000000, 0x0fffffff, false, {.destination = 0x26, .logical = true}, true},
    {"cluster, another", 3, 0x24000000, 0x0fffffff, false, {.destination = 0x36, .logical = true}, false},
    {"cluster, others of it", 3, 0x24000000, 0x0fffffff, false, {.destination = 0x23, .logical = true}, false},
    {"x2APIC", 300, 0, ~0u, true, {.destination = 300, .x2apic = true}, true},
    {"x2APIC, 0xff is an ID", 300, 0, ~0u, true, {.destination = 0xff, .x2apic = true}, false},
    {"x2APIC broadcast", 300, 0, ~0u, true, {.destination = ~0u, .x2apic = true}, true},
    {"x2APIC, broadcast of an MSI", 300, 0, ~0u, true, {.destination = 0xff}, true},
    {"x2APIC logical", 0x13, 0, ~0u, true, {.destination = 0x1000c, .logical = true, .x2apic = true}, true},
    {"x2APIC logical, another cluster",
     0x13,
     0,
     ~0u,
     true,
     {.destination = 0x2000c, .logical = true, .x2apic = true},
     false},
    {"x2APIC logical, others", 0x13, 0, ~0u, true, {.destination = 0x10004, .logical = true, .x2apic = true}, false},
    {"self", 3, 0, ~0u, false, {.shorthand = 1, .source = 3}, true},
    {"self, another", 3, 0, ~0u, false, {.shorthand = 1, .source = 4}, false},
    {"all", 3, 0, ~0u, false, {.shorthand = 2, .source = 4}, true},
    {"all but self", 3, 0, ~0u, false, {.shorthand = 3, .source = 4}, true},
    {"all but self, self", 3, 0, ~0u, false, {.shorthand = 3, .source = 3}, false},
};

static void test_destinations(void **state)
{
    for (unsigned i = 0; i < ARRAY_SIZE(destinations); i++) {
        struct fake *f = enabled(destinations[i].id);

        x86_lapic_write(&f->cpu, LDR, destinations[i].ldr);
        x86_lapic_write(&f->cpu, DFR, destinations[i].dfr);
        if (destinations[i].x2apic)
            assert_true(x86_wrmsr(&f->cpu, MSR_APIC_BASE, f->cpu.lapic.base_msr | X86_APIC_BASE_X2APIC));
        if (x86_lapic_accepts(&f->cpu, &destinations[i].m) != destinations[i].accepts)
            fail_msg("%s", destinations[i].name);
        f->cpu.lapic.base_msr &= ~(X86_APIC_BASE_ENABLE | X86_APIC_BASE_X2APIC);
        assert_false(x86_lapic_accepts(&f->cpu, &destinations[i].m));
        fake_free(f);
    }
}

static void test_modes(void **state)
{
    const uint64_t base = X86_APIC_BASE | X86_APIC_BASE_BSP, en = X86_APIC_BASE_ENABLE, x2 = X86_APIC_BASE_X2APIC;
    struct fake *f = enabled(0);
    uint64_t value;

    assert_false(x86_rdmsr(&f->cpu, X2(ID), &value)); /* no MSRs in xAPIC mode */
    assert_false(x86_wrmsr(&f->cpu, MSR_APIC_BASE, base | x2));
    assert_false(x86_wrmsr(&f->cpu, MSR_APIC_BASE, base | en | 1));
    assert_true(x86_wrmsr(&f->cpu, MSR_APIC_BASE, base | en | x2));
    assert_true(x86_rdmsr(&f->cpu, X2(SVR), &value));
    assert_int_equal(value, ON); /* keeps its state */
    assert_false(x86_wrmsr(&f->cpu, MSR_APIC_BASE, base | en));
    assert_true(x86_wrmsr(&f->cpu, MSR_APIC_BASE, base));
    assert_false(x86_wrmsr(&f->cpu, MSR_APIC_BASE, base | en | x2));
    assert_true(x86_wrmsr(&f->cpu, MSR_APIC_BASE, base | en));
    assert_int_equal(x86_lapic_read(&f->cpu, SVR), 0xff); /* lost it */
    fake_free(f);
}

static const struct {
    unsigned msr;
    uint64_t value;
    bool write, ok;
} x2apic[] = {
    {X2(ID), 0, false, true},      {X2(ID), 0, true, false},          {X2(VERSION), 0, false, true},
    {X2(VERSION), 0, true, false}, {X2(TPR), 0xff, true, true},       {X2(TPR), 0x100, true, false},
    {X2(0x90), 0, false, false},   {X2(PPR), 0, false, true},         {X2(EOI), 0, false, false},
    {X2(EOI), 0, true, true},      {X2(EOI), 1, true, false},         {X2(LDR), 0, false, true},
    {X2(LDR), 0, true, false},     {X2(DFR), 0, false, false},        {X2(DFR), ~0u, true, false},
    {X2(SVR), 0x1ff, true, true},  {X2(SVR), 0x1000, true, false},    {X2(ISR), 0, false, true},
    {X2(ISR), 0, true, false},     {X2(ESR), 0, true, true},          {X2(ESR), 1, true, false},
    {X2(ICR), 0x4041, true, true}, {X2(ICR), 0x100000, true, false},  {X2(ICR2), 0, false, false},
    {X2(TIMER), 0x40, true, true}, {X2(TIMER), BIT(20), true, false}, {X2(LINT0), BIT(32), true, false},
    {X2(TMICT), ~0u, true, true},  {X2(TMICT), BIT(32), true, false}, {X2(TMCCT), 0, true, false},
    {X2(TDCR), 4, true, false},    {X2(0x3f0), 0x41, true, true},     {X2(0x3f0), 0, false, false},
    {0x840, 0, false, false},      {0x8ff, 0, true, false},           {0x800, 0, false, false},
};

static void test_x2apic(void **state)
{
    struct fake *f = enabled(0x25);
    uint64_t value;

    assert_true(x86_wrmsr(&f->cpu, MSR_APIC_BASE, f->cpu.lapic.base_msr | X86_APIC_BASE_X2APIC));
    for (unsigned i = 0; i < ARRAY_SIZE(x2apic); i++) {
        bool ok = x2apic[i].write ? x86_wrmsr(&f->cpu, x2apic[i].msr, x2apic[i].value)
                                  : x86_rdmsr(&f->cpu, x2apic[i].msr, &value);

        if (ok != x2apic[i].ok)
            fail_msg("%s %#x: %s", x2apic[i].write ? "wrmsr" : "rdmsr", x2apic[i].msr, ok ? "no #GP" : "#GP");
    }
    assert_true(x86_rdmsr(&f->cpu, X2(ID), &value));
    assert_int_equal(value, 0x25);
    assert_true(x86_rdmsr(&f->cpu, X2(LDR), &value));
    assert_int_equal(value, 0x20020);
    x86_wrmsr(&f->cpu, X2(TPR), 0);
    assert_int_equal(take(f), 0x41); /* the self IPI */
    f->ipi_count = 0;
    assert_true(x86_wrmsr(&f->cpu, X2(ICR), 0x1234567800004855));
    assert_int_equal(f->ipi_count, 1);
    assert_int_equal(f->ipi[0].destination, 0x12345678);
    assert_true(f->ipi[0].x2apic && f->ipi[0].logical);
    assert_true(x86_rdmsr(&f->cpu, X2(ICR), &value));
    assert_true(value == 0x1234567800004855);
    fake_free(f);
}

static void test_extint(void **state)
{
    struct fake *f = fake_new(0);

    assert_false(x86_lapic_accepts_extint(&f->cpu));
    x86_lapic_write(&f->cpu, SVR, ON);
    x86_lapic_write(&f->cpu, LINT0, APIC_EXTINT << 8);
    assert_true(x86_lapic_accepts_extint(&f->cpu));
    x86_lapic_write(&f->cpu, LINT0, APIC_EXTINT << 8 | LVT_MASKED);
    assert_false(x86_lapic_accepts_extint(&f->cpu));
    assert_true(x86_wrmsr(&f->cpu, MSR_APIC_BASE, X86_APIC_BASE | X86_APIC_BASE_BSP));
    assert_true(x86_lapic_accepts_extint(&f->cpu)); /* no APIC: the pin is the processor's */
    fake_free(f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_reset),    cmocka_unit_test(test_priority), cmocka_unit_test(test_level),
        cmocka_unit_test(test_one_shot), cmocka_unit_test(test_periodic), cmocka_unit_test(test_deadline),
        cmocka_unit_test(test_ipis),     cmocka_unit_test(test_errors),   cmocka_unit_test(test_destinations),
        cmocka_unit_test(test_modes),    cmocka_unit_test(test_x2apic),   cmocka_unit_test(test_extint),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
