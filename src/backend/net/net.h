/*
 * backend/net/net.h: what a network card is plugged into. Frames are Ethernet,
 * without checksum. A backend has a thread of its own, which calls the client
 * with no lock held.
 */
#ifndef BACKEND_NET_NET_H
#define BACKEND_NET_NET_H

#include "base/error.h"
#include "base/types.h"

#define NET_HEADER    14    /* Ethernet: two addresses and a type */
#define NET_FRAME_MAX 65550 /* with that header */

struct net_client {
    void *opaque;
    /* A frame has come. False: there is no room now; it will be offered again after ready(). */
    bool (*receive)(void *opaque, const uint8_t *frame, size_t len);
};

struct net;

struct net_ops {
    /* Frames may be received from now on. 0 or a negative errno. */
    int (*start)(struct net *net);
    /* No more calls of the client's after this. */
    void (*stop)(struct net *net);
    /* Takes a copy, or drops it if too many wait. Any thread, also with the device's lock held. */
    void (*send)(struct net *net, const uint8_t *frame, size_t len);
    /* The client has room again. Any thread, also with the device's lock held. */
    void (*ready)(struct net *net);
    void (*free)(struct net *net);
};

struct net {
    const struct net_ops *ops;
    struct net_client client;
    uint16_t mtu; /* bytes of a frame behind its header */
};

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
