/*
 * boot/multiboot.c: kernels with a multiboot 1 header (Multiboot Specification
 * 0.6.96): 32-bit protected mode, paging off, EBX points to the information.
 */
#include <errno.h>
#include <string.h>

#include "boot/elf_image.h"

#define SEARCH          8192 /* the header is in the file's first 8 KiB, 4-byte aligned (3.1) */
#define HEADER_MAGIC    0x1badb002
#define LOADED_MAGIC    0x2badb002
#define WANTS_KNOWN     0x7u /* page-aligned modules, memory, video mode (a hint) */
#define WANTS_MANDATORY 0xffffu
#define HAS_ADDRESSES   BIT(16) /* the "a.out kludge": addresses in the header */

struct header {
    uint32_t magic, flags, checksum;
    uint32_t header_addr, load_addr, load_end_addr, bss_end_addr, entry_addr;
};

enum { INFO_MEMORY = 1 << 0, INFO_CMDLINE = 1 << 2, INFO_MODULES = 1 << 3, INFO_MMAP = 1 << 6, INFO_LOADER = 1 << 9 };

struct info {
    uint32_t flags, mem_lower, mem_upper, boot_device, cmdline, mods_count, mods_addr, syms[4];
    uint32_t mmap_length, mmap_addr, drives_length, drives_addr, config_table, boot_loader_name;
    uint32_t rest[14];
};
struct module {
    uint32_t start, end, string, reserved;
};
struct mmap_entry {
    uint32_t size; /* of the rest */
    uint64_t base, length;
    uint32_t type;
} __attribute__((packed));
struct tables {
    struct module initrd;
    struct mmap_entry map[BOOT_E820_MAX];
    char loader[16], module_name[16];
};

/* Offset of the header in the file, or -1. */
static int64_t find_header(const struct boot_blob *kernel, struct header *h)
{
    uint64_t end = MIN(kernel->size, (uint64_t)SEARCH);

    for (uint64_t at = 0; at + 12 <= end; at += 4) {
        *h = (struct header){0};
        memcpy(h, kernel->data + at, MIN(kernel->size - at, sizeof(*h)));
        if (h->magic == HEADER_MAGIC && h->magic + h->flags + h->checksum == 0)
            return (int64_t)at;
    }
    return -1;
}

bool multiboot_probe(const struct boot_blob *kernel)
{
    struct header h;

    return find_header(kernel, &h) >= 0;
}

/* A file with addresses in its header, as an image of one segment. */
static int parse_addresses(struct elf_image *elf, const struct boot_job *job, const struct header *h, uint64_t at,
                           struct error *err)
{
    const struct boot_blob *k = job->kernel;
    struct elf_segment s = {.paddr = h->load_addr, .vaddr = h->load_addr};
    uint64_t before = (uint64_t)h->header_addr - h->load_addr;

    *elf = (struct elf_image){.data = k->data, .size = k->size, .entry = h->entry_addr, .loads = 1};
    if (k->size - at < sizeof(*h))
        return error_set(err, -EINVAL, "kernel '%s': truncated in the multiboot header", k->path);
    if (h->load_addr > h->header_addr || before > at)
        return error_set(err, -EINVAL,
                         "kernel '%s': multiboot header: load address %#x does not go with header "
                         "address %#x",
                         k->path, h->load_addr, h->header_addr);
    s.offset = at - before;
    s.filesz = h->load_end_addr ? (uint64_t)h->load_end_addr - h->load_addr : k->size - s.offset;
    if (h->load_end_addr && h->load_end_addr < h->load_addr)
        return error_set(err, -EINVAL, "kernel '%s': multiboot header: ends at %#x, before its start at %#x", k->path,
                         h->load_end_addr, h->load_addr);
    if (s.filesz > k->size - s.offset)
        return error_set(err, -EINVAL,
                         "kernel '%s': truncated: its multiboot header asks for %llu bytes, the file "
                         "has %llu",
                         k->path, (unsigned long long)(s.offset + s.filesz), (unsigned long long)k->size);
    s.memsz = h->bss_end_addr > h->load_addr ? (uint64_t)h->bss_end_addr - h->load_addr : 0;
    s.memsz = MAX(s.memsz, s.filesz);
    elf->load[0] = s;
    return 0;
}

