/*
 * tests/unit/test_fs_hostile.c: what a hostile guest of the file server does not
 * get: anything outside the directory, a change of a read-only one, devices,
 * a server that hangs or falls over.
 */
#include "fs_guest.h"

#include <stdatomic.h>
#include <sys/sysmacros.h>

#define SECRET  "do not read this"
#define RACE_MS 700

static void check_untouched(const struct fg *g)
{
    char path[64], text[64] = "";
    int fd;

    snprintf(path, sizeof(path), "%s/secret", g->top);
    fd = open(path, O_RDONLY);
    assert_true(fd >= 0);
    assert_int_equal(read(fd, text, sizeof(text)), sizeof(SECRET) - 1);
    assert_string_equal(text, SECRET);
    close(fd);
}

/* top/secret is outside; inside are a file, a directory, and symbolic links out. */
static void furnish(struct fg *g)
{
    char path[64];

    snprintf(path, sizeof(path), "%s/secret", g->top);
    fg_put_file(path, SECRET);
    fg_put_file(fg_path(g, "file"), "inside");
    assert_int_equal(mkdir(fg_path(g, "dir"), 0755), 0);
    assert_int_equal(symlink("../secret", fg_path(g, "link")), 0);
    assert_int_equal(symlink(path, fg_path(g, "absolute")), 0);
    assert_int_equal(symlink("..", fg_path(g, "up")), 0);
    assert_int_equal(symlink("/", fg_path(g, "root")), 0);
}

static const char *const bad_names[] = {"",    ".", "..", "/", "../secret", "dir/../../secret", "/etc/passwd",
                                        "a/b", "a/"};

static void test_bad_names(void **state)
{
    struct fg *g = *state;
    const struct fuse_create_in create = {.flags = O_RDWR | O_CREAT, .mode = 0666};
    const struct fuse_mknod_in node = {.mode = S_IFREG | 0666};
    const struct fuse_link_in link = {1};
    char longer[300];

    furnish(g);
    fg_open(g, false, false);
    memset(longer, 'a', sizeof(longer));
    longer[256] = '\0';
    for (unsigned i = 0; i <= ARRAY_SIZE(bad_names); i++) {
        const char *name = i < ARRAY_SIZE(bad_names) ? bad_names[i] : longer;

        assert_int_equal(fg_call(g, FUSE_LOOKUP, 1, NULL, 0, name, NULL), -EINVAL);
        assert_int_equal(fg_call(g, FUSE_CREATE, 1, &create, sizeof(create), name, NULL), -EINVAL);
        assert_int_equal(fg_call(g, FUSE_MKNOD, 1, &node, sizeof(node), name, NULL), -EINVAL);
        assert_int_equal(fg_mkdir(g, 1, name, 0755), -EINVAL);
        assert_int_equal(fg_call(g, FUSE_UNLINK, 1, NULL, 0, name, NULL), -EINVAL);
        assert_int_equal(fg_call(g, FUSE_RMDIR, 1, NULL, 0, name, NULL), -EINVAL);
        assert_int_equal(fg_call(g, FUSE_SYMLINK, 1, NULL, 0, name, "target"), -EINVAL);
        assert_int_equal(fg_call(g, FUSE_LINK, 1, &link, sizeof(link), name, NULL), -EINVAL);
        assert_int_equal(fg_rename(g, 1, "file", 1, name, 0), -EINVAL);
        assert_int_equal(fg_rename(g, 1, name, 1, "file", 0), -EINVAL);
    }
    fg_begin(g, FUSE_LOOKUP, 1);
    fg_add(g, "file", 4); /* without its end */
    assert_int_equal(fg_ask(g), -EINVAL);
    fg_begin(g, FUSE_SYMLINK, 1);
    fg_add(g, "new\0target", 10);
    assert_int_equal(fg_ask(g), -EINVAL);
    assert_int_not_equal(access(fg_path(g, "new"), F_OK), 0);
    check_untouched(g);
}

