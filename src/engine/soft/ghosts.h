/*
 * engine/soft/ghosts.h: what a cache has put out, remembered for a while (the
 * "ghost entries" of the literature on replacement): if much of what is made
 * anew was there before, the cache is too small for what the guest runs.
 */
#ifndef ENGINE_SOFT_GHOSTS_H
#define ENGINE_SOFT_GHOSTS_H

#include <string.h>

#include "base/types.h"

#define GHOST_BITS 18
#define GHOSTS     (1u << (GHOST_BITS - 3)) /* remembered at most; 1 key in 8 is then wrongly taken for one of them */

struct ghosts {
    uint64_t seen[1 << (GHOST_BITS - 6)]; /* a bit for a key's hash: was put out */
    unsigned out;                         /* how many */
    unsigned made, again;                 /* entries made, and how many of them were put out before */
};

static inline unsigned ghost_of(uint64_t key)
{
    return (unsigned)(key * 0x9e3779b97f4a7c15ull >> (64 - GHOST_BITS));
}

static inline void ghosts_put_out(struct ghosts *ghosts, uint64_t key)
{
    if (ghosts->out++ == GHOSTS) {
        memset(ghosts->seen, 0, sizeof(ghosts->seen));
        ghosts->out = 1;
    }
    ghosts->seen[ghost_of(key) / 64] |= BIT(ghost_of(key) % 64);
}

static inline void ghosts_made(struct ghosts *ghosts, uint64_t key)
{
    ghosts->made++;
    ghosts->again += ghosts->seen[ghost_of(key) / 64] >> ghost_of(key) % 64 & 1;
}

/* Was a quarter of what was made since the last question there before? */
static inline bool ghosts_many(struct ghosts *ghosts)
{
    bool many = ghosts->again > ghosts->made / 4;

    ghosts->made = ghosts->again = 0;
    return many;
}

#endif
