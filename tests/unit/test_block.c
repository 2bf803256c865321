/*
 * tests/unit/test_block.c: raw files and overlays against a model in memory,
 * under random requests; locks; what is durable after a flush; damaged files.
 */
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
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <pthread.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "backend/block/block_internal.h"

#define SIZE (MIB(3) + 512 * 5)

static char dir[] = "/tmp/trapeze-block-XXXXXX";
static struct error err;
static uint64_t seed = 88172645463325252ull;

static uint64_t next(void)
{
    seed ^= seed << 13;
    seed ^= seed >> 7;
    return seed ^= seed << 17;
}

static char *path_of(const char *name)
{
    static char path[4][64];
    static unsigned turn;

    turn = (turn + 1) % 4;
    snprintf(path[turn], sizeof(path[turn]), "%s/%s", dir, name);
    return path[turn];
}

/* A disk of SIZE bytes with a pattern. */
static void make_disk(const char *name, uint8_t *model)
{
    int fd = open(path_of(name), O_RDWR | O_CREAT | O_TRUNC, 0600);

    for (uint64_t i = 0; i < SIZE; i++)
        model[i] = (uint8_t)(i / 512 * 31 + i);
    assert_int_equal(write(fd, model, SIZE), SIZE);
    close(fd);
}

static struct block *open_disk(const char *name, bool readonly, bool scratch)
{
    const struct block_config config = {path_of(name), readonly, scratch};

    return block_open(&config, &err);
}

struct waiter {
    struct block_request request;
    pthread_mutex_t mutex;
    pthread_cond_t cond;
    bool done;
};

static void on_done(struct block_request *request)
{
    struct waiter *waiter = container_of(request, struct waiter, request);

    pthread_mutex_lock(&waiter->mutex);
    waiter->done = true;
    pthread_cond_signal(&waiter->cond);
    pthread_mutex_unlock(&waiter->mutex);
}

/* One request to its end, its data in three pieces. */
static int run(struct block *block, enum block_op op, uint64_t offset, void *data, uint64_t len)
{
    uint64_t a = len / 3, b = len / 2;
    struct iovec iov[] = {{data, a}, {(uint8_t *)data + a, b - a}, {NULL, 0}, {(uint8_t *)data + b, len - b}};
    struct waiter waiter = {.request = {op, offset, len, iov, data ? 4 : 0, .done = on_done},
                            .mutex = PTHREAD_MUTEX_INITIALIZER,
                            .cond = PTHREAD_COND_INITIALIZER};

    if (block_submit(block, &waiter.request))
        return waiter.request.rc;
    block_kick(block);
    pthread_mutex_lock(&waiter.mutex);
    while (!waiter.done)
        pthread_cond_wait(&waiter.cond, &waiter.mutex);
    pthread_mutex_unlock(&waiter.mutex);
    return waiter.request.rc;
}

static void check_all(struct block *block, const uint8_t *model)
{
    uint8_t *got = malloc(SIZE);

    assert_int_equal(block_size(block), SIZE);
    assert_int_equal(run(block, BLOCK_READ, 0, got, SIZE), 0);
    assert_memory_equal(got, model, SIZE);
    free(got);
}

static void random_requests(struct block *block, uint8_t *model, unsigned count)
{
    uint8_t *data = malloc(KIB(64));

    for (unsigned i = 0; i < count; i++) {
        uint64_t sectors = SIZE / 512, at = next() % sectors, n = 1 + next() % MIN(128, sectors - at);
        enum block_op op = next() % 16 ? next() % 2 ? BLOCK_READ : BLOCK_WRITE : next() % 2 ? BLOCK_ZERO : BLOCK_FLUSH;

        if (next() % 2) { /* half of them aligned */
            at = at / 8 * 8;
            n = MIN(ALIGN_UP(n, 8), sectors - at);
            n = MIN(n, 128);
        }
        for (uint64_t k = 0; op == BLOCK_WRITE && k < n * 512; k++)
            data[k] = (uint8_t)next();
        assert_int_equal(run(block, op, at * 512, op == BLOCK_READ || op == BLOCK_WRITE ? data : NULL,
                             op == BLOCK_FLUSH ? 0 : n * 512),
                         0);
        if (op == BLOCK_READ)
            assert_memory_equal(data, model + at * 512, n * 512);
        else if (op == BLOCK_WRITE)
            memcpy(model + at * 512, data, n * 512);
        else if (op == BLOCK_ZERO)
            memset(model + at * 512, 0, n * 512);
    }
    free(data);
}

