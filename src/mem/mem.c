/* mem/mem.c: the guest-physical map: a small sorted array of slots. */
#include "mem/mem.h"

#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <unistd.h>

#define MAX_SLOTS 64
/* Guest RAM goes to host addresses from here on, far from where libraries and stacks are put. */
#define RAM_BASE 0x200000000000ull
/* What a huge page holds. */
#define PIECE MIB(2)
#define WORD  64 /* pieces in a word of a bitmap */

#ifndef MADV_COLLAPSE
#define MADV_COLLAPSE 25 /* since Linux 6.1 */
#endif

enum collapse { UNTRIED, WORKS, UNKNOWN /* to this kernel */ };

struct mem {
    unsigned count;
    struct mem_slot slot[MAX_SLOTS];
    int fd; /* RAM's file, or -1 */
    uint64_t fd_size;
    /* A bit for each piece of the file: nobody has touched it yet, or since it was given back. */
    _Atomic uint64_t *fresh;
    uint64_t pieces; /* that have a bit */
    _Atomic enum collapse collapse;
    void (*written)(void *opaque, gpa_t gpa, uint64_t len);
    void *opaque;
};

struct mem *mem_new(void)
{
    struct mem *mem = calloc(1, sizeof(*mem));

    if (mem)
        mem->fd = -1;
    return mem;
}

void mem_free(struct mem *mem)
{
    if (!mem)
        return;
    for (unsigned i = 0; i < mem->count; i++)
        if (mem->slot[i].owned)
            munmap(mem->slot[i].host, mem->slot[i].size);
    if (mem->fd >= 0)
        close(mem->fd);
    free(mem->fresh);
    free(mem);
}

static int add(struct mem *mem, const struct mem_slot *slot, struct error *err)
{
    unsigned at = 0;

    if (!slot->size || (slot->gpa | slot->size) & ~PAGE_MASK || slot->gpa + slot->size < slot->gpa)
        return error_set(err, -EINVAL, "memory at %#lx, %#lx bytes: not whole pages", slot->gpa, slot->size);
    if (mem->count == MAX_SLOTS)
        return error_set(err, -ENOSPC, "memory map: more than %u slots", MAX_SLOTS);
    while (at < mem->count && mem->slot[at].gpa < slot->gpa)
        at++;
    if ((at && mem->slot[at - 1].gpa + mem->slot[at - 1].size > slot->gpa) ||
        (at < mem->count && slot->gpa + slot->size > mem->slot[at].gpa))
        return error_set(err, -EINVAL, "memory at %#lx overlaps another slot", slot->gpa);
    memmove(&mem->slot[at + 1], &mem->slot[at], (mem->count - at) * sizeof(*slot));
    mem->slot[at] = *slot;
    mem->count++;
    return 0;
}

int mem_add(struct mem *mem, const struct mem_slot *slot, struct error *err)
{
    struct mem_slot callers = *slot;

    callers.fd = -1;
    return add(mem, &callers, err);
}

/* A file larger than a limit allows would be a signal. */
void mem_share_ram(struct mem *mem)
{
    struct rlimit limit;

    if (mem->fd >= 0 || getrlimit(RLIMIT_FSIZE, &limit) || limit.rlim_cur != RLIM_INFINITY)
        return;
    mem->fd = memfd_create("trapeze-ram", MFD_CLOEXEC);
    if (mem->fd < 0 || !fallocate(mem->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, 0, PAGE_SIZE))
        return;
    close(mem->fd);
    mem->fd = -1;
}

/* The file's descriptor if it has, or gets, all below end. */
static int file_up_to(struct mem *mem, uint64_t end)
{
    if (mem->fd < 0 || end <= mem->fd_size)
        return mem->fd;
    if (ftruncate(mem->fd, (off_t)end))
        return -1;
    mem->fd_size = end;
    return mem->fd;
}

