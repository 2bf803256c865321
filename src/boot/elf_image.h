/*
 * boot/elf_image.h: an ELF executable for x86, 32 or 64 bits, checked once and
 * put into one form. For vmlinux files, PVH and multiboot kernels, and the
 * kernel inside a bzImage.
 */
#ifndef BOOT_ELF_IMAGE_H
#define BOOT_ELF_IMAGE_H

#include "boot/boot_internal.h"

#define ELF_SEGMENTS_MAX 64

struct elf_segment {
    uint64_t offset, filesz;      /* inside the file */
    uint64_t paddr, vaddr, memsz; /* memsz >= filesz; paddr + memsz does not wrap */
};

struct elf_image {
    const uint8_t *data;
    uint64_t size;
    bool is64;
    uint64_t entry; /* e_entry as it is: physical for vmlinux, virtual for others */
    unsigned loads, notes;
    struct elf_segment load[ELF_SEGMENTS_MAX]; /* PT_LOAD with memsz > 0 */
    struct elf_segment note[ELF_SEGMENTS_MAX]; /* PT_NOTE: offset and filesz */
};

bool elf_probe(const uint8_t *data, uint64_t size);
/* Checks headers and segments; name is the file's, for messages. -EINVAL: not an x86 executable, truncated, segments
 * that wrap or overlap each other. */
int elf_parse(struct elf_image *elf, const char *name, const uint8_t *data, uint64_t size, struct error *err);
/* Copies the segments to their physical addresses, after a check that they are in RAM below 4 GiB and clear of what
 * the loaders put there. *end: the end of the highest. */
int elf_load(const struct elf_image *elf, const char *name, const struct boot_job *job, uint64_t *end,
             struct error *err);
/* The descriptor of the first note of that owner and type: at least min bytes. NULL: there is none. */
const uint8_t *elf_find_note(const struct elf_image *elf, const char *owner, uint32_t type, uint32_t min,
                             uint32_t *size);

#endif
