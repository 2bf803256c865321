/*
 * bus/bus.c: two sorted tables of ranges, ports and memory-mapped, searched by
 * halves.
 *
 * An access goes to whoever owns its first byte. What the device cannot take
 * at once (too wide for it, or past its end) follows as further accesses, as
 * an ISA bridge would do it; an access whose first byte nobody owns is dropped
 * whole, so that a configuration write to port CF8 never reaches CF9.
 */
#include "bus/bus.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"

#define PORT_LAST 0xffff

struct range {
    uint64_t first, last;
    const char *name;
    const struct bus_ops *ops;
    void *opaque;
};

struct space {
    struct range *ranges; /* sorted, disjoint */
    unsigned count;
    uint64_t last; /* highest address */
};

struct bus {
    struct space ports, mmio;
};

struct bus *bus_new(void)
{
    struct bus *bus = calloc(1, sizeof(*bus));

    if (!bus)
        return NULL;
    bus->ports.last = PORT_LAST;
    bus->mmio.last = UINT64_MAX;
    return bus;
}

void bus_free(struct bus *bus)
{
    if (!bus)
        return;
    free(bus->ports.ranges);
    free(bus->mmio.ranges);
    free(bus);
}

/* The first range that ends at or after addr: its index, or count. */
static unsigned find_index(const struct space *space, uint64_t addr)
{
    unsigned low = 0, high = space->count;

    while (low < high) {
        unsigned middle = (low + high) / 2;

        if (space->ranges[middle].last < addr)
            low = middle + 1;
        else
            high = middle;
    }
    return low;
}

static const struct range *find(const struct space *space, uint64_t addr)
{
    unsigned i = find_index(space, addr);

    return i < space->count && space->ranges[i].first <= addr ? &space->ranges[i] : NULL;
}

static int add(struct space *space, const struct range *range)
{
    unsigned i = find_index(space, range->first);
    struct range *ranges;

    if (range->last < range->first || range->last > space->last)
        return -EINVAL;
    if (i < space->count && space->ranges[i].first <= range->last)
        return -EEXIST;
    ranges = realloc(space->ranges, (space->count + 1) * sizeof(*ranges));
    if (!ranges)
        return -ENOMEM;
    space->ranges = ranges;
    memmove(&ranges[i + 1], &ranges[i], (space->count - i) * sizeof(*ranges));
    ranges[i] = *range;
    space->count++;
    return 0;
}

int bus_add_port(struct bus *bus, const char *name, uint16_t base, unsigned len, const struct bus_ops *ops,
                 void *opaque)
{
    const struct range range = {base, (uint64_t)base + len - 1, name, ops, opaque};

    return add(&bus->ports, &range);
}

int bus_add_mmio(struct bus *bus, const char *name, gpa_t base, uint64_t len, const struct bus_ops *ops, void *opaque)
{
    const struct range range = {base, base + len - 1, name, ops, opaque};

    return add(&bus->mmio, &range);
}

static uint64_t ones(unsigned size)
{
    return size >= 8 ? UINT64_MAX : (1ull << size * 8) - 1;
}

/* How much of an access of size bytes at addr the device takes at once: a power of two. */
static unsigned part_size(const struct range *range, uint64_t addr, unsigned size)
{
    unsigned part = range->ops->max_size ? range->ops->max_size : 8;

    while (part > size || (part - 1 > range->last - addr && !range->ops->whole))
        part /= 2;
    return part;
}

static uint64_t space_read(const struct space *space, uint64_t addr, unsigned size)
{
    const struct range *range = find(space, addr);
    uint64_t value = ones(size);
    unsigned done, part;

    for (done = 0; range && done < size; done += part) {
        uint64_t at = addr + done, got;

        part = part_size(range, at, size - done);
        got = range->ops->read(range->opaque, at - range->first, part) & ones(part);
        value = (value & ~(ones(part) << done * 8)) | got << done * 8;
        range = at > space->last - part ? NULL : find(space, at + part);
    }
    return value;
}

static void space_write(const struct space *space, uint64_t addr, uint64_t value, unsigned size)
{
    const struct range *range = find(space, addr);
    unsigned done, part;

    for (done = 0; range && done < size; done += part) {
        uint64_t at = addr + done;

        part = part_size(range, at, size - done);
        range->ops->write(range->opaque, at - range->first, value >> done * 8 & ones(part), part);
        range = at > space->last - part ? NULL : find(space, at + part);
    }
}

static const char *name_at(const struct space *space, uint64_t addr)
{
    const struct range *range = find(space, addr);

    return range ? range->name : "nobody";
}

uint32_t bus_port_read(struct bus *bus, uint16_t port, unsigned size)
{
    uint32_t value = (uint32_t)space_read(&bus->ports, port, size);

    TRACE(IO, "port %04x read%u = %x (%s)", port, size * 8, value, name_at(&bus->ports, port));
    return value;
}

void bus_port_write(struct bus *bus, uint16_t port, uint32_t value, unsigned size)
{
    TRACE(IO, "port %04x write%u %x (%s)", port, size * 8, value, name_at(&bus->ports, port));
    space_write(&bus->ports, port, value, size);
}

uint64_t bus_mmio_read(struct bus *bus, gpa_t gpa, unsigned size)
{
    uint64_t value = space_read(&bus->mmio, gpa, size);

    TRACE(IO, "mmio %llx read%u = %llx (%s)", (unsigned long long)gpa, size * 8, (unsigned long long)value,
          name_at(&bus->mmio, gpa));
    return value;
}

void bus_mmio_write(struct bus *bus, gpa_t gpa, uint64_t value, unsigned size)
{
    TRACE(IO, "mmio %llx write%u %llx (%s)", (unsigned long long)gpa, size * 8, (unsigned long long)value,
          name_at(&bus->mmio, gpa));
    space_write(&bus->mmio, gpa, value, size);
}
