/*
 * backend/fs/name.c: requests that make, move and remove names. Each name is
 * one component in a directory the guest knows. Device nodes are not made, but
 * for the one that means nothing to anybody: overlayfs's whiteout, 0:0.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "backend/fs/fs_internal.h"

/* The directory of the request and its descriptor: until fs_put. */
static int get_dir(struct fs *fs, uint64_t node, struct fs_inode **dir)
{
    int fd;

    *dir = fs_get(fs, node);
    if (!*dir)
        return -ESTALE;
    fd = (*dir)->closed ? -EACCES : fs_dir_fd(fs, *dir);
    if (fd < 0)
        fs_put(fs, *dir);
    return fd;
}

/* The answer to what has just made `name`. */
static int answer_new(struct fs *fs, struct fs_call *call, struct fs_inode *dir, int fd, const char *name)
{
    struct fuse_entry_out entry;
    struct statx st;
    int rc = fs_stat_at(fd, name, &st);

    if (!rc)
        rc = fs_entry(fs, dir, name, &st, &entry);
    if (rc)
        return rc;
    rc = fs_answer(call, &entry, sizeof(entry));
    if (rc)
        fs_forget(fs, entry.nodeid, 1);
    return rc;
}

/* What is to be made. */
struct making {
    int (*make)(int dir, const char *name, const struct making *what);
    mode_t mode;
    const char *target;
};

