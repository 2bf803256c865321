/*
 * boot/bzimage.c: Linux's own image, by its boot protocol (the kernel's
 * Documentation/arch/x86/boot.rst and zero-page.rst).
 *
 * A bzImage brings its own unpacker, but that is the slowest code a software
 * engine can be given; so the payload is unpacked here and the vmlinux inside
 * it is entered directly at its startup_64 or startup_32, where the unpacker
 * would jump to. Whatever looks unusual is left to the image itself.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "boot/elf_image.h"

/* Offsets of the setup header in the file and in the zero page alike. */
enum {
    HDR_SETUP_SECTS = 0x1f1,
    HDR_SYSSIZE = 0x1f4,
    HDR_BOOT_FLAG = 0x1fe,
    HDR_JUMP = 0x201, /* distance from 0x202 to the end of the header */
    HDR_MAGIC = 0x202,
    HDR_VERSION = 0x206,
    HDR_TYPE_OF_LOADER = 0x210,
    HDR_LOADFLAGS = 0x211,
    HDR_CODE32_START = 0x214,
    HDR_RAMDISK_IMAGE = 0x218,
    HDR_RAMDISK_SIZE = 0x21c,
    HDR_CMD_LINE_PTR = 0x228,
    HDR_INITRD_ADDR_MAX = 0x22c,
    HDR_KERNEL_ALIGNMENT = 0x230,
    HDR_RELOCATABLE = 0x234,
    HDR_XLOADFLAGS = 0x236,
    HDR_CMDLINE_SIZE = 0x238,
    HDR_PAYLOAD_OFFSET = 0x248,
    HDR_PAYLOAD_LENGTH = 0x24c,
    HDR_PREF_ADDRESS = 0x258,
    HDR_INIT_SIZE = 0x260,
    HDR_END_MAX = 0x290,
};

/* The rest of the zero page. */
enum {
    ZP_ACPI_RSDP = 0x070,
    ZP_ALT_MEM_K = 0x1e0,
    ZP_E820_ENTRIES = 0x1e8,
    ZP_E820_TABLE = 0x2d0,
    ZP_SIZE = 0x1000,
};

#define BOOT_FLAG            0xaa55
#define LOADED_HIGH          BIT(0)
#define XLF_KERNEL_64        BIT(0)
#define LOADER_UNASSIGNED    0xff
#define ENTRY_64_OFFSET      0x200
#define CMDLINE_SIZE_DEFAULT 255
#define INITRD_MAX_DEFAULT   0x37ffffffu
#define SECTOR               512
#define UNPACKED_MAX         MIB(512)

struct bzimage {
    const uint8_t *file;
    uint64_t file_size;
    unsigned version;
    uint64_t setup_size; /* real-mode part; the protected-mode part follows */
    uint64_t prot_size;
    bool entry64, relocatable;
    uint32_t cmdline_size, initrd_max;
    uint64_t load;                         /* where the protected-mode part goes */
    uint64_t runtime;                      /* where the kernel will be once it is unpacked */
    uint64_t init_size;                    /* what it needs from there until it reads its memory map */
    uint64_t payload_offset, payload_size; /* in the file; size 0 if not stated */
};

static uint64_t get(const uint8_t *at, unsigned bytes)
{
    uint64_t value = 0;

    memcpy(&value, at, bytes);
    return value;
}

static void put(uint8_t *at, uint64_t value, unsigned bytes)
{
    memcpy(at, &value, bytes);
}

bool bzimage_probe(const struct boot_blob *kernel)
{
    return kernel->size >= HDR_MAGIC + 4 && get(kernel->data + HDR_BOOT_FLAG, 2) == BOOT_FLAG &&
           memcmp(kernel->data + HDR_MAGIC, "HdrS", 4) == 0;
}

static int bad(const struct boot_job *job, struct error *err, const char *what)
{
    return error_set(err, -EINVAL, "kernel '%s': %s", job->kernel->path, what);
}

