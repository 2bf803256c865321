/*
 * control/ext4.c: superblock, group descriptors, inodes, extents, directories
 * (kernel.org, "ext4 Data Structures and Algorithms"). Directories are read
 * from end to end: a hashed one has all its entries in its blocks too.
 */
#include "control/ext4.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "control/journal.h"

#define SUPERBLOCK     1024
#define MAGIC          0xef53
#define EXTENT_MAGIC   0xf30a
#define ROOT_INODE     2
#define DIRECTORY_MAX  MIB(8)
#define LINKS_MAX      16
#define EXTENT_DEPTH   5
#define UNWRITTEN      32768 /* an extent's length above this: allocated, reads as zeros */
#define MODE_TYPE      0xf000
#define MODE_DIRECTORY 0x4000
#define MODE_LINK      0xa000
#define MODE_FILE      0x8000
#define FLAG_EXTENTS   0x80000u
#define PATH_ROOM      1024
#define JOURNAL_MAX    GIB(1)

/* Incompatible features we can read past. */
#define INCOMPAT_RECOVER 0x4u /* the journal is to be replayed */
#define INCOMPAT_64BIT   0x80u
#define INCOMPAT_KNOWN                                                                                                 \
    (0x2u /* types in directories */ | INCOMPAT_RECOVER | 0x40u /* extents */ | INCOMPAT_64BIT |                       \
     0x200u /* flexible groups */ | 0x2000u /* checksum seed */)

struct ext4 {
    struct block *block;
    uint32_t block_size, inodes, inodes_per_group, inode_size, descriptor_size;
    uint64_t descriptors; /* byte offset of the group descriptors */
    struct journal journal;
};

struct inode {
    uint16_t mode;
    uint32_t flags;
    uint64_t size;
    uint8_t map[60]; /* root of the extent tree, or a short link's target */
};

static uint16_t get16(const uint8_t *p)
{
    return (uint16_t)(p[0] | p[1] << 8);
}

static uint32_t get32(const uint8_t *p)
{
    return get16(p) | (uint32_t)get16(p + 2) << 16;
}

/* --- the file system ------------------------------------------------------------------------- */

/* What is at a byte offset, as it will be once the journal has been replayed. */
static int read_bytes(const struct ext4 *fs, uint64_t offset, void *data, uint64_t len)
{
    uint8_t *to = data;
    int rc = 0;

    if (!fs->journal.count)
        return block_read(fs->block, offset, data, len);
    while (!rc && len) {
        uint32_t within = (uint32_t)(offset % fs->block_size), piece = (uint32_t)MIN(len, fs->block_size - within);

        if (!journal_read(&fs->journal, offset / fs->block_size, within, to, piece))
            rc = block_read(fs->block, offset, to, piece);
        offset += piece;
        to += piece;
        len -= piece;
    }
    return rc;
}

/* *journal: the inode of a journal that is to be replayed, or 0. */
static int read_superblock(struct ext4 *fs, uint32_t *journal)
{
    uint8_t super[1024];
    uint32_t log_size, incompat;
    int rc = read_bytes(fs, SUPERBLOCK, super, sizeof(super));

    if (rc)
        return rc;
    log_size = get32(super + 24);
    incompat = get32(super + 96);
    if (get16(super + 56) != MAGIC || log_size > 6 || (incompat & ~INCOMPAT_KNOWN))
        return -EINVAL;
    fs->block_size = 1024u << log_size;
    fs->inodes = get32(super);
    fs->inodes_per_group = get32(super + 40);
    fs->inode_size = get16(super + 88);
    fs->descriptor_size = incompat & INCOMPAT_64BIT ? get16(super + 254) : 32;
    fs->descriptors = ((uint64_t)get32(super + 20) + 1) * fs->block_size;
    *journal = incompat & INCOMPAT_RECOVER ? get32(super + 224) : 0;
    if (!fs->inodes_per_group || fs->inode_size < 128 || fs->inode_size > fs->block_size || fs->descriptor_size < 32 ||
        fs->descriptor_size > 1024 || ((incompat & INCOMPAT_RECOVER) && !*journal /* it is on another disk */))
        return -EINVAL;
    return 0;
}

