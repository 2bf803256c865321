/*
 * device/legacy/uart16550.c: PC16550D. The line is infinitely fast: what is
 * written has been sent at once, input arrives as fast as the FIFO is read;
 * only the receive time-out is counted in character times.
 */
#include "device/legacy/uart16550.h"

#include <errno.h>
#include <stdlib.h>

#include "base/lock.h"
#include "device/device.h"

#define FIFO_SIZE   16
#define UART_CLOCK  1843200ull
#define NS_PER_SEC  1000000000ull
#define DIVISOR_ONE 16 /* clocks a bit */

enum reg { REG_DATA, REG_IER, REG_IIR_FCR, REG_LCR, REG_MCR, REG_LSR, REG_MSR, REG_SCR };

enum { IER_RDA = 0x01, IER_THRE = 0x02, IER_RLS = 0x04, IER_MS = 0x08, IER_MASK = 0x0f };
enum { IIR_MS = 0x00, IIR_NONE = 0x01, IIR_THRE = 0x02, IIR_RDA = 0x04, IIR_RLS = 0x06, IIR_TIMEOUT = 0x0c };
enum { IIR_FIFO = 0xc0 };
enum { FCR_ENABLE = 0x01, FCR_CLEAR_RX = 0x02, FCR_TRIGGER_SHIFT = 6 };
enum { LCR_STOP = 0x04, LCR_PARITY = 0x08, LCR_DLAB = 0x80 };
enum { MCR_DTR = 0x01, MCR_RTS = 0x02, MCR_OUT1 = 0x04, MCR_OUT2 = 0x08, MCR_LOOP = 0x10, MCR_MASK = 0x1f };
enum { LSR_DR = 0x01, LSR_OE = 0x02, LSR_ERRORS = 0x1e, LSR_THRE = 0x20, LSR_TEMT = 0x40 };
enum { MSR_DELTAS = 0x0f, MSR_TERI = 0x04, MSR_CTS = 0x10, MSR_DSR = 0x20, MSR_RI = 0x40, MSR_DCD = 0x80 };

struct uart {
    struct loop *loop;
    struct irq_line irq;
    struct chardev *chardev;
    struct timer timeout_timer;

    struct lock lock;
    uint8_t ier, lcr, mcr, msr, scr;
    uint8_t errors;  /* LSR's sticky bits */
    uint8_t trigger; /* receive level that interrupts */
    uint16_t divisor;
    bool fifo_on;
    bool thre_pending; /* not yet told: cleared by reading it from IIR or by writing data */
    bool timed_out;    /* the FIFO has held data for four character times */
    bool irq_level;
    bool carrier; /* the other end is there */
    uint8_t fifo[FIFO_SIZE];
    unsigned head, count;
};

static const uint8_t trigger_levels[4] = {1, 4, 8, 14};

/* --- interrupts (data sheet, table IV) ------------------------------------------------------------- */

static uint8_t interrupt_id(const struct uart *uart)
{
    if ((uart->ier & IER_RLS) && uart->errors)
        return IIR_RLS;
    if ((uart->ier & IER_RDA) && uart->timed_out)
        return IIR_TIMEOUT;
    if ((uart->ier & IER_RDA) && uart->count >= (uart->fifo_on ? uart->trigger : 1))
        return IIR_RDA;
    if ((uart->ier & IER_THRE) && uart->thre_pending)
        return IIR_THRE;
    if ((uart->ier & IER_MS) && (uart->msr & MSR_DELTAS))
        return IIR_MS;
    return IIR_NONE;
}

/* On a PC OUT2 connects the interrupt; loopback holds that pin inactive. */
static void update_irq(struct uart *uart)
{
    bool connected = (uart->mcr & (MCR_OUT2 | MCR_LOOP)) == MCR_OUT2;
    bool level = connected && interrupt_id(uart) != IIR_NONE;

    if (level != uart->irq_level)
        irq_set(&uart->irq, level);
    uart->irq_level = level;
}

static uint64_t four_characters_ns(const struct uart *uart)
{
    uint64_t bits = 1 + 5 + (uart->lcr & 3) + !!(uart->lcr & LCR_PARITY) + 1 + !!(uart->lcr & LCR_STOP);

    return 4 * bits * DIVISOR_ONE * MAX(uart->divisor, 1) * NS_PER_SEC / UART_CLOCK;
}

/* After each arrival and each read: the time-out starts again. */
static void restart_timeout(struct uart *uart)
{
    uart->timed_out = false;
    if (uart->fifo_on && uart->count && (uart->ier & IER_RDA) && uart->count < uart->trigger)
        timer_arm(&uart->timeout_timer, vclock_ns(loop_clock(uart->loop)) + four_characters_ns(uart));
}

static void receive_timeout(void *opaque)
{
    struct uart *uart = opaque;

    lock_take(&uart->lock);
    if (uart->fifo_on && uart->count)
        uart->timed_out = true;
    update_irq(uart);
    lock_drop(&uart->lock);
}

