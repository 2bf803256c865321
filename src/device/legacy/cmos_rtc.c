/*
 * device/legacy/cmos_rtc.c: MC146818A. The divider chain is the virtual clock
 * plus a phase; a second ends when the chain passes a whole one. The time
 * registers are filled in when somebody looks, the flags of register C
 * likewise; a timer runs only for interrupts that are enabled.
 */
#include "device/legacy/cmos_rtc.h"

#include <errno.h>
#include <stdlib.h>
#include <time.h>

#include "base/lock.h"
#include "device/device.h"

#define NS_PER_SEC                      1000000000ull
#define SEC_PER_DAY                     86400
#define UIP_NS                          2228000u /* update cycle, 1984 us, and 244 us before it (data sheet, table 5) */
#define FIRST_UPDATE                    500000000u /* after the divider's reset */
#define CRYSTAL_HZ                      32768u
#define RAM_SIZE                        128
#define DONT_CARE                       0xc0 /* alarm registers */
#define ALARM_STEPS                     400  /* at most 24 + 2 * 60 + 2 * 60 to the next match */
#define UNITS_ABOVE(bytes, start, unit) ((bytes) > (start) ? ((bytes) - (start)) / (unit) : 0)

enum {
    SECONDS,
    SECONDS_ALARM,
    MINUTES,
    MINUTES_ALARM,
    HOURS,
    HOURS_ALARM,
    WEEKDAY,
    DAY,
    MONTH,
    YEAR,
    REG_A,
    REG_B,
    REG_C,
    REG_D,
    CENTURY = 0x32,
};
enum { A_RATE = 0x0f, A_DIVIDER = 0x70, A_DIVIDER_RUN = 0x20, A_DIVIDER_RESET = 0x60, A_UIP = 0x80 };
enum { B_24H = 0x02, B_BINARY = 0x04, B_UIE = 0x10, B_AIE = 0x20, B_PIE = 0x40, B_SET = 0x80 };
enum { C_UF = 0x10, C_AF = 0x20, C_PF = 0x40, C_IRQF = 0x80 };
enum { D_VALID = 0x80, HOUR_PM = 0x80 };

struct cmos_rtc {
    struct loop *loop;
    struct irq_line irq;
    struct timer timer;
    struct lock lock;
    bool irq_level;
    uint8_t index;
    uint8_t ram[RAM_SIZE];             /* registers A to C as well, without UIP */
    int64_t second_base;               /* time of day when the chain was at 0, seconds since 1970 */
    uint64_t phase;                    /* the chain is this many ns ahead of the virtual clock */
    unsigned weekday_shift;            /* what the guest has set, against the date's own */
    uint64_t seen_second, seen_period; /* the chain's, up to which register C is right */
};

/* --- the calendar ------------------------------------------------------------------------------------- */

struct date {
    int64_t year;
    unsigned month, day; /* from 1 */
};

/* Days since 1970-01-01 and back, in the proleptic Gregorian calendar: years begin in March, so that the leap day is
 * the last; an era is 400 years. */
static int64_t days_from_date(struct date date)
{
    int64_t year = date.year - (date.month <= 2), era = (year >= 0 ? year : year - 399) / 400;
    int64_t year_of_era = year - era * 400;
    int64_t day_of_year = (153 * (int64_t)(date.month > 2 ? date.month - 3 : date.month + 9) + 2) / 5 + date.day - 1;

    return era * 146097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719468;
}

static struct date date_from_days(int64_t days)
{
    int64_t shifted = days + 719468, era = (shifted >= 0 ? shifted : shifted - 146096) / 146097;
    int64_t day_of_era = shifted - era * 146097;
    int64_t year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36524 - day_of_era / 146096) / 365;
    int64_t day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    unsigned month = (unsigned)((5 * day_of_year + 2) / 153);
    struct date date = {.month = month < 10 ? month + 3 : month - 9};

    date.day = (unsigned)(day_of_year - (153 * month + 2) / 5 + 1);
    date.year = year_of_era + era * 400 + (date.month <= 2);
    return date;
}

static int64_t floor_div(int64_t a, int64_t b)
{
    return a / b - (a % b < 0);
}

/* --- register formats ------------------------------------------------------------------------------------- */

static uint8_t encode(const struct cmos_rtc *rtc, unsigned value)
{
    return (uint8_t)(rtc->ram[REG_B] & B_BINARY ? value : value / 10 % 10 << 4 | value % 10);
}

static unsigned decode(const struct cmos_rtc *rtc, uint8_t value)
{
    return rtc->ram[REG_B] & B_BINARY ? value : (value >> 4) * 10u + (value & 15);
}

