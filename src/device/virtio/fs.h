/* device/virtio/fs.h: a directory of the host (virtio 1.2, 5.11). */
#ifndef DEVICE_VIRTIO_FS_H
#define DEVICE_VIRTIO_FS_H

#include "backend/fs/fs.h"
#include "base/error.h"
#include "bus/pci.h"
#include "mem/mem.h"

#define VIRTIO_FS_TAG_MAX 36

struct virtio_fs;

/* fs stays the caller's. tag: what the guest mounts it by, cut to VIRTIO_FS_TAG_MAX bytes. queues: of requests. */
struct virtio_fs *virtio_fs_new(struct pci_host *pci, struct mem *mem, struct fs *fs, const char *tag, unsigned queues,
                                struct error *err);
/* Waits for the requests under way. */
void virtio_fs_free(struct virtio_fs *share);

#endif
