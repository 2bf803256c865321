/*
 * segmented.c: hot 32-bit code whose data and stack segments are not flat:
 * bases, limits at the last byte, types (SDM vol. 3, chapter 5; AMD APM vol. 2,
 * 4.12). Everything runs often enough for a translator to engage.
 */
#include "segmented.h"

#define LIMIT (4 * HOT + 100 - 1) /* of a segment that loops walk through */

/* --- limits of data ------------------------------------------------------------------------------------------- */

/* A walk by ESI through a segment until it faults. ECX counts. */
CODE(walk1_ds, "1: addb (%ebx), %al\n add %esi, %ebx\n inc %ecx\n jmp 1b");
CODE(walk4_ds, "1: addl (%ebx), %eax\n add %esi, %ebx\n inc %ecx\n jmp 1b");
CODE(walk2_es, "1: addw %es:(%ebx), %ax\n add %esi, %ebx\n inc %ecx\n jmp 1b");
CODE(walk4_fs, "1: addl %fs:(%ebx), %eax\n add %esi, %ebx\n inc %ecx\n jmp 1b");
CODE(walk4_gs, "1: addl %gs:(%ebx, %edi, 4), %eax\n add %esi, %ebx\n inc %ecx\n jmp 1b");
CODE(walk4_ss, "1: addl (%ebp), %eax\n add %esi, %ebp\n inc %ecx\n jmp 1b");
CODE(walk4_esp, "1: addl (%esp), %eax\n add %esi, %esp\n inc %ecx\n jmp 1b");
CODE(walk4_cs, "1: addl %cs:(%ebx), %eax\n add %esi, %ebx\n inc %ecx\n jmp 1b");
CODE(walk4_write, "1: movl %eax, (%ebx)\n add %esi, %ebx\n inc %ecx\n jmp 1b");
CODE(walk4_rmw, "1: lock addl %esi, (%ebx)\n add %esi, %ebx\n inc %ecx\n jmp 1b");
CODE(walk8_push, "1: push (%ebx, %esi)\n pop %eax\n add %esi, %ebx\n inc %ecx\n jmp 1b");
CODE(walk4_short, "1: addl (%bx), %eax\n add %esi, %ebx\n inc %ecx\n jmp 1b"); /* 16-bit address */

static const struct walk {
    const char *code, *end;
    unsigned size, reach;
    bool stack;
} walks[] = {
    {walk1_ds, walk1_ds_end, 1, 1, false},       {walk4_ds, walk4_ds_end, 4, 4, false},
    {walk2_es, walk2_es_end, 2, 2, false},       {walk4_fs, walk4_fs_end, 4, 4, false},
    {walk4_gs, walk4_gs_end, 4, 4, false},       {walk4_ss, walk4_ss_end, 4, 4, true},
    {walk4_esp, walk4_esp_end, 4, 4, true},      {walk4_cs, walk4_cs_end, 4, 4, false},
    {walk4_write, walk4_write_end, 4, 4, false}, {walk4_rmw, walk4_rmw_end, 4, 4, false},
    {walk4_short, walk4_short_end, 4, 4, false},
};

/* Runs the walk from offset 0 by `step`; the first access that ends beyond `limit` faults. */
static void walk_to_limit(const struct walk *w, word base, word limit, word step)
{
    struct context c = place(w->code, (word)(w->end - w->code));
    const word rounds = (limit + 1 - w->size) / step + 1;

    data_segment(SEL, base, limit);
    /* Readable code, seen through CS too: it must reach the code itself. */
    gdt_set(SEL2, base, limit, ACC_CODE | ACC_USER, FLAG_D);
    c.ds = c.es = c.fs = c.gs = SEL | 3;
    if (w->stack)
        c.ss = SEL | 3;
    if (w->code == walk4_cs) {
        memcpy((void *)(base + limit + 1 - 64), w->code, (word)(w->end - w->code));
        c.cs = SEL2 | 3;
        c.ip = limit + 1 - 64;
    }
    c.bx = c.bp = 0;
    c.sp = w->stack ? 0 : c.sp;
    c.cx = c.di = 0;
    c.si = step;
    {
        const word ip = c.ip;

        context_run(&c);
        EXPECT_END_ERROR(&c, w->stack ? SS : GP, 0);
        EXPECT_EQ(c.ip, ip);
    }
    EXPECT_EQ(c.cx, rounds);
    EXPECT_EQ(w->code == walk4_ss ? c.bp : w->stack ? c.sp : c.bx, rounds * step);
}

