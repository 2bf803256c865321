/* tests/unit/test_access.c: segments, the slow side of memory accesses, the stack, the I/O log. */
#include <string.h>

#include "x86/access.h"
#include "x86/io.h"
#include "x86_fake.h"

/* --- segments ----------------------------------------------------------------------- */

#define DATA_RW (ATTR_P | ATTR_S | ATTR_WRITABLE)
#define DATA_RO (ATTR_P | ATTR_S)
#define DOWN    (ATTR_P | ATTR_S | ATTR_WRITABLE | ATTR_EXPAND_DOWN)
#define CODE_RX (ATTR_P | ATTR_S | ATTR_CODE | ATTR_READABLE)
#define CODE_X  (ATTR_P | ATTR_S | ATTR_CODE)

static const struct {
    const char *name;
    unsigned seg;
    uint16_t attr;
    uint32_t limit;
    uint64_t offset;
    unsigned size, access;
    int vector; /* -1: allowed */
} segments[] = {
    {"last byte", SEG_DS, DATA_RW, 0xfff, 0xfff, 1, ACCESS_READ, -1},
    {"last word", SEG_DS, DATA_RW, 0xfff, 0xffe, 2, ACCESS_WRITE, -1},
    {"one over", SEG_DS, DATA_RW, 0xfff, 0xfff, 2, ACCESS_READ, VEC_GP},
    {"one over, stack", SEG_SS, DATA_RW, 0xfff, 0xffd, 4, ACCESS_WRITE, VEC_SS},
    {"wraps 32 bits", SEG_DS, DATA_RW, 0xfffffffe, 0xffffffff, 4, ACCESS_READ, VEC_GP},
    {"read-only, read", SEG_ES, DATA_RO, 0xfff, 0, 4, ACCESS_READ, -1},
    {"read-only, write", SEG_ES, DATA_RO, 0xfff, 0, 4, ACCESS_WRITE, VEC_GP},
    {"null", SEG_FS, 0, 0, 0, 1, ACCESS_READ, VEC_GP},
    {"not present stack", SEG_SS, 0, 0xffff, 0, 1, ACCESS_READ, VEC_SS},
    {"code, read", SEG_CS, CODE_RX, 0xfff, 0x10, 4, ACCESS_READ, -1},
    {"code, write", SEG_CS, CODE_RX, 0xfff, 0x10, 4, ACCESS_WRITE, VEC_GP},
    {"execute-only, read", SEG_CS, CODE_X, 0xfff, 0x10, 4, ACCESS_READ, VEC_GP},
    {"down, at the limit", SEG_DS, DOWN, 0xfff, 0xfff, 1, ACCESS_READ, VEC_GP},
    {"down, above the limit", SEG_DS, DOWN, 0xfff, 0x1000, 4, ACCESS_WRITE, -1},
    {"down, to 64 KiB", SEG_DS, DOWN, 0xfff, 0xfffc, 4, ACCESS_WRITE, -1},
    {"down, over 64 KiB", SEG_DS, DOWN, 0xfff, 0xfffd, 4, ACCESS_WRITE, VEC_GP},
    {"down, big, over 64 KiB", SEG_DS, DOWN | ATTR_DB, 0xfff, 0xfffd, 4, ACCESS_WRITE, -1},
    {"down, big, to 4 GiB", SEG_DS, DOWN | ATTR_DB, 0xfff, 0xfffffffc, 4, ACCESS_WRITE, -1},
    {"down, big, over 4 GiB", SEG_DS, DOWN | ATTR_DB, 0xfff, 0xfffffffd, 4, ACCESS_WRITE, VEC_GP},
    {"down, empty", SEG_DS, DOWN | ATTR_DB, 0xffffffff, 0x1000, 1, ACCESS_READ, VEC_GP},
};

