/*
 * base/lock.c: mutexes that check the declared order of base/lock.h.
 *
 * Each thread remembers how many locks of each rank it holds. Builds with
 * NDEBUG check nothing; LOCK_ORDER_ABORT makes a broken order fatal.
 */
#include "base/lock.h"

#include <stdlib.h>

#include "base/log.h"

#ifdef NDEBUG
static inline void check_taken(enum lock_rank rank)
{
}
static inline void check_dropped(enum lock_rank rank)
{
}
#else
static _Thread_local unsigned held[LOCK_LOOP + 1];

static void check_taken(enum lock_rank rank)
{
    unsigned other;

    for (other = rank; other <= LOCK_LOOP; other++) {
        if (!held[other])
            continue;
        log_error("lock order: rank %u taken while rank %u is held", (unsigned)rank, other);
#ifdef LOCK_ORDER_ABORT
        abort();
#endif
    }
    held[rank]++;
}

static void check_dropped(enum lock_rank rank)
{
    held[rank]--;
}
#endif

void lock_init(struct lock *lock, enum lock_rank rank)
{
    pthread_mutex_init(&lock->mutex, NULL);
    lock->rank = rank;
}

void lock_destroy(struct lock *lock)
{
    pthread_mutex_destroy(&lock->mutex);
}

void lock_take(struct lock *lock)
{
    check_taken(lock->rank);
    pthread_mutex_lock(&lock->mutex);
}

void lock_drop(struct lock *lock)
{
    pthread_mutex_unlock(&lock->mutex);
    check_dropped(lock->rank);
}