TEST(segmented_walk)
{
    for (unsigned i = 0; i < sizeof walks / sizeof *walks; i++) {
        fill_data();
        walk_to_limit(&walks[i], USER_DATA, LIMIT, 4);
        walk_to_limit(&walks[i], USER_DATA + 0x123, LIMIT + 1, 4); /* neither base nor limit aligned */
        walk_to_limit(&walks[i], USER_DATA + 0xff1, LIMIT + 2, 4); /* into the next page */
        walk_to_limit(&walks[i], USER_DATA + 2, LIMIT + 3, 3);
        walk_to_limit(&walks[i], USER_DATA, LIMIT, 4); /* code, warm, meets another limit */
    }
}

/* What a walk adds up is what lies at the base. */
TEST(segmented_sum)
{
    uint32_t sum = 0;

    fill_data();
    for (unsigned i = 0; i < 2 * HOT; i++)
        sum += *(uint32_t *)(USER_DATA + 0x321 + 4 * i);
    for (unsigned i = 0; i < 8; i++) {
        struct context c = i & 1 ? USER(walk4_ds) : USER(walk4_gs);

        data_segment(SEL, USER_DATA + 0x321 - 0x40 * i, 8 * HOT + 0x40 * i - 1);
        c.ds = c.gs = SEL | 3;
        c.bx = 0x40 * i;
        c.si = 4;
        c.ax = c.cx = c.di = 0;
        context_run(&c);
        EXPECT_END_ERROR(&c, GP, 0);
        EXPECT_EQ(c.ax, sum);
    }
}

/* Neighbouring accesses, of which only the first ones are within the limit: those are made. */
CODE(group_write,
     "1: movl %eax, (%ebx)\n movl %eax, 4(%ebx)\n movl %eax, 8(%ebx)\n add %esi, %ebx\n inc %eax\n dec %ecx\n jnz 1b\n"
     "int $0x80");
CODE(group_below, "1: addl -4(%ebx), %eax\n addl (%ebx), %eax\n sub %esi, %ebx\n jmp 1b");
CODE(group_mixed,
     "1: addl (%ebx), %eax\n addl 4(%ebx), %eax\n movl %eax, 8(%ebx)\n xor $16, %ebx\n dec %ecx\n jnz 1b\n int $0x80");
TEST(segmented_group)
{
    struct context c;
    uint32_t *data = (uint32_t *)USER_DATA;

    for (unsigned missing = 1; missing <= 8; missing++) {
        memset((void *)USER_DATA, 0, PAGE);
        data_segment(SEL, USER_DATA, 8 * HOT + 8 - 1 - missing);
        c = USER(group_write);
        c.ds = SEL | 3;
        c.ax = 1;
        c.bx = 0;
        c.cx = 2 * HOT;
        c.si = 4;
        context_run(&c);
        EXPECT_END_ERROR(&c, GP, 0);
        /* Round r writes dwords r to r + 2; `fit` dwords lie within the limit. */
        {
            const word fit = (8 * HOT + 8 - missing) / 4, round = fit - 2;

            EXPECT_EQ(c.ip, USER_CODE + 5);
            EXPECT_EQ(c.bx, 4 * round);
            EXPECT_EQ(data[round], round + 1);
            EXPECT_EQ(data[round + 1], round + 1);
            EXPECT_EQ(data[fit], 0);
        }
    }
    /* Down to offset 0 and below: FFFFFFFCh is beyond the limit. */
    data_segment(SEL, USER_DATA, 0xfff);
    c = USER(group_below);
    c.ds = SEL | 3;
    c.bx = 4 * HOT;
    c.si = 4;
    context_run(&c);
    EXPECT_END_ERROR(&c, GP, 0);
    EXPECT_EQ(c.ip, USER_CODE);
    EXPECT_EQ(c.bx, 0);
    /* Reads and a write through a read-only segment: the reads are made first. */
    for (unsigned writable = 0; writable < 2; writable++) {
        gdt_set(SEL, USER_DATA, 0xfff, (writable ? ACC_DATA : 0x90) | ACC_USER, FLAG_D);
        data[0] = data[1] = data[4] = data[5] = 1;
        c = USER(group_mixed);
        c.ds = SEL | 3;
        c.ax = c.bx = 0;
        c.cx = HOT;
        context_run(&c);
        if (writable) {
            EXPECT_END(&c, OK);
            EXPECT_EQ(c.ax, 2 * HOT);
        } else {
            EXPECT_END_ERROR(&c, GP, 0);
            EXPECT_EQ(c.ip, USER_CODE + 5);
            EXPECT_EQ(c.ax, 2);
        }
    }
}

