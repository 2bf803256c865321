/*
 * tests/unit/test_integer.c: what no comparison with the host shows: faults that
 * must leave everything as it was, branches, strings in chunks and over MMIO,
 * ports, modes other than 64-bit.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdlib.h>
#include <string.h>

#include "cpu_fixture.h"

#define EXEC(...) fixture_exec(f, (const uint8_t[]){__VA_ARGS__}, sizeof((const uint8_t[]){__VA_ARGS__}))
#define EXEC_ALL(calls, ...)                                                                                           \
    fixture_exec_all(f, (const uint8_t[]){__VA_ARGS__}, sizeof((const uint8_t[]){__VA_ARGS__}), calls)

static struct fixture *f;
static struct x86_cpu *cpu;

static int setup(void **state)
{
    f = fixture_new();
    cpu = &f->cpu;
    fixture_long64(f);
    return 0;
}

static int teardown(void **state)
{
    fixture_free(f);
    return 0;
}

static void *at(uint64_t addr)
{
    return (void *)(uintptr_t)addr;
}

static uint64_t peek(uint64_t addr)
{
    uint64_t value;

    memcpy(&value, at(addr), 8);
    return value;
}

static void poke(uint64_t addr, uint64_t value)
{
    memcpy(at(addr), &value, 8);
}

static void assert_fault(enum x86_rc rc, unsigned vector)
{
    assert_int_equal(rc, X86_FAULT);
    assert_int_equal(cpu->exc.vector, vector);
}

/* --- all or nothing --------------------------------------------------------------------- */

/* Each leaves registers and flags as they were when its memory operand, in [RBX], cannot be written. */
static void test_write_fault_changes_nothing(void **state)
{
    static const uint8_t instructions[][5] = {
        {0x48, 0x01, 0x03},       {0xf0, 0x48, 0x01, 0x03},
        {0x48, 0x11, 0x03},       {0x48, 0xff, 0x03},
        {0x48, 0xf7, 0x1b},       {0x48, 0xd3, 0x23},
        {0x48, 0x87, 0x03},       {0x48, 0x0f, 0xc1, 0x03},
        {0x48, 0x0f, 0xb1, 0x03}, {0x0f, 0xc7, 0x0b},
        {0x48, 0x0f, 0xc7, 0x0b}, {0x48, 0x0f, 0xab, 0x03},
        {0x48, 0x0f, 0xa5, 0x03}, {0x8f, 0x03},
        {0x0f, 0x94, 0x03},       {0x48, 0xa5},
        {0xf3, 0x48, 0xab},
    };
    uint64_t before[16];

    fixture_map(f, FIX_DATA, true, false);
    for (unsigned i = 0; i < ARRAY_SIZE(instructions); i++) {
        for (unsigned r = 0; r < 16; r++)
            cpu->gpr[r] = r + 1;
        cpu->gpr[RBX] = cpu->gpr[RDI] = FIX_DATA;
        cpu->gpr[RAX] = 5;
        cpu->gpr[RSI] = cpu->gpr[RSP] = FIX_DATA + PAGE_SIZE;
        memcpy(before, cpu->gpr, sizeof(before));
        cpu->rflags = FLAG_FIXED | FLAG_CF | FLAG_OF;
        cpu->rip = FIX_CODE;
        poke(FIX_DATA, 0x1234);
        assert_fault(fixture_exec(f, instructions[i], 5), VEC_PF);
        assert_int_equal(cpu->exc.error, PF_P | PF_W);
        assert_int_equal(cpu->exc.cr2, FIX_DATA);
        assert_memory_equal(before, cpu->gpr, sizeof(before));
        assert_int_equal(cpu->rflags, FLAG_FIXED | FLAG_CF | FLAG_OF);
        assert_int_equal(cpu->rip, FIX_CODE);
        assert_int_equal(peek(FIX_DATA), 0x1234);
    }
}

/* A device that answers later: nothing changes until it has. */
static void test_mmio_exit_changes_nothing(void **state)
{
    f->io_rc = X86_EXIT;
    cpu->gpr[RBX] = FIX_MMIO;
    cpu->gpr[RCX] = 1;
    assert_int_equal(EXEC(0x01, 0x0b), X86_EXIT); /* add [rbx], ecx */
    assert_int_equal(cpu->rflags, FLAG_FIXED);
    assert_int_equal(cpu->rip, FIX_CODE);
    f->io_rc = X86_NEXT;
    f->mmio_data = 0xffffffff;
    assert_int_equal(EXEC(0x01, 0x0b), X86_NEXT);
    assert_int_equal((uint32_t)f->mmio_data, 0);
    assert_true(cpu->rflags & FLAG_ZF && cpu->rflags & FLAG_CF);
}

