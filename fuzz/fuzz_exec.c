/*
 * fuzz/fuzz_exec.c: any bytes as a program for the interpreter. It runs twice,
 * once in blocks and once a few instructions at a time; state, memory and what
 * it asked of devices must come out the same. Between portions of it come
 * interrupts, writes from outside and time, as the input says; so do the
 * answers to its I/O.
 */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "engine/engine.h"
#include "engine/lockstep/compare.h"
#include "guest.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define PORTIONS   8
#define PORTION    48  /* instructions */
#define MOST_EXITS 400 /* of one run */
#define TSC_HZ     1000000000
#define PATIENCE   1 /* seconds of processor time for both runs: faults in delivering faults need not ever end */

enum { OPTION_STEP = 1, OPTION_BREAK = 2, OPTION_APIC = 4 };

struct input {
    struct x86_cpu cpu;
    uint8_t ram[GUEST_RAM];
    uint8_t plan[PORTIONS];
    const uint8_t *answers; /* to reads: these bytes, again and again */
    size_t answer_count;
};

struct side {
    struct mem *mem;
    uint8_t *ram;
    struct x86_cpu cpu; /* at the end */
    enum exit_reason end;
    uint64_t exits_hash, instructions;
    unsigned exits;
};

static struct input input;
static struct side sides[2];

/* --- an end to everything -------------------------------------------------------------- */

static struct engine_vcpu *volatile running;
static volatile sig_atomic_t impatient;

static void on_timer(int number)
{
    impatient = 1;
    if (running)
        engine_interp.kick(running);
}

static void start_timer(timer_t timer, unsigned seconds)
{
    const struct itimerspec in = {.it_value.tv_sec = seconds};

    impatient = 0;
    timer_settime(timer, 0, &in, NULL);
}

static timer_t make_timer(void)
{
    const struct sigaction action = {.sa_handler = on_timer, .sa_flags = SA_RESTART};
    struct sigevent event = {.sigev_notify = SIGEV_SIGNAL, .sigev_signo = SIGRTMIN};
    timer_t timer;

    if (sigaction(SIGRTMIN, &action, NULL) || timer_create(CLOCK_PROCESS_CPUTIME_ID, &event, &timer))
        abort();
    return timer;
}

/* --- the input -------------------------------------------------------------------------- */

static bool take(void *to, size_t count, const uint8_t **data, size_t *size)
{
    if (*size < count)
        return false;
    memcpy(to, *data, count);
    *data += count;
    *size -= count;
    return true;
}

/* Header, patches, options, plan, length of the code, code, answers. cpu: an engine's after reset. */
static bool read_input(const uint8_t *data, size_t size)
{
    uint8_t options;
    uint16_t length;

    if (!guest_build(&input.cpu, input.ram, &data, &size) || !take(&options, 1, &data, &size) ||
        !take(input.plan, PORTIONS, &data, &size) || !take(&length, 2, &data, &size))
        return false;
    length = (uint16_t)MIN(length, MIN(size, (size_t)(GUEST_STACK - GUEST_CODE)));
    take(input.ram + GUEST_CODE, length, &data, &size);
    input.answers = data;
    input.answer_count = size;
    if (options & OPTION_STEP)
        input.cpu.rflags |= FLAG_TF;
    if (options & OPTION_BREAK) { /* on the fifth byte of code; on writes to the stack */
        input.cpu.dr[0] = GUEST_CODE + 4;
        input.cpu.dr[1] = GUEST_STACK - 4;
        input.cpu.dr[7] = 0x00d0040f;
    }
    if (options & OPTION_APIC)
        input.cpu.lapic.svr = 0x1ff;
    return true;
}

/* --- a run -------------------------------------------------------------------------------- */

static void note(struct side *side, uint64_t value)
{
    side->exits_hash = (side->exits_hash ^ value) * 0x100000001b3; /* FNV-1a, by 64 bits */
}

static uint64_t answer(const struct side *side, unsigned size)
{
    uint64_t value = 0;

    for (unsigned i = 0; i < size && input.answer_count; i++)
        value |= (uint64_t)input.answers[(side->exits * 8 + i) % input.answer_count] << 8 * i;
    return value;
}

/* Serves an exit. false: the run has ended. */
static bool serve(struct side *side, struct engine_vcpu *vcpu, struct exit *exit)
{
    switch (exit->reason) {
    case EXIT_PIO:
        if (exit->pio.size != 1 && exit->pio.size != 2 && exit->pio.size != 4)
            abort();
        note(side, exit->pio.port | exit->pio.size << 16 | exit->pio.write << 24);
        if (exit->pio.write)
            note(side, exit->pio.data);
        else
            exit->pio.data = (uint32_t)answer(side, exit->pio.size);
        break;
    case EXIT_MMIO:
        if (exit->mmio.gpa < GUEST_RAM || !exit->mmio.size || exit->mmio.size > 8)
            abort();
        note(side, exit->mmio.gpa ^ (uint64_t)exit->mmio.size << 56 ^ (uint64_t)exit->mmio.write << 63);
        if (exit->mmio.write)
            note(side, exit->mmio.data);
        else
            exit->mmio.data = answer(side, exit->mmio.size);
        break;
    case EXIT_IRQ_WINDOW:
        if (!engine_interp.ready(vcpu))
            abort();
        engine_interp.inject(vcpu, (uint8_t)(0x40 + side->exits));
        break;
    case EXIT_EOI:
        note(side, exit->eoi.vector);
        break;
    default:
        return false;
    }
    return ++side->exits < MOST_EXITS;
}

