/*
 * segmented_code.c: hot 32-bit code in segments that are not flat: the same
 * code through several of them, branches over the limit, segments that change
 * under it (SDM vol. 3, chapter 5; AMD APM vol. 2, 4.12).
 */
#include "segmented.h"

/* Recursion, loops, indirect calls, a jump table read through CS, addresses pushed by calls; EAX: a checksum of offsets
 * in CS too. Two functions lie in another page. EDI: offset of the begin. */
CODE(program, "0: mov $20, %ecx\n xor %eax, %eax\n"
              "1: push %ecx\n push $12\n call 5f\n add $4, %esp\n pop %ecx\n"
              "mov %ecx, %edx\n and $3, %edx\n lea (9f - 0b)(%edi), %ebx\n"
              "mov %cs:(%ebx, %edx, 4), %ebx\n add %edi, %ebx\n jmp *%ebx\n"
              "2: add $0x1000, %eax\n jmp 4f\n"
              "3: lea (6f - 0b)(%edi), %ebx\n call *%ebx\n"
              "4: call 44f\n 44: pop %edx\n add %edx, %eax\n sub %edi, %eax\n dec %ecx\n jnz 1b\n int $0x80\n"
              ".balign 4\n 9: .long 2b - 0b, 3b - 0b, 4b - 0b, 3b - 0b\n"
              ".fill 0x1000\n"
              /* fib(n): adds up in EAX */
              "5: mov 4(%esp), %ebx\n cmp $2, %ebx\n jb 55f\n dec %ebx\n push %ebx\n push %ebx\n call 5b\n"
              "decl (%esp)\n call 5b\n add $4, %esp\n pop %ebx\n ret\n 55: add %ebx, %eax\n ret\n"
              "6: lea 3(%eax), %eax\n ret\n"
              "program_4 = 44b - 0b\n");
extern const char program_4[];

static uint32_t program_result(void)
{
    uint32_t ax = 0;

    for (unsigned cx = 20; cx; cx--) {
        ax += 144; /* fib(12) */
        switch (cx & 3) {
        case 0:
            ax += 0x1000;
            break;
        case 1:
        case 3:
            ax += 3;
            break;
        }
        ax += (uint32_t)(word)program_4; /* less EDI */
    }
    return ax;
}

static void run_program(word base, bool flat, word shift)
{
    struct context c = user_context(0);

    gdt_set(SEL, base, flat ? 0xfffff : 0xffff, ACC_CODE | ACC_USER, FLAG_D | (flat ? FLAG_G : 0));
    PLACE(USER_CODE + shift, program);
    c.cs = SEL | 3;
    c.ip = c.di = USER_CODE + shift - base;
    context_run(&c);
    EXPECT_END(&c, OK);
    EXPECT_EQ(c.ax, program_result());
}

TEST(segmented_code)
{
    run_program(0, true, 0);
    for (unsigned i = 0; i < 3; i++) {
        run_program(USER_CODE, false, 0);
        run_program(USER_CODE - 0x123, false, 0);
        run_program(USER_CODE - 0x7f00, true, 0);
        run_program(0, true, 0);
        run_program(USER_CODE + 0x8000, true, 0); /* offsets below 0, so to say */
    }
    for (word shift = 1; shift < 0x40; shift += 7) /* over the pages' edges in other ways */
        run_program(USER_CODE - 0x321, false, shift);
}

