/*
 * device/virtio/pci.c: virtio over PCI, without the legacy interface (virtio
 * 1.2, 4.1). BAR 0 holds the four structures, a page each; the MSI-X table has
 * the bus's own BAR.
 */
#include <errno.h>
#include <string.h>

#include "device/virtio/virtio.h"

#define VIRTIO_VENDOR 0x1af4
#define DEVICE_BASE   0x1040
#define SUBSYSTEM     0x1100
#define REVISION      1
#define CAP_VENDOR    0x09
#define BAR           0
#define BAR_SIZE      0x4000u
#define COMMON        0x0000u
#define COMMON_SIZE   0x38u
#define ISR           0x1000u
#define DEVICE_CONFIG 0x2000u
#define NOTIFY        0x3000u
#define NOTIFY_STEP   4u
#define PAGE(offset)  ((offset) & ~0xfffu)

/* 4.1.4: what a capability points to. */
enum { CFG_COMMON = 1, CFG_NOTIFY = 2, CFG_ISR = 3, CFG_DEVICE = 4, CFG_PCI = 5 };

/* 4.1.4.3: the common structure. */
enum {
    DEVICE_FEATURE_SELECT = 0x00,
    DEVICE_FEATURE = 0x04,
    DRIVER_FEATURE_SELECT = 0x08,
    DRIVER_FEATURE = 0x0c,
    CONFIG_VECTOR = 0x10,
    NUM_QUEUES = 0x12,
    DEVICE_STATUS = 0x14,
    CONFIG_GENERATION = 0x15,
    QUEUE_SELECT = 0x16,
    QUEUE_SIZE = 0x18,
    QUEUE_VECTOR = 0x1a,
    QUEUE_ENABLE = 0x1c,
    QUEUE_NOTIFY_OFF = 0x1e,
    QUEUE_DESC = 0x20,
    QUEUE_DRIVER = 0x28,
    QUEUE_DEVICE = 0x30,
};

void virtio_pci_interrupt(struct virtio_device *device, uint16_t vector, uint8_t isr)
{
    if (pci_msix_enabled(device->function)) {
        if (vector != VIRTIO_NO_VECTOR)
            pci_send_msix(device->function, vector);
        return;
    }
    device->isr |= isr;
    pci_set_intx(device->function, true);
}

/* --- the common structure ------------------------------------------------------------------------ */

static uint32_t feature_word(uint64_t features, uint32_t select)
{
    return select < 2 ? (uint32_t)(features >> 32 * select) : 0;
}

/* The selected queue; NULL: there is none of that number. */
static struct virtq *selected(struct virtio_device *device)
{
    return device->queue_select < device->queue_count ? &device->queue[device->queue_select] : NULL;
}

static gpa_t *queue_address(struct virtq *queue, unsigned offset)
{
    gpa_t *const areas[] = {&queue->descriptors, &queue->driver, &queue->device};

    return areas[(offset - QUEUE_DESC) / 8];
}

static uint32_t queue_read(struct virtio_device *device, unsigned offset)
{
    struct virtq *queue = selected(device);

    if (!queue)
        return 0;
    switch (offset) {
    case QUEUE_SIZE:
        return queue->size;
    case QUEUE_VECTOR:
        return device->vector[device->queue_select];
    case QUEUE_ENABLE:
        return queue->enabled;
    case QUEUE_NOTIFY_OFF:
        return device->queue_select;
    }
    if (offset < QUEUE_DESC)
        return 0;
    return (uint32_t)(*queue_address(queue, offset) >> (offset & 4) * 8);
}

static uint32_t common_read(struct virtio_device *device, unsigned offset)
{
    switch (offset) {
    case DEVICE_FEATURE_SELECT:
        return device->feature_select;
    case DEVICE_FEATURE:
        return feature_word(device->offered, device->feature_select);
    case DRIVER_FEATURE_SELECT:
        return device->driver_feature_select;
    case DRIVER_FEATURE:
        return feature_word(device->features, device->driver_feature_select);
    case CONFIG_VECTOR:
        return device->config_vector;
    case NUM_QUEUES:
        return device->queue_count;
    case DEVICE_STATUS:
        return device->status;
    case CONFIG_GENERATION:
        return device->generation;
    case QUEUE_SELECT:
        return device->queue_select;
    }
    return queue_read(device, offset);
}

