/*
 * device/virtio/fs.c: carries FUSE requests from the guest's queues to a file
 * server and back; what is in them is the server's affair. Most are done when
 * fs_submit returns: without the device's lock, so that several vCPUs are
 * served at the same time.
 */
#include "device/virtio/fs.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "device/virtio/virtio.h"

#define CLASS_STORAGE 0x018000 /* other */
#define QUEUES_MAX    8
#define HIPRIO        1 /* queue 0: FORGETs, which may overtake others */

struct fs_device_config { /* 5.11.4 */
    uint8_t tag[VIRTIO_FS_TAG_MAX];
    uint32_t num_request_queues;
} __attribute__((packed));

struct share_request {
    struct fs_request fs;
    struct virtio_fs *share;
    unsigned queue;
    struct share_request *next;
    struct iovec iov[VIRTQ_SEGMENT_MAX];
    struct virtq_chain chain;
};

struct virtio_fs {
    struct virtio_device virtio;
    struct fs *fs;
    struct share_request *spare; /* at most as many as were ever under way: the queues' sizes */
};

_Static_assert(VIRTQ_SEGMENT_MAX <= FS_IOV_MAX, "buffers of a request");

/* --- requests' memory ------------------------------------------------------------------------- */

static struct share_request *get_request(struct virtio_fs *share)
{
    struct share_request *request = share->spare;

    if (request)
        share->spare = request->next;
    else
        request = malloc(sizeof(*request));
    return request;
}

static void put_request(struct virtio_fs *share, struct share_request *request)
{
    request->next = share->spare;
    share->spare = request;
}

/* --- requests -------------------------------------------------------------------------------------- */

static void finish(struct virtio_fs *share, struct share_request *request)
{
    virtio_push(&share->virtio, request->queue, &request->chain, request->fs.written);
    put_request(share, request);
    virtio_release(&share->virtio);
}

/* On a thread of the server's. */
static void done(struct fs_request *fs_request)
{
    struct share_request *request = container_of(fs_request, struct share_request, fs);
    struct virtio_fs *share = request->share;
    unsigned queue = request->queue;

    lock_take(&share->virtio.lock);
    finish(share, request);
    virtio_flush(&share->virtio, queue);
    lock_drop(&share->virtio.lock);
}

static void prepare(struct virtio_fs *share, struct share_request *request, unsigned queue)
{
    const struct virtq_chain *chain = &request->chain;

    for (unsigned i = 0; i < chain->readable + chain->writable; i++)
        request->iov[i] = (struct iovec){chain->segment[i].host, chain->segment[i].len};
    request->share = share;
    request->queue = queue;
    request->fs = (struct fs_request){
        .in = request->iov,
        .in_count = chain->readable,
        .in_bytes = chain->readable_bytes,
        .out = request->iov + chain->readable,
        .out_count = chain->writable,
        .out_bytes = chain->writable_bytes,
        .done = done,
    };
}

/* Takes one chain and has it served. False: there is none, or the device has failed. */
static bool take(struct virtio_fs *share, unsigned queue)
{
    struct share_request *request = get_request(share);
    bool at_once;

    if (!request) {
        virtio_fail(&share->virtio, "the host has no memory for a request");
        return false;
    }
    if (!virtio_pop(&share->virtio, queue, &request->chain)) {
        put_request(share, request);
        return false;
    }
    prepare(share, request, queue);
    virtio_hold(&share->virtio);
    virtio_ask_notification(&share->virtio, queue); /* another vCPU serves the next one meanwhile */
    lock_drop(&share->virtio.lock);
    at_once = fs_submit(share->fs, &request->fs);
    lock_take(&share->virtio.lock);
    if (at_once)
        finish(share, request);
    return true;
}

static void notify(struct virtio_device *device, unsigned queue)
{
    struct virtio_fs *share = container_of(device, struct virtio_fs, virtio);

    do
        while (take(share, queue))
            ;
    while (virtio_ask_notification(device, queue));
    virtio_flush(device, queue);
}

static void reset(struct virtio_device *device)
{
    fs_reset(container_of(device, struct virtio_fs, virtio)->fs);
}

static const struct virtio_ops ops = {
    .name = "virtio-fs",
    .type = VIRTIO_FS,
    .class_code = CLASS_STORAGE,
    .at_once = true,
    .notify = notify,
    .reset = reset,
};

struct virtio_fs *virtio_fs_new(struct pci_host *pci, struct mem *mem, struct fs *fs, const char *tag, unsigned queues,
                                struct error *err)
{
    struct fs_device_config config = {.num_request_queues = MIN(queues, QUEUES_MAX)};
    struct virtio_fs *share = calloc(1, sizeof(*share));

    if (!share) {
        error_set(err, -ENOMEM, "virtio-fs: no memory");
        return NULL;
    }
    share->fs = fs;
    memcpy(config.tag, tag, MIN(strlen(tag), sizeof(config.tag)));
    if (virtio_init(&share->virtio, &ops, pci, mem, HIPRIO + config.num_request_queues, 0, &config, sizeof(config),
                    err)) {
        virtio_fs_free(share);
        return NULL;
    }
    return share;
}

void virtio_fs_free(struct virtio_fs *share)
{
    fs_drain(share->fs);
    while (share->spare) {
        struct share_request *request = share->spare;

        share->spare = request->next;
        free(request);
    }
    virtio_fini(&share->virtio);
    free(share);
}
