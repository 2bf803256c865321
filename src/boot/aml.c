/*
 * boot/aml.c: the AML encodings. A length comes before what it covers, so
 * closing an object moves its content up by the length's one to four bytes.
 */
#include "boot/aml.h"

#include <string.h>

enum {
    OP_ZERO = 0x00,
    OP_ONE = 0x01,
    OP_NAME = 0x08,
    OP_BYTE = 0x0a,
    OP_WORD = 0x0b,
    OP_DWORD = 0x0c,
    OP_STRING = 0x0d,
    OP_SCOPE = 0x10,
    OP_BUFFER = 0x11,
    OP_PACKAGE = 0x12,
    OP_EXT = 0x5b,
    OP_EXT_DEVICE = 0x82,
    RES_IRQ = 0x22, /* small descriptor, 2 bytes follow */
    RES_IO = 0x47,  /* small descriptor, 7 bytes follow */
    RES_END = 0x79, /* small descriptor, 1 byte follows */
    RES_MEMORY32 = 0x86,
    RES_DWORD_RANGE = 0x87,
    RES_WORD_RANGE = 0x88,
};

static void put(struct aml *aml, const void *data, size_t len)
{
    if (aml->full || len > aml->cap - aml->len) {
        aml->full = true;
        return;
    }
    memcpy(aml->buf + aml->len, data, len);
    aml->len += len;
}

static void put_byte(struct aml *aml, uint8_t byte)
{
    put(aml, &byte, 1);
}

/* Puts bytes in at an earlier place. */
static void insert(struct aml *aml, size_t at, const uint8_t *data, size_t len)
{
    size_t old = aml->len;

    put(aml, data, len);
    if (aml->full)
        return;
    memmove(aml->buf + at + len, aml->buf + at, old - at);
    memcpy(aml->buf + at, data, len);
}

static void put_segment(struct aml *aml, const char *name)
{
    char seg[4] = {'_', '_', '_', '_'};

    memcpy(seg, name, MIN(strlen(name), sizeof(seg)));
    put(aml, seg, sizeof(seg));
}

size_t aml_scope(struct aml *aml, const char *path)
{
    size_t open;

    put_byte(aml, OP_SCOPE);
    open = aml->len;
    if (*path == '\\')
        put_byte(aml, (uint8_t)*path++);
    put_segment(aml, path);
    return open;
}

size_t aml_device(struct aml *aml, const char *name)
{
    size_t open;

    put_byte(aml, OP_EXT);
    put_byte(aml, OP_EXT_DEVICE);
    open = aml->len;
    put_segment(aml, name);
    return open;
}

size_t aml_package(struct aml *aml, uint8_t elements)
{
    size_t open;

    put_byte(aml, OP_PACKAGE);
    open = aml->len;
    put_byte(aml, elements);
    return open;
}

size_t aml_resources(struct aml *aml)
{
    put_byte(aml, OP_BUFFER);
    return aml->len;
}

void aml_end(struct aml *aml, size_t open)
{
    size_t body = aml->len - open, extra = body + 1 <= 0x3f ? 0 : body + 2 <= 0xfff ? 1 : 2;
    size_t total = body + 1 + extra; /* PkgLength counts itself (20.2.4) */
    uint8_t enc[3];

    if (aml->full)
        return;
    if (extra == 0) {
        enc[0] = (uint8_t)total;
    } else {
        enc[0] = (uint8_t)(extra << 6 | (total & 0xf));
        enc[1] = (uint8_t)(total >> 4);
        enc[2] = (uint8_t)(total >> 12);
    }
    insert(aml, open, enc, 1 + extra);
}

void aml_end_resources(struct aml *aml, size_t open)
{
    uint8_t size[3] = {OP_WORD};
    size_t len;

    put_byte(aml, RES_END);
    put_byte(aml, 0); /* checksum: 0 is "not checked" (6.4.2.9) */
    len = aml->len - open;
    size[1] = (uint8_t)len;
    size[2] = (uint8_t)(len >> 8);
    insert(aml, open, size, sizeof(size));
    aml_end(aml, open);
}