/* Fields that came with later versions of the protocol keep their defaults in older images. */
static void parse_optional(struct bzimage *bz)
{
    const uint8_t *f = bz->file;
    uint64_t length;

    bz->initrd_max = bz->version >= 0x203 ? (uint32_t)get(f + HDR_INITRD_ADDR_MAX, 4) : INITRD_MAX_DEFAULT;
    bz->relocatable = bz->version >= 0x205 && f[HDR_RELOCATABLE] != 0;
    bz->cmdline_size = bz->version >= 0x206 ? (uint32_t)get(f + HDR_CMDLINE_SIZE, 4) : CMDLINE_SIZE_DEFAULT;
    bz->entry64 = bz->version >= 0x20c && (get(f + HDR_XLOADFLAGS, 2) & XLF_KERNEL_64);
    if (bz->version >= 0x208) {
        bz->payload_offset = bz->setup_size + get(f + HDR_PAYLOAD_OFFSET, 4);
        length = get(f + HDR_PAYLOAD_LENGTH, 4);
        if (bz->payload_offset <= bz->file_size && length <= bz->file_size - bz->payload_offset)
            bz->payload_size = length;
    }
    bz->load = bz->runtime = BOOT_HIGH_START;
    bz->init_size = bz->prot_size * 4; /* before 2.10 nothing says: room for the unpacker's work */
    if (bz->version >= 0x20a) {
        bz->init_size = MAX(get(f + HDR_INIT_SIZE, 4), bz->prot_size);
        bz->runtime = get(f + HDR_PREF_ADDRESS, 8);
        if (bz->relocatable)
            bz->load = bz->runtime;
    }
}

static int parse(struct bzimage *bz, const struct boot_job *job, struct error *err)
{
    const uint8_t *f = job->kernel->data;
    uint64_t size = job->kernel->size, sects, stated;

    *bz = (struct bzimage){.file = f, .file_size = size};
    if (size < HDR_END_MAX)
        return bad(job, err, "truncated in the bzImage setup header");
    sects = f[HDR_SETUP_SECTS] ? f[HDR_SETUP_SECTS] : 4;
    bz->version = (unsigned)get(f + HDR_VERSION, 2);
    bz->setup_size = (sects + 1) * SECTOR;
    if (bz->version < 0x202)
        return error_set(err, -EINVAL, "kernel '%s': Linux boot protocol %u.%02u; at least 2.02 is needed",
                         job->kernel->path, bz->version >> 8, bz->version & 0xff);
    if (!(f[HDR_LOADFLAGS] & LOADED_HIGH))
        return bad(job, err, "a zImage (loaded low); a bzImage is needed");
    stated = get(f + HDR_SYSSIZE, bz->version >= 0x204 ? 4 : 2) * 16;
    if (bz->version < 0x204) /* the field is 16 bits wide there and wraps for a bzImage */
        stated = size > bz->setup_size ? size - bz->setup_size : 0;
    /* syssize is rounded up to 16. */
    if (size <= bz->setup_size || stated == 0 || stated > size - bz->setup_size + 15)
        return error_set(err, -EINVAL, "kernel '%s': truncated: its header asks for %llu bytes, the file has %llu",
                         job->kernel->path, (unsigned long long)(bz->setup_size + stated), (unsigned long long)size);
    bz->prot_size = MIN(stated, size - bz->setup_size);
    parse_optional(bz);
    return 0;
}

/* Room for the kernel at its address. Both ways of loading need it: init_size covers the unpacked kernel's bss too. */
static int check_room(const struct bzimage *bz, const struct boot_job *job, struct error *err)
{
    uint64_t low = boot_low_end(job->config), end = bz->runtime + bz->init_size;

    if (bz->runtime < BOOT_HIGH_START || bz->runtime >= BOOT_MMIO_HOLE || bz->init_size > BOOT_MMIO_HOLE)
        return error_set(err, -EINVAL,
                         "kernel '%s': its header asks for %llu bytes at %#llx; they must be in RAM "
                         "from 1 MiB to 3 GiB",
                         job->kernel->path, (unsigned long long)bz->init_size, (unsigned long long)bz->runtime);
    if (end > low)
        return error_set(err, -ENOSPC, "kernel '%s': needs memory up to %llu MiB; the VM has %llu MiB",
                         job->kernel->path, (unsigned long long)((end + MIB(1) - 1) >> 20),
                         (unsigned long long)(low >> 20));
    return 0;
}

static int write_zero_page(const struct bzimage *bz, const struct boot_job *job, gpa_t initrd, struct error *err)
{
    static const unsigned e820_stride = 20;
    struct boot_e820 map[BOOT_E820_MAX];
    unsigned n = boot_e820(job->config, map, BOOT_E820_MAX);
    uint64_t header_end = HDR_MAGIC + (uint64_t)bz->file[HDR_JUMP];
    uint8_t zp[ZP_SIZE] = {0};

    header_end = MIN(header_end, (uint64_t)HDR_END_MAX);
    if (header_end > HDR_SETUP_SECTS)
        memcpy(zp + HDR_SETUP_SECTS, bz->file + HDR_SETUP_SECTS, header_end - HDR_SETUP_SECTS);
    zp[HDR_TYPE_OF_LOADER] = LOADER_UNASSIGNED;
    put(zp + HDR_CODE32_START, bz->load, 4);
    put(zp + HDR_CMD_LINE_PTR, BOOT_CMDLINE, 4);
    put(zp + HDR_RAMDISK_IMAGE, initrd, 4);
    put(zp + HDR_RAMDISK_SIZE, job->initrd ? job->initrd->size : 0, 4);
    put(zp + ZP_ACPI_RSDP, job->config->rsdp, 8);
    put(zp + ZP_ALT_MEM_K, (boot_low_end(job->config) - BOOT_HIGH_START) >> 10, 4);
    zp[ZP_E820_ENTRIES] = (uint8_t)n;
    for (unsigned i = 0; i < n; i++) {
        uint8_t *at = zp + ZP_E820_TABLE + i * e820_stride;

        put(at, map[i].base, 8);
        put(at + 8, map[i].size, 8);
        put(at + 16, map[i].type, 4);
    }
    if (mem_write(job->mem, BOOT_PARAMS, zp, sizeof(zp)) < 0)
        return error_set(err, -EFAULT, "boot parameters: no guest memory at %#llx", BOOT_PARAMS);
    return 0;
}

