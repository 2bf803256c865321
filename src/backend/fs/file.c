/*
 * backend/fs/file.c: requests on an open file. Data goes from the host's page
 * cache to the guest's memory and back without a stop: the guest's buffers are
 * the system call's.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "backend/fs/fs_internal.h"

#define COPY_MAX   MIB(64)      /* of one request, so that none takes long */
#define SETTLED    100000000ull /* ns: a file that changed this recently may change again in the same tick */
#define OPEN_KEEPS (O_ACCMODE | O_TRUNC | O_SYNC | O_DSYNC)

/* --- opening ------------------------------------------------------------------------------------------------ */

int fs_open_flags(const struct fs *fs, uint32_t guest)
{
    int flags = (int)guest & OPEN_KEEPS;

    if (fs->config.readonly)
        return flags | O_NOATIME;
    if (fs->writeback && (flags & O_ACCMODE) == O_WRONLY) /* to write a part of a page it reads the rest */
        flags = (flags & ~O_ACCMODE) | O_RDWR;
    return flags;
}

/* Is the content what it was when the guest opened the file last? Then what it has of it is good. */
static bool unchanged(struct fs *fs, struct fs_inode *inode, int fd)
{
    struct fs_version now = {0};
    struct timespec clock;
    struct statx st;
    bool same;

    if (!fs_stat_at(fd, "", &st)) {
        now = (struct fs_version){
            .size = st.stx_size,
            .mtime = (uint64_t)st.stx_mtime.tv_sec * 1000000000 + st.stx_mtime.tv_nsec,
            .ctime = (uint64_t)st.stx_ctime.tv_sec * 1000000000 + st.stx_ctime.tv_nsec,
        };
        clock_gettime(CLOCK_REALTIME, &clock);
        if (now.ctime + SETTLED > (uint64_t)clock.tv_sec * 1000000000 + (uint64_t)clock.tv_nsec)
            now.ctime = 0;
    }
    lock_take(&fs->lock);
    same = now.ctime && !memcmp(&now, &inode->version, sizeof(now));
    inode->version = now;
    lock_drop(&fs->lock);
    return same;
}

int fs_open_for_guest(struct fs *fs, struct fs_inode *inode, uint32_t flags, struct fuse_open_out *out)
{
    int fd;

    if (fs->config.readonly && ((flags & O_ACCMODE) != O_RDONLY || (flags & O_TRUNC)))
        return -EROFS;
    if (inode->key.type != S_IFREG)
        return inode->key.type == S_IFDIR ? -EISDIR : -EACCES;
    fd = fs_open_node(fs, inode, fs_open_flags(fs, flags));
    if (fd < 0)
        return fd;
    *out = (struct fuse_open_out){.open_flags = fs->writeback || unchanged(fs, inode, fd) ? FOPEN_KEEP_CACHE : 0};
    out->fh = fs_add_file(fs, inode, fd);
    return out->fh ? 0 : -ENFILE;
}

int fs_serve_open(struct fs *fs, struct fs_call *call)
{
    struct fuse_open_out out;
    struct fs_inode *inode;
    struct fuse_open_in in;
    bool give_up;
    int rc;

    if (fs->config.constant)
        return -ENOSYS; /* the guest never asks again: see fs_get_file */
    memcpy(&in, call->body, sizeof(in));
    inode = fs_get(fs, call->header.nodeid);
    if (!inode)
        return -ESTALE;
    give_up = in.open_flags & FUSE_OPEN_KILL_SUIDGID;
    fs_give_up_setid(fs, give_up);
    rc = fs_open_for_guest(fs, inode, in.flags, &out);
    fs_regain_setid(fs, give_up);
    fs_put(fs, inode);
    if (!rc && (rc = fs_answer(call, &out, sizeof(out))))
        fs_close_file(fs, out.fh);
    return rc;
}

int fs_serve_release(struct fs *fs, struct fs_call *call)
{
    struct fuse_release_in in;

    memcpy(&in, call->body, sizeof(in));
    fs_close_file(fs, in.fh);
    return 0;
}

/* --- data ----------------------------------------------------------------------------------------------------------
 */

/* All of it, or up to the end of the file. FS_LATER: some is not in the host's memory. */
static int read_all(struct fs_call *call, int fd, uint64_t offset, uint64_t len)
{
    const struct fs_request *request = call->request;
    struct iovec iov[FS_IOV_MAX];

    while (call->answer < len) {
        unsigned count = fs_slice(iov, request->out, request->out_count, sizeof(struct fuse_out_header) + call->answer,
                                  len - call->answer);
        ssize_t n = preadv2(fd, iov, (int)count, (off_t)(offset + call->answer), call->may_wait ? 0 : RWF_NOWAIT);

        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0 && !call->may_wait && (errno == EAGAIN || errno == EOPNOTSUPP)) {
            call->answer = 0;
            return FS_LATER;
        }
        if (n < 0)
            return -errno;
        if (n == 0)
            break;
        call->answer += (uint64_t)n;
    }
    return 0;
}

int fs_serve_read(struct fs *fs, struct fs_call *call)
{
    struct fs_handle *handle;
    struct fuse_read_in in;
    int rc;

    memcpy(&in, call->body, sizeof(in));
    if (in.offset > INT64_MAX - UINT32_MAX)
        return -EINVAL;
    rc = fs_get_file(fs, in.fh, call->header.nodeid, false, &handle);
    if (rc)
        return rc;
    rc = read_all(call, handle->fd, in.offset, MIN(in.size, fs_room(call)));
    fs_put_file(fs, handle);
    return rc;
}

/* To the end of the file, wherever that is on the host: what a program appends, but not what it has changed in a
 * mapping of the same file. */