static void test_segments(void **state)
{
    struct fake *f = fake_new(0);

    fake_paging(f, 0, 0, 0, 0);
    for (unsigned i = 0; i < ARRAY_SIZE(segments); i++) {
        gva_t lin;
        enum x86_rc rc;

        fake_segments(f, 32, 0);
        f->cpu.seg[segments[i].seg].attr = segments[i].attr;
        f->cpu.seg[segments[i].seg].limit = segments[i].limit;
        x86_update_mode(&f->cpu);
        rc = x86_linear(&f->cpu, segments[i].seg, segments[i].offset, segments[i].size, segments[i].access, &lin);
        if (rc != (segments[i].vector < 0 ? X86_NEXT : X86_FAULT))
            fail_msg("%s: %s", segments[i].name, rc ? "fault" : "no fault");
        if (rc == X86_FAULT)
            assert_int_equal(f->cpu.exc.vector, segments[i].vector);
        assert_int_equal(f->cpu.exc.error, 0);
    }
    fake_free(f);
}

static void test_real_mode_segments(void **state)
{
    struct fake *f = fake_new(0);
    gva_t lin;

    f->cpu.seg[SEG_DS].base = 0x12340;
    x86_update_mode(&f->cpu);
    assert_int_equal(f->cpu.mode, MODE_REAL16);
    assert_int_equal(x86_linear(&f->cpu, SEG_DS, 0xfffe, 2, ACCESS_WRITE, &lin), X86_NEXT);
    assert_int_equal(lin, 0x12340 + 0xfffe);
    assert_int_equal(x86_linear(&f->cpu, SEG_DS, 0xffff, 2, ACCESS_WRITE, &lin), X86_FAULT);
    assert_int_equal(f->cpu.exc.vector, VEC_GP);
    assert_int_equal(x86_linear(&f->cpu, SEG_SS, 0xffff, 2, ACCESS_WRITE, &lin), X86_FAULT);
    assert_int_equal(f->cpu.exc.vector, VEC_SS);
    assert_int_equal(x86_linear(&f->cpu, SEG_CS, 0, 2, ACCESS_WRITE, &lin), X86_NEXT); /* code is writable there */
    f->cpu.seg[SEG_DS].limit = 0xffffffff;                                             /* as left by protected mode */
    x86_update_mode(&f->cpu);
    assert_int_equal(x86_linear(&f->cpu, SEG_DS, 0x200000, 4, ACCESS_WRITE, &lin), X86_NEXT);
    fake_free(f);
}

/* --- memory -------------------------------------------------------------------------- */

/* 32-bit paging with 4 KiB pages of the first 4 MiB; each maps itself, user and writable. */
#define DIRECTORY         0x1000
#define TABLE             0x2000
#define DIRECTORY_ENTRIES 1024

static struct fake *paged(unsigned cpl)
{
    struct fake *f = fake_new(0);

    fake_write(f, DIRECTORY, TABLE | 7, 4);
    for (unsigned i = 0; i < DIRECTORY_ENTRIES; i++)
        fake_write(f, TABLE + 4 * i, i << 12 | 7, 4);
    fake_paging(f, CR0_PG | CR0_WP, DIRECTORY, 0, 0);
    fake_segments(f, 32, cpl);
    return f;
}

static void set_pte(struct fake *f, gva_t lin, uint32_t pte)
{
    fake_write(f, TABLE + (lin >> 12) * 4, pte, 4);
    x86_tlb_flush_page(&f->cpu, lin);
}

static void test_page_crossing(void **state)
{
    struct fake *f = paged(3);
    uint64_t data = 0x8877665544332211;

    set_pte(f, 0x20000, 0x31000 | 7);
    set_pte(f, 0x21000, 0x30000 | 7);
    assert_int_equal(x86_write_linear(&f->cpu, 0x20ffd, &data, 8, ACCESS_WRITE), X86_NEXT);
    assert_int_equal(fake_read(f, 0x31ffd, 3), 0x332211);
    assert_int_equal(fake_read(f, 0x30000, 5), 0x8877665544);
    data = 0;
    assert_int_equal(x86_read_linear(&f->cpu, 0x20ffd, &data, 8, ACCESS_READ), X86_NEXT);
    assert_true(data == 0x8877665544332211);

    /* All or nothing: the second page refuses. */
    set_pte(f, 0x21000, 0x30000 | 5);
    data = 0;
    assert_int_equal(x86_write_linear(&f->cpu, 0x20ffd, &data, 8, ACCESS_WRITE), X86_FAULT);
    assert_int_equal(f->cpu.exc.vector, VEC_PF);
    assert_int_equal(f->cpu.exc.cr2, 0x21000);
    assert_int_equal(f->cpu.exc.error, PF_P | PF_W | PF_U);
    assert_int_equal(fake_read(f, 0x31ffd, 3), 0x332211);
    /* The first one refuses: its address is reported. */
    set_pte(f, 0x20000, 0x31000 | 5);
    assert_int_equal(x86_write_linear(&f->cpu, 0x20ffd, &data, 8, ACCESS_WRITE), X86_FAULT);
    assert_int_equal(f->cpu.exc.cr2, 0x20ffd);
    fake_free(f);
}

