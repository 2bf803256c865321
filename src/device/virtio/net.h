/* device/virtio/net.h: a network card (virtio 1.2, 5.1). */
#ifndef DEVICE_VIRTIO_NET_H
#define DEVICE_VIRTIO_NET_H

#include "backend/net/net.h"
#include "base/error.h"
#include "bus/pci.h"
#include "mem/mem.h"

struct virtio_net;

/* net stays the caller's; it is started here and stopped by virtio_net_free. */
struct virtio_net *virtio_net_new(struct pci_host *pci, struct mem *mem, struct net *net, const uint8_t mac[6],
                                  struct error *err);
void virtio_net_free(struct virtio_net *card);

#endif
