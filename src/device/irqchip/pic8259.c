/*
 * device/irqchip/pic8259.c: two 8259As, the second on input 2 of the first.
 * One lock for both. Section names are the data sheet's.
 */
#include "device/irqchip/pic8259.h"

#include <errno.h>
#include <stdlib.h>

#include "base/lock.h"
#include "device/device.h"

#define CASCADE  2
#define INPUTS   8
#define NO_INPUT 8 /* lowest priority of all: nothing */

enum { ICW1_IC4 = 0x01, ICW1_SNGL = 0x02, ICW1_INIT = 0x10 };
enum { ICW4_AEOI = 0x02, ICW4_SFNM = 0x10 };
enum { OCW2_LEVEL = 0x07, OCW2_EOI = 0x20, OCW2_SL = 0x40, OCW2_R = 0x80 };
enum { OCW3_RIS = 0x01, OCW3_RR = 0x02, OCW3_POLL = 0x04, OCW3_SELECT = 0x08, OCW3_SMM = 0x20, OCW3_ESMM = 0x40 };

struct chip {
    struct pic *pic;
    bool master;
    uint8_t elcr, elcr_mask; /* 1: level-triggered; which inputs may be */
    uint8_t lines;           /* inputs' levels */
    uint8_t irr, isr, imr;
    uint8_t base;   /* vector of input 0: ICW2 */
    uint8_t lowest; /* the input of the lowest priority */
    enum { READY, WAIT_ICW2, WAIT_ICW3, WAIT_ICW4 } step;
    bool need_icw4, single;
    bool auto_eoi, rotate_on_auto_eoi, fully_nested, special_mask;
    bool read_isr, poll;
};

struct pic {
    void (*intr)(void *opaque, bool level);
    void *opaque;
    struct lock lock;
    bool output;
    struct chip chips[2];
};

/* --- priority ------------------------------------------------------------------------------------- */

/* Inputs rank from lowest + 1 around to lowest. The rank of the first of a set; NO_INPUT: empty. */
static unsigned first_rank(const struct chip *chip, uint8_t inputs)
{
    unsigned rank;

    for (rank = 0; rank < INPUTS; rank++)
        if (inputs & 1u << ((chip->lowest + 1 + rank) % INPUTS))
            return rank;
    return NO_INPUT;
}

static unsigned input_of_rank(const struct chip *chip, unsigned rank)
{
    return (chip->lowest + 1 + rank) % INPUTS;
}

/* The input whose request would go out now, or NO_INPUT. */
static unsigned requesting(const struct chip *chip)
{
    uint8_t in_service = chip->isr;
    unsigned request = first_rank(chip, chip->irr & (uint8_t)~chip->imr);

    if (chip->special_mask) /* a masked input in service no longer holds back others */
        in_service &= (uint8_t)~chip->imr;
    if (chip->fully_nested && chip->master) /* the slave may interrupt itself */
        in_service &= (uint8_t) ~(1u << CASCADE);
    if (request == NO_INPUT || request >= first_rank(chip, in_service))
        return NO_INPUT;
    return input_of_rank(chip, request);
}

/* A level is what the line says; an edge is remembered until it is acknowledged. The chip forgets it if the line falls
 * before that, but it is answered within microseconds: a virtual processor takes milliseconds, and would lose ticks of
 * the timer, whose line falls just before it rises. */
static void set_line(struct chip *chip, unsigned input, bool level)
{
    uint8_t bit = (uint8_t)(1u << input);

    if (!level)
        chip->irr &= (uint8_t) ~(chip->elcr & bit);
    else if ((chip->elcr & bit) || !(chip->lines & bit))
        chip->irr |= bit;
    chip->lines = (uint8_t)((chip->lines & ~bit) | (level ? bit : 0));
}

/* The slave's INT, which falls together with its last request. */
static void cascade(struct chip *master, bool level)
{
    set_line(master, CASCADE, level);
    if (!level)
        master->irr &= (uint8_t) ~(1u << CASCADE);
}

static void update(struct pic *pic)
{
    struct chip *master = &pic->chips[0];
    bool output;

    cascade(master, requesting(&pic->chips[1]) != NO_INPUT);
    output = requesting(master) != NO_INPUT;
    if (output == pic->output)
        return;
    pic->output = output;
    pic->intr(pic->opaque, output);
}

