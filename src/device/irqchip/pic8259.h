/*
 * device/irqchip/pic8259.h: the PC's pair of 8259A interrupt controllers, ports
 * 20, 21, A0, A1, and their edge/level registers 4D0, 4D1 (Intel 8259A data
 * sheet; ELCR as in the 82371SB).
 */
#ifndef DEVICE_IRQCHIP_PIC8259_H
#define DEVICE_IRQCHIP_PIC8259_H

#include "base/error.h"
#include "bus/bus.h"

struct pic;

/* intr is the INT pin: called on each change of its level, with the controller's lock held; it must not call back. */
struct pic *pic_new(struct bus *bus, void (*intr)(void *opaque, bool level), void *opaque, struct error *err);
void pic_free(struct pic *pic);

/* Drives input irq (0..15; 2 is the cascade and ignored). For struct irq_line: opaque is the struct pic. Any thread. */
void pic_set(void *pic, unsigned irq, bool level);
/* The INT pin's level. Any thread. */
bool pic_pending(struct pic *pic);
/* The processor's acknowledge cycle: the vector; that of IRQ 7 or 15 when there is nothing any more (spurious). */
uint8_t pic_acknowledge(struct pic *pic);

#endif
