/* ELF kernels by PVH note and by multiboot header, multiboot images with addresses in their header; damage. */
#include "boot_fixture.h"

#define LEN   8192
#define PADDR 0x200000ull
#define ENTRY (PADDR + 0x10)

struct elf {
    uint8_t data[ELF_HEAD + LEN];
    size_t size;
};

/* A note in the headers' page, in a program header of its own. */
static void add_note(struct elf *elf, const char *owner, uint32_t type, uint32_t entry)
{
    Elf64_Phdr p = {.p_type = PT_NOTE, .p_offset = ELF_NOTE, .p_filesz = 20};
    Elf64_Nhdr n = {.n_namesz = 4, .n_descsz = 4, .n_type = type};

    memcpy(elf->data + sizeof(Elf64_Ehdr) + sizeof(Elf64_Phdr), &p, sizeof(p));
    memcpy(elf->data + ELF_NOTE, &n, sizeof(n));
    memcpy(elf->data + ELF_NOTE + 12, owner, 4);
    poke(elf->data, ELF_NOTE + 16, entry, 4);
    poke(elf->data, offsetof(Elf64_Ehdr, e_phnum), 2, 2);
}

static struct elf make_pvh(void)
{
    struct elf elf;

    elf.size = make_elf64(elf.data, PADDR, 0xffffffff80000000, LEN);
    add_note(&elf, "Xen", 18, ENTRY);
    return elf;
}

static void assert_protected_mode(const struct boot_fixture *f, uint64_t rip)
{
    assert_int_equal(f->cpu.rip, rip);
    assert_int_equal(f->cpu.cr0 & (CR0_PE | CR0_PG), CR0_PE);
    assert_int_equal(f->cpu.seg[SEG_CS].attr, 0xc09b);
    assert_int_equal(f->cpu.seg[SEG_DS].attr, 0xc093);
    assert_int_equal(f->cpu.tr.attr, 0x8b);
    assert_int_equal(f->cpu.gpr[RBX], BOOT_PARAMS);
}

static void test_pvh(void **state)
{
    struct boot_fixture f;
    struct elf elf = make_pvh();
    uint8_t initrd[100];
    gpa_t modlist, map;

    memset(initrd, 'I', sizeof(initrd));
    boot_fixture_open(&f, GIB(4));
    f.initrd = (struct boot_blob){.path = "initrd", .data = initrd, .size = sizeof(initrd), .fd = -1};
    assert_int_equal(boot_fixture_load(&f, elf.data, elf.size), 0);
    assert_protected_mode(&f, ENTRY);
    assert_memory_equal(guest_at(&f, PADDR, LEN), elf.data + ELF_HEAD, LEN);
    assert_int_equal(guest_get(&f, PADDR + LEN, 8), 0);

    assert_int_equal(guest_get(&f, BOOT_PARAMS, 4), 0x336ec578);
    assert_int_equal(guest_get(&f, BOOT_PARAMS + 4, 4), 1);
    assert_int_equal(guest_get(&f, BOOT_PARAMS + 12, 4), 1);
    modlist = guest_get(&f, BOOT_PARAMS + 16, 8);
    assert_int_equal(guest_get(&f, modlist, 8), BOOT_MMIO_HOLE - PAGE_SIZE);
    assert_int_equal(guest_get(&f, modlist + 8, 8), sizeof(initrd));
    assert_memory_equal(guest_at(&f, BOOT_MMIO_HOLE - PAGE_SIZE, 100), initrd, 100);
    assert_string_equal(guest_at(&f, guest_get(&f, BOOT_PARAMS + 24, 8), 16), "console=ttyS0");
    assert_int_equal(guest_get(&f, BOOT_PARAMS + 32, 8), 0xe0000);
    map = guest_get(&f, BOOT_PARAMS + 40, 8);
    assert_int_equal(guest_get(&f, BOOT_PARAMS + 48, 4), 5);
    assert_int_equal(guest_get(&f, map + 4 * 24, 8), GIB(4));
    assert_int_equal(guest_get(&f, map + 4 * 24 + 8, 8), GIB(1));
    boot_fixture_close(&f);
}

