/* tests/unit/test_tlb.c: which flush drops what; control registers: what may be written. */
#include "x86/cpuid.h"
#include "x86_fake.h"

/* 4-level tables: PML4 0 -> PDPT -> one directory -> one table for the first 2 MiB, 2 MiB pages for the next,
 * identity; a second set with another PML4. */
#define PML4_A   0x10000
#define PML4_B   0x20000
#define PWU      7
#define PS       BIT(7)
#define NO_FLUSH BIT(63)

static void build(struct fake *f, gpa_t pml4, gpa_t offset)
{
    fake_write(f, pml4, (pml4 + 0x1000) | PWU, 8);
    fake_write(f, pml4 + 0x1000, (pml4 + 0x2000) | PWU, 8);
    fake_write(f, pml4 + 0x2000, (pml4 + 0x3000) | PWU, 8);
    fake_write(f, pml4 + 0x2008, MIB(2) | PWU | PS, 8);
    for (unsigned i = 0; i < 512; i++)
        fake_write(f, pml4 + 0x3000 + 8 * i, (i * PAGE_SIZE + offset) | PWU, 8);
}

static struct fake *paged(uint64_t cr4)
{
    struct fake *f = fake_new(0);

    build(f, PML4_A, 0);
    build(f, PML4_B, 0x1000);
    fake_paging(f, CR0_PG, PML4_A, CR4_PAE | cr4, EFER_LME);
    fake_segments(f, 64, 0);
    return f;
}

static gpa_t translate(struct fake *f, gva_t lin)
{
    gpa_t gpa = 0;

    assert_int_equal(x86_translate(&f->cpu, lin, ACCESS_READ, &gpa), X86_NEXT);
    return gpa;
}

static void set_pte(struct fake *f, gpa_t pml4, gva_t lin, gpa_t gpa)
{
    fake_write(f, pml4 + 0x3000 + 8 * (lin >> 12), gpa | PWU, 8);
}

static bool cached(struct fake *f, gva_t lin)
{
    uint64_t walks = f->cpu.counters.page_walks;

    translate(f, lin);
    return f->cpu.counters.page_walks == walks;
}

static void test_invlpg(void **state)
{
    struct fake *f = paged(0);

    assert_int_equal(translate(f, 0x40000), 0x40000);
    translate(f, 0x41000);
    set_pte(f, PML4_A, 0x40000, 0x50000);
    assert_int_equal(translate(f, 0x40000), 0x40000); /* stale, as is its right */
    x86_tlb_flush_page(&f->cpu, 0x40abc);
    assert_int_equal(translate(f, 0x40000), 0x50000);
    assert_true(cached(f, 0x41000));
    fake_free(f);
}

/* INVLPG with any address in a large page drops all of it. */
static void test_invlpg_large(void **state)
{
    struct fake *f = paged(0);

    assert_int_equal(translate(f, 0x212345), 0x212345);
    translate(f, 0x345678);
    fake_write(f, PML4_A + 0x2008, MIB(4) | PWU | PS, 8);
    x86_tlb_flush_page(&f->cpu, 0x3ff000);
    assert_int_equal(translate(f, 0x212345), 0x412345);
    assert_int_equal(translate(f, 0x345678), 0x545678);
    /* 1 GiB */
    fake_write(f, PML4_A + 0x1008, GIB(3) | PWU | PS, 8);
    assert_int_equal(translate(f, GIB(1) + 0x5000), GIB(3) + 0x5000);
    fake_write(f, PML4_A + 0x1008, GIB(5) | PWU | PS, 8);
    x86_tlb_flush_page(&f->cpu, GIB(1) + MIB(700));
    assert_int_equal(translate(f, GIB(1) + 0x5000), GIB(5) + 0x5000);
    /* Where nothing of the kind has been entered one page goes. */
    fake_write(f, PML4_A + 0x2010, (PML4_A + 0x3000) | PWU, 8);
    translate(f, MIB(4) + 0x1000);
    x86_tlb_flush_page(&f->cpu, MIB(4) + 0x2000);
    assert_true(cached(f, MIB(4) + 0x1000));
    fake_free(f);
}

