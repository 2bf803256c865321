/* engine/bt/shadow.c: see shadow.h. */
#include "engine/bt/shadow.h"

#include <pthread.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <ucontext.h>

#include "base/log.h"
#include "engine/bt/emit.h"
#include "mem/mem.h"
#include "x86/bus.h"
#include "x86/cpuid.h"

#define TABLE_SHIFT   21 /* what one of the guest's last tables maps */
#define TABLE_PAGES   512
#define TABLE_HASH    256
#define MAX_PIECES    16384 /* pieces of the host's address space, at the most; a host gives 65530: */
#define ALL_PIECES    40000 /* of all vCPUs */
#define AROUND        16    /* pages that are mapped with the one that is wanted, at the most, on either side */
#define REGION_SIZE   BIT(BT_REGION_SHIFT)
#define REGION_MARGIN GIB(4)
/* Of a region that is not mapped: added to an address of user space this is not canonical; its lowest byte is the
 * region's number. */
#define NO_REGION      0x5a00000000000000ull
#define NO_REGION_MASK 0xff00000000000000ull

/* A space gets the shadow if it runs user code at so many looks in a row, which are so far apart, with few page faults:
 * each would be more expensive. */
#define LOOKS       6
#define LOOK_NS     1000000ull
#define MOST_FAULTS 5 /* a millisecond */
/* What it may cost: a fault takes about so long; in the long run a share of the time, and a credit to begin with. */
#define FAULT_NS   15000
#define UNMAP_NS   30000 /* other processors have to be told */
#define COST_SHARE 1 / 3
#define CREDIT_NS  25000000ll
#define FIRST_REST 1000000000ull /* for so long none that did not pay begins again; then twice as long */
#define REST_LIMIT 60000000000ull

#define PTE_P   BIT(0)
#define PTE_W   BIT(1)
#define PTE_U   BIT(2)
#define PTE_A   BIT(5)
#define PTE_D   BIT(6)
#define PTE_PS  BIT(7)
#define PTE_NX  BIT(63)
#define PTE_GPA 0xffffffffff000ull

/* Pages of the 2 MiB at base: each guest-physical address with what it is mapped for; 0: not mapped. */
struct table {
    gva_t base;
    struct table *next;
    uint64_t page[TABLE_PAGES];
};
#define MAPPED   1
#define WRITABLE 2

struct bt_shadow {
    struct table *tables[TABLE_HASH];
    unsigned pieces;           /* of the host's address space, at the most */
    unsigned pages;            /* mapped */
    uint8_t *host[BT_REGIONS]; /* of each region's first address; NULL: not mapped */
    /* Left by the signal's handler: an access faulted; at this host address, or in a region that is not mapped. */
    bool faulted;
    int region; /* -1: none */
    uint64_t at;
    /* Who is to have it. */
    gpa_t candidate;
    unsigned looks;
    uint64_t looked_ns, exceptions, not_before_ns, rest_ns;
    int64_t credit;
    bool refused; /* the host does not let us */
};

/* --- the host's faults ----------------------------------------------------------------------------------- */

static __thread struct bt_vcpu *volatile running;
static struct sigaction before;

/* Leaves a note, and goes on at what is off the straight path. S0, S1: one holds what region[] gave, if it has been
 * read. */
static bool take_fault(struct bt_vcpu *vcpu, const siginfo_t *info, greg_t *regs)
{
    const uint64_t at = (uint64_t)regs[REG_RIP] - (uint64_t)vcpu->cache.rx;
    const uint64_t s0 = (uint64_t)regs[REG_R10], s1 = (uint64_t)regs[REG_R11];
    struct bt_shadow *shadow = vcpu->shadow;
    const uint32_t to = shadow && at < vcpu->cache.size ? bt_code_fault(vcpu, (uint32_t)at) : 0;

    if (!to)
        return false;
    shadow->faulted = true;
    shadow->at = info->si_code == SEGV_MAPERR || info->si_code == SEGV_ACCERR ? (uint64_t)info->si_addr : 0;
    shadow->region = -1;
    if ((s1 & NO_REGION_MASK) == NO_REGION && (uint8_t)s1 < BT_REGIONS)
        shadow->region = (uint8_t)s1;
    else if ((s0 & NO_REGION_MASK) == NO_REGION && (uint8_t)s0 < BT_REGIONS)
        shadow->region = (uint8_t)s0;
    regs[REG_RIP] = (greg_t)(vcpu->cache.rx + to);
    return true;
}

