/*
 * engine/lockstep/steps.c: lockstep with a hardware engine, which cannot count
 * instructions but can be told to do one, by the trap flag.
 *
 * The counting side goes first. Then it is known what the instruction was:
 *
 * - A plain one is done by the hardware too, and all state is compared.
 * - One that delivers an event (exception, interrupt, INT), moves the flags to
 *   or from a register or memory, or asks for what the two have differently
 *   (time, CPUID, the APIC's registers) cannot be stepped: the trap flag would
 *   be saved with the flags, and is lost on the way into a handler. The hardware
 *   does not do it: state and memory are carried over to it. Memory is compared
 *   before that, as far as it is known before; what an event's delivery may have
 *   written is a few bytes.
 *
 * An instruction that has been compared often (a loop) is left to the counting
 * side, and carried over likewise when something new comes; after so many
 * comparisons, all that follows is.
 */
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "engine/lockstep/compare.h"
#include "engine/lockstep/lockstep_internal.h"
#include "x86/bus.h"
#include "x86/insn.h"
#include "x86/intr.h"
#include "x86/mmu.h"
#include "x86/tlb.h"
#include "x86/zydis.h"

#define SEEN         65536 /* instructions whose comparisons are counted; some share a counter */
#define OFTEN        4     /* comparisons of one instruction, before it is left to the counting side */
#define STRIDE_MAX   256   /* instructions that side does alone before it looks whether something new has come */
#define BUDGET       4096  /* comparisons in a guest's life; a carrying over counts as some */
#define CARRY_COST   8
#define STRIDE_END   65536 /* the same when the budget is used up */
#define REPETITIONS  64    /* of a string instruction, which the hardware stops after each of */
#define BEHIND       3     /* instructions that a step may take: what follows a load of SS comes with it */
#define EVENT_BYTES  512   /* that the delivery of an event may change: frames, a TSS, accessed and dirty bits */
#define PATIENCE_NS  2000000000ull
#define MAX_LENGTH   15
#define MAX_PREFIXES 4
#define PTE_ACCESSED 0x20
#define TIMES        4 /* exits in one instruction: an access, and the end of an interrupt */

struct steps {
    struct engine_vcpu *vcpu;
    struct side *counting, *hardware;
    enum { NO_ACCESS, ALONE, BOTH } access; /* who is in the middle of an instruction, whose access is being answered */
    bool open;                              /* the hardware is in the middle of its access, and has not the answer */
    bool carry;                             /* the hardware is behind: state and memory are to be carried over */
    bool checked;     /* memory was equal, or carried over, and nothing has been written by the counting side alone */
    bool no_user;     /* this KVM gives a step's trap in user code to the guest */
    uint8_t code[16]; /* at the counting side's RIP, as far as it can be fetched */
    unsigned code_size;
    unsigned stride;                       /* instructions that the counting side does alone next */
    struct x86_cpu *before, *after, *hard; /* the counting side's, the hardware's */
    struct x86_cpu *reader;                /* reads code as the counting side does */
    struct x86_tlb *tlb;                   /* the reader's: stays empty */
    uint64_t compared, carried;
    uint8_t seen[SEEN]; /* how often the instruction of those bytes at that address has been compared */
};

/* --- what is to be executed next ------------------------------------------------------------ */

static uint8_t *reader_page(struct x86_cpu *cpu, gpa_t gpa, unsigned *flags)
{
    const struct steps *s = cpu->engine;
    const struct mem_slot *slot = mem_find(s->counting->mem, gpa);

    *flags = 0;
    return slot ? slot->host + ((gpa & PAGE_MASK) - slot->gpa) : NULL;
}

static const struct x86_bus_ops reader_ops = {.page = reader_page};

