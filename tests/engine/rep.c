/*
 * rep.c: string instructions cut off by a page fault in their middle: the
 * registers say exactly how far it came, and it goes on from there
 * (SDM vol. 2, REP: "the source and destination registers point to the next
 * string elements"; vol. 3, 6.6).
 *
 * USER_DATA has two pages, and nothing mapped after them.
 */
#include "kit/page.h"
#include "kit/regs.h"

#define END   (USER_DATA + 2 * PAGE) /* first address without memory */
#define BEGIN USER_DATA

static struct context place(const char *code, word size)
{
    struct context c;

    paging_64();
    user_init();
    memcpy((void *)USER_CODE, code, size);
    c = user_context(USER_CODE);
    return c;
}
#define START(code) place(code, CODE_SIZE(code))

static void fill(word at, word n, unsigned seed)
{
    for (word i = 0; i < n; i++)
        ((uint8_t *)at)[i] = (uint8_t)(i * 7 + seed);
}

static void expect_fault(const struct context *c, word address, word error)
{
    EXPECT_END_ERROR(c, PF, error);
    EXPECT_EQ(c->cr2, address);
    EXPECT_EQ(c->ip, USER_CODE);
}

static void go_on(struct context *c)
{
    user_page(END);
    context_run(c);
    EXPECT_END(c, 0x80);
    EXPECT_EQ(c->cx, 0);
}

CODE(rep_movsb, "rep movsb\n int $0x80");
CODE(rep_movsl, "rep movsl\n int $0x80");
CODE(rep_stosb, "rep stosb\n int $0x80");
CODE(rep_stosl, "rep stosl\n int $0x80");
CODE(rep_cmpsb, "repe cmpsb\n int $0x80");
CODE(rep_scasb, "repne scasb\n int $0x80");
CODE(rep_lodsb, "rep lodsb\n int $0x80");
CODE(rep_stosb_down, "std\n rep stosb\n int $0x80");

TEST(rep_movs_to_unmapped)
{
    struct context c = START(rep_movsb);

    fill(BEGIN, 200, 1);
    c.si = BEGIN;
    c.di = END - 50;
    c.cx = 200;
    context_run(&c);
    expect_fault(&c, END, PF_U | PF_W);
    EXPECT_EQ(c.cx, 150);
    EXPECT_EQ(c.si, BEGIN + 50);
    EXPECT_EQ(c.di, END);
    EXPECT_EQ(memcmp((void *)BEGIN, (void *)(END - 50), 50), 0);
    go_on(&c);
    EXPECT_EQ(c.si, BEGIN + 200);
    EXPECT_EQ(c.di, END + 150);
    EXPECT_EQ(memcmp((void *)BEGIN, (void *)(END - 50), 200), 0);
}

TEST(rep_movs_from_unmapped)
{
    struct context c = START(rep_movsb);

    fill(END - 50, 50, 3);
    c.si = END - 50;
    c.di = BEGIN;
    c.cx = 200;
    context_run(&c);
    expect_fault(&c, END, PF_U);
    EXPECT_EQ(c.cx, 150);
    EXPECT_EQ(c.si, END);
    EXPECT_EQ(c.di, BEGIN + 50);
    go_on(&c);
    EXPECT_EQ(memcmp((void *)BEGIN, (void *)(END - 50), 200), 0);
}

/* Elements of 4 bytes, the third lies across the edge: it is not begun. */
TEST(rep_movs_element_across)
{
    struct context c = START(rep_movsl);

    fill(BEGIN, 64, 5);
    memset((void *)(END - 16), 0xee, 16);
    c.si = BEGIN;
    c.di = END - 10;
    c.cx = 10;
    context_run(&c);
    expect_fault(&c, END, PF_U | PF_W);
    EXPECT_EQ(c.cx, 8);
    EXPECT_EQ(c.si, BEGIN + 8);
    EXPECT_EQ(c.di, END - 2);
    EXPECT_EQ(*(uint16_t *)(END - 2), 0xeeee);
    go_on(&c);
    EXPECT_EQ(c.di, END + 30);
    EXPECT_EQ(memcmp((void *)BEGIN, (void *)(END - 10), 40), 0);
}

TEST(rep_stos_to_unmapped)
{
    struct context c = START(rep_stosb);

    c.di = END - 33;
    c.cx = 100;
    c.ax = 0x5a;
    context_run(&c);
    expect_fault(&c, END, PF_U | PF_W);
    EXPECT_EQ(c.cx, 67);
    EXPECT_EQ(c.di, END);
    EXPECT_EQ(*(uint8_t *)(END - 1), 0x5a);
    EXPECT_EQ(*(uint8_t *)(END - 34), 0);
    go_on(&c);
    EXPECT_EQ(c.di, END + 67);
    EXPECT_EQ(*(uint8_t *)(END + 66), 0x5a);
    EXPECT_EQ(*(uint8_t *)(END + 67), 0);
}

