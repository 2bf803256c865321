/* tests/unit/test_walk.c: page walks of every format: translation, rights, faults, A and D. */
#include "x86/cpuid.h"
#include "x86_fake.h"

#define P   BIT(0)
#define W   BIT(1)
#define U   BIT(2)
#define A   BIT(5)
#define D   BIT(6)
#define PS  BIT(7)
#define NX  BIT(63)
#define PWU (P | W | U)

enum { FORMAT_32, FORMAT_PAE, FORMAT_LONG };

/* Tables of the one path that each case walks; TOP is the highest. */
#define TOP    0x10000
#define THIRD  0x11000
#define SECOND 0x12000
#define FIRST  0x13000
#define PAGE   0x14000

struct row {
    const char *name;
    int format;
    gva_t lin;
    uint64_t entry[4]; /* top first: PML4E PDPTE PDE PTE, or PDPTE PDE PTE, or PDE PTE */
    unsigned access, cpl;
    uint64_t cr0, cr4, efer;
    bool ac;
    int error; /* #PF error code, or -1: translates */
    gpa_t gpa;
};

#define LIN   0x7654321abcull /* canonical, indices 0, 473, 161, 801 & 511 */
#define LIN32 0x87654abcull
#define E_LONG(t, s, f, p)                                                                                             \
    {                                                                                                                  \
        THIRD | (t), SECOND | (s), FIRST | (f), PAGE | (p)                                                             \
    }
#define E_PAE(s, f, p)                                                                                                 \
    {                                                                                                                  \
        SECOND | (s), FIRST | (f), PAGE | (p)                                                                          \
    }
#define E_32(f, p)                                                                                                     \
    {                                                                                                                  \
        FIRST | (f), PAGE | (p)                                                                                        \
    }
#define NXE    EFER_NXE
#define KERNEL 0
#define USER   3

