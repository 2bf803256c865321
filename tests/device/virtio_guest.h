/*
 * tests/device/virtio_guest.h: a driver's side of virtio over PCI, enough to
 * set a device up, put chains into its queues in both formats, and see what
 * comes back.
 */
#ifndef TESTS_DEVICE_VIRTIO_GUEST_H
#define TESTS_DEVICE_VIRTIO_GUEST_H

#include "tests/device/fixture.h"

#include "bus/pci.h"
#include "mem/mem.h"

#define VG_ECAM   0xe0000000ull
#define VG_WINDOW 0xc0000000ull
#define VG_RAM    MIB(4)
#define VG_QUEUE  0x10000ull /* queue q's areas: + q * 0x8000; indirect tables are at + 0x4000 */
#define VG_DATA   0x200000ull
#define VG_SIZE   16 /* entries of a queue */

#define VG_NEXT     1
#define VG_WRITE    2
#define VG_INDIRECT 4

#define VG_VERSION_1 BIT(32)
#define VG_PACKED    BIT(34)
#define VG_EVENT     BIT(29)
#define VG_TABLES    BIT(28)

struct vg_queue {
    uint16_t avail, used; /* entries so far */
    bool wrap, used_wrap; /* packed */
};

struct vg {
    struct fixture f;
    struct mem *mem;
    struct pci_host *host;
    bool packed;
    uint64_t features;
    unsigned messages;
    void (*ring)(void *opaque, unsigned number); /* of the device's doorbells, if it has some */
    void *ring_opaque;
    struct vg_queue queue[8];
};

struct vg_buffer {
    gpa_t gpa;
    uint32_t len;
    uint16_t flags; /* VG_WRITE */
};

static inline void vg_message(void *opaque, const struct msi_message *message)
{
    ((struct vg *)opaque)->messages++;
}

static inline int vg_add_bell(void *opaque, void (*ring)(void *bell_opaque, unsigned number), void *bell_opaque,
                              unsigned number)
{
    struct vg *g = opaque;

    g->ring = ring;
    g->ring_opaque = bell_opaque;
    return 0;
}

static inline void vg_place_bell(void *opaque, int bell, gpa_t gpa, bool on)
{
}

static inline void vg_open(struct vg *g)
{
    struct pci_host_config config = {.ecam = VG_ECAM,
                                     .window = VG_WINDOW,
                                     .window_size = 0x100000,
                                     .msi = {vg_message, g},
                                     .bells = {vg_add_bell, vg_place_bell, g}};

    *g = (struct vg){.packed = false};
    fixture_open(&g->f);
    config.intx[0] = config.intx[1] = fixture_line(&g->f);
    g->mem = mem_new();
    assert_int_equal(mem_add_ram(g->mem, 0, VG_RAM, NULL), 0);
    g->host = pci_host_new(g->f.bus, &config, NULL);
    assert_non_null(g->host);
}

static inline void vg_close(struct vg *g)
{
    pci_host_free(g->host);
    mem_free(g->mem);
    fixture_close(&g->f);
}

static inline uint8_t *vg_ram(struct vg *g, gpa_t gpa)
{
    return mem_pointer(g->mem, gpa, 1);
}

#define VG_PUT(g, gpa, type, value) (*(type *)(void *)vg_ram(g, gpa) = (type)(value))
#define VG_GET(g, gpa, type)        (*(type *)(void *)vg_ram(g, gpa))

/* The device in slot 1; its BAR 0 is the second to be placed, after MSI-X's. */
static inline uint64_t vg_config(struct vg *g, unsigned offset)
{
    return VG_ECAM + (1 << 15) + offset;
}

/* Memory and bus mastering. */
static inline void vg_enable(struct vg *g)
{
    bus_mmio_write(g->f.bus, vg_config(g, 4), 6, 2);
}

static inline uint64_t vg_bar(struct vg *g)
{
    return bus_mmio_read(g->f.bus, vg_config(g, 0x10), 4);
}

static inline uint64_t vg_get(struct vg *g, unsigned offset, unsigned size)
{
    return bus_mmio_read(g->f.bus, vg_bar(g) + offset, size);
}

static inline void vg_put(struct vg *g, unsigned offset, uint64_t value, unsigned size)
{
    bus_mmio_write(g->f.bus, vg_bar(g) + offset, value, size);
}

static inline uint8_t vg_status(struct vg *g)
{
    return (uint8_t)vg_get(g, 0x14, 1);
}

static inline uint64_t vg_offered(struct vg *g)
{
    uint64_t low;

    vg_put(g, 0, 0, 4);
    low = vg_get(g, 4, 4);
    vg_put(g, 0, 1, 4);
    return low | vg_get(g, 4, 4) << 32;
}

static inline void vg_queue_addresses(struct vg *g, unsigned q, gpa_t desc, gpa_t driver, gpa_t device)
{
    const gpa_t address[] = {desc, driver, device};

    vg_put(g, 0x16, q, 2);
    for (unsigned i = 0; i < 3; i++) {
        vg_put(g, 0x20 + 8 * i, (uint32_t)address[i], 4);
        vg_put(g, 0x24 + 8 * i, address[i] >> 32, 4);
    }
}

static inline gpa_t vg_area(unsigned q, unsigned part)
{
    return VG_QUEUE + q * 0x8000 + part * 0x1000;
}