static int write_mode(const struct fs *fs, const struct fuse_write_in *in)
{
    return (in->flags & O_APPEND) && !(in->write_flags & FUSE_WRITE_CACHE) && !fs->writeback ? RWF_APPEND : 0;
}

/* Fewer than len bytes if the host's disk is full, or such: an error only if it was none at all. */
static int write_all(struct fs_call *call, int fd, int mode, uint64_t offset, uint64_t len, uint64_t *done)
{
    const struct fs_request *request = call->request;
    const uint64_t data = sizeof(struct fuse_in_header) + sizeof(struct fuse_write_in);
    struct iovec iov[FS_IOV_MAX];

    *done = 0;
    while (*done < len) {
        unsigned count = fs_slice(iov, request->in, request->in_count, data + *done, len - *done);
        ssize_t n = pwritev2(fd, iov, (int)count, (off_t)(offset + *done), mode);

        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return *done ? 0 : n ? -errno : -EIO;
        *done += (uint64_t)n;
    }
    return 0;
}

/* A few pages go to the host's page cache at once; more wait their turn, and for memory. */
#define WRITE_AT_ONCE KIB(64)

int fs_serve_write(struct fs *fs, struct fs_call *call)
{
    struct fuse_write_out out = {0};
    struct fs_handle *handle;
    struct fuse_write_in in;
    uint64_t done;
    int rc;

    memcpy(&in, call->body, sizeof(in));
    if (in.offset > INT64_MAX - UINT32_MAX || in.size > call->request->in_bytes - sizeof(call->header) - sizeof(in))
        return -EINVAL;
    if (in.size > WRITE_AT_ONCE && !call->may_wait)
        return FS_LATER;
    rc = fs_get_file(fs, in.fh, call->header.nodeid, false, &handle);
    if (rc)
        return rc;
    fs_give_up_setid(fs, in.write_flags & FUSE_WRITE_KILL_SUIDGID);
    rc = write_all(call, handle->fd, write_mode(fs, &in), in.offset, in.size, &done);
    fs_regain_setid(fs, in.write_flags & FUSE_WRITE_KILL_SUIDGID);
    fs_put_file(fs, handle);
    out.size = (uint32_t)done;
    return rc ? rc : fs_answer(call, &out, sizeof(out));
}

/* --- the rest
 * ------------------------------------------------------------------------------------------------------------ */

int fs_serve_fsync(struct fs *fs, struct fs_call *call)
{
    struct fs_handle *handle;
    struct fuse_fsync_in in;
    int rc;

    memcpy(&in, call->body, sizeof(in));
    rc = fs_get_file(fs, in.fh, call->header.nodeid, false, &handle);
    if (rc)
        return rc;
    if (in.fsync_flags & FUSE_FSYNC_FDATASYNC ? fdatasync(handle->fd) : fsync(handle->fd))
        rc = -errno;
    fs_put_file(fs, handle);
    return rc;
}

int fs_serve_syncfs(struct fs *fs, struct fs_call *call)
{
    int fd, rc;

    if (fs->config.readonly)
        return 0;
    fd = openat(fs->root, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    rc = syncfs(fd) ? -errno : 0;
    close(fd);
    return rc;
}

int fs_serve_fallocate(struct fs *fs, struct fs_call *call)
{
    const uint32_t modes = FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE | FALLOC_FL_ZERO_RANGE;
    struct fuse_fallocate_in in;
    struct fs_handle *handle;
    int rc;

    memcpy(&in, call->body, sizeof(in));
    if (in.mode & ~modes)
        return -EOPNOTSUPP;
    rc = fs_get_file(fs, in.fh, call->header.nodeid, false, &handle);
    if (rc)
        return rc;
    if (fallocate(handle->fd, (int)in.mode, (off_t)in.offset, (off_t)in.length))
        rc = -errno;
    fs_put_file(fs, handle);
    return rc;
}

int fs_serve_lseek(struct fs *fs, struct fs_call *call)
{
    struct fuse_lseek_out out;
    struct fs_handle *handle;
    struct fuse_lseek_in in;
    off_t at;
    int rc;

    memcpy(&in, call->body, sizeof(in));
    if (in.whence != SEEK_DATA && in.whence != SEEK_HOLE)
        return -EINVAL;
    rc = fs_get_file(fs, in.fh, call->header.nodeid, false, &handle);
    if (rc)
        return rc;
    at = lseek(handle->fd, (off_t)in.offset, (int)in.whence);
    if (at < 0)
        rc = -errno;
    fs_put_file(fs, handle);
    out.offset = (uint64_t)at;
    return rc ? rc : fs_answer(call, &out, sizeof(out));
}

int fs_serve_copy_file_range(struct fs *fs, struct fs_call *call)
{
    struct fuse_copy_file_range_in in;
    struct fuse_write_out out = {0};
    struct fs_handle *from, *to;
    off_t off_in, off_out;
    ssize_t n;
    int rc;

    memcpy(&in, call->body, sizeof(in));
    rc = fs_get_file(fs, in.fh_in, call->header.nodeid, false, &from);
    if (rc)
        return rc;
    rc = fs_get_file(fs, in.fh_out, in.nodeid_out, false, &to);
    if (!rc) {
        off_in = (off_t)in.off_in;
        off_out = (off_t)in.off_out;
        n = copy_file_range(from->fd, &off_in, to->fd, &off_out, MIN(in.len, COPY_MAX), 0);
        rc = n < 0 ? -errno : 0;
        out.size = (uint32_t)MAX(n, 0);
        fs_put_file(fs, to);
    }
    fs_put_file(fs, from);
    return rc ? rc : fs_answer(call, &out, sizeof(out));
}
