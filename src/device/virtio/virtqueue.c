/*
 * device/virtio/virtqueue.c: both ring formats.
 *
 * Bounds: a chain has at most VIRTQ_SEGMENT_MAX buffers and walks at most that
 * many descriptors; no more descriptors can be in flight than the queue has. A
 * ring that breaks a rule is reported, never repaired.
 */
#include "device/virtio/virtqueue.h"

#include <errno.h>
#include <string.h>

#define DESC_SIZE 16

/* 2.7.5, 2.8.10 */
#define DESC_NEXT     0x0001u
#define DESC_WRITE    0x0002u
#define DESC_INDIRECT 0x0004u
#define DESC_AVAIL    0x0080u /* packed */
#define DESC_USED     0x8000u /* packed */

#define AVAIL_NO_INTERRUPT 0x0001u /* split: available ring's flags */
#define EVENT_ENABLE       0u      /* packed: event suppression structures */
#define EVENT_DISABLE      1u
#define EVENT_DESC         2u

struct desc {
    uint64_t addr;
    uint32_t len;
    uint16_t flags, next; /* split; a packed one has id, flags */
};

/* --- guest memory, word by word -------------------------------------------------------------- */

static uint16_t load16(const uint8_t *p)
{
    return __atomic_load_n((const uint16_t *)(const void *)p, __ATOMIC_ACQUIRE);
}

static void store16(uint8_t *p, uint16_t value)
{
    __atomic_store_n((uint16_t *)(void *)p, value, __ATOMIC_RELEASE);
}

static void store32(uint8_t *p, uint32_t value)
{
    __atomic_store_n((uint32_t *)(void *)p, value, __ATOMIC_RELAXED);
}

/* The compiler must not look twice at what the guest may change. */
static void copy_once(void *to, const uint8_t *from, size_t len)
{
    memcpy(to, from, len);
    __asm__ volatile("" ::: "memory");
}

/* RAM that may be written, within one slot; NULL if it is not. */
static uint8_t *ram(const struct mem *mem, gpa_t gpa, uint64_t len, bool write)
{
    const struct mem_slot *slot = mem_find(mem, gpa);

    if (!slot || (write && slot->readonly) || len > slot->size - (gpa - slot->gpa))
        return NULL;
    return slot->host + (gpa - slot->gpa);
}

/* --- life ------------------------------------------------------------------------------------ */

void virtq_reset(struct virtq *queue)
{
    *queue = (struct virtq){.size = VIRTQ_SIZE_MAX};
}

static bool good_size(const struct virtq *queue)
{
    return queue->size && queue->size <= VIRTQ_SIZE_MAX &&
           (queue->features.packed || !(queue->size & (queue->size - 1)));
}

int virtq_enable(struct virtq *queue, struct mem *mem, struct virtq_features features)
{
    const bool packed = features.packed;
    const uint64_t size = queue->size, avail = packed ? 4 : 6 + 2 * size, used = packed ? 4 : 6 + 8 * size;

    queue->mem = mem;
    queue->features = features;
    if (!good_size(queue) || queue->descriptors % 16 || queue->driver % (packed ? 4 : 2) || queue->device % 4)
        return -EINVAL;
    queue->desc = ram(mem, queue->descriptors, size * DESC_SIZE, packed);
    queue->avail = ram(mem, queue->driver, avail, false);
    queue->used = ram(mem, queue->device, used, true);
    if (!queue->desc || !queue->avail || !queue->used)
        return -EINVAL;
    queue->avail_wrap = queue->used_wrap = true;
    queue->enabled = true;
    return 0;
}

/* --- chains ---------------------------------------------------------------------------------- */

static int add_segment(const struct virtq *queue, struct virtq_chain *chain, const struct desc *desc)
{
    const bool write = desc->flags & DESC_WRITE;
    unsigned n = chain->readable + chain->writable;
    uint8_t *host;

    if (!write && chain->writable) /* 2.7.4.2: first all that is read */
        return -EINVAL;
    if (!desc->len)
        return 0;
    host = ram(queue->mem, desc->addr, desc->len, write);
    if (!host || n == VIRTQ_SEGMENT_MAX)
        return -EINVAL;
    chain->segment[n] = (struct virtq_segment){host, desc->addr, desc->len};
    if (write) {
        chain->writable++;
        chain->writable_bytes += desc->len;
    } else {
        chain->readable++;
        chain->readable_bytes += desc->len;
    }
    return 0;
}

