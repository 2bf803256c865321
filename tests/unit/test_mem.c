/*
 * tests/unit/test_mem.c: guest RAM as the host has it: private or a file's, given back, in huge pages. (What a host
 * does not do is not tested: huge pages of a file's memory are to be had since Linux 6.1, and not at all times.)
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include <cmocka.h>

#include "mem/mem.h"

#define PIECE MIB(2)
#define GAP   0xc0000ull /* the second slot's begin: amid a piece */
#define END   MIB(12)
#define HIGH  GIB(4)

struct told {
    gpa_t gpa;
    uint64_t len;
};

/* The machine's shape. */
static struct mem *make(bool share)
{
    struct mem *mem = mem_new();
    struct error err;

    assert_non_null(mem);
    if (share)
        mem_share_ram(mem);
    assert_int_equal(mem_add_ram(mem, HIGH, MIB(4), &err), 0);
    assert_int_equal(mem_add_ram(mem, 0, 0xa0000, &err), 0);
    assert_int_equal(mem_add_ram(mem, GAP, END - GAP, &err), 0);
    return mem;
}

static void on_written(void *opaque, gpa_t gpa, uint64_t len)
{
    *(struct told *)opaque = (struct told){gpa, len};
}

static unsigned pages_there(const struct mem *mem, gpa_t gpa, uint64_t len)
{
    unsigned char there[PIECE / PAGE_SIZE];
    unsigned n = 0;

    assert_int_equal(mincore(mem_pointer(mem, gpa, len), len, there), 0);
    for (unsigned i = 0; i < len / PAGE_SIZE; i++)
        n += there[i] & 1;
    return n;
}

static void test_mapped_again(void **state)
{
    static const gpa_t at[] = {0x3000, GAP, END - PAGE_SIZE, HIGH, HIGH + MIB(4) - PAGE_SIZE};
    struct mem *mem = make(true);

    for (unsigned i = 0; i < ARRAY_SIZE(at); i++) {
        const uint64_t value = 0x1234567800ull + i;
        const int fd = mem_find(mem, at[i])->fd;
        uint64_t *again, got;

        if (fd < 0) {
            mem_free(mem);
            skip();
        }
        again = mmap(NULL, PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, (off_t)at[i]);
        assert_true(again != MAP_FAILED);
        assert_int_equal(mem_write(mem, at[i], &value, sizeof(value)), 0);
        assert_int_equal(*again, value);
        ++*again;
        assert_int_equal(mem_read(mem, at[i], &got, sizeof(got)), 0);
        assert_int_equal(got, value + 1);
        munmap(again, PAGE_SIZE);
    }
    mem_free(mem);
}

static void test_private(void **state)
{
    struct mem *mem = make(false);
    struct mem_slot callers = {.gpa = GIB(8), .size = PAGE_SIZE, .host = mem_pointer(mem, 0, PAGE_SIZE)};
    struct rlimit limit, small;
    struct error err;

    assert_int_equal(mem_add(mem, &callers, &err), 0);
    assert_int_equal(mem_slot_count(mem), 4);
    for (unsigned i = 0; i < mem_slot_count(mem); i++)
        assert_int_equal(mem_slot(mem, i)->fd, -1);
    mem_free(mem);

    assert_int_equal(getrlimit(RLIMIT_FSIZE, &limit), 0);
    small = (struct rlimit){MIB(8), limit.rlim_max};
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &small), 0);
    mem = make(true);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &limit), 0);
    assert_int_equal(mem_slot(mem, 0)->fd, -1);
    memset(mem_pointer(mem, GAP, END - GAP), 1, END - GAP);
    mem_free(mem);
}