/* 0xffffffff + 1 is 0. */
static void test_wrap(void **state)
{
    struct fake *f = paged(0);
    uint32_t data = 0x44332211;

    fake_write(f, DIRECTORY + 4 * 1023, TABLE | 7, 4); /* so that the last page is the table's last */
    x86_tlb_flush(&f->cpu);
    assert_int_equal(x86_write_linear(&f->cpu, 0xfffffffe, &data, 4, ACCESS_WRITE), X86_NEXT);
    assert_int_equal(fake_read(f, 0x3ffffe, 2), 0x2211);
    assert_int_equal(fake_read(f, 0, 2), 0x4433);
    fake_free(f);
}

static void test_mmio_split(void **state)
{
    struct fake *f = paged(0);
    uint8_t data[16];

    set_pte(f, 0x30000, 0xe0000000 | 7);
    assert_int_equal(x86_read_linear(&f->cpu, 0x30003, data, 11, ACCESS_READ), X86_NEXT);
    for (unsigned i = 0; i < 11; i++)
        assert_int_equal(data[i], 3 + i);
    assert_int_equal(f->io_count, 4); /* 3: 1, 4: 4, 8: 4, 12: 2 */
    assert_int_equal(f->io[0].size, 1);
    assert_int_equal(f->io[1].size, 4);
    assert_int_equal(f->io[2].size, 4);
    assert_int_equal(f->io[3].size, 2);
    assert_int_equal(f->io[3].gpa, 0xe000000c);

    /* Half memory, half MMIO. */
    f->io_count = 0;
    assert_int_equal(x86_write_linear(&f->cpu, 0x2fffe, "abcd", 4, ACCESS_WRITE), X86_NEXT);
    assert_memory_equal(f->ram + 0x2fffe, "ab", 2);
    assert_int_equal(f->io_count, 1);
    assert_int_equal(f->io[0].gpa, 0xe0000000);
    assert_int_equal(f->io[0].data, 'c' | 'd' << 8);
    assert_true(f->io[0].write);
    fake_free(f);
}

/* An instruction that leaves for its MMIO write has not yet written to memory; then both happen. */
static void test_mmio_restart(void **state)
{
    struct fake *f = paged(0);
    uint32_t data = 0;

    f->mmio_exit = true;
    set_pte(f, 0x30000, 0xe0000000 | 7);
    assert_int_equal(x86_write_linear(&f->cpu, 0x2fffe, "abcd", 4, ACCESS_WRITE), X86_EXIT);
    assert_int_equal(f->cpu.io.kind, X86_IO_MMIO);
    assert_int_equal(f->cpu.io.addr, 0xe0000000);
    assert_int_equal(fake_read(f, 0x2fffe, 2), 0);
    x86_io_complete(&f->cpu, 0);
    x86_io_restart(&f->cpu);
    assert_int_equal(x86_write_linear(&f->cpu, 0x2fffe, "abcd", 4, ACCESS_WRITE), X86_NEXT);
    assert_memory_equal(f->ram + 0x2fffe, "ab", 2);
    x86_io_forget(&f->cpu);

    assert_int_equal(x86_read_linear(&f->cpu, 0x30002, &data, 4, ACCESS_READ), X86_EXIT);
    assert_int_equal(f->cpu.io.size, 2);
    x86_io_complete(&f->cpu, 0x12345678); /* only 16 bits were asked for */
    x86_io_restart(&f->cpu);
    assert_int_equal(x86_read_linear(&f->cpu, 0x30002, &data, 4, ACCESS_READ), X86_EXIT);
    assert_int_equal(f->cpu.io.addr, 0xe0000004);
    x86_io_complete(&f->cpu, 0xabcd);
    x86_io_restart(&f->cpu);
    assert_int_equal(x86_read_linear(&f->cpu, 0x30002, &data, 4, ACCESS_READ), X86_NEXT);
    assert_int_equal(data, 0xabcd5678);
    fake_free(f);
}

