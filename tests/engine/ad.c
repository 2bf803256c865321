/*
 * ad.c: accessed and dirty bits, for every kind of access and size of page
 * (SDM vol. 3, 4.8; AMD APM vol. 2, 5.4.2).
 */
#include "kit/desc.h"
#include "kit/page.h"
#include "kit/regs.h"

#define A ((uint32_t)PTE_A)
#define D ((uint32_t)PTE_D)

/* --- kinds of access to va: each a function, with the bits it must leave -------------- */

static void read_byte(word va)
{
    asm volatile("movb (%0), %%al" : : "r"(va) : "eax", "memory");
}

static void compare(word va)
{
    asm volatile("cmpl $1, (%0)" : : "r"(va) : "memory");
}

static void write_byte(word va)
{
    asm volatile("movb $0xc3, (%0)" : : "r"(va) : "memory");
}

static void add(word va)
{
    asm volatile("addl $0, (%0)" : : "r"(va) : "memory");
}

static void lock_or(word va)
{
    asm volatile("lock orl $0, (%0)" : : "r"(va) : "memory");
}

static void exchange(word va)
{
    uint32_t value = 0xc3c3c3c3;

    asm volatile("xchgl %0, (%1)" : "+r"(value) : "r"(va) : "memory");
}

/* Writes the old value back when it differs: a write all the same (SDM vol. 2, CMPXCHG). */
static void cmpxchg_fails(word va)
{
    uint32_t old = 0x12345;

    asm volatile("lock cmpxchgl %2, (%1)" : "+a"(old) : "r"(va), "r"(1) : "memory");
}

static void bit_test(word va)
{
    asm volatile("btl $3, (%0)" : : "r"(va) : "memory");
}

static void bit_set(word va)
{
    asm volatile("btsl $3, (%0)" : : "r"(va) : "memory");
}

static void fetch(word va) /* the page begins with RET */
{
    asm volatile("call *%0" : : "r"(va) : "memory");
}

static void push(word va)
{
    asm volatile("mov %%" SP_NAME ", %%" SI_NAME "\n lea 64(%0), %%" SP_NAME "\n push %0\n mov %%" SI_NAME
                 ", %%" SP_NAME
                 :
                 : "r"(va)
                 : SI_NAME, "memory");
}

static void pop(word va)
{
    asm volatile("mov %%" SP_NAME ", %%" SI_NAME "\n lea 64(%0), %%" SP_NAME "\n pop %0\n mov %%" SI_NAME ", %%" SP_NAME
                 : "+r"(va)
                 :
                 : SI_NAME, "memory");
}

static void call(word va)
{
    asm volatile("mov %%" SP_NAME ", %%" SI_NAME "\n lea 64(%0), %%" SP_NAME "\n call 1f\n 1: mov %%" SI_NAME
                 ", %%" SP_NAME
                 :
                 : "r"(va)
                 : SI_NAME, "memory");
}

static void string_read(word va)
{
    word count = 8;

    asm volatile("rep lodsb" : "+S"(va), "+c"(count) : : "eax", "memory");
}

static void string_write(word va)
{
    word count = 8;

    asm volatile("rep stosb" : "+D"(va), "+c"(count) : "a"(0xc3) : "memory");
}

static void string_scan(word va)
{
    word count = 8;

    asm volatile("repe scasb" : "+D"(va), "+c"(count) : "a"(0xc3) : "memory");
}

static void store_gdtr(word va)
{
    asm volatile("sgdt (%0)" : : "r"(va) : "memory");
}

static void set_byte(word va)
{
    asm volatile("sete (%0)" : : "r"(va) : "memory");
}

/* Descriptors: the GDT moves to the page and FS is loaded, with its accessed bit already set or not. */
static void load_segment(word va, bool accessed)
{
    struct table_register old = read_gdtr(), moved = {GDT_SIZE - 1, va + 0x100};

    gdt_set(FREE_SEL, 0, 0xfffff, ACC_DATA | accessed, FLAG_G | FLAG_D);
    write_gdtr(moved);
    asm volatile("mov %0, %%fs" : : "r"(FREE_SEL));
    write_gdtr(old);
}

static void load_accessed(word va)
{
    load_segment(va, true);
}

static void load_unaccessed(word va)
{
    load_segment(va, false);
}