static void test_cr3(void **state)
{
    struct fake *f = paged(0);

    assert_int_equal(translate(f, 0x40000), 0x40000);
    assert_int_equal(x86_write_cr3(&f->cpu, PML4_B), X86_NEXT);
    assert_int_equal(translate(f, 0x40000), 0x41000);
    assert_int_equal(x86_write_cr3(&f->cpu, PML4_A), X86_NEXT);
    assert_int_equal(translate(f, 0x40000), 0x40000);
    /* Without PCIDE bit 63 is reserved. */
    assert_int_equal(x86_write_cr3(&f->cpu, PML4_A | NO_FLUSH), X86_FAULT);
    assert_int_equal(f->cpu.exc.vector, VEC_GP);
    assert_int_equal(x86_write_cr3(&f->cpu, PML4_A | BIT(x86_phys_bits())), X86_FAULT);
    assert_int_equal(f->cpu.cr3, PML4_A);
    fake_free(f);
}

static void test_pcid(void **state)
{
    struct fake *f = paged(CR4_PCIDE);

    assert_int_equal(x86_write_cr3(&f->cpu, PML4_A | 1), X86_NEXT);
    assert_int_equal(translate(f, 0x40000), 0x40000);
    assert_int_equal(x86_write_cr3(&f->cpu, PML4_B | 2), X86_NEXT);
    assert_int_equal(translate(f, 0x80000), 0x81000);
    assert_int_equal(translate(f, 0x40000), 0x41000);
    assert_int_equal(x86_write_cr3(&f->cpu, PML4_A | 1 | NO_FLUSH), X86_NEXT);
    assert_int_equal(f->cpu.cr3, PML4_A | 1);
    assert_int_equal(translate(f, 0x40000), 0x40000); /* never that of PCID 2 */
    assert_int_equal(x86_write_cr3(&f->cpu, PML4_B | 2 | NO_FLUSH), X86_NEXT);
    assert_true(cached(f, 0x80000));
    /* Flushed from outside, and by a CR3 write that does not say otherwise. */
    x86_write_cr3(&f->cpu, PML4_A | 1 | NO_FLUSH);
    x86_tlb_flush_pcid(&f->cpu, 2);
    x86_write_cr3(&f->cpu, PML4_B | 2 | NO_FLUSH);
    assert_false(cached(f, 0x80000));
    x86_write_cr3(&f->cpu, PML4_B | 2);
    assert_false(cached(f, 0x80000));
    x86_tlb_flush_pcid(&f->cpu, 2);
    assert_false(cached(f, 0x80000));
    /* INVLPG is for all PCIDs here. */
    set_pte(f, PML4_B, 0x80000, 0x90000);
    x86_write_cr3(&f->cpu, PML4_A | 1 | NO_FLUSH);
    x86_tlb_flush_page(&f->cpu, 0x80000);
    x86_write_cr3(&f->cpu, PML4_B | 2 | NO_FLUSH);
    assert_int_equal(translate(f, 0x80000), 0x90000);
    fake_free(f);
}

/* More address spaces than there are tables for: none is taken for another. */
static void test_spaces_run_out(void **state)
{
    struct fake *f = paged(CR4_PCIDE);

    for (unsigned i = 0; i < 3 * 4096; i++) {
        gpa_t root = i & 1 ? PML4_B : PML4_A;

        assert_int_equal(x86_write_cr3(&f->cpu, root | (i % 40)), X86_NEXT);
        assert_int_equal(translate(f, 0x40000), i & 1 ? 0x41000 : 0x40000);
    }
    fake_free(f);
}

#define GLOBAL BIT(8)

static void set_global(struct fake *f, gva_t lin, gpa_t gpa)
{
    fake_write(f, PML4_A + 0x3000 + 8 * (lin >> 12), gpa | GLOBAL | PWU, 8);
    fake_write(f, PML4_B + 0x3000 + 8 * (lin >> 12), gpa | GLOBAL | PWU, 8);
}

