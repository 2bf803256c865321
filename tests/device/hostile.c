/*
 * tests/device/hostile.c: a whole board's worth of devices under random
 * accesses of every width, with time passing, input arriving and the
 * processor's answers at random. Nothing may crash, hang or break the lock
 * order; run it under ASan and UBSan. The seed is the argument, or 1.
 */
#include "tests/device/fixture.h"

#include "backend/char/backends.h"
#include "backend/char/buffer.h"
#include "device/irqchip/ioapic.h"
#include "device/irqchip/pic8259.h"
#include "device/legacy/acpi_pm.h"
#include "device/legacy/cmos_rtc.h"
#include "device/legacy/exit_port.h"
#include "device/legacy/i8042.h"
#include "device/legacy/pit8254.h"
#include "device/legacy/uart16550.h"

#define ACCESSES 300000

static uint64_t seed = 1;

struct board {
    struct fixture f;
    struct pic *pic;
    struct ioapic *ioapic;
    struct chardev *chardev;
    uint64_t messages;
    unsigned last_vector;
};

/* xorshift64* */
static uint64_t next(void)
{
    seed ^= seed >> 12;
    seed ^= seed << 25;
    seed ^= seed >> 27;
    return seed * 2685821657736338717ull;
}

static void line(void *opaque, unsigned pin, bool level)
{
    struct board *board = opaque;

    pic_set(board->pic, pin, level);
    ioapic_set(board->ioapic, pin == 0 ? 2 : pin, level);
}

static struct irq_line pin(struct board *board, unsigned number)
{
    return (struct irq_line){.set = line, .opaque = board, .pin = number};
}

static void message(void *opaque, const struct msi_message *message)
{
    struct board *board = opaque;

    assert_true((message->address & ~0xff004ull) == 0xfee00000);
    assert_false(message->data & ~0xc7ffu);
    board->messages++;
    board->last_vector = message->data & 0xff;
}

static void intr(void *opaque, bool level)
{
    fixture_set_line(&((struct board *)opaque)->f, 0, level);
}

static void ended(void *opaque, uint8_t status)
{
    ((struct board *)opaque)->f.events++;
}

static const struct {
    uint16_t base, len;
} ports[] = {{0x20, 2}, {0xa0, 2}, {0x4d0, 2}, {0x40, 4},  {0x61, 1},   {0x60, 5},  {0x92, 1},
             {0x70, 2}, {0xf4, 1}, {0x3f8, 8}, {0x2f8, 8}, {0x600, 12}, {0xcf8, 8}, {0x0, 0xffff}};

static void one_access(struct board *board)
{
    uint64_t r = next(), value = next() >> (next() & 63);
    unsigned size = 1u << (r & 3), i = (r >> 8) % ARRAY_SIZE(ports);
    uint16_t port = (uint16_t)(ports[i].base + (r >> 16) % ports[i].len);
    gpa_t gpa = IOAPIC_BASE + ((r >> 32) % 8 == 0 ? (r >> 40) % 0x1010 : (r >> 40) % 5 * 16);

    switch (r >> 4 & 7) {
    case 0:
        bus_mmio_read(board->f.bus, gpa, size);
        break;
    case 1:
    case 2:
        bus_mmio_write(board->f.bus, gpa, value, size);
        break;
    case 3:
    case 4:
        bus_port_read(board->f.bus, port, MIN(size, 4));
        break;
    default:
        bus_port_write(board->f.bus, port, (uint32_t)value, MIN(size, 4));
    }
}

static void one_event(struct board *board)
{
    uint64_t r = next();

    switch (r & 7) {
    case 0:
    case 1:
        vclock_advance_ns(board->f.clock, (r >> 8) % (1ull << (r >> 3 & 31)));
        loop_poll(board->f.loop);
        break;
    case 2:
        chardev_buffer_feed(board->chardev, "0123456789abcdef", (r >> 8) % 17);
        break;
    case 3:
        pic_acknowledge(board->pic); /* asked for or not */
        break;
    case 4:
        ioapic_eoi(board->ioapic, (uint8_t)(r & 8 ? board->last_vector : r >> 8));
        break;
    case 5:
        ioapic_set(board->ioapic, (unsigned)(r >> 8) % 32, r & 8);
        pic_set(board->pic, (unsigned)(r >> 16) % 20, r & 8);
        break;
    }
}

static void test_hostile(void **state)
{
    struct board board = {.messages = 0};
    struct fixture *f = &board.f;
    const struct device_event event = {.fn = fixture_event, .opaque = f};
    const struct cmos_rtc_config rtc_config = {.wall_ns = 1700000000ll * (int64_t)SECOND, .memory_low = MIB(512)};
    struct uart *uart[2];
    struct pit *pit;
    struct cmos_rtc *rtc;
    struct i8042 *kbc;
    struct acpi_pm *pm;
    struct exit_port *exit_port;
    unsigned i;

    print_message("seed %llu\n", (unsigned long long)seed);
    fixture_open(f);
    board.chardev = chardev_buffer_new(NULL);
    board.pic = pic_new(f->bus, intr, &board, NULL);
    board.ioapic = ioapic_new(f->bus, IOAPIC_BASE, 0, (struct msi_sink){.send = message, .opaque = &board}, NULL);
    uart[0] = uart_new(f->bus, 0x3f8, f->loop, pin(&board, 4), board.chardev, NULL);
    uart[1] = uart_new(f->bus, 0x2f8, f->loop, pin(&board, 3), NULL, NULL);
    pit = pit_new(f->bus, f->loop, pin(&board, 0), NULL);
    rtc = cmos_rtc_new(f->bus, f->loop, pin(&board, 8), &rtc_config, NULL);
    kbc = i8042_new(f->bus, pin(&board, 1), event, NULL);
    pm = acpi_pm_new(f->bus, 0x600, f->clock, pin(&board, 9), event, event, NULL);
    exit_port = exit_port_new(f->bus, ended, &board, NULL);
    assert_true(board.pic && board.ioapic && uart[0] && uart[1] && pit && rtc && kbc && pm && exit_port);

    for (i = 0; i < ACCESSES; i++) {
        one_access(&board);
        if (i % 4 == 0)
            one_event(&board);
        if (i % 1000 == 0)
            chardev_buffer_clear(board.chardev);
    }
    assert_true(board.messages > 0 && f->events > 0 && f->rises > 0);

    exit_port_free(exit_port);
    acpi_pm_free(pm);
    i8042_free(kbc);
    cmos_rtc_free(rtc);
    pit_free(pit);
    uart_free(uart[1]);
    uart_free(uart[0]);
    ioapic_free(board.ioapic);
    pic_free(board.pic);
    chardev_free(board.chardev);
    fixture_close(f);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_hostile)};

    if (argc > 1)
        seed = strtoull(argv[1], NULL, 0) | 1;
    return cmocka_run_group_tests(tests, NULL, NULL);
}
