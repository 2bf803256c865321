/*
 * device/legacy/acpi_pm.h: the fixed ACPI hardware (ACPI 6.5, 4.8.3): PM1a event
 * block at base, PM1a control at base + 4, PM timer (32 bits) at base + 8; and
 * the reset control register, port CF9.
 */
#ifndef DEVICE_LEGACY_ACPI_PM_H
#define DEVICE_LEGACY_ACPI_PM_H

#include "base/vclock.h"
#include "bus/irq.h"
#include "device/device.h"

#define ACPI_PM_TIMER_HZ    3579545ull
#define ACPI_PM_S5_TYPE     5 /* SLP_TYP of soft-off, for the DSDT's _S5 */
#define ACPI_PM_RESET_PORT  0xcf9
#define ACPI_PM_RESET_VALUE 0x06

struct acpi_pm;

struct acpi_pm *acpi_pm_new(struct bus *bus, uint16_t base, const struct vclock *clock, struct irq_line sci,
                            struct device_event poweroff, struct device_event reset, struct error *err);
void acpi_pm_free(struct acpi_pm *pm);
/* The user presses the power button: an event for the guest's operating system. Any thread. */
void acpi_pm_power_button(struct acpi_pm *pm);

#endif
