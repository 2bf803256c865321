/* exec/x87_env.c: the environment (see x87_env.h) and the stack's top. Knows struct x86_cpu only. */
#include <string.h>

#include "x86/exec/fpu.h"
#include "x86/exec/x87_env.h"

void x86_fpu_set_top(struct x86_cpu *cpu, unsigned top)
{
    unsigned shift = (top - x86_fpu_top(cpu)) & 7;
    uint8_t st[8][16];

    if (!shift)
        return;
    memcpy(st, cpu->fpu.st, sizeof(st));
    for (unsigned i = 0; i < 8; i++)
        memcpy(cpu->fpu.st[i], st[(i + shift) & 7], sizeof(st[0]));
    cpu->fpu.fsw = (uint16_t)((cpu->fpu.fsw & ~FSW_TOP) | top << FSW_TOP_SHIFT);
}

enum tag { TAG_VALID, TAG_ZERO, TAG_SPECIAL, TAG_EMPTY };

static enum tag tag_of(const uint8_t st[16])
{
    uint64_t significand;
    uint16_t exponent;

    memcpy(&significand, st, 8);
    memcpy(&exponent, st + 8, 2);
    exponent &= 0x7fff;
    if (!exponent && !significand)
        return TAG_ZERO;
    return exponent && exponent != 0x7fff && significand >> 63 ? TAG_VALID : TAG_SPECIAL;
}

/* The full tag word is by physical register, two bits each. */
static uint16_t full_tags(const struct x86_cpu *cpu)
{
    unsigned top = x86_fpu_top(cpu);
    uint16_t tags = 0;

    for (unsigned r = 0; r < 8; r++) {
        enum tag tag = cpu->fpu.ftw >> r & 1 ? tag_of(cpu->fpu.st[(r - top) & 7]) : TAG_EMPTY;

        tags |= (uint16_t)(tag << (2 * r));
    }
    return tags;
}

static uint8_t abridged_tags(uint16_t tags)
{
    uint8_t ftw = 0;

    for (unsigned r = 0; r < 8; r++)
        if ((tags >> (2 * r) & 3) != TAG_EMPTY)
            ftw |= (uint8_t)(1 << r);
    return ftw;
}

/* Real mode has no selectors in the image but linear addresses, 4 (16-bit) or 16 bits of which are above the first
 * word, in bits 15:12 and 27:12. */
unsigned x86_env_store(const struct x86_cpu *cpu, unsigned opsize, uint8_t env[X87_ENV_SIZE])
{
    const struct x86_fpu *fpu = &cpu->fpu;
    bool real = !x86_protected(cpu);
    uint32_t ip = (uint32_t)fpu->fip, dp = (uint32_t)fpu->fdp;
    uint32_t words[7] = {fpu->fcw, fpu->fsw, full_tags(cpu)};

    if (real) {
        ip += (uint32_t)cpu->fcs << 4;
        dp += (uint32_t)cpu->fds << 4;
    }
    if (opsize == 2) {
        uint16_t image[7] = {fpu->fcw, fpu->fsw, full_tags(cpu), (uint16_t)ip, cpu->fcs, (uint16_t)dp, cpu->fds};

        if (real) {
            image[4] = (uint16_t)((ip >> 16 & 15) << 12 | fpu->fop);
            image[6] = (uint16_t)((dp >> 16 & 15) << 12);
        }
        memcpy(env, image, sizeof(image));
        return sizeof(image);
    }
    words[3] = ip;
    words[4] = (uint32_t)cpu->fcs | (uint32_t)fpu->fop << 16;
    words[5] = dp;
    words[6] = cpu->fds | 0xffff0000;
    if (real) {
        words[3] = (ip & 0xffff) | 0xffff0000;
        words[4] = ip >> 16 << 12 | fpu->fop;
        words[5] = (dp & 0xffff) | 0xffff0000;
        words[6] = dp >> 16 << 12;
    }
    for (unsigned i = 0; i < 3; i++)
        words[i] |= 0xffff0000;
    memcpy(env, words, sizeof(words));
    return sizeof(words);
}

void x86_env_load(struct x86_cpu *cpu, unsigned opsize, const uint8_t env[X87_ENV_SIZE])
{
    struct x86_fpu *fpu = &cpu->fpu;
    bool real = !x86_protected(cpu);
    uint16_t image[7];
    uint32_t words[7];

    if (opsize == 2) {
        memcpy(image, env, sizeof(image));
        for (unsigned i = 0; i < 7; i++)
            words[i] = image[i];
        fpu->fop = real ? words[4] & 0x7ff : fpu->fop;
    } else {
        memcpy(words, env, sizeof(words));
        fpu->fop = (real ? words[4] : words[4] >> 16) & 0x7ff;
    }
    fpu->fip = words[3];
    fpu->fdp = words[5];
    cpu->fcs = real ? 0 : (uint16_t)words[4];
    cpu->fds = real ? 0 : (uint16_t)words[6];
    if (real) {
        fpu->fip = (words[3] & 0xffff) | (opsize == 2 ? words[4] >> 12 : words[4] >> 12 & 0xffff) << 16;
        fpu->fdp = (words[5] & 0xffff) | (opsize == 2 ? words[6] >> 12 : words[6] >> 12 & 0xffff) << 16;
    }
    x86_fpu_set_top(cpu, words[1] >> FSW_TOP_SHIFT & 7);
    fpu->fsw = (uint16_t)words[1];
    fpu->ftw = abridged_tags((uint16_t)words[2]);
    x86_fpu_set_control(fpu, (uint16_t)words[0]);
}
