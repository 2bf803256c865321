/* x86/random.c: see random.h. */
#include "x86/random.h"

#include <string.h>

#define ROUNDS 8 /* double rounds: ChaCha16 */

static uint32_t rotate(uint32_t x, unsigned n)
{
    return x << n | x >> (32 - n);
}

static void quarter_round(uint32_t *a, uint32_t *b, uint32_t *c, uint32_t *d)
{
    *a += *b, *d = rotate(*d ^ *a, 16);
    *c += *d, *b = rotate(*b ^ *c, 12);
    *a += *b, *d = rotate(*d ^ *a, 8);
    *c += *d, *b = rotate(*b ^ *c, 7);
}

uint64_t x86_random_next(struct x86_random *random)
{
    uint32_t x[16] = {0x61707865, 0x3320646e, 0x79622d32, 0x6b206574}, start[2];

    memcpy(&x[4], random->key, sizeof(random->key));
    memcpy(&x[12], &random->count, sizeof(random->count));
    random->count++;
    memcpy(start, x, sizeof(start));
    for (unsigned i = 0; i < ROUNDS; i++) {
        for (unsigned j = 0; j < 4; j++) /* columns */
            quarter_round(&x[j], &x[4 + j], &x[8 + j], &x[12 + j]);
        for (unsigned j = 0; j < 4; j++) /* diagonals */
            quarter_round(&x[j], &x[4 + (j + 1) % 4], &x[8 + (j + 2) % 4], &x[12 + (j + 3) % 4]);
    }
    return (uint64_t)(x[0] + start[0]) << 32 | (x[1] + start[1]);
}
