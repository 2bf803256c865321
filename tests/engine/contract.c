/*
 * contract.c: what engine.h promises beside running code: several processors,
 * messages and their ends, the 8259's interrupts, NMIs, kicks, state in and out.
 * Small real-mode guests, on the engine that is named: contract ENGINE.
 */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include "engine/engine.h"

#define RAM_SIZE   MIB(1)
#define CODE       0x8000
#define AP_CODE    0x9000 /* start-up IPI with vector 9 */
#define STARTED    0x7000 /* 32-bit counters of the guest's */
#define SUM        0x7004
#define DONE       0x7008
#define WANTED     0x700c
#define MAX_CPUS   4
#define SHARE      20000 /* locked increments of each processor */
#define PORT_END   0xf4
#define PATIENCE_S 20

/* clang-format off */
#define START(name) ".pushsection .rodata\n.code16\n.globl " #name ", " #name "_end\n" #name ":\n"
#define END(name)   #name "_end:\n.code64\n.popsection\n"
#define X2APIC_ON                                                                            \
    "movl $0x1b, %ecx\n rdmsr\n orl $0xc00, %eax\n wrmsr\n"                                  \
    "movl $0x80f, %ecx\n xorl %edx, %edx\n movl $0x1ff, %eax\n wrmsr\n"
#define IVT(vector, label) "movw $(" label " - 9b + 0x8000), " #vector " * 4\n movw $0, " #vector " * 4 + 2\n"

/* Wakes all others by INIT and start-up IPIs, does its share, waits until all have done theirs. */
__asm__(START(guest_smp) "9:\n" X2APIC_ON
        "movl $0x830, %ecx\n movl $0xc4500, %eax\n wrmsr\n movl $0xc4609, %eax\n wrmsr\n"
        "1: pause\n movl 0x700c, %eax\n cmpl 0x7000, %eax\n jne 1b\n"
        "movl $20000, %ecx\n 2: lock incl 0x7004\n decl %ecx\n jnz 2b\n lock incl 0x7008\n"
        "incl %eax\n 3: pause\n cmpl 0x7008, %eax\n jne 3b\n"
        "movb $1, %al\n outb %al, $0xf4\n 4: hlt\n jmp 4b\n" END(guest_smp));
__asm__(START(guest_ap)
        "xorw %ax, %ax\n movw %ax, %ds\n lock incl 0x7000\n"
        "movl $20000, %ecx\n 2: lock incl 0x7004\n decl %ecx\n jnz 2b\n lock incl 0x7008\n"
        "cli\n 4: hlt\n jmp 4b\n" END(guest_ap));

/* Sleeps; vector 50h is acknowledged at the APIC, 60h is the 8259's, 2 the NMI: each tells by the port. */
__asm__(START(guest_irq) "9:\n" X2APIC_ON IVT(0x50, "5f") IVT(0x60, "6f") IVT(2, "7f")
        "movl $0x835, %ecx\n movl $0x700, %eax\n wrmsr\n" /* LINT0: ExtINT */
        "movb $9, %al\n outb %al, $0xf4\n sti\n 1: hlt\n jmp 1b\n"
        "5: movl $0x80b, %ecx\n xorl %eax, %eax\n xorl %edx, %edx\n wrmsr\n movb $0x50, %al\n outb %al, $0xf4\n iretw\n"
        "6: movb $0x60, %al\n outb %al, $0xf4\n iretw\n"
        "7: movb $2, %al\n outb %al, $0xf4\n iretw\n" END(guest_irq));

/* Never ends. */
__asm__(START(guest_spin) "1: incl %eax\n jmp 1b\n" END(guest_spin));
/* A port string, and an access to no memory. */
__asm__(START(guest_io) "movw $0x7100, %si\n movw $3, %cx\n movw $0x80, %dx\n cld\n rep outsw\n"
        "movw $0xa000, %ax\n movw %ax, %es\n movl $0x12345678, %es:0x10\n movw %es:0x12, %bx\n"
        "movw %bx, 0x7200\n movb $1, %al\n outb %al, $0xf4\n" END(guest_io));
