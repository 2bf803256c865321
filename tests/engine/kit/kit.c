/* kit.c: the entry from start code, trap capture, checks and output. */
#include "kit/kit.h"
#include "kit/desc.h"
#include "kit/page.h"

#define PORT_SERIAL 0x3f8
#define PORT_EXIT   0xf4

handler_fn *handlers[256];
volatile struct context trap;
volatile word try_resume;

/* Of context_run(), in assembler. */
struct context *run_context;
extern char run_stack_top[];

static unsigned failures;

/* What the stubs leave on the stack; see prot.S and long.S. */
struct raw_frame {
#ifdef __x86_64__
    word ax, cx, dx, bx, sp_unused, bp, si, di, r8, r9, r10, r11, r12, r13, r14, r15, ds, es, fs, gs;
    word vector, error, ip, cs, flags, sp, ss;
#else
    word gs, fs, es, ds, di, si, bp, sp_unused, bx, dx, cx, ax;
    word vector, error, ip, cs, flags, sp, ss; /* sp and ss: only from an outer ring */
    word vm_es, vm_ds, vm_fs, vm_gs;           /* only from virtual-8086 mode */
#endif
};

/* --- output ---------------------------------------------------------------- */

static void put(char c)
{
    for (unsigned i = 0; i < 100000 && !(inb(PORT_SERIAL + 5) & 0x20); i++)
        continue;
    outb(PORT_SERIAL, (uint8_t)c);
}

void print(const char *text)
{
    while (*text)
        put(*text++);
}

void print_hex(uint64_t value)
{
    int digit = 15;

    print("0x");
    while (digit && !(value >> digit * 4))
        digit--;
    for (; digit >= 0; digit--)
        put("0123456789abcdef"[value >> digit * 4 & 15]);
}

static void print_decimal(unsigned value)
{
    if (value >= 10)
        print_decimal(value / 10);
    put((char)('0' + value % 10));
}

static void end(uint8_t status)
{
    outb(PORT_EXIT, status);
    for (;;)
        asm volatile("cli\n hlt");
}

void finish(void)
{
    end(failures ? STATUS_FAIL : STATUS_PASS);
    __builtin_unreachable();
}

void skip(const char *why)
{
    print("skipped: ");
    print(why);
    print("\n");
    end(failures ? STATUS_FAIL : STATUS_SKIP);
    __builtin_unreachable();
}

/* --- checks ------------------------------------------------------------------- */

static void complain(const char *file, int line)
{
    const char *name = file;

    for (const char *p = file; *p; p++)
        if (*p == '/')
            name = p + 1;
    failures++;
    print(name);
    print(":");
    print_decimal((unsigned)line);
    print(": ");
}

void check_true(const char *file, int line, const char *text, bool ok)
{
    if (ok)
        return;
    complain(file, line);
    print("not so: ");
    print(text);
    print("\n");
}

void check_equal(const char *file, int line, const char *text, uint64_t value, uint64_t expected)
{
    if (value == expected)
        return;
    complain(file, line);
    print(text);
    print(" is ");
    print_hex(value);
    print(", expected ");
    print_hex(expected);
    print("\n");
}

static void print_trap(const volatile struct context *c)
{
    if (c->vector == NO_TRAP) {
        print("no trap");
        return;
    }
    print("trap ");
    print_decimal((unsigned)c->vector);
    print(" error ");
    print_hex(c->error);
    print(" ip ");
    print_hex(c->cs);
    print(":");
    print_hex(c->ip);
    print(" cr2 ");
    print_hex(c->cr2);
    print(" flags ");
    print_hex(c->flags);
}

void check_trap(const char *file, int line, const volatile struct context *c, word vector, word error, bool with_error)
{
    if (c->vector == vector && (!with_error || c->error == error))
        return;
    complain(file, line);
    print_trap(c);
    print(", expected ");
    if (vector == NO_TRAP) {
        print("none");
    } else {
        print("trap ");
        print_decimal((unsigned)vector);
    }
    if (with_error) {
        print(" error ");
        print_hex(error);
    }
    print("\n");
}

bool cpu_has(uint32_t leaf, uint32_t subleaf, unsigned reg, unsigned bit)
{
    uint32_t regs[4];

    cpuid(leaf & 0x80000000, 0, regs);
    if (regs[0] < leaf)
        return false;
    cpuid(leaf, subleaf, regs);
    return regs[reg] >> bit & 1;
}

void need(const char *feature, uint32_t leaf, uint32_t subleaf, unsigned reg, unsigned bit)
{
    if (!cpu_has(leaf, subleaf, reg, bit))
        skip(feature);
}

/* --- traps ---------------------------------------------------------------------- */

