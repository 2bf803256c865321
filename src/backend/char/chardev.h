/*
 * backend/char/chardev.h: where a serial device's bytes go and come from.
 */
#ifndef BACKEND_CHAR_CHARDEV_H
#define BACKEND_CHAR_CHARDEV_H

#include "base/types.h"

struct chardev;

/* What the device gives to its backend. Called on the loop's thread. */
struct chardev_client {
    void *opaque;
    size_t (*can_receive)(void *opaque);                            /* bytes it has room for now */
    void (*receive)(void *opaque, const uint8_t *data, size_t len); /* at most that many */
    void (*hangup)(void *opaque);                                   /* end of input; may be NULL */
    void (*resized)(void *opaque, uint16_t rows, uint16_t columns); /* the terminal behind it; may be NULL */
};

struct chardev_ops {
    /* Output; never blocks for long: what cannot be written at once is queued, up to a bound, then it waits or drops
     * as the backend documents. Any thread. */
    void (*write)(struct chardev *chardev, const uint8_t *data, size_t len);
    /* The device has room again after can_receive() gave 0. Any thread. */
    void (*accept_input)(struct chardev *chardev);
    void (*free)(struct chardev *chardev);
};

/* Embedded first in each implementation. */
struct chardev {
    const struct chardev_ops *ops;
    struct chardev_client client; /* set by the device when it is connected */
    uint16_t rows, columns; /* of the terminal behind it; 0: there is none. The loop's thread, or before it runs */
};

#endif
