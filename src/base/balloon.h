/* base/balloon.h: how a guest's memory stands: the balloon's device knows it, the control layer shows it. */
#ifndef BASE_BALLOON_H
#define BASE_BALLOON_H

#include "base/types.h"

/* X(name): a driver's statistics in the order of their tags (virtio 1.2, 5.5.6.4.1); sizes in bytes. */
#define BALLOON_STATS(X)                                                                                               \
    X(swap_in)                                                                                                         \
    X(swap_out)                                                                                                        \
    X(major_faults)                                                                                                    \
    X(minor_faults)                                                                                                    \
    X(free)                                                                                                            \
    X(total)                                                                                                           \
    X(available)                                                                                                       \
    X(caches)                                                                                                          \
    X(huge_page_allocations)                                                                                           \
    X(huge_page_failures)

enum balloon_stat {
#define X(name) BALLOON_##name,
    BALLOON_STATS(X)
#undef X
        BALLOON_STAT_COUNT
};

struct balloon_info {
    bool driver;             /* there is one */
    uint64_t target, actual; /* bytes of the balloon: asked for, and reached */
    uint64_t returned;       /* bytes given back so far, by reports and by inflation */
    unsigned updates;        /* of the statistics so far */
    uint32_t have;           /* bit n: stat[n] is known */
    uint64_t stat[BALLOON_STAT_COUNT];
};

#endif