/* --- modem signals ------------------------------------------------------------------------------------ */

static uint8_t modem_inputs(const struct uart *uart)
{
    if (uart->mcr & MCR_LOOP)
        return (uint8_t)((uart->mcr & MCR_RTS ? MSR_CTS : 0) | (uart->mcr & MCR_DTR ? MSR_DSR : 0) |
                         (uart->mcr & MCR_OUT1 ? MSR_RI : 0) | (uart->mcr & MCR_OUT2 ? MSR_DCD : 0));
    if (!uart->chardev)
        return 0;
    return MSR_CTS | MSR_DSR | (uart->carrier ? MSR_DCD : 0);
}

static void update_modem(struct uart *uart)
{
    uint8_t inputs = modem_inputs(uart), changed = (inputs ^ uart->msr) & (uint8_t)~MSR_DELTAS;
    uint8_t deltas = changed >> 4;

    if (inputs & MSR_RI) /* TERI: the trailing edge only */
        deltas &= (uint8_t)~MSR_TERI;
    uart->msr = (uint8_t)(inputs | (uart->msr & MSR_DELTAS) | deltas);
}

/* --- data ----------------------------------------------------------------------------------------------- */

static unsigned capacity(const struct uart *uart)
{
    return uart->fifo_on ? FIFO_SIZE : 1;
}

static void push(struct uart *uart, uint8_t byte)
{
    if (uart->count >= capacity(uart)) {
        uart->errors |= LSR_OE;
        if (!uart->fifo_on) /* the holding register is overwritten; a full FIFO keeps what it has */
            uart->fifo[uart->head] = byte;
        return;
    }
    uart->fifo[(uart->head + uart->count++) % FIFO_SIZE] = byte;
}

static void clear_receiver(struct uart *uart)
{
    uart->head = uart->count = 0;
    uart->timed_out = false;
}

static uint8_t pop(struct uart *uart)
{
    uint8_t byte = uart->fifo[uart->head];

    if (uart->count) {
        uart->head = (uart->head + 1) % FIFO_SIZE;
        uart->count--;
    }
    restart_timeout(uart);
    return byte;
}

static void accept_more(struct uart *uart)
{
    if (!uart->count && uart->chardev && !(uart->mcr & MCR_LOOP))
        uart->chardev->ops->accept_input(uart->chardev);
}

static void transmit(struct uart *uart, uint8_t byte)
{
    if (uart->mcr & MCR_LOOP) {
        push(uart, byte);
        restart_timeout(uart);
    } else if (uart->chardev) {
        uart->chardev->ops->write(uart->chardev, &byte, 1);
    }
    uart->thre_pending = true;
}

/* --- registers --------------------------------------------------------------------------------------------- */

static uint8_t read_iir(struct uart *uart)
{
    uint8_t id = interrupt_id(uart);

    if (id == IIR_THRE)
        uart->thre_pending = false;
    return (uint8_t)(id | (uart->fifo_on ? IIR_FIFO : 0));
}

static uint8_t read_lsr(struct uart *uart)
{
    uint8_t lsr = (uint8_t)(LSR_THRE | LSR_TEMT | uart->errors | (uart->count ? LSR_DR : 0));

    uart->errors = 0;
    return lsr;
}

static uint8_t read_msr(struct uart *uart)
{
    uint8_t msr = uart->msr;

    uart->msr &= (uint8_t)~MSR_DELTAS;
    return msr;
}

static uint8_t read_register(struct uart *uart, enum reg reg)
{
    uint8_t byte;

    switch (reg) {
    case REG_DATA:
        if (uart->lcr & LCR_DLAB)
            return (uint8_t)uart->divisor;
        byte = pop(uart);
        accept_more(uart);
        return byte;
    case REG_IER:
        return uart->lcr & LCR_DLAB ? (uint8_t)(uart->divisor >> 8) : uart->ier;
    case REG_IIR_FCR:
        return read_iir(uart);
    case REG_LCR:
        return uart->lcr;
    case REG_MCR:
        return uart->mcr;
    case REG_LSR:
        return read_lsr(uart);
    case REG_MSR:
        return read_msr(uart);
    case REG_SCR:
        return uart->scr;
    }
    return 0xff;
}

static void write_ier(struct uart *uart, uint8_t value)
{
    uint8_t risen = value & (uint8_t)~uart->ier;

    uart->ier = value & IER_MASK;
    if (risen & IER_THRE) /* the transmitter is empty: enabling its interrupt raises it */
        uart->thre_pending = true;
    if (risen & IER_RDA) {
        restart_timeout(uart);
        accept_more(uart);
    }
}

static void write_fcr(struct uart *uart, uint8_t value)
{
    bool on = value & FCR_ENABLE;

    if (on != uart->fifo_on || (on && (value & FCR_CLEAR_RX)))
        clear_receiver(uart);
    uart->fifo_on = on;
    if (on) /* the other bits are not programmed without FCR0 */
        uart->trigger = trigger_levels[value >> FCR_TRIGGER_SHIFT];
    accept_more(uart);
}