/* What is not ours is whoever's it was before. If that is the default, or a handler that becomes it, the access is made
 * once more. */
static void pass_on(int number, siginfo_t *info, void *context)
{
    if (before.sa_handler == SIG_DFL || before.sa_handler == SIG_IGN || (before.sa_flags & SA_RESETHAND)) {
        sigaction(number, &before, NULL);
        if (info->si_code <= 0) /* nobody's access, but kill() */
            raise(number);
    } else if (before.sa_flags & SA_SIGINFO) {
        before.sa_sigaction(number, info, context);
    } else {
        before.sa_handler(number);
    }
}

static void on_signal(int number, siginfo_t *info, void *context)
{
    struct bt_vcpu *vcpu = running;

    if (!vcpu || info->si_code <= 0 || !take_fault(vcpu, info, ((ucontext_t *)context)->uc_mcontext.gregs))
        pass_on(number, info, context);
}

static bool caught;

static void catch_signal(void)
{
    struct sigaction action = {.sa_sigaction = on_signal};

    if (sigaction(SIGSEGV, NULL, &before))
        return;
    action.sa_mask = before.sa_mask;
    action.sa_flags = SA_SIGINFO | SA_ONSTACK | (before.sa_flags & SA_NODEFER);
    caught = !sigaction(SIGSEGV, &action, NULL);
}

/* Threads begin with all signals blocked. */
static __thread bool unblocked;

static bool catch_faults(void)
{
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    sigset_t faults;

    pthread_once(&once, catch_signal);
    sigemptyset(&faults);
    sigaddset(&faults, SIGSEGV);
    unblocked = caught && !pthread_sigmask(SIG_UNBLOCK, &faults, NULL);
    return unblocked;
}

void bt_shadow_enter(struct bt_vcpu *vcpu)
{
    if (unlikely(vcpu->shadow && !unblocked))
        catch_faults();
    running = vcpu;
}

void bt_shadow_leave(void)
{
    running = NULL;
}

bool bt_shadow_faulted(const struct bt_vcpu *vcpu)
{
    return vcpu->shadow && vcpu->shadow->faulted;
}

/* --- the guest's tables ------------------------------------------------------------------------------------- */

/* What maps the 2 MiB that a linear address lies in: a table's entries, or one entry for them all. */
struct mapping {
    const uint64_t *entries;
    uint64_t large;
    unsigned shift;  /* of the page that `large` maps */
    uint64_t rights; /* W, U: of all levels above */
};

static const uint64_t *table_at(struct bt_vcpu *vcpu, gpa_t gpa)
{
    const struct mem_slot *slot = mem_find(vcpu->soft.vm->mem, gpa);

    return slot && !x86_lapic_at(&vcpu->soft.cpu.lapic, gpa) ? (const uint64_t *)(slot->host + (gpa - slot->gpa))
                                                             : NULL;
}

static bool is_valid(const struct bt_vcpu *vcpu, uint64_t entry)
{
    const uint64_t reserved = PTE_GPA & ~(BIT(x86_phys_bits()) - 1);

    return (entry & PTE_P) && !(entry & reserved) && (!(entry & PTE_NX) || (vcpu->soft.cpu.msr.efer & EFER_NXE));
}

static bool find_mapping(struct bt_vcpu *vcpu, gva_t lin, struct mapping *mapping)
{
    gpa_t at = vcpu->soft.tlb.shadow.root;

    *mapping = (struct mapping){.rights = PTE_W | PTE_U};
    for (unsigned shift = 39; shift > PAGE_SHIFT; shift -= 9) {
        const uint64_t *table = table_at(vcpu, at);
        const uint64_t entry = table ? __atomic_load_n(&table[lin >> shift & 511], __ATOMIC_ACQUIRE) : 0;

        if (!is_valid(vcpu, entry) || (shift == 39 && (entry & PTE_PS)))
            return false;
        if (entry & PTE_PS) {
            mapping->large = entry;
            mapping->shift = shift;
            return true;
        }
        mapping->rights &= entry;
        at = entry & PTE_GPA;
    }
    mapping->entries = table_at(vcpu, at);
    return mapping->entries != NULL;
}

/* The page's guest-physical address with what the guest's tables let user code do with it, without their being changed
 * by that. 0: nothing. */
