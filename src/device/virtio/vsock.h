/*
 * device/virtio/vsock.h: stream sockets between guest and host (virtio 1.2,
 * 5.10).
 */
#ifndef DEVICE_VIRTIO_VSOCK_H
#define DEVICE_VIRTIO_VSOCK_H

#include "backend/vsock/host.h"
#include "base/error.h"
#include "base/loop.h"
#include "bus/pci.h"
#include "mem/mem.h"

#define VIRTIO_VSOCK_HOST    2 /* its own address; a guest's is above it and below 2^32 - 1 */
#define VIRTIO_VSOCK_STREAMS 1024

struct virtio_vsock;

/* host stays the caller's. cid: the guest's address. */
struct virtio_vsock *virtio_vsock_new(struct pci_host *pci, struct mem *mem, struct loop *loop, struct vsock_host *host,
                                      uint32_t cid, struct error *err);
/* After the loop has stopped. */
void virtio_vsock_free(struct virtio_vsock *vsock);

#endif
