/* tests/unit/test_cpuid.c: CPUID holds together, and the MSRs with it; the paravirtual clock tells the VM's time. */
#include <cpuid.h>
#include <string.h>

#include "x86/cpuid.h"
#include "x86/lapic.h"
#include "x86/msr.h"
#include "x86_fake.h"

static const struct {
    const char *name;
    uint32_t leaf, subleaf;
    unsigned reg, bit, host;
} features[] = {
#define X(id, name, leaf, subleaf, reg, bit, host) {name, leaf, subleaf, reg, bit, host},
    X86_FEATURE_LIST(X)
#undef X
};

static void test_features(void **state)
{
    struct fake *f = fake_new(0);

    for (unsigned i = 0; i < ARRAY_SIZE(features); i++) {
        uint32_t regs[4], native[4] = {0};
        bool shown;

        x86_cpuid(&f->cpu, features[i].leaf, features[i].subleaf, regs);
        shown = regs[features[i].reg] >> features[i].bit & 1;
        if (shown != x86_feature(i + 1))
            fail_msg("%s: shown %u, said %u", features[i].name, shown, x86_feature(i + 1));
        __get_cpuid_count(features[i].leaf, features[i].subleaf, &native[0], &native[1], &native[2], &native[3]);
        if (!features[i].host)
            assert_true(shown);
        else if (shown && !(native[features[i].reg] >> features[i].bit & 1))
            fail_msg("%s: the host has it not", features[i].name);
        for (unsigned j = 0; j < i; j++)
            if (features[i].leaf == features[j].leaf && features[i].subleaf == features[j].subleaf &&
                features[i].reg == features[j].reg && features[i].bit == features[j].bit)
                fail_msg("%s and %s are one bit", features[i].name, features[j].name);
    }
    fake_free(f);
}

/* A feature that builds on another is not shown without it. */
static void test_dependencies(void **state)
{
    static const enum x86_feature needs[][2] = {
        {FEATURE_SSE2, FEATURE_SSE},     {FEATURE_SSE, FEATURE_FXSR},       {FEATURE_AVX, FEATURE_XSAVE},
        {FEATURE_AVX2, FEATURE_AVX},     {FEATURE_FMA, FEATURE_AVX},        {FEATURE_F16C, FEATURE_AVX},
        {FEATURE_LM, FEATURE_PAE},       {FEATURE_INVPCID, FEATURE_PCID},   {FEATURE_X2APIC, FEATURE_APIC},
        {FEATURE_XSAVEC, FEATURE_XSAVE}, {FEATURE_XSAVEOPT, FEATURE_XSAVE},
    };

    for (unsigned i = 0; i < ARRAY_SIZE(needs); i++)
        assert_true(!x86_feature(needs[i][0]) || x86_feature(needs[i][1]));
}

static void test_dynamic_bits(void **state)
{
    struct fake *f = fake_new(5);
    uint32_t regs[4];

    f->cpus = 6;
    x86_cpuid(&f->cpu, 1, 0, regs);
    assert_int_equal(regs[1] >> 24, 5);
    assert_int_equal(regs[1] >> 16 & 0xff, 6);
    assert_false(regs[2] & bit_OSXSAVE);
    assert_true(regs[3] & BIT(9));
    assert_true(regs[3] & BIT(28));
    f->cpu.cr4 |= CR4_OSXSAVE;
    f->cpu.lapic.base_msr = 0;
    x86_cpuid(&f->cpu, 1, 0, regs);
    assert_true(regs[2] & bit_OSXSAVE);
    assert_false(regs[3] & BIT(9));
    x86_cpuid(&f->cpu, 0xb, 0, regs);
    assert_int_equal(regs[0], 0);
    assert_int_equal(regs[1], 1);
    assert_int_equal(regs[2], 0x100);
    assert_int_equal(regs[3], 5);
    x86_cpuid(&f->cpu, 0xb, 1, regs);
    assert_int_equal(regs[0], 3);
    assert_int_equal(regs[1], 6);
    assert_int_equal(regs[2], 0x201);
    x86_cpuid(&f->cpu, 0xb, 2, regs);
    assert_int_equal(regs[1], 0);
    assert_int_equal(regs[2], 2);
    fake_free(f);
}

