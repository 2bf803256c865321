/* device/virtio/balloon.h: gives memory the guest does not use back to the host (virtio 1.2, 5.5). */
#ifndef DEVICE_VIRTIO_BALLOON_H
#define DEVICE_VIRTIO_BALLOON_H

#include "base/error.h"
#include "bus/pci.h"
#include "mem/mem.h"

struct virtio_balloon;

struct virtio_balloon *virtio_balloon_new(struct pci_host *pci, struct mem *mem, struct error *err);
void virtio_balloon_free(struct virtio_balloon *balloon);

#endif
