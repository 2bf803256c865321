/*
 * tests/unit/boot_fixture.h: a guest's memory and processor for the loaders,
 * and images made up byte by byte.
 */
#ifndef TESTS_UNIT_BOOT_FIXTURE_H
#define TESTS_UNIT_BOOT_FIXTURE_H

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "boot/boot_internal.h"

#include <elf.h> /* after x86/defs.h: both have a PF_W */

struct boot_fixture {
    struct mem *mem;
    struct x86_cpu cpu;
    struct boot_config config;
    struct boot_blob kernel, initrd;
    struct error err;
};

static inline void boot_fixture_open(struct boot_fixture *f, uint64_t memory)
{
    memset(f, 0, sizeof(*f));
    f->config = (struct boot_config){.cmdline = "console=ttyS0", .memory = memory, .cpus = 1, .rsdp = 0xe0000};
    f->mem = mem_new();
    assert_int_equal(mem_add_ram(f->mem, 0, MIN(memory, BOOT_MMIO_HOLE), &f->err), 0);
    if (memory > BOOT_MMIO_HOLE)
        assert_int_equal(mem_add_ram(f->mem, GIB(4), memory - BOOT_MMIO_HOLE, &f->err), 0);
}

static inline void boot_fixture_close(struct boot_fixture *f)
{
    mem_free(f->mem);
}

static inline int boot_fixture_load(struct boot_fixture *f, void *image, size_t size)
{
    struct boot_job job = {.config = &f->config,
                           .kernel = &f->kernel,
                           .initrd = f->initrd.data ? &f->initrd : NULL,
                           .mem = f->mem,
                           .cpu = &f->cpu};

    f->kernel = (struct boot_blob){.path = "image", .data = image, .size = size, .fd = -1};
    f->err.message[0] = 0;
    return boot_load_image(&job, &f->err);
}

/* The load must fail, with a message that has this in it. */
static inline void boot_fixture_refuses(struct boot_fixture *f, void *image, size_t size, const char *why)
{
    assert_true(boot_fixture_load(f, image, size) < 0);
    if (!strstr(f->err.message, why))
        fail_msg("\"%s\" does not say \"%s\"", f->err.message, why);
    assert_null(strchr(f->err.message, '\n'));
}

static inline const void *guest_at(struct boot_fixture *f, gpa_t gpa, uint64_t len)
{
    const void *p = mem_pointer(f->mem, gpa, len);

    assert_non_null(p);
    return p;
}

static inline uint64_t guest_get(struct boot_fixture *f, gpa_t gpa, unsigned bytes)
{
    uint64_t value = 0;

    memcpy(&value, guest_at(f, gpa, bytes), bytes);
    return value;
}

static inline void poke(void *image, size_t at, uint64_t value, unsigned bytes)
{
    memcpy((uint8_t *)image + at, &value, bytes);
}

/* An ELF64 executable of one segment of len bytes ('K', 'K', ...) at paddr, with room for len more (bss). The file's
 * size is ELF_HEAD + len. */
#define ELF_HEAD 0x200
#define ELF_NOTE 0x180

static inline size_t make_elf64(uint8_t *out, uint64_t paddr, uint64_t entry, size_t len)
{
    Elf64_Ehdr e = {.e_ident = {0x7f, 'E', 'L', 'F', ELFCLASS64, ELFDATA2LSB, 1},
                    .e_type = ET_EXEC,
                    .e_machine = EM_X86_64,
                    .e_version = 1,
                    .e_entry = entry,
                    .e_phoff = sizeof(e),
                    .e_ehsize = sizeof(e),
                    .e_phentsize = sizeof(Elf64_Phdr),
                    .e_phnum = 1};
    Elf64_Phdr p = {.p_type = PT_LOAD,
                    .p_offset = ELF_HEAD,
                    .p_vaddr = 0xffffffff80000000 + paddr,
                    .p_paddr = paddr,
                    .p_filesz = len,
                    .p_memsz = 2 * len};

    memset(out, 0, ELF_HEAD);
    memcpy(out, &e, sizeof(e));
    memcpy(out + sizeof(e), &p, sizeof(p));
    memset(out + ELF_HEAD, 'K', len);
    return ELF_HEAD + len;
}

#endif