/* Two global pages and one that is not, as entered in PCID 1. */
static struct fake *globals(uint64_t cr4)
{
    struct fake *f = paged(CR4_PCIDE | cr4);

    x86_write_cr3(&f->cpu, PML4_A | 1);
    set_global(f, 0x40000, 0x50000);
    set_global(f, 0x43000, 0x53000);
    for (gva_t lin = 0x40000; lin < 0x44000; lin += PAGE_SIZE)
        translate(f, lin);
    return f;
}

static void expect_globals(struct fake *f, bool kept)
{
    assert_int_equal(cached(f, 0x40000), kept);
    assert_int_equal(cached(f, 0x43000), kept);
    assert_int_equal(translate(f, 0x40000), 0x50000);
}

static void test_global(void **state)
{
    for (unsigned i = 0; i < 2; i++) {
        const bool kept = i;
        struct fake *f = globals(kept ? CR4_PGE : 0);

        x86_write_cr3(&f->cpu, PML4_A | 1);
        assert_false(cached(f, 0x41000));
        expect_globals(f, kept);
        x86_tlb_flush_pcid(&f->cpu, 1);
        assert_false(cached(f, 0x41000));
        expect_globals(f, kept);
        x86_tlb_flush_local(&f->cpu);
        assert_false(cached(f, 0x41000));
        expect_globals(f, kept);
        x86_tlb_flush(&f->cpu);
        assert_false(cached(f, 0x41000));
        expect_globals(f, false);
        /* Tables change hands, and a page's globality. */
        for (unsigned pcid = 2; pcid < 40; pcid++) {
            x86_write_cr3(&f->cpu, PML4_B | pcid);
            assert_int_equal(translate(f, 0x40000), 0x50000);
            assert_int_equal(translate(f, 0x43000), 0x53000);
            assert_int_equal(translate(f, 0x41000), 0x42000);
        }
        x86_write_cr3(&f->cpu, PML4_A | 1);
        expect_globals(f, kept);
        assert_int_equal(translate(f, 0x41000), 0x41000);
        set_pte(f, PML4_A, 0x43000, 0x63000);
        x86_tlb_flush_page(&f->cpu, 0x43000); /* in all address spaces */
        assert_int_equal(translate(f, 0x43000), 0x63000);
        x86_write_cr3(&f->cpu, PML4_A | 1);
        assert_false(cached(f, 0x43000));
        set_global(f, 0x43000, 0x73000);
        x86_write_cr3(&f->cpu, PML4_B | 39 | NO_FLUSH);
        assert_int_equal(translate(f, 0x43000), 0x73000);
        assert_int_equal(cached(f, 0x40000), true);
        x86_write_cr4(&f->cpu, f->cpu.cr4 ^ CR4_PGE);
        assert_false(cached(f, 0x40000));
        fake_free(f);
    }
}

static unsigned size_of(const struct x86_tlb_table *table)
{
    return table->mask / sizeof(struct x86_tlb_entry) + 1;
}

static void expect_all(struct fake *f, gva_t end)
{
    for (gva_t lin = 0; lin < end; lin += PAGE_SIZE)
        assert_int_equal(translate(f, lin), lin >= 0x40000 && lin < 0x41000 ? 0x50000 : lin);
}