static void test_io_log_is_bounded(void **state)
{
    struct fake *f = fake_new(0);
    uint64_t data = 0;

    for (unsigned i = 0; i < X86_IO_LOG; i++) {
        assert_int_equal(x86_io(&f->cpu, X86_IO_PORT, i, &data, 1, false), X86_EXIT);
        x86_io_complete(&f->cpu, i);
        x86_io_restart(&f->cpu);
        for (unsigned j = 0; j <= i; j++) {
            assert_int_equal(x86_io(&f->cpu, X86_IO_PORT, j, &data, 1, false), X86_NEXT);
            assert_int_equal(data, j);
        }
    }
    assert_int_equal(x86_io(&f->cpu, X86_IO_PORT, 0x80, &data, 2, false), X86_NEXT);
    assert_int_equal(data, 0xffff);
    /* What another access was answered with is not taken. */
    x86_io_restart(&f->cpu);
    assert_int_equal(x86_io(&f->cpu, X86_IO_PORT, 7, &data, 1, false), X86_EXIT);
    assert_int_equal(f->cpu.io_count, 0);
    fake_free(f);
}

static void test_rom(void **state)
{
    struct fake *f = paged(0);
    uint32_t data = 0x11223344;
    void *host;

    set_pte(f, 0x30000, FAKE_ROM | 7);
    assert_int_equal(x86_write_linear(&f->cpu, 0x30000, &data, 4, ACCESS_WRITE), X86_NEXT);
    assert_int_equal(f->io_count, 1);
    assert_int_equal(f->io[0].gpa, FAKE_ROM);
    assert_int_equal(x86_read_linear(&f->cpu, 0x30000, &data, 4, ACCESS_READ), X86_NEXT);
    assert_int_equal(data, 0x5a5a5a5a);
    assert_non_null(x86_tlb_read(&f->cpu, 0x30000, 4));
    assert_null(x86_tlb_write(&f->cpu, 0x30000, 4));
    assert_int_equal(x86_rmw_pointer(&f->cpu, 0x30000, 4, ACCESS_WRITE, &host), X86_NEXT);
    assert_null(host);
    assert_false(x86_write_physical(&f->cpu, FAKE_ROM, &data, 4));
    fake_free(f);
}

static void test_watched(void **state)
{
    struct fake *f = paged(0);
    uint64_t data = 1;
    struct x86_insn in = {.seg = SEG_DS, .base = X86_REG_ZERO * 8, .index = X86_REG_ZERO * 8, .addrsize = 4};
    struct x86_rmw rmw;

    f->watched = 0x30000;
    assert_int_equal(x86_write_linear(&f->cpu, 0x30ffc, &data, 8, ACCESS_WRITE), X86_NEXT);
    assert_int_equal(f->written_count, 1);
    assert_int_equal(f->written[0], 0x30ffc);
    assert_null(x86_tlb_write(&f->cpu, 0x30000, 4));
    assert_non_null(x86_tlb_read(&f->cpu, 0x30000, 4));

    in.disp = 0x30010;
    fake_write(f, 0x30010, 41, 4);
    assert_int_equal(x86_rmw_begin(&f->cpu, &in, &rmw, 4), X86_NEXT);
    assert_null(rmw.host);
    assert_int_equal(rmw.value, 41);
    assert_int_equal(x86_rmw_finish(&f->cpu, &in, &rmw, 42, 4), X86_NEXT);
    assert_int_equal(fake_read(f, 0x30010, 4), 42);
    assert_int_equal(f->written[1], 0x30010);
    /* Another processor changed it in between. */
    assert_int_equal(x86_rmw_begin(&f->cpu, &in, &rmw, 4), X86_NEXT);
    fake_write(f, 0x30010, 77, 4);
    assert_int_equal(x86_rmw_finish(&f->cpu, &in, &rmw, 43, 4), X86_AGAIN);
    assert_int_equal(fake_read(f, 0x30010, 4), 77);
    /* A page next to it is changed in place. */
    in.disp = 0x31010;
    assert_int_equal(x86_rmw_begin(&f->cpu, &in, &rmw, 4), X86_NEXT);
    assert_ptr_equal(rmw.host, f->ram + 0x31010);

    /* The page becomes watched when the TLB already lets writes through. */
    assert_non_null(x86_tlb_write(&f->cpu, 0x31000, 4));
    f->watched = 0x31000;
    x86_tlb_protect_gpa(&f->cpu, 0x31000);
    assert_null(x86_tlb_write(&f->cpu, 0x31000, 4));
    assert_non_null(x86_tlb_read(&f->cpu, 0x31000, 4));
    fake_free(f);
}

