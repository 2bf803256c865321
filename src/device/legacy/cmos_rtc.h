/*
 * device/legacy/cmos_rtc.h: MC146818 real-time clock and CMOS memory, ports 70
 * and 71. It shows UTC: the host's time at the start, then the virtual clock.
 */
#ifndef DEVICE_LEGACY_CMOS_RTC_H
#define DEVICE_LEGACY_CMOS_RTC_H

#include "base/error.h"
#include "base/loop.h"
#include "bus/bus.h"
#include "bus/irq.h"

struct cmos_rtc;

struct cmos_rtc_config {
    int64_t wall_ns;                  /* nanoseconds since 1970, UTC, when the virtual clock showed 0 */
    uint64_t memory_low, memory_high; /* bytes of RAM below 4 GiB (from 0 on) and above */
};

struct cmos_rtc *cmos_rtc_new(struct bus *bus, struct loop *loop, struct irq_line irq,
                              const struct cmos_rtc_config *config, struct error *err);
void cmos_rtc_free(struct cmos_rtc *rtc);

#endif
