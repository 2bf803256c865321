/*
 * control/journal.h: what a journal of ext4's (JBD2) would change if it were
 * replayed, as a mount does after a machine has stopped without warning: which
 * blocks of the file system have a newer content in it. Everything in it is
 * hostile; nothing is written.
 */
#ifndef CONTROL_JOURNAL_H
#define CONTROL_JOURNAL_H

#include "base/types.h"

struct journal_record {
    uint64_t block;    /* of the file system */
    uint32_t sequence; /* of its transaction */
    uint32_t at;       /* block of the journal; 0: revoked, not written */
    uint32_t order;
    bool escaped; /* its first four bytes are the journal's magic number and stand as zeros there */
};

struct journal {
    uint8_t *data; /* all of it */
    uint32_t block_size;
    struct journal_record *record; /* once open: the newest of each block, in the blocks' order */
    uint32_t count, room;
};

/* Takes over data, the whole content of the journal's inode, even if it fails. -EINVAL: no journal, or of a kind that
 * is not known; -EFBIG; -ENOMEM. A journal that was never opened is all zeros. */
int journal_open(struct journal *journal, uint8_t *data, uint64_t size, uint32_t block_size);
void journal_close(struct journal *journal);

/* Copies a part of a block that the journal has a newer content of. False: it has none. */
bool journal_read(const struct journal *journal, uint64_t block, uint32_t offset, void *data, uint32_t len);

#endif
