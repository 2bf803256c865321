/* tests/unit/test_cpu.c: RESET, INIT, what is derived from the state; and what other threads may do to it. */
#include <pthread.h>
#include <sched.h>
#include <string.h>

#include "x86/cpuid.h"
#include "x86/lapic.h"
#include "x86_fake.h"

/* SDM vol. 3, table 10-1. */
static void test_reset(void **state)
{
    struct fake *f = fake_new(0);
    struct x86_cpu *cpu = &f->cpu;
    const void *tlb = cpu->tlb, *bus = cpu->bus;
    uint32_t id[4];

    memset(cpu->gpr, 0xee, sizeof(cpu->gpr));
    cpu->msr.star = cpu->msr.tsc_offset = 1;
    cpu->halted = cpu->shutdown = cpu->nmi_masked = true;
    cpu->counters.exceptions = 5;
    x86_cpu_reset(cpu);
    x86_cpuid(cpu, 1, 0, id);
    assert_int_equal(cpu->gpr[RDX], id[0]);
    assert_int_equal(cpu->gpr[RAX] | cpu->gpr[RSP] | cpu->gpr[R15], 0);
    assert_int_equal(cpu->rip, 0xfff0);
    assert_int_equal(cpu->rflags, 2);
    assert_int_equal(cpu->seg_base[SEG_CS], 0xffff0000);
    assert_int_equal(cpu->seg[SEG_CS].selector, 0xf000);
    assert_int_equal(cpu->cr0, 0x60000010);
    assert_int_equal(cpu->cr4 | cpu->msr.efer | cpu->msr.star | cpu->msr.tsc_offset, 0);
    assert_int_equal(cpu->dr[6], 0xffff0ff0);
    assert_int_equal(cpu->dr[7], 0x400);
    assert_int_equal(cpu->xcr0, 1);
    assert_int_equal(cpu->fpu.mxcsr, 0x1f80);
    assert_false(cpu->halted || cpu->shutdown || cpu->nmi_masked || cpu->wait_for_sipi);
    assert_ptr_equal(cpu->tlb, tlb);
    assert_ptr_equal(cpu->bus, bus);
    assert_int_equal(cpu->counters.exceptions, 5);
    fake_free(f);
}

/* INIT leaves the FPU, the caches' bits of CR0, most MSRs and the time alone. */
static void test_init(void **state)
{
    struct fake *f = fake_new(1);
    struct x86_cpu *cpu = &f->cpu;

    cpu->wait_for_sipi = false;
    cpu->cr0 = CR0_PE | CR0_ET | CR0_NE;
    cpu->msr.star = 0x1234;
    cpu->msr.tsc_offset = 77;
    cpu->msr.efer = EFER_SCE;
    cpu->fpu.fcw = 0x37f;
    cpu->xcr0 = 3;
    cpu->lapic.svr = 0x1ff;
    cpu->lapic.irr[2] = 1;
    cpu->lapic.base_msr |= X86_APIC_BASE_X2APIC;
    cpu->halted = true;
    x86_cpu_init(cpu);
    assert_int_equal(cpu->cr0, CR0_ET);
    assert_int_equal(cpu->mode, MODE_REAL16);
    assert_int_equal(cpu->msr.star, 0x1234);
    assert_int_equal(cpu->msr.tsc_offset, 77);
    assert_int_equal(cpu->msr.efer, 0);
    assert_int_equal(cpu->fpu.fcw, 0x37f);
    assert_int_equal(cpu->xcr0, 3);
    assert_int_equal(cpu->lapic.svr, 0xff);
    assert_int_equal(cpu->lapic.irr[2], 0);
    assert_int_equal(cpu->lapic.id, 1);
    assert_true(cpu->lapic.base_msr & X86_APIC_BASE_X2APIC);
    assert_true(cpu->wait_for_sipi);
    assert_false(cpu->halted);
    fake_free(f);
}

static void test_mode(void **state)
{
    struct fake *f = fake_new(0);
    struct x86_cpu *cpu = &f->cpu;

    assert_int_equal(cpu->mode, MODE_REAL16);
    assert_int_equal(cpu->cpl, 0);
    assert_int_equal(cpu->stack_size, 2);
    fake_paging(f, 0, 0, 0, 0);
    fake_segments(f, 16, 1);
    assert_int_equal(cpu->mode, MODE_PROT16);
    assert_int_equal(cpu->cpl, 1);
    assert_int_equal(cpu->stack_size, 2);
    fake_segments(f, 32, 3);
    assert_int_equal(cpu->mode, MODE_PROT32);
    assert_int_equal(cpu->cpl, 3);
    assert_int_equal(cpu->stack_size, 4);
    assert_int_equal(cpu->seg_flat, 0x3f & ~(1 << SEG_CS));
    assert_int_equal(cpu->lin_mask, 0xffffffff);
    cpu->rflags |= FLAG_VM;
    x86_update_mode(cpu);
    assert_int_equal(cpu->mode, MODE_VM86);
    assert_int_equal(cpu->cpl, 3);
    assert_int_equal(cpu->stack_size, 2);
    cpu->rflags &= ~(uint64_t)FLAG_VM;
    cpu->msr.efer = EFER_LME | EFER_LMA;
    fake_segments(f, 16, 3);
    assert_int_equal(cpu->mode, MODE_COMPAT16);
    fake_segments(f, 32, 3);
    assert_int_equal(cpu->mode, MODE_COMPAT32);
    fake_segments(f, 64, 0);
    cpu->seg[SEG_DS].base = 0x1000;
    cpu->seg[SEG_GS].base = 0x2000;
    x86_update_mode(cpu);
    assert_int_equal(cpu->mode, MODE_LONG64);
    assert_int_equal(cpu->stack_size, 8);
    assert_int_equal(cpu->seg_flat, 0x3f);
    assert_int_equal(cpu->seg_base[SEG_DS], 0);
    assert_int_equal(cpu->seg_base[SEG_GS], 0x2000);
    assert_true(cpu->lin_mask == ~0ull);
    cpu->rflags |= FLAG_TF;
    x86_update_mode(cpu);
    assert_true(cpu->events & X86_EV_TRAP);
    cpu->rflags &= ~(uint64_t)FLAG_TF;
    x86_update_mode(cpu);
    assert_false(cpu->events & X86_EV_TRAP);
    fake_free(f);
}

