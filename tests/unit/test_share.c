/*
 * tests/unit/test_share.c: several vCPUs and one memory (engine/soft/share.h),
 * without guest code: threads make the calls that engines make, and look at what
 * their soft TLBs let them do; and halts are waited out (engine/soft/turns.h).
 */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "engine/soft/soft.h"
#include "engine/soft/turns.h"
#include "mem/mem.h"
#include "x86/access.h"

#define CPUS   3
#define RAM    MIB(1)
#define PAGE   0x5000ull /* real mode: linear addresses are physical ones */
#define ROUNDS 3000

static struct soft_vm vm;
static struct soft_vcpu *cpu[CPUS];
static uint8_t *ram;
static const struct soft_hooks no_hooks;

static int set_up(void **state)
{
    struct engine_config config = {.mem = mem_new(), .clock = vclock_new(), .cpus = CPUS};
    struct error err;

    memset(&vm, 0, sizeof(vm));
    assert_int_equal(mem_add_ram(config.mem, 0, RAM, &err), 0);
    assert_int_equal(soft_vm_init(&vm, &config, &no_hooks), 0);
    for (unsigned i = 0; i < CPUS; i++) {
        cpu[i] = aligned_alloc(64, ALIGN_UP(sizeof(*cpu[i]), 64));
        memset(cpu[i], 0, sizeof(*cpu[i]));
        soft_vcpu_init(cpu[i], &vm, i);
    }
    ram = mem_find(vm.mem, 0)->host;
    return 0;
}

static int tear_down(void **state)
{
    for (unsigned i = 0; i < CPUS; i++) {
        soft_vcpu_fini(cpu[i]);
        free(cpu[i]);
    }
    soft_vm_fini(&vm);
    vclock_free(vm.clock);
    mem_free(vm.mem);
    return 0;
}

static bool writable(struct soft_vcpu *vcpu)
{
    return x86_tlb_write(&vcpu->cpu, PAGE, 8) != NULL;
}

/* What the run loop does between two blocks. */
static void look_at_events(struct soft_vcpu *vcpu)
{
    if (atomic_fetch_and(&vcpu->cpu.events, ~X86_EV_SHARE) & X86_EV_SHARE)
        soft_share_serve(vcpu);
}

/* --- asked while another has all stand still ------------------------------------------------------- */

static _Atomic bool ready;
static bool kept;

static void *stand_still(void *opaque)
{
    struct soft_vcpu *vcpu = opaque;

    soft_share_enter(vcpu);
    x86_tlb_load(&vcpu->cpu, PAGE, 8, ACCESS_WRITE);
    kept = !writable(vcpu); /* so that the test tests something */
    atomic_store(&ready, true);
    while (!(atomic_load(&vcpu->cpu.events) & X86_EV_SHARE))
        continue;
    look_at_events(vcpu);
    kept |= writable(vcpu);
    soft_share_leave(vcpu);
    return NULL;
}

/* A page that was asked for while the vCPU stood still is given up before it goes on. */
static void test_asked_standing_still(void **state)
{
    pthread_t thread;

    for (unsigned i = 0; i < 20; i++) {
        atomic_store(&ready, false);
        pthread_create(&thread, NULL, stand_still, cpu[1]);
        while (!atomic_load(&ready))
            continue;
        soft_share_enter(cpu[0]);
        soft_share_exclusive(cpu[0], true);
        soft_share_hold(cpu[0], PAGE);
        soft_share_exclusive(cpu[0], false);
        pthread_join(thread, NULL);
        soft_share_release(cpu[0], PAGE);
        soft_share_leave(cpu[0]);
        assert_false(kept);
    }
}

/* --- a page with code is written by nobody who was not asked ------------------------------------------ */

static _Atomic bool done;
static _Atomic unsigned writes, unseen;

static uint64_t *counter(void)
{
    return (uint64_t *)(ram + PAGE);
}