static uint64_t look_up(const struct bt_vcpu *vcpu, const struct mapping *mapping, gva_t lin)
{
    const uint64_t entry = mapping->entries
                               ? __atomic_load_n(&mapping->entries[lin >> PAGE_SHIFT & 511], __ATOMIC_ACQUIRE)
                               : mapping->large;
    const uint64_t size = mapping->entries ? PAGE_SIZE : BIT(mapping->shift);
    gpa_t gpa;

    if (!is_valid(vcpu, entry) || !(entry & mapping->rights & PTE_U) || !(entry & PTE_A))
        return 0;
    if (!mapping->entries && (entry & (size - 1) & PTE_GPA & ~BIT(12))) /* reserved; bit 12: PAT */
        return 0;
    gpa = (entry & PTE_GPA & ~(size - 1)) | (lin & (size - 1) & PAGE_MASK);
    return gpa | MAPPED | ((entry & PTE_D) && (entry & mapping->rights & PTE_W) ? WRITABLE : 0);
}

/* --- mapping ------------------------------------------------------------------------------------------------ */

static struct table **slot_of(struct bt_shadow *shadow, gva_t lin)
{
    return &shadow->tables[lin >> TABLE_SHIFT & (TABLE_HASH - 1)];
}

static struct table *find_table(struct bt_shadow *shadow, gva_t lin)
{
    const gva_t base = lin >> TABLE_SHIFT << TABLE_SHIFT;
    struct table *table = *slot_of(shadow, lin);

    while (table && table->base != base)
        table = table->next;
    return table;
}

static struct table *get_table(struct bt_shadow *shadow, gva_t lin)
{
    struct table *table = find_table(shadow, lin);

    if (table)
        return table;
    table = calloc(1, sizeof(*table));
    if (!table)
        return NULL;
    table->base = lin >> TABLE_SHIFT << TABLE_SHIFT;
    table->next = *slot_of(shadow, lin);
    *slot_of(shadow, lin) = table;
    return table;
}

static uint8_t *host_of(const struct bt_shadow *shadow, gva_t lin)
{
    return shadow->host[lin >> BT_REGION_SHIFT] + (lin & (REGION_SIZE - 1));
}

/* Address space with nothing in it. */
static bool reserve(uint8_t *at, size_t size)
{
    return mmap(at, size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED, -1, 0) != MAP_FAILED;
}