/* Pages that put each other out make it grow; flushes with little in it, shrink. What it says is right throughout. */
static void test_sizes(void **state)
{
    struct fake *f = paged(CR4_PGE);
    uint64_t walks;

    set_global(f, 0x40000, 0x50000);
    assert_int_equal(size_of(f->tlb.current), 1u << TLB_MIN_BITS);
    for (unsigned i = 0; i < 3; i++)
        expect_all(f, MIB(4));
    assert_int_equal(size_of(f->tlb.current), 1024);
    walks = f->cpu.counters.page_walks;
    expect_all(f, MIB(4));
    assert_int_equal(f->cpu.counters.page_walks, walks);
    for (unsigned i = 0; i < 20; i++) {
        x86_write_cr3(&f->cpu, PML4_A);
        assert_true(cached(f, 0x40000));
        assert_false(cached(f, 0x41000));
        assert_int_equal(translate(f, 0x41000), 0x41000);
        assert_int_equal(translate(f, 0x241000), 0x241000);
    }
    assert_int_equal(size_of(f->tlb.current), 1u << TLB_MIN_BITS);
    for (unsigned i = 0; i < 3; i++)
        expect_all(f, MIB(4));
    /* It has an end. */
    fake_write(f, PML4_A + 0x1008, (PML4_A + 0x4000) | PWU, 8);
    for (unsigned i = 0; i < 512; i++)
        fake_write(f, PML4_A + 0x4000 + 8 * i, PWU | PS, 8);
    for (gva_t lin = GIB(1); lin < GIB(2); lin += PAGE_SIZE)
        assert_int_equal(translate(f, lin), lin % MIB(2));
    assert_int_equal(size_of(f->tlb.current), 1u << TLB_MAX_BITS);
    expect_all(f, MIB(4));
    x86_tlb_flush(&f->cpu);
    expect_all(f, MIB(4));
    fake_free(f);
}

#define UPPER (~0ull << 39)

/* What a context stands for: it may not outlive a change of what fetches see. */
static void test_contexts(void **state)
{
    struct fake *f = paged(CR4_PCIDE | CR4_PGE | CR4_SMEP);
    uint64_t context, other;
    bool mmio;

    fake_write(f, PML4_A + 8 * 511, (PML4_A + 0x1000) | PWU, 8);
    fake_write(f, PML4_B + 8 * 511, (PML4_A + 0x1000) | PWU, 8);
    fake_write(f, PML4_A + 0x3000 + 8 * 0x40, 0x40000 | GLOBAL | 3, 8);
    fake_write(f, PML4_A + 0x3000 + 8 * 0x42, 0x42000 | 3, 8);
    x86_write_cr3(&f->cpu, PML4_A | 1);
    assert_non_null(x86_fetch_entry(&f->cpu, UPPER + 0x40000, &mmio));
    context = f->tlb.context;
    /* All of the kernel's code is global: one context in all spaces. */
    x86_write_cr3(&f->cpu, PML4_B | 2);
    assert_int_equal(f->tlb.context, context);
    x86_tlb_flush_page(&f->cpu, UPPER + 0x41000); /* nothing was fetched there */
    assert_int_equal(f->tlb.context, context);
    x86_tlb_flush_page(&f->cpu, UPPER + 0x40000);
    assert_int_not_equal(f->tlb.context, context);
    context = f->tlb.context;
    /* Reading is not fetching. */
    x86_write_cr3(&f->cpu, PML4_A | 1 | NO_FLUSH);
    translate(f, 0x42000);
    assert_int_equal(f->tlb.context, context);
    assert_non_null(x86_fetch_entry(&f->cpu, 0x42000, &mmio));
    assert_int_not_equal(f->tlb.context, context);
    context = f->tlb.context;
    x86_write_cr3(&f->cpu, PML4_B | 2 | NO_FLUSH);
    other = f->tlb.context;
    assert_int_not_equal(other, context);
    x86_write_cr3(&f->cpu, PML4_A | 1 | NO_FLUSH);
    assert_int_equal(f->tlb.context, context);
    x86_tlb_flush_page(&f->cpu, 0x42000);
    assert_int_not_equal(f->tlb.context, context);
    /* After a full flush it is as it was at first, but another one. */
    x86_tlb_flush(&f->cpu);
    assert_non_null(x86_fetch_entry(&f->cpu, UPPER + 0x40000, &mmio));
    assert_int_not_equal(f->tlb.context, context);
    assert_int_not_equal(f->tlb.context, other);
    context = f->tlb.context;
    x86_write_cr3(&f->cpu, PML4_B | 3);
    assert_int_equal(f->tlb.context, context);
    /* The user's own. */
    fake_segments(f, 64, 3);
    assert_int_not_equal(f->tlb.context, context);
    context = f->tlb.context;
    x86_write_cr3(&f->cpu, PML4_A | 1);
    assert_int_not_equal(f->tlb.context, context);
    fake_free(f);
}

