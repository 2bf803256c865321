/*
 * base/lock.h: mutexes with a declared order. A thread may take a lock only if
 * its rank is above the rank of every lock it holds; debug builds check it.
 */
#ifndef BASE_LOCK_H
#define BASE_LOCK_H

#include <pthread.h>

/* Lowest is taken first. */
enum lock_rank {
    LOCK_VM,      /* machine: life cycle */
    LOCK_DEVICE,  /* one device's registers */
    LOCK_PCI,     /* PCI bus: configuration space, message tables; taken from within a device */
    LOCK_IRQCHIP, /* IOAPIC, 8259: taken from within a device */
    LOCK_BACKEND, /* character, block, network backends */
    LOCK_OVERLAY, /* one overlay of a disk */
    LOCK_FS,      /* one file server's tables; taken from within a directory's LOCK_BACKEND */
    LOCK_ENGINE,  /* an engine's own */
    LOCK_TEXT,    /* decoded code that vCPUs share */
    LOCK_LOOP,    /* event loop's timer list */
};

struct lock {
    pthread_mutex_t mutex;
    enum lock_rank rank;
};

void lock_init(struct lock *lock, enum lock_rank rank);
void lock_destroy(struct lock *lock);
void lock_take(struct lock *lock);
void lock_drop(struct lock *lock);

#endif