static void test_divide_error(void **state)
{
    cpu->gpr[RAX] = 5;
    assert_fault(EXEC(0xf7, 0xf1), VEC_DE); /* div ecx: by 0 */
    cpu->gpr[RCX] = 1;
    cpu->gpr[RDX] = 1;
    assert_fault(EXEC(0xf7, 0xf1), VEC_DE); /* quotient 2^32 */
    cpu->gpr[RAX] = 1ull << 63;
    cpu->gpr[RDX] = cpu->gpr[RCX] = ~0ull;
    assert_fault(EXEC(0x48, 0xf7, 0xf9), VEC_DE); /* idiv rcx: -2^63 / -1 */
    assert_int_equal(cpu->gpr[RAX], 1ull << 63);
    assert_int_equal(cpu->rip, FIX_CODE);
}

static void test_cmpxchg16b(void **state)
{
    cpu->gpr[RDI] = FIX_DATA + 8;
    assert_fault(EXEC(0x48, 0x0f, 0xc7, 0x0f), VEC_GP);
    cpu->gpr[RDI] = FIX_DATA;
    poke(FIX_DATA, 1);
    poke(FIX_DATA + 8, 2);
    cpu->gpr[RBX] = 3;
    cpu->gpr[RCX] = 4;
    assert_int_equal(EXEC(0xf0, 0x48, 0x0f, 0xc7, 0x0f), X86_NEXT);
    assert_false(cpu->rflags & FLAG_ZF);
    assert_int_equal(cpu->gpr[RAX], 1);
    assert_int_equal(cpu->gpr[RDX], 2);
    assert_int_equal(EXEC(0xf0, 0x48, 0x0f, 0xc7, 0x0f), X86_NEXT);
    assert_true(cpu->rflags & FLAG_ZF);
    assert_int_equal(peek(FIX_DATA), 3);
    assert_int_equal(peek(FIX_DATA + 8), 4);
}

/* --- branches and stack ------------------------------------------------------------------- */

static void test_call_and_return(void **state)
{
    const uint64_t rsp = FIX_DATA + 0x800;

    cpu->gpr[RSP] = rsp;
    assert_int_equal(EXEC(0xe8, 0x00, 0x01, 0x00, 0x00), X86_JUMP);
    assert_int_equal(cpu->rip, FIX_CODE + 5 + 0x100);
    assert_int_equal(peek(rsp - 8), FIX_CODE + 5);
    assert_int_equal(EXEC(0xc2, 0x10, 0x00), X86_JUMP); /* ret 16 */
    assert_int_equal(cpu->rip, FIX_CODE + 5);
    assert_int_equal(cpu->gpr[RSP], rsp + 16);

    poke(FIX_DATA, FIX_CODE + 0x40);
    cpu->gpr[RSP] = FIX_DATA; /* call [rsp]: the address before the push */
    assert_int_equal(EXEC(0xff, 0x14, 0x24), X86_JUMP);
    assert_int_equal(cpu->rip, FIX_CODE + 0x40);
}

static void test_bad_targets(void **state)
{
    const uint64_t rsp = FIX_DATA + 0x800;

    cpu->gpr[RSP] = rsp;
    cpu->gpr[RAX] = 1ull << 47;
    assert_fault(EXEC(0xff, 0xe0), VEC_GP); /* jmp rax */
    assert_fault(EXEC(0xff, 0xd0), VEC_GP); /* call rax */
    poke(rsp, 1ull << 63);
    assert_fault(EXEC(0xc3), VEC_GP);
    assert_int_equal(cpu->gpr[RSP], rsp);
    assert_int_equal(cpu->rip, FIX_CODE);

    fixture_map(f, FIX_DATA, false, false);
    assert_fault(EXEC(0xe8, 0, 0, 0, 0), VEC_PF);
    assert_int_equal(cpu->gpr[RSP], rsp);
    assert_int_equal(cpu->rip, FIX_CODE);
    cpu->gpr[RSP] = 1ull << 63;
    assert_fault(EXEC(0x50), VEC_SS); /* push rax: not canonical */
}

