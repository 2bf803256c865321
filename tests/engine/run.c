/*
 * run.c: runs the engine tests (tests.h): each boots its image (multiboot 1)
 * in a fresh VM under the chosen engine, on a board of a serial port and an
 * exit port. May know engine.h, lockstep.h, mem/, base/ and how an engine is measured, and no engine's inside.
 */
#include <elf.h>
#undef PF_W /* x86/defs.h has its own, the page fault's */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#include "base/log.h"
#include "engine/engine.h"
#include "engine/lockstep/lockstep.h"
#include "machine/machine.h"
#include "tests.h"

#define RAM_SIZE          MIB(24)
#define INFO_GPA          0x1000 /* multiboot information, then the command line */
#define CMDLINE_GPA       0x1100
#define TIME_LIMIT_S      20 /* without --limit */
#define OUTPUT_SIZE       8192
#define PORT_EXIT         0xf4
#define PORT_SERIAL       0x3f8
#define PORT_ADDRESS      0xe0 /* of the memory port */
#define PORT_BYTE         0xe4
#define PORT_MAGIC        0xe8
#define PORT_LOOKUPS      0xec /* how often translated code had to ask for its way, 32 bits; elsewhere all ones */
#define MEMORY_PORT_MAGIC 0x3d
#define DEVICE_GPA        0xd0000000ull /* eight registers of 8 bytes, that keep what they are given; then a number */
#define DEVICE_SIZE       64u
#define DEVICE_MAGIC      0x10cced
#define SERIAL_LSR        0x3fd
#define SERIAL_IDLE       0x60
#define BOOT_MAGIC        0x2badb002
#define STATUS_NONE       -1
#define CPUS              4 /* of tests whose name begins with smp_ */
#define SHUTDOWN_LINE     "expecting shutdown\n"

static const struct engine_ops *const engines[] = {&engine_interp, &engine_bt, &engine_kvm};

enum test_end { EXIT, SHUTDOWN };

static const struct test {
    const char *image, *name;
    enum test_end end;
} tests[] = {
#define X(name, end) {"long", #name, end}, {"prot", #name, end},
    TESTS_BOTH(X)
#undef X
#define X(name, end) {"long", #name, end},
        TESTS_LONG(X)
#undef X
#define X(name, end) {"prot", #name, end},
            TESTS_PROT(X)
#undef X
};

struct image {
    uint8_t *data;
    size_t size;
};

/* What came of one test. */
struct outcome {
    int status; /* written to the exit port, or STATUS_NONE */
    bool shutdown, broken;
    char text[OUTPUT_SIZE]; /* serial output, then the runner's remarks */
    size_t length;
};

static void say(struct outcome *o, const char *text)
{
    size_t n = strlen(text);

    if (o->length + n < sizeof(o->text)) {
        memcpy(o->text + o->length, text, n + 1);
        o->length += n;
    }
}

/* --- loading ---------------------------------------------------------------------- */

static int image_read(struct image *image, const char *folder, const char *name)
{
    char path[4096];
    struct stat st;
    int fd;

    snprintf(path, sizeof(path), "%s/%s.elf", folder, name);
    fd = open(path, O_RDONLY);
    if (fd < 0 || fstat(fd, &st) < 0) {
        fprintf(stderr, "%s: %s\n", path, strerror(errno));
        return -errno;
    }
    image->size = (size_t)st.st_size;
    image->data = malloc(image->size + 1);
    if (!image->data || read(fd, image->data, image->size) != (ssize_t)image->size) {
        fprintf(stderr, "%s: cannot be read\n", path);
        close(fd);
        return -EIO;
    }
    close(fd);
    return 0;
}

/* Copies the segments of a 32-bit ELF. */
static int image_load(const struct image *image, struct mem *mem, uint32_t *entry)
{
    const Elf32_Ehdr *header = (const void *)image->data;
    const Elf32_Phdr *segment;

    if (image->size < sizeof(*header) || memcmp(header->e_ident, ELFMAG, SELFMAG) ||
        header->e_ident[EI_CLASS] != ELFCLASS32 ||
        header->e_phoff + (uint64_t)header->e_phnum * sizeof(*segment) > image->size)
        return -EINVAL;
    segment = (const void *)(image->data + header->e_phoff);
    for (unsigned i = 0; i < header->e_phnum; i++, segment++) {
        if (segment->p_type != PT_LOAD || !segment->p_filesz)
            continue;
        if ((uint64_t)segment->p_offset + segment->p_filesz > image->size ||
            mem_write(mem, segment->p_paddr, image->data + segment->p_offset, segment->p_filesz))
            return -EINVAL;
    }
    *entry = header->e_entry;
    return 0;
}

