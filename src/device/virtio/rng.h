/* device/virtio/rng.h: entropy from the host's kernel (virtio 1.2, 5.4). */
#ifndef DEVICE_VIRTIO_RNG_H
#define DEVICE_VIRTIO_RNG_H

#include "base/error.h"
#include "bus/pci.h"
#include "mem/mem.h"

struct virtio_rng;

struct virtio_rng *virtio_rng_new(struct pci_host *pci, struct mem *mem, struct error *err);
void virtio_rng_free(struct virtio_rng *rng);

#endif