static void test_elf32(void **state)
{
    Elf32_Ehdr e = {.e_ident = {0x7f, 'E', 'L', 'F', ELFCLASS32, ELFDATA2LSB, 1},
                    .e_type = ET_EXEC,
                    .e_machine = EM_386,
                    .e_phoff = sizeof(e),
                    .e_phentsize = sizeof(Elf32_Phdr),
                    .e_phnum = 2};
    Elf32_Phdr p[] = {{.p_type = PT_LOAD, .p_offset = 0x100, .p_paddr = PADDR, .p_filesz = 64, .p_memsz = 64},
                      {.p_type = PT_NOTE, .p_offset = 0xc0, .p_filesz = 20}};
    Elf32_Nhdr n = {.n_namesz = 4, .n_descsz = 4, .n_type = 18};
    uint8_t image[0x140] = {0};
    struct boot_fixture f;

    memcpy(image, &e, sizeof(e));
    memcpy(image + sizeof(e), p, sizeof(p));
    memcpy(image + 0xc0, &n, sizeof(n));
    memcpy(image + 0xcc, "Xen", 4);
    poke(image, 0xd0, PADDR + 4, 4);
    image[0x104] = 0xf4;
    boot_fixture_open(&f, MIB(16));
    assert_int_equal(boot_fixture_load(&f, image, sizeof(image)), 0);
    assert_protected_mode(&f, PADDR + 4);
    assert_int_equal(guest_get(&f, PADDR + 4, 1), 0xf4);
    boot_fixture_close(&f);
}

#define EH(field) offsetof(Elf64_Ehdr, field), sizeof(((Elf64_Ehdr *)0)->field)
#define PH(field) sizeof(Elf64_Ehdr) + offsetof(Elf64_Phdr, field), sizeof(((Elf64_Phdr *)0)->field)

static void test_elf_damage(void **state)
{
    static const struct {
        size_t at;
        unsigned bytes;
        uint64_t value;
        const char *why;
    } damage[] = {
        {EH(e_machine), EM_AARCH64, "for arm64; it must be for x86-64"},
        {EH(e_machine), 0x1234, "another processor"},
        {EI_DATA, 1, ELFDATA2MSB, "big-endian"},
        {EI_CLASS, 1, 7, "32 or 64 bits"},
        {EH(e_type), ET_REL, "not an executable"},
        {EH(e_phnum), 0, "program headers"},
        {EH(e_phnum), 0xffff, "program headers"},
        {EH(e_phentsize), 32, "program headers"},
        {EH(e_phoff), 0xfffffffffffffff0, "truncated"},
        {PH(p_offset), 0xffffffffffffff00, "ends after the file"},
        {PH(p_filesz), 0xffffffffffffffff, "ends after the file"},
        {PH(p_memsz), 1, "impossible size"},
        {PH(p_memsz), 0, "without a segment"},
        {PH(p_paddr), 0xfffffffffffffff0, "impossible size"},
        {PH(p_paddr), 0x100000000, "in none of its segments"},
        {PH(p_paddr), MIB(63), "in none of its segments"},
        {PH(p_paddr), 0x2000, "in none of its segments"},
        {ELF_NOTE + 16, 4, 0x100, "in none of its segments"},
        {ELF_NOTE + 8, 4, 17, "neither a PVH entry note"},
        {ELF_NOTE + 12, 1, 'x', "neither a PVH entry note"},
        {ELF_NOTE, 4, 0xffffffff, "neither a PVH entry note"},
        {ELF_NOTE + 4, 4, 0xfffffff0, "neither a PVH entry note"},
    };
    struct boot_fixture f;

    boot_fixture_open(&f, MIB(64));
    for (unsigned i = 0; i < ARRAY_SIZE(damage); i++) {
        struct elf elf = make_pvh();

        poke(elf.data, damage[i].at, damage[i].value, damage[i].bytes);
        boot_fixture_refuses(&f, elf.data, elf.size, damage[i].why);
    }
    boot_fixture_close(&f);
}