/* Writes through its soft TLB wherever that lets it; sleeps, and stops the others, now and then. */
static void *writer(void *opaque)
{
    struct soft_vcpu *vcpu = opaque;
    uint64_t *host;

    soft_share_enter(vcpu);
    for (unsigned n = 0; !atomic_load(&done); n++) {
        look_at_events(vcpu);
        x86_tlb_load(&vcpu->cpu, PAGE, 8, ACCESS_WRITE);
        host = x86_tlb_write(&vcpu->cpu, PAGE, 8);
        if (host) {
            __atomic_fetch_add(host, 1, __ATOMIC_RELAXED);
            atomic_fetch_add_explicit(&writes, 1, memory_order_relaxed);
        }
        if (n % 64 == 17) {
            soft_share_leave(vcpu);
            soft_share_enter(vcpu);
        }
        if (n % 512 == 100) {
            soft_share_exclusive(vcpu, true);
            soft_share_exclusive(vcpu, false);
        }
    }
    soft_share_leave(vcpu);
    return NULL;
}

static void test_held(void **state)
{
    pthread_t thread[CPUS];
    struct soft_vcpu *self = cpu[0];

    atomic_store(&done, false);
    for (unsigned i = 1; i < CPUS; i++)
        pthread_create(&thread[i], NULL, writer, cpu[i]);
    soft_share_enter(self);
    for (unsigned round = 0; round < ROUNDS; round++) {
        uint64_t before;

        look_at_events(self);
        soft_share_hold(self, PAGE);
        before = __atomic_load_n(counter(), __ATOMIC_RELAXED);
        for (unsigned n = 0; n < 200; n++)
            if (__atomic_load_n(counter(), __ATOMIC_RELAXED) != before)
                atomic_fetch_add(&unseen, 1);
        soft_share_release(self, PAGE);
        if (round % 512 == 50) {
            soft_share_exclusive(self, true);
            soft_share_exclusive(self, false);
        }
        for (unsigned n = 0; n < 100; n++)
            __builtin_ia32_pause();
    }
    soft_share_leave(self);
    atomic_store(&done, true);
    for (unsigned i = 1; i < CPUS; i++)
        pthread_join(thread[i], NULL);
    assert_int_equal(atomic_load(&unseen), 0);
    assert_true(atomic_load(&writes) > 0);
}

/* --- many writes to a page with code are one to be told of ---------------------------------------------- */

static void test_told_by_page(void **state)
{
    const struct soft_writes *told_of = &cpu[0]->writes;

    atomic_store(&cpu[0]->code.watched[PAGE >> PAGE_SHIFT], 1);
    for (unsigned at = 0; at < PAGE_SIZE; at += 16)
        soft_tell_write(cpu[0], PAGE + (at ^ 512), 8); /* with gaps, and now and then backwards */
    assert_int_equal(told_of->count, 1);
    assert_int_equal(told_of->range[0].gpa, PAGE);
    assert_int_equal(told_of->range[0].len, PAGE_SIZE - 8);
    soft_tell_write(cpu[0], PAGE + PAGE_SIZE, 8); /* no code there */
    assert_int_equal(told_of->count, 1);
    atomic_store(&cpu[0]->code.watched[(PAGE >> PAGE_SHIFT) + 2], 1);
    soft_tell_write(cpu[0], PAGE + 2 * PAGE_SIZE, 8);
    assert_int_equal(told_of->count, 2);
    assert_true(atomic_load(&cpu[0]->cpu.events) & X86_EV_MEMORY);
    atomic_store(&cpu[0]->code.watched[PAGE >> PAGE_SHIFT], 0);
    atomic_store(&cpu[0]->code.watched[(PAGE >> PAGE_SHIFT) + 2], 0);
}

/* --- devices ------------------------------------------------------------------------------------------------- */

/* Who locks the devices waits for those that have left for one, but not when something else wants it; the others wait
 * outside, but not when they are kicked. */