/* Can the segments of an image that lies at base be moved down to their places, one after the other, none over one that
 * is still to be moved? The entry, or 0. */
static uint64_t check_payload(const struct bzimage *bz, const struct elf_image *elf, gpa_t base)
{
    uint64_t entry = 0, file_end = 0, end = base;

    if (elf->is64 != bz->entry64)
        return 0;
    for (unsigned i = 0; i < elf->loads; i++) {
        const struct elf_segment *s = &elf->load[i];

        if (s->paddr < end || s->paddr + s->memsz > base + bz->init_size || s->offset < file_end ||
            s->paddr - base > s->offset)
            return 0;
        if (elf->entry >= s->paddr && elf->entry - s->paddr < s->filesz)
            entry = elf->entry;
        end = s->paddr + s->memsz;
        file_end = s->offset + s->filesz;
    }
    return entry;
}

/* Nothing else of the image stays. */
static void move_segments(const struct elf_image *elf, gpa_t base, uint8_t *image, uint64_t size)
{
    uint64_t end = 0;

    for (unsigned i = 0; i < elf->loads; i++) {
        const struct elf_segment *s = &elf->load[i];
        const uint64_t to = s->paddr - base;

        memmove(image + to, image + s->offset, s->filesz);
        memset(image + end, 0, to - end);
        end = to + s->filesz;
    }
    memset(image + end, 0, size - end);
}

/* The vmlinux in the payload, loaded without the address randomization that the unpacker would do. It is unpacked to
 * where the kernel will be: so much memory is not cleared and used twice. Returns its entry or 0: let the image unpack
 * itself. */
static uint64_t load_payload(const struct bzimage *bz, const struct boot_job *job)
{
    const uint64_t room = MIN(bz->init_size, UNPACKED_MAX);
    uint8_t *image = mem_pointer(job->mem, bz->runtime, room);
    struct elf_image elf;
    uint64_t size, entry = 0;

    if (job->config->self_unpack || bz->version < 0x20a || bz->payload_size == 0 || !image)
        return 0;
    mem_touch(job->mem, bz->runtime, room);
    size = boot_unpack(bz->file + bz->payload_offset, bz->payload_size, image, room);
    if (size && elf_parse(&elf, "", image, size, NULL) == 0)
        entry = check_payload(bz, &elf, bz->runtime);
    if (entry)
        move_segments(&elf, bz->runtime, image, size);
    else
        memset(image, 0, size);
    mem_written(job->mem, bz->runtime, room);
    return entry;
}

int bzimage_load(const struct boot_job *job, struct error *err)
{
    struct bzimage bz;
    gpa_t initrd = 0;
    uint64_t entry;
    int rc = parse(&bz, job, err);

    if (rc == 0)
        rc = check_room(&bz, job, err);
    if (rc == 0)
        rc = boot_write_cmdline(job, bz.cmdline_size, err);
    if (rc == 0 && job->initrd)
        rc = boot_write_initrd(job, bz.runtime + bz.init_size, (uint64_t)bz.initrd_max + 1, &initrd, err);
    if (rc == 0)
        rc = write_zero_page(&bz, job, initrd, err);
    if (rc < 0)
        return rc;

    entry = load_payload(&bz, job);
    if (!entry) {
        if (mem_write(job->mem, bz.load, bz.file + bz.setup_size, bz.prot_size) < 0)
            return error_set(err, -EFAULT, "kernel '%s': no guest memory at %#llx", job->kernel->path,
                             (unsigned long long)bz.load);
        entry = bz.load + (bz.entry64 ? ENTRY_64_OFFSET : 0);
    }
    rc = bz.entry64 ? boot_enter_64(job, entry, err) : boot_enter_32(job, (uint32_t)entry, err);
    if (rc == 0)
        job->cpu->gpr[RSI] = BOOT_PARAMS;
    return rc;
}
