/*
 * device/legacy/pit8254.c: 8254, as functions of the virtual clock: a channel
 * keeps when and with what it was loaded; its counter and its output follow
 * from the time. Only channel 0's rising edges need a timer.
 *
 * Known differences from the chip: counting starts with the write, not with
 * the next clock pulse; a new count in mode 3 waits for the end of the whole
 * period, not of the half; an edge that comes late is not made up for.
 */
#include "device/legacy/pit8254.h"

#include <errno.h>
#include <stdlib.h>

#include "base/lock.h"
#include "device/device.h"

#define NS_PER_SEC     1000000000ull
#define NEVER          UINT64_MAX
#define CHANNELS       3
#define CONTROL        3      /* port offset */
#define MIN_EDGE_TICKS 24     /* 20 us: a guest may not have interrupts more often */
#define REFRESH_NS     15085u /* half a period of port 61's refresh bit */
#define MODULUS_BINARY 0x10000u
#define MODULUS_BCD    10000u

enum { RW_LATCH = 0, RW_LOW = 1, RW_HIGH = 2, RW_BOTH = 3 };
enum { READBACK = 3, READBACK_NO_COUNT = 0x20, READBACK_NO_STATUS = 0x10 };
enum { STATUS_OUT = 0x80, STATUS_NULL = 0x40 };
enum { GATE_CHANNEL_2 = 0x01, SPEAKER_BITS = 0x0f, REFRESH_TOGGLE = 0x10, OUT_CHANNEL_2 = 0x20 };

struct channel {
    uint8_t control; /* the control word's low six bits: RW, mode, BCD */
    uint8_t mode, rw;
    bool bcd, gate;

    bool loaded;    /* a count has been written since the control word */
    bool counting;  /* false: the counter stands still at `stopped` */
    bool triggered; /* modes 1, 5 */
    uint32_t count; /* what the running period started from */
    uint64_t start; /* tick at which it started */
    uint64_t stopped;
    uint32_t next_count; /* with next_valid: takes over at tick next_at (NEVER: at the next trigger) */
    uint64_t next_at;
    bool next_valid;

    uint8_t write_low;
    bool write_high, read_high; /* the next byte of two */
    bool count_latched, status_latched;
    uint16_t latch;
    uint8_t status;
};

struct pit {
    struct loop *loop;
    struct irq_line irq;
    struct timer timer;
    struct lock lock;
    bool irq_level;
    uint64_t edge; /* tick of channel 0's next rising edge */
    uint8_t speaker;
    struct channel channels[CHANNELS];
};

/* --- time ------------------------------------------------------------------------------------------ */

static uint64_t now_ns(const struct pit *pit)
{
    return vclock_ns(loop_clock(pit->loop));
}

static uint64_t now_tick(const struct pit *pit)
{
    return (uint64_t)((unsigned __int128)now_ns(pit) * PIT_HZ / NS_PER_SEC);
}

static uint64_t tick_to_ns(uint64_t tick)
{
    return (uint64_t)(((unsigned __int128)tick * NS_PER_SEC + PIT_HZ - 1) / PIT_HZ);
}

/* --- one channel -------------------------------------------------------------------------------------- */

static bool periodic(const struct channel *channel)
{
    return channel->mode == 2 || channel->mode == 3;
}

static bool gate_triggered(const struct channel *channel)
{
    return channel->mode == 1 || channel->mode == 5;
}

static uint64_t elapsed(const struct channel *channel, uint64_t now)
{
    return channel->counting ? now - channel->start : channel->stopped;
}

/* Lets a count that was written during a period take over when that has ended. */
static void settle(struct channel *channel, uint64_t now)
{
    if (!channel->next_valid || !channel->counting || now < channel->next_at)
        return;
    channel->start = channel->next_at;
    channel->count = channel->next_count;
    channel->next_valid = false;
}

static bool output(const struct channel *channel, uint64_t now)
{
    uint64_t done = elapsed(channel, now), n = channel->count;

    if (!channel->loaded)
        return channel->mode != 0;
    switch (channel->mode) {
    case 0:
        return done >= n;
    case 1:
        return !channel->triggered || done >= n;
    case 2:
        return !channel->gate || done % n != n - 1;
    case 3:
        return !channel->gate || done % n < (n + 1) / 2;
    case 4:
        return done != n;
    default:
        return !channel->triggered || done != n;
    }
}

static uint32_t counter(const struct channel *channel, uint64_t now)
{
    uint32_t modulus = channel->bcd ? MODULUS_BCD : MODULUS_BINARY;
    uint64_t done = elapsed(channel, now), n = channel->count, at;

    if (!channel->loaded)
        return 0;
    switch (channel->mode) {
    case 2:
        return (uint32_t)(n - done % n) % modulus;
    case 3: /* counts down by two, twice a period */
        at = done % n;
        if (at >= (n + 1) / 2)
            at -= (n + 1) / 2;
        return (uint32_t)((n & ~1ull) + modulus - 2 * at) % modulus;
    default: /* goes on after the end of the count */
        return (uint32_t)(n + modulus - done % modulus) % modulus;
    }
}

