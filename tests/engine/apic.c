/*
 * apic.c: the local APIC: self-IPIs, priorities, nesting, NMI, timer; xAPIC
 * and x2APIC (SDM vol. 3 chapter 11).
 */
#include "kit/apic.h"
#include "kit/desc.h"
#include "kit/page.h"
#include "kit/regs.h"

#define PERIODIC   0x71 /* the periodic timer's vector: may be pending again at any time */
#define TRACE_SIZE 32
#define PATIENCE   10000000000ull /* TSC ticks to wait for what takes far less */
#define A_WHILE    50000000ull    /* TSC ticks in which what must not come would have come */

/* What the handlers saw: vectors in order of entry. */
static volatile unsigned trace_count;
static volatile word trace[TRACE_SIZE];

static void note(word value)
{
    if (trace_count < TRACE_SIZE)
        trace[trace_count] = value;
    trace_count++;
}

static void on_interrupt(struct context *c)
{
    note(c->vector);
    EXPECT(apic_bit(APIC_ISR, (unsigned)c->vector));
    EXPECT(!apic_bit(APIC_IRR, (unsigned)c->vector) || c->vector == PERIODIC);
    apic_eoi();
    EXPECT(!apic_bit(APIC_ISR, (unsigned)c->vector));
}

static void open_window(void)
{
    asm volatile("sti\n nop\n nop\n cli" : : : "memory");
}

static void handle(unsigned first, unsigned last, handler_fn *fn)
{
    for (unsigned v = first; v <= last; v++)
        handlers[v] = fn;
}

/* Lets interrupts in until the counter has the value, or the time is up. */
static bool counted(volatile unsigned *counter, unsigned value, uint64_t ticks)
{
    uint64_t start = rdtsc();

    do
        open_window();
    while (*counter < value && rdtsc() - start < ticks);
    return *counter >= value;
}

static bool wait_for(volatile unsigned *counter, unsigned value)
{
    return counted(counter, value, PATIENCE);
}

static bool none_beyond(volatile unsigned *counter, unsigned value)
{
    return !counted(counter, value + 1, A_WHILE);
}

/* --- the same in xAPIC and x2APIC mode ------------------------------------------------------- */

static void self_ipi(void)
{
    handle(0x20, 0xfe, on_interrupt);
    for (unsigned v = 0x20; v < 0xff; v += 13) {
        trace_count = 0;
        apic_self(v);
        EXPECT(apic_bit(APIC_IRR, v));
        EXPECT(!apic_bit(APIC_ISR, v));
        EXPECT_EQ(trace_count, 0);
        open_window();
        EXPECT_EQ(trace_count, 1);
        EXPECT_EQ(trace[0], v);
        EXPECT(!apic_bit(APIC_TMR, v)); /* edge */
    }
    /* Two of the same vector while it is pending are one. */
    trace_count = 0;
    apic_self(0x41);
    apic_self(0x41);
    open_window();
    EXPECT_EQ(trace_count, 1);
}

/* Highest vector first, whatever the order of arrival. */
static void order(void)
{
    static const uint8_t sent[] = {0x51, 0x33, 0xe1, 0x52, 0x90};
    static const uint8_t wanted[] = {0xe1, 0x90, 0x52, 0x51, 0x33};

    handle(0x20, 0xfe, on_interrupt);
    trace_count = 0;
    for (unsigned i = 0; i < sizeof sent; i++)
        apic_self(sent[i]);
    open_window();
    EXPECT_EQ(trace_count, sizeof wanted);
    for (unsigned i = 0; i < sizeof wanted; i++)
        EXPECT_EQ(trace[i], wanted[i]);
}

/* A handler that lets interrupts in gets those of a higher class only, and the rest after its EOI. */
static void on_outer(struct context *c)
{
    note(c->vector);
    apic_self(0x5f); /* same class: waits */
    apic_self(0x42); /* lower: waits */
    apic_self(0x61); /* higher: nested */
    EXPECT_EQ(apic_read(APIC_PPR), 0x50);
    open_window();
    note(0x1000);
    apic_eoi();
    EXPECT_EQ(apic_read(APIC_PPR), 0);
    open_window();
    note(0x2000);
}