/* The same code by turns through two segments: each call returns to where its own came from. EBX, EDX: far pointers. */
CODE(two_bases, "1: lcall *%fs:(%edx)\n lcall *%fs:(%ebx)\n add $3, %eax\n dec %ecx\n jnz 1b\n int $0x80");
CODE(callee, "call 1f\n 1: pop %ebp\n add %ebp, %eax\n call 2f\n lret\n 2: inc %eax\n ret");
TEST(segmented_far_calls)
{
    static const struct {
        word base[2];
        bool flat[2];
    } rows[] = {
        {{USER_CODE, 0}, {false, true}},
        {{0, USER_CODE}, {true, false}},
        {{USER_CODE, USER_CODE - 0x10}, {false, false}},
        {{USER_CODE - 0x1000, USER_CODE - 0x765}, {true, false}},
    };

    for (unsigned i = 0; i < 4; i++) {
        struct context c = USER(two_bases);
        struct {
            uint32_t offset;
            uint16_t selector, pad;
        } *pointer = (void *)USER_DATA;

        PLACE(USER_CODE + 0x200, callee);
        for (unsigned k = 0; k < 2; k++) {
            gdt_set(k ? SEL2 : SEL, rows[i].base[k], rows[i].flat[k] ? 0xfffff : 0x1fff, ACC_CODE | ACC_USER,
                    FLAG_D | (rows[i].flat[k] ? FLAG_G : 0));
            pointer[k].offset = USER_CODE + 0x200 - rows[i].base[k];
            pointer[k].selector = (uint16_t)((k ? SEL2 : SEL) | 3);
        }
        gdt_set(SEL3, USER_DATA, 0xff, ACC_DATA | ACC_USER, FLAG_D);
        c.fs = SEL3 | 3;
        c.ax = 0;
        c.cx = 2 * HOT;
        c.bx = 0;
        c.dx = 8;
        context_run(&c);
        EXPECT_END(&c, OK);
        EXPECT_EQ((uint32_t)c.ax,
                  (uint32_t)(2 * HOT * (5 + 2 * (USER_CODE + 0x205) - rows[i].base[0] - rows[i].base[1])));
    }
}

/* A function changes to another code segment before it returns: the same offset is other code there, which adds 100
 * and goes back. EDX: far pointers, to the RET in the other segment and to what ends a round. */
CODE(far_return, "1: call 2f\n 3: add $1, %eax\n ljmp *%fs:8(%edx)\n 4: dec %ecx\n jnz 1b\n int $0x80\n"
                 "2: ljmp *%fs:(%edx)\n 5: ret\n far_return_add = 3b - far_return + 2\n"
                 "far_return_ret = 5b - far_return\n far_return_end_round = 4b - far_return\n");
extern const char far_return_add[], far_return_ret[], far_return_end_round[];
TEST(segmented_far_return)
{
    struct {
        uint32_t offset;
        uint16_t selector, pad;
    } *pointer = (void *)USER_DATA;

    for (unsigned i = 0; i < 8; i++) {
        struct context c = user_context(0);
        const unsigned other = i & 1 ? SEL : SEL2;

        PLACE(USER_CODE, far_return);
        PLACE(USER_CODE + 0x800, far_return);
        *(uint8_t *)(USER_CODE + 0x800 + (word)far_return_add) = 100;
        code_segment(SEL, USER_CODE, 0x7ff);
        code_segment(SEL2, USER_CODE + 0x800, 0x7ff);
        data_segment(SEL3, USER_DATA, 0xff);
        pointer[0].offset = (uint32_t)(word)far_return_ret;
        pointer[0].selector = (uint16_t)(other | 3);
        pointer[1].offset = (uint32_t)(word)far_return_end_round;
        pointer[1].selector = SEL | 3;
        c.cs = SEL | 3;
        c.fs = SEL3 | 3;
        c.ax = c.dx = 0;
        c.cx = HOT;
        context_run(&c);
        EXPECT_END(&c, OK);
        EXPECT_EQ(c.ax, HOT * (i & 1 ? 1 : 100));
    }
}

/* Branches to beyond the limit: warm with a segment that has them all, then with one that ends before the target. The
 * branch faults, and nothing has changed. ECX: rounds; the last one goes on to the branch's target. */