static void test_conditions(void **state)
{
    cpu->rflags = FLAG_FIXED | FLAG_ZF;
    assert_int_equal(EXEC(0x75, 0x10), X86_NEXT);
    assert_int_equal(cpu->rip, FIX_CODE + 2);
    assert_int_equal(EXEC(0x74, 0xfe), X86_JUMP);
    assert_int_equal(cpu->rip, FIX_CODE + 2);
    assert_int_equal(EXEC(0x0f, 0x8e, 0xfa, 0xff, 0xff, 0xff), X86_JUMP); /* jle */
    assert_int_equal(cpu->rip, FIX_CODE + 2);
}

static void test_loops(void **state)
{
    cpu->gpr[RCX] = 2;
    assert_int_equal(EXEC(0xe2, 0xfe), X86_JUMP);
    assert_int_equal(cpu->gpr[RCX], 1);
    assert_int_equal(EXEC(0xe2, 0xfe), X86_NEXT);
    assert_int_equal(cpu->gpr[RCX], 0);
    assert_int_equal(EXEC(0xe3, 0x10), X86_JUMP); /* jrcxz */
    cpu->gpr[RCX] = 0xffffffff00000000;
    assert_int_equal(EXEC(0x67, 0xe3, 0x10), X86_JUMP); /* jecxz */
    assert_int_equal(EXEC(0xe3, 0x10), X86_NEXT);
    cpu->rflags |= FLAG_ZF;
    cpu->gpr[RCX] = 5;
    assert_int_equal(EXEC(0xe0, 0xfe), X86_NEXT); /* loopne */
    assert_int_equal(EXEC(0xe1, 0xfe), X86_JUMP); /* loope */
    assert_int_equal(cpu->gpr[RCX], 3);
}

static void test_pop_to_memory(void **state)
{
    cpu->gpr[RSP] = FIX_DATA;
    poke(FIX_DATA, 0xabcd);
    poke(FIX_DATA + 16, 0);
    assert_int_equal(EXEC(0x8f, 0x44, 0x24, 0x08), X86_NEXT); /* pop [rsp + 8] */
    assert_int_equal(peek(FIX_DATA + 16), 0xabcd);
}

static void test_enter_leave(void **state)
{
    cpu->gpr[RSP] = FIX_DATA + 0x800;
    cpu->gpr[RBP] = FIX_DATA + 0xc00;
    poke(FIX_DATA + 0xc00 - 8, 0x77);
    assert_int_equal(EXEC(0xc8, 0x20, 0x00, 0x02), X86_NEXT); /* enter 32, 2 */
    assert_int_equal(cpu->gpr[RBP], FIX_DATA + 0x7f8);
    assert_int_equal(cpu->gpr[RSP], FIX_DATA + 0x800 - 24 - 32);
    assert_int_equal(peek(FIX_DATA + 0x7f8), FIX_DATA + 0xc00);
    assert_int_equal(peek(FIX_DATA + 0x7f0), 0x77);
    assert_int_equal(peek(FIX_DATA + 0x7e8), FIX_DATA + 0x7f8);
    assert_int_equal(EXEC(0xc9), X86_NEXT);
    assert_int_equal(cpu->gpr[RSP], FIX_DATA + 0x800);
    assert_int_equal(cpu->gpr[RBP], FIX_DATA + 0xc00);

    /* The frame's end lies in a page that cannot be written. */
    fixture_map(f, FIX_DATA, true, false);
    cpu->gpr[RSP] = FIX_DATA + PAGE_SIZE + 16;
    assert_fault(EXEC(0xc8, 0x20, 0x00, 0x00), VEC_PF);
    assert_int_equal(cpu->gpr[RSP], FIX_DATA + PAGE_SIZE + 16);
    assert_int_equal(cpu->gpr[RBP], FIX_DATA + 0xc00);
}

/* --- strings ---------------------------------------------------------------------------------- */

