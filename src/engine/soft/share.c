/* engine/soft/share.c: see share.h. */
#include "engine/soft/share.h"

#include <errno.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#include "engine/soft/soft.h"

#define SPINS         2000   /* looks at what another vCPU will soon do, before its thread may need our processor */
#define SPINS_CROWDED 50     /* the same where threads take turns */
#define YIELDS        100    /* then so many times the processor is given away, */
#define PATIENCE_NS   100000 /* then we sleep */

/* --- the table --------------------------------------------------------------------------- */

static size_t table_bytes(uint64_t pages)
{
    return ALIGN_UP(pages * sizeof(struct soft_page), PAGE_SIZE);
}

int soft_share_init(struct soft_vm *vm)
{
    struct soft_share *share = &vm->share;

    lock_init(&share->lock, LOCK_ENGINE);
    share->on = vm->cpus > 1;
    for (unsigned i = 0; share->on && i < mem_slot_count(vm->mem) && i < SHARE_MAX_SLOTS; i++) {
        const struct mem_slot *slot = mem_slot(vm->mem, i);
        const uint64_t pages = slot->size >> PAGE_SHIFT;
        void *page =
            mmap(NULL, table_bytes(pages), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

        if (page == MAP_FAILED) {
            soft_share_fini(vm);
            return -ENOMEM;
        }
        share->slot[share->slots].first = slot->gpa;
        share->slot[share->slots].count = pages;
        share->slot[share->slots++].page = page;
    }
    return 0;
}

void soft_share_fini(struct soft_vm *vm)
{
    struct soft_share *share = &vm->share;

    while (share->slots) {
        share->slots--;
        munmap(share->slot[share->slots].page, table_bytes(share->slot[share->slots].count));
    }
    lock_destroy(&share->lock);
}

/* NULL: memory that was added later; it is taken for code throughout. */
static struct soft_page *find(const struct soft_vm *vm, gpa_t gpa)
{
    for (unsigned i = 0; i < vm->share.slots; i++) {
        const uint64_t n = (gpa - vm->share.slot[i].first) >> PAGE_SHIFT;

        if (gpa >= vm->share.slot[i].first && n < vm->share.slot[i].count)
            return &vm->share.slot[i].page[n];
    }
    return NULL;
}

static uint64_t bit_of(const struct soft_vcpu *vcpu)
{
    return BIT(vcpu->cpu.id);
}

/* --- running, and requests ----------------------------------------------------------------- */

void soft_share_vcpu_init(struct soft_vcpu *vcpu)
{
    lock_init(&vcpu->requests.lock, LOCK_ENGINE);
}

void soft_share_vcpu_fini(struct soft_vcpu *vcpu)
{
    lock_destroy(&vcpu->requests.lock);
}

/* One step of waiting for another thread; n: how many were made. */
static void wait_a_little(const struct soft_vm *vm, unsigned n)
{
    const struct timespec ts = {.tv_nsec = PATIENCE_NS};

    if (n < (vm->crowded ? SPINS_CROWDED : SPINS))
        __builtin_ia32_pause();
    else if (n < SPINS + YIELDS)
        sched_yield();
    else
        nanosleep(&ts, NULL);
}

static void give_up(struct soft_vcpu *vcpu, gpa_t gpa)
{
    struct soft_page *page = find(vcpu->vm, gpa);

    soft_protect(vcpu, gpa);
    if (page)
        atomic_fetch_and(&page->writers, ~bit_of(vcpu));
}

static void give_up_pages(struct soft_vcpu *vcpu)
{
    struct soft_requests *requests = &vcpu->requests;

    lock_take(&requests->lock);
    if (requests->count > SHARE_REQUESTS)
        soft_protect_all(vcpu); /* `writers` may keep bits: then we are asked in vain one day */
    for (unsigned i = 0; i < MIN(requests->count, SHARE_REQUESTS); i++)
        give_up(vcpu, requests->page[i]);
    requests->count = 0;
    atomic_store(&requests->served, requests->asked);
    lock_drop(&requests->lock);
}

/* Who is not running is not waited for: what was asked meanwhile is done after we say that we run again, before any
 * instruction. */
void soft_share_serve(struct soft_vcpu *vcpu)
{
    struct soft_share *share = &vcpu->vm->share;

    for (unsigned n = 0;; n++) {
        uint32_t owner;

        give_up_pages(vcpu);
        owner = atomic_load(&share->exclusive);
        if (!owner || owner == vcpu->cpu.id + 1)
            return;
        atomic_store(&vcpu->requests.running, false);
        wait_a_little(vcpu->vm, n);
        atomic_store(&vcpu->requests.running, true);
    }
}

/* The other side of ask(): we say that we run, then look; it asks, then looks whether we run. */
void soft_share_enter(struct soft_vcpu *vcpu)
{
    if (!vcpu->vm->share.on)
        return;
    atomic_store(&vcpu->requests.running, true);
    if (atomic_load(&vcpu->cpu.events) & X86_EV_SHARE) {
        atomic_fetch_and(&vcpu->cpu.events, ~X86_EV_SHARE);
        soft_share_serve(vcpu);
    }
}

void soft_share_leave(struct soft_vcpu *vcpu)
{
    if (vcpu->vm->share.on)
        atomic_store(&vcpu->requests.running, false);
}

/* Asks another vCPU to give up the page; the ticket to wait for. */
static uint64_t ask(struct soft_vcpu *other, gpa_t page)
{
    struct soft_requests *requests = &other->requests;
    uint64_t ticket;

    lock_take(&requests->lock);
    if (requests->count < SHARE_REQUESTS)
        requests->page[requests->count] = page;
    requests->count = MIN(requests->count + 1, SHARE_REQUESTS + 1);
    ticket = ++requests->asked;
    lock_drop(&requests->lock);
    x86_post_event(&other->cpu, X86_EV_SHARE);
    return ticket;
}

/* Others may wait for us meanwhile. */
static void await(struct soft_vcpu *vcpu, const struct soft_vcpu *other, uint64_t ticket)
{
    for (unsigned n = 0; atomic_load(&other->requests.running) && atomic_load(&other->requests.served) < ticket; n++) {
        if (atomic_load_explicit(&vcpu->cpu.events, memory_order_relaxed) & X86_EV_SHARE)
            soft_share_enter(vcpu);
        wait_a_little(vcpu->vm, n);
    }
}

/* --- code ------------------------------------------------------------------------------------ */

void soft_share_hold(struct soft_vcpu *vcpu, gpa_t gpa)
{
    struct soft_vm *vm = vcpu->vm;
    struct soft_page *page = find(vm, gpa);
    uint64_t writers, tickets[SOFT_MAX_CPUS];

    if (!page)
        return;
    lock_take(&vm->share.lock);
    if (!atomic_load(&page->holders))
        atomic_store(&page->lines, 0);
    atomic_fetch_or(&page->holders, bit_of(vcpu));
    lock_drop(&vm->share.lock);
    if (atomic_fetch_and(&page->writers, ~bit_of(vcpu)) & bit_of(vcpu))
        soft_protect(vcpu, gpa);
    writers = atomic_load(&page->writers);
    for (unsigned i = 0; i < vm->cpus; i++)
        if ((writers & BIT(i)) && vm->vcpu[i])
            tickets[i] = ask(vm->vcpu[i], gpa);
    for (unsigned i = 0; i < vm->cpus; i++)
        if ((writers & BIT(i)) && vm->vcpu[i])
            await(vcpu, vm->vcpu[i], tickets[i]);
    vcpu->cpu.counters.pages_asked += writers != 0;
}

void soft_share_add_lines(struct soft_vcpu *vcpu, gpa_t gpa, uint64_t lines)
{
    struct soft_page *page = find(vcpu->vm, gpa);

    if (page && (lines & ~atomic_load(&page->lines)))
        atomic_fetch_or(&page->lines, lines);
}

void soft_share_release(struct soft_vcpu *vcpu, gpa_t gpa)
{
    struct soft_page *page = find(vcpu->vm, gpa);

    if (page)
        atomic_fetch_and(&page->holders, ~bit_of(vcpu));
}

bool soft_share_held(const struct soft_vm *vm, gpa_t gpa)
{
    const struct soft_page *page = find(vm, gpa);

    return !page || atomic_load_explicit(&page->holders, memory_order_relaxed);
}

bool soft_share_claim(struct soft_vcpu *vcpu, gpa_t gpa)
{
    struct soft_page *page = find(vcpu->vm, gpa);
    const uint64_t own = bit_of(vcpu);

    if (!page)
        return false;
    if (atomic_load(&page->writers) & own) /* a holder that has come since sees it, and asks */
        return !atomic_load(&page->holders);
    atomic_fetch_or(&page->writers, own);
    if (!atomic_load(&page->holders))
        return true;
    atomic_fetch_and(&page->writers, ~own);
    return false;
}

void soft_share_written(struct soft_vcpu *vcpu, gpa_t gpa, unsigned len)
{
    struct soft_vm *vm = vcpu->vm;
    const struct soft_page *page = find(vm, gpa);
    uint64_t holders;

    atomic_thread_fence(memory_order_seq_cst); /* the write first, then who holds the page */
    holders = page ? atomic_load(&page->holders) : ~0ull;
    holders &= ~bit_of(vcpu);
    if (!holders || (page && !(atomic_load(&page->lines) & code_lines((unsigned)(gpa & ~PAGE_MASK), len))))
        return;
    for (unsigned i = 0; i < vm->cpus; i++)
        if ((holders & BIT(i)) && vm->vcpu[i])
            soft_tell_write(vm->vcpu[i], gpa, len);
    vcpu->cpu.counters.code_told++;
}

/* --- standing still ----------------------------------------------------------------------------- */

/* We are within an instruction: translated code that comes after it must not rely on what it has checked. */
static void take_exclusive(struct soft_vcpu *vcpu)
{
    struct soft_share *share = &vcpu->vm->share;
    const uint32_t self = vcpu->cpu.id + 1;

    for (unsigned n = 0;; n++) {
        uint32_t nobody = 0;

        if (atomic_compare_exchange_strong(&share->exclusive, &nobody, self))
            return;
        vcpu->cpu.code_changed = true;
        soft_share_serve(vcpu);
        wait_a_little(vcpu->vm, n);
    }
}

void soft_share_exclusive(struct soft_vcpu *vcpu, bool begin)
{
    struct soft_vm *vm = vcpu->vm;

    if (!vm->share.on)
        return;
    if (!begin) {
        atomic_store(&vm->share.exclusive, 0);
        return;
    }
    take_exclusive(vcpu);
    for (unsigned i = 0; i < vm->cpus; i++)
        if (vm->vcpu[i] && i != vcpu->cpu.id)
            x86_post_event(&vm->vcpu[i]->cpu, X86_EV_SHARE);
    for (unsigned i = 0; i < vm->cpus; i++)
        for (unsigned n = 0; vm->vcpu[i] && i != vcpu->cpu.id && atomic_load(&vm->vcpu[i]->requests.running); n++)
            wait_a_little(vcpu->vm, n);
}

/* --- devices ------------------------------------------------------------------------------------- */

static void unlock_devices(struct soft_vcpu *vcpu)
{
    uint32_t self = vcpu->cpu.id + 1;

    atomic_compare_exchange_strong(&vcpu->vm->share.device_owner, &self, 0);
}

/* Have the others come back from what they left for? */
static bool devices_idle(const struct soft_vcpu *vcpu)
{
    const struct soft_vm *vm = vcpu->vm;

    for (unsigned i = 0; i < vm->cpus; i++)
        if (vm->vcpu[i] && i != vcpu->cpu.id && atomic_load(&vm->vcpu[i]->requests.device))
            return false;
    return true;
}

enum x86_rc soft_share_lock_devices(struct soft_vcpu *vcpu, bool begin)
{
    struct soft_share *share = &vcpu->vm->share;
    uint32_t owner = 0;

    if (!share->on)
        return X86_NEXT;
    if (!begin) {
        unlock_devices(vcpu);
        return X86_NEXT;
    }
    if (atomic_load(&share->device_owner) == vcpu->cpu.id + 1) /* started anew after an exit */
        return X86_NEXT;
    if (!atomic_compare_exchange_strong(&share->device_owner, &owner, vcpu->cpu.id + 1)) {
        sched_yield();
        return X86_AGAIN;
    }
    for (unsigned n = 0; !devices_idle(vcpu); n++) {
        if (soft_attention(vcpu)) { /* perhaps somebody waits for us */
            unlock_devices(vcpu);
            return X86_AGAIN;
        }
        wait_a_little(vcpu->vm, n);
    }
    return X86_NEXT;
}

/* The other side: we say that we go, then look; the owner says that it owns, then looks whether we have gone. */
bool soft_share_reach_device(struct soft_vcpu *vcpu)
{
    struct soft_share *share = &vcpu->vm->share;

    for (unsigned n = 0; share->on; n++) {
        uint32_t owner;

        atomic_store(&vcpu->requests.device, true);
        owner = atomic_load(&share->device_owner);
        if (!owner || owner == vcpu->cpu.id + 1)
            break;
        atomic_store(&vcpu->requests.device, false);
        if (atomic_load(&vcpu->cpu.events) & X86_EV_KICK)
            return false;
        wait_a_little(vcpu->vm, n);
    }
    return true;
}

void soft_share_reached_device(struct soft_vcpu *vcpu)
{
    if (vcpu->vm->share.on)
        atomic_store(&vcpu->requests.device, false);
}