/* clang-format on */
extern const uint8_t guest_smp[], guest_smp_end[], guest_ap[], guest_ap_end[], guest_irq[], guest_irq_end[];
extern const uint8_t guest_spin[], guest_spin_end[], guest_io[], guest_io_end[];

static const struct engine_ops *const engines[] = {&engine_interp, &engine_bt, &engine_kvm};
static const struct engine_ops *ops;
static unsigned failures;
static bool skipped;

#define EXPECT(condition)                                                                                              \
    do {                                                                                                               \
        if (!(condition)) {                                                                                            \
            printf("    contract.c:%d: not so: %s\n", __LINE__, #condition);                                           \
            failures++;                                                                                                \
        }                                                                                                              \
    } while (0)

struct vm {
    struct mem *mem;
    struct vclock *clock;
    struct engine_vm *vm;
    struct engine_vcpu *vcpu[MAX_CPUS];
    unsigned cpus;
    _Atomic bool stop;
};

static struct x86_cpu *cpu_new(void)
{
    struct x86_cpu *cpu = aligned_alloc(64, ALIGN_UP(sizeof(*cpu), 64));

    if (!cpu)
        exit(2);
    memset(cpu, 0, sizeof(*cpu));
    return cpu;
}

static uint32_t *word(struct vm *vm, gpa_t gpa)
{
    return mem_pointer(vm->mem, gpa, 4);
}

/* Real mode at CODE, CS based at 0. */
static void start_at_code(struct vm *vm)
{
    struct x86_cpu *cpu = cpu_new();

    ops->get_state(vm->vcpu[0], cpu);
    cpu->seg[SEG_CS].selector = 0;
    cpu->seg[SEG_CS].base = 0;
    cpu->gpr[RSP] = 0x6000;
    cpu->rip = CODE;
    ops->set_state(vm->vcpu[0], cpu);
    free(cpu);
}

static void make(struct vm *vm, unsigned cpus, const uint8_t *code, const uint8_t *end)
{
    struct engine_config config = {.cpus = cpus};
    struct error err = {""};

    *vm = (struct vm){.mem = mem_new(), .clock = vclock_new(), .cpus = cpus};
    config.mem = vm->mem;
    config.clock = vm->clock;
    if (vm->mem && ops->maps_ram)
        mem_share_ram(vm->mem);
    if (!vm->mem || !vm->clock || mem_add_ram(vm->mem, 0, RAM_SIZE - KIB(384), &err) ||
        mem_write(vm->mem, CODE, code, (uint64_t)(end - code)) || ops->vm_create(&vm->vm, &config, &err)) {
        printf("    no VM: %s\n", err.message);
        exit(2);
    }
    for (unsigned i = 0; i < cpus; i++)
        if (ops->vcpu_create(&vm->vcpu[i], vm->vm, i, &err)) {
            printf("    no processor: %s\n", err.message);
            exit(2);
        }
    start_at_code(vm);
}

static void unmake(struct vm *vm)
{
    for (unsigned i = 0; i < vm->cpus; i++)
        ops->vcpu_destroy(vm->vcpu[i]);
    ops->vm_destroy(vm->vm);
    mem_free(vm->mem);
    vclock_free(vm->clock);
}

/* Runs vCPU 0 until an exit that is no kick, halt or the like. */
static void run_to_exit(struct vm *vm, struct exit *exit)
{
    do
        ops->run(vm->vcpu[0], exit, 0);
    while (exit->reason == EXIT_HALT || exit->reason == EXIT_INTERRUPTED || exit->reason == EXIT_BUDGET);
}

static bool is_port(const struct exit *exit, unsigned value)
{
    return exit->reason == EXIT_PIO && exit->pio.write && exit->pio.port == PORT_END && exit->pio.data == value;
}

/* --- several processors ------------------------------------------------------------------ */

struct thread {
    struct vm *vm;
    struct engine_vcpu *vcpu;
};

static void *run_others(void *opaque)
{
    struct thread *t = opaque;
    struct exit exit = {.reason = EXIT_INTERRUPTED};

    while (!atomic_load(&t->vm->stop))
        ops->run(t->vcpu, &exit, 0);
    return NULL;
}

static void test_processors(void)
{
    pthread_t threads[MAX_CPUS];
    struct thread opaque[MAX_CPUS];
    struct exit exit = {.reason = EXIT_INTERRUPTED};
    struct x86_cpu *cpu = cpu_new();
    struct vm vm;

    make(&vm, MAX_CPUS, guest_smp, guest_smp_end);
    EXPECT(!mem_write(vm.mem, AP_CODE, guest_ap, (uint64_t)(guest_ap_end - guest_ap)));
    *word(&vm, WANTED) = MAX_CPUS - 1;
    ops->get_state(vm.vcpu[1], cpu);
    EXPECT(cpu->wait_for_sipi);
    for (unsigned i = 1; i < MAX_CPUS; i++) {
        opaque[i] = (struct thread){&vm, vm.vcpu[i]};
        pthread_create(&threads[i], NULL, run_others, &opaque[i]);
    }
    run_to_exit(&vm, &exit);
    EXPECT(is_port(&exit, 1));
    EXPECT(*word(&vm, STARTED) == MAX_CPUS - 1);
    EXPECT(*word(&vm, DONE) == MAX_CPUS);
    EXPECT(*word(&vm, SUM) == MAX_CPUS * SHARE);
    usleep(20000); /* for them to halt */
    atomic_store(&vm.stop, true);
    for (unsigned i = 1; i < MAX_CPUS; i++) {
        ops->kick(vm.vcpu[i]);
        pthread_join(threads[i], NULL);
        ops->get_state(vm.vcpu[i], cpu);
        EXPECT(!cpu->wait_for_sipi);
        EXPECT(cpu->halted);
        EXPECT(cpu->lapic.id == i);
        EXPECT(cpu->seg[SEG_CS].selector == AP_CODE >> 4);
    }
    unmake(&vm);
    free(cpu);
}

/* --- interrupts ----------------------------------------------------------------------------- */

static void test_interrupts(void)
{
    const struct x86_apic_message level = {.vector = 0x50, .level = true, .assert_level = true};
    struct exit exit = {.reason = EXIT_INTERRUPTED};
    bool eoi = false, port = false;
    struct vm vm;

    make(&vm, 1, guest_irq, guest_irq_end);
    run_to_exit(&vm, &exit);
    EXPECT(is_port(&exit, 9));
    for (unsigned round = 0; round < 3; round++) {
        ops->signal(vm.vm, &level);
        eoi = port = false;
        for (unsigned i = 0; i < 2; i++) {
            run_to_exit(&vm, &exit);
            eoi |= exit.reason == EXIT_EOI && exit.eoi.vector == 0x50;
            port |= is_port(&exit, 0x50);
        }
        EXPECT(eoi && port);
    }
    ops->nmi(vm.vcpu[0]);
    run_to_exit(&vm, &exit);
    EXPECT(is_port(&exit, 2));
    for (unsigned round = 0; round < 3; round++) {
        if (!ops->ready(vm.vcpu[0])) {
            ops->request_irq_window(vm.vcpu[0]);
            run_to_exit(&vm, &exit);
            EXPECT(exit.reason == EXIT_IRQ_WINDOW);
        }
        EXPECT(ops->ready(vm.vcpu[0]));
        ops->inject(vm.vcpu[0], 0x60);
        run_to_exit(&vm, &exit);
        EXPECT(is_port(&exit, 0x60));
    }
    unmake(&vm);
}

/* A source that says the same again and again, then something else, then is one of two. */
static void test_signal_again(void)
{
    const struct x86_apic_message message = {.vector = 0x50}, other = {.vector = 0x51};
    struct exit exit = {.reason = EXIT_INTERRUPTED};
    unsigned route[2] = {0, 0};
    struct vm vm;

    skipped = !ops->signal_again;
    if (skipped)
        return;
    make(&vm, 1, guest_irq, guest_irq_end);
    run_to_exit(&vm, &exit);
    EXPECT(is_port(&exit, 9));
    *word(&vm, 0x51 * 4) = *word(&vm, 0x50 * 4); /* the same handler */
    for (unsigned round = 0; round < 6; round++) {
        ops->signal_again(vm.vm, &route[round > 3], round == 2 ? &other : &message);
        run_to_exit(&vm, &exit);
        EXPECT(is_port(&exit, 0x50));
    }
    EXPECT(!route[0] || route[0] != route[1]);
    unmake(&vm);
}

/* --- doorbells ---------------------------------------------------------------------------------- */

static unsigned rung(int fd)
{
    uint64_t times = 0;

    return read(fd, &times, sizeof(times)) == sizeof(times) ? (unsigned)times : 0;
}

/* guest_io writes four bytes to A0010h; taken away, the write is an exit again. */
static void test_doorbell(void)
{
    const int fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    struct exit exit;

    skipped = !ops->doorbell;
    for (unsigned round = 0; round < 2 && !skipped; round++) {
        struct vm vm;

        make(&vm, 1, guest_io, guest_io_end);
        EXPECT(!ops->doorbell(vm.vm, 0xa0010, fd, true));
        EXPECT(ops->doorbell(vm.vm, 0xa0010, fd, true) < 0);
        if (round)
            EXPECT(!ops->doorbell(vm.vm, 0xa0010, fd, false));
        exit = (struct exit){.reason = EXIT_INTERRUPTED};
        do
            run_to_exit(&vm, &exit);
        while (exit.reason == EXIT_PIO && exit.pio.port != PORT_END);
        EXPECT(exit.reason == EXIT_MMIO && exit.mmio.write == !!round && exit.mmio.gpa == (round ? 0xa0010 : 0xa0012));
        EXPECT(rung(fd) == !round);
        unmake(&vm);
    }
    close(fd);
}

/* --- kicks -------------------------------------------------------------------------------------- */

static void *kick_sometimes(void *opaque)
{
    struct vm *vm = opaque;

    while (!atomic_load(&vm->stop)) {
        usleep(500);
        ops->kick(vm->vcpu[0]);
    }
    return NULL;
}

static void test_kicks(void)
{
    struct exit exit = {.reason = EXIT_INTERRUPTED};
    pthread_t thread;
    struct vm vm;

    make(&vm, 1, guest_spin, guest_spin_end);
    ops->kick(vm.vcpu[0]); /* before the first run() */
    ops->run(vm.vcpu[0], &exit, 0);
    EXPECT(exit.reason == EXIT_INTERRUPTED);
    pthread_create(&thread, NULL, kick_sometimes, &vm);
    for (unsigned i = 0; i < 200; i++) {
        ops->run(vm.vcpu[0], &exit, 0);
        EXPECT(exit.reason == EXIT_INTERRUPTED);
    }
    atomic_store(&vm.stop, true);
    pthread_join(thread, NULL);
    unmake(&vm);
}

/* --- ports and MMIO -------------------------------------------------------------------------------- */

static void test_io(void)
{
    static const uint16_t sent[] = {0x1111, 0x2222, 0x3333};
    struct exit exit = {.reason = EXIT_INTERRUPTED};
    struct vm vm;

    make(&vm, 1, guest_io, guest_io_end);
    mem_write(vm.mem, 0x7100, sent, sizeof(sent));
    for (unsigned i = 0; i < 3; i++) {
        run_to_exit(&vm, &exit);
        EXPECT(exit.reason == EXIT_PIO && exit.pio.write && exit.pio.port == 0x80);
        EXPECT(exit.pio.size == 2 && exit.pio.data == sent[i]);
    }
    run_to_exit(&vm, &exit);
    EXPECT(exit.reason == EXIT_MMIO && exit.mmio.write && exit.mmio.gpa == 0xa0010);
    EXPECT(exit.mmio.size == 4 && exit.mmio.data == 0x12345678);
    run_to_exit(&vm, &exit);
    EXPECT(exit.reason == EXIT_MMIO && !exit.mmio.write && exit.mmio.gpa == 0xa0012 && exit.mmio.size == 2);
    exit.mmio.data = 0xbeef;
    run_to_exit(&vm, &exit);
    EXPECT(is_port(&exit, 1));
    EXPECT(*word(&vm, 0x7200) == 0xbeef);
    unmake(&vm);
}

/* --- state --------------------------------------------------------------------------------------------- */

/* Values that are legal, and none of them what a reset leaves. */
static void fill(struct x86_cpu *cpu)
{
    for (unsigned i = 0; i < 16; i++)
        cpu->gpr[i] = 0x0123456789abcdefull * (i + 1);
    cpu->rip = CODE;
    cpu->rflags = FLAG_FIXED | FLAG_CF | FLAG_DF;
    cpu->seg[SEG_FS] = (struct x86_segment){.base = 0x12340, .limit = 0xffff, .selector = 0x1234, .attr = 0x93};
    cpu->gdtr = (struct x86_table){.base = 0x1000, .limit = 0x7f};
    cpu->idtr = (struct x86_table){.base = 0x2000, .limit = 0x3ff};
    cpu->cr2 = 0x5555;
    cpu->cr3 = 0x3000;
    cpu->cr4 = CR4_PSE | CR4_OSFXSR;
    cpu->dr[0] = 0x4000;
    cpu->msr.star = 0x0023001000000000ull;
    cpu->msr.lstar = 0xffff800000001000ull;
    cpu->msr.sfmask = 0x47700;
    cpu->msr.kernel_gs_base = 0xffff888000000000ull;
    cpu->msr.sysenter_eip = 0x80002000; /* AMD processors keep 32 bits */
    cpu->msr.pat = 0x0606060606060606ull;
    cpu->msr.mtrr_def_type = 0xc06;
    cpu->fpu.fcw = 0x37f;
    cpu->fpu.mxcsr = 0x1fa0;
    for (unsigned i = 0; i < 16; i++)
        memset(cpu->fpu.xmm[i], (int)i + 1, 16);
    for (unsigned i = 0; i < 8; i++)
        memset(cpu->fpu.st[i], (int)i + 0x11, 10);
    cpu->lapic.svr = 0x1ff;
    cpu->lapic.tpr = 0x30;
    cpu->lapic.lvt[LVT_LINT0] = 0x700;
    cpu->lapic.lvt[LVT_TIMER] = 0x100ec;
    cpu->lapic.irr[2] = 0x10000;
    cpu->lapic.isr[3] = 0x2;
}

/* A state that is set while an access is unanswered is not touched by what that access would have done. */
static void test_state_anew(void)
{
    struct exit exit = {.reason = EXIT_INTERRUPTED};
    struct x86_cpu *cpu = cpu_new();
    struct vm vm;

    make(&vm, 1, guest_io, guest_io_end);
    for (unsigned i = 0; i < 5; i++)
        run_to_exit(&vm, &exit);
    EXPECT(exit.reason == EXIT_MMIO && !exit.mmio.write); /* mov bx, es:[12h] */
    start_at_code(&vm);
    ops->get_state(vm.vcpu[0], cpu);
    cpu->gpr[RBX] = 0x1234;
    ops->set_state(vm.vcpu[0], cpu);
    exit.reason = EXIT_INTERRUPTED;
    run_to_exit(&vm, &exit);
    EXPECT(exit.reason == EXIT_PIO && exit.pio.port == 0x80);
    ops->get_state(vm.vcpu[0], cpu);
    EXPECT(cpu->gpr[RBX] == 0x1234);
    unmake(&vm);
    free(cpu);
}

#define SAME(member) EXPECT(!memcmp(&a->member, &b->member, sizeof(a->member)))

static void test_state(void)
{
    struct x86_cpu *a = cpu_new(), *b = cpu_new();
    struct vm vm;

    make(&vm, 1, guest_spin, guest_spin_end);
    ops->get_state(vm.vcpu[0], a);
    fill(a);
    ops->set_state(vm.vcpu[0], a);
    ops->get_state(vm.vcpu[0], b);
    SAME(gpr);
    SAME(rip);
    SAME(rflags);
    for (unsigned i = 0; i < 6; i++) {
        SAME(seg[i].base);
        SAME(seg[i].limit);
        SAME(seg[i].selector);
        SAME(seg[i].attr);
    }
    SAME(gdtr.base);
    SAME(gdtr.limit);
    SAME(idtr.base);
    SAME(idtr.limit);
    SAME(cr0);
    SAME(cr2);
    SAME(cr3);
    SAME(cr4);
    SAME(dr);
    SAME(msr);
    SAME(fpu.st);
    SAME(fpu.xmm);
    SAME(fpu.fcw);
    SAME(fpu.mxcsr);
    SAME(lapic.svr);
    SAME(lapic.tpr);
    SAME(lapic.lvt);
    SAME(lapic.irr);
    SAME(lapic.isr);
    SAME(lapic.base_msr);
    SAME(halted);
    SAME(nmi_masked);
    unmake(&vm);
    free(a);
    free(b);
}

/* --- the dirty log -------------------------------------------------------------------------------------- */

static void test_dirty_log(void)
{
    struct exit exit = {.reason = EXIT_INTERRUPTED};
    uint64_t bitmap[(RAM_SIZE >> PAGE_SHIFT) / 64];
    struct vm vm;

    skipped = !ops->dirty_log;
    if (skipped)
        return;
    make(&vm, 1, guest_io, guest_io_end);
    EXPECT(engine_dirty_words(mem_slot(vm.mem, 0)) <= ARRAY_SIZE(bitmap));
    EXPECT(ops->dirty_fetch(vm.vm, 0, bitmap) < 0);
    EXPECT(!ops->dirty_log(vm.vm, true));
    for (unsigned i = 0; i < 6; i++)
        run_to_exit(&vm, &exit);
    EXPECT(is_port(&exit, 1));
    EXPECT(!ops->dirty_fetch(vm.vm, 0, bitmap));
    EXPECT(bitmap[0] & BIT(7));                     /* the word at 7200h */
    EXPECT(!(bitmap[0] & BIT(0x20)) && !bitmap[1]); /* pages that nobody touched */
    EXPECT(!ops->dirty_fetch(vm.vm, 0, bitmap));
    EXPECT(!bitmap[0]);
    EXPECT(!ops->dirty_log(vm.vm, false));
    unmake(&vm);
}

/* --- what cannot be had ---------------------------------------------------------------------------------- */

static void test_counts(void)
{
    static const unsigned counts[] = {0, 1000};
    struct mem *mem = mem_new();
    struct vclock *clock = vclock_new();

    for (unsigned i = 0; i < ARRAY_SIZE(counts); i++) {
        struct engine_config config = {.mem = mem, .clock = clock, .cpus = counts[i]};
        struct engine_vm *vm = NULL;
        struct error err = {""};

        EXPECT(ops->vm_create(&vm, &config, &err) < 0);
        EXPECT(!vm && err.message[0]);
    }
    mem_free(mem);
    vclock_free(clock);
}

static const struct {
    const char *name;
    void (*run)(void);
} tests[] = {
    {"counts", test_counts},
    {"state", test_state},
    {"state_anew", test_state_anew},
    {"io", test_io},
    {"interrupts", test_interrupts},
    {"kicks", test_kicks},
    {"dirty_log", test_dirty_log},
    {"processors", test_processors},
    {"signal_again", test_signal_again},
    {"doorbell", test_doorbell},
};

int main(int argc, char **argv)
{
    struct error err = {""};
    unsigned failed = 0, skips = 0;

    for (unsigned i = 0; i < ARRAY_SIZE(engines) && argc == 2; i++)
        if (!strcmp(engines[i]->name, argv[1]))
            ops = engines[i];
    if (!ops) {
        fprintf(stderr, "usage: engine-contract interp|bt|kvm\n");
        return 2;
    }
    if (ops->probe(&err)) {
        printf("skipped: %s does not work on this host: %s\n", ops->name, err.message);
        return 77;
    }
    alarm(PATIENCE_S * ARRAY_SIZE(tests));
    for (unsigned i = 0; i < ARRAY_SIZE(tests); i++) {
        failures = 0;
        skipped = false;
        tests[i].run();
        printf("%s %s/%s\n", failures ? "FAIL" : skipped ? "SKIP" : "PASS", ops->name, tests[i].name);
        fflush(stdout);
        failed += failures != 0;
        skips += skipped;
    }
    printf("%s: %zu passed, %u failed, %u skipped\n", ops->name, ARRAY_SIZE(tests) - failed - skips, failed, skips);
    return failed != 0;
}
