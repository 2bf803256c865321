/*
 * engine/soft/run.c: the software engines' run loop, and the interpreter: the
 * textbook's first way to build a virtual machine, every instruction emulated,
 * one at a time.
 *
 * Most blocks run straight through, in soft_run_block() or by the engine's own means. Whatever needs a look between
 * two instructions (single-step, breakpoints, shadows, RF, an instruction
 * started anew after I/O, a budget, tracing) goes one by one through step().
 */
#include <stdio.h>
#include <string.h>

#include "base/log.h"
#include "engine/soft/run.h"
#include "x86/access.h"
#include "x86/intr.h"
#include "x86/io.h"
#include "x86/zydis.h"

#define CLOCK_INTERVAL 128 /* blocks between two looks at the clock: some microseconds */

#define DR7_ENABLED 0xff

static void trace_instruction(const struct x86_cpu *cpu, const struct block *block)
{
    uint8_t bytes[15];
    char text[96], hex[2 * sizeof(bytes) + 1] = "";
    unsigned length = block->insn[0].length;

    memcpy(bytes, block_bytes(block), length);
    x86_disassemble(text, sizeof(text), cpu->mode, bytes, length, cpu->rip);
    for (unsigned i = 0; i < length; i++)
        snprintf(hex + 2 * i, 3, "%02x", bytes[i]);
    TRACE(EXEC, "%04x:%016lx %-20s %s", cpu->seg[SEG_CS].selector, cpu->rip, hex, text);
}

/* The instruction is at its end. One that locked the devices may have ended otherwise than it began: another processor
 * changed its page, or it. */
static void forget_io(struct soft_vcpu *vcpu)
{
    if (unlikely(vcpu->cpu.io_count))
        soft_share_lock_devices(vcpu, false);
    x86_io_forget(&vcpu->cpu);
}

/* Leaves with what could not be done by the guest's own means. */
enum soft_outcome soft_leave(struct soft_vcpu *vcpu, struct exit *exit, enum x86_rc rc)
{
    struct x86_cpu *cpu = &vcpu->cpu;

    if (rc == X86_EXIT) {
        vcpu->restart = true;
        soft_io_exit(vcpu, exit);
        return SOFT_LEAVE;
    }
    forget_io(vcpu);
    cpu->dr6_hit = 0; /* a fault undoes the accesses before it */
    x86_deliver_exception(cpu);
    return SOFT_GO_ON;
}

static void fetch_failed(struct x86_cpu *cpu, struct exit *exit)
{
    exit->reason = EXIT_ERROR;
    snprintf(exit->error.text, sizeof(exit->error.text),
             "the guest executes at %#lx, where there is no memory (or the host has none left to decode it)", cpu->rip);
}

/* Bits of DR6 for execution breakpoints at lin (SDM vol. 3, 17.2.4: R/W = 00, LEN = 00). */
static uint64_t execution_breakpoints(const struct x86_cpu *cpu, gva_t lin)
{
    uint64_t hit = 0;

    for (unsigned i = 0; i < 4; i++)
        if ((cpu->dr[7] >> 2 * i & 3) && !(cpu->dr[7] >> (16 + 4 * i) & 3) && cpu->dr[i] == lin)
            hit |= BIT(i);
    return hit;
}

/* Software interrupts and system calls clear TF on their way in: no trap after them. */
static bool clears_trap(const struct x86_insn *in)
{
    switch (in->mnemonic) {
    case ZYDIS_MNEMONIC_INT:
    case ZYDIS_MNEMONIC_INT1:
    case ZYDIS_MNEMONIC_INT3:
    case ZYDIS_MNEMONIC_INTO:
    case ZYDIS_MNEMONIC_SYSCALL: /* it and SYSRET trap by themselves */
    case ZYDIS_MNEMONIC_SYSRET:
    case ZYDIS_MNEMONIC_SYSENTER:
        return true;
    default:
        return false;
    }
}

