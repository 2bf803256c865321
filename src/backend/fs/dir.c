/*
 * backend/fs/dir.c: reading directories, with the attributes of what is in them
 * (READDIRPLUS) so that the guest need not ask for each. A cookie is the host's
 * own (d_off), so that a guest may go back to any.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "backend/fs/fs_internal.h"

#define ENTRIES KIB(32) /* what is asked of the host at once */

/* As getdents64 writes them. */
struct host_entry {
    uint64_t ino;
    int64_t off;
    uint16_t len;
    uint8_t type;
    char name[];
};

int fs_serve_opendir(struct fs *fs, struct fs_call *call)
{
    struct fuse_open_out out = {0};
    struct fs_inode *inode;
    int fd, rc;

    if (fs->config.constant)
        return -ENOSYS;
    inode = fs_get(fs, call->header.nodeid);
    if (!inode)
        return -ESTALE;
    rc = inode->key.type == S_IFDIR ? 0 : -ENOTDIR;
    if (!rc) {
        fd = fs_open_node(fs, inode, O_RDONLY | O_DIRECTORY | (fs->config.readonly ? O_NOATIME : 0));
        rc = MIN(fd, 0);
        if (!rc && !(out.fh = fs_add_file(fs, inode, fd)))
            rc = -ENFILE;
    }
    fs_put(fs, inode);
    if (!rc && (rc = fs_answer(call, &out, sizeof(out))))
        fs_close_file(fs, out.fh);
    return rc;
}

/* The next entry, or NULL: the end, or *rc. */
static const struct host_entry *peek(struct fs_handle *handle, int *rc)
{
    long n;

    if (!handle->entries && !(handle->entries = malloc(ENTRIES))) {
        *rc = -ENOMEM;
        return NULL;
    }
    if (handle->next == handle->end) {
        n = syscall(SYS_getdents64, handle->fd, handle->entries, (unsigned)ENTRIES);
        if (n <= 0) {
            *rc = n ? -errno : 0;
            return NULL;
        }
        handle->next = 0;
        handle->end = (unsigned)n;
    }
    return (const struct host_entry *)(const void *)(handle->entries + handle->next);
}

static int go_to(struct fs_handle *handle, uint64_t cookie)
{
    if (handle->position == cookie)
        return 0;
    handle->next = handle->end = 0;
    if (lseek(handle->fd, (off_t)cookie, SEEK_SET) < 0)
        return -errno;
    handle->position = cookie;
    return 0;
}

static bool is_dots(const char *name)
{
    return name[0] == '.' && (!name[1] || (name[1] == '.' && !name[2]));
}

/* The guest learns of an entry. One that is gone by now has no node: just a name. */
static void look_at(struct fs *fs, struct fs_handle *handle, const char *name, struct fuse_entry_out *out)
{
    struct statx st;

    *out = (struct fuse_entry_out){0};
    if (is_dots(name) || fs_stat_at(handle->fd, name, &st) || fs_entry(fs, handle->inode, name, &st, out))
        out->nodeid = 0;
}

/* 1: there is no more room. */
static int put_entry(struct fs *fs, struct fs_call *call, struct fs_handle *handle, const struct host_entry *entry,
                     bool plus, uint64_t room)
{
    union {
        struct fuse_direntplus plus;
        struct fuse_dirent plain;
        uint8_t bytes[FUSE_REC_ALIGN(sizeof(struct fuse_direntplus) + FS_NAME_MAX + 1)];
    } out;
    const size_t len = strnlen(entry->name, FS_NAME_MAX), head = plus ? sizeof(out.plus) : sizeof(out.plain);
    const size_t size = FUSE_REC_ALIGN(head + len);
    struct fuse_dirent *dirent = plus ? &out.plus.dirent : &out.plain;

    if (size > room)
        return 1;
    memset(out.bytes, 0, size);
    if (plus)
        look_at(fs, handle, entry->name, &out.plus.entry_out);
    *dirent = (struct fuse_dirent){.off = (uint64_t)entry->off, .namelen = (uint32_t)len, .type = entry->type};
    dirent->ino = plus && out.plus.entry_out.nodeid ? out.plus.entry_out.attr.ino
                                                    : fs_number(fs, handle->inode->key.dev, entry->ino);
    memcpy(out.bytes + head, entry->name, len);
    return fs_answer(call, out.bytes, size);
}

static int put_entries(struct fs *fs, struct fs_call *call, struct fs_handle *handle, uint64_t room, bool plus)
{
    const struct host_entry *entry;
    int rc = 0;

    while (call->answer < room && (entry = peek(handle, &rc))) {
        rc = put_entry(fs, call, handle, entry, plus, room - call->answer);
        if (rc)
            break;
        handle->next += entry->len;
        handle->position = (uint64_t)entry->off;
    }
    if (rc > 0) /* no room: fine, if it was one at least */
        rc = call->answer ? 0 : -EINVAL;
    return call->answer ? 0 : rc;
}

static int serve_readdir(struct fs *fs, struct fs_call *call, bool plus)
{
    struct fs_handle *handle;
    struct fuse_read_in in;
    int rc;

    memcpy(&in, call->body, sizeof(in));
    rc = fs_get_file(fs, in.fh, call->header.nodeid, true, &handle);
    if (rc)
        return rc;
    lock_take(&handle->lock);
    rc = go_to(handle, in.offset);
    if (!rc)
        rc = put_entries(fs, call, handle, MIN(MIN(in.size, ENTRIES), fs_room(call)), plus);
    lock_drop(&handle->lock);
    fs_put_file(fs, handle);
    return rc;
}

/* What is no storage is shown empty. */
static bool shown_empty(struct fs *fs, uint64_t node)
{
    struct fs_inode *inode = fs_get(fs, node);
    bool closed = inode && inode->closed;

    if (inode)
        fs_put(fs, inode);
    return closed;
}

int fs_serve_readdir(struct fs *fs, struct fs_call *call)
{
    return shown_empty(fs, call->header.nodeid) ? 0 : serve_readdir(fs, call, false);
}

int fs_serve_readdirplus(struct fs *fs, struct fs_call *call)
{
    return shown_empty(fs, call->header.nodeid) ? 0 : serve_readdir(fs, call, true);
}

int fs_serve_fsyncdir(struct fs *fs, struct fs_call *call)
{
    struct fs_handle *handle;
    struct fuse_fsync_in in;
    int rc;

    memcpy(&in, call->body, sizeof(in));
    if (fs->config.readonly)
        return 0;
    rc = fs_get_file(fs, in.fh, call->header.nodeid, true, &handle);
    if (rc)
        return rc;
    if (fsync(handle->fd))
        rc = -errno;
    fs_put_file(fs, handle);
    return rc;
}
