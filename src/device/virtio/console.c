/*
 * device/virtio/console.c: bytes between queues and character backends. What
 * the driver has to be told on the control queue is kept as one bit for each
 * port and kind of message, so that a driver that takes none costs nothing.
 *
 * Drivers disagree on the order of rows and columns in a RESIZE message (Linux
 * has had both; 5.3.6.2 says columns first), but not in the configuration: a
 * terminal that should follow its user's window is better a device of its own.
 */
#include "device/virtio/console.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "device/virtio/virtio.h"

#define CLASS_SERIAL 0x078000
#define WRITE_MAX    MIB(1) /* of one chain; Linux sends 32 KiB */

#define F_SIZE      BIT(0)
#define F_MULTIPORT BIT(1)

struct console_config { /* 5.3.4 */
    uint16_t columns, rows;
    uint32_t max_nr_ports, emerg_wr;
};

/* 5.3.6.2 */
enum {
    DEVICE_READY = 0,
    PORT_ADD = 1,
    PORT_REMOVE = 2,
    PORT_READY = 3,
    CONSOLE_PORT = 4,
    RESIZE = 5,
    PORT_OPEN = 6,
    PORT_NAME = 7,
};

struct control {
    uint32_t id;
    uint16_t event, value;
};

/* What the driver is told of a port, in this order: a named one is open by the time it has its name. */
static const uint8_t messages[] = {PORT_ADD, CONSOLE_PORT, PORT_OPEN, RESIZE, PORT_NAME};

/* Port 0 has the first two queues, the control messages the next (5.3.2). */
enum { CONTROL_RX = 2, CONTROL_TX = 3 };

struct port {
    struct virtio_console *console;
    struct chardev *chardev;
    char name[VIRTIO_CONSOLE_NAME]; /* "": a terminal */
    unsigned id;
    bool guest_open, host_open;
    uint32_t due; /* bit n: message n is to be sent */
};

struct virtio_console {
    struct virtio_device virtio;
    bool multiport; /* offered */
    bool size_told; /* since DRIVER_OK */
    unsigned ports;
    struct port port[VIRTIO_CONSOLE_PORTS];
    struct virtq_chain chain;
};

static unsigned rx_queue(const struct port *port)
{
    return port->id ? 2 * port->id + 2 : 0;
}

/* The port of a queue that is no control queue. */
static struct port *port_of(struct virtio_console *console, unsigned queue)
{
    return &console->port[queue < 2 ? 0 : queue / 2 - 1];
}

static bool has_ports(const struct virtio_console *console)
{
    return virtio_has(&console->virtio, F_MULTIPORT);
}

/* Does somebody read it? Without control messages there is no saying; a driver for one port knows only the first. */
static bool is_open(const struct port *port)
{
    return has_ports(port->console) ? port->guest_open : port->id == 0;
}

/* --- control messages ------------------------------------------------------------------------- */

static void send_message(struct port *port, unsigned event)
{
    struct virtio_console *console = port->console;
    const struct control control = {
        .id = port->id, .event = (uint16_t)event, .value = event == PORT_OPEN ? port->host_open : 1};
    const uint16_t size[] = {port->chardev->columns, port->chardev->rows};
    uint64_t n = virtq_write(&console->chain, 0, &control, sizeof(control));

    if (event == RESIZE)
        n += virtq_write(&console->chain, n, size, sizeof(size));
    if (event == PORT_NAME)
        n += virtq_write(&console->chain, n, port->name, strlen(port->name));
    virtio_push(&console->virtio, CONTROL_RX, &console->chain, n);
}

/* The next chain of a queue that is filled from here; the driver is asked to tell of more when there is none. */
static bool next_room(struct virtio_console *console, unsigned queue)
{
    do
        if (virtio_pop(&console->virtio, queue, &console->chain))
            return true;
    while (virtio_ask_notification(&console->virtio, queue));
    return false;
}

