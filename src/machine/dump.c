/* machine/dump.c: a processor's state in words. */
#include <stdarg.h>
#include <stdio.h>

#include "machine/machine_internal.h"

struct text {
    char *at;
    size_t left;
};

static void __attribute__((format(printf, 2, 3))) put(struct text *text, const char *fmt, ...)
{
    va_list ap;
    int n;

    va_start(ap, fmt);
    n = vsnprintf(text->at, text->left, fmt, ap);
    va_end(ap);
    if (n > 0) {
        size_t used = MIN((size_t)n, text->left ? text->left - 1 : 0);

        text->at += used;
        text->left -= used;
    }
}

static void put_cpu(struct text *text, const struct x86_cpu *cpu)
{
    static const char *const gpr[] = {"rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi",
                                      "r8 ", "r9 ", "r10", "r11", "r12", "r13", "r14", "r15"};
    static const char *const seg[] = {"es", "cs", "ss", "ds", "fs", "gs"};

    for (unsigned i = 0; i < 16; i++)
        put(text, "%s %016lx%s", gpr[i], cpu->gpr[i], i % 4 == 3 ? "\n" : "  ");
    put(text, "rip %016lx  rflags %08lx  cr0 %08lx  cr2 %016lx\ncr3 %016lx  cr4 %08lx  efer %04lx\n", cpu->rip,
        cpu->rflags, cpu->cr0, cpu->cr2, cpu->cr3, cpu->cr4, cpu->msr.efer);
    for (unsigned i = 0; i < 6; i++)
        put(text, "%s %04x base %lx limit %x attr %04x%s", seg[i], cpu->seg[i].selector, cpu->seg[i].base,
            cpu->seg[i].limit, cpu->seg[i].attr, i % 2 ? "\n" : "  ");
    put(text, "tr %04x  ldtr %04x  gdtr %lx/%x  idtr %lx/%x", cpu->tr.selector, cpu->ldtr.selector, cpu->gdtr.base,
        cpu->gdtr.limit, cpu->idtr.base, cpu->idtr.limit);
}

void dump_cpu(char *buffer, size_t size, const struct x86_cpu *cpu)
{
    struct text text = {buffer, size};

    put_cpu(&text, cpu);
}

static const char *vector_name(uint8_t vector)
{
    static const char *const names[] = {
        [VEC_DE] = "#DE", [VEC_DB] = "#DB", [VEC_NMI] = "NMI", [VEC_BP] = "#BP", [VEC_OF] = "#OF", [VEC_BR] = "#BR",
        [VEC_UD] = "#UD", [VEC_NM] = "#NM", [VEC_DF] = "#DF",  [VEC_TS] = "#TS", [VEC_NP] = "#NP", [VEC_SS] = "#SS",
        [VEC_GP] = "#GP", [VEC_PF] = "#PF", [VEC_MF] = "#MF",  [VEC_AC] = "#AC", [VEC_MC] = "#MC", [VEC_XM] = "#XM",
    };

    return vector < ARRAY_SIZE(names) && names[vector] ? names[vector] : "an interrupt";
}

void dump_shutdown(char *buffer, size_t size, const struct exit *exit, const struct x86_cpu *cpu)
{
    struct text text = {buffer, size};

    if (exit->shutdown.vectors[0] == 0xff) { /* hardware: it may also have reset the registers by then */
        put(&text, "the guest's processor shut down (triple fault); this engine is not told what it began with.\n");
        put_cpu(&text, cpu);
        return;
    }
    put(&text, "the guest's processor shut down (triple fault). It began with %s at rip %#lx, error code %#x",
        vector_name(exit->shutdown.vectors[0]), exit->shutdown.rip, exit->shutdown.error);
    if (exit->shutdown.vectors[0] == VEC_PF)
        put(&text, ", address %#lx", exit->shutdown.cr2);
    for (unsigned i = 1; i < ARRAY_SIZE(exit->shutdown.vectors) && exit->shutdown.vectors[i] != 0xff; i++)
        put(&text, ", then %s", vector_name(exit->shutdown.vectors[i]));
    put(&text, ".\n");
    put_cpu(&text, cpu);
}