#define FAR_AWAY "0x300"
CODE(beyond_jmp, "0: dec %ecx\n jns 0b\n stc\n jmp 0b + " FAR_AWAY);
CODE(beyond_jcc, "0: dec %ecx\n jns 0b\n stc\n jc 0b + " FAR_AWAY "\n int3");
CODE(beyond_call, "0: dec %ecx\n jns 0b\n stc\n call 0b + " FAR_AWAY);
CODE(beyond_jmp_reg, "0: dec %ecx\n jns 0b\n stc\n jmp *%esi");
CODE(beyond_call_reg, "0: dec %ecx\n jns 0b\n stc\n call *%esi");
CODE(beyond_jmp_mem, "0: dec %ecx\n jns 0b\n stc\n jmp *(%ebx)");
CODE(beyond_call_mem, "0: dec %ecx\n jns 0b\n stc\n call *(%ebx)");
CODE(beyond_ret, "0: dec %ecx\n jns 0b\n push %esi\n 9: stc\n ret");
CODE(beyond_fall, "0: dec %ecx\n jns 0b\n stc\n nop");
CODE(beyond_page, "0: dec %ecx\n jns 0b\n stc\n jmp 0b + 0x1300");
CODE(beyond_page_jcc, "0: dec %ecx\n jns 0b\n stc\n jc 0b + 0x1300\n int3");

TEST(segmented_code_limit)
{
    static const struct {
        const char *code, *end;
        word target;
        word fault; /* offset of what faults */
        unsigned pushed;
    } rows[] = {
        {beyond_jmp, beyond_jmp_end, 0x300, 4, 0},
        {beyond_jcc, beyond_jcc_end, 0x300, 4, 0},
        {beyond_call, beyond_call_end, 0x300, 4, 0},
        {beyond_jmp_reg, beyond_jmp_reg_end, 0x300, 4, 0},
        {beyond_call_reg, beyond_call_reg_end, 0x300, 4, 0},
        {beyond_jmp_mem, beyond_jmp_mem_end, 0x300, 4, 0},
        {beyond_call_mem, beyond_call_mem_end, 0x300, 4, 0},
        {beyond_ret, beyond_ret_end, 0x300, 5, 4},
        {beyond_page, beyond_page_end, 0x1300, 4, 0},
        {beyond_page_jcc, beyond_page_jcc_end, 0x1300, 4, 0},
        {beyond_fall, beyond_fall_end, 5, 5, 0},
    };
    static const uint8_t end[] = {0xcd, 0x80}; /* int $0x80 */

    for (unsigned i = 0; i < sizeof rows / sizeof *rows; i++) {
        place(rows[i].code, (word)(rows[i].end - rows[i].code));
        memcpy((void *)(USER_CODE + rows[i].target), end, sizeof end);
        *(uint32_t *)USER_DATA = (uint32_t)rows[i].target;
        /* The limit: all; the target's last byte; within its instruction; the byte before it; all. */
        for (unsigned k = 0; k < 6; k++) {
            const word beyond[] = {0x1fff, rows[i].target + 1, rows[i].target, rows[i].target - 1, 0x200, 0x1fff};
            const word limit = rows[i].code == beyond_fall && k == 4 ? rows[i].target - 1 : beyond[k];

            for (unsigned again = 0; again < (k ? 3 : HOT / 4); again++) {
                struct context c = user_context(0);

                code_segment(SEL, USER_CODE, limit);
                data_segment(SEL2, USER_DATA, 0xff);
                c.cs = SEL | 3;
                c.ds = SEL2 | 3;
                c.ip = 0;
                c.bx = 0;
                c.cx = 40;
                c.si = rows[i].target;
                context_run(&c);
                if (limit > rows[i].target) {
                    EXPECT_END(&c, OK);
                    EXPECT_EQ(c.ip, rows[i].target + 2);
                } else {
                    EXPECT_END_ERROR(&c, GP, 0);
                    EXPECT_EQ(c.ip, limit == rows[i].target ? rows[i].target : rows[i].fault);
                }
                EXPECT_EQ(c.flags & (FL_CF | FL_SF), FL_CF | FL_SF);
                if (limit < rows[i].target)
                    EXPECT_EQ(c.sp, USER_STACK + PAGE - 64 - rows[i].pushed);
            }
        }
    }
}

