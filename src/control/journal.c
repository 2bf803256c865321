/*
 * control/journal.c: descriptor, revoke and commit blocks (kernel.org, "ext4
 * Data Structures and Algorithms", 3.6 Journal). Checksums are not looked at: a
 * commit block is written after what it commits is on the disk; journals that
 * promise less are refused.
 */
#include "control/journal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define MAGIC       0xc03b3998u
#define HEADER      12
#define RECORDS_MAX 1000000u

enum { DESCRIPTOR = 1, COMMIT = 2, SUPERBLOCK_1 = 3, SUPERBLOCK_2 = 4, REVOKE = 5 };

/* Offsets in the superblock. */
enum { S_BLOCK_SIZE = 12, S_BLOCKS = 16, S_FIRST = 20, S_SEQUENCE = 24, S_START = 28, S_INCOMPAT = 40, S_END = 64 };

#define INCOMPAT_REVOKE 0x01u
#define INCOMPAT_64BIT  0x02u
#define INCOMPAT_CSUM_2 0x08u
#define INCOMPAT_CSUM_3 0x10u
#define INCOMPAT_KNOWN  (INCOMPAT_REVOKE | INCOMPAT_64BIT | INCOMPAT_CSUM_2 | INCOMPAT_CSUM_3)

#define TAG_ESCAPED   1u
#define TAG_SAME_UUID 2u
#define TAG_LAST      8u

struct scan {
    struct journal *journal;
    uint32_t incompat, first, end; /* the log is a ring of the blocks from first to end */
    uint32_t at, sequence, left;   /* next block, the transaction it should be of, blocks not yet looked at */
};

static uint16_t get16(const uint8_t *p)
{
    return (uint16_t)(p[0] << 8 | p[1]);
}

static uint32_t get32(const uint8_t *p)
{
    return (uint32_t)get16(p) << 16 | get16(p + 2);
}

/* --- records ------------------------------------------------------------------------------------ */

static int add_record(struct scan *scan, uint64_t block, uint32_t at, bool escaped)
{
    struct journal *journal = scan->journal;

    if (journal->count == journal->room) {
        uint32_t room = MAX(2 * journal->room, 1024);
        struct journal_record *more = room > 2 * RECORDS_MAX ? NULL : realloc(journal->record, room * sizeof(*more));

        if (!more)
            return room > 2 * RECORDS_MAX ? -EFBIG : -ENOMEM;
        journal->record = more;
        journal->room = room;
    }
    journal->record[journal->count] = (struct journal_record){
        .block = block, .sequence = scan->sequence, .at = at, .order = journal->count, .escaped = escaped};
    journal->count++;
    return 0;
}

static int compare(const void *a, const void *b)
{
    const struct journal_record *x = a, *y = b;

    return x->block != y->block ? (x->block < y->block ? -1 : 1) : x->order < y->order ? -1 : x->order > y->order;
}

/* Sequence numbers go round. */
static bool newer(uint32_t a, uint32_t b)
{
    return (int32_t)(a - b) > 0;
}

/* The newest content of a block, which is not older than its newest revocation; records [from, to) are of one block. */
static const struct journal_record *newest(const struct journal_record *record, uint32_t from, uint32_t to)
{
    const struct journal_record *revoked = NULL, *written = NULL;

    for (uint32_t i = from; i < to; i++)
        if (!record[i].at && (!revoked || newer(record[i].sequence, revoked->sequence)))
            revoked = &record[i];
    for (uint32_t i = from; i < to; i++)
        if (record[i].at && (!revoked || newer(record[i].sequence, revoked->sequence)))
            written = &record[i];
    return written;
}

static void keep_newest(struct journal *journal)
{
    struct journal_record *record = journal->record;
    uint32_t kept = 0;

    if (journal->count)
        qsort(record, journal->count, sizeof(*record), compare);
    for (uint32_t from = 0, to; from < journal->count; from = to) {
        const struct journal_record *best;

        for (to = from + 1; to < journal->count && record[to].block == record[from].block; to++)
            ;
        best = newest(record, from, to);
        if (best)
            record[kept++] = *best;
    }
    journal->count = kept;
}

/* --- the log ------------------------------------------------------------------------------------ */

/* The number of the next block of the log; 0: all of it has been looked at. */
static uint32_t step(struct scan *scan)
{
    uint32_t at = scan->at;

    if (!scan->left)
        return 0;
    scan->left--;
    scan->at = at + 1 == scan->end ? scan->first : at + 1;
    return at;
}

static const uint8_t *block_at(const struct scan *scan, uint32_t at)
{
    return scan->journal->data + (size_t)at * scan->journal->block_size;
}

static unsigned tag_size(uint32_t incompat)
{
    if (incompat & INCOMPAT_CSUM_3)
        return 16;
    return 8 + (incompat & INCOMPAT_CSUM_2 ? 2 : 0) + (incompat & INCOMPAT_64BIT ? 4 : 0);
}

