/*
 * segment.c: segmentation in 32-bit protected mode: limits, types, expand-down,
 * null selectors, conforming code, 16-bit segments, the LDT (SDM vol. 3,
 * chapters 3 and 5; AMD APM vol. 2, 4.7 to 4.12). Code runs at CPL 3 so that
 * faults find a good stack.
 */
#include "kit/desc.h"
#include "kit/page.h"
#include "kit/regs.h"

#define SEL  FREE_SEL
#define SEL2 (FREE_SEL + 8)
#define SEL3 (FREE_SEL + 16)

CODE(read1_ds, "movb (%ebx), %al\n int $0x80");
CODE(read4_ds, "movl (%ebx), %eax\n int $0x80");
CODE(write1_ds, "movb %al, (%ebx)\n int $0x80");
CODE(write4_ds, "movl %eax, (%ebx)\n int $0x80");
CODE(read4_cs, "movl %cs:(%ebx), %eax\n int $0x80");
CODE(write4_cs, "movl %eax, %cs:(%ebx)\n int $0x80");
CODE(read4_ss, "movl %ss:(%ebx), %eax\n int $0x80");
CODE(read4_ebp, "movl (%ebp), %eax\n int $0x80");
CODE(read4_fs, "movl %fs:(%ebx), %eax\n int $0x80");
CODE(push4, "push %eax\n int $0x80");
CODE(pop4, "pop %eax\n int $0x80");
CODE(call_near, "call 1f\n 1: int $0x80");
CODE(load_ds, "mov %ecx, %ds\n int $0x80");
CODE(load_ss, "mov %ecx, %ss\n nop\n int $0x80");
CODE(movs_es, "movsl\n int $0x80");

static struct context place(const char *code, word size)
{
    struct context c;

    user_init();
    memcpy((void *)USER_CODE, code, size);
    c = user_context(USER_CODE);
    c.bx = c.bp = c.si = c.di = USER_DATA;
    return c;
}
#define USER(code) place(code, CODE_SIZE(code))

/* The access at offset through a segment in DS, SS, or both. */
static void expect_ds(const char *code, word size, word offset, word vector)
{
    struct context c = place(code, size);

    c.ds = c.es = SEL | 3;
    c.bx = offset;
    context_run(&c);
    EXPECT_END_ERROR(&c, vector, 0);
    if (vector != 0x80)
        EXPECT_EQ(c.ip, USER_CODE);
}
#define DS_ACCESS(code, offset, vector) expect_ds(code, CODE_SIZE(code), offset, vector)
#define OK                              0x80

/* A limit holds for every byte of an access. */
TEST(segment_limit)
{
    gdt_set(SEL, USER_DATA, 0xff, ACC_DATA | ACC_USER, FLAG_D);
    DS_ACCESS(read1_ds, 0xff, OK);
    DS_ACCESS(read1_ds, 0x100, GP);
    DS_ACCESS(read4_ds, 0xfc, OK);
    DS_ACCESS(read4_ds, 0xfd, GP);
    DS_ACCESS(write4_ds, 0xfc, OK);
    DS_ACCESS(write4_ds, 0xfe, GP);
    DS_ACCESS(read4_ds, 0xffffffff, GP); /* wraps */
    DS_ACCESS(read4_ds, 0xfffffffd, GP);
    /* Granularity of pages. */
    gdt_set(SEL, USER_DATA, 0, ACC_DATA | ACC_USER, FLAG_D | FLAG_G);
    DS_ACCESS(read4_ds, 0xffc, OK);
    DS_ACCESS(read4_ds, 0xffd, GP);
    /* The base wraps at 4 GiB. */
    gdt_set(SEL, 0xfffff000, 0xfffff, ACC_DATA | ACC_USER, FLAG_D | FLAG_G);
    DS_ACCESS(read4_ds, USER_DATA + 0x1000, OK);
    gdt_set(SEL, USER_DATA, 0xff, ACC_DATA | ACC_USER, FLAG_D);
    *(uint32_t *)(USER_DATA + 0x10) = 0xabcd1234;
    {
        struct context c = USER(read4_ds);

        c.ds = SEL | 3;
        c.bx = 0x10;
        context_run(&c);
        EXPECT_EQ(c.ax, 0xabcd1234);
    }
}