static void test_symbolic_links_are_not_followed(void **state)
{
    static const char *const links[] = {"link", "absolute", "up", "root"};
    struct fg *g = *state;
    const struct fuse_create_in create = {.flags = O_RDWR | O_CREAT | O_TRUNC, .mode = 0666};
    const struct fuse_setattr_in truncate = {.valid = FATTR_SIZE}, mode = {.valid = FATTR_MODE, .mode = 0777};
    uint64_t node, fh;

    furnish(g);
    fg_open(g, false, false);
    for (unsigned i = 0; i < ARRAY_SIZE(links); i++) {
        node = fg_lookup(g, 1, links[i]);
        assert_int_equal(fg_entry(g)->attr.mode & S_IFMT, S_IFLNK);
        assert_int_equal(fg_open_file(g, node, O_RDWR, &fh), -EACCES);
        assert_int_equal(
            fg_call(g, FUSE_OPENDIR, node, &(struct fuse_open_in){0}, sizeof(struct fuse_open_in), NULL, NULL),
            -ENOTDIR);
        assert_int_equal(fg_call(g, FUSE_LOOKUP, node, NULL, 0, "secret", NULL), -ENOTDIR);
        assert_int_equal(fg_mkdir(g, node, "made", 0755), -ENOTDIR);
        assert_int_equal(fg_rename(g, 1, "file", node, "moved", 0), -ENOTDIR);
        assert_int_equal(fg_call(g, FUSE_CREATE, 1, &create, sizeof(create), links[i], NULL), -EACCES);
        assert_int_not_equal(fg_call(g, FUSE_SETATTR, node, &truncate, sizeof(truncate), NULL, NULL), 0);
        assert_int_not_equal(fg_call(g, FUSE_SETATTR, node, &mode, sizeof(mode), NULL, NULL), 0);
    }
    check_untouched(g);
}

/* --- the file is exchanged for something else while it is opened ----------------------------------------- */

struct swap {
    struct fg *g;
    const char *good, *evil, *name;
    _Atomic bool stop;
};

static void *keep_swapping(void *opaque)
{
    struct swap *swap = opaque;

    while (!atomic_load(&swap->stop)) {
        renameat2(AT_FDCWD, swap->evil, AT_FDCWD, swap->name, RENAME_EXCHANGE);
        renameat2(AT_FDCWD, swap->evil, AT_FDCWD, swap->name, RENAME_EXCHANGE);
    }
    return NULL;
}

static void try_file(struct fg *g, unsigned *opened)
{
    const struct fuse_setattr_in truncate = {.valid = FATTR_SIZE, .size = 6};
    uint64_t node = fg_lookup(g, 1, "file"), fh;

    if (node && !fg_open_file(g, node, O_RDWR, &fh)) {
        assert_int_equal(fg_read(g, node, fh, 0, 100), 0);
        assert_int_equal(g->len, 6);
        assert_memory_equal(g->out, "inside", 6);
        fg_call(g, FUSE_SETATTR, node, &truncate, sizeof(truncate), NULL, NULL);
        fg_call(g, FUSE_RELEASE, node, &(struct fuse_release_in){.fh = fh}, sizeof(struct fuse_release_in), NULL, NULL);
        ++*opened;
    }
    fg_forget(g, node, 1);
}

static void try_directory(struct fg *g, unsigned *opened)
{
    uint64_t dir = fg_lookup(g, 1, "dir"), node;

    node = dir ? fg_lookup(g, dir, "secret") : 0;
    assert_int_equal(node, 0); /* it is in the directory above */
    if (dir && !fg_mkdir(g, dir, "made", 0755)) {
        fg_forget(g, fg_entry(g)->nodeid, 1);
        ++*opened;
        fg_call(g, FUSE_RMDIR, dir, NULL, 0, "made", NULL);
    }
    fg_forget(g, dir, 1);
}

static void race(struct fg *g, const char *name, const char *evil, void (*try)(struct fg *g, unsigned *opened))
{
    char name_path[100], evil_path[100];
    struct swap swap = {.g = g, .name = name_path, .evil = evil_path};
    struct timespec start, now;
    unsigned opened = 0;
    int64_t elapsed;
    pthread_t thread;

    snprintf(name_path, sizeof(name_path), "%s", fg_path(g, name));
    snprintf(evil_path, sizeof(evil_path), "%s", fg_path(g, evil));
    pthread_create(&thread, NULL, keep_swapping, &swap);
    clock_gettime(CLOCK_MONOTONIC, &start);
    do {
        try(g, &opened);
        clock_gettime(CLOCK_MONOTONIC, &now);
        elapsed = (now.tv_sec - start.tv_sec) * 1000 + (now.tv_nsec - start.tv_nsec) / 1000000;
    } while (elapsed < RACE_MS || (opened < 20 && elapsed < 20 * RACE_MS));
    atomic_store(&swap.stop, true);
    pthread_join(thread, NULL);
    assert_true(opened > 0);
    check_untouched(g);
}

static void test_race_file_for_link(void **state)
{
    furnish(*state);
    fg_open(*state, false, false);
    race(*state, "file", "link", try_file);
}

static void test_race_file_for_pipe(void **state)
{
    struct fg *g = *state;

    furnish(g);
    assert_int_equal(mkfifo(fg_path(g, "pipe"), 0666), 0);
    fg_open(g, false, false);
    race(g, "file", "pipe", try_file); /* opening it would wait for ever */
}

