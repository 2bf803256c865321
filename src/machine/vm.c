/* machine/vm.c: a machine's life: made, run, ended. */
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "machine/machine_internal.h"

#define VGA_HOLE    0xa0000ull
#define OPTION_ROMS 0xc0000ull

static int add_memory(struct machine *machine, struct error *err)
{
    uint64_t low = MIN(machine->config.memory, BOOT_MMIO_HOLE), high = machine->config.memory - low;
    int rc;

    if (machine->engine->maps_ram)
        mem_share_ram(machine->mem);
    rc = mem_add_ram(machine->mem, 0, VGA_HOLE, err);
    if (!rc)
        rc = mem_add_ram(machine->mem, OPTION_ROMS, low - OPTION_ROMS, err);
    if (!rc && high)
        rc = mem_add_ram(machine->mem, GIB(4), high, err);
    return rc;
}

static int add_vcpus(struct machine *machine, struct error *err)
{
    machine->vcpus = calloc(machine->config.cpus, sizeof(*machine->vcpus));
    if (!machine->vcpus)
        return error_set(err, -ENOMEM, "no memory for %u processors", machine->config.cpus);
    for (unsigned i = 0; i < machine->config.cpus; i++) {
        struct vcpu *vcpu = &machine->vcpus[i];
        int rc;

        vcpu->machine = machine;
        vcpu->id = i;
        rc = machine->engine->vcpu_create(&vcpu->engine, machine->vm, i, err);
        if (rc)
            return rc;
    }
    return 0;
}

/* What firmware does on each processor before it lets the system start it: the same memory types everywhere. */
static void prepare_others(struct machine *machine, struct x86_cpu *state)
{
    const struct x86_msrs first = state->msr;

    for (unsigned i = 1; i < machine->config.cpus; i++) {
        struct engine_vcpu *vcpu = machine->vcpus[i].engine;

        machine->engine->get_state(vcpu, state);
        state->msr.mtrr_def_type = first.mtrr_def_type;
        memcpy(state->msr.mtrr_fixed, first.mtrr_fixed, sizeof(first.mtrr_fixed));
        memcpy(state->msr.mtrr_var, first.mtrr_var, sizeof(first.mtrr_var));
        machine->engine->set_state(vcpu, state);
    }
}

static int load(struct machine *machine, struct error *err)
{
    const struct machine_config *config = &machine->config;
    struct boot_config boot = {
        .kernel = config->kernel,
        .initrd = config->initrd,
        .cmdline = config->cmdline ? config->cmdline : "",
        .memory = config->memory,
        .cpus = config->cpus,
        .rsdp = board_rsdp(machine->board),
        .self_unpack = machine->engine->hardware,
    };
    struct engine_vcpu *first = machine->vcpus[0].engine;
    struct x86_cpu *cpu = aligned_alloc(64, ALIGN_UP(sizeof(*cpu), 64));
    int rc;

    if (!cpu)
        return error_set(err, -ENOMEM, "no memory for the processor's state");
    memset(cpu, 0, sizeof(*cpu));
    machine->engine->get_state(first, cpu);
    rc = boot_load(&boot, machine->mem, cpu, err);
    if (!rc) {
        machine->engine->set_state(first, cpu);
        prepare_others(machine, cpu);
    }
    free(cpu);
    return rc;
}

struct machine *machine_new(const struct machine_config *config, struct error *err)
{
    struct machine *machine = calloc(1, sizeof(*machine));
    struct engine_config engine_config;

