/*
 * device/virtio/net.c: frames between two queues and a backend. What the
 * driver leaves to the card is done here: checksums of frames it sends; those
 * it receives never left this machine's memory and are marked as right.
 */
#include "device/virtio/net.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "device/virtio/virtio.h"

#define CLASS_NETWORK 0x020000
#define CHAINS_MAX    64 /* of one received frame */

enum { RX = 0, TX = 1, CONTROL = 2, QUEUES = 3 };

#define F_CSUM       BIT(0)
#define F_GUEST_CSUM BIT(1)
#define F_MTU        BIT(3)
#define F_MAC        BIT(5)
#define F_MRG_RXBUF  BIT(15)
#define F_STATUS     BIT(16)
#define F_CTRL_VQ    BIT(17)
#define F_CTRL_RX    BIT(18)

struct net_config { /* 5.1.4 */
    uint8_t mac[6];
    uint16_t status, max_virtqueue_pairs, mtu;
} __attribute__((packed));
#define STATUS_LINK_UP 1

struct net_header { /* 5.1.6 */
    uint8_t flags, gso_type;
    uint16_t hdr_len, gso_size, csum_start, csum_offset, num_buffers;
};
#define HDR_NEEDS_CSUM 1
#define HDR_DATA_VALID 2

struct control_header {
    uint8_t class, command;
};
/* Class and command: which addresses to receive. All that comes is for this guest. */
#define CONTROL_RX_MODE   0
#define CONTROL_MAC       1
#define CONTROL_MAC_TABLE 0
#define CONTROL_OK        0
#define CONTROL_ERROR     1

struct virtio_net {
    struct virtio_device virtio;
    struct net *net;
    struct virtq_chain chain; /* TX, CONTROL */
    struct virtq_chain rx[CHAINS_MAX];
    uint64_t written[CHAINS_MAX];
    uint8_t frame[NET_FRAME_MAX];
};

/* --- to the host --------------------------------------------------------------------------------- */

/* RFC 1071, over what the driver says; the field holds the pseudo-header's sum already. */
static void fill_checksum(uint8_t *frame, size_t len, const struct net_header *header)
{
    size_t at = header->csum_start, field = at + header->csum_offset;
    uint64_t sum = 0;

    if (at > len || field + 2 > len)
        return;
    for (size_t i = at; i + 1 < len; i += 2)
        sum += (uint32_t)frame[i] << 8 | frame[i + 1];
    if ((len - at) % 2)
        sum += (uint32_t)frame[len - 1] << 8;
    while (sum >> 16)
        sum = (sum & 0xffff) + (sum >> 16);
    sum = ~sum & 0xffff;
    sum = sum ? sum : 0xffff; /* 0 in UDP is "none" */
    frame[field] = (uint8_t)(sum >> 8);
    frame[field + 1] = (uint8_t)sum;
}

static void send_frame(struct virtio_net *card)
{
    struct net_header header = {0};
    uint64_t len;

    if (virtq_read(&card->chain, 0, &header, sizeof(header)) < sizeof(header))
        return;
    if (card->chain.readable_bytes > sizeof(header) + sizeof(card->frame))
        return;
    len = virtq_read(&card->chain, sizeof(header), card->frame, sizeof(card->frame));
    if (len < NET_HEADER || len > NET_HEADER + (uint64_t)card->net->mtu + 4 /* a VLAN tag */)
        return;
    if ((header.flags & HDR_NEEDS_CSUM) && virtio_has(&card->virtio, F_CSUM))
        fill_checksum(card->frame, len, &header);
    card->net->ops->send(card->net, card->frame, len);
}

/* --- control ------------------------------------------------------------------------------------- */

static void serve_control(struct virtio_net *card)
{
    struct control_header header = {.class = 0xff};
    uint8_t answer;

    virtq_read(&card->chain, 0, &header, sizeof(header));
    answer = header.class == CONTROL_RX_MODE || (header.class == CONTROL_MAC && header.command == CONTROL_MAC_TABLE)
                 ? CONTROL_OK
                 : CONTROL_ERROR;
    if (card->chain.writable_bytes)
        virtq_write(&card->chain, card->chain.writable_bytes - 1, &answer, 1);
}

static void notify(struct virtio_device *device, unsigned queue)
{
    struct virtio_net *card = container_of(device, struct virtio_net, virtio);

    if (queue == RX) { /* room for what waits */
        card->net->ops->ready(card->net);
        return;
    }
    do {
        while (virtio_pop(device, queue, &card->chain)) {
            if (queue == TX)
                send_frame(card);
            else
                serve_control(card);
            virtio_push(device, queue, &card->chain, card->chain.writable_bytes);
        }
    } while (virtio_ask_notification(device, queue));
    virtio_flush(device, queue);
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

static void fill_buffers(struct virtio_net *card, unsigned count, const uint8_t *frame, size_t len)
{
    const struct net_header header = {
        .flags = virtio_has(&card->virtio, F_GUEST_CSUM) ? HDR_DATA_VALID : 0,
        .num_buffers = (uint16_t)count,
    };
    uint64_t at = sizeof(header), done = 0;

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
static bool receive(void *opaque, const uint8_t *frame, size_t len)
{
    struct virtio_net *card = opaque;
    unsigned count;
    bool again;

    lock_take(&card->virtio.lock);
    count = take_buffers(card, sizeof(struct net_header) + len);
    again = !count && virtio_running(&card->virtio);
    if (count && count <= CHAINS_MAX)
        fill_buffers(card, count, frame, len);
    lock_drop(&card->virtio.lock);
    return !again;
}

/* --- the device ------------------------------------------------------------------------------------ */

static void reset(struct virtio_device *device)
{
    struct virtio_net *card = container_of(device, struct virtio_net, virtio);

    card->net->ops->ready(card->net); /* what waits is offered again, and dropped */
}

static const struct virtio_ops ops = {
    .name = "virtio-net",
    .type = VIRTIO_NET,
    .class_code = CLASS_NETWORK,
    .notify = notify,
    .reset = reset,
};

struct virtio_net *virtio_net_new(struct pci_host *pci, struct mem *mem, struct net *net, const uint8_t mac[6],
                                  struct error *err)
{
    struct net_config config = {.status = STATUS_LINK_UP, .max_virtqueue_pairs = 1, .mtu = net->mtu};
    struct virtio_net *card = calloc(1, sizeof(*card));
    int rc;

    if (!card) {
        error_set(err, -ENOMEM, "virtio-net: no memory");
        return NULL;
    }
    memcpy(config.mac, mac, sizeof(config.mac));
    card->net = net;
    rc = virtio_init(&card->virtio, &ops, pci, mem, QUEUES,
                     F_CSUM | F_GUEST_CSUM | F_MTU | F_MAC | F_MRG_RXBUF | F_STATUS | F_CTRL_VQ | F_CTRL_RX, &config,
                     sizeof(config), err);
    if (!rc) {
        net->client = (struct net_client){.opaque = card, .receive = receive};
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