static void test_raw(void **state)
{
    uint8_t *model = malloc(SIZE);
    struct block *block;

    make_disk("raw", model);
    block = open_disk("raw", false, false);
    assert_non_null(block);
    random_requests(block, model, 500);
    assert_int_equal(run(block, BLOCK_DISCARD, 4096, NULL, 8192), 0);
    assert_int_equal(run(block, BLOCK_WRITE, 4096, model + 4096, 8192), 0);
    check_all(block, model);
    block_close(block);
    block = open_disk("raw", true, false);
    assert_true(block_readonly(block));
    check_all(block, model);
    block_close(block);
    free(model);
}

/* --- the servers themselves, with more under way than they have room for ------------------------ */

#define MANY  400
#define PIECE 4096

struct crowd {
    struct block_request request[MANY];
    struct iovec iov[MANY][2];
    uint8_t data[MANY][PIECE];
    _Atomic unsigned finished;
};

static void on_finished(void *opaque, struct block_request *request)
{
    ((struct crowd *)opaque)->finished++;
}

/* Pieces of the disk, each once, in a random order; and flushes between them. */
static void fill_crowd(struct crowd *crowd, struct block_list *list, enum block_op op)
{
    crowd->finished = 0;
    block_list_init(list);
    for (unsigned i = 0; i < MANY; i++) {
        uint64_t offset = (i * 241u % MANY) * (uint64_t)PIECE;

        crowd->iov[i][0] = (struct iovec){crowd->data[i], 1000};
        crowd->iov[i][1] = (struct iovec){crowd->data[i] + 1000, PIECE - 1000};
        crowd->request[i] = (struct block_request){.op = op, .offset = offset, .len = PIECE};
        if (op == BLOCK_READ || op == BLOCK_WRITE) {
            crowd->request[i].iov = crowd->iov[i];
            crowd->request[i].iov_count = 2;
        }
        crowd->request[i].rc = 1;
        block_list_add(list, &crowd->request[i]);
    }
}

/* Half in one go, the others one by one. */
static void serve_crowd(struct block_server *server, struct crowd *crowd, struct block_list *list)
{
    struct block_list half;

    block_list_init(&half);
    for (unsigned i = 0; i < MANY / 2; i++)
        block_list_add(&half, block_list_take(list));
    server->ops->submit(server, &half);
    for (struct block_request *request; (request = block_list_take(list));) {
        block_list_add(&half, request);
        server->ops->submit(server, &half);
    }
    while (crowd->finished < MANY)
        usleep(100);
}

static void check_server(struct block_server *(*new)(struct block_layer *, struct block_listener))
{
    struct crowd *crowd = calloc(1, sizeof(*crowd));
    const struct block_listener listener = {on_finished, crowd};
    struct block_layer *layer;
    struct block_server *server;
    struct block_list list;
    uint8_t *model = calloc(1, SIZE);
    const enum block_op ops[] = {BLOCK_WRITE, BLOCK_READ, BLOCK_FLUSH, BLOCK_ZERO, BLOCK_READ, BLOCK_DISCARD};

    make_disk("raw", model);
    layer = block_raw_open(path_of("raw"), false, &err);
    assert_non_null(layer);
    server = new (layer, listener);
    if (!server) { /* not on this host */
        layer->ops->close(layer);
        goto out;
    }
    for (unsigned round = 0; round < ARRAY_SIZE(ops); round++) {
        fill_crowd(crowd, &list, ops[round]);
        for (unsigned i = 0; i < MANY; i++)
            memset(crowd->data[i], ops[round] == BLOCK_WRITE ? (int)(i * 7 + 1) : 0xee, PIECE);
        serve_crowd(server, crowd, &list);
        for (unsigned i = 0; i < MANY; i++) {
            assert_int_equal(crowd->request[i].rc, 0);
            for (unsigned k = 0; ops[round] == BLOCK_READ && k < PIECE; k++)
                assert_int_equal(crowd->data[i][k], round == 1 ? (uint8_t)(i * 7 + 1) : 0);
        }
    }
    /* The file becomes shorter, in the middle of a piece: what cannot be read is an error. */
    assert_int_equal(truncate(path_of("raw"), 100 * PIECE + 512), 0);
    fill_crowd(crowd, &list, BLOCK_READ);
    serve_crowd(server, crowd, &list);
    for (unsigned i = 0; i < MANY; i++)
        assert_int_equal(crowd->request[i].rc, i * 241u % MANY < 100 ? 0 : -EIO);
    server->ops->free(server);
    layer->ops->close(layer);
out:
    free(model);
    free(crowd);
}

