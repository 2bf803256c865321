/* backend/fs/node.c: looking up, attributes, forgetting. */
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <string.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "backend/fs/fs_internal.h"

/* How long the guest may believe what it was told, in seconds. */
#define VALID          1
#define VALID_CONSTANT 86400

static uint64_t valid(const struct fs *fs)
{
    return fs->config.constant ? VALID_CONSTANT : VALID;
}

/* As Linux packs a device number into 32 bits. */
static uint32_t pack_device(uint32_t major, uint32_t minor)
{
    return (minor & 0xff) | major << 8 | (minor & ~0xffu) << 12;
}

static void put_attributes(struct fs *fs, const struct statx *st, struct fuse_attr *attr)
{
    const struct fs_key key = fs_key(fs, st);

    *attr = (struct fuse_attr){
        .ino = fs_number(fs, key.dev, key.ino),
        .size = st->stx_size,
        .blocks = st->stx_blocks,
        .atime = (uint64_t)st->stx_atime.tv_sec,
        .mtime = (uint64_t)st->stx_mtime.tv_sec,
        .ctime = (uint64_t)st->stx_ctime.tv_sec,
        .atimensec = st->stx_atime.tv_nsec,
        .mtimensec = st->stx_mtime.tv_nsec,
        .ctimensec = st->stx_ctime.tv_nsec,
        .mode = st->stx_mode,
        .nlink = st->stx_nlink,
        .uid = st->stx_uid,
        .gid = st->stx_gid,
        .rdev = pack_device(st->stx_rdev_major, st->stx_rdev_minor),
        .blksize = st->stx_blksize,
    };
}

int fs_entry(struct fs *fs, struct fs_inode *parent, const char *name, const struct statx *st,
             struct fuse_entry_out *entry)
{
    int dir = fs_dir_fd(fs, parent);
    bool closed;

    if (dir < 0)
        return dir;
    closed = fs_is_closed(fs, dir, name, st);
    *entry = (struct fuse_entry_out){.entry_valid = valid(fs), .attr_valid = valid(fs)};
    put_attributes(fs, st, &entry->attr);
    entry->nodeid = fs_learn(fs, parent, name, st, closed);
    return entry->nodeid ? 0 : -ENOMEM;
}

/* A name that is not there is remembered too: node 0. */
static int answer_absent(struct fs *fs, struct fs_call *call)
{
    const struct fuse_entry_out none = {.entry_valid = valid(fs)};

    return fs_answer(call, &none, sizeof(none));
}

int fs_serve_lookup(struct fs *fs, struct fs_call *call)
{
    const char *name = fs_take_name(call);
    struct fs_inode *parent;
    struct fuse_entry_out entry;
    struct statx st;
    int rc;

    if (!name)
        return -EINVAL;
    parent = fs_get(fs, call->header.nodeid);
    if (!parent)
        return -ESTALE;
    rc = parent->closed ? -ENOENT : fs_dir_fd(fs, parent);
    if (rc >= 0)
        rc = fs_stat_at(rc, name, &st);
    if (rc == -ENOENT)
        rc = answer_absent(fs, call);
    else if (!rc) {
        rc = fs_entry(fs, parent, name, &st, &entry);
        if (!rc) {
            rc = fs_answer(call, &entry, sizeof(entry));
            if (rc)
                fs_forget(fs, entry.nodeid, 1);
        }
    }
    fs_put(fs, parent);
    return rc;
}

int fs_serve_forget(struct fs *fs, struct fs_call *call)
{
    struct fuse_forget_in in;

    memcpy(&in, call->body, sizeof(in));
    fs_forget(fs, call->header.nodeid, in.nlookup);
    return 0;
}

int fs_serve_batch_forget(struct fs *fs, struct fs_call *call)
{
    struct fuse_batch_forget_in in;
    struct fuse_forget_one one;

    memcpy(&in, call->body, sizeof(in));
    for (; in.count && call->body_len - call->body_at >= sizeof(one); in.count--) {
        memcpy(&one, call->body + call->body_at, sizeof(one));
        call->body_at += sizeof(one);
        fs_forget(fs, one.nodeid, one.nlookup);
    }
    return 0;
}

static int answer_attributes(struct fs *fs, struct fs_call *call, const struct statx *st)
{
    struct fuse_attr_out out = {.attr_valid = valid(fs)};

    put_attributes(fs, st, &out.attr);
    return fs_answer(call, &out, sizeof(out));
}

/* By the open file if the guest names one, which is right whatever has become of the file's name. */
static int stat_node(struct fs *fs, uint64_t node, bool by_file, uint64_t fh, struct statx *st)
{
    struct fs_handle *handle;
    struct fs_inode *inode;
    int rc;

    if (by_file && !fs_get_file(fs, fh, node, false, &handle)) {
        rc = fs_stat_at(handle->fd, "", st);
        fs_put_file(fs, handle);
        return rc;
    }
    inode = fs_get(fs, node);
    if (!inode)
        return -ESTALE;
    rc = fs_stat(fs, inode, st);
    fs_put(fs, inode);
    return rc;
}

int fs_serve_getattr(struct fs *fs, struct fs_call *call)
{
    struct fuse_getattr_in in;
    struct statx st;
    int rc;

    memcpy(&in, call->body, sizeof(in));
    rc = stat_node(fs, call->header.nodeid, (in.getattr_flags & FUSE_GETATTR_FH) && !fs->config.constant, in.fh, &st);
    return rc ? rc : answer_attributes(fs, call, &st);
}

/* --- changing attributes: each returns 0 or a negative errno ------------------------------------------------ */

/* The path of a descriptor, for calls that take no O_PATH one. */
static const char *proc_name(int fd, char name[16])
{
    char *at = name + 15;

    *at = '\0';
    do
        *--at = (char)('0' + fd % 10);
    while (fd /= 10);
    return at;
}

