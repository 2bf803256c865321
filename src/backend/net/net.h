/*
 * backend/net/net.h: what a network card is plugged into. Frames are Ethernet,
 * without checksum. A backend has a thread of its own, which calls the client
 * with no lock held.
 *
 * With a frame comes what is left to be done with it: checksums that are not
 * filled in, segments that are not yet cut.
 */
#ifndef BACKEND_NET_NET_H
#define BACKEND_NET_NET_H

#include <sys/uio.h>

#include "base/error.h"
#include "base/types.h"

#define NET_HEADER    14    /* Ethernet: two addresses and a type */
#define NET_FRAME_MAX 65550 /* with that header */

/* What is left to be done with a frame, in the layout that virtio (5.1.6) and Linux's tun share. */
struct net_offload {
    uint8_t flags, gso_type;
    uint16_t header_len, gso_size;    /* bytes of payload in a segment */
    uint16_t csum_start, csum_offset; /* the sum of all from csum_start on goes to csum_start + csum_offset */
};
#define NET_NEEDS_CSUM 1 /* flags; where the sum goes is that of the pseudo-header */
#define NET_CSUM_VALID 2
#define NET_GSO_NONE   0
#define NET_GSO_TCP4   1
#define NET_GSO_TCP6   4
#define NET_GSO_ECN    0x80 /* with one of the above */

/* What a client takes undone, bits. */
#define NET_TAKES_CSUM BIT(0)
#define NET_TAKES_TCP4 BIT(1)
#define NET_TAKES_TCP6 BIT(2)
#define NET_TAKES_ECN  BIT(3)

struct net_client {
    void *opaque;
    /* A frame has come. False: there is no room now; it will be offered again after ready(). */
    bool (*receive)(void *opaque, const uint8_t *frame, size_t len, const struct net_offload *offload);
    /* There is room again for what send() has refused. */
    void (*writable)(void *opaque);
};

struct net;

struct net_ops {
    /* Frames may be received from now on. 0 or a negative errno. */
    int (*start)(struct net *net);
    /* No more calls of the client's after this. */
    void (*stop)(struct net *net);
    /* Takes a copy of a frame, with whatever is left to be done with it. False: there is no room now; writable() tells
     * when there is. Any thread, also with the device's lock held. */
    bool (*send)(struct net *net, const struct iovec *iov, unsigned count, const struct net_offload *offload);
    /* What the client takes undone from now on, of `gives`. Any thread, also with the device's lock held. */
    void (*set_takes)(struct net *net, unsigned takes);
    /* The client has room again. Any thread, also with the device's lock held. */
    void (*ready)(struct net *net);
    void (*free)(struct net *net);
};

struct net {
    const struct net_ops *ops;
    struct net_client client;
    uint16_t mtu;   /* bytes of a frame behind its header */
    unsigned gives; /* NET_TAKES_... that it has a use for */
};

/* For backends that cannot leave it to others (offload.c). A frame that is no such packet is left as it is. */

/* Fills in the checksum that NET_NEEDS_CSUM asks for. */
void net_fill_checksum(uint8_t *frame, size_t len, const struct net_offload *offload);
/* Cuts a TCP packet (NET_GSO_...) into frames of gso_size bytes of payload, with their checksums, in `segment`, which
 * has room for NET_FRAME_MAX. Returns how many it emitted; 0: it is no such packet. */
unsigned net_segment(const uint8_t *frame, size_t len, const struct net_offload *offload, uint8_t *segment,
                     void (*emit)(void *opaque, const uint8_t *segment, size_t len), void *opaque);

/* A port of the host's that leads to one of the guest's. */
struct net_publish {
    uint32_t host_address; /* IPv4, host's byte order */
    uint16_t host_port, guest_port;
    bool udp;
};

/* The network a user-mode guest sees. */
#define NET_USER_NETWORK 0x0a000200u /* 10.0.2.0/24 */
#define NET_USER_GATEWAY 0x0a000202u /* and the host itself */
#define NET_USER_DNS     0x0a000203u
#define NET_USER_GUEST   0x0a00020fu

/* The host's own connections, by libslirp: needs no rights. NULL with a line for the user. */
struct net *net_user_new(const struct net_publish *publish, unsigned count, struct error *err);

/* An existing tap interface. NULL with a line for the user. */
struct net *net_tap_new(const char *name, struct error *err);

#endif
