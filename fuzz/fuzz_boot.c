/*
 * fuzz/fuzz_boot.c: any bytes as a kernel image. The first byte chooses the
 * amount of memory, whether there is an initrd, and which magic numbers are
 * put in place so that the bytes reach the loader behind them.
 */
#include <stdlib.h>
#include <string.h>

#include "boot/boot_internal.h"

#include <elf.h> /* after x86/defs.h: both have a PF_W */

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

enum { AS_IT_IS, BZIMAGE, ELF64_PVH, ELF32_PVH, MULTIBOOT, KINDS };

static void poke(uint8_t *image, size_t size, size_t at, uint64_t value, unsigned bytes)
{
    if (at + bytes <= size)
        memcpy(image + at, &value, bytes);
}

static void dress_elf(uint8_t *image, size_t size, bool is64)
{
    poke(image, size, 0, 0x464c457f, 4);
    image[EI_CLASS] = is64 ? ELFCLASS64 : ELFCLASS32;
    image[EI_DATA] = ELFDATA2LSB;
    poke(image, size, offsetof(Elf64_Ehdr, e_type), ET_EXEC, 2);
    poke(image, size, offsetof(Elf64_Ehdr, e_machine), is64 ? EM_X86_64 : EM_386, 2);
    if (is64) {
        poke(image, size, offsetof(Elf64_Ehdr, e_phoff), sizeof(Elf64_Ehdr), 8);
        poke(image, size, offsetof(Elf64_Ehdr, e_phentsize), sizeof(Elf64_Phdr), 2);
    } else {
        poke(image, size, offsetof(Elf32_Ehdr, e_phoff), sizeof(Elf32_Ehdr), 4);
        poke(image, size, offsetof(Elf32_Ehdr, e_phentsize), sizeof(Elf32_Phdr), 2);
    }
}

static void dress(uint8_t *image, size_t size, unsigned kind)
{
    uint32_t flags;

    if (kind == BZIMAGE) {
        poke(image, size, 0x1fe, 0xaa55, 2);
        poke(image, size, 0x202, 0x53726448, 4);
        poke(image, size, 0x211, 1, 1);
    } else if ((kind == ELF64_PVH || kind == ELF32_PVH) && size >= sizeof(Elf64_Ehdr)) {
        dress_elf(image, size, kind == ELF64_PVH);
    } else if (kind == MULTIBOOT && size >= 12) {
        memcpy(&flags, image + 4, 4);
        poke(image, size, 0, 0x1badb002, 4);
        poke(image, size, 8, (uint32_t) - (0x1badb002 + flags), 4);
    }
}

static struct mem *guest_memory(void)
{
    static struct mem *mem; /* kept over all inputs: loaders only write to it */

    if (!mem) {
        mem = mem_new();
        if (!mem || mem_add_ram(mem, 0, MIB(32), NULL) < 0)
            abort();
    }
    return mem;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct x86_cpu cpu;
    static uint8_t initrd_bytes[10000];
    const struct boot_blob initrd = {.path = "initrd", .data = initrd_bytes, .size = sizeof(initrd_bytes), .fd = -1};
    struct boot_config config = {.cmdline = "console=ttyS0", .cpus = 1, .rsdp = 0xe0000};
    struct boot_blob kernel = {.path = "image", .fd = -1};
    struct boot_job job = {.config = &config, .kernel = &kernel, .mem = guest_memory(), .cpu = &cpu};
    struct error err;
    uint8_t *image;

    if (size < 2)
        return 0;
    config.memory = data[0] & 1 ? MIB(32) : MIB(4);
    job.initrd = data[0] & 2 ? &initrd : NULL;
    image = malloc(size - 1); /* of its own, so that the sanitizer sees a read past its end */
    if (!image)
        return 0;
    memcpy(image, data + 1, size - 1);
    dress(image, size - 1, (data[0] >> 2) % KINDS);
    kernel.data = image;
    kernel.size = size - 1;
    /* What was loaded must be in what the guest has. */
    if (boot_load_image(&job, &err) == 0 && cpu.rip >= config.memory)
        abort();
    free(image);
    return 0;
}