static inline void vg_enable_queue(struct vg *g, unsigned q)
{
    memset(vg_ram(g, vg_area(q, 0)), 0, 0x8000);
    vg_queue_addresses(g, q, vg_area(q, 0), vg_area(q, 1), vg_area(q, 2));
    vg_put(g, 0x18, VG_SIZE, 2);
    vg_put(g, 0x1c, 1, 2);
    g->queue[q] = (struct vg_queue){.wrap = true, .used_wrap = true};
}

/* Up to FEATURES_OK, with the device's own features and those given. */
static inline void vg_negotiate(struct vg *g, uint64_t features)
{
    vg_enable(g);
    vg_put(g, 0x14, 0, 1);
    vg_put(g, 0x14, 1, 1);
    vg_put(g, 0x14, 3, 1);
    g->features = features | VG_VERSION_1;
    g->packed = features & VG_PACKED;
    for (unsigned i = 0; i < 2; i++) {
        vg_put(g, 8, i, 4);
        vg_put(g, 0xc, (uint32_t)(g->features >> 32 * i), 4);
    }
    vg_put(g, 0x14, 0xb, 1);
    assert_int_equal(vg_status(g), 0xb);
}

static inline void vg_start(struct vg *g, uint64_t features, unsigned queues)
{
    vg_negotiate(g, features);
    for (unsigned q = 0; q < queues; q++)
        vg_enable_queue(g, q);
    vg_put(g, 0x14, 0xf, 1);
    assert_int_equal(vg_status(g), 0xf);
}

static inline void vg_write_desc(struct vg *g, gpa_t at, const struct vg_buffer *b, uint16_t id, uint16_t flags,
                                 bool packed)
{
    VG_PUT(g, at, uint64_t, b->gpa);
    VG_PUT(g, at + 8, uint32_t, b->len);
    VG_PUT(g, at + (packed ? 12 : 14), uint16_t, id); /* split: next */
    VG_PUT(g, at + (packed ? 14 : 12), uint16_t, flags);
}

static inline uint16_t vg_packed_flags(const struct vg_queue *queue)
{
    return queue->wrap ? 0x80 : 0x8000;
}

static inline void vg_add_packed(struct vg *g, unsigned q, const struct vg_buffer *b, unsigned n)
{
    struct vg_queue *queue = &g->queue[q];

    for (unsigned i = 0; i < n; i++) {
        uint16_t flags = (uint16_t)(vg_packed_flags(queue) | b[i].flags | (i + 1 < n ? VG_NEXT : 0));

        vg_write_desc(g, vg_area(q, 0) + 16 * queue->avail, &b[i], 0x77, flags, true);
        if (++queue->avail == VG_SIZE) {
            queue->avail = 0;
            queue->wrap = !queue->wrap;
        }
    }
}

/* A chain from descriptor 0 on: one at a time is enough. */
static inline void vg_add_split(struct vg *g, unsigned q, const struct vg_buffer *b, unsigned n)
{
    struct vg_queue *queue = &g->queue[q];

    for (unsigned i = 0; i < n; i++)
        vg_write_desc(g, vg_area(q, 0) + 16 * i, &b[i], (uint16_t)(i + 1),
                      (uint16_t)(b[i].flags | (i + 1 < n ? VG_NEXT : 0)), false);
    VG_PUT(g, vg_area(q, 1) + 4 + 2 * (queue->avail % VG_SIZE), uint16_t, 0);
    VG_PUT(g, vg_area(q, 1) + 2, uint16_t, ++queue->avail);
}

static inline void vg_add(struct vg *g, unsigned q, const struct vg_buffer *b, unsigned n)
{
    (g->packed ? vg_add_packed : vg_add_split)(g, q, b, n);
}

/* The same chain in a table. */
static inline void vg_add_indirect(struct vg *g, unsigned q, const struct vg_buffer *b, unsigned n)
{
    struct vg_buffer table = {vg_area(q, 4), 16 * n, VG_INDIRECT};

    for (unsigned i = 0; i < n; i++)
        vg_write_desc(g, table.gpa + 16 * i, &b[i], (uint16_t)(i + 1),
                      (uint16_t)(b[i].flags | (i + 1 < n && !g->packed ? VG_NEXT : 0)), g->packed);
    vg_add(g, q, &table, 1);
}

static inline void vg_kick(struct vg *g, unsigned q)
{
    vg_put(g, 0x3000 + 4 * q, q, 2);
}

/* Takes a used entry, of a chain of n descriptors: bytes written; -1: there is none. */
static inline int64_t vg_used(struct vg *g, unsigned q, unsigned n)
{
    struct vg_queue *queue = &g->queue[q];
    int64_t len;

    if (g->packed) {
        gpa_t at = vg_area(q, 0) + 16 * queue->used;
        uint16_t flags = VG_GET(g, at + 14, uint16_t);

        if (!!(flags & 0x80) != queue->used_wrap || !!(flags & 0x8000) != queue->used_wrap)
            return -1;
        assert_int_equal(VG_GET(g, at + 12, uint16_t), 0x77);
        len = VG_GET(g, at + 8, uint32_t);
        queue->used = (uint16_t)(queue->used + n);
        if (queue->used >= VG_SIZE) {
            queue->used = (uint16_t)(queue->used - VG_SIZE);
            queue->used_wrap = !queue->used_wrap;
        }
        return len;
    }
    if (VG_GET(g, vg_area(q, 2) + 2, uint16_t) == queue->used)
        return -1;
    len = VG_GET(g, vg_area(q, 2) + 8 + 8 * (queue->used % VG_SIZE), uint32_t);
    queue->used++;
    return len;
}

#endif
