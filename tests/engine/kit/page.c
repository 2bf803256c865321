/* page.c: page tables. */
#include "kit/page.h"

#define LARGE 0x200000ul

static word heap = HEAP_BASE;
static uint64_t *root;
static unsigned levels;

void *page_new_aligned(word size)
{
    void *page = (void *)((heap + size - 1) & ~(size - 1));

    heap = (word)page + size;
    return memset(page, 0, size);
}

void *page_new(void)
{
    return page_new_aligned(PAGE);
}

static unsigned shift(unsigned level)
{
    return 12 + 9 * (level - 1);
}

uint64_t *entry(word va, unsigned level)
{
    uint64_t *table = root;

    for (unsigned l = levels;; l--) {
        uint64_t *e = &table[va >> shift(l) & 511];

        if (l == level)
            return e;
        /* A PAE PDPTE has no W and no U: they are reserved. */
        if (!(*e & PTE_P))
            *e = (word)page_new() | (levels == 3 && l == 3 ? PTE_P : PTE_PWU);
        table = (uint64_t *)(word)(*e & 0xffffffffff000);
    }
}

void map(word va, word pa, uint64_t flags)
{
    *entry(va, 1) = pa | flags;
    invlpg(va);
}

void map_large(word va, word pa, uint64_t flags, unsigned level)
{
    *entry(va, level) = pa | flags | PTE_PS;
    invlpg(va);
}

void unmap(word va)
{
    *entry(va, 1) = 0;
    invlpg(va);
}

word page_space(word va)
{
    uint64_t *const old = root;
    uint64_t *copy = memcpy(page_new(), root, PAGE);

    root = copy;
    for (unsigned l = levels; l > 1; l--) {
        uint64_t *e = entry(va, l);

        entry(va, l - 1); /* makes the table if there is none */
        copy = memcpy(page_new(), (void *)(word)(*e & 0xffffffffff000), PAGE);
        *e = (word)copy | (*e & 0xfff);
    }
    copy = root;
    root = old;
    return (word)copy;
}

void page_select(word cr3)
{
    root = (uint64_t *)cr3;
}

#ifdef __x86_64__

void page_init(void)
{
    root = (uint64_t *)read_cr3();
    levels = 4;
}

void paging_64(void)
{
}

void user_page(word va)
{
    map(va, va, PTE_PWU);
}

#else

static uint32_t *root32;

void page_init(void)
{
}

void paging_64(void)
{
    root = page_new();
    levels = 3;
    for (word va = 0; va < IDENTITY; va += LARGE)
        *entry(va, 2) = va | PTE_PW | PTE_PS;
    for (word i = 0; i < 4; i++)
        entry(i << 30, 2); /* all four PDPTEs: they are loaded with CR3 only */
    write_cr4(read_cr4() | CR4_PAE);
    write_cr3((word)root);
    write_cr0(read_cr0() | CR0_PG);
}

uint32_t *entry32(word va, unsigned level)
{
    uint32_t *e = &root32[va >> 22];

    if (level == 2)
        return e;
    if (!(*e & PTE_P))
        *e = (word)page_new() | (uint32_t)PTE_PWU;
    return &((uint32_t *)(*e & 0xfffff000))[va >> 12 & 1023];
}

void map32(word va, word pa, uint32_t flags)
{
    *entry32(va, 1) = pa | flags;
    invlpg(va);
}

void paging_32(void)
{
    root32 = page_new();
    for (word va = 0; va < IDENTITY; va += PAGE)
        *entry32(va, 1) = va | (uint32_t)PTE_PW;
    write_cr4(read_cr4() & ~CR4_PAE);
    write_cr3((word)root32);
    write_cr0(read_cr0() | CR0_PG);
}

void paging_off(void)
{
    write_cr0(read_cr0() & ~CR0_PG);
    root = NULL;
    root32 = NULL;
}

void user_page(word va)
{
    if (root)
        map(va, va, PTE_PWU);
    else if (root32)
        map32(va, va, (uint32_t)PTE_PWU);
}

#endif

void user_init(void)
{
    static const word pages[] = {USER_CODE, USER_STACK, USER_DATA, USER_DATA + PAGE};

    for (unsigned i = 0; i < sizeof pages / sizeof *pages; i++)
        user_page(pages[i]);
}
