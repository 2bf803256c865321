/*
 * modes.c: from one mode of the CPU to another and back: real mode, unreal
 * mode, virtual-8086, paging of both kinds, long mode (SDM vol. 3, 9.8, 9.9,
 * chapter 20). Code that turns modes runs at LOW, which real mode reaches.
 */
#include "kit/desc.h"
#include "kit/page.h"
#include "kit/regs.h"

#define LOW     0x7000ul
#define LOW_SEG 0x0700ul
#define IVT     0x6000ul /* the interrupt vectors of real mode */
#define IDTRS   0x5000ul /* the kit's IDTR, then real mode's; the stack of real mode is below */

/* In modes.S. */
#define PIECE(name) extern const char name[], name##_end[]
PIECE(real_trip);
PIECE(real_handler);
PIECE(real_skip);
PIECE(real_limit);
PIECE(real_faults);
PIECE(real_unreal);
PIECE(real_wide);
PIECE(long_trip);

static struct context low(const char *code, word size)
{
    struct context k = kernel_context(LOW);

    memcpy((void *)LOW, code, size);
    *(struct table_register *)(IDTRS + 8) = (struct table_register){0x3ff, IVT};
    k.ax = k.cx = k.dx = k.bx = k.si = k.di = 0;
    return k;
}
#define LOW_CODE(name) low(name, CODE_SIZE(name))

static void set_vector(unsigned vector, word segment, word offset)
{
    *(uint32_t *)(IVT + vector * 4) = (uint32_t)(segment << 16 | offset);
}

TEST(mode_real)
{
    struct context k = LOW_CODE(real_trip);

    PLACE(LOW + 0x800, real_handler);
    set_vector(0x21, LOW_SEG, 0x800);
    context_run(&k);
    EXPECT_END(&k, 0x80);
    EXPECT_EQ(k.ax & 0xffff, 0x600d);
    EXPECT_EQ(k.cx & 0xffff, LOW_SEG);
    EXPECT_EQ(k.dx & 0xffff, 0x0512);
    EXPECT_EQ(k.bx & 1, 0);                         /* SMSW: PE */
    EXPECT_EQ(*(uint16_t *)0x5130, 0x1234);         /* 0512:0010 */
    EXPECT_EQ(k.di & (FL_IF | FL_1), FL_IF | FL_1); /* the flags that INT saved */
    EXPECT_EQ(k.si & (FL_IF | FL_TF), 0);           /* and the handler's */
    EXPECT_EQ(read_cr0() & CR0_PE, CR0_PE);
    /* And all works again. */
    TRY("ud2");
    EXPECT_TRAP(UD);
}

/* A limit of 64 KiB: #GP, in real mode without an error code. The handler returns to DI. */
TEST(mode_real_limit)
{
    struct context k = LOW_CODE(real_limit);

    PLACE(LOW + 0x800, real_skip);
    set_vector(13, LOW_SEG, 0x800);
    context_run(&k);
    EXPECT_END(&k, 0x80);
    EXPECT_EQ(k.cx & 0xffff, 2);
}

/* "Unreal" mode: segment limits loaded in protected mode stay when real mode loads only selector and base. */
TEST(mode_unreal)
{
    struct context k = LOW_CODE(real_unreal);

    *(uint32_t *)(USER_DATA + 0x10) = 0x12345678;
    context_run(&k);
    EXPECT_END(&k, 0x80);
    EXPECT_EQ(k.cx, 0x12345678);
    EXPECT_EQ(*(uint32_t *)(USER_DATA + 0x14), 0x600df00d);
}

/* 32-bit operands and near pointers in real mode, a stack that wraps. */
TEST(mode_real_wide)
{
    struct context k = LOW_CODE(real_wide);

    context_run(&k);
    EXPECT_END(&k, 0x80);
    EXPECT_EQ(k.dx, 0x12345678);
    EXPECT_EQ(k.bx, 0x2468ad00);
    EXPECT_EQ(k.si & 0xffff, 0xfffe);
    EXPECT_EQ(*(uint16_t *)0x80000, 0x5678);
    EXPECT_EQ(*(uint16_t *)0x8fffe, 0x5678);
}

/* A fault in real mode: its IP, and the way on. */
TEST(mode_real_faults)
{
    struct context k = LOW_CODE(real_faults);

    PLACE(LOW + 0x800, real_skip);
    set_vector(DE, LOW_SEG, 0x800);
    set_vector(UD, LOW_SEG, 0x800);
    context_run(&k);
    EXPECT_END(&k, 0x80);
    EXPECT_EQ(k.bx, 0x2211);
    EXPECT_EQ(k.cx & 0xffff, 2);
}

/* --- virtual-8086 mode ------------------------------------------------------------------------------------ */

#define V86_SEG 0x0800ul

static struct context vm86(const char *code, word size)
{
    user_init();
    memcpy((void *)(V86_SEG << 4), code, size);
    return (struct context){.flags = FL_1 | FL_VM,
                            .cs = V86_SEG,
                            .ss = 0x0300,
                            .sp = 0x800,
                            .ds = 0x0900,
                            .es = 0x0910,
                            .fs = 0x0920,
                            .gs = 0x0930};
}
#define VM86(code) vm86(code, CODE_SIZE(code))