static int set_mode(struct fs *fs, const struct fs_inode *inode, int fd, const struct fuse_setattr_in *in)
{
    char name[16];

    if (inode->key.type == S_IFLNK)
        return -EOPNOTSUPP;
    return fchmodat(fs->proc, proc_name(fd, name), in->mode & 07777, 0) ? -errno : 0;
}

static int set_owner(int fd, const struct fuse_setattr_in *in)
{
    uid_t uid = in->valid & FATTR_UID ? in->uid : (uid_t)-1;
    gid_t gid = in->valid & FATTR_GID ? in->gid : (gid_t)-1;

    return fchownat(fd, "", uid, gid, AT_EMPTY_PATH | AT_SYMLINK_NOFOLLOW) ? -errno : 0;
}

static int set_size(struct fs *fs, struct fs_inode *inode, const struct fuse_setattr_in *in)
{
    struct fs_handle *handle = NULL;
    int fd, rc;

    if (in->size > INT64_MAX)
        return -EFBIG;
    if (inode->key.type != S_IFREG)
        return inode->key.type == S_IFDIR ? -EISDIR : -EINVAL;
    fs_give_up_setid(fs, in->valid & FATTR_KILL_SUIDGID);
    if ((in->valid & FATTR_FH) && !fs_get_file(fs, in->fh, inode->id, false, &handle)) {
        rc = ftruncate(handle->fd, (off_t)in->size) ? -errno : 0;
        fs_put_file(fs, handle);
    } else {
        fd = fs_open_node(fs, inode, O_WRONLY);
        rc = fd < 0 ? fd : ftruncate(fd, (off_t)in->size) ? -errno : 0;
        if (fd >= 0)
            fs_close_fd(fd);
    }
    fs_regain_setid(fs, in->valid & FATTR_KILL_SUIDGID);
    return rc;
}

static struct timespec time_to_set(uint32_t valid_bits, uint32_t set, uint32_t now, uint64_t seconds,
                                   uint32_t nanoseconds)
{
    if (valid_bits & now)
        return (struct timespec){.tv_nsec = UTIME_NOW};
    if (valid_bits & set)
        return (struct timespec){(time_t)seconds, nanoseconds};
    return (struct timespec){.tv_nsec = UTIME_OMIT};
}

static int set_times(struct fs *fs, int fd, const struct fuse_setattr_in *in)
{
    const struct timespec times[] = {
        time_to_set(in->valid, FATTR_ATIME, FATTR_ATIME_NOW, in->atime, in->atimensec),
        time_to_set(in->valid, FATTR_MTIME, FATTR_MTIME_NOW, in->mtime, in->mtimensec),
    };
    char name[16];

    return utimensat(fs->proc, proc_name(fd, name), times, 0) ? -errno : 0;
}

#define FATTR_TIMES (FATTR_ATIME | FATTR_MTIME | FATTR_ATIME_NOW | FATTR_MTIME_NOW)

static int set_attributes(struct fs *fs, struct fs_inode *inode, const struct fuse_setattr_in *in)
{
    struct fs_fd path = {-1, false};
    int rc = fs_node_fd(fs, inode, &path);

    if (!rc && (in->valid & FATTR_MODE))
        rc = set_mode(fs, inode, path.fd, in);
    if (!rc && (in->valid & (FATTR_UID | FATTR_GID)))
        rc = set_owner(path.fd, in);
    if (!rc && (in->valid & FATTR_SIZE))
        rc = set_size(fs, inode, in);
    if (!rc && (in->valid & FATTR_TIMES))
        rc = set_times(fs, path.fd, in);
    fs_release_fd(&path);
    return rc;
}

int fs_serve_setattr(struct fs *fs, struct fs_call *call)
{
    struct fs_inode *inode = fs_get(fs, call->header.nodeid);
    struct fuse_setattr_in in;
    struct statx st;
    int rc;

    if (!inode)
        return -ESTALE;
    memcpy(&in, call->body, sizeof(in));
    rc = inode->closed ? -EACCES : set_attributes(fs, inode, &in);
    fs_put(fs, inode);
    if (!rc)
        rc = stat_node(fs, call->header.nodeid, in.valid & FATTR_FH, in.fh, &st);
    return rc ? rc : answer_attributes(fs, call, &st);
}

/* --- the rest ------------------------------------------------------------------------------------------------- */

int fs_serve_readlink(struct fs *fs, struct fs_call *call)
{
    struct fs_inode *inode = fs_get(fs, call->header.nodeid);
    char target[PATH_MAX];
    struct fs_fd path;
    ssize_t n = -1;
    int rc;

    if (!inode)
        return -ESTALE;
    rc = inode->key.type != S_IFLNK ? -EINVAL : fs_node_fd(fs, inode, &path);
    if (!rc) {
        n = readlinkat(path.fd, "", target, sizeof(target));
        rc = n < 0 ? -errno : 0;
        fs_release_fd(&path);
    }
    fs_put(fs, inode);
    return rc ? rc : fs_answer(call, target, (size_t)n);
}

int fs_serve_statfs(struct fs *fs, struct fs_call *call)
{
    struct fuse_statfs_out out;
    struct statvfs st;

    if (fstatvfs(fs->root, &st))
        return -errno;
    out = (struct fuse_statfs_out){{
        .blocks = st.f_blocks,
        .bfree = st.f_bfree,
        .bavail = st.f_bavail,
        .files = st.f_files,
        .ffree = st.f_ffree,
        .bsize = (uint32_t)st.f_bsize,
        .namelen = (uint32_t)st.f_namemax,
        .frsize = (uint32_t)st.f_frsize,
    }};
    return fs_answer(call, &out, sizeof(out));
}