static void send_due(struct virtio_console *console)
{
    for (unsigned i = 0; i < console->ports; i++)
        for (unsigned j = 0; j < ARRAY_SIZE(messages); j++) {
            struct port *port = &console->port[i];

            if (!(port->due & BIT(messages[j])))
                continue;
            if (!next_room(console, CONTROL_RX))
                return;
            port->due &= ~(uint32_t)BIT(messages[j]);
            send_message(port, messages[j]);
        }
}

static void tell(struct virtio_console *console)
{
    if (!has_ports(console))
        return;
    send_due(console);
    virtio_flush(&console->virtio, CONTROL_RX);
}

static void take_control(struct virtio_console *console, const struct control *control)
{
    struct port *port = control->id < console->ports ? &console->port[control->id] : NULL;

    if (control->event == DEVICE_READY && control->value) {
        for (unsigned i = 0; i < console->ports; i++)
            console->port[i].due |= BIT(PORT_ADD);
    } else if (control->event == PORT_READY && control->value && port) {
        port->due |= BIT(PORT_OPEN) | (*port->name ? BIT(PORT_NAME) : BIT(CONSOLE_PORT));
        if (!*port->name && port->chardev->rows)
            port->due |= BIT(RESIZE);
    } else if (control->event == PORT_OPEN && port) {
        port->guest_open = control->value;
        if (port->guest_open)
            port->chardev->ops->accept_input(port->chardev);
    }
}

/* --- queues ------------------------------------------------------------------------------------- */

/* From the guest. False: the device has failed. */
static bool take_output(struct virtio_console *console, struct port *port)
{
    uint8_t data[4096];
    uint64_t at = 0, n;

    if (console->chain.readable_bytes > WRITE_MAX) {
        virtio_fail(&console->virtio, "more bytes in one chain than it takes");
        return false;
    }
    while ((n = virtq_read(&console->chain, at, data, sizeof(data)))) {
        port->chardev->ops->write(port->chardev, data, n);
        at += n;
    }
    return true;
}

/* A driver looks at the size only when it is told of a change, and is ready for that when it has written something. */
static void tell_size(struct virtio_console *console)
{
    if (!console->size_told && console->port[0].chardev->rows && !has_ports(console))
        virtio_config_changed(&console->virtio);
    console->size_told = true;
}

static bool take_chain(struct virtio_console *console, unsigned queue)
{
    struct control control = {.event = UINT16_MAX};

    if (!virtio_pop(&console->virtio, queue, &console->chain))
        return false;
    if (queue != CONTROL_TX || !console->multiport) {
        if (!take_output(console, port_of(console, queue)))
            return false;
        tell_size(console);
    } else if (virtq_read(&console->chain, 0, &control, sizeof(control)) == sizeof(control)) {
        take_control(console, &control);
    }
    virtio_push(&console->virtio, queue, &console->chain, 0);
    return true;
}

static void notify(struct virtio_device *device, unsigned queue)
{
    struct virtio_console *console = container_of(device, struct virtio_console, virtio);

    if (queue == CONTROL_RX) {
        tell(console);
        return;
    }
    if (queue % 2 == 0) { /* room for what waits */
        struct port *port = port_of(console, queue);

        port->chardev->ops->accept_input(port->chardev);
        return;
    }
    do
        while (take_chain(console, queue))
            ;
    while (virtio_ask_notification(device, queue));
    virtio_flush(device, queue);
    tell(console);
}

/* --- the backends' side: the loop's thread --------------------------------------------------------- */

static size_t port_can_receive(void *opaque)
{
    struct port *port = opaque;
    struct virtio_console *console = port->console;
    size_t room = 0;

    lock_take(&console->virtio.lock);
    if (is_open(port) && next_room(console, rx_queue(port))) {
        room = console->chain.writable_bytes;
        virtio_unpop(&console->virtio, rx_queue(port), &console->chain);
        if (!room)
            virtio_fail(&console->virtio, "a buffer for input that cannot be written to");
    }
    lock_drop(&console->virtio.lock);
    return room;
}

