/*
 * device/device.h: what every device's constructor shares.
 *
 * A device takes what it needs, claims its addresses on the bus and keeps its
 * registers under a lock of its own: vCPU threads call it through the bus, the
 * loop's thread through timers and backends. A device is freed after the
 * loop and the vCPUs have stopped; the bus is not used after that.
 */
#ifndef DEVICE_DEVICE_H
#define DEVICE_DEVICE_H

#include "base/error.h"
#include "bus/bus.h"

/* A wish of the guest that the machine carries out: power off, reset. Called without the device's lock, on the thread
 * of the vCPU that asked. */
struct device_event {
    void (*fn)(void *opaque);
    void *opaque;
};

static inline void device_event_raise(const struct device_event *event)
{
    if (event->fn)
        event->fn(event->opaque);
}

/* A group of ports of one device, for device_add_ports. */
struct device_ports {
    const char *name;
    uint16_t base, len;
    const struct bus_ops *ops;
};

/* Claims them all; 0, or a negative errno with a message that names the range. */
int device_add_ports(struct bus *bus, const struct device_ports *ports, unsigned count, void *opaque,
                     struct error *err);

#endif
