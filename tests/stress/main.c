/*
 * tests/stress/main.c: runs random guests (stress.h) on an engine, or on two in
 * lockstep. Interrupts come from outside after numbers of instructions that the
 * seed decides, so that a seed repeats a run; a run ends when the guest's kernel
 * has seen its number of exceptions, or the budget of instructions is used up.
 */
#include <errno.h>
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>
#include <time.h>

#include "base/log.h"
#include "engine/engine.h"
#include "engine/lockstep/lockstep.h"
#include "stress.h"

static struct {
    const char *engine;
    uint64_t seed, limit, budget;
    unsigned count, seconds;
    bool verbose;
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
    struct engine_config config = {.cpus = 1};

    *m = (struct machine){.ops = ops, .mem = mem_new(), .clock = vclock_new_manual(1000000000)};
    m->cpu = aligned_alloc(64, ALIGN_UP(sizeof(*m->cpu), 64));
    if (!m->mem || !m->clock || !m->cpu)
        return error_set(err, -ENOMEM, "no memory");
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
        m->ops->kick(m->vcpu);
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

/* Wakes a vCPU that sleeps in HLT, as no time passes for it. */
static struct machine *volatile running;

static void on_alarm(int signal)
{
    if (running)
        running->ops->kick(running->vcpu);
}

/* What ended it; NULL: the engine, or the pair, failed. */
static const char *run_guest(struct machine *m, struct isa_rng *rng)
{
    struct exit exit = {.reason = EXIT_INTERRUPTED};
    const struct counters *counters = m->ops->counters(m->vcpu);
    const uint64_t end = counters->instructions + options.budget;

    while (counters->instructions < end) {
        m->ops->run(m->vcpu, &exit, 100 + isa_pick(rng, 4000));
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
        case EXIT_HALT:
        case EXIT_BUDGET:
            interrupt(m, rng);
            break;
        case EXIT_INTERRUPTED: /* by the alarm, too */
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

/* The last exceptions that the guest's kernel has seen. */
static void print_log(struct machine *m, unsigned count)
{
    uint64_t total = kernel_word(m, K_COUNT);

    for (uint64_t i = total - MIN(total, count); i < total; i++) {
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
        stress_build(g, seed, options.limit, m.mem, m.cpu);
        ops->set_state(m.vcpu, m.cpu);
        running = &m;
        how = run_guest(&m, &g->rng);
        running = NULL;
        if (!how || options.verbose) {
            printf("seed %lu: %s; %lu instructions, %lu exceptions, hash %016lx\n", seed, how ? how : "FAILED",
                   ops->counters(m.vcpu)->instructions, kernel_word(&m, K_COUNT), kernel_word(&m, K_HASH));
            print_log(&m, how ? 0 : 5);
        }
    }
    machine_destroy(&m);
    return how;
}

/* --- all -------------------------------------------------------------------------------- */

static const char usage[] = "stress [options]: random guests on an engine, or on two compared\n"
                            "  --engine NAME   interp, bt, or lockstep:A,B (interp)\n"
                            "  --seed N        the first guest (1)\n"
                            "  --count N       so many guests (1)\n"
                            "  --seconds N     goes on until so much time has passed\n"
                            "  --limit N       exceptions after which a guest ends (3000)\n"
                            "  --budget N      instructions after which it does (3000000)\n"
                            "  --trace LIST    as in trapeze\n"
                            "  --verbose       a line for each guest\n";

static bool parse(int argc, char **argv)
{
    static const struct option longs[] = {
        {"engine", 1, NULL, 'e'},  {"seed", 1, NULL, 's'},    {"count", 1, NULL, 'c'},
        {"seconds", 1, NULL, 't'}, {"limit", 1, NULL, 'l'},   {"budget", 1, NULL, 'b'},
        {"trace", 1, NULL, 'x'},   {"verbose", 0, NULL, 'v'}, {NULL, 0, NULL, 0},
    };
    struct error err;
    int c;

    while ((c = getopt_long(argc, argv, "", longs, NULL)) != -1) {
        switch (c) {
        case 'e':
            options.engine = optarg;
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
            if (trace_parse(optarg, &trace_mask, &err))
                return false;
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
    const struct engine_ops *ops;
    const time_t start = time(NULL);
    unsigned done = 0, failed = 0;
    struct error err;

    ops = g && parse(argc, argv) ? choose_engine(options.engine) : NULL;
    if (!ops) {
        fputs(usage, stderr);
        free(g);
        return 2;
    }
    if (ops->probe(&err)) {
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
        failed += !run_seed(g, ops, options.seed + done);
    printf("%s: seeds %lu to %lu, %u failed\n", options.engine, options.seed, options.seed + done - 1, failed);
    isa_free_forms(&forms[0]);
    isa_free_forms(&forms[1]);
    free(g);
    return failed != 0;
}
