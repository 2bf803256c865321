/*
 * boot/unpack.c: the compressed payload inside a bzImage. Output stops at the
 * caller's bound, and at the size that the payload's last four bytes state: the
 * libraries copy in large pieces and use the rest of their output for other
 * things (zstd: literals, up to 256 KiB on), and so have none.
 */
#include <lz4.h>
#include <lzma.h>
#include <string.h>
#include <zlib.h>
#include <zstd.h>

#include "boot/boot_internal.h"

#define XZ_MEMORY_MAX       MIB(256)
#define LZ4_BLOCK           MIB(8) /* legacy frames: every block but the last unpacks to this */
#define ZSTD_WINDOW_LOG_MAX 27

/* Each unpacks data to out (cap bytes); the size written, or 0 for damage or too little room. Linux's build appends
 * the unpacked size (four bytes) to all but gzip's stream, which ends with it (RFC 1952, 2.3.1): so bytes after the end
 * are no damage. What follows the last byte, a checksum, is looked at when there is no room left. */

static uint64_t unpack_gzip(const uint8_t *data, uint64_t size, uint8_t *out, uint64_t cap)
{
    z_stream z = {.next_in = (uint8_t *)data, .avail_in = (uInt)size, .next_out = out, .avail_out = (uInt)cap};
    int rc;

    if (inflateInit2(&z, 16 + MAX_WBITS) != Z_OK)
        return 0;
    rc = inflate(&z, Z_FINISH);
    inflateEnd(&z);
    return rc == Z_STREAM_END ? z.total_out : 0;
}

static uint64_t unpack_xz(const uint8_t *data, uint64_t size, uint8_t *out, uint64_t cap)
{
    lzma_stream s = LZMA_STREAM_INIT;
    lzma_ret rc;
    uint64_t total;

    if (lzma_stream_decoder(&s, XZ_MEMORY_MAX, 0) != LZMA_OK)
        return 0;
    s.next_in = data;
    s.avail_in = size;
    s.next_out = out;
    s.avail_out = cap;
    do
        rc = lzma_code(&s, LZMA_RUN);
    while (rc == LZMA_OK); /* without progress LZMA_BUF_ERROR */
    total = s.total_out;
    lzma_end(&s);
    return rc == LZMA_STREAM_END ? total : 0;
}

static uint64_t unpack_zstd(const uint8_t *data, uint64_t size, uint8_t *out, uint64_t cap)
{
    ZSTD_inBuffer in = {data, size, 0};
    ZSTD_outBuffer o = {out, cap, 0};
    ZSTD_DStream *s = ZSTD_createDStream();
    size_t rc, before;

    if (!s)
        return 0;
    ZSTD_DCtx_setParameter(s, ZSTD_d_windowLogMax, ZSTD_WINDOW_LOG_MAX);
    do {
        before = in.pos + o.pos;
        rc = ZSTD_decompressStream(s, &o, &in);
    } while (rc != 0 && !ZSTD_isError(rc) && in.pos + o.pos > before);
    ZSTD_freeDStream(s);
    return rc == 0 ? o.pos : 0;
}

static uint64_t unpack_lz4(const uint8_t *data, uint64_t size, uint8_t *out, uint64_t cap)
{
    uint64_t pos = 4, done = 0;

    while (size - pos > 4) {
        uint32_t len;
        int n;

        memcpy(&len, data + pos, 4);
        pos += 4;
        if (len == 0 || len > size - pos || len > LZ4_COMPRESSBOUND(LZ4_BLOCK) || done == cap)
            return 0;
        n = LZ4_decompress_safe((const char *)data + pos, (char *)out + done, (int)len,
                                (int)MIN(cap - done, LZ4_BLOCK));
        if (n <= 0)
            return 0;
        done += (uint64_t)n;
        pos += len;
        if (n < (int)LZ4_BLOCK)
            break;
    }
    return done;
}

static const struct format {
    uint8_t magic[6], magic_len;
    uint64_t (*unpack)(const uint8_t *data, uint64_t size, uint8_t *out, uint64_t cap);
} formats[] = {
    {{0x1f, 0x8b}, 2, unpack_gzip},
    {{0xfd, '7', 'z', 'X', 'Z', 0}, 6, unpack_xz},
    {{0x28, 0xb5, 0x2f, 0xfd}, 4, unpack_zstd},
    {{0x02, 0x21, 0x4c, 0x18}, 4, unpack_lz4},
};

static const struct format *find_format(const uint8_t *data)
{
    for (unsigned i = 0; i < ARRAY_SIZE(formats); i++)
        if (memcmp(data, formats[i].magic, formats[i].magic_len) == 0)
            return &formats[i];
    return NULL;
}

uint64_t boot_unpack(const uint8_t *data, uint64_t size, uint8_t *out, uint64_t max)
{
    const struct format *format = size >= 16 && size <= INT32_MAX ? find_format(data) : NULL;
    uint64_t unpacked;
    uint32_t stated;

    if (!format)
        return 0;
    memcpy(&stated, data + size - sizeof(stated), sizeof(stated));
    if (stated == 0 || stated > MIN(max, INT32_MAX))
        return 0;
    unpacked = format->unpack(data, size, out, stated);
    memset(out + unpacked, 0, stated - unpacked);
    return unpacked;
}
