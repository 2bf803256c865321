/*
 * tests/isa/compare.c: host against engine, everything: general registers,
 * RIP, RFLAGS, segments, x87 with its control, status and tag words, MXCSR,
 * vector registers, memory, and the exception with its error code and CR2.
 *
 * Left out, as processors differ and software cannot rely on it:
 * - the x87's last instruction and data pointers (FIP, FDP, FOP), also where
 *   FNSTENV, FNSAVE, FXSAVE and XSAVE write them, and MXCSR_MASK;
 * - MXCSR.PE with an unmasked overflow or underflow: it tells whether a result
 *   with an unbounded exponent would have been exact;
 * - RF in the frame of a single-step trap between two iterations of a REP
 *   string: Intel's set it (SDM vol. 3, 17.3.1.1), AMD's do not;
 * - which of several faults an instruction with several accesses meets first,
 *   and what it has completed by then (latitudes[] below).
 */
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "isa.h"

struct report {
    char *text;
    unsigned size, length, count;
};

static void __attribute__((format(printf, 2, 3))) say(struct report *r, const char *fmt, ...)
{
    va_list args;
    int n;

    r->count++;
    if (r->length + 1 >= r->size)
        return;
    va_start(args, fmt);
    n = vsnprintf(r->text + r->length, r->size - r->length, fmt, args);
    va_end(args);
    if (n > 0)
        r->length = MIN(r->length + (unsigned)n, r->size - 1);
}

static void numbers(struct report *r, const char *name, uint64_t want, uint64_t got)
{
    if (want != got)
        say(r, "  %-8s host %#18lx  engine %#18lx\n", name, want, got);
}

static void hex(char *out, const uint8_t *bytes, unsigned size)
{
    for (unsigned i = 0; i < size; i++)
        sprintf(out + 2 * i, "%02x", bytes[size - 1 - i]);
}

static void bytes(struct report *r, const char *name, unsigned n, const uint8_t *want, const uint8_t *got,
                  unsigned size)
{
    char a[40], b[40];

    if (!memcmp(want, got, size))
        return;
    hex(a, want, size);
    hex(b, got, size);
    say(r, "  %s%-5u host %s  engine %s\n", name, n, a, b);
}

/* --- registers --------------------------------------------------------------------------- */

/* Components that are not in use hold their initial values. */
static void normalise(struct x86_fpu *fpu)
{
    if (!(fpu->xstate_bv & XCR0_X87)) {
        fpu->fcw = 0x37f;
        fpu->fsw = fpu->ftw = 0;
        memset(fpu->st, 0, sizeof(fpu->st));
    }
    if (!(fpu->xstate_bv & XCR0_SSE))
        memset(fpu->xmm, 0, sizeof(fpu->xmm));
    if (!(fpu->xstate_bv & XCR0_AVX))
        memset(fpu->ymm_high, 0, sizeof(fpu->ymm_high));
}

/* Has an unmasked overflow or underflow been raised? */
static bool exponent_trap(const struct isa_state *after)
{
    uint32_t unmasked = ~(after->fpu.mxcsr >> 7) & 0x18;

    return after->vector == VEC_XM && (after->fpu.mxcsr & unmasked);
}

static void compare_fpu(struct report *r, const struct isa_state *a, const struct isa_state *b)
{
    struct x86_fpu want = a->fpu, got = b->fpu;

    normalise(&want);
    normalise(&got);
    if (exponent_trap(a))
        got.mxcsr = (got.mxcsr & ~0x20u) | (want.mxcsr & 0x20);
    numbers(r, "FCW", want.fcw, got.fcw);
    numbers(r, "FSW", want.fsw, got.fsw);
    numbers(r, "FTW", want.ftw, got.ftw);
    numbers(r, "MXCSR", want.mxcsr, got.mxcsr);
    for (unsigned i = 0; i < 8; i++)
        bytes(r, "ST", i, want.st[i], got.st[i], 10);
    for (unsigned i = 0; i < 16; i++) {
        bytes(r, "XMM", i, want.xmm[i], got.xmm[i], 16);
        bytes(r, "YMMH", i, want.ymm_high[i], got.ymm_high[i], 16);
    }
}

