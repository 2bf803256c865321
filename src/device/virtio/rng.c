/* device/virtio/rng.c: one queue; each buffer comes back with random bytes. */
#include "device/virtio/rng.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/random.h>

#include "device/virtio/virtio.h"

#define CLASS_OTHER 0xff0000
#define REQUEST_MAX 4096 /* bytes a buffer gets at most: the driver asks again */

struct virtio_rng {
    struct virtio_device virtio;
    struct virtq_chain chain;
};

static void serve(struct virtio_rng *rng)
{
    uint8_t bytes[REQUEST_MAX];
    uint64_t want = MIN(rng->chain.writable_bytes, sizeof(bytes)), done = 0;

    while (done < want) {
        ssize_t n = getrandom(bytes + done, want - done, 0);

        if (n > 0)
            done += (uint64_t)n;
        else if (errno != EINTR)
            break;
    }
    virtio_push(&rng->virtio, 0, &rng->chain, virtq_write(&rng->chain, 0, bytes, done));
}

static void notify(struct virtio_device *device, unsigned queue)
{
    struct virtio_rng *rng = container_of(device, struct virtio_rng, virtio);

    do
        while (virtio_pop(device, queue, &rng->chain))
            serve(rng);
    while (virtio_ask_notification(device, queue));
    virtio_flush(device, queue);
}

static const struct virtio_ops ops = {
    .name = "virtio-rng",
    .type = VIRTIO_ENTROPY,
    .class_code = CLASS_OTHER,
    .notify = notify,
};

struct virtio_rng *virtio_rng_new(struct pci_host *pci, struct mem *mem, struct error *err)
{
    struct virtio_rng *rng = calloc(1, sizeof(*rng));

    if (!rng) {
        error_set(err, -ENOMEM, "virtio-rng: no memory");
        return NULL;
    }
    if (virtio_init(&rng->virtio, &ops, pci, mem, 1, 0, "", 0, err)) {
        virtio_rng_free(rng);
        return NULL;
    }
    return rng;
}

void virtio_rng_free(struct virtio_rng *rng)
{
    virtio_fini(&rng->virtio);
    free(rng);
}