static void test_locked_devices(void **state)
{
    assert_true(soft_share_reach_device(cpu[1]));
    x86_post_event(&cpu[0]->cpu, X86_EV_APIC);
    assert_int_equal(soft_share_lock_devices(cpu[0], true), X86_AGAIN);
    assert_true(soft_share_reach_device(cpu[2]));
    soft_share_reached_device(cpu[1]);
    soft_share_reached_device(cpu[2]);

    assert_int_equal(soft_share_lock_devices(cpu[0], true), X86_NEXT);
    assert_int_equal(soft_share_lock_devices(cpu[0], true), X86_NEXT); /* its instruction starts anew */
    assert_int_equal(soft_share_lock_devices(cpu[2], true), X86_AGAIN);
    assert_true(soft_share_reach_device(cpu[0]));
    soft_share_reached_device(cpu[0]);
    soft_kick(cpu[1]);
    assert_false(soft_share_reach_device(cpu[1]));
    assert_false(atomic_load(&cpu[1]->requests.device));

    soft_share_lock_devices(cpu[2], false); /* not its own */
    assert_false(soft_share_reach_device(cpu[1]));
    soft_share_lock_devices(cpu[0], false);
    assert_true(soft_share_reach_device(cpu[1]));
}

/* --- halts ------------------------------------------------------------------------------------------------ */

/* Looking for events before sleep begins after a short sleep, finds an event, and ends after a long one. */
static void test_polling(void **state)
{
    struct soft_vcpu *vcpu = cpu[1];

    vm.crowded = false;
    assert_int_equal(atomic_exchange(&vcpu->cpu.events, X86_EV_APIC), 0);
    assert_false(soft_turns_poll(vcpu, UINT64_MAX));
    soft_turns_slept(vcpu, 5000, UINT64_MAX);
    assert_true(soft_turns_poll(vcpu, UINT64_MAX));
    atomic_store(&vcpu->cpu.events, 0);
    assert_false(soft_turns_poll(vcpu, UINT64_MAX));
    soft_turns_slept(vcpu, 10000000, UINT64_MAX);
    atomic_store(&vcpu->cpu.events, X86_EV_APIC);
    assert_false(soft_turns_poll(vcpu, UINT64_MAX));
    vm.crowded = true;
    soft_turns_slept(vcpu, 5000, UINT64_MAX);
    assert_false(soft_turns_poll(vcpu, UINT64_MAX));
}

/* --- stops ------------------------------------------------------------------------------------------------- */

#define CLOCK_PAGE    0x6000ull
#define FLAGS         29
#define GUEST_STOPPED 2

/* Has its clock's flag been set? The guest clears it. */
static bool told(struct soft_vcpu *vcpu)
{
    uint8_t *flags = ram + CLOCK_PAGE + 64 * vcpu->cpu.id + FLAGS;
    bool yes;

    soft_turns_notice(vcpu);
    yes = *flags & GUEST_STOPPED;
    *flags = 0;
    return yes;
}

/* Ten seconds ago it was last looked. */
static void pass(struct soft_vcpu *vcpu)
{
    assert_false(told(vcpu));
    vcpu->turns.seen_ns -= 10000000000;
}

/* A vCPU that neither ran nor wanted to sleep was stopped: all say so in their clocks, once. */
static void test_stopped(void **state)
{
    for (unsigned i = 0; i < CPUS; i++)
        cpu[i]->cpu.msr.kvm_system_time = (CLOCK_PAGE + 64 * i) | 1;
    pass(cpu[0]);
    assert_true(told(cpu[0]));
    assert_false(told(cpu[0]));
    assert_true(told(cpu[1])); /* one that knows nothing of it */
    assert_false(told(cpu[1]));

    told(cpu[2]);
    pass(cpu[2]); /* asleep until an event */
    soft_turns_slept(cpu[2], 10000000000, UINT64_MAX);
    assert_false(told(cpu[2]));
    atomic_store(&vm.stopped_ns, 1);
    for (unsigned i = 0; i < CPUS; i++)
        told(cpu[i]);
    cpu[2]->turns.seen_ns -= 10000000000;
    soft_turns_slept(cpu[2], 10000000000, 5000000000); /* it wanted to sleep half as long */
    assert_true(told(cpu[2]));
}

/* --- decoded code ------------------------------------------------------------------------------------ */

