/*
 * backend/net/tap.c: a tap interface of the host's, made and set up by the
 * administrator (`ip tuntap add NAME mode tap user WHO`). Each frame has struct
 * net_offload in front of it, in both directions: the host's kernel takes and
 * gives packets that are not yet cut into segments.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/if.h>
#include <linux/if_tun.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#include "backend/net/net.h"
#include "base/lock.h"

#define PARTS_MAX 256 /* of a frame to be sent */

_Static_assert(sizeof(struct net_offload) == 10, "as the kernel has it in front of frames");

struct tap {
    struct net net;
    int fd, wake_fd;
    pthread_t thread;
    bool started;
    _Atomic bool stopping;
};

static void wake(struct tap *tap)
{
    const uint64_t one = 1;

    while (write(tap->wake_fd, &one, sizeof(one)) < 0 && errno == EINTR)
        ;
}

/* A frame the guest has no room for is kept, and the interface's own queue holds the rest. */
static void *run(void *opaque)
{
    struct tap *tap = opaque;
    uint8_t frame[NET_FRAME_MAX];
    struct net_offload offload;
    const struct iovec parts[] = {{&offload, sizeof(offload)}, {frame, sizeof(frame)}};
    ssize_t len = 0;
    uint64_t count;

    while (!tap->stopping) {
        struct pollfd fds[] = {{.fd = tap->wake_fd, .events = POLLIN}, {.fd = len ? -1 : tap->fd, .events = POLLIN}};

        if (poll(fds, 2, -1) < 0)
            continue;
        if (fds[0].revents && read(tap->wake_fd, &count, sizeof(count)) < 0)
            continue;
        if (fds[1].revents) {
            len = readv(tap->fd, parts, 2);
            len = len > (ssize_t)sizeof(offload) ? len - (ssize_t)sizeof(offload) : 0;
        }
        if (fds[1].revents & (POLLERR | POLLHUP | POLLNVAL)) /* the interface is gone */
            break;
        if (len && tap->net.client.receive(tap->net.client.opaque, frame, (size_t)len, &offload))
            len = 0;
    }
    return NULL;
}

static int tap_start(struct net *net)
{
    struct tap *tap = container_of(net, struct tap, net);
    sigset_t all, old;
    int rc;

    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    rc = pthread_create(&tap->thread, NULL, run, tap);
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    tap->started = !rc;
    return -rc;
}

static void tap_stop(struct net *net)
{
    struct tap *tap = container_of(net, struct tap, net);

    if (!tap->started)
        return;
    tap->stopping = true;
    wake(tap);
    pthread_join(tap->thread, NULL);
    tap->started = false;
}

/* Not blocking: when its queue is full the frame is lost, as on a wire. */
static bool tap_send(struct net *net, const struct iovec *iov, unsigned count, const struct net_offload *offload)
{
    struct iovec parts[PARTS_MAX + 1];

    if (count > PARTS_MAX)
        return true;
    parts[0] = (struct iovec){(void *)(uintptr_t)offload, sizeof(*offload)};
    memcpy(parts + 1, iov, count * sizeof(*iov));
    while (writev(container_of(net, struct tap, net)->fd, parts, (int)count + 1) < 0 && errno == EINTR)
        ;
    return true;
}

static const struct {
    unsigned takes, tun;
} offloads[] = {
    {NET_TAKES_CSUM, TUN_F_CSUM},
    {NET_TAKES_TCP4, TUN_F_TSO4},
    {NET_TAKES_TCP6, TUN_F_TSO6},
    {NET_TAKES_ECN, TUN_F_TSO_ECN},
};

/* If the kernel refuses, it goes on to finish frames itself. */
static void tap_set_takes(struct net *net, unsigned takes)
{
    unsigned flags = 0;

    for (unsigned i = 0; i < ARRAY_SIZE(offloads); i++)
        if (takes & offloads[i].takes)
            flags |= offloads[i].tun;
    ioctl(container_of(net, struct tap, net)->fd, TUNSETOFFLOAD, flags);
}

static void tap_ready(struct net *net)
{
    wake(container_of(net, struct tap, net));
}

static void tap_free(struct net *net)
{
    struct tap *tap = container_of(net, struct tap, net);

    tap_stop(net);
    if (tap->fd >= 0)
        close(tap->fd);
    if (tap->wake_fd >= 0)
        close(tap->wake_fd);
    free(tap);
}

static const struct net_ops ops = {tap_start, tap_stop, tap_send, tap_set_takes, tap_ready, tap_free};

static int interface_mtu(const char *name)
{
    struct ifreq request = {.ifr_ifru = {.ifru_mtu = 1500}};
    int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

    memcpy(request.ifr_name, name, strlen(name) + 1);
    if (fd < 0)
        return 1500;
    if (ioctl(fd, SIOCGIFMTU, &request) < 0)
        request.ifr_mtu = 1500;
    close(fd);
    return MIN(MAX(request.ifr_mtu, 68), NET_FRAME_MAX - NET_HEADER - 4);
}

struct net *net_tap_new(const char *name, struct error *err)
{
    struct ifreq request = {.ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR};
    struct tap *tap = calloc(1, sizeof(*tap));

    if (!tap || strlen(name) >= sizeof(request.ifr_name)) {
        error_set(err, -EINVAL, "--net tap=%s: %s", name, tap ? "an interface's name is shorter" : "no memory");
        free(tap);
        return NULL;
    }
    memcpy(request.ifr_name, name, strlen(name));
    tap->net = (struct net){
        .ops = &ops,
        .mtu = (uint16_t)interface_mtu(name),
        .gives = NET_TAKES_CSUM | NET_TAKES_TCP4 | NET_TAKES_TCP6 | NET_TAKES_ECN,
    };
    tap->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    tap->fd = open("/dev/net/tun", O_RDWR | O_CLOEXEC | O_NONBLOCK);
    if (tap->wake_fd >= 0 && tap->fd >= 0 && ioctl(tap->fd, TUNSETIFF, &request) == 0)
        return &tap->net;
    error_set(err, -errno, "--net tap=%s: %s%s", name, strerror(errno),
              errno == EPERM ? " (as root: ip tuntap add NAME mode tap user YOU)" : "");
    tap_free(&tap->net);
    return NULL;
}
