/*
 * sensitive.c: the sensitive but unprivileged instructions of x86 (Popek and
 * Goldberg 1974; the list is Robin and Irvine's, USENIX Security 2000). A
 * monitor that runs guest code on the host's CPU unchecked would let each show
 * or use the host's state; here each must show the guest's own, in the guest's
 * kernel and user modes.
 */
#include "kit/desc.h"
#include "kit/page.h"
#include "kit/regs.h"

#define LDT_SEL FREE_SEL        /* two slots in long */
#define PROBE   (FREE_SEL + 16) /* the descriptor that LAR, LSL, VERR, VERW look at */

/* Runs code that ends in INT 80h at CPL 3; c carries registers in and out. */
static void in_user(struct context *c, const char *code, word size)
{
    memcpy((void *)USER_CODE, code, size);
    c->ip = USER_CODE;
    context_run(c);
    EXPECT_END(c, 0x80);
}
#define IN_USER(c, code) in_user(c, code, CODE_SIZE(code))

static void in_kernel(struct context *c, const char *code)
{
    c->ip = (word)code;
    context_run(c);
    EXPECT_END(c, 0x80);
}

static struct context user(void)
{
    struct context c;

    user_init();
    c = user_context(0);
    c.bx = USER_DATA;
    return c;
}

static struct context kernel(void)
{
    struct context c = kernel_context(0);

    c.bx = (word)page_new();
    return c;
}

CODE(code_sgdt, "sgdt (" BX ")\n int $0x80");
CODE(code_sidt, "sidt (" BX ")\n int $0x80");
CODE(code_sldt, "mov $-1, " AX "\n sldt %ax\n mov $-1, " CX "\n sldt %ecx\n sldt (" BX ")\n int $0x80");
CODE(code_str, "mov $-1, " AX "\n str %ax\n mov $-1, " CX "\n str %ecx\n str (" BX ")\n int $0x80");
CODE(code_smsw, "mov $-1, " AX "\n smsw %ax\n smsw " CX "\n smsw (" BX ")\n int $0x80");

static void expect_table(const struct context *c, struct table_register wanted)
{
    struct table_register shown;

    memcpy(&shown, (void *)c->bx, sizeof shown);
    EXPECT_EQ(shown.limit, wanted.limit);
    EXPECT_EQ(shown.base, wanted.base);
}

TEST(sensitive_sgdt)
{
    struct context u = user(), k = kernel();
    char *page = page_new();
    struct table_register moved = {0xc7, (word)page + 0x123};

    memcpy(page + 0x123, gdt, 0xc8);
    write_gdtr(moved);
    in_kernel(&k, code_sgdt);
    expect_table(&k, moved);
    IN_USER(&u, code_sgdt);
    expect_table(&u, moved);
}

TEST(sensitive_sidt)
{
    struct context u = user(), k = kernel();
    struct table_register old = read_idtr(), moved = {(uint16_t)(old.limit - 0x11), (word)page_new() + 0x456};

    memcpy((void *)moved.base, (void *)old.base, moved.limit + 1u);
    page_new();
    page_new();
    write_idtr(moved);
    in_kernel(&k, code_sidt);
    expect_table(&k, moved);
    IN_USER(&u, code_sidt);
    expect_table(&u, moved);
}

TEST(sensitive_sldt)
{
    struct context u = user(), k = kernel();
    uint64_t *ldt = page_new();

    gdt_set_system(LDT_SEL, (word)ldt, 0xff, ACC_LDT);
    asm volatile("lldt %w0" : : "r"(LDT_SEL));
    for (unsigned pass = 0; pass < 2; pass++) {
        struct context *c = pass ? &u : &k;

        if (pass)
            IN_USER(c, code_sldt);
        else
            in_kernel(c, code_sldt);
        EXPECT_EQ(c->ax, (~(word)0 & ~(word)0xffff) | LDT_SEL);
        EXPECT_EQ(c->cx, LDT_SEL);
        EXPECT_EQ(*(uint32_t *)c->bx, LDT_SEL);
    }
}

TEST(sensitive_str)
{
    struct context u = user(), k = kernel();

    for (unsigned pass = 0; pass < 2; pass++) {
        struct context *c = pass ? &u : &k;

        if (pass)
            IN_USER(c, code_str);
        else
            in_kernel(c, code_str);
        EXPECT_EQ(c->ax, (~(word)0 & ~(word)0xffff) | TSS_SEL);
        EXPECT_EQ(c->cx, TSS_SEL);
        EXPECT_EQ(*(uint32_t *)c->bx, TSS_SEL);
    }
}