static const uint8_t adds[] = {0x05, 1, 0, 0x05, 2, 0, 0xeb, 0xf8}; /* add ax, 1; add ax, 2; jmp back to the first */

static void start_at(struct soft_vcpu *vcpu, uint64_t rip)
{
    vcpu->cpu.seg[SEG_CS].base = 0;
    vcpu->cpu.rip = rip;
    x86_update_mode(&vcpu->cpu);
}

static struct block *decoded(struct soft_vcpu *vcpu)
{
    enum x86_rc rc = X86_NEXT;
    struct block *block = code_find(vcpu, &rc);

    assert_non_null(block);
    assert_int_equal(rc, X86_NEXT);
    return block;
}

/* What one has decoded the others take from it, if it was the same bytes. */
static void test_text(void **state)
{
    struct block *block[CPUS];

    memcpy(ram + PAGE, adds, sizeof(adds));
    for (unsigned i = 0; i < 2; i++) {
        start_at(cpu[i], PAGE);
        block[i] = decoded(cpu[i]);
    }
    assert_ptr_not_equal(block[0], block[1]);
    assert_ptr_equal(block[0]->insn, block[1]->insn);
    assert_int_equal(block[1]->count, 3);
    assert_int_equal(block[1]->bytes, sizeof(adds));
    assert_memory_equal(block_bytes(block[1]), adds, sizeof(adds));
    assert_int_equal(cpu[1]->cpu.counters.blocks_shared, 1);

    code_free(cpu[0]); /* it stays the other's */
    assert_int_equal(block[1]->insn[1].imm, 2);

    ram[PAGE + 4] = 7;
    start_at(cpu[2], PAGE);
    block[2] = decoded(cpu[2]);
    assert_int_equal(block[2]->insn[1].imm, 7);
    assert_int_equal(block[1]->insn[1].imm, 2);
    assert_int_equal(cpu[2]->cpu.counters.blocks_shared, 0);
    assert_ptr_equal(decoded(cpu[1]), block[1]); /* it has not been told */
    code_free(cpu[1]);
    block[1] = decoded(cpu[1]);
    assert_ptr_equal(block[1]->insn, block[2]->insn);
}

static void *decode_and_forget(void *opaque)
{
    struct soft_vcpu *vcpu = opaque;

    for (unsigned i = 0; i < ROUNDS; i++) {
        const unsigned n = (i + vcpu->cpu.id) % 13;
        const struct block *block;

        start_at(vcpu, PAGE + 256 * n);
        block = decoded(vcpu);
        assert_int_equal(block->insn[0].imm, n);
        if (i % 7 == 0)
            code_written(vcpu, PAGE + 256 * n, 1);
        if (i % 31 == 0)
            code_free(vcpu);
        code_sweep(vcpu);
    }
    return NULL;
}

static void test_texts_by_all(void **state)
{
    pthread_t thread[CPUS];

    for (unsigned n = 0; n < 13; n++) {
        memcpy(ram + PAGE + 256 * n, adds, sizeof(adds));
        ram[PAGE + 256 * n + 1] = (uint8_t)n;
    }
    for (unsigned i = 0; i < CPUS; i++)
        assert_int_equal(pthread_create(&thread[i], NULL, decode_and_forget, cpu[i]), 0);
    for (unsigned i = 0; i < CPUS; i++)
        pthread_join(thread[i], NULL);
    assert_true(cpu[0]->cpu.counters.blocks_shared + cpu[1]->cpu.counters.blocks_shared +
                cpu[2]->cpu.counters.blocks_shared);
    for (unsigned i = 0; i < CPUS; i++)
        code_free(cpu[i]);
    for (unsigned i = 0; i < 1 << TEXT_BITS; i++)
        assert_null(vm.texts->place[i]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_asked_standing_still, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_held, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_told_by_page, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_locked_devices, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_text, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_texts_by_all, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_polling, set_up, tear_down),
        cmocka_unit_test_setup_teardown(test_stopped, set_up, tear_down),
    };

    return cmocka_run_group_tests_name("share", tests, NULL, NULL);
}