static uint64_t initial_xcr0; /* 0: as after power-up */

/* Machine state as multiboot 1 (0.6.96, 3.2) leaves it. */
static void boot_state(struct x86_cpu *cpu, uint32_t entry)
{
    const struct x86_segment code = {.limit = 0xffffffff, .selector = 0x08, .attr = 0xc09b};
    const struct x86_segment data = {.limit = 0xffffffff, .selector = 0x10, .attr = 0xc093};

    for (unsigned i = 0; i < 6; i++)
        cpu->seg[i] = i == SEG_CS ? code : data;
    cpu->cr0 = (cpu->cr0 & ~(CR0_CD | CR0_NW)) | CR0_PE;
    if (initial_xcr0)
        cpu->xcr0 = initial_xcr0;
    cpu->rip = entry;
    cpu->rflags = FLAG_FIXED;
    cpu->gpr[RAX] = BOOT_MAGIC;
    cpu->gpr[RBX] = INFO_GPA;
}

static int boot_info(struct mem *mem, const char *name)
{
    uint32_t info[22] = {[0] = 4 /* command line */, [4] = CMDLINE_GPA};
    char line[128];

    snprintf(line, sizeof(line), "image %s", name);
    return mem_write(mem, INFO_GPA, info, sizeof(info)) || mem_write(mem, CMDLINE_GPA, line, strlen(line) + 1);
}

/* A VM, and what it was like before the first instruction. */
struct machine {
    const struct engine_ops *ops;
    struct vclock *clock;
    struct mem *mem;
    struct engine_vm *vm;
    unsigned cpus;
    struct engine_vcpu *vcpu[CPUS];
    struct x86_cpu *state[CPUS];
    uint8_t *memory; /* RAM_SIZE bytes */
    uint8_t registers[DEVICE_SIZE];
    struct outcome *outcome;
};

/* --- running ------------------------------------------------------------------------ */

static const struct engine_ops *running_ops;
static struct machine *volatile running;
static _Atomic bool timed_out;
static pthread_mutex_t board = PTHREAD_MUTEX_INITIALIZER; /* the devices, and the outcome */

static void on_alarm(int signal)
{
    const int saved = errno;

    timed_out = true;
    for (unsigned i = 0; running && i < running->cpus; i++)
        running_ops->kick(running->vcpu[i]);
    errno = saved;
}

static bool ended(struct machine *m)
{
    bool yes;

    pthread_mutex_lock(&board);
    yes = m->outcome->status != STATUS_NONE || m->outcome->shutdown || m->outcome->broken || timed_out;
    pthread_mutex_unlock(&board);
    return yes;
}

/* A device that writes to memory: an address to the first port, bytes for there and on to the second. */
static void serve_memory_port(struct mem *mem, const struct exit *exit)
{
    static gpa_t at;
    uint8_t byte = (uint8_t)exit->pio.data;

    if (exit->pio.port == PORT_ADDRESS)
        at = exit->pio.data;
    else
        mem_write(mem, at++, &byte, 1);
}

static void serve_port(struct machine *m, struct exit *exit, struct outcome *o)
{
    if (exit->pio.write && (exit->pio.port == PORT_ADDRESS || exit->pio.port == PORT_BYTE)) {
        serve_memory_port(m->mem, exit);
    } else if (!exit->pio.write && exit->pio.port == PORT_MAGIC) {
        /* Lockstep's second memory would not see the writes. */
        exit->pio.data = strcmp(m->ops->name, "lockstep") ? MEMORY_PORT_MAGIC : 0xff;
    } else if (!exit->pio.write && exit->pio.port == PORT_LOOKUPS && !strcmp(m->ops->name, "bt")) {
        exit->pio.data = (uint32_t)m->ops->counters(m->vcpu[0])->resolves;
    } else if (!exit->pio.write) {
        exit->pio.data = exit->pio.port == SERIAL_LSR ? SERIAL_IDLE : 0xffffffff;
    } else if (exit->pio.port == PORT_EXIT) {
        o->status = exit->pio.data & 0xff;
    } else if (exit->pio.port == PORT_SERIAL) {
        char text[2] = {(char)exit->pio.data, 0};

        say(o, text);
    }
}

