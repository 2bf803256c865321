/*
 * tests/isa/main.c: compares every instruction form on the host and in the
 * software engines, and prints what was covered and what was not.
 */
#include <getopt.h>
#include <pthread.h>
#include <regex.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "isa.h"
#include "x86/insn.h"

#define STATES_PER_INSTANCE 4
#define SECONDS_STUCK       10

/* The software engines; each is a line here and a word in meson.build. */
static const struct engine_ops *const engines[] = {&engine_interp, &engine_bt};

static struct {
    uint64_t seed;
    unsigned count, repeat, shard, shards, show;
    const char *engine;
    bool list, verbose;
    uint64_t flags;
    regex_t form;
    bool form_given;
    bool shadow_soon;
} options = {
    .seed = 1, .count = 1000, .repeat = 1, .shards = 1, .show = 3, .engine = "interp", .flags = FLAG_TF | FLAG_AC};

static struct isa_memory memory;

/* --- a run that does not end ------------------------------------------------------------ */

static struct isa_target *_Atomic running;
static _Atomic uint64_t runs;
static const char *_Atomic running_form;

static void *watch(void *unused)
{
    uint64_t last = 0;

    for (;;) {
        struct isa_target *target = atomic_load(&running);

        sleep(SECONDS_STUCK);
        if (!target || target != atomic_load(&running) || last != atomic_load(&runs)) {
            last = atomic_load(&runs);
            continue;
        }
        fprintf(stderr, "%s: %s does not end\n", atomic_load(&running_form), target->name);
        if (!target->ops->kick)
            _exit(2);
        target->ops->kick(target);
    }
    return unused;
}

static void run(struct isa_target *target, const struct isa_insn *in, const struct isa_state *before,
                struct isa_state *after)
{
    atomic_fetch_add_explicit(&runs, 1, memory_order_relaxed);
    atomic_store_explicit(&running, target, memory_order_relaxed);
    target->ops->run(target, &memory, before, after, in->mode);
    atomic_store_explicit(&running, NULL, memory_order_relaxed);
}

void isa_restore_pages(struct isa_target *target, const struct isa_memory *from)
{
    for (unsigned page = ISA_CODE_PAGES; page < ISA_PAGES; page++)
        if (memcmp(target->page[page], from->page[page], PAGE_SIZE))
            memcpy(target->page[page], from->page[page], PAGE_SIZE);
}

/* --- one form -------------------------------------------------------------------------------- */

static void print_state(const char *title, const struct isa_state *s)
{
    static const char *const names[16] = {"rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi",
                                          "r8",  "r9",  "r10", "r11", "r12", "r13", "r14", "r15"};

    printf(" %s: rip %lx rflags %lx fs %lx gs %lx vector %u error %x cr2 %lx", title, s->rip, s->rflags, s->fs_base,
           s->gs_base, s->vector, s->error, s->cr2);
    if (s->ldt[SEG_ES] | s->ldt[SEG_SS] | s->ldt[SEG_DS])
        printf(" es %02x ss %02x ds %02x", isa_data_selector(s->ldt[SEG_ES]), isa_data_selector(s->ldt[SEG_SS]),
               isa_data_selector(s->ldt[SEG_DS]));
    for (unsigned i = 0; i < 16; i++)
        printf("%s%s %016lx", i % 4 ? "  " : "\n  ", names[i], s->gpr[i]);
    printf("\n  fcw %04x fsw %04x ftw %02x mxcsr %04x\n", s->fpu.fcw, s->fpu.fsw, s->fpu.ftw, s->fpu.mxcsr);
    if (!options.verbose)
        return;
    for (unsigned i = 0; i < 16; i++) {
        const uint64_t *low = (const void *)s->fpu.xmm[i], *high = (const void *)s->fpu.ymm_high[i];

        printf("  ymm%-2u %016lx %016lx %016lx %016lx\n", i, high[1], high[0], low[1], low[0]);
    }
    for (unsigned i = 0; i < 8; i++) {
        uint64_t mantissa;
        uint16_t exponent;

        memcpy(&mantissa, s->fpu.st[i], 8);
        memcpy(&exponent, s->fpu.st[i] + 8, 2);
        printf("  st%u %04x %016lx\n", i, exponent, mantissa);
    }
}

