/*
 * tests/unit/fs_guest.h: a FUSE client of the file server: a directory of its
 * own, requests one at a time, their answers.
 */
#ifndef TESTS_UNIT_FS_GUEST_H
#define TESTS_UNIT_FS_GUEST_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <linux/fuse.h>
#include <pthread.h>
#include <sys/stat.h>
#include <unistd.h>

#include "backend/fs/fs.h"

#define FG_ROOM 70000

struct fg {
    char top[32]; /* a directory of the test's own */
    char dir[40]; /* the shared one: top/share */
    struct fs *fs;
    uint32_t uid, gid;
    size_t in_len; /* of the request being made */
    uint8_t in[FG_ROOM + 256];
    size_t len; /* of the last answer, without the header */
    uint8_t out[FG_ROOM];
};

struct fg_waiter {
    struct fs_request request;
    pthread_mutex_t mutex;
    pthread_cond_t cond;
    bool done;
};

static inline void fg_done(struct fs_request *request)
{
    struct fg_waiter *waiter = container_of(request, struct fg_waiter, request);

    pthread_mutex_lock(&waiter->mutex);
    waiter->done = true;
    pthread_cond_signal(&waiter->cond);
    pthread_mutex_unlock(&waiter->mutex);
}

/* Sends bytes as they are, with that much room; the length of the answer. */
static inline uint64_t fg_send(struct fs *fs, const void *in, size_t in_len, void *out, size_t room)
{
    const struct iovec from = {(void *)(uintptr_t)in, in_len}, to = {out, room};
    struct fg_waiter waiter = {
        .request = {.in = &from,
                    .out = &to,
                    .in_count = in_len ? 1 : 0,
                    .out_count = room ? 1 : 0,
                    .in_bytes = in_len,
                    .out_bytes = room,
                    .done = fg_done},
        .mutex = PTHREAD_MUTEX_INITIALIZER,
        .cond = PTHREAD_COND_INITIALIZER,
    };

    if (fs_submit(fs, &waiter.request))
        return waiter.request.written;
    pthread_mutex_lock(&waiter.mutex);
    while (!waiter.done)
        pthread_cond_wait(&waiter.cond, &waiter.mutex);
    pthread_mutex_unlock(&waiter.mutex);
    fs_drain(fs);
    return waiter.request.written;
}

static inline void fg_begin(struct fg *g, uint32_t opcode, uint64_t node)
{
    const struct fuse_in_header header = {.opcode = opcode, .unique = 77, .nodeid = node, .uid = g->uid, .gid = g->gid};

    memcpy(g->in, &header, sizeof(header));
    g->in_len = sizeof(header);
}

static inline void fg_add(struct fg *g, const void *data, size_t len)
{
    memcpy(g->in + g->in_len, data, len);
    g->in_len += len;
}

static inline void fg_name(struct fg *g, const char *name)
{
    fg_add(g, name, strlen(name) + 1);
}

/* Sends what was begun. 0 or a negative errno; the answer is in out. */
static inline int fg_ask(struct fg *g)
{
    uint32_t in_len = (uint32_t)g->in_len;
    struct fuse_out_header header;
    uint8_t answer[FG_ROOM + sizeof(header)];
    uint64_t n;

    memcpy(g->in, &in_len, sizeof(in_len));
    n = fg_send(g->fs, g->in, g->in_len, answer, sizeof(answer));
    assert_true(n >= sizeof(header));
    memcpy(&header, answer, sizeof(header));
    assert_int_equal(header.len, n);
    assert_int_equal(header.unique, 77);
    assert_true(header.error <= 0 && header.error > -512);
    g->len = n - sizeof(header);
    memcpy(g->out, answer + sizeof(header), g->len);
    return header.error;
}

/* Sends what was begun, a request without an answer. */
static inline void fg_tell(struct fg *g)
{
    uint32_t in_len = (uint32_t)g->in_len;

    memcpy(g->in, &in_len, sizeof(in_len));
    assert_int_equal(fg_send(g->fs, g->in, g->in_len, NULL, 0), 0);
}

/* --- requests -------------------------------------------------------------------------------------- */

static inline int fg_init(struct fg *g)
{
    const struct fuse_init_in in = {.major = 7, .minor = 38, .max_readahead = 131072, .flags = ~0u};

    fg_begin(g, FUSE_INIT, 0);
    fg_add(g, &in, sizeof(in));
    return fg_ask(g);
}

static inline const struct fuse_entry_out *fg_entry(const struct fg *g)
{
    assert_true(g->len >= sizeof(struct fuse_entry_out));
    return (const void *)g->out;
}

/* The node; 0: there is none of that name. */
static inline uint64_t fg_lookup(struct fg *g, uint64_t dir, const char *name)
{
    fg_begin(g, FUSE_LOOKUP, dir);
    fg_name(g, name);
    return fg_ask(g) ? 0 : fg_entry(g)->nodeid;
}

