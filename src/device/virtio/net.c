/*
 * device/virtio/net.c: frames between two queues and a backend. What the driver
 * leaves to the card, checksums and segments of TCP, goes to the backend as it
 * is; so does what the backend leaves to the driver, if the driver takes it.
 */
#include "device/virtio/net.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "device/virtio/virtio.h"

#define CLASS_NETWORK 0x020000
#define CHAINS_MAX    64 /* of one received frame */

enum { RX = 0, TX = 1, CONTROL = 2, QUEUES = 3 };

#define F_CSUM                BIT(0)
#define F_GUEST_CSUM          BIT(1)
#define F_CTRL_GUEST_OFFLOADS BIT(2)
#define F_MTU                 BIT(3)
#define F_MAC                 BIT(5)
#define F_GUEST_TSO4          BIT(7)
#define F_GUEST_TSO6          BIT(8)
#define F_GUEST_ECN           BIT(9)
#define F_HOST_TSO4           BIT(11)
#define F_HOST_TSO6           BIT(12)
#define F_HOST_ECN            BIT(13)
#define F_MRG_RXBUF           BIT(15)
#define F_STATUS              BIT(16)
#define F_CTRL_VQ             BIT(17)
#define F_CTRL_RX             BIT(18)
#define F_CTRL_MAC_ADDR       BIT(23)

#define OFFERED                                                                                                        \
    (F_CSUM | F_HOST_TSO4 | F_HOST_TSO6 | F_HOST_ECN | F_GUEST_CSUM | F_CTRL_GUEST_OFFLOADS | F_MTU | F_MAC |          \
     F_MRG_RXBUF | F_STATUS | F_CTRL_VQ | F_CTRL_RX | F_CTRL_MAC_ADDR)

/* What the driver can take undone: a feature, for which control commands have the same bits. */
static const struct {
    uint64_t feature;
    unsigned takes;
} guest_offloads[] = {
    {F_GUEST_CSUM, NET_TAKES_CSUM},
    {F_GUEST_TSO4, NET_TAKES_TCP4},
    {F_GUEST_TSO6, NET_TAKES_TCP6},
    {F_GUEST_ECN, NET_TAKES_ECN},
};

struct net_config { /* 5.1.4 */
    uint8_t mac[6];
    uint16_t status, max_virtqueue_pairs, mtu;
} __attribute__((packed));
#define STATUS_LINK_UP 1

struct net_header { /* 5.1.6 */
    struct net_offload offload;
    uint16_t num_buffers;
};
_Static_assert(sizeof(struct net_header) == 12, "virtio-net header");

struct control_header {
    uint8_t class, command;
};
/* Classes and commands. Which addresses to receive: all that comes is for this guest. */
#define CONTROL_RX_MODE      0
#define CONTROL_MAC          1
#define CONTROL_MAC_TABLE    0
#define CONTROL_MAC_ADDRESS  1
#define CONTROL_OFFLOADS     5
#define CONTROL_OFFLOADS_SET 0
#define CONTROL_OK           0
#define CONTROL_ERROR        1

struct virtio_net {
    struct virtio_device virtio;
    struct net *net;
    struct virtq_chain chain; /* TX, CONTROL */
    struct virtq_chain rx[CHAINS_MAX];
    uint64_t written[CHAINS_MAX];
    uint8_t mac[6];
    unsigned takes; /* NET_TAKES_... of what the driver takes undone now */
    bool refused;   /* a frame: the backend has no room, and will say when it has */
};

/* --- to the host --------------------------------------------------------------------------------- */

/* The header, of which only what was negotiated counts. False: it makes no sense. */
static bool read_offload(const struct virtio_net *card, struct net_offload *offload)
{
    const struct virtio_device *device = &card->virtio;
    const uint8_t gso = offload->gso_type & (uint8_t)~NET_GSO_ECN;

    offload->flags &= NET_NEEDS_CSUM;
    if (!virtio_has(device, F_CSUM))
        *offload = (struct net_offload){0};
    if (offload->gso_type == NET_GSO_NONE)
        return true;
    if ((gso != NET_GSO_TCP4 || !virtio_has(device, F_HOST_TSO4)) &&
        (gso != NET_GSO_TCP6 || !virtio_has(device, F_HOST_TSO6)))
        return false;
    return offload->gso_size && (offload->flags & NET_NEEDS_CSUM) &&
           (!(offload->gso_type & NET_GSO_ECN) || virtio_has(device, F_HOST_ECN));
}

