/*
 * backend/vsock/host.h: the host's side of virtio-vsock, as Unix sockets: a
 * program connects to PATH, says "CONNECT port\n" and has, after the answer
 * "OK port\n", the guest's port; a guest that connects to a port of the host's
 * reaches who listens at PATH_port. Thread: the loop's.
 */
#ifndef BACKEND_VSOCK_HOST_H
#define BACKEND_VSOCK_HOST_H

#include "base/error.h"
#include "base/loop.h"
#include "base/types.h"

struct vsock_host;

struct vsock_client {
    void *opaque;
    /* A program wants the guest's port. fd, non-blocking, is the device's from now on. */
    void (*connect)(void *opaque, int fd, uint32_t port);
};

/* NULL with one line for the user. */
struct vsock_host *vsock_host_new(struct loop *loop, const char *path, struct error *err);
void vsock_host_free(struct vsock_host *host);

/* Until then, and with a connect of NULL, all are turned away. Before the loop runs, or after. */
void vsock_host_set_client(struct vsock_host *host, const struct vsock_client *client);
/* A non-blocking connection to who listens for the guest's port, or a negative errno. */
int vsock_host_connect(struct vsock_host *host, uint32_t port);

#endif