static const struct kind {
    const char *name;
    void (*access)(word va);
    uint32_t bits;
} kinds[] = {
    {"read", read_byte, A},
    {"compare", compare, A},
    {"bit test", bit_test, A},
    {"fetch", fetch, A},
    {"pop", pop, A},
    {"string read", string_read, A},
    {"string scan", string_scan, A},
    {"segment load", load_accessed, A},
    {"write", write_byte, A | D},
    {"add", add, A | D},
    {"lock or", lock_or, A | D},
    {"xchg", exchange, A | D},
    {"failing cmpxchg", cmpxchg_fails, A | D},
    {"bit set", bit_set, A | D},
    {"setcc", set_byte, A | D},
    {"push", push, A | D},
    {"call", call, A | D},
    {"string write", string_write, A | D},
    {"sgdt", store_gdtr, A | D},
    {"segment load that sets the accessed bit", load_unaccessed, A | D},
};

/* All kinds at va, whose entries are path[0] (the leaf) to path[n - 1]; a NULL has no bits to look at. */
static void check_kinds(word va, volatile uint32_t *path[], unsigned n)
{
    for (unsigned i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        bool good = true;

        /* The GDT is read at va + 0x100; its FS descriptor is what load_segment() will have set. */
        memset((void *)va, 0xc3, 0x80);
        gdt_set(FREE_SEL, 0, 0xfffff, ACC_DATA | (kinds[i].access != load_unaccessed), FLAG_G | FLAG_D);
        memcpy((void *)(va + 0x100), gdt, GDT_SIZE);
        for (unsigned l = 0; l < n; l++)
            if (path[l])
                *path[l] &= ~(A | D);
        write_cr4(read_cr4() | CR4_PGE);
        write_cr4(read_cr4() & ~(word)CR4_PGE);
        kinds[i].access(va);
        for (unsigned l = 0; l < n; l++)
            if (path[l])
                good &= (*path[l] & (A | D)) == (l ? A : kinds[i].bits);
        if (!good) {
            print(kinds[i].name);
            print(": ");
            EXPECT_EQ(*path[0] & (A | D), kinds[i].bits);
            for (unsigned l = 1; l < n; l++)
                if (path[l])
                    EXPECT_EQ(*path[l] & (A | D), A);
        }
    }
}

static volatile uint32_t *low(uint64_t *e)
{
    return (volatile uint32_t *)e;
}

TEST(ad_4k)
{
    volatile uint32_t *path[4] = {0};

    paging_64();
    map(TEST_VA, (word)page_new(), PTE_PW);
    path[0] = low(entry(TEST_VA, 1));
    path[1] = low(entry(TEST_VA, 2));
    if (LONG_MODE) { /* PAE PDPTEs have no accessed bit */
        path[2] = low(entry(TEST_VA, 3));
        path[3] = low(entry(TEST_VA, 4));
    }
    check_kinds(TEST_VA, path, 4);
}

TEST(ad_2m)
{
    volatile uint32_t *path[3] = {0};

    paging_64();
    map_large(TEST_VA, (word)page_new_aligned(0x200000), PTE_PW, 2);
    path[0] = low(entry(TEST_VA, 2));
    if (LONG_MODE) {
        path[1] = low(entry(TEST_VA, 3));
        path[2] = low(entry(TEST_VA, 4));
    }
    check_kinds(TEST_VA + 0x123000, path, 3);
}

#ifdef __x86_64__
TEST(ad_1g)
{
    volatile uint32_t *path[2];

    NEED_1G();
    map_large(0x40000000, 0, PTE_PW, 3);
    path[0] = low(entry(0x40000000, 3));
    path[1] = low(entry(0x40000000, 4));
    check_kinds(0x40000000 + (word)page_new(), path, 2);
}
#else
TEST(ad_4k_of_32_bit)
{
    volatile uint32_t *path[2];

    paging_32();
    map32(TEST_VA, (word)page_new(), (uint32_t)PTE_PW);
    path[0] = entry32(TEST_VA, 1);
    path[1] = entry32(TEST_VA, 2);
    check_kinds(TEST_VA, path, 2);
}

TEST(ad_4m)
{
    volatile uint32_t *path[1];

    paging_32();
    write_cr4(read_cr4() | CR4_PSE);
    path[0] = entry32(0x80000000, 2);
    *path[0] = (word)page_new_aligned(0x400000) | (uint32_t)(PTE_PW | PTE_PS);
    check_kinds(0x80000000 + 0x321000, path, 1);
}

/* Without CR4.PSE, PS is ignored: the entry points to a page table. */
TEST(ad_pse_off)
{
    volatile uint32_t *e;

    paging_32();
    map32(TEST_VA, (word)page_new(), (uint32_t)PTE_PW);
    e = entry32(TEST_VA, 2);
    *e |= (uint32_t)PTE_PS;
    write_cr3(read_cr3());
    *(volatile uint32_t *)TEST_VA = 0x1234;
    EXPECT_EQ(*(uint32_t *)(*entry32(TEST_VA, 1) & 0xfffff000), 0x1234);
    EXPECT_EQ(*entry32(TEST_VA, 1) & (A | D), A | D);
}
#endif

