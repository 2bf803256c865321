/*
 * kit.h: a small kit for bare-metal test guests: exception capture, code run
 * in a context of choice, checks, output. One source for both images:
 * "prot" (32-bit protected mode) and "long" (64-bit long mode).
 */
#ifndef KIT_H
#define KIT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "kit/arch.h"
#include "tests.h"

typedef unsigned long word; /* 4 bytes in prot, 8 in long */

/* --- where things are --------------------------------------------------------
 * RAM is 24 MiB. The image is at 1 MiB; pages are allocated from 4 MiB up. With paging on, the first 16 MiB are
 * mapped to themselves for the supervisor; tests map what they like above. */
#define HEAP_BASE  0x00400000ul
#define IDENTITY   0x01000000ul
#define USER_CODE  0x01000000ul /* user_init() maps these pages for the user; without paging they are plain RAM */
#define USER_STACK 0x01010000ul
#define USER_DATA  0x01020000ul /* two pages, with nothing mapped after them */
#define TEST_VA    0x01200000ul /* nothing mapped: for the test's own mappings */
#define PAGE       0x1000ul
#define LAPIC_BASE 0xfee00000ul

/* --- contexts ---------------------------------------------------------------- */

/* Everything a piece of code can see of the CPU, and the trap that ended it. */
struct context {
    word ax, cx, dx, bx, sp, bp, si, di;
#ifdef __x86_64__
    word r8, r9, r10, r11, r12, r13, r14, r15;
#endif
    word ip, flags, cs, ss, ds, es, fs, gs;
    word vector, error, cr2, dr6;
};
#define NO_TRAP ((word)~0ul)

/* Runs code in the context (by IRET) until a trap that has no handler; the context is then what it was at the trap,
 * and may be run on. A context that cannot be entered ends with the fault of the IRET itself (ip == context_iret). */
void context_run(struct context *c);
extern const char context_iret[];

struct context user_context(word ip);   /* CPL 3, own stack, IF = 0 */
struct context kernel_context(word ip); /* CPL 0, own stack */

/* --- traps -------------------------------------------------------------------- */

/* A handler returns to the (possibly changed) context. */
typedef void handler_fn(struct context *c);
extern handler_fn *handlers[256];

/* The trap of the last TRY. vector == NO_TRAP: there was none. */
extern volatile struct context trap;
extern volatile word try_resume;

/* Runs instructions that may fault in the middle of C: TRY("wrmsr", : : "c"(msr), "a"(lo), "d"(hi)). A fault skips
 * the rest. RSP must be the same at any fault. */
#define TRY(text, ...)                                                                                                 \
    do {                                                                                                               \
        trap.vector = NO_TRAP;                                                                                         \
        asm volatile("mov" W " $98f, try_resume\n" text "\n98: mov" W " $0, try_resume" __VA_ARGS__);                  \
    } while (0)

/* A piece of code to be copied and run elsewhere: position-independent. */
#define CODE(name, text)                                                                                               \
    asm(".pushsection .text\n.balign 16\n" #name ":\n" text "\n" #name "_end:\n" CODE_RESET ".popsection");            \
    extern const char name[], name##_end[]
#define PLACE(address, name) memcpy((void *)(address), name, (size_t)(name##_end - name))
/* Rounds after which any translator has engaged. */
#define HOT             400
#define CODE_SIZE(name) ((word)(name##_end - name))

/* --- checks ------------------------------------------------------------------- */
#define EXPECT(condition)          check_true(__FILE__, __LINE__, #condition, (condition))
#define EXPECT_EQ(value, expected) check_equal(__FILE__, __LINE__, #value, (uint64_t)(value), (uint64_t)(expected))
/* The last TRY's trap; EXPECT_END: the one that ended a context. */
#define EXPECT_TRAP(vec)              check_trap(__FILE__, __LINE__, &trap, vec, 0, false)
#define EXPECT_TRAP_ERROR(vec, err)   check_trap(__FILE__, __LINE__, &trap, vec, err, true)
#define EXPECT_NO_TRAP()              check_trap(__FILE__, __LINE__, &trap, NO_TRAP, 0, false)
#define EXPECT_END(c, vec)            check_trap(__FILE__, __LINE__, c, vec, 0, false)
#define EXPECT_END_ERROR(c, vec, err) check_trap(__FILE__, __LINE__, c, vec, err, true)

void check_true(const char *file, int line, const char *text, bool ok);
void check_equal(const char *file, int line, const char *text, uint64_t value, uint64_t expected);
void check_trap(const char *file, int line, const volatile struct context *c, word vector, word error, bool with_error);

/* Ends the test: what cannot be tested here, and why. */
void skip(const char *why) __attribute__((noreturn));
/* Skips the test unless the CPU says it has the feature. reg: 0 EAX, 1 EBX, 2 ECX, 3 EDX. */
void need(const char *feature, uint32_t leaf, uint32_t subleaf, unsigned reg, unsigned bit);
bool cpu_has(uint32_t leaf, uint32_t subleaf, unsigned reg, unsigned bit);
void finish(void) __attribute__((noreturn));

void print(const char *text);
void print_hex(uint64_t value);

/* Every test has its row in tests.h: one that has none does not compile. */
#define TEST(name)   void test_##name(void)
#define X(name, how) TEST(name);
TEST_LIST(X)
#undef X

/* --- freestanding C --------------------------------------------------------------- */
void *memcpy(void *to, const void *from, size_t n);
void *memset(void *to, int value, size_t n);
int memcmp(const void *a, const void *b, size_t n);
int strcmp(const char *a, const char *b);

/* --- features used by several files ------------------------------------------------- */
#define NEED_PCID()     need("pcid", 1, 0, 2, 17)
#define NEED_X2APIC()   need("x2apic", 1, 0, 2, 21)
#define NEED_DEADLINE() need("tsc_deadline_timer", 1, 0, 2, 24)
#define NEED_XSAVE()    need("xsave", 1, 0, 2, 26)
#define NEED_SMEP()     need("smep", 7, 0, 1, 7)
#define NEED_INVPCID()  need("invpcid", 7, 0, 1, 10)
#define NEED_SMAP()     need("smap", 7, 0, 1, 20)
#define NEED_UMIP()     need("umip", 7, 0, 2, 2)
#define NEED_1G()       need("pdpe1gb", 0x80000001, 0, 3, 26)

#endif
