/* device/virtio/blk.h: a disk (virtio 1.2, 5.2). */
#ifndef DEVICE_VIRTIO_BLK_H
#define DEVICE_VIRTIO_BLK_H

#include "backend/block/block.h"
#include "base/error.h"
#include "bus/pci.h"
#include "mem/mem.h"

#define VIRTIO_BLK_ID_MAX 20

struct virtio_blk;

/* block stays the caller's. id: the serial number the guest sees, cut to VIRTIO_BLK_ID_MAX bytes. */
struct virtio_blk *virtio_blk_new(struct pci_host *pci, struct mem *mem, struct block *block, const char *id,
                                  unsigned queues, struct error *err);
/* Waits for the requests under way. */
void virtio_blk_free(struct virtio_blk *blk);

#endif