static void on_inner(struct context *c)
{
    note(c->vector);
    if (c->vector == 0x61) {
        EXPECT(apic_bit(APIC_ISR, 0x50));
        EXPECT(apic_bit(APIC_ISR, 0x61));
        EXPECT_EQ(apic_read(APIC_PPR), 0x60);
    }
    /* EOI ends the highest in service: this one. */
    apic_eoi();
    EXPECT(!apic_bit(APIC_ISR, (unsigned)c->vector));
    EXPECT(c->vector != 0x61 || apic_bit(APIC_ISR, 0x50));
}

static void nesting(void)
{
    static const word wanted[] = {0x50, 0x61, 0x1000, 0x5f, 0x42, 0x2000};

    handle(0x20, 0xfe, on_inner);
    handlers[0x50] = on_outer;
    trace_count = 0;
    apic_self(0x50);
    open_window();
    EXPECT_EQ(trace_count, 6);
    for (unsigned i = 0; i < 6; i++)
        EXPECT_EQ(trace[i], wanted[i]);
}

/* The task priority holds back its class and those below. */
static void priority(void)
{
    handle(0x20, 0xfe, on_interrupt);
    trace_count = 0;
    apic_write(APIC_TPR, 0x58);
    EXPECT_EQ(apic_read(APIC_PPR), 0x58);
    apic_self(0x5f);
    open_window();
    EXPECT_EQ(trace_count, 0);
    EXPECT(apic_bit(APIC_IRR, 0x5f));
    apic_self(0x60);
    open_window();
    EXPECT_EQ(trace_count, 1);
    EXPECT_EQ(trace[0], 0x60);
    apic_write(APIC_TPR, 0x4f);
    open_window();
    EXPECT_EQ(trace_count, 2);
    EXPECT_EQ(trace[1], 0x5f);
    apic_write(APIC_TPR, 0);
}

/* A one-shot timer fires once. */
static void one_shot(void)
{
    handle(0x20, 0xfe, on_interrupt);
    trace_count = 0;
    apic_write(APIC_TIMER_DIVIDE, 0xb);
    apic_write(APIC_LVT_TIMER, 0x70);
    EXPECT_EQ(apic_read(APIC_TIMER_CURRENT), 0);
    apic_write(APIC_TIMER_INITIAL, 1000000000);
    EXPECT_EQ(apic_read(APIC_TIMER_INITIAL), 1000000000);
    EXPECT(apic_read(APIC_TIMER_CURRENT) > 100000000); /* counts down */
    EXPECT(apic_read(APIC_TIMER_CURRENT) <= 1000000000);
    apic_write(APIC_TIMER_INITIAL, 0); /* stops */
    EXPECT_EQ(apic_read(APIC_TIMER_CURRENT), 0);
    open_window();
    EXPECT_EQ(trace_count, 0);
    apic_write(APIC_TIMER_INITIAL, 50000);
    EXPECT(wait_for(&trace_count, 1));
    EXPECT_EQ(trace[0], 0x70);
    EXPECT(none_beyond(&trace_count, 1));
    EXPECT_EQ(apic_read(APIC_TIMER_CURRENT), 0);
    /* Masked: the count runs, the interrupt is lost. */
    apic_write(APIC_LVT_TIMER, 0x70 | LVT_MASKED);
    apic_write(APIC_TIMER_INITIAL, 1000);
    for (uint64_t start = rdtsc(); apic_read(APIC_TIMER_CURRENT) && rdtsc() - start < PATIENCE;)
        continue;
    EXPECT_EQ(apic_read(APIC_TIMER_CURRENT), 0);
    apic_write(APIC_LVT_TIMER, 0x70);
    open_window();
    EXPECT_EQ(trace_count, 1);
}

static void periodic(void)
{
    handle(0x20, 0xfe, on_interrupt);
    trace_count = 0;
    apic_write(APIC_TIMER_DIVIDE, 0); /* by 2 */
    apic_write(APIC_LVT_TIMER, PERIODIC | LVT_PERIODIC);
    apic_write(APIC_TIMER_INITIAL, 50000);
    EXPECT(wait_for(&trace_count, 5));
    for (unsigned i = 0; i < 5; i++)
        EXPECT_EQ(trace[i], PERIODIC);
    apic_write(APIC_LVT_TIMER, PERIODIC | LVT_PERIODIC | LVT_MASKED);
    open_window(); /* what is pending may still come */
    trace_count = 0;
    EXPECT(none_beyond(&trace_count, 0));
    apic_write(APIC_TIMER_INITIAL, 0);
}

static void x2_init(void)
{
    NEED_X2APIC();
    apic_init();
    apic_x2_on();
}

TEST(apic_self_ipi)
{
    apic_init();
    self_ipi();
}

