/*
 * user_random.c: pages of two address spaces change at random, with no more
 * flushes than the manual wants; between, hot code of the user's makes accesses
 * at random, over page ends too. What it reads, its faults, and accessed and
 * dirty bits are what a plain model says (SDM vol. 3, 4.6 to 4.10).
 */
#include "kit/desc.h"
#include "kit/page.h"
#include "kit/regs.h"
#include "user.h"

enum { PAGES = 8, FRAMES = 6, BATCH = 64, BATCHES = 250, LOAD = 0, STORE, ADD, PUSH };

/* One access, in memory that the user has too. */
struct item {
    word va, kind, value, result;
};
static struct item *const items = (struct item *)(USER_DATA + 4 * PAGE);
static bool faulted[BATCH];

static struct space {
    word cr3; /* with its PCID */
    bool stale;
    uint64_t *pte[PAGES], *pde[2];
    bool lazy[PAGES]; /* may still be read-only in the TLB */
} spaces[2], *space;

static word base;
static uint8_t *frames[FRAMES], *model[FRAMES];
static uint32_t seed;

static uint32_t dice(uint32_t n)
{
    seed = seed * 1664525 + 1013904223;
    return (seed >> 8) % n;
}

/* R11: the stack. Each kind in its own way; what follows a fault is at the label. */
CODE(code_items,
     "1: mov (%rbx), %rdx\n mov 8(%rbx), %rsi\n mov 16(%rbx), %rax\n cmp $2, %esi\n je 4f\n ja 5f\n"
     "cmp $1, %esi\n je 3f\n mov (%rdx), %rax\n mov %rax, 24(%rbx)\n jmp 9f\n 3: mov %rax, (%rdx)\n jmp 9f\n"
     "4: lock xadd %rax, (%rdx)\n mov %rax, 24(%rbx)\n jmp 9f\n 5: lea 8(%rdx), %rsp\n push %rax\n"
     "code_items_next: 9: mov %r11, %rsp\n add $32, %rbx\n dec %ecx\n jnz 1b\n int $0x80");
extern const char code_items_next[];

/* --- the model ---------------------------------------------------------------------------------------------------- */

static uint64_t *pde_of(unsigned page)
{
    return space->pde[((base + page * PAGE) ^ base) >> 21 & 1];
}

/* The fault that an access to a page has; or NO_TRAP. */
static word fault_of(unsigned page, bool write)
{
    const uint64_t both = page < PAGES ? *space->pte[page] & *pde_of(page) : 0;
    const word error = PF_U | (write ? PF_W : 0);

    if (!(both & PTE_P))
        return error;
    return !(both & PTE_U) || (write && !(both & PTE_W)) ? error | PF_P : NO_TRAP;
}

/* And of a whole access: where. */
static word fault_at(const struct item *item, word *address)
{
    const unsigned page = (unsigned)(item->va - base) / PAGE, last = (unsigned)(item->va + 7 - base) / PAGE;
    const word error = fault_of(page, item->kind != LOAD);

    *address = error == NO_TRAP ? base + last * PAGE : item->va;
    return error == NO_TRAP ? fault_of(last, item->kind != LOAD) : error;
}

static uint8_t *model_byte(word va)
{
    const word frame = *space->pte[(va - base) / PAGE] & ADDRESS;
    unsigned i = 0;

    while (i < FRAMES - 1 && (word)frames[i] != frame)
        i++;
    return model[i] + va % PAGE;
}

static word model_read(word va)
{
    word value = 0;

    for (unsigned i = 0; i < 8; i++)
        value |= (word)*model_byte(va + i) << 8 * i;
    return value;
}

static void model_write(word va, word value)
{
    for (unsigned i = 0; i < 8; i++)
        *model_byte(va + i) = (uint8_t)(value >> 8 * i);
}

/* --- accesses ----------------------------------------------------------------------------------------------------- */

static void on_item_fault(struct context *c)
{
    const struct item *item = (const struct item *)c->bx;
    const unsigned page = (unsigned)(c->cr2 - base) / PAGE;
    word address, error = fault_at(item, &address);

    /* A right that came without a flush: once. */
    if (error == NO_TRAP && c->error == (PF_P | PF_W | PF_U) && page < PAGES && space->lazy[page]) {
        space->lazy[page] = false;
        return;
    }
    EXPECT_EQ(c->error, error);
    EXPECT_EQ(c->cr2, address);
    EXPECT_EQ(c->ax, item->value);
    EXPECT_EQ(c->sp, item->kind == PUSH ? item->va + 8 : c->r11);
    faulted[item - items] = true;
    c->ip = USER_CODE + (word)(code_items_next - code_items);
}

static void make_items(void)
{
    for (unsigned i = 0; i < BATCH; i++) {
        const word offset = dice(8) ? dice(16) * 8 : PAGE - 1 - dice(7);

        items[i] = (struct item){base + dice(PAGES) * PAGE + offset, dice(4), (word)dice(~0u) << 32 | dice(~0u), 0};
        faulted[i] = false;
    }
}

