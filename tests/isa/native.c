/*
 * tests/isa/native.c: runs one instruction on the host, in this process. The
 * state is loaded by a signal return from a frame made by hand; the exception
 * that ends the run comes back as a signal, with the exact state in its frame.
 *
 * Between the two nothing may touch thread-local storage: FS and GS belong to
 * the test.
 */
#include <asm/ldt.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

#include "isa.h"

#define FRAME_FPU   16384
#define LEGACY_SIZE 416 /* FXSAVE area up to the vector registers; the kernel keeps its own in what follows */

/* What the assembly below reads and writes. */
struct isa_native_switch {
    uint64_t stack;                            /* the harness's */
    uint64_t host_fs, host_gs;                 /* bases */
    uint64_t fs, gs;                           /* the test's: before, then after */
    uint16_t fs_selector, gs_selector, ds, es; /* after */
    uint16_t selector;                         /* for FS and GS before */
    uint16_t ds_before, es_before;
};
extern struct isa_native_switch isa_native_switch;
struct isa_native_switch isa_native_switch;

int isa_native_enter(void *frame);
void isa_native_handler(int sig, siginfo_t *info, void *context);
void isa_native_capture(int sig, siginfo_t *info, void *context);

/* Loads the frame (none: raises #UD at once); returns when the exception that followed has been captured. */
__asm__(".text\n"
        ".globl isa_native_enter\n"
        ".type isa_native_enter, @function\n"
        "isa_native_enter:\n"
        "    push %rbx\n    push %rbp\n    push %r12\n    push %r13\n    push %r14\n    push %r15\n"
        "    lea isa_native_switch(%rip), %rbx\n"
        "    mov %rsp, (%rbx)\n"
        "    movzwl 50(%rbx), %eax\n    mov %eax, %ds\n    movzwl 52(%rbx), %eax\n    mov %eax, %es\n"
        "    movzwl 48(%rbx), %eax\n    mov %eax, %fs\n    mov %eax, %gs\n"
        "    mov 24(%rbx), %rax\n    wrfsbase %rax\n"
        "    mov 32(%rbx), %rax\n    wrgsbase %rax\n"
        "    test %rdi, %rdi\n"
        "    jz 1f\n"
        "    mov %rdi, %rsp\n"
        "    mov $15, %eax\n" /* rt_sigreturn */
        "    syscall\n"
        "1:  ud2\n"
        ".globl isa_native_handler\n"
        ".type isa_native_handler, @function\n"
        "isa_native_handler:\n"
        "    push $0x202\n    popf\n"
        "    lea isa_native_switch(%rip), %rbx\n"
        "    rdfsbase %rax\n    mov %rax, 24(%rbx)\n"
        "    rdgsbase %rax\n    mov %rax, 32(%rbx)\n"
        "    mov %fs, 40(%rbx)\n    mov %gs, 42(%rbx)\n    mov %ds, 44(%rbx)\n    mov %es, 46(%rbx)\n"
        "    xor %eax, %eax\n    mov %eax, %fs\n    mov %eax, %gs\n"
        "    mov 8(%rbx), %rax\n    wrfsbase %rax\n"
        "    mov 16(%rbx), %rax\n    wrgsbase %rax\n"
        "    sub $8, %rsp\n"
        "    call isa_native_capture\n"
        "    lea isa_native_switch(%rip), %rbx\n"
        "    mov (%rbx), %rsp\n"
        "    pop %r15\n    pop %r14\n    pop %r13\n    pop %r12\n    pop %rbp\n    pop %rbx\n"
        "    xor %eax, %eax\n"
        "    ret\n");

_Static_assert(offsetof(struct isa_native_switch, host_fs) == 8 && offsetof(struct isa_native_switch, fs) == 24 &&
                   offsetof(struct isa_native_switch, fs_selector) == 40 &&
                   offsetof(struct isa_native_switch, selector) == 48 &&
                   offsetof(struct isa_native_switch, ds_before) == 50 &&
                   offsetof(struct isa_native_switch, es_before) == 52,
               "the assembly's offsets");
_Static_assert(offsetof(struct x86_fpu, ymm_high) == 576, "the standard XSAVE format");

struct native {
    struct isa_target target;
    ucontext_t frame;
    uint8_t fpu[FRAME_FPU] __attribute__((aligned(64)));
    ucontext_t captured;
    struct x86_fpu captured_fpu;
    int signal;
    bool template_wanted;
    bool ldt;
};
static struct native *native; /* the handler's */

/* The kernel's register order in a signal frame, by ours. */
static const int greg_of[16] = {REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP, REG_RSI, REG_RDI,
                                REG_R8,  REG_R9,  REG_R10, REG_R11, REG_R12, REG_R13, REG_R14, REG_R15};

