/*
 * machine/vcpu.c: the run loop. Every guest, on every engine, is this: run
 * until the engine cannot go on alone, do what it asks for, run again.
 *
 * Thread: one for each vCPU.
 */
#include <string.h>

#include "machine/machine_internal.h"

static void on_pio(struct vcpu *vcpu, struct exit *exit)
{
    struct bus *bus = vcpu->machine->bus;

    if (exit->pio.write)
        bus_port_write(bus, exit->pio.port, exit->pio.data, exit->pio.size);
    else
        exit->pio.data = bus_port_read(bus, exit->pio.port, exit->pio.size);
}

static void on_mmio(struct vcpu *vcpu, struct exit *exit)
{
    struct bus *bus = vcpu->machine->bus;

    if (exit->mmio.write)
        bus_mmio_write(bus, exit->mmio.gpa, exit->mmio.data, exit->mmio.size);
    else
        exit->mmio.data = bus_mmio_read(bus, exit->mmio.gpa, exit->mmio.size);
}

static void on_eoi(struct vcpu *vcpu, struct exit *exit)
{
    board_eoi(vcpu->machine->board, exit->eoi.vector);
}

/* Nothing to be done: run() again sleeps, or an interrupt is offered first. */
static void on_nothing(struct vcpu *vcpu, struct exit *exit)
{
}

static void on_shutdown(struct vcpu *vcpu, struct exit *exit)
{
    struct machine *machine = vcpu->machine;
    static _Thread_local struct x86_cpu cpu;
    char text[sizeof(machine->result.text)];

    machine->engine->get_state(vcpu->engine, &cpu);
    dump_shutdown(text, sizeof(text), exit, &cpu);
    machine_end(machine, MACHINE_SHUTDOWN, 0, text);
}

static void on_error(struct vcpu *vcpu, struct exit *exit)
{
    machine_end(vcpu->machine, MACHINE_ERROR, 0, exit->error.text);
}

static void (*const handlers[EXIT_COUNT])(struct vcpu *vcpu, struct exit *exit) = {
    [EXIT_PIO] = on_pio,
    [EXIT_MMIO] = on_mmio,
    [EXIT_HALT] = on_nothing,
    [EXIT_IRQ_WINDOW] = on_nothing,
    [EXIT_EOI] = on_eoi,
    [EXIT_SHUTDOWN] = on_shutdown,
    [EXIT_INTERRUPTED] = on_nothing,
    [EXIT_BUDGET] = on_nothing,
    [EXIT_DEBUG] = on_nothing,
    [EXIT_ERROR] = on_error,
};

/* The 8259's interrupt goes to the boot processor, as LINT0's ExtINT. */
static void offer_pic_interrupt(struct vcpu *vcpu)
{
    struct machine *machine = vcpu->machine;

    if (vcpu->id != 0 || !board_pic_pending(machine->board))
        return;
    if (machine->engine->ready(vcpu->engine))
        machine->engine->inject(vcpu->engine, board_pic_acknowledge(machine->board));
    else
        machine->engine->request_irq_window(vcpu->engine);
}

void *vcpu_thread(void *opaque)
{
    struct vcpu *vcpu = opaque;
    struct machine *machine = vcpu->machine;
    struct exit exit = {.reason = EXIT_INTERRUPTED};

    while (!atomic_load(&machine->stopping)) {
        offer_pic_interrupt(vcpu);
        machine->engine->run(vcpu->engine, &exit, 0);
        handlers[exit.reason](vcpu, &exit);
    }
    return NULL;
}
