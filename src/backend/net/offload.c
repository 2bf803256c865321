/*
 * backend/net/offload.c: checksums (RFC 1071) and segments of TCP, done in
 * software. Frames are the guest's: each length is checked against the frame.
 */
#include <string.h>

#include "backend/net/net.h"

#define VLAN_TAG    4
#define TYPE_VLAN   0x8100
#define TYPE_IP4    0x0800
#define TYPE_IP6    0x86dd
#define IP4_HEADER  20
#define IP6_HEADER  40
#define TCP_HEADER  20
#define PROTOCOL    6 /* TCP */
#define TCP_FIN_PSH 0x09
#define TCP_CWR     0x80

static uint16_t get16(const uint8_t *p)
{
    return (uint16_t)(p[0] << 8 | p[1]);
}

static uint32_t get32(const uint8_t *p)
{
    return (uint32_t)get16(p) << 16 | get16(p + 2);
}

static void put16(uint8_t *p, uint32_t value)
{
    p[0] = (uint8_t)(value >> 8);
    p[1] = (uint8_t)value;
}

static void put32(uint8_t *p, uint32_t value)
{
    put16(p, value >> 16);
    put16(p + 2, value);
}

/* --- checksums ------------------------------------------------------------------------------------ */

/* The sum of 16-bit words does not depend on their byte order, but for its own: whole words are added as they are. */
static uint64_t add(uint64_t sum, const uint8_t *p, size_t len)
{
    uint64_t words = 0;

    for (; len >= 4; p += 4, len -= 4) {
        uint32_t word;

        memcpy(&word, p, 4);
        words += word; /* a frame has less than 2^32 of them */
    }
    if (len) {
        uint32_t last = 0;

        memcpy(&last, p, len);
        words += last;
    }
    words = (words & 0xffffffff) + (words >> 32);
    words = (words & 0xffff) + (words >> 16 & 0xffff) + (words >> 32);
    words = (words & 0xffff) + (words >> 16);
    words = (words & 0xffff) + (words >> 16);
    return sum + (uint64_t)__builtin_bswap16((uint16_t)words);
}

static uint16_t fold(uint64_t sum)
{
    while (sum >> 16)
        sum = (sum & 0xffff) + (sum >> 16);
    return (uint16_t)~sum;
}

void net_fill_checksum(uint8_t *frame, size_t len, const struct net_offload *offload)
{
    size_t at = offload->csum_start, field = at + offload->csum_offset;
    uint16_t sum;

    if (at > len || field + 2 > len)
        return;
    sum = fold(add(0, frame + at, len - at));
    put16(frame + field, sum ? sum : 0xffff); /* 0 in UDP is "none" */
}

/* --- segments ------------------------------------------------------------------------------------- */

struct packet {
    bool six;
    size_t ip, tcp, payload; /* where in the frame they begin */
};

static bool find_ip4(const uint8_t *frame, size_t len, struct packet *packet)
{
    const uint8_t *ip = frame + packet->ip;
    size_t header;

    if (len < packet->ip + IP4_HEADER || ip[0] >> 4 != 4 || ip[9] != PROTOCOL)
        return false;
    header = (ip[0] & 15u) * 4;
    packet->tcp = packet->ip + header;
    return header >= IP4_HEADER;
}

/* Without extension headers. */
static bool find_ip6(const uint8_t *frame, size_t len, struct packet *packet)
{
    const uint8_t *ip = frame + packet->ip;

    if (len < packet->ip + IP6_HEADER || ip[0] >> 4 != 6 || ip[6] != PROTOCOL)
        return false;
    packet->tcp = packet->ip + IP6_HEADER;
    return true;
}

static bool parse(const uint8_t *frame, size_t len, struct packet *packet)
{
    size_t type = NET_HEADER - 2, header;

    if (len >= NET_HEADER + VLAN_TAG && get16(frame + type) == TYPE_VLAN)
        type += VLAN_TAG;
    if (len < type + 2)
        return false;
    packet->ip = type + 2;
    packet->six = get16(frame + type) == TYPE_IP6;
    if (!packet->six && get16(frame + type) != TYPE_IP4)
        return false;
    if (!(packet->six ? find_ip6 : find_ip4)(frame, len, packet) || len < packet->tcp + TCP_HEADER)
        return false;
    header = (frame[packet->tcp + 12] >> 4) * 4u;
    packet->payload = packet->tcp + header;
    return header >= TCP_HEADER && packet->payload < len;
}

/* The headers of the segment that holds the payload's bytes from `done` on; it is len bytes long in all. */
static void fit_headers(uint8_t *segment, size_t len, const struct packet *packet, uint32_t number, uint32_t done,
                        bool last)
{
    uint8_t *ip = segment + packet->ip, *tcp = segment + packet->tcp;
    uint32_t tcp_len = (uint32_t)(len - packet->tcp);
    uint64_t pseudo = PROTOCOL + tcp_len;

    if (packet->six) {
        put16(ip + 4, tcp_len);
        pseudo = add(pseudo, ip + 8, 32);
    } else {
        put16(ip + 2, (uint32_t)(len - packet->ip));
        put16(ip + 4, get16(ip + 4) + number);
        put16(ip + 10, 0);
        put16(ip + 10, fold(add(0, ip, packet->tcp - packet->ip)));
        pseudo = add(pseudo, ip + 12, 8);
    }
    put32(tcp + 4, get32(tcp + 4) + done);
    if (!last)
        tcp[13] &= (uint8_t)~TCP_FIN_PSH;
    if (number)
        tcp[13] &= (uint8_t)~TCP_CWR;
    put16(tcp + 16, 0);
    put16(tcp + 16, fold(add(pseudo, tcp, tcp_len)));
}

unsigned net_segment(const uint8_t *frame, size_t len, const struct net_offload *offload, uint8_t *segment,
                     void (*emit)(void *opaque, const uint8_t *segment, size_t len), void *opaque)
{
    struct packet packet;
    unsigned number = 0;
    size_t end;

    if (len > NET_FRAME_MAX || !offload->gso_size || !parse(frame, len, &packet))
        return 0;
    end = len - packet.payload;
    for (size_t done = 0; done < end; number++) {
        size_t n = MIN(offload->gso_size, end - done);

        memcpy(segment, frame, packet.payload);
        memcpy(segment + packet.payload, frame + packet.payload + done, n);
        fit_headers(segment, packet.payload + n, &packet, number, (uint32_t)done, done + n == end);
        emit(opaque, segment, packet.payload + n);
        done += n;
    }
    return number;
}
