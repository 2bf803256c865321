/*
 * tlb.c: what must be forgotten, when, and what may be kept (SDM vol. 3,
 * 4.10; AMD APM vol. 2, 5.5).
 */
#include "kit/desc.h"
#include "kit/page.h"
#include "kit/regs.h"

static volatile uint32_t *at(word va)
{
    return (volatile uint32_t *)va;
}

static uint32_t *marked(uint32_t mark)
{
    uint32_t *page = page_new();

    *page = mark;
    return page;
}

TEST(tlb_invlpg)
{
    paging_64();
    for (unsigned i = 1; i < 20; i++) {
        *entry(TEST_VA, 1) = (word)marked(i) | PTE_PW;
        invlpg(TEST_VA + 0x123);
        EXPECT_EQ(*at(TEST_VA), i);
    }
    *entry(TEST_VA, 1) = 0;
    invlpg(TEST_VA);
    TRY("movl (%0), %%eax", : : "r"(TEST_VA) : "eax");
    EXPECT_TRAP_ERROR(PF, 0);
}

/* Entries that were not present are never kept: no flush is needed to add one. */
TEST(tlb_not_present_is_not_kept)
{
    paging_64();
    entry(TEST_VA, 1);
    for (unsigned i = 0; i < 5; i++) {
        word va = TEST_VA + i * PAGE;

        TRY("movl (%0), %%eax", : : "r"(va) : "eax");
        EXPECT_TRAP_ERROR(PF, 0);
        *entry(va, 1) = (word)marked(i + 1) | PTE_PW;
        EXPECT_EQ(*at(va), i + 1);
    }
}

/* More rights without a flush: at most one fault, which itself drops the old entry (SDM vol. 3, 4.10.4.3). */
TEST(tlb_more_rights)
{
    paging_64();
    *entry(TEST_VA, 1) = (word)marked(1) | PTE_P;
    invlpg(TEST_VA);
    EXPECT_EQ(*at(TEST_VA), 1);
    *entry(TEST_VA, 1) |= PTE_W;
    TRY("movl $2, (%0)", : : "r"(TEST_VA) : "memory");
    if (trap.vector != NO_TRAP) {
        EXPECT_TRAP_ERROR(PF, PF_P | PF_W);
        TRY("movl $2, (%0)", : : "r"(TEST_VA) : "memory");
    }
    EXPECT_NO_TRAP();
    EXPECT_EQ(*at(TEST_VA), 2);
}

/* A changed entry without a flush: the old or the new page, nothing else; after the flush the new one. */
TEST(tlb_stale_is_old_or_new)
{
    uint32_t value;

    paging_64();
    for (unsigned i = 0; i < 20; i++) {
        map(TEST_VA, (word)marked(1), PTE_PW);
        EXPECT_EQ(*at(TEST_VA), 1);
        *entry(TEST_VA, 1) = (word)marked(2) | PTE_PW;
        value = *at(TEST_VA);
        EXPECT(value == 1 || value == 2);
        write_cr3(read_cr3());
        EXPECT_EQ(*at(TEST_VA), 2);
    }
}

TEST(tlb_cr3_load)
{
    paging_64();
    map(TEST_VA, (word)marked(1), PTE_PW);
    EXPECT_EQ(*at(TEST_VA), 1);
    *entry(TEST_VA, 1) = (word)marked(2) | PTE_PW;
    write_cr3(read_cr3());
    EXPECT_EQ(*at(TEST_VA), 2);
    /* An entry of an upper level. */
    *entry(TEST_VA, 2) = 0;
    write_cr3(read_cr3());
    TRY("movl (%0), %%eax", : : "r"(TEST_VA) : "eax");
    EXPECT_TRAP_ERROR(PF, 0);
}

