/*
 * debug.c: debug registers: instruction, data and I/O breakpoints, general
 * detect (SDM vol. 3, 17.2 and 17.3; AMD APM vol. 2, 13.1).
 */
#include "kit/desc.h"
#include "kit/page.h"
#include "kit/regs.h"

enum { EXECUTE, WRITE, IO, READ_WRITE };
enum { LEN1 = 0, LEN2 = 1, LEN8 = 2, LEN4 = 3 };

#define DR6_BD   0x2000u
#define DR6_BS   0x4000u
#define DR6_ONES 0xffff0ff0u
#define DR7_ONES 0x400u
#define DR7_GD   0x2000u

static void breakpoint(unsigned n, word address, unsigned type, unsigned len)
{
    if (n == 0)
        write_dr0(address);
    else if (n == 1)
        write_dr1(address);
    else if (n == 2)
        write_dr2(address);
    else
        write_dr3(address);
    write_dr7(DR7_ONES | (word)1 << 2 * n | (word)(type | len << 2) << (16 + 4 * n));
    write_dr6(0);
}

static struct context user_at(const char *code, word size)
{
    struct context c;

    user_init();
    memcpy((void *)USER_CODE, code, size);
    c = user_context(USER_CODE);
    c.bx = USER_DATA;
    return c;
}
#define USER(code) user_at(code, CODE_SIZE(code))

CODE(code_nops, "nop\n nop\n nop\n nop\n int $0x80");

/* Before the instruction. RF is not pushed for this one fault: the handler sets it to pass (SDM vol. 3, 17.3.1.1). */
TEST(debug_execute)
{
    for (unsigned n = 0; n < 4; n++) {
        struct context c = USER(code_nops), k = kernel_context((word)code_nops);

        breakpoint(n, USER_CODE + 2, EXECUTE, LEN1);
        context_run(&c);
        EXPECT_END(&c, DB);
        EXPECT_EQ(c.ip, USER_CODE + 2);
        EXPECT_EQ(c.dr6 & 0xe00f, 1u << n);
        EXPECT_EQ(c.flags & FL_RF, 0);
        c.flags |= FL_RF;
        context_run(&c);
        EXPECT_END(&c, 0x80);
        breakpoint(n, (word)code_nops + 3, EXECUTE, LEN1);
        context_run(&k);
        EXPECT_END(&k, DB);
        EXPECT_EQ(k.ip, (word)code_nops + 3);
        context_run(&k);
        EXPECT_END(&k, DB);
        EXPECT_EQ(k.ip, (word)code_nops + 3);
    }
    write_dr7(DR7_ONES);
}

/* RF lasts for one instruction: in a loop the breakpoint hits each time round. */
CODE(code_loop, "mov $3, %ecx\n 1: dec %ecx\n nop\n jnz 1b\n int $0x80");
TEST(debug_execute_in_loop)
{
    struct context c = USER(code_loop);
    unsigned hits = 0;
    word nop = USER_CODE + (LONG_MODE ? 7 : 6);

    breakpoint(1, nop, EXECUTE, LEN1);
    for (; hits < 10; hits++) {
        context_run(&c);
        if (c.vector != DB)
            break;
        EXPECT_EQ(c.ip, nop);
        c.flags |= FL_RF;
    }
    EXPECT_END(&c, 0x80);
    EXPECT_EQ(hits, 3);
    write_dr7(DR7_ONES);
}

/* It comes before any fault of the instruction, its fetch aside. */
CODE(code_ud, "nop\n ud2");
TEST(debug_execute_before_fault)
{
    struct context c = USER(code_ud);

    breakpoint(0, USER_CODE + 1, EXECUTE, LEN1);
    context_run(&c);
    EXPECT_END(&c, DB);
    c.flags |= FL_RF;
    context_run(&c);
    EXPECT_END(&c, UD);
    EXPECT_EQ(c.ip, USER_CODE + 1);
    write_dr7(DR7_ONES);
}

/* Turned on in the middle of code that has run before. */
TEST(debug_execute_after_runs)
{
    struct context c = USER(code_nops);

    for (unsigned i = 0; i < 20; i++) {
        c.ip = USER_CODE;
        context_run(&c);
        EXPECT_END(&c, 0x80);
    }
    breakpoint(0, USER_CODE + 2, EXECUTE, LEN1);
    c.ip = USER_CODE;
    context_run(&c);
    EXPECT_END(&c, DB);
    EXPECT_EQ(c.ip, USER_CODE + 2);
    write_dr7(DR7_ONES);
    context_run(&c);
    EXPECT_END(&c, 0x80);
}

/* --- data: a trap after the access ------------------------------------------------------------------- */

CODE(code_write1, "movb $1, (" BX ")\n nop\n int $0x80");
CODE(code_write2, "movw $1, (" BX ")\n nop\n int $0x80");
CODE(code_write4, "movl $1, (" BX ")\n nop\n int $0x80");
CODE(code_read1, "movb (" BX "), %al\n nop\n int $0x80");
CODE(code_read4, "movl (" BX "), %eax\n nop\n int $0x80");
CODE(code_add, "addl $0, (" BX ")\n nop\n int $0x80");
CODE(code_push, "push " CX "\n nop\n int $0x80");