static const struct row rows[] = {
    /* 4-level */
    {"long, all rights", FORMAT_LONG, LIN, E_LONG(PWU, PWU, PWU, PWU), ACCESS_WRITE, USER, .error = -1, .gpa = PAGE},
    {"long, no PML4E", FORMAT_LONG, LIN, E_LONG(0, PWU, PWU, PWU), ACCESS_READ, USER, .error = PF_U},
    {"long, no PDPTE", FORMAT_LONG, LIN, E_LONG(PWU, 0, PWU, PWU), ACCESS_WRITE, USER, .error = PF_U | PF_W},
    {"long, no PDE", FORMAT_LONG, LIN, E_LONG(PWU, PWU, 0, PWU), ACCESS_READ, KERNEL, .error = 0},
    {"long, no PTE", FORMAT_LONG, LIN, E_LONG(PWU, PWU, PWU, 0), ACCESS_WRITE, KERNEL, .error = PF_W},
    {"long, supervisor at the top", FORMAT_LONG, LIN, E_LONG(P | W, PWU, PWU, PWU), ACCESS_READ, USER,
     .error = PF_P | PF_U},
    {"long, supervisor at the bottom", FORMAT_LONG, LIN, E_LONG(PWU, PWU, PWU, P | W), ACCESS_READ, USER,
     .error = PF_P | PF_U},
    {"long, supervisor, by the kernel", FORMAT_LONG, LIN, E_LONG(PWU, PWU, PWU, P | W), ACCESS_READ, KERNEL,
     .error = -1, .gpa = PAGE},
    {"long, implicit access in user mode", FORMAT_LONG, LIN, E_LONG(PWU, PWU, PWU, P | W),
     ACCESS_READ | ACCESS_IMPLICIT, USER, .error = -1, .gpa = PAGE},
    {"long, user access by the kernel", FORMAT_LONG, LIN, E_LONG(PWU, PWU, PWU, P | W), ACCESS_READ | ACCESS_USER,
     KERNEL, .error = PF_P | PF_U},
    {"long, read-only, user", FORMAT_LONG, LIN, E_LONG(PWU, P | U, PWU, PWU), ACCESS_WRITE, USER,
     .error = PF_P | PF_W | PF_U},
    {"long, read-only, kernel without WP", FORMAT_LONG, LIN, E_LONG(PWU, PWU, PWU, P), ACCESS_WRITE, KERNEL,
     .error = -1, .gpa = PAGE},
    {"long, read-only, kernel with WP", FORMAT_LONG, LIN, E_LONG(PWU, PWU, PWU, P), ACCESS_WRITE, KERNEL, .cr0 = CR0_WP,
     .error = PF_P | PF_W},
    {"long, 2 MiB",
     FORMAT_LONG,
     LIN,
     {THIRD | PWU, SECOND | PWU, 0x40200000 | PWU | PS, 0},
     ACCESS_WRITE,
     USER,
     .error = -1,
     .gpa = 0x40321000},
    {"long, 2 MiB with PAT bit",
     FORMAT_LONG,
     LIN,
     {THIRD | PWU, SECOND | PWU, 0x40200000 | BIT(12) | PWU | PS, 0},
     ACCESS_WRITE,
     USER,
     .error = -1,
     .gpa = 0x40321000},
    {"long, 2 MiB, reserved bit 13",
     FORMAT_LONG,
     LIN,
     {THIRD | PWU, SECOND | PWU, 0x40202000 | PWU | PS, 0},
     ACCESS_READ,
     USER,
     .error = PF_P | PF_RSVD | PF_U},
    {"long, 1 GiB",
     FORMAT_LONG,
     LIN,
     {THIRD | PWU, 0x1c0000000 | PWU | PS, 0, 0},
     ACCESS_READ,
     KERNEL,
     .error = -1,
     .gpa = 0x1d4321000},
    {"long, 1 GiB, reserved bit 29",
     FORMAT_LONG,
     LIN,
     {THIRD | PWU, 0x1e0000000 | PWU | PS, 0, 0},
     ACCESS_READ,
     KERNEL,
     .error = PF_P | PF_RSVD},
    {"long, PS in PML4E", FORMAT_LONG, LIN, E_LONG(PWU | PS, PWU, PWU, PWU), ACCESS_READ, KERNEL,
     .error = PF_P | PF_RSVD},
    {"long, bit 51", FORMAT_LONG, LIN, E_LONG(PWU, PWU, PWU | BIT(51), PWU), ACCESS_READ, KERNEL,
     .error = PF_P | PF_RSVD},
    {"long, bits 62:52 are ignored", FORMAT_LONG, LIN, E_LONG(PWU, PWU, PWU, PWU | BIT(62) | BIT(52)), ACCESS_READ,
     KERNEL, .error = -1, .gpa = PAGE},
    {"long, NX without NXE", FORMAT_LONG, LIN, E_LONG(PWU, PWU, PWU, PWU | NX), ACCESS_READ, KERNEL,
     .error = PF_P | PF_RSVD},
    {"long, NX, read", FORMAT_LONG, LIN, E_LONG(PWU, PWU, PWU, PWU | NX), ACCESS_READ, USER, .efer = NXE, .error = -1,
     .gpa = PAGE},
    {"long, NX, fetch", FORMAT_LONG, LIN, E_LONG(PWU, PWU, PWU, PWU | NX), ACCESS_FETCH, USER, .efer = NXE,
     .error = PF_P | PF_U | PF_I},
    {"long, NX at the top, fetch", FORMAT_LONG, LIN, E_LONG(PWU | NX, PWU, PWU, PWU), ACCESS_FETCH, KERNEL, .efer = NXE,
     .error = PF_P | PF_I},
    {"long, fetch fault without NXE", FORMAT_LONG, LIN, E_LONG(PWU, PWU, PWU, 0), ACCESS_FETCH, USER, .error = PF_U},
    {"long, SMEP", FORMAT_LONG, LIN, E_LONG(PWU, PWU, PWU, PWU), ACCESS_FETCH, KERNEL, .cr4 = CR4_SMEP,
     .error = PF_P | PF_I},
    {"long, SMEP, supervisor page", FORMAT_LONG, LIN, E_LONG(PWU, PWU, PWU, P | W), ACCESS_FETCH, KERNEL,
     .cr4 = CR4_SMEP, .error = -1, .gpa = PAGE},
    {"long, SMEP, user", FORMAT_LONG, LIN, E_LONG(PWU, PWU, PWU, PWU), ACCESS_FETCH, USER, .cr4 = CR4_SMEP, .error = -1,
     .gpa = PAGE},
    {"long, SMAP", FORMAT_LONG, LIN, E_LONG(PWU, PWU, PWU, PWU), ACCESS_READ, KERNEL, .cr4 = CR4_SMAP, .error = PF_P},
    {"long, SMAP, AC", FORMAT_LONG, LIN, E_LONG(PWU, PWU, PWU, PWU), ACCESS_WRITE, KERNEL, .cr4 = CR4_SMAP, .ac = true,
     .error = -1, .gpa = PAGE},
    {"long, SMAP, AC, implicit", FORMAT_LONG, LIN, E_LONG(PWU, PWU, PWU, PWU), ACCESS_READ | ACCESS_IMPLICIT, KERNEL,
     .cr4 = CR4_SMAP, .ac = true, .error = PF_P},
    {"long, SMAP, implicit in user mode", FORMAT_LONG, LIN, E_LONG(PWU, PWU, PWU, PWU), ACCESS_WRITE | ACCESS_IMPLICIT,
     USER, .cr4 = CR4_SMAP, .error = PF_P | PF_W},
    {"long, SMAP, fetch", FORMAT_LONG, LIN, E_LONG(PWU, PWU, PWU, PWU), ACCESS_FETCH, KERNEL, .cr4 = CR4_SMAP,
     .error = -1, .gpa = PAGE},
    {"long, SMAP, supervisor page", FORMAT_LONG, LIN, E_LONG(PWU, PWU, PWU, P | W), ACCESS_WRITE, KERNEL,
     .cr4 = CR4_SMAP, .error = -1, .gpa = PAGE},
    {"long, table outside memory",
     FORMAT_LONG,
     LIN,
     {0x40000000 | PWU, 0, 0, 0},
     ACCESS_READ,
     KERNEL,
     .error = PF_P | PF_RSVD},
    /* PAE */
    {"pae", FORMAT_PAE, LIN32, E_PAE(P, PWU, PWU), ACCESS_WRITE, USER, .error = -1, .gpa = PAGE},
    {"pae, no PDPTE", FORMAT_PAE, LIN32, E_PAE(0, PWU, PWU), ACCESS_WRITE, USER, .error = PF_W | PF_U},
    {"pae, no PDE", FORMAT_PAE, LIN32, E_PAE(P, 0, PWU), ACCESS_READ, KERNEL, .error = 0},
    {"pae, read-only PDE", FORMAT_PAE, LIN32, E_PAE(P, P | U, PWU), ACCESS_WRITE, USER, .error = PF_P | PF_W | PF_U},
    {"pae, 2 MiB without CR4.PSE",
     FORMAT_PAE,
     LIN32,
     {SECOND | P, 0x140000000 | PWU | PS, 0},
     ACCESS_WRITE,
     USER,
     .error = -1,
     .gpa = 0x140054000},
    {"pae, bit 52", FORMAT_PAE, LIN32, E_PAE(P, PWU, PWU | BIT(52)), ACCESS_READ, USER, .error = PF_P | PF_RSVD | PF_U},
    {"pae, bit 62 in PDE", FORMAT_PAE, LIN32, E_PAE(P, PWU | BIT(62), PWU), ACCESS_READ, USER,
     .error = PF_P | PF_RSVD | PF_U},
    {"pae, NX", FORMAT_PAE, LIN32, E_PAE(P, PWU | NX, PWU), ACCESS_FETCH, KERNEL, .efer = NXE, .error = PF_P | PF_I},
    {"pae, NX without NXE", FORMAT_PAE, LIN32, E_PAE(P, PWU, PWU | NX), ACCESS_FETCH, KERNEL, .error = PF_P | PF_RSVD},
    /* 32-bit */
    {"32", FORMAT_32, LIN32, E_32(PWU, PWU), ACCESS_WRITE, USER, .error = -1, .gpa = PAGE},
    {"32, no PDE", FORMAT_32, LIN32, E_32(0, PWU), ACCESS_WRITE, USER, .error = PF_W | PF_U},
    {"32, no PTE", FORMAT_32, LIN32, E_32(PWU, 0), ACCESS_READ, KERNEL, .error = 0},
    {"32, supervisor", FORMAT_32, LIN32, E_32(P | W, PWU), ACCESS_READ, USER, .error = PF_P | PF_U},
    {"32, PS without PSE is ignored", FORMAT_32, LIN32, E_32(PWU | PS, PWU), ACCESS_READ, USER, .error = -1,
     .gpa = PAGE},
    {"32, 4 MiB",
     FORMAT_32,
     LIN32,
     {0x40400000 | PWU | PS, 0},
     ACCESS_WRITE,
     USER,
     .cr4 = CR4_PSE,
     .error = -1,
     .gpa = 0x40400000 | 0x254000},
    {"32, 4 MiB, PSE36",
     FORMAT_32,
     LIN32,
     {0x40400000 | 3 << 13 | PWU | PS, 0},
     ACCESS_WRITE,
     USER,
     .cr4 = CR4_PSE,
     .error = -1,
     .gpa = 0x340400000 | 0x254000},
    {"32, 4 MiB, bit 21",
     FORMAT_32,
     LIN32,
     {0x40600000 | PWU | PS, 0},
     ACCESS_READ,
     USER,
     .cr4 = CR4_PSE,
     .error = PF_P | PF_RSVD | PF_U},
    {"32, 4 KiB with PSE", FORMAT_32, LIN32, E_32(PWU, PWU), ACCESS_READ, USER, .cr4 = CR4_PSE, .error = -1,
     .gpa = PAGE},
    {"32, SMEP is reported in I", FORMAT_32, LIN32, E_32(PWU, PWU), ACCESS_FETCH, KERNEL, .cr4 = CR4_SMEP,
     .error = PF_P | PF_I},
    {"32, fetch without SMEP", FORMAT_32, LIN32, E_32(PWU, 0), ACCESS_FETCH, KERNEL, .error = 0},
};

