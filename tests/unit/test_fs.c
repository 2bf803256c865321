/* tests/unit/test_fs.c: what an honest guest of the file server sees: files, directories, names, attributes. */
#include "fs_guest.h"

#include <sys/resource.h>
#include <sys/xattr.h>

static void test_files(void **state)
{
    struct fg *g = *state;
    uint64_t node, fh, again;
    struct fuse_attr attr;
    char big[60000];

    fg_open(g, false, false);
    assert_int_equal(fg_create(g, 1, "file", O_RDWR | O_EXCL, 0666, &node, &fh), 0);
    assert_int_equal(fg_write(g, node, fh, 0, "hello world", 11), 11);
    assert_int_equal(fg_read(g, node, fh, 6, 100), 0);
    assert_int_equal(g->len, 5);
    assert_memory_equal(g->out, "world", 5);
    assert_int_equal(fg_read(g, node, fh, 11, 100), 0);
    assert_int_equal(g->len, 0);
    assert_int_equal(fg_lookup(g, 1, "file"), node);
    assert_int_equal(fg_getattr(g, node, &attr), 0);
    assert_int_equal(attr.size, 11);
    assert_int_equal(attr.mode, S_IFREG | 0666); /* our own umask has no part in it */
    assert_int_equal(fg_create(g, 1, "file", O_RDWR | O_EXCL, 0666, &again, &again), -EEXIST);
    assert_int_equal(fg_create(g, 1, "file", O_RDWR, 0600, &again, &again), 0); /* it was there: opened */
    memset(big, 7, sizeof(big));
    assert_int_equal(fg_write(g, node, fh, 1 << 20, big, sizeof(big)), sizeof(big));
    assert_int_equal(fg_read(g, node, fh, (1 << 20) - 1, 65536), 0);
    assert_int_equal(g->len, sizeof(big) + 1);
    assert_int_equal(g->out[0], 0);
    assert_memory_equal(g->out + 1, big, sizeof(big));
    assert_int_equal(
        fg_call(g, FUSE_RELEASE, node, &(struct fuse_release_in){.fh = fh}, sizeof(struct fuse_release_in), NULL, NULL),
        0);
    assert_int_equal(fg_read(g, node, fh, 0, 1), -EBADF);
}

static void test_append_and_truncate(void **state)
{
    struct fg *g = *state;
    struct fuse_setattr_in set = {.valid = FATTR_SIZE, .size = 2};
    struct fuse_write_in append = {.size = 1, .flags = O_WRONLY | O_APPEND};
    uint64_t node, fh, second;

    fg_open(g, false, false);
    fg_put_file(fg_path(g, "f"), "abc");
    node = fg_lookup(g, 1, "f");
    assert_int_equal(fg_open_file(g, node, O_WRONLY | O_APPEND, &fh), 0);
    append.fh = fh;
    fg_begin(g, FUSE_WRITE, node);
    fg_add(g, &append, sizeof(append));
    fg_add(g, "d", 1);
    assert_int_equal(fg_ask(g), 0); /* the host knows where the end is */
    append.write_flags = FUSE_WRITE_CACHE;
    fg_begin(g, FUSE_WRITE, node);
    fg_add(g, &append, sizeof(append));
    fg_add(g, "A", 1);
    assert_int_equal(fg_ask(g), 0); /* from a mapping: where it says */
    assert_int_equal(fg_open_file(g, node, O_RDWR, &second), 0);
    assert_int_equal(fg_read(g, node, second, 0, 10), 0);
    assert_int_equal(g->len, 4);
    assert_memory_equal(g->out, "Abcd", 4);
    assert_int_equal(fg_call(g, FUSE_SETATTR, node, &set, sizeof(set), NULL, NULL), 0);
    set.size = 1;
    set.valid |= FATTR_FH;
    set.fh = fh;
    assert_int_equal(fg_call(g, FUSE_SETATTR, node, &set, sizeof(set), NULL, NULL), 0);
    assert_int_equal(fg_open_file(g, node, O_RDWR, &fh), 0);
    assert_int_equal(fg_read(g, node, fh, 0, 10), 0);
    assert_int_equal(g->len, 1);
    assert_int_equal(fg_open_file(g, node, O_RDWR | O_TRUNC, &fh), 0);
    assert_int_equal(fg_read(g, node, fh, 0, 10), 0);
    assert_int_equal(g->len, 0);
}

