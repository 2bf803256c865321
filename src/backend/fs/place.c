/*
 * backend/fs/place.c: from a node to the file on the host. A directory keeps a
 * descriptor (O_PATH) once it was needed; any other file is reached by its
 * name in the parent, and then looked at: if it is not the one the guest means
 * any more, the node is stale. So a hundred thousand files take no descriptors.
 *
 * Nothing is opened but through an O_PATH descriptor that was found to be a
 * regular file or directory: no race can make it a device or a symbolic link.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/vfs.h>
#include <unistd.h>

#include "backend/fs/fs_internal.h"

#define DEPTH_MAX    256   /* directories to be opened on the way to one */
#define FDS_MAX      65536 /* of all shares */
#define FDS_RESERVED 256   /* for everybody else */

/* File systems that are no storage; those without a name in linux/magic.h first. */
#define CONFIGFS_MAGIC 0x62656570
#define FUSECTL_MAGIC  0x65735543
#define MQUEUE_MAGIC   0x19800202
#define RPC_PIPE_MAGIC 0x67596969

static const uint32_t no_storage[] = {
    PROC_SUPER_MAGIC, SYSFS_MAGIC,    CGROUP_SUPER_MAGIC, CGROUP2_SUPER_MAGIC, DEBUGFS_MAGIC,
    TRACEFS_MAGIC,    BPF_FS_MAGIC,   SECURITYFS_MAGIC,   SELINUX_MAGIC,       SMACK_MAGIC,
    PSTOREFS_MAGIC,   EFIVARFS_MAGIC, DEVPTS_SUPER_MAGIC, NSFS_MAGIC,          BINFMTFS_MAGIC,
    CONFIGFS_MAGIC,   FUSECTL_MAGIC,  MQUEUE_MAGIC,       RPC_PIPE_MAGIC,
};

/* --- descriptors are counted ------------------------------------------------------------------------ */

static _Atomic unsigned fds;
static unsigned fds_max = FDS_RESERVED;

void fs_raise_limit(void)
{
    struct rlimit limit;

    if (getrlimit(RLIMIT_NOFILE, &limit))
        return;
    if (limit.rlim_cur < limit.rlim_max && limit.rlim_cur < FDS_MAX + FDS_RESERVED) {
        limit.rlim_cur = MIN(limit.rlim_max, FDS_MAX + FDS_RESERVED);
        setrlimit(RLIMIT_NOFILE, &limit);
        getrlimit(RLIMIT_NOFILE, &limit);
    }
    fds_max = (unsigned)MIN(MAX(limit.rlim_cur, 2 * FDS_RESERVED) - FDS_RESERVED, FDS_MAX);
}

int fs_charge_fd(struct fs *fs)
{
    if (atomic_fetch_add(&fds, 1) < fds_max || fs_evict(fs))
        return 0;
    fs_uncharge_fd();
    return -ENFILE;
}

void fs_uncharge_fd(void)
{
    atomic_fetch_sub(&fds, 1);
}

void fs_close_fd(int fd)
{
    close(fd);
    fs_uncharge_fd();
}

/* --- looking ------------------------------------------------------------------------------------------ */

static uint64_t nanoseconds(const struct statx_timestamp *time)
{
    return (uint64_t)time->tv_sec * 1000000000 + time->tv_nsec;
}

static uint64_t device_number(const struct statx *st)
{
    return (uint64_t)st->stx_dev_major << 32 | st->stx_dev_minor;
}

int fs_stat_at(int dir, const char *name, struct statx *st)
{
    return statx(dir, name, AT_SYMLINK_NOFOLLOW | AT_NO_AUTOMOUNT | AT_EMPTY_PATH, FS_STATX, st) ? -errno : 0;
}

/* The list only grows, and what is in it stays: no lock to read it. */
static const struct fs_device *find_device(const struct fs *fs, uint64_t dev)
{
    const unsigned count = atomic_load_explicit(&fs->device_count, memory_order_acquire);

    for (unsigned i = 0; i < count; i++)
        if (fs->device[i].dev == dev)
            return &fs->device[i];
    return NULL;
}