static gpa_t slot_gpa(const struct row *r, unsigned i)
{
    static const gpa_t tables[] = {TOP, THIRD, SECOND, FIRST};
    unsigned levels = r->format == FORMAT_LONG ? 4 : r->format == FORMAT_PAE ? 3 : 2;
    unsigned level = levels - 1 - i;

    if (r->format == FORMAT_32)
        return (level ? TOP : FIRST) + (r->lin >> (12 + 10 * level) & 1023) * 4;
    return (i ? tables[4 - levels + i] : TOP) +
           (r->lin >> (12 + 9 * level) & (r->format == FORMAT_PAE && !i ? 3 : 511)) * 8;
}

static unsigned levels_of(const struct row *r)
{
    return r->format == FORMAT_LONG ? 4 : r->format == FORMAT_PAE ? 3 : 2;
}

/* Builds the tables and the processor of a row. */
static struct fake *set_up(const struct row *r)
{
    static const uint64_t cr4[] = {0, CR4_PAE, CR4_PAE};
    struct fake *f = fake_new(0);

    for (unsigned i = 0; i < levels_of(r); i++)
        fake_write(f, slot_gpa(r, i), r->entry[i], r->format == FORMAT_32 ? 4 : 8);
    if (r->format == FORMAT_PAE)
        f->cpu.pdpte[r->lin >> 30 & 3] = r->entry[0];
    fake_paging(f, CR0_PG | r->cr0, TOP, cr4[r->format] | r->cr4, r->efer | (r->format == FORMAT_LONG ? EFER_LME : 0));
    if (r->ac)
        f->cpu.rflags |= FLAG_AC;
    fake_segments(f, r->format == FORMAT_LONG ? 64 : 32, r->cpl);
    return f;
}