/* e_entry may be a physical or, as GRUB also takes it, a virtual address. */
static bool physical_entry(const struct elf_image *elf, uint32_t *entry)
{
    for (unsigned i = 0; i < elf->loads; i++)
        if (elf->entry >= elf->load[i].paddr && elf->entry - elf->load[i].paddr < elf->load[i].memsz) {
            *entry = (uint32_t)elf->entry;
            return elf->entry <= UINT32_MAX;
        }
    for (unsigned i = 0; i < elf->loads; i++)
        if (elf->entry >= elf->load[i].vaddr && elf->entry - elf->load[i].vaddr < elf->load[i].memsz) {
            uint64_t at = elf->entry - elf->load[i].vaddr + elf->load[i].paddr;

            *entry = (uint32_t)at;
            return at <= UINT32_MAX;
        }
    return false;
}

static int write_info(const struct boot_job *job, gpa_t initrd, struct error *err)
{
    struct boot_e820 e820[BOOT_E820_MAX];
    unsigned n = boot_e820(job->config, e820, BOOT_E820_MAX);
    struct tables tables = {.loader = "trapeze", .module_name = "initrd"};
    struct info info = {
        .flags = INFO_MEMORY | INFO_CMDLINE | INFO_MODULES | INFO_MMAP | INFO_LOADER,
        .mem_lower = BOOT_EBDA >> 10,
        .mem_upper = (uint32_t)((boot_low_end(job->config) - BOOT_HIGH_START) >> 10),
        .cmdline = BOOT_CMDLINE,
        .mods_addr = BOOT_TABLES + offsetof(struct tables, initrd),
        .mmap_length = n * (uint32_t)sizeof(tables.map[0]),
        .mmap_addr = BOOT_TABLES + offsetof(struct tables, map),
        .boot_loader_name = BOOT_TABLES + offsetof(struct tables, loader),
    };

    if (job->initrd) {
        info.mods_count = 1;
        tables.initrd = (struct module){(uint32_t)initrd, (uint32_t)(initrd + job->initrd->size),
                                        BOOT_TABLES + offsetof(struct tables, module_name), 0};
    }
    for (unsigned i = 0; i < n; i++)
        tables.map[i] = (struct mmap_entry){sizeof(tables.map[0]) - 4, e820[i].base, e820[i].size, e820[i].type};
    if (mem_write(job->mem, BOOT_PARAMS, &info, sizeof(info)) < 0 ||
        mem_write(job->mem, BOOT_TABLES, &tables, sizeof(tables)) < 0)
        return error_set(err, -EFAULT, "multiboot information: no guest memory at %#llx", BOOT_PARAMS);
    return 0;
}

int multiboot_load(const struct boot_job *job, struct error *err)
{
    const char *name = job->kernel->path;
    struct elf_image elf;
    struct header h;
    uint32_t entry;
    uint64_t end;
    gpa_t initrd = 0;
    int64_t at = find_header(job->kernel, &h);
    int rc;

    if (at < 0)
        return error_set(err, -EINVAL, "kernel '%s': no multiboot header in its first 8 KiB", name);
    if (h.flags & WANTS_MANDATORY & ~WANTS_KNOWN)
        return error_set(err, -EINVAL, "kernel '%s': its multiboot header asks for features %#x; only %#x are known",
                         name, h.flags & WANTS_MANDATORY, WANTS_KNOWN);
    if (h.flags & HAS_ADDRESSES)
        rc = parse_addresses(&elf, job, &h, (uint64_t)at, err);
    else
        rc = elf_parse(&elf, name, job->kernel->data, job->kernel->size, err);
    if (rc < 0)
        return rc;
    if (!physical_entry(&elf, &entry))
        return error_set(err, -EINVAL, "kernel '%s': its entry %#llx is in none of its segments", name,
                         (unsigned long long)elf.entry);
    rc = elf_load(&elf, name, job, &end, err);
    if (rc == 0)
        rc = boot_write_cmdline(job, BOOT_CMDLINE_MAX, err);
    if (rc == 0 && job->initrd)
        rc = boot_write_initrd(job, MAX(end, BOOT_HIGH_START), BOOT_MMIO_HOLE, &initrd, err);
    if (rc == 0)
        rc = write_info(job, initrd, err);
    if (rc == 0)
        rc = boot_enter_32(job, entry, err);
    if (rc == 0) {
        job->cpu->gpr[RAX] = LOADED_MAGIC;
        job->cpu->gpr[RBX] = BOOT_PARAMS;
    }
    return rc;
}
