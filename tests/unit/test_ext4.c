/*
 * tests/unit/test_ext4.c: files read from an ext4 that mke2fs made: large, with
 * holes, through links, in a folder of many blocks; what is not there; and the
 * same image with bytes changed at random: any answer, but an end.
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
#include <unistd.h>

#include "control/ext4.h"

static char dir[] = "/tmp/trapeze-ext4-XXXXXX", image[64];
static struct block *disk;

static int sh(const char *text)
{
    char command[2048];

    snprintf(command, sizeof(command), "D=%s; export D; PATH=$PATH:/sbin:/usr/sbin; set -e; %s", dir, text);
    return system(command);
}

static void open_image(bool scratch)
{
    const struct block_config config = {image, !scratch, scratch};

    disk = block_open(&config, NULL);
    assert_non_null(disk);
}

static int setup(void **state)
{
    if (!mkdtemp(dir))
        return -1;
    snprintf(image, sizeof(image), "%s/image", dir);
    if (sh("command -v mke2fs >/dev/null"))
        return 0;
    if (sh("mkdir $D/root $D/root/boot $D/root/many; head -c 3000000 /dev/urandom >$D/root/boot/large; "
           "cp $D/root/boot/large $D/holes; dd if=/dev/zero of=$D/holes bs=64k seek=1 count=20 conv=notrunc "
           "status=none; "
           "cp --sparse=always $D/holes $D/root/boot/holes; echo small >$D/root/boot/small; : >$D/root/boot/empty; "
           "ln -s boot/large $D/root/short; ln -s /boot/../boot//small $D/root/boot/absolute; ln -s loop $D/root/loop; "
           "ln -s \"$(printf './%.0s' $(seq 60))boot/small\" $D/root/long; "
           "for i in $(seq 600); do echo $i >$D/root/many/name-that-is-rather-long-so-that-few-fit-$i; done; "
           "truncate -s 32M $D/image; mke2fs -q -F -t ext4 -b 1024 -d $D/root $D/image"))
        return -1;
    open_image(false);
    return 0;
}

static int teardown(void **state)
{
    if (disk)
        block_close(disk);
    return sh("rm -rf $D");
}

static void check(const char *path, const char *host)
{
    uint64_t size = 0;
    uint8_t *data = NULL, *want;
    char name[128];
    int fd;

    snprintf(name, sizeof(name), "%s/%s", dir, host);
    assert_int_equal(ext4_read_file(disk, path, MIB(8), &data, &size), 0);
    fd = open(name, O_RDONLY);
    assert_int_equal(lseek(fd, 0, SEEK_END), size);
    want = malloc(size + 1);
    assert_int_equal(pread(fd, want, size, 0), size);
    assert_memory_equal(data, want, size);
    free(want);
    free(data);
    close(fd);
}

static int fails(const char *path, uint64_t max)
{
    uint64_t size;
    uint8_t *data;

    return ext4_read_file(disk, path, max, &data, &size);
}

static void test_files(void **state)
{
    if (!disk)
        skip();
    check("/boot/large", "root/boot/large");
    check("/boot/holes", "holes");
    check("/boot/small", "root/boot/small");
    check("/boot/empty", "root/boot/empty");
    check("/short", "root/boot/large");
    check("/boot/absolute", "root/boot/small");
    check("/long", "root/boot/small");
    check("//boot/./small", "root/boot/small");
    check("/many/name-that-is-rather-long-so-that-few-fit-577",
          "root/many/name-that-is-rather-long-so-that-few-fit-577");
}

static void test_not_there(void **state)
{
    if (!disk)
        skip();
    assert_int_equal(fails("/none", MIB(8)), -ENOENT);
    assert_int_equal(fails("/boot", MIB(8)), -ENOENT);
    assert_int_equal(fails("/boot/small/x", MIB(8)), -ENOENT);
    assert_int_equal(fails("/loop", MIB(8)), -ELOOP);
    assert_int_equal(fails("/boot/large", MIB(1)), -EFBIG);
}

static uint64_t next(void)
{
    static uint64_t seed = 88172645463325252ull;

    seed ^= seed << 13;
    seed ^= seed >> 7;
    return seed ^= seed << 17;
}

/* What a machine that was stopped without warning leaves: the newest content is in the journal. debugfs writes
 * transactions (jw) without carrying them out; each jo starts after the last one. */