static bool loads_rf(const struct x86_insn *in)
{
    return in->mnemonic == ZYDIS_MNEMONIC_IRET || in->mnemonic == ZYDIS_MNEMONIC_IRETD ||
           in->mnemonic == ZYDIS_MNEMONIC_IRETQ;
}

/* After an instruction that was stepped: debug traps (data breakpoints, TF), held back by a MOV SS shadow. One between
 * two iterations of a REP string saves RF set (SDM vol. 3, 17.3.1.1). */
static void debug_traps(struct x86_cpu *cpu, bool tf, bool again)
{
    uint64_t hit;

    if (cpu->int_shadow == SHADOW_MOV_SS)
        return;
    hit = cpu->dr6_hit | (tf ? DR6_BS : 0);
    cpu->dr6_hit = 0;
    if (!hit || cpu->shutdown)
        return;
    x86_raise(cpu, VEC_DB);
    cpu->exc.cr2 = hit;
    if (again)
        cpu->rflags |= FLAG_RF;
    x86_deliver_exception(cpu);
}

/* A limit in CS (not 64-bit mode) may end within the instruction. */
static bool within_limit(const struct x86_cpu *cpu, const struct x86_insn *in)
{
    return cpu->mode == MODE_LONG64 || cpu->rip + in->length - 1 <= cpu->seg[SEG_CS].limit;
}

static enum soft_outcome finish_step(struct soft_vcpu *vcpu, const struct x86_insn *in, enum x86_rc rc, bool tf,
                                     bool rf)
{
    struct x86_cpu *cpu = &vcpu->cpu;

    if (rc == X86_NEXT)
        cpu->rip += in->length;
    if (rc != X86_AGAIN)
        cpu->counters.instructions++;
    forget_io(vcpu);
    if (rf && rc != X86_AGAIN && !loads_rf(in))
        cpu->rflags &= ~(uint64_t)FLAG_RF;
    debug_traps(cpu, tf && !(rc == X86_JUMP && clears_trap(in)), rc == X86_AGAIN);
    return SOFT_GO_ON;
}

static enum soft_outcome step(struct soft_vcpu *vcpu, const struct block *block, struct exit *exit)
{
    struct x86_cpu *cpu = &vcpu->cpu;
    const struct x86_insn *in = &block->insn[0];
    const bool tf = cpu->rflags & FLAG_TF, rf = cpu->rflags & FLAG_RF;
    const uint8_t shadow = cpu->int_shadow;
    enum x86_rc rc;

    if (trace_on(TRACE_EXEC))
        trace_instruction(cpu, block);
    if ((cpu->dr[7] & DR7_ENABLED) && !rf && shadow != SHADOW_MOV_SS && !vcpu->restart) {
        uint64_t hit = execution_breakpoints(cpu, (cpu->seg_base[SEG_CS] + cpu->rip) & cpu->lin_mask);

        if (hit) {
            x86_raise(cpu, VEC_DB);
            cpu->exc.cr2 = hit;
            x86_deliver_exception(cpu);
            return SOFT_GO_ON;
        }
    }
    vcpu->restart = false;
    x86_io_restart(cpu);
    cpu->int_shadow = SHADOW_NONE;
    rc = within_limit(cpu, in) ? in->exec(cpu, in) : x86_raise_gp(cpu, 0);
    cpu->code_changed = false;
    if (rc == X86_EXIT)
        cpu->int_shadow = shadow;
    if (rc >= X86_FAULT)
        return soft_leave(vcpu, exit, rc);
    return finish_step(vcpu, in, rc, tf, rf);
}

enum soft_outcome soft_run_block(struct soft_vcpu *vcpu, struct block *block, struct exit *exit, uint64_t end)
{
    struct x86_cpu *cpu = &vcpu->cpu;
    const struct x86_insn *in = block->insn, *const last = in + block->count;
    enum x86_rc rc = X86_NEXT;

    cpu->code_changed = false;
    do {
        rc = in->exec(cpu, in);
        if (unlikely(rc != X86_NEXT))
            break;
        cpu->rip += in->length;
        in++;
    } while (in < last && likely(!cpu->code_changed));
    cpu->counters.instructions += (uint64_t)(in - block->insn);
    cpu->counters.blocks_run++;
    if (likely(rc <= X86_AGAIN)) {
        cpu->counters.instructions += rc == X86_JUMP;
        return SOFT_GO_ON;
    }
    return soft_leave(vcpu, exit, rc);
}