CODE(v86_plain, ".code16\n mov %cs, %ax\n mov %ax, 0x20\n mov %es, %cx\n mov $0x1111, %bx\n push %bx\n mov %sp, %dx\n"
                "movw $0x2222, %gs:4\n hlt");

TEST(mode_vm86)
{
    struct context c = VM86(v86_plain);

    context_run(&c);
    EXPECT_END_ERROR(&c, GP, 0); /* HLT: this is ring 3 */
    EXPECT_EQ(c.ip, CODE_SIZE(v86_plain) - 1);
    EXPECT_EQ(c.flags & (FL_VM | FL_IOPL), FL_VM);
    EXPECT_EQ(c.cs, V86_SEG);
    EXPECT_EQ(c.ss, 0x300);
    EXPECT_EQ(c.ds, 0x900);
    EXPECT_EQ(c.es, 0x910);
    EXPECT_EQ(c.fs, 0x920);
    EXPECT_EQ(c.gs, 0x930);
    EXPECT_EQ(c.ax & 0xffff, V86_SEG);
    EXPECT_EQ(c.cx & 0xffff, 0x910);
    EXPECT_EQ(c.dx & 0xffff, 0x7fe);
    EXPECT_EQ(*(uint16_t *)0x9020, V86_SEG);
    EXPECT_EQ(*(uint16_t *)0x9304, 0x2222);
    EXPECT_EQ(*(uint16_t *)0x37fe, 0x1111);
}

/* IOPL rules CLI, STI, PUSHF, POPF, INT n and IRET (SDM vol. 3, 20.2.7). */
TEST(mode_vm86_iopl)
{
    static const struct {
        uint8_t code[2];
        unsigned length;
    } rows[] = {{{0xfa}, 1}, {{0xfb}, 1}, {{0x9c}, 1}, {{0x9d}, 1}, {{0xcf}, 1}, {{0xcd, 0x90}, 2}};
    struct context c;

    idt_set_access(0x90, ACC_INT_GATE | ACC_USER);
    for (unsigned i = 0; i < sizeof rows / sizeof *rows; i++)
        for (word iopl = 0; iopl < 4; iopl++) {
            c = VM86(v86_plain);
            memset((void *)(V86_SEG << 4), 0xf4, 16); /* HLT */
            memcpy((void *)(V86_SEG << 4), rows[i].code, rows[i].length);
            c.flags |= iopl << 12;
            c.sp = 0x700;
            /* IRET finds 0800:0001 and flags. */
            *(uint16_t *)0x3700 = 1;
            *(uint16_t *)0x3702 = (uint16_t)V86_SEG;
            *(uint16_t *)0x3704 = 0x3246;
            if (rows[i].code[0] == 0x9d)
                *(uint16_t *)0x3700 = 0x3246;
            context_run(&c);
            if (iopl < 3 || rows[i].code[0] != 0xcd) {
                EXPECT_END_ERROR(&c, GP, 0);
                EXPECT_EQ(c.ip, iopl < 3 ? 0 : 1); /* at it, or at the HLT after it */
            } else {
                EXPECT_END(&c, 0x90);
                EXPECT_EQ(c.ip, 2);
                EXPECT_EQ(c.cs, V86_SEG);
            }
            EXPECT_EQ(c.flags & (FL_VM | FL_IOPL), FL_VM | iopl << 12);
        }
}

/* What does not exist there: #UD; what is the kernel's: #GP. */
TEST(mode_vm86_refused)
{
    static const struct {
        uint8_t code[4];
        word vector;
    } rows[] = {
        {{0x0f, 0x00, 0xc0}, UD},       /* sldt */
        {{0x0f, 0x00, 0xc8}, UD},       /* str */
        {{0x0f, 0x00, 0xe0}, UD},       /* verr */
        {{0x0f, 0x02, 0xc0}, UD},       /* lar */
        {{0x0f, 0x03, 0xc0}, UD},       /* lsl */
        {{0x63, 0xc0}, UD},             /* arpl */
        {{0x0f, 0x20, 0xc0}, GP},       /* mov from cr0 */
        {{0x0f, 0x01, 0x16, 0x00}, GP}, /* lgdt */
        {{0x0f, 0x06}, GP},             /* clts */
        {{0xf4}, GP},
        {{0x0f, 0x01, 0xe0, 0xf4}, GP}, /* smsw is allowed: the HLT after it */
    };

    for (unsigned i = 0; i < sizeof rows / sizeof *rows; i++) {
        struct context c = VM86(v86_plain);

        memset((void *)(V86_SEG << 4), 0xf4, 16);
        memcpy((void *)(V86_SEG << 4), rows[i].code, 4);
        c.flags |= FL_IOPL;
        context_run(&c);
        EXPECT_END(&c, rows[i].vector);
        EXPECT_EQ(c.ip, rows[i].code[2] == 0xe0 && rows[i].code[1] == 1 ? 3 : 0);
    }
}

