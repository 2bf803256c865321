/*
 * locked.c: what is atomic as a whole (SDM vol. 3, 9.1.2): locked instructions
 * on a device's registers, though each is an access to read and another to write;
 * the processor's own change of a descriptor.
 */
#include "kit/apic.h"
#include "kit/desc.h"
#include "kit/page.h"
#include "kit/regs.h"
#include "kit/smp.h"

#define DEVICE 0xd0000000 /* the runner's: eight registers, then a number */
#define MAGIC  0x10cced
#define ROUNDS 300

static volatile word *registers;
static volatile uint32_t forbidden, done;

/* Each register is a sum of ones: by one instruction, by a comparing loop, under a lock of one bit, under one by XCHG.
 */
static void add_ones(void)
{
    word one = 1, old, new, taken;
    bool set;

    asm volatile("lock inc" W " %0" : "+m"(registers[0]) : : "memory");
    asm volatile("lock xadd %0, %1" : "+r"(one), "+m"(registers[1]) : : "memory");
    old = registers[2];
    do
        new = old + 1;
    while (!__atomic_compare_exchange_n(&registers[2], &old, new, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST));
    do
        asm volatile("lock btsl $3, %0" : "+m"(*(volatile uint32_t *)&registers[3]), "=@ccc"(set) : : "memory");
    while (set);
    registers[4]++;
    asm volatile("lock btrl $3, %0" : "+m"(*(volatile uint32_t *)&registers[3]) : : "memory");
    do {
        taken = 1;
        asm volatile("xchg %0, %1" : "+r"(taken), "+m"(registers[5]) : : "memory");
    } while (taken);
    registers[6]++;
    registers[5] = 0;
}

static void all_add(unsigned cpu)
{
    smp_barrier();
    for (unsigned i = 0; i < ROUNDS; i++)
        add_ones();
}

/* What one stores is not undone by the other's instruction that changes nothing. */
static void store_or_keep(unsigned cpu)
{
    smp_barrier();
    for (word i = 1; !cpu && i <= 4 * ROUNDS; i++) {
        registers[7] = i;
        forbidden += registers[7] != i;
    }
    while (cpu && !done)
        asm volatile("lock or" W " $0, %0" : "+m"(registers[7]) : : "memory");
    done = 1;
}

TEST(smp_locked_device)
{
    static const unsigned sums[] = {0, 1, 2, 4, 6};

    paging_64();
    apic_init();
    smp_start(2);
    map(TEST_VA, DEVICE, PTE_PW);
    registers = (volatile word *)TEST_VA;
    if (*(volatile uint32_t *)(TEST_VA + 64) != MAGIC)
        skip("needs a device, and an engine that locks it");
    smp_run(smp_count, all_add);
    for (unsigned i = 0; i < sizeof sums / sizeof *sums; i++)
        EXPECT_EQ(registers[sums[i]], ROUNDS * smp_count);
    smp_run(2, store_or_keep);
    EXPECT_EQ(forbidden, 0);
}

/* One changes a bit beside the accessed bit and clears that; the others set it by loading the segment. */
static void load_segment(unsigned cpu)
{
    volatile uint8_t *type = (volatile uint8_t *)&gdt[FREE_SEL / 8] + 5;
    uint8_t expected = ACC_DATA;

    smp_barrier();
    while (cpu && !done)
        asm volatile("mov %0, %%es\n mov %1, %%es" : : "r"(FREE_SEL), "r"(KDATA));
    for (unsigned i = 0; !cpu && i < 10 * ROUNDS; i++) {
        forbidden += (*type & ~1) != expected;
        asm volatile("lock xorb $2, %0" : "+m"(*type) : : "memory");
        expected ^= 2;
        asm volatile("lock andb $~1, %0" : "+m"(*type) : : "memory");
        if (i % 64 == 0 && !SMP_WAIT(*type & 1))
            break;
    }
    done = 1;
}

TEST(smp_descriptor_accessed)
{
    paging_64();
    apic_init();
    smp_start(2);
    gdt_set(FREE_SEL, 0, 0xfffff, ACC_DATA, FLAG_D | FLAG_G);
    smp_run(smp_count, load_segment);
    EXPECT_EQ(forbidden, 0);
}