/* A file that is not where it was any more works on for whoever has it open. */
static void test_unlinked(void **state)
{
    struct fg *g = *state;
    uint64_t node, fh, second;
    struct fuse_setattr_in set = {.valid = FATTR_MODE, .mode = 0640};
    struct fuse_attr attr;

    fg_open(g, false, false);
    assert_int_equal(fg_create(g, 1, "one", O_RDWR, 0600, &node, &fh), 0);
    assert_int_equal(fg_create(g, 1, "two", O_RDWR, 0600, &second, &second), 0);
    assert_int_equal(fg_call(g, FUSE_UNLINK, 1, NULL, 0, "one", NULL), 0);
    assert_int_equal(fg_lookup(g, 1, "one"), 0);
    assert_int_equal(fg_write(g, node, fh, 0, "x", 1), 1);
    assert_int_equal(fg_call(g, FUSE_SETATTR, node, &set, sizeof(set), NULL, NULL), 0);
    assert_int_equal(fg_getattr(g, node, &attr), 0);
    assert_int_equal(attr.mode, S_IFREG | 0640);
    assert_int_equal(attr.nlink, 0);
    assert_int_equal(fg_create(g, 1, "three", O_RDWR, 0600, &node, &fh), 0);
    assert_int_equal(fg_rename(g, 1, "two", 1, "three", 0), 0);
    assert_int_equal(fg_getattr(g, node, &attr), 0); /* the one that was overwritten */
    assert_int_equal(attr.nlink, 0);
}

static void test_names(void **state)
{
    struct fg *g = *state;
    struct fuse_link_in link = {0};
    uint64_t a, b, file, fh, symbolic;
    struct fuse_attr attr;

    fg_open(g, false, false);
    assert_int_equal(fg_mkdir(g, 1, "a", 0750), 0);
    a = fg_entry(g)->nodeid;
    assert_int_equal(fg_entry(g)->attr.mode, S_IFDIR | 0750);
    assert_int_equal(fg_mkdir(g, 1, "b", 0755), 0);
    b = fg_entry(g)->nodeid;
    assert_int_equal(fg_create(g, a, "f", O_RDWR, 0644, &file, &fh), 0);
    link.oldnodeid = file;
    assert_int_equal(fg_call(g, FUSE_LINK, b, &link, sizeof(link), "hard", NULL), 0);
    assert_int_equal(fg_entry(g)->nodeid, file);
    assert_int_equal(fg_entry(g)->attr.nlink, 2);
    assert_int_equal(fg_call(g, FUSE_UNLINK, b, NULL, 0, "hard", NULL), 0);
    assert_int_equal(fg_call(g, FUSE_SYMLINK, a, NULL, 0, "sym", "../../../etc/passwd"), 0);
    symbolic = fg_entry(g)->nodeid;
    assert_int_equal(fg_call(g, FUSE_READLINK, symbolic, NULL, 0, NULL, NULL), 0);
    assert_int_equal(g->len, 19);
    assert_memory_equal(g->out, "../../../etc/passwd", 19);
    assert_int_equal(fg_rename(g, a, "f", b, "moved", 0), 0);
    assert_int_equal(fg_getattr(g, file, &attr), 0);
    assert_int_equal(fg_lookup(g, b, "moved"), file);
    assert_int_equal(fg_rename(g, 1, "b", a, "b", 0), 0); /* a directory goes, what is in it with it */
    assert_int_equal(fg_getattr(g, file, &attr), 0);
    assert_int_equal(fg_rename(g, a, "b", a, "sym", RENAME_EXCHANGE), 0);
    assert_int_equal(fg_lookup(g, a, "sym"), b);
    assert_int_equal(fg_lookup(g, a, "b"), symbolic);
    assert_int_equal(fg_rename(g, a, "b", a, "sym", RENAME_NOREPLACE), -EEXIST);
    assert_int_equal(fg_call(g, FUSE_RMDIR, 1, NULL, 0, "a", NULL), -ENOTEMPTY);
}

