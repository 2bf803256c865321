/*
 * smc.c: code that changes: itself, its neighbours, through other addresses.
 * x86 needs no flush: the next instruction sees the new bytes (SDM vol. 3,
 * 8.1.3 for one processor with the same linear address, 11.6 for the rest).
 *
 * The code runs at USER_CODE with bx = USER_CODE unless a test says otherwise.
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

/* Each pass replaces the ModRM byte of the very MOV that writes it: DL, then CL, then AL is stored. */
CODE(code_self, "1: mov %dl, 1(" BX ")\n dec %esi\n jnz 1b\n int $0x80");

TEST(smc_current_instruction)
{
    static const uint8_t modrm[] = {0x4b, 0x43, 0x53, 0x4b, 0x43};

    for (unsigned passes = 1; passes <= 5; passes++) {
        struct context c = START(code_self);

        c.dx = 0x4b; /* mov %cl, 1(bx) */
        c.cx = 0x43; /* mov %al, 1(bx) */
        c.ax = 0x53; /* mov %dl, 1(bx) */
        c.si = passes;
        run(&c);
        EXPECT_EQ(((uint8_t *)USER_CODE)[1], modrm[passes - 1]);
    }
}

/* Bytes that are no instruction (0F 0A) become one (BSWAP %eax) and back: of the second byte nothing was executed. */
CODE(code_undefined, "nop\n nop\n .byte 0x0f, 0x0a\n int $0x80");

TEST(smc_undefined)
{
    for (unsigned place_at = 0; place_at < 2; place_at++) {
        const word at = place_at ? USER_CODE + PAGE - 3 : USER_CODE; /* the second byte in the next page */
        struct context c = START(code_undefined);

        memcpy((void *)at, code_undefined, CODE_SIZE(code_undefined));
        for (unsigned i = 0; i < 200; i++) {
            const bool good = i % 8 >= 6;

            *(volatile uint8_t *)(at + 3) = good ? 0xc8 : 0x0a;
            c.ip = at;
            c.ax = 0x11223344;
            context_run(&c);
            EXPECT_END(&c, good ? 0x80 : UD);
            EXPECT_EQ(c.ip, at + (good ? 6 : 2));
            EXPECT_EQ((uint32_t)c.ax, good ? 0x44332211 : 0x11223344);
        }
    }
}

/* The immediate of the instruction that follows at once. */
CODE(code_next, "mov %cl, 4(" BX ")\n mov $0x11, %al\n int $0x80");
CODE(code_next_jump, "mov %cl, 6(" BX ")\n jmp 1f\n 1: mov $0x11, %al\n int $0x80");

TEST(smc_next_instruction)
{
    struct context c = START(code_next);

    for (unsigned i = 0; i < 10; i++) {
        c.ip = USER_CODE;
        c.cx = 0x20 + i;
        run(&c);
        EXPECT_EQ(c.ax & 0xff, 0x20 + i);
    }
}

TEST(smc_next_after_jump)
{
    struct context c = START(code_next_jump);

    for (unsigned i = 0; i < 10; i++) {
        c.ip = USER_CODE;
        c.cx = 0x20 + i;
        run(&c);
        EXPECT_EQ(c.ax & 0xff, 0x20 + i);
    }
}

/* Adds 1 + 2 + ... + 100 by rewriting the addend within the loop, after it and before it. */
CODE(code_loop_ahead, "1: mov %cl, 4(" BX ")\n add $0x11, %al\n movzbl %al, %edx\n add %edx, %esi\n"
                      "xor %eax, %eax\n dec %ecx\n jnz 1b\n int $0x80");
CODE(code_loop_behind, "1: add $0x01, %al\n movzbl %al, %edx\n add %edx, %esi\n xor %eax, %eax\n"
                       "incb 1(" BX ")\n dec %ecx\n jnz 1b\n int $0x80");

TEST(smc_loop_body)
{
    struct context c = START(code_loop_ahead);

    c.cx = 100;
    c.ax = c.si = 0;
    run(&c);
    EXPECT_EQ(c.si, 5050);
    c = START(code_loop_behind);
    c.cx = 100;
    c.ax = c.si = 0;
    run(&c);
    EXPECT_EQ(c.si, 5050);
}

