/*
 * device/irqchip/ioapic.c: 82093AA. A redirection entry is kept as the 64 bits
 * the guest sees; the two read-only bits are ours.
 */
#include "device/irqchip/ioapic.h"

#include <errno.h>
#include <stdlib.h>

#include "base/lock.h"
#include "device/device.h"

#define WINDOW_SIZE 0x1000
#define VERSION     0x20u

enum { IOREGSEL = 0x00, IOWIN = 0x10, IOEOI = 0x40 };
enum { REG_ID = 0x00, REG_VERSION = 0x01, REG_ARBITRATION = 0x02, REG_TABLE = 0x10 };

#define RTE_VECTOR       0xffull
#define RTE_DELIVERY     (7ull << 8)
#define RTE_LOGICAL      (1ull << 11)
#define RTE_STATUS       (1ull << 12) /* read-only; messages leave at once: always 0 */
#define RTE_REMOTE_IRR   (1ull << 14) /* read-only */
#define RTE_LEVEL        (1ull << 15)
#define RTE_MASKED       (1ull << 16)
#define RTE_DESTINATION  (0xffull << 56)
#define RTE_READ_ONLY    (RTE_STATUS | RTE_REMOTE_IRR)
#define RTE_WRITABLE     (RTE_DESTINATION | 0x1ffffull)
#define DELIVERY_FIXED   0u
#define DELIVERY_LOWEST  1u
#define MSI_ADDRESS      0xfee00000ull
#define MSI_LEVEL_ASSERT (1u << 14)
#define MSI_TRIGGER      (1u << 15)

struct ioapic {
    struct msi_sink sink;
    struct lock lock;
    uint8_t select, id;
    uint32_t lines; /* pins' levels */
    uint64_t table[IOAPIC_PINS];
};

/* --- delivery -------------------------------------------------------------------------------------- */

static unsigned delivery_mode(uint64_t entry)
{
    return (unsigned)((entry & RTE_DELIVERY) >> 8);
}

/* Only fixed and lowest-priority interrupts are acknowledged by an EOI; the other modes act as edges. */
static bool is_level(uint64_t entry)
{
    return (entry & RTE_LEVEL) && delivery_mode(entry) <= DELIVERY_LOWEST;
}

/* SDM vol. 3, 11.11: the same fields in the message's places. */
static void send(struct ioapic *ioapic, uint64_t entry)
{
    const struct msi_message message = {
        .address = MSI_ADDRESS | (entry >> 56) << 12 | (entry & RTE_LOGICAL ? 1u << 2 : 0),
        .data =
            (uint32_t)(entry & (RTE_VECTOR | RTE_DELIVERY)) | (is_level(entry) ? MSI_TRIGGER | MSI_LEVEL_ASSERT : 0),
    };

    ioapic->sink.send(ioapic->sink.opaque, &message);
}

/* A level-triggered pin goes out while its line is up, once for each EOI. */
static void service_level(struct ioapic *ioapic, unsigned pin)
{
    uint64_t *entry = &ioapic->table[pin];

    if (!(ioapic->lines & 1u << pin) || !is_level(*entry) || (*entry & (RTE_MASKED | RTE_REMOTE_IRR)))
        return;
    *entry |= RTE_REMOTE_IRR;
    send(ioapic, *entry);
}

void ioapic_set(void *opaque, unsigned pin, bool level)
{
    struct ioapic *ioapic = opaque;
    uint32_t bit;
    bool rises;

    if (pin >= IOAPIC_PINS)
        return;
    bit = 1u << pin;
    lock_take(&ioapic->lock);
    rises = level && !(ioapic->lines & bit);
    ioapic->lines = (ioapic->lines & ~bit) | (level ? bit : 0);
    if (is_level(ioapic->table[pin]))
        service_level(ioapic, pin);
    else if (rises && !(ioapic->table[pin] & RTE_MASKED)) /* an edge on a masked pin is lost */
        send(ioapic, ioapic->table[pin]);
    lock_drop(&ioapic->lock);
}

static void end_of_interrupt(struct ioapic *ioapic, uint8_t vector)
{
    unsigned pin;

    for (pin = 0; pin < IOAPIC_PINS; pin++) {
        uint64_t *entry = &ioapic->table[pin];

        if ((*entry & RTE_VECTOR) != vector || !(*entry & RTE_REMOTE_IRR))
            continue;
        *entry &= ~RTE_REMOTE_IRR;
        service_level(ioapic, pin);
    }
}

