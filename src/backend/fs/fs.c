/*
 * backend/fs/fs.c: a request's way: taken apart, checked, carried out, answered
 * (linux/fuse.h; Linux, Documentation/filesystems/fuse.rst). What the host does
 * from its caches is done at once, in the thread that brings the request; what
 * may wait for a disk goes to the server's own threads.
 */
#include "backend/fs/fs.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "backend/fs/fs_internal.h"

#define MINOR_MIN  31       /* the first with virtio-fs */
#define BODY       4608     /* what nearly all requests are shorter than: two names, a symbolic link's target */
#define BODY_MAX   KIB(128) /* an extended attribute of 64 KiB, its name */
#define WRITE_MAX  MIB(1)   /* bytes of one request */
#define PAGES_MAX  (WRITE_MAX / PAGE_SIZE)
#define BACKGROUND 64 /* reads ahead and such that the guest may have under way */

/* --- buffers -------------------------------------------------------------------------------------- */

unsigned fs_slice(struct iovec *to, const struct iovec *from, unsigned count, uint64_t skip, uint64_t len)
{
    unsigned n = 0;

    for (; count && len; from++, count--) {
        uint64_t piece;

        if (skip >= from->iov_len) {
            skip -= from->iov_len;
            continue;
        }
        piece = MIN(len, from->iov_len - skip);
        to[n++] = (struct iovec){(uint8_t *)from->iov_base + skip, piece};
        len -= piece;
        skip = 0;
    }
    return n;
}

static void copy_in(const struct fs_request *request, uint64_t skip, void *data, uint64_t len)
{
    const struct iovec *from = request->in;
    uint8_t *to = data;

    for (unsigned i = 0; i < request->in_count && len; i++, from++) {
        uint64_t piece;

        if (skip >= from->iov_len) {
            skip -= from->iov_len;
            continue;
        }
        piece = MIN(len, from->iov_len - skip);
        memcpy(to, (const uint8_t *)from->iov_base + skip, piece);
        to += piece;
        len -= piece;
        skip = 0;
    }
}

static void copy_out(const struct fs_request *request, uint64_t skip, const void *data, uint64_t len)
{
    const struct iovec *to = request->out;
    const uint8_t *from = data;

    for (unsigned i = 0; i < request->out_count && len; i++, to++) {
        uint64_t piece;

        if (skip >= to->iov_len) {
            skip -= to->iov_len;
            continue;
        }
        piece = MIN(len, to->iov_len - skip);
        memcpy((uint8_t *)to->iov_base + skip, from, piece);
        from += piece;
        len -= piece;
        skip = 0;
    }
}

int fs_answer(struct fs_call *call, const void *data, size_t len)
{
    if (len > fs_room(call))
        return -EINVAL;
    copy_out(call->request, sizeof(struct fuse_out_header) + call->answer, data, len);
    call->answer += len;
    return 0;
}

const char *fs_take_string(struct fs_call *call)
{
    const char *string = (const char *)call->body + call->body_at;
    size_t len = strnlen(string, call->body_len - call->body_at);

    if (len == call->body_len - call->body_at)
        return NULL;
    call->body_at += len + 1;
    return string;
}

const char *fs_take_name(struct fs_call *call)
{
    const char *name = fs_take_string(call);

    if (!name || !*name || strlen(name) > FS_NAME_MAX || strchr(name, '/') || !strcmp(name, ".") || !strcmp(name, ".."))
        return NULL;
    return name;
}

/* --- requests of the server itself -------------------------------------------------------------------- */

static void start_again(struct fs *fs)
{
    fs_close_all_files(fs);
    fs_forget_nodes(fs);
}