TEST(x2apic_self_ipi)
{
    x2_init();
    self_ipi();
}

TEST(apic_order)
{
    apic_init();
    order();
}

TEST(x2apic_order)
{
    x2_init();
    order();
}

TEST(apic_nesting)
{
    apic_init();
    nesting();
}

TEST(x2apic_nesting)
{
    x2_init();
    nesting();
}

TEST(apic_priority)
{
    apic_init();
    priority();
}

TEST(x2apic_priority)
{
    x2_init();
    priority();
}

TEST(apic_timer_one_shot)
{
    apic_init();
    one_shot();
}

TEST(x2apic_timer_one_shot)
{
    x2_init();
    one_shot();
}

TEST(apic_timer_periodic)
{
    apic_init();
    periodic();
}

TEST(x2apic_timer_periodic)
{
    x2_init();
    periodic();
}

/* --- NMI -------------------------------------------------------------------------------------------- */

static volatile unsigned nmis, nmi_depth, nmi_worst;

/* Another NMI while one is handled waits for the IRET; of several, one is kept (SDM vol. 3, 6.7.1). */
static void on_nmi(struct context *c)
{
    nmis++;
    nmi_depth++;
    if (nmi_depth > nmi_worst)
        nmi_worst = nmi_depth;
    if (nmis == 1) {
        apic_nmi();
        apic_nmi();
        apic_nmi();
        for (unsigned i = 0; i < 100; i++)
            asm volatile("pause");
        EXPECT_EQ(nmis, 1);
    }
    nmi_depth--;
}

static void nmi(void)
{
    handlers[NMI] = on_nmi;
    apic_nmi(); /* whatever IF is */
    wait_for(&nmis, 2);
    EXPECT_EQ(nmis, 2);
    EXPECT_EQ(nmi_worst, 1);
    apic_nmi();
    wait_for(&nmis, 3);
    EXPECT_EQ(nmis, 3);
}

TEST(apic_nmi)
{
    apic_init();
    nmi();
}

TEST(x2apic_nmi)
{
    x2_init();
    nmi();
}

/* An NMI handler that is left by a fault's IRET is open again: any IRET unmasks. */
static void on_nmi_with_fault(struct context *c)
{
    nmis++;
    if (nmis > 1)
        return;
    apic_nmi();
    EXPECT_EQ(nmis, 1);
    TRY("ud2", : : : "memory");
    EXPECT_TRAP(UD);
    wait_for(&nmis, 2);
    EXPECT_EQ(nmis, 2);
}

TEST(apic_nmi_iret_of_fault)
{
    apic_init();
    handlers[NMI] = on_nmi_with_fault;
    apic_nmi();
    wait_for(&nmis, 2);
    EXPECT_EQ(nmis, 2);
}

/* --- registers ------------------------------------------------------------------------------------------ */

TEST(apic_registers)
{
    apic_init();
    EXPECT(apic_read(APIC_VERSION) >> 16 >= 5); /* at least six LVT entries */
    EXPECT((apic_read(APIC_VERSION) & 0xf0) == 0x10);
    EXPECT_EQ(apic_read(APIC_ID) >> 24, 0);
    EXPECT(rdmsr(MSR_APIC_BASE) & 0x100); /* the boot processor */
    /* LVTs keep their vectors, and are masked while the APIC is disabled by software. */
    apic_write(APIC_LVT_ERROR, 0x33);
    EXPECT_EQ(apic_read(APIC_LVT_ERROR), 0x33);
    apic_write(APIC_SVR, 0xff);
    EXPECT_EQ(apic_read(APIC_LVT_ERROR), 0x33 | LVT_MASKED);
    apic_write(APIC_LVT_ERROR, 0x34);
    EXPECT_EQ(apic_read(APIC_LVT_ERROR), 0x34 | LVT_MASKED);
    apic_write(APIC_SVR, 0x1ff);
    EXPECT_EQ(apic_read(APIC_LVT_ERROR), 0x34 | LVT_MASKED);
    /* Logical destination. */
    apic_write(APIC_DFR, 0xffffffff);
    apic_write(APIC_LDR, 0x02000000);
    EXPECT_EQ(apic_read(APIC_LDR), 0x02000000);
    EXPECT_EQ(apic_read(APIC_DFR), 0xffffffff);
}