/* A page that has been read, and is in the TLB, becomes dirty by the first write. */
TEST(ad_read_then_write)
{
    volatile uint64_t *e;

    paging_64();
    map(TEST_VA, (word)page_new(), PTE_PW);
    e = entry(TEST_VA, 1);
    for (unsigned i = 0; i < 5; i++)
        read_byte(TEST_VA);
    EXPECT_EQ(*e & (A | D), A);
    write_byte(TEST_VA);
    EXPECT_EQ(*e & (A | D), A | D);
    /* Cleared by software and flushed: set again. */
    *e &= ~(uint64_t)D;
    invlpg(TEST_VA);
    read_byte(TEST_VA);
    EXPECT_EQ(*e & (A | D), A);
    write_byte(TEST_VA);
    EXPECT_EQ(*e & (A | D), A | D);
    *e &= ~(uint64_t)(A | D);
    invlpg(TEST_VA);
    EXPECT_EQ(*e & (A | D), 0);
    fetch(TEST_VA);
    EXPECT_EQ(*e & (A | D), A);
}

TEST(ad_failing_write)
{
    paging_64();
    map(TEST_VA, (word)page_new(), PTE_P);
    TRY("movb $1, (%0)", : : "r"(TEST_VA) : "memory");
    EXPECT_TRAP_ERROR(PF, PF_P | PF_W);
    EXPECT_EQ(*entry(TEST_VA, 1) & D, 0);
    TRY("lock incl (%0)", : : "r"(TEST_VA) : "memory");
    EXPECT_TRAP_ERROR(PF, PF_P | PF_W);
    EXPECT_EQ(*entry(TEST_VA, 1) & D, 0);
    TRY("cmpxchgl %%ecx, (%0)", : : "r"(TEST_VA), "a"(1) : "memory");
    EXPECT_TRAP_ERROR(PF, PF_P | PF_W);
    EXPECT_EQ(*entry(TEST_VA, 1) & D, 0);
}

/* Both pages of a write over an edge; and of a read. */
TEST(ad_page_crossing)
{
    volatile uint64_t *first, *second;

    paging_64();
    map(TEST_VA, (word)page_new(), PTE_PW);
    map(TEST_VA + PAGE, (word)page_new(), PTE_PW);
    first = entry(TEST_VA, 1);
    second = entry(TEST_VA + PAGE, 1);
    compare(TEST_VA + PAGE - 1);
    EXPECT_EQ(*first & (A | D), A);
    EXPECT_EQ(*second & (A | D), A);
    add(TEST_VA + PAGE - 3);
    EXPECT_EQ(*first & (A | D), A | D);
    EXPECT_EQ(*second & (A | D), A | D);
    *first &= ~(uint64_t)(A | D);
    *second &= ~(uint64_t)(A | D);
    invlpg(TEST_VA);
    invlpg(TEST_VA + PAGE);
    *(volatile uint32_t *)(TEST_VA + PAGE - 2) = 0x01020304;
    EXPECT_EQ(*first & (A | D), A | D);
    EXPECT_EQ(*second & (A | D), A | D);
    EXPECT_EQ(*(uint16_t *)(word)(*second & 0xffffffffff000), 0x0102);
}

/* What the CPU itself does: the exception frame on the user's way in dirties the kernel stack, reading the IDT does
 * not dirty it. */
TEST(ad_delivery)
{
    struct table_register idtr = read_idtr(), moved = idtr;
    volatile uint64_t *stack, *table;
    struct context c;

    paging_64();
    user_init();
    map(TEST_VA, (word)page_new(), PTE_PW);
    map(TEST_VA + 2 * PAGE, idtr.base & ~(PAGE - 1), PTE_PW);
    map(TEST_VA + 3 * PAGE, (idtr.base & ~(PAGE - 1)) + PAGE, PTE_PW);
    stack = entry(TEST_VA, 1);
    table = entry(TEST_VA + 2 * PAGE, 1);
    moved.base = TEST_VA + 2 * PAGE + (idtr.base & (PAGE - 1));
    *(uint16_t *)USER_CODE = 0x0b0f; /* UD2 */
#ifdef __x86_64__
    tss.rsp[0] = TEST_VA + PAGE;
#else
    tss.esp0 = TEST_VA + PAGE;
#endif
    write_idtr(moved);
    c = user_context(USER_CODE);
    EXPECT_EQ(*stack & (A | D), 0);
    EXPECT_EQ(*table & (A | D), 0);
    context_run(&c);
    EXPECT_END(&c, UD);
    EXPECT_EQ(*stack & (A | D), A | D);
    EXPECT_EQ(*table & (A | D), A);
}
