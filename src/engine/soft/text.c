/* engine/soft/text.c: see text.h. */
#include "engine/soft/text.h"

#include <stdlib.h>

struct text_table *text_table_new(void)
{
    struct text_table *table = calloc(1, sizeof(*table));

    for (unsigned i = 0; table && i < TEXT_LOCKS; i++)
        lock_init(&table->lock[i], LOCK_TEXT);
    return table;
}

void text_table_free(struct text_table *table)
{
    for (unsigned i = 0; table && i < TEXT_LOCKS; i++)
        lock_destroy(&table->lock[i]);
    free(table);
}

static unsigned place_of(uint64_t key)
{
    return (unsigned)(key * 0x9e3779b97f4a7c15ull >> (64 - TEXT_BITS));
}

struct text *text_find(struct text_table *table, uint64_t key)
{
    const unsigned place = place_of(key);
    struct lock *lock = &table->lock[place % TEXT_LOCKS];
    struct text *text;

    lock_take(lock);
    text = table->place[place];
    if (text && text->key == key)
        text->users++;
    else
        text = NULL;
    lock_drop(lock);
    return text;
}

/* Who was in its place before is still its users', but nobody finds it any more. */
void text_enter(struct text_table *table, struct text *text)
{
    const unsigned place = place_of(text->key);
    struct lock *lock = &table->lock[place % TEXT_LOCKS];

    text->users = 1;
    lock_take(lock);
    table->place[place] = text;
    lock_drop(lock);
}

void text_release(struct text_table *table, struct text *text)
{
    const unsigned place = place_of(text->key);
    struct lock *lock = &table->lock[place % TEXT_LOCKS];
    bool unused;

    lock_take(lock);
    unused = --text->users == 0;
    if (unused && table->place[place] == text)
        table->place[place] = NULL;
    lock_drop(lock);
    if (unused)
        free(text);
}