/* The tags of a descriptor block, and with each the block behind it that it is about. */
static int read_descriptor(struct scan *scan, const uint8_t *block)
{
    const unsigned size = tag_size(scan->incompat);
    const bool third = scan->incompat & INCOMPAT_CSUM_3;
    const uint32_t room = scan->journal->block_size - (scan->incompat & (INCOMPAT_CSUM_2 | INCOMPAT_CSUM_3) ? 4 : 0);
    uint32_t flags = 0;

    for (uint32_t at = HEADER; !(flags & TAG_LAST) && at + size <= room; at += size) {
        const uint8_t *tag = block + at;
        uint64_t number = get32(tag);
        uint32_t where = step(scan);
        int rc;

        flags = third ? get32(tag + 4) : get16(tag + 6);
        if (scan->incompat & INCOMPAT_64BIT)
            number |= (uint64_t)get32(tag + 8) << 32;
        if (!where)
            return -EINVAL;
        rc = add_record(scan, number, where, flags & TAG_ESCAPED);
        if (rc)
            return rc;
        at += flags & TAG_SAME_UUID ? 0 : 16;
    }
    return 0;
}

static int read_revocations(struct scan *scan, const uint8_t *block)
{
    const unsigned size = scan->incompat & INCOMPAT_64BIT ? 8 : 4;
    uint32_t used = MIN(get32(block + HEADER), scan->journal->block_size);
    int rc = 0;

    for (uint32_t at = HEADER + 4; !rc && at + size <= used; at += size)
        rc = add_record(scan, size == 8 ? (uint64_t)get32(block + at) << 32 | get32(block + at + 4) : get32(block + at),
                        0, false);
    return rc;
}

/* Transaction after transaction, until one was not committed. */
static int read_log(struct scan *scan)
{
    uint32_t committed = 0, at;
    int rc = 0;

    while (!rc && (at = step(scan))) {
        const uint8_t *block = block_at(scan, at);

        if (get32(block) != MAGIC || get32(block + 8) != scan->sequence)
            break;
        switch (get32(block + 4)) {
        case DESCRIPTOR:
            rc = read_descriptor(scan, block);
            break;
        case REVOKE:
            rc = read_revocations(scan, block);
            break;
        case COMMIT:
            committed = scan->journal->count;
            scan->sequence++;
            break;
        default:
            rc = -EINVAL;
        }
    }
    scan->journal->count = committed;
    return rc == -EINVAL ? 0 : rc; /* what makes no sense was not committed */
}

static int open_log(struct scan *scan, uint64_t size)
{
    struct journal *journal = scan->journal;
    const uint8_t *super = journal->data;
    uint32_t type;

    if (size < journal->block_size || journal->block_size < 1024)
        return -EINVAL;
    type = get32(super + 4);
    scan->incompat = type == SUPERBLOCK_2 ? get32(super + S_INCOMPAT) : 0;
    scan->first = get32(super + S_FIRST);
    scan->end = get32(super + S_BLOCKS);
    scan->at = get32(super + S_START);
    scan->sequence = get32(super + S_SEQUENCE);
    if (get32(super) != MAGIC || (type != SUPERBLOCK_1 && type != SUPERBLOCK_2) ||
        get32(super + S_BLOCK_SIZE) != journal->block_size || (scan->incompat & ~INCOMPAT_KNOWN) || !scan->first ||
        scan->first >= scan->end || scan->end > size / journal->block_size)
        return -EINVAL;
    if (!scan->at) /* nothing to be replayed */
        return 0;
    if (scan->at < scan->first || scan->at >= scan->end)
        return -EINVAL;
    scan->left = scan->end - scan->first;
    return read_log(scan);
}

int journal_open(struct journal *journal, uint8_t *data, uint64_t size, uint32_t block_size)
{
    struct scan scan = {.journal = journal};
    int rc;

    *journal = (struct journal){.data = data, .block_size = block_size};
    rc = open_log(&scan, size);
    if (rc)
        journal_close(journal);
    else
        keep_newest(journal);
    return rc;
}

void journal_close(struct journal *journal)
{
    free(journal->data);
    free(journal->record);
    *journal = (struct journal){0};
}

/* --- reading ------------------------------------------------------------------------------------- */

static int compare_block(const void *key, const void *b)
{
    uint64_t x = *(const uint64_t *)key, y = ((const struct journal_record *)b)->block;

    return x < y ? -1 : x > y;
}

bool journal_read(const struct journal *journal, uint64_t block, uint32_t offset, void *data, uint32_t len)
{
    static const uint8_t magic[4] = {0xc0, 0x3b, 0x39, 0x98};
    const struct journal_record *record;

    record = journal->count ? bsearch(&block, journal->record, journal->count, sizeof(*record), compare_block) : NULL;
    if (!record)
        return false;
    memcpy(data, journal->data + (size_t)record->at * journal->block_size + offset, len);
    if (record->escaped && offset < sizeof(magic))
        memcpy(data, magic + offset, MIN(len, sizeof(magic) - offset));
    return true;
}