/* --- what processors are free to do ------------------------------------------------------- */

enum latitude {
    ORDER = 1,      /* several accesses: any fault of them may come first */
    PARTIAL = 2,    /* registers and memory may have been changed before the fault */
    MASKED = 4,     /* bytes that are masked off may fault or not */
    COMPONENTS = 8, /* so may state components that are not asked for */
};

static const struct {
    uint16_t mnemonic;
    uint8_t latitude;
} latitudes[] = {
    {ZYDIS_MNEMONIC_CMPSB, ORDER},
    {ZYDIS_MNEMONIC_CMPSW, ORDER},
    {ZYDIS_MNEMONIC_CMPSD, ORDER},
    {ZYDIS_MNEMONIC_CMPSQ, ORDER},
    {ZYDIS_MNEMONIC_ENTER, ORDER},
    {ZYDIS_MNEMONIC_POPA, ORDER | PARTIAL},
    {ZYDIS_MNEMONIC_POPAD, ORDER | PARTIAL},
    {ZYDIS_MNEMONIC_IRET, ORDER},
    {ZYDIS_MNEMONIC_IRETD, ORDER},
    {ZYDIS_MNEMONIC_IRETQ, ORDER},
    {ZYDIS_MNEMONIC_LDS, ORDER},
    {ZYDIS_MNEMONIC_LES, ORDER},
    {ZYDIS_MNEMONIC_LFS, ORDER},
    {ZYDIS_MNEMONIC_LGS, ORDER},
    {ZYDIS_MNEMONIC_LSS, ORDER},
    {ZYDIS_MNEMONIC_FNSTENV, ORDER},
    {ZYDIS_MNEMONIC_FNSAVE, ORDER},
    {ZYDIS_MNEMONIC_FLDENV, ORDER},
    {ZYDIS_MNEMONIC_FRSTOR, ORDER},
    {ZYDIS_MNEMONIC_FXSAVE, ORDER},
    {ZYDIS_MNEMONIC_FXSAVE64, ORDER},
    {ZYDIS_MNEMONIC_FXRSTOR, ORDER},
    {ZYDIS_MNEMONIC_FXRSTOR64, ORDER},
    {ZYDIS_MNEMONIC_XSAVE, ORDER | PARTIAL | COMPONENTS},
    {ZYDIS_MNEMONIC_XSAVE64, ORDER | PARTIAL | COMPONENTS},
    {ZYDIS_MNEMONIC_XSAVEC, ORDER | PARTIAL | COMPONENTS},
    {ZYDIS_MNEMONIC_XSAVEC64, ORDER | PARTIAL | COMPONENTS},
    {ZYDIS_MNEMONIC_XSAVEOPT, ORDER | PARTIAL | COMPONENTS},
    {ZYDIS_MNEMONIC_XSAVEOPT64, ORDER | PARTIAL | COMPONENTS},
    {ZYDIS_MNEMONIC_XRSTOR, ORDER | PARTIAL | COMPONENTS},
    {ZYDIS_MNEMONIC_XRSTOR64, ORDER | PARTIAL | COMPONENTS},
    {ZYDIS_MNEMONIC_MASKMOVQ, MASKED},
    {ZYDIS_MNEMONIC_MASKMOVDQU, MASKED},
    {ZYDIS_MNEMONIC_VMASKMOVDQU, MASKED},
};