static void fetch(struct steps *s)
{
    struct x86_cpu *cpu = s->reader;
    unsigned n = 0;
    gpa_t gpa;

    memcpy(cpu, s->before, offsetof(struct x86_cpu, mode));
    cpu->bus = &reader_ops;
    cpu->engine = s;
    x86_update_mode(cpu);
    memset(s->code, 0, sizeof(s->code));
    while (n < MAX_LENGTH) {
        gva_t lin = (cpu->seg_base[SEG_CS] + cpu->rip + n) & cpu->lin_mask;
        unsigned part = (unsigned)MIN(MAX_LENGTH - n, PAGE_SIZE - (lin & ~PAGE_MASK));

        if (x86_translate(cpu, lin, ACCESS_FETCH | ACCESS_PROBE, &gpa) ||
            mem_read(s->counting->mem, gpa, s->code + n, part))
            break;
        n += part;
    }
    s->code_size = n;
}

/* Has it been compared often enough? */
static bool often(struct steps *s)
{
    const gva_t lin = s->before->seg[SEG_CS].base + s->before->rip;
    uint64_t low, high, hash;

    memcpy(&low, s->code, 8);
    memcpy(&high, s->code + 8, 8);
    hash = (lin * 3 + low) * 0x9e3779b97f4a7c15ull ^ high * 0xc2b2ae3d27d4eb4full;
    hash ^= hash >> 29;
    if (s->seen[hash % SEEN] >= OFTEN)
        return true;
    s->seen[hash % SEEN]++;
    return false;
}

/* A string instruction writes much before an event is delivered amid it. */
static bool repeats(const struct steps *s)
{
    return memchr(s->code, 0xf2, MAX_PREFIXES) || memchr(s->code, 0xf3, MAX_PREFIXES);
}

/* MSRs that hold time, or are the APIC's. */
static bool private_msr(uint32_t msr)
{
    return msr == 0x10 || msr == 0x3b || msr == 0x1b || msr == 0x6e0 || (msr >= 0x800 && msr < 0x900) ||
           (msr & 0xffffff00) == 0x4b564d00;
}

static bool user_code(const struct x86_cpu *cpu)
{
    return (cpu->cr0 & CR0_PE) && (cpu->rflags & FLAG_VM || (cpu->seg[SEG_SS].attr & ATTR_DPL) == ATTR_DPL);
}

/* An access to ports that the I/O bitmap decides, or a call to an inner ring: QEMU's processor, given the task register
 * as it is in the other (busy), sees no TSS, or ends itself. */
static bool needs_tss(const struct x86_insn *in, const struct x86_cpu *cpu)
{
    const bool vm = cpu->rflags & FLAG_VM;
    const unsigned cpl = vm ? 3 : (cpu->seg[SEG_SS].attr & ATTR_DPL) >> 5;

    if (!(cpu->cr0 & CR0_PE) || !cpl)
        return false;
    switch (in->mnemonic) {
    case ZYDIS_MNEMONIC_IN:
    case ZYDIS_MNEMONIC_INSB:
    case ZYDIS_MNEMONIC_INSW:
    case ZYDIS_MNEMONIC_INSD:
    case ZYDIS_MNEMONIC_OUT:
    case ZYDIS_MNEMONIC_OUTSB:
    case ZYDIS_MNEMONIC_OUTSW:
    case ZYDIS_MNEMONIC_OUTSD:
        return vm || cpl > (cpu->rflags >> 12 & 3);
    case ZYDIS_MNEMONIC_CALL:
        return in->shape == SHAPE_II || in->memsize > in->opsize;
    default:
        return false;
    }
}

