/*
 * device/legacy/i8042.c: the controller without a keyboard or a mouse. It passes
 * its self-test; a byte for the keyboard comes back at once as a resend with
 * the time-out flag, so that a probe fails without waiting; the second port
 * does not answer. A20 is kept, but the address line is always open.
 */
#include "device/legacy/i8042.h"

#include <errno.h>
#include <stdlib.h>

#include "base/lock.h"

#define DATA_PORT    0x60
#define COMMAND_PORT 0x64
#define SYSTEM_PORT  0x92
#define RAM_SIZE     32 /* byte 0 is the command byte */

enum { STATUS_OBF = 0x01, STATUS_SYSTEM = 0x04, STATUS_COMMAND = 0x08, STATUS_UNLOCKED = 0x10, STATUS_TIMEOUT = 0x40 };
enum { CTR_KEYBOARD_IRQ = 0x01, CTR_SYSTEM = 0x04, CTR_KEYBOARD_OFF = 0x10, CTR_AUX_OFF = 0x20, CTR_TRANSLATE = 0x40 };
enum { OUTPUT_NOT_RESET = 0x01, OUTPUT_A20 = 0x02, OUTPUT_OBF = 0x10, OUTPUT_REST = 0xc0 };
enum { SYSTEM_RESET = 0x01, SYSTEM_A20 = 0x02 };
enum { SELF_TEST_PASSED = 0x55, PORT_TEST_PASSED = 0x00, PORT_CLOCK_LOW = 0x01, KEYBOARD_RESEND = 0xfe };
enum { INPUT_PORT = 0xa0 }; /* not locked, no manufacturing jumper */

enum command {
    COMMAND_READ_RAM = 0x20,
    COMMAND_WRITE_RAM = 0x60,
    COMMAND_AUX_OFF = 0xa7,
    COMMAND_AUX_ON = 0xa8,
    COMMAND_AUX_TEST = 0xa9,
    COMMAND_SELF_TEST = 0xaa,
    COMMAND_KEYBOARD_TEST = 0xab,
    COMMAND_KEYBOARD_OFF = 0xad,
    COMMAND_KEYBOARD_ON = 0xae,
    COMMAND_READ_INPUT = 0xc0,
    COMMAND_READ_OUTPUT = 0xd0,
    COMMAND_WRITE_OUTPUT = 0xd1,
    COMMAND_WRITE_KEYBOARD_BUFFER = 0xd2,
    COMMAND_WRITE_AUX_BUFFER = 0xd3,
    COMMAND_WRITE_AUX = 0xd4,
    COMMAND_PULSE = 0xf0, /* ..0xff: bits 3:0 clear pulse the output lines low */
};

struct i8042 {
    struct irq_line irq;
    struct device_event reset;
    struct lock lock;
    uint8_t status, output, output_port;
    uint8_t ram[RAM_SIZE];
    uint8_t pending; /* command that waits for its data byte; 0: none */
    uint8_t system_port;
};

static void update_irq(struct i8042 *kbc)
{
    irq_set(&kbc->irq, (kbc->status & STATUS_OBF) && (kbc->ram[0] & CTR_KEYBOARD_IRQ));
}

static void answer(struct i8042 *kbc, uint8_t byte, uint8_t flags)
{
    kbc->output = byte;
    kbc->status = (uint8_t)((kbc->status & ~STATUS_TIMEOUT) | STATUS_OBF | flags);
}

static uint8_t read_data(struct i8042 *kbc)
{
    kbc->status &= (uint8_t) ~(STATUS_OBF | STATUS_TIMEOUT);
    return kbc->output;
}

/* Returns whether the reset line goes low. */
static bool write_output_port(struct i8042 *kbc, uint8_t value)
{
    kbc->output_port = value | OUTPUT_NOT_RESET;
    return !(value & OUTPUT_NOT_RESET);
}

static void write_ram(struct i8042 *kbc, unsigned at, uint8_t value)
{
    kbc->ram[at % RAM_SIZE] = value;
    if (at % RAM_SIZE == 0)
        kbc->status = (uint8_t)((kbc->status & ~STATUS_SYSTEM) | (value & CTR_SYSTEM ? STATUS_SYSTEM : 0));
}

/* A byte to port 60: the rest of a command, or for the keyboard. Returns whether to reset. */
static bool write_data(struct i8042 *kbc, uint8_t value)
{
    uint8_t command = kbc->pending;

    kbc->pending = 0;
    kbc->status &= (uint8_t)~STATUS_COMMAND;
    if (command >= COMMAND_WRITE_RAM && command < COMMAND_WRITE_RAM + RAM_SIZE) {
        write_ram(kbc, command, value);
        return false;
    }
    switch (command) {
    case COMMAND_WRITE_OUTPUT:
        return write_output_port(kbc, value);
    case COMMAND_WRITE_KEYBOARD_BUFFER:
    case COMMAND_WRITE_AUX_BUFFER: /* no second port: it comes back as the keyboard's */
        answer(kbc, value, 0);
        break;
    default: /* COMMAND_WRITE_AUX and none: nobody is there to take it */
        answer(kbc, KEYBOARD_RESEND, STATUS_TIMEOUT);
    }
    return false;
}

static void self_test(struct i8042 *kbc)
{
    write_ram(kbc, 0, CTR_SYSTEM | CTR_KEYBOARD_OFF | CTR_AUX_OFF | CTR_TRANSLATE);
    answer(kbc, SELF_TEST_PASSED, 0);
}

