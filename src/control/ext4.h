/*
 * control/ext4.h: reads files from an ext4 file system that fills a disk: the
 * kernel a guest brings along. Everything on the disk is hostile; nothing is
 * written.
 */
#ifndef CONTROL_EXT4_H
#define CONTROL_EXT4_H

#include "backend/block/block.h"
#include "base/types.h"

/* The file at an absolute path, following symbolic links; at most max bytes. After a machine that stopped without
 * warning it is what a mount would find, its journal replayed. *data is the caller's to free. -ENOENT: no
 * such file; -EINVAL: no such file system, or damaged; -EFBIG; -ENOMEM; -EIO. */
int ext4_read_file(struct block *block, const char *path, uint64_t max, uint8_t **data, uint64_t *size);

#endif