/* Cannot be stepped, whatever comes of it. */
static bool known_dark(struct steps *s)
{
    static const uint16_t mnemonics[] = {
        ZYDIS_MNEMONIC_PUSHF,  ZYDIS_MNEMONIC_PUSHFD,  ZYDIS_MNEMONIC_PUSHFQ,
        ZYDIS_MNEMONIC_POPF,   ZYDIS_MNEMONIC_POPFD,   ZYDIS_MNEMONIC_POPFQ,
        ZYDIS_MNEMONIC_IRET,   ZYDIS_MNEMONIC_IRETD,   ZYDIS_MNEMONIC_IRETQ,
        ZYDIS_MNEMONIC_INT,    ZYDIS_MNEMONIC_INT1,    ZYDIS_MNEMONIC_INT3,
        ZYDIS_MNEMONIC_INTO,   ZYDIS_MNEMONIC_BOUND,   ZYDIS_MNEMONIC_SYSCALL,
        ZYDIS_MNEMONIC_SYSRET, ZYDIS_MNEMONIC_SYSEXIT, ZYDIS_MNEMONIC_CPUID,
        ZYDIS_MNEMONIC_RDTSC,  ZYDIS_MNEMONIC_RDTSCP,  ZYDIS_MNEMONIC_RDPMC,
        ZYDIS_MNEMONIC_RDRAND, ZYDIS_MNEMONIC_RDSEED,  ZYDIS_MNEMONIC_VMMCALL,
        ZYDIS_MNEMONIC_VMCALL, ZYDIS_MNEMONIC_HLT,     ZYDIS_MNEMONIC_SYSENTER,
        ZYDIS_MNEMONIC_STI, /* QEMU's processor does the next instruction too */
    };
    struct x86_insn in;

    if ((s->no_user && user_code(s->before)) || s->before->nmi_pending || s->before->halted ||
        (s->before->rflags & FLAG_TF) || !s->code_size || !x86_decode(&in, s->reader->mode, s->code, s->code_size) ||
        needs_tss(&in, s->before))
        return true;
    for (unsigned i = 0; i < ARRAY_SIZE(mnemonics); i++)
        if (in.mnemonic == mnemonics[i])
            return true;
    return (in.mnemonic == ZYDIS_MNEMONIC_RDMSR || in.mnemonic == ZYDIS_MNEMONIC_WRMSR) &&
           private_msr((uint32_t)s->before->gpr[RCX]);
}

/* What was executed delivered an event, or changed the task. */
static bool was_dark(const struct steps *s, uint64_t events)
{
    const struct counters *c = s->counting->ops->counters(s->counting->vcpu);

    return c->exceptions + c->interrupts != events || s->after->tr.selector != s->before->tr.selector ||
           s->after->nmi_masked != s->before->nmi_masked;
}

/* --- memory ------------------------------------------------------------------------------------- */

/* A segment descriptor's "accessed" may not be set: QEMU's processor does not for a far transfer. A page table's may
 * have been set before, or may not be set again: a processor walks tables when it likes, and keeps what they said. */
static bool only_accessed(const struct mem_slot *a, const struct mem_slot *b, uint64_t at)
{
    const uint8_t differ = a->host[at] ^ b->host[at];

    return (at % 8 == 5 && differ == 1) || (at % 4 == 0 && differ == PTE_ACCESSED && (a->host[at] & 1));
}

/* With carry, the hardware's is made like the other's. The number of bytes that differ, and where the first one is. */
static uint64_t memory_differences(struct steps *s, bool carry, gpa_t *where)
{
    uint64_t count = 0;

    for (unsigned i = 0; i < mem_slot_count(s->counting->mem); i++) {
        const struct mem_slot *a = mem_slot(s->counting->mem, i), *b = mem_slot(s->hardware->mem, i);

        for (uint64_t at = 0; compare_next_page(a, b, &at); at += PAGE_SIZE) {
            for (uint64_t byte = at; byte < at + PAGE_SIZE; byte++) {
                if (only_accessed(a, b, byte))
                    mem_write(s->hardware->mem, b->gpa + byte, a->host + byte, 1);
                else if (a->host[byte] != b->host[byte] && !count++)
                    *where = a->gpa + byte;
            }
            if (carry)
                mem_write(s->hardware->mem, b->gpa + at, a->host + at, PAGE_SIZE);
        }
    }
    return count;
}

static bool check_memory(struct steps *s, uint64_t limit, struct exit *exit)
{
    gpa_t where = 0;
    uint64_t count = s->checked ? 0 : memory_differences(s, limit != 0, &where);

    s->checked = true;
    if (count <= limit)
        return true;
    lockstep_fail(exit,
                  "lockstep: memory differs at %#lx, and in %lu bytes in all, after %lu instructions, at rip %#lx",
                  where, count, lockstep_retired(s->counting), s->before->rip);
    return false;
}

