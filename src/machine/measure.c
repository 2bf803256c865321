/*
 * machine/measure.c: how fast an engine is: a small loop of guest code, against
 * the same instructions on the host's processor. Short: some milliseconds, on an
 * engine that is a thousand times slower too.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "machine/machine.h"

#define RAM_SIZE      KIB(64)
#define CODE          0x1000
#define DATA          0x2000
#define STACK         0x4000
#define ROUND         6 /* instructions in the loop below */
#define ROUNDS_FIRST  250
#define ROUNDS_MAX    1000000
#define ROUNDS_GROWTH 4
#define LONG_ENOUGH   0.001    /* seconds: no longer runs than the first of these */
#define LONG_RUNS     3        /* the best of so many: somebody else may have had the processor */
#define CODE_CACHE    KIB(512) /* of translators: the loop is small */
#define NATIVE_ROUNDS 200000

/* 32-bit code: a load, a store, a call and its return, a conditional jump. It ends with a write to port F4h. */
static const uint8_t code[] = {
    0x03, 0x06,                   /* again: add eax, [esi] */
    0x89, 0x46, 0x04,             /* mov [esi + 4], eax */
    0xe8, 0x05, 0x00, 0x00, 0x00, /* call sub */
    0x49,                         /* dec ecx */
    0x75, 0xf3,                   /* jnz again */
    0xe6, 0xf4,                   /* out F4h, al */
    0xc3,                         /* sub: ret */
};

static double now(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

static double mips(unsigned rounds, double seconds)
{
    return seconds > 0 ? rounds * ROUND / seconds / 1e6 : 0;
}

static void run_natively(unsigned rounds)
{
    uint32_t data[2] = {1, 0}, sum = 0;

    __asm__ volatile("leaq -256(%%rsp), %%rsp\n" /* past the red zone */
                     "1: addl (%2), %0\n"
                     "movl %0, 4(%2)\n"
                     "call 2f\n"
                     "decl %1\n"
                     "jnz 1b\n"
                     "jmp 3f\n"
                     "2: ret\n"
                     "3: leaq 256(%%rsp), %%rsp"
                     : "+&r"(sum), "+&r"(rounds)
                     : "r"(data)
                     : "cc", "memory");
}

/* The best of three: others may have had the processor meanwhile. */
static double measure_native(void)
{
    double best = 0;

    for (unsigned i = 0; i < 3; i++) {
        double start = now();

        run_natively(NATIVE_ROUNDS);
        best = MAX(best, mips(NATIVE_ROUNDS, now() - start));
    }
    return best;
}

/* Flat 32-bit protected mode without paging, at the loop's start. */
static void loop_state(struct x86_cpu *cpu, unsigned rounds)
{
    const struct x86_segment cs = {.limit = 0xffffffff, .selector = 0x08, .attr = 0xc09b};
    const struct x86_segment data = {.limit = 0xffffffff, .selector = 0x10, .attr = 0xc093};

    for (unsigned i = 0; i < 6; i++)
        cpu->seg[i] = i == SEG_CS ? cs : data;
    cpu->cr0 = (cpu->cr0 & ~(CR0_CD | CR0_NW)) | CR0_PE;
    cpu->rip = CODE;
    cpu->rflags = FLAG_FIXED;
    cpu->gpr[RCX] = rounds;
    cpu->gpr[RSI] = DATA;
    cpu->gpr[RSP] = STACK;
}

/* Seconds that one run of the loop takes; negative: the engine did something else. */
static double run_loop(const struct engine_ops *engine, struct engine_vcpu *vcpu, struct x86_cpu *cpu, unsigned rounds)
{
    struct exit exit = {.reason = EXIT_INTERRUPTED};
    double start;

    loop_state(cpu, rounds);
    engine->set_state(vcpu, cpu);
    start = now();
    do
        engine->run(vcpu, &exit, 0);
    while (exit.reason == EXIT_INTERRUPTED);
    return exit.reason == EXIT_PIO ? now() - start : -1;
}

static int measure(const struct engine_ops *engine, struct engine_vcpu *vcpu, struct engine_speed *speed,
                   struct error *err)
{
    struct x86_cpu *cpu = aligned_alloc(64, ALIGN_UP(sizeof(*cpu), 64));
    double seconds = 0;

    if (!cpu)
        return error_set(err, -ENOMEM, "no memory to measure %s", engine->name);
    memset(cpu, 0, sizeof(*cpu));
    engine->get_state(vcpu, cpu);
    for (unsigned rounds = ROUNDS_FIRST, longs = 0; rounds <= ROUNDS_MAX && longs < LONG_RUNS;) {
        seconds = run_loop(engine, vcpu, cpu, rounds);
        if (seconds < 0)
            break;
        speed->mips = MAX(speed->mips, mips(rounds, seconds));
        if (seconds < LONG_ENOUGH)
            rounds *= ROUNDS_GROWTH;
        else
            longs++;
    }
    free(cpu);
    return seconds < 0 ? error_set(err, -EIO, "%s does not run a loop of a few instructions", engine->name) : 0;
}

int machine_measure_engine(const struct engine_ops *engine, struct engine_speed *speed, struct error *err)
{
    struct vclock *clock = vclock_new();
    struct mem *mem = mem_new();
    struct engine_config config = {.mem = mem, .clock = clock, .cpus = 1, .code_cache = CODE_CACHE};
    struct engine_vm *vm = NULL;
    struct engine_vcpu *vcpu = NULL;
    int rc = clock && mem ? 0 : error_set(err, -ENOMEM, "no memory to measure %s", engine->name);

    *speed = (struct engine_speed){.native_mips = measure_native()};
    if (!rc)
        rc = mem_add_ram(mem, 0, RAM_SIZE, err);
    if (!rc)
        rc = mem_write(mem, CODE, code, sizeof(code));
    if (!rc)
        rc = engine->vm_create(&vm, &config, err);
    if (!rc)
        rc = engine->vcpu_create(&vcpu, vm, 0, err);
    if (!rc)
        rc = measure(engine, vcpu, speed, err);
    speed->hardware = !rc && speed->mips >= speed->native_mips / HARDWARE_SHARE;
    if (vcpu)
        engine->vcpu_destroy(vcpu);
    if (vm)
        engine->vm_destroy(vm);
    mem_free(mem);
    if (clock)
        vclock_free(clock);
    return rc;
}