static void show(const struct isa_form *form, const struct isa_insn *in, unsigned number,
                 const struct isa_state *before, const struct isa_state *want, const struct isa_state *got,
                 const char *differences)
{
    char text[96];

    x86_disassemble(text, sizeof(text), in->mode, in->bytes, in->length, in->rip);
    printf("%s, state %u: %lx: %s  [", form->name, number, in->rip, text);
    for (unsigned i = 0; i < in->length; i++)
        printf("%s%02x", i ? " " : "", in->bytes[i]);
    printf("]\n%s", differences);
    print_state("before", before);
    if (options.verbose) {
        print_state("host", want);
        print_state("engine", got);
    }
}

static void place_code(const struct isa_insn *in, struct isa_target *native, struct isa_target *target)
{
    static unsigned at, length;
    const struct isa_memory *from = &memory;

    memset((uint8_t *)memory.page + at, 0xcc, length); /* INT3 everywhere else */
    native->ops->load_code(native, from, at, length);
    target->ops->load_code(target, from, at, length);
    at = (unsigned)(in->rip - isa_windows[WINDOW_CODE].lin);
    length = in->length;
    memcpy((uint8_t *)memory.page + at, in->bytes, length);
    native->ops->load_code(native, from, at, length);
    target->ops->load_code(target, from, at, length);
}

/* After MOV SS the trap of a single step comes one instruction later; a gather can be stopped by it half-way. */
static bool never_stepped(const struct isa_insn *in)
{
    if (in->insn.meta.category == ZYDIS_CATEGORY_AVX2GATHER)
        return true;
    return in->op[0].type == ZYDIS_OPERAND_TYPE_REGISTER && in->op[0].reg.value == ZYDIS_REGISTER_SS;
}

static uint64_t seed_of(const char *name)
{
    uint64_t h = options.seed * 0x9e3779b97f4a7c15;

    while (*name)
        h = (h ^ (uint8_t)*name++) * 0x100000001b3;
    return h;
}

/* false: no instance of it could be made. */
static bool run_form(struct isa_form *form, struct isa_target *native, struct isa_target *target)
{
    struct isa_rng rng = {seed_of(form->name)};
    struct isa_state before, want, got;
    struct isa_insn in;
    char text[4096];

    atomic_store(&running_form, form->name);
    isa_fill_memory(&memory, &rng);
    for (unsigned i = 0; i < options.count; i++) {
        int result;

        if (i % STATES_PER_INSTANCE == 0) {
            if (!isa_make_instance(&in, form, &rng, i / STATES_PER_INSTANCE))
                return false;
            place_code(&in, native, target);
        }
        isa_make_state(&before, &memory, &in, &rng, never_stepped(&in) ? options.flags & ~FLAG_TF : options.flags);
        run(native, &in, &before, &want);
        result = 0;
        for (unsigned k = 0; k < options.repeat && result != 2; k++) {
            run(target, &in, &before, &got);
            result = isa_compare(&in, &before, &want, &got, native, target, text, sizeof(text));
        }
        form->states++;
        if (result == 1) {
            uint64_t flags = (want.rflags ^ got.rflags) & (FLAGS_STATUS | FLAG_RF);

            form->undefined++;
            form->undefined_flags |= flags;
            form->undefined_results += !flags;
        }
        form->faulted += want.rip == in.rip;
        if (result == 2 && form->differences++ < options.show)
            show(form, &in, i, &before, &want, &got, text);
    }
    return true;
}

/* --- all ------------------------------------------------------------------------------------- */

static int compare_reasons(const void *a, const void *b)
{
    const struct isa_form *const *x = a, *const *y = b;

    int reasons = strcmp((*x)->reason, (*y)->reason);

    return reasons ? reasons : (int)(*x)->example.insn.mnemonic - (int)(*y)->example.insn.mnemonic;
}

static void summarize_excluded(const struct isa_forms *forms)
{
    const struct isa_form **list = calloc(forms->count, sizeof(*list));
    unsigned n = 0, k;

    for (unsigned i = 0; i < forms->count; i++)
        if (forms->form[i].reason)
            list[n++] = &forms->form[i];
    qsort(list, n, sizeof(*list), compare_reasons);
    printf("not covered: %u forms\n", n);
    for (unsigned i = 0; i < n; i = k) {
        ZydisMnemonic last = ZYDIS_MNEMONIC_INVALID;

        for (k = i; k < n && !strcmp(list[k]->reason, list[i]->reason); k++)
            ;
        printf("  %5u %s:", k - i, list[i]->reason);
        for (unsigned j = i, shown = 0; j < k; j++) {
            if (list[j]->example.insn.mnemonic == last)
                continue;
            last = list[j]->example.insn.mnemonic;
            if (!options.verbose && ++shown > 12) {
                printf(" ...");
                break;
            }
            printf(" %s", ZydisMnemonicGetString(last));
        }
        printf("\n");
    }
    free(list);
}