/* Expand-down: what is above the limit, up to 64 KiB or 4 GiB. */
TEST(segment_expand_down)
{
    gdt_set(SEL, USER_DATA, 0xfff, ACC_DATA | ACC_DOWN | ACC_USER, FLAG_D);
    DS_ACCESS(read4_ds, 0x1000, OK);
    DS_ACCESS(read4_ds, 0xfff, GP);
    DS_ACCESS(read1_ds, 0xfff, GP);
    DS_ACCESS(read4_ds, 0, GP);
    DS_ACCESS(read4_ds, 0x20000, OK);
    DS_ACCESS(read4_ds, 0xfffffffd, GP);
    gdt_set(SEL, USER_DATA, 0xfff, ACC_DATA | ACC_DOWN | ACC_USER, 0); /* B = 0: up to FFFFh */
    DS_ACCESS(read4_ds, 0x1000, OK);
    DS_ACCESS(read4_ds, 0xfffc, OK);
    DS_ACCESS(read4_ds, 0xfffd, GP);
    DS_ACCESS(read4_ds, 0x10000, GP);
}

TEST(segment_types)
{
    struct context c;

    gdt_set(SEL, 0, 0xfffff, 0x90 | ACC_USER, FLAG_D | FLAG_G); /* read-only */
    DS_ACCESS(read4_ds, USER_DATA, OK);
    DS_ACCESS(write4_ds, USER_DATA, GP);
    gdt_set(SEL, 0, 0xfffff, ACC_CODE | ACC_USER, FLAG_D | FLAG_G); /* readable code */
    DS_ACCESS(read4_ds, USER_DATA, OK);
    DS_ACCESS(write1_ds, USER_DATA, GP);
    c = USER(read4_cs);
    context_run(&c);
    EXPECT_END(&c, 0x80);
    c = USER(write4_cs);
    context_run(&c);
    EXPECT_END_ERROR(&c, GP, 0);
    /* Execute-only code cannot be read. */
    gdt_set(SEL, 0, 0xfffff, 0x98 | ACC_USER, FLAG_D | FLAG_G);
    c = USER(read4_cs);
    c.cs = SEL | 3;
    context_run(&c);
    EXPECT_END_ERROR(&c, GP, 0);
}

/* Loads: which segments DS and SS take. */
TEST(segment_load_checks)
{
    static const struct {
        unsigned selector, access;
        word ds_vector, ds_error, ss_vector, ss_error;
    } rows[] = {
        {SEL | 3, ACC_DATA | ACC_USER, OK, 0, OK, 0},
        {SEL, ACC_DATA | ACC_USER, OK, 0, GP, SEL},           /* SS: RPL must be CPL */
        {SEL | 3, ACC_DATA, GP, SEL, GP, SEL},                /* DPL 0 */
        {SEL | 3, 0x90 | ACC_USER, OK, 0, GP, SEL},           /* read-only */
        {SEL | 3, ACC_CODE | ACC_USER, OK, 0, GP, SEL},       /* readable code */
        {SEL | 3, 0x98 | ACC_USER, GP, SEL, GP, SEL},         /* execute-only code */
        {SEL | 3, ACC_CODE | ACC_CONFORMING, OK, 0, GP, SEL}, /* conforming: no DPL check */
        {SEL | 3, (ACC_DATA | ACC_USER) & ~ACC_P, NP, SEL, SS, SEL},
        {SEL | 3, ACC_LDT | ACC_USER, GP, SEL, GP, SEL},
        {SEL | 3, ACC_TSS | ACC_USER, GP, SEL, GP, SEL},
        {3, 0, OK, 0, GP, 0},
        {GDT_SIZE | 3, 0, GP, GDT_SIZE, GP, GDT_SIZE},
        {SEL | 7, ACC_DATA | ACC_USER, GP, SEL | 4, GP, SEL | 4}, /* there is no LDT */
    };

    for (unsigned i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct context c = USER(load_ds);

        gdt_set(SEL, 0, 0xfffff, rows[i].access, FLAG_D | FLAG_G);
        c.cx = rows[i].selector;
        context_run(&c);
        EXPECT_END_ERROR(&c, rows[i].ds_vector, rows[i].ds_error);
        gdt_set(SEL, 0, 0xfffff, rows[i].access, FLAG_D | FLAG_G);
        c = USER(load_ss);
        c.cx = rows[i].selector;
        context_run(&c);
        EXPECT_END_ERROR(&c, rows[i].ss_vector, rows[i].ss_error);
    }
}