/* What kind of file system that is. False: it cannot be said. */
static bool examine(int dir, const char *name, struct fs_device *device)
{
    int fd = openat(dir, *name ? name : ".", O_PATH | O_NOFOLLOW | O_CLOEXEC);
    struct statfs kind;
    struct statx st;
    bool good;

    if (fd < 0)
        return false;
    good = !fs_stat_at(fd, "", &st) && device_number(&st) == device->dev && !fstatfs(fd, &kind);
    close(fd);
    if (!good)
        return false;
    device->closed = false;
    for (unsigned i = 0; i < ARRAY_SIZE(no_storage); i++)
        device->closed |= (uint32_t)kind.f_type == no_storage[i];
    device->births = (uint32_t)kind.f_type != OVERLAYFS_SUPER_MAGIC;
    return true;
}

bool fs_is_closed(struct fs *fs, int dir, const char *name, const struct statx *st)
{
    struct fs_device device = {.dev = device_number(st)};
    const struct fs_device *known = find_device(fs, device.dev);

    if (known)
        return known->closed;
    if (!examine(dir, name, &device))
        return true;
    lock_take(&fs->lock);
    if (!find_device(fs, device.dev) && fs->device_count < FS_DEVICES) {
        fs->device[fs->device_count] = device;
        atomic_fetch_add_explicit(&fs->device_count, 1, memory_order_release);
    }
    lock_drop(&fs->lock);
    return device.closed;
}

uint64_t fs_number(struct fs *fs, uint64_t dev, uint64_t ino)
{
    const struct fs_device *known = find_device(fs, dev);

    return ino ^ (known ? (uint64_t)(known - fs->device) : FS_DEVICES) << 48;
}

struct fs_key fs_key(const struct fs *fs, const struct statx *st)
{
    const uint64_t dev = device_number(st);
    const struct fs_device *known = find_device(fs, dev);

    return (struct fs_key){
        .dev = dev,
        .ino = st->stx_ino,
        .btime = known && known->births && (st->stx_mask & STATX_BTIME) ? nanoseconds(&st->stx_btime) : 0,
        .type = st->stx_mode & S_IFMT,
    };
}

static bool is(const struct fs *fs, const struct fs_inode *inode, const struct statx *st)
{
    const struct fs_key key = fs_key(fs, st);

    return fs_same(&key, &inode->key);
}

/* --- from a node to a descriptor --------------------------------------------------------------------- */

static int dir_fd(struct fs *fs, struct fs_inode *inode, unsigned depth);

/* Where a node is: its parent, to be put, and its name there. Or its descriptor, if it has one: then parent is NULL. */
struct place {
    int fd;
    struct fs_inode *parent;
    char name[FS_NAME_MAX + 1];
};

static void find_place(struct fs *fs, struct fs_inode *inode, struct place *place)
{
    lock_take(&fs->lock);
    place->fd = inode->fd;
    place->parent = NULL;
    if (place->fd < 0) {
        place->parent = inode->parent;
        place->parent->uses++;
        snprintf(place->name, sizeof(place->name), "%s", inode->name);
    }
    lock_drop(&fs->lock);
}

/* What the name was is gone, or something else. */
static int stale(int rc)
{
    return rc == -ENOENT || rc == -ENOTDIR || rc == -ELOOP ? -ESTALE : rc;
}

/* A new descriptor of what is at that place, if it is the node. */
static int open_place(struct fs *fs, const struct fs_inode *inode, const struct place *place, unsigned depth)
{
    struct statx st;
    int dir = dir_fd(fs, place->parent, depth), fd, rc;

    if (dir < 0)
        return dir;
    fd = openat(dir, place->name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0)
        return stale(-errno);
    rc = fs_stat_at(fd, "", &st);
    if (!rc && !is(fs, inode, &st))
        rc = -ESTALE;
    if (!rc)
        return fd;
    close(fd);
    return rc;
}

/* The node keeps it; if another thread was first, that one's is taken. */
static int keep_fd(struct fs *fs, struct fs_inode *inode, int fd)
{
    int rc = fs_charge_fd(fs), kept;

    if (rc) {
        close(fd);
        return rc;
    }
    lock_take(&fs->lock);
    kept = inode->fd;
    if (kept < 0)
        inode->fd = fd;
    lock_drop(&fs->lock);
    if (kept < 0)
        return fd;
    fs_close_fd(fd);
    return kept;
}