/* Ports: always by the bitmap. Limits: 64 KiB. */
CODE(v86_in, ".code16\n in $0x70, %al\n hlt");
CODE(v86_edge, ".code16\n mov (%bx), %ax\n hlt");
TEST(mode_vm86_ports_and_limits)
{
    struct context c = VM86(v86_in);

    memset(tss.io, 0xff, sizeof tss.io);
    tss.iomap = offsetof(struct tss32, io);
    c.flags |= FL_IOPL;
    context_run(&c);
    EXPECT_END_ERROR(&c, GP, 0);
    EXPECT_EQ(c.ip, 0);
    tss.io[0x70 / 8] = 0xfe;
    c.flags &= ~(word)FL_IOPL;
    context_run(&c);
    EXPECT_END_ERROR(&c, GP, 0);
    EXPECT_EQ(c.ip, 2);
    c = VM86(v86_edge);
    c.bx = 0xfffe;
    context_run(&c);
    EXPECT_EQ(c.ip, 2);
    c = VM86(v86_edge);
    c.bx = 0xffff;
    context_run(&c);
    EXPECT_END_ERROR(&c, GP, 0);
    EXPECT_EQ(c.ip, 0);
    /* FFFF:0010 and on are above 1 MiB: nothing wraps. */
    c = VM86(v86_edge);
    c.ds = 0xffff;
    c.bx = 0x10;
    context_run(&c);
    EXPECT_EQ(c.ip, 2);
    EXPECT_EQ(c.ax & 0xffff, *(uint16_t *)0x100000);
}

/* --- paging ------------------------------------------------------------------------------------------------------- */

/* The same tables mean other things in other modes. */
TEST(mode_paging_kinds)
{
    volatile uint32_t *at = (volatile uint32_t *)TEST_VA;
    uint32_t *a = page_new(), *b = page_new();

    *a = 0xaaaa;
    *b = 0xbbbb;
    *at = 0x1111; /* the physical page */
    for (unsigned i = 0; i < 3; i++) {
        paging_32();
        map32(TEST_VA, (word)a, (uint32_t)PTE_PW);
        EXPECT_EQ(*at, 0xaaaa);
        paging_off();
        EXPECT_EQ(*at, 0x1111);
        paging_64();
        map(TEST_VA, (word)b, PTE_PW);
        EXPECT_EQ(*at, 0xbbbb);
        paging_off();
        EXPECT_EQ(*at, 0x1111);
    }
}

/* Large pages of 32-bit paging, and their reserved bit 21. */
TEST(mode_paging_4m)
{
    uint32_t *page = page_new_aligned(0x400000);

    paging_32();
    write_cr4(read_cr4() | CR4_PSE);
    page[0x1234] = 0x600d;
    *entry32(0x80000000, 2) = (uint32_t)(word)page | (uint32_t)(PTE_PW | PTE_PS);
    EXPECT_EQ(*(volatile uint32_t *)(0x80000000 + 4 * 0x1234), 0x600d);
    *entry32(0x80000000, 2) |= 1u << 21;
    invlpg(0x80000000);
    TRY("movl (%0), %%eax", : : "r"(0x80000000) : "eax");
    EXPECT_TRAP_ERROR(PF, PF_P | PF_RSVD);
}

/* --- long mode ------------------------------------------------------------------------------------------------------
 */
TEST(mode_long)
{
    uint64_t *pml4 = page_new(), *pdpt = page_new(), *pd = page_new();
    struct context k = LOW_CODE(long_trip);

    need("lm", 0x80000001, 0, 3, 29);
    pml4[0] = (word)pdpt | PTE_PW;
    pdpt[0] = (word)pd | PTE_PW;
    for (unsigned i = 0; i < 32; i++)
        pd[i] = i * 0x200000ull | PTE_PW | PTE_PS;
    k.cx = (word)pml4;
    context_run(&k);
    EXPECT_END(&k, 0x80);
    EXPECT_EQ(k.ax & (EFER_LME | EFER_LMA), EFER_LME | EFER_LMA);
    EXPECT_EQ(k.dx, 0x12345601);
    EXPECT_EQ(k.si & (EFER_LME | EFER_LMA), EFER_LME); /* LMA goes with paging */
    EXPECT_EQ(rdmsr(MSR_EFER) & (EFER_LME | EFER_LMA), 0);
    EXPECT(k.bx > LOW && k.bx < LOW + 0x200);
}

/* Long mode wants PAE: CR0.PG with LME and without PAE is refused. */
TEST(mode_long_needs_pae)
{
    need("lm", 0x80000001, 0, 3, 29);
    wrmsr(MSR_EFER, rdmsr(MSR_EFER) | EFER_LME);
    write_cr3((word)page_new());
    TRY("mov %0, %%cr0", : : "r"(read_cr0() | CR0_PG) : "memory");
    EXPECT_TRAP_ERROR(GP, 0);
    EXPECT_EQ(read_cr0() & CR0_PG, 0);
    EXPECT_EQ(rdmsr(MSR_EFER) & EFER_LMA, 0);
}