/* A null selector may be loaded, and faults when used. */
TEST(segment_null)
{
    struct context c;

    for (word selector = 0; selector < 4; selector++) {
        c = USER(read4_fs);
        c.fs = selector;
        context_run(&c);
        EXPECT_END_ERROR(&c, GP, 0);
        EXPECT_EQ(c.ip, USER_CODE);
        c = USER(read4_ds);
        c.ds = selector;
        context_run(&c);
        EXPECT_END_ERROR(&c, GP, 0);
    }
    /* A string's source may be fine and its destination not: nothing moves. */
    c = USER(movs_es);
    c.es = 0;
    context_run(&c);
    EXPECT_END_ERROR(&c, GP, 0);
    EXPECT_EQ(c.si, USER_DATA);
    EXPECT_EQ(c.di, USER_DATA);
}

/* Through SS, by prefix or by EBP and ESP: #SS. */
TEST(segment_stack_faults)
{
    static const struct {
        const char *code, *end;
        word offset;
    } rows[] = {
        {read4_ss, read4_ss_end, 0x1000}, {read4_ebp, read4_ebp_end, 0xffd}, {push4, push4_end, 0x2000},
        {pop4, pop4_end, 0xffd},          {call_near, call_near_end, 2},
    };

    gdt_set(SEL, USER_DATA, 0xfff, ACC_DATA | ACC_USER, FLAG_D);
    for (unsigned i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct context c = place(rows[i].code, (word)(rows[i].end - rows[i].code));

        c.ss = SEL | 3;
        c.bx = c.bp = c.sp = rows[i].offset;
        context_run(&c);
        EXPECT_END_ERROR(&c, SS, 0);
        EXPECT_EQ(c.ip, USER_CODE);
        EXPECT_EQ(c.sp, rows[i].offset);
    }
}

/* Execution over the limit of CS: #GP(0) at the first instruction that does not fit. */
CODE(nops, "nop\n nop\n nop\n mov $0x12345678, %eax\n int $0x80");
TEST(segment_code_limit)
{
    for (word limit = 2; limit < 10; limit++) {
        struct context c = USER(nops);

        gdt_set(SEL, USER_CODE, limit, ACC_CODE | ACC_USER, FLAG_D);
        c.cs = SEL | 3;
        c.ip = 0;
        c.ax = 0;
        for (unsigned i = 0; i < 2; i++) { /* again, with the code known */
            c.ip = 0;
            context_run(&c);
            if (limit == 9) {
                EXPECT_END(&c, 0x80);
                continue;
            }
            EXPECT_END_ERROR(&c, GP, 0);
            EXPECT_EQ(c.ip, limit < 7 ? 3 : 8);
            EXPECT_EQ(c.ax, limit < 7 ? 0 : 0x12345678);
        }
    }
}

/* The same code at the same place, seen through other bases and limits. */
CODE(jump_out, "jmp . + 0x100");
CODE(where, "call 1f\n 1: pop %eax\n int $0x80");
TEST(segment_code_base)
{
    struct context c;

    for (word back = 0; back < 0x40; back += 0x10) {
        c = USER(where);
        gdt_set(SEL, USER_CODE - back, 0xfffff, ACC_CODE | ACC_USER, FLAG_D | FLAG_G);
        c.cs = SEL | 3;
        c.ip = back;
        context_run(&c);
        EXPECT_END(&c, 0x80);
        EXPECT_EQ(c.ax, back + 5);
    }
    /* A branch beyond the limit faults at the branch. */
    gdt_set(SEL, USER_CODE, 0xff, ACC_CODE | ACC_USER, FLAG_D);
    c = USER(jump_out);
    c.cs = SEL | 3;
    c.ip = 0;
    context_run(&c);
    EXPECT_END_ERROR(&c, GP, 0);
    EXPECT_EQ(c.ip, 0);
}

