/*
 * fuzz/fuzz_virtio.c: a hostile driver. The first two bytes choose device and
 * features; the device is set up as a driver would do it, and then the input
 * is a list of what the guest does: writes to the memory its queues are in,
 * well-formed chains, register accesses of every kind, notifications; and of
 * what happens on the host's side. The sanitizers say what is wrong; a hang is
 * the fuzzer's timeout.
 */
#include <stdlib.h>
#include <string.h>

#include "tests/device/every.h"

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define RAM      MIB(1)
#define QUEUE    0x10000ull /* everything the input writes to is in [QUEUE, QUEUE + 64 KiB) */
#define DATA     0x18000ull /* where chains' bytes are: 2 KiB a queue */
#define QUEUES   6
#define ENTRIES  8
#define BODY_MAX 528 /* bytes for the device: a header and a sector */
#define ROOM     513 /* and for its answer */

static struct mem *mem;
static bool packed;            /* since the last set_up() */
static unsigned added[QUEUES]; /* chains */

struct input {
    const uint8_t *data;
    size_t size;
};

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    every_init();
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

static size_t take_bytes(struct input *in, void *to, size_t bytes)
{
    bytes = MIN(bytes, in->size);
    memcpy(to, in->data, bytes);
    in->data += bytes;
    in->size -= bytes;
    return bytes;
}

static void put(struct every *g, unsigned offset, uint64_t value, unsigned size)
{
    bus_mmio_write(g->bus, g->bar + offset, value, size);
}

static uint32_t offered_low(struct every *g)
{
    put(g, 0, 0, 4);
    return (uint32_t)bus_mmio_read(g->bus, g->bar + 4, 4);
}

/* As a good driver does it. */
static void set_up(struct every *g, unsigned features)
{
    packed = features & 4;
    memset(added, 0, sizeof(added));
    put(g, 0x14, 0, 1);
    put(g, 0x14, 3, 1);
    put(g, 8, 0, 4);
    put(g, 0xc, (features << 28 & 0x30000000) | (features & 8 ? offered_low(g) & 0x0fffffff : 0), 4);
    put(g, 8, 1, 4);
    put(g, 0xc, 1 | (features & 4), 4);
    put(g, 0x14, 0xb, 1);
    for (unsigned q = 0; q < QUEUES; q++) {
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

/* Split: flags, next; packed: id, flags. */
static void put_desc(gpa_t at, uint64_t addr, uint32_t len, uint16_t flags, uint16_t next)
{
    uint8_t *desc = mem_pointer(mem, at, 16);

    memcpy(desc, &addr, 8);
    memcpy(desc + 8, &len, 4);
    memcpy(desc + 12, &flags, 2);
    memcpy(desc + 14, &next, 2);
}

static void add_packed(unsigned q, gpa_t data, uint32_t len)
{
    const gpa_t at = QUEUE + q * 0x1000;
    unsigned first = added[q] * 2 % ENTRIES;
    uint16_t ready = added[q] * 2 / ENTRIES % 2 ? 0x8000 : 0x80;

    put_desc(at + (first + 1) * 16, data + BODY_MAX, ROOM, 0, ready | 2);
    if (len)
        put_desc(at + first * 16, data, len, 0, ready | 1);
    else
        put_desc(at + first * 16, data, 1, 0, ready | 3);
}

static void add_split(unsigned q, gpa_t data, uint32_t len)
{
    const gpa_t at = QUEUE + q * 0x1000;
    uint8_t *avail = mem_pointer(mem, at + 0x100, 0x20);
    unsigned first = added[q] * 2 % ENTRIES;
    uint16_t index;

    put_desc(at + first * 16, data, len, 1, (uint16_t)(first + 1));
    put_desc(at + (first + 1) * 16, data + BODY_MAX, ROOM, 2, 0);
    memcpy(&index, avail + 2, 2);
    avail[4 + 2 * (index % ENTRIES)] = (uint8_t)(len ? first : first + 1);
    avail[5 + 2 * (index % ENTRIES)] = 0;
    index++;
    memcpy(avail + 2, &index, 2);
}

/* Bytes for the device to read, and room for its answer: a sector and a status. */
static void add_chain(struct every *g, struct input *in, unsigned q)
{
    const gpa_t data = DATA + q * 0x800;
    uint8_t *bytes = mem_pointer(mem, data, BODY_MAX);
    unsigned cut = (unsigned)take(in, 1), len = cut & 0x7f;

    len = (unsigned)take_bytes(in, bytes, len == 0x7f ? BODY_MAX : len);
    if (g->kind == EVERY_VSOCK && q == 1 && len >= 16)
        memcpy(bytes, (const uint64_t[]){EVERY_CID, 2}, 16); /* else it is nobody's */
    if (packed)
        add_packed(q, data, len);
    else
        add_split(q, data, len);
    added[q]++;
    if (cut & 0x80)
        put(g, 0x3000 + 4 * q, q, 2);
}

static void act(struct every *g, struct input *in)
{
    static const uint8_t sizes[] = {1, 2, 4, 8};
    unsigned what = (unsigned)take(in, 1), size = sizes[what >> 6];
    uint8_t data[32];
    uint64_t offset;

    switch (what & 7) {
    case 0: /* bytes into the queues' memory */
        offset = take(in, 2);
        take_bytes(in, (uint8_t *)mem_pointer(mem, QUEUE, RAM - QUEUE) + offset, MIN(what >> 3, KIB(64) - offset));
        break;
    case 1:
        put(g, 0x3000 + (what >> 3) % QUEUES * 4, 0, 2);
        break;
    case 2:
        every_host(g, data, take_bytes(in, data, what >> 3));
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
            bus_mmio_write(g->bus, EVERY_ECAM + (1 << 15) + offset, take(in, size), size);
        bus_mmio_read(g->bus, EVERY_ECAM + (1 << 15) + offset, size);
        break;
    case 6:
        set_up(g, what >> 3);
        break;
    case 7:
        add_chain(g, in, (what >> 3) % QUEUES);
        break;
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct input in = {data, size};
    struct every g;

    memset(mem_pointer(mem, QUEUE, RAM - QUEUE), 0, KIB(64));
    every_open(&g, mem, (enum every_kind)(take(&in, 1) % EVERY_KINDS));
    set_up(&g, (unsigned)take(&in, 1));
    while (in.size)
        act(&g, &in);
    every_close(&g);
    return 0;
}