static void test_threads(void **state)
{
    check_server(block_threads_new);
}

static void test_uring(void **state)
{
    check_server(block_uring_new);
}

/* A sandbox that knows no io_uring, or whose entry only fails: threads serve the disk. */
static void test_no_uring(void **state)
{
    const unsigned forbidden[] = {SYS_io_uring_setup, SYS_io_uring_enter};
    uint8_t *model = malloc(SIZE);

    make_disk("raw", model);
    for (unsigned i = 0; i < ARRAY_SIZE(forbidden); i++) {
        struct sock_filter filter[] = {
            BPF_STMT(BPF_LD | BPF_W | BPF_ABS, 0), /* the system call's number */
            BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, forbidden[i], 0, 1),
            BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | (i ? EPERM : ENOSYS)),
            BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
        };
        struct sock_fprog program = {ARRAY_SIZE(filter), filter};
        pid_t pid = fork();
        int status;

        if (pid == 0) {
            struct block *block;

            if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) || prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program))
                _exit(0); /* cannot be tried here */
            block = open_disk("raw", false, false);
            if (!block || run(block, BLOCK_WRITE, 512, model, 512) || run(block, BLOCK_FLUSH, 0, NULL, 0))
                _exit(1);
            block_close(block);
            _exit(0);
        }
        assert_int_equal(waitpid(pid, &status, 0), pid);
        assert_int_equal(status, 0);
    }
    free(model);
}

static void test_scratch(void **state)
{
    uint8_t *model = malloc(SIZE), *before = malloc(SIZE);
    struct block *block;

    make_disk("raw", model);
    memcpy(before, model, SIZE);
    block = open_disk("raw", false, true);
    random_requests(block, model, 800);
    check_all(block, model);
    block_close(block);
    block = open_disk("raw", true, false);
    check_all(block, before);
    block_close(block);
    free(model);
    free(before);
}

/* Two overlays, one over the other, closed and opened again. */
static void test_overlay(void **state)
{
    uint8_t *model = malloc(SIZE), *before = malloc(SIZE), *middle = malloc(SIZE);
    struct block *block;

    make_disk("raw", model);
    memcpy(before, model, SIZE);
    assert_int_equal(block_create_overlay(path_of("raw"), path_of("a.overlay"), &err), 0);
    assert_int_equal(block_create_overlay(path_of("raw"), path_of("a.overlay"), &err), -EEXIST);
    for (unsigned round = 0; round < 3; round++) {
        block = open_disk("a.overlay", false, false);
        assert_non_null(block);
        check_all(block, model);
        random_requests(block, model, 200);
        block_close(block);
    }
    memcpy(middle, model, SIZE);
    assert_int_equal(block_create_overlay(path_of("a.overlay"), path_of("b.overlay"), &err), 0);
    block = open_disk("b.overlay", false, false);
    random_requests(block, model, 400);
    block_close(block);
    block = open_disk("b.overlay", true, false);
    check_all(block, model);
    block_close(block);
    block = open_disk("a.overlay", true, false);
    check_all(block, middle);
    block_close(block);
    block = open_disk("raw", true, false);
    check_all(block, before);
    block_close(block);
    free(model);
    free(before);
    free(middle);
}