static uint32_t frame_size(const void *fpstate)
{
    uint32_t size;

    memcpy(&size, (const uint8_t *)fpstate + 468, 4); /* struct _fpx_sw_bytes: extended_size */
    return size;
}

void isa_native_capture(int sig, siginfo_t *info, void *context)
{
    ucontext_t *uc = context;

    native->signal = sig;
    native->captured = *uc;
    memcpy(&native->captured_fpu, uc->uc_mcontext.fpregs, sizeof(native->captured_fpu));
    if (native->template_wanted) {
        native->template_wanted = false;
        memcpy(native->fpu, uc->uc_mcontext.fpregs, MIN(frame_size(uc->uc_mcontext.fpregs), FRAME_FPU));
    }
}

/* --- loading and storing ---------------------------------------------------------------- */

static void load(struct native *n, const struct isa_state *in, enum x86_mode mode)
{
    greg_t *gregs = n->frame.uc_mcontext.gregs;
    uint64_t features;

    for (unsigned i = 0; i < 16; i++)
        gregs[greg_of[i]] = (greg_t)in->gpr[i];
    gregs[REG_RIP] = (greg_t)in->rip;
    gregs[REG_EFL] = (greg_t)in->rflags;
    gregs[REG_CSGSFS] = (greg_t)(isa_code_selector(mode) | (uint64_t)isa_data_selector(in->ldt[SEG_SS]) << 48);
    memcpy(&features, n->fpu + 512, 8);
    features = (features & ~0xffull) | in->fpu.xstate_bv; /* PKRU stays; what AVX-512 adds is at rest */
    memcpy(n->fpu, &in->fpu, LEGACY_SIZE);
    memcpy(n->fpu + 512, &features, 8);
    memcpy(n->fpu + 576, in->fpu.ymm_high, sizeof(in->fpu.ymm_high));
    n->frame.uc_mcontext.fpregs = (void *)n->fpu;
    isa_native_switch.fs = in->fs_base;
    isa_native_switch.gs = in->gs_base;
    isa_native_switch.selector = mode == MODE_LONG64 ? 0 : ISA_DS;
    isa_native_switch.ds_before = isa_data_selector(in->ldt[SEG_DS]);
    isa_native_switch.es_before = isa_data_selector(in->ldt[SEG_ES]);
}

static void store(const struct native *n, struct isa_state *out)
{
    const greg_t *gregs = n->captured.uc_mcontext.gregs;

    memset(out, 0, sizeof(*out));
    for (unsigned i = 0; i < 16; i++)
        out->gpr[i] = (uint64_t)gregs[greg_of[i]];
    out->rip = (uint64_t)gregs[REG_RIP];
    out->rflags = (uint64_t)gregs[REG_EFL];
    out->fs_base = isa_native_switch.fs;
    out->gs_base = isa_native_switch.gs;
    out->fpu = n->captured_fpu;
    memset(out->fpu.reserved1, 0, sizeof(out->fpu.reserved1));
    out->fpu.xstate_bv &= 7;
    out->sel[SEG_CS] = (uint16_t)gregs[REG_CSGSFS];
    out->sel[SEG_SS] = (uint16_t)((uint64_t)gregs[REG_CSGSFS] >> 48);
    out->sel[SEG_DS] = isa_native_switch.ds;
    out->sel[SEG_ES] = isa_native_switch.es;
    out->sel[SEG_FS] = isa_native_switch.fs_selector;
    out->sel[SEG_GS] = isa_native_switch.gs_selector;
    out->vector = (uint8_t)gregs[REG_TRAPNO];
    out->error = (uint32_t)gregs[REG_ERR];
    out->cr2 = out->vector == VEC_PF ? (uint64_t)gregs[REG_CR2] : 0;
}

static struct sigaction action = {.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_NODEFER};

/* An engine may catch faults too. */
static void run(struct isa_target *target, const struct isa_memory *memory, const struct isa_state *in,
                struct isa_state *out, enum x86_mode mode)
{
    struct native *n = container_of(target, struct native, target);
    struct sigaction other;

    isa_restore_pages(target, memory);
    load(n, in, mode);
    sigaction(SIGSEGV, &action, &other);
    isa_native_enter(&n->frame);
    sigaction(SIGSEGV, &other, NULL);
    store(n, out);
}

static void load_code(struct isa_target *target, const struct isa_memory *memory, unsigned at, unsigned length)
{
    memcpy(target->page[at / PAGE_SIZE] + at % PAGE_SIZE, (const uint8_t *)memory->page + at, length);
}

static const struct isa_target_ops ops = {.load_code = load_code, .run = run};

/* --- setting up ------------------------------------------------------------------------- */