/* Reads a whole directory in small pieces; how many entries, with those of "." and "..". */
static unsigned list(struct fg *g, uint64_t node, uint32_t opcode, uint32_t size, uint64_t *mixed)
{
    struct fuse_read_in in = {.size = size};
    unsigned count = 0;

    assert_int_equal(fg_call(g, FUSE_OPENDIR, node, &(struct fuse_open_in){0}, sizeof(struct fuse_open_in), NULL, NULL),
                     0);
    in.fh = ((const struct fuse_open_out *)(const void *)g->out)->fh;
    for (;;) {
        assert_int_equal(fg_call(g, opcode, node, &in, sizeof(in), NULL, NULL), 0);
        if (!g->len)
            break;
        assert_true(g->len <= size);
        for (size_t at = 0; at < g->len;) {
            const struct fuse_direntplus *plus = (const void *)(g->out + at);
            const struct fuse_dirent *entry = opcode == FUSE_READDIR ? (const void *)plus : &plus->dirent;

            if (opcode == FUSE_READDIRPLUS && entry->name[0] != '.') {
                assert_true(plus->entry_out.nodeid > 1);
                assert_int_equal(plus->entry_out.attr.ino, entry->ino);
                fg_forget(g, plus->entry_out.nodeid, 1);
            }
            *mixed += entry->ino * entry->namelen;
            in.offset = entry->off;
            count++;
            at += opcode == FUSE_READDIR ? FUSE_DIRENT_SIZE(entry) : FUSE_DIRENTPLUS_SIZE(plus);
        }
    }
    return count;
}

static void test_directories(void **state)
{
    struct fg *g = *state;
    uint64_t plain = 0, plus = 0, again = 0;
    char name[240];

    fg_open(g, false, false);
    for (unsigned i = 0; i < 1000; i++) {
        snprintf(name, sizeof(name), "%0*u", 1 + (int)(i % 200), i);
        fg_put_file(fg_path(g, name), "");
    }
    assert_int_equal(list(g, 1, FUSE_READDIR, 4096, &plain), 1002);
    assert_int_equal(list(g, 1, FUSE_READDIRPLUS, 4096, &plus), 1002);
    assert_int_equal(plain, plus);
    assert_int_equal(list(g, 1, FUSE_READDIR, 280, &again), 1002);
    assert_int_equal(plain, again);
}

static void test_attributes(void **state)
{
    struct fg *g = *state;
    struct fuse_setattr_in set = {.valid = FATTR_MODE | FATTR_MTIME | FATTR_ATIME_NOW,
                                  .mode = S_IFREG | 04755,
                                  .mtime = 1234567890,
                                  .mtimensec = 987654321};
    struct fuse_attr attr;
    struct stat st;
    uint64_t node;

    fg_open(g, false, false);
    fg_put_file(fg_path(g, "f"), "text");
    assert_int_equal(symlink("/nowhere", fg_path(g, "l")), 0);
    node = fg_lookup(g, 1, "f");
    assert_int_equal(fg_call(g, FUSE_SETATTR, node, &set, sizeof(set), NULL, NULL), 0);
    assert_int_equal(stat(fg_path(g, "f"), &st), 0);
    assert_int_equal(st.st_mode, S_IFREG | 04755);
    assert_int_equal(st.st_mtim.tv_sec, 1234567890);
    assert_int_equal(st.st_mtim.tv_nsec, 987654321);
    node = fg_lookup(g, 1, "l");
    set.valid = FATTR_MTIME;
    assert_int_equal(fg_call(g, FUSE_SETATTR, node, &set, sizeof(set), NULL, NULL), 0);
    assert_int_equal(fg_getattr(g, node, &attr), 0);
    assert_int_equal(attr.mtime, 1234567890);
    set.valid = FATTR_MODE;
    assert_int_equal(fg_call(g, FUSE_SETATTR, node, &set, sizeof(set), NULL, NULL), -EOPNOTSUPP);
}