/* --- state ---------------------------------------------------------------------------------------- */

/* The hardware gets the other's state and memory. Its APIC's timer stays off: it would run in real time. */
static void carry_over(struct steps *s)
{
    gpa_t where;

    if (!s->checked)
        memory_differences(s, true, &where);
    memcpy(s->hard, s->before, offsetof(struct x86_cpu, mode));
    s->hard->lapic.timer_initial = 0;
    s->hard->lapic.timer_deadline_ns = UINT64_MAX;
    s->hard->lapic.tsc_deadline = 0;
    s->hardware->ops->set_state(s->hardware->vcpu, s->hard);
    s->carry = false;
    s->checked = true;
    s->carried++;
}

static bool timer_armed(const struct steps *s)
{
    return s->after->lapic.timer_deadline_ns != s->before->lapic.timer_deadline_ns ||
           s->after->lapic.tsc_deadline != s->before->lapic.tsc_deadline;
}

/* What the hidden part of a segment register that holds none says nobody can see; FS's and GS's base remains. */
static void hide_unusable(struct x86_segment *hard, const struct x86_segment *other, bool base)
{
    if ((hard->attr | other->attr) & ATTR_P)
        return;
    hard->attr = other->attr;
    hard->limit = other->limit;
    if (base)
        hard->base = other->base;
}

/* Prints the differences, if there are some. */
static bool same_state(struct steps *s)
{
    const bool leads = s->hardware == &s->vcpu->vm->leader;
    char text[900];

    for (unsigned i = 0; i < ARRAY_SIZE(s->hard->seg); i++)
        hide_unusable(&s->hard->seg[i], &s->after->seg[i], i != SEG_FS && i != SEG_GS);
    if (!((s->hard->ldtr.selector | s->after->ldtr.selector) & ~3))
        s->hard->ldtr = s->after->ldtr;
    if (!compare_cpus(leads ? s->hard : s->after, leads ? s->after : s->hard, true, text, sizeof(text)))
        return true;
    log_error("lockstep: leader / follower: %s", text);
    return false;
}

static bool compare(struct steps *s, struct exit *exit)
{
    s->compared++;
    if (same_state(s))
        return true;
    lockstep_fail(exit,
                  "lockstep: the engines differ after %lu instructions, in what began at rip %#lx and led to %#lx",
                  lockstep_retired(s->counting), s->before->rip, s->after->rip);
    return false;
}

static void swap_states(struct steps *s)
{
    struct x86_cpu *before = s->before;

    s->before = s->after;
    s->after = before;
}

/* --- one instruction --------------------------------------------------------------------------------- */

/* A step of the hardware. A kick may have come for both; but an event that was not expected takes the trap flag away,
 * and the hardware then runs on and on. */
static void step_hardware(struct steps *s)
{
    const uint64_t start = counter_ns();

    s->open = false;
    do
        s->hardware->ops->run(s->hardware->vcpu, &s->hardware->exit, 1);
    while (s->hardware->exit.reason == EXIT_INTERRUPTED && counter_ns() - start < PATIENCE_NS);
}

static void step_counting(struct steps *s)
{
    s->counting->ops->run(s->counting->vcpu, &s->counting->exit, 1);
    s->counting->ops->get_state(s->counting->vcpu, s->after);
}

static bool is_access(const struct exit *exit)
{
    return exit->reason == EXIT_PIO || exit->reason == EXIT_MMIO;
}

/* The machine is to see the counting side's exit. */
static void leave(struct steps *s, struct exit *exit, bool both)
{
    *exit = s->counting->exit;
    s->vcpu->io_pending = is_access(exit);
    s->access = !is_access(exit) ? NO_ACCESS : both ? BOTH : ALONE;
    s->open |= s->access == BOTH;
}