static void begin(struct channel *channel, uint32_t count, uint64_t now)
{
    channel->count = count;
    channel->start = now;
    channel->stopped = 0;
    channel->next_valid = false;
}

static void load(struct channel *channel, uint16_t value, uint64_t now)
{
    uint32_t count = value;

    if (channel->bcd)
        count = (value >> 12) * 1000u + (value >> 8 & 15) * 100u + (value >> 4 & 15) * 10u + (value & 15);
    if (!count)
        count = channel->bcd ? MODULUS_BCD : MODULUS_BINARY;

    if (channel->loaded && (periodic(channel) || gate_triggered(channel))) {
        channel->next_count = count;
        channel->next_at = periodic(channel) ? now + channel->count - elapsed(channel, now) % channel->count : NEVER;
        channel->next_valid = true;
        return;
    }
    begin(channel, count, now);
    channel->loaded = true;
    channel->counting = channel->gate && !gate_triggered(channel);
}

static void set_gate(struct channel *channel, bool gate, uint64_t now)
{
    bool rises = gate && !channel->gate;

    settle(channel, now);
    if (!gate && channel->gate && !gate_triggered(channel)) {
        channel->stopped = elapsed(channel, now);
        channel->counting = false;
    }
    channel->gate = gate;
    if (!rises || !channel->loaded)
        return;
    if (periodic(channel) || gate_triggered(channel)) {
        begin(channel, channel->next_valid ? channel->next_count : channel->count, now);
        channel->triggered = gate_triggered(channel);
    } else {
        channel->start = now - channel->stopped;
    }
    channel->counting = true;
}

/* The tick of the output's next rising edge, after now. */
static uint64_t next_edge(const struct channel *channel, uint64_t now)
{
    uint64_t n = channel->count, end = channel->start + n;

    if (!channel->loaded || !channel->counting)
        return NEVER;
    if (periodic(channel))
        return channel->start + (elapsed(channel, now) / n + 1) * n;
    if (channel->mode == 0)
        return now < end ? end : NEVER;
    return channel->mode == 4 && now <= end ? end + 1 : NEVER;
}

/* --- channel 0's interrupt -------------------------------------------------------------------------------- */

static void set_irq(struct pit *pit, bool level)
{
    if (level != pit->irq_level)
        irq_set(&pit->irq, level);
    pit->irq_level = level;
}

static void arm(struct pit *pit, uint64_t now, uint64_t soonest)
{
    pit->edge = next_edge(&pit->channels[0], now);
    timer_arm(&pit->timer, pit->edge == NEVER ? UINT64_MAX : tick_to_ns(MAX(pit->edge, soonest)));
}

static void edge_due(void *opaque)
{
    struct pit *pit = opaque;
    uint64_t now;

    lock_take(&pit->lock);
    now = now_tick(pit);
    settle(&pit->channels[0], now);
    if (now >= pit->edge) { /* not reprogrammed meanwhile */
        set_irq(pit, false);
        set_irq(pit, true);
        arm(pit, now, now + MIN_EDGE_TICKS);
    }
    lock_drop(&pit->lock);
}

/* --- registers ----------------------------------------------------------------------------------------------- */

static uint16_t visible_counter(const struct channel *channel, uint64_t now)
{
    uint32_t value = counter(channel, now);

    if (!channel->bcd)
        return (uint16_t)value;
    return (uint16_t)(value / 1000 % 10 << 12 | value / 100 % 10 << 8 | value / 10 % 10 << 4 | value % 10);
}

static void latch_count(struct channel *channel, uint64_t now)
{
    if (channel->count_latched)
        return;
    channel->latch = visible_counter(channel, now);
    channel->count_latched = true;
}

static void latch_status(struct channel *channel, uint64_t now)
{
    bool null_count = !channel->loaded || channel->next_valid;

    if (channel->status_latched)
        return;
    channel->status =
        (uint8_t)((output(channel, now) ? STATUS_OUT : 0) | (null_count ? STATUS_NULL : 0) | channel->control);
    channel->status_latched = true;
}

static uint8_t read_channel(struct channel *channel, uint64_t now)
{
    uint16_t value;
    bool high;

    if (channel->status_latched) {
        channel->status_latched = false;
        return channel->status;
    }
    value = channel->count_latched ? channel->latch : visible_counter(channel, now);
    high = channel->rw == RW_HIGH || (channel->rw == RW_BOTH && channel->read_high);
    if (channel->rw == RW_BOTH)
        channel->read_high = !channel->read_high;
    if (high || channel->rw != RW_BOTH)
        channel->count_latched = false;
    return (uint8_t)(high ? value >> 8 : value);
}

static void write_channel(struct channel *channel, uint8_t value, uint64_t now)
{
    switch (channel->rw) {
    case RW_LOW:
        load(channel, value, now);
        break;
    case RW_HIGH:
        load(channel, (uint16_t)(value << 8), now);
        break;
    case RW_BOTH:
        channel->write_high = !channel->write_high;
        if (!channel->write_high) {
            load(channel, (uint16_t)(value << 8 | channel->write_low), now);
            break;
        }
        channel->write_low = value;
        if (channel->mode == 0) /* the first byte stops the count and takes the output low */
            channel->loaded = channel->counting = false;
        break;
    }
}

