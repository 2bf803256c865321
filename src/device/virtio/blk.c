/*
 * device/virtio/blk.c: requests become block_requests over the guest's own
 * memory; they are served on the disk's threads, and whichever thread is done
 * with one gives it back. A request the disk refuses is an I/O error of the
 * guest's; only one that is no request at all breaks the device.
 */
#include "device/virtio/blk.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "device/virtio/virtio.h"

#define CLASS_STORAGE 0x010000
#define SEGMENTS      (VIRTQ_SEGMENT_MAX - 2) /* without header and status */
#define SECTORS_MAX   0x400000u               /* of one discard: 2 GiB */
#define QUEUES_MAX    8

#define F_SEG_MAX      BIT(2)
#define F_RO           BIT(5)
#define F_BLK_SIZE     BIT(6)
#define F_FLUSH        BIT(9)
#define F_TOPOLOGY     BIT(10)
#define F_MQ           BIT(12)
#define F_DISCARD      BIT(13)
#define F_WRITE_ZEROES BIT(14)

enum { T_IN = 0, T_OUT = 1, T_FLUSH = 4, T_GET_ID = 8, T_DISCARD = 11, T_WRITE_ZEROES = 13 };
enum { S_OK = 0, S_IOERR = 1, S_UNSUPP = 2 };

struct blk_config {    /* 5.2.4 */
    uint64_t capacity; /* sectors */
    uint32_t size_max, seg_max;
    uint16_t cylinders;
    uint8_t heads, sectors;
    uint32_t blk_size;
    uint8_t physical_block_exp, alignment_offset;
    uint16_t min_io_size;
    uint32_t opt_io_size;
    uint8_t writeback, unused;
    uint16_t num_queues;
    uint32_t max_discard_sectors, max_discard_seg, discard_sector_alignment;
    uint32_t max_write_zeroes_sectors, max_write_zeroes_seg;
    uint8_t write_zeroes_may_unmap, unused1[3];
} __attribute__((packed));
_Static_assert(sizeof(struct blk_config) <= VIRTIO_CONFIG_MAX, "virtio-blk configuration");

struct blk_header {
    uint32_t type, reserved;
    uint64_t sector;
};

struct blk_range {
    uint64_t sector;
    uint32_t sectors, flags;
};
#define RANGE_UNMAP 1u

struct blk_request {
    struct block_request block;
    struct virtio_blk *blk;
    unsigned queue;
    uint64_t written; /* bytes for the guest, without the status */
    struct blk_request *next;
    struct iovec iov[VIRTQ_SEGMENT_MAX];
    struct virtq_chain chain;
};

struct virtio_blk {
    struct virtio_device virtio;
    struct block *block;
    char id[VIRTIO_BLK_ID_MAX];
    struct blk_request *spare; /* at most as many as were ever under way: the queues' sizes */
};

/* --- requests' memory ------------------------------------------------------------------------- */

static struct blk_request *get_request(struct virtio_blk *blk)
{
    struct blk_request *request = blk->spare;

    if (request)
        blk->spare = request->next;
    else
        request = malloc(sizeof(*request));
    return request;
}

static void put_request(struct virtio_blk *blk, struct blk_request *request)
{
    request->next = blk->spare;
    blk->spare = request;
}

/* --- the end of a request ----------------------------------------------------------------------- */

static void finish(struct virtio_blk *blk, struct blk_request *request, uint8_t status)
{
    virtq_write(&request->chain, request->chain.writable_bytes - 1, &status, 1);
    /* The status is the last byte: for the count to include it, all before it has to count as written. */
    virtio_push(&blk->virtio, request->queue, &request->chain,
                status == S_OK && request->written ? request->written + 1 : request->chain.writable_bytes);
    put_request(blk, request);
}