TEST(sensitive_smsw)
{
    struct context u = user(), k = kernel();

    for (unsigned i = 0; i < 8; i++) {
        word cr0 = (read_cr0() & ~(word)(CR0_MP | CR0_EM | CR0_TS)) | i << 1;

        write_cr0(cr0);
        for (unsigned pass = 0; pass < 2; pass++) {
            struct context *c = pass ? &u : &k;

            if (pass)
                IN_USER(c, code_smsw);
            else
                in_kernel(c, code_smsw);
            EXPECT_EQ(c->ax & 0xffff, cr0 & 0xffff);
            EXPECT_EQ(c->ax >> 16, ~(word)0 >> 16);
            EXPECT_EQ(c->cx, cr0);
            EXPECT_EQ(*(uint16_t *)c->bx, cr0 & 0xffff);
        }
    }
}

CODE(code_pushf, "pushf\n pop " AX "\n int $0x80");
CODE(code_popf, "push " AX "\n popf\n pushf\n pop " CX "\n int $0x80");

TEST(sensitive_pushf)
{
    static const word flags[] = {FL_1, FL_1 | FL_IF, FL_1 | FL_IOPL, FL_1 | FL_AC | FL_ID | FL_IF | FL_CF | FL_OF,
                                 FL_1 | FL_NT | 0x1000};
    struct context u = user(), k = kernel();

    for (unsigned i = 0; i < sizeof flags / sizeof *flags; i++) {
        u.flags = k.flags = flags[i];
        in_kernel(&k, code_pushf);
        EXPECT_EQ(k.ax, flags[i]);
        IN_USER(&u, code_pushf);
        EXPECT_EQ(u.ax, flags[i]);
    }
    /* RF and VM are read as 0. */
    u.flags = FL_1 | FL_RF;
    IN_USER(&u, code_pushf);
    EXPECT_EQ(u.ax, FL_1);
}

/* POPF silently leaves what the privilege does not allow (SDM vol. 2, POPF, table 4-16). */
TEST(sensitive_popf)
{
    struct context u = user(), k = kernel();

    k.ax = FL_1 | FL_IF | FL_IOPL | FL_AC | FL_ID | FL_NT | FL_CF;
    in_kernel(&k, code_popf);
    EXPECT_EQ(k.cx, k.ax);
    u.ax = FL_1 | FL_IF | FL_IOPL | FL_AC | FL_ID | FL_CF;
    IN_USER(&u, code_popf);
    EXPECT_EQ(u.cx, FL_1 | FL_AC | FL_ID | FL_CF);
    u.flags = FL_1 | FL_IF;
    u.ax = FL_1;
    IN_USER(&u, code_popf);
    EXPECT_EQ(u.cx, FL_1 | FL_IF);
    u.flags = FL_1 | FL_IOPL;
    u.ax = FL_1 | FL_IF;
    IN_USER(&u, code_popf);
    EXPECT_EQ(u.cx, FL_1 | FL_IOPL | FL_IF);
    u.ax = FL_1;
    IN_USER(&u, code_popf);
    EXPECT_EQ(u.cx, FL_1 | FL_IOPL);
}

/* IRET within ring 3 obeys the same rules; ax: flags, cx: CS, dx: SS (long). */
CODE(code_iret, CALL_HERE BX "\n"
#ifdef __x86_64__
                             "mov %rsp, %rsi\n push %rdx\n push %rsi\n"
#endif
                             "push " AX "\n push " CX "\n lea 1f - 771b(" BX "), " BX "\n push " BX "\n iret" W "\n"
                             "1: pushf\n pop " DI "\n mov %cs, %ebp\n int $0x80");

TEST(sensitive_iret)
{
    struct context u = user(), k = kernel();

    u.ax = FL_1 | FL_IF | FL_IOPL | FL_ZF;
    u.cx = UCODE;
    u.dx = UDATA;
    IN_USER(&u, code_iret);
    EXPECT_EQ(u.di, FL_1 | FL_ZF);
    EXPECT_EQ(u.bp, UCODE);
    u.flags = FL_1 | FL_IOPL | FL_IF;
    u.ax = FL_1;
    IN_USER(&u, code_iret);
    EXPECT_EQ(u.di, FL_1 | FL_IOPL);
    k.ax = FL_1 | FL_IF | FL_IOPL | FL_ZF;
    k.cx = KCODE;
    k.dx = KDATA;
    in_kernel(&k, code_iret);
    EXPECT_EQ(k.di, k.ax);
    EXPECT_EQ(k.bp, KCODE);
}

/* --- descriptors seen without privilege ---------------------------------------------- */

