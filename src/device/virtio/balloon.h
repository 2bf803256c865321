/*
 * device/virtio/balloon.h: gives memory the guest does not use back to the host
 * (virtio 1.2, 5.5): what it reports as free at once, and as much as the host
 * asks for.
 */
#ifndef DEVICE_VIRTIO_BALLOON_H
#define DEVICE_VIRTIO_BALLOON_H

#include "base/balloon.h"
#include "base/error.h"
#include "bus/pci.h"
#include "mem/mem.h"

struct virtio_balloon;

struct virtio_balloon *virtio_balloon_new(struct pci_host *pci, struct mem *mem, struct error *err);
void virtio_balloon_free(struct virtio_balloon *balloon);

/* --- any thread --- */

/* How many bytes the guest is to do without. It need not, and takes them back when it has nothing else left. */
void virtio_balloon_set(struct virtio_balloon *balloon, uint64_t bytes);
/* Asks for new statistics; when they have come, updates has changed. */
void virtio_balloon_refresh(struct virtio_balloon *balloon);
void virtio_balloon_get(struct virtio_balloon *balloon, struct balloon_info *info);

#endif
