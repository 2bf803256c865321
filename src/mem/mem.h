/*
 * mem/mem.h: the guest-physical map: which addresses are RAM or ROM, and where
 * that memory is in the host. Everything else belongs to the bus.
 *
 * RAM is at an address the monitor chooses, in huge pages where the host gives
 * them: private memory, or a file's, which can be mapped a second time. The map
 * changes only while vCPUs stand still; lookups take no lock.
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
    int fd;        /* of RAM that can be mapped again: the page at gpa is the one at offset gpa; -1: it cannot.
                      mem_add() and mem_add_ram() set it */
};

struct mem *mem_new(void);
void mem_free(struct mem *mem);

/* RAM added from now on is of a file, if there can be one whose pages can be given back; it is private if not. */
void mem_share_ram(struct mem *mem);
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

/* Before [gpa, gpa + len) is used: the first time in each 2 MiB of a file's RAM gets them as a huge page (private
 * memory has it from the fault itself). Cheap after that. What lies outside of RAM is passed over. Any thread. */
void mem_touch(struct mem *mem, gpa_t gpa, uint64_t len);
/* The host's again, and zeros for the guest, until used: whole pages within one slot of RAM. -EINVAL: they are not; or
 * a negative errno: the host cannot do that. Nothing has changed then. Any thread. */
int mem_give_back(struct mem *mem, gpa_t gpa, uint64_t len);

/* Write-watch: engines mark pages whose content they have derived something from (decoded code); whoever writes to
 * guest memory outside the vCPU (DMA, loaders: mem_write and mem_give_back do it themselves) calls mem_written, from
 * any thread, before it tells the guest of the data, so that it is dropped. */
void mem_set_listener(struct mem *mem, void (*written)(void *opaque, gpa_t gpa, uint64_t len), void *opaque);
void mem_written(struct mem *mem, gpa_t gpa, uint64_t len);

#endif