static void test_rmw_elsewhere(void **state)
{
    struct fake *f = paged(3);
    struct x86_insn in = {.seg = SEG_DS, .base = X86_REG_ZERO * 8, .index = X86_REG_ZERO * 8, .addrsize = 4};
    struct x86_rmw rmw;

    /* Over a page edge. */
    fake_write(f, 0x30ffe, 0x01020304, 4);
    in.disp = 0x30ffe;
    assert_int_equal(x86_rmw_begin(&f->cpu, &in, &rmw, 4), X86_NEXT);
    assert_null(rmw.host);
    assert_int_equal(rmw.value, 0x01020304);
    assert_int_equal(x86_rmw_finish(&f->cpu, &in, &rmw, 0x05060708, 4), X86_NEXT);
    assert_int_equal(fake_read(f, 0x30ffe, 4), 0x05060708);
    /* Read-only: the fault is a write's and comes before anything is read. */
    set_pte(f, 0x30000, 0x30000 | 5);
    in.disp = 0x30000;
    assert_int_equal(x86_rmw_begin(&f->cpu, &in, &rmw, 4), X86_FAULT);
    assert_int_equal(f->cpu.exc.error, PF_P | PF_W | PF_U);
    /* MMIO: read, then written. */
    set_pte(f, 0x30000, 0xe0000000 | 7);
    assert_int_equal(x86_rmw_begin(&f->cpu, &in, &rmw, 4), X86_NEXT);
    assert_int_equal(rmw.value, 0x03020100);
    assert_int_equal(x86_rmw_finish(&f->cpu, &in, &rmw, 7, 4), X86_NEXT);
    assert_int_equal(f->io_count, 2);
    assert_true(f->io[1].write);
    assert_int_equal(f->io[1].data, 7);
    fake_free(f);
}

static void test_alignment(void **state)
{
    struct fake *f = paged(3);
    uint8_t data[16] = {0};

    f->cpu.cr0 |= CR0_AM;
    f->cpu.rflags |= FLAG_AC;
    x86_update_mode(&f->cpu);
    assert_ptr_equal(f->tlb.current, &f->tlb.none);
    assert_int_equal(x86_read_linear(&f->cpu, 0x30001, data, 1, ACCESS_READ), X86_NEXT);
    assert_int_equal(x86_read_linear(&f->cpu, 0x30004, data, 4, ACCESS_READ), X86_NEXT);
    assert_int_equal(x86_read_linear(&f->cpu, 0x30008, data, 10, ACCESS_READ), X86_NEXT);
    assert_int_equal(x86_read_linear(&f->cpu, 0x30004, data, 8, ACCESS_READ), X86_FAULT);
    assert_int_equal(f->cpu.exc.vector, VEC_AC);
    assert_int_equal(f->cpu.exc.error, 0);
    assert_int_equal(x86_write(&f->cpu, SEG_DS, 0x30001, data, 2), X86_FAULT);
    assert_int_equal(f->cpu.exc.vector, VEC_AC);
    assert_int_equal(x86_read_linear(&f->cpu, 0x30001, data, 4, ACCESS_READ | ACCESS_IMPLICIT), X86_NEXT);
    /* It comes before a page fault: processors do so, other than SDM vol. 3, 6.9 lists them. */
    set_pte(f, 0x30000, 0);
    assert_int_equal(x86_read_linear(&f->cpu, 0x30001, data, 2, ACCESS_READ), X86_FAULT);
    assert_int_equal(f->cpu.exc.vector, VEC_AC);
    assert_int_equal(x86_read_linear(&f->cpu, 0x30002, data, 2, ACCESS_READ), X86_FAULT);
    assert_int_equal(f->cpu.exc.vector, VEC_PF);
    fake_segments(f, 32, 0);
    assert_int_equal(x86_read_linear(&f->cpu, 0x31001, data, 4, ACCESS_READ), X86_NEXT);
    assert_ptr_not_equal(f->tlb.current, &f->tlb.none);
    fake_free(f);
}