static void write_mcr(struct uart *uart, uint8_t value)
{
    uart->mcr = value & MCR_MASK;
    update_modem(uart);
    accept_more(uart);
}

static void write_register(struct uart *uart, enum reg reg, uint8_t value)
{
    switch (reg) {
    case REG_DATA:
        if (uart->lcr & LCR_DLAB)
            uart->divisor = (uint16_t)((uart->divisor & 0xff00) | value);
        else
            transmit(uart, value);
        break;
    case REG_IER:
        if (uart->lcr & LCR_DLAB)
            uart->divisor = (uint16_t)((uart->divisor & 0x00ff) | value << 8);
        else
            write_ier(uart, value);
        break;
    case REG_IIR_FCR:
        write_fcr(uart, value);
        break;
    case REG_LCR:
        uart->lcr = value;
        break;
    case REG_MCR:
        write_mcr(uart, value);
        break;
    case REG_LSR: /* read-only, but for the factory's tests */
    case REG_MSR:
        break;
    case REG_SCR:
        uart->scr = value;
        break;
    }
}

static uint64_t uart_read(void *opaque, uint64_t offset, unsigned size)
{
    struct uart *uart = opaque;
    uint8_t value;

    lock_take(&uart->lock);
    value = read_register(uart, (enum reg)(offset & 7));
    update_irq(uart);
    lock_drop(&uart->lock);
    return value;
}

static void uart_write(void *opaque, uint64_t offset, uint64_t value, unsigned size)
{
    struct uart *uart = opaque;

    lock_take(&uart->lock);
    write_register(uart, (enum reg)(offset & 7), (uint8_t)value);
    update_irq(uart);
    lock_drop(&uart->lock);
}

/* --- the backend's side ---------------------------------------------------------------------------------------- */

/* Has the guest said that it listens? Until then a sender waits, as one that heeds DTR and RTS would: drivers clear the
 * FIFO when they open the port, and what was typed before would be lost. */
static bool listening(const struct uart *uart)
{
    return !(uart->mcr & MCR_LOOP) && ((uart->mcr & (MCR_DTR | MCR_RTS)) || (uart->ier & IER_RDA));
}

static size_t uart_can_receive(void *opaque)
{
    struct uart *uart = opaque;
    size_t len;

    lock_take(&uart->lock);
    len = listening(uart) ? capacity(uart) - MIN(uart->count, capacity(uart)) : 0;
    lock_drop(&uart->lock);
    return len;
}

static void uart_receive(void *opaque, const uint8_t *data, size_t len)
{
    struct uart *uart = opaque;
    size_t i;

    lock_take(&uart->lock);
    for (i = 0; i < len; i++)
        push(uart, data[i]);
    restart_timeout(uart);
    update_irq(uart);
    lock_drop(&uart->lock);
}

static void uart_hangup(void *opaque)
{
    struct uart *uart = opaque;

    lock_take(&uart->lock);
    uart->carrier = false;
    update_modem(uart);
    update_irq(uart);
    lock_drop(&uart->lock);
}

/* --- construction ------------------------------------------------------------------------------------------------- */

static const struct bus_ops uart_ops = {.read = uart_read, .write = uart_write, .max_size = 1};

static void connect_backend(struct uart *uart)
{
    if (!uart->chardev)
        return;
    uart->chardev->client = (struct chardev_client){
        .opaque = uart,
        .can_receive = uart_can_receive,
        .receive = uart_receive,
        .hangup = uart_hangup,
    };
    uart->chardev->ops->accept_input(uart->chardev);
}

struct uart *uart_new(struct bus *bus, uint16_t base, struct loop *loop, struct irq_line irq, struct chardev *chardev,
                      struct error *err)
{
    const struct device_ports ports = {"uart", base, 8, &uart_ops};
    struct uart *uart = calloc(1, sizeof(*uart));

    if (!uart) {
        error_set(err, -ENOMEM, "uart: no memory");
        return NULL;
    }
    *uart = (struct uart){
        .loop = loop, .irq = irq, .chardev = chardev, .carrier = chardev != NULL, .trigger = 1, .divisor = 12};
    uart->msr = modem_inputs(uart);
    lock_init(&uart->lock, LOCK_DEVICE);
    timer_init(&uart->timeout_timer, loop, receive_timeout, uart);
    if (device_add_ports(bus, &ports, 1, uart, err) < 0) {
        uart->chardev = NULL;
        uart_free(uart);
        return NULL;
    }
    connect_backend(uart);
    return uart;
}

void uart_free(struct uart *uart)
{
    if (!uart)
        return;
    timer_cancel(&uart->timeout_timer);
    if (uart->chardev)
        uart->chardev->client = (struct chardev_client){.opaque = NULL};
    lock_destroy(&uart->lock);
    free(uart);
}