static void serve_device(struct machine *m, struct exit *exit)
{
    const uint64_t at = exit->mmio.gpa - DEVICE_GPA;

    if (exit->mmio.write) {
        if (at <= DEVICE_SIZE - (uint64_t)exit->mmio.size)
            memcpy(m->registers + at, &exit->mmio.data, exit->mmio.size);
        return;
    }
    exit->mmio.data = ~0ull;
    if (at <= DEVICE_SIZE - (uint64_t)exit->mmio.size)
        memcpy(&exit->mmio.data, m->registers + at, exit->mmio.size);
    else if (at == DEVICE_SIZE && strcmp(m->ops->name, "kvm")) /* it takes LOCK on devices for granted */
        exit->mmio.data = DEVICE_MAGIC;
}

static void say_shutdown(const struct exit *exit, struct outcome *o)
{
    char text[160];

    snprintf(text, sizeof(text), "shutdown: exceptions %u %u %u, rip %#lx, error %#x, cr2 %#lx\n",
             exit->shutdown.vectors[0], exit->shutdown.vectors[1], exit->shutdown.vectors[2],
             (unsigned long)exit->shutdown.rip, exit->shutdown.error, (unsigned long)exit->shutdown.cr2);
    say(o, text);
}

static void say_state(const struct engine_ops *ops, struct engine_vcpu *vcpu, struct outcome *o)
{
    struct x86_cpu *cpu = aligned_alloc(64, ALIGN_UP(sizeof(*cpu), 64));
    char text[160];

    if (!cpu)
        return;
    ops->get_state(vcpu, cpu);
    snprintf(text, sizeof(text), "time is up at %#x:%#lx, rflags %#lx%s\n", cpu->seg[SEG_CS].selector,
             (unsigned long)cpu->rip, (unsigned long)cpu->rflags, cpu->halted ? ", halted" : "");
    say(o, text);
    free(cpu);
}

static void serve(struct machine *m, struct exit *exit)
{
    struct outcome *o = m->outcome;

    switch (exit->reason) {
    case EXIT_PIO:
        serve_port(m, exit, o);
        break;
    case EXIT_MMIO:
        serve_device(m, exit);
        break;
    case EXIT_SHUTDOWN:
        o->shutdown = true;
        say_shutdown(exit, o);
        break;
    case EXIT_ERROR:
        o->broken = true;
        say(o, exit->error.text);
        say(o, "\n");
        break;
    default: /* EXIT_HALT: the next run() sleeps */
        break;
    }
}

struct processor {
    struct machine *machine;
    unsigned id;
};

/* Until the test has ended; then the others are told. */
static void *run_vcpu(void *opaque)
{
    struct processor *p = opaque;
    struct machine *m = p->machine;
    struct exit exit = {.reason = EXIT_INTERRUPTED};

    while (!ended(m)) {
        m->ops->run(m->vcpu[p->id], &exit, 0);
        pthread_mutex_lock(&board);
        serve(m, &exit);
        pthread_mutex_unlock(&board);
    }
    for (unsigned i = 0; i < m->cpus; i++)
        m->ops->kick(m->vcpu[i]);
    return NULL;
}

static void run_processors(struct machine *m)
{
    struct processor p[CPUS];
    pthread_t thread[CPUS];
    unsigned n;

    for (n = 0; n < m->cpus; n++) {
        p[n] = (struct processor){m, n};
        if (n && pthread_create(&thread[n], NULL, run_vcpu, &p[n]))
            abort();
    }
    run_vcpu(&p[0]);
    while (n-- > 1)
        pthread_join(thread[n], NULL);
    for (n = 0; timed_out && n < m->cpus; n++)
        say_state(m->ops, m->vcpu[n], m->outcome);
}

static void machine_destroy(struct machine *m)
{
    for (unsigned i = 0; i < CPUS; i++) {
        if (m->vcpu[i])
            m->ops->vcpu_destroy(m->vcpu[i]);
        free(m->state[i]);
    }
    if (m->vm)
        m->ops->vm_destroy(m->vm);
    if (m->mem)
        mem_free(m->mem);
    if (m->clock)
        vclock_free(m->clock);
    free(m->memory);
}