/* A request whose body is a structure and up to two names. */
static inline int fg_call(struct fg *g, uint32_t opcode, uint64_t node, const void *body, size_t len, const char *name,
                          const char *second)
{
    fg_begin(g, opcode, node);
    if (len)
        fg_add(g, body, len);
    if (name)
        fg_name(g, name);
    if (second)
        fg_name(g, second);
    return fg_ask(g);
}

static inline int fg_open_file(struct fg *g, uint64_t node, uint32_t flags, uint64_t *fh)
{
    const struct fuse_open_in in = {.flags = flags};
    int rc = fg_call(g, FUSE_OPEN, node, &in, sizeof(in), NULL, NULL);

    *fh = rc ? 0 : ((const struct fuse_open_out *)(const void *)g->out)->fh;
    return rc;
}

static inline int fg_create(struct fg *g, uint64_t dir, const char *name, uint32_t flags, uint32_t mode, uint64_t *node,
                            uint64_t *fh)
{
    const struct fuse_create_in in = {.flags = flags | O_CREAT, .mode = S_IFREG | mode};
    int rc = fg_call(g, FUSE_CREATE, dir, &in, sizeof(in), name, NULL);

    *node = *fh = 0;
    if (rc)
        return rc;
    *node = fg_entry(g)->nodeid;
    *fh = ((const struct fuse_open_out *)(const void *)(g->out + sizeof(struct fuse_entry_out)))->fh;
    return 0;
}

static inline int fg_read(struct fg *g, uint64_t node, uint64_t fh, uint64_t offset, uint32_t size)
{
    const struct fuse_read_in in = {.fh = fh, .offset = offset, .size = size};

    return fg_call(g, FUSE_READ, node, &in, sizeof(in), NULL, NULL);
}

/* How many bytes, or a negative errno. */
static inline int fg_write(struct fg *g, uint64_t node, uint64_t fh, uint64_t offset, const void *data, uint32_t size)
{
    const struct fuse_write_in in = {.fh = fh, .offset = offset, .size = size};
    int rc;

    fg_begin(g, FUSE_WRITE, node);
    fg_add(g, &in, sizeof(in));
    fg_add(g, data, size);
    rc = fg_ask(g);
    return rc ? rc : (int)((const struct fuse_write_out *)(const void *)g->out)->size;
}

static inline int fg_mkdir(struct fg *g, uint64_t dir, const char *name, uint32_t mode)
{
    const struct fuse_mkdir_in in = {.mode = mode};

    return fg_call(g, FUSE_MKDIR, dir, &in, sizeof(in), name, NULL);
}

static inline int fg_rename(struct fg *g, uint64_t from, const char *name, uint64_t to, const char *new_name,
                            uint32_t flags)
{
    const struct fuse_rename2_in in = {.newdir = to, .flags = flags};

    return fg_call(g, FUSE_RENAME2, from, &in, sizeof(in), name, new_name);
}

static inline int fg_getattr(struct fg *g, uint64_t node, struct fuse_attr *attr)
{
    const struct fuse_getattr_in in = {0};
    int rc = fg_call(g, FUSE_GETATTR, node, &in, sizeof(in), NULL, NULL);

    *attr = rc ? (struct fuse_attr){0} : ((const struct fuse_attr_out *)(const void *)g->out)->attr;
    return rc;
}

static inline void fg_forget(struct fg *g, uint64_t node, uint64_t times)
{
    const struct fuse_forget_in in = {times};

    fg_begin(g, FUSE_FORGET, node);
    fg_add(g, &in, sizeof(in));
    fg_tell(g);
}

/* --- the host's side ---------------------------------------------------------------------------------- */

static inline const char *fg_path(const struct fg *g, const char *name)
{
    static _Thread_local char path[8][300];
    static _Thread_local unsigned turn;

    turn = (turn + 1) % 8;
    snprintf(path[turn], sizeof(path[turn]), "%s/%s", g->dir, name);
    return path[turn];
}

static inline void fg_put_file(const char *path, const char *text)
{
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC, 0644);

    assert_true(fd >= 0);
    assert_int_equal(write(fd, text, strlen(text)), strlen(text));
    close(fd);
}

static inline void fg_open(struct fg *g, bool readonly, bool constant)
{
    struct fs_config config = {.readonly = readonly, .constant = constant};
    struct error err;

    config.path = g->dir;
    g->fs = fs_open(&config, "--share", &err);
    assert_non_null(g->fs);
    assert_int_equal(fg_init(g), 0);
}

static inline int fg_setup(void **state)
{
    struct fg *g = calloc(1, sizeof(*g));

    strcpy(g->top, "/tmp/trapeze-fs-XXXXXX");
    assert_non_null(mkdtemp(g->top));
    snprintf(g->dir, sizeof(g->dir), "%s/share", g->top);
    assert_int_equal(mkdir(g->dir, 0755), 0);
    *state = g;
    return 0;
}

static inline int fg_teardown(void **state)
{
    struct fg *g = *state;
    char command[64];

    if (g->fs)
        fs_close(g->fs);
    snprintf(command, sizeof(command), "rm -rf %s", g->top);
    assert_int_equal(system(command), 0);
    free(g);
    return 0;
}

#endif
