/*
 * machine/board.c: the one list of what a machine has: engines, devices, and
 * how they are wired. Nothing registers itself anywhere.
 */
#include <errno.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "backend/char/job_protocol.h"
#include "bus/pci.h"
#include "device/irqchip/ioapic.h"
#include "device/irqchip/pic8259.h"
#include "device/legacy/acpi_pm.h"
#include "device/legacy/cmos_rtc.h"
#include "device/legacy/exit_port.h"
#include "device/legacy/i8042.h"
#include "device/legacy/pit8254.h"
#include "device/legacy/uart16550.h"
#include "device/virtio/balloon.h"
#include "device/virtio/blk.h"
#include "device/virtio/console.h"
#include "device/virtio/fs.h"
#include "device/virtio/net.h"
#include "device/virtio/rng.h"
#include "device/virtio/vsock.h"
#include "engine/lockstep/lockstep.h"
#include "machine/machine_internal.h"

#define PM_BASE     0x600
#define SCI_IRQ     9
#define MSI_ADDRESS 0xfee00000ull

enum isa_irq { IRQ_PIT = 0, IRQ_KEYBOARD = 1, IRQ_COM2 = 3, IRQ_COM1 = 4, IRQ_RTC = 8 };

/* Free ones that both controllers have. */
static const uint8_t pci_irqs[PCI_INTX_LINES] = {10, 11};

/* Locally administered; each guest has a network of its own. */
static const uint8_t mac_address[6] = {0x52, 0x54, 0x00, 0x12, 0x34, 0x56};

static const uint16_t serial_ports[] = {0x3f8, 0x2f8};
static const uint8_t serial_irqs[] = {IRQ_COM1, IRQ_COM2};

struct board {
    struct machine *machine;
    struct pic *pic;
    _Atomic bool pic_pending;
    struct ioapic *ioapic;
    struct pit *pit;
    struct cmos_rtc *rtc;
    struct i8042 *i8042;
    struct acpi_pm *pm;
    struct exit_port *exit_port;
    struct pci_host *pci;
    struct virtio_rng *rng;
    struct virtio_blk *disk[MACHINE_DISKS];
    struct virtio_fs *share[MACHINE_SHARES];
    struct virtio_net *net;
    struct virtio_balloon *balloon;
    struct virtio_console *terminal, *job_port;
    struct virtio_vsock *vsock;
    struct uart *uart[ARRAY_SIZE(serial_ports)];
    gpa_t rsdp;
};

/* --- engines -------------------------------------------------------------------------- */

/* `auto` takes the first that works; a hardware engine only if it is no slower than the best software engine. */
static const struct engine_ops *const engines[] = {&engine_kvm, &engine_bt, &engine_interp};

const struct engine_ops *machine_engine(unsigned i)
{
    return i < ARRAY_SIZE(engines) ? engines[i] : NULL;
}

static const struct engine_ops *find_engine(const char *name, size_t len)
{
    for (unsigned i = 0; i < ARRAY_SIZE(engines); i++)
        if (strlen(engines[i]->name) == len && !strncmp(engines[i]->name, name, len))
            return engines[i];
    return NULL;
}

/* "lockstep" compares interp with itself, "lockstep:A,B" engine B with A. */
static const struct engine_ops *find_lockstep(const char *name)
{
    const char *pair = name + strlen("lockstep"), *comma;
    const struct engine_ops *leader, *follower;

    if (!*pair)
        return lockstep_engine(&engine_interp, &engine_interp);
    comma = strchr(pair, ',');
    if (*pair != ':' || !comma)
        return NULL;
    leader = find_engine(pair + 1, (size_t)(comma - pair - 1));
    follower = find_engine(comma + 1, strlen(comma + 1));
    return leader && follower ? lockstep_engine(leader, follower) : NULL;
}

static const struct engine_ops *best_software(void)
{
    struct error err;

    for (unsigned i = 0; i < ARRAY_SIZE(engines); i++)
        if (!engines[i]->hardware && !engines[i]->probe(&err))
            return engines[i];
    return NULL;
}

int machine_judge_engine(const struct engine_ops *engine, char *figures, size_t size, struct error *err)
{
    const struct engine_ops *software = best_software();
    struct engine_speed speed, other;
    struct error ignored;
    int rc;

    if (!engine->hardware)
        return 0;
    rc = machine_measure_engine(engine, &speed, err);
    if (rc || !software || machine_measure_engine(software, &other, &ignored))
        return rc;
    snprintf(figures, size, "%.*f million instructions a second, %s %.0f", speed.mips < 10 ? 2 : 0, speed.mips,
             software->name, other.mips);
    if (speed.mips < other.mips)
        return error_set(err, -ENODEV, "%s%s", speed.hardware ? "" : "it emulates: ", figures);
    return 0;
}