static void test_xsave(void **state)
{
    struct fake *f = fake_new(0);
    uint32_t regs[4];

    if (!x86_feature(FEATURE_XSAVE))
        skip();
    x86_cpuid(&f->cpu, 0xd, 0, regs);
    assert_int_equal(regs[0], x86_xcr0_allowed());
    assert_int_equal(regs[1], 576);
    assert_int_equal(regs[2], x86_feature(FEATURE_AVX) ? 832 : 576);
    f->cpu.xcr0 = x86_xcr0_allowed();
    x86_cpuid(&f->cpu, 0xd, 0, regs);
    assert_int_equal(regs[1], regs[2]);
    x86_cpuid(&f->cpu, 0xd, 2, regs);
    assert_int_equal(regs[0], x86_feature(FEATURE_AVX) ? 256 : 0);
    assert_int_equal(regs[1], x86_feature(FEATURE_AVX) ? 576 : 0);
    x86_cpuid(&f->cpu, 0xd, 3, regs);
    assert_int_equal(regs[0] | regs[1] | regs[2] | regs[3], 0);
    fake_free(f);
}

static void test_hypervisor(void **state)
{
    struct fake *f = fake_new(0);
    uint32_t regs[4];

    x86_cpuid(&f->cpu, 0x40000000, 0, regs);
    assert_int_equal(regs[0], 0x40000010);
    assert_memory_equal(&regs[1], "KVMKVMKVM\0\0\0", 12);
    x86_cpuid(&f->cpu, 0x40000010, 0, regs);
    assert_int_equal(regs[0], FAKE_TSC_HZ / 1000);
    assert_int_equal(regs[1], X86_APIC_HZ / 1000);
    x86_cpuid(&f->cpu, 0x15, 0, regs);
    assert_int_equal((uint64_t)regs[2] * regs[1] / regs[0], FAKE_TSC_HZ);
    x86_cpuid(&f->cpu, 0x80000008, 0, regs);
    assert_int_equal(regs[0] & 0xff, x86_phys_bits());
    assert_int_equal(regs[0] >> 8 & 0xff, 48);
    fake_free(f);
}

/* Whatever the guest asks for, it gets an answer, and nothing where there is nothing. */
static void test_unknown_leaves(void **state)
{
    static const uint32_t leaves[] = {0x17, 0x1f, 0x3fffffff, 0x40000002, 0x40000011, 0x80000009, 0xc0000000, ~0u};
    struct fake *f = fake_new(0);
    uint32_t regs[4];

    for (unsigned i = 0; i < ARRAY_SIZE(leaves); i++) {
        x86_cpuid(&f->cpu, leaves[i], ~0u, regs);
        assert_int_equal(regs[0] | regs[1] | regs[2] | regs[3], 0);
    }
    for (uint32_t leaf = 0; leaf <= 0x20; leaf++)
        for (uint32_t subleaf = 0; subleaf < 70; subleaf++)
            x86_cpuid(&f->cpu, leaf, subleaf, regs);
    fake_free(f);
}

/* --- MSRs ------------------------------------------------------------------------------- */

#define CANONICAL     0xffff800000001000ull
#define NOT_CANONICAL 0x0000800000001000ull

