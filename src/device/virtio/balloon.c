/*
 * device/virtio/balloon.c: pages the guest puts into the balloon, or reports as
 * free, are the host's again (mem_give_back()); when the guest uses them again
 * they are there, zeroed. The driver gives one buffer of statistics, which is
 * kept: giving it back asks for the next.
 */
#include "device/virtio/balloon.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "device/virtio/virtio.h"

#define CLASS_OTHER 0xff0000
#define PFN_SHIFT   12
#define PFNS        256    /* read at a time */
#define BYTES_MAX   MIB(1) /* of page numbers in one chain; a driver sends some hundreds */
#define STATS_MAX   64     /* in one buffer */

#define F_STATS          BIT(1)
#define F_DEFLATE_ON_OOM BIT(2)
#define F_PAGE_POISON    BIT(4)
#define F_REPORTING      BIT(5)

/* 5.5.2. Linux before 6.11 leaves no gaps for queues whose feature is not there: see reports(). */
enum { INFLATE = 0, DEFLATE = 1, STATS = 2, REPORTING = 4, QUEUES = 5 };

struct balloon_config {
    uint32_t num_pages, actual; /* wanted; what the driver has put in */
    uint32_t free_page_hint_cmd_id, poison_val;
};

struct stat_entry {
    uint16_t tag;
    uint64_t value;
} __attribute__((packed));

struct virtio_balloon {
    struct virtio_device virtio;
    struct virtq_chain chain;
    struct virtq_chain stats; /* the driver's buffer */
    bool has_stats;           /* it is here */
    struct balloon_info info;
};

static struct balloon_config config_of(const struct virtio_balloon *balloon)
{
    struct balloon_config config;

    memcpy(&config, balloon->virtio.config, sizeof(config));
    return config;
}

/* Whole pages within [gpa, gpa + len) go. A host that cannot do that keeps them: no harm to the guest. */
static void discard(struct virtio_balloon *balloon, gpa_t gpa, uint64_t len)
{
    gpa_t first = ALIGN_UP(gpa, PAGE_SIZE), last = ALIGN_DOWN(gpa + len, PAGE_SIZE);

    if (first < last && !mem_give_back(balloon->virtio.mem, first, last - first))
        balloon->info.returned += last - first;
}

/* How many of n page numbers from the first on are each one more than the last, or one less: Linux gives them so. */
static unsigned run_of(const uint32_t *pfn, unsigned n, int step)
{
    unsigned run = 1;

    while (run < n && pfn[run] == (int64_t)pfn[run - 1] + step)
        run++;
    return run;
}

/* Page numbers, 32 bits each. Runs of them go at once. */
static void inflate(struct virtio_balloon *balloon)
{
    uint32_t pfn[PFNS];
    uint64_t at = 0, got;

    while (at < BYTES_MAX && (got = virtq_read(&balloon->chain, at, pfn, sizeof(pfn))) >= sizeof(pfn[0])) {
        unsigned n = (unsigned)(got / sizeof(pfn[0])), run;

        for (unsigned i = 0; i < n; i += run) {
            const unsigned up = run_of(&pfn[i], n - i, 1), down = run_of(&pfn[i], n - i, -1);

            run = MAX(up, down);
            discard(balloon, (gpa_t)MIN(pfn[i], pfn[i + run - 1]) << PFN_SHIFT, (uint64_t)run << PFN_SHIFT);
        }
        at += got;
    }
}

/* The free memory itself, as buffers; the driver keeps off it until they come back. It may count on what is in them,
 * if that is not zeros: then they stay. */
static void report(struct virtio_balloon *balloon)
{
    const struct virtq_chain *chain = &balloon->chain;

    if (virtio_has(&balloon->virtio, F_PAGE_POISON) && config_of(balloon).poison_val)
        return;
    for (unsigned i = chain->readable; i < chain->readable + chain->writable; i++)
        discard(balloon, chain->segment[i].gpa, chain->segment[i].len);
}

/* Is that the queue for reports? Linux counts only the queues it has asked for. */
static bool reports(const struct virtio_balloon *balloon, unsigned queue)
{
    return virtio_has(&balloon->virtio, F_REPORTING) &&
           (queue == REPORTING || queue == (virtio_has(&balloon->virtio, F_STATS) ? STATS + 1 : STATS));
}

