/*
 * patch.c: code that is rewritten while it is hot: by pushes, by the callee, by
 * fault handlers, by a debugger's INT3, under another address, by a device
 * (SDM vol. 3, 8.1.3 and 11.6). See smc.c for each way of writing once.
 */
#include "kit/desc.h"
#include "kit/page.h"
#include "kit/regs.h"

static struct context place(const char *code, word size)
{
    struct context c;

    user_init();
    user_page(USER_CODE + PAGE);
    memcpy((void *)USER_CODE, code, size);
    c = user_context(USER_CODE);
    c.bx = USER_CODE;
    return c;
}
#define START(code) place(code, CODE_SIZE(code))

static void run(struct context *c)
{
    context_run(c);
    EXPECT_END(c, 0x80);
}

/* A CALL pushes its return address over the code it calls. That address, USER_CODE + 105h, is 05 01 00 01 00 00 00 00:
 * ADD $0x10001, %eax (with the 00 that follows in the 32-bit image); in 64-bit mode then ADD %al, (rax) and, with the
 * C0h that follows, ADD %al, %al. Before, it is MOV $0x332211, %eax and that ADD. */
TEST(patch_by_call)
{
    static const uint8_t call[] = {0xe8, 0xfb, 0, 0, 0};
    static const uint8_t target[] = {0xb8, 0x11, 0x22, 0x33, 0, LONG_MODE ? 0x90 : 0xcd, LONG_MODE ? 0x90 : 0x80,
                                     0,    0xc0, 0xcd, 0x80};
    struct context c = place((const char *)call, 0);

    memcpy((void *)(USER_CODE + 0x100), call, sizeof call);
    for (unsigned i = 0; i < HOT; i++) {
        memcpy((void *)(USER_CODE + 0x200), target, sizeof target);
        c.ip = USER_CODE + 0x200;
        run(&c);
        EXPECT_EQ(c.ax, LONG_MODE ? 0x332222 : 0x332211);
        *(uint8_t *)(USER_DATA + 0x55) = (uint8_t)i;
        c.ip = USER_CODE + 0x100;
        c.sp = USER_CODE + 0x200 + sizeof(word);
        c.ax = USER_DATA + 0x55 - 0x10001;
        run(&c);
        EXPECT_EQ(c.ax, USER_DATA + (LONG_MODE ? 0xaa : 0x55));
        EXPECT_EQ(*(uint8_t *)(USER_DATA + 0x55), (uint8_t)(LONG_MODE ? i + 0x55 : i));
    }
}

/* The callee rewrites what it returns to. */
CODE(code_callee, "call 2f\n 1: mov $0x11, %al\n int $0x80\n 2: mov %cl, 1b - code_callee + 1(" BX ")\n ret");
TEST(patch_before_return)
{
    struct context c = START(code_callee);

    for (unsigned i = 0; i < HOT; i++) {
        c.ip = USER_CODE;
        c.cx = i;
        run(&c);
        EXPECT_EQ(c.ax & 0xff, i & 0xff);
    }
}

/* A loop that turns one of its own instructions from a 5-byte NOP into a CALL and back, each time round. */
CODE(code_toggle,
     "1: xor %edi, code_toggle_hole - code_toggle(" BX ")\n code_toggle_hole: .byte 0x0f, 0x1f, 0x44, 0x00, 0x00\n"
     "inc %eax\n dec %ecx\n jnz 1b\n int $0x80\n code_toggle_function: add $0x10000, %eax\n ret");
extern const char code_toggle_hole[], code_toggle_function[];
#define NOP5    0x00441f0fu /* its first four bytes; the last is 0 in both */
#define CALL5() (0xe8u | (uint32_t)(code_toggle_function - code_toggle_hole - 5) << 8)

TEST(patch_own_loop)
{
    struct context c = START(code_toggle);

    c.ax = 0;
    c.cx = 5000;
    c.di = NOP5 ^ CALL5();
    run(&c);
    EXPECT_EQ(c.ax, 5000 + 2500 * 0x10000);
}

/* As an operating system patches code that runs: INT3 first, then the tail, then the first byte (SDM vol. 3, 8.1.3). */
static unsigned breakpoints;
static void skip_hole(struct context *c)
{
    breakpoints++;
    c->ip += 4;
}