static int dir_fd(struct fs *fs, struct fs_inode *inode, unsigned depth)
{
    struct place place;
    int fd;

    if (inode->key.type != S_IFDIR)
        return -ENOTDIR;
    find_place(fs, inode, &place);
    if (place.fd >= 0)
        return place.fd;
    fd = depth < DEPTH_MAX ? open_place(fs, inode, &place, depth + 1) : -ESTALE;
    fs_put(fs, place.parent);
    return fd < 0 ? fd : keep_fd(fs, inode, fd);
}

int fs_dir_fd(struct fs *fs, struct fs_inode *inode)
{
    return dir_fd(fs, inode, 0);
}

int fs_node_fd(struct fs *fs, struct fs_inode *inode, struct fs_fd *fd)
{
    struct place place;

    fd->own = false;
    if (inode->key.type == S_IFDIR) {
        fd->fd = dir_fd(fs, inode, 0);
        return MIN(fd->fd, 0);
    }
    find_place(fs, inode, &place);
    fd->fd = place.fd;
    if (place.fd < 0) {
        fd->fd = open_place(fs, inode, &place, 0);
        fd->own = fd->fd >= 0;
        fs_put(fs, place.parent);
    }
    return MIN(fd->fd, 0);
}

void fs_release_fd(struct fs_fd *fd)
{
    if (fd->own)
        close(fd->fd);
}

int fs_stat(struct fs *fs, struct fs_inode *inode, struct statx *st)
{
    struct place place;
    int dir, rc;

    find_place(fs, inode, &place);
    if (place.fd >= 0)
        return fs_stat_at(place.fd, "", st);
    dir = dir_fd(fs, place.parent, 0);
    rc = dir < 0 ? dir : stale(fs_stat_at(dir, place.name, st));
    fs_put(fs, place.parent);
    return !rc && !is(fs, inode, st) ? -ESTALE : rc;
}

/* --- opening ---------------------------------------------------------------------------------------------- */

int fs_open_proc(struct fs *fs, int fd, int flags)
{
    char name[16];
    int opened;

    snprintf(name, sizeof(name), "%d", fd);
    opened = openat(fs->proc, name, flags | O_CLOEXEC | O_NOCTTY);
    if (opened < 0 && errno == EPERM && (flags & O_NOATIME)) /* somebody else's file */
        opened = openat(fs->proc, name, (flags & ~O_NOATIME) | O_CLOEXEC | O_NOCTTY);
    return opened < 0 ? -errno : opened;
}

int fs_open_node(struct fs *fs, struct fs_inode *inode, int flags)
{
    struct fs_fd path;
    int rc, fd;

    if ((inode->key.type != S_IFREG && inode->key.type != S_IFDIR) || inode->closed)
        return -EACCES;
    rc = fs_node_fd(fs, inode, &path);
    if (rc)
        return rc;
    rc = fs_charge_fd(fs);
    if (!rc) {
        fd = fs_open_proc(fs, path.fd, flags);
        if (fd < 0)
            fs_uncharge_fd();
        rc = fd;
    }
    fs_release_fd(&path);
    return rc;
}

void fs_pin(struct fs *fs, int dir, const char *name)
{
    struct fs_inode *inode;
    struct fs_key key;
    struct statx st;
    int fd;

    if (fs_stat_at(dir, name, &st))
        return;
    key = fs_key(fs, &st);
    inode = fs_find(fs, &key);
    if (!inode)
        return;
    if (!inode->pinned && (inode->files || inode->key.type == S_IFDIR)) {
        fd = openat(dir, name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
        if (fd >= 0 && (fs_stat_at(fd, "", &st) || !is(fs, inode, &st))) {
            close(fd);
            fd = -1;
        }
        if (fd >= 0 && keep_fd(fs, inode, fd) >= 0) {
            lock_take(&fs->lock);
            inode->pinned = true;
            lock_drop(&fs->lock);
        }
    }
    fs_put(fs, inode);
}