CODE(code_lar, "xor %edx, %edx\n lar %ecx, %eax\n setz %dl\n int $0x80");
CODE(code_lsl, "xor %edx, %edx\n lsl %ecx, %eax\n setz %dl\n int $0x80");
CODE(code_verr, "xor %edx, %edx\n verr %cx\n setz %dl\n int $0x80");
CODE(code_verw, "xor %edx, %edx\n verw %cx\n setz %dl\n int $0x80");

#define UNTOUCHED 0x12305678u
#define G_D       (FLAG_G | FLAG_D)

/* One row: a descriptor, and what each instruction must say of it through RPL 3 at CPL 3 and RPL 0 at CPL 0. */
static const struct probe {
    unsigned access, flags;
    uint32_t limit;
    bool lar_user, lsl_user, verr_user, verw_user, lar_kernel, lsl_kernel, verr_kernel, verw_kernel;
} probes[] = {
    {ACC_DATA | ACC_USER, FLAG_D, 0x1234, 1, 1, 1, 1, 1, 1, 1, 1},
    {ACC_DATA, G_D, 0xfffff, 0, 0, 0, 0, 1, 1, 1, 1},
    {0x90 | ACC_USER, 0, 0xff, 1, 1, 1, 0, 1, 1, 1, 0},       /* read-only data */
    {ACC_CODE | ACC_USER, G_D, 0x10, 1, 1, 1, 0, 1, 1, 1, 0}, /* readable code */
    {0x98 | ACC_USER, FLAG_D, 0x77, 1, 1, 0, 0, 1, 1, 0, 0},  /* execute-only */
    {ACC_CODE | ACC_CONFORMING, FLAG_D, 0x88, 1, 1, 1, 0, 1, 1, 1, 0},
    {ACC_LDT | ACC_USER, 0, 0x99, 1, 1, 0, 0, 1, 1, 0, 0},
    {ACC_TSS | ACC_USER, 0, 0xaa, 1, 1, 0, 0, 1, 1, 0, 0},
    {ACC_CALL_GATE | ACC_USER, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0},
    {ACC_INT_GATE | ACC_USER, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0},
    {ACC_TASK_GATE | ACC_USER, 0, 0, !LONG_MODE, 0, 0, 0, !LONG_MODE, 0, 0, 0},
    {0x80 | ACC_USER, 0, 0xff, 0, 0, 0, 0, 0, 0, 0, 0},  /* system type 0: reserved */
    {0x12 | ACC_USER, 0, 0x321, 1, 1, 1, 1, 1, 1, 1, 1}, /* not present: LAR, LSL, VERR and VERW do not look */
};

static void probe_set(const struct probe *p)
{
    gdt_set(PROBE, 0x00345678, p->limit, p->access, p->flags);
    if (LONG_MODE) /* system descriptors have 16 bytes: the upper type field must be 0 */
        gdt[(PROBE >> 3) + 1] = 0;
}

static void probe_run(const char *code, word size, word selector, bool in_ring3, word wanted_value, bool wanted_zf)
{
    struct context c = in_ring3 ? user() : kernel();

    c.cx = selector;
    c.ax = UNTOUCHED;
    if (in_ring3)
        in_user(&c, code, size);
    else
        in_kernel(&c, code);
    EXPECT_EQ(c.dx, wanted_zf);
    if (code == code_lar)
        c.ax &= ~(word)0xf0000; /* undefined */
    EXPECT_EQ(c.ax, wanted_zf ? wanted_value : UNTOUCHED);
}

#define FOR_PROBES(p) for (const struct probe *p = probes; p < probes + sizeof probes / sizeof *probes; p++)

TEST(sensitive_lar)
{
    FOR_PROBES(p)
    {
        uint32_t value;

        probe_set(p);
        value = (uint32_t)(gdt[PROBE >> 3] >> 32) & 0x00f0ff00;
        probe_run(code_lar, CODE_SIZE(code_lar), PROBE | 3, true, value, p->lar_user);
        probe_run(code_lar, CODE_SIZE(code_lar), PROBE, false, value, p->lar_kernel);
    }
    /* A null selector, and one beyond the table, are no descriptor. */
    probe_run(code_lar, CODE_SIZE(code_lar), 0, true, 0, false);
    probe_run(code_lar, CODE_SIZE(code_lar), GDT_SIZE, true, 0, false);
    probe_run(code_lar, CODE_SIZE(code_lar), PROBE | 4, true, 0, false); /* no LDT */
    /* The RPL counts. */
    probe_set(&probes[1]);
    probe_run(code_lar, CODE_SIZE(code_lar), PROBE | 3, false, 0, false);
}

