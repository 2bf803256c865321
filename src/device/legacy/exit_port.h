/*
 * device/legacy/exit_port.h: the port by which a guest ends the VM with an exit
 * status; docs/exit-port.md.
 */
#ifndef DEVICE_LEGACY_EXIT_PORT_H
#define DEVICE_LEGACY_EXIT_PORT_H

#include "base/error.h"
#include "bus/bus.h"

#define EXIT_PORT          0xf4
#define EXIT_PORT_PRESENCE 0x54 /* 'T' */

struct exit_port;

/* fn is called on the vCPU's thread with the byte written. */
struct exit_port *exit_port_new(struct bus *bus, void (*fn)(void *opaque, uint8_t status), void *opaque,
                                struct error *err);
void exit_port_free(struct exit_port *port);

#endif