/* --- acknowledge and end of interrupt ---------------------------------------------------------------- */

static void end(struct chip *chip, unsigned input, bool rotate)
{
    chip->isr &= (uint8_t) ~(1u << input);
    if (rotate)
        chip->lowest = (uint8_t)input;
}

static void acknowledge(struct chip *chip, unsigned input)
{
    uint8_t bit = (uint8_t)(1u << input);

    chip->isr |= bit;
    if (!(chip->elcr & bit))
        chip->irr &= (uint8_t)~bit;
    if (!chip->master) /* INT falls during the cycle: what still waits is a new edge for the master */
        cascade(&chip->pic->chips[0], false);
    if (chip->auto_eoi)
        end(chip, input, chip->rotate_on_auto_eoi);
}

/* The chip's part of the acknowledge cycle. Its request may be gone by now: then input 7 is given, not in service. */
static unsigned acknowledge_cycle(struct chip *chip)
{
    unsigned input = requesting(chip);

    if (input == NO_INPUT)
        return INPUTS - 1;
    acknowledge(chip, input);
    return input;
}

uint8_t pic_acknowledge(struct pic *pic)
{
    struct chip *chip = &pic->chips[0];
    unsigned input;

    lock_take(&pic->lock);
    input = requesting(chip);
    if (input == CASCADE) {
        acknowledge(chip, CASCADE);
        chip = &pic->chips[1];
    }
    input = acknowledge_cycle(chip);
    update(pic);
    lock_drop(&pic->lock);
    return (uint8_t)(chip->base + input);
}

/* --- command words ------------------------------------------------------------------------------------- */

static void icw1(struct chip *chip, uint8_t value)
{
    chip->imr = chip->isr = 0;
    chip->irr = chip->lines & chip->elcr; /* edges have to come again */
    chip->lowest = INPUTS - 1;
    chip->special_mask = chip->read_isr = chip->poll = false;
    chip->need_icw4 = value & ICW1_IC4;
    chip->single = value & ICW1_SNGL;
    chip->auto_eoi = chip->fully_nested = chip->rotate_on_auto_eoi = false;
    chip->step = WAIT_ICW2;
}

static void ocw2(struct chip *chip, uint8_t value)
{
    unsigned rank = first_rank(chip, chip->isr);
    unsigned input = value & OCW2_LEVEL;
    bool rotate = value & OCW2_R;

    switch (value & (OCW2_SL | OCW2_EOI)) {
    case 0: /* rotate in automatic EOI mode: set, clear */
        chip->rotate_on_auto_eoi = rotate;
        break;
    case OCW2_EOI: /* non-specific */
        if (chip->special_mask)
            rank = first_rank(chip, chip->isr & (uint8_t)~chip->imr);
        if (rank != NO_INPUT)
            end(chip, input_of_rank(chip, rank), rotate);
        break;
    case OCW2_SL | OCW2_EOI: /* specific */
        end(chip, input, rotate);
        break;
    case OCW2_SL: /* set priority; without R no operation */
        if (rotate)
            chip->lowest = (uint8_t)input;
        break;
    }
}

static void ocw3(struct chip *chip, uint8_t value)
{
    if (value & OCW3_ESMM)
        chip->special_mask = value & OCW3_SMM;
    if (value & OCW3_RR)
        chip->read_isr = value & OCW3_RIS;
    chip->poll = value & OCW3_POLL;
}

static void write_command(struct chip *chip, uint8_t value)
{
    if (value & ICW1_INIT)
        icw1(chip, value);
    else if (value & OCW3_SELECT)
        ocw3(chip, value);
    else
        ocw2(chip, value);
}

static void write_data(struct chip *chip, uint8_t value)
{
    switch (chip->step) {
    case READY:
        chip->imr = value;
        break;
    case WAIT_ICW2:
        chip->base = value & 0xf8;
        chip->step = !chip->single ? WAIT_ICW3 : chip->need_icw4 ? WAIT_ICW4 : READY;
        break;
    case WAIT_ICW3: /* the wiring is fixed */
        chip->step = chip->need_icw4 ? WAIT_ICW4 : READY;
        break;
    case WAIT_ICW4:
        chip->auto_eoi = value & ICW4_AEOI;
        chip->fully_nested = value & ICW4_SFNM;
        chip->step = READY;
        break;
    }
}