/* False: the backend has no room. What is no frame is dropped. */
static bool send_frame(struct virtio_net *card)
{
    const struct virtq_chain *chain = &card->chain;
    struct iovec iov[VIRTQ_SEGMENT_MAX];
    struct net_header header;
    uint64_t len, max;
    unsigned count;

    if (virtq_read(chain, 0, &header, sizeof(header)) < sizeof(header) || !read_offload(card, &header.offload))
        return true;
    len = chain->readable_bytes - sizeof(header);
    max = header.offload.gso_type ? NET_FRAME_MAX : NET_HEADER + card->net->mtu + 4u /* a VLAN tag */;
    if (len < NET_HEADER || len > max)
        return true;
    count = virtq_readable_iov(chain, sizeof(header), len, iov);
    return card->net->ops->send(card->net, iov, count, &header.offload);
}

static void send_frames(struct virtio_net *card)
{
    struct virtio_device *device = &card->virtio;

    card->refused = false;
    do {
        while (!card->refused && virtio_pop(device, TX, &card->chain)) {
            card->refused = !send_frame(card);
            if (card->refused)
                virtio_unpop(device, TX, &card->chain);
            else
                virtio_push(device, TX, &card->chain, 0);
        }
    } while (!card->refused && virtio_ask_notification(device, TX));
    virtio_flush(device, TX);
}

/* On the backend's thread. */
static void writable(void *opaque)
{
    struct virtio_net *card = opaque;

    lock_take(&card->virtio.lock);
    if (card->refused)
        send_frames(card);
    lock_drop(&card->virtio.lock);
}

/* --- control ------------------------------------------------------------------------------------- */

static void set_offloads(struct virtio_net *card, uint64_t features)
{
    card->takes = 0;
    for (unsigned i = 0; i < ARRAY_SIZE(guest_offloads); i++)
        if (features & guest_offloads[i].feature & card->virtio.features)
            card->takes |= guest_offloads[i].takes;
    if (!(card->takes & NET_TAKES_CSUM)) /* the others need it (5.1.3.1) */
        card->takes = 0;
    card->net->ops->set_takes(card->net, card->takes);
}

static bool control_mac(struct virtio_net *card, uint8_t command)
{
    uint8_t mac[sizeof(card->mac)];

    if (command == CONTROL_MAC_TABLE)
        return true;
    if (command != CONTROL_MAC_ADDRESS ||
        virtq_read(&card->chain, sizeof(struct control_header), mac, sizeof(mac)) < sizeof(mac))
        return false;
    memcpy(card->virtio.config, mac, sizeof(mac));
    return true;
}

static bool control_offloads(struct virtio_net *card, uint8_t command)
{
    uint64_t wanted;

    if (command != CONTROL_OFFLOADS_SET || !virtio_has(&card->virtio, F_CTRL_GUEST_OFFLOADS) ||
        virtq_read(&card->chain, sizeof(struct control_header), &wanted, sizeof(wanted)) < sizeof(wanted) ||
        (wanted & ~card->virtio.features))
        return false;
    set_offloads(card, wanted);
    return true;
}

static void serve_control(struct virtio_net *card)
{
    struct control_header header = {.class = 0xff};
    bool ok;
    uint8_t answer;

    virtq_read(&card->chain, 0, &header, sizeof(header));
    ok = header.class == CONTROL_RX_MODE    ? true
         : header.class == CONTROL_MAC      ? control_mac(card, header.command)
         : header.class == CONTROL_OFFLOADS ? control_offloads(card, header.command)
                                            : false;
    answer = ok ? CONTROL_OK : CONTROL_ERROR;
    if (card->chain.writable_bytes)
        virtq_write(&card->chain, card->chain.writable_bytes - 1, &answer, 1);
}

static void serve_controls(struct virtio_net *card)
{
    struct virtio_device *device = &card->virtio;

    do {
        while (virtio_pop(device, CONTROL, &card->chain)) {
            serve_control(card);
            virtio_push(device, CONTROL, &card->chain, card->chain.writable_bytes);
        }
    } while (virtio_ask_notification(device, CONTROL));
    virtio_flush(device, CONTROL);
}

static void notify(struct virtio_device *device, unsigned queue)
{
    struct virtio_net *card = container_of(device, struct virtio_net, virtio);

    if (queue == RX) /* room for what waits */
        card->net->ops->ready(card->net);
    else if (queue == TX)
        send_frames(card);
    else
        serve_controls(card);
}