/* Stops exactly at the page that faults. */
static void test_string_faults_in_the_middle(void **state)
{
    unsigned calls;

    fixture_map(f, FIX_DATA + PAGE_SIZE, false, false);
    cpu->gpr[RDI] = FIX_DATA + PAGE_SIZE - 100;
    cpu->gpr[RCX] = 1000;
    cpu->gpr[RAX] = 0x55;
    assert_fault(EXEC_ALL(&calls, 0xf3, 0xaa), VEC_PF);
    assert_int_equal(cpu->exc.cr2, FIX_DATA + PAGE_SIZE);
    assert_int_equal(cpu->gpr[RDI], FIX_DATA + PAGE_SIZE);
    assert_int_equal(cpu->gpr[RCX], 900);
    assert_int_equal(*(uint8_t *)at(FIX_DATA + PAGE_SIZE - 1), 0x55);

    cpu->gpr[RDI] = FIX_DATA + PAGE_SIZE - 4; /* an element over the edge is not written in part */
    poke(FIX_DATA + PAGE_SIZE - 8, 0);
    cpu->gpr[RCX] = 3;
    assert_fault(EXEC_ALL(&calls, 0xf3, 0x48, 0xab), VEC_PF);
    assert_int_equal(cpu->gpr[RCX], 3);
    assert_int_equal(peek(FIX_DATA + PAGE_SIZE - 8), 0);
}

static void test_string_runs_by_the_page(void **state)
{
    unsigned calls;

    memset(at(FIX_DATA), 0x11, 2 * PAGE_SIZE);
    cpu->gpr[RSI] = FIX_DATA;
    cpu->gpr[RDI] = FIX_DATA + 4 * PAGE_SIZE;
    cpu->gpr[RCX] = 2 * PAGE_SIZE / 8;
    assert_int_equal(EXEC_ALL(&calls, 0xf3, 0x48, 0xa5), X86_NEXT);
    assert_true(calls <= 4);
    assert_memory_equal(at(FIX_DATA), at(FIX_DATA + 4 * PAGE_SIZE), 2 * PAGE_SIZE);

    /* The same RAM by its overlap: a pattern is repeated. */
    *(uint8_t *)at(FIX_DATA) = 0xee;
    cpu->gpr[RSI] = FIX_DATA;
    cpu->gpr[RDI] = FIX_DATA + 1;
    cpu->gpr[RCX] = 100;
    assert_int_equal(EXEC_ALL(&calls, 0xf3, 0xa4), X86_NEXT);
    assert_int_equal(*(uint8_t *)at(FIX_DATA + 100), 0xee);
    assert_int_equal(*(uint8_t *)at(FIX_DATA + 101), 0x11);
}

/* With TF each iteration is followed by a trap; with MMIO each is a transaction. */
static void test_string_one_by_one(void **state)
{
    unsigned calls;

    cpu->rflags |= FLAG_TF;
    cpu->gpr[RDI] = FIX_DATA;
    cpu->gpr[RCX] = 5;
    assert_int_equal(EXEC_ALL(&calls, 0xf3, 0xaa), X86_NEXT);
    assert_int_equal(calls, 5);
    cpu->rflags &= ~(uint64_t)FLAG_TF;

    cpu->gpr[RDI] = FIX_MMIO;
    cpu->gpr[RCX] = 3;
    cpu->gpr[RAX] = 0x99;
    assert_int_equal(EXEC_ALL(&calls, 0xf3, 0xaa), X86_NEXT);
    assert_int_equal(calls, 3);
    assert_int_equal(f->mmio_calls, 3);
    assert_int_equal(f->io_addr, FIX_MMIO + 2);
}

static void test_port_strings(void **state)
{
    unsigned calls;

    f->mmio_data = 0x12345678;
    cpu->gpr[RDX] = 0x170;
    cpu->gpr[RDI] = FIX_DATA;
    cpu->gpr[RCX] = 2;
    assert_int_equal(EXEC_ALL(&calls, 0xf3, 0x6d), X86_NEXT); /* rep insd */
    assert_int_equal(calls, 2);
    assert_int_equal(f->port_calls, 2);
    assert_int_equal(f->io_addr, 0x170);
    assert_int_equal(peek(FIX_DATA), 0x1234567812345678);
    assert_int_equal(cpu->gpr[RDI], FIX_DATA + 8);

    /* A destination that faults: the device has not been asked. */
    fixture_map(f, FIX_DATA, true, false);
    cpu->gpr[RDI] = FIX_DATA;
    assert_fault(EXEC(0x6c), VEC_PF);
    assert_int_equal(f->port_calls, 2);

    poke(FIX_DATA, 0xa5);
    cpu->gpr[RSI] = FIX_DATA;
    assert_int_equal(EXEC(0x6e), X86_NEXT); /* outsb */
    assert_int_equal(f->mmio_data, 0xa5);
    assert_int_equal(cpu->gpr[RSI], FIX_DATA + 1);
}

