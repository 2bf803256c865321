/*
 * device/legacy/pit8254.h: the 8254 interval timer, ports 40..43, and port 61,
 * which holds the gate and shows the output of its channel 2 (the speaker's).
 * Channel 0's output is IRQ 0.
 */
#ifndef DEVICE_LEGACY_PIT8254_H
#define DEVICE_LEGACY_PIT8254_H

#include "base/error.h"
#include "base/loop.h"
#include "bus/bus.h"
#include "bus/irq.h"

#define PIT_HZ 1193182ull

struct pit;

struct pit *pit_new(struct bus *bus, struct loop *loop, struct irq_line irq, struct error *err);
void pit_free(struct pit *pit);

#endif