/* Rights of one privilege are not those of another. */
static void test_tables_apart(void **state)
{
    struct fake *f = paged(CR4_SMAP);
    gpa_t gpa;

    f->cpu.rflags |= FLAG_AC;
    x86_update_mode(&f->cpu);
    assert_int_equal(x86_translate(&f->cpu, 0x40000, ACCESS_WRITE, &gpa), X86_NEXT);
    f->cpu.rflags &= ~(uint64_t)FLAG_AC;
    x86_update_mode(&f->cpu);
    assert_int_equal(x86_translate(&f->cpu, 0x40000, ACCESS_READ, &gpa), X86_FAULT);
    fake_write(f, PML4_A + 0x3000 + 8 * 0x42, 0x42000 | 3, 8);
    assert_int_equal(x86_translate(&f->cpu, 0x42000, ACCESS_READ, &gpa), X86_NEXT);
    fake_segments(f, 64, 3);
    assert_int_equal(x86_translate(&f->cpu, 0x42000, ACCESS_READ, &gpa), X86_FAULT);
    assert_int_equal(x86_translate(&f->cpu, 0x40000, ACCESS_READ, &gpa), X86_NEXT);
    fake_free(f);
}

/* Fetching has other rights than reading: the entry asked for is the one that data accesses look at. */
static void test_load(void **state)
{
    static const uint64_t cr4[] = {0, CR4_SMAP};

    for (unsigned i = 0; i < ARRAY_SIZE(cr4); i++) {
        struct fake *f = paged(cr4[i]);
        const gpa_t pte = PML4_A + 0x3000 + 8 * 0x40;
        const struct x86_tlb_entry *e;
        bool mmio;

        fake_write(f, pte, 0x50000 | 3, 8);
        fake_write(f, pte + 8, 0x51000 | 3, 8);
        assert_non_null(x86_fetch_entry(&f->cpu, 0x40000, &mmio));
        assert_false(x86_tlb_load(&f->cpu, 0x40ffc, 8, ACCESS_READ)); /* crosses */
        assert_int_equal(fake_read(f, pte + 8, 8), 0x51000 | 3);
        assert_true(x86_tlb_load(&f->cpu, 0x40ff8, 8, ACCESS_READ) || !cr4[i]); /* one table for both without SMAP */
        e = x86_tlb_slot(f->tlb.current, 0x40000);
        assert_int_equal(e->read, 0x40000);
        assert_false(x86_tlb_load(&f->cpu, 0x40ff8, 8, ACCESS_READ)); /* is there */
        assert_int_equal(fake_read(f, pte, 8), 0x50000 | 0x23);
        assert_true(x86_tlb_load(&f->cpu, 0x40000, 1, ACCESS_WRITE));
        assert_int_equal(e->write, 0x40000);
        assert_int_equal(fake_read(f, pte, 8), 0x50000 | 0x63);
        assert_int_equal(x86_tlb_load(&f->cpu, 0x42000, 1, ACCESS_READ), !cr4[i]); /* the user's */
        fake_write(f, pte + 8, 0, 8);
        assert_false(x86_tlb_load(&f->cpu, 0x41000, 1, ACCESS_READ));
        assert_false(x86_tlb_load(&f->cpu, BIT(63), 1, ACCESS_READ));
        fake_free(f);
    }
}