static void test_elf_placement(void **state)
{
    static const struct {
        uint64_t paddr;
        const char *why;
    } places[] = {
        {MIB(64) - LEN, "needs memory up to 65 MiB; the VM has 64 MiB"},
        {BOOT_MMIO_HOLE - LEN, "must be in RAM below 0xc0000000"},
        {BOOT_LOW_END - 1, "is free"},
        {BOOT_EBDA - 2 * LEN + 1, "is free"},
    };
    struct boot_fixture f;

    boot_fixture_open(&f, MIB(64));
    for (unsigned i = 0; i < ARRAY_SIZE(places); i++) {
        struct elf elf = make_pvh();

        poke(elf.data, sizeof(Elf64_Ehdr) + offsetof(Elf64_Phdr, p_paddr), places[i].paddr, 8);
        poke(elf.data, ELF_NOTE + 16, places[i].paddr, 4);
        boot_fixture_refuses(&f, elf.data, elf.size, places[i].why);
    }
    boot_fixture_close(&f);
}

static void test_elf_overlap(void **state)
{
    struct boot_fixture f;
    struct elf elf = make_pvh();
    Elf64_Phdr p = {
        .p_type = PT_LOAD, .p_offset = ELF_HEAD, .p_paddr = PADDR + 2 * LEN - 1, .p_filesz = 1, .p_memsz = 9};

    memcpy(elf.data + sizeof(Elf64_Ehdr) + 2 * sizeof(p), &p, sizeof(p));
    poke(elf.data, offsetof(Elf64_Ehdr, e_phnum), 3, 2);
    boot_fixture_open(&f, MIB(64));
    boot_fixture_refuses(&f, elf.data, elf.size, "overlap at 0x203fff");
    boot_fixture_close(&f);
}

/* --- multiboot --------------------------------------------------------------------------------- */

enum { MB_MAGIC, MB_FLAGS, MB_CHECKSUM, MB_HEADER, MB_LOAD, MB_LOAD_END, MB_BSS_END, MB_ENTRY };

static void put_multiboot(uint8_t *at, const uint32_t *fields, unsigned count)
{
    memcpy(at, fields, count * 4);
    poke(at, 4 * MB_CHECKSUM, -(fields[MB_MAGIC] + fields[MB_FLAGS]), 4);
}

static void assert_multiboot(struct boot_fixture *f, uint64_t rip)
{
    gpa_t map = guest_get(f, BOOT_PARAMS + 48, 4);

    assert_protected_mode(f, rip);
    assert_int_equal(f->cpu.gpr[RAX], 0x2badb002);
    assert_int_equal(guest_get(f, BOOT_PARAMS, 4) & 0x4d, 0x4d);
    assert_int_equal(guest_get(f, BOOT_PARAMS + 4, 4), 639);
    assert_int_equal(guest_get(f, BOOT_PARAMS + 8, 4), 15 * 1024);
    assert_string_equal(guest_at(f, guest_get(f, BOOT_PARAMS + 16, 4), 16), "console=ttyS0");
    assert_int_equal(guest_get(f, BOOT_PARAMS + 44, 4), 4 * 24);
    assert_int_equal(guest_get(f, map, 4), 20);
    assert_int_equal(guest_get(f, map + 2 * 24 + 4, 8), 0x100000);
    assert_int_equal(guest_get(f, map + 2 * 24 + 12, 8), MIB(15));
    assert_int_equal(guest_get(f, map + 2 * 24 + 20, 4), 1);
}

static void test_multiboot_addresses(void **state)
{
    const uint32_t fields[] = {0x1badb002, 1 << 16, 0, 0x100020, 0x100010, 0x100110, 0x100400, 0x100050};
    uint8_t image[0x400], initrd[50];
    struct boot_fixture f;
    gpa_t module;

    memset(image, 'M', sizeof(image));
    memset(initrd, 'I', sizeof(initrd));
    put_multiboot(image + 0x60, fields, ARRAY_SIZE(fields));
    boot_fixture_open(&f, MIB(16));
    f.initrd = (struct boot_blob){.path = "initrd", .data = initrd, .size = sizeof(initrd), .fd = -1};
    assert_int_equal(boot_fixture_load(&f, image, sizeof(image)), 0);
    assert_multiboot(&f, 0x100050);
    assert_memory_equal(guest_at(&f, 0x100010, 0x100), image + 0x50, 0x100);
    assert_int_equal(guest_get(&f, 0x100110, 1), 0);
    assert_int_equal(guest_get(&f, BOOT_PARAMS + 20, 4), 1);
    module = guest_get(&f, BOOT_PARAMS + 24, 4);
    assert_int_equal(guest_get(&f, module, 4), MIB(16) - PAGE_SIZE);
    assert_int_equal(guest_get(&f, module + 4, 4), MIB(16) - PAGE_SIZE + sizeof(initrd));
    boot_fixture_close(&f);
}