/* --- types ---------------------------------------------------------------------------------------------------- */

/* Reads through DS, then a write through DS when ECX comes to 0. */
CODE(read_then_write, "1: addl (%ebx), %eax\n loop 1b\n movl %eax, (%ebx)\n int $0x80");
CODE(read_then_write_2, "1: addl (%ebx), %eax\n dec %ecx\n jnz 1b\n 2: movl %eax, (%ebx)\n int $0x80");

TEST(segmented_types)
{
    static const struct {
        unsigned access;
        bool flat, readable, writable;
    } rows[] = {
        {ACC_DATA | ACC_USER, false, true, true}, {ACC_DATA | ACC_USER, true, true, true},
        {0x90 | ACC_USER, false, true, false},    {0x90 | ACC_USER, true, true, false},
        {ACC_CODE | ACC_USER, true, true, false}, {ACC_CODE | ACC_CONFORMING, false, true, false},
    };

    for (unsigned i = 0; i < 4 * sizeof rows / sizeof *rows; i++) {
        const bool flat = rows[i / 4].flat;
        struct context c = i & 1 ? USER(read_then_write) : USER(read_then_write_2);
        const word write = USER_CODE + (i & 1 ? 4 : 5);

        *(uint32_t *)(USER_DATA + 0x10) = 3;
        gdt_set(SEL, flat ? 0 : USER_DATA, flat ? 0xfffff : 0xff, rows[i / 4].access, FLAG_D | (flat ? FLAG_G : 0));
        c.ds = SEL | 3;
        c.ax = 0;
        c.bx = flat ? USER_DATA + 0x10 : 0x10;
        c.cx = HOT;
        context_run(&c);
        if (rows[i / 4].writable) {
            EXPECT_END(&c, OK);
            EXPECT_EQ(*(uint32_t *)(USER_DATA + 0x10), 3 * HOT);
        } else {
            EXPECT_END_ERROR(&c, GP, 0);
            EXPECT_EQ(c.ip, write);
            EXPECT_EQ(*(uint32_t *)(USER_DATA + 0x10), 3);
        }
        EXPECT_EQ(c.ax, 3 * HOT);
    }
}

/* Execute-only code: its own bytes cannot be read, flat or not. */
CODE(read_code, "1: dec %ecx\n jnz 1b\n movl %cs:(%ebx), %eax\n int $0x80");
TEST(segmented_execute_only)
{
    for (unsigned i = 0; i < 8; i++) {
        struct context c = USER(read_code);
        const bool flat = i & 1, readable = i & 2;

        gdt_set(SEL, flat ? 0 : USER_CODE, flat ? 0xfffff : 0xff, (readable ? ACC_CODE : 0x98) | ACC_USER,
                FLAG_D | (flat ? FLAG_G : 0));
        c.cs = SEL | 3;
        c.ip = c.bx = flat ? USER_CODE : 0;
        c.cx = HOT;
        context_run(&c);
        if (readable) {
            EXPECT_END(&c, OK);
            EXPECT_EQ(c.ax, *(uint32_t *)USER_CODE);
        } else {
            EXPECT_END_ERROR(&c, GP, 0);
            EXPECT_EQ(c.ip, (flat ? USER_CODE : 0) + 3);
        }
    }
}

/* Down through an expand-down segment, until its limit is met. */
CODE(walk_down, "1: addl (%ebx), %eax\n sub %esi, %ebx\n inc %ecx\n jmp 1b");
CODE(push_down, "1: push %ebx\n inc %ecx\n jmp 1b");
TEST(segmented_expand_down)
{
    struct context c;

    fill_data();
    for (word limit = 0x7f8; limit < 0x804; limit++) {
        gdt_set(SEL, USER_DATA, limit, ACC_DATA | ACC_DOWN | ACC_USER, FLAG_D);
        c = USER(walk_down);
        c.ds = SEL | 3;
        c.bx = 0x800 + 4 * HOT;
        c.cx = 0;
        c.si = 4;
        context_run(&c);
        EXPECT_END_ERROR(&c, GP, 0);
        EXPECT_EQ(c.bx, limit & ~3u);
        c = USER(push_down);
        c.ss = SEL | 3;
        c.sp = 0x800 + 4 * HOT;
        c.cx = 0;
        context_run(&c);
        EXPECT_END_ERROR(&c, SS, 0);
        EXPECT_EQ(c.ip, USER_CODE);
        EXPECT_EQ(c.sp, (limit & ~3u) + 4);
    }
}