/* Changes of what rights depend on. */
static void test_control_flushes(void **state)
{
    static const struct {
        bool cr0;
        uint64_t bit;
    } rows[] = {{true, CR0_WP}, {false, CR4_PGE}, {false, CR4_SMEP}, {false, CR4_SMAP}, {false, CR4_PSE}};

    for (unsigned i = 0; i < ARRAY_SIZE(rows); i++) {
        struct fake *f = paged(0);

        set_pte(f, PML4_A, 0x40000, 0x40000 & ~4u);
        fake_write(f, PML4_A + 0x3000 + 8 * 0x40, 0x40000 | 3, 8);
        translate(f, 0x40000);
        if (rows[i].cr0)
            assert_int_equal(x86_write_cr0(&f->cpu, f->cpu.cr0 ^ rows[i].bit), X86_NEXT);
        else
            assert_int_equal(x86_write_cr4(&f->cpu, f->cpu.cr4 ^ rows[i].bit), X86_NEXT);
        assert_false(cached(f, 0x40000));
        assert_int_equal(x86_write_efer(&f->cpu, f->cpu.msr.efer ^ EFER_NXE), X86_NEXT);
        assert_false(cached(f, 0x40000));
        assert_int_equal(x86_write_cr4(&f->cpu, f->cpu.cr4 ^ CR4_TSD), X86_NEXT);
        assert_true(cached(f, 0x40000));
        fake_free(f);
    }
}

/* --- control registers ------------------------------------------------------------------ */

enum { REG_CR0, REG_CR3, REG_CR4, REG_EFER };
#define PE_ET  (CR0_PE | CR0_ET)
#define PG_ALL (CR0_PG | CR0_PE | CR0_ET)
#define LMA    (EFER_LME | EFER_LMA)