TEST(sensitive_lsl)
{
    FOR_PROBES(p)
    {
        uint32_t limit = p->flags & FLAG_G ? p->limit << 12 | 0xfff : p->limit;

        probe_set(p);
        probe_run(code_lsl, CODE_SIZE(code_lsl), PROBE | 3, true, limit, p->lsl_user);
        probe_run(code_lsl, CODE_SIZE(code_lsl), PROBE, false, limit, p->lsl_kernel);
    }
    probe_run(code_lsl, CODE_SIZE(code_lsl), 3, true, 0, false);
    probe_run(code_lsl, CODE_SIZE(code_lsl), 0xfff8, true, 0, false);
}

TEST(sensitive_verr)
{
    FOR_PROBES(p)
    {
        probe_set(p);
        probe_run(code_verr, CODE_SIZE(code_verr), PROBE | 3, true, UNTOUCHED, p->verr_user);
        probe_run(code_verr, CODE_SIZE(code_verr), PROBE, false, UNTOUCHED, p->verr_kernel);
    }
    probe_run(code_verr, CODE_SIZE(code_verr), 0, true, 0, false);
}

TEST(sensitive_verw)
{
    FOR_PROBES(p)
    {
        probe_set(p);
        probe_run(code_verw, CODE_SIZE(code_verw), PROBE | 3, true, UNTOUCHED, p->verw_user);
        probe_run(code_verw, CODE_SIZE(code_verw), PROBE, false, UNTOUCHED, p->verw_kernel);
    }
    probe_run(code_verw, CODE_SIZE(code_verw), 0, true, 0, false);
}

/* --- segment registers ------------------------------------------------------------------ */

CODE(code_push_seg, "mov %es, %eax\n push %fs\n pop " CX "\n push %gs\n pop " DX "\n"
#ifdef __x86_64__
                    "mov %cs, %esi\n mov %ss, %edi\n mov %ds, %ebp\n"
#else
                    "push %cs\n pop %esi\n push %ss\n pop %edi\n push %ds\n pop %ebp\n"
#endif
                    "int $0x80");

TEST(sensitive_push_segment)
{
    struct context u = user(), k = kernel();

    u.fs = UDATA2;
    u.gs = 3; /* null, with an RPL */
    IN_USER(&u, code_push_seg);
    EXPECT_EQ(u.ax, UDATA);
    EXPECT_EQ(u.cx & 0xffff, UDATA2);
    EXPECT_EQ(u.dx & 0xffff, 3);
    EXPECT_EQ(u.si & 0xffff, UCODE); /* the RPL in CS shows the ring: 3, not the monitor's idea of it */
    EXPECT_EQ(u.di & 0xffff, UDATA);
    EXPECT_EQ(u.bp & 0xffff, UDATA);
    in_kernel(&k, code_push_seg);
    EXPECT_EQ(k.ax, KDATA);
    EXPECT_EQ(k.si & 0xffff, KCODE);
    EXPECT_EQ(k.di & 0xffff, KDATA);
}

CODE(code_mov_seg, "mov %ecx, %fs\n mov %fs, %eax\n mov %ecx, %es\n mov %es, %edx\n int $0x80");
CODE(code_pop_seg, "push " CX "\n pop %fs\n mov %fs, %eax\n push " CX "\n pop %gs\n mov %gs, %edx\n int $0x80");

/* Loads see the guest's descriptors and the guest's privilege, and set the accessed bit. */
static void load_segment(const char *code, word size)
{
    struct context u = user(), k = kernel();

    gdt_set(PROBE, 0, 0xfffff, ACC_DATA | ACC_USER, G_D);
    u.cx = PROBE | 3;
    in_user(&u, code, size);
    EXPECT_EQ(u.ax, PROBE | 3);
    EXPECT_EQ(u.dx, PROBE | 3);
    EXPECT_EQ(gdt[PROBE >> 3] >> 40 & 1, 1);

    gdt_set(PROBE, 0, 0xfffff, ACC_DATA, G_D);
    u = user();
    u.ip = USER_CODE;
    u.cx = PROBE | 3;
    context_run(&u);
    EXPECT_END_ERROR(&u, GP, PROBE);
    EXPECT_EQ(gdt[PROBE >> 3] >> 40 & 1, 0);
    k.cx = PROBE;
    in_kernel(&k, code);
    EXPECT_EQ(k.ax, PROBE);
}

TEST(sensitive_mov_segment)
{
    load_segment(code_mov_seg, CODE_SIZE(code_mov_seg));
}

TEST(sensitive_pop_segment)
{
    load_segment(code_pop_seg, CODE_SIZE(code_pop_seg));
}