TEST(patch_by_breakpoint)
{
    struct context c = START(code_toggle);
    uint8_t *hole = (uint8_t *)USER_CODE + (code_toggle_hole - code_toggle), bytes[4];
    uint32_t call = CALL5(), nop = NOP5;

    memset((void *)USER_CODE, 0x90, (size_t)(code_toggle_hole - code_toggle));
    handlers[BP] = skip_hole;
    for (unsigned i = 0; i < HOT / 2; i++) {
        for (unsigned step = 0; step < 4; step++) {
            memcpy(bytes, i & 1 ? &nop : &call, 4);
            if (step == 1)
                *(volatile uint8_t *)hole = 0xcc;
            else if (step == 2)
                memcpy(hole + 1, bytes + 1, 3);
            else if (step == 3)
                *(volatile uint8_t *)hole = bytes[0];
            breakpoints = 0;
            c.ip = USER_CODE;
            c.ax = 0;
            c.cx = 50;
            run(&c);
            EXPECT_EQ(c.ax, step == (i & 1 ? 0 : 3) ? 50 + 50 * 0x10000 : 50);
            EXPECT_EQ(breakpoints, step == 1 || step == 2 ? 50 : 0);
        }
    }
}

/* The handler of a fault mends the instruction that faulted. */
CODE(code_broken, "mov $5, %eax\n add $250, %al\n 1: ud2\n adc $1, %al\n dec %ecx\n jnz 2f\n int $0x80\n 2: jmp *" BX);
static void mend(struct context *c)
{
    memcpy((void *)c->ip, "\x66\x90", 2);
}

TEST(patch_by_handler)
{
    struct context c = START(code_broken);
    uint8_t *ud2 = (uint8_t *)USER_CODE + 7;

    handlers[UD] = mend;
    for (unsigned i = 0; i < HOT; i++) {
        memcpy(ud2, "\x0f\x0b", 2);
        c.ip = USER_CODE;
        c.cx = 3;
        run(&c);
        EXPECT_EQ(c.ax & 0xff, 0); /* 255, no carry, plus 1 */
        EXPECT_EQ(ud2[0], 0x66);
    }
}

/* --- over a page edge --------------------------------------------------------------------------------------------- */

/* MOV $imm32, %eax: the first `first` of its bytes in one page, the others in the next; each byte of the immediate is
 * rewritten, and the opcode (B9h: MOV to ECX), at the address itself and at another one that shows the pages in the
 * other order. */
static void cross_edge(unsigned first, word shown)
{
    uint8_t *const instruction = (uint8_t *)(USER_CODE + PAGE - first);
    struct context c;

    memcpy(instruction, "\xb8\x11\x22\x33\x44\xcd\x80", 7);
    c = user_context((word)instruction);
    for (unsigned i = 0; i < HOT; i++) {
        unsigned byte = i % 5, where = (unsigned)(PAGE - first) + byte;
        word at = shown == USER_CODE ? shown + where : shown + (where ^ PAGE);
        uint32_t want;

        if (byte)
            *(volatile uint8_t *)at = (uint8_t)i;
        memcpy(&want, instruction + 1, 4);
        if (!byte)
            *(volatile uint8_t *)at = 0xb8 + (i & 1);
        c.ip = (word)instruction;
        c.ax = c.cx = 0;
        run(&c);
        EXPECT_EQ(instruction[0] & 1 ? c.cx : c.ax, want);
        EXPECT_EQ(instruction[0] & 1 ? c.ax : c.cx, 0);
    }
}

TEST(patch_crossing)
{
    place(code_callee, 0);
    for (unsigned first = 1; first < 5; first++)
        cross_edge(first, USER_CODE);
}

TEST(patch_crossing_alias)
{
    paging_64();
    place(code_callee, 0);
    map(TEST_VA, USER_CODE + PAGE, PTE_PWU);
    map(TEST_VA + PAGE, USER_CODE, PTE_PWU);
    for (unsigned first = 1; first < 5; first++)
        cross_edge(first, TEST_VA);
}

/* --- code and data in one page --------------------------------------------------------------------------------------
 */

/* Counters right before and after the code, the stack in the same page: nothing of it is code. Every 256 times round
 * the code writes a new immediate into itself too. */
CODE(code_dense,
     "1: incl -4(" BX ")\n push " CX "\n call 2f\n pop " CX "\n addl $3, code_dense_end - code_dense(" BX ")\n"
     "test %cl, %cl\n jnz 3f\n incl code_dense_add - code_dense + 1(" BX ")\n 3: dec %ecx\n jnz 1b\n int $0x80\n"
     "2: nop\n code_dense_add: .byte 0x05, 0, 0, 0, 0\n ret"); /* ADD $imm32, %eax */
