/*
 * paging.c: who may do what to a page, and the fault's error code (SDM vol. 3,
 * 4.6 and 4.7; AMD APM vol. 2, 5.6 and 8.2.15).
 */
#include "kit/desc.h"
#include "kit/page.h"
#include "kit/regs.h"

enum kind { READ, WRITE, FETCH, KINDS };

CODE(code_read, "movb (" BX "), %al\n int $0x80");
CODE(code_write, "movb $0xcd, (" BX ")\n int $0x80");
CODE(code_fetch, "jmp *" BX);

static const char *const codes[KINDS] = {code_read, code_write, code_fetch};

static void set_cr4(word bits, bool on)
{
    write_cr4(on ? read_cr4() | bits : read_cr4() & ~bits);
}

static void set_wp(bool on)
{
    write_cr0(on ? read_cr0() | CR0_WP : read_cr0() & ~(word)CR0_WP);
}

static bool has_nx(void)
{
    return cpu_has(0x80000001, 0, 3, 20);
}

static void init(void)
{
    paging_64();
    user_init();
    if (has_nx())
        wrmsr(MSR_EFER, rdmsr(MSR_EFER) | EFER_NXE);
    memcpy((void *)USER_CODE, code_read, CODE_SIZE(code_read));
    memcpy((void *)(USER_CODE + 0x100), code_write, CODE_SIZE(code_write));
    memcpy((void *)(USER_CODE + 0x200), code_fetch, CODE_SIZE(code_fetch));
}

/* One access to va, and how it ended: NO_TRAP (the INT 80h was reached) or the #PF's error code. */
static word attempt(bool user, enum kind kind, word va, word flags)
{
    struct context c = user ? user_context(USER_CODE + 0x100 * kind) : kernel_context((word)codes[kind]);

    c.bx = va;
    c.flags |= flags;
    context_run(&c);
    if (c.vector == 0x80)
        return NO_TRAP;
    EXPECT_END(&c, PF);
    EXPECT_EQ(c.cr2, va);
    EXPECT_EQ(c.ip, kind == FETCH ? va : user ? USER_CODE + 0x100 * kind : (word)codes[kind]);
    return c.error;
}

/* What the manual says; rights: those of all levels together. */
static word expected(bool user, enum kind kind, uint64_t rights, word flags)
{
    bool smep = read_cr4() & CR4_SMEP, smap = read_cr4() & CR4_SMAP, nxe = rdmsr(MSR_EFER) & EFER_NXE;
    word error = (user ? PF_U : 0) | (kind == WRITE ? PF_W : 0) | (kind == FETCH && (nxe || smep) ? PF_I : 0);
    bool bad;

    if (!(rights & PTE_P))
        return error;
    bad = user && !(rights & PTE_U);
    bad |= kind == WRITE && !(rights & PTE_W) && (user || (read_cr0() & CR0_WP));
    bad |= kind == FETCH && nxe && (rights & PTE_NX);
    bad |= kind == FETCH && !user && (rights & PTE_U) && smep;
    bad |= kind != FETCH && !user && (rights & PTE_U) && smap && !(flags & FL_AC);
    return bad ? error | PF_P : NO_TRAP;
}

/* All rights of the entry at a level, at both privileges and for all kinds. */
static void matrix(unsigned level, word flags)
{
    char *page = page_new_aligned(0x200000);
    volatile uint64_t *e;

    memcpy(page, "\xcd\x80", 2);
    map(TEST_VA, (word)page, PTE_PWU);
    e = entry(TEST_VA, level);
    for (unsigned i = 0; i < 16; i++) {
        uint64_t rights = (i & 7) | (i & 8 && has_nx() ? PTE_NX : 0);

        *e = (*e & 0xffffffffff000) | rights;
        write_cr3(read_cr3());
        for (unsigned user = 0; user < 2; user++)
            for (enum kind kind = READ; kind < KINDS; kind++) {
                if (!user && level > 2)
                    continue; /* would take the kernel's own code away */
                EXPECT_EQ(attempt(user, kind, TEST_VA, flags), expected(user, kind, rights, flags));
            }
    }
    *e = (*e & 0xffffffffff000) | PTE_PWU;
    write_cr3(read_cr3());
}