static unsigned time_limit = TIME_LIMIT_S;
static size_t code_cache; /* 0: the engine's default */
static bool shadow_soon;

/* The first one as multiboot leaves it, the others as after power-up. */
static int make_processors(struct machine *m, uint32_t entry, struct error *err)
{
    for (unsigned i = 0; i < m->cpus; i++) {
        m->state[i] = aligned_alloc(64, ALIGN_UP(sizeof(*m->state[i]), 64));
        if (!m->state[i] || m->ops->vcpu_create(&m->vcpu[i], m->vm, i, err))
            return -ENOMEM;
        m->ops->get_state(m->vcpu[i], m->state[i]);
    }
    boot_state(m->state[0], entry);
    m->ops->set_state(m->vcpu[0], m->state[0]);
    return 0;
}

static int machine_create(struct machine *m, const struct engine_ops *ops, const struct image *image, const char *name,
                          struct error *err)
{
    const bool several = !strncmp(name, "smp_", 4) && strcmp(ops->name, "lockstep");
    struct engine_config config;
    uint32_t entry;

    *m = (struct machine){.ops = ops, .clock = vclock_new(), .mem = mem_new(), .cpus = several ? CPUS : 1};
    if (!m->clock || !m->mem)
        return -ENOMEM;
    if (ops->maps_ram)
        mem_share_ram(m->mem);
    config = (struct engine_config){
        .mem = m->mem, .clock = m->clock, .cpus = m->cpus, .code_cache = code_cache, .shadow_soon = shadow_soon};
    if (mem_add_ram(m->mem, 0, RAM_SIZE, err) || ops->vm_create(&m->vm, &config, err) ||
        image_load(image, m->mem, &entry) || boot_info(m->mem, name))
        return -EINVAL;
    return make_processors(m, entry, err);
}

/* Calls fn for each page that anybody has touched (a page that was swapped out would be taken for untouched). */
static int each_page(struct machine *m, int (*fn)(struct machine *m, gpa_t at, const uint8_t *page))
{
    static unsigned char resident[RAM_SIZE / PAGE_SIZE];
    uint8_t *ram = mem_pointer(m->mem, 0, RAM_SIZE);
    int rc = mincore(ram, RAM_SIZE, resident);

    for (gpa_t at = 0; !rc && at < RAM_SIZE; at += PAGE_SIZE)
        if (resident[at / PAGE_SIZE] & 1)
            rc = fn(m, at, ram + at);
    return rc;
}

static int remember(struct machine *m, gpa_t at, const uint8_t *page)
{
    memcpy(m->memory + at, page, PAGE_SIZE);
    return 0;
}

static int restore(struct machine *m, gpa_t at, const uint8_t *page)
{
    return memcmp(page, m->memory + at, PAGE_SIZE) ? mem_write(m->mem, at, m->memory + at, PAGE_SIZE) : 0;
}

static int machine_remember(struct machine *m)
{
    m->memory = calloc(1, RAM_SIZE);
    return m->memory ? each_page(m, remember) : -ENOMEM;
}

/* The same VM, with all that its engine has derived from its code, but memory and processors as they were. */
static int machine_reset(struct machine *m)
{
    int rc = each_page(m, restore);

    for (unsigned i = 0; i < m->cpus; i++)
        m->ops->set_state(m->vcpu[i], m->state[i]);
    return rc;
}

static void run_once(struct machine *m, struct outcome *o)
{
    struct itimerval limit = {.it_value = {.tv_sec = time_limit}}, off = {0};

    *o = (struct outcome){.status = STATUS_NONE};
    timed_out = false;
    m->outcome = o;
    running = m;
    setitimer(ITIMER_REAL, &limit, NULL);
    run_processors(m);
    setitimer(ITIMER_REAL, &off, NULL);
    running = NULL;
}

/* --- judging -------------------------------------------------------------------------- */

enum { PASSED, FAILED, SKIPPED, DIFFERS };

/* Tests that may fail, and why: lines of a name and a reason, from --differs files. "!" before the name: not to be run
 * at all there. */
static struct known {
    char name[64], reason[256];
} known[256];
static unsigned known_count;