/* A limit that goes down a byte at a time, through instructions of a warm loop. */
CODE(long_loop, "1: add $0x11111111, %eax\n adc $0x22222222, %edx\n xor %eax, %ebx\n dec %ecx\n jnz 1b\n int $0x80");
TEST(segmented_code_end)
{
    static const uint8_t starts[] = {0, 5, 11, 13, 14, 16, 18};

    place(long_loop, CODE_SIZE(long_loop));
    for (word limit = 17; limit != (word)-1; limit--) {
        struct context c = user_context(0);
        unsigned fault = 0;

        while (fault < 6 && starts[fault + 1] <= limit + 1)
            fault++;
        for (unsigned k = 0; k < (limit == 17 ? HOT / 8 : 3); k++) {
            code_segment(SEL, USER_CODE, k == 1 ? 0xfff : limit);
            c.cs = SEL | 3;
            c.ip = 0;
            c.cx = HOT;
            context_run(&c);
            if (k == 1 || limit == 17) {
                EXPECT_END(&c, OK);
                EXPECT_EQ(c.cx, 0);
                continue;
            }
            EXPECT_END_ERROR(&c, GP, 0);
            /* The loop closes if the jump fits, and only then comes to what follows it. */
            EXPECT_EQ(c.ip, starts[fault]);
            EXPECT_EQ(c.cx, limit >= 15 ? 0 : limit >= 13 ? HOT - 1 : HOT);
        }
    }
}

/* --- changes ---------------------------------------------------------------------------------------------------- */

/* Within a loop DS goes from flat to a base, to another, to null and back, and a function reads through it. */
CODE(changes,
     "1: mov %edx, %ds\n call 2f\n mov %esi, %ds\n call 2f\n push %edi\n pop %ds\n call 2f\n lds (%ebp), %ebx\n"
     "call 2f\n mov %es, %eax\n mov %eax, %ds\n movl %fs:0, %ebx\n dec %ecx\n jnz 1b\n int $0x80\n"
     "2: movl (%ebx), %eax\n addl %eax, %fs:8\n addl 4(%ebx), %eax\n ret");
static struct context run_changes(unsigned first)
{
    struct context c = USER(changes);

    c.es = c.ds = UDATA;
    c.fs = SEL4 | 3;
    c.dx = first;
    c.si = SEL2 | 3;
    c.di = UDATA;
    c.bp = USER_STACK + 0x100;
    c.bx = 0x400;
    c.cx = HOT;
    context_run(&c);
    return c;
}

TEST(segmented_changes)
{
    uint32_t *data = (uint32_t *)USER_DATA;
    struct context c;

    for (unsigned i = 0; i < 3; i++) {
        fill_data();
        data_segment(SEL, USER_DATA + 0x100, 0x4ff);
        data_segment(SEL2, USER_DATA + 0x200, 0x403);
        flat_data(SEL3, USER_DATA + 0x300 - (i == 2 ? 0x80 : 0));
        data_segment(SEL4, USER_DATA, 0x1fff);
        data[0] = 0x400;
        data[0x400 / 4] = 1; /* flat: offset 400h is in low memory */
        *low_memory(0x400) = 0x10000;
        data[0x500 / 4] = 0x2;
        data[0x600 / 4] = 0x30;
        data[(0x700 - (i == 2 ? 0x80 : 0)) / 4] = 0x400;
        /* LDS's operand, on the stack: offset 400h in SEL3. */
        *(uint32_t *)(USER_STACK + 0x100) = 0x400;
        *(uint16_t *)(USER_STACK + 0x104) = SEL3 | 3;
        data[2] = 0;
        c = run_changes(i == 1 ? SEL2 | 3 : SEL | 3);
        if (i == 1) { /* reading eight bytes at 400h in SEL2: beyond its limit by one */
            data_segment(SEL2, USER_DATA + 0x200, 0x406);
            EXPECT_END_ERROR(&c, GP, 0);
            c = run_changes(SEL2 | 3);
            EXPECT_END_ERROR(&c, GP, 0);
            EXPECT_EQ(c.ip, USER_CODE + CODE_SIZE(changes) - 4);
            continue;
        }
        /* SEL2's second word is beyond: the function faults there, in the second call of the first round. */
        EXPECT_END_ERROR(&c, GP, 0);
        EXPECT_EQ(c.cx, HOT);
        data_segment(SEL2, USER_DATA + 0x200, 0x407);
        data[2] = 0;
        c = run_changes(SEL | 3);
        EXPECT_END(&c, OK);
        EXPECT_EQ(data[2], HOT * (0x2 + 0x30 + 0x10000 + 0x400));
    }
}