static uint32_t init_flags(const struct fs *fs)
{
    uint32_t flags = FUSE_ASYNC_READ | FUSE_ATOMIC_O_TRUNC | FUSE_BIG_WRITES | FUSE_AUTO_INVAL_DATA |
                     FUSE_DO_READDIRPLUS | FUSE_READDIRPLUS_AUTO | FUSE_ASYNC_DIO | FUSE_PARALLEL_DIROPS |
                     FUSE_MAX_PAGES | FUSE_CACHE_SYMLINKS | FUSE_HANDLE_KILLPRIV_V2;

    if (fs->config.writeback)
        flags |= FUSE_WRITEBACK_CACHE;
    if (fs->config.constant)
        flags |= FUSE_NO_OPEN_SUPPORT | FUSE_NO_OPENDIR_SUPPORT;
    return flags;
}

static int serve_init(struct fs *fs, struct fs_call *call)
{
    struct fuse_init_in in = {0};
    struct fuse_init_out out = {.major = FUSE_KERNEL_VERSION, .minor = FUSE_KERNEL_MINOR_VERSION};

    memcpy(&in, call->body, MIN(sizeof(in), call->body_len));
    if (in.major > FUSE_KERNEL_VERSION) /* it asks again, with ours */
        return fs_answer(call, &out, sizeof(out));
    if (in.major < FUSE_KERNEL_VERSION || in.minor < MINOR_MIN)
        return -EPROTO;
    start_again(fs);
    out.minor = MIN(in.minor, FUSE_KERNEL_MINOR_VERSION);
    out.max_readahead = in.max_readahead;
    out.flags = in.flags & init_flags(fs);
    out.max_background = BACKGROUND;
    out.congestion_threshold = BACKGROUND * 3 / 4;
    out.max_write = WRITE_MAX;
    out.max_pages = PAGES_MAX;
    out.time_gran = 1;
    fs->writeback = out.flags & FUSE_WRITEBACK_CACHE;
    fs->started = true;
    return fs_answer(call, &out, sizeof(out));
}

static int serve_destroy(struct fs *fs, struct fs_call *call)
{
    start_again(fs);
    fs->started = false;
    return 0;
}

static int serve_nothing(struct fs *fs, struct fs_call *call)
{
    return 0;
}

/* --- the table of requests --------------------------------------------------------------------------------- */

enum {
    CHANGES = 1, /* not on a read-only share */
    SLOW = 2,    /* may wait for the disk: not at once */
    QUIET = 4,   /* there is no answer */
    DATA = 8,    /* what is behind the fixed part is not copied */
    EARLY = 16,  /* before INIT too */
};

