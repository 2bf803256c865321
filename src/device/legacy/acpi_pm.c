/*
 * device/legacy/acpi_pm.c: ACPI 6.5, 4.8.3. There is no SMI command port, so the
 * system is in ACPI mode from the start: SCI_EN reads 1.
 */
#include "device/legacy/acpi_pm.h"

#include <errno.h>
#include <stdlib.h>

#include "base/lock.h"

#define NS_PER_SEC 1000000000ull

enum { OFFSET_STATUS = 0, OFFSET_ENABLE = 2, OFFSET_CONTROL = 4, OFFSET_TIMER = 8, BLOCK_SIZE = 12 };
enum { PM1_PWRBTN = 1 << 8, PM1_STATUS_MASK = 0x8731, PM1_ENABLE_MASK = 0x4721 };
enum { PM1_SCI_EN = 1 << 0, PM1_SLP_TYP_SHIFT = 10, PM1_SLP_TYP = 7 << 10, PM1_SLP_EN = 1 << 13 };
enum { RESET_SYSTEM = 1 << 1, RESET_CPU = 1 << 2 }; /* CF9: kind; a rising edge does it */

struct acpi_pm {
    const struct vclock *clock;
    struct irq_line sci;
    struct device_event poweroff, reset;
    struct lock lock;
    uint16_t status, enable, control;
    uint8_t reset_control;
};

static void update_sci(struct acpi_pm *pm)
{
    irq_set(&pm->sci, (pm->status & pm->enable) != 0);
}

static uint32_t timer_value(const struct acpi_pm *pm)
{
    return (uint32_t)((unsigned __int128)vclock_ns(pm->clock) * ACPI_PM_TIMER_HZ / NS_PER_SEC);
}

static uint16_t read_word(const struct acpi_pm *pm, uint64_t offset)
{
    switch (offset) {
    case OFFSET_STATUS:
        return pm->status;
    case OFFSET_ENABLE:
        return pm->enable;
    case OFFSET_CONTROL:
        return pm->control | PM1_SCI_EN;
    }
    return 0;
}

/* Any width at any offset: the registers as one string of bytes. */
static uint64_t pm_read(void *opaque, uint64_t offset, unsigned size)
{
    struct acpi_pm *pm = opaque;
    uint32_t value = 0;
    unsigned i;

    if (offset >= OFFSET_TIMER)
        return timer_value(pm) >> (offset - OFFSET_TIMER) * 8;
    lock_take(&pm->lock);
    for (i = 0; i < size; i++) {
        uint64_t at = offset + i;

        value |= (uint32_t)(read_word(pm, at & ~1ull) >> (at & 1) * 8 & 0xff) << i * 8;
    }
    lock_drop(&pm->lock);
    return value;
}

/* One byte of a register. Returns whether it asks for soft-off. */
static bool write_byte(struct acpi_pm *pm, uint64_t offset, uint8_t value)
{
    unsigned shift = offset & 1 ? 8 : 0;
    uint16_t word = (uint16_t)(value << shift), mask = (uint16_t)(0xff << shift);

    switch (offset & ~1ull) {
    case OFFSET_STATUS: /* written ones clear */
        pm->status &= (uint16_t)~word;
        break;
    case OFFSET_ENABLE:
        pm->enable = (uint16_t)((pm->enable & ~mask) | (word & PM1_ENABLE_MASK));
        break;
    case OFFSET_CONTROL:
        pm->control = (uint16_t)((pm->control & ~mask) | (word & ~PM1_SLP_EN));
        return (word & PM1_SLP_EN) && (pm->control & PM1_SLP_TYP) >> PM1_SLP_TYP_SHIFT == ACPI_PM_S5_TYPE;
    }
    return false;
}

static void pm_write(void *opaque, uint64_t offset, uint64_t value, unsigned size)
{
    struct acpi_pm *pm = opaque;
    bool off = false;
    unsigned i;

    lock_take(&pm->lock);
    for (i = 0; i < size; i++)
        off |= write_byte(pm, offset + i, (uint8_t)(value >> i * 8));
    update_sci(pm);
    lock_drop(&pm->lock);
    if (off)
        device_event_raise(&pm->poweroff);
}

static uint64_t reset_read(void *opaque, uint64_t offset, unsigned size)
{
    struct acpi_pm *pm = opaque;
    uint8_t value;

    lock_take(&pm->lock);
    value = pm->reset_control;
    lock_drop(&pm->lock);
    return value;
}

static void reset_write(void *opaque, uint64_t offset, uint64_t value, unsigned size)
{
    struct acpi_pm *pm = opaque;
    bool reset;

    lock_take(&pm->lock);
    reset = (value & RESET_CPU) && !(pm->reset_control & RESET_CPU);
    pm->reset_control = value & (RESET_SYSTEM | RESET_CPU);
    lock_drop(&pm->lock);
    if (reset)
        device_event_raise(&pm->reset);
}

void acpi_pm_power_button(struct acpi_pm *pm)
{
    lock_take(&pm->lock);
    pm->status |= PM1_PWRBTN;
    update_sci(pm);
    lock_drop(&pm->lock);
}

static const struct bus_ops pm_ops = {.read = pm_read, .write = pm_write, .max_size = 4};
static const struct bus_ops reset_ops = {.read = reset_read, .write = reset_write, .max_size = 1};

struct acpi_pm *acpi_pm_new(struct bus *bus, uint16_t base, const struct vclock *clock, struct irq_line sci,
                            struct device_event poweroff, struct device_event reset, struct error *err)
{
    const struct device_ports ports[] = {
        {"acpi-pm", base, BLOCK_SIZE, &pm_ops},
        {"reset", ACPI_PM_RESET_PORT, 1, &reset_ops},
    };
    struct acpi_pm *pm = calloc(1, sizeof(*pm));

    if (!pm) {
        error_set(err, -ENOMEM, "acpi-pm: no memory");
        return NULL;
    }
    *pm = (struct acpi_pm){.clock = clock, .sci = sci, .poweroff = poweroff, .reset = reset};
    lock_init(&pm->lock, LOCK_DEVICE);
    if (device_add_ports(bus, ports, ARRAY_SIZE(ports), pm, err) < 0) {
        acpi_pm_free(pm);
        return NULL;
    }
    return pm;
}

void acpi_pm_free(struct acpi_pm *pm)
{
    if (!pm)
        return;
    lock_destroy(&pm->lock);
    free(pm);
}