/* 16-bit code and stack segments: the same bytes mean other things, SP wraps at 64 KiB. */
CODE(code16, ".code16\n mov $0x1234, %ax\n push %ax\n push %ax\n pop %cx\n mov %sp, %dx\n inc %bx\n int $0x80");
TEST(segment_16_bit)
{
    struct context c = USER(code16);

    gdt_set(SEL, USER_CODE, 0xffff, ACC_CODE | ACC_USER, 0);
    gdt_set(SEL2, USER_STACK, 0xffff, ACC_DATA | ACC_USER, 0);
    c.cs = SEL | 3;
    c.ip = 0;
    c.ss = SEL2 | 3;
    c.sp = 0xabcd0002;
    c.ax = c.cx = c.dx = 0xffffffff;
    c.bx = 0x7ffff;
    context_run(&c);
    EXPECT_END(&c, 0x80);
    EXPECT_EQ(c.ax, 0xffff1234);
    EXPECT_EQ(c.cx, 0xffff1234);
    EXPECT_EQ(c.dx, 0xffff0000); /* pushed once more than popped: 2 - 2 = 0 */
    EXPECT_EQ(c.bx, 0x70000);
    EXPECT_EQ(*(uint16_t *)USER_STACK, 0x1234);
    EXPECT_EQ(*(uint16_t *)(USER_STACK + 0xfffe), 0x1234); /* SP went from 0 to FFFEh */
}

/* Conforming code runs at the caller's privilege. */
CODE(far_call, "lcall *(%ebx)\n int $0x80");
CODE(far_jmp, "ljmp *(%ebx)");
CODE(show_cs, "mov %cs, %edx\n lret");
TEST(segment_conforming)
{
    struct context c = USER(far_call);

    gdt_set(SEL, 0, 0xfffff, ACC_CODE | ACC_CONFORMING, FLAG_D | FLAG_G); /* DPL 0 */
    PLACE(USER_CODE + 0x100, show_cs);
    *(uint32_t *)USER_DATA = USER_CODE + 0x100;
    *(uint16_t *)(USER_DATA + 4) = SEL;
    context_run(&c);
    EXPECT_END(&c, 0x80);
    EXPECT_EQ(c.dx & 0xffff, SEL | 3);
    /* Not the other way round: conforming code less privileged than the caller. */
    gdt_set(SEL, 0, 0xfffff, ACC_CODE | ACC_CONFORMING | ACC_USER, FLAG_D | FLAG_G);
    {
        struct context k = kernel_context((word)far_call);

        k.bx = USER_DATA;
        context_run(&k);
        EXPECT_END_ERROR(&k, GP, SEL);
    }
}

/* Targets that far transfers refuse. */
TEST(segment_far_checks)
{
    static const struct {
        unsigned selector, access;
        word vector, error;
    } rows[] = {
        {0, 0, GP, 0},
        {SEL | 3, ACC_DATA | ACC_USER, GP, SEL},
        {SEL | 3, (ACC_CODE | ACC_USER) & ~ACC_P, NP, SEL},
        {SEL | 3, ACC_CODE, GP, SEL},
        {SEL | 3, 0x80 | ACC_USER, GP, SEL},
        {SEL | 3, ACC_INT_GATE | ACC_USER, GP, SEL},
        {GDT_SIZE | 3, 0, GP, GDT_SIZE},
    };

    for (unsigned i = 0; i < 2 * sizeof rows / sizeof *rows; i++) {
        struct context c = i & 1 ? USER(far_call) : USER(far_jmp);

        gdt_set(SEL, 0, 0xfffff, rows[i / 2].access, FLAG_D | FLAG_G);
        *(uint32_t *)USER_DATA = USER_CODE;
        *(uint16_t *)(USER_DATA + 4) = (uint16_t)rows[i / 2].selector;
        context_run(&c);
        EXPECT_END_ERROR(&c, rows[i / 2].vector, rows[i / 2].error);
        EXPECT_EQ(c.ip, USER_CODE);
        EXPECT_EQ(c.cs, UCODE32);
    }
    /* An offset beyond the new segment's limit. */
    {
        struct context c = USER(far_jmp);

        gdt_set(SEL, 0, 0xfff, ACC_CODE | ACC_USER, FLAG_D);
        *(uint32_t *)USER_DATA = 0x1000;
        *(uint16_t *)(USER_DATA + 4) = SEL | 3;
        context_run(&c);
        EXPECT_END_ERROR(&c, GP, 0);
        EXPECT_EQ(c.ip, USER_CODE);
    }
}