/* What differs where the manuals leave it open, by mnemonic: an engine that runs instructions natively and one that
 * does not may differ there. */
static void summarize_undefined(const struct isa_forms *forms)
{
    static const struct {
        uint64_t flag;
        const char *name;
    } names[] = {{FLAG_OF, "OF"}, {FLAG_SF, "SF"}, {FLAG_ZF, "ZF"}, {FLAG_AF, "AF"},
                 {FLAG_PF, "PF"}, {FLAG_CF, "CF"}, {FLAG_RF, "RF"}};

    for (unsigned mnemonic = 0; mnemonic <= ZYDIS_MNEMONIC_MAX_VALUE; mnemonic++) {
        uint64_t states = 0, flags = 0, results = 0;

        for (unsigned i = 0; i < forms->count; i++) {
            const struct isa_form *form = &forms->form[i];

            if (form->example.insn.mnemonic != mnemonic || !form->undefined)
                continue;
            states += form->undefined;
            flags |= form->undefined_flags;
            results += form->undefined_results;
        }
        if (!states)
            continue;
        printf("undefined and different: %s, %lu states:", ZydisMnemonicGetString((ZydisMnemonic)mnemonic), states);
        for (unsigned i = 0; i < ARRAY_SIZE(names); i++)
            if (flags & names[i].flag)
                printf(" %s", names[i].name);
        printf(results ? " (%lu not in flags)\n" : "\n", results);
    }
}

static bool selected(const struct isa_form *form, unsigned i)
{
    if (options.form_given)
        return !regexec(&options.form, form->name, 0, NULL, 0);
    return i % options.shards == options.shard;
}

static int run_all(struct isa_forms *forms, struct isa_target *native, struct isa_target *target)
{
    uint64_t states = 0, faulted = 0, differences = 0, undefined = 0;
    unsigned covered = 0, wrong = 0, unmade = 0, only_fault = 0;

    for (unsigned i = 0; i < forms->count; i++) {
        struct isa_form *form = &forms->form[i];

        if (form->reason || !selected(form, i))
            continue;
        if (!run_form(form, native, target)) {
            printf("%s: no instance could be made\n", form->name);
            unmade++;
            continue;
        }
        covered++;
        wrong += form->differences != 0;
        states += form->states;
        faulted += form->faulted;
        only_fault += form->faulted == form->states;
        differences += form->differences;
        undefined += form->undefined;
    }
    if (wrong)
        printf("forms with differences:\n");
    for (unsigned i = 0; i < forms->count; i++)
        if (forms->form[i].differences)
            printf("  %6lu of %lu  %s\n", forms->form[i].differences, forms->form[i].states, forms->form[i].name);
    summarize_undefined(forms);
    summarize_excluded(forms);
    printf("%s against the host, seed %lu: %u forms covered (%u of them can only fault in user mode), %u could not be "
           "made; %lu states, %lu of them with a fault; %lu differences in %u forms (and %lu in what is undefined)\n",
           target->name, options.seed, covered, only_fault, unmade, states, faulted, differences, wrong, undefined);
    return wrong || unmade || !covered;
}

static void list_forms(const struct isa_forms *forms)
{
    for (unsigned i = 0; i < forms->count; i++)
        if (selected(&forms->form[i], i))
            printf("%s%s%s\n", forms->form[i].name, forms->form[i].reason ? "  -- " : "",
                   forms->form[i].reason ? forms->form[i].reason : "");
}

static const char usage[] = "isa [options]: compares instructions on the host and in a software engine\n"
                            "  --engine NAME   a software engine (interp), or native: the host with itself\n"
                            "  --form REGEX    only forms whose name matches (see --list)\n"
                            "  --count N       states per form (1000)\n"
                            "  --repeat N      runs of the engine per state (1): translators warm up\n"
                            "  --seed N        another series of states (1)\n"
                            "  --shard I/N     the I-th (from 0) of N parts\n"
                            "  --show N        differences shown per form (3)\n"
                            "  --no-trap       without single-stepping\n"
                            "  --no-align      without alignment checks\n"
                            "  --shadow-soon   user code goes by a shadow space (bt)\n"
                            "  --verbose       whole states, all that is not covered\n"
                            "  --list          print the forms\n";