static const struct {
    fs_serve_fn *serve;
    uint16_t body; /* bytes of its fixed part; names come behind it */
    uint16_t flags;
} kinds[] = {
    [FUSE_LOOKUP] = {fs_serve_lookup, 0, 0},
    [FUSE_FORGET] = {fs_serve_forget, sizeof(struct fuse_forget_in), QUIET},
    [FUSE_BATCH_FORGET] = {fs_serve_batch_forget, sizeof(struct fuse_batch_forget_in), QUIET},
    [FUSE_GETATTR] = {fs_serve_getattr, sizeof(struct fuse_getattr_in), 0},
    [FUSE_SETATTR] = {fs_serve_setattr, sizeof(struct fuse_setattr_in), CHANGES},
    [FUSE_READLINK] = {fs_serve_readlink, 0, 0},
    [FUSE_SYMLINK] = {fs_serve_symlink, 0, CHANGES},
    [FUSE_MKNOD] = {fs_serve_mknod, sizeof(struct fuse_mknod_in), CHANGES},
    [FUSE_MKDIR] = {fs_serve_mkdir, sizeof(struct fuse_mkdir_in), CHANGES},
    [FUSE_UNLINK] = {fs_serve_unlink, 0, CHANGES},
    [FUSE_RMDIR] = {fs_serve_rmdir, 0, CHANGES},
    [FUSE_RENAME] = {fs_serve_rename, sizeof(struct fuse_rename_in), CHANGES},
    [FUSE_RENAME2] = {fs_serve_rename2, sizeof(struct fuse_rename2_in), CHANGES},
    [FUSE_LINK] = {fs_serve_link, sizeof(struct fuse_link_in), CHANGES},
    [FUSE_CREATE] = {fs_serve_create, sizeof(struct fuse_create_in), CHANGES},
    [FUSE_OPEN] = {fs_serve_open, sizeof(struct fuse_open_in), 0},
    [FUSE_READ] = {fs_serve_read, sizeof(struct fuse_read_in), 0},
    [FUSE_WRITE] = {fs_serve_write, sizeof(struct fuse_write_in), CHANGES | DATA},
    [FUSE_RELEASE] = {fs_serve_release, sizeof(struct fuse_release_in), 0},
    [FUSE_FSYNC] = {fs_serve_fsync, sizeof(struct fuse_fsync_in), SLOW},
    [FUSE_SYNCFS] = {fs_serve_syncfs, sizeof(struct fuse_syncfs_in), SLOW},
    [FUSE_STATFS] = {fs_serve_statfs, 0, 0},
    [FUSE_FALLOCATE] = {fs_serve_fallocate, sizeof(struct fuse_fallocate_in), CHANGES | SLOW},
    [FUSE_LSEEK] = {fs_serve_lseek, sizeof(struct fuse_lseek_in), 0},
    [FUSE_COPY_FILE_RANGE] = {fs_serve_copy_file_range, sizeof(struct fuse_copy_file_range_in), CHANGES | SLOW},
    [FUSE_OPENDIR] = {fs_serve_opendir, sizeof(struct fuse_open_in), 0},
    [FUSE_READDIR] = {fs_serve_readdir, sizeof(struct fuse_read_in), 0},
    [FUSE_READDIRPLUS] = {fs_serve_readdirplus, sizeof(struct fuse_read_in), 0},
    [FUSE_RELEASEDIR] = {fs_serve_release, sizeof(struct fuse_release_in), 0},
    [FUSE_FSYNCDIR] = {fs_serve_fsyncdir, sizeof(struct fuse_fsync_in), SLOW},
    [FUSE_GETXATTR] = {fs_serve_getxattr, sizeof(struct fuse_getxattr_in), 0},
    [FUSE_LISTXATTR] = {fs_serve_listxattr, sizeof(struct fuse_getxattr_in), 0},
    [FUSE_SETXATTR] = {fs_serve_setxattr, FUSE_COMPAT_SETXATTR_IN_SIZE, CHANGES},
    [FUSE_REMOVEXATTR] = {fs_serve_removexattr, 0, CHANGES},
    [FUSE_INIT] = {serve_init, 4 * sizeof(uint32_t), EARLY},
    [FUSE_DESTROY] = {serve_destroy, 0, 0},
    [FUSE_INTERRUPT] = {serve_nothing, 0, QUIET},
};

/* --- one request ------------------------------------------------------------------------------------------- */

static void finish(const struct fs_call *call, int rc, bool quiet)
{
    struct fuse_out_header out = {.len = sizeof(out), .error = rc, .unique = call->header.unique};

    call->request->written = 0;
    if (quiet || call->request->out_bytes < sizeof(out))
        return;
    if (!rc)
        out.len += (uint32_t)call->answer;
    copy_out(call->request, 0, &out, sizeof(out));
    call->request->written = out.len;
}

/* False: it is one for a thread. */
static bool carry_out(struct fs *fs, struct fs_call *call, bool quiet, fs_serve_fn *function)
{
    int rc = function(fs, call);

    if (rc == FS_LATER)
        return false;
    finish(call, rc, quiet);
    return true;
}

static bool serve_body(struct fs *fs, struct fs_call *call, size_t len)
{
    const uint16_t flags = kinds[call->header.opcode].flags;
    uint8_t few[BODY], *many = NULL;
    bool done = true;

    if (len > sizeof(few)) {
        many = malloc(len);
        if (!many) {
            finish(call, -ENOMEM, flags & QUIET);
            return true;
        }
    }
    copy_in(call->request, sizeof(call->header), many ? many : few, len);
    call->body = many ? many : few;
    call->body_len = len;
    call->body_at = kinds[call->header.opcode].body;
    done = carry_out(fs, call, flags & QUIET, kinds[call->header.opcode].serve);
    free(many);
    return done;
}

