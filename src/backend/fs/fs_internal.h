/*
 * backend/fs/fs_internal.h: the parts of a file server: fs.c takes requests in
 * and knows the threads, inode.c the table of nodes, handle.c the open files,
 * place.c what is on the host behind a node; node.c, name.c, file.c, dir.c and
 * xattr.c are the requests themselves.
 *
 * Locks: a directory handle's, then the tables' (LOCK_FS). None is held over a
 * system call that could wait, but the directory handle's over its getdents.
 */
#ifndef BACKEND_FS_FS_INTERNAL_H
#define BACKEND_FS_FS_INTERNAL_H

#include <linux/fuse.h>
#include <stdatomic.h>
#include <sys/stat.h>

#include "backend/fs/fs.h"
#include "base/lock.h"

#define FS_NAME_MAX  255
#define FS_NODES_MAX (4u << 20)  /* nodes a guest can make us remember */
#define FS_FILES_MAX (64u << 10) /* handles it can hold */
#define FS_DEVICES   256         /* file systems below the directory; those beyond share an index */
#define FS_CACHE     256         /* constant: files kept open */
#define FS_THREADS   4

/* What tells a file from all others on the host, as long as it exists; with btime, also from a later one. */
struct fs_key {
    uint64_t dev, ino, btime;
    uint32_t type; /* S_IFMT */
};

/* What changes when the content does. */
struct fs_version {
    uint64_t size, mtime, ctime;
};

struct fs_inode {
    struct fs_key key;
    uint64_t id;       /* the guest's name for it */
    uint64_t lookups;  /* how often the guest was told of it and has not forgotten */
    unsigned uses;     /* requests under way and open handles */
    unsigned children; /* nodes whose parent it is */
    unsigned files;    /* open handles */
    bool closed;       /* from the beginning: part of a file system that is no storage (proc, sysfs): shown empty */
    bool pinned;       /* its name is gone: fd is the only way to it */
    int fd;            /* O_PATH; -1: by name from the parent. Closed at any time while uses is 0, unless pinned. */
    struct fs_inode *parent;
    char *name; /* in the parent, where it was seen last; NULL: the root */
    struct fs_inode *next;
    struct fs_version version; /* when the guest last opened it; all 0: do not rely on it */
};

struct fs_handle {
    struct fs_inode *inode;
    int fd;
    bool directory;
    unsigned uses; /* requests under way, and one for the table */

    /* A directory's: entries that were read and not yet passed on. */
    struct lock lock;
    uint64_t position; /* the cookie of the entry at `next` */
    unsigned next, end;
    uint8_t *entries;
};

/* Which numbers below `used` are free. */
struct fs_slots {
    uint32_t *free, free_count;
    uint32_t used, max;
};

struct fs_device {
    uint64_t dev;
    bool closed;
    bool births; /* a file's birth is one time, always. On overlayfs it changes when the file is first written to */
};

struct fs {
    struct fs_config config;
    int root, proc; /* O_PATH: the directory, /proc/self/fd */
    bool switches;  /* we may make files in the guest's users' names */
    _Atomic bool started, writeback;

    struct lock lock;       /* all below, up to the threads */
    struct fs_inode **node; /* by slot: the low half of a node ID */
    struct fs_slots node_slots;
    struct fs_inode **hash; /* by key; hash_size is a power of two */
    uint32_t hash_size;
    uint32_t hand;             /* where fs_evict goes on */
    struct fs_handle **file;   /* by slot: the low half of a handle, less 1 */
    uint32_t *file_generation; /* the high half */
    struct fs_slots file_slots;
    uint32_t generation; /* of the last node or handle */
    struct fs_device device[FS_DEVICES];
    _Atomic unsigned device_count;
    struct {
        uint64_t id;
        struct fs_handle *handle;
    } cache[FS_CACHE];