static const struct {
    const char *name;
    uint64_t cr0, cr3, cr4, efer;
    unsigned bits; /* of the code segment */
    int reg;
    uint64_t value;
    bool ok;
    uint64_t want; /* the register then, if ok */
} control[] = {
    {"PG without PE", CR0_ET, 0, 0, 0, 16, REG_CR0, CR0_PG | CR0_ET, false},
    {"NW without CD", CR0_ET, 0, 0, 0, 16, REG_CR0, CR0_NW, false},
    {"CD without NW", CR0_ET, 0, 0, 0, 16, REG_CR0, CR0_CD, true, CR0_CD | CR0_ET},
    {"CR0 bit 32", PE_ET, 0, 0, 0, 32, REG_CR0, BIT(32) | PE_ET, false},
    {"CR0 undefined bits are dropped", PE_ET, 0, 0, 0, 32, REG_CR0, 0x1ff8ffc0 | CR0_PE, true, PE_ET},
    {"ET stays", PE_ET, 0, 0, 0, 32, REG_CR0, CR0_PE, true, PE_ET},
    {"PG, 32-bit", PE_ET, 0x10000, 0, 0, 32, REG_CR0, PG_ALL, true, PG_ALL},
    {"PG with LME without PAE", PE_ET, 0x10000, 0, EFER_LME, 32, REG_CR0, PG_ALL, false},
    {"PG with LME", PE_ET, 0x10000, CR4_PAE, EFER_LME, 32, REG_CR0, PG_ALL, true, PG_ALL},
    {"PG with LME in L code", PE_ET, 0x10000, CR4_PAE, EFER_LME, 64, REG_CR0, PG_ALL, false},
    {"PG off in 64-bit code", PG_ALL, 0x10000, CR4_PAE, LMA, 64, REG_CR0, PE_ET, false},
    {"PG off in compatibility mode", PG_ALL, 0x10000, CR4_PAE, LMA, 32, REG_CR0, PE_ET, true, PE_ET},
    {"PG off with PCIDE", PG_ALL, 0x10000, CR4_PAE | CR4_PCIDE, LMA, 32, REG_CR0, PE_ET, false},
    {"PE off with PG", PG_ALL, 0x10000, 0, 0, 32, REG_CR0, CR0_PG | CR0_ET, false},
    {"PG with bad PDPTEs", PE_ET, 0x20000, CR4_PAE, 0, 32, REG_CR0, PG_ALL, false},
    {"PG with good PDPTEs", PE_ET, 0x10000, CR4_PAE, 0, 32, REG_CR0, PG_ALL, true, PG_ALL},
    {"PG with PDPTEs outside memory", PE_ET, 0x40000000, CR4_PAE, 0, 32, REG_CR0, PG_ALL, false},
    {"CR3 with bad PDPTEs", PG_ALL, 0x10000, CR4_PAE, 0, 32, REG_CR3, 0x20000, false},
    {"CR3 with good PDPTEs", PG_ALL, 0x10000, CR4_PAE, 0, 32, REG_CR3, 0x10020, true, 0x10020},
    {"CR3 without PAE", PG_ALL, 0x10000, 0, 0, 32, REG_CR3, 0x20000, true, 0x20000},
    {"CR3 without paging", PE_ET, 0, CR4_PAE, 0, 32, REG_CR3, 0x20000, true, 0x20000},
    {"CR4 reserved", PE_ET, 0, 0, 0, 32, REG_CR4, BIT(12) /* LA57 */, false},
    {"CR4 bit 63", PE_ET, 0, 0, 0, 32, REG_CR4, BIT(63), false},
    {"CR4 VME is not offered", PE_ET, 0, 0, 0, 32, REG_CR4, CR4_VME, false},
    {"CR4", PE_ET, 0, 0, 0, 32, REG_CR4, CR4_PAE | CR4_PSE | CR4_PGE, true, CR4_PAE | CR4_PSE | CR4_PGE},
    {"PAE off in long mode", PG_ALL, 0x10000, CR4_PAE, LMA, 64, REG_CR4, 0, false},
    {"PCIDE outside long mode", PG_ALL, 0x10000, CR4_PAE, 0, 32, REG_CR4, CR4_PAE | CR4_PCIDE, false},
    {"PCIDE", PG_ALL, 0x10000, CR4_PAE, LMA, 64, REG_CR4, CR4_PAE | CR4_PCIDE, true, CR4_PAE | CR4_PCIDE},
    {"PCIDE with a PCID in CR3", PG_ALL, 0x10001, CR4_PAE, LMA, 64, REG_CR4, CR4_PAE | CR4_PCIDE, false},
    {"PCIDE stays with a PCID in CR3", PG_ALL, 0x10001, CR4_PAE | CR4_PCIDE, LMA, 64, REG_CR4,
     CR4_PAE | CR4_PCIDE | CR4_PGE, true, CR4_PAE | CR4_PCIDE | CR4_PGE},
    {"PAE on with bad PDPTEs", PG_ALL, 0x20000, 0, 0, 32, REG_CR4, CR4_PAE, false},
    {"EFER reserved", PE_ET, 0, 0, 0, 32, REG_EFER, BIT(1), false},
    {"EFER SVME is not offered", PE_ET, 0, 0, 0, 32, REG_EFER, BIT(12), false},
    {"EFER", PE_ET, 0, 0, 0, 32, REG_EFER, EFER_SCE | EFER_LME | EFER_NXE, true, EFER_SCE | EFER_LME | EFER_NXE},
    {"LME with paging", PG_ALL, 0x10000, 0, 0, 32, REG_EFER, EFER_LME, false},
    {"LME off in long mode", PG_ALL, 0x10000, CR4_PAE, LMA, 64, REG_EFER, 0, false},
    {"LMA is not written", PG_ALL, 0x10000, CR4_PAE, LMA, 64, REG_EFER, EFER_LME | EFER_SCE, true, LMA | EFER_SCE},
    {"LMA is not set", PE_ET, 0, 0, 0, 32, REG_EFER, EFER_LMA, true, 0},
};

static uint64_t get(const struct x86_cpu *cpu, int reg)
{
    return reg == REG_CR0 ? cpu->cr0 : reg == REG_CR3 ? cpu->cr3 : reg == REG_CR4 ? cpu->cr4 : cpu->msr.efer;
}