TEST(rep_stos_element_across)
{
    struct context c = START(rep_stosl);

    c.di = END - 9;
    c.cx = 5;
    c.ax = 0x12345678;
    context_run(&c);
    expect_fault(&c, END, PF_U | PF_W);
    EXPECT_EQ(c.cx, 3);
    EXPECT_EQ(c.di, END - 1);
    EXPECT_EQ(*(uint8_t *)(END - 1), 0);
    go_on(&c);
    EXPECT_EQ(*(uint32_t *)(END - 1), 0x12345678);
}

/* Downwards, off the lower edge. */
TEST(rep_stos_down)
{
    struct context c = START(rep_stosb_down);

    c.di = BEGIN + 20;
    c.cx = 40;
    c.ax = 0x77;
    context_run(&c);
    EXPECT_END_ERROR(&c, PF, PF_U | PF_W);
    EXPECT_EQ(c.ip, USER_CODE + 1);
    EXPECT_EQ(c.cr2, BEGIN - 1);
    EXPECT_EQ(c.cx, 19);
    EXPECT_EQ(c.di, BEGIN - 1);
    user_page(BEGIN - PAGE);
    context_run(&c);
    EXPECT_END(&c, 0x80);
    EXPECT_EQ(c.di, BEGIN - 20);
    EXPECT_EQ(*(uint8_t *)(BEGIN - 19), 0x77);
    EXPECT_EQ(*(uint8_t *)(BEGIN - 20), 0);
}

/* The flags of the last finished comparison are in the frame. */
TEST(rep_cmps_to_unmapped)
{
    struct context c = START(rep_cmpsb);

    fill(BEGIN, 100, 9);
    memcpy((void *)(END - 60), (void *)BEGIN, 60);
    c.si = BEGIN;
    c.di = END - 60;
    c.cx = 100;
    context_run(&c);
    expect_fault(&c, END, PF_U);
    EXPECT_EQ(c.cx, 40);
    EXPECT_EQ(c.si, BEGIN + 60);
    EXPECT_EQ(c.di, END);
    user_page(END);
    memcpy((void *)END, (void *)(BEGIN + 60), 30);
    *(uint8_t *)(END + 30) = (uint8_t)(*(uint8_t *)(BEGIN + 90) + 1);
    context_run(&c);
    EXPECT_END(&c, 0x80);
    EXPECT_EQ(c.cx, 9);
    EXPECT_EQ(c.si, BEGIN + 91);
    EXPECT_EQ(c.di, END + 31);
    EXPECT_EQ(c.flags & (FL_ZF | FL_CF), FL_CF);
}

TEST(rep_scas_to_unmapped)
{
    struct context c = START(rep_scasb);

    memset((void *)(END - 10), 1, 10);
    c.di = END - 10;
    c.cx = 30;
    c.ax = 2;
    context_run(&c);
    expect_fault(&c, END, PF_U);
    EXPECT_EQ(c.cx, 20);
    user_page(END);
    *(uint8_t *)(END + 4) = 2;
    context_run(&c);
    EXPECT_END(&c, 0x80);
    EXPECT_EQ(c.cx, 15);
    EXPECT_EQ(c.di, END + 5);
    EXPECT_EQ(c.flags & FL_ZF, FL_ZF);
}

TEST(rep_lods_to_unmapped)
{
    struct context c = START(rep_lodsb);

    fill(END - 10, 10, 11);
    c.si = END - 10;
    c.cx = 12;
    context_run(&c);
    expect_fault(&c, END, PF_U);
    EXPECT_EQ(c.cx, 2);
    EXPECT_EQ(c.si, END);
    EXPECT_EQ(c.ax & 0xff, *(uint8_t *)(END - 1));
    go_on(&c);
    EXPECT_EQ(c.ax & 0xff, 0);
}

/* With a count of 0 nothing is touched. */
TEST(rep_count_zero)
{
    struct context c = START(rep_movsb);

    c.si = c.di = END;
    c.cx = 0;
    context_run(&c);
    EXPECT_END(&c, 0x80);
    EXPECT_EQ(c.si, END);
    EXPECT_EQ(c.di, END);
}

/* The second page is read-only. */
TEST(rep_read_only_page)
{
    struct context c = START(rep_stosb);

    map(USER_DATA + PAGE, USER_DATA + PAGE, PTE_P | PTE_U);
    c.di = BEGIN + PAGE - 5;
    c.cx = 10;
    c.ax = 0x11;
    context_run(&c);
    expect_fault(&c, BEGIN + PAGE, PF_P | PF_U | PF_W);
    EXPECT_EQ(c.cx, 5);
    map(USER_DATA + PAGE, USER_DATA + PAGE, PTE_PWU);
    context_run(&c);
    EXPECT_END(&c, 0x80);
    EXPECT_EQ(*(uint8_t *)(BEGIN + PAGE + 4), 0x11);
}