TEST(paging_permissions)
{
    init();
    matrix(1, 0);
    set_wp(false);
    matrix(1, 0);
}

/* Rights are the AND of all levels (NX: the OR). */
TEST(paging_upper_levels)
{
    init();
    matrix(2, 0);
#ifdef __x86_64__
    /* A PML4 slot of its own, so that the kernel's stays. */
    for (unsigned level = 3; level <= 4; level++) {
        const word va = 0x500000000000;
        volatile uint64_t *e = entry(va, level);

        map(va, (word)memcpy(page_new(), "\xcd\x80", 2), PTE_PWU);
        for (unsigned i = 0; i < 16; i++) {
            uint64_t rights = (i & 7) | (i & 8 ? PTE_NX : 0);

            *e = (*e & 0xffffffffff000) | rights;
            write_cr3(read_cr3());
            for (unsigned user = 0; user < 2; user++)
                for (enum kind kind = READ; kind < KINDS; kind++)
                    EXPECT_EQ(attempt(user, kind, va, 0), expected(user, kind, rights, 0));
        }
        *e |= PTE_PWU;
        *e &= ~PTE_NX;
        write_cr3(read_cr3());
    }
#endif
}

TEST(paging_large_page_rights)
{
    char *page;

    init();
    page = page_new_aligned(0x200000);
    memcpy(page + 0x3000, "\xcd\x80", 2);
    for (unsigned i = 0; i < 16; i++) {
        uint64_t rights = (i & 7) | (i & 8 && has_nx() ? PTE_NX : 0);

        map_large(TEST_VA, (word)page, rights, 2);
        for (unsigned user = 0; user < 2; user++)
            for (enum kind kind = READ; kind < KINDS; kind++)
                EXPECT_EQ(attempt(user, kind, TEST_VA + 0x3000, 0), expected(user, kind, rights, 0));
    }
}

TEST(paging_wp)
{
    init();
    map(TEST_VA, (word)page_new(), PTE_P);
    EXPECT_EQ(attempt(false, WRITE, TEST_VA, 0), PF_P | PF_W);
    EXPECT_EQ(*(uint8_t *)TEST_VA, 0);
    /* The change needs no flush. */
    set_wp(false);
    EXPECT_EQ(attempt(false, WRITE, TEST_VA, 0), NO_TRAP);
    EXPECT_EQ(*(uint8_t *)TEST_VA, 0xcd);
    EXPECT_EQ(*entry(TEST_VA, 1) & PTE_D, PTE_D);
    set_wp(true);
    EXPECT_EQ(attempt(false, WRITE, TEST_VA, 0), PF_P | PF_W);
    /* The user never writes it. */
    map(TEST_VA, (word)page_new(), PTE_P | PTE_U);
    set_wp(false);
    EXPECT_EQ(attempt(true, WRITE, TEST_VA, 0), PF_P | PF_W | PF_U);
    EXPECT_EQ(attempt(false, WRITE, TEST_VA, 0), NO_TRAP);
    EXPECT_EQ(attempt(true, WRITE, TEST_VA, 0), PF_P | PF_W | PF_U);
}

