/*
 * tests/device/null_engine.c: engine/null keeps engine.h's contract; and a
 * small machine around it: a run loop in a thread, a serial port, an I/O APIC.
 */
#include "tests/device/fixture.h"

#include <pthread.h>
#include <stdatomic.h>
#include <unistd.h>

#include "backend/char/backends.h"
#include "backend/char/buffer.h"
#include "device/irqchip/ioapic.h"
#include "device/legacy/uart16550.h"
#include "engine/null/null.h"

static const struct engine_ops *const engine = &engine_null;

struct rig {
    struct fixture f;
    struct engine_vm *vm;
    struct engine_vcpu *vcpu;
    struct ioapic *ioapic;
    struct chardev *chardev;
    struct uart *uart;
    pthread_t thread;
    _Atomic bool stop;
    _Atomic unsigned windows;
};

static void *run_loop(void *opaque)
{
    struct rig *rig = opaque;
    struct exit exit = {.reason = EXIT_INTERRUPTED};

    while (!atomic_load(&rig->stop)) {
        engine->run(rig->vcpu, &exit, 0);
        if (exit.reason == EXIT_PIO && exit.pio.write)
            bus_port_write(rig->f.bus, exit.pio.port, exit.pio.data, exit.pio.size);
        else if (exit.reason == EXIT_PIO)
            exit.pio.data = bus_port_read(rig->f.bus, exit.pio.port, exit.pio.size);
        else if (exit.reason == EXIT_MMIO && exit.mmio.write)
            bus_mmio_write(rig->f.bus, exit.mmio.gpa, exit.mmio.data, exit.mmio.size);
        else if (exit.reason == EXIT_MMIO)
            exit.mmio.data = bus_mmio_read(rig->f.bus, exit.mmio.gpa, exit.mmio.size);
        else if (exit.reason == EXIT_IRQ_WINDOW)
            atomic_fetch_add(&rig->windows, 1);
    }
    return NULL;
}

static void send(void *opaque, const struct msi_message *msi)
{
    struct rig *rig = opaque;
    const struct x86_apic_message message = {.vector = (uint8_t)msi->data, .destination = msi->address >> 12 & 0xff};

    engine->signal(rig->vm, &message);
}

static void open_rig(struct rig *rig)
{
    struct engine_config config;

    *rig = (struct rig){.vm = NULL};
    fixture_open(&rig->f);
    config = (struct engine_config){.clock = rig->f.clock, .cpus = 1};
    assert_int_equal(engine->probe(NULL), 0);
    assert_int_equal(engine->vm_create(&rig->vm, &config, NULL), 0);
    assert_int_equal(engine->vcpu_create(&rig->vcpu, rig->vm, 0, NULL), 0);
    rig->chardev = chardev_buffer_new(NULL);
    rig->ioapic = ioapic_new(rig->f.bus, IOAPIC_BASE, 0, (struct msi_sink){.send = send, .opaque = rig}, NULL);
    rig->uart = uart_new(rig->f.bus, 0x3f8, rig->f.loop,
                         (struct irq_line){.set = ioapic_set, .opaque = rig->ioapic, .pin = 4}, rig->chardev, NULL);
    assert_int_equal(pthread_create(&rig->thread, NULL, run_loop, rig), 0);
}

static void close_rig(struct rig *rig)
{
    atomic_store(&rig->stop, true);
    engine->kick(rig->vcpu);
    pthread_join(rig->thread, NULL);
    uart_free(rig->uart);
    chardev_free(rig->chardev);
    ioapic_free(rig->ioapic);
    engine->vcpu_destroy(rig->vcpu);
    engine->vm_destroy(rig->vm);
    fixture_close(&rig->f);
}

static void port_write(struct rig *rig, uint16_t port, uint8_t value)
{
    struct exit access = {.reason = EXIT_PIO, .pio = {.port = port, .size = 1, .write = true, .data = value}};

    null_access(rig->vcpu, &access);
}

static uint8_t port_read(struct rig *rig, uint16_t port)
{
    struct exit access = {.reason = EXIT_PIO, .pio = {.port = port, .size = 1}};

    return (uint8_t)null_access(rig->vcpu, &access);
}