static void read_back(struct pit *pit, uint8_t value, uint64_t now)
{
    unsigned i;

    for (i = 0; i < CHANNELS; i++) {
        if (!(value & 2u << i))
            continue;
        if (!(value & READBACK_NO_COUNT))
            latch_count(&pit->channels[i], now);
        if (!(value & READBACK_NO_STATUS))
            latch_status(&pit->channels[i], now);
    }
}

static void write_control(struct pit *pit, uint8_t value, uint64_t now)
{
    unsigned select = value >> 6, mode = value >> 1 & 7;
    struct channel *channel = &pit->channels[select % CHANNELS];

    if (select == READBACK) {
        read_back(pit, value, now);
        return;
    }
    if ((value >> 4 & 3) == RW_LATCH) {
        latch_count(channel, now);
        return;
    }
    *channel = (struct channel){
        .control = value & 0x3f,
        .mode = (uint8_t)(mode > 5 ? mode - 4 : mode), /* 6 and 7 are 2 and 3 */
        .rw = value >> 4 & 3,
        .bcd = value & 1,
        .gate = channel->gate,
    };
}

static uint64_t pit_read(void *opaque, uint64_t offset, unsigned size)
{
    struct pit *pit = opaque;
    uint64_t now;
    uint8_t value;

    if (offset == CONTROL) /* write-only */
        return 0xff;
    lock_take(&pit->lock);
    now = now_tick(pit);
    settle(&pit->channels[offset], now);
    value = read_channel(&pit->channels[offset], now);
    lock_drop(&pit->lock);
    return value;
}

static void pit_write(void *opaque, uint64_t offset, uint64_t value, unsigned size)
{
    struct pit *pit = opaque;
    uint64_t now;
    unsigned i;

    lock_take(&pit->lock);
    now = now_tick(pit);
    for (i = 0; i < CHANNELS; i++)
        settle(&pit->channels[i], now);
    if (offset == CONTROL)
        write_control(pit, (uint8_t)value, now);
    else
        write_channel(&pit->channels[offset], (uint8_t)value, now);
    if (offset == 0 || (offset == CONTROL && value >> 6 == 0)) {
        set_irq(pit, output(&pit->channels[0], now));
        arm(pit, now, now + MIN_EDGE_TICKS);
    }
    lock_drop(&pit->lock);
}

/* --- port 61 (82371SB, NMI status and control) -------------------------------------------------------------------- */

static uint64_t speaker_read(void *opaque, uint64_t offset, unsigned size)
{
    struct pit *pit = opaque;
    struct channel *channel = &pit->channels[2];
    uint64_t now;
    uint8_t value;

    lock_take(&pit->lock);
    now = now_tick(pit);
    settle(channel, now);
    value = pit->speaker;
    if (now_ns(pit) / REFRESH_NS & 1)
        value |= REFRESH_TOGGLE;
    if (output(channel, now))
        value |= OUT_CHANNEL_2;
    lock_drop(&pit->lock);
    return value;
}

static void speaker_write(void *opaque, uint64_t offset, uint64_t value, unsigned size)
{
    struct pit *pit = opaque;

    lock_take(&pit->lock);
    pit->speaker = value & SPEAKER_BITS;
    set_gate(&pit->channels[2], value & GATE_CHANNEL_2, now_tick(pit));
    lock_drop(&pit->lock);
}

/* --- construction ---------------------------------------------------------------------------------------------------
 */

static const struct bus_ops pit_ops = {.read = pit_read, .write = pit_write, .max_size = 1};
static const struct bus_ops speaker_ops = {.read = speaker_read, .write = speaker_write, .max_size = 1};
static const struct device_ports pit_ports[] = {{"pit", 0x40, 4, &pit_ops}, {"port61", 0x61, 1, &speaker_ops}};

struct pit *pit_new(struct bus *bus, struct loop *loop, struct irq_line irq, struct error *err)
{
    struct pit *pit = calloc(1, sizeof(*pit));
    unsigned i;

    if (!pit) {
        error_set(err, -ENOMEM, "pit: no memory");
        return NULL;
    }
    pit->loop = loop;
    pit->irq = irq;
    pit->edge = NEVER;
    for (i = 0; i < CHANNELS; i++) /* undefined on the chip until the first control word */
        pit->channels[i] = (struct channel){.control = RW_BOTH << 4, .rw = RW_BOTH, .gate = i != 2};
    lock_init(&pit->lock, LOCK_DEVICE);
    timer_init(&pit->timer, loop, edge_due, pit);
    if (device_add_ports(bus, pit_ports, ARRAY_SIZE(pit_ports), pit, err) < 0) {
        pit_free(pit);
        return NULL;
    }
    return pit;
}

void pit_free(struct pit *pit)
{
    if (!pit)
        return;
    timer_cancel(&pit->timer);
    lock_destroy(&pit->lock);
    free(pit);
}