TEST(paging_nx)
{
    if (!has_nx())
        skip("nx");
    init();
    map(TEST_VA, (word)memcpy(page_new(), "\xcd\x80", 2), PTE_PWU | PTE_NX);
    EXPECT_EQ(attempt(true, READ, TEST_VA, 0), NO_TRAP);
    EXPECT_EQ(attempt(true, FETCH, TEST_VA, 0), PF_P | PF_U | PF_I);
    EXPECT_EQ(attempt(false, FETCH, TEST_VA, 0), PF_P | PF_I);
    map(TEST_VA, (word)page_new(), 0);
    EXPECT_EQ(attempt(true, FETCH, TEST_VA, 0), PF_U | PF_I);
    /* Without NXE bit 63 is reserved, and fetches do not show in the error code. */
    map(TEST_VA, (word)memcpy(page_new(), "\xcd\x80", 2), PTE_PWU | PTE_NX);
    wrmsr(MSR_EFER, rdmsr(MSR_EFER) & ~(uint64_t)EFER_NXE);
    invlpg(TEST_VA);
    EXPECT_EQ(attempt(true, READ, TEST_VA, 0), PF_P | PF_U | PF_RSVD);
    EXPECT_EQ(attempt(true, FETCH, TEST_VA, 0), PF_P | PF_U | PF_RSVD);
    unmap(TEST_VA);
    EXPECT_EQ(attempt(true, FETCH, TEST_VA, 0), PF_U);
}

TEST(paging_smep)
{
    NEED_SMEP();
    init();
    map(TEST_VA, (word)memcpy(page_new(), "\xcd\x80", 2), PTE_PWU);
    EXPECT_EQ(attempt(false, FETCH, TEST_VA, 0), NO_TRAP);
    set_cr4(CR4_SMEP, true); /* needs no flush */
    EXPECT_EQ(attempt(false, FETCH, TEST_VA, 0), PF_P | PF_I);
    EXPECT_EQ(attempt(false, READ, TEST_VA, 0), NO_TRAP);
    EXPECT_EQ(attempt(true, FETCH, TEST_VA, 0), NO_TRAP);
    matrix(1, 0);
    set_cr4(CR4_SMEP, false);
    EXPECT_EQ(attempt(false, FETCH, TEST_VA, 0), NO_TRAP);
}

TEST(paging_smap)
{
    NEED_SMAP();
    init();
    map(TEST_VA, (word)memcpy(page_new(), "\xcd\x80", 2), PTE_PWU);
    EXPECT_EQ(attempt(false, READ, TEST_VA, 0), NO_TRAP);
    EXPECT_EQ(attempt(false, WRITE, TEST_VA, 0), NO_TRAP);
    set_cr4(CR4_SMAP, true);
    EXPECT_EQ(attempt(false, READ, TEST_VA, 0), PF_P);
    EXPECT_EQ(attempt(false, WRITE, TEST_VA, 0), PF_P | PF_W);
    EXPECT_EQ(attempt(false, READ, TEST_VA, FL_AC), NO_TRAP);
    EXPECT_EQ(attempt(false, WRITE, TEST_VA, FL_AC), NO_TRAP);
    EXPECT_EQ(attempt(false, READ, TEST_VA, 0), PF_P);
    EXPECT_EQ(attempt(true, READ, TEST_VA, 0), NO_TRAP);
    matrix(1, 0);
    /* With CR0.AM clear, AC at CPL 0 lifts nothing but SMAP. */
    matrix(1, FL_AC);
}

/* STAC and CLAC act at once, in the middle of a run of code. */
TEST(paging_stac_clac)
{
    volatile uint8_t *p;
    unsigned value = 0;

    NEED_SMAP();
    init();
    p = page_new();
    *p = 0x42;
    map(TEST_VA, (word)p, PTE_PWU);
    set_cr4(CR4_SMAP, true);
    TRY("stac\n movzbl (%1), %0\n clac\n", : "=r"(value) : "r"(TEST_VA) : "memory");
    EXPECT_NO_TRAP();
    EXPECT_EQ(value, 0x42);
    TRY("clac\n movb $1, (%0)\n", : : "r"(TEST_VA) : "memory");
    EXPECT_TRAP_ERROR(PF, PF_P | PF_W);
    TRY("stac\n movb $1, (%0)\n clac\n movb $2, (%0)", : : "r"(TEST_VA) : "memory");
    EXPECT_TRAP_ERROR(PF, PF_P | PF_W);
    EXPECT_EQ(*p, 1);
    EXPECT_EQ(read_flags() & FL_AC, 0);
}

