/* smp.c: the other processors. */
#include "kit/smp.h"
#include "kit/apic.h"
#include "kit/page.h"
#include "kit/regs.h"

#define TRAMPOLINE 0x8000ul /* start-up IPI with vector 8 */
#define STACK_SIZE 0x4000ul
#define ICR_INIT   0x500
#define ICR_START  0x600
#define ALL_OTHERS 0xc0000

unsigned smp_count = 1;
uint32_t smp_apic_id[SMP_MAX];

static volatile unsigned started, running;
static unsigned job_count;
static void (*volatile job)(unsigned cpu);
static volatile unsigned job_number, barrier_count, barrier_round;

/* What the trampoline is told, by its end. */
struct parameters {
    uint32_t cr0, cr3, cr4, efer;
    uint16_t pad, gdt_limit;
    uint32_t gdt;
    uint16_t pad2, idt_limit;
    uint32_t idt;
} __attribute__((packed));

char smp_stacks[SMP_MAX * STACK_SIZE] __attribute__((aligned(16)));
unsigned smp_next = 1;
void smp_main(unsigned cpu) __attribute__((noreturn));
void turn_paging_on(unsigned cpu);

/* clang-format off */
#define P(offset) "smp_parameters - smp_trampoline + 0x8000 + " #offset
asm(".pushsection .text\n.code16\n.balign 16\nsmp_trampoline:\n"
    "cli\n xorw %ax, %ax\n movw %ax, %ds\n"
    "lgdtl " P(18) "\n lidtl " P(26) "\n"
    "movl " P(8) ", %eax\n movl %eax, %cr4\n"
    "movl " P(4) ", %eax\n movl %eax, %cr3\n"
    "movl $0xc0000080, %ecx\n movl " P(12) ", %eax\n xorl %edx, %edx\n wrmsr\n"
    "movl " P(0) ", %eax\n movl %eax, %cr0\n"
    "ljmpl $8, $smp_go\n"
    ".balign 8\nsmp_parameters: .fill 32, 1, 0\nsmp_trampoline_end:\n"
    CODE_RESET
    "smp_go: mov $0x10, %eax\n mov %eax, %ds\n mov %eax, %es\n mov %eax, %ss\n"
    "xor %eax, %eax\n mov %eax, %fs\n mov %eax, %gs\n"
    "mov $1, %edi\n lock xadd %edi, smp_next\n"
    "mov %edi, %eax\n inc %eax\n shl $14, %eax\n add $smp_stacks - 16, %eax\n mov " AX ", " SP "\n"
#ifdef __x86_64__
    "call smp_main\n"
#else
    "push %edi\n call turn_paging_on\n mov %edi, (%esp)\n call smp_main\n"
#endif
    ".popsection");
/* clang-format on */
extern const char smp_trampoline[], smp_trampoline_end[], smp_parameters[];

static void on_wake(struct context *c)
{
    apic_eoi();
}

static void enable_apic(void)
{
    wrmsr(MSR_APIC_BASE, LAPIC_BASE | 0x800 | (rdmsr(MSR_APIC_BASE) & 0x500));
    if (apic_x2 && !(rdmsr(MSR_APIC_BASE) & 0x400))
        wrmsr(MSR_APIC_BASE, rdmsr(MSR_APIC_BASE) | 0x400);
    apic_write(APIC_SVR, 0x1ff);
    apic_write(APIC_TPR, 0);
}

static uint32_t own_id(void)
{
    uint32_t regs[4];

    cpuid(1, 0, regs);
    return regs[1] >> 24;
}

#ifndef __x86_64__
static uint32_t paging; /* CR0, if it has PG */

/* With PAE each has PDPTEs of its own: a processor loads them here, and those that another uses may not be right for
 * that: QEMU 7.2 sets "accessed" in them, which is reserved (tests/kvm/pdpte.c). */
void turn_paging_on(unsigned cpu)
{
    static uint64_t pdpt[SMP_MAX][4] __attribute__((aligned(32)));

    if (!paging)
        return;
    if (read_cr4() & CR4_PAE) {
        for (unsigned i = 0; i < 4; i++)
            pdpt[cpu][i] = ((const uint64_t *)read_cr3())[i] & ~PTE_A;
        write_cr3((word)pdpt[cpu]);
    }
    write_cr0(paging);
}
#endif