/* IPIs by ID and by logical destination reach the sender too. */
TEST(apic_destinations)
{
    apic_init();
    handle(0x20, 0xfe, on_interrupt);
    trace_count = 0;
    apic_write(APIC_ICR2, 0); /* physical, ID 0 */
    apic_write(APIC_ICR, ICR_ASSERT | 0x44);
    open_window();
    EXPECT_EQ(trace_count, 1);
    apic_write(APIC_DFR, 0xffffffff);
    apic_write(APIC_LDR, 0x04000000);
    apic_write(APIC_ICR2, 0x04000000);
    apic_write(APIC_ICR, ICR_ASSERT | 0x800 | 0x45); /* logical */
    open_window();
    EXPECT_EQ(trace_count, 2);
    apic_write(APIC_ICR2, 0x03000000);
    apic_write(APIC_ICR, ICR_ASSERT | 0x800 | 0x46); /* not us */
    open_window();
    EXPECT_EQ(trace_count, 2);
    apic_write(APIC_ICR, ICR_ASSERT | 0x80000 | 0x47); /* all */
    open_window();
    EXPECT_EQ(trace_count, 3);
    apic_write(APIC_ICR, ICR_ASSERT | 0xc0000 | 0x48); /* all but self */
    open_window();
    EXPECT_EQ(trace_count, 3);
}

/* Vectors below 16 are illegal: an error, no interrupt (SDM vol. 3, 11.5.3). */
TEST(apic_illegal_vector)
{
    apic_init();
    handle(0x10, 0xfe, on_interrupt);
    trace_count = 0;
    apic_write(APIC_LVT_ERROR, 0x3e);
    apic_write(APIC_ESR, 0);
    apic_write(APIC_ICR, ICR_SELF | ICR_ASSERT | 5);
    EXPECT(!apic_bit(APIC_IRR, 5));
    open_window();
    apic_write(APIC_ESR, 0);
    EXPECT(apic_read(APIC_ESR) & 0x60); /* send or receive illegal vector */
    EXPECT_EQ(trace_count, 1);
    EXPECT_EQ(trace[0], 0x3e);
    apic_write(APIC_ESR, 0);
    EXPECT_EQ(apic_read(APIC_ESR), 0);
}

TEST(x2apic_registers)
{
    x2_init();
    EXPECT_EQ(apic_read(APIC_ID), 0);
    EXPECT_EQ(apic_read(APIC_LDR), 1); /* cluster 0, bit 0: derived from the ID */
    apic_write(APIC_TPR, 0x30);
    EXPECT_EQ(apic_read(APIC_TPR), 0x30);
    apic_write(APIC_TPR, 0);
    /* What is not there, or not to be read or written. */
    TRY("wrmsr", : : "c"(MSR_X2APIC + APIC_DFR / 16), "a"(0), "d"(0));
    EXPECT_TRAP_ERROR(GP, 0);
    TRY("rdmsr", : : "c"(MSR_X2APIC + APIC_DFR / 16) : "eax", "edx");
    EXPECT_TRAP_ERROR(GP, 0);
    TRY("rdmsr", : : "c"(MSR_X2APIC + APIC_EOI / 16) : "eax", "edx");
    EXPECT_TRAP_ERROR(GP, 0);
    TRY("wrmsr", : : "c"(MSR_X2APIC + APIC_EOI / 16), "a"(1), "d"(0));
    EXPECT_TRAP_ERROR(GP, 0);
    TRY("wrmsr", : : "c"(MSR_X2APIC + APIC_ID / 16), "a"(1), "d"(0));
    EXPECT_TRAP_ERROR(GP, 0);
    TRY("wrmsr", : : "c"(MSR_X2APIC + APIC_TPR / 16), "a"(0x100), "d"(0));
    EXPECT_TRAP_ERROR(GP, 0);
    TRY("rdmsr", : : "c"(MSR_X2APIC + APIC_ICR2 / 16) : "eax", "edx");
    EXPECT_TRAP_ERROR(GP, 0);
    /* ICR is one register of 64 bits. */
    handle(0x20, 0xfe, on_interrupt);
    trace_count = 0;
    wrmsr(MSR_X2APIC + APIC_ICR / 16, ICR_ASSERT | 0x55);
    open_window();
    EXPECT_EQ(trace_count, 1);
    wrmsr(MSR_X2APIC + APIC_SELF_IPI / 16, 0x56);
    open_window();
    EXPECT_EQ(trace_count, 2);
    EXPECT_EQ(trace[1], 0x56);
}