    if (!machine) {
        error_set(err, -ENOMEM, "no memory for a machine");
        return NULL;
    }
    machine->config = *config;
    lock_init(&machine->lock, LOCK_VM);
    machine->engine = config->engine;
    machine->mem = mem_new();
    machine->bus = bus_new();
    if (!machine->mem || !machine->bus) {
        error_set(err, -ENOMEM, "no memory for a machine");
        goto fail;
    }
    engine_config = (struct engine_config){
        .mem = machine->mem,
        .clock = loop_clock(config->loop),
        .cpus = config->cpus,
        .code_cache = config->code_cache,
        .perf_map = config->perf_map,
    };
    if (add_memory(machine, err) || machine->engine->vm_create(&machine->vm, &engine_config, err) ||
        add_vcpus(machine, err))
        goto fail;
    if (machine->engine->doorbell) {
        machine->doorbells = doorbells_new(machine, err);
        if (!machine->doorbells)
            goto fail;
    }
    machine->board = board_new(machine, err);
    if (!machine->board || load(machine, err))
        goto fail;
    return machine;
fail:
    machine_free(machine);
    return NULL;
}

void machine_free(struct machine *machine)
{
    if (!machine)
        return;
    if (machine->board)
        board_free(machine->board);
    doorbells_free(machine->doorbells);
    for (unsigned i = 0; machine->vcpus && i < machine->config.cpus; i++)
        if (machine->vcpus[i].engine)
            machine->engine->vcpu_destroy(machine->vcpus[i].engine);
    free(machine->vcpus);
    if (machine->vm)
        machine->engine->vm_destroy(machine->vm);
    if (machine->bus)
        bus_free(machine->bus);
    mem_free(machine->mem);
    lock_destroy(&machine->lock);
    free(machine);
}

void machine_end(struct machine *machine, enum machine_end end, int code, const char *text)
{
    lock_take(&machine->lock);
    if (machine->result.end == MACHINE_RUNNING) {
        machine->result.end = end;
        machine->result.code = code;
        snprintf(machine->result.text, sizeof(machine->result.text), "%s", text ? text : "");
    }
    lock_drop(&machine->lock);
    machine_stop(machine);
}

void machine_stop(struct machine *machine)
{
    atomic_store(&machine->stopping, true);
    loop_stop(machine->config.loop);
}

/* These threads take no signals: they are the main thread's, whose loop waits for them. */
static int start_threads(struct machine *machine)
{
    sigset_t all, old;
    int rc = 0;

    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    rc = doorbells_start(machine->doorbells);
    for (unsigned i = 0; i < machine->config.cpus && !rc; i++) {
        rc = pthread_create(&machine->vcpus[i].thread, NULL, vcpu_thread, &machine->vcpus[i]);
        machine->vcpus[i].started = !rc;
    }
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    return rc;
}

void machine_run(struct machine *machine, struct machine_result *result)
{
    int rc = start_threads(machine);

    if (rc)
        machine_end(machine, MACHINE_ERROR, 0, strerror(rc));
    else
        loop_run(machine->config.loop);
    atomic_store(&machine->stopping, true);
    for (unsigned i = 0; i < machine->config.cpus; i++)
        if (machine->vcpus[i].started)
            machine->engine->kick(machine->vcpus[i].engine);
    for (unsigned i = 0; i < machine->config.cpus; i++)
        if (machine->vcpus[i].started)
            pthread_join(machine->vcpus[i].thread, NULL);
    doorbells_stop(machine->doorbells);
    if (machine->result.end == MACHINE_RUNNING)
        machine->result.end = MACHINE_STOPPED;
    *result = machine->result;
}

bool machine_counters(const struct machine *machine, struct counters *sum)
{
    memset(sum, 0, sizeof(*sum));
    for (unsigned i = 0; i < machine->config.cpus; i++) {
        const struct counters *one = machine->engine->counters(machine->vcpus[i].engine);

#define X(name, help) sum->name += one->name;
        COUNTER_LIST(X)
#undef X
    }
    return machine->engine->counts;
}

void machine_report(const struct machine *machine, engine_line_fn *line, void *opaque)
{
    for (unsigned i = 0; machine->engine->report && i < machine->config.cpus; i++)
        machine->engine->report(machine->vcpus[i].engine, line, opaque);
}