/* Global pages may outlive a CR3 load, and must not outlive a change of CR4.PGE, nor an INVLPG. */
TEST(tlb_global)
{
    uint32_t value;

    paging_64();
    write_cr4(read_cr4() | CR4_PGE);
    map(TEST_VA, (word)marked(1), PTE_PW | PTE_G);
    EXPECT_EQ(*at(TEST_VA), 1);
    *entry(TEST_VA, 1) = (word)marked(2) | PTE_PW | PTE_G;
    write_cr3(read_cr3());
    value = *at(TEST_VA);
    EXPECT(value == 1 || value == 2);
    write_cr4(read_cr4() & ~(word)CR4_PGE);
    EXPECT_EQ(*at(TEST_VA), 2);
    *entry(TEST_VA, 1) = (word)marked(3) | PTE_PW | PTE_G;
    write_cr4(read_cr4() | CR4_PGE);
    EXPECT_EQ(*at(TEST_VA), 3);
    *entry(TEST_VA, 1) = (word)marked(4) | PTE_PW | PTE_G;
    invlpg(TEST_VA);
    EXPECT_EQ(*at(TEST_VA), 4);
    /* Without PGE the bit means nothing. */
    write_cr4(read_cr4() & ~(word)CR4_PGE);
    EXPECT_EQ(*at(TEST_VA), 4);
    *entry(TEST_VA, 1) = (word)marked(5) | PTE_PW | PTE_G;
    write_cr3(read_cr3());
    EXPECT_EQ(*at(TEST_VA), 5);
}

/* INVLPG of any address in a large page forgets the whole of it; large and small pages take each other's place. */
TEST(tlb_large_page)
{
    char *first, *second;

    paging_64();
    first = page_new_aligned(0x200000);
    second = page_new_aligned(0x200000);
    for (unsigned i = 0; i < 512; i++) {
        *(uint32_t *)(first + i * PAGE) = 0x10000 + i;
        *(uint32_t *)(second + i * PAGE) = 0x20000 + i;
    }
    map_large(TEST_VA, (word)first, PTE_PW, 2);
    for (unsigned i = 0; i < 512; i++)
        EXPECT_EQ(*at(TEST_VA + i * PAGE), 0x10000 + i);
    *entry(TEST_VA, 2) = (word)second | PTE_PW | PTE_PS;
    invlpg(TEST_VA + 0x155555);
    for (unsigned i = 0; i < 512; i++)
        EXPECT_EQ(*at(TEST_VA + i * PAGE), 0x20000 + i);
    /* Split into small pages. */
    *entry(TEST_VA, 2) = 0;
    for (unsigned i = 0; i < 512; i++)
        *entry(TEST_VA + i * PAGE, 1) = (word)first + (511 - i) * PAGE + PTE_PW;
    invlpg(TEST_VA + 0x1000);
    for (unsigned i = 0; i < 512; i++)
        EXPECT_EQ(*at(TEST_VA + i * PAGE), 0x10000 + 511 - i);
}

/* Neither the page's privilege nor a mode of access may leak through the TLB: the user after the supervisor. */
CODE(code_read, "movl (" BX "), %eax\n int $0x80");
TEST(tlb_privilege)
{
    struct context c;

    paging_64();
    user_init();
    map(TEST_VA, (word)marked(7), PTE_PW);
    PLACE(USER_CODE, code_read);
    for (unsigned i = 0; i < 3; i++) {
        EXPECT_EQ(*at(TEST_VA), 7);
        c = user_context(USER_CODE);
        c.bx = TEST_VA;
        context_run(&c);
        EXPECT_END_ERROR(&c, PF, PF_P | PF_U);
    }
    *entry(TEST_VA, 1) |= PTE_U;
    invlpg(TEST_VA);
    context_run(&c);
    EXPECT_END(&c, 0x80);
    EXPECT_EQ(c.ax, 7);
}