static bool read_differs(const char *path)
{
    FILE *f = fopen(path, "re");

    if (!f) {
        fprintf(stderr, "%s: %s\n", path, strerror(errno));
        return false;
    }
    while (known_count < ARRAY_SIZE(known) &&
           fscanf(f, "%63s %255[^\n]", known[known_count].name, known[known_count].reason) == 2) {
        if (known_count && !strcmp(known[known_count].reason, "the same"))
            strcpy(known[known_count].reason, known[known_count - 1].reason);
        known_count++;
    }
    fclose(f);
    return true;
}

static const char *known_reason(const struct test *test, const char *mark)
{
    char name[128];

    snprintf(name, sizeof(name), "%s%s/%s", mark, test->image, test->name);
    for (unsigned i = 0; i < known_count; i++)
        if (!strcmp(known[i].name, name))
            return known[i].reason;
    return NULL;
}

static int judge(const struct test *test, const struct outcome *o)
{
    if (test->end == SHUTDOWN)
        return o->shutdown && strstr(o->text, SHUTDOWN_LINE) ? PASSED : FAILED;
    if (o->status == STATUS_SKIP)
        return SKIPPED;
    return o->status == STATUS_PASS ? PASSED : FAILED;
}

/* Up to repeat times in one VM, until it fails. */
static int run_test(const struct engine_ops *ops, const struct image *image, const struct test *test, unsigned repeat,
                    struct outcome *o)
{
    struct error err = {"no memory, or a bad image"};
    struct machine m;
    int verdict = FAILED;
    char text[40];

    *o = (struct outcome){.status = STATUS_NONE};
    if (machine_create(&m, ops, image, test->name, &err) || (repeat > 1 && machine_remember(&m)))
        say(o, err.message);
    else
        for (unsigned round = 0; round < repeat; round++) {
            if (round && machine_reset(&m))
                break;
            run_once(&m, o);
            verdict = judge(test, o);
            if (verdict == PASSED)
                continue;
            snprintf(text, sizeof(text), "(round %u)\n", round);
            say(o, round ? text : "");
            break;
        }
    machine_destroy(&m);
    return verdict;
}

/* The same, with regard to the lists. */
static int run_listed(const struct engine_ops *ops, const struct image *image, const struct test *test, unsigned repeat,
                      struct outcome *o)
{
    const char *reason = known_reason(test, "!");
    int verdict = SKIPPED;

    if (!reason) {
        verdict = run_test(ops, image, test, repeat, o);
        reason = verdict == FAILED ? known_reason(test, "") : NULL;
        verdict = reason ? DIFFERS : verdict;
    }
    if (reason) {
        o->length = 0;
        say(o, reason);
    }
    return verdict;
}

static void report(const char *verdict, const struct test *test, const char *text)
{
    printf("%s %s/%s\n", verdict, test->image, test->name);
    while (*text) {
        int n = (int)strcspn(text, "\n");

        printf("    %.*s\n", n, text);
        text += n;
        text += *text == '\n';
    }
    fflush(stdout);
}

static int usage(void)
{
    fprintf(stderr, "usage: run [--engine NAME] [--filter TEXT] [--repeat N] [--differs FILE]... [--code-cache KIB]\n"
                    "           [--shadow-soon] [--limit SECONDS] [--xcr0 N] [--trace LIST] [--verbose] [--list]\n"
                    "           IMAGES-FOLDER\n");
    return 2;
}

struct options {
    const struct engine_ops *ops;
    const char *filter, *folder;
    unsigned repeat; /* runs of each test in one VM: translators warm up */
    bool list, verbose;
};

static const struct engine_ops *find_engine(const char *name, size_t length)
{
    for (unsigned i = 0; i < ARRAY_SIZE(engines); i++)
        if (strlen(engines[i]->name) == length && !strncmp(engines[i]->name, name, length))
            return engines[i];
    return NULL;
}

/* A name, or "lockstep:A,B": B compared with A. */
static const struct engine_ops *choose_engine(const char *name)
{
    const char *pair = strchr(name, ':'), *comma = strchr(name, ',');
    const struct engine_ops *leader, *follower, *engine = NULL;

    if (!pair) {
        engine = find_engine(name, strlen(name));
    } else if (comma > pair && !strncmp(name, "lockstep", (size_t)(pair - name))) {
        leader = find_engine(pair + 1, (size_t)(comma - pair - 1));
        follower = find_engine(comma + 1, strlen(comma + 1));
        engine = leader && follower ? lockstep_engine(leader, follower) : NULL;
    }
    if (!engine)
        fprintf(stderr, "run: no engine %s\n", name);
    return engine;
}

