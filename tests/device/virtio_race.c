/*
 * tests/device/virtio_race.c: a driver that changes its rings, and what is in
 * its buffers, while the device works on them: another thread writes to all of
 * it without a pause. Whatever comes of it, the device answers, and a reset
 * makes it as new.
 */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "tests/device/every.h"

#define RAM     MIB(1)
#define QUEUE   0x10000ull
#define DATA    0x40000ull
#define QUEUES  6
#define ENTRIES 8
#define RACE_MS 150

static struct mem *mem;
static _Atomic bool stop;

static uint64_t next(uint64_t *seed)
{
    *seed ^= *seed << 13;
    *seed ^= *seed >> 7;
    return *seed ^= *seed << 17;
}

/* --- the other thread ------------------------------------------------------------------------- */

/* Addresses in RAM, at its end, beyond it and around the top of the address space; lengths of 0, 4 GiB, and some. */
static uint64_t any_address(uint64_t r)
{
    static const uint64_t odd[] = {RAM - 1, RAM, 0xfee00000, UINT64_MAX - 8, 0};

    return r % 8 ? DATA + (r >> 8) % 0x10000 : odd[(r >> 8) % ARRAY_SIZE(odd)];
}

static uint32_t any_length(uint64_t r)
{
    static const uint32_t odd[] = {0, UINT32_MAX, 0x80000000, RAM, 15};

    return r % 8 ? (uint32_t)(r >> 8) % 600 : odd[(r >> 8) % ARRAY_SIZE(odd)];
}

static void scribble(uint64_t r, uint64_t s, bool packed)
{
    const gpa_t queue = QUEUE + r % QUEUES * 0x1000;
    uint8_t *desc = mem_pointer(mem, queue + (r >> 8) % ENTRIES * 16, 16);
    uint16_t *avail = mem_pointer(mem, queue + 0x100, 0x20);
    uint16_t flags = (uint16_t)(s >> 32 & (packed ? 0x8087 : 0x7));

    switch (r >> 16 & 7) {
    case 0:
        __atomic_store_n((uint64_t *)(void *)desc, any_address(s), __ATOMIC_RELAXED);
        break;
    case 1:
        __atomic_store_n((uint32_t *)(void *)(desc + 8), any_length(s), __ATOMIC_RELAXED);
        break;
    case 2: /* mostly without a table of its own */
        __atomic_store_n((uint16_t *)(void *)(desc + (packed ? 14 : 12)), s & 7 ? flags & 0xfffb : flags,
                         __ATOMIC_RELAXED);
        break;
    case 3:
        __atomic_store_n((uint16_t *)(void *)(desc + (packed ? 12 : 14)), (uint16_t)(s % (ENTRIES + 1)),
                         __ATOMIC_RELAXED);
        break;
    case 4: /* seldom: a ring that holds more than it has entries is the end */
        if (!(r >> 24 & 15))
            __atomic_fetch_add(&avail[1], 1, __ATOMIC_RELAXED);
        break;
    case 5: /* its event index or, packed, the driver's */
        __atomic_store_n(&avail[packed ? 0 : 2 + ENTRIES], (uint16_t)s, __ATOMIC_RELAXED);
        break;
    case 6:
        __atomic_store_n(&avail[2 + s % ENTRIES], (uint16_t)(s >> 8) % (ENTRIES + 1), __ATOMIC_RELAXED);
        break;
    case 7:
        __atomic_store_n((uint64_t *)mem_pointer(mem, DATA + s % 0x1000 * 8, 8), s >> 20, __ATOMIC_RELAXED);
        break;
    }
}

static void *scribbler(void *packed)
{
    uint64_t seed = 0x9e3779b97f4a7c15;

    while (!atomic_load(&stop)) {
        uint64_t r = next(&seed);

        scribble(r, next(&seed), packed);
        if (!(r >> 32 & 0xfff))
            usleep(1); /* on one processor the other gets a turn */
    }
    return NULL;
}

/* --- the driver ---------------------------------------------------------------------------------- */

static void put(struct every *g, unsigned offset, uint64_t value, unsigned size)
{
    bus_mmio_write(g->bus, g->bar + offset, value, size);
}

static uint8_t status(struct every *g)
{
    return (uint8_t)bus_mmio_read(g->bus, g->bar + 0x14, 1);
}