static void test_breakpoints(void **state)
{
    struct fake *f = paged(0);
    uint64_t data = 0;

    f->cpu.dr[0] = 0x30004;
    f->cpu.dr[1] = 0x30011;
    f->cpu.dr[2] = 0x30020;
    f->cpu.dr[3] = 0x30030;
    /* 0: write, 4 bytes; 1: read and write, 1 byte; 2: write, 8 bytes, off; 3: execution. */
    f->cpu.dr[7] = 0x400 | 1 << 0 | 1 << 3 | 1 << 6 | 0xdull << 16 | 0x3ull << 20 | 0x9ull << 24;
    x86_update_mode(&f->cpu);
    assert_ptr_equal(f->tlb.current, &f->tlb.none);
    assert_true(f->cpu.events & X86_EV_TRAP);
    x86_read(&f->cpu, SEG_DS, 0x30004, &data, 4);
    assert_int_equal(f->cpu.dr6_hit, 0);
    x86_write(&f->cpu, SEG_DS, 0x30000, &data, 4);
    assert_int_equal(f->cpu.dr6_hit, 0);
    x86_write(&f->cpu, SEG_DS, 0x30001, &data, 4);
    assert_int_equal(f->cpu.dr6_hit, 1);
    f->cpu.dr6_hit = 0;
    x86_write(&f->cpu, SEG_DS, 0x30007, &data, 1);
    assert_int_equal(f->cpu.dr6_hit, 1);
    f->cpu.dr6_hit = 0;
    x86_write(&f->cpu, SEG_DS, 0x30008, &data, 8);
    assert_int_equal(f->cpu.dr6_hit, 0);
    x86_read(&f->cpu, SEG_DS, 0x30010, &data, 8);
    assert_int_equal(f->cpu.dr6_hit, 2);
    f->cpu.dr6_hit = 0;
    x86_write(&f->cpu, SEG_DS, 0x30020, &data, 8);
    x86_write(&f->cpu, SEG_DS, 0x30030, &data, 8);
    assert_int_equal(f->cpu.dr6_hit, 0);
    f->cpu.dr[7] = 0x400;
    x86_update_mode(&f->cpu);
    assert_ptr_not_equal(f->tlb.current, &f->tlb.none);
    fake_free(f);
}

static void test_io_breakpoints(void **state)
{
    struct fake *f = paged(0);
    uint64_t data = 0;

    f->cpu.dr[1] = 0x60;
    f->cpu.dr[7] = 0x400 | 1 << 2 | 2 << 20;
    x86_update_mode(&f->cpu);
    x86_check_io_breakpoints(&f->cpu, 0x60, 1); /* without CR4.DE that type is undefined */
    assert_int_equal(f->cpu.dr6_hit, 0);
    f->cpu.cr4 |= CR4_DE;
    x86_check_io_breakpoints(&f->cpu, 0x61, 1);
    x86_read(&f->cpu, SEG_DS, 0x60, &data, 4);
    assert_int_equal(f->cpu.dr6_hit, 0);
    x86_check_io_breakpoints(&f->cpu, 0x5e, 4);
    assert_int_equal(f->cpu.dr6_hit, 2);
    fake_free(f);
}