/* A hot loop whose closing JNZ (75h) becomes a JZ (74h) after 1000 rounds, written by a branch of its own. */
CODE(code_branch, "1: inc %eax\n cmp $1000, %eax\n jne 2f\n movb $0x74, 3f - code_branch(" BX ")\n"
                  "2: test %ebx, %ebx\n 3: jnz 1b\n int $0x80");

TEST(smc_block_end)
{
    struct context c = START(code_branch);

    c.ax = 0;
    run(&c);
    EXPECT_EQ(c.ax, 1000);
}

/* MOV $imm32, %eax over the page edge: opcode and one byte in the first page, three bytes in the second. */
CODE(code_cross, "mov $0x11111111, %eax\n int $0x80");
#define CROSS (USER_CODE + PAGE - 2)

TEST(smc_second_page)
{
    struct context c = START(code_next);

    PLACE(CROSS, code_cross);
    for (unsigned i = 0; i < 5; i++) {
        *(uint8_t *)(USER_CODE + PAGE + 1) = (uint8_t)i; /* bits 16..23 */
        c.ip = CROSS;
        run(&c);
        EXPECT_EQ(c.ax, 0x11001111 | i << 16);
    }
    /* A run of instructions, the changed one wholly in the second page. */
    memset((void *)(USER_CODE + PAGE - 4), 0x90, 8);
    PLACE(USER_CODE + PAGE + 4, code_cross);
    for (unsigned i = 0; i < 5; i++) {
        *(uint8_t *)(USER_CODE + PAGE + 8) = (uint8_t)i;
        c.ip = USER_CODE + PAGE - 4;
        run(&c);
        EXPECT_EQ(c.ax, 0x00111111 | i << 24);
    }
}

/* The code itself rewrites the far half of the crossing instruction that follows it. */
CODE(code_cross_self, "mov %cl, (" BX ")\n mov $0x11111111, %eax\n int $0x80");

TEST(smc_second_page_self)
{
    struct context c = START(code_next);

    PLACE(USER_CODE + PAGE - 4, code_cross_self);
    c.bx = USER_CODE + PAGE + 2;
    for (unsigned i = 0; i < 5; i++) {
        c.ip = USER_CODE + PAGE - 4;
        c.cx = i;
        run(&c);
        EXPECT_EQ(c.ax, 0x00111111 | i << 24);
    }
}

/* The second page of a crossing instruction is replaced by another one: a new mapping, not a write. */
TEST(smc_second_page_remapped)
{
    struct context c;
    char *other = page_new();

    paging_64();
    c = START(code_next);
    PLACE(CROSS, code_cross);
    memcpy(other, (void *)(USER_CODE + PAGE), PAGE);
    other[2] = 0x77;
    c.ip = CROSS;
    run(&c);
    EXPECT_EQ(c.ax, 0x11111111);
    map(USER_CODE + PAGE, (word)other, PTE_PWU);
    c.ip = CROSS;
    run(&c);
    EXPECT_EQ(c.ax, 0x77111111);
    unmap(USER_CODE + PAGE);
    c.ip = CROSS;
    context_run(&c);
    EXPECT_END(&c, PF);
    EXPECT_EQ(c.cr2, USER_CODE + PAGE);
    EXPECT_EQ(c.ip, CROSS);
}

/* bx points to another mapping of the same page. */
TEST(smc_alias)
{
    struct context c;

    paging_64();
    c = START(code_next);
    map(TEST_VA, USER_CODE, PTE_PWU);
    c.bx = TEST_VA;
    for (unsigned i = 0; i < 10; i++) {
        c.ip = USER_CODE;
        c.cx = 0x20 + i;
        run(&c);
        EXPECT_EQ(c.ax & 0xff, 0x20 + i);
        /* And the code under its other address. */
        c.ip = TEST_VA;
        c.cx = 0x60 + i;
        c.bx = i & 1 ? TEST_VA : USER_CODE;
        run(&c);
        EXPECT_EQ(c.ax & 0xff, 0x60 + i);
    }
}