static bool parse(int argc, char **argv, struct options *options)
{
    struct error err;

    *options = (struct options){.ops = engines[0], .filter = "", .repeat = 1};
    for (int i = 1; i < argc; i++) {
        const char *value = i + 1 < argc ? argv[i + 1] : "";

        if (!strcmp(argv[i], "--list")) {
            options->list = true;
        } else if (!strcmp(argv[i], "--verbose")) {
            options->verbose = true;
        } else if (!strcmp(argv[i], "--filter")) {
            options->filter = value;
            i++;
        } else if (!strcmp(argv[i], "--shadow-soon")) {
            shadow_soon = true;
        } else if (!strcmp(argv[i], "--repeat")) {
            options->repeat = (unsigned)strtoul(value, NULL, 0);
            i++;
        } else if (!strcmp(argv[i], "--differs")) {
            if (!read_differs(value))
                return false;
            i++;
        } else if (!strcmp(argv[i], "--code-cache")) {
            code_cache = KIB(strtoul(value, NULL, 0));
            i++;
        } else if (!strcmp(argv[i], "--xcr0")) {
            initial_xcr0 = strtoul(value, NULL, 0);
            i++;
        } else if (!strcmp(argv[i], "--limit")) {
            time_limit = (unsigned)strtoul(value, NULL, 0);
            i++;
        } else if (!strcmp(argv[i], "--engine")) {
            options->ops = choose_engine(value);
            i++;
        } else if (!strcmp(argv[i], "--trace")) {
            if (trace_parse(value, &trace_mask, &err))
                return false;
            i++;
        } else if (argv[i][0] == '-' || options->folder) {
            return false;
        } else {
            options->folder = argv[i];
        }
    }
    return options->ops && options->repeat && (options->list || options->folder);
}

static bool chosen(const struct options *options, const struct test *test)
{
    char name[128];

    snprintf(name, sizeof(name), "%s/%s", test->image, test->name);
    return strstr(name, options->filter) != NULL;
}

/* A KVM without hardware below it is not what is tested. */
static bool emulates(const struct engine_ops *ops)
{
    struct engine_speed speed;
    struct error err;

    return machine_measure_engine(ops, &speed, &err) || !speed.hardware;
}

int main(int argc, char **argv)
{
    static const char *const verdicts[] = {"PASS", "FAIL", "SKIP", "DIFFERS"};
    static const char *const names[] = {"long", "prot"};
    struct image images[ARRAY_SIZE(names)] = {0};
    struct options options;
    struct outcome *o = malloc(sizeof(*o));
    struct error err = {""};
    unsigned counts[4] = {0};

    if (!o || !parse(argc, argv, &options)) {
        free(o);
        return usage();
    }
    if (!options.list) {
        if (options.ops->probe(&err)) {
            printf("%s does not work on this host: %s\n", options.ops->name, err.message);
            return 77; /* meson: skipped */
        }
        if (options.ops->hardware && emulates(options.ops)) {
            printf("skipped: %s emulates guest code on this host\n", options.ops->name);
            return 77;
        }
        for (unsigned i = 0; i < ARRAY_SIZE(names); i++)
            if (image_read(&images[i], options.folder, names[i]))
                return 2;
        sigaction(SIGALRM, &(struct sigaction){.sa_handler = on_alarm}, NULL);
        running_ops = options.ops;
    }
    for (unsigned i = 0; i < ARRAY_SIZE(tests); i++) {
        const struct test *test = &tests[i];
        int verdict;

        if (!chosen(&options, test))
            continue;
        if (options.list) {
            printf("%s/%s %s\n", test->image, test->name, test->end == EXIT ? "EXIT" : "SHUTDOWN");
            continue;
        }
        verdict = run_listed(options.ops, &images[!strcmp(test->image, "prot")], test, options.repeat, o);
        counts[verdict]++;
        report(verdicts[verdict], test, verdict != PASSED || options.verbose ? o->text : "");
    }
    if (!options.list)
        printf("%s: %u passed, %u failed, %u skipped, %u differ as known\n", options.ops->name, counts[PASSED],
               counts[FAILED], counts[SKIPPED], counts[DIFFERS]);
    for (unsigned i = 0; i < ARRAY_SIZE(names); i++)
        free(images[i].data);
    free(o);
    return counts[FAILED] != 0;
}
