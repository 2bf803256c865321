/*
 * backend/fs/xattr.c: extended attributes, by way of /proc/self/fd, as the calls
 * take no O_PATH descriptor. A constant directory has none: the guest's overlay
 * would ask for one with each file it looks up.
 */
#include <errno.h>
#include <linux/limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/xattr.h>

#include "backend/fs/fs_internal.h"

static bool good_name(const char *name)
{
    static const char *const spaces[] = {"user.", "trusted.", "security.", "system.posix_acl_"};

    for (unsigned i = 0; name && i < ARRAY_SIZE(spaces); i++)
        if (!strncmp(name, spaces[i], strlen(spaces[i])) && strlen(name) <= XATTR_NAME_MAX)
            return true;
    return false;
}

/* A node and the path that leads to it, whatever it is. */
struct target {
    struct fs_inode *inode;
    struct fs_fd fd;
    char path[32];
};

static int get_target(struct fs *fs, const struct fs_call *call, struct target *target)
{
    int rc;

    if (fs->config.constant)
        return -ENOSYS;
    target->inode = fs_get(fs, call->header.nodeid);
    if (!target->inode)
        return -ESTALE;
    rc = target->inode->closed ? -EOPNOTSUPP : fs_node_fd(fs, target->inode, &target->fd);
    if (rc)
        fs_put(fs, target->inode);
    else
        snprintf(target->path, sizeof(target->path), "/proc/self/fd/%d", target->fd.fd);
    return rc;
}

static void put_target(struct fs *fs, struct target *target)
{
    fs_release_fd(&target->fd);
    fs_put(fs, target->inode);
}

/* name: NULL for the list of names. A size of 0 asks how long it is. */
static int answer_value(struct fs *fs, struct fs_call *call, const char *name)
{
    struct fuse_getxattr_out out = {0};
    struct fuse_getxattr_in in;
    struct target target;
    char *value;
    ssize_t n;
    int rc;

    memcpy(&in, call->body, sizeof(in));
    in.size = MIN(in.size, XATTR_SIZE_MAX);
    rc = get_target(fs, call, &target);
    if (rc)
        return rc;
    value = malloc(in.size + 1);
    if (!value) {
        put_target(fs, &target);
        return -ENOMEM;
    }
    n = name ? getxattr(target.path, name, value, in.size) : listxattr(target.path, value, in.size);
    rc = n < 0 ? -errno : 0;
    put_target(fs, &target);
    if (!rc && in.size) {
        rc = fs_answer(call, value, (size_t)n);
    } else if (!rc) {
        out.size = (uint32_t)n;
        rc = fs_answer(call, &out, sizeof(out));
    }
    free(value);
    return rc;
}

int fs_serve_getxattr(struct fs *fs, struct fs_call *call)
{
    const char *name = fs_take_string(call);

    if (fs->config.constant)
        return -ENOSYS;
    return good_name(name) ? answer_value(fs, call, name) : -EOPNOTSUPP;
}

int fs_serve_listxattr(struct fs *fs, struct fs_call *call)
{
    return answer_value(fs, call, NULL);
}

int fs_serve_setxattr(struct fs *fs, struct fs_call *call)
{
    const char *name = fs_take_string(call);
    struct fuse_setxattr_in in = {0};
    struct target target;
    int rc;

    memcpy(&in, call->body, FUSE_COMPAT_SETXATTR_IN_SIZE);
    if (!good_name(name))
        return -EOPNOTSUPP;
    if (in.size > call->body_len - call->body_at)
        return -EINVAL;
    rc = get_target(fs, call, &target);
    if (rc)
        return rc;
    rc =
        setxattr(target.path, name, call->body + call->body_at, in.size, (int)in.flags & (XATTR_CREATE | XATTR_REPLACE))
            ? -errno
            : 0;
    put_target(fs, &target);
    return rc;
}

int fs_serve_removexattr(struct fs *fs, struct fs_call *call)
{
    const char *name = fs_take_string(call);
    struct target target;
    int rc;

    if (!good_name(name))
        return -EOPNOTSUPP;
    rc = get_target(fs, call, &target);
    if (rc)
        return rc;
    rc = removexattr(target.path, name) ? -errno : 0;
    put_target(fs, &target);
    return rc;
}
