/*
 * io.c: who may use which port: IOPL and the TSS's permission bitmap (SDM vol.
 * 1, 19.5).
 */
#include "kit/desc.h"
#include "kit/page.h"
#include "kit/regs.h"

CODE(code_in1, "in (%dx), %al\n int $0x80");
CODE(code_in2, "in (%dx), %ax\n int $0x80");
CODE(code_in4, "in (%dx), %eax\n int $0x80");
CODE(code_out1, "out %al, (%dx)\n int $0x80");
CODE(code_insb, "insb\n int $0x80");
CODE(code_outsl, "outsl\n int $0x80");

static const struct {
    const char *code, *end;
    unsigned size;
} accesses[] = {
    {code_in1, code_in1_end, 1},   {code_in2, code_in2_end, 2},   {code_in4, code_in4_end, 4},
    {code_out1, code_out1_end, 1}, {code_insb, code_insb_end, 1}, {code_outsl, code_outsl_end, 4},
};

/* Tries all kinds of access to the port; allowed: bit n for an access of n bytes. */
static void expect_allowed(unsigned port, word iopl, unsigned allowed)
{
    for (unsigned i = 0; i < sizeof accesses / sizeof *accesses; i++) {
        struct context c = user_context(USER_CODE);

        memcpy((void *)USER_CODE, accesses[i].code, (size_t)(accesses[i].end - accesses[i].code));
        c.dx = port;
        c.ax = 0;
        c.si = c.di = USER_DATA;
        c.flags |= iopl << 12;
        context_run(&c);
        if (allowed >> accesses[i].size & 1)
            EXPECT_END(&c, 0x80);
        else
            EXPECT_END_ERROR(&c, GP, 0);
    }
}

enum { NONE = 0, ALL = 0x16 };

static void init(void)
{
    user_init();
    memset(tss.io, 0xff, sizeof tss.io);
    tss.iomap = offsetof(__typeof__(tss), io);
}

TEST(io_iopl)
{
    init();
    for (word iopl = 0; iopl < 4; iopl++)
        expect_allowed(0x70, iopl, iopl == 3 ? ALL : NONE);
}

/* A bit of 0 allows; an access needs the bits of all its bytes. */
TEST(io_bitmap)
{
    init();
    tss.io[0x70 / 8] = (uint8_t)~0x03; /* ports 70h and 71h */
    expect_allowed(0x70, 0, 1 << 1 | 1 << 2);
    expect_allowed(0x71, 0, 1 << 1);
    expect_allowed(0x72, 0, NONE);
    expect_allowed(0x6f, 0, NONE);
    /* Over the edge of a byte of the bitmap. */
    tss.io[0x70 / 8] = 0x3f; /* 76h, 77h */
    tss.io[0x78 / 8] = 0xfc; /* 78h, 79h */
    expect_allowed(0x76, 0, ALL);
    expect_allowed(0x77, 0, 1 << 1 | 1 << 2);
    expect_allowed(0x79, 0, 1 << 1);
}

/* Beyond the TSS's limit everything is denied; two bytes are always read. */
TEST(io_bitmap_limit)
{
    init();
    memset(tss.io, 0, sizeof tss.io);
    expect_allowed(0x70, 0, ALL);
    gdt_set_system(TSS_SEL, (word)&tss, offsetof(__typeof__(tss), io) + 0x70 / 8 + 1, ACC_TSS);
    load_tr(TSS_SEL);
    expect_allowed(0x70, 0, ALL);
    gdt_set_system(TSS_SEL, (word)&tss, offsetof(__typeof__(tss), io) + 0x70 / 8, ACC_TSS);
    load_tr(TSS_SEL);
    expect_allowed(0x70, 0, NONE);
    tss.iomap = 0xffff;
    gdt_set_system(TSS_SEL, (word)&tss, sizeof tss - 1, ACC_TSS);
    load_tr(TSS_SEL);
    expect_allowed(0x70, 0, NONE);
}

/* With a count of 0 REP INS and OUTS do nothing. */
CODE(code_rep_ins, "rep insb\n int $0x80");
TEST(io_string)
{
    struct context c;

    init();
    PLACE(USER_CODE, code_rep_ins);
    c = user_context(USER_CODE);
    c.flags |= FL_IOPL;
    c.di = USER_DATA;
    c.cx = 0;
    c.dx = 0x3fd;
    context_run(&c);
    EXPECT_END(&c, 0x80);
    EXPECT_EQ(c.di, USER_DATA);
    /* The line status register of the serial port, five times: transmitter empty. */
    c.ip = USER_CODE;
    c.cx = 5;
    context_run(&c);
    EXPECT_END(&c, 0x80);
    EXPECT_EQ(c.di, USER_DATA + 5);
    EXPECT_EQ(c.cx, 0);
    for (unsigned i = 0; i < 5; i++)
        EXPECT_EQ(((uint8_t *)USER_DATA)[i] & 0x60, 0x60);
    /* A page fault in the middle: what was read is stored, the rest follows. */
    paging_64();
    user_init();
    PLACE(USER_CODE, code_rep_ins);
    c = user_context(USER_CODE);
    c.flags |= FL_IOPL;
    c.di = USER_DATA + 2 * PAGE - 2;
    c.cx = 5;
    c.dx = 0x3fd;
    context_run(&c);
    EXPECT_END_ERROR(&c, PF, PF_U | PF_W);
    EXPECT_EQ(c.cx, 3);
    EXPECT_EQ(c.di, USER_DATA + 2 * PAGE);
    user_page(USER_DATA + 2 * PAGE);
    context_run(&c);
    EXPECT_END(&c, 0x80);
    EXPECT_EQ(c.di, USER_DATA + 2 * PAGE + 3);
}

/* Ports that nobody answers read as ones. */
TEST(io_nobody)
{
    struct context k = kernel_context((word)code_in4);

    k.dx = 0x2f00;
    context_run(&k);
    EXPECT_END(&k, 0x80);
    EXPECT_EQ((uint32_t)k.ax, 0xffffffff);
}