static void test_control(void **state)
{
    static enum x86_rc (*const write[])(struct x86_cpu *, uint64_t) = {x86_write_cr0, x86_write_cr3, x86_write_cr4,
                                                                       x86_write_efer};

    for (unsigned i = 0; i < ARRAY_SIZE(control); i++) {
        struct fake *f = fake_new(0);
        uint64_t before;
        enum x86_rc rc;

        fake_write(f, 0x10000, 0x11000 | 1, 8); /* good PDPTEs, those at 0x20000 have a reserved bit */
        fake_write(f, 0x10020, 0x11000 | 1, 8);
        fake_write(f, 0x20018, 0x11000 | 3, 8);
        f->cpu.cr0 = control[i].cr0;
        f->cpu.cr3 = control[i].cr3;
        f->cpu.cr4 = control[i].cr4;
        f->cpu.msr.efer = control[i].efer;
        fake_segments(f, control[i].bits, 0);
        before = get(&f->cpu, control[i].reg);
        rc = write[control[i].reg](&f->cpu, control[i].value);
        if ((rc == X86_NEXT) != control[i].ok)
            fail_msg("%s: %s", control[i].name, rc ? "#GP" : "no #GP");
        if (rc)
            assert_int_equal(f->cpu.exc.vector, VEC_GP);
        if (get(&f->cpu, control[i].reg) != (rc ? before : control[i].want))
            fail_msg("%s: %#llx", control[i].name, (unsigned long long)get(&f->cpu, control[i].reg));
        fake_free(f);
    }
}

static void test_long_mode_on_and_off(void **state)
{
    struct fake *f = fake_new(0);
    struct x86_cpu *cpu = &f->cpu;

    build(f, PML4_A, 0);
    cpu->cr0 = PE_ET;
    fake_segments(f, 32, 0);
    assert_int_equal(x86_write_cr4(cpu, CR4_PAE), X86_NEXT);
    assert_int_equal(x86_write_cr3(cpu, PML4_A), X86_NEXT);
    assert_int_equal(x86_write_efer(cpu, EFER_LME), X86_NEXT);
    assert_int_equal(cpu->mode, MODE_PROT32);
    assert_int_equal(x86_write_cr0(cpu, PG_ALL), X86_NEXT);
    assert_true(cpu->msr.efer & EFER_LMA);
    assert_int_equal(cpu->mode, MODE_COMPAT32);
    assert_int_equal(translate(f, 0x40000), 0x40000);
    assert_int_equal(x86_write_cr0(cpu, PE_ET), X86_NEXT);
    assert_false(cpu->msr.efer & EFER_LMA);
    assert_int_equal(cpu->mode, MODE_PROT32);
    fake_free(f);
}

static void test_pdptes_are_registers(void **state)
{
    struct fake *f = fake_new(0);

    fake_write(f, 0x10000, 0x11000 | 1, 8);
    fake_write(f, 0x11000, 0x12000 | PWU, 8);
    fake_write(f, 0x12000, 0x13000 | PWU, 8);
    f->cpu.cr0 = PE_ET;
    f->cpu.cr4 = CR4_PAE;
    f->cpu.cr3 = 0x10000;
    fake_segments(f, 32, 0);
    assert_int_equal(x86_write_cr0(&f->cpu, PG_ALL), X86_NEXT);
    fake_write(f, 0x10000, 0, 8); /* not looked at again before CR3 is loaded */
    assert_int_equal(translate(f, 0x123), 0x13123);
    assert_int_equal(x86_write_cr3(&f->cpu, 0x10000), X86_NEXT);
    assert_int_equal(x86_translate(&f->cpu, 0x123, ACCESS_READ, &(gpa_t){0}), X86_FAULT);
    fake_free(f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_invlpg),
        cmocka_unit_test(test_invlpg_large),
        cmocka_unit_test(test_cr3),
        cmocka_unit_test(test_pcid),
        cmocka_unit_test(test_spaces_run_out),
        cmocka_unit_test(test_tables_apart),
        cmocka_unit_test(test_load),
        cmocka_unit_test(test_global),
        cmocka_unit_test(test_sizes),
        cmocka_unit_test(test_contexts),
        cmocka_unit_test(test_control_flushes),
        cmocka_unit_test(test_control),
        cmocka_unit_test(test_long_mode_on_and_off),
        cmocka_unit_test(test_pdptes_are_registers),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
