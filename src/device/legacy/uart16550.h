/*
 * device/legacy/uart16550.h: a 16550A serial port (National Semiconductor
 * PC16550D data sheet), eight ports.
 */
#ifndef DEVICE_LEGACY_UART16550_H
#define DEVICE_LEGACY_UART16550_H

#include "backend/char/chardev.h"
#include "base/error.h"
#include "base/loop.h"
#include "bus/bus.h"
#include "bus/irq.h"

struct uart;

/* chardev may be NULL: nothing is plugged in, and no modem signal is up. Takes over chardev->client. */
struct uart *uart_new(struct bus *bus, uint16_t base, struct loop *loop, struct irq_line irq, struct chardev *chardev,
                      struct error *err);
void uart_free(struct uart *uart);

#endif