static int choose_automatically(const struct engine_ops **engine, char *why, size_t size, struct error *err)
{
    char passed[300] = "", figures[100] = "the best there is";
    size_t used = 0;

    for (unsigned i = 0; i < ARRAY_SIZE(engines); i++) {
        if (engines[i]->probe(err) || machine_judge_engine(engines[i], figures, sizeof(figures), err)) {
            if (used < sizeof(passed))
                used += (size_t)snprintf(passed + used, sizeof(passed) - used, "%snot %s: %s", used ? "; " : "",
                                         engines[i]->name, err->message);
            continue;
        }
        *engine = engines[i];
        snprintf(why, size, "engine %s (%s; auto: %s)", engines[i]->name, engines[i]->summary, used ? passed : figures);
        return 0;
    }
    return error_set(err, -ENODEV, "--engine auto: none works here: %s", passed);
}

int machine_choose_engine(const char *name, const struct engine_ops **engine, char *why, size_t size, struct error *err)
{
    int rc;

    if (!strcmp(name, "auto"))
        return choose_automatically(engine, why, size, err);
    *engine = strncmp(name, "lockstep", 8) ? find_engine(name, strlen(name)) : find_lockstep(name);
    if (!*engine)
        return error_set(err, -EINVAL, "--engine: there is no '%s'; there are auto, kvm, bt, interp and lockstep",
                         name);
    rc = (*engine)->probe(err);
    if (!rc)
        snprintf(why, size, "engine %s (%s; asked for)", (*engine)->name, (*engine)->summary);
    return rc;
}

/* --- wires ---------------------------------------------------------------------------- */

/* An ISA interrupt goes to both controllers; the timer's is pin 2 of the IOAPIC, as the MADT says. */
static void set_isa_irq(void *opaque, unsigned irq, bool level)
{
    struct board *board = opaque;

    pic_set(board->pic, irq, level);
    ioapic_set(board->ioapic, irq == IRQ_PIT ? 2 : irq, level);
}

static struct irq_line isa_line(struct board *board, unsigned irq)
{
    return (struct irq_line){.set = set_isa_irq, .opaque = board, .pin = irq};
}

static void on_pic_intr(void *opaque, bool level)
{
    struct board *board = opaque;

    atomic_store(&board->pic_pending, level);
    if (level)
        board->machine->engine->kick(board->machine->vcpus[0].engine);
}

/* SDM vol. 3, 11.11: an MSI's address and data as the APIC bus carries them. False: to nowhere: a function may be told
 * any address, ours write nowhere else. */
static bool to_apic_message(const struct msi_message *msi, struct x86_apic_message *message)
{
    *message = (struct x86_apic_message){
        .destination = msi->address >> 12 & 0xff,
        .logical = msi->address & BIT(2),
        .vector = (uint8_t)msi->data,
        .delivery = msi->data >> 8 & 7,
        .assert_level = msi->data & BIT(14),
        .level = msi->data & BIT(15),
    };
    return (msi->address & ~0xfffffull) == MSI_ADDRESS;
}

static void on_msi(void *opaque, const struct msi_message *msi)
{
    struct board *board = opaque;
    struct x86_apic_message message;

    if (to_apic_message(msi, &message))
        board->machine->engine->signal(board->machine->vm, &message);
}

static void on_msi_again(void *opaque, unsigned *route, const struct msi_message *msi)
{
    struct board *board = opaque;
    struct x86_apic_message message;

    if (to_apic_message(msi, &message))
        board->machine->engine->signal_again(board->machine->vm, route, &message);
}

static void on_poweroff(void *opaque)
{
    machine_end(opaque, MACHINE_POWEROFF, 0, NULL);
}

static void on_reset(void *opaque)
{
    machine_end(opaque, MACHINE_RESET, 0, NULL);
}

static void on_exit_port(void *opaque, uint8_t status)
{
    machine_end(opaque, MACHINE_EXIT, status, NULL);
}

/* --- the board -------------------------------------------------------------------------- */

static int add_irqchips(struct board *board, struct error *err)
{
    struct msi_sink sink = {.send = on_msi, .opaque = board};

    board->pic = pic_new(board->machine->bus, on_pic_intr, board, err);
    if (!board->pic)
        return -ENOMEM;
    board->ioapic = ioapic_new(board->machine->bus, IOAPIC_BASE, (uint8_t)board->machine->config.cpus, sink, err);
    return board->ioapic ? 0 : -ENOMEM;
}