static void table_write(struct rig *rig, uint8_t reg, uint32_t value)
{
    struct exit access = {.reason = EXIT_MMIO, .mmio = {.gpa = IOAPIC_BASE, .size = 4, .write = true, .data = reg}};

    null_access(rig->vcpu, &access);
    access.mmio.gpa = IOAPIC_BASE + 0x10;
    access.mmio.data = value;
    null_access(rig->vcpu, &access);
}

static void test_accesses(void **state)
{
    struct exit table = {.reason = EXIT_MMIO, .mmio = {.gpa = IOAPIC_BASE + 0x10, .size = 4}};
    struct x86_apic_message message;
    struct rig rig;

    open_rig(&rig);
    port_write(&rig, 0x3f8, 'h');
    port_write(&rig, 0x3f8, 'i');
    assert_string_equal(chardev_buffer_output(rig.chardev, NULL), "hi");
    assert_int_equal(port_read(&rig, 0x3fd), 0x60);

    table_write(&rig, 0x10 + 2 * 4 + 1, 0);
    table_write(&rig, 0x10 + 2 * 4, 0x34);
    assert_int_equal(null_access(rig.vcpu, &table), 0x34);
    assert_false(null_take_message(rig.vm, &message));
    port_write(&rig, 0x3fc, 0x08);
    port_write(&rig, 0x3f9, 0x02);
    assert_true(null_take_message(rig.vm, &message));
    assert_int_equal(message.vector, 0x34);
    assert_false(null_take_message(rig.vm, &message));
    assert_true(engine->counters(rig.vcpu)->exits_pio == 5);
    close_rig(&rig);
}

static void test_interrupts(void **state)
{
    uint8_t vector;
    struct rig rig;
    unsigned i;

    open_rig(&rig);
    assert_true(engine->ready(rig.vcpu));
    engine->inject(rig.vcpu, 0x77);
    assert_false(engine->ready(rig.vcpu)); /* until it is delivered */
    engine->kick(rig.vcpu);
    for (i = 0; i < 1000 && !null_injected(rig.vcpu, &vector); i++)
        usleep(1000);
    assert_int_equal(null_injected(rig.vcpu, &vector), 1);
    assert_int_equal(vector, 0x77);
    null_set_interruptible(rig.vcpu, false);
    assert_false(engine->ready(rig.vcpu));
    engine->request_irq_window(rig.vcpu);
    engine->kick(rig.vcpu);
    usleep(2000);
    assert_int_equal(atomic_load(&rig.windows), 0);
    null_set_interruptible(rig.vcpu, true);
    for (i = 0; i < 1000 && !atomic_load(&rig.windows); i++)
        usleep(1000);
    assert_int_equal(atomic_load(&rig.windows), 1);
    engine->nmi(rig.vcpu);
    assert_int_equal(null_nmis(rig.vcpu), 1);
    close_rig(&rig);
}

static void test_state(void **state)
{
    static struct x86_cpu cpu, again;
    struct engine_config config = {.cpus = 2};
    struct engine_vm *vm;
    struct engine_vcpu *vcpu[2];
    struct exit exit = {.reason = EXIT_ERROR};
    struct error err;

    assert_int_equal(engine->vm_create(&vm, &config, NULL), 0);
    assert_int_equal(engine->vcpu_create(&vcpu[0], vm, 0, NULL), 0);
    assert_int_equal(engine->vcpu_create(&vcpu[1], vm, 1, NULL), 0);
    assert_true(engine->vcpu_create(&vcpu[1], vm, 2, &err) < 0);
    engine->get_state(vcpu[1], &cpu);
    assert_int_equal(cpu.id, 1);
    assert_true(cpu.rip == 0xfff0);
    cpu.gpr[3] = 0x1234;
    cpu.cr2 = 0x5678;
    engine->set_state(vcpu[0], &cpu);
    engine->get_state(vcpu[0], &again);
    assert_memory_equal(&cpu, &again, offsetof(struct x86_cpu, events));
    engine->kick(vcpu[0]); /* before run(): not lost */
    engine->run(vcpu[0], &exit, 0);
    assert_int_equal(exit.reason, EXIT_INTERRUPTED);
    engine->vcpu_destroy(vcpu[0]);
    engine->vcpu_destroy(vcpu[1]);
    engine->vm_destroy(vm);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_accesses),
        cmocka_unit_test(test_interrupts),
        cmocka_unit_test(test_state),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
