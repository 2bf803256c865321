/*
 * tests/unit/test_offload.c: checksums against RFC 1071 done word by word;
 * segments of TCP over IPv4, IPv6 and with a VLAN tag: their headers, sums and
 * payload; frames that are no such packet; random bytes.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "backend/net/net.h"

static uint8_t frame[NET_FRAME_MAX], segment[NET_FRAME_MAX], joined[NET_FRAME_MAX];

static uint64_t next(void)
{
    static uint64_t seed = 88172645463325252ull;

    seed ^= seed << 13;
    seed ^= seed >> 7;
    return seed ^= seed << 17;
}

/* All 16-bit words, the last one padded with zeros. */
static uint32_t slow_sum(uint32_t sum, const uint8_t *p, size_t len)
{
    for (size_t i = 0; i < len; i++)
        sum += (uint32_t)p[i] << (i % 2 ? 0 : 8);
    while (sum >> 16)
        sum = (sum & 0xffff) + (sum >> 16);
    return sum;
}

static void test_checksum(void **state)
{
    for (unsigned round = 0; round < 2000; round++) {
        struct net_offload offload = {.csum_start = (uint16_t)(next() % 50), .csum_offset = (uint16_t)(next() % 20)};
        size_t len = 80 + (round % 10 ? next() % 100 : next() % 60000);

        for (size_t i = 0; i < len; i++)
            frame[i] = round % 3 ? (uint8_t)next() : 0xff;
        net_fill_checksum(frame, len, &offload);
        /* With the field in it the sum is that of the field's old content, complemented; so start anew from 0. */
        frame[offload.csum_start + offload.csum_offset] = frame[offload.csum_start + offload.csum_offset + 1] = 0;
        uint32_t want = ~slow_sum(0, frame + offload.csum_start, len - offload.csum_start) & 0xffff;
        net_fill_checksum(frame, len, &offload);
        if (offload.csum_offset % 2 == 0) {
            const uint8_t *field = frame + offload.csum_start + offload.csum_offset;

            assert_int_equal(field[0] << 8 | field[1], want ? want : 0xffff);
        }
    }
}

struct got {
    size_t headers, payload;
    unsigned count;
    size_t largest;
    bool six, vlan, ended;
};

static void on_segment(void *opaque, const uint8_t *data, size_t len)
{
    struct got *got = opaque;
    const uint8_t *ip = data + 14 + (got->vlan ? 4 : 0), *tcp = ip + (got->six ? 40 : 24);
    size_t tcp_len = len - (size_t)(tcp - data);
    uint32_t sequence = (uint32_t)tcp[4] << 24 | tcp[5] << 16 | tcp[6] << 8 | tcp[7];

    assert_false(got->ended);
    assert_int_equal(sequence, (uint32_t)(0xfffff000u + got->payload)); /* it goes round */
    if (got->six) {
        assert_int_equal(ip[4] << 8 | ip[5], tcp_len);
        assert_int_equal(slow_sum(slow_sum((uint32_t)tcp_len + 6, ip + 8, 32), tcp, tcp_len), 0xffff);
    } else {
        assert_int_equal(ip[2] << 8 | ip[3], len - (size_t)(ip - data));
        assert_int_equal(ip[4] << 8 | ip[5], (uint16_t)(0xfffe + got->count));
        assert_int_equal(slow_sum(0, ip, 24), 0xffff);
        assert_int_equal(slow_sum(slow_sum((uint32_t)tcp_len + 6, ip + 12, 8), tcp, tcp_len), 0xffff);
    }
    got->ended = tcp[13] & 1;
    assert_int_equal(tcp[13] & 8, got->ended ? 8 : 0);
    assert_int_equal(tcp[13] & 0x80, got->count ? 0 : 0x80);
    memcpy(joined + got->payload, data + got->headers, len - got->headers);
    got->payload += len - got->headers;
    got->largest = MAX(got->largest, len - got->headers);
    got->count++;
}