void aml_name(struct aml *aml, const char *name)
{
    put_byte(aml, OP_NAME);
    put_segment(aml, name);
}

void aml_integer(struct aml *aml, uint32_t value)
{
    uint8_t enc[5] = {0, (uint8_t)value, (uint8_t)(value >> 8), (uint8_t)(value >> 16), (uint8_t)(value >> 24)};

    if (value <= 1) {
        put_byte(aml, value ? OP_ONE : OP_ZERO);
    } else if (value <= 0xff) {
        enc[0] = OP_BYTE;
        put(aml, enc, 2);
    } else if (value <= 0xffff) {
        enc[0] = OP_WORD;
        put(aml, enc, 3);
    } else {
        enc[0] = OP_DWORD;
        put(aml, enc, 5);
    }
}

void aml_string(struct aml *aml, const char *text)
{
    put_byte(aml, OP_STRING);
    put(aml, text, strlen(text) + 1);
}

static uint32_t hex_digit(char c)
{
    return (uint32_t)(c <= '9' ? c - '0' : c - 'A' + 10) & 0xf;
}

/* Three letters of five bits and four hexadecimal digits, big-endian (19.3.4). */
void aml_eisa_id(struct aml *aml, const char *id)
{
    uint32_t value = 0;

    for (unsigned i = 0; i < 3; i++)
        value = value << 5 | ((uint32_t)(id[i] - '@') & 0x1f);
    for (unsigned i = 3; i < 7; i++)
        value = value << 4 | hex_digit(id[i]);
    aml_integer(aml, __builtin_bswap32(value));
}

void aml_io(struct aml *aml, uint16_t base, uint8_t len)
{
    const uint8_t d[] = {RES_IO,        1 /* all 16 bits decoded */, (uint8_t)base,     (uint8_t)(base >> 8),
                         (uint8_t)base, (uint8_t)(base >> 8),        1 /* alignment */, len};

    put(aml, d, sizeof(d));
}

void aml_irq(struct aml *aml, unsigned irq)
{
    const uint8_t d[] = {RES_IRQ, (uint8_t)(1u << irq), (uint8_t)((1u << irq) >> 8)};

    put(aml, d, sizeof(d));
}

static void put_u16(struct aml *aml, uint16_t value)
{
    put(aml, &value, sizeof(value));
}

static void put_u32(struct aml *aml, uint32_t value)
{
    put(aml, &value, sizeof(value));
}

void aml_memory32(struct aml *aml, uint32_t base, uint32_t len)
{
    const uint8_t head[] = {RES_MEMORY32, 9, 0, 1 /* writable */};

    put(aml, head, sizeof(head));
    put_u32(aml, base);
    put_u32(aml, len);
}

#define RANGE_MEMORY 0
#define RANGE_BUS    2
#define RANGE_FLAGS  0x0c /* both ends fixed, positive decoding, for what is behind the bridge */
#define RANGE_WRITE  0x01 /* memory: writable, not cached */

void aml_bus_range(struct aml *aml, uint16_t first, uint16_t last)
{
    const uint8_t head[] = {RES_WORD_RANGE, 13, 0, RANGE_BUS, RANGE_FLAGS, 0};

    put(aml, head, sizeof(head));
    put_u16(aml, 0); /* granularity */
    put_u16(aml, first);
    put_u16(aml, last);
    put_u16(aml, 0); /* translation */
    put_u16(aml, (uint16_t)(last - first + 1));
}

void aml_memory_range(struct aml *aml, uint32_t base, uint32_t len)
{
    const uint8_t head[] = {RES_DWORD_RANGE, 23, 0, RANGE_MEMORY, RANGE_FLAGS, RANGE_WRITE};

    put(aml, head, sizeof(head));
    put_u32(aml, 0);
    put_u32(aml, base);
    put_u32(aml, base + len - 1);
    put_u32(aml, 0);
    put_u32(aml, len);
}