static int add_timers(struct board *board, struct error *err)
{
    struct machine *machine = board->machine;
    const uint64_t low = MIN(machine->config.memory, BOOT_MMIO_HOLE);
    const struct cmos_rtc_config rtc = {
        .wall_ns = vclock_wall_ns(loop_clock(machine->config.loop)),
        .memory_low = low,
        .memory_high = machine->config.memory - low,
    };

    board->pit = pit_new(machine->bus, machine->config.loop, isa_line(board, IRQ_PIT), err);
    if (!board->pit)
        return -ENOMEM;
    board->rtc = cmos_rtc_new(machine->bus, machine->config.loop, isa_line(board, IRQ_RTC), &rtc, err);
    return board->rtc ? 0 : -ENOMEM;
}

static int add_power(struct board *board, struct error *err)
{
    struct machine *machine = board->machine;
    struct device_event poweroff = {on_poweroff, machine}, reset = {on_reset, machine};

    board->i8042 = i8042_new(machine->bus, isa_line(board, IRQ_KEYBOARD), reset, err);
    if (!board->i8042)
        return -ENOMEM;
    board->pm = acpi_pm_new(machine->bus, PM_BASE, loop_clock(machine->config.loop), isa_line(board, SCI_IRQ), poweroff,
                            reset, err);
    if (!board->pm)
        return -ENOMEM;
    board->exit_port = exit_port_new(machine->bus, on_exit_port, machine, err);
    return board->exit_port ? 0 : -ENOMEM;
}

static int add_serial(struct board *board, struct error *err)
{
    struct machine *machine = board->machine;

    for (unsigned i = 0; i < ARRAY_SIZE(serial_ports); i++) {
        if (!machine->config.serial[i])
            continue;
        board->uart[i] = uart_new(machine->bus, serial_ports[i], machine->config.loop, isa_line(board, serial_irqs[i]),
                                  machine->config.serial[i], err);
        if (!board->uart[i])
            return -ENOMEM;
    }
    return 0;
}

static int add_pci(struct board *board, struct error *err)
{
    struct pci_host_config config = {
        .ecam = BOOT_PCI_ECAM,
        .window = BOOT_PCI_WINDOW,
        .window_size = BOOT_PCI_WINDOW_SIZE,
        .msi = {.send = on_msi, .opaque = board},
    };

    _Static_assert(BOOT_PCI_ECAM_SIZE == PCI_ECAM_SIZE, "one bus");
    if (board->machine->engine->signal_again)
        config.msi.send_again = on_msi_again;
    if (board->machine->doorbells)
        config.bells = (struct doorbell_host){doorbells_add, doorbells_place, board->machine->doorbells};
    for (unsigned i = 0; i < PCI_INTX_LINES; i++)
        config.intx[i] = isa_line(board, pci_irqs[i]);
    board->pci = pci_host_new(board->machine->bus, &config, err);
    return board->pci ? 0 : -ENOMEM;
}

/* A device each: a terminal's size is safe to tell only where it is the device's one port. */
static int add_consoles(struct board *board, struct error *err)
{
    struct machine *machine = board->machine;
    const struct virtio_console_port terminal = {machine->config.terminal, NULL};
    const struct virtio_console_port job = {machine->config.job_port, JOB_PORT};

    if (terminal.chardev) {
        board->terminal = virtio_console_new(board->pci, machine->mem, &terminal, 1, err);
        if (!board->terminal)
            return -ENOMEM;
    }
    if (job.chardev) {
        board->job_port = virtio_console_new(board->pci, machine->mem, &job, 1, err);
        if (!board->job_port)
            return -ENOMEM;
    }
    return 0;
}

