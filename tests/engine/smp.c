/*
 * smp.c: several processors: how they are started and stopped, and every kind
 * of message between them (SDM vol. 3, 9.4 and 11.6).
 */
#include "kit/smp.h"
#include "kit/apic.h"
#include "kit/page.h"
#include "kit/regs.h"

#define VECTOR 0x41
#define ROUNDS 2000

static volatile unsigned taken[SMP_MAX], nmis[SMP_MAX];
static volatile unsigned stop;

static void on_vector(struct context *c)
{
    __atomic_fetch_add(&taken[smp_self()], 1, __ATOMIC_SEQ_CST);
    apic_eoi();
}

static void on_nmi(struct context *c)
{
    __atomic_fetch_add(&nmis[smp_self()], 1, __ATOMIC_SEQ_CST);
}

static void begin(unsigned wanted)
{
    apic_init();
    handlers[VECTOR] = on_vector;
    handlers[NMI] = on_nmi;
    smp_start(wanted);
}

static void begin_x2(unsigned wanted)
{
    NEED_X2APIC();
    apic_init();
    apic_x2_on();
    handlers[VECTOR] = on_vector;
    handlers[NMI] = on_nmi;
    smp_start(wanted);
}

/* --- start ------------------------------------------------------------------------------ */

static unsigned sum;

static void count_up(unsigned cpu)
{
    smp_barrier();
    for (unsigned i = 0; i < 10 * ROUNDS; i++)
        asm volatile("lock incl %0" : "+m"(sum) : : "memory");
}

TEST(smp_start)
{
    begin(2);
    for (unsigned i = 0; i < smp_count; i++)
        for (unsigned n = 0; n < i; n++)
            EXPECT(smp_apic_id[i] != smp_apic_id[n]);
    for (unsigned i = 1; i <= 3; i++) {
        smp_run(smp_count, count_up);
        EXPECT_EQ(sum, i * smp_count * 10 * ROUNDS);
    }
}

static volatile unsigned alive[SMP_MAX];

static void live(unsigned cpu)
{
    while (!stop)
        alive[cpu]++;
}

/* For long enough that it is not just somebody else's turn on a crowded host. */
static bool stands_still(unsigned cpu)
{
    unsigned before = alive[cpu];
    const uint64_t start = rdtsc();

    while (rdtsc() - start < 300000000 && alive[cpu] == before)
        smp_relax();
    return alive[cpu] == before;
}

extern char smp_stacks[];
extern unsigned smp_next;

/* INIT in the middle of a loop; a start-up IPI to a running processor does nothing; after INIT it starts anew. */
static void init_one(unsigned cpu)
{
    if (cpu) {
        live(cpu);
        return;
    }
    SMP_WAIT(alive[1] > 1000);
    smp_ipi(smp_apic_id[1], ICR_ASSERT | 0x600 | 8);
    EXPECT(SMP_WAIT(!stands_still(1)));
    smp_ipi(smp_apic_id[1], ICR_ASSERT | 0x500);
    EXPECT(SMP_WAIT(stands_still(1)));
    smp_ipi(smp_apic_id[1], ICR_ASSERT | VECTOR); /* to nobody: its APIC is off */
    EXPECT(stands_still(1));
    smp_next = 1;
    smp_ipi(smp_apic_id[1], ICR_ASSERT | 0x600 | 8); /* finds the job again, as its smp_main() begins anew */
    EXPECT(SMP_WAIT(!stands_still(1)));
    EXPECT_EQ(taken[1], 0);
    stop = 1;
}

TEST(smp_init_running)
{
    begin(2);
    smp_run(2, init_one);
}

/* --- messages ------------------------------------------------------------------------------ */

static void expect_taken(unsigned cpu, unsigned count)
{
    SMP_WAIT(taken[cpu] >= count);
    EXPECT_EQ(taken[cpu], count);
}

/* Sleeps, and takes what comes, until told to stop. */
static void doze(void)
{
    while (!stop) {
        asm volatile("cli" : : : "memory");
        if (!stop)
            asm volatile("sti\n hlt\n cli" : : : "memory");
    }
}

static void wake_all(void)
{
    stop = 1;
    smp_ipi(0, 0xc0000 | ICR_ASSERT | SMP_WAKE);
}