/* --- other threads ---------------------------------------------------------------------- */

#define POSTS 20000

static void *post_vectors(void *opaque)
{
    struct x86_cpu *cpu = opaque;

    for (unsigned i = 0; i < POSTS; i++) {
        const uint8_t vector = (uint8_t)(0x20 + i % 0xe0);
        const struct x86_apic_message m = {.vector = vector, .delivery = APIC_FIXED, .level = vector & 1};

        /* As a device would: not again before the first one was seen. */
        while (atomic_load(&cpu->lapic.posted[vector / 32]) >> vector % 32 & 1)
            sched_yield();
        x86_lapic_deliver(cpu, &m);
    }
    return NULL;
}

/* No posted interrupt is lost or changes its trigger mode on its way into IRR. */
static void test_posts_from_another_thread(void **state)
{
    struct fake *f = fake_new(0);
    unsigned taken = 0;
    pthread_t thread;
    bool joined = false;

    x86_lapic_write(&f->cpu, 0xf0, 0x1ff);
    assert_int_equal(pthread_create(&thread, NULL, post_vectors, &f->cpu), 0);
    while (taken < POSTS) {
        int vector;

        x86_lapic_sync(&f->cpu);
        vector = x86_lapic_pending(&f->cpu);
        if (vector < 0) {
            /* All were posted, and there is nothing more to come. */
            if (joined)
                break;
            if (taken + 1 >= POSTS || taken % 64 == 63)
                sched_yield();
            if (pthread_tryjoin_np(thread, NULL) == 0)
                joined = true;
            continue;
        }
        x86_lapic_acknowledge(&f->cpu, (uint8_t)vector);
        f->eoi_count = 0;
        x86_lapic_write(&f->cpu, 0xb0, 0);
        assert_int_equal(f->eoi_count, vector & 1);
        taken++;
    }
    if (!joined)
        pthread_join(thread, NULL);
    /* Requests of one vector that meet in IRR are one interrupt, as on hardware. */
    assert_in_range(taken, 0xe0, POSTS);
    for (unsigned i = 0; i < 8; i++)
        assert_int_equal(f->cpu.lapic.irr[i] | atomic_load(&f->cpu.lapic.posted[i]), 0);
    fake_free(f);
}

#define DIRECTORY 0x1000
#define TABLE     0x2000
#define LIN       0x5000
#define CHANGES   20000

struct changes {
    uint64_t *pte;
    _Atomic bool stop;
    unsigned lost, foreign;
};

/* A page table as a guest's other processor changes it: what it wrote, plus A and D, is what it finds. */
static void *change_pte(void *opaque)
{
    struct changes *c = opaque;
    uint64_t last = 0x30000 | 7;

    for (unsigned i = 0; i < CHANGES; i++) {
        uint64_t next = (i & 1 ? 0x30000 : 0x31000) | (i % 3 ? 7 : 0);
        uint64_t old = __atomic_exchange_n(c->pte, next, __ATOMIC_SEQ_CST);

        c->lost += (old & ~0x60ull) != last;
        c->foreign += !(old & 1) && (old & 0x60); /* A or D in an entry that was never present */
        last = next;
    }
    atomic_store(&c->stop, true);
    return NULL;
}

static void test_pte_changed_by_another_thread(void **state)
{
    struct fake *f = fake_new(0);
    struct changes c = {.pte = (uint64_t *)(f->ram + TABLE + 8 * (LIN >> 12))};
    pthread_t thread;

    f->cpu.pdpte[0] = DIRECTORY | 1;
    fake_write(f, DIRECTORY, TABLE | 7, 8);
    *c.pte = 0x30000 | 7;
    fake_paging(f, CR0_PG, 0, CR4_PAE, 0);
    fake_segments(f, 32, 0);
    assert_int_equal(pthread_create(&thread, NULL, change_pte, &c), 0);
    while (!atomic_load(&c.stop)) {
        gpa_t gpa = 0;

        x86_tlb_flush_page(&f->cpu, LIN);
        if (x86_translate(&f->cpu, LIN, ACCESS_WRITE, &gpa) == X86_NEXT)
            assert_int_equal(gpa & ~0x1000ull, 0x30000);
    }
    pthread_join(thread, NULL);
    assert_int_equal(c.lost, 0);
    assert_int_equal(c.foreign, 0);
    fake_free(f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_reset),
        cmocka_unit_test(test_init),
        cmocka_unit_test(test_mode),
        cmocka_unit_test(test_posts_from_another_thread),
        cmocka_unit_test(test_pte_changed_by_another_thread),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