static bool map_region(struct bt_vcpu *vcpu, unsigned region)
{
    const size_t size = REGION_SIZE + 2 * REGION_MARGIN;
    uint8_t *host = mmap(NULL, size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

    if (host == MAP_FAILED) { /* there is no more address space: not to be tried often */
        vcpu->shadow->credit = -1;
        vcpu->shadow->rest_ns = REST_LIMIT;
        return false;
    }
    madvise(host, size, MADV_DONTDUMP);
    vcpu->shadow->host[region] = host + REGION_MARGIN;
    vcpu->region[region] = (uint64_t)(host + REGION_MARGIN) - ((uint64_t)region << BT_REGION_SHIFT);
    return true;
}

static void unmap_region(struct bt_vcpu *vcpu, unsigned region)
{
    struct bt_shadow *shadow = vcpu->shadow;

    if (shadow && shadow->host[region]) {
        munmap(shadow->host[region] - REGION_MARGIN, REGION_SIZE + 2 * REGION_MARGIN);
        shadow->host[region] = NULL;
    }
    vcpu->region[region] = NO_REGION | region;
}

/* Everything is forgotten. */
static void drop_all(struct bt_vcpu *vcpu)
{
    struct bt_shadow *shadow = vcpu->shadow;

    for (unsigned i = 0; i < TABLE_HASH; i++) {
        while (shadow->tables[i]) {
            struct table *table = shadow->tables[i];

            shadow->tables[i] = table->next;
            free(table);
        }
    }
    for (unsigned i = 0; i < BT_REGIONS; i++)
        unmap_region(vcpu, i);
    shadow->pieces = shadow->pages = 0;
}

/* Pages [first, last) of the table are not mapped any more. false: the host could not do it. */
static bool unmap_pages(struct bt_vcpu *vcpu, struct table *table, unsigned first, unsigned last)
{
    memset(&table->page[first], 0, (last - first) * sizeof(table->page[0]));
    vcpu->shadow->pages -= last - first;
    vcpu->shadow->pieces++;
    vcpu->shadow->credit -= UNMAP_NS;
    return reserve(host_of(vcpu->shadow, table->base + first * PAGE_SIZE), (last - first) * PAGE_SIZE);
}

/* What the host may have the page for: what the guest's tables allow, but for writing where that is to be asked. 0: it
 * is no memory that can be mapped again. */
static uint64_t allowed(struct bt_vcpu *vcpu, uint64_t page)
{
    struct x86_cpu *cpu = &vcpu->soft.cpu;
    const struct mem_slot *slot = mem_find(vcpu->soft.vm->mem, page & PTE_GPA);
    unsigned flags;

    if (!page || !slot || slot->fd < 0 || x86_lapic_at(&cpu->lapic, page & PTE_GPA))
        return 0;
    if (!(page & WRITABLE))
        return page;
    cpu->bus->page(cpu, page & PTE_GPA, &flags);
    if ((flags & (X86_PAGE_READONLY | X86_PAGE_WATCHED)) ||
        ((flags & X86_PAGE_SHARED) && !cpu->bus->claim(cpu, page & PTE_GPA)))
        return page & ~(uint64_t)WRITABLE;
    return page;
}

/* Is the page at number n of the table, which is not mapped, to be mapped as `page` says? */
static bool lies_at(struct bt_vcpu *vcpu, const struct table *table, const struct mapping *mapping, unsigned n,
                    uint64_t page)
{
    const uint64_t now = look_up(vcpu, mapping, table->base + n * PAGE_SIZE);

    return !table->page[n] && ((now ^ page) & ~(uint64_t)WRITABLE) == 0 && allowed(vcpu, now) == page;
}

/* Maps the page at number n of the table, and neighbours that lie likewise. */
static bool map_pages(struct bt_vcpu *vcpu, struct table *table, const struct mapping *mapping, unsigned n)
{
    struct bt_shadow *shadow = vcpu->shadow;
    const uint64_t page = allowed(vcpu, look_up(vcpu, mapping, table->base + n * PAGE_SIZE));
    const struct mem_slot *slot;
    unsigned first = n, last = n;
    void *host;

    if (!page || page == table->page[n])
        return false;
    slot = mem_find(vcpu->soft.vm->mem, page & PTE_GPA);
    while (last + 1 < TABLE_PAGES && last < n + AROUND && page + (last + 1 - n) * PAGE_SIZE - slot->gpa < slot->size &&
           lies_at(vcpu, table, mapping, last + 1, page + (last + 1 - n) * PAGE_SIZE))
        last++;
    while (first > 0 && first + AROUND > n && (page & PTE_GPA) - slot->gpa >= (n - first + 1) * PAGE_SIZE &&
           lies_at(vcpu, table, mapping, first - 1, page - (n - first + 1) * PAGE_SIZE))
        first--;
    host = mmap(host_of(shadow, table->base + first * PAGE_SIZE), (last + 1 - first) * PAGE_SIZE,
                PROT_READ | (page & WRITABLE ? PROT_WRITE : 0), MAP_SHARED | MAP_FIXED | MAP_POPULATE, slot->fd,
                (off_t)((page & PTE_GPA) - (n - first) * PAGE_SIZE));
    if (host == MAP_FAILED) { /* what was there may be gone, and others' memory come there */
        drop_all(vcpu);
        return false;
    }
    if (!mapping->entries)
        x86_tlb_note_large(&vcpu->soft.tlb, table->base, mapping->shift);
    shadow->pages += last + 1 - first - (table->page[n] != 0);
    for (unsigned i = first; i <= last; i++)
        table->page[i] = page + i * PAGE_SIZE - n * PAGE_SIZE;
    shadow->pieces += 2;
    vcpu->soft.cpu.counters.shadow_maps++;
    return true;
}

static bool is_full(const struct bt_vcpu *vcpu)
{
    return vcpu->shadow->pieces > MIN(MAX_PIECES, ALL_PIECES / vcpu->soft.vm->cpus);
}

/* Maps the page at a linear address, as far as the guest has mapped it. */
static bool map_page(struct bt_vcpu *vcpu, gva_t lin)
{
    struct bt_shadow *shadow = vcpu->shadow;
    struct table *table;
    struct mapping mapping;

    if (!find_mapping(vcpu, lin, &mapping))
        return false;
    if (is_full(vcpu))
        drop_all(vcpu);
    if (!shadow->host[lin >> BT_REGION_SHIFT] && !map_region(vcpu, (unsigned)(lin >> BT_REGION_SHIFT)))
        return false;
    table = get_table(shadow, lin);
    return table && map_pages(vcpu, table, &mapping, lin >> PAGE_SHIFT & (TABLE_PAGES - 1));
}

/* The linear address of a host address. 0: it is in no region. */
static gva_t linear_of(const struct bt_shadow *shadow, uint64_t host)
{
    for (unsigned i = 0; i < BT_REGIONS; i++)
        if (shadow->host[i] && host - (uint64_t)shadow->host[i] < REGION_SIZE)
            return ((gva_t)i << BT_REGION_SHIFT) + (host - (uint64_t)shadow->host[i]);
    return 0;
}

bool bt_shadow_map(struct bt_vcpu *vcpu, bool done)
{
    struct x86_tlb *tlb = &vcpu->soft.tlb;
    struct bt_shadow *shadow = vcpu->shadow;
    const gva_t lin = linear_of(shadow, shadow->at);

    shadow->faulted = false;
    shadow->credit -= FAULT_NS;
    vcpu->soft.cpu.counters.shadow_faults++;
    if (!done)
        tlb->shadow.wanted = lin;
    if (!done || !tlb->shadowed || x86_shadow_is_stale(tlb))
        return true; /* it has changed meanwhile: the next time */
    if (shadow->region >= 0)
        return !shadow->host[shadow->region] && map_region(vcpu, (unsigned)shadow->region);
    return lin && map_page(vcpu, lin);
}

/* --- what changes ------------------------------------------------------------------------------------------- */

/* Is the page mapped otherwise than the guest's tables have it now? What it is not mapped for does not matter. */
static bool differs(uint64_t mapped, uint64_t now)
{
    return (mapped & ~(uint64_t)WRITABLE) != (now & ~(uint64_t)WRITABLE) || (mapped & ~now & WRITABLE);
}

static bool compare(struct bt_vcpu *vcpu, struct table *table, unsigned first, unsigned last)
{
    const struct mapping none = {.rights = 0};
    struct mapping mapping;

    if (!find_mapping(vcpu, table->base, &mapping))
        mapping = none;
    for (unsigned i = first; i < last; i++) {
        unsigned end = i;

        while (end < last && table->page[end] &&
               differs(table->page[end], look_up(vcpu, &mapping, table->base + end * PAGE_SIZE)))
            end++;
        if (end > i && !unmap_pages(vcpu, table, i, end))
            return false;
        i = end;
    }
    return true;
}

static bool compare_all(struct bt_vcpu *vcpu)
{
    for (unsigned i = 0; i < TABLE_HASH; i++)
        for (struct table *table = vcpu->shadow->tables[i]; table; table = table->next)
            if (!compare(vcpu, table, 0, TABLE_PAGES))
                return false;
    return true;
}

static bool compare_flushed(struct bt_vcpu *vcpu)
{
    const struct x86_tlb_shadow *at = &vcpu->soft.tlb.shadow;

    for (unsigned i = 0; i < at->flushed; i++) {
        struct table *table = find_table(vcpu->shadow, at->page[i]);
        const unsigned n = at->page[i] >> PAGE_SHIFT & (TABLE_PAGES - 1);

        if (table && !compare(vcpu, table, n, n + 1))
            return false;
    }
    return true;
}

void bt_shadow_protect(struct bt_vcpu *vcpu, gpa_t gpa)
{
    struct bt_shadow *shadow = vcpu->shadow;

    for (unsigned i = 0; shadow && i < TABLE_HASH; i++)
        for (struct table *table = shadow->tables[i]; table; table = table->next)
            for (unsigned n = 0; n < TABLE_PAGES; n++)
                if (table->page[n] == (gpa | MAPPED | WRITABLE) && !unmap_pages(vcpu, table, n, n + 1)) {
                    drop_all(vcpu);
                    return;
                }
}

/* --- who has it --------------------------------------------------------------------------------------------- */

/* Translations and return addresses are others from here on. */
static void give_to(struct bt_vcpu *vcpu, bool on, gpa_t root)
{
    struct x86_tlb *tlb = &vcpu->soft.tlb;

    drop_all(vcpu);
    tlb->shadow.on = on;
    tlb->shadow.root = root;
    tlb->shadow.id = tlb->shadow.wanted = 0;
    x86_tlb_select(&vcpu->soft.cpu);
}

/* Nothing of it is left: the table's root is another process's now, which may be gone soon. */
static bool is_another(const struct bt_vcpu *vcpu, unsigned pages)
{
    return pages && !vcpu->shadow->pages && !vcpu->soft.vm->shadow_soon;
}

bool bt_shadow_refresh(struct bt_vcpu *vcpu)
{
    struct x86_tlb *tlb = &vcpu->soft.tlb;
    struct x86_tlb_shadow *at = &tlb->shadow;
    const bool all = at->id != tlb->space->id || at->flushed > TLB_SHADOW_LOG;
    const unsigned pages = vcpu->shadow->pages;

    vcpu->soft.cpu.counters.shadow_compared++;
    if (at->gone || is_full(vcpu)) {
        drop_all(vcpu);
    } else if (!(all ? compare_all(vcpu) : compare_flushed(vcpu))) {
        drop_all(vcpu);
    } else if (all && is_another(vcpu, pages)) {
        give_to(vcpu, false, 0);
        return false;
    }
    at->gone = false;
    at->flushed = 0;
    at->id = tlb->space->id;
    if (at->wanted)
        map_page(vcpu, at->wanted);
    at->wanted = 0;
    return true;
}

static bool make_shadow(struct bt_vcpu *vcpu)
{
    if (vcpu->shadow)
        return !vcpu->shadow->refused;
    vcpu->shadow = calloc(1, sizeof(*vcpu->shadow));
    if (!vcpu->shadow)
        return false;
    vcpu->shadow->rest_ns = FIRST_REST;
    vcpu->shadow->refused = !vcpu->gs;
    return vcpu->gs;
}

/* It is not worth its faults. */
static void demote(struct bt_vcpu *vcpu, uint64_t now)
{
    struct bt_shadow *shadow = vcpu->shadow;

    TRACE(BT, "shadow of %#lx ends: too many faults", vcpu->soft.tlb.shadow.root);
    shadow->not_before_ns = now + shadow->rest_ns;
    shadow->rest_ns = MIN(2 * shadow->rest_ns, REST_LIMIT);
    shadow->looks = 0;
    give_to(vcpu, false, 0);
}

static void promote(struct bt_vcpu *vcpu, gpa_t root)
{
    const struct mem_slot *slot = mem_find(vcpu->soft.vm->mem, root);

    if (!slot)
        return;
    vcpu->shadow->refused = slot->fd < 0 || !catch_faults();
    if (vcpu->shadow->refused)
        return;
    TRACE(BT, "shadow of %#lx begins", root);
    give_to(vcpu, true, root);
    vcpu->shadow->credit = CREDIT_NS;
    vcpu->soft.cpu.counters.shadows++;
}

void bt_shadow_consider(struct bt_vcpu *vcpu)
{
    const struct x86_cpu *cpu = &vcpu->soft.cpu;
    const struct x86_tlb_shadow *at = &vcpu->soft.tlb.shadow;
    const bool user = cpu->cpl == 3 && cpu->mode == MODE_LONG64;
    const bool soon = vcpu->soft.vm->shadow_soon;
    const gpa_t root = cpu->cr3 & CR3_ROOT;
    struct bt_shadow *shadow;
    uint64_t now, elapsed, exceptions;

    if (!user && (!vcpu->shadow || (!vcpu->shadow->looks && !at->on)))
        return;
    if (!make_shadow(vcpu))
        return;
    shadow = vcpu->shadow;
    now = counter_ns();
    if (at->on && shadow->credit < 0 && !soon)
        demote(vcpu, now);
    elapsed = now - shadow->looked_ns;
    if (elapsed < LOOK_NS && !soon)
        return;
    exceptions = cpu->counters.exceptions - shadow->exceptions;
    shadow->exceptions = cpu->counters.exceptions;
    shadow->looked_ns = now;
    if (user && at->on && at->root == root) {
        shadow->looks = 0;
        shadow->credit += (int64_t)(MIN(elapsed, 10 * LOOK_NS) * COST_SHARE);
        if (shadow->credit >= CREDIT_NS) { /* it pays */
            shadow->credit = CREDIT_NS;
            shadow->rest_ns = FIRST_REST;
        }
        return;
    }
    if (!soon && (!user || root != shadow->candidate || now < shadow->not_before_ns ||
                  exceptions * LOOK_NS > MOST_FAULTS * elapsed))
        shadow->looks = 0;
    else
        shadow->looks++;
    shadow->candidate = root;
    if (user && (soon || shadow->looks >= LOOKS))
        promote(vcpu, root);
}

void bt_shadow_init(struct bt_vcpu *vcpu)
{
    for (unsigned i = 0; i < BT_REGIONS; i++)
        vcpu->region[i] = NO_REGION | i;
}

void bt_shadow_fini(struct bt_vcpu *vcpu)
{
    if (!vcpu->shadow)
        return;
    drop_all(vcpu);
    free(vcpu->shadow);
    vcpu->shadow = NULL;
}
