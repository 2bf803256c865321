/* tests/device/every.c: see every.h. What cannot fail here aborts. */
#include "tests/device/every.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include "backend/char/backends.h"
#include "backend/char/buffer.h"
#include "base/unix_socket.h"
#include "device/virtio/balloon.h"
#include "device/virtio/blk.h"
#include "device/virtio/console.h"
#include "device/virtio/fs.h"
#include "device/virtio/net.h"
#include "device/virtio/rng.h"
#include "device/virtio/vsock.h"

#define DISK    KIB(256)
#define PORTS   4 /* of the host's that somebody listens at: 0 to 3 */
#define STREAMS 8

static char folder[] = "/tmp/trapeze-every-XXXXXX", disk_path[64], share_path[64], sock_path[64];
static struct vclock *vclock;
static struct loop *loop;
static struct vsock_host *vsock_host;
static int listener[PORTS], stream[STREAMS];
static struct net net; /* a wire that ends there */

static void clean_up(void)
{
    char command[128];

    snprintf(command, sizeof(command), "rm -rf %s", folder);
    if (system(command))
        fprintf(stderr, "%s stays\n", folder);
}

void every_init(void)
{
    char path[80];
    int fd;

    if (!mkdtemp(folder))
        abort();
    atexit(clean_up);
    snprintf(disk_path, sizeof(disk_path), "%s/disk", folder);
    snprintf(share_path, sizeof(share_path), "%s/share", folder);
    snprintf(sock_path, sizeof(sock_path), "%s/sock", folder);
    fd = open(disk_path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (fd < 0 || ftruncate(fd, DISK) < 0 || mkdir(share_path, 0700) < 0)
        abort();
    close(fd);
    vclock = vclock_new_manual(1000000000);
    loop = loop_new(vclock);
    vsock_host = loop ? vsock_host_new(loop, sock_path, NULL) : NULL;
    if (!vsock_host)
        abort();
    for (unsigned i = 0; i < PORTS; i++) {
        snprintf(path, sizeof(path), "%s_%u", sock_path, i);
        listener[i] = unix_socket_listen("test", path, NULL);
        if (listener[i] < 0)
            abort();
    }
    for (unsigned i = 0; i < STREAMS; i++)
        stream[i] = -1;
}

/* --- a network ------------------------------------------------------------------------------ */

static int net_start(struct net *self)
{
    return 0;
}

static void net_stop(struct net *self)
{
}

static bool net_send(struct net *self, const struct iovec *iov, unsigned count, const struct net_offload *offload)
{
    uint64_t len = 0;

    for (unsigned i = 0; i < count; i++)
        len += iov[i].iov_len;
    if (len < NET_HEADER || len > NET_FRAME_MAX)
        abort();
    return len % 8 != 1; /* now and then it is full */
}

static void net_takes(struct net *self, unsigned takes)
{
}

static const struct net_ops net_ops = {net_start, net_stop, net_send, net_takes, net_stop, net_stop};

/* --- devices -------------------------------------------------------------------------------------- */

static void message(void *opaque, const struct msi_message *msi)
{
}

static void line(void *opaque, unsigned pin, bool level)
{
}

static void *open_disk(struct every *every)
{
    const struct block_config config = {
        .path = disk_path,
        .readonly = every->kind == EVERY_DISK_READONLY,
        .scratch = every->kind == EVERY_DISK_SCRATCH,
    };

    every->backend[0] = block_open(&config, NULL);
    return every->backend[0] ? virtio_blk_new(every->pci, every->mem, every->backend[0], "every", 2, NULL) : NULL;
}

static void *open_net(struct every *every)
{
    net = (struct net){.ops = &net_ops, .mtu = 65521, .gives = NET_TAKES_CSUM | NET_TAKES_TCP4};
    return virtio_net_new(every->pci, every->mem, &net, (const uint8_t *)"\2\1\2\3\4\5", NULL);
}

static void *open_console(struct every *every)
{
    struct virtio_console_port port[2] = {{.name = NULL}, {.name = "a port"}};
    unsigned count = every->kind == EVERY_PORTS ? 2 : 1;

    for (unsigned i = 0; i < count; i++) {
        port[i].chardev = every->backend[i] = chardev_buffer_new(NULL);
        if (!port[i].chardev)
            abort();
        port[i].chardev->rows = 25;
        port[i].chardev->columns = 80;
    }
    return virtio_console_new(every->pci, every->mem, port, count, NULL);
}

static void *open_share(struct every *every)
{
    const struct fs_config config = {.path = share_path};

    every->backend[0] = fs_open(&config, "test", NULL);
    return every->backend[0] ? virtio_fs_new(every->pci, every->mem, every->backend[0], "tag", 1, NULL) : NULL;
}

static void *open_device(struct every *every)
{
    switch (every->kind) {
    case EVERY_RNG:
        return virtio_rng_new(every->pci, every->mem, NULL);
    case EVERY_NET:
        return open_net(every);
    case EVERY_BALLOON:
        return virtio_balloon_new(every->pci, every->mem, NULL);
    case EVERY_TERMINAL:
    case EVERY_PORTS:
        return open_console(every);
    case EVERY_VSOCK:
        return virtio_vsock_new(every->pci, every->mem, loop, vsock_host, EVERY_CID, NULL);
    case EVERY_SHARE:
        return open_share(every);
    default:
        return open_disk(every);
    }
}

void every_open(struct every *every, struct mem *mem, enum every_kind kind)
{
    const struct pci_host_config pci = {
        .ecam = EVERY_ECAM,
        .window = EVERY_WINDOW,
        .window_size = 0x100000,
        .msi = {message, NULL},
        .intx = {{line, NULL, 0}, {line, NULL, 1}},
    };

    *every = (struct every){.kind = kind, .mem = mem, .bus = bus_new(), .loop = loop};
    every->pci = every->bus ? pci_host_new(every->bus, &pci, NULL) : NULL;
    if (!every->pci)
        abort();
    every->device = open_device(every);
    if (!every->device)
        abort();
    bus_mmio_write(every->bus, EVERY_ECAM + (1 << 15) + 4, 6, 2);
    every->bar = bus_mmio_read(every->bus, EVERY_ECAM + (1 << 15) + 0x10, 4);
}

static void close_streams(void)
{
    for (unsigned i = 0; i < STREAMS; i++) {
        if (stream[i] >= 0)
            close(stream[i]);
        stream[i] = -1;
    }
    for (unsigned i = 0; i < PORTS; i++)
        for (int fd; (fd = accept(listener[i], NULL, NULL)) >= 0;)
            close(fd);
    loop_poll(loop);
}

static void close_device(struct every *every)
{
    switch (every->kind) {
    case EVERY_RNG:
        virtio_rng_free(every->device);
        break;
    case EVERY_NET:
        virtio_net_free(every->device);
        break;
    case EVERY_BALLOON:
        virtio_balloon_free(every->device);
        break;
    case EVERY_TERMINAL:
    case EVERY_PORTS:
        virtio_console_free(every->device);
        for (unsigned i = 0; i < 2; i++)
            chardev_free(every->backend[i]);
        break;
    case EVERY_VSOCK:
        virtio_vsock_free(every->device);
        close_streams();
        break;
    case EVERY_SHARE:
        virtio_fs_free(every->device);
        fs_close(every->backend[0]);
        break;
    default:
        virtio_blk_free(every->device);
        block_close(every->backend[0]);
    }
}

void every_close(struct every *every)
{
    close_device(every);
    pci_host_free(every->pci);
    bus_free(every->bus);
}

/* --- the host's side ---------------------------------------------------------------------------------- */

static void net_happens(const uint8_t *data, size_t size)
{
    static const struct net_offload offload = {NET_NEEDS_CSUM, NET_GSO_TCP4, 54, 1448, 34, 16};
    static uint8_t frame[NET_FRAME_MAX];

    if (!net.client.receive)
        return;
    net.client.receive(net.client.opaque, frame, *data & 1 ? 60000 : 60, &offload);
    net.client.writable(net.client.opaque);
}

static void console_happens(struct every *every, const uint8_t *data, size_t size)
{
    struct chardev *chardev = every->backend[*data & 1] ? every->backend[*data & 1] : every->backend[0];

    if (*data & 2)
        chardev->client.resized(chardev->client.opaque, chardev->rows, ++chardev->columns);
    else if (*data & 4)
        chardev_buffer_hangup(chardev);
    else
        chardev_buffer_feed(chardev, data, size);
}

static void vsock_happens(const uint8_t *data, size_t size)
{
    int *fd = &stream[*data % STREAMS];
    char line_[32], junk[256];
    int len;

    if (*fd < 0 && *data & 0x80) {
        *fd = unix_socket_connect(sock_path);
        len = snprintf(line_, sizeof(line_), "CONNECT %u\n", *data >> 3 & 3);
        if (*fd < 0 || send(*fd, line_, (size_t)len, MSG_NOSIGNAL) != len)
            abort();
    } else if (*fd < 0) {
        *fd = accept4(listener[*data >> 3 & 3], NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    } else if (*data & 0x40) {
        close(*fd);
        *fd = -1;
    } else if (*data & 0x20) {
        shutdown(*fd, *data & 8 ? SHUT_RD : SHUT_WR);
    } else if (*data & 0x10) {
        while (read(*fd, junk, sizeof(junk)) > 0)
            ;
    } else if (send(*fd, data, size, MSG_NOSIGNAL) < 0) {
        close(*fd); /* the guest has ended it */
        *fd = -1;
    }
}

static void balloon_happens(struct every *every, const uint8_t *data)
{
    struct balloon_info info;

    if (*data & 1)
        virtio_balloon_set(every->device, (uint64_t)*data << 12);
    else
        virtio_balloon_refresh(every->device);
    virtio_balloon_get(every->device, &info);
}

void every_host(struct every *every, const uint8_t *data, size_t size)
{
    if (size && every->kind == EVERY_NET)
        net_happens(data, size);
    else if (size && (every->kind == EVERY_TERMINAL || every->kind == EVERY_PORTS))
        console_happens(every, data, size);
    else if (size && every->kind == EVERY_VSOCK)
        vsock_happens(data, size);
    else if (size && every->kind == EVERY_BALLOON)
        balloon_happens(every, data);
    if (size && *data == 0xff)
        vclock_advance_ns(vclock, 1000000000);
    loop_poll(loop);
}
