/*
 * bus/bus.h: which device answers a port or an address. Filled in by
 * machine/board.c before the vCPUs run, then read without a lock.
 */
#ifndef BUS_BUS_H
#define BUS_BUS_H

#include "base/types.h"

struct bus;

/* Called on a vCPU's thread; the device takes its own lock. offset is from the start of its range; size 1, 2, 4 or 8
 * (ports: up to 4), naturally split by the bus where max_size is smaller. */
struct bus_ops {
    uint64_t (*read)(void *opaque, uint64_t offset, unsigned size);
    void (*write)(void *opaque, uint64_t offset, uint64_t value, unsigned size);
    unsigned max_size; /* widest access the device takes; wider ones come as several, low first. 0: 8 */
    bool whole;        /* an access that begins in the range is the device's even where it goes past the end */
};

struct bus *bus_new(void);
void bus_free(struct bus *bus);
/* name is for traces. 0, -EEXIST (overlaps another), -ENOMEM. */
int bus_add_port(struct bus *bus, const char *name, uint16_t base, unsigned len, const struct bus_ops *ops,
                 void *opaque);
int bus_add_mmio(struct bus *bus, const char *name, gpa_t base, uint64_t len, const struct bus_ops *ops, void *opaque);

/* Nobody there: reads give all ones, writes are dropped. Traced as io. */
uint32_t bus_port_read(struct bus *bus, uint16_t port, unsigned size);
void bus_port_write(struct bus *bus, uint16_t port, uint32_t value, unsigned size);
uint64_t bus_mmio_read(struct bus *bus, gpa_t gpa, unsigned size);
void bus_mmio_write(struct bus *bus, gpa_t gpa, uint64_t value, unsigned size);

#endif
