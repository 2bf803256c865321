/*
 * tests/isa/values.c: numbers worth trying: integers at the edges of every
 * width, floating-point values of every class, x87 and SSE environments.
 */
#include <string.h>

#include "values.h"

uint64_t isa_corner(struct isa_rng *rng)
{
    uint64_t r = isa_rand(rng);
    unsigned bit = r & 63;

    switch (isa_pick(rng, 14)) {
    case 0:
        return 0;
    case 1:
        return 1;
    case 2:
        return ~0ull;
    case 3:
        return 1ull << bit;
    case 4:
        return (1ull << bit) - 1;
    case 5:
        return -(1ull << bit);
    case 6:
        return r >> 8 & 63;
    case 7: /* the edges of 8, 16, 32, 64 bits, give or take one */
        return (1ull << ((8u << (bit & 3)) - 1)) + (r >> 8 & 3) - 1;
    case 8:
        return (uint32_t)(r >> 16);
    case 9:
        return (uint64_t)(int64_t)(int32_t)(r >> 16);
    case 10:
        return r >> bit;
    default:
        return r;
    }
}

uint32_t isa_f32(struct isa_rng *rng)
{
    static const uint32_t corners[] = {
        0,          0x3f800000, 0x3f000000, 0x3fc00000, 0x40200000, 1,          0x007fffff, 0x00800000, 0x7f7fffff,
        0x7f800000, 0x7fc00000, 0x7f800001, 0x7fffffff, 0x7fbfffff, 0x4f000000, 0x4effffff, 0x5f000000, 0x4b000001,
        0x33800000, 0x00400000, 0x34000000, 0x3f7fffff, 0x477fe000, 0x38800000, 0x7f000000,
    };
    uint32_t r = (uint32_t)isa_rand(rng);

    switch (isa_pick(rng, 4)) {
    case 0:
        return corners[isa_pick(rng, ARRAY_SIZE(corners))] | (r & 0x80000000);
    case 1: /* near 1, so that sums and differences round */
        return (r & 0x807fffff) | (120 + isa_pick(rng, 16)) << 23;
    case 2:
        return (r & 0x80ff0000) | isa_pick(rng, 256) << 23;
    default:
        return r;
    }
}

uint64_t isa_f64(struct isa_rng *rng)
{
    static const uint64_t corners[] = {
        0,
        0x3ff0000000000000,
        0x3fe0000000000000,
        0x3ff8000000000000,
        0x4004000000000000,
        1,
        0x000fffffffffffff,
        0x0010000000000000,
        0x7fefffffffffffff,
        0x7ff0000000000000,
        0x7ff8000000000000,
        0x7ff0000000000001,
        0x7fffffffffffffff,
        0x7ff7ffffffffffff,
        0x41e0000000000000,
        0x41dfffffffe00000,
        0x43e0000000000000,
        0x43dfffffffffffff,
        0x36a0000000000000,
        0x380fffffe0000000,
        0x47efffffe0000000,
        0x47effffff0000000,
        0x4340000000000001,
        0x3fefffffffffffff,
    };
    uint64_t r = isa_rand(rng);

    switch (isa_pick(rng, 4)) {
    case 0:
        return corners[isa_pick(rng, ARRAY_SIZE(corners))] | (r & 1ull << 63);
    case 1:
        return (r & 0x800fffffffffffff) | (uint64_t)(1016 + isa_pick(rng, 16)) << 52;
    case 2:
        return (r & 0x800ff00000000000) | (uint64_t)isa_pick(rng, 2048) << 52;
    default:
        return r;
    }
}

void isa_f80(uint8_t out[10], struct isa_rng *rng)
{
    static const struct {
        uint16_t exponent;
        uint64_t mantissa;
    } corners[] = {
        {0, 0},
        {0x3fff, 1ull << 63},
        {0x3ffe, 1ull << 63},
        {0x4000, 0xc000000000000000},
        {0x4000, 0xa000000000000000},
        {0, 1}, /* denormal */
        {0, ~0ull >> 1},
        {0, 1ull << 63}, /* pseudo-denormal */
        {1, 1ull << 63},
        {0x7ffe, ~0ull},
        {0x7fff, 1ull << 63},         /* infinity */
        {0x7fff, 0xc000000000000000}, /* quiet, indefinite */
        {0x7fff, 0x8000000000000001}, /* signalling */
        {0x7fff, 0},                  /* pseudo-infinity */
        {0x7fff, 1},                  /* pseudo-NaN */
        {0x3fff, 1},                  /* unnormal */
        {0x401e, 1ull << 63},
        {0x403e, 1ull << 63},
        {0x403d, ~0ull},
        {0x3c00, 1ull << 63}, /* below double */
        {0x43ff, 1ull << 63}, /* above double */
        {0x3fff, 0x8000000000000001},
        {0x4000, 0xc90fdaa22168c235}, /* pi */
    };
    uint64_t mantissa = isa_rand(rng), r = isa_rand(rng);
    uint16_t exponent = (uint16_t)r;

    switch (isa_pick(rng, 5)) {
    case 0:
    case 1: {
        unsigned i = isa_pick(rng, ARRAY_SIZE(corners));

        exponent = (uint16_t)(corners[i].exponent | (r & 0x8000));
        mantissa = corners[i].mantissa;
        break;
    }
    case 2:
        exponent = (uint16_t)((r & 0x8000) | (0x3ff0 + isa_pick(rng, 0x60)));
        mantissa |= 1ull << 63;
        break;
    case 3: /* integers and halves */
        exponent = (uint16_t)((r & 0x8000) | (0x3ffe + isa_pick(rng, 66)));
        mantissa = (mantissa | 1ull << 63) & ~0ull << isa_pick(rng, 64);
        break;
    default:
        mantissa |= 1ull << 63;
    }
    memcpy(out, &mantissa, 8);
    memcpy(out + 8, &exponent, 2);
}