static void write_features(struct virtio_device *device, uint32_t value)
{
    unsigned shift = 32 * device->driver_feature_select;

    if (device->driver_feature_select < 2 && !(device->status & VIRTIO_FEATURES_OK))
        device->features = (device->features & ~(0xffffffffull << shift)) | (uint64_t)value << shift;
}

/* A vector that is not there reads back as none (4.1.5.1.2.1). */
static uint16_t valid_vector(const struct virtio_device *device, uint32_t value)
{
    return value <= device->queue_count ? (uint16_t)value : VIRTIO_NO_VECTOR;
}

/* An enabled queue stays as it is until the reset (4.1.4.3.2). */
static void queue_write(struct virtio_device *device, unsigned offset, uint32_t value)
{
    struct virtq *queue = selected(device);
    unsigned shift = (offset & 4) * 8;

    if (!queue)
        return;
    if (offset == QUEUE_VECTOR) {
        device->vector[device->queue_select] = valid_vector(device, value);
    } else if (queue->enabled) {
        return;
    } else if (offset == QUEUE_SIZE) {
        queue->size = (uint16_t)value;
    } else if (offset == QUEUE_ENABLE) {
        if (value == 1)
            virtio_enable_queue(device, device->queue_select);
    } else if (offset >= QUEUE_DESC) {
        gpa_t *address = queue_address(queue, offset);

        *address = (*address & ~(0xffffffffull << shift)) | (uint64_t)value << shift;
    }
}

static void common_write(struct virtio_device *device, unsigned offset, uint32_t value)
{
    switch (offset) {
    case DEVICE_STATUS:
        virtio_set_status(device, (uint8_t)value);
        return;
    case DEVICE_FEATURE_SELECT:
        device->feature_select = value;
        return;
    case DRIVER_FEATURE_SELECT:
        device->driver_feature_select = value;
        return;
    case DRIVER_FEATURE:
        write_features(device, value);
        return;
    case CONFIG_VECTOR:
        device->config_vector = valid_vector(device, value);
        return;
    case QUEUE_SELECT:
        device->queue_select = (uint16_t)value;
        return;
    }
    queue_write(device, offset, value);
}

/* Each field has its natural width, addresses two words (4.1.3.1); other accesses are the driver's mistake. */
static bool natural(unsigned offset, unsigned size)
{
    if (offset == DEVICE_STATUS || offset == CONFIG_GENERATION)
        return size == 1;
    if (offset >= CONFIG_VECTOR && offset < QUEUE_DESC)
        return size == 2 && offset % 2 == 0;
    return size == 4 && offset % 4 == 0;
}

/* --- the device's configuration --------------------------------------------------------------------- */

static uint64_t config_read(const struct virtio_device *device, unsigned offset, unsigned size)
{
    uint64_t value = 0;

    if (offset < device->config_size)
        memcpy(&value, device->config + offset, MIN(size, device->config_size - offset));
    return value;
}

static void config_write(struct virtio_device *device, unsigned offset, uint64_t value, unsigned size)
{
    uint8_t old[VIRTIO_CONFIG_MAX];

    if (!device->ops->config_written || offset >= device->config_size || size > device->config_size - offset)
        return;
    memcpy(old, device->config, sizeof(old));
    memcpy(device->config + offset, &value, size);
    device->ops->config_written(device, old);
}

/* --- BAR 0 -------------------------------------------------------------------------------------------- */

static uint8_t take_isr(struct virtio_device *device)
{
    uint8_t isr = device->isr;

    device->isr = 0;
    pci_set_intx(device->function, false);
    return isr;
}

static uint64_t bar_read(void *opaque, uint64_t at, unsigned size)
{
    struct virtio_device *device = opaque;
    unsigned offset = at & 0xfff;
    uint64_t value = 0;

    lock_take(&device->lock);
    switch (PAGE((unsigned)at)) {
    case COMMON:
        if (offset < COMMON_SIZE && natural(offset, size))
            value = common_read(device, offset);
        break;
    case ISR:
        if (offset == 0)
            value = take_isr(device);
        break;
    case DEVICE_CONFIG:
        value = config_read(device, offset, size);
        break;
    }
    lock_drop(&device->lock);
    return value;
}