/* Allowed ways between the modes (SDM vol. 3, 11.12.5). */
TEST(x2apic_transitions)
{
    x2_init();
    TRY("wrmsr", : : "c"(MSR_APIC_BASE), "a"(LAPIC_BASE | 0x900), "d"(0)); /* to xAPIC: not directly */
    EXPECT_TRAP_ERROR(GP, 0);
    TRY("wrmsr", : : "c"(MSR_APIC_BASE), "a"(LAPIC_BASE | 0x500), "d"(0)); /* x2APIC, but disabled: never */
    EXPECT_TRAP_ERROR(GP, 0);
    wrmsr(MSR_APIC_BASE, LAPIC_BASE | 0x100);
    TRY("rdmsr", : : "c"(MSR_X2APIC + APIC_ID / 16) : "eax", "edx");
    EXPECT_TRAP_ERROR(GP, 0);
    EXPECT(!cpu_has(1, 0, 3, 9));                                          /* CPUID says there is no APIC */
    TRY("wrmsr", : : "c"(MSR_APIC_BASE), "a"(LAPIC_BASE | 0xd00), "d"(0)); /* from disabled: not directly */
    EXPECT_TRAP_ERROR(GP, 0);
    wrmsr(MSR_APIC_BASE, LAPIC_BASE | 0x900);
    EXPECT(cpu_has(1, 0, 3, 9));
    apic_x2 = false;
    apic_init();
    EXPECT_EQ(apic_read(APIC_ID), 0);
}

/* --- TSC deadline ------------------------------------------------------------------------------------------- */

TEST(apic_timer_deadline)
{
    uint64_t deadline;

    NEED_DEADLINE();
    apic_init();
    handle(0x20, 0xfe, on_interrupt);
    wrmsr(MSR_TSC_DEADLINE, rdtsc() + 1000000); /* not in this mode: ignored */
    EXPECT_EQ(rdmsr(MSR_TSC_DEADLINE), 0);
    apic_write(APIC_LVT_TIMER, 0x72 | LVT_DEADLINE);
    asm volatile("mfence");
    deadline = rdtsc() + 1000000;
    wrmsr(MSR_TSC_DEADLINE, deadline);
    EXPECT(wait_for(&trace_count, 1));
    EXPECT(rdtsc() >= deadline);
    EXPECT_EQ(trace[0], 0x72);
    EXPECT_EQ(rdmsr(MSR_TSC_DEADLINE), 0);
    EXPECT(none_beyond(&trace_count, 1));
    /* In the past: at once. */
    wrmsr(MSR_TSC_DEADLINE, 1);
    EXPECT(wait_for(&trace_count, 2));
    /* 0 disarms, and so does leaving the mode. */
    wrmsr(MSR_TSC_DEADLINE, ~0ull >> 1);
    EXPECT_EQ(rdmsr(MSR_TSC_DEADLINE), ~0ull >> 1);
    wrmsr(MSR_TSC_DEADLINE, 0);
    wrmsr(MSR_TSC_DEADLINE, rdtsc() + 100000000000ull);
    apic_write(APIC_LVT_TIMER, 0x72);
    EXPECT_EQ(rdmsr(MSR_TSC_DEADLINE), 0);
    /* The count register does nothing in deadline mode. */
    apic_write(APIC_LVT_TIMER, 0x72 | LVT_DEADLINE);
    apic_write(APIC_TIMER_INITIAL, 1000);
    EXPECT(none_beyond(&trace_count, 2));
}

#ifdef __x86_64__
/* CR8 is the upper half of the task priority. */
TEST(apic_cr8)
{
    apic_init();
    handle(0x20, 0xfe, on_interrupt);
    write_cr8(9);
    EXPECT_EQ(apic_read(APIC_TPR), 0x90);
    apic_write(APIC_TPR, 0x35);
    EXPECT_EQ(read_cr8(), 3);
    write_cr8(15);
    apic_self(0xe0);
    open_window();
    EXPECT_EQ(trace_count, 0);
    write_cr8(14);
    open_window();
    EXPECT_EQ(trace_count, 0);
    /* Lowering it with IF = 1 lets the interrupt in at the next instruction. */
    asm volatile("sti\n nop" : : : "memory");
    write_cr8(13);
    asm volatile("nop");
    EXPECT_EQ(trace_count, 1);
    asm volatile("cli" : : : "memory");
    TRY("mov %0, %%cr8", : : "r"(16ul));
    EXPECT_TRAP_ERROR(GP, 0);
    EXPECT_EQ(read_cr8(), 13);
}
#endif