/* As root, files belong to the guest's user that made them, and the rights are those the guest has checked. */
static void test_owner(void **state)
{
    struct fg *g = *state;
    uint64_t node, fh;

    fg_open(g, false, false);
    if (geteuid())
        skip();
    g->uid = 1234;
    g->gid = 5678;
    assert_int_equal(chmod(g->dir, 0700), 0);
    assert_int_equal(fg_create(g, 1, "f", O_RDWR, 0644, &node, &fh), 0);
    assert_int_equal(fg_entry(g)->attr.uid, 1234);
    assert_int_equal(fg_entry(g)->attr.gid, 5678);
    g->uid = UINT32_MAX;
    assert_int_equal(fg_mkdir(g, 1, "d", 0755), -EINVAL);
    g->uid = g->gid = 0;
    assert_int_equal(fg_mkdir(g, 1, "d", 0755), 0);
    assert_int_equal(fg_entry(g)->attr.uid, 0);
}

/* Others than the guest's root lose a file's set-user-ID bit by writing to it. */
static void test_setuid_is_lost(void **state)
{
    struct fg *g = *state;
    struct fuse_write_in in = {.size = 1, .write_flags = FUSE_WRITE_KILL_SUIDGID};
    struct fuse_attr attr;
    uint64_t node;

    fg_open(g, false, false);
    fg_put_file(fg_path(g, "f"), "x");
    assert_int_equal(chmod(fg_path(g, "f"), 06755), 0);
    node = fg_lookup(g, 1, "f");
    assert_int_equal(fg_open_file(g, node, O_RDWR, &in.fh), 0);
    fg_begin(g, FUSE_WRITE, node);
    fg_add(g, &in, sizeof(in));
    fg_add(g, "y", 1);
    assert_int_equal(fg_ask(g), 0);
    assert_int_equal(fg_getattr(g, node, &attr), 0);
    assert_int_equal(attr.mode & 07777, 0755);
}

static void test_xattrs(void **state)
{
    struct fg *g = *state;
    struct fuse_setxattr_in set = {.size = 5};
    struct fuse_getxattr_in get = {.size = 0};
    uint64_t node;
    int rc;

    fg_open(g, false, false);
    fg_put_file(fg_path(g, "f"), "x");
    node = fg_lookup(g, 1, "f");
    fg_begin(g, FUSE_SETXATTR, node);
    fg_add(g, &set, FUSE_COMPAT_SETXATTR_IN_SIZE);
    fg_name(g, "user.test");
    fg_add(g, "value", 5);
    rc = fg_ask(g);
    if (rc == -EOPNOTSUPP)
        skip(); /* the host's file system has none */
    assert_int_equal(rc, 0);
    assert_int_equal(fg_call(g, FUSE_GETXATTR, node, &get, sizeof(get), "user.test", NULL), 0);
    assert_int_equal(((const struct fuse_getxattr_out *)(const void *)g->out)->size, 5);
    get.size = 3;
    assert_int_equal(fg_call(g, FUSE_GETXATTR, node, &get, sizeof(get), "user.test", NULL), -ERANGE);
    get.size = 100000;
    assert_int_equal(fg_call(g, FUSE_GETXATTR, node, &get, sizeof(get), "user.test", NULL), 0);
    assert_int_equal(g->len, 5);
    assert_int_equal(fg_call(g, FUSE_LISTXATTR, node, &get, sizeof(get), NULL, NULL), 0);
    assert_memory_equal(g->out, "user.test", 10);
    assert_int_equal(fg_call(g, FUSE_REMOVEXATTR, node, NULL, 0, "user.test", NULL), 0);
    assert_int_equal(fg_call(g, FUSE_GETXATTR, node, &get, sizeof(get), "user.test", NULL), -ENODATA);
    assert_int_equal(fg_call(g, FUSE_GETXATTR, node, &get, sizeof(get), "system.nonsense", NULL), -EOPNOTSUPP);
}