/* The answer's instruction goes on to an event (REP INS, and a fault at the next byte), which the hardware is not to
 * do. It ends its part of the access when it is given a state; what an INS without its answer writes then is carried
 * over like an event's bytes. */
static void drop_access(struct steps *s)
{
    if (!s->open)
        return;
    s->open = false;
    s->hardware->ops->get_state(s->hardware->vcpu, s->hard);
    s->hardware->ops->set_state(s->hardware->vcpu, s->hard);
}

/* A KVM that emulates may give the trap after an instruction of user code to the guest: that is not compared there. */
static bool lost_trap(struct steps *s)
{
    if (!user_code(s->before) && !user_code(s->after))
        return false;
    s->hardware->ops->get_state(s->hardware->vcpu, s->hard);
    s->no_user |= !user_code(s->hard) && s->hard->rip != s->after->rip && (s->hard->dr[6] & DR6_BS);
    return s->no_user;
}

/* Both are to be at the same instruction. The hardware stops after each part of a string instruction, and not between a
 * load of SS and what follows. */
static bool meet(struct steps *s, struct exit *exit)
{
    unsigned repetitions = 0, behind = 0;

    for (;;) {
        s->hardware->ops->get_state(s->hardware->vcpu, s->hard);
        if (s->hard->rip == s->after->rip)
            return true;
        if (s->hard->rip == s->before->rip) {
            if (++repetitions > REPETITIONS) {
                s->carry = true; /* it has been seen often enough */
                return true;
            }
            step_hardware(s);
        } else {
            if (++behind > BEHIND)
                break;
            step_counting(s);
        }
        if (s->hardware->exit.reason != EXIT_BUDGET || s->counting->exit.reason != EXIT_BUDGET)
            break;
    }
    same_state(s);
    lockstep_fail(exit, "lockstep: from rip %#lx %s went to %#lx and %s to %#lx", s->before->rip,
                  s->counting->ops->name, s->after->rip, s->hardware->ops->name, s->hard->rip);
    return false;
}

/* The counting side has left: the hardware must, in the same way, at the same instruction. */
static void same_way_out(struct steps *s, struct exit *exit)
{
    for (unsigned i = 0; i < TIMES; i++) {
        step_hardware(s);
        if (lockstep_same_exit(&s->counting->exit, &s->hardware->exit)) {
            leave(s, exit, true);
            swap_states(s);
            return;
        }
        if (s->hardware->exit.reason != EXIT_BUDGET)
            break;
    }
    lockstep_fail(exit, "lockstep: from rip %#lx %s left with exit %d, %s with %d", s->before->rip,
                  s->counting->ops->name, s->counting->exit.reason, s->hardware->ops->name, s->hardware->exit.reason);
}

/* The hardware has left, in an instruction further on: some KVMs do not stop after one that they have emulated. */
static void catch_up(struct steps *s, struct exit *exit)
{
    for (unsigned i = 0; i < BEHIND && s->counting->exit.reason == EXIT_BUDGET; i++)
        step_counting(s);
    if (lockstep_same_exit(&s->counting->exit, &s->hardware->exit)) {
        leave(s, exit, true);
        swap_states(s);
        return;
    }
    lockstep_fail(exit, "lockstep: %s left with exit %d after rip %#lx, %s did not", s->hardware->ops->name,
                  s->hardware->exit.reason, s->before->rip, s->counting->ops->name);
}

/* The counting side alone, for a while; the hardware will be given what came of it. False: the exit is for the
 * machine. */
static bool go_alone(struct steps *s, uint64_t count, struct exit *exit)
{
    s->counting->ops->run(s->counting->vcpu, &s->counting->exit, count);
    s->counting->ops->get_state(s->counting->vcpu, s->before);
    s->carry = true;
    s->checked = false;
    leave(s, exit, false);
    return exit->reason == EXIT_BUDGET || exit->reason == EXIT_HALT;
}

