/*
 * device/irqchip/ioapic.h: an I/O APIC with 24 inputs (Intel 82093AA data sheet),
 * version 0x20: with an EOI register.
 */
#ifndef DEVICE_IRQCHIP_IOAPIC_H
#define DEVICE_IRQCHIP_IOAPIC_H

#include "base/error.h"
#include "bus/bus.h"
#include "bus/irq.h"

#define IOAPIC_BASE 0xfec00000ull
#define IOAPIC_PINS 24

struct ioapic;

/* Messages go to sink with the IOAPIC's lock held; it must not call back. */
struct ioapic *ioapic_new(struct bus *bus, gpa_t base, uint8_t id, struct msi_sink sink, struct error *err);
void ioapic_free(struct ioapic *ioapic);

/* Drives a pin; true is asserted, whatever polarity the guest has set. For struct irq_line: opaque is the struct
 * ioapic. Any thread. */
void ioapic_set(void *ioapic, unsigned pin, bool level);
/* A local APIC's EOI broadcast for a level-triggered vector. Any thread. */
void ioapic_eoi(struct ioapic *ioapic, uint8_t vector);

#endif