static void bar_write(void *opaque, uint64_t at, uint64_t value, unsigned size)
{
    struct virtio_device *device = opaque;
    unsigned offset = at & 0xfff;

    lock_take(&device->lock);
    switch (PAGE((unsigned)at)) {
    case COMMON:
        if (offset < COMMON_SIZE && natural(offset, size))
            common_write(device, offset, (uint32_t)value);
        break;
    case DEVICE_CONFIG:
        config_write(device, offset, value, size);
        break;
    case NOTIFY:
        if (offset / NOTIFY_STEP < device->queue_count)
            virtio_notify(device, offset / NOTIFY_STEP);
        break;
    }
    lock_drop(&device->lock);
}

static void ring(void *opaque, unsigned queue)
{
    struct virtio_device *device = opaque;

    lock_take(&device->lock);
    virtio_notify(device, queue);
    lock_drop(&device->lock);
}

static const struct bus_ops bar_ops = {bar_read, bar_write, .max_size = 8};

/* --- the window in configuration space (4.1.4.9) ------------------------------------------------------- */

struct window {
    uint8_t cap_len, cfg_type, bar, id, padding[2];
    uint32_t offset, length;
    uint32_t data; /* also: CFG_NOTIFY's multiplier */
} __attribute__((packed));
#define WINDOW_AT   2 /* behind the capability's id and link */
#define WINDOW_DATA (WINDOW_AT + offsetof(struct window, data))

static void window_access(struct virtio_device *device, unsigned offset, unsigned size, bool write)
{
    struct window window;
    uint64_t data;

    if (offset + size <= device->pci_cfg + WINDOW_DATA)
        return;
    pci_config_get(device->function, device->pci_cfg + WINDOW_AT, &window, sizeof(window));
    if ((window.length != 1 && window.length != 2 && window.length != 4) || window.offset % window.length)
        return;
    data = window.length == 4 ? window.data : window.data & ((1u << 8 * window.length) - 1);
    if (!pci_bar_access(device->function, window.bar, window.offset, window.length, write, &data) || write)
        return;
    pci_config_put(device->function, device->pci_cfg + WINDOW_DATA, &data, window.length);
}

static void window_read(void *opaque, unsigned offset, unsigned size)
{
    window_access(opaque, offset, size, false);
}

static void window_written(void *opaque, unsigned offset, unsigned size)
{
    window_access(opaque, offset, size, true);
}

/* --- construction ------------------------------------------------------------------------------------- */

static unsigned add_structure(struct pci_function *function, uint8_t type, unsigned offset, unsigned length)
{
    const struct window body = {
        .cap_len = (uint8_t)(WINDOW_AT + sizeof(body)),
        .cfg_type = type,
        .bar = BAR,
        .offset = offset,
        .length = length,
        .data = type == CFG_NOTIFY ? NOTIFY_STEP : 0,
    };

    return pci_add_capability(function, CAP_VENDOR, &body, sizeof(body));
}

int virtio_pci_init(struct virtio_device *device, struct pci_host *pci, struct error *err)
{
    const struct pci_function_config config = {
        .vendor = VIRTIO_VENDOR,
        .device = (uint16_t)(DEVICE_BASE + device->ops->type),
        .subsystem_vendor = VIRTIO_VENDOR,
        .subsystem = SUBSYSTEM,
        .class_code = device->ops->class_code,
        .revision = REVISION,
        .msix_vectors = device->queue_count + 1,
        .config_read = window_read,
        .config_written = window_written,
        .opaque = device,
    };
    struct pci_function *function = pci_add(pci, &config, err);

    if (!function)
        return -ENOSPC;
    device->function = function;
    add_structure(function, CFG_COMMON, COMMON, COMMON_SIZE);
    add_structure(function, CFG_ISR, ISR, 1);
    if (device->config_size)
        add_structure(function, CFG_DEVICE, DEVICE_CONFIG, device->config_size);
    add_structure(function, CFG_NOTIFY, NOTIFY, NOTIFY_STEP * device->queue_count);
    device->pci_cfg = add_structure(function, CFG_PCI, 0, 0);
    pci_hook_config(function, device->pci_cfg + WINDOW_AT + offsetof(struct window, bar),
                    sizeof(struct window) - offsetof(struct window, bar));
    if (!device->ops->at_once)
        pci_add_bells(function, BAR, NOTIFY, NOTIFY_STEP, device->queue_count, ring, device);
    return pci_add_bar(function, BAR, BAR_SIZE, &bar_ops, device, err);
}