static uint8_t encode_hour(const struct cmos_rtc *rtc, unsigned hour)
{
    if (rtc->ram[REG_B] & B_24H)
        return encode(rtc, hour);
    return (uint8_t)(encode(rtc, hour % 12 ? hour % 12 : 12) | (hour >= 12 ? HOUR_PM : 0));
}

static unsigned decode_hour(const struct cmos_rtc *rtc, uint8_t value)
{
    if (rtc->ram[REG_B] & B_24H)
        return decode(rtc, value);
    return decode(rtc, value & (uint8_t)~HOUR_PM) % 12 + (value & HOUR_PM ? 12 : 0);
}

/* --- time ---------------------------------------------------------------------------------------------------- */

static uint64_t chain(const struct cmos_rtc *rtc)
{
    return vclock_ns(loop_clock(rtc->loop)) + rtc->phase;
}

/* The time registers do not advance. */
static bool held(const struct cmos_rtc *rtc)
{
    return (rtc->ram[REG_B] & B_SET) || (rtc->ram[REG_A] & A_DIVIDER) != A_DIVIDER_RUN;
}

static void fill_registers(struct cmos_rtc *rtc)
{
    int64_t now = rtc->second_base + (int64_t)(chain(rtc) / NS_PER_SEC);
    int64_t days = floor_div(now, SEC_PER_DAY);
    unsigned second = (unsigned)(now - days * SEC_PER_DAY);
    struct date date = date_from_days(days);
    unsigned year = (unsigned)(date.year < 0 ? 0 : date.year);

    rtc->ram[SECONDS] = encode(rtc, second % 60);
    rtc->ram[MINUTES] = encode(rtc, second / 60 % 60);
    rtc->ram[HOURS] = encode_hour(rtc, second / 3600);
    rtc->ram[WEEKDAY] = encode(rtc, (unsigned)(((days + 4) % 7 + 7 + rtc->weekday_shift) % 7) + 1); /* 1: Sunday */
    rtc->ram[DAY] = encode(rtc, date.day);
    rtc->ram[MONTH] = encode(rtc, date.month);
    rtc->ram[YEAR] = encode(rtc, year % 100);
    rtc->ram[CENTURY] = encode(rtc, year / 100 % 100);
}

/* Whatever the guest has written becomes some date. */
static void take_registers(struct cmos_rtc *rtc)
{
    struct date date = {
        .year = decode(rtc, rtc->ram[CENTURY]) * 100 + decode(rtc, rtc->ram[YEAR]),
        .month = (decode(rtc, rtc->ram[MONTH]) + 11) % 12 + 1,
        .day = decode(rtc, rtc->ram[DAY]),
    };
    int64_t days = days_from_date(date);
    int64_t second = days * SEC_PER_DAY + decode_hour(rtc, rtc->ram[HOURS]) * 3600 +
                     decode(rtc, rtc->ram[MINUTES]) * 60 + decode(rtc, rtc->ram[SECONDS]);

    rtc->second_base = second - (int64_t)(chain(rtc) / NS_PER_SEC);
    rtc->weekday_shift = (unsigned)((decode(rtc, rtc->ram[WEEKDAY]) + 6 + 7 - ((days + 4) % 7 + 7) % 7) % 7);
}

/* --- alarm, periodic interrupt and register C -------------------------------------------------------------------- */

static bool matches(uint8_t alarm, unsigned alarm_value, unsigned now)
{
    return alarm >= DONT_CARE || alarm_value == now;
}

/* The first second from `from` on (time of day, since 1970) at which the alarm goes off; INT64_MAX: none. */
static int64_t next_alarm(const struct cmos_rtc *rtc, int64_t from)
{
    unsigned hour = decode_hour(rtc, rtc->ram[HOURS_ALARM]), minute = decode(rtc, rtc->ram[MINUTES_ALARM]);
    unsigned second = decode(rtc, rtc->ram[SECONDS_ALARM]);
    int64_t at = from;
    int i;

    for (i = 0; i < ALARM_STEPS; i++) {
        unsigned of_day = (unsigned)(at - floor_div(at, SEC_PER_DAY) * SEC_PER_DAY);

        if (!matches(rtc->ram[HOURS_ALARM], hour, of_day / 3600))
            at += 3600 - of_day % 3600;
        else if (!matches(rtc->ram[MINUTES_ALARM], minute, of_day / 60 % 60))
            at += 60 - of_day % 60;
        else if (!matches(rtc->ram[SECONDS_ALARM], second, of_day % 60))
            at++;
        else
            return at;
    }
    return INT64_MAX;
}

/* In cycles of the crystal; 0: off. Rates 1 and 2 are 256 and 128 Hz (table 4). */
static unsigned period(const struct cmos_rtc *rtc)
{
    unsigned rate = rtc->ram[REG_A] & A_RATE;

    if (!rate || (rtc->ram[REG_A] & A_DIVIDER) != A_DIVIDER_RUN)
        return 0;
    return 1u << (rate <= 2 ? rate + 6 : rate - 1);
}