/* It reads 0 when nobody works on a request any more. */
static void reset(struct every *g)
{
    put(g, 0x14, 0, 1);
    for (unsigned i = 0; i < 5000 && status(g); i++)
        usleep(1000);
    assert_int_equal(status(g), 0);
}

static void set_up(struct every *g, bool packed)
{
    reset(g);
    for (unsigned q = 0; q < QUEUES; q++)
        memset(mem_pointer(mem, QUEUE + q * 0x1000, 0x400), 0, 0x400);
    put(g, 0x14, 3, 1);
    put(g, 0, 0, 4);
    put(g, 8, 0, 4);
    put(g, 0xc, (uint32_t)bus_mmio_read(g->bus, g->bar + 4, 4), 4); /* all it offers */
    put(g, 8, 1, 4);
    put(g, 0xc, 1 | (packed ? 4 : 0), 4);
    put(g, 0x14, 0xb, 1);
    for (unsigned q = 0; q < QUEUES; q++) {
        put(g, 0x16, q, 2);
        put(g, 0x18, ENTRIES, 2);
        put(g, 0x20, QUEUE + q * 0x1000, 4);
        put(g, 0x28, QUEUE + q * 0x1000 + 0x100, 4);
        put(g, 0x30, QUEUE + q * 0x1000 + 0x200, 4);
        put(g, 0x1c, 1, 2);
    }
    put(g, 0x14, 0xf, 1);
    assert_int_equal(status(g) & 0xf, 0xf);
}

static void put_desc(unsigned q, unsigned i, uint64_t address, uint32_t len, uint16_t flags, uint16_t last)
{
    uint8_t *desc = mem_pointer(mem, QUEUE + q * 0x1000 + i * 16, 16);

    memcpy(desc, &address, 8);
    memcpy(desc + 8, &len, 4);
    memcpy(desc + 12, &flags, 2);
    memcpy(desc + 14, &last, 2);
}

/* A chain as it should be: what comes of it until the device looks is the other thread's doing. */
static void add_chain(unsigned q, bool packed, uint16_t added)
{
    uint16_t *avail = mem_pointer(mem, QUEUE + q * 0x1000 + 0x100, 0x20), i = added * 2 % ENTRIES;
    uint16_t ready = added * 2 / ENTRIES % 2 ? 0x8000 : 0x80;

    if (packed) {
        put_desc(q, i + 1u, DATA + 0x800, 500, 2, ready | 2);
        put_desc(q, i, DATA + q * 0x100, 100, 2, ready | 1);
        return;
    }
    put_desc(q, i, DATA + q * 0x100, 100, 1, i + 1);
    put_desc(q, i + 1u, DATA + 0x800, 500, 2, 0);
    avail[2 + added % ENTRIES] = i;
    __atomic_store_n(&avail[1], (uint16_t)(added + 1), __ATOMIC_RELEASE);
}

static uint64_t now_ms(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000 + (uint64_t)ts.tv_nsec / 1000000;
}

static void race(enum every_kind kind, bool packed)
{
    uint64_t seed = 88172645463325252ull + kind, end = now_ms() + RACE_MS;
    uint16_t added[QUEUES] = {0};
    struct every g;
    pthread_t thread;

    every_open(&g, mem, kind);
    set_up(&g, packed);
    atomic_store(&stop, false);
    assert_int_equal(pthread_create(&thread, NULL, scribbler, packed ? mem : NULL), 0);
    while (now_ms() < end) {
        uint64_t r = next(&seed);

        add_chain(r % QUEUES, packed, added[r % QUEUES]++);
        put(&g, 0x3000 + 4 * (r % QUEUES), r % QUEUES, 2);
        if (r >> 8 & 1)
            every_host(&g, (const uint8_t *)&r, sizeof(r));
        if (!(status(&g) & 0x40))
            continue;
        set_up(&g, packed);
        memset(added, 0, sizeof(added));
    }
    atomic_store(&stop, true);
    pthread_join(thread, NULL);
    reset(&g);
    every_close(&g);
}

static void test_races(void **state)
{
    mem = mem_new();
    assert_int_equal(mem_add_ram(mem, 0, RAM, NULL), 0);
    every_init();
    for (unsigned kind = 0; kind < EVERY_KINDS; kind++)
        for (unsigned packed = 0; packed < 2; packed++)
            race((enum every_kind)kind, packed);
    mem_free(mem);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_races)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
