/*
 * boot/boot.c: opens the images, recognizes the kernel's format and hands it
 * to its loader.
 */
#include "boot/boot.h"

#include <errno.h>
#include <string.h>

#include "boot/elf_image.h"

/* Formats people try that are no kernel for this machine, and what to do about it. */
static const struct {
    unsigned offset, len;
    const char *magic, *what;
} foreign[] = {
    {0x38, 4, "ARM\x64", "a Linux Image for arm64; it must be for x86"},
    {0x30, 5, "RISCV", "a Linux Image for riscv; it must be for x86"},
    {0, 2, "\x1f\x8b", "gzip-compressed; unpack it first, or give a bzImage"},
    {0, 6,
     "\xfd"
     "7zXZ\0",
     "xz-compressed; unpack it first, or give a bzImage"},
    {0, 4, "\x28\xb5\x2f\xfd", "zstd-compressed; unpack it first, or give a bzImage"},
    {0, 7, "!<arch>", "a Debian package or archive; give the vmlinuz inside it"},
    {0, 6, "070701", "an initramfs (cpio archive); it belongs to --initrd"},
    {0, 2, "MZ", "a Windows or EFI program without a Linux boot header"},
    {0, 2, "#!", "a script"},
};

int boot_load_image(const struct boot_job *job, struct error *err)
{
    const struct boot_blob *k = job->kernel;

    if (job->config->memory < BOOT_MIN_MEMORY)
        return error_set(err, -EINVAL, "memory: %llu bytes; a VM needs at least %llu MiB",
                         (unsigned long long)job->config->memory, (unsigned long long)(BOOT_MIN_MEMORY >> 20));
    if (bzimage_probe(k))
        return bzimage_load(job, err);
    if (multiboot_probe(k))
        return multiboot_load(job, err);
    if (elf_probe(k->data, k->size))
        return pvh_load(job, err);
    for (unsigned i = 0; i < ARRAY_SIZE(foreign); i++)
        if (k->size >= foreign[i].offset + foreign[i].len &&
            memcmp(k->data + foreign[i].offset, foreign[i].magic, foreign[i].len) == 0)
            return error_set(err, -EINVAL, "kernel '%s': %s", k->path, foreign[i].what);
    return error_set(err, -EINVAL,
                     "kernel '%s': not a kernel; it must be a Linux bzImage, or an ELF file with a PVH "
                     "note or a multiboot header",
                     k->path);
}

int boot_load(const struct boot_config *config, struct mem *mem, struct x86_cpu *cpu, struct error *err)
{
    struct boot_blob kernel, initrd = {.fd = -1};
    struct boot_job job = {.config = config, .kernel = &kernel, .mem = mem, .cpu = cpu};
    int rc = boot_blob_open(&kernel, "kernel", config->kernel, err);

    if (rc == 0)
        rc = boot_blob_read(&kernel, "kernel", err);
    if (rc == 0 && config->initrd) {
        rc = boot_blob_open(&initrd, "initrd", config->initrd, err);
        job.initrd = &initrd;
    }
    if (rc == 0)
        rc = boot_load_image(&job, err);
    if (rc == 0)
        x86_update_mode(cpu);
    boot_blob_close(&initrd);
    boot_blob_close(&kernel);
    return rc;
}