static void messages(unsigned cpu)
{
    unsigned expected[SMP_MAX] = {0};

    if (cpu) {
        doze();
        return;
    }
    asm volatile("sti");
    for (unsigned round = 0; round < 50; round++) {
        for (unsigned i = 0; i < smp_count; i++) {
            smp_ipi(smp_apic_id[i], ICR_ASSERT | VECTOR); /* physical */
            expect_taken(i, ++expected[i]);
        }
        smp_ipi(0, 0xc0000 | ICR_ASSERT | VECTOR); /* all but self */
        for (unsigned i = 1; i < smp_count; i++)
            expect_taken(i, ++expected[i]);
        smp_ipi(0, 0x80000 | ICR_ASSERT | VECTOR); /* all */
        for (unsigned i = 0; i < smp_count; i++)
            expect_taken(i, ++expected[i]);
        smp_ipi(0, 0x40000 | ICR_ASSERT | VECTOR); /* self */
        expect_taken(0, ++expected[0]);
        smp_ipi(apic_x2 ? 0xffffffff : 0xff, ICR_ASSERT | VECTOR); /* broadcast */
        for (unsigned i = 0; i < smp_count; i++)
            expect_taken(i, ++expected[i]);
    }
    asm volatile("cli");
    for (unsigned i = 0; i < smp_count; i++)
        EXPECT_EQ(taken[i], expected[i]);
    wake_all();
}

TEST(smp_messages)
{
    begin(2);
    smp_run(smp_count, messages);
}

TEST(smp_messages_x2apic)
{
    begin_x2(2);
    smp_run(smp_count, messages);
}

/* Each processor has its bit (flat model), or its place in the cluster of 16 (x2APIC: made from the ID). */
static void logical(unsigned cpu)
{
    if (!apic_x2) {
        apic_write(APIC_DFR, ~0u);
        apic_write(APIC_LDR, 1u << (24 + cpu));
    }
    smp_barrier();
    if (cpu) {
        doze();
        return;
    }
    asm volatile("sti");
    for (unsigned set = 1; set < 1u << smp_count; set++) {
        unsigned before[SMP_MAX];
        uint32_t destination = 0;

        for (unsigned i = 0; i < smp_count; i++) {
            before[i] = taken[i];
            if (set >> i & 1)
                destination |= apic_x2 ? 1u << (smp_apic_id[i] & 15) : 1u << i;
        }
        smp_ipi(destination, ICR_ASSERT | 0x800 | VECTOR);
        for (unsigned i = 0; i < smp_count; i++)
            expect_taken(i, before[i] + (set >> i & 1));
    }
    asm volatile("cli");
    wake_all();
}

TEST(smp_logical)
{
    begin(2);
    smp_run(smp_count, logical);
}

TEST(smp_logical_x2apic)
{
    begin_x2(2);
    smp_run(smp_count, logical);
}

/* NMIs reach those that run, and those that sleep with interrupts off. */
static void nmi(unsigned cpu)
{
    if (cpu == 1) {
        live(cpu);
    } else if (cpu) {
        while (!stop)
            asm volatile("cli\n hlt" : : : "memory");
    } else {
        for (unsigned round = 1; round <= 100; round++) {
            for (unsigned i = 1; i < smp_count; i++) {
                smp_ipi(smp_apic_id[i], ICR_ASSERT | ICR_NMI);
                SMP_WAIT(nmis[i] >= round);
                EXPECT_EQ(nmis[i], round);
            }
        }
        stop = 1;
        smp_ipi(0, 0xc0000 | ICR_ASSERT | ICR_NMI);
    }
}

TEST(smp_nmi)
{
    begin(3);
    smp_run(3, nmi);
}

/* Each wakes the next one, which sleeps as soon as it sees nothing to do: a wake-up that gets lost stops them all. */
static volatile unsigned turn;

static void pass_on(unsigned cpu)
{
    while (!stop) {
        asm volatile("cli" : : : "memory");
        if (turn % smp_count != cpu && !stop) {
            asm volatile("sti\n hlt" : : : "memory");
            continue;
        }
        if (turn >= ROUNDS * smp_count) {
            wake_all();
            return;
        }
        turn++;
        smp_ipi(smp_apic_id[turn % smp_count], ICR_ASSERT | VECTOR);
    }
}

TEST(smp_wake_ups)
{
    begin(2);
    smp_run(smp_count, pass_on);
    EXPECT_EQ(turn, ROUNDS * smp_count);
}

/* Interrupts by the thousand from everybody to everybody: none is lost that the APIC has room for. */
static volatile unsigned answered;