/* Must instructions be looked at one by one now? */
bool soft_stepping(const struct soft_vcpu *vcpu, const struct block *block)
{
    const struct x86_cpu *cpu = &vcpu->cpu;

    return (cpu->rflags & (FLAG_TF | FLAG_RF)) | (cpu->dr[7] & DR7_ENABLED) | cpu->int_shadow | vcpu->restart |
               trace_on(TRACE_EXEC) ||
           (cpu->mode != MODE_LONG64 && cpu->rip + block->bytes - 1 > cpu->seg[SEG_CS].limit);
}

/* What must be looked at between two blocks. */
static enum soft_outcome between(struct soft_vcpu *vcpu, struct exit *exit)
{
    struct x86_cpu *cpu = &vcpu->cpu;

    /* An instruction with I/O answers in its log is finished first, so that what they say cannot be lost. */
    vcpu->clock_countdown = vcpu->restart ? 1 : CLOCK_INTERVAL;
    if (!vcpu->restart && soft_attend(vcpu, exit))
        return SOFT_LEAVE;
    while (cpu->halted || cpu->wait_for_sipi)
        if (soft_sleep(vcpu, exit))
            return SOFT_LEAVE;
    return SOFT_GO_ON;
}

static enum soft_outcome shut_down(struct x86_cpu *cpu, struct exit *exit)
{
    exit->reason = EXIT_SHUTDOWN;
    memcpy(exit->shutdown.vectors, cpu->shutdown_cause.vectors, sizeof(exit->shutdown.vectors));
    exit->shutdown.rip = cpu->shutdown_cause.rip;
    exit->shutdown.cr2 = cpu->shutdown_cause.cr2;
    exit->shutdown.error = cpu->shutdown_cause.error;
    return SOFT_LEAVE;
}

static enum soft_outcome run_once(struct soft_vcpu *vcpu, struct exit *exit, uint64_t end, soft_block_fn *run_block)
{
    struct x86_cpu *cpu = &vcpu->cpu;
    enum x86_rc rc = X86_NEXT;
    struct block *block;

    code_sweep(vcpu);
    block = code_find(vcpu, &rc);
    if (unlikely(!block)) {
        if (rc == X86_EXIT) {
            fetch_failed(cpu, exit);
            return SOFT_LEAVE;
        }
        return soft_leave(vcpu, exit, rc);
    }
    if (unlikely(soft_stepping(vcpu, block)) || unlikely(end - cpu->counters.instructions < block->count))
        return step(vcpu, block, exit);
    return run_block(vcpu, block, exit, end);
}

static void run(struct soft_vcpu *vcpu, struct exit *exit, uint64_t end, soft_block_fn *run_block)
{
    struct x86_cpu *cpu = &vcpu->cpu;

    vcpu->clock_countdown = 1;
    for (;;) {
        if (unlikely(!--vcpu->clock_countdown) || unlikely(soft_attention(vcpu)) || unlikely(cpu->halted)) {
            if (between(vcpu, exit) == SOFT_LEAVE)
                return;
        }
        if (unlikely(cpu->shutdown)) {
            shut_down(cpu, exit);
            return;
        }
        if (unlikely(cpu->counters.instructions >= end)) {
            exit->reason = EXIT_BUDGET;
            return;
        }
        if (run_once(vcpu, exit, end, run_block) == SOFT_LEAVE)
            return;
    }
}

void soft_run(struct soft_vcpu *vcpu, struct exit *exit, uint64_t budget, soft_block_fn *run_block)
{
    soft_resume(vcpu, exit);
    soft_share_enter(vcpu);
    run(vcpu, exit, budget ? vcpu->cpu.counters.instructions + budget : UINT64_MAX, run_block);
    soft_share_leave(vcpu);
    soft_io_leave(vcpu, exit);
}
