/* device/device.c: see device.h. */
#include "device/device.h"

#include <string.h>

int device_add_ports(struct bus *bus, const struct device_ports *ports, unsigned count, void *opaque, struct error *err)
{
    unsigned i;

    for (i = 0; i < count; i++) {
        int rc = bus_add_port(bus, ports[i].name, ports[i].base, ports[i].len, ports[i].ops, opaque);

        if (rc < 0)
            return error_set(err, rc, "%s: cannot have ports %#x..%#x: %s", ports[i].name, ports[i].base,
                             ports[i].base + ports[i].len - 1, strerror(-rc));
    }
    return 0;
}
