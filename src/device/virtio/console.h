/*
 * device/virtio/console.h: terminals and byte streams (virtio 1.2, 5.3). A
 * device is either one terminal, whose size the driver reads from the
 * configuration, or several ports, each a terminal or a stream with a name.
 */
#ifndef DEVICE_VIRTIO_CONSOLE_H
#define DEVICE_VIRTIO_CONSOLE_H

#include "backend/char/chardev.h"
#include "base/error.h"
#include "bus/pci.h"
#include "mem/mem.h"

#define VIRTIO_CONSOLE_PORTS 7
#define VIRTIO_CONSOLE_NAME  32

struct virtio_console_port {
    struct chardev *chardev; /* the caller's */
    const char *name;        /* less than VIRTIO_CONSOLE_NAME bytes; NULL: a terminal */
};

struct virtio_console;

/* count: from 1 to VIRTIO_CONSOLE_PORTS. A terminal alone has no ports in the sense of VIRTIO_CONSOLE_F_MULTIPORT. */
struct virtio_console *virtio_console_new(struct pci_host *pci, struct mem *mem,
                                          const struct virtio_console_port *ports, unsigned count, struct error *err);
void virtio_console_free(struct virtio_console *console);

#endif
