/*
 * tests/stress/main.c: runs random guests (stress.h) on an engine, or on two in
 * lockstep. Interrupts come from outside after numbers of instructions that the
 * seed decides, so that a seed repeats a run; a run ends when the guest's kernel
 * has seen its number of exceptions, or the budget of instructions is used up.
 *
 * With --against the two run one after the other, each as it runs alone: without
 * a budget (bt's translations do not count then) and without interrupts. The
 * guest's own log, which has all registers at each exception, must be the same.
 */
#include <errno.h>
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#include "base/log.h"
#include "engine/engine.h"
#include "engine/lockstep/lockstep.h"
#include "stress.h"

#define SECONDS_STUCK 10

static struct {
    const char *engine, *against;
    uint64_t seed, limit, budget;
    unsigned count, seconds;
    bool verbose, shadow_soon;
    uint64_t from; /* not 0: trace from this instruction on */
    unsigned trace;
} options = {.engine = "interp", .seed = 1, .limit = 3000, .budget = 3000000, .count = 1};

static const struct engine_ops *const engines[] = {&engine_interp, &engine_bt};

static const struct engine_ops *find_engine(const char *name, size_t length)
{
    for (unsigned i = 0; i < ARRAY_SIZE(engines); i++)
        if (strlen(engines[i]->name) == length && !strncmp(engines[i]->name, name, length))
            return engines[i];
    return NULL;
}

/* A name, or "lockstep:A,B". */
static const struct engine_ops *choose_engine(const char *name)
{
    const char *pair = strchr(name, ':'), *comma = strchr(name, ',');
    const struct engine_ops *leader, *follower;

    if (!pair)
        return find_engine(name, strlen(name));
    if (comma < pair || strncmp(name, "lockstep", (size_t)(pair - name)))
        return NULL;
    leader = find_engine(pair + 1, (size_t)(comma - pair - 1));
    follower = find_engine(comma + 1, strlen(comma + 1));
    return leader && follower ? lockstep_engine(leader, follower) : NULL;
}

/* --- one guest -------------------------------------------------------------------- */

struct machine {
    const struct engine_ops *ops;
    struct mem *mem;
    struct vclock *clock;
    struct engine_vm *vm;
    struct engine_vcpu *vcpu;
    struct x86_cpu *cpu;
};

static void machine_destroy(struct machine *m)
{
    if (!m->ops)
        return;
    if (m->vcpu)
        m->ops->vcpu_destroy(m->vcpu);
    if (m->vm)
        m->ops->vm_destroy(m->vm);
    if (m->mem)
        mem_free(m->mem);
    if (m->clock)
        vclock_free(m->clock);
    free(m->cpu);
}

static int machine_create(struct machine *m, const struct engine_ops *ops, struct error *err)
{
    struct engine_config config = {.cpus = 1, .shadow_soon = options.shadow_soon};

    *m = (struct machine){.ops = ops, .mem = mem_new(), .clock = vclock_new_manual(1000000000)};
    m->cpu = aligned_alloc(64, ALIGN_UP(sizeof(*m->cpu), 64));
    if (!m->mem || !m->clock || !m->cpu)
        return error_set(err, -ENOMEM, "no memory");
    if (ops->maps_ram)
        mem_share_ram(m->mem);
    config.mem = m->mem;
    config.clock = m->clock;
    if (mem_add_ram(m->mem, 0, STRESS_RAM, err) || ops->vm_create(&m->vm, &config, err) ||
        ops->vcpu_create(&m->vcpu, m->vm, 0, err))
        return -EINVAL;
    ops->get_state(m->vcpu, m->cpu);
    return 0;
}

static void interrupt(struct machine *m, struct isa_rng *rng)
{
    struct x86_apic_message message = {.destination = 0xffffffff, .x2apic = true, .vector = VECTOR_INT};

    if (isa_chance(rng, 10)) {
        m->ops->nmi(m->vcpu);
    } else {
        m->ops->signal(m->vm, &message);
    }
}

static bool halted(struct machine *m)
{
    m->ops->get_state(m->vcpu, m->cpu);
    return m->cpu->halted;
}