static void check_accessed(struct fake *f, const struct row *r, bool probe)
{
    bool leaf_seen = false;

    for (unsigned i = levels_of(r); i-- > (r->format == FORMAT_PAE ? 1u : 0u);) {
        uint64_t now = fake_read(f, slot_gpa(r, i), r->format == FORMAT_32 ? 4 : 8), want = r->entry[i];
        bool used = r->error < 0 && !probe && (want & P);

        if (used) {
            want |= A;
            if (!leaf_seen && (r->access & ACCESS_KIND) == ACCESS_WRITE)
                want |= D;
            leaf_seen = true;
        }
        if (now != want)
            fail_msg("%s: entry %u is %#llx, not %#llx", r->name, i, (unsigned long long)now, (unsigned long long)want);
    }
}

static void check_row(const struct row *r, unsigned probe)
{
    struct fake *f = set_up(r);
    gpa_t gpa = 0;
    enum x86_rc rc = x86_translate(&f->cpu, r->lin, r->access | probe, &gpa);

    if (r->error < 0) {
        if (rc != X86_NEXT)
            fail_msg("%s: fault, error %#x", r->name, f->cpu.exc.error);
        if (gpa != (r->gpa | (r->lin & 0xfff)))
            fail_msg("%s: to %#llx", r->name, (unsigned long long)gpa);
    } else {
        if (rc != X86_FAULT)
            fail_msg("%s: no fault", r->name);
        assert_int_equal(f->cpu.exc.vector, VEC_PF);
        assert_true(f->cpu.exc.has_error);
        assert_int_equal(f->cpu.exc.cr2, r->lin);
        if (f->cpu.exc.error != (uint32_t)r->error)
            fail_msg("%s: error %#x, not %#x", r->name, f->cpu.exc.error, r->error);
    }
    check_accessed(f, r, probe);
    /* What the TLB now holds must say the same. */
    if (r->error < 0) {
        assert_int_equal(x86_translate(&f->cpu, r->lin, r->access, &gpa), X86_NEXT);
        assert_int_equal(gpa, r->gpa | (r->lin & 0xfff));
    }
    fake_free(f);
}

static void test_rows(void **state)
{
    for (unsigned i = 0; i < ARRAY_SIZE(rows); i++)
        check_row(&rows[i], 0);
}