static uint64_t periods(const struct cmos_rtc *rtc, uint64_t at)
{
    unsigned length = period(rtc);

    return length ? (uint64_t)((unsigned __int128)at * CRYSTAL_HZ / NS_PER_SEC) / length : 0;
}

/* What has happened up to now is not to be flagged: the time or the rate has been set. */
static void forget(struct cmos_rtc *rtc)
{
    rtc->seen_second = chain(rtc) / NS_PER_SEC;
    rtc->seen_period = periods(rtc, chain(rtc));
}

static void update_flags(struct cmos_rtc *rtc)
{
    uint64_t second = chain(rtc) / NS_PER_SEC, count = periods(rtc, chain(rtc));
    uint8_t *c = &rtc->ram[REG_C];
    bool level;

    if (second > rtc->seen_second && !held(rtc)) {
        *c |= C_UF;
        if (next_alarm(rtc, rtc->second_base + (int64_t)rtc->seen_second + 1) <= rtc->second_base + (int64_t)second)
            *c |= C_AF;
    }
    if (count != rtc->seen_period)
        *c |= C_PF;
    rtc->seen_second = second;
    rtc->seen_period = count;
    if (*c & rtc->ram[REG_B] & (C_UF | C_AF | C_PF)) /* the enable bits have the same places */
        *c |= C_IRQF;
    else
        *c &= (uint8_t)~C_IRQF;
    level = *c & C_IRQF;
    if (level != rtc->irq_level)
        irq_set(&rtc->irq, level);
    rtc->irq_level = level;
}

/* Arms the timer for the first event that raises an interrupt, if none is raised now. */
static void arm(struct cmos_rtc *rtc)
{
    uint8_t wanted = rtc->ram[REG_B];
    uint64_t next = UINT64_MAX;
    int64_t alarm;

    if (!held(rtc) && (wanted & B_UIE))
        next = (rtc->seen_second + 1) * NS_PER_SEC;
    if (!held(rtc) && (wanted & B_AIE)) {
        alarm = next_alarm(rtc, rtc->second_base + (int64_t)rtc->seen_second + 1);
        if (alarm != INT64_MAX)
            next = MIN(next, (uint64_t)(alarm - rtc->second_base) * NS_PER_SEC);
    }
    if (period(rtc) && (wanted & B_PIE))
        next = MIN(next,
                   (uint64_t)(((unsigned __int128)(rtc->seen_period + 1) * period(rtc) * NS_PER_SEC + CRYSTAL_HZ - 1) /
                              CRYSTAL_HZ));
    if ((rtc->ram[REG_C] & C_IRQF) || next == UINT64_MAX)
        timer_cancel(&rtc->timer);
    else
        timer_arm(&rtc->timer, next > rtc->phase ? next - rtc->phase : 0);
}

static void event_due(void *opaque)
{
    struct cmos_rtc *rtc = opaque;

    lock_take(&rtc->lock);
    update_flags(rtc);
    arm(rtc);
    lock_drop(&rtc->lock);
}

/* --- registers --------------------------------------------------------------------------------------------------- */

static bool is_time(unsigned index)
{
    return (index <= YEAR && index != SECONDS_ALARM && index != MINUTES_ALARM && index != HOURS_ALARM) ||
           index == CENTURY;
}

static uint8_t read_register(struct cmos_rtc *rtc, unsigned index)
{
    uint8_t value;

    if (is_time(index) && !held(rtc))
        fill_registers(rtc);
    value = rtc->ram[index];
    switch (index) {
    case REG_A:
        if (!held(rtc) && chain(rtc) % NS_PER_SEC >= NS_PER_SEC - UIP_NS)
            value |= A_UIP;
        break;
    case REG_C:
        rtc->ram[REG_C] = 0;
        update_flags(rtc);
        break;
    case REG_D:
        value = D_VALID;
        break;
    }
    return value;
}

/* Registers A and B decide whether time stands still. */
static void write_control(struct cmos_rtc *rtc, unsigned index, uint8_t value)
{
    bool was_held = held(rtc), was_reset = (rtc->ram[REG_A] & A_DIVIDER_RESET) == A_DIVIDER_RESET;

    if (!was_held)
        fill_registers(rtc); /* in the format that holds until now */
    if (index == REG_B && (value & B_SET))
        value &= (uint8_t)~B_UIE;
    rtc->ram[index] = index == REG_A ? value & (uint8_t)~A_UIP : value;
    if (was_reset && (rtc->ram[REG_A] & A_DIVIDER_RESET) != A_DIVIDER_RESET)
        rtc->phase += NS_PER_SEC + FIRST_UPDATE - chain(rtc) % NS_PER_SEC;
    if (was_held && !held(rtc))
        take_registers(rtc);
    if (index == REG_A || was_held != held(rtc))
        forget(rtc);
}