static void test_holes_and_copies(void **state)
{
    struct fg *g = *state;
    struct fuse_fallocate_in allocate = {.length = 1 << 20};
    struct fuse_lseek_in seek = {.offset = 0, .whence = SEEK_HOLE};
    struct fuse_copy_file_range_in copy = {.len = 5};
    uint64_t node, fh, other, other_fh;

    fg_open(g, false, false);
    assert_int_equal(fg_create(g, 1, "a", O_RDWR, 0644, &node, &fh), 0);
    assert_int_equal(fg_create(g, 1, "b", O_RDWR, 0644, &other, &other_fh), 0);
    assert_int_equal(fg_write(g, node, fh, 0, "12345", 5), 5);
    seek.fh = allocate.fh = fh;
    assert_int_equal(fg_call(g, FUSE_LSEEK, node, &seek, sizeof(seek), NULL, NULL), 0);
    seek.whence = 99;
    assert_int_equal(fg_call(g, FUSE_LSEEK, node, &seek, sizeof(seek), NULL, NULL), -EINVAL);
    copy.fh_in = fh;
    copy.fh_out = other_fh;
    copy.nodeid_out = other;
    assert_int_equal(fg_call(g, FUSE_COPY_FILE_RANGE, node, &copy, sizeof(copy), NULL, NULL), 0);
    assert_int_equal(fg_read(g, other, other_fh, 0, 100), 0);
    assert_memory_equal(g->out, "12345", 5);
    assert_int_equal(fg_call(g, FUSE_FALLOCATE, node, &allocate, sizeof(allocate), NULL, NULL), 0);
    assert_int_equal(
        fg_call(g, FUSE_FSYNC, node, &(struct fuse_fsync_in){.fh = fh}, sizeof(struct fuse_fsync_in), NULL, NULL), 0);
    assert_int_equal(fg_call(g, FUSE_SYNCFS, 1, &(struct fuse_syncfs_in){0}, sizeof(struct fuse_syncfs_in), NULL, NULL),
                     0);
    assert_int_equal(fg_call(g, FUSE_STATFS, 1, NULL, 0, NULL, NULL), 0);
    assert_true(((const struct fuse_statfs_out *)(const void *)g->out)->st.blocks > 0);
}

/* The guest's own copy of a file's content is good as long as the host's has not changed. */
static void test_keeps_cache(void **state)
{
    struct fg *g = *state;
    const struct timespec old[] = {{1000, 0}, {1000, 0}};
    uint64_t node, fh;

    fg_open(g, false, false);
    fg_put_file(fg_path(g, "f"), "x");
    assert_int_equal(utimensat(AT_FDCWD, fg_path(g, "f"), old, 0), 0);
    usleep(150000);
    node = fg_lookup(g, 1, "f");
    assert_int_equal(fg_open_file(g, node, O_RDONLY, &fh), 0);
    assert_int_equal(fg_open_file(g, node, O_RDONLY, &fh), 0);
    assert_int_equal(((const struct fuse_open_out *)(const void *)g->out)->open_flags, FOPEN_KEEP_CACHE);
    fg_put_file(fg_path(g, "f"), "y");
    assert_int_equal(fg_open_file(g, node, O_RDONLY, &fh), 0);
    assert_int_equal(((const struct fuse_open_out *)(const void *)g->out)->open_flags, 0);
}

/* The host changes things under the guest. */
static void test_stale(void **state)
{
    struct fg *g = *state;
    struct fuse_attr attr;
    uint64_t node, dir, below, fh;

    fg_open(g, false, false);
    fg_put_file(fg_path(g, "f"), "x");
    assert_int_equal(mkdir(fg_path(g, "d"), 0755), 0);
    fg_put_file(fg_path(g, "d/below"), "below");
    node = fg_lookup(g, 1, "f");
    dir = fg_lookup(g, 1, "d");
    below = fg_lookup(g, dir, "below");
    fg_put_file(fg_path(g, "new"), "y");
    assert_int_equal(rename(fg_path(g, "new"), fg_path(g, "f")), 0);
    assert_int_equal(fg_getattr(g, node, &attr), -ESTALE);
    assert_int_equal(fg_open_file(g, node, O_RDONLY, &fh), -ESTALE);
    assert_int_not_equal(fg_lookup(g, 1, "f"), node);
    assert_int_equal(rename(fg_path(g, "d"), fg_path(g, "e")), 0);
    assert_int_equal(fg_getattr(g, below, &attr), 0); /* its directory is known by more than its name */
    assert_int_equal(fg_open_file(g, below, O_RDONLY, &fh), 0);
}

