/* mem/mem.c: the guest-physical map: a small sorted array of slots. */
#include "mem/mem.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define MAX_SLOTS 64
/* Guest RAM goes to host addresses from here on, far from where libraries and stacks are put. */
#define RAM_BASE 0x200000000000ull

struct mem {
    unsigned count;
    struct mem_slot slot[MAX_SLOTS];
    void (*written)(void *opaque, gpa_t gpa, uint64_t len);
    void *opaque;
};

struct mem *mem_new(void)
{
    return calloc(1, sizeof(struct mem));
}

void mem_free(struct mem *mem)
{
    if (!mem)
        return;
    for (unsigned i = 0; i < mem->count; i++)
        if (mem->slot[i].owned)
            munmap(mem->slot[i].host, mem->slot[i].size);
    free(mem);
}

int mem_add(struct mem *mem, const struct mem_slot *slot, struct error *err)
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

/* Private memory: for a file's, most kernels are not set to give huge pages. */
static void *map_ram(gpa_t gpa, uint64_t size, struct error *err)
{
    void *host = mmap((void *)(uintptr_t)(RAM_BASE + gpa), size, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

    if (host == MAP_FAILED)
        error_set(err, -errno, "guest RAM of %lu MiB: %s", size >> 20, strerror(errno));
    else
        madvise(host, size, MADV_HUGEPAGE);
    return host;
}

int mem_add_ram(struct mem *mem, gpa_t gpa, uint64_t size, struct error *err)
{
    struct mem_slot slot = {.gpa = gpa, .size = size, .owned = true};
    void *host = map_ram(gpa, size, err);
    int rc;

    if (host == MAP_FAILED)
        return -ENOMEM;
    slot.host = host;
    rc = mem_add(mem, &slot, err);
    if (rc)
        munmap(host, size);
    return rc;
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

int mem_write(struct mem *mem, gpa_t gpa, const void *data, uint64_t len)
{
    const gpa_t start = gpa;
    const uint64_t whole = len;

    if (!all_memory(mem, gpa, len, true))
        return -EFAULT;
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