static uint64_t kernel_word(struct machine *m, unsigned offset)
{
    uint64_t value = 0;

    mem_read(m->mem, G_KERNEL + offset, &value, 8);
    return value;
}

/* Ten times a second: wakes a vCPU that sleeps in HLT, as no time passes for it; ends a run that does not get on. */
static struct machine *volatile running;
static char stuck[80];            /* what to say then */
static volatile unsigned returns; /* of run(); engines that do not count instructions get on too */

static void on_alarm(int signal)
{
    static uint64_t last;
    static unsigned standing;
    struct machine *m = running;
    uint64_t now = m ? m->ops->counters(m->vcpu)->instructions + returns : 0;

    standing = m && now == last ? standing + 1 : 0;
    last = now;
    if (standing > 10 * SECONDS_STUCK) {
        _exit(write(STDOUT_FILENO, stuck, strlen(stuck)) < 0 ? 3 : 2);
    }
    if (m && (standing > 1 || options.against))
        m->ops->kick(m->vcpu);
}

/* What ended it; NULL: the engine, or the pair, failed. */
static const char *run_guest(struct machine *m, struct isa_rng *rng)
{
    struct exit exit = {.reason = EXIT_INTERRUPTED};
    const struct counters *counters = m->ops->counters(m->vcpu);
    const uint64_t end = counters->instructions + options.budget;
    uint64_t next = 0; /* when the next interrupt is due */

    while (counters->instructions < end) {
        if (next <= counters->instructions)
            next = counters->instructions + 100 + isa_pick(rng, 4000);
        trace_mask = next > options.from ? options.trace : 0;
        m->ops->run(m->vcpu, &exit, next - counters->instructions);
        switch (exit.reason) {
        case EXIT_PIO:
            if (exit.pio.write && exit.pio.port == STRESS_PORT)
                return "all exceptions seen";
            exit.pio.data = 0xffffffff;
            break;
        case EXIT_MMIO:
            exit.mmio.data = ~0ull;
            break;
        case EXIT_SHUTDOWN:
            return "shutdown";
        case EXIT_BUDGET:
            interrupt(m, rng);
            break;
        case EXIT_HALT:
        case EXIT_INTERRUPTED:
            if (halted(m))
                interrupt(m, rng);
            break;
        case EXIT_ERROR:
            printf("%s\n", exit.error.text);
            return NULL;
        default:
            break;
        }
    }
    return "budget used up";
}

/* Exceptions that the guest's kernel has seen: before the end-th, and that one. */
static void print_log(struct machine *m, uint64_t end, unsigned count)
{
    for (uint64_t i = end - MIN(end, count); i <= end && i < kernel_word(m, K_COUNT); i++) {
        uint64_t e[4] = {0};

        mem_read(m->mem, G_LOG + i % LOG_ENTRIES * 32, e, sizeof(e));
        printf("  exception %lu: vector %lu at %#lx, hash %016lx, cr2 %#lx\n", i, e[0], e[1], e[2], e[3]);
    }
}

static bool run_seed(struct stress_guest *g, const struct engine_ops *ops, uint64_t seed)
{
    struct error err = {"no memory"};
    struct machine m;
    const char *how = NULL;

    if (machine_create(&m, ops, &err)) {
        printf("seed %lu: %s\n", seed, err.message);
    } else {
        snprintf(stuck, sizeof(stuck), "seed %lu: FAILED, the guest does not get on\n", seed);
        stress_build(g, seed, options.limit, m.mem, m.cpu);
        ops->set_state(m.vcpu, m.cpu);
        running = &m;
        how = run_guest(&m, &g->rng);
        running = NULL;
        if (!how || options.verbose) {
            printf("seed %lu: %s; %lu instructions, %lu exceptions, hash %016lx\n", seed, how ? how : "FAILED",
                   ops->counters(m.vcpu)->instructions, kernel_word(&m, K_COUNT), kernel_word(&m, K_HASH));
            if (!how)
                print_log(&m, kernel_word(&m, K_COUNT), 5);
        }
    }
    machine_destroy(&m);
    return how;
}