/* --- far transfers and INT n: an m16:32 pointer at (bx) to code at target ------------------ */

CODE(code_far_call, "mov " SP ", " SI "\n lcall *(" BX ")\n sub " SP ", " SI "\n mov %cs, %edx\n int $0x80");
CODE(code_far_call_target, "mov (" SP "), %eax\n mov 4(" SP "), %ecx\n lretl");
CODE(code_far_jump, "ljmp *(" BX ")\n ud2");
CODE(code_far_jump_target, "mov %cs, %edx\n int $0x80");
CODE(code_far_ret, CALL_HERE CX "\n lea 1f - 771b(" CX "), " CX "\n push " DX "\n push " CX "\n lret" W
                                "\n ud2\n 1: mov %cs, %eax\n int $0x80");

static void far_pointer(word at, word target, unsigned selector)
{
    *(uint32_t *)at = (uint32_t)target;
    *(uint16_t *)(at + 4) = (uint16_t)selector;
}

TEST(sensitive_far_call)
{
    struct context u = user(), k = kernel();

    PLACE(USER_CODE + 0x800, code_far_call_target);
    far_pointer(USER_DATA, USER_CODE + 0x800, UCODE);
    IN_USER(&u, code_far_call);
    EXPECT_EQ(u.ax, USER_CODE + 4 + LONG_MODE); /* after MOV and LCALL */
    EXPECT_EQ(u.cx & 0xffff, UCODE);
    EXPECT_EQ(u.si, 0);
    far_pointer(k.bx, (word)code_far_call_target, KCODE);
    in_kernel(&k, code_far_call);
    EXPECT_EQ(k.cx & 0xffff, KCODE);
    EXPECT_EQ(k.si, 0);
    /* Ring 3 may not go to ring 0 code. */
    u = user();
    far_pointer(USER_DATA, USER_CODE + 0x800, KCODE);
    u.ip = USER_CODE;
    context_run(&u);
    EXPECT_END_ERROR(&u, GP, KCODE);
}

TEST(sensitive_far_jump)
{
    struct context u = user(), k = kernel();

    PLACE(USER_CODE + 0x800, code_far_jump_target);
    far_pointer(USER_DATA, USER_CODE + 0x800, UCODE & ~3); /* RPL 0: CS's RPL becomes the CPL */
    IN_USER(&u, code_far_jump);
    EXPECT_EQ(u.dx, UCODE);
    far_pointer(k.bx, (word)code_far_jump_target, KCODE);
    in_kernel(&k, code_far_jump);
    EXPECT_EQ(k.dx, KCODE);
    u = user();
    far_pointer(USER_DATA, USER_CODE + 0x800, KCODE);
    u.ip = USER_CODE;
    context_run(&u);
    EXPECT_END_ERROR(&u, GP, KCODE);
}

TEST(sensitive_far_return)
{
    struct context u = user(), k = kernel();

    u.dx = UCODE;
    IN_USER(&u, code_far_ret);
    EXPECT_EQ(u.ax, UCODE);
    k.dx = KCODE;
    in_kernel(&k, code_far_ret);
    EXPECT_EQ(k.ax, KCODE);
    /* A return cannot gain privilege: RPL below CPL. */
    u.dx = KCODE;
    u.ip = USER_CODE;
    context_run(&u);
    EXPECT_END_ERROR(&u, GP, KCODE);
}

CODE(code_int, "int $0x81\n int $0x80");

TEST(sensitive_int_n)
{
    struct context u = user(), k = kernel();

    PLACE(USER_CODE, code_int);
    /* The gate's DPL is the guest's: 0 first (error: vector * 8 + IDT), then 3. */
    u.ip = USER_CODE;
    context_run(&u);
    EXPECT_END_ERROR(&u, GP, 0x81 * 8 + 2);
    EXPECT_EQ(u.ip, USER_CODE);
    idt_set_access(0x81, ACC_INT_GATE | ACC_USER);
    context_run(&u);
    EXPECT_END(&u, 0x81);
    EXPECT_EQ(u.ip, USER_CODE + 2);
    EXPECT_EQ(u.cs, UCODE);
    /* Not present: #NP, the same error code. */
    idt_set_access(0x81, (ACC_INT_GATE | ACC_USER) & ~ACC_P);
    u.ip = USER_CODE;
    context_run(&u);
    EXPECT_END_ERROR(&u, NP, 0x81 * 8 + 2);
    k.ip = (word)code_int;
    context_run(&k);
    EXPECT_END_ERROR(&k, NP, 0x81 * 8 + 2);
}