/* Lockstep compares memory, and a device writes to one side's only: there are none. */
static int add_virtio(struct board *board, struct error *err)
{
    struct machine *machine = board->machine;
    const struct machine_config *config = &machine->config;

    if (!strncmp(machine->engine->name, "lockstep", 8))
        return 0;
    for (unsigned i = 0; i < config->disk_count; i++) {
        board->disk[i] =
            virtio_blk_new(board->pci, machine->mem, config->disk[i].block, config->disk[i].id, config->cpus, err);
        if (!board->disk[i])
            return -ENOMEM;
    }
    for (unsigned i = 0; i < config->share_count; i++) {
        board->share[i] =
            virtio_fs_new(board->pci, machine->mem, config->share[i].fs, config->share[i].tag, config->cpus, err);
        if (!board->share[i])
            return -ENOMEM;
    }
    if (config->net) {
        board->net = virtio_net_new(board->pci, machine->mem, config->net, mac_address, err);
        if (!board->net)
            return -ENOMEM;
    }
    board->balloon = virtio_balloon_new(board->pci, machine->mem, err);
    if (!board->balloon)
        return -ENOMEM;
    board->rng = virtio_rng_new(board->pci, machine->mem, err);
    if (!board->rng || add_consoles(board, err))
        return -ENOMEM;
    if (config->vsock) {
        board->vsock = virtio_vsock_new(board->pci, machine->mem, config->loop, config->vsock, config->vsock_cid, err);
        if (!board->vsock)
            return -ENOMEM;
    }
    return 0;
}

static int add_tables(struct board *board, struct error *err)
{
    const struct boot_acpi_config acpi = {
        .cpus = board->machine->config.cpus,
        .ioapic_base = IOAPIC_BASE,
        .pm_base = PM_BASE,
        .sci_irq = SCI_IRQ,
        .reset_port = ACPI_PM_RESET_PORT,
        .reset_value = ACPI_PM_RESET_VALUE,
        .s5_type = ACPI_PM_S5_TYPE,
        .pci_irq = {pci_irqs[0], pci_irqs[1]},
    };

    return boot_write_acpi(board->machine->mem, &acpi, &board->rsdp, err);
}

struct board *board_new(struct machine *machine, struct error *err)
{
    struct board *board = calloc(1, sizeof(*board));

    if (!board) {
        error_set(err, -ENOMEM, "no memory for the board");
        return NULL;
    }
    board->machine = machine;
    if (add_irqchips(board, err) || add_timers(board, err) || add_power(board, err) || add_serial(board, err) ||
        add_pci(board, err) || add_virtio(board, err) || add_tables(board, err)) {
        board_free(board);
        return NULL;
    }
    return board;
}

void board_free(struct board *board)
{
    for (unsigned i = 0; i < ARRAY_SIZE(board->uart); i++)
        if (board->uart[i])
            uart_free(board->uart[i]);
    for (unsigned i = 0; i < ARRAY_SIZE(board->disk); i++)
        if (board->disk[i])
            virtio_blk_free(board->disk[i]);
    for (unsigned i = 0; i < ARRAY_SIZE(board->share); i++)
        if (board->share[i])
            virtio_fs_free(board->share[i]);
    if (board->net)
        virtio_net_free(board->net);
    if (board->balloon)
        virtio_balloon_free(board->balloon);
    if (board->rng)
        virtio_rng_free(board->rng);
    if (board->terminal)
        virtio_console_free(board->terminal);
    if (board->job_port)
        virtio_console_free(board->job_port);
    if (board->vsock)
        virtio_vsock_free(board->vsock);
    if (board->pci)
        pci_host_free(board->pci);
    if (board->exit_port)
        exit_port_free(board->exit_port);
    if (board->pm)
        acpi_pm_free(board->pm);
    if (board->i8042)
        i8042_free(board->i8042);
    if (board->rtc)
        cmos_rtc_free(board->rtc);
    if (board->pit)
        pit_free(board->pit);
    if (board->ioapic)
        ioapic_free(board->ioapic);
    if (board->pic)
        pic_free(board->pic);
    free(board);
}

gpa_t board_rsdp(const struct board *board)
{
    return board->rsdp;
}

bool board_pic_pending(const struct board *board)
{
    return atomic_load(&board->pic_pending);
}

uint8_t board_pic_acknowledge(struct board *board)
{
    return pic_acknowledge(board->pic);
}

void board_eoi(struct board *board, uint8_t vector)
{
    ioapic_eoi(board->ioapic, vector);
}

/* --- the balloon, for the control layer ------------------------------------------------------- */

bool machine_balloon_get(const struct machine *machine, struct balloon_info *info)
{
    struct virtio_balloon *balloon = machine->board->balloon;

    if (balloon)
        virtio_balloon_get(balloon, info);
    return balloon;
}

void machine_balloon_set(struct machine *machine, uint64_t bytes)
{
    if (machine->board->balloon)
        virtio_balloon_set(machine->board->balloon, bytes);
}

void machine_balloon_refresh(struct machine *machine)
{
    if (machine->board->balloon)
        virtio_balloon_refresh(machine->board->balloon);
}
