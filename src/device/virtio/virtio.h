/*
 * device/virtio/virtio.h: what every virtio device shares: status, features,
 * queues, reset (virtio 1.2, chapters 2 and 3). A device is an ops table and a
 * struct that begins with struct virtio_device; pci.c is how the guest reaches
 * it.
 *
 * Whatever the guest gets wrong (a malformed chain, a queue outside RAM) puts
 * the device into DEVICE_NEEDS_RESET: it stands still until it is reset.
 */
#ifndef DEVICE_VIRTIO_VIRTIO_H
#define DEVICE_VIRTIO_VIRTIO_H

#include "base/error.h"
#include "base/lock.h"
#include "bus/pci.h"
#include "device/virtio/virtqueue.h"

#define VIRTIO_QUEUES_MAX 16
#define VIRTIO_CONFIG_MAX 64 /* bytes of device-specific configuration */
#define VIRTIO_NO_VECTOR  0xffff

/* Device IDs (chapter 5). */
enum {
    VIRTIO_NET = 1,
    VIRTIO_BLOCK = 2,
    VIRTIO_CONSOLE = 3,
    VIRTIO_ENTROPY = 4,
    VIRTIO_BALLOON = 5,
    VIRTIO_VSOCK = 19,
    VIRTIO_FS = 26,
};

/* Status bits (2.1). */
enum {
    VIRTIO_ACKNOWLEDGE = 1,
    VIRTIO_DRIVER = 2,
    VIRTIO_DRIVER_OK = 4,
    VIRTIO_FEATURES_OK = 8,
    VIRTIO_NEEDS_RESET = 64,
    VIRTIO_FAILED = 128,
};

/* Features that are the same for all (chapter 6). */
#define VIRTIO_F_INDIRECT_DESC BIT(28)
#define VIRTIO_F_EVENT_IDX     BIT(29)
#define VIRTIO_F_VERSION_1     BIT(32)
#define VIRTIO_F_RING_PACKED   BIT(34)

struct virtio_device;

/* All called with the device's lock held, by the thread of the vCPU that caused it, notify also by the one that serves
 * doorbells. NULL: nothing to be done. */
struct virtio_ops {
    const char *name; /* for messages */
    uint16_t type;
    bool at_once;   /* the driver waits for what a notification brings: the vCPU itself serves it, without doorbells */
    bool keeps_off; /* writes nothing to the driver's buffers: they may be memory that is not in use */
    uint32_t class_code;                                          /* as a PCI function */
    void (*notify)(struct virtio_device *device, unsigned queue); /* there are chains in it; maybe */
    void (*started)(struct virtio_device *device);                /* DRIVER_OK */
    void (*reset)(struct virtio_device *device);                  /* nothing is held any more */
    /* The guest has changed bytes of config, which were `old` (VIRTIO_CONFIG_MAX bytes). NULL: config is read-only. */
    void (*config_written)(struct virtio_device *device, const uint8_t *old);
};

struct virtio_device {
    const struct virtio_ops *ops;
    struct lock lock;
    struct mem *mem;
    struct pci_function *function;

    uint64_t offered, features;
    uint8_t status;
    uint8_t isr; /* bit 0: a queue, bit 1: the configuration */
    uint8_t generation;
    uint16_t config_vector;
    unsigned held;  /* requests that somebody works on outside the lock */
    bool resetting; /* the guest has asked for it; it waits for them */

    unsigned queue_count;
    struct virtq queue[VIRTIO_QUEUES_MAX];
    uint16_t vector[VIRTIO_QUEUES_MAX];

    unsigned config_size;
    uint8_t config[VIRTIO_CONFIG_MAX];

    /* The PCI transport's registers. */
    uint32_t feature_select, driver_feature_select;
    uint16_t queue_select;
    unsigned pci_cfg; /* offset of the capability that is a window to the BARs */
};

/* Prepares the common part and puts the device onto the PCI bus. features: the device's own bits. config: its initial
 * configuration, at most VIRTIO_CONFIG_MAX bytes. */
int virtio_init(struct virtio_device *device, const struct virtio_ops *ops, struct pci_host *pci, struct mem *mem,
                unsigned queues, uint64_t features, const void *config, unsigned config_size, struct error *err);
/* After the vCPUs and everybody who holds requests have stopped; before pci_host_free. */
void virtio_fini(struct virtio_device *device);

/* --- for devices, with the device's lock held ------------------------------------------------- */

/* The driver is there and all is well: queues may be used. */
bool virtio_running(const struct virtio_device *device);
static inline bool virtio_has(const struct virtio_device *device, uint64_t feature)
{
    return device->features & feature;
}
/* The next chain of a queue. False: none, or the device has just failed. */
bool virtio_pop(struct virtio_device *device, unsigned queue, struct virtq_chain *chain);
/* Gives it back (not if the device has failed or is being reset). The interrupt comes with virtio_flush. */
void virtio_push(struct virtio_device *device, unsigned queue, const struct virtq_chain *chain, uint64_t written);
/* Undoes the last pops, the newest first. */
void virtio_unpop(struct virtio_device *device, unsigned queue, const struct virtq_chain *chain);
/* virtio_push for chains that belong together: the driver sees all or none. */
void virtio_push_all(struct virtio_device *device, unsigned queue, const struct virtq_chain *chains,
                     const uint64_t *written, unsigned count);
/* Interrupts the driver for what was pushed, if it wants that. */
void virtio_flush(struct virtio_device *device, unsigned queue);
/* Asks for a notification with the next chain. True: there is one already. */
bool virtio_ask_notification(struct virtio_device *device, unsigned queue);
/* Sends NEEDS_RESET. why: one line for the log. */
void virtio_fail(struct virtio_device *device, const char *why);
/* config has changed by the device's doing. */
void virtio_config_changed(struct virtio_device *device);
/* A chain is worked on by another thread, which will call virtio_release: the device is not reset before. */
void virtio_hold(struct virtio_device *device);
void virtio_release(struct virtio_device *device);

/* --- for the transport, with the device's lock held ------------------------------------------- */

void virtio_set_status(struct virtio_device *device, uint8_t status);
void virtio_enable_queue(struct virtio_device *device, unsigned queue);
void virtio_notify(struct virtio_device *device, unsigned queue);

/* pci.c */
int virtio_pci_init(struct virtio_device *device, struct pci_host *pci, struct error *err);
void virtio_pci_interrupt(struct virtio_device *device, uint16_t vector, uint8_t isr);

#endif