/* --- from the host ------------------------------------------------------------------------------- */

/* Takes buffers for `total` bytes. 0: there are not enough now; more than CHAINS_MAX: never. */
static unsigned take_buffers(struct virtio_net *card, uint64_t total)
{
    unsigned max = virtio_has(&card->virtio, F_MRG_RXBUF) ? CHAINS_MAX : 1, n = 0;
    uint64_t room = 0;

    do /* with all that is there taken: the driver is to tell of what comes after it */
        while (room < total && n < max && virtio_pop(&card->virtio, RX, &card->rx[n]))
            room += card->rx[n++].writable_bytes;
    while (room < total && n < max && virtio_ask_notification(&card->virtio, RX));
    if (room >= total)
        return n;
    for (unsigned i = n; i > 0; i--)
        virtio_unpop(&card->virtio, RX, &card->rx[i - 1]);
    return n == max ? CHAINS_MAX + 1 : 0;
}

static void fill_buffers(struct virtio_net *card, unsigned count, const uint8_t *frame, size_t len,
                         const struct net_offload *offload)
{
    struct net_header header = {.num_buffers = (uint16_t)count};
    uint64_t at = sizeof(header), done = 0;

    if (card->takes & NET_TAKES_CSUM)
        header.offload = *offload;
    virtq_write(&card->rx[0], 0, &header, sizeof(header));
    for (unsigned i = 0; i < count; i++) {
        uint64_t n = virtq_write(&card->rx[i], at, frame + done, len - done);

        card->written[i] = at + n;
        done += n;
        at = 0;
    }
    virtio_push_all(&card->virtio, RX, card->rx, card->written, count);
    virtio_flush(&card->virtio, RX);
}

/* On the backend's thread. What can never be received is dropped, as by a card without a driver. */
static bool receive(void *opaque, const uint8_t *frame, size_t len, const struct net_offload *offload)
{
    struct virtio_net *card = opaque;
    unsigned count;
    bool again;

    lock_take(&card->virtio.lock);
    count = take_buffers(card, sizeof(struct net_header) + len);
    again = !count && virtio_running(&card->virtio);
    if (count && count <= CHAINS_MAX)
        fill_buffers(card, count, frame, len, offload);
    lock_drop(&card->virtio.lock);
    return !again;
}

/* --- the device ------------------------------------------------------------------------------------ */

static void started(struct virtio_device *device)
{
    set_offloads(container_of(device, struct virtio_net, virtio), device->features);
}

static void reset(struct virtio_device *device)
{
    struct virtio_net *card = container_of(device, struct virtio_net, virtio);

    card->refused = false;
    memcpy(device->config, card->mac, sizeof(card->mac));
    set_offloads(card, 0);
    card->net->ops->ready(card->net); /* what waits is offered again, and dropped */
}

static const struct virtio_ops ops = {
    .name = "virtio-net",
    .type = VIRTIO_NET,
    .class_code = CLASS_NETWORK,
    .notify = notify,
    .started = started,
    .reset = reset,
};

struct virtio_net *virtio_net_new(struct pci_host *pci, struct mem *mem, struct net *net, const uint8_t mac[6],
                                  struct error *err)
{
    struct net_config config = {.status = STATUS_LINK_UP, .max_virtqueue_pairs = 1, .mtu = net->mtu};
    struct virtio_net *card = calloc(1, sizeof(*card));
    uint64_t features = OFFERED;
    int rc;

    if (!card) {
        error_set(err, -ENOMEM, "virtio-net: no memory");
        return NULL;
    }
    memcpy(config.mac, mac, sizeof(config.mac));
    memcpy(card->mac, mac, sizeof(card->mac));
    card->net = net;
    for (unsigned i = 0; i < ARRAY_SIZE(guest_offloads); i++)
        if (net->gives & guest_offloads[i].takes)
            features |= guest_offloads[i].feature;
    rc = virtio_init(&card->virtio, &ops, pci, mem, QUEUES, features, &config, sizeof(config), err);
    if (!rc) {
        net->client = (struct net_client){.opaque = card, .receive = receive, .writable = writable};
        rc = net->ops->start(net);
        if (rc)
            error_set(err, rc, "virtio-net: no thread: %s", strerror(-rc));
    }
    if (!rc)
        return card;
    virtio_net_free(card);
    return NULL;
}

void virtio_net_free(struct virtio_net *card)
{
    card->net->ops->stop(card->net);
    virtio_fini(&card->virtio);
    free(card);
}
