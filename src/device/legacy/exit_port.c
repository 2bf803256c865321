/* device/legacy/exit_port.c: see exit_port.h. It keeps no state and needs no lock. */
#include "device/legacy/exit_port.h"

#include <errno.h>
#include <stdlib.h>

#include "device/device.h"

struct exit_port {
    void (*fn)(void *opaque, uint8_t status);
    void *opaque;
};

static uint64_t exit_port_read(void *opaque, uint64_t offset, unsigned size)
{
    return EXIT_PORT_PRESENCE;
}

static void exit_port_write(void *opaque, uint64_t offset, uint64_t value, unsigned size)
{
    struct exit_port *port = opaque;

    port->fn(port->opaque, (uint8_t)value);
}

static const struct bus_ops exit_port_ops = {.read = exit_port_read, .write = exit_port_write, .max_size = 1};
static const struct device_ports exit_port_ports[] = {{"exit", EXIT_PORT, 1, &exit_port_ops}};

struct exit_port *exit_port_new(struct bus *bus, void (*fn)(void *opaque, uint8_t status), void *opaque,
                                struct error *err)
{
    struct exit_port *port = calloc(1, sizeof(*port));

    if (!port) {
        error_set(err, -ENOMEM, "exit port: no memory");
        return NULL;
    }
    port->fn = fn;
    port->opaque = opaque;
    if (device_add_ports(bus, exit_port_ports, ARRAY_SIZE(exit_port_ports), port, err) < 0) {
        exit_port_free(port);
        return NULL;
    }
    return port;
}

void exit_port_free(struct exit_port *port)
{
    free(port);
}