    struct lock queue_lock;
    pthread_cond_t work, idle;
    struct fs_request *first, **last;
    unsigned under_way;
    bool closing;
    pthread_t thread[FS_THREADS];
    unsigned threads;
};

/* A request, taken apart. */
struct fs_call {
    struct fs_request *request;
    struct fuse_in_header header; /* the guest's, copied once */
    const uint8_t *body;          /* copied too, without a write's data */
    size_t body_len, body_at;     /* body_at: behind the last name taken */
    bool may_wait;                /* on a thread of the server's */
    uint64_t answer;              /* bytes put behind the header so far */
};

#define FS_LATER 1 /* from a request that is served at once: it would wait; give it to a thread */

/* --- fs.c ------------------------------------------------------------------------------------------- */

/* The next name in the body; NULL: none, or none a file can have. */
const char *fs_take_name(struct fs_call *call);
/* Any string. */
const char *fs_take_string(struct fs_call *call);
/* Puts data behind what was answered so far. -EINVAL: the guest left no room. */
int fs_answer(struct fs_call *call, const void *data, size_t len);
static inline uint64_t fs_room(const struct fs_call *call)
{
    return call->request->out_bytes - sizeof(struct fuse_out_header) - call->answer;
}
/* The bytes [skip, skip + len) of a list of buffers. */
unsigned fs_slice(struct iovec *to, const struct iovec *from, unsigned count, uint64_t skip, uint64_t len);

/* --- inode.c: nodes. All take the lock themselves. ------------------------------------------------------ */

int fs_nodes_init(struct fs *fs, const struct statx *root);
void fs_nodes_free(struct fs *fs);
void fs_forget_nodes(struct fs *fs); /* all the guest knows */
/* NULL: the guest does not know any such. Until fs_put. */
struct fs_inode *fs_get(struct fs *fs, uint64_t id);
void fs_put(struct fs *fs, struct fs_inode *inode);
/* The guest learns of a file, once more: its node's ID; 0: no memory. closed: see struct fs_inode. */
uint64_t fs_learn(struct fs *fs, struct fs_inode *parent, const char *name, const struct statx *st, bool closed);
void fs_forget(struct fs *fs, uint64_t id, uint64_t times);
/* The guest has given a file another name. */
void fs_moved(struct fs *fs, const struct fs_key *key, struct fs_inode *parent, const char *name);
/* The node of a file; NULL: the guest does not know it. Until fs_put. */
struct fs_inode *fs_find(struct fs *fs, const struct fs_key *key);
/* Closes descriptors that can be opened again. False: there were none. */
bool fs_evict(struct fs *fs);
/* A free slot; UINT32_MAX: none. */
uint32_t fs_take_slot(struct fs_slots *slots);
void fs_drop_slot(struct fs_slots *slots, uint32_t slot);

/* --- place.c: the host's side of a node ------------------------------------------------------------------- */

#define FS_STATX (STATX_BASIC_STATS | STATX_BTIME)

struct fs_key fs_key(const struct fs *fs, const struct statx *st);
static inline bool fs_same(const struct fs_key *a, const struct fs_key *b)
{
    return a->ino == b->ino && a->dev == b->dev && a->btime == b->btime && a->type == b->type;
}
/* A descriptor (O_PATH) of the node itself. Between get and put of the node; to be given back with fs_release_fd. */
struct fs_fd {
    int fd;
    bool own;
};
int fs_node_fd(struct fs *fs, struct fs_inode *inode, struct fs_fd *fd);
void fs_release_fd(struct fs_fd *fd);
/* A directory's, which it keeps. -ENOTDIR. */
int fs_dir_fd(struct fs *fs, struct fs_inode *inode);
int fs_stat(struct fs *fs, struct fs_inode *inode, struct statx *st);
int fs_stat_at(int dir, const char *name, struct statx *st);
/* Is it part of a file system that is no storage? name in dir, or, if empty, dir itself. */
bool fs_is_closed(struct fs *fs, int dir, const char *name, const struct statx *st);
/* An inode's number as the guest sees it: different on different file systems. */
uint64_t fs_number(struct fs *fs, uint64_t dev, uint64_t ino);
/* Opens the file itself. -EACCES: neither a regular file nor a directory. Counted: close with fs_close_fd. */
int fs_open_node(struct fs *fs, struct fs_inode *inode, int flags);
int fs_open_proc(struct fs *fs, int fd, int flags);
/* The file is about to lose its name: keep hold of it if the guest has it open. */
void fs_pin(struct fs *fs, int dir, const char *name);
/* Descriptors of all shares together are limited, so that some are left for others. */
int fs_charge_fd(struct fs *fs);
void fs_uncharge_fd(void);
void fs_close_fd(int fd);
void fs_raise_limit(void);