static int install(struct error *err)
{
    static const int signals[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP};
    const size_t size = 65536;
    stack_t stack = {.ss_sp = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0),
                     .ss_size = size};

    action.sa_sigaction = isa_native_handler;
    if (stack.ss_sp == MAP_FAILED || sigaltstack(&stack, NULL))
        return error_set(err, -errno, "no alternate signal stack: %s", strerror(errno));
    for (unsigned i = 0; i < ARRAY_SIZE(signals); i++)
        if (sigaction(signals[i], &action, NULL))
            return error_set(err, -errno, "no handler for signal %d: %s", signals[i], strerror(errno));
    return 0;
}

/* Each window twice: where tests run, with their permissions, and where the harness reads and writes it. */
static int map_windows(struct native *n, struct error *err)
{
    static const int protection[WINDOWS] = {PROT_READ | PROT_EXEC, PROT_READ | PROT_WRITE, PROT_READ | PROT_WRITE,
                                            PROT_READ | PROT_WRITE};
    int fd = memfd_create("isa", MFD_CLOEXEC);
    unsigned page = 0;
    uint8_t *alias;

    if (fd < 0 || ftruncate(fd, ISA_PAGES * PAGE_SIZE))
        return error_set(err, -errno, "no memory file: %s", strerror(errno));
    alias = mmap(NULL, ISA_PAGES * PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd, 0);
    for (unsigned i = 0; i < WINDOWS && alias != MAP_FAILED; i++) {
        const struct isa_window *w = &isa_windows[i];
        void *at = mmap((void *)w->lin, w->pages * PAGE_SIZE, protection[i],
                        MAP_SHARED | MAP_POPULATE | MAP_FIXED_NOREPLACE, fd, (off_t)(page * PAGE_SIZE));

        if (at != (void *)w->lin)
            return error_set(err, -ENOMEM, "cannot map the test window at %#lx", w->lin);
        for (unsigned k = 0; k < w->pages; k++, page++)
            n->target.page[page] = alias + page * PAGE_SIZE;
        if (i != WINDOW_CODE && w->readonly &&
            mprotect((void *)(w->lin + (w->pages - w->readonly) * PAGE_SIZE), w->readonly * PAGE_SIZE, PROT_READ))
            return error_set(err, -errno, "cannot protect a window");
    }
    close(fd);
    return alias == MAP_FAILED ? error_set(err, -ENOMEM, "no memory for the windows") : 0;
}

static bool make_ldt(void)
{
    for (unsigned i = 0; i < ISA_LDT; i++) {
        const struct isa_segment *s = &isa_ldt[i];
        const bool code = s->attr & ATTR_CODE;
        struct user_desc desc = {
            .entry_number = i,
            .base_addr = s->base,
            .limit = s->attr & ATTR_G ? s->limit >> PAGE_SHIFT : s->limit,
            .seg_32bit = !!(s->attr & ATTR_DB),
            .contents = (s->attr & (ATTR_CODE | ATTR_EXPAND_DOWN)) >> 2,
            .read_exec_only = !(s->attr & (code ? ATTR_READABLE : ATTR_WRITABLE)),
            .limit_in_pages = !!(s->attr & ATTR_G),
        };

        if (syscall(SYS_modify_ldt, 0x11, &desc, sizeof(desc)))
            return false;
    }
    return true;
}

/* Has the kernel let programs use RDFSBASE and WRFSBASE? <sys/auxv.h> cannot be included: <elf.h> takes PF_W. */
static bool can_set_bases(void)
{
    const unsigned at_hwcap2 = 26, fsgsbase = 2; /* asm/hwcap2.h */
    FILE *file = fopen("/proc/self/auxv", "rb");
    uint64_t pair[2];
    bool can = false;

    while (file && fread(pair, sizeof(pair), 1, file) == 1)
        can |= pair[0] == at_hwcap2 && (pair[1] & fsgsbase);
    if (file)
        fclose(file);
    return can;
}

bool isa_native_ldt(void)
{
    return native->ldt;
}

struct isa_target *isa_native_new(struct error *err)
{
    if (!can_set_bases()) {
        error_set(err, -ENOTSUP, "the host's programs cannot use WRFSBASE");
        return NULL;
    }
    native = aligned_alloc(64, ALIGN_UP(sizeof(*native), 64));
    if (!native) {
        error_set(err, -ENOMEM, "no memory");
        return NULL;
    }
    memset(native, 0, sizeof(*native));
    native->target.ops = &ops;
    native->target.name = "native";
    if (map_windows(native, err) || install(err))
        return NULL;
    native->ldt = make_ldt();
    isa_native_switch.ds_before = isa_native_switch.es_before = ISA_DS;
    __asm__ volatile("rdfsbase %0" : "=r"(isa_native_switch.host_fs));
    __asm__ volatile("rdgsbase %0" : "=r"(isa_native_switch.host_gs));
    /* A first signal shows what a frame looks like: from it come the mask, the flags and the size. */
    native->template_wanted = true;
    isa_native_enter(NULL);
    native->frame = native->captured;
    return &native->target;
}
