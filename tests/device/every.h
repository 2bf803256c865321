/*
 * tests/device/every.h: every kind of virtio device with something harmless on
 * the host's side of it, for hostile drivers: the fuzzer and the races.
 */
#ifndef TESTS_DEVICE_EVERY_H
#define TESTS_DEVICE_EVERY_H

#include "base/loop.h"
#include "bus/bus.h"
#include "bus/pci.h"
#include "mem/mem.h"

#define EVERY_ECAM   0xe0000000ull
#define EVERY_WINDOW 0xc0000000ull

enum every_kind {
    EVERY_RNG,
    EVERY_DISK,
    EVERY_DISK_READONLY,
    EVERY_DISK_SCRATCH,
    EVERY_NET,
    EVERY_BALLOON,
    EVERY_TERMINAL,
    EVERY_PORTS,
    EVERY_VSOCK,
    EVERY_SHARE,
    EVERY_KINDS
};

#define EVERY_CID 7 /* the vsock guest's */

struct every {
    enum every_kind kind;
    struct mem *mem;
    struct bus *bus;
    struct pci_host *pci;
    struct loop *loop;
    uint64_t bar; /* of the device: BAR 0 */
    void *device, *backend[2];
};

/* Once a process: files and sockets in a folder of its own, removed at exit. */
void every_init(void);
void every_open(struct every *every, struct mem *mem, enum every_kind kind);
void every_close(struct every *every);
/* Something happens on the host's side, as these bytes say. */
void every_host(struct every *every, const uint8_t *data, size_t size);

#endif