/* Does an access of code at address hit a breakpoint of the type and length at USER_DATA + 8? */
static bool hits(const char *code, word size, word address, unsigned type, unsigned len)
{
    struct context c = user_at(code, size);
    const uint8_t *end;

    breakpoint(2, USER_DATA + 8, type, len);
    c.bx = address;
    c.sp = address + sizeof(word);
    context_run(&c);
    write_dr7(DR7_ONES);
    if (c.vector == 0x80)
        return false;
    EXPECT_END(&c, DB);
    EXPECT_EQ(c.dr6 & 0xe00f, 4);
    EXPECT_EQ(c.flags & FL_RF, 0);
    end = (const uint8_t *)c.ip; /* of the next instruction, the NOP */
    EXPECT_EQ(*end, 0x90);
    EXPECT_EQ(c.ip, USER_CODE + size - 3);
    return true;
}
#define HITS(code, offset, type, len) hits(code, CODE_SIZE(code), USER_DATA + (offset), type, len)

TEST(debug_data_kinds)
{
    EXPECT(HITS(code_write1, 8, WRITE, LEN1));
    EXPECT(HITS(code_write4, 8, WRITE, LEN1));
    EXPECT(!HITS(code_read1, 8, WRITE, LEN1));
    EXPECT(!HITS(code_read4, 8, WRITE, LEN4));
    EXPECT(HITS(code_add, 8, WRITE, LEN4));
    EXPECT(HITS(code_push, 8, WRITE, LEN4));
    EXPECT(HITS(code_write1, 8, READ_WRITE, LEN1));
    EXPECT(HITS(code_read1, 8, READ_WRITE, LEN1));
    EXPECT(HITS(code_read4, 8, READ_WRITE, LEN1));
    EXPECT(HITS(code_add, 8, READ_WRITE, LEN4));
}

/* Any byte in common is a hit. */
TEST(debug_data_overlap)
{
    EXPECT(!HITS(code_write1, 7, WRITE, LEN2));
    EXPECT(HITS(code_write1, 9, WRITE, LEN2));
    EXPECT(!HITS(code_write1, 10, WRITE, LEN2));
    EXPECT(HITS(code_write2, 7, WRITE, LEN1));
    EXPECT(!HITS(code_write2, 6, WRITE, LEN1));
    EXPECT(HITS(code_write4, 5, WRITE, LEN1));
    EXPECT(!HITS(code_write4, 4, WRITE, LEN4));
    EXPECT(HITS(code_write4, 11, WRITE, LEN4));
    EXPECT(!HITS(code_write4, 12, WRITE, LEN4));
    if (LONG_MODE) {
        EXPECT(HITS(code_write1, 15, WRITE, LEN8));
        EXPECT(!HITS(code_write1, 16, WRITE, LEN8));
        EXPECT(HITS(code_read4, 5, READ_WRITE, LEN8));
    }
}

/* The breakpoint's address is aligned down to its length. */
TEST(debug_data_alignment)
{
    struct context c = USER(code_write1);

    breakpoint(0, USER_DATA + 0x43, WRITE, LEN4);
    c.bx = USER_DATA + 0x40;
    context_run(&c);
    EXPECT_END(&c, DB);
    write_dr7(DR7_ONES);
}

/* An access over a page edge hits on its far side. */
TEST(debug_data_page_crossing)
{
    struct context c;

    paging_64();
    c = USER(code_write4);
    breakpoint(3, USER_DATA + PAGE, WRITE, LEN1);
    c.bx = USER_DATA + PAGE - 3;
    context_run(&c);
    EXPECT_END(&c, DB);
    EXPECT_EQ(c.dr6 & 0xf, 8);
    c.ip = USER_CODE;
    c.bx = USER_DATA + PAGE - 4;
    context_run(&c);
    EXPECT_END(&c, 0x80);
    /* A faulting access is none. */
    breakpoint(3, USER_DATA + 2 * PAGE - 2, WRITE, LEN1);
    c.ip = USER_CODE;
    c.bx = USER_DATA + 2 * PAGE - 2;
    context_run(&c);
    EXPECT_END(&c, PF);
    EXPECT_EQ(c.dr6 & 0xf, 0);
    write_dr7(DR7_ONES);
    /* Nor is it remembered. */
    breakpoint(3, USER_DATA + 2 * PAGE - 2, WRITE, LEN1);
    c.ip = USER_CODE;
    c.bx = USER_DATA;
    context_run(&c);
    EXPECT_END(&c, 0x80);
    write_dr7(DR7_ONES);
}

/* In REP strings the trap comes after the iteration that hit. */
CODE(code_rep, "rep stosb\n nop\n int $0x80");
TEST(debug_data_rep)
{
    struct context c = USER(code_rep);

    breakpoint(0, USER_DATA + 5, WRITE, LEN1);
    c.di = USER_DATA;
    c.cx = 10;
    context_run(&c);
    EXPECT_END(&c, DB);
    EXPECT_EQ(c.ip, USER_CODE);
    EXPECT_EQ(c.cx, 4);
    EXPECT_EQ(c.di, USER_DATA + 6);
    context_run(&c);
    EXPECT_END(&c, 0x80);
    EXPECT_EQ(c.cx, 0);
    write_dr7(DR7_ONES);
}