/* --- two engines, one after the other ------------------------------------------------- */

#define PATIENCE 10 /* alarms without a new exception */

/* Until the guest's kernel has seen all its exceptions (true), or sees no more. */
static bool run_free(struct machine *m)
{
    struct exit exit = {.reason = EXIT_INTERRUPTED};
    uint64_t seen = 0;

    for (unsigned quiet = 0; quiet < PATIENCE;) {
        m->ops->run(m->vcpu, &exit, 0);
        returns++;
        if (exit.reason == EXIT_PIO && exit.pio.write && exit.pio.port == STRESS_PORT)
            return true;
        if (exit.reason == EXIT_SHUTDOWN || exit.reason == EXIT_ERROR)
            return false;
        exit.pio.data = 0xffffffff;
        quiet = kernel_word(m, K_COUNT) != seen ? 0 : quiet + (exit.reason == EXIT_INTERRUPTED);
        seen = kernel_word(m, K_COUNT);
    }
    return false;
}

static bool start_free(struct machine *m, const struct engine_ops *ops, struct stress_guest *g, uint64_t seed,
                       bool *ended)
{
    struct error err = {"no memory"};

    if (machine_create(m, ops, &err)) {
        printf("seed %lu: %s\n", seed, err.message);
        return false;
    }
    stress_build(g, seed, options.limit, m->mem, m->cpu);
    ops->set_state(m->vcpu, m->cpu);
    running = m;
    *ended = run_free(m);
    running = NULL;
    return true;
}

/* The first exception that the two logs have not in common, or the number that both have. */
static uint64_t common_log(struct machine *a, struct machine *b)
{
    uint64_t both = MIN(kernel_word(a, K_COUNT), kernel_word(b, K_COUNT));

    for (uint64_t i = 0; i < both; i++) {
        uint8_t x[32] = {0}, y[32] = {1};

        mem_read(a->mem, G_LOG + i % LOG_ENTRIES * 32, x, sizeof(x));
        mem_read(b->mem, G_LOG + i % LOG_ENTRIES * 32, y, sizeof(y));
        if (memcmp(x, y, sizeof(x)))
            return i;
    }
    return both;
}

static bool same_memory(struct machine *a, struct machine *b)
{
    const uint8_t *x = mem_pointer(a->mem, 0, STRESS_RAM), *y = mem_pointer(b->mem, 0, STRESS_RAM);

    for (gpa_t at = 0; at < STRESS_RAM; at++)
        if (x[at] != y[at]) {
            printf("  memory differs at %#lx: %02x, %02x\n", at, x[at], y[at]);
            return false;
        }
    return true;
}

static bool compare_free(struct stress_guest *g, const struct engine_ops *first, const struct engine_ops *second,
                         uint64_t seed)
{
    struct machine a, b = {0};
    bool ended[2], good = false;
    uint64_t both;

    g->free = true;
    trace_mask = options.trace;
    if (start_free(&a, first, g, seed, &ended[0]) && start_free(&b, second, g, seed, &ended[1])) {
        both = common_log(&a, &b);
        /* One that has not ended may be in a loop with a counter that a stray store has made large. */
        good = both == MIN(kernel_word(&a, K_COUNT), kernel_word(&b, K_COUNT)) &&
               (!ended[0] || !ended[1] || same_memory(&a, &b));
        if (!good || options.verbose)
            printf("seed %lu: %s; %lu and %lu exceptions, the first %lu the same\n", seed, good ? "same" : "FAILED",
                   kernel_word(&a, K_COUNT), kernel_word(&b, K_COUNT), both);
        if (!good) {
            print_log(&a, both, 2);
            print_log(&b, both, 2);
        }
    }
    machine_destroy(&a);
    machine_destroy(&b);
    return good;
}

/* --- all -------------------------------------------------------------------------------- */