static unsigned latitude_of(const struct isa_insn *in)
{
    if (in->insn.meta.category == ZYDIS_CATEGORY_AVX2GATHER)
        return ORDER | PARTIAL;
    if (in->insn.meta.branch_type == ZYDIS_BRANCH_TYPE_FAR)
        return ORDER | (in->insn.meta.category == ZYDIS_CATEGORY_CALL ? PARTIAL : 0);
    for (unsigned i = 0; i < ARRAY_SIZE(latitudes); i++)
        if (latitudes[i].mnemonic == in->insn.mnemonic)
            return latitudes[i].latitude;
    return 0;
}

static bool memory_fault(const struct isa_insn *in, const struct isa_state *after)
{
    static const uint32_t vectors =
        1u << VEC_TS | 1u << VEC_NP | 1u << VEC_SS | 1u << VEC_GP | 1u << VEC_PF | 1u << VEC_AC;

    return after->vector < 32 && (vectors >> after->vector & 1) && after->rip == in->rip;
}

/* A null selector's RPL is lost on the way back from the kernel: IRET to an outer ring clears it. */
static uint16_t visible(uint16_t selector)
{
    return selector < 4 ? 0 : selector;
}

static void compare_registers(struct report *r, const struct isa_state *want, const struct isa_state *got,
                              uint64_t undefined)
{
    static const char *const names[16] = {"RAX", "RCX", "RDX", "RBX", "RSP", "RBP", "RSI", "RDI",
                                          "R8",  "R9",  "R10", "R11", "R12", "R13", "R14", "R15"};
    static const char *const segments[6] = {"ES", "CS", "SS", "DS", "FS", "GS"};

    numbers(r, "RIP", want->rip, got->rip);
    for (unsigned i = 0; i < 16; i++) {
        /* After a switch to 32-bit code the upper halves are undefined. */
        uint64_t mask = i == RSP && want->sel[SEG_CS] != ISA_CS64 ? 0xffffffff : ~0ull;

        numbers(r, names[i], want->gpr[i] & mask, got->gpr[i] & mask);
    }
    numbers(r, "RFLAGS", want->rflags & ~undefined, got->rflags & ~undefined);
    numbers(r, "FS base", want->fs_base, got->fs_base);
    numbers(r, "GS base", want->gs_base, got->gs_base);
    for (unsigned i = 0; i < 6; i++)
        numbers(r, segments[i], visible(want->sel[i]), visible(got->sel[i]));
}

/* RF in what a single-step trap within a REP string saves. */
static uint64_t undefined_rf(const struct isa_insn *in, const struct isa_state *want)
{
    return want->vector == VEC_DB && want->rip == in->rip ? FLAG_RF : 0;
}

static void compare_exception(struct report *r, const struct isa_state *want, const struct isa_state *got)
{
    uint32_t mask = 0xffffffff;

    if (got->vector == ISA_NO_VECTOR)
        say(r, "  no exception: %s\n", got->note);
    numbers(r, "vector", want->vector, got->vector);
    if (want->vector == VEC_PF && want->cr2 >= 0x7ffffffff000) /* Linux hides what is mapped there */
        mask = ~PF_P;
    numbers(r, "error", want->error & mask, got->error & mask);
    numbers(r, "CR2", want->cr2, got->cr2);
}

/* --- memory ------------------------------------------------------------------------------- */

struct range {
    unsigned from, to;
};

/* The bytes of a stored x87 environment that are not compared. */
static void pointer_bytes(const struct isa_insn *in, struct range ranges[2])
{
    switch (in->insn.mnemonic) {
    case ZYDIS_MNEMONIC_FNSTENV:
    case ZYDIS_MNEMONIC_FNSAVE:
        ranges[0] = in->op[0].size == 112 || in->op[0].size == 752 ? (struct range){6, 14} : (struct range){12, 28};
        break;
    case ZYDIS_MNEMONIC_FXSAVE:
    case ZYDIS_MNEMONIC_FXSAVE64:
    case ZYDIS_MNEMONIC_XSAVE:
    case ZYDIS_MNEMONIC_XSAVE64:
    case ZYDIS_MNEMONIC_XSAVEC:
    case ZYDIS_MNEMONIC_XSAVEC64:
    case ZYDIS_MNEMONIC_XSAVEOPT:
    case ZYDIS_MNEMONIC_XSAVEOPT64:
        ranges[0] = (struct range){6, 24};
        ranges[1] = (struct range){28, 32};
        break;
    default:
        break;
    }
}

