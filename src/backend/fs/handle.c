/*
 * backend/fs/handle.c: the files a guest has open. A handle is a slot and a
 * generation, as a node ID is. A guest of a constant directory opens nothing:
 * what it reads is opened here, and the last few are kept open.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

#include "backend/fs/fs_internal.h"

/* Takes fd. NULL: no memory. */
static struct fs_handle *new_handle(struct fs *fs, struct fs_inode *inode, int fd)
{
    struct fs_handle *handle = calloc(1, sizeof(*handle));

    if (!handle) {
        fs_close_fd(fd);
        return NULL;
    }
    handle->inode = inode;
    handle->fd = fd;
    handle->uses = 1;
    handle->directory = inode->key.type == S_IFDIR;
    lock_init(&handle->lock, LOCK_BACKEND);
    lock_take(&fs->lock);
    inode->uses++;
    inode->files++;
    lock_drop(&fs->lock);
    return handle;
}

static void free_handle(struct fs *fs, struct fs_handle *handle)
{
    lock_take(&fs->lock);
    handle->inode->files--;
    lock_drop(&fs->lock);
    fs_put(fs, handle->inode);
    fs_close_fd(handle->fd);
    lock_destroy(&handle->lock);
    free(handle->entries);
    free(handle);
}

void fs_put_file(struct fs *fs, struct fs_handle *handle)
{
    bool last;

    lock_take(&fs->lock);
    last = !--handle->uses;
    lock_drop(&fs->lock);
    if (last)
        free_handle(fs, handle);
}

uint64_t fs_add_file(struct fs *fs, struct fs_inode *inode, int fd)
{
    struct fs_handle *handle = new_handle(fs, inode, fd);
    uint64_t fh = 0;
    uint32_t slot;

    if (!handle)
        return 0;
    lock_take(&fs->lock);
    slot = fs_take_slot(&fs->file_slots);
    if (slot != UINT32_MAX) {
        fs->file[slot] = handle;
        fs->file_generation[slot] = fs->generation++;
        fh = (slot + 1) | (uint64_t)fs->file_generation[slot] << 32;
    }
    lock_drop(&fs->lock);
    if (!fh)
        free_handle(fs, handle);
    return fh;
}

/* With the lock held. UINT32_MAX: there is no such file. */
static uint32_t slot_of(const struct fs *fs, uint64_t fh)
{
    const uint32_t slot = (uint32_t)fh - 1;

    return slot < fs->file_slots.used && fs->file[slot] && fs->file_generation[slot] == fh >> 32 ? slot : UINT32_MAX;
}

/* --- constant: files are opened as they are read ----------------------------------------------------------- */

static struct fs_handle *cached(struct fs *fs, uint64_t node)
{
    const unsigned at = (uint32_t)node % FS_CACHE;
    struct fs_handle *handle = NULL;

    lock_take(&fs->lock);
    if (fs->cache[at].handle && fs->cache[at].id == node) {
        handle = fs->cache[at].handle;
        handle->uses++;
    }
    lock_drop(&fs->lock);
    return handle;
}

static void put_into_cache(struct fs *fs, uint64_t node, struct fs_handle *handle)
{
    const unsigned at = (uint32_t)node % FS_CACHE;
    struct fs_handle *old;

    lock_take(&fs->lock);
    old = fs->cache[at].handle;
    fs->cache[at].id = node;
    fs->cache[at].handle = handle;
    if (handle)
        handle->uses++;
    lock_drop(&fs->lock);
    if (old)
        fs_put_file(fs, old);
}

static int open_cached(struct fs *fs, uint64_t node, struct fs_handle **handle)
{
    struct fs_inode *inode;
    int fd;

    *handle = cached(fs, node);
    if (*handle)
        return 0;
    inode = fs_get(fs, node);
    if (!inode)
        return -ESTALE;
    fd = fs_open_node(fs, inode, O_RDONLY | O_NOATIME);
    if (fd >= 0) {
        *handle = new_handle(fs, inode, fd);
        if (*handle)
            put_into_cache(fs, node, *handle);
    }
    fs_put(fs, inode);
    if (fd < 0)
        return fd;
    return *handle ? 0 : -ENOMEM;
}

/* --- for the others ---------------------------------------------------------------------------------------- */

int fs_get_file(struct fs *fs, uint64_t fh, uint64_t node, bool directory, struct fs_handle **handle)
{
    uint32_t slot;
    int rc = 0;

    *handle = NULL;
    if (fs->config.constant) {
        rc = open_cached(fs, node, handle);
    } else {
        lock_take(&fs->lock);
        slot = slot_of(fs, fh);
        if (slot != UINT32_MAX && fs->file[slot]->inode->id == node) {
            *handle = fs->file[slot];
            (*handle)->uses++;
        }
        lock_drop(&fs->lock);
        rc = *handle ? 0 : -EBADF;
    }
    if (!rc && (*handle)->directory != directory) {
        fs_put_file(fs, *handle);
        *handle = NULL;
        rc = directory ? -ENOTDIR : -EISDIR;
    }
    return rc;
}

static struct fs_handle *take_out(struct fs *fs, uint32_t slot)
{
    struct fs_handle *handle = fs->file[slot];

    fs->file[slot] = NULL;
    fs_drop_slot(&fs->file_slots, slot);
    return handle;
}

void fs_close_file(struct fs *fs, uint64_t fh)
{
    struct fs_handle *handle = NULL;
    uint32_t slot;

    lock_take(&fs->lock);
    slot = slot_of(fs, fh);
    if (slot != UINT32_MAX)
        handle = take_out(fs, slot);
    lock_drop(&fs->lock);
    if (handle)
        fs_put_file(fs, handle);
}

void fs_close_all_files(struct fs *fs)
{
    for (uint32_t slot = 0; slot < fs->file_slots.used; slot++) {
        struct fs_handle *handle = NULL;

        lock_take(&fs->lock);
        if (fs->file[slot])
            handle = take_out(fs, slot);
        lock_drop(&fs->lock);
        if (handle)
            fs_put_file(fs, handle);
    }
    for (unsigned i = 0; i < FS_CACHE; i++)
        put_into_cache(fs, i, NULL);
}