/* Follows NEXT through a table of n descriptors from `at` on. */
static int walk_split(const struct virtq *queue, struct virtq_chain *chain, const uint8_t *table, uint32_t n,
                      uint16_t at, bool indirect);

static int add_indirect(const struct virtq *queue, struct virtq_chain *chain, const struct desc *desc)
{
    const uint32_t n = desc->len / DESC_SIZE;
    const uint8_t *table;

    if (!queue->features.indirect || !n || desc->len % DESC_SIZE || n > VIRTQ_SEGMENT_MAX)
        return -EINVAL;
    table = ram(queue->mem, desc->addr, desc->len, false);
    if (!table)
        return -EINVAL;
    if (!queue->features.packed)
        return walk_split(queue, chain, table, n, 0, true);
    for (uint32_t i = 0; i < n; i++) { /* 2.8.19: all of them, in order */
        struct desc one;

        copy_once(&one, table + i * DESC_SIZE, sizeof(one));
        one.flags = one.next; /* flags are the last word of a packed descriptor */
        if ((one.flags & DESC_INDIRECT) || add_segment(queue, chain, &one))
            return -EINVAL;
    }
    return 0;
}

static int walk_split(const struct virtq *queue, struct virtq_chain *chain, const uint8_t *table, uint32_t n,
                      uint16_t at, bool indirect)
{
    for (uint32_t steps = 0; steps < n; steps++) {
        struct desc desc;

        if (at >= n)
            return -EINVAL;
        copy_once(&desc, table + (size_t)at * DESC_SIZE, sizeof(desc));
        if (desc.flags & DESC_INDIRECT) /* 2.7.5.3.1: not nested, and the last of its chain */
            return indirect || (desc.flags & DESC_NEXT) ? -EINVAL : add_indirect(queue, chain, &desc);
        if (add_segment(queue, chain, &desc))
            return -EINVAL;
        if (!(desc.flags & DESC_NEXT))
            return 0;
        at = desc.next;
    }
    return -EINVAL; /* longer than its table: a loop */
}

static int pop_split(struct virtq *queue, struct virtq_chain *chain)
{
    uint16_t waiting = (uint16_t)(load16(queue->avail + 2) - queue->next_avail);

    if (!waiting)
        return 0;
    if (waiting > queue->size || queue->in_flight >= queue->size)
        return -EINVAL;
    chain->id = load16(queue->avail + 4 + 2 * (queue->next_avail % queue->size));
    chain->slots = 1;
    if (walk_split(queue, chain, queue->desc, queue->size, chain->id, false))
        return -EINVAL;
    queue->next_avail++;
    return 1;
}

static bool packed_ready(const struct virtq *queue, uint16_t flags)
{
    return !!(flags & DESC_AVAIL) == queue->avail_wrap && !!(flags & DESC_USED) != queue->avail_wrap;
}

static void advance(const struct virtq *queue, uint16_t *index, bool *wrap, uint16_t slots)
{
    *index = (uint16_t)(*index + slots);
    if (*index >= queue->size) {
        *index = (uint16_t)(*index - queue->size);
        *wrap = !*wrap;
    }
}

static int pop_packed(struct virtq *queue, struct virtq_chain *chain)
{
    uint16_t at = queue->next_avail;
    uint16_t flags = load16(queue->desc + (size_t)at * DESC_SIZE + 14);

    if (!packed_ready(queue, flags))
        return 0;
    for (;;) {
        struct desc desc;

        copy_once(&desc, queue->desc + (size_t)at * DESC_SIZE, sizeof(desc));
        chain->id = desc.flags; /* packed: the buffer's id, then flags; the last descriptor's counts */
        desc.flags = chain->slots ? desc.next : flags;
        chain->slots++;
        if (queue->in_flight + chain->slots > queue->size)
            return -EINVAL;
        if (desc.flags & DESC_INDIRECT) {
            if (chain->slots > 1 || (desc.flags & DESC_NEXT) || add_indirect(queue, chain, &desc))
                return -EINVAL;
            break;
        }
        if (add_segment(queue, chain, &desc))
            return -EINVAL;
        if (!(desc.flags & DESC_NEXT))
            break;
        at = (uint16_t)(at + 1 == queue->size ? 0 : at + 1);
    }
    advance(queue, &queue->next_avail, &queue->avail_wrap, chain->slots);
    return 1;
}