static void journal_case(const char *commands, const char *want)
{
    char text[1024];
    uint8_t *data;
    uint64_t size;

    snprintf(
        text, sizeof(text),
        "cp $D/image $D/with; I=$D/with; "
        "B=$(debugfs -R 'bmap /boot/large 1' $I 2>/dev/null); C=$(debugfs -R 'bmap /boot/large 2' $I 2>/dev/null); "
        "tr '\\0' n </dev/zero | head -c 1024 >$D/n; tr '\\0' o </dev/zero | head -c 1024 >$D/o; "
        "{ printf '\300;9\230'; tr '\\0' m </dev/zero | head -c 1020; } >$D/m; "
        "printf \"%s\" | sed \"s/@B/$B/; s/@C/$C/; s,@,$D/,\" >$D/cmds; debugfs -w -f $D/cmds $I >/dev/null 2>&1; "
        "dumpe2fs -h $I 2>/dev/null | grep -q needs_recovery",
        commands);
    assert_int_equal(sh(text), 0);
    block_close(disk);
    snprintf(text, sizeof(text), "%s/with", dir);
    disk = block_open(&(struct block_config){text, true, false}, NULL);
    assert_non_null(disk);
    assert_int_equal(ext4_read_file(disk, "/boot/large", MIB(8), &data, &size), 0);
    for (unsigned block = 1; block <= 2; block++)
        if (want[block - 1] == 'm')
            assert_memory_equal(data + block * 1024, "\300;9\230mmmm", 8);
        else if (want[block - 1] == '-') {
            char name[64];
            uint8_t plain[1024];
            int fd;

            snprintf(name, sizeof(name), "%s/root/boot/large", dir);
            fd = open(name, O_RDONLY);
            assert_int_equal(pread(fd, plain, 1024, block * 1024), 1024);
            assert_memory_equal(data + block * 1024, plain, 1024);
            close(fd);
        } else {
            assert_int_equal(data[block * 1024], want[block - 1]);
            assert_int_equal(data[block * 1024 + 1023], want[block - 1]);
        }
    free(data);
    block_close(disk);
    open_image(false);
    check("/boot/large", "root/boot/large");
}

static void test_journal(void **state)
{
    if (!disk)
        skip();
    journal_case("jo\\njw -b @B @n\\njc\\n", "n-");
    journal_case("jo\\njw -b @B @m\\njw -b @C @n\\njc\\n", "mn");
    journal_case("jo\\njw -b @B @n\\njw -b @B @o\\njc\\n", "o-");            /* the newer one */
    journal_case("jo\\njw -b @B @n\\njw -r @B\\njw -b @C @o\\njc\\n", "-o"); /* revoked */
    journal_case("jo\\njw -b @B @n\\njw -r @B\\njw -b @B @o\\njc\\n", "o-");
    journal_case("jo\\njw -b @C @o\\njw -b @B @n -c\\njc\\n", "-o"); /* not committed */
    journal_case("jo -c\\njw -b @B @n\\njw -b @C @m\\njc\\n", "nm"); /* with checksums */
}

/* The last of these journals with bytes changed at random. */
static void test_damaged_journal(void **state)
{
    char name[64], number[16] = "";
    FILE *file;
    off_t journal;
    int fd;

    if (!disk)
        skip();
    assert_int_equal(sh("debugfs -R 'bmap <8> 0' $D/with 2>/dev/null >$D/at"), 0);
    snprintf(name, sizeof(name), "%s/at", dir);
    file = fopen(name, "r");
    assert_non_null(fgets(number, sizeof(number), file));
    fclose(file);
    journal = 1024 * atol(number);
    assert_true(journal > 0);
    block_close(disk);
    snprintf(name, sizeof(name), "%s/with", dir);
    fd = open(name, O_RDWR);
    for (unsigned round = 0; round < 300; round++) {
        const struct block_config config = {name, true, false};
        uint32_t saved, value = (uint32_t)(next() % 2 ? next() : next() % 2 ? UINT32_MAX : next() % 8 << 24);
        off_t at = journal + (off_t)(next() % 2 ? next() % 64 : next() % 8192) / 4 * 4;
        uint64_t size;
        uint8_t *data;

        assert_int_equal(pread(fd, &saved, 4, at), 4);
        assert_int_equal(pwrite(fd, &value, 4, at), 4);
        disk = block_open(&config, NULL);
        if (!ext4_read_file(disk, "/boot/large", MIB(8), &data, &size))
            free(data);
        block_close(disk);
        if (next() % 4) /* else it adds to what comes */
            assert_int_equal(pwrite(fd, &saved, 4, at), 4);
    }
    close(fd);
    open_image(false);
}

/* The metadata is in the first blocks. */
static void test_damaged(void **state)
{
    static const char *const paths[] = {"/boot/large", "/boot/holes", "/long", "/many/x"};
    int fd;

    if (!disk)
        skip();
    block_close(disk);
    fd = open(image, O_RDWR);
    for (unsigned round = 0; round < 300; round++) {
        uint8_t saved[8][4];
        off_t at[8];

        for (unsigned i = 0; i < 8; i++) {
            uint32_t value = (uint32_t)(next() % 3 ? next() : next() % 2 ? UINT32_MAX : 0);

            at[i] = (off_t)(next() % 2 ? 1024 + next() % 2048 : next() % KIB(600)) & ~3;
            assert_int_equal(pread(fd, saved[i], 4, at[i]), 4);
            assert_int_equal(pwrite(fd, &value, 4, at[i]), 4);
        }
        open_image(false);
        for (unsigned i = 0; i < ARRAY_SIZE(paths); i++) {
            uint64_t size;
            uint8_t *data;

            if (!ext4_read_file(disk, paths[i], MIB(8), &data, &size))
                free(data);
        }
        block_close(disk);
        for (unsigned i = 8; i-- > 0;)
            assert_int_equal(pwrite(fd, saved[i], 4, at[i]), 4);
    }
    close(fd);
    open_image(false);
    check("/boot/large", "root/boot/large");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_files),           cmocka_unit_test(test_not_there), cmocka_unit_test(test_journal),
        cmocka_unit_test(test_damaged_journal), cmocka_unit_test(test_damaged),
    };

    return cmocka_run_group_tests(tests, setup, teardown);
}