/* Descriptor table accesses are the supervisor's whatever the CPL, and AC does not help them (SDM vol. 3, 4.6.1). The
 * GDT lies over a page edge: what the kit needs on a supervisor page, the descriptor to be loaded on a user page. */
CODE(code_load_fs, "mov %ecx, %fs\n int $0x80");

TEST(paging_smap_implicit)
{
    enum { SELECTOR = 0x80 };
    struct table_register moved = {GDT_SIZE - 1, TEST_VA + PAGE - SELECTOR};
    char *pages = page_new_aligned(2 * PAGE);

    NEED_SMAP();
    init();
    gdt_set(SELECTOR, 0, 0xfffff, ACC_DATA | ACC_USER | 1, FLAG_G | FLAG_D);
    memcpy(pages + PAGE - SELECTOR, gdt, GDT_SIZE);
    map(TEST_VA, (word)pages, PTE_PW);
    map(TEST_VA + PAGE, (word)pages + PAGE, PTE_PWU);
    PLACE(USER_CODE, code_load_fs);
    write_gdtr(moved);
    for (unsigned i = 0; i < 3; i++) {
        struct context c = user_context(USER_CODE);

        set_cr4(CR4_SMAP, i);
        c.cx = SELECTOR | 3;
        c.flags |= i == 2 ? FL_AC : 0;
        context_run(&c);
        if (i) {
            EXPECT_END_ERROR(&c, PF, PF_P);
            EXPECT_EQ(c.cr2, TEST_VA + PAGE);
        } else {
            EXPECT_END(&c, 0x80);
            EXPECT_EQ(c.fs, SELECTOR | 3);
        }
    }
    /* A supervisor page that the user may not read is fine. */
    map(TEST_VA + PAGE, (word)pages + PAGE, PTE_PW);
    {
        struct context c = user_context(USER_CODE);

        c.cx = SELECTOR | 3;
        context_run(&c);
        EXPECT_END(&c, 0x80);
    }
}

/* Bits that must be 0: RSVD in the error code, whatever the access. */
TEST(paging_reserved_bits)
{
    uint32_t regs[4];
    unsigned physical;
    char *page;

    init();
    cpuid(0x80000008, 0, regs);
    physical = regs[0] & 0xff;
    page = page_new_aligned(0x200000);
    /* A 2 MiB page's address bits below 21. */
    for (unsigned bit = 13; bit <= 20; bit++) {
        map_large(TEST_VA, (word)page, PTE_PWU, 2);
        *entry(TEST_VA, 2) |= 1ull << bit;
        invlpg(TEST_VA);
        EXPECT_EQ(attempt(true, READ, TEST_VA, 0), PF_P | PF_U | PF_RSVD);
        EXPECT_EQ(attempt(false, WRITE, TEST_VA, 0), PF_P | PF_W | PF_RSVD);
    }
    /* Bits beyond the physical address width, up to 51. */
    *entry(TEST_VA, 2) = 0;
    for (unsigned bit = physical; bit < 52; bit++) {
        map(TEST_VA, (word)page, PTE_PWU | 1ull << bit);
        EXPECT_EQ(attempt(true, READ, TEST_VA, 0), PF_P | PF_U | PF_RSVD);
        EXPECT_EQ(attempt(true, FETCH, TEST_VA, 0), PF_P | PF_U | PF_RSVD | (has_nx() ? PF_I : 0));
    }
    /* Not present: nothing is reserved. */
    map(TEST_VA, (word)page, (PTE_PWU | 1ull << 51) & ~PTE_P);
    EXPECT_EQ(attempt(true, READ, TEST_VA, 0), PF_U);
#ifdef __x86_64__
    /* PS in a PML4 entry. */
    map(0x500000000000, (word)page, PTE_PWU);
    *entry(0x500000000000, 4) |= PTE_PS;
    invlpg(0x500000000000);
    EXPECT_EQ(attempt(true, READ, 0x500000000000, 0), PF_P | PF_U | PF_RSVD);
#endif
}