/* Turning paging's features on and off needs no flush of the software's. */
TEST(tlb_feature_changes)
{
    if (!cpu_has(0x80000001, 0, 3, 20))
        skip("nx");
    paging_64();
    wrmsr(MSR_EFER, rdmsr(MSR_EFER) & ~(uint64_t)EFER_NXE);
    map(TEST_VA, (word)marked(7), PTE_PW);
    EXPECT_EQ(*at(TEST_VA), 7);
    *entry(TEST_VA, 1) |= PTE_NX;
    invlpg(TEST_VA);
    TRY("movl (%0), %%eax", : : "r"(TEST_VA) : "eax");
    EXPECT(trap.vector == PF && trap.error & PF_RSVD);
    wrmsr(MSR_EFER, rdmsr(MSR_EFER) | EFER_NXE);
    EXPECT_EQ(*at(TEST_VA), 7);
}

#ifdef __x86_64__

/* --- process-context identifiers ---------------------------------------------------------- */

#define NO_FLUSH (1ull << 63)

/* A copy of the top table, with its own page under TEST_VA. */
static word space(uint32_t mark)
{
    uint64_t *pml4 = page_new(), *pdpt = page_new(), *pd = page_new(), *pt = page_new();
    uint64_t *from = (uint64_t *)(read_cr3() & ~0xfffull);

    entry(TEST_VA, 1);
    memcpy(pml4, from, PAGE);
    memcpy(pdpt, (void *)(from[0] & ~0xfffull), PAGE);
    memcpy(pd, (void *)(pdpt[0] & ~0xfffull), PAGE);
    pml4[0] = (word)pdpt | PTE_PWU;
    pdpt[0] = (word)pd | PTE_PWU;
    pd[TEST_VA >> 21] = (word)pt | PTE_PWU;
    pt[0] = (word)marked(mark) | PTE_PW;
    pt[1] = (word)marked(mark + 0x1000) | PTE_PW | PTE_G;
    return (word)pml4;
}

static uint64_t *leaf(word cr3)
{
    uint64_t *pdpt = (uint64_t *)(*(uint64_t *)cr3 & ~0xfffull), *pd = (uint64_t *)(pdpt[0] & ~0xfffull);

    return (uint64_t *)(pd[TEST_VA >> 21] & ~0xfffull);
}

/* Address spaces never see each other's pages, whether they are flushed on the way or not. */
TEST(tlb_pcid_isolation)
{
    enum { SPACES = 40 };
    word spaces[SPACES];

    NEED_PCID();
    for (unsigned i = 0; i < SPACES; i++)
        spaces[i] = space(i + 1);
    write_cr3(spaces[0]);
    write_cr4(read_cr4() | CR4_PCIDE);
    for (unsigned round = 0; round < 3; round++)
        for (unsigned i = 0; i < SPACES; i++) {
            unsigned s = (i * 7 + round) % SPACES;

            write_cr3(spaces[s] | (s + 1) * 100 | (i & 1 || round == 2 ? NO_FLUSH : 0));
            EXPECT_EQ(read_cr3(), spaces[s] | (s + 1) * 100);
            EXPECT_EQ(*at(TEST_VA), s + 1);
        }
}

/* A load with bit 63 clear forgets that PCID's entries; with it set they may be kept. */
TEST(tlb_pcid_flush)
{
    word a = space(1), b = space(2);
    uint32_t value;

    NEED_PCID();
    write_cr3(a);
    write_cr4(read_cr4() | CR4_PCIDE);
    write_cr3(a | 5);
    EXPECT_EQ(*at(TEST_VA), 1);
    write_cr3(b | 6);
    EXPECT_EQ(*at(TEST_VA), 2);
    leaf(a)[0] = (word)marked(3) | PTE_PW;
    write_cr3(a | 5 | NO_FLUSH);
    value = *at(TEST_VA);
    EXPECT(value == 1 || value == 3);
    write_cr3(a | 5);
    EXPECT_EQ(*at(TEST_VA), 3);
    /* INVLPG reaches the current PCID. */
    leaf(a)[0] = (word)marked(4) | PTE_PW;
    invlpg(TEST_VA);
    EXPECT_EQ(*at(TEST_VA), 4);
    /* Clearing PCIDE forgets all (SDM vol. 3, 4.10.4.1). */
    write_cr3(b | 6 | NO_FLUSH);
    leaf(b)[0] = (word)marked(8) | PTE_PW;
    write_cr3(b | NO_FLUSH);
    write_cr4(read_cr4() & ~(word)CR4_PCIDE);
    EXPECT_EQ(*at(TEST_VA), 8);
}