/* --- where addresses wrap -------------------------------------------------------------------------------------- */

/* Bases and offsets whose sum is beyond 4 GiB; offsets that go from the highest to 0. */
CODE(walk_count, "1: addl (%ebx), %eax\n movl %eax, %es:4(%edi)\n add %esi, %ebx\n dec %ecx\n jnz 1b\n int $0x80");
TEST(segmented_wrap)
{
    uint32_t sum = 0;

    fill_data();
    for (unsigned i = 0; i < HOT; i++)
        sum += *(uint32_t *)(USER_DATA + 4 * i);
    for (word base = USER_DATA + 2 * HOT; base > USER_DATA - 0x40; base -= HOT / 2) {
        struct context c = USER(walk_count);

        flat_data(SEL, base); /* offset 0 is in the middle of what is read */
        flat_data(SEL2, 0xffff0000);
        c.ds = SEL | 3;
        c.es = SEL2 | 3;
        c.ax = 0;
        c.bx = USER_DATA - base;
        c.cx = HOT;
        c.si = 4;
        c.di = USER_DATA + PAGE + 0x10000;
        context_run(&c);
        EXPECT_END(&c, OK);
        EXPECT_EQ(c.ax, sum);
        EXPECT_EQ(*(uint32_t *)(USER_DATA + PAGE + 4), sum);
    }
}

/* --- the stack ------------------------------------------------------------------------------------------------- */

/* Down to offset 0: what would wrap is beyond the limit. EDX: a pointer to memory for PUSH. */
CODE(push_reg, "1: push %eax\n jmp 1b");
CODE(push_imm, "1: push $0x12345678\n jmp 1b");
CODE(push_mem, "1: push %fs:(%edx)\n jmp 1b");
CODE(push_flags, "1: pushf\n jmp 1b");
CODE(push_two, "1: push %eax\n push %ebx\n jmp 1b");
CODE(push_call, "1: call 1b");
CODE(push_call_reg, "1: call *%esi");
CODE(push_call_mem, "1: call *%fs:(%edx)");
CODE(push_enter, "1: enter $0, $0\n jmp 1b");
CODE(push_esp, "1: sub $4, %esp\n movl %eax, (%esp)\n jmp 1b");

TEST(segmented_push)
{
    static const struct {
        const char *code, *end;
        word ip, left; /* in the code; bytes of the stack that stay */
        unsigned start;
    } rows[] = {
        {push_reg, push_reg_end, 0, 0, 0},           {push_imm, push_imm_end, 0, 0, 0},
        {push_mem, push_mem_end, 0, 0, 0},           {push_flags, push_flags_end, 0, 0, 0},
        {push_two, push_two_end, 0, 0, 0},           {push_two, push_two_end, 1, 0, 4}, /* the second one faults */
        {push_call, push_call_end, 0, 0, 0},         {push_call_reg, push_call_reg_end, 0, 0, 0},
        {push_call_mem, push_call_mem_end, 0, 0, 0}, {push_enter, push_enter_end, 0, 0, 0},
        {push_esp, push_esp_end, 3, -4u, 0},         {push_reg, push_reg_end, 0, 2, 2},
        {push_call, push_call_end, 0, 3, 3},
    };

    for (unsigned i = 0; i < sizeof rows / sizeof *rows; i++) {
        for (unsigned again = 0; again < 2; again++) {
            struct context c = place(rows[i].code, (word)(rows[i].end - rows[i].code));

            *(uint32_t *)(USER_DATA + 0x20) = USER_CODE;
            data_segment(SEL, USER_STACK + 0x10 * again, 0x7fff);
            data_segment(SEL2, USER_DATA, 0xff);
            c.ss = SEL | 3;
            c.fs = SEL2 | 3;
            c.sp = 16 * HOT + rows[i].start;
            c.dx = 0x20;
            c.si = USER_CODE;
            context_run(&c);
            EXPECT_END_ERROR(&c, SS, 0);
            EXPECT_EQ(c.ip, USER_CODE + rows[i].ip);
            EXPECT_EQ(c.sp, rows[i].left);
        }
    }
}