/* The same linear address shows another page, then the first again, changed meanwhile. */
TEST(smc_remap)
{
    struct context c;
    char *first = page_new(), *second = page_new();

    paging_64();
    c = START(code_next);
    PLACE(first, code_next);
    PLACE(second, code_next_jump);
    for (unsigned i = 0; i < 6; i++) {
        map(USER_CODE, (word)(i & 1 ? second : first), PTE_PWU);
        c.ip = USER_CODE;
        c.cx = 0x30 + i;
        run(&c);
        EXPECT_EQ(c.ax & 0xff, 0x30 + i);
        EXPECT_EQ((uint8_t)(i & 1 ? second[6] : first[4]), 0x30 + i);
        if (i == 2)
            first[5] = 0x90, first[6] = (char)0xcd, first[7] = (char)0x80;
    }
}

/* REP STOSB and REP MOVSB over the instructions that follow them. */
CODE(code_stos, "rep stosb\n ud2\n ud2\n ud2\n int $0x80");
CODE(code_movs, "rep movsb\n ud2\n ud2\n ud2\n int $0x80");

TEST(smc_string)
{
    struct context c = START(code_stos);

    for (unsigned i = 0; i < 3; i++) {
        PLACE(USER_CODE, code_stos);
        c.ip = USER_CODE;
        c.di = USER_CODE + 2;
        c.cx = 6;
        c.ax = 0x90;
        run(&c);
        EXPECT_EQ(c.cx, 0);
        EXPECT_EQ(c.di, USER_CODE + 8);

        PLACE(USER_CODE, code_movs);
        memcpy((void *)USER_DATA, "\xb0\x5a\x90\xb4\xa5\x90", 6); /* mov $0x5a, %al; mov $0xa5, %ah */
        c.ip = USER_CODE;
        c.di = USER_CODE + 2;
        c.si = USER_DATA;
        c.cx = 6;
        run(&c);
        EXPECT_EQ(c.ax & 0xffff, 0xa55a);
    }
}

/* Every kind of store must be seen: PUSH, XCHG, CMPXCHG, x87 and SSE stores, BTS. The target is at bx. */
CODE(code_push, "lea 1f - code_push + " STRING(WORD) "(" BX "), " SP "\n push " CX
                                                     "\n 1: .fill " STRING(WORD) ", 1, 0x0b\n int $0x80");
CODE(code_xchg, "xchg %ecx, 1f - code_xchg(" BX ")\n 1: .fill 4, 1, 0x0b\n int $0x80");
CODE(code_cmpxchg,
     "mov $0x0b0b0b0b, %eax\n lock cmpxchg %ecx, 1f - code_cmpxchg(" BX ")\n 1: .fill 4, 1, 0x0b\n int $0x80");
CODE(code_fist, "fninit\n fildl (" SI ")\n fistpl 1f - code_fist(" BX ")\n 1: .fill 4, 1, 0x0b\n int $0x80");
CODE(code_movups, "movups (" SI "), %xmm0\n movups %xmm0, 1f - code_movups(" BX ")\n 1: .fill 16, 1, 0x0b\n int $0x80");
CODE(code_bts, "btsl $0, 1f - code_bts(" BX ")\n 1: .byte 0xb2, 0x22, 0x90\n int $0x80"); /* mov dl -> mov bl */

TEST(smc_store_kinds)
{
    static const struct {
        const char *code, *end;
    } kinds[] = {
        {code_push, code_push_end}, {code_xchg, code_xchg_end},     {code_cmpxchg, code_cmpxchg_end},
        {code_fist, code_fist_end}, {code_movups, code_movups_end},
    };
    struct context c;

    write_cr0(read_cr0() & ~(word)(CR0_TS | CR0_EM));
    write_cr4(read_cr4() | CR4_OSFXSR);
    for (unsigned i = 0; i < sizeof kinds / sizeof *kinds; i++) {
        word size = (word)(kinds[i].end - kinds[i].code);

        c = place(kinds[i].code, size);
        memset((void *)USER_DATA, 0x90, 16);
        c.cx = (word)0x9090909090909090ull;
        c.si = USER_DATA;
        run(&c);
        /* Again, with the bytes that were there before: they must fault. */
        memset((void *)USER_DATA, 0x90, 15);
        *(uint32_t *)USER_DATA = 0x900b0f90; /* nop; ud2; nop */
        c = place(kinds[i].code, size);
        c.cx = (word)0x90909090900b0f90ull;
        c.si = USER_DATA;
        context_run(&c);
        EXPECT_END(&c, UD);
    }
    c = START(code_bts);
    c.dx = 0;
    run(&c);
    EXPECT_EQ(c.bx & 0xff, 0x22);
}