static const struct {
    uint32_t msr;
    uint64_t value;
    bool ok;
} writes[] = {
    {0x174, 0x10, true},
    {0x174, BIT(32), false},
    {0x175, CANONICAL, true},
    {0x176, NOT_CANONICAL, false},
    {0x277, 0x0007040600070406, true},
    {0x277, 0x0007040600070402, false},
    {0x277, 0x0807040600070406, false},
    {0x2ff, 0xc06, true},
    {0x2ff, 0xc02, false},
    {0x2ff, 0x1c06, false},
    {0x200, 0x80000006, true},
    {0x200, 0x80000002, false},
    {0x200, 0x80000106, false},
    {0x201, 0xf80000800, true},
    {0x201, 0xf80000801, false},
    {0x20f, BIT(51), false},
    {0x210, 0, false},
    {0x250, 0x0606060606060606, true},
    {0x26f, 0x0606060606060606, true},
    {0x26f, 0x0606060606060602, false},
    {0xfe, 0x508, false},
    {0x179, 0, false},
    {0x17a, 7, true},
    {0x17a, 8, false},
    {0xc0000080, EFER_SCE, true},
    {0xc0000080, BIT(1), false},
    {0xc0000081, ~0ull, true},
    {0xc0000082, CANONICAL, true},
    {0xc0000082, NOT_CANONICAL, false},
    {0xc0000083, NOT_CANONICAL, false},
    {0xc0000084, 0x47700, true},
    {0xc0000084, BIT(32), false},
    {0xc0000100, CANONICAL, true},
    {0xc0000100, NOT_CANONICAL, false},
    {0xc0000101, CANONICAL, true},
    {0xc0000102, NOT_CANONICAL, false},
    {0xc0000103, 0xffffffff, true},
    {0xc0000103, BIT(32), false},
};

static void test_msr_writes(void **state)
{
    struct fake *f = fake_new(0);

    for (unsigned i = 0; i < ARRAY_SIZE(writes); i++) {
        uint64_t before = 0, after = 0;
        bool there = x86_rdmsr(&f->cpu, writes[i].msr, &before);

        if (x86_wrmsr(&f->cpu, writes[i].msr, writes[i].value) != writes[i].ok)
            fail_msg("wrmsr %#x, %#llx: %s", writes[i].msr, (unsigned long long)writes[i].value,
                     writes[i].ok ? "#GP" : "no #GP");
        assert_true(x86_rdmsr(&f->cpu, writes[i].msr, &after) == there);
        if (after != (writes[i].ok ? writes[i].value : before))
            fail_msg("rdmsr %#x: %#llx", writes[i].msr, (unsigned long long)after);
    }
    assert_true(f->cpu.seg_base[SEG_GS] == CANONICAL);
    fake_free(f);
}

static void test_unknown_msrs(void **state)
{
    static const uint32_t msrs[] = {0x0,        0x48,       0x49,       0x10a,      0x186,      0x210,
                                    0x400,      0x7ff,      0x840,      0x4b564d02, 0x4b564d04, 0x40000000,
                                    0xc0000085, 0xc0000104, 0xc0010020, 0xc001ffff, 0xffffffff};
    struct fake *f = fake_new(0);
    uint64_t value = 1;

    for (unsigned i = 0; i < ARRAY_SIZE(msrs); i++) {
        if (x86_rdmsr(&f->cpu, msrs[i], &value) || x86_wrmsr(&f->cpu, msrs[i], 0))
            fail_msg("there is an MSR %#x", msrs[i]);
        assert_int_equal(value, 0);
    }
    fake_free(f);
}

/* Every number is looked for: what is found can be read, and the table is in order. */
static void test_all_msrs(void **state)
{
    static const uint32_t ranges[][2] = {
        {0, 0x1fff}, {0x4b564d00, 0x4b564dff}, {0xc0000000, 0xc00001ff}, {0xc0010000, 0xc0011fff}};
    struct fake *f = fake_new(0);
    unsigned found = 0;

    for (unsigned i = 0; i < ARRAY_SIZE(ranges); i++)
        for (uint32_t msr = ranges[i][0]; msr <= ranges[i][1]; msr++) {
            uint64_t value;

            if (!x86_rdmsr(&f->cpu, msr, &value))
                continue;
            found++;
            x86_wrmsr(&f->cpu, msr, value);
            x86_wrmsr(&f->cpu, msr, ~0ull);
            x86_wrmsr(&f->cpu, msr, 0x5555555555555555);
        }
    assert_in_range(found, 40, 200);
    fake_free(f);
}