/* Nothing is opened by the guest, and little asked twice. */
static void test_constant(void **state)
{
    struct fg *g = *state;
    struct fuse_getxattr_in get = {.size = 100};
    uint64_t node, fh;

    fg_put_file(fg_path(g, "f"), "content");
    fg_open(g, true, true);
    node = fg_lookup(g, 1, "f");
    assert_true(fg_entry(g)->attr_valid > 3600);
    assert_int_equal(fg_open_file(g, node, O_RDONLY, &fh), -ENOSYS);
    for (unsigned i = 0; i < 3; i++) {
        assert_int_equal(fg_read(g, node, 0, 3, 100), 0);
        assert_int_equal(g->len, 4);
        assert_memory_equal(g->out, "tent", 4);
    }
    assert_int_equal(fg_read(g, 1, 0, 0, 100), -EISDIR);
    assert_int_equal(
        fg_call(g, FUSE_READDIRPLUS, 1, &(struct fuse_read_in){.size = 4096}, sizeof(struct fuse_read_in), NULL, NULL),
        0);
    assert_true(g->len > 0);
    assert_int_equal(fg_call(g, FUSE_GETXATTR, node, &get, sizeof(get), "user.x", NULL), -ENOSYS);
}

/* More directories than there are descriptors. */
static void test_few_descriptors(void **state)
{
    struct fg *g = *state;
    static uint64_t node[600];
    const struct rlimit limit = {500, 500}; /* and so it stays: the last test */
    struct fuse_attr attr;
    char name[32];

    for (unsigned i = 0; i < ARRAY_SIZE(node); i++) {
        snprintf(name, sizeof(name), "d%u", i);
        assert_int_equal(mkdir(fg_path(g, name), 0755), 0);
        strcat(name, "/f");
        fg_put_file(fg_path(g, name), "x");
    }
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &limit), 0);
    fg_open(g, false, false);
    for (unsigned i = 0; i < ARRAY_SIZE(node); i++) {
        snprintf(name, sizeof(name), "d%u", i);
        node[i] = fg_lookup(g, fg_lookup(g, 1, name), "f");
        assert_true(node[i] > 1);
    }
    for (unsigned i = 0; i < ARRAY_SIZE(node); i++)
        assert_int_equal(fg_getattr(g, node[i], &attr), 0);
}

/* What the guest has forgotten is gone, and what it remembers is there. */
static void test_forgetting(void **state)
{
    struct fg *g = *state;
    struct fuse_batch_forget_in batch = {.count = 1000};
    struct fuse_forget_one one = {.nlookup = 2};
    struct fuse_attr attr;
    uint64_t dir, node;

    fg_open(g, false, false);
    assert_int_equal(mkdir(fg_path(g, "d"), 0755), 0);
    fg_put_file(fg_path(g, "d/f"), "x");
    dir = fg_lookup(g, 1, "d");
    node = fg_lookup(g, dir, "f");
    assert_int_equal(fg_lookup(g, dir, "f"), node);
    fg_forget(g, dir, 1);
    assert_int_equal(fg_getattr(g, dir, &attr), -ESTALE);
    assert_int_equal(fg_getattr(g, node, &attr), 0);
    one.nodeid = node;
    fg_begin(g, FUSE_BATCH_FORGET, 0);
    fg_add(g, &batch, sizeof(batch)); /* there are fewer than it says */
    fg_add(g, &one, sizeof(one));
    fg_tell(g);
    assert_int_equal(fg_getattr(g, node, &attr), -ESTALE);
    assert_int_not_equal(fg_lookup(g, fg_lookup(g, 1, "d"), "f"), node);
    fg_forget(g, 1, UINT64_MAX);
    assert_int_equal(fg_getattr(g, 1, &attr), 0);
    fs_reset(g->fs);
    assert_int_equal(fg_getattr(g, 1, &attr), -EIO);
    assert_int_equal(fg_init(g), 0);
    assert_int_equal(fg_getattr(g, 1, &attr), 0);
}

#define TEST(name) cmocka_unit_test_setup_teardown(test_##name, fg_setup, fg_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(files),       TEST(append_and_truncate), TEST(unlinked),        TEST(names),
        TEST(directories), TEST(attributes),          TEST(owner),           TEST(setuid_is_lost),
        TEST(xattrs),      TEST(holes_and_copies),    TEST(keeps_cache),     TEST(stale),
        TEST(constant),    TEST(forgetting),          TEST(few_descriptors),
    };

    umask(077);
    return cmocka_run_group_tests(tests, NULL, NULL);
}
