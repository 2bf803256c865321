/*
 * boot/pvh.c: ELF kernels with a PVH entry note (Xen's "x86/HVM direct boot
 * ABI"): Linux with CONFIG_PVH, the BSDs, unikernels. 32-bit protected mode,
 * paging off, EBX points to the start info.
 */
#include <errno.h>
#include <string.h>

#include "boot/elf_image.h"

#define XEN_ELFNOTE_PHYS32_ENTRY 18
#define START_MAGIC              0x336ec578

struct start_info { /* version 1 */
    uint32_t magic, version, flags, nr_modules;
    uint64_t modlist, cmdline, rsdp, memmap;
    uint32_t memmap_entries, reserved;
};
struct module {
    uint64_t paddr, size, cmdline, reserved;
};
struct memmap_entry {
    uint64_t addr, size;
    uint32_t type, reserved;
};
struct tables {
    struct module initrd;
    struct memmap_entry map[BOOT_E820_MAX];
};

static int write_start_info(const struct boot_job *job, gpa_t initrd, struct error *err)
{
    struct boot_e820 e820[BOOT_E820_MAX];
    unsigned n = boot_e820(job->config, e820, BOOT_E820_MAX);
    struct start_info info = {
        .magic = START_MAGIC,
        .version = 1,
        .nr_modules = job->initrd ? 1 : 0,
        .modlist = job->initrd ? BOOT_TABLES + offsetof(struct tables, initrd) : 0,
        .cmdline = BOOT_CMDLINE,
        .rsdp = job->config->rsdp,
        .memmap = BOOT_TABLES + offsetof(struct tables, map),
        .memmap_entries = n,
    };
    struct tables tables = {.initrd = {.paddr = initrd, .size = job->initrd ? job->initrd->size : 0}};

    for (unsigned i = 0; i < n; i++)
        tables.map[i] = (struct memmap_entry){e820[i].base, e820[i].size, e820[i].type, 0};
    if (mem_write(job->mem, BOOT_PARAMS, &info, sizeof(info)) < 0 ||
        mem_write(job->mem, BOOT_TABLES, &tables, sizeof(tables)) < 0)
        return error_set(err, -EFAULT, "PVH start info: no guest memory at %#llx", BOOT_PARAMS);
    return 0;
}

static bool entry_in_segment(const struct elf_image *elf, uint64_t entry)
{
    for (unsigned i = 0; i < elf->loads; i++)
        if (entry >= elf->load[i].paddr && entry - elf->load[i].paddr < elf->load[i].filesz)
            return true;
    return false;
}

int pvh_load(const struct boot_job *job, struct error *err)
{
    const char *name = job->kernel->path;
    struct elf_image elf;
    const uint8_t *note;
    uint32_t note_size, entry = 0;
    uint64_t end;
    gpa_t initrd = 0;
    int rc = elf_parse(&elf, name, job->kernel->data, job->kernel->size, err);

    if (rc < 0)
        return rc;
    note = elf_find_note(&elf, "Xen", XEN_ELFNOTE_PHYS32_ENTRY, sizeof(entry), &note_size);
    if (!note)
        return error_set(err, -EINVAL,
                         "kernel '%s': an ELF file with neither a PVH entry note (Linux: CONFIG_PVH=y) "
                         "nor a multiboot header",
                         name);
    memcpy(&entry, note, sizeof(entry));
    if (!entry_in_segment(&elf, entry))
        return error_set(err, -EINVAL, "kernel '%s': its PVH entry %#x is in none of its segments", name, entry);
    rc = elf_load(&elf, name, job, &end, err);
    if (rc == 0)
        rc = boot_write_cmdline(job, BOOT_CMDLINE_MAX, err);
    if (rc == 0 && job->initrd)
        rc = boot_write_initrd(job, MAX(end, BOOT_HIGH_START), BOOT_MMIO_HOLE, &initrd, err);
    if (rc == 0)
        rc = write_start_info(job, initrd, err);
    if (rc == 0)
        rc = boot_enter_32(job, entry, err);
    if (rc == 0)
        job->cpu->gpr[RBX] = BOOT_PARAMS;
    return rc;
}