static void test_multiboot_elf(void **state)
{
    const uint32_t fields[] = {0x1badb002, 3, 0};
    struct boot_fixture f;
    struct elf elf;

    elf.size = make_elf64(elf.data, PADDR, 0xffffffff80000000 + ENTRY, LEN); /* a virtual entry, as GRUB takes it */
    put_multiboot(elf.data + 0x400, fields, ARRAY_SIZE(fields));
    boot_fixture_open(&f, MIB(16));
    assert_int_equal(boot_fixture_load(&f, elf.data, elf.size), 0);
    assert_multiboot(&f, ENTRY);
    poke(elf.data, offsetof(Elf64_Ehdr, e_entry), ENTRY, 8);
    assert_int_equal(boot_fixture_load(&f, elf.data, elf.size), 0);
    assert_multiboot(&f, ENTRY);
    poke(elf.data, offsetof(Elf64_Ehdr, e_entry), 0x1234, 8);
    boot_fixture_refuses(&f, elf.data, elf.size, "in none of its segments");
    boot_fixture_close(&f);
}

static void test_multiboot_damage(void **state)
{
    static const struct {
        unsigned field;
        uint32_t value;
        const char *why;
    } damage[] = {
        {MB_FLAGS, 1 << 16 | 1 << 5, "features"},   {MB_HEADER, 0x100000, "load address"},
        {MB_HEADER, 0x200000, "load address"},      {MB_LOAD_END, 0x100000, "before its start"},
        {MB_LOAD_END, 0x110000, "truncated"},       {MB_LOAD_END, 0xffffffff, "truncated"},
        {MB_BSS_END, 0xfffffff0, "must be in RAM"}, {MB_ENTRY, 0x200000, "in none of its segments"},
    };
    struct boot_fixture f;
    uint8_t image[0x400];

    boot_fixture_open(&f, MIB(16));
    for (unsigned i = 0; i < ARRAY_SIZE(damage); i++) {
        uint32_t fields[] = {0x1badb002, 1 << 16, 0, 0x100020, 0x100010, 0x100110, 0x100400, 0x100050};

        memset(image, 'M', sizeof(image));
        fields[damage[i].field] = damage[i].value;
        put_multiboot(image + 0x60, fields, ARRAY_SIZE(fields));
        boot_fixture_refuses(&f, image, sizeof(image), damage[i].why);
    }
    boot_fixture_refuses(&f, image, 0x6c, "truncated in the multiboot header");
    boot_fixture_close(&f);
}

/* --- things that are no kernel --------------------------------------------------------------------- */

static void test_foreign(void **state)
{
    static const struct {
        unsigned at;
        const char *bytes, *why;
    } images[] = {
        {0x38, "ARM\x64", "arm64"},     {0, "\x1f\x8b\x08", "gzip-compressed"}, {0, "070701", "belongs to --initrd"},
        {0, "MZ", "EFI program"},       {0, "#!/bin/sh", "a script"},           {0, "!<arch>\n", "Debian package"},
        {0, "nothing", "not a kernel"},
    };
    struct boot_fixture f;

    boot_fixture_open(&f, MIB(16));
    for (unsigned i = 0; i < ARRAY_SIZE(images); i++) {
        uint8_t image[4096] = {0};

        memcpy(image + images[i].at, images[i].bytes, strlen(images[i].bytes));
        boot_fixture_refuses(&f, image, sizeof(image), images[i].why);
        boot_fixture_refuses(&f, image, 1, "not a kernel");
    }
    f.config.memory = MIB(1);
    boot_fixture_refuses(&f, "x", 1, "at least 2 MiB");
    boot_fixture_close(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_pvh),           cmocka_unit_test(test_elf32),
        cmocka_unit_test(test_elf_damage),    cmocka_unit_test(test_elf_placement),
        cmocka_unit_test(test_elf_overlap),   cmocka_unit_test(test_multiboot_addresses),
        cmocka_unit_test(test_multiboot_elf), cmocka_unit_test(test_multiboot_damage),
        cmocka_unit_test(test_foreign),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