/* What was flushed is in the file; what was not may be missing, but nothing else changes. */
static void test_flush(void **state)
{
    uint8_t *model = malloc(SIZE), got[4096], mine[4096];
    struct block *block, *copy;
    char command[256];

    make_disk("raw", model);
    unlink(path_of("a.overlay"));
    assert_int_equal(block_create_overlay(path_of("raw"), path_of("a.overlay"), &err), 0);
    block = open_disk("a.overlay", false, false);
    memset(mine, 0xab, sizeof(mine));
    assert_int_equal(run(block, BLOCK_WRITE, 8192, mine, 4096), 0);
    assert_int_equal(run(block, BLOCK_FLUSH, 0, NULL, 0), 0);
    assert_int_equal(run(block, BLOCK_WRITE, 16384, mine, 4096), 0);
    snprintf(command, sizeof(command), "cp --sparse=always %s %s", path_of("a.overlay"), path_of("c.overlay"));
    assert_int_equal(system(command), 0); /* as the monitor's death would leave it */
    copy = open_disk("c.overlay", true, false);
    assert_non_null(copy);
    assert_int_equal(run(copy, BLOCK_READ, 8192, got, 4096), 0);
    assert_memory_equal(got, mine, 4096);
    assert_int_equal(run(copy, BLOCK_READ, 16384, got, 4096), 0);
    assert_memory_equal(got, model + 16384, 4096);
    block_close(copy);
    block_close(block);
    free(model);
}

static void test_locks(void **state)
{
    uint8_t *model = malloc(SIZE);
    struct block *one, *two;

    make_disk("raw", model);
    one = open_disk("raw", false, false);
    assert_null(open_disk("raw", false, false));
    assert_non_null(strstr(err.message, "in use"));
    assert_null(open_disk("raw", true, false));
    assert_null(open_disk("raw", false, true));
    block_close(one);
    one = open_disk("raw", true, false);
    two = open_disk("raw", false, true);
    assert_non_null(two);
    assert_null(open_disk("raw", false, false));
    block_close(one);
    block_close(two);
    unlink(path_of("a.overlay"));
    unlink(path_of("b.overlay"));
    assert_int_equal(block_create_overlay(path_of("raw"), path_of("a.overlay"), &err), 0);
    assert_int_equal(block_create_overlay(path_of("raw"), path_of("b.overlay"), &err), 0);
    one = open_disk("a.overlay", false, false);
    two = open_disk("b.overlay", false, false);
    assert_non_null(two);
    assert_null(open_disk("a.overlay", false, false));
    assert_null(open_disk("raw", false, false)); /* a base is not written to */
    block_close(one);
    block_close(two);
    free(model);
}

/* A file that has become shorter is a read error; a write makes it whole again. */
static void test_shrunk(void **state)
{
    uint8_t *model = malloc(SIZE), got[4096];
    struct block *block;

    make_disk("raw", model);
    block = open_disk("raw", false, false);
    assert_int_equal(truncate(path_of("raw"), 8192), 0);
    assert_int_equal(run(block, BLOCK_READ, 0, got, 4096), 0);
    assert_int_equal(run(block, BLOCK_READ, 8192, got, 4096), -EIO);
    assert_int_equal(run(block, BLOCK_READ, 6144, got, 4096), -EIO);
    assert_int_equal(run(block, BLOCK_WRITE, 8192, model + 8192, 4096), 0);
    assert_int_equal(run(block, BLOCK_READ, 8192, got, 4096), 0);
    block_close(block);
    free(model);
}