/* --- handle.c ---------------------------------------------------------------------------------------------- */

/* Takes fd, also if it fails. 0: no more room. */
uint64_t fs_add_file(struct fs *fs, struct fs_inode *inode, int fd);
/* The open file, until fs_put_file; -EBADF. constant: it is opened if it is not. */
int fs_get_file(struct fs *fs, uint64_t fh, uint64_t node, bool directory, struct fs_handle **handle);
void fs_put_file(struct fs *fs, struct fs_handle *handle);
void fs_close_file(struct fs *fs, uint64_t fh);
void fs_close_all_files(struct fs *fs);

/* --- user.c -------------------------------------------------------------------------------------------------- */

/* Before a thread serves its first request: umask 0, for this thread alone. */
void fs_prepare_thread(void);
bool fs_is_masked(void); /* it could not be: our own umask holds */
bool fs_can_switch(void);
/* What follows is done in the name of the guest's user, but with our rights: the guest has checked its own. -EINVAL. */
int fs_become(const struct fs *fs, const struct fuse_in_header *who);
void fs_return(const struct fs *fs, const struct fuse_in_header *who);
/* What follows clears the set-user-ID and set-group-ID bits as for anybody. */
void fs_give_up_setid(const struct fs *fs, bool give_up);
void fs_regain_setid(const struct fs *fs, bool gave_up);

/* --- the requests: 0, a negative errno or FS_LATER ---------------------------------------------------------------- */

typedef int fs_serve_fn(struct fs *fs, struct fs_call *call);
/* node.c */
fs_serve_fn fs_serve_lookup, fs_serve_forget, fs_serve_batch_forget, fs_serve_getattr, fs_serve_setattr,
    fs_serve_readlink, fs_serve_statfs;
/* The answer to whatever makes the guest know a file: `name` in `parent`. */
int fs_entry(struct fs *fs, struct fs_inode *parent, const char *name, const struct statx *st,
             struct fuse_entry_out *entry);
/* name.c */
fs_serve_fn fs_serve_mknod, fs_serve_mkdir, fs_serve_symlink, fs_serve_link, fs_serve_unlink, fs_serve_rmdir,
    fs_serve_rename, fs_serve_rename2, fs_serve_create;
/* file.c */
fs_serve_fn fs_serve_open, fs_serve_read, fs_serve_write, fs_serve_release, fs_serve_fsync, fs_serve_syncfs,
    fs_serve_fallocate, fs_serve_lseek, fs_serve_copy_file_range;
int fs_open_flags(const struct fs *fs, uint32_t guest);
/* Opens it for the guest and fills in the answer. */
int fs_open_for_guest(struct fs *fs, struct fs_inode *inode, uint32_t flags, struct fuse_open_out *out);
/* dir.c */
fs_serve_fn fs_serve_opendir, fs_serve_readdir, fs_serve_readdirplus, fs_serve_fsyncdir;
/* xattr.c */
fs_serve_fn fs_serve_getxattr, fs_serve_listxattr, fs_serve_setxattr, fs_serve_removexattr;

#endif