/* Each as the model has it, one after the other; then the pages' accessed and dirty bits. */
static void check_items(const uint64_t *before)
{
    uint64_t bits[PAGES];
    bool open[PAGES] = {false}; /* what a fault leaves behind is the processor's affair */

    for (unsigned i = 0; i < PAGES; i++)
        bits[i] = before[i] & (PTE_A | PTE_D);
    for (unsigned i = 0; i < BATCH; i++) {
        const struct item *item = &items[i];
        const unsigned first = (unsigned)(item->va - base) / PAGE, last = (unsigned)(item->va + 7 - base) / PAGE;
        word address, error = fault_at(item, &address);

        EXPECT_EQ(faulted[i], error != NO_TRAP);
        if (error != NO_TRAP) {
            for (unsigned page = first; page <= last && page < PAGES; page++)
                open[page] = true;
            continue;
        }
        for (unsigned page = first; page <= last; page++)
            bits[page] |= PTE_A | (item->kind == LOAD ? 0 : PTE_D);
        if (item->kind == LOAD || item->kind == ADD)
            EXPECT_EQ(item->result, model_read(item->va));
        if (item->kind != LOAD)
            model_write(item->va, item->value + (item->kind == ADD ? model_read(item->va) : 0));
    }
    for (unsigned i = 0; i < PAGES; i++)
        if (!open[i])
            EXPECT_EQ(*space->pte[i] & (PTE_A | PTE_D), bits[i]);
}

static void run_items(void)
{
    struct context c = user_context(USER_CODE);
    uint64_t before[PAGES];

    make_items();
    for (unsigned i = 0; i < PAGES; i++)
        before[i] = *space->pte[i];
    c.bx = (word)items;
    c.cx = BATCH;
    c.r11 = c.sp;
    context_run(&c);
    EXPECT_END(&c, 0x80);
    check_items(before);
}

/* --- changes ------------------------------------------------------------------------------------------------------ */

/* An entry changes; what flush that needs, if this is the space that is loaded, else it is left for its load. */
static void change(struct space *s, uint64_t *e, uint64_t value, unsigned page)
{
    const uint64_t old = *e;

    *e = value;
    if (!(old & PTE_P) && s->pte[page] == e)
        return;
    if (value == (old | PTE_W) && s->pte[page] == e && dice(2)) {
        s->lazy[page] = true;
        return;
    }
    if (s != space)
        s->stale = true;
    else if (s->pte[page] == e && dice(3))
        invlpg(base + page * PAGE);
    else
        user_flush();
}

static void change_something(void)
{
    struct space *s = &spaces[dice(4) ? space - spaces : 1 - (space - spaces)];
    const unsigned page = dice(PAGES);
    uint64_t *e = s->pte[page];

    switch (dice(9)) {
    case 0:
        change(s, e, *e & ~PTE_P, page);
        break;
    case 1:
        change(s, e, *e & ~PTE_W, page);
        break;
    case 2:
        change(s, e, *e & ~PTE_U, page);
        break;
    case 3:
        change(s, e, *e | PTE_W, page);
        break;
    case 4:
        change(s, e, *e & ~(PTE_A | PTE_D), page);
        break;
    case 5: /* the table they are in */
        change(s, s->pde[page & 1], *s->pde[page & 1] ^ (dice(2) ? PTE_W : PTE_U), page);
        break;
    case 6:
        change(s, s->pde[0], *s->pde[0] | PTE_PWU, page);
        change(s, s->pde[1], *s->pde[1] | PTE_PWU, page);
        break;
    default:
        change(s, e, (word)frames[dice(FRAMES)] | PTE_PWU, page);
    }
}

static void load_space(struct space *s, bool pcid)
{
    write_cr3(s->cr3 | (pcid && !s->stale && dice(4) ? NO_FLUSH : 0));
    s->stale = false;
    space = s;
}

static void make_spaces(bool pcid)
{
    const word here = read_cr3() & ADDRESS;

    for (unsigned i = 0; i < 2; i++) {
        const word root = page_space(base);

        page_select(root);
        spaces[i].cr3 = root | (pcid ? i + 1 : 0);
        spaces[i].stale = true;
        for (unsigned k = 0; k < PAGES; k++) {
            spaces[i].lazy[k] = false;
            map(base + k * PAGE, (word)frames[k % FRAMES], PTE_PWU);
            spaces[i].pte[k] = entry(base + k * PAGE, 1);
        }
        spaces[i].pde[0] = entry(base, 2);
        spaces[i].pde[1] = entry(base + 0x200000, 2);
        page_select(here);
    }
    load_space(&spaces[0], pcid);
}

static void at_random(unsigned place, bool pcid)
{
    const word old = read_cr3();

    seed = 12345 + place;
    base = user_places[place];
    make_spaces(pcid);
    for (unsigned b = 0; b < BATCHES; b++) {
        run_items();
        for (unsigned i = dice(5); i; i--)
            change_something();
        if (!dice(3))
            load_space(&spaces[1 - (space - spaces)], pcid);
    }
    for (unsigned i = 0; i < FRAMES; i++)
        EXPECT_EQ(memcmp(frames[i], model[i], PAGE), 0);
    write_cr3(old);
}

static void random_begin(void)
{
    user_begin();
    map((word)items, (word)page_new(), PTE_PWU);
    handlers[PF] = on_item_fault;
    PLACE(USER_CODE, code_items);
    for (unsigned i = 0; i < FRAMES; i++) {
        frames[i] = page_new();
        model[i] = page_new();
    }
}

TEST(user_at_random)
{
    random_begin();
    for (unsigned p = 1; p < USER_PLACES; p++) /* the first one's tables are the kernel's too */
        at_random(p, false);
}

TEST(user_at_random_pcid)
{
    NEED_PCID();
    random_begin();
    write_cr4(read_cr4() | CR4_PCIDE);
    for (unsigned p = 1; p < USER_PLACES; p++)
        at_random(p, true);
}