/* --- other modes -------------------------------------------------------------------------------- */

struct decimal_case {
    uint8_t opcode, operand;
    uint16_t ax;
    uint32_t flags;
    uint16_t result;
    uint32_t result_flags;
};

/* SDM vol. 2's definitions, worked by hand; only defined flags. */
static void test_decimal(void **state)
{
    static const struct decimal_case cases[] = {
        {0x27, 0, 0xae, 0, 0x14, FLAG_CF | FLAG_AF | FLAG_PF}, /* daa: 79 + 35 */
        {0x27, 0, 0x99, 0, 0x99, FLAG_SF | FLAG_PF},           /* in range already */
        {0x27, 0, 0x9a, 0, 0x00, FLAG_CF | FLAG_AF | FLAG_ZF | FLAG_PF},
        {0x2f, 0, 0xee, FLAG_CF | FLAG_AF, 0x88, FLAG_CF | FLAG_AF | FLAG_SF | FLAG_PF}, /* das: 35 - 47 */
        {0x2f, 0, 0x03, FLAG_AF, 0xfd, FLAG_CF | FLAG_AF | FLAG_SF},
        {0x37, 0, 0x000f, 0, 0x0105, FLAG_CF | FLAG_AF}, /* aaa */
        {0x37, 0, 0x00f5, 0, 0x0005, 0},
        {0x37, 0, 0x02ff, 0, 0x0405, FLAG_CF | FLAG_AF},       /* AX + 106h carries into AH */
        {0x3f, 0, 0x0205, FLAG_AF, 0x000f, FLAG_CF | FLAG_AF}, /* aas: borrows from AH */
        {0xd4, 10, 0x004f, 0, 0x0709, FLAG_PF},                /* aam */
        {0xd5, 10, 0x0709, 0, 0x004f, 0},                      /* aad */
    };

    fixture_prot32(f);
    for (unsigned i = 0; i < ARRAY_SIZE(cases); i++) {
        const struct decimal_case *c = &cases[i];
        uint32_t defined = c->opcode == 0x37 || c->opcode == 0x3f ? FLAG_CF | FLAG_AF
                           : c->operand                           ? FLAG_SF | FLAG_ZF | FLAG_PF
                                                                  : FLAGS_STATUS & ~FLAG_OF;

        cpu->gpr[RAX] = c->ax;
        cpu->rflags = FLAG_FIXED | c->flags;
        assert_int_equal(EXEC(c->opcode, c->operand), X86_NEXT);
        assert_int_equal(cpu->gpr[RAX], c->result);
        assert_int_equal(cpu->rflags & defined, c->result_flags & defined);
    }
    assert_fault(EXEC(0xd4, 0), VEC_DE); /* aam 0 */
    cpu->rflags |= FLAG_CF;
    assert_int_equal(EXEC(0xd6), X86_NEXT); /* salc */
    assert_int_equal(cpu->gpr[RAX] & 0xff, 0xff);
}

static void test_prot32(void **state)
{
    uint64_t before[8];

    fixture_prot32(f);
    for (unsigned r = 0; r < 8; r++)
        cpu->gpr[r] = 0x100 + r;
    cpu->gpr[RSP] = FIX_DATA + 0x100;
    memcpy(before, cpu->gpr, sizeof(before));
    assert_int_equal(EXEC(0x60), X86_NEXT); /* pushad */
    assert_int_equal(cpu->gpr[RSP], FIX_DATA + 0x100 - 32);
    assert_int_equal(*(uint32_t *)at(FIX_DATA + 0x100 - 20), FIX_DATA + 0x100); /* ESP as it was */
    memset(cpu->gpr, 0, 4 * sizeof(cpu->gpr[0]));
    assert_int_equal(EXEC(0x61), X86_NEXT); /* popad */
    assert_memory_equal(before, cpu->gpr, sizeof(before));

    cpu->gpr[RCX] = 0x10000;
    assert_int_equal(EXEC(0x67, 0xe2, 0x10), X86_JUMP); /* loop on CX: 0 wraps, ECX's upper half stays */
    assert_int_equal(cpu->gpr[RCX], 0x1ffff);

    poke(FIX_DATA, 5ull | 9ull << 32);
    cpu->gpr[RBX] = FIX_DATA;
    cpu->gpr[RAX] = 9;
    assert_int_equal(EXEC(0x62, 0x03), X86_NEXT); /* bound eax, [ebx] */
    cpu->gpr[RAX] = 10;
    assert_fault(EXEC(0x62, 0x03), VEC_BR);

    cpu->rip = 0x12345;
    assert_int_equal(EXEC(0x66, 0xe9, 0xff, 0xff), X86_JUMP); /* a 16-bit branch truncates EIP */
    assert_int_equal(cpu->rip, 0x2348);
}

