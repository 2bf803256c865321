/*
 * user_access.c: one instruction of each kind, in hot code of the user's, whose
 * last access goes elsewhere: to a page that lacks, over a page's end, to an
 * address that is none. It faults as if nothing had been done; and goes on as if
 * nothing had happened, once the page is there (SDM vol. 3, 4.7 and 6.5).
 */
#include "kit/desc.h"
#include "kit/page.h"
#include "kit/regs.h"
#include "user.h"

/* --- the instructions -------------------------------------------------------------------------------------------- */

enum {
    WRITES = 1,  /* to memory at BX */
    STACK = 2,   /* an address that is not canonical gives #SS */
    WHOLE = 4,   /* not over a page's end: it has no precise end there, or is several accesses */
    ALIGNED = 8, /* to its size; #GP otherwise */
    VEX = 16,    /* needs AVX */
};

/* X(name, what comes before, the instruction, what comes after, bytes, ...). Where it branches, to what comes after, by
 * way of the address that lies at BX, and in R13. R10 and R12: the user's data. */
#define ACCESSES(X)                                                                                                    \
    X(load1, "", "movb (%rbx), %al", "", 1, 0)                                                                         \
    X(load2, "", "movw (%rbx), %ax", "", 2, 0)                                                                         \
    X(load4, "", "movl (%rbx), %eax", "", 4, 0)                                                                        \
    X(load8, "", "movq (%rbx), %rax", "", 8, 0)                                                                        \
    X(load_high, "", "movb (%rbx), %ah", "", 1, 0)                                                                     \
    X(load_base, "", "movq (%rbx), %rbx", "mov %r9, %rbx", 8, 0)                                                       \
    X(zero_extended, "", "movzwl (%rbx), %eax", "", 2, 0)                                                              \
    X(sign_extended, "", "movslq (%rbx), %rax", "", 4, 0)                                                              \
    X(load_index, "mov $2, %esi", "mov -16(%rbx, %rsi, 8), %rax", "", 8, 0)                                            \
    X(load_wrapped, "movabs $0x2000000000000001, %rsi", "mov -8(%rbx, %rsi, 8), %eax", "", 4, 0)                       \
    X(load_negative, "mov %rbx, %rsi\n neg %rsi\n lea (%rbx, %rbx), %rdi", "mov (%rdi, %rsi), %eax", "", 4, 0)         \
    X(load_far, "lea -0x7fffff00(%rbx), %rsi", "mov 0x7fffff00(%rsi), %eax", "", 4, 0)                                 \
    X(load_rbp, "lea 8(%rbx), %rbp", "mov -8(%rbp), %rax", "", 8, STACK)                                               \
    X(load_rsp, "lea -8(%rbx), %rsp", "mov 8(%rsp), %rax", "", 8, STACK)                                               \
    X(load_fs, "", "mov %fs:-0x12340000(%rbx), %rax", "", 8, 0)                                                        \
    X(load_gs, "", "add %gs:0x1000(%rbx), %eax", "", 4, 0)                                                             \
    X(store_gs, "", "mov %eax, %gs:0x1000(%rbx)", "", 4, WRITES)                                                       \
    X(store1, "", "movb %al, (%rbx)", "", 1, WRITES)                                                                   \
    X(store2, "", "movw %ax, (%rbx)", "", 2, WRITES)                                                                   \
    X(store4, "", "movl %eax, (%rbx)", "", 4, WRITES)                                                                  \
    X(store8, "", "movq %rax, (%rbx)", "", 8, WRITES)                                                                  \
    X(store_imm, "", "movq $-5, (%rbx)", "", 8, WRITES)                                                                \
    X(store_rsp, "lea -8(%rbx), %rsp", "mov %rax, 8(%rsp)", "", 8, WRITES | STACK)                                     \
    X(add_load, "", "add (%rbx), %rax", "", 8, 0)                                                                      \
    X(adc_load, "", "adc (%rbx), %eax", "", 4, 0)                                                                      \
    X(add_rmw, "", "add %rax, (%rbx)", "", 8, WRITES)                                                                  \
    X(adc_rmw, "", "adc %eax, (%rbx)", "", 4, WRITES)                                                                  \
    X(xor_imm, "", "xorw $0x1234, (%rbx)", "", 2, WRITES)                                                              \
    X(cmp, "", "cmp %rax, (%rbx)", "adc %edx, %edx", 8, 0)                                                             \
    X(cmp_imm, "", "cmpb $0x58, (%rbx)", "sbb %edx, %edx", 1, 0)                                                       \
    X(test, "", "test %eax, (%rbx)", "", 4, 0)                                                                         \
    X(inc, "", "incl (%rbx)", "", 4, WRITES)                                                                           \
    X(neg, "", "negq (%rbx)", "", 8, WRITES)                                                                           \
    X(not, "", "notw (%rbx)", "", 2, WRITES)                                                                           \
    X(shl_cl, "", "shll %cl, (%rbx)", "", 4, WRITES)                                                                   \
    X(rcr, "", "rcrq $3, (%rbx)", "", 8, WRITES)                                                                       \
    X(shld, "", "shldl $7, %eax, (%rbx)", "", 4, WRITES)                                                               \
    X(imul, "", "imul (%rbx), %eax", "", 4, 0)                                                                         \
    X(mul, "", "mulq (%rbx)", "", 8, 0)                                                                                \
    X(div, "xor %edx, %edx", "divl (%rbx)", "lea 12345(%rax, %rdx), %eax", 4, 0)                                       \
    X(idiv, "cqto", "idivq (%rbx)", "lea 12345(%rdx), %rax", 8, 0)                                                     \
    X(xchg, "", "xchg %eax, (%rbx)", "", 4, WRITES)                                                                    \
    X(xadd, "", "lock xadd %eax, (%rbx)", "", 4, WRITES)                                                               \
    X(cmpxchg_fails, "", "cmpxchg %ecx, (%rbx)", "add $5, %eax", 4, WRITES)                                            \
    X(cmpxchg, "mov %r13, %rax", "lock cmpxchg %edi, (%rbx)", "", 4, WRITES)                                           \
    X(cmpxchg8b, "", "lock cmpxchg8b (%rbx)", "", 8, WRITES)                                                           \
    X(cmpxchg16b, "", "lock cmpxchg16b (%rbx)", "", 16, WRITES | ALIGNED)                                              \
    X(lock_or, "", "lock orl $1, (%rbx)", "", 4, WRITES)                                                               \
    X(bt, "", "btl $3, (%rbx)", "adc $0, %edx", 4, 0)                                                                  \
    X(bts, "", "btsl $5, (%rbx)", "adc $0, %edx", 4, WRITES)                                                           \
    X(bts_string, "mov $7, %eax", "btsl %eax, (%rbx)", "", 4, WRITES)                                                  \
    X(btc_lock, "", "lock btcl $3, (%rbx)", "", 4, WRITES)                                                             \
    X(bsf, "", "bsf (%rbx), %eax", "", 4, 0)                                                                           \
    X(popcnt, "", "popcnt (%rbx), %rax", "", 8, 0)                                                                     \
    X(crc32, "", "crc32q (%rbx), %rax", "", 8, 0)                                                                      \
    X(setcc, "", "seto (%rbx)", "", 1, WRITES)                                                                         \
    X(cmov_taken, "", "cmovo (%rbx), %rax", "", 8, 0)                                                                  \
    X(cmov_not_taken, "", "cmovz (%rbx), %eax", "", 4, 0)                                                              \
    X(push_memory, "", "push (%rbx)", "pop %rax", 8, 0)                                                                \
    X(pop_memory, "", "pop (%rbx)", "", 8, WRITES)                                                                     \
    X(push, "lea 8(%rbx), %rsp", "push %rax", "", 8, WRITES | STACK)                                                   \
    X(push_imm, "lea 8(%rbx), %rsp", "push $-7", "", 8, WRITES | STACK)                                                \
    X(push2, "lea 2(%rbx), %rsp", "pushw %ax", "", 2, WRITES | STACK)                                                  \
    X(pushf, "lea 8(%rbx), %rsp", "pushf", "", 8, WRITES | STACK)                                                      \
    X(pop, "mov %rbx, %rsp", "pop %rax", "", 8, STACK)                                                                 \
    X(call, "lea 8(%rbx), %rsp", "call 7f", "7:", 8, WRITES | STACK)                                                   \
    X(call_register, "lea 8(%rbx), %rsp", "call *%r13", "", 8, WRITES | STACK)                                         \
    X(ret, "mov %rbx, %rsp", "ret", "", 8, STACK)                                                                      \
    X(ret_imm, "mov %rbx, %rsp", "ret $24", "", 8, STACK)                                                              \
    X(leave, "mov %rbx, %rbp", "leave", "", 8, STACK)                                                                  \
    X(enter, "lea 8(%rbx), %rsp", "enter $0, $0", "", 8, WRITES | STACK)                                               \
    X(call_memory, "", "call *(%rbx)", "pop %rax", 8, 0)                                                               \
    X(jmp_memory, "", "jmp *(%rbx)", "", 8, 0)                                                                         \
    X(lods, "mov %rbx, %rsi", "lodsq", "", 8, 0)                                                                       \
    X(stos, "mov %rbx, %rdi", "stosl", "", 4, WRITES)                                                                  \
    X(scas, "mov %rbx, %rdi", "scasw", "", 2, 0)                                                                       \
    X(movs_from, "mov %rbx, %rsi\n mov %r10, %rdi", "movsq", "", 8, 0)                                                 \
    X(movs_to, "mov %rbx, %rdi\n mov %r10, %rsi", "movsb", "", 1, WRITES)                                              \
    X(cmps, "mov %rbx, %rsi\n mov %r10, %rdi", "cmpsl", "", 4, 0)                                                      \
    X(rep_movs_from, "mov %rbx, %rsi\n mov %r10, %rdi\n mov $5, %ecx", "rep movsl", "", 4, WHOLE)                      \
    X(rep_movs_to, "mov %rbx, %rdi\n mov %r10, %rsi\n mov $16, %ecx", "rep movsb", "", 1, WRITES | WHOLE)              \
    X(rep_stos, "mov %rbx, %rdi\n mov $3, %ecx", "rep stosq", "", 8, WRITES | WHOLE)                                   \
    X(xlat, "movzbl %al, %eax\n sub %rax, %rbx", "xlat", "mov %r9, %rbx", 1, 0)                                        \
    X(fld, "fninit", "fldl (%rbx)", "fstpl (%r12)", 8, 0)                                                              \
    X(fild, "fninit", "fildl (%rbx)", "fistpll (%r12)", 4, 0)                                                          \
    X(fadd, "fninit\n fld1", "fadds (%rbx)", "fstpl (%r12)", 4, 0)                                                     \
    X(fst, "fninit\n fldpi", "fstl (%rbx)", "fstpl (%r12)", 8, WRITES)                                                 \
    X(fstp, "fninit\n fldpi\n fld1", "fstpt (%rbx)", "fstpl (%r12)", 10, WRITES)                                       \
    X(fist, "fninit\n fldpi", "fistps (%rbx)", "", 2, WRITES)                                                          \
    X(fnstcw, "fninit", "fnstcw (%rbx)", "", 2, WRITES)                                                                \
    X(fnstsw, "fninit\n fld1", "fnstsw (%rbx)", "", 2, WRITES)                                                         \
    X(mmx, "", "movq (%rbx), %mm1", "movq %mm1, (%r12)\n emms", 8, 0)                                                  \
    X(movd, "movd %eax, %xmm1", "movd %xmm1, (%rbx)", "", 4, WRITES)                                                   \
    X(movss, "", "movss (%rbx), %xmm1", "movq %xmm1, %rax", 4, 0)                                                      \
    X(movsd, "movq %rax, %xmm1", "movsd %xmm1, (%rbx)", "", 8, WRITES)                                                 \
    X(movhps, "", "movhps (%rbx), %xmm1", "movups %xmm1, (%r12)", 8, 0)                                                \
    X(movups, "", "movups (%rbx), %xmm1", "movups %xmm1, (%r12)", 16, 0)                                               \
    X(movups_to, "movq %rax, %xmm1", "movups %xmm1, (%rbx)", "", 16, WRITES)                                           \
    X(movaps, "", "movaps (%rbx), %xmm1", "movups %xmm1, (%r12)", 16, ALIGNED)                                         \
    X(movaps_to, "movq %rax, %xmm1", "movaps %xmm1, (%rbx)", "", 16, WRITES | ALIGNED)                                 \
    X(movdqa, "", "movdqa (%rbx), %xmm9", "movups %xmm9, (%r12)", 16, ALIGNED)                                         \
    X(paddd, "movq %rax, %xmm1", "paddd (%rbx), %xmm1", "movups %xmm1, (%r12)", 16, ALIGNED)                           \
    X(addsd, "xorps %xmm1, %xmm1", "addsd (%rbx), %xmm1", "movq %xmm1, %rax", 8, 0)                                    \
    X(ucomiss, "xorps %xmm1, %xmm1", "ucomiss (%rbx), %xmm1", "adc %edx, %edx", 4, 0)                                  \
    X(cvtsi2sd, "xorps %xmm1, %xmm1", "cvtsi2sdl (%rbx), %xmm1", "movq %xmm1, %rax", 4, 0)                             \
    X(cvttss2si, "", "cvttss2si (%rbx), %eax", "", 4, 0)                                                               \
    X(pinsrw, "", "pinsrw $3, (%rbx), %xmm1", "movq %xmm1, %rax", 2, 0)                                                \
    X(movnti, "", "movnti %rax, (%rbx)", "", 8, WRITES)                                                                \
    X(stmxcsr, "", "stmxcsr (%rbx)", "", 4, WRITES)                                                                    \
    X(vmovups, "", "vmovups (%rbx), %ymm1", "vmovups %ymm1, (%r12)", 32, VEX)                                          \
    X(vmovups_to, "vmovq %rax, %xmm1", "vmovups %ymm1, (%rbx)", "", 32, WRITES | VEX)                                  \
    X(vmovaps, "", "vmovaps (%rbx), %ymm1", "vmovups %ymm1, (%r12)", 32, ALIGNED | VEX)                                \
    X(vpaddd, "vmovq %rax, %xmm2", "vpaddd (%rbx), %xmm2, %xmm1", "vmovups %ymm1, (%r12)", 16, VEX)                    \
    X(vbroadcast, "", "vbroadcastss (%rbx), %ymm1", "vmovups %ymm1, (%r12)", 4, VEX)