/* A packet with options in both headers. */
static size_t make_packet(struct got *got, size_t payload)
{
    uint8_t *p = frame + 14;

    for (size_t i = 0; i < sizeof(frame); i++)
        frame[i] = (uint8_t)next();
    if (got->vlan) {
        memcpy(p - 2, "\x81\x00\x00\x07", 4);
        p += 4;
    }
    memcpy(p - 2, got->six ? "\x86\xdd" : "\x08\x00", 2);
    if (got->six) {
        p[0] = 0x60;
        p[6] = 6;
        p += 40;
    } else {
        p[0] = 0x46;
        memcpy(p + 4, "\xff\xfe", 2);
        p[9] = 6;
        p += 24;
    }
    memcpy(p + 4, "\xff\xff\xf0\x00", 4);
    p[12] = 0x80;
    p[13] = 0x99; /* CWR, ACK, PSH, FIN */
    got->headers = (size_t)(p + 32 - frame);
    return got->headers + payload;
}

static void test_segments(void **state)
{
    static const struct {
        size_t payload, size;
        unsigned count;
    } cases[] = {{60000, 1448, 42}, {1448 * 3, 1448, 3}, {1, 1448, 1},
                 {5000, 1, 5000},   {65000, 65000, 1},   {7777, 1001, 8}};

    for (unsigned kind = 0; kind < 4; kind++)
        for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
            struct got got = {.six = kind & 1, .vlan = kind & 2};
            size_t len = make_packet(&got, cases[i].payload);
            const struct net_offload offload = {.gso_size = (uint16_t)cases[i].size};

            assert_int_equal(net_segment(frame, len, &offload, segment, on_segment, &got), cases[i].count);
            assert_int_equal(got.count, cases[i].count);
            assert_int_equal(got.payload, cases[i].payload);
            assert_true(got.largest <= cases[i].size && got.ended);
            assert_memory_equal(joined, frame + got.headers, got.payload);
        }
}

static void ignore(void *opaque, const uint8_t *data, size_t len)
{
    assert_true(len <= NET_FRAME_MAX);
}

static void test_no_packets(void **state)
{
    struct got got = {.six = false};
    struct net_offload offload = {.gso_size = 100};
    size_t len = make_packet(&got, 1000);
    static const struct {
        unsigned at;
        uint8_t value;
    } wrong[] = {{12, 9}, {14, 0x56}, {14, 0x44}, {14 + 9, 17}, {14 + 24 + 12, 0x40}, {14, 0x4f}};

    assert_int_equal(net_segment(frame, got.headers, &offload, segment, ignore, NULL), 0); /* no payload */
    for (size_t n = 0; n < got.headers; n++)
        assert_int_equal(net_segment(frame, n, &offload, segment, ignore, NULL), 0);
    for (unsigned i = 0; i + 1 < ARRAY_SIZE(wrong); i++) {
        make_packet(&got, 1000);
        frame[wrong[i].at] = wrong[i].value;
        assert_int_equal(net_segment(frame, len, &offload, segment, ignore, NULL), 0);
    }
    offload.gso_size = 0;
    make_packet(&got, 1000);
    assert_int_equal(net_segment(frame, len, &offload, segment, ignore, NULL), 0);
    for (unsigned round = 0; round < 20000; round++) { /* whatever comes of it */
        uint8_t *copy;

        got.six = round & 1;
        len = round % 16 ? next() % 120 : make_packet(&got, next() % 100);
        frame[next() % 80] = (uint8_t)next();
        frame[next() % 80] = (uint8_t)next();
        offload.gso_size = (uint16_t)next();
        copy = malloc(len + 1); /* so that a sanitizer sees where it ends */
        memcpy(copy, frame, len);
        net_segment(copy, len, &offload, segment, ignore, NULL);
        free(copy);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_checksum),
        cmocka_unit_test(test_segments),
        cmocka_unit_test(test_no_packets),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
