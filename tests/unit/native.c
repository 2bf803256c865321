/*
 * tests/unit/native.c: see native.h. A stub in the fixture's RAM (below 4 GiB, so
 * that it has absolute addresses) loads everything, runs the instruction, and
 * stores everything. A #DE skips to the storing half.
 */
#include "native.h"

#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <ucontext.h>

#include "cpu_fixture.h"

#define STUB      (FIX_BASE + 0x90000)
#define STATE     (FIX_BASE + 0xa0000) /* struct native_state */
#define SAVED_RSP (FIX_BASE + 0xa1000)

static uint8_t *out;
static uint8_t *epilogue;
static volatile sig_atomic_t divide_error;

static void on_fpe(int sig, siginfo_t *info, void *context)
{
    ucontext_t *uc = context;

    divide_error = 1;
    uc->uc_mcontext.gregs[REG_RIP] = (greg_t)(uintptr_t)epilogue;
}

static void catch_fpe(void)
{
    static uint8_t room[65536];
    static bool done;
    struct sigaction action = {.sa_sigaction = on_fpe, .sa_flags = SA_SIGINFO | SA_ONSTACK};
    stack_t stack = {.ss_sp = room, .ss_size = sizeof(room)};

    if (done)
        return;
    done = true;
    sigaltstack(&stack, NULL);
    sigaction(SIGFPE, &action, NULL);
}

static void emit(const void *bytes, unsigned n)
{
    memcpy(out, bytes, n);
    out += n;
}

#define EMIT(...) emit((const uint8_t[]){__VA_ARGS__}, sizeof((const uint8_t[]){__VA_ARGS__}))

/* An instruction with a 64-bit register operand and the memory operand [addr]. */
static void emit_abs(uint8_t opcode, unsigned reg, uint64_t addr)
{
    uint32_t disp = (uint32_t)addr;

    EMIT((uint8_t)(0x48 | (reg >= 8 ? 4 : 0)), opcode, (uint8_t)((reg & 7) << 3 | 4), 0x25);
    emit(&disp, 4);
}

#define LOAD  0x8b
#define STORE 0x89

static void build(const uint8_t *bytes, unsigned size)
{
    const uint64_t flags = STATE + offsetof(struct native_state, rflags);

    out = (uint8_t *)STUB;
    EMIT(0x53, 0x55, 0x41, 0x54, 0x41, 0x55, 0x41, 0x56, 0x41, 0x57); /* push rbx, rbp, r12..r15 */
    emit_abs(STORE, 4, SAVED_RSP);
    emit_abs(0xff, 6, flags); /* push [flags] */
    EMIT(0x9d);               /* popfq */
    for (unsigned i = 0; i < 16; i++)
        emit_abs(LOAD, i, STATE + 8 * i);
    emit(bytes, size);
    epilogue = out;
    for (unsigned i = 0; i < 16; i++)
        emit_abs(STORE, i, STATE + 8 * i);
    emit_abs(LOAD, 4, SAVED_RSP);
    EMIT(0x9c);               /* pushfq */
    emit_abs(0x8f, 0, flags); /* pop [flags] */
    EMIT(0xfc);               /* cld */
    EMIT(0x41, 0x5f, 0x41, 0x5e, 0x41, 0x5d, 0x41, 0x5c, 0x5d, 0x5b, 0xc3);
}

bool native_run(struct native_state *state, const uint8_t *bytes, unsigned size)
{
    struct native_state *shared = (struct native_state *)STATE;

    catch_fpe();
    build(bytes, size);
    divide_error = 0;
    *shared = *state;
    shared->rflags |= 0x202;
    ((void (*)(void))STUB)();
    *state = *shared;
    return !divide_error;
}
