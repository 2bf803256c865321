/*
 * engine/kvm/memory.c: guest memory as KVM has it, a slot for each of mem/mem.h's,
 * and the log of pages that were written to.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "engine/kvm/kvm_internal.h"

#define PAGES_PER_WORD 64

static int set_slot(struct engine_vm *vm, unsigned i)
{
    const struct mem_slot *slot = mem_slot(vm->mem, i);
    const struct kvm_userspace_memory_region region = {
        .slot = i,
        .flags = slot->readonly ? KVM_MEM_READONLY
                 : vm->dirty    ? KVM_MEM_LOG_DIRTY_PAGES
                                : 0,
        .guest_phys_addr = slot->gpa,
        .memory_size = slot->size,
        .userspace_addr = (uint64_t)(uintptr_t)slot->host,
    };

    return kvm_ioctl(vm->fd, KVM_SET_USER_MEMORY_REGION, &region);
}

int kvm_memory_add(struct engine_vm *vm, struct error *err)
{
    for (unsigned i = 0; i < mem_slot_count(vm->mem); i++) {
        const struct mem_slot *slot = mem_slot(vm->mem, i);
        int rc = set_slot(vm, i);

        if (rc < 0)
            return error_set(err, rc, "KVM does not take %lu KiB of guest memory at %#lx: %s", slot->size >> 10,
                             slot->gpa, strerror(-rc));
    }
    return 0;
}

void kvm_memory_free(struct engine_vm *vm)
{
    for (unsigned i = 0; vm->dirty && i < mem_slot_count(vm->mem); i++)
        free(vm->dirty[i]);
    free(vm->dirty);
    vm->dirty = NULL;
}

/* What emulate.c writes KVM does not see: these pages are noted here, a bitmap a slot. */
static int make_bitmaps(struct engine_vm *vm)
{
    const unsigned count = mem_slot_count(vm->mem);

    vm->dirty = calloc(count, sizeof(vm->dirty[0]));
    for (unsigned i = 0; vm->dirty && i < count; i++) {
        vm->dirty[i] = calloc(engine_dirty_words(mem_slot(vm->mem, i)), sizeof(uint64_t));
        if (!vm->dirty[i])
            kvm_memory_free(vm);
    }
    return vm->dirty ? 0 : -ENOMEM;
}

int kvm_dirty_log(struct engine_vm *vm, bool on)
{
    int rc = 0;

    if (on == !!vm->dirty)
        return 0;
    if (on)
        rc = make_bitmaps(vm);
    else
        kvm_memory_free(vm);
    for (unsigned i = 0; i < mem_slot_count(vm->mem) && rc >= 0; i++)
        rc = set_slot(vm, i);
    return rc < 0 ? rc : 0;
}

int kvm_dirty_fetch(struct engine_vm *vm, unsigned i, uint64_t *bitmap)
{
    struct kvm_dirty_log log = {.slot = i, .dirty_bitmap = bitmap};
    int rc;

    if (!vm->dirty || i >= mem_slot_count(vm->mem))
        return -EINVAL;
    memset(bitmap, 0, engine_dirty_words(mem_slot(vm->mem, i)) * sizeof(*bitmap));
    rc = mem_slot(vm->mem, i)->readonly ? 0 : kvm_ioctl(vm->fd, KVM_GET_DIRTY_LOG, &log);
    for (uint64_t word = 0; word < engine_dirty_words(mem_slot(vm->mem, i)); word++)
        bitmap[word] |= atomic_exchange(&vm->dirty[i][word], 0);
    return rc < 0 ? rc : 0;
}

void kvm_memory_written(struct engine_vm *vm, gpa_t gpa)
{
    for (unsigned i = 0; vm->dirty && i < mem_slot_count(vm->mem); i++) {
        const struct mem_slot *slot = mem_slot(vm->mem, i);
        uint64_t page = (gpa - slot->gpa) >> PAGE_SHIFT;

        if (gpa - slot->gpa < slot->size)
            atomic_fetch_or(&vm->dirty[i][page / PAGES_PER_WORD], BIT(page % PAGES_PER_WORD));
    }
}