static void test_stack(void **state)
{
    struct fake *f = paged(0);
    uint64_t value = 0;

    f->cpu.gpr[RSP] = 0xffffffff00030000;
    assert_int_equal(x86_push(&f->cpu, 0x1122334455667788, 4), X86_NEXT);
    assert_int_equal(f->cpu.gpr[RSP], 0x2fffc);
    assert_int_equal(fake_read(f, 0x2fffc, 4), 0x55667788);
    assert_int_equal(x86_push(&f->cpu, 0x1122, 2), X86_NEXT);
    assert_int_equal(f->cpu.gpr[RSP], 0x2fffa);
    assert_int_equal(x86_pop(&f->cpu, &value, 2), X86_NEXT);
    assert_int_equal(value, 0x1122);
    /* A 16-bit stack wraps in SP and leaves the rest of ESP. */
    f->cpu.seg[SEG_SS].attr &= (uint16_t)~ATTR_DB;
    f->cpu.seg[SEG_SS].base = 0x40000;
    x86_update_mode(&f->cpu);
    f->cpu.gpr[RSP] = 0x12340000;
    assert_int_equal(x86_push(&f->cpu, 0xabcd, 2), X86_NEXT);
    assert_int_equal(f->cpu.gpr[RSP], 0x1234fffe);
    assert_int_equal(fake_read(f, 0x4fffe, 2), 0xabcd);
    assert_int_equal(x86_pop(&f->cpu, &value, 2), X86_NEXT);
    assert_int_equal(f->cpu.gpr[RSP], 0x12340000);
    /* Faults change nothing. */
    set_pte(f, 0x4f000, 0);
    assert_int_equal(x86_push(&f->cpu, 0, 2), X86_FAULT);
    assert_int_equal(f->cpu.exc.vector, VEC_PF);
    assert_int_equal(f->cpu.gpr[RSP], 0x12340000);
    fake_free(f);
}

static void test_fetch(void **state)
{
    struct fake *f = paged(3);
    struct x86_tlb_entry *e;
    bool mmio;

    e = x86_fetch_entry(&f->cpu, 0x30123, &mmio);
    assert_non_null(e);
    assert_int_equal(e->fetch, 0x30000);
    assert_ptr_equal(e->host, f->ram + 0x30000);
    assert_int_equal(x86_tlb_gpa(f->tlb.table, e), 0x30000);

    set_pte(f, 0x30000, 0xe0000000 | 7);
    assert_null(x86_fetch_entry(&f->cpu, 0x30123, &mmio));
    assert_true(mmio);
    set_pte(f, 0x30000, 0);
    assert_null(x86_fetch_entry(&f->cpu, 0x30123, &mmio));
    assert_false(mmio);
    assert_int_equal(f->cpu.exc.vector, VEC_PF);
    fake_free(f);
}

static void test_apic_page_is_not_memory(void **state)
{
    struct fake *f = fake_new(0);
    uint32_t data = 0;

    f->cpu.lapic.base_msr = X86_APIC_BASE_ENABLE | 0x30000;
    assert_int_equal(x86_read_linear(&f->cpu, 0x30020, &data, 4, ACCESS_READ), X86_NEXT);
    assert_int_equal(f->io_count, 1);
    assert_int_equal(f->io[0].gpa, 0x30020);
    f->cpu.lapic.base_msr |= X86_APIC_BASE_X2APIC;
    assert_int_equal(x86_read_linear(&f->cpu, 0x30020, &data, 4, ACCESS_READ), X86_NEXT);
    assert_int_equal(f->io_count, 1);
    fake_free(f);
}

static void test_physical(void **state)
{
    struct fake *f = fake_new(0);
    uint8_t data[8] = {1, 2, 3, 4, 5, 6, 7, 8};

    f->watched = 0x31000;
    assert_true(x86_write_physical(&f->cpu, 0x30ffc, data, 8));
    assert_int_equal(f->written_count, 1);
    assert_int_equal(f->written[0], 0x31000);
    assert_true(x86_read_physical(&f->cpu, 0x30ffe, data, 4));
    assert_int_equal(data[0], 3);
    assert_int_equal(data[3], 6);
    assert_false(x86_read_physical(&f->cpu, FAKE_RAM - 4, data, 8));
    fake_free(f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_segments),
        cmocka_unit_test(test_real_mode_segments),
        cmocka_unit_test(test_page_crossing),
        cmocka_unit_test(test_wrap),
        cmocka_unit_test(test_mmio_split),
        cmocka_unit_test(test_mmio_restart),
        cmocka_unit_test(test_io_log_is_bounded),
        cmocka_unit_test(test_rom),
        cmocka_unit_test(test_watched),
        cmocka_unit_test(test_rmw_elsewhere),
        cmocka_unit_test(test_alignment),
        cmocka_unit_test(test_breakpoints),
        cmocka_unit_test(test_io_breakpoints),
        cmocka_unit_test(test_stack),
        cmocka_unit_test(test_fetch),
        cmocka_unit_test(test_apic_page_is_not_memory),
        cmocka_unit_test(test_physical),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