/* What our umask has taken from a new file or directory. */
static void restore_mode(struct fs *fs, int dir, const char *name, mode_t mode)
{
    int fd = openat(dir, name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
    struct statx st;
    char proc[16];

    if (fd < 0)
        return;
    snprintf(proc, sizeof(proc), "%d", fd);
    if (!fs_stat_at(fd, "", &st) && !S_ISLNK(st.stx_mode))
        fchmodat(fs->proc, proc, (mode | st.stx_mode) & 07777, 0); /* what it has of its directory stays */
    close(fd);
}

static int make(struct fs *fs, struct fs_call *call, const char *name, const struct making *what)
{
    struct fs_inode *dir;
    int fd, rc;

    if (!name)
        return -EINVAL;
    fd = get_dir(fs, call->header.nodeid, &dir);
    if (fd < 0)
        return fd;
    rc = fs_become(fs, &call->header);
    if (!rc) {
        rc = what->make(fd, name, what) ? -errno : 0;
        fs_return(fs, &call->header);
    }
    if (!rc && what->mode && fs_is_masked())
        restore_mode(fs, fd, name, what->mode);
    if (!rc)
        rc = answer_new(fs, call, dir, fd, name);
    fs_put(fs, dir);
    return rc;
}

static int make_node(int dir, const char *name, const struct making *what)
{
    return mknodat(dir, name, what->mode, 0);
}

static int make_dir(int dir, const char *name, const struct making *what)
{
    return mkdirat(dir, name, what->mode);
}

static int make_link(int dir, const char *name, const struct making *what)
{
    return symlinkat(what->target, dir, name);
}

int fs_serve_mknod(struct fs *fs, struct fs_call *call)
{
    const char *name = fs_take_name(call);
    struct fuse_mknod_in in;
    uint32_t type;

    memcpy(&in, call->body, sizeof(in));
    type = in.mode & S_IFMT;
    if (type && type != S_IFREG && type != S_IFIFO && type != S_IFSOCK && (type != S_IFCHR || in.rdev))
        return -EPERM;
    return make(fs, call, name, &(struct making){make_node, in.mode & (S_IFMT | 07777), NULL});
}

int fs_serve_mkdir(struct fs *fs, struct fs_call *call)
{
    const char *name = fs_take_name(call);
    struct fuse_mkdir_in in;

    memcpy(&in, call->body, sizeof(in));
    return make(fs, call, name, &(struct making){make_dir, in.mode & 07777, NULL});
}

int fs_serve_symlink(struct fs *fs, struct fs_call *call)
{
    const char *name = fs_take_name(call), *target = name ? fs_take_string(call) : NULL;

    if (!target)
        return -EINVAL;
    return make(fs, call, name, &(struct making){make_link, 0, target});
}

int fs_serve_link(struct fs *fs, struct fs_call *call)
{
    const char *name = fs_take_name(call);
    struct fs_inode *dir, *old;
    struct fuse_link_in in;
    struct fs_fd path;
    char proc[16];
    int fd, rc;

    if (!name)
        return -EINVAL;
    memcpy(&in, call->body, sizeof(in));
    fd = get_dir(fs, call->header.nodeid, &dir);
    if (fd < 0)
        return fd;
    old = fs_get(fs, in.oldnodeid);
    rc = !old ? -ESTALE : old->closed ? -EACCES : fs_node_fd(fs, old, &path);
    if (!rc) {
        snprintf(proc, sizeof(proc), "%d", path.fd);
        rc = linkat(fs->proc, proc, fd, name, AT_SYMLINK_FOLLOW) ? -errno : 0;
        fs_release_fd(&path);
    }
    if (!rc)
        rc = answer_new(fs, call, dir, fd, name);
    if (old)
        fs_put(fs, old);
    fs_put(fs, dir);
    return rc;
}

static int remove_name(struct fs *fs, struct fs_call *call, int flags)
{
    const char *name = fs_take_name(call);
    struct fs_inode *dir;
    int fd, rc;

    if (!name)
        return -EINVAL;
    fd = get_dir(fs, call->header.nodeid, &dir);
    if (fd < 0)
        return fd;
    fs_pin(fs, fd, name);
    rc = unlinkat(fd, name, flags) ? -errno : 0;
    fs_put(fs, dir);
    return rc;
}

int fs_serve_unlink(struct fs *fs, struct fs_call *call)
{
    return remove_name(fs, call, 0);
}

int fs_serve_rmdir(struct fs *fs, struct fs_call *call)
{
    return remove_name(fs, call, AT_REMOVEDIR);
}

/* --- moving ------------------------------------------------------------------------------------------------- */

static int move(struct fs *fs, struct fs_inode *from, const char *name, struct fs_inode *to, const char *new_name,
                uint32_t flags)
{
    int from_fd = fs_dir_fd(fs, from), to_fd = fs_dir_fd(fs, to), rc;
    struct fs_key key, other_key;
    struct statx st;
    bool exchanged;

    if (from_fd < 0 || to_fd < 0)
        return MIN(from_fd, to_fd);
    if (from->closed || to->closed)
        return -EACCES;
    rc = fs_stat_at(from_fd, name, &st);
    if (rc)
        return rc;
    key = fs_key(fs, &st);
    exchanged = (flags & RENAME_EXCHANGE) && !fs_stat_at(to_fd, new_name, &st);
    other_key = fs_key(fs, &st);
    if (!exchanged)
        fs_pin(fs, to_fd, new_name);
    if (renameat2(from_fd, name, to_fd, new_name, flags))
        return -errno;
    fs_moved(fs, &key, to, new_name);
    if (exchanged)
        fs_moved(fs, &other_key, from, name);
    return 0;
}

static int serve_move(struct fs *fs, struct fs_call *call, uint64_t new_dir, uint32_t flags)
{
    const char *name = fs_take_name(call), *new_name = name ? fs_take_name(call) : NULL;
    struct fs_inode *from, *to;
    int rc = -ESTALE;

    if (!new_name || flags & ~(uint32_t)(RENAME_NOREPLACE | RENAME_EXCHANGE | RENAME_WHITEOUT))
        return -EINVAL;
    from = fs_get(fs, call->header.nodeid);
    to = fs_get(fs, new_dir);
    if (from && to)
        rc = move(fs, from, name, to, new_name, flags);
    if (from)
        fs_put(fs, from);
    if (to)
        fs_put(fs, to);
    return rc;
}

int fs_serve_rename(struct fs *fs, struct fs_call *call)
{
    struct fuse_rename_in in;

    memcpy(&in, call->body, sizeof(in));
    return serve_move(fs, call, in.newdir, 0);
}

int fs_serve_rename2(struct fs *fs, struct fs_call *call)
{
    struct fuse_rename2_in in;

    memcpy(&in, call->body, sizeof(in));
    return serve_move(fs, call, in.newdir, in.flags);
}

/* --- making and opening a file ------------------------------------------------------------------------------------ */

/* A new file's descriptor, counted; -EEXIST: something has that name, whatever it is. */
static int create(struct fs *fs, const struct fs_call *call, int dir, const char *name, const struct fuse_create_in *in)
{
    int rc = fs_charge_fd(fs), fd;

    if (rc)
        return rc;
    rc = fs_become(fs, &call->header);
    fd = rc ? rc
            : openat(dir, name, fs_open_flags(fs, in->flags) | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC | O_NOCTTY,
                     in->mode & 07777);
    rc = fd < 0 ? -errno : fd;
    fs_return(fs, &call->header);
    if (fd >= 0) {
        if (fs_is_masked())
            fchmod(fd, in->mode & 07777);
        return fd;
    }
    fs_uncharge_fd();
    return rc;
}

/* The guest knows the file by now; it is opened in the same breath. new_fd: -1 if the file was there before. */
static int open_entry(struct fs *fs, const struct fuse_entry_out *entry, int new_fd, uint32_t flags,
                      struct fuse_open_out *out)
{
    struct fs_inode *inode = fs_get(fs, entry->nodeid);
    int rc = 0;

    if (!inode) {
        if (new_fd >= 0)
            fs_close_fd(new_fd);
        return -ESTALE;
    }
    if (new_fd < 0) {
        rc = fs_open_for_guest(fs, inode, flags, out);
    } else {
        out->fh = fs_add_file(fs, inode, new_fd);
        rc = out->fh ? 0 : -ENFILE;
    }
    fs_put(fs, inode);
    return rc;
}

static int create_in(struct fs *fs, struct fs_call *call, struct fs_inode *dir, int dir_fd, const char *name,
                     const struct fuse_create_in *in)
{
    struct {
        struct fuse_entry_out entry;
        struct fuse_open_out open;
    } out = {0};
    struct statx st;
    int fd = create(fs, call, dir_fd, name, in), rc;

    if (fd < 0 && (fd != -EEXIST || (in->flags & O_EXCL)))
        return fd;
    rc = fd < 0 ? fs_stat_at(dir_fd, name, &st) : fs_stat_at(fd, "", &st);
    if (!rc)
        rc = fs_entry(fs, dir, name, &st, &out.entry);
    if (rc) {
        if (fd >= 0)
            fs_close_fd(fd);
        return rc;
    }
    rc = open_entry(fs, &out.entry, fd, in->flags, &out.open);
    if (!rc && (rc = fs_answer(call, &out, sizeof(out))))
        fs_close_file(fs, out.open.fh);
    if (rc)
        fs_forget(fs, out.entry.nodeid, 1);
    return rc;
}

int fs_serve_create(struct fs *fs, struct fs_call *call)
{
    const char *name = fs_take_name(call);
    struct fuse_create_in in;
    struct fs_inode *dir;
    int fd, rc;

    if (!name)
        return -EINVAL;
    memcpy(&in, call->body, sizeof(in));
    fd = get_dir(fs, call->header.nodeid, &dir);
    if (fd < 0)
        return fd;
    rc = create_in(fs, call, dir, fd, name, &in);
    fs_put(fs, dir);
    return rc;
}
