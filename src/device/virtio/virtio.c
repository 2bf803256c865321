/* device/virtio/virtio.c: see virtio.h. */
#include "device/virtio/virtio.h"

#include <errno.h>
#include <string.h>

#include "base/log.h"

#define COMMON_FEATURES (VIRTIO_F_INDIRECT_DESC | VIRTIO_F_EVENT_IDX | VIRTIO_F_VERSION_1 | VIRTIO_F_RING_PACKED)
#define ISR_QUEUE       1
#define ISR_CONFIG      2

static void forget(struct virtio_device *device)
{
    device->status = 0;
    device->resetting = false;
    device->features = 0;
    device->isr = 0;
    device->config_vector = VIRTIO_NO_VECTOR;
    device->feature_select = device->driver_feature_select = 0;
    device->queue_select = 0;
    for (unsigned i = 0; i < device->queue_count; i++) {
        virtq_reset(&device->queue[i]);
        device->vector[i] = VIRTIO_NO_VECTOR;
    }
}

int virtio_init(struct virtio_device *device, const struct virtio_ops *ops, struct pci_host *pci, struct mem *mem,
                unsigned queues, uint64_t features, const void *config, unsigned config_size, struct error *err)
{
    device->ops = ops;
    device->mem = mem;
    device->offered = features | COMMON_FEATURES;
    device->queue_count = queues;
    device->config_size = config_size;
    memcpy(device->config, config, config_size);
    lock_init(&device->lock, LOCK_DEVICE);
    forget(device);
    return virtio_pci_init(device, pci, err);
}

void virtio_fini(struct virtio_device *device)
{
    lock_destroy(&device->lock);
}

bool virtio_running(const struct virtio_device *device)
{
    return (device->status & (VIRTIO_DRIVER_OK | VIRTIO_NEEDS_RESET)) == VIRTIO_DRIVER_OK && !device->resetting;
}

void virtio_fail(struct virtio_device *device, const char *why)
{
    if (device->status & VIRTIO_NEEDS_RESET)
        return;
    TRACE(IO, "%s: needs a reset: %s", device->ops->name, why);
    device->status |= VIRTIO_NEEDS_RESET;
    if (device->status & VIRTIO_DRIVER_OK)
        virtio_config_changed(device);
}

void virtio_config_changed(struct virtio_device *device)
{
    device->generation++;
    virtio_pci_interrupt(device, device->config_vector, ISR_CONFIG);
}

/* --- reset ------------------------------------------------------------------------------------- */

static void finish_reset(struct virtio_device *device)
{
    forget(device);
    pci_set_intx(device->function, false);
    if (device->ops->reset)
        device->ops->reset(device);
}

void virtio_hold(struct virtio_device *device)
{
    device->held++;
}

void virtio_release(struct virtio_device *device)
{
    if (!--device->held && device->resetting)
        finish_reset(device);
}

/* 3.1.1. A reset is over when status reads 0; until nobody writes to the guest's memory any more it does not. */
void virtio_set_status(struct virtio_device *device, uint8_t status)
{
    uint8_t added = (uint8_t)(status & ~device->status);

    if (!status) {
        device->resetting = true;
        if (!device->held)
            finish_reset(device);
        return;
    }
    if (device->resetting)
        return;
    if ((added & VIRTIO_FEATURES_OK) &&
        (!(device->features & VIRTIO_F_VERSION_1) || device->features & ~device->offered))
        status &= (uint8_t)~VIRTIO_FEATURES_OK;
    device->status |= status & (uint8_t)~VIRTIO_NEEDS_RESET; /* only a reset takes bits away */
    if (!(added & VIRTIO_DRIVER_OK))
        return;
    if (!(device->status & VIRTIO_FEATURES_OK))
        virtio_fail(device, "DRIVER_OK without FEATURES_OK");
    else if (device->ops->started && virtio_running(device))
        device->ops->started(device);
}

/* --- queues ------------------------------------------------------------------------------------- */

void virtio_enable_queue(struct virtio_device *device, unsigned queue)
{
    const struct virtq_features features = {
        .packed = virtio_has(device, VIRTIO_F_RING_PACKED),
        .event_idx = virtio_has(device, VIRTIO_F_EVENT_IDX),
        .indirect = virtio_has(device, VIRTIO_F_INDIRECT_DESC),
    };

    if (!(device->status & VIRTIO_FEATURES_OK))
        virtio_fail(device, "a queue before FEATURES_OK");
    else if (virtq_enable(&device->queue[queue], device->mem, features))
        virtio_fail(device, "a queue that is not in RAM, not aligned, or of no valid size");
}

void virtio_notify(struct virtio_device *device, unsigned queue)
{
    if (virtio_running(device) && device->queue[queue].enabled)
        device->ops->notify(device, queue);
}

/* Memory that no vCPU may have used yet. Of a buffer not more than others make of one: it takes time. */
static void touch_buffers(struct virtio_device *device, const struct virtq_chain *chain)
{
    for (unsigned i = chain->readable; i < chain->readable + chain->writable; i++)
        mem_touch(device->mem, chain->segment[i].gpa, MIN(chain->segment[i].len, MIB(2)));
}

bool virtio_pop(struct virtio_device *device, unsigned queue, struct virtq_chain *chain)
{
    int rc;

    if (!virtio_running(device))
        return false;
    rc = virtq_pop(&device->queue[queue], chain);
    if (rc < 0)
        virtio_fail(device, "a malformed chain of descriptors");
    if (rc > 0 && !device->ops->keeps_off)
        touch_buffers(device, chain);
    return rc > 0;
}

void virtio_push(struct virtio_device *device, unsigned queue, const struct virtq_chain *chain, uint64_t written)
{
    if (virtio_running(device))
        virtq_push(&device->queue[queue], chain, (uint32_t)MIN(written, UINT32_MAX));
}

void virtio_unpop(struct virtio_device *device, unsigned queue, const struct virtq_chain *chain)
{
    if (virtio_running(device))
        virtq_unpop(&device->queue[queue], chain);
}

void virtio_push_all(struct virtio_device *device, unsigned queue, const struct virtq_chain *chains,
                     const uint64_t *written, unsigned count)
{
    if (!virtio_running(device))
        return;
    for (unsigned i = 0; i < count; i++)
        virtq_stage(&device->queue[queue], &chains[i], (uint32_t)MIN(written[i], UINT32_MAX));
    virtq_publish(&device->queue[queue]);
}

void virtio_flush(struct virtio_device *device, unsigned queue)
{
    if (virtio_running(device) && virtq_wants_interrupt(&device->queue[queue]))
        virtio_pci_interrupt(device, device->vector[queue], ISR_QUEUE);
}

bool virtio_ask_notification(struct virtio_device *device, unsigned queue)
{
    return virtio_running(device) && virtq_ask_notification(&device->queue[queue]);
}