void ioapic_eoi(struct ioapic *ioapic, uint8_t vector)
{
    lock_take(&ioapic->lock);
    end_of_interrupt(ioapic, vector);
    lock_drop(&ioapic->lock);
}

/* --- registers --------------------------------------------------------------------------------------- */

static uint32_t read_indirect(const struct ioapic *ioapic)
{
    unsigned half = ioapic->select - REG_TABLE;

    switch (ioapic->select) {
    case REG_ID:
    case REG_ARBITRATION:
        return (uint32_t)ioapic->id << 24;
    case REG_VERSION:
        return (IOAPIC_PINS - 1) << 16 | VERSION;
    }
    if (half >= 2 * IOAPIC_PINS) /* past the end, or (wrapped around) between 2 and 0x10 */
        return 0;
    return (uint32_t)(ioapic->table[half / 2] >> half % 2 * 32);
}

static void write_entry(struct ioapic *ioapic, unsigned half, uint32_t value)
{
    uint64_t *entry = &ioapic->table[half / 2];
    unsigned shift = half % 2 * 32;
    uint64_t writable = RTE_WRITABLE & ~RTE_READ_ONLY & 0xffffffffull << shift;

    *entry = (*entry & ~writable) | ((uint64_t)value << shift & writable);
    if (!is_level(*entry)) /* the way to clear it without an EOI */
        *entry &= ~RTE_REMOTE_IRR;
    service_level(ioapic, half / 2);
}

static void write_indirect(struct ioapic *ioapic, uint32_t value)
{
    unsigned half = ioapic->select - REG_TABLE;

    if (ioapic->select == REG_ID)
        ioapic->id = (uint8_t)(value >> 24); /* 4 bits on the 82093AA; 8 hold any APIC ID */
    else if (half < 2 * IOAPIC_PINS)
        write_entry(ioapic, half, value);
}

static uint64_t ioapic_read(void *opaque, uint64_t offset, unsigned size)
{
    struct ioapic *ioapic = opaque;
    uint32_t value = 0;

    lock_take(&ioapic->lock);
    if (offset == IOREGSEL)
        value = ioapic->select;
    else if (offset == IOWIN)
        value = read_indirect(ioapic);
    lock_drop(&ioapic->lock);
    return value;
}

static void ioapic_write(void *opaque, uint64_t offset, uint64_t value, unsigned size)
{
    struct ioapic *ioapic = opaque;

    lock_take(&ioapic->lock);
    if (offset == IOREGSEL)
        ioapic->select = (uint8_t)value;
    else if (offset == IOWIN)
        write_indirect(ioapic, (uint32_t)value);
    else if (offset == IOEOI)
        end_of_interrupt(ioapic, (uint8_t)value);
    lock_drop(&ioapic->lock);
}

/* --- construction -------------------------------------------------------------------------------------- */

static const struct bus_ops ioapic_ops = {.read = ioapic_read, .write = ioapic_write, .max_size = 4};

struct ioapic *ioapic_new(struct bus *bus, gpa_t base, uint8_t id, struct msi_sink sink, struct error *err)
{
    struct ioapic *ioapic = calloc(1, sizeof(*ioapic));
    unsigned pin;
    int rc;

    if (!ioapic) {
        error_set(err, -ENOMEM, "ioapic: no memory");
        return NULL;
    }
    ioapic->sink = sink;
    ioapic->id = id;
    for (pin = 0; pin < IOAPIC_PINS; pin++)
        ioapic->table[pin] = RTE_MASKED;
    lock_init(&ioapic->lock, LOCK_IRQCHIP);
    rc = bus_add_mmio(bus, "ioapic", base, WINDOW_SIZE, &ioapic_ops, ioapic);
    if (rc < 0) {
        error_set(err, rc, "ioapic: cannot have addresses from %#llx on", (unsigned long long)base);
        ioapic_free(ioapic);
        return NULL;
    }
    return ioapic;
}

void ioapic_free(struct ioapic *ioapic)
{
    if (!ioapic)
        return;
    lock_destroy(&ioapic->lock);
    free(ioapic);
}
