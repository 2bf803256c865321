/*
 * tests/isa/compare.c: host against engine, everything: general registers,
 * RIP, RFLAGS, segments, x87 with its control, status and tag words, MXCSR,
 * vector registers, memory, and the exception with its error code and CR2.
 *
 * Left out, as processors differ and software cannot rely on it:
 * - the x87's last instruction and data pointers (FIP, FDP, FOP), also where
 *   FNSTENV, FNSAVE, FXSAVE and XSAVE write them;
 * - what a gather that faults has completed, and which element faulted first.
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

static void compare_fpu(struct report *r, const struct x86_fpu *a, const struct x86_fpu *b)
{
    struct x86_fpu want = *a, got = *b;

    normalise(&want);
    normalise(&got);
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

static void compare_registers(struct report *r, const struct isa_state *want, const struct isa_state *got,
                              uint64_t undefined)
{
    static const char *const names[16] = {"RAX", "RCX", "RDX", "RBX", "RSP", "RBP", "RSI", "RDI",
                                          "R8",  "R9",  "R10", "R11", "R12", "R13", "R14", "R15"};
    static const char *const segments[6] = {"ES", "CS", "SS", "DS", "FS", "GS"};

    numbers(r, "RIP", want->rip, got->rip);
    for (unsigned i = 0; i < 16; i++)
        numbers(r, names[i], want->gpr[i], got->gpr[i]);
    numbers(r, "RFLAGS", want->rflags & ~undefined, got->rflags & ~undefined);
    numbers(r, "FS base", want->fs_base, got->fs_base);
    numbers(r, "GS base", want->gs_base, got->gs_base);
    for (unsigned i = 0; i < 6; i++)
        numbers(r, segments[i], want->sel[i], got->sel[i]);
}

static bool faulted_gather(const struct isa_insn *in, const struct isa_state *want)
{
    return in->insn.meta.category == ZYDIS_CATEGORY_AVX2GATHER && want->rip == in->rip;
}

static void compare_exception(struct report *r, const struct isa_insn *in, const struct isa_state *want,
                              const struct isa_state *got)
{
    uint32_t mask = 0xffffffff;

    if (got->vector == ISA_NO_VECTOR)
        say(r, "  no exception: %s\n", got->note);
    numbers(r, "vector", want->vector, got->vector);
    if (want->vector == VEC_PF && want->cr2 >= 0x7ffffffff000) /* Linux hides what is mapped there */
        mask = ~PF_P;
    numbers(r, "error", want->error & mask, got->error & mask);
    if (!faulted_gather(in, want))
        numbers(r, "CR2", want->cr2, got->cr2);
}

/* --- memory ------------------------------------------------------------------------------- */

/* The bytes of a stored x87 environment that are not compared: from, to. */
static bool pointer_bytes(const struct isa_insn *in, unsigned *from, unsigned *to)
{
    switch (in->insn.mnemonic) {
    case ZYDIS_MNEMONIC_FNSTENV:
    case ZYDIS_MNEMONIC_FNSAVE:
        *from = in->op[0].size == 112 || in->op[0].size == 752 ? 6 : 12;
        *to = *from == 6 ? 14 : 28;
        return true;
    case ZYDIS_MNEMONIC_FXSAVE:
    case ZYDIS_MNEMONIC_FXSAVE64:
    case ZYDIS_MNEMONIC_XSAVE:
    case ZYDIS_MNEMONIC_XSAVE64:
    case ZYDIS_MNEMONIC_XSAVEC:
    case ZYDIS_MNEMONIC_XSAVEC64:
    case ZYDIS_MNEMONIC_XSAVEOPT:
    case ZYDIS_MNEMONIC_XSAVEOPT64:
        *from = 6;
        *to = 24;
        return true;
    default:
        return false;
    }
}

/* In the engine's memory they become what the host wrote. */
static void level_pointers(const struct isa_insn *in, const struct isa_state *before, struct isa_target *native,
                           struct isa_target *target)
{
    unsigned from, to;
    uint64_t lin;

    if (!pointer_bytes(in, &from, &to))
        return;
    lin = isa_linear(in, before, &in->op[0]);
    for (unsigned i = from; i < to; i++) {
        int page = isa_page_of(lin + i);
        unsigned at = (lin + i) & ~PAGE_MASK;

        if (page >= ISA_CODE_PAGES)
            target->page[page][at] = native->page[page][at];
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

int isa_compare(const struct isa_insn *in, const struct isa_state *before, const struct isa_state *want,
                const struct isa_state *got, struct isa_target *native, struct isa_target *target, char *text,
                unsigned size)
{
    struct report r = {.text = text, .size = size};
    uint64_t undefined = isa_undefined_flags(in, before);

    *text = 0;
    compare_exception(&r, in, want, got);
    compare_registers(&r, want, got, undefined);
    if (!faulted_gather(in, want))
        compare_fpu(&r, &want->fpu, &got->fpu);
    level_pointers(in, before, native, target);
    compare_memory(&r, native, target);
    if (r.count)
        return want->vector == got->vector && want->rip == got->rip && isa_undefined_result(in, before) ? 1 : 2;
    return want->rflags != got->rflags;
}