static void test_race_directory_for_link(void **state)
{
    char made[64];

    furnish(*state);
    fg_open(*state, false, false);
    race(*state, "dir", "up", try_directory);
    snprintf(made, sizeof(made), "%s/made", ((struct fg *)*state)->top);
    assert_int_not_equal(access(made, F_OK), 0);
}

/* --- things that are no files ------------------------------------------------------------------------------ */

static void test_no_devices(void **state)
{
    struct fg *g = *state;
    struct fuse_mknod_in in = {.mode = S_IFCHR | 0666, .rdev = 1 << 8 | 3};
    uint64_t node, fh;

    fg_open(g, false, false);
    assert_int_equal(fg_call(g, FUSE_MKNOD, 1, &in, sizeof(in), "null", NULL), -EPERM);
    in.mode = S_IFBLK | 0666;
    assert_int_equal(fg_call(g, FUSE_MKNOD, 1, &in, sizeof(in), "disk", NULL), -EPERM);
    if (!mknod(fg_path(g, "zero"), S_IFCHR | 0666, makedev(1, 5))) {
        node = fg_lookup(g, 1, "zero");
        assert_int_equal(fg_open_file(g, node, O_RDONLY, &fh), -EACCES);
    }
    in.mode = S_IFIFO | 0666;
    in.rdev = 0;
    assert_int_equal(fg_call(g, FUSE_MKNOD, 1, &in, sizeof(in), "pipe", NULL), 0);
    assert_int_equal(fg_open_file(g, fg_entry(g)->nodeid, O_RDWR, &fh), -EACCES);
}

/* A share of everything shows /proc and /sys as empty directories: they are ways into the monitor and the host. */
static void test_no_kernel_windows(void **state)
{
    static const char *const windows[] = {"proc", "sys"};
    const struct fs_config config = {.path = "/", .readonly = true}, proc = {.path = "/proc"};
    struct fg *g = *state;
    struct fuse_read_in in = {.size = 4096};
    struct error err;
    uint64_t node;

    assert_null(fs_open(&proc, "--share", &err));
    assert_non_null(strstr(err.message, "--share: '/proc'"));
    g->fs = fs_open(&config, "--share", &err);
    assert_non_null(g->fs);
    assert_int_equal(fg_init(g), 0);
    for (unsigned i = 0; i < ARRAY_SIZE(windows); i++) {
        node = fg_lookup(g, 1, windows[i]);
        assert_true(node > 1);
        assert_int_equal(fg_lookup(g, node, "self"), 0);
        assert_int_equal(fg_lookup(g, node, "kernel"), 0);
        assert_int_equal(
            fg_call(g, FUSE_OPENDIR, node, &(struct fuse_open_in){0}, sizeof(struct fuse_open_in), NULL, NULL),
            -EACCES);
        assert_int_equal(fg_call(g, FUSE_READDIR, node, &in, sizeof(in), NULL, NULL), 0);
        assert_int_equal(g->len, 0);
    }
}

/* --- read-only ------------------------------------------------------------------------------------------------ */

static void test_readonly(void **state)
{
    static const uint32_t changes[] = {
        FUSE_SETATTR, FUSE_SYMLINK,     FUSE_MKNOD,   FUSE_MKDIR,     FUSE_UNLINK,
        FUSE_RMDIR,   FUSE_RENAME,      FUSE_LINK,    FUSE_WRITE,     FUSE_SETXATTR,
        FUSE_CREATE,  FUSE_REMOVEXATTR, FUSE_RENAME2, FUSE_FALLOCATE, FUSE_COPY_FILE_RANGE,
    };
    static const int flags[] = {O_WRONLY, O_RDWR, O_RDONLY | O_TRUNC};
    struct fg *g = *state;
    const uint8_t body[200] = {0};
    struct stat before, after;
    uint64_t node, fh;

    furnish(g);
    fg_open(g, true, false);
    assert_int_equal(stat(g->dir, &before), 0);
    node = fg_lookup(g, 1, "file");
    for (unsigned i = 0; i < ARRAY_SIZE(changes); i++)
        assert_int_equal(fg_call(g, changes[i], 1, body, sizeof(body), "file", "other"), -EROFS);
    for (unsigned i = 0; i < ARRAY_SIZE(flags); i++)
        assert_int_equal(fg_open_file(g, node, (uint32_t)flags[i], &fh), -EROFS);
    assert_int_equal(fg_open_file(g, node, O_RDONLY, &fh), 0);
    assert_int_equal(fg_read(g, node, fh, 0, 100), 0);
    assert_memory_equal(g->out, "inside", 6);
    assert_int_equal(stat(g->dir, &after), 0);
    assert_memory_equal(&before.st_mtim, &after.st_mtim, sizeof(before.st_mtim));
}

