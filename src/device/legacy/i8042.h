/*
 * device/legacy/i8042.h: the keyboard controller, ports 60, 64, and the fast
 * A20 and reset port 92 (PS/2 system control port A). No keyboard and no mouse
 * are plugged in; what remains is what systems probe for and the reset line.
 */
#ifndef DEVICE_LEGACY_I8042_H
#define DEVICE_LEGACY_I8042_H

#include "bus/irq.h"
#include "device/device.h"

struct i8042;

struct i8042 *i8042_new(struct bus *bus, struct irq_line irq, struct device_event reset, struct error *err);
void i8042_free(struct i8042 *kbc);

#endif