/* The frame that the CPU pushes for INT 81h overwrites instructions that have run before, as NOPs. Its topmost word, SS
 * or the flags, is then run as code: of 10 00 00 00 00 00 00 00 and 02 00 00 00 the first two bytes are ADC %al, (rax)
 * and ADD (%eax), %al, each further pair ADD %al, (rax). */
static void do_nothing(struct context *c)
{
}
CODE(code_frame, "int $0x81\n jmp *" BX);

TEST(smc_exception_frame)
{
    uint8_t *code = page_new(), *data = page_new();
    struct context c = kernel_context(0);

    handlers[0x81] = do_nothing;
    PLACE(code, code_frame);
    memset(code + 0xc00 - sizeof(word), 0x90, sizeof(word));
    memcpy(code + 0xc00, "\xcd\x80", 2);
    c.bx = (word)code + 0xc00 - sizeof(word);
    c.ax = (word)data + 1;
    c.ip = c.bx;
    context_run(&c);
    EXPECT_END(&c, 0x80);
    EXPECT_EQ(data[1], 0);
    memset(code + 0xc00 - sizeof(word), 0x90, sizeof(word));
    c.sp = (word)code + 0xc00;
    c.flags = FL_1;
    c.ip = (word)code;
    context_run(&c);
    EXPECT_END(&c, 0x80);
    EXPECT_EQ(data[1], LONG_MODE ? 4 : 1);
}

/* Data beside code: a counter in the page that counts it. */
CODE(code_counter, "1: incl 0x800(" BX ")\n cmpl $5000, 0x800(" BX ")\n jne 1b\n int $0x80");

TEST(smc_data_beside_code)
{
    struct context c = START(code_counter);

    *(uint32_t *)(USER_CODE + 0x800) = 0;
    run(&c);
    EXPECT_EQ(*(uint32_t *)(USER_CODE + 0x800), 5000);
}

#if LONG_MODE
/* An entry of the page table is the operand of an instruction, which follows the access that sets the entry's A bit.
 * The hot path is worn in without the access, then taken with the page not in the TLB. SDM vol. 3, 4.8 leaves open when
 * A is seen to be set; engines agree. */
TEST(smc_page_table)
{
    static const uint8_t before[16] = {0x85, 0xff, 0x74, 0x0a, 0x90, 0x90, 0x90, 0x90, /* test %edi, %edi; jz 1f */
                                       0x8b, 0x16, 0x90, 0x90, 0x90, 0x90,             /* mov (%rsi), %edx */
                                       0x48, 0xb8};                                    /* 1: mov $entry, %rax */
    static const uint8_t after[8] = {0xcd, 0x80};
    uint64_t *pte, wanted;
    struct context c;

    paging_64();
    user_init();
    map(TEST_VA + 16 * PAGE, (word)page_new(), PTE_PWU);
    pte = entry(TEST_VA + 16 * PAGE, 1);
    wanted = *pte;
    map(TEST_VA + 0x100000, (word)pte & ~(word)(PAGE - 1), PTE_PWU);
    memcpy(pte - 2, before, sizeof(before));
    memcpy(pte + 1, after, sizeof(after));
    for (unsigned round = 0; round < 3; round++) {
        *pte = wanted;
        invlpg(TEST_VA + 16 * PAGE);
        for (unsigned i = 0; i < 41; i++) {
            c = user_context(TEST_VA + 0x100000 + ((word)pte & (PAGE - 1)) - 16);
            c.si = TEST_VA + 16 * PAGE;
            c.di = i == 40;
            run(&c);
            EXPECT_EQ(c.ax & ~(word)0x20, wanted);
            if (i < 40)
                EXPECT_EQ(c.ax, wanted);
        }
        EXPECT_EQ(*pte, wanted | 0x20);
    }
}
#endif
