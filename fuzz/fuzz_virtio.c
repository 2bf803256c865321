/*
 * fuzz/fuzz_virtio.c: a hostile driver. The first byte chooses device and
 * features; the device is set up as a driver would do it, and then the input
 * is a list of what the guest does: writes to the memory its queues are in,
 * register accesses of every kind, notifications. The sanitizers say what is
 * wrong; a hang is the fuzzer's timeout.
 */
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/loop.h"
#include "bus/bus.h"
#include "bus/pci.h"
#include "device/virtio/balloon.h"
#include "device/virtio/blk.h"
#include "device/virtio/net.h"
#include "device/virtio/rng.h"
#include "mem/mem.h"

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define ECAM    0xe0000000ull
#define WINDOW  0xc0000000ull
#define RAM     MIB(1)
#define QUEUE   0x10000ull /* everything the input writes to is in [QUEUE, QUEUE + 64 KiB) */
#define ENTRIES 8
#define DISK    KIB(256)

static char disk_path[] = "/tmp/trapeze-fuzz-XXXXXX";
static struct mem *mem;

struct input {
    const uint8_t *data;
    size_t size;
};

struct guest {
    struct bus *bus;
    struct pci_host *pci;
    struct block *block;
    struct virtio_blk *blk;
    struct virtio_rng *rng;
    struct virtio_net *card;
    struct net net; /* a wire that ends there */
    struct virtio_balloon *balloon;
    uint64_t bar;
};

static void remove_disk(void)
{
    unlink(disk_path);
}

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    int fd = mkstemp(disk_path);

    if (fd < 0 || ftruncate(fd, DISK) < 0)
        abort();
    close(fd);
    atexit(remove_disk);
    mem = mem_new();
    if (!mem || mem_add_ram(mem, 0, RAM, NULL))
        abort();
    return 0;
}

static uint64_t take(struct input *in, unsigned bytes)
{
    uint64_t value = 0;

    bytes = (unsigned)MIN(bytes, in->size);
    memcpy(&value, in->data, bytes);
    in->data += bytes;
    in->size -= bytes;
    return value;
}

static void message(void *opaque, const struct msi_message *msi)
{
}

static void line(void *opaque, unsigned pin, bool level)
{
}

static int net_start(struct net *net)
{
    return 0;
}

static void net_stop(struct net *net)
{
}

static bool net_send(struct net *net, const struct iovec *iov, unsigned count, const struct net_offload *offload)
{
    uint64_t len = 0;

    for (unsigned i = 0; i < count; i++)
        len += iov[i].iov_len;
    if (len < NET_HEADER || len > NET_FRAME_MAX)
        abort();
    return len % 8 != 1; /* now and then it is full */
}

static void net_takes(struct net *net, unsigned takes)
{
}

static const struct net_ops net_ops = {net_start, net_stop, net_send, net_takes, net_stop, net_stop};

static void open_device(struct guest *g, unsigned kind)
{
    const struct pci_host_config pci = {
        .ecam = ECAM,
        .window = WINDOW,
        .window_size = 0x100000,
        .msi = {message, NULL},
        .intx = {{line, NULL, 0}, {line, NULL, 1}},
    };
    const struct block_config disk = {.path = disk_path, .readonly = kind == 2, .scratch = kind >= 3};

    g->bus = bus_new();
    g->pci = g->bus ? pci_host_new(g->bus, &pci, NULL) : NULL;
    if (!g->pci)
        abort();
    g->net = (struct net){.ops = &net_ops, .mtu = 65521, .gives = NET_TAKES_CSUM | NET_TAKES_TCP4};
    if (kind == 0) {
        g->rng = virtio_rng_new(g->pci, mem, NULL);
    } else if (kind == 4) {
        g->card = virtio_net_new(g->pci, mem, &g->net, (const uint8_t *)"\2\1\2\3\4\5", NULL);
    } else if (kind == 5) {
        g->balloon = virtio_balloon_new(g->pci, mem, NULL);
    } else {
        g->block = block_open(&disk, NULL);
        if (!g->block)
            abort();
        g->blk = virtio_blk_new(g->pci, mem, g->block, "fuzz", 2, NULL);
    }
    if (!g->rng && !g->blk && !g->card && !g->balloon)
        abort();
    bus_mmio_write(g->bus, ECAM + (1 << 15) + 4, 6, 2);
    g->bar = bus_mmio_read(g->bus, ECAM + (1 << 15) + 0x10, 4);
}