static void test_tsc(void **state)
{
    struct fake *f = fake_new(0);
    uint64_t value;

    f->ns = 1000;
    assert_int_equal(x86_guest_tsc(&f->cpu), 2000);
    assert_true(x86_wrmsr(&f->cpu, 0x10, 500));
    assert_int_equal(x86_guest_tsc(&f->cpu), 500);
    assert_true(x86_rdmsr(&f->cpu, 0x3b, &value));
    assert_true(value == (uint64_t)-1500);
    assert_true(x86_wrmsr(&f->cpu, 0x3b, 0));
    f->ns = 2000;
    assert_true(x86_rdmsr(&f->cpu, 0x10, &value));
    assert_int_equal(value, 4000);
    fake_free(f);
}

/* --- paravirtual clock -------------------------------------------------------------------- */

/* As the guest computes it. */
static uint64_t guest_ns(struct fake *f, gpa_t gpa)
{
    uint64_t delta = x86_guest_tsc(&f->cpu) - fake_read(f, gpa + 8, 8);
    int8_t shift = (int8_t)fake_read(f, gpa + 28, 1);

    delta = shift < 0 ? delta >> -shift : delta << shift;
    return fake_read(f, gpa + 16, 8) + (uint64_t)((unsigned __int128)delta * fake_read(f, gpa + 24, 4) >> 32);
}

static void test_system_time(void **state)
{
    static const uint32_t msrs[] = {0x12, 0x4b564d01};

    for (unsigned i = 0; i < ARRAY_SIZE(msrs); i++) {
        struct fake *f = fake_new(0);

        f->ns = 123456789;
        assert_true(x86_wrmsr(&f->cpu, msrs[i], 0x5000 | 1));
        assert_int_equal(fake_read(f, 0x5000, 4), 2);
        assert_int_equal(fake_read(f, 0x5000 + 29, 1), 1);
        assert_in_range(guest_ns(f, 0x5000), f->ns - 1, f->ns);
        f->ns += 3600ull * 1000000000;
        assert_in_range(guest_ns(f, 0x5000), f->ns - 1000, f->ns);
        /* The guest sets its TSC: the clock goes on. */
        assert_true(x86_wrmsr(&f->cpu, 0x10, 0));
        assert_int_equal(fake_read(f, 0x5000, 4), 4);
        assert_in_range(guest_ns(f, 0x5000), f->ns - 1000, f->ns);
        assert_true(x86_wrmsr(&f->cpu, msrs[i], 0));
        assert_true(x86_wrmsr(&f->cpu, 0x10, 0));
        assert_int_equal(fake_read(f, 0x5000, 4), 4);
        assert_true(x86_wrmsr(&f->cpu, msrs[i], 0xf0000000000 | 1)); /* no memory there: nothing happens */
        fake_free(f);
    }
}

static void test_wall_clock(void **state)
{
    struct fake *f = fake_new(0);

    assert_true(x86_wrmsr(&f->cpu, 0x4b564d00, 0x6000));
    assert_int_equal(fake_read(f, 0x6000, 4) & 1, 0);
    assert_int_equal(fake_read(f, 0x6004, 4), 1700000000);
    assert_int_equal(fake_read(f, 0x6008, 4), 123456789);
    fake_free(f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_features),   cmocka_unit_test(test_dependencies), cmocka_unit_test(test_dynamic_bits),
        cmocka_unit_test(test_xsave),      cmocka_unit_test(test_hypervisor),   cmocka_unit_test(test_unknown_leaves),
        cmocka_unit_test(test_msr_writes), cmocka_unit_test(test_unknown_msrs), cmocka_unit_test(test_all_msrs),
        cmocka_unit_test(test_tsc),        cmocka_unit_test(test_system_time),  cmocka_unit_test(test_wall_clock),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
