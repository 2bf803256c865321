/*
 * bench/programs.c: small programs whose speed is compared: natively, and as
 * the init of a guest under each monitor (report.h says what it prints).
 *
 * Each program runs for 500 windows of 1 ms, so that a slow engine is measured in
 * the same time as a fast one. The fastest twentieth counts: a busy host takes the
 * processor away, and on a virtual one neighbours take the caches for tenths of a
 * second (a chase through 4 MiB then takes eight times as long, natively too).
 */
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "report.h"

#define WINDOWS   500
#define WINDOW_NS 1000000ull
#define LEAVE     "leave-at-once" /* the argument of fork+exec's child */

static volatile uint64_t sink;
static char *self; /* this program's path, for fork+exec */

/* Ten instructions a round, 1000 rounds: an engine's plain speed. Unit: one instruction. */
static uint64_t loop(void)
{
    uint64_t a = 1, b = 2, c = 1000;

    __asm__ volatile("1: add %1, %0\n\t"
                     "xor %0, %1\n\t"
                     "lea 3(%0,%1,2), %0\n\t"
                     "shr $3, %1\n\t"
                     "and $0xffff, %0\n\t"
                     "sub %1, %0\n\t"
                     "mov %0, %1\n\t"
                     "inc %1\n\t"
                     "dec %2\n\t"
                     "jnz 1b"
                     : "+r"(a), "+r"(b), "+r"(c)::"cc");
    sink += a;
    return 10000;
}

static uint64_t sieve(void)
{
    enum { N = 20000 };
    static uint8_t composite[N];

    memset(composite, 0, sizeof(composite));
    for (unsigned i = 2; i * i < N; i++)
        for (unsigned j = i * i; !composite[i] && j < N; j += i)
            composite[j] = 1;
    for (unsigned i = 0; i < N; i++)
        sink += composite[i];
    return 1;
}

static uint64_t crc(void)
{
    static uint32_t table[256];
    uint32_t value = ~0u;

    if (!table[1])
        for (uint32_t i = 0; i < 256; i++) {
            uint32_t c = i;

            for (int k = 0; k < 8; k++)
                c = c & 1 ? c >> 1 ^ 0xedb88320u : c >> 1;
            table[i] = c;
        }
    for (unsigned i = 0; i < 65536; i++)
        value = table[(value ^ i) & 0xff] ^ value >> 8;
    sink += value;
    return 1;
}

static __attribute__((noinline)) unsigned fib(unsigned n)
{
    return n < 2 ? n : fib(n - 1) + fib(n - 2);
}

static uint64_t recursion(void)
{
    sink += fib(18);
    return 1;
}

static uint64_t plus(uint64_t x)
{
    return x + 7;
}

static uint64_t times(uint64_t x)
{
    return x * 5;
}

static uint64_t flip(uint64_t x)
{
    return ~x;
}

static uint64_t swap(uint64_t x)
{
    return x << 32 | x >> 32;
}

static uint64_t indirect(void)
{
    static uint64_t (*volatile const calls[])(uint64_t) = {plus, times, flip, swap};
    uint64_t x = 1;

    for (unsigned i = 0; i < 10000; i++)
        x = calls[x >> 7 & 3](x);
    sink += x;
    return 1;
}

/* A pointer chase through 4 MiB, every cache line once, in a scattered order. */
static uint64_t chase(void)
{
    enum { LINES = 65536 };
    static uint32_t(*next)[16];
    static uint32_t at;

    if (!next) {
        next = malloc(LINES * sizeof(*next));
        for (uint32_t i = 0; i < LINES; i++)
            next[i][0] = (uint32_t)((i * 25173ull + 13849) % LINES); /* a = 1 mod 4, c odd: full period */
    }
    for (unsigned i = 0; i < 10000; i++)
        at = next[at][0];
    sink += at;
    return 10000;
}

/* The compiler makes vectors of the inner loop: of two doubles with SSE2, of four with AVX2. */
static inline __attribute__((always_inline)) uint64_t matrix_product(void)
{
    enum { N = 48 };
    static double a[N][N], b[N][N], c[N][N];

    for (unsigned i = 0; i < N; i++)
        for (unsigned j = 0; j < N; j++) {
            a[i][j] = i + j * 0.5;
            b[i][j] = (double)i - j;
            c[i][j] = 0;
        }
    for (unsigned i = 0; i < N; i++)
        for (unsigned k = 0; k < N; k++)
            for (unsigned j = 0; j < N; j++)
                c[i][j] += a[i][k] * b[k][j];
    sink += (uint64_t)c[N - 1][N - 1];
    return 1;
}

