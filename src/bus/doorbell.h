/*
 * bus/doorbell.h: addresses where only that they are written to counts, not
 * what (virtio's notifications). The machine may have an engine that tells of
 * such a write without stopping the processor; the work is then done on a
 * thread of the machine's. Where there is none, and for a write that came
 * another way, the device sees the write like any other.
 */
#ifndef BUS_DOORBELL_H
#define BUS_DOORBELL_H

#include "base/types.h"

struct doorbell_host {
    /* Makes a bell that calls ring(bell_opaque, number), on the machine's thread; before the machine runs. Its handle,
     * or a negative errno. NULL: there are no bells. */
    int (*add)(void *opaque, void (*ring)(void *bell_opaque, unsigned number), void *bell_opaque, unsigned number);
    /* Puts it to an address, or takes it away from there. Any thread. */
    void (*place)(void *opaque, int bell, gpa_t gpa, bool on);
    void *opaque;
};

#endif