/* The buffer stays until new ones are wanted; a driver has only one. */
static void take_stats(struct virtio_balloon *balloon)
{
    struct stat_entry stat[STATS_MAX];
    uint64_t bytes;

    if (balloon->has_stats)
        virtio_push(&balloon->virtio, STATS, &balloon->stats, 0);
    balloon->stats = balloon->chain;
    balloon->has_stats = true;
    bytes = virtq_read(&balloon->chain, 0, stat, sizeof(stat));
    for (unsigned i = 0; i < bytes / sizeof(stat[0]); i++)
        if (stat[i].tag < BALLOON_STAT_COUNT) {
            balloon->info.stat[stat[i].tag] = stat[i].value;
            balloon->info.have |= 1u << stat[i].tag;
        }
    balloon->info.updates++;
}

static void notify(struct virtio_device *device, unsigned queue)
{
    struct virtio_balloon *balloon = container_of(device, struct virtio_balloon, virtio);
    bool stats = queue == STATS && virtio_has(device, F_STATS);

    do {
        while (virtio_pop(device, queue, &balloon->chain)) {
            if (stats) {
                take_stats(balloon);
                continue;
            }
            if (queue == INFLATE)
                inflate(balloon);
            else if (reports(balloon, queue))
                report(balloon);
            virtio_push(device, queue, &balloon->chain, 0);
        }
    } while (virtio_ask_notification(device, queue));
    virtio_flush(device, queue);
}

/* Linux has given its buffer before it says that it is ready. */
static void started(struct virtio_device *device)
{
    if (device->queue[STATS].enabled)
        notify(device, STATS);
}

static void reset(struct virtio_device *device)
{
    struct virtio_balloon *balloon = container_of(device, struct virtio_balloon, virtio);
    struct balloon_config config = config_of(balloon);

    config.actual = config.poison_val = 0; /* the next driver begins with none; 5.5.6.1 */
    memcpy(device->config, &config, sizeof(config));
    balloon->has_stats = false;
    balloon->info.have = 0;
}

/* Only `actual` and `poison_val` are the driver's to write. */
static void config_written(struct virtio_device *device, const uint8_t *old)
{
    static const size_t ours[] = {offsetof(struct balloon_config, num_pages),
                                  offsetof(struct balloon_config, free_page_hint_cmd_id)};

    for (unsigned i = 0; i < ARRAY_SIZE(ours); i++)
        memcpy(device->config + ours[i], old + ours[i], sizeof(uint32_t));
}

static const struct virtio_ops ops = {
    .name = "virtio-balloon",
    .type = VIRTIO_BALLOON,
    .keeps_off = true,
    .class_code = CLASS_OTHER,
    .notify = notify,
    .started = started,
    .reset = reset,
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
    if (virtio_init(&balloon->virtio, &ops, pci, mem, QUEUES, F_STATS | F_DEFLATE_ON_OOM | F_PAGE_POISON | F_REPORTING,
                    &config, sizeof(config), err)) {
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

/* --- for the host ---------------------------------------------------------------------------- */

void virtio_balloon_set(struct virtio_balloon *balloon, uint64_t bytes)
{
    struct virtio_device *device = &balloon->virtio;
    uint32_t pages = (uint32_t)MIN(bytes >> PFN_SHIFT, UINT32_MAX);

    lock_take(&device->lock);
    memcpy(device->config + offsetof(struct balloon_config, num_pages), &pages, sizeof(pages));
    if (virtio_running(device))
        virtio_config_changed(device);
    lock_drop(&device->lock);
}

void virtio_balloon_refresh(struct virtio_balloon *balloon)
{
    lock_take(&balloon->virtio.lock);
    if (balloon->has_stats) {
        virtio_push(&balloon->virtio, STATS, &balloon->stats, 0);
        virtio_flush(&balloon->virtio, STATS);
    }
    balloon->has_stats = false;
    lock_drop(&balloon->virtio.lock);
}

void virtio_balloon_get(struct virtio_balloon *balloon, struct balloon_info *info)
{
    struct balloon_config config;

    lock_take(&balloon->virtio.lock);
    config = config_of(balloon);
    *info = balloon->info;
    info->driver = virtio_running(&balloon->virtio);
    info->target = (uint64_t)config.num_pages << PFN_SHIFT;
    info->actual = (uint64_t)config.actual << PFN_SHIFT;
    lock_drop(&balloon->virtio.lock);
}
