/*
 * device/virtio/virtqueue.h: a virtqueue as the device sees it, split or packed
 * (virtio 1.2, 2.7 and 2.8), with indirect descriptors and event index.
 *
 * Everything in it belongs to the guest and may change at any moment: each
 * word is copied once, then checked, then used. Thread: the holder of the
 * device's lock.
 */
#ifndef DEVICE_VIRTIO_VIRTQUEUE_H
#define DEVICE_VIRTIO_VIRTQUEUE_H

#include <sys/uio.h>

#include "base/types.h"
#include "mem/mem.h"

#define VIRTQ_SIZE_MAX    256
#define VIRTQ_SEGMENT_MAX 256 /* buffers in one chain */

/* What was negotiated. */
struct virtq_features {
    bool packed, event_idx, indirect;
};

struct virtq {
    /* As the driver sets it up. */
    uint16_t size;
    gpa_t descriptors, driver, device; /* split: table, available, used ring */
    bool enabled;

    struct mem *mem;
    struct virtq_features features;
    uint8_t *desc, *avail, *used; /* the three areas, once enabled */
    uint16_t next_avail, next_used;
    bool avail_wrap, used_wrap; /* packed */
    uint16_t signalled;         /* next_used at the last interrupt */
    bool signalled_valid;
    bool published;  /* since then */
    uint8_t *staged; /* packed: flags of the first staged entry, which are written last; NULL: none */
    uint16_t staged_flags;
    unsigned in_flight; /* descriptors (packed) or chains (split) that were taken and not given back */
};

struct virtq_segment {
    uint8_t *host; /* all within one slot of RAM */
    gpa_t gpa;
    uint32_t len; /* > 0 */
};

/* A request: first what the device reads, then what it writes. */
struct virtq_chain {
    uint16_t id, slots;
    unsigned readable, writable; /* segments */
    uint64_t readable_bytes, writable_bytes;
    struct virtq_segment segment[VIRTQ_SEGMENT_MAX];
};

void virtq_reset(struct virtq *queue); /* size becomes VIRTQ_SIZE_MAX */
/* Takes size and addresses as they are. -EINVAL: not aligned, not RAM, not a size. */
int virtq_enable(struct virtq *queue, struct mem *mem, struct virtq_features features);
/* 1: a chain; 0: there is none; -EINVAL: what is there is no valid chain. */
int virtq_pop(struct virtq *queue, struct virtq_chain *chain);
/* Undoes the last pop, whose chain was not used. */
void virtq_unpop(struct virtq *queue, const struct virtq_chain *chain);
/* Gives a chain back, of which the device has written the first `written` bytes. */
void virtq_push(struct virtq *queue, const struct virtq_chain *chain, uint32_t written);
/* The same in two steps, for several chains that the driver must see at once: each staged, then all published. */
void virtq_stage(struct virtq *queue, const struct virtq_chain *chain, uint32_t written);
void virtq_publish(struct virtq *queue);
/* After pushes: does the driver want an interrupt? */
bool virtq_wants_interrupt(struct virtq *queue);
/* Asks the driver for a notification with its next chain. True: there is one already; go on. */
bool virtq_ask_notification(struct virtq *queue);

/* Copies at most len bytes from what the device reads, or to what it writes, starting `offset` bytes in. Returns how
 * many. */
uint64_t virtq_read(const struct virtq_chain *chain, uint64_t offset, void *data, uint64_t len);
uint64_t virtq_write(const struct virtq_chain *chain, uint64_t offset, const void *data, uint64_t len);

/* The bytes [offset, offset + len) of what the device reads, or writes, as a vector. Returns how many parts it has, at
 * most VIRTQ_SEGMENT_MAX. */
unsigned virtq_readable_iov(const struct virtq_chain *chain, uint64_t offset, uint64_t len, struct iovec *iov);
unsigned virtq_writable_iov(const struct virtq_chain *chain, uint64_t offset, uint64_t len, struct iovec *iov);

#endif