/* Several at once, and with single-stepping: DR6 shows them all. */
TEST(debug_several)
{
    struct context c = USER(code_write4);

    write_dr0(USER_DATA);
    write_dr1(USER_DATA + 2);
    write_dr3(USER_DATA + 0x100);
    write_dr7(DR7_ONES | 0x01 | 0x08 /* global */ | 0x40 | 0x10010000 | 0x300000);
    write_dr6(0);
    c.flags |= FL_TF;
    context_run(&c);
    EXPECT_END(&c, DB);
    EXPECT_EQ(c.dr6 & 0xe00f, DR6_BS | 3);
    write_dr7(DR7_ONES);
}

TEST(debug_disabled)
{
    struct context c = USER(code_write1);

    breakpoint(0, USER_DATA, WRITE, LEN1);
    write_dr7(DR7_ONES | 0x10000);
    context_run(&c);
    EXPECT_END(&c, 0x80);
}

/* --- registers -------------------------------------------------------------------------------------------- */

TEST(debug_registers)
{
    write_dr6(0);
    EXPECT_EQ((uint32_t)read_dr6(), DR6_ONES);
    write_dr6(0xe00f);
    EXPECT_EQ((uint32_t)read_dr6(), DR6_ONES | 0xe00f);
    write_dr7(0);
    EXPECT_EQ(read_dr7(), DR7_ONES);
    write_dr7(0xffff0000);
    EXPECT_EQ(read_dr7(), 0xffff0000u | DR7_ONES);
    write_dr7(0);
    write_dr2(0x12345678);
    EXPECT_EQ(read_dr2(), 0x12345678);
#ifdef __x86_64__
    write_dr2(0xffff800012345678);
    EXPECT_EQ(read_dr2(), 0xffff800012345678);
    TRY("mov %0, %%dr7", : : "r"(1ul << 32));
    EXPECT_TRAP_ERROR(GP, 0);
    TRY("mov %0, %%dr6", : : "r"(1ul << 63));
    EXPECT_TRAP_ERROR(GP, 0);
#endif
}

/* DR4 and DR5 are DR6 and DR7, unless CR4.DE makes them #UD. */
TEST(debug_aliases)
{
    word value = 0;

    write_cr4(read_cr4() & ~(word)CR4_DE);
    write_dr7(DR7_ONES | 0x20000);
    TRY(".byte 0x0f, 0x21, 0xe8", : "=a"(value)); /* mov %dr5, AX */
    EXPECT_NO_TRAP();
    EXPECT_EQ(value, DR7_ONES | 0x20000);
    TRY(".byte 0x0f, 0x21, 0xe0", : "=a"(value));
    EXPECT_NO_TRAP();
    EXPECT_EQ(value, read_dr6());
    write_cr4(read_cr4() | CR4_DE);
    TRY(".byte 0x0f, 0x21, 0xe8", : "=a"(value));
    EXPECT_TRAP(UD);
    TRY(".byte 0x0f, 0x23, 0xe0", : : "a"(0));
    EXPECT_TRAP(UD);
    write_dr7(DR7_ONES);
}

/* General detect: an access to a debug register is a fault, once. */
TEST(debug_general_detect)
{
    word value = 0;

    write_dr6(0);
    write_dr7(DR7_ONES | DR7_GD);
    TRY("mov %%dr2, %0", : "=r"(value));
    EXPECT_TRAP(DB);
    EXPECT_EQ(trap.dr6 & 0xe00f, DR6_BD);
    EXPECT_EQ(*(uint8_t *)trap.ip, 0x0f); /* at the MOV, not after it */
    EXPECT_EQ(read_dr7() & DR7_GD, 0);
    TRY("mov %%dr2, %0", : "=r"(value));
    EXPECT_NO_TRAP();
}

/* With CR4.DE: ports. */
CODE(code_out, "out %al, $0x80\n nop\n int $0x80");
CODE(code_in, "in (%dx), %al\n nop\n int $0x80");
TEST(debug_io)
{
    struct context k = kernel_context((word)code_out);

    write_cr4(read_cr4() | CR4_DE);
    breakpoint(1, 0x80, IO, LEN1);
    context_run(&k);
    EXPECT_END(&k, DB);
    EXPECT_EQ(k.ip, (word)code_out + 2);
    EXPECT_EQ(k.dr6 & 0xf, 2);
    k = kernel_context((word)code_in);
    k.dx = 0x80;
    breakpoint(1, 0x80, IO, LEN1);
    context_run(&k);
    EXPECT_END(&k, DB);
    k = kernel_context((word)code_in);
    k.dx = 0x81;
    breakpoint(1, 0x80, IO, LEN1);
    context_run(&k);
    EXPECT_END(&k, 0x80);
    write_dr7(DR7_ONES);
}