/* The LDT: its own table, its own limit. */
TEST(segment_ldt)
{
    uint64_t *ldt = page_new();
    struct context c;

    gdt_set_system(SEL, (word)ldt, 0xf, ACC_LDT); /* two descriptors */
    asm volatile("lldt %w0" : : "r"(SEL));
    gdt_set(SEL2, USER_DATA, 0xff, ACC_DATA | ACC_USER, FLAG_D);
    ldt[0] = gdt[SEL2 >> 3]; /* index 0 is no null selector in an LDT */
    ldt[1] = gdt[SEL2 >> 3];
    ldt[2] = gdt[SEL2 >> 3];
    *(uint32_t *)(USER_DATA + 8) = 0x600df00d;
    for (word index = 0; index < 2; index++) {
        c = USER(read4_ds);
        c.ds = index * 8 | 7;
        c.bx = 8;
        context_run(&c);
        EXPECT_END(&c, 0x80);
        EXPECT_EQ(c.ax, 0x600df00d);
    }
    c = USER(load_ds);
    c.cx = 2 * 8 | 7;
    context_run(&c);
    EXPECT_END_ERROR(&c, GP, 2 * 8 | 4);
    /* LLDT's own checks. */
    TRY("lldt %w0", : : "r"(SEL2));
    EXPECT_TRAP_ERROR(GP, SEL2);
    TRY("lldt %w0", : : "r"(GDT_SIZE));
    EXPECT_TRAP_ERROR(GP, GDT_SIZE);
    TRY("lldt %w0", : : "r"(SEL | 4)); /* in the LDT */
    EXPECT_TRAP_ERROR(GP, SEL | 4);
    gdt_set_system(SEL3, (word)ldt, 0xf, ACC_LDT & ~ACC_P);
    TRY("lldt %w0", : : "r"(SEL3));
    EXPECT_TRAP_ERROR(NP, SEL3);
    TRY("ltr %w0", : : "r"(SEL));
    EXPECT_TRAP_ERROR(GP, SEL);
    TRY("ltr %w0", : : "r"(TSS_SEL)); /* busy */
    EXPECT_TRAP_ERROR(GP, TSS_SEL);
    TRY("ltr %w0", : : "r"(0));
    EXPECT_TRAP_ERROR(GP, 0);
}

/* A segment register keeps what it was loaded with when its descriptor changes. */
TEST(segment_hidden_part)
{
    word value = 0;

    gdt_set(SEL, USER_DATA, 0xff, ACC_DATA, FLAG_D);
    *(uint32_t *)(USER_DATA + 4) = 0x1111;
    *(uint32_t *)(USER_DATA + 0x104) = 0x2222;
    asm volatile("mov %0, %%fs" : : "r"(SEL));
    gdt_set(SEL, USER_DATA + 0x100, 0xff, ACC_DATA, FLAG_D);
    TRY("movl %%fs:4, %0", : "=r"(value));
    EXPECT_EQ(value, 0x1111);
    asm volatile("mov %0, %%fs" : : "r"(SEL));
    TRY("movl %%fs:4, %0", : "=r"(value));
    EXPECT_EQ(value, 0x2222);
}