static bool parse(int argc, char **argv)
{
    static const struct option longs[] = {
        {"engine", 1, NULL, 'e'},   {"form", 1, NULL, 'f'},  {"count", 1, NULL, 'c'},   {"repeat", 1, NULL, 'r'},
        {"seed", 1, NULL, 's'},     {"shard", 1, NULL, 'p'}, {"show", 1, NULL, 'n'},    {"no-trap", 0, NULL, 't'},
        {"no-align", 0, NULL, 'a'}, {"list", 0, NULL, 'l'},  {"verbose", 0, NULL, 'v'}, {"shadow-soon", 0, NULL, 'S'},
        {NULL, 0, NULL, 0},
    };
    int c;

    while ((c = getopt_long(argc, argv, "", longs, NULL)) != -1) {
        switch (c) {
        case 'e':
            options.engine = optarg;
            break;
        case 'f':
            if (regcomp(&options.form, optarg, REG_EXTENDED | REG_NOSUB))
                return false;
            options.form_given = true;
            break;
        case 'c':
            options.count = (unsigned)strtoul(optarg, NULL, 0);
            break;
        case 'r':
            options.repeat = (unsigned)strtoul(optarg, NULL, 0);
            break;
        case 's':
            options.seed = strtoull(optarg, NULL, 0);
            break;
        case 'p':
            if (sscanf(optarg, "%u/%u", &options.shard, &options.shards) != 2 || options.shard >= options.shards)
                return false;
            break;
        case 'n':
            options.show = (unsigned)strtoul(optarg, NULL, 0);
            break;
        case 't':
            options.flags &= ~(uint64_t)FLAG_TF;
            break;
        case 'a':
            options.flags &= ~(uint64_t)FLAG_AC;
            break;
        case 'S':
            options.shadow_soon = true;
            break;
        case 'l':
            options.list = true;
            break;
        case 'v':
            options.verbose = true;
            break;
        default:
            return false;
        }
    }
    return optind == argc;
}

static struct isa_target *find_target(struct isa_target *native, struct error *err)
{
    if (!strcmp(options.engine, "native"))
        return native;
    for (unsigned i = 0; i < ARRAY_SIZE(engines); i++)
        if (!strcmp(engines[i]->name, options.engine))
            return isa_guest_new(engines[i], options.shadow_soon, err);
    error_set(err, -1, "no engine is called %s", options.engine);
    return NULL;
}

int main(int argc, char **argv)
{
    /* Used to the end by the watcher, so never freed. */
    static struct isa_forms forms;
    static struct isa_target *native, *target;
    struct error err = {"no memory"};
    pthread_t watcher;
    int status;

    if (!parse(argc, argv)) {
        fputs(usage, stderr);
        return 2;
    }
    setvbuf(stdout, NULL, _IOLBF, 0);
    isa_find_forms(&forms, MODE_LONG64);
    isa_find_forms(&forms, MODE_COMPAT32);
    isa_find_forms(&forms, MODE_COMPAT16);
    if (options.list) {
        list_forms(&forms);
        return 0;
    }
    native = isa_native_new(&err);
    target = native ? find_target(native, &err) : NULL;
    if (!target) {
        fprintf(stderr, "isa: %s\n", err.message);
        return native ? 2 : 77; /* skipped: the host cannot be asked */
    }
    for (unsigned i = 0; i < forms.count && !isa_native_ldt(); i++)
        if (forms.form[i].example.mode == MODE_COMPAT16)
            forms.form[i].reason = "16-bit code: the host has no modify_ldt";
    memset(memory.page, 0xcc, ISA_CODE_PAGES * PAGE_SIZE);
    native->ops->load_code(native, &memory, 0, ISA_CODE_PAGES * PAGE_SIZE - 1);
    native->ops->load_code(native, &memory, PAGE_SIZE, PAGE_SIZE);
    target->ops->load_code(target, &memory, 0, ISA_CODE_PAGES * PAGE_SIZE);
    pthread_create(&watcher, NULL, watch, NULL);
    status = run_all(&forms, native, target);
    pthread_cancel(watcher);
    pthread_join(watcher, NULL);
    if (target != native)
        isa_guest_free(target); /* leaks are looked for where memory can be read only */
    return status;
}