static bool step_both(struct steps *s, struct exit *exit)
{
    const struct counters *c = s->counting->ops->counters(s->counting->vcpu);
    const uint64_t events = c->exceptions + c->interrupts;
    enum exit_reason reason;

    step_counting(s);
    reason = s->counting->exit.reason;
    if (was_dark(s, events) || (reason != EXIT_BUDGET && reason != EXIT_EOI && !is_access(&s->counting->exit))) {
        s->carry = true;
        s->checked = false;
        drop_access(s);
        leave(s, exit, false);
        swap_states(s);
        return (reason == EXIT_BUDGET || reason == EXIT_HALT) &&
               check_memory(s, repeats(s) ? UINT64_MAX : EVENT_BYTES, exit);
    }
    if (reason != EXIT_BUDGET) {
        same_way_out(s, exit);
        return false;
    }
    step_hardware(s);
    if (s->hardware->exit.reason != EXIT_BUDGET) {
        catch_up(s, exit);
        return false;
    }
    if (lost_trap(s)) {
        s->carry = true;
        s->checked = false;
        swap_states(s);
        return true;
    }
    if (!meet(s, exit) || (!s->carry && !compare(s, exit)))
        return false;
    s->carry |= timer_armed(s);
    s->checked = false;
    swap_states(s);
    return true;
}

bool steps_run(struct steps *s, struct exit *exit)
{
    const unsigned access = s->access;

    s->access = NO_ACCESS;
    if (access == ALONE)
        return go_alone(s, 1, exit);
    if (access == BOTH)
        return step_both(s, exit);
    fetch(s);
    if (s->carry) {
        const bool spent = s->compared + CARRY_COST * s->carried > BUDGET;

        if (spent || often(s) || known_dark(s)) { /* still alone */
            s->stride = MIN(s->stride * 2, spent ? STRIDE_END : STRIDE_MAX);
            return go_alone(s, s->stride, exit);
        }
        carry_over(s);
        return step_both(s, exit);
    }
    s->stride = 1;
    if (known_dark(s) || often(s))
        return check_memory(s, 0, exit) && go_alone(s, 1, exit);
    return step_both(s, exit);
}

void steps_report(const struct steps *s, engine_line_fn *line, void *opaque)
{
    line(opaque, s->compared, "instructions compared with the hardware");
    line(opaque, s->carried, "times that state and memory were carried over to it");
}

void steps_kick(struct steps *s)
{
    s->hardware->ops->kick(s->hardware->vcpu);
}

/* --- life ----------------------------------------------------------------------------------------------- */

void steps_restart(struct steps *s)
{
    s->counting->ops->get_state(s->counting->vcpu, s->before);
    s->carry = true; /* memory may have been set too */
    s->checked = false;
    s->access = NO_ACCESS;
    s->open = false;
    s->stride = 1;
    s->compared = s->carried = 0;
}

static struct x86_cpu *new_cpu(void)
{
    struct x86_cpu *cpu = aligned_alloc(64, ALIGN_UP(sizeof(*cpu), 64));

    if (cpu)
        memset(cpu, 0, sizeof(*cpu));
    return cpu;
}

void steps_free(struct steps *s)
{
    if (!s)
        return;
    free(s->before);
    free(s->after);
    free(s->hard);
    free(s->reader);
    free(s->tlb);
    free(s);
}

struct steps *steps_new(struct engine_vcpu *vcpu)
{
    struct engine_vm *vm = vcpu->vm;
    struct steps *s = calloc(1, sizeof(*s));

    if (!s)
        return NULL;
    s->vcpu = vcpu;
    s->counting = lockstep_counting(vm);
    s->hardware = s->counting == &vm->leader ? &vm->follower : &vm->leader;
    s->before = new_cpu();
    s->after = new_cpu();
    s->hard = new_cpu();
    s->reader = new_cpu();
    s->tlb = malloc(sizeof(*s->tlb));
    if (!s->before || !s->after || !s->hard || !s->reader || !s->tlb) {
        steps_free(s);
        return NULL;
    }
    s->reader->tlb = s->tlb;
    x86_tlb_init(s->reader);
    return s;
}
