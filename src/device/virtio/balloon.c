/*
 * device/virtio/balloon.c: pages the guest puts into the balloon, or reports as
 * free, are taken out of the RAM's memory file; when the guest uses them again
 * they are there, zeroed. The balloon's size is not asked to change: it is the
 * free pages that matter.
 */
#include "device/virtio/balloon.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "device/virtio/virtio.h"

#define CLASS_OTHER 0xff0000
#define PFN_SHIFT   12
#define PFNS        256    /* read at a time */
#define BYTES_MAX   MIB(1) /* of page numbers in one chain; a driver sends some hundreds */

#define F_DEFLATE_ON_OOM BIT(2)
#define F_REPORTING      BIT(5)

enum { INFLATE = 0, DEFLATE = 1, REPORTING = 2, QUEUES = 3 };

struct balloon_config {
    uint32_t num_pages, actual; /* wanted; what the driver has put in */
};

struct virtio_balloon {
    struct virtio_device virtio;
    struct virtq_chain chain;
};

/* Whole pages within [gpa, gpa + len) go. A host that cannot do that keeps them: no harm to the guest. */
static void discard(struct virtio_balloon *balloon, gpa_t gpa, uint64_t len)
{
    gpa_t first = ALIGN_UP(gpa, PAGE_SIZE), last = ALIGN_DOWN(gpa + len, PAGE_SIZE);
    const struct mem_slot *slot = mem_find(balloon->virtio.mem, gpa);
    void *host;

    if (first >= last || !slot || slot->readonly)
        return;
    host = mem_pointer(balloon->virtio.mem, first, last - first);
    if (host && madvise(host, last - first, MADV_REMOVE) == 0)
        mem_written(balloon->virtio.mem, first, last - first);
}

/* Page numbers, 32 bits each. Runs of them go at once. */
static void inflate(struct virtio_balloon *balloon)
{
    uint32_t pfn[PFNS];
    uint64_t at = 0, got;

    while (at < BYTES_MAX && (got = virtq_read(&balloon->chain, at, pfn, sizeof(pfn))) >= sizeof(pfn[0])) {
        unsigned n = (unsigned)(got / sizeof(pfn[0]));

        for (unsigned i = 0; i < n;) {
            unsigned run = 1;

            while (i + run < n && pfn[i + run] == pfn[i] + run)
                run++;
            discard(balloon, (gpa_t)pfn[i] << PFN_SHIFT, (uint64_t)run << PFN_SHIFT);
            i += run;
        }
        at += got;
    }
}

/* The free memory itself, as buffers; the driver keeps off it until they come back. */
static void report(struct virtio_balloon *balloon)
{
    const struct virtq_chain *chain = &balloon->chain;

    for (unsigned i = chain->readable; i < chain->readable + chain->writable; i++)
        discard(balloon, chain->segment[i].gpa, chain->segment[i].len);
}

static void notify(struct virtio_device *device, unsigned queue)
{
    struct virtio_balloon *balloon = container_of(device, struct virtio_balloon, virtio);

    do {
        while (virtio_pop(device, queue, &balloon->chain)) {
            if (queue == INFLATE)
                inflate(balloon);
            else if (queue == REPORTING)
                report(balloon);
            virtio_push(device, queue, &balloon->chain, 0);
        }
    } while (virtio_ask_notification(device, queue));
    virtio_flush(device, queue);
}

/* Only `actual` is the driver's to write. */
static void config_written(struct virtio_device *device, const uint8_t *old)
{
    for (unsigned i = 0; i < offsetof(struct balloon_config, actual); i++)
        device->config[i] = old[i];
}

static const struct virtio_ops ops = {
    .name = "virtio-balloon",
    .type = VIRTIO_BALLOON,
    .class_code = CLASS_OTHER,
    .notify = notify,
    .config_written = config_written,
};

struct virtio_balloon *virtio_balloon_new(struct pci_host *pci, struct mem *mem, struct error *err)
{
    const struct balloon_config config = {.num_pages = 0};
    struct virtio_balloon *balloon = calloc(1, sizeof(*balloon));

    if (!balloon) {
        error_set(err, -ENOMEM, "virtio-balloon: no memory");
        return NULL;
    }
    if (virtio_init(&balloon->virtio, &ops, pci, mem, QUEUES, F_DEFLATE_ON_OOM | F_REPORTING, &config, sizeof(config),
                    err)) {
        virtio_balloon_free(balloon);
        return NULL;
    }
    return balloon;
}

void virtio_balloon_free(struct virtio_balloon *balloon)
{
    virtio_fini(&balloon->virtio);
    free(balloon);
}