static uint8_t read_poll(struct chip *chip)
{
    unsigned input = requesting(chip);

    chip->poll = false;
    if (input == NO_INPUT)
        return 0;
    acknowledge(chip, input);
    return (uint8_t)(0x80 | input);
}

/* --- ports ------------------------------------------------------------------------------------------------ */

static uint64_t chip_read(void *opaque, uint64_t offset, unsigned size)
{
    struct chip *chip = opaque;
    uint8_t value;

    lock_take(&chip->pic->lock);
    if (chip->poll)
        value = read_poll(chip);
    else if (offset)
        value = chip->imr;
    else
        value = chip->read_isr ? chip->isr : chip->irr;
    update(chip->pic);
    lock_drop(&chip->pic->lock);
    return value;
}

static void chip_write(void *opaque, uint64_t offset, uint64_t value, unsigned size)
{
    struct chip *chip = opaque;

    lock_take(&chip->pic->lock);
    if (offset)
        write_data(chip, (uint8_t)value);
    else
        write_command(chip, (uint8_t)value);
    update(chip->pic);
    lock_drop(&chip->pic->lock);
}

static uint64_t elcr_read(void *opaque, uint64_t offset, unsigned size)
{
    struct pic *pic = opaque;
    uint8_t value;

    lock_take(&pic->lock);
    value = pic->chips[offset & 1].elcr;
    lock_drop(&pic->lock);
    return value;
}

static void elcr_write(void *opaque, uint64_t offset, uint64_t value, unsigned size)
{
    struct pic *pic = opaque;
    struct chip *chip = &pic->chips[offset & 1];

    lock_take(&pic->lock);
    chip->elcr = (uint8_t)value & chip->elcr_mask;
    chip->irr |= chip->lines & chip->elcr;
    update(pic);
    lock_drop(&pic->lock);
}

void pic_set(void *opaque, unsigned irq, bool level)
{
    struct pic *pic = opaque;

    if (irq == CASCADE || irq >= 2 * INPUTS)
        return;
    lock_take(&pic->lock);
    set_line(&pic->chips[irq / INPUTS], irq % INPUTS, level);
    update(pic);
    lock_drop(&pic->lock);
}

bool pic_pending(struct pic *pic)
{
    bool pending;

    lock_take(&pic->lock);
    pending = pic->output;
    lock_drop(&pic->lock);
    return pending;
}

/* --- construction -------------------------------------------------------------------------------------------- */

static const struct bus_ops chip_ops = {.read = chip_read, .write = chip_write, .max_size = 1};
static const struct bus_ops elcr_ops = {.read = elcr_read, .write = elcr_write, .max_size = 1};
static const struct device_ports chip_ports[2] = {{"pic", 0x20, 2, &chip_ops}, {"pic", 0xa0, 2, &chip_ops}};
static const struct device_ports elcr_ports[] = {{"elcr", 0x4d0, 2, &elcr_ops}};
static const uint8_t elcr_masks[2] = {0xf8, 0xde}; /* timer, keyboard, cascade; RTC, FPU are always edges */

struct pic *pic_new(struct bus *bus, void (*intr)(void *opaque, bool level), void *opaque, struct error *err)
{
    struct pic *pic = calloc(1, sizeof(*pic));
    unsigned i;

    if (!pic) {
        error_set(err, -ENOMEM, "pic: no memory");
        return NULL;
    }
    pic->intr = intr;
    pic->opaque = opaque;
    lock_init(&pic->lock, LOCK_IRQCHIP);
    for (i = 0; i < 2; i++) {
        pic->chips[i] =
            (struct chip){.pic = pic, .master = i == 0, .elcr_mask = elcr_masks[i], .imr = 0xff, .lowest = INPUTS - 1};
        if (device_add_ports(bus, &chip_ports[i], 1, &pic->chips[i], err) < 0)
            goto fail;
    }
    if (device_add_ports(bus, elcr_ports, ARRAY_SIZE(elcr_ports), pic, err) < 0)
        goto fail;
    return pic;
fail:
    pic_free(pic);
    return NULL;
}

void pic_free(struct pic *pic)
{
    if (!pic)
        return;
    lock_destroy(&pic->lock);
    free(pic);
}
