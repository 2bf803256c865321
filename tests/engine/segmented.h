/* segmented.h: segments for hot code; for segmented.c and segmented_code.c. */
#ifndef ENGINE_SEGMENTED_H
#define ENGINE_SEGMENTED_H

#include "kit/desc.h"
#include "kit/regs.h"

#define SEL  FREE_SEL
#define SEL2 (FREE_SEL + 8)
#define SEL3 (FREE_SEL + 16)
#define SEL4 (FREE_SEL + 24)
#define OK   0x80

static inline struct context place(const char *code, word size)
{
    memcpy((void *)USER_CODE, code, size);
    return user_context(USER_CODE);
}
#define USER(code) place(code, CODE_SIZE(code))

static inline void data_segment(unsigned selector, word base, word limit)
{
    gdt_set(selector, base, limit, ACC_DATA | ACC_USER, FLAG_D);
}

static inline void flat_data(unsigned selector, word base)
{
    gdt_set(selector, base, 0xfffff, ACC_DATA | ACC_USER, FLAG_D | FLAG_G);
}

static inline void code_segment(unsigned selector, word base, word limit)
{
    gdt_set(selector, base, limit, ACC_CODE | ACC_USER, FLAG_D);
}

static inline uint32_t *low_memory(word at)
{
    asm("" : "+r"(at)); /* not a null pointer with an offset */
    return (uint32_t *)at;
}

static inline void fill_data(void)
{
    for (unsigned i = 0; i < 2 * PAGE; i++)
        *(uint8_t *)(USER_DATA + i) = (uint8_t)(i * 7 + (i >> 8));
}

#endif