static uint64_t matmul_sse2(void)
{
    return matrix_product();
}

static __attribute__((target("avx2"))) uint64_t matmul_avx2(void)
{
    return matrix_product();
}

static bool has_avx2(void)
{
    return __builtin_cpu_supports("avx2"); /* CPUID, and XCR0 for the system's part */
}

static uint64_t getppid_call(void)
{
    for (unsigned i = 0; i < 100; i++)
        sink += (uint64_t)syscall(SYS_getppid);
    return 100;
}

static uint64_t page_fault(void)
{
    enum { PAGES = 64 };
    char *p = mmap(NULL, PAGES * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    for (unsigned i = 0; i < PAGES; i++)
        p[i * 4096] = 1;
    munmap(p, PAGES * 4096);
    return PAGES;
}

static uint64_t mmap_munmap(void)
{
    for (unsigned i = 0; i < 10; i++)
        munmap(mmap(NULL, 65536, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0), 65536);
    return 10;
}

static uint64_t fork_wait(void)
{
    pid_t pid = fork();

    if (!pid)
        _exit(0);
    waitpid(pid, NULL, 0);
    return 1;
}

static uint64_t fork_exec(void)
{
    pid_t pid = fork();

    if (!pid) {
        execl(self, self, LEAVE, (char *)NULL);
        _exit(1);
    }
    waitpid(pid, NULL, 0);
    return 1;
}

static uint64_t pipe_trip(void)
{
    static int to[2], from[2];
    static pid_t peer;
    char c = 0;

    if (!peer) {
        if (pipe(to) || pipe(from))
            return 1;
        peer = fork();
        if (!peer) { /* ends with its parent, which holds the other ends */
            close(to[1]);
            close(from[0]);
            while (read(to[0], &c, 1) == 1 && write(from[1], &c, 1) == 1)
                ;
            _exit(0);
        }
    }
    for (unsigned i = 0; i < 10; i++)
        if (write(to[1], &c, 1) != 1 || read(from[0], &c, 1) != 1)
            return 1;
    return 10;
}

static const struct program {
    const char *group, *name;
    uint64_t (*run)(void);   /* returns how many units it did */
    bool (*available)(void); /* NULL: everywhere */
} programs[] = {
    {"integer", "loop", loop},
    {"integer", "sieve", sieve},
    {"integer", "crc", crc},
    {"integer", "recursion", recursion},
    {"integer", "indirect", indirect},
    {"integer", "chase", chase},
    {"float", "matmul-sse2", matmul_sse2},
    {"float", "matmul-avx2", matmul_avx2, has_avx2},
    {"kernel", "getppid", getppid_call},
    {"kernel", "pagefault", page_fault},
    {"kernel", "mmap+munmap", mmap_munmap},
    {"kernel", "fork", fork_wait},
    {"kernel", "fork+exec", fork_exec},
    {"kernel", "pipe", pipe_trip},
};

/* Nanoseconds a unit, over one window. */
static double speed(const struct program *program)
{
    uint64_t start = now(), elapsed, units = 0;

    do {
        units += program->run();
        elapsed = now() - start;
    } while (elapsed < WINDOW_NS);
    return (double)elapsed / (double)units;
}

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

static void measure(const struct program *program)
{
    double speeds[WINDOWS];

    if (program->available && !program->available())
        return;
    program->run(); /* first touches */
    for (unsigned i = 0; i < WINDOWS; i++)
        speeds[i] = speed(program);
    qsort(speeds, WINDOWS, sizeof(speeds[0]), compare);
    report(program->group, program->name, speeds[WINDOWS / 20]);
}

int main(int argc, char **argv)
{
    if (argc > 1 && strcmp(argv[1], LEAVE) == 0) /* (a kernel gives init the words it does not know) */
        return 0;
    self = argv[0];
    report_start();
    for (size_t i = 0; i < sizeof(programs) / sizeof(programs[0]); i++)
        measure(&programs[i]);
    report_end();
    return 0;
}