int virtq_pop(struct virtq *queue, struct virtq_chain *chain)
{
    int rc;

    chain->slots = 0;
    chain->readable = chain->writable = 0;
    chain->readable_bytes = chain->writable_bytes = 0;
    if (!queue->enabled)
        return 0;
    rc = queue->features.packed ? pop_packed(queue, chain) : pop_split(queue, chain);
    if (rc > 0)
        queue->in_flight += chain->slots;
    return rc;
}

void virtq_unpop(struct virtq *queue, const struct virtq_chain *chain)
{
    queue->in_flight -= chain->slots;
    if (queue->next_avail < chain->slots && queue->features.packed) {
        queue->next_avail = (uint16_t)(queue->next_avail + queue->size);
        queue->avail_wrap = !queue->avail_wrap;
    }
    queue->next_avail = (uint16_t)(queue->next_avail - chain->slots);
}

/* --- giving back ------------------------------------------------------------------------------- */

/* What was derived from those bytes is stale: they were written a moment ago, and the guest is told of them after. */
static void tell_written(const struct virtq *queue, const struct virtq_chain *chain, uint64_t written)
{
    for (unsigned i = chain->readable; written && i < chain->readable + chain->writable; i++) {
        const struct virtq_segment *segment = &chain->segment[i];
        uint64_t len = MIN(written, segment->len);

        mem_written(queue->mem, segment->gpa, len);
        written -= len;
    }
}

/* The same for the used ring (split), the event structure (packed), and for the descriptors of a packed ring. */
static void used_written(const struct virtq *queue, const uint8_t *at, uint64_t len)
{
    mem_written(queue->mem, queue->device + (uint64_t)(at - queue->used), len);
}

static void descriptor_written(const struct virtq *queue, const uint8_t *at, uint64_t len)
{
    mem_written(queue->mem, queue->descriptors + (uint64_t)(at - queue->desc), len);
}

void virtq_stage(struct virtq *queue, const struct virtq_chain *chain, uint32_t written)
{
    uint16_t flags = queue->used_wrap ? DESC_AVAIL | DESC_USED : 0;
    uint8_t *entry;

    tell_written(queue, chain, written);
    queue->in_flight -= chain->slots;
    if (!queue->features.packed) {
        entry = queue->used + 4 + 8 * (size_t)(queue->next_used++ % queue->size);
        store32(entry, chain->id);
        store32(entry + 4, written);
        used_written(queue, entry, 8);
        return;
    }
    entry = queue->desc + (size_t)queue->next_used * DESC_SIZE;
    store32(entry + 8, written);
    store16(entry + 12, chain->id);
    if (queue->staged) {
        store16(entry + 14, flags);
    } else { /* the driver takes them in order: it sees none before this one */
        queue->staged = entry + 14;
        queue->staged_flags = flags;
    }
    descriptor_written(queue, entry + 8, 8);
    advance(queue, &queue->next_used, &queue->used_wrap, chain->slots);
    if (queue->next_used < chain->slots)
        queue->signalled_valid = false; /* its round is over */
}

void virtq_publish(struct virtq *queue)
{
    if (!queue->features.packed) {
        store16(queue->used + 2, queue->next_used);
        used_written(queue, queue->used + 2, 2);
    } else if (queue->staged) {
        store16(queue->staged, queue->staged_flags);
        descriptor_written(queue, queue->staged, 2);
    }
    queue->staged = NULL;
    queue->published = true;
}

void virtq_push(struct virtq *queue, const struct virtq_chain *chain, uint32_t written)
{
    virtq_stage(queue, chain, written);
    virtq_publish(queue);
}

/* 2.7.7.2: has the ring passed `event` between before and now? */
static bool passed(uint16_t event, uint16_t now, uint16_t before)
{
    return (uint16_t)(now - event - 1) < (uint16_t)(now - before);
}

