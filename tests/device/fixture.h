/*
 * tests/device/fixture.h: a device alone: a bus, a loop on a clock moved by
 * hand, and interrupt lines that remember.
 */
#ifndef TESTS_DEVICE_FIXTURE_H
#define TESTS_DEVICE_FIXTURE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/loop.h"
#include "bus/bus.h"
#include "bus/irq.h"

#define TSC_HZ 2000000000ull
#define MS     1000000ull
#define SECOND 1000000000ull

struct fixture {
    struct vclock *clock;
    struct loop *loop;
    struct bus *bus;
    bool level;      /* of the line given by fixture_line */
    unsigned rises;  /* rising edges so far */
    unsigned events; /* fixture_event: raised so far */
    void *device;
};

static inline void fixture_open(struct fixture *f)
{
    *f = (struct fixture){.clock = vclock_new_manual(TSC_HZ), .bus = bus_new()};
    f->loop = loop_new(f->clock);
    assert_non_null(f->loop);
}

static inline void fixture_close(struct fixture *f)
{
    bus_free(f->bus);
    loop_free(f->loop);
    vclock_free(f->clock);
}

static inline void fixture_set_line(void *opaque, unsigned pin, bool level)
{
    struct fixture *f = opaque;

    f->rises += level && !f->level;
    f->level = level;
}

static inline struct irq_line fixture_line(struct fixture *f)
{
    return (struct irq_line){.set = fixture_set_line, .opaque = f};
}

static inline void fixture_event(void *opaque)
{
    struct fixture *f = opaque;

    f->events++;
}

/* Lets time pass, in steps, so that timers fire when they are due. */
static inline void fixture_pass(struct fixture *f, uint64_t ns, uint64_t step)
{
    while (ns) {
        uint64_t now = MIN(ns, step);

        vclock_advance_ns(f->clock, now);
        loop_poll(f->loop);
        ns -= now;
    }
}

static inline uint8_t in8(struct fixture *f, uint16_t port)
{
    return (uint8_t)bus_port_read(f->bus, port, 1);
}

static inline void out8(struct fixture *f, uint16_t port, uint8_t value)
{
    bus_port_write(f->bus, port, value, 1);
}

#endif
