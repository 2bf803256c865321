/*
 * mem/mem.h: the guest-physical map: which addresses are RAM or ROM, and where
 * that memory is in the host. Everything else belongs to the bus.
 *
 * RAM is private memory at an address the monitor chooses, in huge pages where
 * the host gives them. The map changes only while vCPUs stand still; lookups take
 * no lock.
 */
#ifndef MEM_MEM_H
#define MEM_MEM_H

#include "base/error.h"
#include "base/types.h"

struct mem;

struct mem_slot {
    gpa_t gpa;     /* page-aligned */
    uint64_t size; /* bytes, whole pages */
    uint8_t *host;
    bool readonly; /* ROM */
    bool owned;    /* host memory is unmapped with the map */
};

struct mem *mem_new(void);
void mem_free(struct mem *mem);

/* Adds RAM (zeroed) at gpa. -ENOMEM, -EINVAL (overlap, alignment) with a message. */
int mem_add_ram(struct mem *mem, gpa_t gpa, uint64_t size, struct error *err);
/* Adds memory of the caller's (host, size bytes): ROM, or a window into somebody's RAM. */
int mem_add(struct mem *mem, const struct mem_slot *slot, struct error *err);

const struct mem_slot *mem_find(const struct mem *mem, gpa_t gpa); /* NULL: no memory there */
unsigned mem_slot_count(const struct mem *mem);
const struct mem_slot *mem_slot(const struct mem *mem, unsigned i); /* sorted by gpa */

/* Host pointer to len bytes at gpa, all within one slot; NULL if not. For loaders and devices, after their checks. */
void *mem_pointer(const struct mem *mem, gpa_t gpa, uint64_t len);
/* Checked copies, over slot edges. -EFAULT: part of the range is not RAM (nothing copied). */
int mem_read(const struct mem *mem, gpa_t gpa, void *data, uint64_t len);
int mem_write(struct mem *mem, gpa_t gpa, const void *data, uint64_t len);

/* Write-watch: engines mark pages whose content they have derived something from (decoded code); whoever writes to
 * guest memory outside the vCPU (DMA, loaders: mem_write does it itself) calls mem_written, from any thread, before it
 * tells the guest of the data, so that it is dropped. */
void mem_set_listener(struct mem *mem, void (*written)(void *opaque, gpa_t gpa, uint64_t len), void *opaque);
void mem_written(struct mem *mem, gpa_t gpa, uint64_t len);

#endif
