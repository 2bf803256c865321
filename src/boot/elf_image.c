/*
 * boot/elf_image.c: reads ELF program headers (System V ABI, chapter 5).
 * Headers are copied out before use: an image need not be aligned.
 */
#include "boot/elf_image.h"

#include <elf.h>
#include <errno.h>
#include <string.h>

#define MACHINE_LIST(X)                                                                                                \
    X(EM_AARCH64, "arm64")                                                                                             \
    X(EM_ARM, "arm")                                                                                                   \
    X(EM_RISCV, "riscv")                                                                                               \
    X(EM_PPC64, "ppc64")                                                                                               \
    X(EM_PPC, "ppc")                                                                                                   \
    X(EM_S390, "s390x")                                                                                                \
    X(EM_MIPS, "mips")                                                                                                 \
    X(EM_SPARCV9, "sparc64")                                                                                           \
    X(EM_LOONGARCH, "loongarch")                                                                                       \
    X(EM_IA_64, "ia64")

#ifndef EM_LOONGARCH
#define EM_LOONGARCH 258
#endif

static const char *machine_name(unsigned machine)
{
    switch (machine) {
#define X(id, name)                                                                                                    \
    case id:                                                                                                           \
        return name;
        MACHINE_LIST(X)
#undef X
    default:
        return "another processor";
    }
}

/* The header fields that both classes share, in one width. */
struct header {
    unsigned type, machine, phentsize, phnum;
    uint64_t entry, phoff;
};

static bool read_header(const uint8_t *data, uint64_t size, bool is64, struct header *h)
{
    if (is64) {
        Elf64_Ehdr e;

        if (size < sizeof(e))
            return false;
        memcpy(&e, data, sizeof(e));
        *h = (struct header){e.e_type, e.e_machine, e.e_phentsize, e.e_phnum, e.e_entry, e.e_phoff};
    } else {
        Elf32_Ehdr e;

        if (size < sizeof(e))
            return false;
        memcpy(&e, data, sizeof(e));
        *h = (struct header){e.e_type, e.e_machine, e.e_phentsize, e.e_phnum, e.e_entry, e.e_phoff};
    }
    return true;
}

static uint32_t read_segment(const uint8_t *at, bool is64, struct elf_segment *s)
{
    if (is64) {
        Elf64_Phdr p;

        memcpy(&p, at, sizeof(p));
        *s = (struct elf_segment){p.p_offset, p.p_filesz, p.p_paddr, p.p_vaddr, p.p_memsz};
        return p.p_type;
    } else {
        Elf32_Phdr p;

        memcpy(&p, at, sizeof(p));
        *s = (struct elf_segment){p.p_offset, p.p_filesz, p.p_paddr, p.p_vaddr, p.p_memsz};
        return p.p_type;
    }
}

bool elf_probe(const uint8_t *data, uint64_t size)
{
    return size >= EI_NIDENT && memcmp(data, ELFMAG, SELFMAG) == 0;
}

static int check_identity(const struct header *h, const char *name, const uint8_t *data, bool is64, struct error *err)
{
    if (data[EI_DATA] != ELFDATA2LSB || (h->machine != EM_X86_64 && h->machine != EM_386))
        return error_set(err, -EINVAL, "kernel '%s': an ELF file for %s; it must be for x86-64 or i386", name,
                         data[EI_DATA] == ELFDATA2LSB ? machine_name(h->machine) : "a big-endian processor");
    if (h->type != ET_EXEC && h->type != ET_DYN)
        return error_set(err, -EINVAL, "kernel '%s': an ELF file, but not an executable", name);
    if (h->phnum == 0 || h->phnum > ELF_SEGMENTS_MAX ||
        h->phentsize != (is64 ? sizeof(Elf64_Phdr) : sizeof(Elf32_Phdr)))
        return error_set(err, -EINVAL, "kernel '%s': ELF program headers: %u of %u bytes; there must be 1 to %d of %zu",
                         name, h->phnum, h->phentsize, ELF_SEGMENTS_MAX,
                         is64 ? sizeof(Elf64_Phdr) : sizeof(Elf32_Phdr));
    return 0;
}

static int check_overlap(const struct elf_image *elf, const char *name, struct error *err)
{
    for (unsigned i = 0; i < elf->loads; i++)
        for (unsigned j = 0; j < i; j++) {
            const struct elf_segment *a = &elf->load[i], *b = &elf->load[j];

            if (a->paddr < b->paddr + b->memsz && b->paddr < a->paddr + a->memsz)
                return error_set(err, -EINVAL, "kernel '%s': ELF segments overlap at %#llx", name,
                                 (unsigned long long)MAX(a->paddr, b->paddr));
        }
    return 0;
}