static void *map_ram(int fd, gpa_t gpa, uint64_t size, struct error *err)
{
    void *host = mmap((void *)(uintptr_t)(RAM_BASE + gpa), size, PROT_READ | PROT_WRITE,
                      (fd < 0 ? MAP_PRIVATE | MAP_ANONYMOUS : MAP_SHARED) | MAP_NORESERVE, fd, (off_t)gpa);

    if (host == MAP_FAILED)
        error_set(err, -errno, "guest RAM of %lu MiB: %s", size >> 20, strerror(errno));
    else
        madvise(host, size, MADV_HUGEPAGE);
    return host;
}

static bool is_empty(const struct mem_slot *slot, uint64_t piece)
{
    unsigned char there[PIECE / PAGE_SIZE];
    unsigned char any = 0;

    if (mincore(slot->host + (piece * PIECE - slot->gpa), PIECE, there))
        return false;
    for (unsigned i = 0; i < sizeof(there); i++)
        any |= there[i] & 1;
    return !any;
}

/* The pieces in [gpa, gpa + len) of slot, and those of which much is in it, if the rest is not there either. A huge
 * page is where both its address and its offset are multiples. */
static void mark_fresh(struct mem *mem, const struct mem_slot *slot, gpa_t gpa, uint64_t len)
{
    const uint64_t first = ALIGN_UP(slot->gpa, PIECE) / PIECE, end = MIN((slot->gpa + slot->size) / PIECE, mem->pieces);

    if (slot->fd < 0 || ((uintptr_t)slot->host - slot->gpa) % PIECE)
        return;
    for (uint64_t i = MAX(first, gpa / PIECE); i < end && i * PIECE < gpa + len; i++) {
        const uint64_t within = MIN(gpa + len, (i + 1) * PIECE) - MAX(gpa, i * PIECE);

        if (within == PIECE || (within >= PIECE / 8 && is_empty(slot, i)))
            atomic_fetch_or(&mem->fresh[i / WORD], BIT(i % WORD));
    }
}

/* Without memory for the bits it goes in small pages. */
static void make_bits(struct mem *mem, uint64_t pieces)
{
    const uint64_t had = ALIGN_UP(mem->pieces, WORD) / WORD, words = ALIGN_UP(pieces, WORD) / WORD;
    _Atomic uint64_t *fresh;

    if (words <= had)
        return;
    fresh = realloc(mem->fresh, words * sizeof(*fresh));
    if (!fresh)
        return;
    memset(fresh + had, 0, (words - had) * sizeof(*fresh));
    mem->fresh = fresh;
    mem->pieces = words * WORD;
}

int mem_add_ram(struct mem *mem, gpa_t gpa, uint64_t size, struct error *err)
{
    struct mem_slot slot = {.gpa = gpa, .size = size, .owned = true, .fd = file_up_to(mem, gpa + size)};
    void *host = map_ram(slot.fd, gpa, size, err);
    int rc;

    if (host == MAP_FAILED)
        return -ENOMEM;
    slot.host = host;
    rc = add(mem, &slot, err);
    if (rc) {
        munmap(host, size);
        return rc;
    }
    if (slot.fd >= 0)
        make_bits(mem, (gpa + size) / PIECE);
    mark_fresh(mem, &slot, gpa, size);
    return 0;
}

const struct mem_slot *mem_find(const struct mem *mem, gpa_t gpa)
{
    for (unsigned i = 0; i < mem->count; i++)
        if (gpa - mem->slot[i].gpa < mem->slot[i].size)
            return &mem->slot[i];
    return NULL;
}

unsigned mem_slot_count(const struct mem *mem)
{
    return mem->count;
}

const struct mem_slot *mem_slot(const struct mem *mem, unsigned i)
{
    return &mem->slot[i];
}

void *mem_pointer(const struct mem *mem, gpa_t gpa, uint64_t len)
{
    const struct mem_slot *slot = mem_find(mem, gpa);

    if (!slot || len > slot->size - (gpa - slot->gpa))
        return NULL;
    return slot->host + (gpa - slot->gpa);
}