/* On a thread of the disk's. */
static void done(struct block_request *block_request)
{
    struct blk_request *request = container_of(block_request, struct blk_request, block);
    struct virtio_blk *blk = request->blk;
    unsigned queue = request->queue;

    lock_take(&blk->virtio.lock);
    finish(blk, request, block_request->rc ? S_IOERR : S_OK);
    virtio_flush(&blk->virtio, queue);
    virtio_release(&blk->virtio);
    lock_drop(&blk->virtio.lock);
}

/* --- kinds of requests: each returns a status, or -1 if the disk now has it --------------------------- */

static int submit(struct virtio_blk *blk, struct blk_request *request, enum block_op op, uint64_t offset, uint64_t len)
{
    bool finished;

    request->block = (struct block_request){
        .op = op,
        .offset = offset,
        .len = len,
        .iov = request->iov,
        .iov_count = request->block.iov_count,
        .done = done,
    };
    lock_drop(&blk->virtio.lock); /* it may take its time with it; other queues go on */
    finished = block_submit(blk->block, &request->block);
    lock_take(&blk->virtio.lock);
    if (!finished) /* by now it may even be given back */
        return -1;
    return request->block.rc ? S_IOERR : S_OK;
}

static bool in_disk(const struct virtio_blk *blk, uint64_t sector, uint64_t sectors)
{
    uint64_t all = block_size(blk->block) / BLOCK_SECTOR;

    return sector <= all && sectors <= all - sector;
}

static int transfer(struct virtio_blk *blk, struct blk_request *request, const struct blk_header *header)
{
    const struct virtq_chain *chain = &request->chain;
    bool write = header->type == T_OUT;
    uint64_t len = write ? chain->readable_bytes - sizeof(*header) : chain->writable_bytes - 1;

    if (len % BLOCK_SECTOR || !in_disk(blk, header->sector, len / BLOCK_SECTOR) ||
        (write && block_readonly(blk->block)))
        return S_IOERR;
    if (!len)
        return S_OK;
    if (write) {
        request->block.iov_count = virtq_readable_iov(chain, sizeof(*header), len, request->iov);
    } else {
        request->block.iov_count = virtq_writable_iov(chain, 0, len, request->iov);
        request->written = len;
    }
    return submit(blk, request, write ? BLOCK_WRITE : BLOCK_READ, header->sector * BLOCK_SECTOR, len);
}

static int flush(struct virtio_blk *blk, struct blk_request *request, const struct blk_header *header)
{
    return submit(blk, request, BLOCK_FLUSH, 0, 0);
}

static int get_id(struct virtio_blk *blk, struct blk_request *request, const struct blk_header *header)
{
    request->written =
        virtq_write(&request->chain, 0, blk->id, MIN(sizeof(blk->id), request->chain.writable_bytes - 1));
    return S_OK;
}

/* Discard and write zeroes: one range. */
static int clear(struct virtio_blk *blk, struct blk_request *request, const struct blk_header *header)
{
    const bool discard = header->type == T_DISCARD;
    struct blk_range range;

    if (request->chain.readable_bytes != sizeof(*header) + sizeof(range))
        return S_IOERR;
    virtq_read(&request->chain, sizeof(*header), &range, sizeof(range));
    if (range.flags & ~(discard ? 0 : RANGE_UNMAP))
        return S_UNSUPP;
    if (range.sectors > SECTORS_MAX || !in_disk(blk, range.sector, range.sectors) || block_readonly(blk->block))
        return S_IOERR;
    if (!range.sectors)
        return S_OK;
    return submit(blk, request, discard ? BLOCK_DISCARD : BLOCK_ZERO, range.sector * BLOCK_SECTOR,
                  (uint64_t)range.sectors * BLOCK_SECTOR);
}

static const struct {
    uint32_t type;
    int (*serve)(struct virtio_blk *blk, struct blk_request *request, const struct blk_header *header);
} kinds[] = {
    {T_IN, transfer},   {T_OUT, transfer},  {T_FLUSH, flush},
    {T_GET_ID, get_id}, {T_DISCARD, clear}, {T_WRITE_ZEROES, clear},
};