/* Why a request is not even looked at; 0: it is. */
static int refuse(const struct fs *fs, const struct fs_call *call, size_t len)
{
    const uint32_t opcode = call->header.opcode;

    if (opcode >= ARRAY_SIZE(kinds) || !kinds[opcode].serve)
        return -ENOSYS;
    if (!fs->started && !(kinds[opcode].flags & EARLY))
        return -EIO;
    if (len < kinds[opcode].body)
        return -EINVAL;
    if (len > BODY_MAX)
        return -E2BIG;
    if ((kinds[opcode].flags & CHANGES) && fs->config.readonly)
        return -EROFS;
    return 0;
}

static bool serve(struct fs *fs, struct fs_request *request, bool may_wait)
{
    struct fs_call call = {.request = request, .may_wait = may_wait};
    uint64_t len;
    int rc;

    if (request->in_bytes < sizeof(call.header)) { /* whose request it is cannot be said either */
        request->written = 0;
        return true;
    }
    copy_in(request, 0, &call.header, sizeof(call.header));
    len = MIN(MAX(call.header.len, sizeof(call.header)), request->in_bytes) - sizeof(call.header);
    if (call.header.opcode < ARRAY_SIZE(kinds) && (kinds[call.header.opcode].flags & DATA))
        len = MIN(len, kinds[call.header.opcode].body);
    rc = refuse(fs, &call, len);
    if (!rc && !(kinds[call.header.opcode].flags & QUIET) && request->out_bytes < sizeof(struct fuse_out_header))
        rc = -EINVAL;
    if (rc) {
        finish(&call, rc, call.header.opcode < ARRAY_SIZE(kinds) && (kinds[call.header.opcode].flags & QUIET));
        return true;
    }
    if (!may_wait && (kinds[call.header.opcode].flags & SLOW))
        return false;
    fs_prepare_thread();
    return serve_body(fs, &call, len);
}

/* --- the threads ----------------------------------------------------------------------------------------------- */

static struct fs_request *take(struct fs *fs)
{
    struct fs_request *request;

    while (!fs->first && !fs->closing)
        pthread_cond_wait(&fs->work, &fs->queue_lock.mutex);
    request = fs->first;
    if (request) {
        fs->first = request->next;
        if (!fs->first)
            fs->last = &fs->first;
    }
    return request;
}

static void *serve_requests(void *opaque)
{
    struct fs *fs = opaque;
    struct fs_request *request;

    lock_take(&fs->queue_lock);
    while ((request = take(fs))) {
        lock_drop(&fs->queue_lock);
        serve(fs, request, true);
        request->done(request);
        lock_take(&fs->queue_lock);
        if (!--fs->under_way)
            pthread_cond_broadcast(&fs->idle);
    }
    lock_drop(&fs->queue_lock);
    return NULL;
}

bool fs_submit(struct fs *fs, struct fs_request *request)
{
    if (serve(fs, request, false))
        return true;
    request->next = NULL;
    lock_take(&fs->queue_lock);
    *fs->last = request;
    fs->last = &request->next;
    fs->under_way++;
    pthread_cond_signal(&fs->work);
    lock_drop(&fs->queue_lock);
    return false;
}

void fs_drain(struct fs *fs)
{
    lock_take(&fs->queue_lock);
    while (fs->under_way)
        pthread_cond_wait(&fs->idle, &fs->queue_lock.mutex);
    lock_drop(&fs->queue_lock);
}

void fs_reset(struct fs *fs)
{
    start_again(fs);
    fs->started = false;
}

bool fs_readonly(const struct fs *fs)
{
    return fs->config.readonly;
}