static bool all_memory(const struct mem *mem, gpa_t gpa, uint64_t len, bool write)
{
    while (len) {
        const struct mem_slot *slot = mem_find(mem, gpa);
        uint64_t piece;

        if (!slot || (write && slot->readonly))
            return false;
        piece = MIN(len, slot->size - (gpa - slot->gpa));
        gpa += piece;
        len -= piece;
    }
    return true;
}

int mem_read(const struct mem *mem, gpa_t gpa, void *data, uint64_t len)
{
    if (!all_memory(mem, gpa, len, false))
        return -EFAULT;
    while (len) {
        const struct mem_slot *slot = mem_find(mem, gpa);
        uint64_t piece = MIN(len, slot->size - (gpa - slot->gpa));

        memcpy(data, slot->host + (gpa - slot->gpa), piece);
        data = (uint8_t *)data + piece;
        gpa += piece;
        len -= piece;
    }
    return 0;
}

/* Most kernels are not set to give huge pages to a file's memory at a fault, but do when asked for this one, if some of
 * it is there. A kernel that does not know of this says EINVAL the first time; later that is said of a piece that was
 * given back meanwhile. */
static void collapse(struct mem *mem, uint64_t piece)
{
    uint8_t *host = mem_pointer(mem, piece * PIECE, PIECE);

    if (!host || atomic_load(&mem->collapse) == UNKNOWN)
        return;
    __atomic_fetch_or(host, 0, __ATOMIC_RELAXED);
    if (!madvise(host, PIECE, MADV_COLLAPSE))
        atomic_store(&mem->collapse, WORKS);
    else if (errno == EINVAL && atomic_load(&mem->collapse) == UNTRIED)
        atomic_store(&mem->collapse, UNKNOWN);
}

void mem_touch(struct mem *mem, gpa_t gpa, uint64_t len)
{
    for (uint64_t i = gpa / PIECE; i < mem->pieces && i * PIECE < gpa + len; i++) {
        _Atomic uint64_t *word = &mem->fresh[i / WORD];
        const uint64_t bit = BIT(i % WORD);

        if (unlikely(atomic_load_explicit(word, memory_order_relaxed) & bit) && atomic_fetch_and(word, ~bit) & bit)
            collapse(mem, i);
    }
}

int mem_give_back(struct mem *mem, gpa_t gpa, uint64_t len)
{
    const struct mem_slot *slot = mem_find(mem, gpa);
    void *host = mem_pointer(mem, gpa, len);

    if ((gpa | len) & ~PAGE_MASK || !host || slot->readonly || !slot->owned)
        return -EINVAL;
    if (madvise(host, len, slot->fd < 0 ? MADV_DONTNEED : MADV_REMOVE))
        return -errno;
    mark_fresh(mem, slot, gpa, len);
    mem_written(mem, gpa, len);
    return 0;
}

int mem_write(struct mem *mem, gpa_t gpa, const void *data, uint64_t len)
{
    const gpa_t start = gpa;
    const uint64_t whole = len;

    if (!all_memory(mem, gpa, len, true))
        return -EFAULT;
    mem_touch(mem, gpa, len);
    while (len) {
        const struct mem_slot *slot = mem_find(mem, gpa);
        uint64_t piece = MIN(len, slot->size - (gpa - slot->gpa));

        memcpy(slot->host + (gpa - slot->gpa), data, piece);
        data = (const uint8_t *)data + piece;
        gpa += piece;
        len -= piece;
    }
    mem_written(mem, start, whole);
    return 0;
}

void mem_set_listener(struct mem *mem, void (*written)(void *opaque, gpa_t gpa, uint64_t len), void *opaque)
{
    mem->written = written;
    mem->opaque = opaque;
}

void mem_written(struct mem *mem, gpa_t gpa, uint64_t len)
{
    if (mem->written)
        mem->written(mem->opaque, gpa, len);
}