/* Each is run R15 times: BX is R9, and R8 the last time; the flags before it are those of 7fffffffh + 1. */
#define X(name, before, instruction, after, size, flags)                                                               \
    CODE(hot_##name, "1: cmp $1, %r15d\n cmove %r8, %rbx\n mov $0x7fffffff, %r14d\n mov %r11, %rsp\n" before           \
                     "\n add $1, %r14d\n hot_" #name "_at: " instruction "\n hot_" #name "_next:\n" after              \
                     "\n dec %r15d\n jnz 1b\n int $0x80");                                                             \
    extern const char hot_##name##_at[], hot_##name##_next[];
ACCESSES(X)
#undef X

static const struct access {
    const char *name, *code, *at, *next, *end;
    uint8_t size, flags;
} accesses[] = {
#define X(name, before, instruction, after, size, flags)                                                               \
    {#name, hot_##name, hot_##name##_at, hot_##name##_next, hot_##name##_end, size, flags},
    ACCESSES(X)
#undef X
};
#define ACCESS_COUNT (sizeof accesses / sizeof *accesses)

enum { STEP = 0x80, TWINS = 0x4000, ROUNDS = 30, NEAR = 64 };

static bool avx;

/* Their copies; and others, with an INT3 in place of the instruction. */
static void begin(void)
{
    user_begin();
    for (unsigned i = 0; i < 2 * TWINS; i += PAGE)
        user_page(USER_CODE + i);
    avx = cpu_has(1, 0, 2, 28) && cpu_has(7, 0, 1, 5);
    if (avx) {
        write_cr4(read_cr4() | CR4_OSXSAVE);
        asm volatile("xsetbv" : : "c"(0), "a"(7), "d"(0));
    }
    for (unsigned i = 0; i < ACCESS_COUNT; i++) {
        const struct access *a = &accesses[i];
        char *copy = (char *)USER_CODE + i * STEP;

        EXPECT(a->end - a->code <= STEP);
        memcpy(copy, a->code, (size_t)(a->end - a->code));
        memcpy(copy + TWINS, copy, STEP);
        copy[TWINS + (a->at - a->code)] = (char)0xcc;
    }
    wrmsr(MSR_FS_BASE, 0x12340000);
    wrmsr(MSR_GS_BASE, -0x1000ul);
}

/* --- how one is tried -------------------------------------------------------------------------------------------- */

/* Of the access that is being tried: where it is made but for the last time, and where it is made then. */
static struct {
    const struct access *a;
    word ip, next, usual, last;
    struct context before; /* as the last access must find everything */
    word error, cr2;
    uint64_t *e, good;      /* the entry that lacks, and what it should be */
    const char *low, *high; /* what lies before and behind the end of the page with the last access's begin */
    char memory[2 * NEAR];  /* and is there before */
    unsigned faults;
} try;

/* All registers in the order of struct context, and the flags. */
static void same(const struct context *c, const struct context *want)
{
    const word rf = FL_RF;

    for (unsigned i = 0; i < offsetof(struct context, flags) / sizeof(word); i++)
        if ((&c->ax)[i] != (&want->ax)[i]) {
            print(try.a->name);
            print(": register ");
            print_hex(i);
            print(": ");
            EXPECT_EQ((&c->ax)[i], (&want->ax)[i]);
        }
    EXPECT_EQ(c->flags & ~rf, want->flags & ~rf);
}

static void set_data(word va)
{
    for (unsigned i = 0; i < NEAR; i++)
        ((volatile uint8_t *)va)[i] = (uint8_t)(0x5a + 3 * i);
    *(volatile word *)va = try.next;
}

/* Its begin, with all memory as it should be. last: that memory is there. */
static struct context start(bool last)
{
    struct context c = user_context(try.ip);

    for (unsigned i = 0; i < 0x200; i++)
        ((uint8_t *)USER_DATA)[i] = (uint8_t)i;
    memset((void *)(USER_STACK + 0x700), 0, 0x200);
    set_data(try.usual);
    if (last)
        set_data(try.last);
    asm volatile("fninit");
    c.bx = c.r9 = try.usual;
    c.r8 = try.last;
    c.r10 = USER_DATA;
    c.r11 = USER_STACK + 0x800;
    c.r12 = USER_DATA + 0x100;
    c.r13 = try.next;
    c.r15 = ROUNDS;
    c.ax = 0x1122334455667788;
    c.cx = 0x8899;
    c.dx = 0x1234;
    c.bp = 0x4444;
    c.si = 0x5555;
    c.di = 0x6666;
    return c;
}

/* All but the last access, and then up to that. */
static void find_before(bool last)
{
    struct context c = start(last);

    c.r15 = ROUNDS - 1;
    c.r8 = try.usual;
    context_run(&c);
    EXPECT_END(&c, 0x80);
    c.r15 = 1;
    c.r8 = try.last;
    c.ip = try.ip + TWINS;
    context_run(&c);
    EXPECT_END(&c, BP);
    EXPECT_EQ(c.ip - 1, try.ip + TWINS + (word)(try.a->at - try.a->code));
    c.ip = try.ip + (word)(try.a->at - try.a->code);
    try.before = c;
}

static void choose(unsigned i, word usual, word last)
{
    try.a = &accesses[i];
    try.ip = USER_CODE + i * STEP;
    try.next = try.ip + (word)(try.a->next - try.a->code);
    try.usual = usual;
    try.last = last;
}

static bool can(unsigned i)
{
    return avx || !(accesses[i].flags & VEX);
}

/* --- faults, and the page comes ----------------------------------------------------------------------------------- */

static void on_fault(struct context *c)
{
    EXPECT_EQ(c->error, try.error);
    EXPECT_EQ(c->cr2, try.cr2);
    same(c, &try.before);
    EXPECT_EQ(memcmp(try.memory, try.low, NEAR), 0);
    EXPECT_EQ(memcmp(try.memory + NEAR, try.high, NEAR), 0);
    *try.e = try.good;
    invlpg(try.cr2);
    /* Once: else it would never end. */
    if (try.faults++)
        handlers[PF] = NULL;
}

/* Without the rights that e gives, or some of them: one fault, and then what there is without any. */
static void retried(uint64_t rights)
{
    struct context calm, c;
    uint8_t calm_data[0x200];
    char calm_near[2 * NEAR];

    if (!(try.a->flags & WRITES) && (rights & (PTE_P | PTE_U)) == (PTE_P | PTE_U))
        return;
    find_before(true);
    calm = start(true);
    memcpy(try.memory, try.low, NEAR);
    memcpy(try.memory + NEAR, try.high, NEAR);
    context_run(&calm);
    EXPECT_END(&calm, 0x80);
    memcpy(calm_data, (void *)USER_DATA, sizeof calm_data);
    memcpy(calm_near, try.low, NEAR);
    memcpy(calm_near + NEAR, try.high, NEAR);
    c = start(true);
    try.good = *try.e;
    *try.e = (*try.e & ~PTE_PWU) | rights;
    invlpg(try.cr2);
    try.error = PF_U | (try.a->flags & WRITES ? PF_W : 0) | (rights & PTE_P ? PF_P : 0);
    try.faults = 0;
    handlers[PF] = on_fault;
    context_run(&c);
    EXPECT_END(&c, 0x80);
    EXPECT_EQ(try.faults, 1);
    same(&c, &calm);
    EXPECT_EQ(memcmp(calm_data, (void *)USER_DATA, sizeof calm_data), 0);
    EXPECT_EQ(memcmp(calm_near, try.low, NEAR), 0);
    EXPECT_EQ(memcmp(calm_near + NEAR, try.high, NEAR), 0);
    *try.e = try.good;
    invlpg(try.cr2);
}

static const uint64_t lacks[] = {0, PTE_P | PTE_U, PTE_PW};
#define LACKS (sizeof lacks / sizeof *lacks)

TEST(user_access_retried)
{
    begin();
    for (unsigned p = 0; p < USER_PLACES; p++) {
        const word va = user_places[p] + 2 * PAGE; /* there begins another large page */
        char *frame = page_new();

        map(user_places[p], (word)page_new(), PTE_PWU);
        map(va, (word)frame, PTE_PWU);
        for (unsigned i = 0; i < ACCESS_COUNT; i++)
            for (unsigned l = 0; l < LACKS && can(i); l++) {
                choose(i, user_places[p] + 0x100, va + 0x340);
                try.cr2 = try.last;
                try.low = frame + 0x300;
                try.high = frame + 0x340;
                try.e = entry(va, 1);
                retried(lacks[l]);
            }
    }
}

/* Over a page's end, where tables of a level end too; a page or such a table lacks. */
static void over_the_end(word end, unsigned level)
{
    char *first = page_new(), *second;

    page_new();
    second = page_new();
    map(end - PAGE, (word)first, PTE_PWU);
    map(end, (word)second, PTE_PWU);
    try.low = first + PAGE - NEAR;
    try.high = second;
    for (unsigned i = 0; i < ACCESS_COUNT; i++) {
        const struct access *a = &accesses[i];

        if (!can(i) || a->size == 1 || (a->flags & (WHOLE | ALIGNED)))
            continue;
        for (unsigned l = 0; l < LACKS; l++) {
            choose(i, end - 0x200, end - 1);
            try.cr2 = end;
            try.e = entry(end, l % 2 ? 1 : level);
            retried(lacks[l]);
            choose(i, end - 0x200, end - (a->size - 1u));
            try.e = entry(end, 1);
            retried(lacks[l]);
            choose(i, end + 0x200, end - a->size / 2);
            try.cr2 = try.last;
            try.e = entry(end - PAGE, l % 2 ? level : 1);
            retried(lacks[l]);
        }
    }
}

TEST(user_access_over_page_end)
{
    begin();
    over_the_end(TEST_VA + PAGE, 1);
}

TEST(user_access_over_2m_end)
{
    begin();
    over_the_end(0x555555600000, 2);
}

TEST(user_access_over_1g_end)
{
    begin();
    over_the_end(0x555580000000, 3);
}

TEST(user_access_over_512g_end)
{
    begin();
    over_the_end(0x558000000000, 4);
}

/* --- addresses that are none ------------------------------------------------------------------------------------- */

static bool is_canonical(word va)
{
    return va >> 47 == 0 || va >> 47 == 0x1ffff;
}

/* It ends with a fault, and nothing has been done. */
static void refused(word vector, word error)
{
    struct context c;

    find_before(false);
    c = start(false);
    context_run(&c);
    EXPECT_END_ERROR(&c, vector, error);
    same(&c, &try.before);
    if (vector == PF)
        EXPECT_EQ(c.cr2, try.last);
}

static word not_canonical(const struct access *a)
{
    return a->flags & STACK ? SS : GP;
}

/* What differs in one bit or some from an address at which there is a page. */
TEST(user_access_not_canonical)
{
    static const word changes[] = {1ul << 63, 1ul << 62, 1ul << 48, 1ul << 47,      1ul << 46,
                                   1ul << 42, 1ul << 39, 1ul << 32, 0xfffful << 48, 0x1fffful << 47};

    begin();
    for (unsigned p = 0; p < USER_PLACES; p++) {
        map(user_places[p], (word)page_new(), PTE_PWU);
        for (unsigned i = 0; i < ACCESS_COUNT; i++)
            for (unsigned k = 0; k < 2 * sizeof changes / sizeof *changes && can(i); k++) {
                const word va = user_places[p] + 0x100, change = changes[k / 2];

                choose(i, va, k & 1 ? va + change : va ^ change);
                if (is_canonical(try.last))
                    refused(PF, PF_U | (accesses[i].flags & WRITES ? PF_W : 0));
                else
                    refused(not_canonical(&accesses[i]), 0);
            }
    }
}

/* The last bytes of the lower half are there; those behind them are none. */
TEST(user_access_over_half_end)
{
    const word end = 0x800000000000;
    char *frame = page_new();

    begin();
    map(end - PAGE, (word)frame, PTE_PWU);
    for (unsigned i = 0; i < ACCESS_COUNT; i++) {
        const struct access *a = &accesses[i];

        if (!can(i) || a->size == 1 || (a->flags & (WHOLE | ALIGNED)))
            continue;
        for (unsigned before = 1; before < a->size; before++) {
            choose(i, end - 0x100, end - before);
            memset(frame + PAGE - 16, 0x77, 16);
            refused(not_canonical(a), 0);
            for (unsigned k = 1; k <= 16; k++)
                EXPECT_EQ(frame[PAGE - k], 0x77);
        }
    }
}

TEST(user_access_misaligned)
{
    begin();
    for (unsigned p = 0; p < USER_PLACES; p++) {
        map(user_places[p], (word)page_new(), PTE_PWU);
        for (unsigned i = 0; i < ACCESS_COUNT; i++)
            for (unsigned k = 1; k < 16 && can(i); k += 3) {
                if (!(accesses[i].flags & ALIGNED))
                    break;
                choose(i, user_places[p] + 0x100, user_places[p] + 0x180 + k);
                refused(GP, 0);
            }
    }
}