/* In the engine's memory they become what the host wrote. */
static void level_pointers(const struct isa_insn *in, const struct isa_state *before, struct isa_target *native,
                           struct isa_target *target)
{
    struct range ranges[2] = {{0}};

    pointer_bytes(in, ranges);
    for (unsigned n = 0; n < 2; n++)
        for (unsigned i = ranges[n].from; i < ranges[n].to; i++) {
            uint64_t lin = isa_linear(in, before, &in->op[0]) + i;
            int page = isa_page_of(lin);

            if (page >= ISA_CODE_PAGES)
                target->page[page][lin & ~PAGE_MASK] = native->page[page][lin & ~PAGE_MASK];
        }
}

static uint64_t address_of_page(unsigned page)
{
    for (unsigned i = 0; i < WINDOWS; i++) {
        if (page < isa_windows[i].pages)
            return isa_windows[i].lin + page * PAGE_SIZE;
        page -= isa_windows[i].pages;
    }
    return 0;
}

static void compare_memory(struct report *r, struct isa_target *native, struct isa_target *target)
{
    for (unsigned page = ISA_CODE_PAGES; page < ISA_PAGES; page++) {
        const uint8_t *want = native->page[page], *got = target->page[page];
        unsigned shown = 0;

        if (!memcmp(want, got, PAGE_SIZE))
            continue;
        for (unsigned i = 0; i < PAGE_SIZE && shown < 8; i += 8)
            if (memcmp(want + i, got + i, 8)) {
                uint64_t a, b;

                memcpy(&a, want + i, 8);
                memcpy(&b, got + i, 8);
                say(r, "  [%08lx] host %016lx  engine %016lx\n", address_of_page(page) + i, a, b);
                shown++;
            }
    }
}

/* AddressSanitizer's shadow fills linear addresses that are free in the guest: an access there says nothing. */
static bool hits_shadow(const struct isa_state *got)
{
#ifdef __SANITIZE_ADDRESS__
    return got->vector == VEC_PF && got->cr2 - 0x7fff8000 < 0x100000000000;
#else
    return false;
#endif
}

int isa_compare(const struct isa_insn *in, const struct isa_state *before, const struct isa_state *want,
                const struct isa_state *got, struct isa_target *native, struct isa_target *target, char *text,
                unsigned size)
{
    struct report r = {.text = text, .size = size};
    uint64_t undefined = isa_undefined_flags(in, before) | undefined_rf(in, want);
    unsigned latitude = latitude_of(in);
    bool both_fault = memory_fault(in, want) && memory_fault(in, got);

    *text = 0;
    if (hits_shadow(got))
        return 1;
    /* 32-bit code saves half of the vector registers, but the host may look at the room for all. */
    if ((latitude & COMPONENTS) && in->mode == MODE_LONG64 && (before->gpr[RAX] & before->fpu.xstate_bv & 7) == 7)
        latitude &= ~(unsigned)COMPONENTS;
    if ((latitude & (MASKED | COMPONENTS)) && (memory_fault(in, want) || memory_fault(in, got)))
        return 1;
    if (!(latitude & ORDER) || !both_fault)
        compare_exception(&r, want, got);
    if (!(latitude & PARTIAL) || !both_fault) {
        compare_registers(&r, want, got, undefined);
        compare_fpu(&r, want, got);
        level_pointers(in, before, native, target);
        compare_memory(&r, native, target);
    }
    if (r.count)
        return want->vector == got->vector && want->rip == got->rip && isa_undefined_result(in, before) ? 1 : 2;
    return want->rflags != got->rflags;
}