/* --- requests that are none -------------------------------------------------------------------------------------- */

static void test_malformed(void **state)
{
    struct fg *g = *state;
    struct fuse_in_header header = {.len = sizeof(header), .opcode = FUSE_GETATTR, .unique = 1, .nodeid = 1};
    struct fuse_write_in write = {.size = UINT32_MAX};
    struct fuse_attr attr;
    uint8_t out[200];
    uint64_t node, fh;

    fg_open(g, false, false);
    assert_int_equal(fg_send(g->fs, &header, 0, out, sizeof(out)), 0);
    assert_int_equal(fg_send(g->fs, &header, sizeof(header) - 1, out, sizeof(out)), 0);
    assert_int_equal(fg_send(g->fs, &header, sizeof(header), out, sizeof(out)), 16); /* no body */
    header.len = UINT32_MAX;
    assert_int_equal(fg_send(g->fs, &header, sizeof(header), out, sizeof(out)), 16);
    header.len = 0;
    assert_int_equal(fg_send(g->fs, &header, sizeof(header), out, sizeof(out)), 16);
    header.opcode = FUSE_STATFS;
    assert_int_equal(fg_send(g->fs, &header, sizeof(header), out, 15), 0); /* no room for an answer */
    assert_int_equal(fg_send(g->fs, &header, sizeof(header), out, 16), 16);
    for (uint32_t opcode = 0; opcode < 5000; opcode += opcode < 60 ? 1 : 997) {
        fg_begin(g, opcode, 1);
        if (opcode != FUSE_FORGET && opcode != FUSE_BATCH_FORGET && opcode != FUSE_INTERRUPT &&
            opcode != FUSE_DESTROY && opcode != FUSE_STATFS)
            assert_true(fg_ask(g) < 0);
    }
    assert_int_equal(fg_getattr(g, 0, &attr), -ESTALE);
    assert_int_equal(fg_getattr(g, UINT64_MAX, &attr), -ESTALE);
    assert_int_equal(fg_getattr(g, 1 | 1ull << 32, &attr), -ESTALE);
    assert_int_equal(fg_create(g, 1, "f", O_RDWR, 0666, &node, &fh), 0);
    write.fh = fh;
    assert_int_equal(fg_call(g, FUSE_WRITE, node, &write, sizeof(write), "data", NULL), -EINVAL);
    write.size = 1;
    write.offset = UINT64_MAX;
    assert_int_equal(fg_call(g, FUSE_WRITE, node, &write, sizeof(write), "data", NULL), -EINVAL);
    assert_int_equal(fg_read(g, node, fh, UINT64_MAX, 1), -EINVAL);
    assert_int_equal(fg_read(g, node, fh, 0, UINT32_MAX), 0);
    assert_int_equal(fg_read(g, 1, fh, 0, 1), -EBADF); /* not that node's */
    assert_int_equal(fg_read(g, node, fh + 1, 0, 1), -EBADF);
    assert_int_equal(fg_read(g, node, fh ^ 1ull << 32, 0, 1), -EBADF);
    assert_int_equal(fg_read(g, node, 0, 0, 1), -EBADF);
}

/* Nothing before INIT, and of that only what is understood. */
static void test_init(void **state)
{
    struct fg *g = *state;
    struct fs_config config = {.path = g->dir};
    struct fuse_init_in in = {.major = 6, .minor = 40};
    struct fuse_init_out out;
    struct fuse_attr attr;
    struct error err;

    g->fs = fs_open(&config, "--share", &err);
    assert_int_equal(fg_getattr(g, 1, &attr), -EIO);
    assert_int_equal(fg_call(g, FUSE_INIT, 0, &in, sizeof(in), NULL, NULL), -EPROTO);
    in.major = 7;
    in.minor = 20;
    assert_int_equal(fg_call(g, FUSE_INIT, 0, &in, sizeof(in), NULL, NULL), -EPROTO);
    in.major = 8;
    assert_int_equal(fg_call(g, FUSE_INIT, 0, &in, sizeof(in), NULL, NULL), 0);
    assert_int_equal(((const struct fuse_init_out *)(const void *)g->out)->major, 7);
    assert_int_equal(fg_getattr(g, 1, &attr), -EIO);
    in.major = 7;
    in.minor = 31;
    in.flags = FUSE_ASYNC_READ;
    assert_int_equal(fg_call(g, FUSE_INIT, 0, &in, sizeof(in), NULL, NULL), 0);
    memcpy(&out, g->out, sizeof(out));
    assert_int_equal(out.minor, 31);
    assert_int_equal(out.flags, FUSE_ASYNC_READ); /* no more than was offered */
    assert_int_equal(fg_getattr(g, 1, &attr), 0);
    assert_int_equal(fg_call(g, FUSE_DESTROY, 0, NULL, 0, NULL, NULL), 0);
    assert_int_equal(fg_getattr(g, 1, &attr), -EIO);
}