static void context_from_raw(struct context *c, const struct raw_frame *f)
{
    *c = (struct context){.ax = f->ax, .cx = f->cx, .dx = f->dx, .bx = f->bx, .bp = f->bp, .si = f->si, .di = f->di};
    c->ip = f->ip;
    c->flags = f->flags;
    c->cs = f->cs & 0xffff;
    c->ds = f->ds & 0xffff;
    c->es = f->es & 0xffff;
    c->fs = f->fs & 0xffff;
    c->gs = f->gs & 0xffff;
    c->sp = f->sp;
    c->ss = f->ss & 0xffff;
    c->vector = f->vector;
    c->error = f->error;
    c->cr2 = read_cr2();
    c->dr6 = read_dr6();
#ifdef __x86_64__
    memcpy(&c->r8, &f->r8, 8 * sizeof(word));
#else
    if (f->flags & FL_VM) {
        c->ds = f->vm_ds & 0xffff;
        c->es = f->vm_es & 0xffff;
        c->fs = f->vm_fs & 0xffff;
        c->gs = f->vm_gs & 0xffff;
    } else if (!(f->cs & 3)) {
        c->sp = (word)&f->sp;
        asm("mov %%ss, %0" : "=r"(c->ss));
    }
#endif
}

/* Segment registers and, within a ring, the stack stay. */
static void context_to_raw(const struct context *c, struct raw_frame *f)
{
    f->ax = c->ax;
    f->cx = c->cx;
    f->dx = c->dx;
    f->bx = c->bx;
    f->bp = c->bp;
    f->si = c->si;
    f->di = c->di;
    f->ip = c->ip;
    f->flags = c->flags;
    f->cs = c->cs;
#ifdef __x86_64__
    f->sp = c->sp;
    f->ss = c->ss;
    memcpy(&f->r8, &c->r8, 8 * sizeof(word));
#endif
}

/* Called by the stubs. true: leave the context that context_run() started; false: return from the trap. */
bool trap_entry(struct raw_frame *f);
bool trap_entry(struct raw_frame *f)
{
    struct context c;

    context_from_raw(&c, f);
    if (handlers[f->vector]) {
        handlers[f->vector](&c);
        context_to_raw(&c, f);
        return false;
    }
    if (try_resume) {
        trap = c;
        f->ip = try_resume;
        try_resume = 0;
        return false;
    }
    if (run_context) {
        *run_context = c;
        run_context = NULL;
        return true;
    }
    print("unexpected ");
    print_trap(&c);
    print("\n");
    failures++;
    finish();
}

struct context user_context(word ip)
{
    return (struct context){
        .ip = ip, .flags = FL_1, .sp = USER_STACK + PAGE - 64, .cs = UCODE, .ss = UDATA, .ds = UDATA, .es = UDATA};
}

struct context kernel_context(word ip)
{
    return (struct context){
        .ip = ip, .flags = FL_1, .sp = (word)run_stack_top, .cs = KCODE, .ss = KDATA, .ds = KDATA, .es = KDATA};
}

/* --- start ------------------------------------------------------------------------ */

static const struct {
    const char *name;
    void (*fn)(void);
} tests[] = {
#define X(name, how) {#name, test_##name},
    TEST_LIST(X)
#undef X
};

/* The last word of the multiboot command line names the test. */
static const char *test_name(const uint32_t *info)
{
    const char *line, *name;

    if (!(info[0] & 4))
        return "";
    line = name = (const char *)(word)info[4];
    for (; *line; line++)
        if (*line == ' ' && line[1] && line[1] != ' ')
            name = line + 1;
    return name;
}

void kit_main(const uint32_t *info) __attribute__((noreturn));
void kit_main(const uint32_t *info)
{
    char name[64] = "";
    const char *given = test_name(info);

    for (unsigned i = 0; i < sizeof name - 1 && given[i] && given[i] != ' '; i++)
        name[i] = given[i];
    /* A PC's 8259s may have been left with interrupts on. */
    outb(0x21, 0xff);
    outb(0xa1, 0xff);
    desc_init();
    page_init();
    for (unsigned i = 0; i < sizeof tests / sizeof *tests; i++) {
        if (!strcmp(tests[i].name, name)) {
            tests[i].fn();
            finish();
        }
    }
    print("no test of this name: ");
    print(name);
    print("\n");
    failures++;
    finish();
}

/* --- freestanding C ------------------------------------------------------------------ */

void *memcpy(void *to, const void *from, size_t n)
{
    void *result = to;

    asm volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(n) : : "memory");
    return result;
}

void *memset(void *to, int value, size_t n)
{
    void *result = to;

    asm volatile("rep stosb" : "+D"(to), "+c"(n) : "a"(value) : "memory");
    return result;
}

int memcmp(const void *a, const void *b, size_t n)
{
    const uint8_t *x = a, *y = b;

    for (size_t i = 0; i < n; i++)
        if (x[i] != y[i])
            return x[i] - y[i];
    return 0;
}

int strcmp(const char *a, const char *b)
{
    while (*a && *a == *b)
        a++, b++;
    return (uint8_t)*a - (uint8_t)*b;
}