/* What a guest has been told is safe must not go with a file that was deleted: no flush succeeds then. */
static void test_deleted(void **state)
{
    static const char *const names[] = {"raw", "a.overlay"};
    uint8_t *model = malloc(SIZE), got[4096];

    make_disk("raw", model);
    unlink(path_of("a.overlay"));
    assert_int_equal(block_create_overlay(path_of("raw"), path_of("a.overlay"), &err), 0);
    for (unsigned i = ARRAY_SIZE(names); i-- > 0;) {
        struct block *block = open_disk(names[i], false, false);

        assert_int_equal(run(block, BLOCK_WRITE, 8192, model, 4096), 0);
        assert_int_equal(run(block, BLOCK_FLUSH, 0, NULL, 0), 0);
        assert_int_equal(unlink(path_of(names[i])), 0);
        assert_int_equal(run(block, BLOCK_FLUSH, 0, NULL, 0), -ENOENT);
        assert_int_equal(run(block, BLOCK_READ, 8192, got, 4096), 0);
        assert_memory_equal(got, model, 4096);
        block_close(block);
    }
    make_disk("raw", model);
    for (unsigned scratch = 0; scratch < 2; scratch++) { /* nothing is to be kept */
        struct block *block = open_disk("raw", !scratch, scratch);

        unlink(path_of("raw"));
        assert_int_equal(run(block, BLOCK_FLUSH, 0, NULL, 0), 0);
        block_close(block);
        make_disk("raw", model);
    }
    free(model);
}

static void poke(const char *name, uint64_t offset, const void *data, size_t len)
{
    int fd = open(path_of(name), O_WRONLY);

    assert_int_equal(pwrite(fd, data, len, (off_t)offset), len);
    close(fd);
}

static void refuses(const char *name, const char *why)
{
    struct block *block = open_disk(name, false, false);

    assert_null(block);
    if (!strstr(err.message, why))
        fail_msg("\"%s\" does not say \"%s\"", err.message, why);
}

static void test_damaged(void **state)
{
    static const struct {
        uint64_t offset, value;
        const char *why;
    } bad[] = {
        {0, 0, "is none"},
        {8, 2, "version 2"},
        {12, 512, "makes no sense"},
        {16, 0, "makes no sense"},
        {16, 511, "makes no sense"},
        {16, UINT64_MAX, "makes no sense"},
        {16, GIB(1), "makes no sense"},
        {16, SIZE + 512, "too short"},
        {16, SIZE - 512, "bytes now"},
        {24, 1, "makes no sense"},
        {24, 0, "makes no sense"},
        {24, UINT64_MAX & PAGE_MASK, "makes no sense"},
        {32, 0, "makes no sense"},
        {32, UINT64_MAX & PAGE_MASK, "makes no sense"},
        {40, 'x', "No such file"},
    };
    uint8_t *model = malloc(SIZE), full[4056];

    make_disk("raw", model);
    for (unsigned i = 0; i < ARRAY_SIZE(bad); i++) {
        unlink(path_of("a.overlay"));
        assert_int_equal(block_create_overlay(path_of("raw"), path_of("a.overlay"), &err), 0);
        poke("a.overlay", bad[i].offset, &bad[i].value, bad[i].offset == 8 || bad[i].offset == 12 ? 4 : 8);
        refuses("a.overlay", bad[i].why);
    }
    unlink(path_of("a.overlay"));
    assert_int_equal(block_create_overlay(path_of("raw"), path_of("a.overlay"), &err), 0);
    memset(full, 'x', sizeof(full));
    poke("a.overlay", 40, full, sizeof(full));
    refuses("a.overlay", "makes no sense");
    poke("a.overlay", 40, "a.overlay", 10); /* its own base */
    refuses("a.overlay", "in use");
    memset(full, 0, sizeof(full));
    poke("raw", 0, "TRPZOVL", 8); /* a guest may write that onto its disk: it stays a raw one */
    assert_int_equal(truncate(path_of("raw"), SIZE), 0);
    block_close(open_disk("raw", false, false));
    free(model);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_raw),     cmocka_unit_test(test_scratch),  cmocka_unit_test(test_overlay),
        cmocka_unit_test(test_flush),   cmocka_unit_test(test_locks),    cmocka_unit_test(test_shrunk),
        cmocka_unit_test(test_deleted), cmocka_unit_test(test_damaged),  cmocka_unit_test(test_threads),
        cmocka_unit_test(test_uring),   cmocka_unit_test(test_no_uring),
    };
    char command[64];
    int rc;

    if (!mkdtemp(dir))
        return 1;
    rc = cmocka_run_group_tests(tests, NULL, NULL);
    snprintf(command, sizeof(command), "rm -rf %s", dir);
    return system(command) || rc;
}