static void write_register(struct cmos_rtc *rtc, unsigned index, uint8_t value)
{
    switch (index) {
    case REG_A:
    case REG_B:
        write_control(rtc, index, value);
        break;
    case REG_C: /* read-only */
    case REG_D:
        break;
    default:
        if (is_time(index) && !held(rtc)) {
            fill_registers(rtc);
            rtc->ram[index] = value;
            take_registers(rtc);
        } else {
            rtc->ram[index] = value;
        }
    }
}

static uint64_t rtc_read(void *opaque, uint64_t offset, unsigned size)
{
    struct cmos_rtc *rtc = opaque;
    uint8_t value;

    if (offset == 0) /* the index is write-only */
        return 0xff;
    lock_take(&rtc->lock);
    update_flags(rtc);
    value = read_register(rtc, rtc->index);
    arm(rtc);
    lock_drop(&rtc->lock);
    return value;
}

static void rtc_write(void *opaque, uint64_t offset, uint64_t value, unsigned size)
{
    struct cmos_rtc *rtc = opaque;

    lock_take(&rtc->lock);
    if (offset == 0) {
        rtc->index = value % RAM_SIZE; /* bit 7 masks NMIs, of which there are none */
    } else {
        update_flags(rtc);
        write_register(rtc, rtc->index, (uint8_t)value);
        update_flags(rtc);
        arm(rtc);
    }
    lock_drop(&rtc->lock);
}

/* --- construction --------------------------------------------------------------------------------------------------
 */

static void put(struct cmos_rtc *rtc, unsigned low, unsigned high, uint64_t value)
{
    rtc->ram[low] = (uint8_t)value;
    rtc->ram[high] = (uint8_t)(value >> 8);
}

/* Where BIOSes and boot loaders look for memory sizes: base and extended memory in KiB, above 16 MiB in 64 KiB, and as
 * QEMU has it above 4 GiB in 64 KiB. */
static void fill_memory_sizes(struct cmos_rtc *rtc, const struct cmos_rtc_config *config)
{
    uint64_t extended = MIN(UNITS_ABOVE(config->memory_low, MIB(1), KIB(1)), 0xffff);
    uint64_t high = MIN(config->memory_high / KIB(64), 0xffffff);

    put(rtc, 0x15, 0x16, 640);
    put(rtc, 0x17, 0x18, extended);
    put(rtc, 0x30, 0x31, extended);
    put(rtc, 0x34, 0x35, MIN(UNITS_ABOVE(config->memory_low, MIB(16), KIB(64)), 0xffff));
    put(rtc, 0x5b, 0x5c, high);
    rtc->ram[0x5d] = (uint8_t)(high >> 16);
}

static void fill_checksum(struct cmos_rtc *rtc)
{
    unsigned sum = 0, i;

    for (i = 0x10; i <= 0x2d; i++)
        sum += rtc->ram[i];
    put(rtc, 0x2f, 0x2e, sum);
}

static const struct bus_ops rtc_ops = {.read = rtc_read, .write = rtc_write, .max_size = 1};
static const struct device_ports rtc_ports[] = {{"rtc", 0x70, 2, &rtc_ops}};

struct cmos_rtc *cmos_rtc_new(struct bus *bus, struct loop *loop, struct irq_line irq,
                              const struct cmos_rtc_config *config, struct error *err)
{
    struct cmos_rtc *rtc = calloc(1, sizeof(*rtc));

    if (!rtc) {
        error_set(err, -ENOMEM, "rtc: no memory");
        return NULL;
    }
    rtc->loop = loop;
    rtc->irq = irq;
    rtc->ram[REG_A] = A_DIVIDER_RUN | 6; /* 1024 Hz */
    rtc->ram[REG_B] = B_24H;
    rtc->second_base = floor_div(config->wall_ns, NS_PER_SEC);
    rtc->phase = (uint64_t)(config->wall_ns - rtc->second_base * (int64_t)NS_PER_SEC);
    fill_memory_sizes(rtc, config);
    fill_checksum(rtc);
    lock_init(&rtc->lock, LOCK_DEVICE);
    timer_init(&rtc->timer, loop, event_due, rtc);
    forget(rtc);
    if (device_add_ports(bus, rtc_ports, ARRAY_SIZE(rtc_ports), rtc, err) < 0) {
        cmos_rtc_free(rtc);
        return NULL;
    }
    return rtc;
}

void cmos_rtc_free(struct cmos_rtc *rtc)
{
    if (!rtc)
        return;
    timer_cancel(&rtc->timer);
    lock_destroy(&rtc->lock);
    free(rtc);
}