static int read_inode(const struct ext4 *fs, uint32_t number, struct inode *inode)
{
    uint8_t descriptor[64] = {0}, raw[128];
    uint32_t group = (number - 1) / fs->inodes_per_group, index = (number - 1) % fs->inodes_per_group;
    uint64_t table;
    int rc;

    if (!number || number > fs->inodes)
        return -EINVAL;
    rc = read_bytes(fs, fs->descriptors + (uint64_t)group * fs->descriptor_size, descriptor,
                    MIN(fs->descriptor_size, sizeof(descriptor)));
    if (rc)
        return rc;
    table = get32(descriptor + 8) | (uint64_t)get32(descriptor + 40) << 32;
    if (table > UINT64_MAX / fs->block_size / 2)
        return -EINVAL;
    rc = read_bytes(fs, table * fs->block_size + (uint64_t)index * fs->inode_size, raw, sizeof(raw));
    if (rc)
        return rc;
    inode->mode = get16(raw);
    inode->flags = get32(raw + 32);
    inode->size = get32(raw + 4) | (uint64_t)get32(raw + 108) << 32;
    memcpy(inode->map, raw + 40, sizeof(inode->map));
    return 0;
}

/* --- extents ----------------------------------------------------------------------------------- */

/* Where a run of blocks is; start 0: a hole. */
struct run {
    uint64_t start;
    uint32_t count;
};

/* One node of the tree: the run that holds `logical`, or the child to go to (returns 1). */
static int search_node(const uint8_t *node, size_t size, unsigned depth, uint32_t logical, struct run *run,
                       uint64_t *child)
{
    unsigned entries = get16(node + 2);
    uint32_t next = UINT32_MAX;

    if (get16(node) != EXTENT_MAGIC || get16(node + 6) != depth || 12 + 12 * (size_t)entries > size)
        return -EINVAL;
    *child = 0;
    for (unsigned i = 0; i < entries; i++) {
        const uint8_t *e = node + 12 + 12 * i;
        uint32_t first = get32(e), len = get16(e + 4);

        if (first > logical) {
            next = first;
            break;
        }
        if (depth) {
            *child = get32(e + 4) | (uint64_t)get16(e + 8) << 32;
        } else if (logical - first < (len > UNWRITTEN ? len - UNWRITTEN : len)) {
            uint32_t left = (len > UNWRITTEN ? len - UNWRITTEN : len) - (logical - first);
            uint64_t start = get32(e + 8) | (uint64_t)get16(e + 6) << 32;

            *run = (struct run){len > UNWRITTEN ? 0 : start + (logical - first), left};
            return 0;
        }
    }
    if (depth && *child)
        return 1;
    *run = (struct run){0, next == UINT32_MAX ? 1 : next - logical}; /* the next leaf may begin anywhere */
    return 0;
}

static int find_run(const struct ext4 *fs, const struct inode *inode, uint32_t logical, struct run *run)
{
    unsigned depth = get16(inode->map + 6);
    uint8_t *node;
    uint64_t child;
    int rc;

    if (!(inode->flags & FLAG_EXTENTS) || depth > EXTENT_DEPTH)
        return -EINVAL;
    rc = search_node(inode->map, sizeof(inode->map), depth, logical, run, &child);
    node = rc > 0 ? malloc(fs->block_size) : NULL;
    if (rc > 0 && !node)
        return -ENOMEM;
    while (rc > 0) {
        depth--;
        rc = child > UINT64_MAX / fs->block_size / 2 ? -EINVAL
                                                     : read_bytes(fs, child * fs->block_size, node, fs->block_size);
        if (!rc)
            rc = search_node(node, fs->block_size, depth, logical, run, &child);
    }
    free(node);
    return rc;
}

/* The whole content, which the caller frees. */
static int read_content(const struct ext4 *fs, const struct inode *inode, uint64_t max, uint8_t **data)
{
    uint64_t done = 0;
    int rc = 0;

    if (inode->size > max)
        return -EFBIG;
    *data = calloc(1, inode->size + 1);
    if (!*data)
        return -ENOMEM;
    while (!rc && done < inode->size) {
        struct run run = {0, 1};
        uint64_t len;

        rc = find_run(fs, inode, (uint32_t)(done / fs->block_size), &run);
        len = MIN((uint64_t)run.count * fs->block_size, inode->size - done);
        if (!rc && run.start)
            rc = run.start > UINT64_MAX / fs->block_size / 2
                     ? -EINVAL
                     : read_bytes(fs, run.start * fs->block_size, *data + done, len);
        done += len;
    }
    if (rc)
        free(*data);
    return rc;
}

/* --- opening ----------------------------------------------------------------------------------- */