bool virtq_wants_interrupt(struct virtq *queue)
{
    uint16_t before = queue->signalled, event, mode;
    bool valid = queue->signalled_valid;

    if (!queue->published)
        return false;
    queue->published = false;
    __atomic_thread_fence(__ATOMIC_SEQ_CST); /* used entries are out before the driver's wish is read */
    if (!queue->features.packed) {
        if (!queue->features.event_idx)
            return !(load16(queue->avail) & AVAIL_NO_INTERRUPT);
        event = load16(queue->avail + 4 + 2 * (size_t)queue->size);
    } else {
        mode = load16(queue->avail + 2);
        if (mode != EVENT_DESC || !queue->features.event_idx)
            return mode != EVENT_DISABLE;
        event = load16(queue->avail);
        event = (uint16_t)((event & 0x7fff) - (!!(event & 0x8000) != queue->used_wrap ? queue->size : 0));
    }
    queue->signalled = queue->next_used;
    queue->signalled_valid = true;
    return !valid || passed(event, queue->next_used, before);
}

bool virtq_ask_notification(struct virtq *queue)
{
    if (!queue->enabled)
        return false;
    if (queue->features.packed) {
        if (queue->features.event_idx)
            store16(queue->used, (uint16_t)(queue->next_avail | (queue->avail_wrap ? 0x8000 : 0)));
        store16(queue->used + 2, queue->features.event_idx ? EVENT_DESC : EVENT_ENABLE);
        used_written(queue, queue->used, 4);
    } else if (queue->features.event_idx) {
        store16(queue->used + 4 + 8 * (size_t)queue->size, queue->next_avail);
        used_written(queue, queue->used + 4 + 8 * (size_t)queue->size, 2);
    }
    __atomic_thread_fence(__ATOMIC_SEQ_CST); /* the wish is out before the ring is looked at once more */
    if (queue->features.packed)
        return packed_ready(queue, load16(queue->desc + (size_t)queue->next_avail * DESC_SIZE + 14));
    return load16(queue->avail + 2) != queue->next_avail;
}

/* --- data ------------------------------------------------------------------------------------ */

static uint64_t copy(const struct virtq_segment *segment, unsigned count, uint64_t offset, uint8_t *data, uint64_t len,
                     bool write)
{
    uint64_t done = 0;

    for (; count && done < len; segment++, count--) {
        uint64_t piece;

        if (offset >= segment->len) {
            offset -= segment->len;
            continue;
        }
        piece = MIN(len - done, segment->len - offset);
        if (write)
            memcpy(segment->host + offset, data + done, piece);
        else
            memcpy(data + done, segment->host + offset, piece);
        done += piece;
        offset = 0;
    }
    return done;
}

uint64_t virtq_read(const struct virtq_chain *chain, uint64_t offset, void *data, uint64_t len)
{
    return copy(chain->segment, chain->readable, offset, data, len, false);
}

uint64_t virtq_write(const struct virtq_chain *chain, uint64_t offset, const void *data, uint64_t len)
{
    return copy(chain->segment + chain->readable, chain->writable, offset, (uint8_t *)(uintptr_t)data, len, true);
}

static unsigned fill_iov(const struct virtq_segment *segment, unsigned count, uint64_t offset, uint64_t len,
                         struct iovec *iov)
{
    unsigned n = 0;

    for (; count && len; segment++, count--) {
        uint64_t piece;

        if (offset >= segment->len) {
            offset -= segment->len;
            continue;
        }
        piece = MIN(len, segment->len - offset);
        iov[n++] = (struct iovec){segment->host + offset, piece};
        len -= piece;
        offset = 0;
    }
    return n;
}

unsigned virtq_readable_iov(const struct virtq_chain *chain, uint64_t offset, uint64_t len, struct iovec *iov)
{
    return fill_iov(chain->segment, chain->readable, offset, len, iov);
}

unsigned virtq_writable_iov(const struct virtq_chain *chain, uint64_t offset, uint64_t len, struct iovec *iov)
{
    return fill_iov(chain->segment + chain->readable, chain->writable, offset, len, iov);
}