int elf_parse(struct elf_image *elf, const char *name, const uint8_t *data, uint64_t size, struct error *err)
{
    struct header h;
    int rc;

    *elf = (struct elf_image){.data = data, .size = size};
    if (!elf_probe(data, size) || (data[EI_CLASS] != ELFCLASS32 && data[EI_CLASS] != ELFCLASS64))
        return error_set(err, -EINVAL, "kernel '%s': not an ELF file of 32 or 64 bits", name);
    elf->is64 = data[EI_CLASS] == ELFCLASS64;
    if (!read_header(data, size, elf->is64, &h))
        return error_set(err, -EINVAL, "kernel '%s': truncated in the ELF header", name);
    rc = check_identity(&h, name, data, elf->is64, err);
    if (rc < 0)
        return rc;
    if (h.phoff > size || (uint64_t)h.phnum * h.phentsize > size - h.phoff)
        return error_set(err, -EINVAL, "kernel '%s': truncated: ELF program headers end at %#llx, the file at %#llx",
                         name, (unsigned long long)h.phoff + h.phnum * h.phentsize, (unsigned long long)size);
    elf->entry = h.entry;
    for (unsigned i = 0; i < h.phnum; i++) {
        struct elf_segment s;
        uint32_t type = read_segment(data + h.phoff + (uint64_t)i * h.phentsize, elf->is64, &s);

        if (type != PT_NOTE && (type != PT_LOAD || s.memsz == 0))
            continue;
        if (s.offset > size || s.filesz > size - s.offset)
            return error_set(err, -EINVAL, "kernel '%s': truncated: ELF segment %u ends after the file (%llu bytes)",
                             name, i, (unsigned long long)size);
        if (type == PT_NOTE) {
            elf->note[elf->notes++] = s;
            continue;
        }
        if (s.filesz > s.memsz || s.paddr + s.memsz < s.paddr)
            return error_set(err, -EINVAL, "kernel '%s': ELF segment %u has an impossible size", name, i);
        elf->load[elf->loads++] = s;
    }
    if (elf->loads == 0)
        return error_set(err, -EINVAL, "kernel '%s': ELF file without a segment to load", name);
    return check_overlap(elf, name, err);
}

static int check_placement(const struct elf_segment *s, const char *name, const struct boot_job *job, struct error *err)
{
    uint64_t end = s->paddr + s->memsz, low = boot_low_end(job->config);

    if (end > BOOT_MMIO_HOLE)
        return error_set(err, -EINVAL, "kernel '%s': ELF segment at %#llx..%#llx; it must be in RAM below %#llx", name,
                         (unsigned long long)s->paddr, (unsigned long long)end, BOOT_MMIO_HOLE);
    if (end > low)
        return error_set(err, -ENOSPC, "kernel '%s': needs memory up to %llu MiB; the VM has %llu MiB", name,
                         (unsigned long long)((end + MIB(1) - 1) >> 20), (unsigned long long)(low >> 20));
    if ((s->paddr < BOOT_LOW_END && end > BOOT_LOW_START) || (s->paddr < BOOT_HIGH_START && end > BOOT_EBDA))
        return error_set(err, -EINVAL,
                         "kernel '%s': ELF segment at %#llx..%#llx; below 1 MiB only %#llx..%#llx is free", name,
                         (unsigned long long)s->paddr, (unsigned long long)end, BOOT_LOW_END, BOOT_EBDA);
    return 0;
}

int elf_load(const struct elf_image *elf, const char *name, const struct boot_job *job, uint64_t *end,
             struct error *err)
{
    *end = 0;
    for (unsigned i = 0; i < elf->loads; i++) {
        int rc = check_placement(&elf->load[i], name, job, err);

        if (rc < 0)
            return rc;
        *end = MAX(*end, elf->load[i].paddr + elf->load[i].memsz);
    }
    /* RAM is still all zero: the rest of each segment (bss) needs no writing. */
    for (unsigned i = 0; i < elf->loads; i++) {
        const struct elf_segment *s = &elf->load[i];

        if (mem_write(job->mem, s->paddr, elf->data + s->offset, s->filesz) < 0)
            return error_set(err, -EFAULT, "kernel '%s': no guest memory at %#llx", name, (unsigned long long)s->paddr);
    }
    return 0;
}

const uint8_t *elf_find_note(const struct elf_image *elf, const char *owner, uint32_t type, uint32_t min,
                             uint32_t *size)
{
    for (unsigned i = 0; i < elf->notes; i++) {
        const uint8_t *at = elf->data + elf->note[i].offset;
        uint64_t left = elf->note[i].filesz;

        while (left >= sizeof(Elf32_Nhdr)) {
            Elf32_Nhdr n; /* the same in both classes */
            uint64_t name_len, desc_len;

            memcpy(&n, at, sizeof(n));
            at += sizeof(n);
            left -= sizeof(n);
            name_len = ALIGN_UP((uint64_t)n.n_namesz, 4);
            desc_len = ALIGN_UP((uint64_t)n.n_descsz, 4);
            if (name_len > left || n.n_descsz > left - name_len)
                break;
            if (n.n_type == type && n.n_descsz >= min && n.n_namesz == strlen(owner) + 1 &&
                memcmp(at, owner, n.n_namesz) == 0) {
                *size = n.n_descsz;
                return at + name_len;
            }
            if (desc_len > left - name_len)
                break;
            at += name_len + desc_len;
            left -= name_len + desc_len;
        }
    }
    return NULL;
}