/* Sleeps between jobs. HLT after STI: a wake-up that comes meanwhile is not lost. */
void smp_main(unsigned cpu)
{
    unsigned seen = 0;

    enable_apic();
    smp_apic_id[cpu] = own_id();
    __atomic_fetch_add(&started, 1, __ATOMIC_SEQ_CST);
    for (;;) {
        asm volatile("cli" : : : "memory");
        if (job_number == seen) {
            asm volatile("sti\n hlt" : : : "memory");
            continue;
        }
        seen = job_number;
        if (cpu < job_count)
            job(cpu);
        __atomic_fetch_sub(&running, 1, __ATOMIC_SEQ_CST);
    }
}

unsigned smp_self(void)
{
    const uint32_t id = own_id();

    for (unsigned i = 0; i < smp_count; i++)
        if (smp_apic_id[i] == id)
            return i;
    return 0;
}

void smp_ipi(uint32_t apic_id, uint32_t icr)
{
    if (apic_x2) {
        wrmsr(MSR_X2APIC + APIC_ICR / 16, (uint64_t)apic_id << 32 | icr);
        return;
    }
    apic_write(APIC_ICR2, apic_id << 24);
    apic_write(APIC_ICR, icr);
}

static void fill_parameters(void)
{
    struct {
        uint16_t limit;
        word base;
    } __attribute__((packed)) gdtr, idtr;
    struct parameters p = {.cr0 = (uint32_t)read_cr0(), .cr3 = (uint32_t)read_cr3(), .cr4 = (uint32_t)read_cr4()};

#ifndef __x86_64__
    paging = p.cr0 & CR0_PG ? p.cr0 : 0;
    p.cr0 &= ~(uint32_t)CR0_PG;
#endif
    asm volatile("sgdt %0\n sidt %1" : "=m"(gdtr), "=m"(idtr));
    p.efer = (uint32_t)rdmsr(MSR_EFER) & ~EFER_LMA;
    p.gdt_limit = gdtr.limit;
    p.gdt = (uint32_t)gdtr.base;
    p.idt_limit = idtr.limit;
    p.idt = (uint32_t)idtr.base;
    memcpy((void *)TRAMPOLINE, smp_trampoline, (size_t)(smp_trampoline_end - smp_trampoline));
    memcpy((void *)(TRAMPOLINE + (word)(smp_parameters - smp_trampoline)), &p, sizeof p);
}

void smp_start(unsigned wanted)
{
    uint32_t regs[4];
    unsigned have;

    cpuid(1, 0, regs);
    have = regs[1] >> 16 & 0xff;
    if (!(regs[3] >> 28 & 1) || have < wanted)
        skip("needs several processors");
    if (have > SMP_MAX)
        have = SMP_MAX;
    handlers[SMP_WAKE] = on_wake;
    smp_apic_id[0] = own_id();
    enable_apic();
    fill_parameters();
    smp_ipi(0, ALL_OTHERS | ICR_ASSERT | ICR_INIT);
    smp_ipi(0, ALL_OTHERS | ICR_ASSERT | ICR_START | TRAMPOLINE >> 12);
    SMP_WAIT(started == have - 1);
    smp_count = have;
}

void smp_run(unsigned count, void (*fn)(unsigned cpu))
{
    job = fn;
    job_count = count;
    running = smp_count - 1;
    barrier_count = 0;
    __atomic_fetch_add(&job_number, 1, __ATOMIC_SEQ_CST);
    smp_ipi(0, ALL_OTHERS | ICR_ASSERT | SMP_WAKE);
    fn(0);
    SMP_WAIT(running == 0);
}

void smp_barrier(void)
{
    const unsigned round = barrier_round;

    if (__atomic_add_fetch(&barrier_count, 1, __ATOMIC_SEQ_CST) == job_count) {
        barrier_count = 0;
        __atomic_fetch_add(&barrier_round, 1, __ATOMIC_SEQ_CST);
        return;
    }
    while (SMP_LOAD(barrier_round) == round)
        smp_relax();
}