static void test_probe_changes_nothing(void **state)
{
    for (unsigned i = 0; i < ARRAY_SIZE(rows); i++)
        check_row(&rows[i], ACCESS_PROBE);
}

/* A bit above MAXPHYADDR is reserved, the one below is not. */
static void test_phys_bits(void **state)
{
    struct row r = {"maxphyaddr", FORMAT_LONG, LIN,         E_LONG(PWU, PWU, PWU, PWU),
                    ACCESS_READ,  KERNEL,      .error = -1, .gpa = PAGE | BIT(x86_phys_bits() - 1)};

    assert_in_range(x86_phys_bits(), 36, 46);
    r.entry[3] |= BIT(x86_phys_bits() - 1);
    check_row(&r, 0);
    r.entry[3] = PAGE | PWU | BIT(x86_phys_bits());
    r.error = PF_P | PF_RSVD;
    check_row(&r, 0);
}

/* D is set by the write, not by the read before it, and the TLB does not let a write slip past it. */
static void test_dirty_after_read(void **state)
{
    const struct row r = {"dirty", FORMAT_LONG, LIN, E_LONG(PWU, PWU, PWU, PWU), ACCESS_READ, KERNEL, .error = -1};
    struct fake *f = set_up(&r);
    uint32_t value = 0;

    assert_int_equal(x86_read_linear(&f->cpu, LIN, &value, 4, ACCESS_READ), X86_NEXT);
    assert_int_equal(fake_read(f, slot_gpa(&r, 3), 8), PAGE | PWU | A);
    value = 0x12345678;
    assert_int_equal(x86_write_linear(&f->cpu, LIN, &value, 4, ACCESS_WRITE), X86_NEXT);
    assert_int_equal(fake_read(f, slot_gpa(&r, 3), 8), PAGE | PWU | A | D);
    assert_int_equal(fake_read(f, slot_gpa(&r, 2), 8), FIRST | PWU | A);
    assert_int_equal(fake_read(f, PAGE | (LIN & 0xfff), 4), 0x12345678);
    fake_free(f);
}

static void test_tables_on_watched_pages(void **state)
{
    const struct row r = {"watched", FORMAT_LONG, LIN, E_LONG(PWU, PWU, PWU, PWU), ACCESS_READ, KERNEL, .error = -1};
    struct fake *f = set_up(&r);
    gpa_t gpa;

    f->watched = FIRST;
    assert_int_equal(x86_translate(&f->cpu, LIN, ACCESS_READ, &gpa), X86_NEXT);
    assert_int_equal(f->written_count, 1);
    assert_int_equal(f->written[0], slot_gpa(&r, 3));
    fake_free(f);
}

static void test_no_paging(void **state)
{
    struct fake *f = fake_new(0);
    gpa_t gpa;

    assert_int_equal(x86_translate(&f->cpu, 0x1234567890ull, ACCESS_WRITE, &gpa), X86_NEXT);
    assert_int_equal(gpa, 0x34567890);
    fake_free(f);
}

static void test_not_canonical(void **state)
{
    const struct row r = {"canonical", FORMAT_LONG, LIN, E_LONG(PWU, PWU, PWU, PWU), ACCESS_READ, USER, .error = -1};
    struct fake *f = set_up(&r);
    gpa_t gpa;
    uint8_t byte[8];
    bool mmio;

    assert_int_equal(x86_translate(&f->cpu, BIT(47), ACCESS_READ, &gpa), X86_FAULT);
    assert_int_equal(f->cpu.exc.vector, VEC_GP);
    assert_int_equal(f->cpu.exc.error, 0);
    assert_int_equal(x86_read_linear(&f->cpu, BIT(63), byte, 1, ACCESS_READ | ACCESS_STACK), X86_FAULT);
    assert_int_equal(f->cpu.exc.vector, VEC_SS);
    assert_null(x86_fetch_entry(&f->cpu, BIT(47), &mmio));
    assert_false(mmio);
    assert_int_equal(f->cpu.exc.vector, VEC_GP);
    /* The last canonical bytes of the lower half do not go on in the hole. */
    assert_int_equal(x86_read_linear(&f->cpu, BIT(47) - 4, byte, 8, ACCESS_READ), X86_FAULT);
    assert_int_equal(f->cpu.exc.vector, VEC_GP);
    fake_free(f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_rows),
        cmocka_unit_test(test_probe_changes_nothing),
        cmocka_unit_test(test_phys_bits),
        cmocka_unit_test(test_dirty_after_read),
        cmocka_unit_test(test_tables_on_watched_pages),
        cmocka_unit_test(test_no_paging),
        cmocka_unit_test(test_not_canonical),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