/* If the driver was reset since it was asked, the bytes go where its buffers went. */
static void port_receive(void *opaque, const uint8_t *data, size_t len)
{
    struct port *port = opaque;
    struct virtio_console *console = port->console;
    unsigned queue = rx_queue(port);

    lock_take(&console->virtio.lock);
    while (len && is_open(port) && virtio_pop(&console->virtio, queue, &console->chain)) {
        uint64_t n = virtq_write(&console->chain, 0, data, len);

        virtio_push(&console->virtio, queue, &console->chain, n);
        data += n;
        len -= n;
    }
    virtio_flush(&console->virtio, queue);
    lock_drop(&console->virtio.lock);
}

static void port_hangup(void *opaque)
{
    struct port *port = opaque;
    struct virtio_console *console = port->console;

    lock_take(&console->virtio.lock);
    port->host_open = false;
    port->due |= BIT(PORT_OPEN);
    tell(console);
    lock_drop(&console->virtio.lock);
}

static void put_size(struct virtio_console *console)
{
    const struct chardev *chardev = console->port[0].chardev;
    const struct console_config size = {.columns = chardev->columns, .rows = chardev->rows};

    memcpy(console->virtio.config, &size, offsetof(struct console_config, max_nr_ports));
}

static void port_resized(void *opaque, uint16_t rows, uint16_t columns)
{
    struct port *port = opaque;
    struct virtio_console *console = port->console;

    lock_take(&console->virtio.lock);
    put_size(console);
    if (!has_ports(console)) {
        if (virtio_running(&console->virtio) && console->size_told)
            virtio_config_changed(&console->virtio);
    } else if (!*port->name && port->guest_open) {
        port->due |= BIT(RESIZE);
        tell(console);
    }
    lock_drop(&console->virtio.lock);
}

/* --- the device -------------------------------------------------------------------------------------- */

static void reset(struct virtio_device *device)
{
    struct virtio_console *console = container_of(device, struct virtio_console, virtio);

    console->size_told = false;
    for (unsigned i = 0; i < console->ports; i++) {
        console->port[i].guest_open = false;
        console->port[i].due = 0;
    }
}

static const struct virtio_ops ops = {
    .name = "virtio-console",
    .type = VIRTIO_CONSOLE,
    .class_code = CLASS_SERIAL,
    .at_once = true, /* Linux spins until its output is taken */
    .notify = notify,
    .reset = reset,
};

static void connect_port(struct virtio_console *console, unsigned i, const struct virtio_console_port *from)
{
    struct port *port = &console->port[i];

    *port = (struct port){.console = console, .chardev = from->chardev, .id = i, .host_open = true};
    if (from->name)
        memcpy(port->name, from->name, MIN(strlen(from->name), sizeof(port->name) - 1));
    port->chardev->client = (struct chardev_client){
        .opaque = port,
        .can_receive = port_can_receive,
        .receive = port_receive,
        .hangup = port_hangup,
        .resized = port_resized,
    };
}

struct virtio_console *virtio_console_new(struct pci_host *pci, struct mem *mem,
                                          const struct virtio_console_port *ports, unsigned count, struct error *err)
{
    const struct console_config config = {.max_nr_ports = count};
    struct virtio_console *console = calloc(1, sizeof(*console));

    if (!console) {
        error_set(err, -ENOMEM, "virtio-console: no memory");
        return NULL;
    }
    console->multiport = count > 1 || ports[0].name;
    if (virtio_init(&console->virtio, &ops, pci, mem, console->multiport ? 2 * count + 2 : 2,
                    F_SIZE | (console->multiport ? F_MULTIPORT : 0), &config, sizeof(config), err)) {
        virtio_console_free(console);
        return NULL;
    }
    for (unsigned i = 0; i < count; i++)
        connect_port(console, i, &ports[i]);
    console->ports = count;
    put_size(console);
    for (unsigned i = 0; i < count; i++)
        console->port[i].chardev->ops->accept_input(console->port[i].chardev);
    return console;
}

void virtio_console_free(struct virtio_console *console)
{
    for (unsigned i = 0; i < console->ports; i++)
        console->port[i].chardev->client = (struct chardev_client){.opaque = NULL};
    virtio_fini(&console->virtio);
    free(console);
}