static const char usage[] = "stress [options]: random guests on an engine, or on two compared\n"
                            "  --engine NAME   interp, bt, or lockstep:A,B (interp)\n"
                            "  --against NAME  another engine to run alone after the first, and compare\n"
                            "  --seed N        the first guest (1)\n"
                            "  --count N       so many guests (1)\n"
                            "  --seconds N     goes on until so much time has passed\n"
                            "  --limit N       exceptions after which a guest ends (3000)\n"
                            "  --budget N      instructions after which it does (3000000)\n"
                            "  --shadow-soon   user code of bt in shadow spaces from the first\n"
                            "  --trace LIST    as in trapeze\n"
                            "  --from N        tracing begins a little before the N-th instruction\n"
                            "  --verbose       a line for each guest\n";

static bool parse(int argc, char **argv)
{
    static const struct option longs[] = {
        {"engine", 1, NULL, 'e'},  {"against", 1, NULL, 'a'}, {"seed", 1, NULL, 's'},        {"count", 1, NULL, 'c'},
        {"seconds", 1, NULL, 't'}, {"limit", 1, NULL, 'l'},   {"budget", 1, NULL, 'b'},      {"trace", 1, NULL, 'x'},
        {"from", 1, NULL, 'f'},    {"verbose", 0, NULL, 'v'}, {"shadow-soon", 0, NULL, 'o'}, {NULL, 0, NULL, 0},
    };
    struct error err;
    int c;

    while ((c = getopt_long(argc, argv, "", longs, NULL)) != -1) {
        switch (c) {
        case 'e':
            options.engine = optarg;
            break;
        case 'a':
            options.against = optarg;
            break;
        case 's':
            options.seed = strtoull(optarg, NULL, 0);
            break;
        case 'c':
            options.count = (unsigned)strtoul(optarg, NULL, 0);
            break;
        case 't':
            options.seconds = (unsigned)strtoul(optarg, NULL, 0);
            break;
        case 'l':
            options.limit = strtoull(optarg, NULL, 0);
            break;
        case 'b':
            options.budget = strtoull(optarg, NULL, 0);
            break;
        case 'x':
            if (trace_parse(optarg, &options.trace, &err))
                return false;
            break;
        case 'f':
            options.from = strtoull(optarg, NULL, 0);
            break;
        case 'o':
            options.shadow_soon = true;
            break;
        case 'v':
            options.verbose = true;
            break;
        default:
            return false;
        }
    }
    return optind == argc;
}

static bool time_left(time_t start, unsigned done)
{
    return options.seconds ? time(NULL) - start < (time_t)options.seconds : done < options.count;
}

int main(int argc, char **argv)
{
    struct isa_forms forms[2] = {{0}};
    struct stress_guest *g = calloc(1, sizeof(*g));
    const struct engine_ops *ops, *against = NULL;
    const time_t start = time(NULL);
    unsigned done = 0, failed = 0;
    struct error err;

    ops = g && parse(argc, argv) ? choose_engine(options.engine) : NULL;
    if (ops && options.against)
        against = choose_engine(options.against);
    if (!ops || (options.against && !against)) {
        fputs(usage, stderr);
        free(g);
        return 2;
    }
    if (ops->probe(&err) || (against && against->probe(&err))) {
        printf("%s does not work on this host: %s\n", ops->name, err.message);
        free(g);
        return 77;
    }
    setvbuf(stdout, NULL, _IOLBF, 0);
    sigaction(SIGALRM, &(struct sigaction){.sa_handler = on_alarm, .sa_flags = SA_RESTART}, NULL);
    setitimer(ITIMER_REAL, &(struct itimerval){{0, 100000}, {0, 100000}}, NULL);
    isa_find_forms(&forms[0], MODE_LONG64);
    isa_find_forms(&forms[1], MODE_COMPAT32);
    g->forms[0] = &forms[0];
    g->forms[1] = &forms[1];
    for (; time_left(start, done); done++)
        failed +=
            !(against ? compare_free(g, ops, against, options.seed + done) : run_seed(g, ops, options.seed + done));
    printf("%s: seeds %lu to %lu, %u failed\n", options.engine, options.seed, options.seed + done - 1, failed);
    isa_free_forms(&forms[0]);
    isa_free_forms(&forms[1]);
    free(g);
    return failed != 0;
}