/* An access over a page edge faults on the page that lacks, with its first byte in CR2, and changes nothing. */
CODE(code_read4, "movl (" BX "), %eax\n int $0x80");
CODE(code_write4, "movl $-1, (" BX ")\n int $0x80");
CODE(code_rmw4, "lock addl $1, (" BX ")\n int $0x80");
TEST(paging_cross_page_data)
{
    static const struct {
        const char *code, *end;
        word error;
    } rows[] = {
        {code_read4, code_read4_end, PF_U},
        {code_write4, code_write4_end, PF_U | PF_W},
    };

    init();
    for (unsigned i = 0; i < 2; i++)
        for (unsigned in_first = 1; in_first < 4; in_first++) {
            struct context c = user_context(USER_CODE);

            memcpy((void *)USER_CODE, rows[i].code, (size_t)(rows[i].end - rows[i].code));
            /* The second page lacks. */
            c.bx = USER_DATA + 2 * PAGE - in_first;
            context_run(&c);
            EXPECT_END_ERROR(&c, PF, rows[i].error);
            EXPECT_EQ(c.cr2, USER_DATA + 2 * PAGE);
            EXPECT_EQ(*(uint8_t *)(USER_DATA + 2 * PAGE - 1), 0);
            /* The first lacks. */
            c = user_context(USER_CODE);
            c.bx = USER_DATA - in_first;
            context_run(&c);
            EXPECT_END_ERROR(&c, PF, rows[i].error);
            EXPECT_EQ(c.cr2, USER_DATA - in_first);
            EXPECT_EQ(*(uint8_t *)USER_DATA, 0);
        }
}

/* The second page is read-only; and a read-modify-write is a write from its start. */
TEST(paging_cross_page_write)
{
    init();
    map(USER_DATA + PAGE, USER_DATA + PAGE, PTE_P | PTE_U);
    for (unsigned i = 0; i < 2; i++) {
        struct context c = user_context(USER_CODE);

        if (i)
            PLACE(USER_CODE, code_rmw4);
        else
            PLACE(USER_CODE, code_write4);
        c.bx = USER_DATA + PAGE - 2;
        context_run(&c);
        EXPECT_END_ERROR(&c, PF, PF_P | PF_U | PF_W);
        EXPECT_EQ(c.cr2, USER_DATA + PAGE);
        EXPECT_EQ(*(uint16_t *)(USER_DATA + PAGE - 2), 0);
        c.bx = USER_DATA + 2 * PAGE;
        context_run(&c);
        EXPECT_END_ERROR(&c, PF, PF_U | PF_W);
    }
}

/* An instruction over the edge into a page that lacks: CR2 is the second page's first byte, IP the instruction. */
CODE(code_mov_imm, "mov $0x12345678, %eax\n int $0x80");
TEST(paging_cross_page_fetch)
{
    word error = PF_U | (has_nx() ? PF_I : 0);

    init();
    for (unsigned in_first = 1; in_first < 5; in_first++) {
        struct context c = user_context(USER_CODE + PAGE - in_first);

        PLACE(USER_CODE + 0x800, code_mov_imm);
        memcpy((void *)c.ip, code_mov_imm, in_first);
        context_run(&c);
        EXPECT_END_ERROR(&c, PF, error);
        EXPECT_EQ(c.cr2, USER_CODE + PAGE);
        EXPECT_EQ(c.ip, USER_CODE + PAGE - in_first);
        user_page(USER_CODE + PAGE);
        PLACE(c.ip, code_mov_imm);
        context_run(&c);
        EXPECT_END(&c, 0x80);
        EXPECT_EQ(c.ax, 0x12345678);
        if (has_nx()) {
            map(USER_CODE + PAGE, USER_CODE + PAGE, PTE_PWU | PTE_NX);
            c.ip = USER_CODE + PAGE - in_first;
            context_run(&c);
            EXPECT_END_ERROR(&c, PF, error | PF_P);
            EXPECT_EQ(c.cr2, USER_CODE + PAGE);
        }
        unmap(USER_CODE + PAGE);
    }
}