/* Functions that load DS for their caller, called directly and by register; which one loads what changes each round. */
CODE(loaders, "1: call 2f\n addl (%ebx), %eax\n call 3f\n addl (%ebx), %eax\n call *%ebp\n addl (%ebx), %eax\n"
              "xchg %edx, %edi\n xchg %esi, %edi\n dec %ecx\n jnz 1b\n int $0x80\n 2: mov %edx, %ds\n ret\n 3: mov "
              "%esi, %ds\n ret\n"
              "4: mov %edi, %ds\n ret\n loaders_4 = 4b - loaders\n");
extern const char loaders_4[];
TEST(segmented_loaded_by_callee)
{
    *low_memory(0x2400) = 0x100;
    *(uint32_t *)(USER_DATA + 0x400) = 0x3;
    place(loaders, CODE_SIZE(loaders));
    for (unsigned i = 0; i < 8; i++) { /* warm with all of them flat, or with others, first */
        struct context c = user_context(USER_CODE);
        const bool flat = i < 5 && !(i & 1);

        flat_data(SEL, i & 2 ? 0x2000 : USER_DATA);
        data_segment(SEL2, USER_DATA, 0xfff);
        c.ax = 0;
        c.bp = USER_CODE + (word)loaders_4;
        c.bx = 0x400;
        c.cx = HOT;
        c.dx = flat ? UDATA : SEL | 3;
        c.si = flat ? UDATA : SEL2 | 3;
        c.di = UDATA;
        *low_memory(0x400) = 0x10000;
        context_run(&c);
        EXPECT_END(&c, OK);
        EXPECT_EQ(c.ax, HOT * (flat ? 0x30000 : 0x10000 + 3 + (i & 2 ? 0x100 : 3)));
    }
}

/* A null selector in the middle of a loop: the next access faults, until the handler has seen to it. */
CODE(to_null, "1: mov %edx, %es\n addl %es:(%ebx), %eax\n mov %esi, %es\n addl %es:(%ebx), %eax\n xor %esi, %esi\n"
              "dec %ecx\n jnz 1b\n int $0x80");
static unsigned faults;
static void give_segment(struct context *c)
{
    faults++;
    EXPECT_EQ(c->ip, USER_CODE + 7);
    EXPECT_EQ(c->error, 0);
    EXPECT_EQ(c->es, 0);
    c->si = SEL | 3; /* back to the load */
    c->ip -= 2;
}

TEST(segmented_to_null)
{
    struct context c = USER(to_null);

    data_segment(SEL, USER_DATA, 3);
    *(uint32_t *)USER_DATA = 5;
    handlers[GP] = give_segment;
    c.ax = c.bx = 0;
    c.cx = HOT;
    c.dx = SEL | 3;
    c.si = 0;
    context_run(&c);
    EXPECT_END(&c, OK);
    EXPECT_EQ(faults, HOT);
    EXPECT_EQ(c.ax, 10 * HOT);
}

/* Code that writes to itself through a data segment with another base. */
CODE(patches, "1: add $1, %eax\n incb 2(%ebx)\n nop\n dec %ecx\n jnz 1b\n int $0x80");
TEST(segmented_patch)
{
    struct context c = USER(patches);
    uint32_t sum = 0;

    for (unsigned i = 0; i < 2 * HOT; i++)
        sum += (uint32_t)(int8_t)(1 + i);
    code_segment(SEL, USER_CODE - 0x40, 0xfff);
    data_segment(SEL2, USER_CODE - 0x155, 0xfff);
    c.cs = SEL | 3;
    c.ds = SEL2 | 3;
    c.ip = 0x40;
    c.bx = 0x155;
    c.ax = 0;
    c.cx = 2 * HOT;
    context_run(&c);
    EXPECT_END(&c, OK);
    EXPECT_EQ((uint32_t)c.ax, sum);
}