static bool write_command(struct i8042 *kbc, uint8_t command)
{
    kbc->pending = 0;
    kbc->status |= STATUS_COMMAND;
    if (command >= COMMAND_PULSE)
        return !(command & OUTPUT_NOT_RESET);
    if (command >= COMMAND_READ_RAM && command < COMMAND_READ_RAM + RAM_SIZE) {
        answer(kbc, kbc->ram[command % RAM_SIZE], 0);
        return false;
    }
    switch (command) {
    case COMMAND_AUX_OFF:
        kbc->ram[0] |= CTR_AUX_OFF;
        break;
    case COMMAND_AUX_ON: /* no second port: its clock stays off */
        break;
    case COMMAND_AUX_TEST:
        answer(kbc, PORT_CLOCK_LOW, 0);
        break;
    case COMMAND_SELF_TEST:
        self_test(kbc);
        break;
    case COMMAND_KEYBOARD_TEST:
        answer(kbc, PORT_TEST_PASSED, 0);
        break;
    case COMMAND_KEYBOARD_OFF:
        kbc->ram[0] |= CTR_KEYBOARD_OFF;
        break;
    case COMMAND_KEYBOARD_ON:
        kbc->ram[0] &= (uint8_t)~CTR_KEYBOARD_OFF;
        break;
    case COMMAND_READ_INPUT:
        answer(kbc, INPUT_PORT, 0);
        break;
    case COMMAND_READ_OUTPUT:
        answer(kbc, (uint8_t)(kbc->output_port | (kbc->status & STATUS_OBF ? OUTPUT_OBF : 0)), 0);
        break;
    default:
        kbc->pending = command;
    }
    return false;
}

/* --- ports -------------------------------------------------------------------------------------------- */

static uint64_t data_read(void *opaque, uint64_t offset, unsigned size)
{
    struct i8042 *kbc = opaque;
    uint8_t value;

    lock_take(&kbc->lock);
    value = read_data(kbc);
    update_irq(kbc);
    lock_drop(&kbc->lock);
    return value;
}

static uint64_t status_read(void *opaque, uint64_t offset, unsigned size)
{
    struct i8042 *kbc = opaque;
    uint8_t value;

    lock_take(&kbc->lock);
    value = kbc->status | STATUS_UNLOCKED;
    lock_drop(&kbc->lock);
    return value;
}

static void serve(struct i8042 *kbc, bool (*write)(struct i8042 *kbc, uint8_t value), uint8_t value)
{
    bool reset;

    lock_take(&kbc->lock);
    reset = write(kbc, value);
    update_irq(kbc);
    lock_drop(&kbc->lock);
    if (reset)
        device_event_raise(&kbc->reset);
}

static void data_write(void *opaque, uint64_t offset, uint64_t value, unsigned size)
{
    serve(opaque, write_data, (uint8_t)value);
}

static void command_write(void *opaque, uint64_t offset, uint64_t value, unsigned size)
{
    serve(opaque, write_command, (uint8_t)value);
}

static uint64_t system_read(void *opaque, uint64_t offset, unsigned size)
{
    struct i8042 *kbc = opaque;
    uint8_t value;

    lock_take(&kbc->lock);
    value = kbc->system_port;
    lock_drop(&kbc->lock);
    return value;
}

static bool write_system(struct i8042 *kbc, uint8_t value)
{
    bool reset = (value & SYSTEM_RESET) && !(kbc->system_port & SYSTEM_RESET);

    kbc->system_port = value & (SYSTEM_RESET | SYSTEM_A20);
    return reset;
}

static void system_write(void *opaque, uint64_t offset, uint64_t value, unsigned size)
{
    serve(opaque, write_system, (uint8_t)value);
}

/* --- construction ---------------------------------------------------------------------------------------- */

static const struct bus_ops data_ops = {.read = data_read, .write = data_write, .max_size = 1};
static const struct bus_ops command_ops = {.read = status_read, .write = command_write, .max_size = 1};
static const struct bus_ops system_ops = {.read = system_read, .write = system_write, .max_size = 1};
static const struct device_ports i8042_ports[] = {
    {"i8042", DATA_PORT, 1, &data_ops},
    {"i8042", COMMAND_PORT, 1, &command_ops},
    {"port92", SYSTEM_PORT, 1, &system_ops},
};

struct i8042 *i8042_new(struct bus *bus, struct irq_line irq, struct device_event reset, struct error *err)
{
    struct i8042 *kbc = calloc(1, sizeof(*kbc));

    if (!kbc) {
        error_set(err, -ENOMEM, "i8042: no memory");
        return NULL;
    }
    *kbc = (struct i8042){.irq = irq,
                          .reset = reset,
                          .status = STATUS_SYSTEM,
                          .output_port = OUTPUT_NOT_RESET | OUTPUT_A20 | OUTPUT_REST,
                          .ram[0] = CTR_SYSTEM | CTR_KEYBOARD_OFF | CTR_AUX_OFF | CTR_TRANSLATE,
                          .system_port = SYSTEM_A20};
    lock_init(&kbc->lock, LOCK_DEVICE);
    if (device_add_ports(bus, i8042_ports, ARRAY_SIZE(i8042_ports), kbc, err) < 0) {
        i8042_free(kbc);
        return NULL;
    }
    return kbc;
}

void i8042_free(struct i8042 *kbc)
{
    if (!kbc)
        return;
    lock_destroy(&kbc->lock);
    free(kbc);
}