TEST(tlb_pcid_rules)
{
    word a = space(1);

    NEED_PCID();
    /* Bit 63 is reserved without PCIDE. */
    TRY("mov %0, %%cr3", : : "r"(a | NO_FLUSH) : "memory");
    EXPECT_TRAP_ERROR(GP, 0);
    /* PCIDE needs CR3[11:0] = 0. */
    write_cr3(a | 0x18);
    TRY("mov %0, %%cr4", : : "r"(read_cr4() | CR4_PCIDE) : "memory");
    EXPECT_TRAP_ERROR(GP, 0);
    write_cr3(a);
    TRY("mov %0, %%cr4", : : "r"(read_cr4() | CR4_PCIDE) : "memory");
    EXPECT_NO_TRAP();
    /* And then paging cannot be turned off. */
    TRY("mov %0, %%cr0", : : "r"(read_cr0() & ~(word)CR0_PG) : "memory");
    EXPECT_TRAP_ERROR(GP, 0);
    TRY("mov %0, %%cr3", : : "r"(a | 0xfff | NO_FLUSH) : "memory");
    EXPECT_NO_TRAP();
    EXPECT_EQ(read_cr3(), a | 0xfff);
}

struct invpcid {
    uint64_t pcid, address;
};

static void invpcid(word type, uint64_t pcid, uint64_t address)
{
    struct invpcid d = {pcid, address};

    TRY("invpcid %0, %1", : : "m"(d), "r"(type) : "memory");
}

TEST(tlb_invpcid)
{
    word a = space(1), b = space(2);

    NEED_PCID();
    NEED_INVPCID();
    write_cr3(a);
    write_cr4(read_cr4() | CR4_PCIDE | CR4_PGE);
    for (unsigned type = 0; type < 4; type++) {
        write_cr3(a | 5);
        EXPECT(*at(TEST_VA) >= 1);
        EXPECT(*at(TEST_VA + PAGE) >= 0x1000);
        write_cr3(b | 6);
        leaf(a)[0] = (word)marked(0x10 + type) | PTE_PW;
        leaf(a)[1] = (word)marked(0x2010 + type) | PTE_PW | PTE_G;
        invpcid(type, type < 2 ? 5 : 0, type == 0 ? TEST_VA : 0);
        EXPECT_NO_TRAP();
        write_cr3(a | 5 | NO_FLUSH);
        EXPECT_EQ(*at(TEST_VA), 0x10 + type);
        if (type == 2) /* all, global ones too */
            EXPECT_EQ(*at(TEST_VA + PAGE), 0x2010 + type);
    }
    invpcid(4, 0, 0);
    EXPECT_TRAP_ERROR(GP, 0);
    invpcid(0, 0x1000, 0); /* reserved bits of the descriptor */
    EXPECT_TRAP_ERROR(GP, 0);
    invpcid(0, 5, 0x800000000000); /* not canonical */
    EXPECT_TRAP_ERROR(GP, 0);
    write_cr3(a);
    write_cr4(read_cr4() & ~(word)CR4_PCIDE);
    invpcid(1, 5, 0); /* a PCID without PCIDE */
    EXPECT_TRAP_ERROR(GP, 0);
    invpcid(1, 0, 0);
    EXPECT_NO_TRAP();
}

#endif