void isa_fill(uint8_t *out, unsigned size, struct isa_rng *rng)
{
    unsigned kind = isa_pick(rng, 9);
    uint64_t repeated = isa_corner(rng);

    for (unsigned i = 0; i < size; i += 8) {
        uint64_t value;

        switch (kind) {
        case 0:
        case 1:
            value = isa_f32(rng) | (uint64_t)isa_f32(rng) << 32;
            break;
        case 2:
        case 3:
            value = isa_f64(rng);
            break;
        case 4:
            value = isa_corner(rng);
            break;
        case 5: /* bytes from a small alphabet, zeroes among them: strings, shuffles */
            value = isa_rand(rng) & 0x0303030303030303 & (isa_chance(rng, 70) ? ~0ull : 0x0301000301030103);
            break;
        case 6: { /* words and bytes at their edges */
            value = isa_rand(rng) & 0x8181818181818181;
            value |= isa_chance(rng, 50) ? 0x7f007f7f00007f7f : 0;
            break;
        }
        case 7:
            value = repeated;
            break;
        default:
            value = isa_rand(rng);
        }
        memcpy(out + i, &value, MIN(8, size - i));
    }
}

static uint32_t some_mxcsr(struct isa_rng *rng)
{
    uint32_t r = (uint32_t)isa_rand(rng), mxcsr = 0x1f80;

    if (isa_chance(rng, 50))
        mxcsr |= r & 0x6000; /* rounding */
    if (isa_chance(rng, 30))
        mxcsr |= r & 0x8040; /* FTZ, DAZ */
    if (isa_chance(rng, 30))
        mxcsr |= r & 0x3f;
    if (isa_chance(rng, 8))
        mxcsr &= ~(r & 0x1f80);
    return mxcsr;
}

void isa_fill_fpu(struct x86_fpu *fpu, struct isa_rng *rng)
{
    uint32_t r = (uint32_t)isa_rand(rng);
    unsigned flags;

    memset(fpu, 0, sizeof(*fpu));
    fpu->fcw = 0x37f;
    if (isa_chance(rng, 40))
        fpu->fcw = (uint16_t)((fpu->fcw & ~0xf00) | (r & 0xf00)); /* precision, rounding */
    if (isa_chance(rng, 12))
        fpu->fcw = (uint16_t)(fpu->fcw & ~(r >> 12 & 0x3f));
    fpu->fsw = (uint16_t)(isa_rand(rng) & 0x7f00) & (uint16_t)(isa_chance(rng, 50) ? 0x3800 : 0x7f00);
    fpu->fsw &= 0x7f00;
    if (isa_chance(rng, 25)) {
        flags = r >> 18 & 0x7f;
        if (!isa_chance(rng, 20))
            flags &= fpu->fcw | 0x40u; /* nothing pending */
        fpu->fsw = (uint16_t)(fpu->fsw | flags);
        if (flags & ~fpu->fcw & 0x3f)
            fpu->fsw |= 0x8080; /* ES, B */
    }
    fpu->ftw = isa_chance(rng, 65) ? 0xff : (uint8_t)(isa_chance(rng, 30) ? 0 : r >> 24);
    fpu->mxcsr = some_mxcsr(rng);
    fpu->mxcsr_mask = 0xffff;
    for (unsigned i = 0; i < 8; i++) {
        isa_f80(fpu->st[i], rng);
        if (isa_chance(rng, 20)) { /* as MMX leaves it */
            isa_fill(fpu->st[i], 8, rng);
            memset(fpu->st[i] + 8, 0xff, 2);
        }
    }
    for (unsigned i = 0; i < 16; i++) {
        unsigned copy = isa_pick(rng, 16);

        isa_fill(fpu->xmm[i], 16, rng);
        isa_fill(fpu->ymm_high[i], 16, rng);
        if (copy < i && isa_chance(rng, 30)) { /* equal operands */
            memcpy(fpu->xmm[i], fpu->xmm[copy], 16);
            memcpy(fpu->ymm_high[i], fpu->ymm_high[copy], 16);
        }
    }
    fpu->xstate_bv = 7;
    if (isa_chance(rng, 6)) {
        fpu->xstate_bv = 3;
        memset(fpu->ymm_high, 0, sizeof(fpu->ymm_high));
    }
}