static void close_device(struct guest *g)
{
    if (g->blk)
        virtio_blk_free(g->blk);
    if (g->block)
        block_close(g->block);
    if (g->rng)
        virtio_rng_free(g->rng);
    if (g->card)
        virtio_net_free(g->card);
    if (g->balloon)
        virtio_balloon_free(g->balloon);
    pci_host_free(g->pci);
    bus_free(g->bus);
}

static void put(struct guest *g, unsigned offset, uint64_t value, unsigned size)
{
    bus_mmio_write(g->bus, g->bar + offset, value, size);
}

static uint32_t offered_low(struct guest *g)
{
    put(g, 0, 0, 4);
    return (uint32_t)bus_mmio_read(g->bus, g->bar + 4, 4);
}

/* As a good driver does it. */
static void set_up(struct guest *g, unsigned features)
{
    put(g, 0x14, 0, 1);
    put(g, 0x14, 3, 1);
    put(g, 8, 0, 4);
    put(g, 0xc, (features << 28 & 0x30000000) | (features & 8 ? offered_low(g) & 0x0fffffff : 0), 4);
    put(g, 8, 1, 4);
    put(g, 0xc, 1 | (features & 4), 4);
    put(g, 0x14, 0xb, 1);
    for (unsigned q = 0; q < 3; q++) {
        const gpa_t at = QUEUE + q * 0x1000;

        put(g, 0x16, q, 2);
        put(g, 0x18, ENTRIES, 2);
        put(g, 0x20, at, 4);
        put(g, 0x28, at + 0x100, 4);
        put(g, 0x30, at + 0x200, 4);
        put(g, 0x1c, 1, 2);
    }
    put(g, 0x14, 0xf, 1);
}

static void act(struct guest *g, struct input *in)
{
    static const struct net_offload offload = {NET_NEEDS_CSUM, NET_GSO_TCP4, 54, 1448, 34, 16};
    static uint8_t frame[NET_FRAME_MAX];
    static const uint8_t sizes[] = {1, 2, 4, 8};
    unsigned what = (unsigned)take(in, 1), size = sizes[what >> 6];
    uint64_t offset;

    switch (what & 7) {
    default: /* bytes into the queues' memory */
        offset = take(in, 2);
        size = (unsigned)MIN(MIN(what >> 3, in->size), RAM - QUEUE - offset);
        memcpy((uint8_t *)mem_pointer(mem, QUEUE, RAM - QUEUE) + offset, in->data, size);
        in->data += size;
        in->size -= size;
        break;
    case 1:
        put(g, 0x3000 + (what >> 3 & 3) * 4, 0, 2);
        break;
    case 2: /* a frame from the host */
        size = (unsigned)MIN(what >> 3 & 3 ? 60000u : 60u, sizeof(frame));
        if (g->net.client.receive) {
            g->net.client.receive(g->net.client.opaque, frame, size, &offload);
            g->net.client.writable(g->net.client.opaque);
        }
        break;
    case 3:
        offset = take(in, 2) & 0x3fff;
        put(g, (unsigned)offset, take(in, size), size);
        break;
    case 4:
        bus_mmio_read(g->bus, g->bar + (take(in, 2) & 0x3fff), size);
        break;
    case 5:
        offset = take(in, 1);
        if (offset >= 0x14 || offset < 4) /* not BAR 0 */
            bus_mmio_write(g->bus, ECAM + (1 << 15) + offset, take(in, size), size);
        bus_mmio_read(g->bus, ECAM + (1 << 15) + offset, size);
        break;
    case 6:
        set_up(g, what >> 3);
        break;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct input in = {data, size};
    struct guest g = {.bus = NULL};
    unsigned first = (unsigned)take(&in, 1);

    memset(mem_pointer(mem, QUEUE, RAM - QUEUE), 0, KIB(64));
    open_device(&g, first % 6);
    set_up(&g, first / 6);
    while (in.size)
        act(&g, &in);
    close_device(&g);
    return 0;
}