/* Files held open without end: an error of the guest's, and the monitor keeps descriptors for itself. */
static void test_too_many_files(void **state)
{
    struct fg *g = *state;
    uint64_t node, fh = 0;
    unsigned count = 0;
    int rc, fd;

    fg_open(g, false, false);
    fg_put_file(fg_path(g, "f"), "x");
    node = fg_lookup(g, 1, "f");
    while (!(rc = fg_open_file(g, node, O_RDONLY, &fh)) && count < 1 << 20)
        count++;
    assert_int_equal(rc, -ENFILE);
    assert_true(count > 100);
    fd = open("/dev/null", O_RDONLY);
    assert_true(fd >= 0);
    close(fd);
    fs_reset(g->fs);
    assert_int_equal(fg_init(g), 0);
    assert_int_equal(fg_open_file(g, fg_lookup(g, 1, "f"), O_RDONLY, &fh), 0);
}

/* --- several threads, no order, the same few files -------------------------------------------------------------------
 */

struct client {
    struct fg g;
    unsigned seed;
};

static void *hammer(void *opaque)
{
    static const char *const names[] = {"a", "b", "c"};
    struct client *client = opaque;
    struct fg *g = &client->g;
    uint64_t node, fh;

    for (unsigned i = 0; i < 3000; i++) {
        const char *name = names[rand_r(&client->seed) % 3], *other = names[rand_r(&client->seed) % 3];

        switch (rand_r(&client->seed) % 8) {
        case 0:
            if (!fg_create(g, 1, name, O_RDWR, 0644, &node, &fh))
                fg_write(g, node, fh, 0, "text", 4);
            break;
        case 1:
            fg_call(g, FUSE_UNLINK, 1, NULL, 0, name, NULL);
            break;
        case 2:
            fg_rename(g, 1, name, 1, other, rand_r(&client->seed) & RENAME_EXCHANGE);
            break;
        case 3:
            node = fg_lookup(g, 1, name);
            if (node && !fg_open_file(g, node, O_RDONLY, &fh)) {
                fg_read(g, node, fh, 0, 100);
                fg_call(g, FUSE_FSYNC, node, &(struct fuse_fsync_in){.fh = fh}, sizeof(struct fuse_fsync_in), NULL,
                        NULL);
                fg_call(g, FUSE_RELEASE, node, &(struct fuse_release_in){.fh = fh}, sizeof(struct fuse_release_in),
                        NULL, NULL);
            }
            break;
        case 4:
            fg_mkdir(g, 1, name, 0755);
            break;
        case 5:
            fg_call(g, FUSE_RMDIR, 1, NULL, 0, name, NULL);
            break;
        case 6:
            fg_forget(g, fg_lookup(g, 1, name), 1 + rand_r(&client->seed) % 3);
            break;
        case 7: /* a tree that turns upside down */
            fg_rename(g, fg_lookup(g, 1, name), other, fg_lookup(g, 1, other), name, 0);
            fg_rename(g, 1, name, fg_lookup(g, 1, other), name, 0);
            break;
        }
    }
    return NULL;
}

static void test_threads(void **state)
{
    struct fg *g = *state;
    static struct client clients[4];
    pthread_t threads[4];

    fg_open(g, false, false);
    for (unsigned i = 0; i < 4; i++) {
        clients[i].g = *g;
        clients[i].seed = i;
        pthread_create(&threads[i], NULL, hammer, &clients[i]);
    }
    for (unsigned i = 0; i < 4; i++)
        pthread_join(threads[i], NULL);
    assert_int_equal(fg_init(g), 0);
}

#define TEST(name) cmocka_unit_test_setup_teardown(test_##name, fg_setup, fg_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(bad_names),
        TEST(symbolic_links_are_not_followed),
        TEST(race_file_for_link),
        TEST(race_file_for_pipe),
        TEST(race_directory_for_link),
        TEST(no_devices),
        TEST(no_kernel_windows),
        TEST(readonly),
        TEST(malformed),
        TEST(init),
        TEST(too_many_files),
        TEST(threads),
    };

    umask(022);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
