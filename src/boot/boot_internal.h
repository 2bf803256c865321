/*
 * boot/boot_internal.h: what the loaders share. A loader takes its images as
 * bytes (struct boot_blob), so that tests and fuzzers need no files; every
 * byte of an image is hostile.
 */
#ifndef BOOT_BOOT_INTERNAL_H
#define BOOT_BOOT_INTERNAL_H

#include "boot/boot.h"

/* What a loader leaves below 640 KiB. Segments of ELF images may not overlap BOOT_LOW_START..BOOT_LOW_END. */
#define BOOT_LOW_START   0x1000ull
#define BOOT_GDT         0x1000ull  /* one page */
#define BOOT_PARAMS      0x2000ull  /* Linux's zero page, PVH's start info or multiboot's information */
#define BOOT_PAGE_TABLES 0x3000ull  /* PML4, PDPT, four page directories */
#define BOOT_TABLES      0x9000ull  /* memory map and module list of PVH and multiboot */
#define BOOT_CMDLINE     0x10000ull /* command line, up to 64 KiB with its NUL */
#define BOOT_CMDLINE_MAX 0xffffull
#define BOOT_LOW_END     0x20000ull

#define BOOT_EBDA        0x9fc00ull  /* conventional memory ends here */
#define BOOT_BIOS_TABLES 0xe0000ull  /* ACPI: where kernels look for the RSDP (ACPI 6.4, 5.2.5.1) */
#define BOOT_HIGH_START  0x100000ull /* 1 MiB */

#define BOOT_MIN_MEMORY MIB(2)
#define BOOT_E820_MAX   8

/* An image: in memory (data), or still in its file (fd). */
struct boot_blob {
    const char *path; /* for messages */
    uint8_t *data;    /* NULL: not read; owned if fd >= 0 */
    uint64_t size;
    int fd; /* -1: data is the caller's */
};

/* Everything a loader works on. */
struct boot_job {
    const struct boot_config *config;
    const struct boot_blob *kernel; /* in memory */
    const struct boot_blob *initrd; /* NULL if none */
    struct mem *mem;
    struct x86_cpu *cpu;
};

/* Opens a regular, non-empty file and takes its size; what says "kernel" or "initrd" in messages. */
int boot_blob_open(struct boot_blob *blob, const char *what, const char *path, struct error *err);
int boot_blob_read(struct boot_blob *blob, const char *what, struct error *err); /* the whole of it into data */
void boot_blob_close(struct boot_blob *blob);
/* Copies the blob to guest memory that the caller has checked. */
int boot_blob_copy(const struct boot_blob *blob, struct mem *mem, gpa_t gpa, struct error *err);

/* Recognizes the kernel's format and calls its loader. */
int boot_load_image(const struct boot_job *job, struct error *err);

bool bzimage_probe(const struct boot_blob *kernel);
int bzimage_load(const struct boot_job *job, struct error *err);
int pvh_load(const struct boot_job *job, struct error *err);
bool multiboot_probe(const struct boot_blob *kernel);
int multiboot_load(const struct boot_job *job, struct error *err);

/* Unpacks a kernel's payload (gzip, xz, LZ4 legacy, zstd) to out: max bytes, all 0, as they stay behind what is
 * unpacked. The size, or 0: another format, damaged, or too large. */
uint64_t boot_unpack(const uint8_t *data, uint64_t size, uint8_t *out, uint64_t max);

/* End of RAM below 4 GiB. */
uint64_t boot_low_end(const struct boot_config *config);
/* Writes the command line at BOOT_CMDLINE; max is the kernel's limit without the NUL. */
int boot_write_cmdline(const struct boot_job *job, uint64_t max, struct error *err);
/* Copies the initrd to whole pages as high as possible, above kernel_end and below top. */
int boot_write_initrd(const struct boot_job *job, uint64_t kernel_end, uint64_t top, gpa_t *gpa, struct error *err);

/* States of the boot processor. Selectors: code 0x10, data 0x18, as Linux's boot protocol wants them. */
int boot_enter_32(const struct boot_job *job, uint32_t entry, struct error *err); /* flat, paging off */
int boot_enter_64(const struct boot_job *job, uint64_t entry, struct error *err); /* first 4 GiB identity-mapped */

#endif