static int load_journal(struct ext4 *fs, uint32_t number)
{
    struct inode inode;
    uint8_t *data;
    int rc = read_inode(fs, number, &inode);

    if (!rc)
        rc = read_content(fs, &inode, JOURNAL_MAX, &data);
    return rc ? rc : journal_open(&fs->journal, data, inode.size, fs->block_size);
}

static int open_file_system(struct ext4 *fs, struct block *block)
{
    uint32_t journal;
    int rc;

    *fs = (struct ext4){.block = block};
    rc = read_superblock(fs, &journal);
    if (!rc && journal) {
        rc = load_journal(fs, journal);
        if (!rc)
            rc = read_superblock(fs, &journal);
        if (!rc && fs->block_size != fs->journal.block_size)
            rc = -EINVAL;
        if (rc)
            journal_close(&fs->journal);
    }
    return rc;
}

/* --- names ------------------------------------------------------------------------------------- */

/* The inode of a name in a directory's content; 0: not there, or damaged. */
static uint32_t find_name(const uint8_t *data, uint64_t size, const char *name, size_t len)
{
    for (uint64_t at = 0; size >= 8 && at <= size - 8;) {
        uint32_t inode = get32(data + at);
        uint16_t step = get16(data + at + 4);
        uint8_t name_len = data[at + 6];

        if (step < 8 || step > size - at || 8u + name_len > step)
            return 0;
        if (inode && name_len == len && !memcmp(data + at + 8, name, len))
            return inode;
        at += step;
    }
    return 0;
}

static int look_up(const struct ext4 *fs, uint32_t directory, const char *name, size_t len, uint32_t *number)
{
    struct inode inode;
    uint8_t *data;
    int rc = read_inode(fs, directory, &inode);

    if (!rc && (inode.mode & MODE_TYPE) != MODE_DIRECTORY)
        rc = -ENOENT;
    if (!rc)
        rc = read_content(fs, &inode, DIRECTORY_MAX, &data);
    if (rc)
        return rc;
    *number = find_name(data, inode.size, name, len);
    free(data);
    return *number ? 0 : -ENOENT;
}

/* Puts a link's target in front of what is left of the path. */
static int follow(const struct ext4 *fs, const struct inode *inode, char *path, const char *rest)
{
    char joined[PATH_ROOM];
    uint8_t *target = NULL;
    size_t len = inode->size, rest_len = strlen(rest);
    int rc = 0;

    if (len + rest_len + 2 > sizeof(joined))
        return -ENOENT;
    if (inode->flags & FLAG_EXTENTS)
        rc = read_content(fs, inode, PATH_ROOM, &target);
    else if (len > sizeof(inode->map))
        rc = -EINVAL;
    if (rc)
        return rc;
    memcpy(joined, target ? target : inode->map, len);
    free(target);
    joined[len] = '/';
    memcpy(joined + len + 1, rest, rest_len + 1);
    memcpy(path, joined, len + rest_len + 2);
    return 0;
}

static int resolve(const struct ext4 *fs, const char *name, struct inode *inode)
{
    char path[PATH_ROOM], *at = path;
    uint32_t directory = ROOT_INODE, number = ROOT_INODE;
    unsigned links = 0;
    int rc;

    if (strlen(name) >= sizeof(path))
        return -ENOENT;
    strcpy(path, name);
    rc = read_inode(fs, number, inode);
    while (!rc) {
        size_t len;

        if (at == path && *at == '/')
            directory = number = ROOT_INODE;
        at += strspn(at, "/");
        len = strcspn(at, "/");
        if (!len)
            break;
        directory = number;
        rc = look_up(fs, directory, at, len, &number);
        if (!rc)
            rc = read_inode(fs, number, inode);
        at += len;
        if (!rc && (inode->mode & MODE_TYPE) == MODE_LINK) {
            rc = ++links > LINKS_MAX ? -ELOOP : follow(fs, inode, path, at);
            at = path;
            number = directory;
        }
    }
    return rc;
}

int ext4_read_file(struct block *block, const char *path, uint64_t max, uint8_t **data, uint64_t *size)
{
    struct inode inode;
    struct ext4 fs;
    int rc = open_file_system(&fs, block);

    if (rc)
        return rc;
    rc = resolve(&fs, path, &inode);
    if (!rc && (inode.mode & MODE_TYPE) != MODE_FILE)
        rc = -ENOENT;
    if (!rc)
        rc = read_content(&fs, &inode, max, data);
    if (!rc)
        *size = inode.size;
    journal_close(&fs.journal);
    return rc;
}