/* --- life -------------------------------------------------------------------------------------------------------- */

/* Signals are the main thread's. */
static int start_threads(struct fs *fs)
{
    sigset_t all, old;
    int rc = 0;

    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    while (fs->threads < FS_THREADS && !rc) {
        rc = pthread_create(&fs->thread[fs->threads], NULL, serve_requests, fs);
        fs->threads += !rc;
    }
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    return fs->threads ? 0 : -rc; /* fewer will do */
}

static int open_root(struct fs *fs, const char *option, struct error *err)
{
    const char *path = fs->config.path;
    struct statx st;
    int rc;

    fs->root = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (fs->root < 0)
        return error_set(err, -errno, "%s: '%s': %s", option, path, strerror(errno));
    rc = fs_stat_at(fs->root, "", &st);
    if (rc)
        return error_set(err, rc, "%s: '%s': %s", option, path, strerror(-rc));
    if (fs_is_closed(fs, fs->root, "", &st))
        return error_set(err, -EINVAL, "%s: '%s' is a window to the kernel, no directory of files", option, path);
    if (faccessat(fs->root, ".", fs->config.readonly ? R_OK | X_OK : R_OK | W_OK | X_OK, AT_EACCESS))
        return error_set(err, -errno, "%s: '%s': %s%s", option, path, strerror(errno),
                         fs->config.readonly ? "" : " (to only read it: ,ro)");
    fs->proc = open("/proc/self/fd", O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (fs->proc < 0)
        return error_set(err, -errno, "%s: /proc is needed: %s", option, strerror(errno));
    if (fs_nodes_init(fs, &st))
        return error_set(err, -ENOMEM, "%s: no memory", option);
    rc = start_threads(fs);
    return rc ? error_set(err, rc, "%s: no threads: %s", option, strerror(-rc)) : 0;
}

struct fs *fs_open(const struct fs_config *config, const char *option, struct error *err)
{
    struct fs *fs = calloc(1, sizeof(*fs));

    if (!fs) {
        error_set(err, -ENOMEM, "%s: no memory", option);
        return NULL;
    }
    fs->config = *config;
    fs->root = fs->proc = -1;
    fs->last = &fs->first;
    fs->switches = fs_can_switch();
    lock_init(&fs->lock, LOCK_FS);
    lock_init(&fs->queue_lock, LOCK_BACKEND);
    pthread_cond_init(&fs->work, NULL);
    pthread_cond_init(&fs->idle, NULL);
    fs->file = calloc(FS_FILES_MAX, sizeof(struct fs_handle *));
    fs->file_generation = calloc(FS_FILES_MAX, sizeof(uint32_t));
    fs->file_slots = (struct fs_slots){.free = calloc(FS_FILES_MAX, sizeof(uint32_t)), .max = FS_FILES_MAX};
    fs_raise_limit();
    if (!fs->file || !fs->file_generation || !fs->file_slots.free)
        error_set(err, -ENOMEM, "%s: no memory", option);
    else if (!open_root(fs, option, err))
        return fs;
    fs_close(fs);
    return NULL;
}

void fs_close(struct fs *fs)
{
    lock_take(&fs->queue_lock);
    fs->closing = true;
    pthread_cond_broadcast(&fs->work);
    lock_drop(&fs->queue_lock);
    for (unsigned i = 0; i < fs->threads; i++)
        pthread_join(fs->thread[i], NULL);
    fs_close_all_files(fs);
    fs_nodes_free(fs);
    if (fs->root >= 0)
        close(fs->root);
    if (fs->proc >= 0)
        close(fs->proc);
    pthread_cond_destroy(&fs->work);
    pthread_cond_destroy(&fs->idle);
    lock_destroy(&fs->queue_lock);
    lock_destroy(&fs->lock);
    free(fs->file);
    free(fs->file_generation);
    free(fs->file_slots.free);
    free(fs);
}
