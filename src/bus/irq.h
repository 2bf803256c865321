/*
 * bus/irq.h: interrupt lines: a wire from a device to one pin of an interrupt
 * controller, and messages from controllers to the local APICs.
 */
#ifndef BUS_IRQ_H
#define BUS_IRQ_H

#include "base/types.h"

struct irq_line {
    void (*set)(void *opaque, unsigned pin, bool level);
    void *opaque;
    unsigned pin;
};

/* Drives the line; a line with no handler is not connected. Any thread. */
static inline void irq_set(const struct irq_line *line, bool level)
{
    if (line->set)
        line->set(line->opaque, line->pin, level);
}

/* An MSI as a device or an IOAPIC writes it: address and data in the x86 format (SDM vol. 3, 11.11). */
struct msi_message {
    uint64_t address;
    uint32_t data;
};
struct msi_sink {
    void (*send)(void *opaque, const struct msi_message *message);
    void *opaque;
    /* The same for one that sends the same message again and again: *route is its own, 0 at first, and remembers what
     * has been set up for it; its calls come one at a time. NULL: there is no such thing. */
    void (*send_again)(void *opaque, unsigned *route, const struct msi_message *message);
};

static inline void msi_send_again(const struct msi_sink *sink, unsigned *route, const struct msi_message *message)
{
    if (sink->send_again)
        sink->send_again(sink->opaque, route, message);
    else
        sink->send(sink->opaque, message);
}

#endif