/* What happens to the guest from outside before a portion. */
static void disturb(struct side *side, struct engine_vm *vm, struct engine_vcpu *vcpu, struct vclock *clock,
                    uint8_t plan)
{
    const struct x86_apic_message message = {
        .vector = (uint8_t)(0x20 + plan), .level = plan & BIT(7), .assert_level = true};

    switch (plan % 8) {
    case 1:
        engine_interp.nmi(vcpu);
        break;
    case 2:
        engine_interp.signal(vm, &message);
        break;
    case 3:
        if (engine_interp.ready(vcpu))
            engine_interp.inject(vcpu, plan);
        else
            engine_interp.request_irq_window(vcpu);
        break;
    case 4:
        mem_write(side->mem, GUEST_CODE + plan / 8, input.plan, sizeof(input.plan));
        break;
    case 5:
        vclock_advance_ns(clock, (uint64_t)plan << plan / 8);
        break;
    }
}

/* A portion: so many instructions, in strides of one to most. */
static bool run_portion(struct side *side, struct engine_vcpu *vcpu, uint64_t end, unsigned most, struct exit *exit)
{
    const struct counters *counters = engine_interp.counters(vcpu);
    unsigned stride = 0;

    while (counters->instructions < end) {
        stride = stride % most + 1;
        engine_interp.run(vcpu, exit, MIN(end - counters->instructions, most > 5 ? most : stride));
        if (exit->reason == EXIT_HALT)
            return true; /* until something wakes it */
        if (exit->reason != EXIT_BUDGET && !serve(side, vcpu, exit))
            return false;
    }
    return true;
}

static void run(struct side *side, unsigned most)
{
    struct vclock *clock = vclock_new_manual(TSC_HZ);
    struct engine_config config = {.mem = side->mem, .clock = clock, .cpus = 1};
    struct exit exit = {.reason = EXIT_BUDGET};
    struct engine_vm *vm;
    struct engine_vcpu *vcpu;
    struct error err;

    if (!clock || engine_interp.vm_create(&vm, &config, &err) || engine_interp.vcpu_create(&vcpu, vm, 0, &err))
        abort();
    memcpy(side->ram, input.ram, GUEST_RAM);
    engine_interp.set_state(vcpu, &input.cpu);
    side->exits_hash = side->exits = 0;
    running = vcpu;
    for (unsigned i = 0; i < PORTIONS && !impatient; i++) {
        disturb(side, vm, vcpu, clock, input.plan[i]);
        if (!run_portion(side, vcpu, engine_interp.counters(vcpu)->instructions + PORTION, most, &exit))
            break;
    }
    running = NULL;
    side->end = exit.reason;
    side->instructions = engine_interp.counters(vcpu)->instructions;
    engine_interp.get_state(vcpu, &side->cpu);
    engine_interp.vcpu_destroy(vcpu);
    engine_interp.vm_destroy(vm);
    vclock_free(clock);
}

static void compare(void)
{
    char text[900];
    gpa_t where;

    if (sides[0].end != sides[1].end || sides[0].instructions != sides[1].instructions ||
        sides[0].exits_hash != sides[1].exits_hash) {
        fprintf(stderr, "in blocks / by steps: end %d / %d, instructions %lu / %lu, rip %#lx / %#lx, exits %u / %u\n",
                sides[0].end, sides[1].end, sides[0].instructions, sides[1].instructions, sides[0].cpu.rip,
                sides[1].cpu.rip, sides[0].exits, sides[1].exits);
        abort();
    }
    if (compare_cpus(&sides[0].cpu, &sides[1].cpu, false, text, sizeof(text))) {
        fprintf(stderr, "in blocks / by steps: %s\n", text);
        abort();
    }
    if (!compare_memory(sides[0].mem, sides[1].mem, &where)) {
        fprintf(stderr, "memory differs at %#lx\n", where);
        abort();
    }
}

/* Memories, and the state after reset. */
static void prepare(struct x86_cpu *reset)
{
    struct engine_config config = {.cpus = 1};
    struct engine_vm *vm;
    struct engine_vcpu *vcpu;
    struct error err;

    for (unsigned i = 0; i < 2; i++) {
        sides[i].mem = mem_new();
        if (!sides[i].mem || mem_add_ram(sides[i].mem, 0, GUEST_RAM, &err))
            abort();
        sides[i].ram = mem_pointer(sides[i].mem, 0, GUEST_RAM);
    }
    config.mem = sides[0].mem;
    config.clock = vclock_new_manual(TSC_HZ);
    if (!config.clock || engine_interp.vm_create(&vm, &config, &err) || engine_interp.vcpu_create(&vcpu, vm, 0, &err))
        abort();
    engine_interp.get_state(vcpu, reset);
    engine_interp.vcpu_destroy(vcpu);
    engine_interp.vm_destroy(vm);
    vclock_free(config.clock);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct x86_cpu reset;
    static timer_t timer;

    if (!sides[0].mem) {
        prepare(&reset);
        timer = make_timer();
    }
    input.cpu = reset;
    if (!read_input(data, size))
        return 0;
    start_timer(timer, PATIENCE);
    run(&sides[0], PORTION);
    run(&sides[1], 5);
    if (!impatient)
        compare();
    start_timer(timer, 0);
    return 0;
}
