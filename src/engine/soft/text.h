/*
 * engine/soft/text.h: what a block's bytes decode to. That never changes, so the
 * vCPUs of a VM share it: what one has decoded the others find, by address, mode
 * and bytes. Everything else about a block is each vCPU's own.
 *
 * The table knows texts that are in use, as many as it has places for. Any thread.
 */
#ifndef ENGINE_SOFT_TEXT_H
#define ENGINE_SOFT_TEXT_H

#include "base/lock.h"
#include "x86/insn.h"

struct text {
    uint64_t key;   /* block_key() */
    uint32_t users; /* blocks; under its place's lock */
    uint16_t bytes;
    uint8_t count;
    struct x86_insn insn[]; /* and then the bytes */
};

#define TEXT_BITS  16
#define TEXT_LOCKS 64

struct text_table {
    struct lock lock[TEXT_LOCKS]; /* of the places with that number, modulo */
    struct text *place[1 << TEXT_BITS];
};

/* NULL: no memory. */
struct text_table *text_table_new(void);
void text_table_free(struct text_table *table); /* no text is in use any more */

static inline size_t text_size(unsigned count, unsigned bytes)
{
    return sizeof(struct text) + count * sizeof(struct x86_insn) + bytes;
}

static inline const uint8_t *text_bytes(const struct text *text)
{
    return (const uint8_t *)&text->insn[text->count];
}

/* That of the key, with one more user, or NULL. Its bytes may be others than those in memory. */
struct text *text_find(struct text_table *table, uint64_t key);
/* A new one, with one user; malloc's. */
void text_enter(struct text_table *table, struct text *text);
/* One user less; without any it is freed. */
void text_release(struct text_table *table, struct text *text);

#endif