static void check_given_back(bool share)
{
    struct mem *mem = make(share);
    const uint8_t *page = mem_pointer(mem, GAP, END - GAP);
    struct mem_slot callers = {.gpa = GIB(8), .size = PAGE_SIZE, .host = mem_pointer(mem, 0, PAGE_SIZE)};
    struct told told = {0, 0};
    struct stat before, after;
    struct error err;

    mem_set_listener(mem, on_written, &told);
    assert_int_equal(mem_add(mem, &callers, &err), 0);
    memset(mem_pointer(mem, GAP, END - GAP), 0x5a, END - GAP);
    fstat(mem_find(mem, GAP)->fd, &before);

    assert_int_equal(mem_give_back(mem, GAP + 1, PAGE_SIZE), -EINVAL);
    assert_int_equal(mem_give_back(mem, GAP, PAGE_SIZE - 1), -EINVAL);
    assert_int_equal(mem_give_back(mem, END - PAGE_SIZE, 2 * PAGE_SIZE), -EINVAL);
    assert_int_equal(mem_give_back(mem, 0xa0000, PAGE_SIZE), -EINVAL);
    assert_int_equal(mem_give_back(mem, ALIGN_DOWN(UINT64_MAX, PAGE_SIZE), PAGE_SIZE), -EINVAL);
    assert_int_equal(mem_give_back(mem, GIB(8), PAGE_SIZE), -EINVAL);
    assert_int_equal(told.len, 0);

    assert_int_equal(mem_give_back(mem, GAP + PAGE_SIZE, 4 * PIECE), 0);
    assert_int_equal(told.gpa, GAP + PAGE_SIZE);
    assert_int_equal(told.len, 4 * PIECE);
    if (mem_find(mem, GAP)->fd >= 0) {
        fstat(mem_find(mem, GAP)->fd, &after);
        assert_int_equal(before.st_blocks - after.st_blocks, 4 * PIECE / 512);
    }
    for (uint64_t at = 0; at < END - GAP; at += PAGE_SIZE) {
        assert_int_equal(page[at], at - PAGE_SIZE < 4 * PIECE ? 0 : 0x5a);
        assert_int_equal(page[at + PAGE_SIZE - 1], page[at]);
    }
    mem_free(mem);
}

static void test_given_back(void **state)
{
    check_given_back(false);
    check_given_back(true);
}

/* Only a piece that lies in RAM as a whole can be a huge page. */
static void test_huge(void **state)
{
    struct mem *mem = make(true);
    const uint8_t *ram = mem_pointer(mem, GAP, END - GAP);
    unsigned tries = 0;

    while (mem_touch(mem, 2 * PIECE + 0x5678, 1), pages_there(mem, 2 * PIECE, PIECE) < PIECE / PAGE_SIZE)
        if (mem_find(mem, GAP)->fd < 0 || ++tries == 10 || mem_give_back(mem, 2 * PIECE, PIECE)) {
            mem_free(mem);
            skip();
        }
    mem_touch(mem, 0, 2 * PIECE);
    assert_int_equal(pages_there(mem, GAP, PIECE - GAP), 0);
    assert_int_equal(pages_there(mem, 3 * PIECE, PIECE), 0);
    mem_touch(mem, GIB(100), PIECE);
    mem_touch(mem, END, GIB(1));

    /* In part: the rest stays, and it is not done again; as a whole, in two parts: it is as at the beginning. */
    memset(mem_pointer(mem, 2 * PIECE, PIECE), 0x5a, PIECE);
    assert_int_equal(mem_give_back(mem, 2 * PIECE + PAGE_SIZE, PIECE), 0);
    mem_touch(mem, 2 * PIECE, PIECE);
    assert_int_equal(pages_there(mem, 2 * PIECE, PIECE), 1);
    assert_int_equal(ram[2 * PIECE - GAP], 0x5a);
    assert_int_equal(mem_give_back(mem, 2 * PIECE - PAGE_SIZE, PIECE / 2), 0);
    assert_int_equal(pages_there(mem, 2 * PIECE, PIECE), 0);
    mem_touch(mem, 2 * PIECE + PAGE_SIZE, PAGE_SIZE);
    for (tries = 0; tries < 10 && pages_there(mem, 2 * PIECE, PIECE) < PIECE / PAGE_SIZE; tries++) {
        assert_int_equal(pages_there(mem, 2 * PIECE, PIECE), 1);
        assert_int_equal(mem_give_back(mem, 2 * PIECE, PIECE), 0);
        mem_touch(mem, 2 * PIECE + PAGE_SIZE, PAGE_SIZE);
    }
    assert_int_equal(pages_there(mem, 2 * PIECE, PIECE), PIECE / PAGE_SIZE);
    assert_int_equal(ram[2 * PIECE - GAP], 0);
    mem_free(mem);
}

/* What is there before, from a loader that writes around us, is there after. */
static void test_huge_keeps(void **state)
{
    struct mem *mem = make(true);
    uint8_t *piece = mem_pointer(mem, HIGH + PIECE, PIECE);

    for (uint64_t at = 0; at < PIECE; at += 3 * PAGE_SIZE)
        piece[at] = (uint8_t)(at >> PAGE_SHIFT | 1);
    mem_touch(mem, HIGH, MIB(4));
    for (uint64_t at = 0; at < PIECE; at += PAGE_SIZE)
        assert_int_equal(piece[at], at % (3 * PAGE_SIZE) ? 0 : (uint8_t)(at >> PAGE_SHIFT | 1));
    mem_free(mem);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_mapped_again), cmocka_unit_test(test_private),
                                       cmocka_unit_test(test_given_back), cmocka_unit_test(test_huge),
                                       cmocka_unit_test(test_huge_keeps)};

    return cmocka_run_group_tests(tests, NULL, NULL);
}