TEST(patch_page_of_both)
{
    enum { ROUNDS = 5000 };
    uint8_t *code = (uint8_t *)USER_CODE + 0x804;
    struct context c = START(code_callee);
    uint32_t want = 0, addend = 0;

    for (unsigned i = ROUNDS; i; i--) {
        want += addend;
        addend += !(i & 0xff);
    }
    PLACE(code, code_dense);
    c.ip = c.bx = (word)code;
    c.sp = USER_CODE + PAGE;
    c.ax = 0;
    c.cx = ROUNDS;
    run(&c);
    EXPECT_EQ(c.ax, want);
    EXPECT_EQ(*(uint32_t *)(code - 4), ROUNDS);
    EXPECT_EQ(*(uint32_t *)(code + CODE_SIZE(code_dense)) & 0xffff, 3 * ROUNDS);
}

/* --- code made at run time
 * --------------------------------------------------------------------------------------------- */

/* MOV $imm32, %eax; RET: written, called, written again: at one place, at neighbouring ones, all over 16 pages. */
static void generate(word at, uint32_t value)
{
    uint8_t *code = (uint8_t *)at;

    code[0] = 0xb8;
    memcpy(code + 1, &value, 4);
    code[5] = 0xc3;
    EXPECT_EQ(((uint32_t(*)(void))at)(), value);
}

TEST(patch_generated)
{
    word pages = (word)page_new_aligned(16 * PAGE);

    for (uint32_t i = 0; i < 10 * HOT; i++) {
        generate(pages, i);
        generate(pages + i * 6 % PAGE, i);
        generate(pages + PAGE + i * 4099 % (14 * PAGE), i);
    }
}

/* Trampolines on the stack, at other depths each time, as old compilers made them: ADD $imm8, %eax; NOP; RET. */
CODE(code_trampoline, "1: mov %ecx, %esi\n and $7, %esi\n shl $6, %esi\n mov " SP ", " BP_ "\n sub " SI ", " SP "\n"
                      "sub $16, " SP "\n movl $0x9000c083, (" SP ")\n movb %cl, 2(" SP ")\n movb $0xc3, 4(" SP ")\n"
                      "mov " SP ", " DX "\n call *" DX "\n mov " BP_ ", " SP "\n dec %ecx\n jnz 1b\n int $0x80");
TEST(patch_on_stack)
{
    struct context c = START(code_trampoline);
    uint32_t want = 0;

    for (unsigned i = 10 * HOT; i; i--)
        want += (uint32_t)(int8_t)i;
    c.cx = 10 * HOT;
    c.ax = 0;
    run(&c);
    EXPECT_EQ(c.ax, want);
}

/* --- by a device
 * -------------------------------------------------------------------------------------------------------- */

/* The runner's memory port (run.c): a doubleword written to E0h is an address, bytes written to E4h go there and on. */
enum { PORT_ADDRESS = 0xe0, PORT_BYTE = 0xe4, PORT_MAGIC = 0xe8, MAGIC = 0x3d };

static void device_writes(word at, const void *data, unsigned size)
{
    asm volatile("outl %0, %w1" : : "a"((uint32_t)at), "d"(PORT_ADDRESS));
    for (unsigned i = 0; i < size; i++)
        outb(PORT_BYTE, ((const uint8_t *)data)[i]);
}

CODE(code_immediate, "mov $0x11111111, %eax\n jmp 1f\n 1: add $0x11111111, %eax\n int $0x80");
TEST(patch_by_device)
{
    struct context c = START(code_immediate);

    if (inb(PORT_MAGIC) != MAGIC)
        skip("no device that writes to memory");
    for (uint32_t i = 0; i < HOT; i++) {
        device_writes(USER_CODE + 1, &i, 4);
        c.ip = USER_CODE;
        run(&c);
        EXPECT_EQ(c.ax, i + 0x11111111);
        device_writes(USER_CODE + 8, &i, 2);
        c.ip = USER_CODE;
        run(&c);
        EXPECT_EQ(c.ax, i + (0x11110000 | (i & 0xffff)));
        memset((void *)(USER_CODE + 8), 0x11, 4);
    }
}