static void on_question(struct context *c)
{
    __atomic_fetch_add(&answered, 1, __ATOMIC_SEQ_CST);
    apic_eoi();
}

static void storm(unsigned cpu)
{
    smp_barrier();
    if (cpu) {
        doze();
        return;
    }
    for (unsigned i = 1; i <= ROUNDS; i++) {
        smp_ipi(0, 0xc0000 | ICR_ASSERT | 0x52);
        if (!SMP_WAIT(SMP_LOAD(answered) == i * (smp_count - 1)))
            break;
    }
    wake_all();
}

TEST(smp_ipi_storm)
{
    begin_x2(2);
    handlers[0x52] = on_question;
    smp_run(smp_count, storm);
    EXPECT_EQ(answered, ROUNDS * (smp_count - 1));
}

/* A processor's TSC never shows less than what another one has seen before. RDTSC itself may be executed before the
 * load that says whose turn it is (SDM vol. 2, RDTSC): LFENCE. */
static volatile uint64_t seen_tsc;
static uint64_t backward;

static void look_at_time(unsigned cpu)
{
    smp_barrier();
    while (turn < ROUNDS / 2) {
        if (SMP_LOAD(turn) % 2 != cpu) {
            smp_relax();
            continue;
        }
        asm volatile("lfence" ::: "memory");
        if (rdtsc() < seen_tsc)
            backward++;
        seen_tsc = rdtsc();
        __atomic_fetch_add(&turn, 1, __ATOMIC_SEQ_CST);
    }
}

TEST(smp_tsc)
{
    begin(2);
    smp_run(2, look_at_time);
    EXPECT_EQ(backward, 0);
}

/* --- KVM's paravirtual help: Linux, Documentation/virt/kvm/x86/hypercalls.rst ------------------------ */

enum { HC_KICK = 5, HC_SEND_IPI = 10, PV_UNHALT = 7, PV_SEND_IPI = 11 };

static volatile unsigned waits, woken;

static void need_kvm(unsigned feature)
{
    uint32_t regs[4];

    cpuid(0x40000000, 0, regs);
    if (regs[1] != 0x4b4d564b) /* "KVMK" */
        skip("no KVM interface");
    cpuid(0x40000001, 0, regs);
    if (!(regs[0] >> feature & 1))
        skip("the hypercall is not offered");
}

static word hypercall(word number, word a0, word a1, word a2, word a3)
{
    uint32_t regs[4];
    word result = number;

    cpuid(0, 0, regs);
    if (regs[2] == 0x444d4163) /* "cAMD" */
        asm volatile("vmmcall" : "+a"(result) : "b"(a0), "c"(a1), "d"(a2), "S"(a3) : "memory");
    else
        asm volatile("vmcall" : "+a"(result) : "b"(a0), "c"(a1), "d"(a2), "S"(a3) : "memory");
    return result;
}

/* HLT with interrupts off ends by a kick, also by one that came before it (but not before an earlier HLT). */
static void kick(unsigned cpu)
{
    if (cpu) {
        while (woken < ROUNDS / 4) {
            waits = woken + 1;
            asm volatile("cli\n hlt" : : : "memory");
            woken++;
        }
        return;
    }
    for (unsigned i = 1; i <= ROUNDS / 4; i++) {
        if (!SMP_WAIT(waits == i))
            break;
        EXPECT_EQ(hypercall(HC_KICK, 0, smp_apic_id[1], 0, 0), 0);
        if (!SMP_WAIT(woken == i))
            break;
    }
}

TEST(smp_kick)
{
    begin(2);
    need_kvm(PV_UNHALT);
    smp_run(2, kick);
    EXPECT_EQ(woken, ROUNDS / 4);
}

static void send_to_all(unsigned cpu)
{
    word set = 0;

    smp_barrier();
    if (cpu) {
        doze();
        return;
    }
    for (unsigned i = 1; i < smp_count; i++)
        set |= 1ul << smp_apic_id[i];
    for (unsigned i = 1; i <= ROUNDS / 10; i++) {
        EXPECT_EQ(hypercall(HC_SEND_IPI, set, 0, 0, VECTOR), smp_count - 1);
        for (unsigned n = 1; n < smp_count; n++)
            expect_taken(n, i);
    }
    wake_all();
}

TEST(smp_send_ipi)
{
    begin(2);
    need_kvm(PV_SEND_IPI);
    if (!LONG_MODE)
        skip("64-bit code only");
    smp_run(smp_count, send_to_all);
}