static void serve(struct virtio_blk *blk, struct blk_request *request)
{
    struct blk_header header;
    int status = S_UNSUPP;

    virtq_read(&request->chain, 0, &header, sizeof(header));
    for (unsigned i = 0; i < ARRAY_SIZE(kinds); i++)
        if (kinds[i].type == header.type)
            status = kinds[i].serve(blk, request, &header);
    if (status < 0)
        return;
    finish(blk, request, (uint8_t)status);
    virtio_release(&blk->virtio);
}

/* --- the device ------------------------------------------------------------------------------------ */

/* Takes one chain. False: there is none, or the device has failed. */
static bool take(struct virtio_blk *blk, unsigned queue)
{
    struct blk_request *request = get_request(blk);

    if (!request) {
        virtio_fail(&blk->virtio, "the host has no memory for a request");
        return false;
    }
    if (!virtio_pop(&blk->virtio, queue, &request->chain)) {
        put_request(blk, request);
        return false;
    }
    if (request->chain.readable_bytes < sizeof(struct blk_header) || !request->chain.writable_bytes) {
        put_request(blk, request);
        virtio_fail(&blk->virtio, "a request without header or status");
        return false;
    }
    request->blk = blk;
    request->queue = queue;
    request->written = 0;
    request->block.iov_count = 0;
    virtio_hold(&blk->virtio); /* until it is given back */
    serve(blk, request);
    return true;
}

static void notify(struct virtio_device *device, unsigned queue)
{
    struct virtio_blk *blk = container_of(device, struct virtio_blk, virtio);

    do
        while (take(blk, queue))
            ;
    while (virtio_ask_notification(device, queue));
    block_kick(blk->block);
    virtio_flush(device, queue);
}

static const struct virtio_ops ops = {
    .name = "virtio-blk",
    .type = VIRTIO_BLOCK,
    .class_code = CLASS_STORAGE,
    .notify = notify,
};

struct virtio_blk *virtio_blk_new(struct pci_host *pci, struct mem *mem, struct block *block, const char *id,
                                  unsigned queues, struct error *err)
{
    const struct blk_config config = {
        .capacity = block_size(block) / BLOCK_SECTOR,
        .seg_max = SEGMENTS,
        .blk_size = BLOCK_SECTOR,
        .physical_block_exp = 3, /* 4 KiB: an overlay's piece, a file system's block */
        .opt_io_size = 0,
        .num_queues = (uint16_t)MIN(queues, QUEUES_MAX),
        .max_discard_sectors = SECTORS_MAX,
        .max_discard_seg = 1,
        .discard_sector_alignment = 8,
        .max_write_zeroes_sectors = SECTORS_MAX,
        .max_write_zeroes_seg = 1,
        .write_zeroes_may_unmap = 1,
    };
    uint64_t features = F_SEG_MAX | F_BLK_SIZE | F_FLUSH | F_TOPOLOGY | (config.num_queues > 1 ? F_MQ : 0) |
                        (block_readonly(block) ? F_RO : F_DISCARD | F_WRITE_ZEROES);
    struct virtio_blk *blk = calloc(1, sizeof(*blk));

    if (!blk) {
        error_set(err, -ENOMEM, "virtio-blk: no memory");
        return NULL;
    }
    blk->block = block;
    memcpy(blk->id, id, MIN(strlen(id), sizeof(blk->id)));
    if (virtio_init(&blk->virtio, &ops, pci, mem, config.num_queues, features, &config, sizeof(config), err)) {
        virtio_blk_free(blk);
        return NULL;
    }
    return blk;
}

void virtio_blk_free(struct virtio_blk *blk)
{
    block_drain(blk->block);
    while (blk->spare) {
        struct blk_request *request = blk->spare;

        blk->spare = request->next;
        free(request);
    }
    virtio_fini(&blk->virtio);
    free(blk);
}