static void test_prot16(void **state)
{
    fixture_prot16(f);
    cpu->gpr[RSP] = 0xabcd0000; /* SP wraps; the upper half of ESP stays */
    cpu->gpr[RAX] = 0x1234;
    assert_int_equal(EXEC(0x50), X86_NEXT);
    assert_int_equal(cpu->gpr[RSP], 0xabcdfffe);
    assert_int_equal(*(uint16_t *)at(FIX_DATA + 0xfffe), 0x1234);

    cpu->gpr[RBX] = 0xffff;
    cpu->gpr[RSI] = 2;
    *(uint16_t *)at(FIX_DATA + 1) = 0x5678;
    assert_int_equal(EXEC(0x8b, 0x00), X86_NEXT); /* mov ax, [bx + si]: the sum wraps */
    assert_int_equal(cpu->gpr[RAX], 0x5678);
    cpu->gpr[RSI] = 0;
    assert_fault(EXEC(0x8b, 0x00), VEC_GP); /* a word at the limit */

    cpu->rip = 0x100;
    assert_int_equal(EXEC(0xe9, 0x00, 0xff), X86_JUMP); /* IP wraps */
    assert_int_equal(cpu->rip, 3);
    cpu->gpr[RAX] = 0x10000;
    assert_fault(EXEC(0x66, 0xff, 0xe0), VEC_GP); /* jmp eax: beyond the limit */

    /* A repeated string runs into the limit. */
    cpu->gpr[RDI] = 0xfff0;
    cpu->gpr[RCX] = 0x20;
    assert_int_equal(EXEC_ALL(NULL, 0xf3, 0xaa), X86_NEXT); /* byte by byte DI wraps below the limit */
    assert_int_equal(cpu->gpr[RDI], 0x10);
    cpu->gpr[RDI] = 0xffff;
    cpu->gpr[RCX] = 1;
    assert_fault(EXEC_ALL(NULL, 0xf3, 0xab), VEC_GP);
    assert_int_equal(cpu->gpr[RCX], 1);
}

static void test_hints(void **state)
{
    static const uint8_t rdrand[] = {0x0f, 0xc7, 0xf0};

    cpu->gpr[RBX] = 1ull << 63; /* prefetches never fault */
    assert_int_equal(EXEC(0x0f, 0x18, 0x0b), X86_NEXT);
    assert_fault(EXEC(0x0f, 0xae, 0x3b), VEC_GP); /* clflush does */
    assert_int_equal(EXEC(0xf3, 0x0f, 0x1e, 0xfa), X86_NEXT);
    assert_int_equal(EXEC(0xf3, 0x90), X86_NEXT);
    assert_fault(EXEC(0x0f, 0x0b), VEC_UD);
    assert_fault(EXEC(0xf0, 0x01, 0xc0), VEC_UD); /* lock add eax, eax */

    cpu->gpr[RAX] = ~0ull;
    cpu->rflags |= FLAGS_STATUS;
    assert_int_equal(fixture_exec(f, rdrand, sizeof(rdrand)), X86_NEXT);
    assert_int_equal(cpu->rflags & FLAGS_STATUS, FLAG_CF);
    assert_int_equal(cpu->gpr[RAX] >> 32, 0);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(test_write_fault_changes_nothing),
        TEST(test_mmio_exit_changes_nothing),
        TEST(test_divide_error),
        TEST(test_cmpxchg16b),
        TEST(test_call_and_return),
        TEST(test_bad_targets),
        TEST(test_conditions),
        TEST(test_loops),
        TEST(test_pop_to_memory),
        TEST(test_enter_leave),
        TEST(test_string_faults_in_the_middle),
        TEST(test_string_runs_by_the_page),
        TEST(test_string_one_by_one),
        TEST(test_port_strings),
        TEST(test_decimal),
        TEST(test_prot32),
        TEST(test_prot16),
        TEST(test_hints),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