/* Up to the limit. */
CODE(pop_reg, "1: pop %eax\n jmp 1b");
CODE(pop_mem, "1: pop (%ebx)\n jmp 1b");
CODE(pop_two, "1: pop %eax\n pop %edx\n jmp 1b");
CODE(pop_ret, "1: ret");
CODE(pop_ret_more, "1: ret $4");
CODE(pop_leave, "1: leave\n lea 4(%ebp), %ebp\n jmp 1b");
TEST(segmented_pop)
{
    static const struct {
        const char *code, *end;
        word ip, left;
    } rows[] = {
        {pop_reg, pop_reg_end, 0, 3}, {pop_mem, pop_mem_end, 0, 3},           {pop_two, pop_two_end, 1, 3},
        {pop_ret, pop_ret_end, 0, 3}, {pop_ret_more, pop_ret_more_end, 0, 7},
    };

    for (unsigned i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct context c = place(rows[i].code, (word)(rows[i].end - rows[i].code));
        const word top = 8 * HOT + 4; /* an odd number of words */

        for (word at = 0; at < top; at += 4)
            *(uint32_t *)(USER_STACK + at) = USER_CODE;
        data_segment(SEL, USER_STACK, top + 3 - 1);
        c.ss = SEL | 3;
        c.sp = 0;
        c.bx = USER_DATA;
        context_run(&c);
        EXPECT_END_ERROR(&c, SS, 0);
        EXPECT_EQ(c.ip, USER_CODE + rows[i].ip);
        EXPECT_EQ(c.sp, rows[i].left == 7 ? top + 4 : top);
    }
    /* LEAVE takes ESP from EBP: it faults with both as they were. Each round pops EBP = where it lies. */
    {
        struct context c = USER(pop_leave);

        for (word at = 0; at < 0x1000; at += 4)
            *(uint32_t *)(USER_STACK + at) = at;
        data_segment(SEL, USER_STACK, 4 * HOT + 1);
        c.ss = SEL | 3;
        c.sp = 0x20;
        c.bp = 0;
        context_run(&c);
        EXPECT_END_ERROR(&c, SS, 0);
        EXPECT_EQ(c.ip, USER_CODE);
        EXPECT_EQ(c.bp, 4 * HOT);
        EXPECT_EQ(c.sp, 4 * HOT);
    }
}

/* DS and SS have the same offsets at other places: ESP by prefix DS, EBP by prefix DS, EBX by prefix SS. */
CODE(cross_segments, "1: push %ecx\n movl (%esp), %eax\n addl %ds:(%esp), %edx\n addl %ds:(%ebp), %edx\n"
                     "addl %ss:4(%ebx), %edx\n add %eax, %edi\n pop %eax\n add %eax, %edi\n dec %ecx\n jnz 1b\n"
                     "int $0x80");
TEST(segmented_stack_and_data)
{
    static const struct {
        word ds, ss;
        bool ds_flat, ss_flat;
    } rows[] = {
        {0, 0, true, true},
        {PAGE, 0, true, true},
        {0, USER_STACK, true, false},
        {USER_DATA, USER_STACK, false, false},
        {USER_DATA, USER_STACK, false, true},
    };

    for (unsigned i = 0; i < 2 * sizeof rows / sizeof *rows; i++) {
        const word ds = rows[i / 2].ds, ss = rows[i / 2].ss;
        struct context c = USER(cross_segments);

        gdt_set(SEL, ds, rows[i / 2].ds_flat ? 0xfffff : 0xfff, ACC_DATA | ACC_USER,
                FLAG_D | (rows[i / 2].ds_flat ? FLAG_G : 0));
        gdt_set(SEL2, ss, rows[i / 2].ss_flat ? 0xfffff : 0xfff, ACC_DATA | ACC_USER,
                FLAG_D | (rows[i / 2].ss_flat ? FLAG_G : 0));
        c.ds = SEL | 3;
        c.ss = SEL2 | 3;
        c.sp = USER_STACK + 0x804 - ss;
        c.bp = USER_DATA + 0x100 - ds;
        c.bx = USER_STACK + 0x200 - ss;
        if (ds != ss)
            *low_memory(ds + c.sp - 4) = 1;
        *(uint32_t *)(USER_DATA + 0x100) = 0x100;
        *(uint32_t *)(USER_STACK + 0x204) = 0x10000;
        c.cx = HOT;
        c.dx = c.di = 0;
        context_run(&c);
        EXPECT_END(&c, OK);
        EXPECT_EQ(c.di, HOT * (HOT + 1));
        EXPECT_EQ(c.dx, HOT * 0x10100 + (ds == ss ? HOT * (HOT + 1) / 2 : HOT));
    }
}
