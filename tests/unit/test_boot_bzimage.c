/*
 * Linux images: where everything lies and how the processor starts, for each
 * way in; each kind of damage refused with a line that says what is wrong.
 */
#include "boot_fixture.h"

#include <lz4.h>
#include <lzma.h>
#include <zlib.h>
#include <zstd.h>

#define SETUP     (5 * 512) /* four sectors and the first */
#define PROT_MAX  KIB(64)
#define PREF      0x1000000ull
#define INIT_SIZE 0x400000ull
#define PAYLOAD   0x300

struct image {
    uint8_t data[SETUP + PROT_MAX];
    size_t size;
};

static void make_image(struct image *image, bool is64, const uint8_t *payload, size_t payload_size)
{
    size_t prot = ALIGN_UP(PAYLOAD + payload_size + 64, 16);

    memset(image, 0, sizeof(*image));
    image->size = SETUP + prot;
    memset(image->data + SETUP, 'P', prot);
    if (payload_size)
        memcpy(image->data + SETUP + PAYLOAD, payload, payload_size);
    image->data[0x1f1] = 4;
    poke(image->data, 0x1f4, prot / 16, 4);
    poke(image->data, 0x1fe, 0xaa55, 2);
    image->data[0x201] = 0x6a;
    memcpy(image->data + 0x202, "HdrS", 4);
    poke(image->data, 0x206, 0x20f, 2);
    image->data[0x211] = 1;
    poke(image->data, 0x214, 0x100000, 4);
    poke(image->data, 0x22c, 0x7fffffff, 4);
    poke(image->data, 0x230, 0x200000, 4);
    image->data[0x234] = 1;
    poke(image->data, 0x236, is64, 2);
    poke(image->data, 0x238, 2047, 4);
    poke(image->data, 0x248, PAYLOAD, 4);
    poke(image->data, 0x24c, payload_size, 4);
    poke(image->data, 0x258, PREF, 8);
    poke(image->data, 0x260, INIT_SIZE, 4);
}

static struct image *new_image(bool is64)
{
    struct image *image = malloc(sizeof(*image));

    assert_non_null(image);
    make_image(image, is64, NULL, 0);
    return image;
}

static void assert_flat(const struct x86_segment *s, uint16_t selector, uint16_t attr)
{
    assert_int_equal(s->selector, selector);
    assert_int_equal(s->base, 0);
    assert_int_equal(s->limit, 0xffffffff);
    assert_int_equal(s->attr, attr);
}

/* The zero page and the processor, however the kernel got there. */
static void assert_ready(struct boot_fixture *f, bool is64, uint64_t rip)
{
    const struct x86_cpu *cpu = &f->cpu;

    assert_int_equal(cpu->rip, rip);
    assert_int_equal(cpu->gpr[RSI], BOOT_PARAMS);
    assert_int_equal(cpu->rflags, 2);
    assert_flat(&cpu->seg[SEG_CS], 0x10, is64 ? 0xa09b : 0xc09b);
    assert_flat(&cpu->seg[SEG_DS], 0x18, 0xc093);
    assert_flat(&cpu->seg[SEG_SS], 0x18, 0xc093);
    assert_int_equal(!!(cpu->cr0 & CR0_PG), is64);
    assert_true(cpu->cr0 & CR0_PE);
    assert_int_equal(cpu->msr.efer, is64 ? EFER_LME | EFER_LMA : 0);
    assert_int_equal(guest_get(f, cpu->gdtr.base + 0x10, 8), is64 ? 0x00af9b000000ffff : 0x00cf9b000000ffff);
    assert_int_equal(guest_get(f, cpu->gdtr.base + 0x18, 8), 0x00cf93000000ffff);

    assert_string_equal(guest_at(f, guest_get(f, BOOT_PARAMS + 0x228, 4), 16), "console=ttyS0");
    assert_int_equal(guest_get(f, BOOT_PARAMS + 0x070, 8), 0xe0000);
    assert_int_equal(guest_get(f, BOOT_PARAMS + 0x202, 4), 0x53726448);
    assert_int_equal(guest_get(f, BOOT_PARAMS + 0x210, 1), 0xff);
    assert_int_equal(guest_get(f, BOOT_PARAMS + 0x1e8, 1), 4);
    assert_int_equal(guest_get(f, BOOT_PARAMS + 0x2d0 + 2 * 20, 8), 0x100000);
    assert_int_equal(guest_get(f, BOOT_PARAMS + 0x2d0 + 2 * 20 + 8, 8), MIB(63));
    assert_int_equal(guest_get(f, BOOT_PARAMS + 0x2d0 + 2 * 20 + 16, 4), 1);
}

static void test_entry64(void **state)
{
    struct boot_fixture f;
    struct image *image = new_image(true);

    boot_fixture_open(&f, MIB(64));
    assert_int_equal(boot_fixture_load(&f, image->data, image->size), 0);
    assert_ready(&f, true, PREF + 0x200);
    assert_memory_equal(guest_at(&f, PREF, 0x300), image->data + SETUP, 0x300);
    /* Identity: the last 2 MiB below 4 GiB. */
    assert_int_equal(guest_get(&f, guest_get(&f, f.cpu.cr3, 8) & PAGE_MASK, 8) & PAGE_MASK, f.cpu.cr3 + 0x2000);
    assert_int_equal(guest_get(&f, f.cpu.cr3 + 0x5000 + 511 * 8, 8), 0xffe000e3);
    boot_fixture_close(&f);
    free(image);
}

static void test_entry32(void **state)
{
    struct boot_fixture f;
    struct image *image = new_image(false);

    boot_fixture_open(&f, MIB(64));
    assert_int_equal(boot_fixture_load(&f, image->data, image->size), 0);
    assert_ready(&f, false, PREF);

    image->data[0x234] = 0; /* not relocatable: it moves itself from 1 MiB */
    assert_int_equal(boot_fixture_load(&f, image->data, image->size), 0);
    assert_ready(&f, false, 0x100000);
    assert_int_equal(guest_get(&f, 0x100000, 1), 'P');

    poke(image->data, 0x206, 0x204, 2); /* before init_size, payload and 64-bit entry */
    assert_int_equal(boot_fixture_load(&f, image->data, image->size), 0);
    assert_ready(&f, false, 0x100000);
    boot_fixture_close(&f);
    free(image);
}

/* --- payloads ------------------------------------------------------------------------------ */

static size_t pack_gzip(const uint8_t *in, size_t len, uint8_t *out, size_t cap)
{
    z_stream z = {.next_in = (uint8_t *)in, .avail_in = (uInt)len, .next_out = out, .avail_out = (uInt)cap};

    assert_int_equal(deflateInit2(&z, 9, Z_DEFLATED, 16 + MAX_WBITS, 8, Z_DEFAULT_STRATEGY), Z_OK);
    assert_int_equal(deflate(&z, Z_FINISH), Z_STREAM_END);
    deflateEnd(&z);
    return z.total_out;
}

static size_t pack_xz(const uint8_t *in, size_t len, uint8_t *out, size_t cap)
{
    size_t pos = 0;

    assert_int_equal(lzma_easy_buffer_encode(6, LZMA_CHECK_CRC32, NULL, in, len, out, &pos, cap), LZMA_OK);
    poke(out, pos, len, 4);
    return pos + 4;
}

static size_t pack_zstd(const uint8_t *in, size_t len, uint8_t *out, size_t cap)
{
    size_t n = ZSTD_compress(out, cap, in, len, 3);

    assert_false(ZSTD_isError(n));
    poke(out, n, len, 4);
    return n + 4;
}

static size_t pack_lz4(const uint8_t *in, size_t len, uint8_t *out, size_t cap)
{
    int n = LZ4_compress_default((const char *)in, (char *)out + 8, (int)len, (int)cap - 12);

    assert_true(n > 0);
    poke(out, 0, 0x184c2102, 4);
    poke(out, 4, (uint64_t)n, 4);
    poke(out, 8 + (size_t)n, len, 4);
    return 8 + (size_t)n + 4;
}

static size_t (*const packers[])(const uint8_t *in, size_t len, uint8_t *out, size_t cap) = {pack_gzip, pack_xz,
                                                                                             pack_zstd, pack_lz4};

#define VMLINUX_LEN 20000
#define ENTRY       (PREF + 0x40)

static void load_packed(struct boot_fixture *f, unsigned packer, uint64_t paddr, uint64_t entry, bool is64,
                        size_t damage_at)
{
    static uint8_t vmlinux[ELF_HEAD + VMLINUX_LEN], packed[PROT_MAX / 2];
    static struct image image;
    size_t len = make_elf64(vmlinux, paddr, entry, VMLINUX_LEN);

    for (size_t i = ELF_HEAD; i < len; i++) /* something that packs, but not to nothing */
        vmlinux[i] = (uint8_t)(i * i >> 7);
    vmlinux[ELF_HEAD] = 'K';
    len = packers[packer](vmlinux, len, packed, sizeof(packed));
    if (damage_at)
        for (size_t i = damage_at; i < MIN(damage_at + 200, len); i++)
            packed[i] ^= 0x5a;
    make_image(&image, is64, packed, len);
    assert_int_equal(boot_fixture_load(f, image.data, image.size), 0);
    /* What is in memory is the one or the other, whole. */
    assert_int_equal(guest_get(f, PREF, 1), f->cpu.rip == ENTRY ? 'K' : 'P');
    if (f->cpu.rip == ENTRY)
        assert_memory_equal(guest_at(f, PREF, VMLINUX_LEN), vmlinux + ELF_HEAD, VMLINUX_LEN);
}

static void test_payload(void **state)
{
    for (unsigned i = 0; i < ARRAY_SIZE(packers); i++) {
        struct boot_fixture f;

        boot_fixture_open(&f, MIB(64));
        load_packed(&f, i, PREF, ENTRY, true, 0);
        assert_ready(&f, true, ENTRY);
        boot_fixture_close(&f);
    }
}

/* Segments go from where they were unpacked to their places; what else was there is gone. In another order than that
 * of their places the image unpacks itself. */
static void test_payload_segments(void **state)
{
    static const struct {
        uint64_t offset, paddr, size;
    } segments[2][3] = {
        {{0x200, PREF, 0x1000}, {0x1a00, PREF + 0x1800, 0x2000}, {0x4000, PREF + 0x3900, 0x800}},
        {{0x200, PREF, 0x1000}, {0x4000, PREF + 0x1800, 0x800}, {0x1a00, PREF + 0x2000, 0x1000}},
    };
    static uint8_t vmlinux[0x5000], packed[PROT_MAX / 2];
    static struct image image;

    for (unsigned n = 0; n < ARRAY_SIZE(segments); n++) {
        struct boot_fixture f;
        uint64_t end = 0;

        memset(vmlinux, 'x', sizeof(vmlinux));
        make_elf64(vmlinux, PREF, ENTRY, 0);
        poke(vmlinux, 56, 3, 2); /* e_phnum */
        for (unsigned i = 0; i < 3; i++) {
            uint8_t *header = vmlinux + 64 + 56 * i;

            memmove(header, vmlinux + 64, 56);
            poke(header, 8, segments[n][i].offset, 8);
            poke(header, 24, segments[n][i].paddr, 8);
            poke(header, 32, segments[n][i].size, 8);
            poke(header, 40, segments[n][i].size, 8);
            memset(vmlinux + segments[n][i].offset, '1' + (int)i, segments[n][i].size);
        }
        make_image(&image, true, packed, pack_lz4(vmlinux, sizeof(vmlinux), packed, sizeof(packed)));
        boot_fixture_open(&f, MIB(64));
        assert_int_equal(boot_fixture_load(&f, image.data, image.size), 0);
        assert_ready(&f, true, n == 0 ? ENTRY : PREF + 0x200);
        for (unsigned i = 0; i < 3 && n == 0; i++) {
            for (; end < segments[n][i].paddr - PREF; end++)
                assert_int_equal(guest_get(&f, PREF + end, 1), 0);
            for (; end < segments[n][i].paddr - PREF + segments[n][i].size; end++)
                assert_int_equal(guest_get(&f, PREF + end, 1), '1' + i);
        }
        for (end = n == 0 ? end : image.size; end < sizeof(vmlinux) + 0x1000; end++)
            assert_int_equal(guest_get(&f, PREF + end, 1), 0);
        boot_fixture_close(&f);
    }
}

static void assert_zero(struct boot_fixture *f, gpa_t gpa, gpa_t end)
{
    static const uint8_t zero[PAGE_SIZE];

    for (; gpa < end; gpa += PAGE_SIZE)
        assert_memory_equal(guest_at(f, gpa, MIN(end - gpa, PAGE_SIZE)), zero, MIN(end - gpa, PAGE_SIZE));
}

/* Unpackers may write more than they unpack: where the file has nothing, there is nothing. The ends differ in how long
 * what is like nothing else there is. */
static void test_payload_slack(void **state)
{
    static uint8_t vmlinux[ELF_HEAD + VMLINUX_LEN], packed[PROT_MAX / 2];
    static struct image image;

    for (unsigned i = 0; i < ARRAY_SIZE(packers); i++)
        for (unsigned n = 0; n < 40; n++) {
            const size_t all = make_elf64(vmlinux, PREF, ENTRY, VMLINUX_LEN);
            struct boot_fixture f;

            for (size_t j = ELF_HEAD; n % 4 == 0 && j < all; j++)
                vmlinux[j] = (uint8_t)(j * j >> 7);
            for (unsigned j = 0; j < 5 + n; j++)
                vmlinux[all - 1 - j] = (uint8_t)(0x80 + j);
            make_image(&image, true, packed, packers[i](vmlinux, all, packed, sizeof(packed)));
            boot_fixture_open(&f, MIB(64));
            assert_int_equal(boot_fixture_load(&f, image.data, image.size), 0);
            assert_ready(&f, true, ENTRY);
            assert_memory_equal(guest_at(&f, PREF, VMLINUX_LEN), vmlinux + ELF_HEAD, VMLINUX_LEN);
            assert_zero(&f, PREF + VMLINUX_LEN, PREF + INIT_SIZE);
            boot_fixture_close(&f);
        }
}

/* A payload that cannot be used leaves nothing behind where the image itself does not lie. */
static void test_payload_refused(void **state)
{
    static const struct {
        uint64_t paddr, memsz, unpacked;
    } impossible[] = {
        {PREF, -PREF, ELF_HEAD + VMLINUX_LEN}, /* ends at 2^64 */
        {PREF, -PREF - 1, ELF_HEAD + VMLINUX_LEN},
        {PREF, UINT64_MAX, ELF_HEAD + VMLINUX_LEN},
        {PREF, INIT_SIZE + 1, ELF_HEAD + VMLINUX_LEN},
        {-PAGE_SIZE, 2 * VMLINUX_LEN, ELF_HEAD + VMLINUX_LEN},
        {PREF, INIT_SIZE, ELF_HEAD + VMLINUX_LEN - 1}, /* states too little, too much, nothing */
        {PREF, INIT_SIZE, INIT_SIZE + 1},
        {PREF, INIT_SIZE, 0},
        {PREF, INIT_SIZE, ELF_HEAD + VMLINUX_LEN}, /* nothing is wrong */
    };
    static uint8_t vmlinux[ELF_HEAD + VMLINUX_LEN], packed[PROT_MAX / 2];
    static struct image image;

    for (unsigned i = 0; i < ARRAY_SIZE(packers) * ARRAY_SIZE(impossible); i++) {
        const unsigned n = i % ARRAY_SIZE(impossible);
        const bool good = n == ARRAY_SIZE(impossible) - 1;
        struct boot_fixture f;
        size_t len = make_elf64(vmlinux, impossible[n].paddr, ENTRY, VMLINUX_LEN);

        poke(vmlinux, sizeof(Elf64_Ehdr) + offsetof(Elf64_Phdr, p_memsz), impossible[n].memsz, 8);
        len = packers[i / ARRAY_SIZE(impossible)](vmlinux, len, packed, sizeof(packed));
        poke(packed, len - 4, impossible[n].unpacked, 4);
        make_image(&image, true, packed, len);
        boot_fixture_open(&f, MIB(64));
        assert_int_equal(boot_fixture_load(&f, image.data, image.size), 0);
        assert_ready(&f, true, good ? ENTRY : PREF + 0x200);
        assert_zero(&f, PREF + (good ? VMLINUX_LEN : image.size - SETUP), PREF + INIT_SIZE);
        boot_fixture_close(&f);
    }
}

/* Whatever is not as expected, the image is started as it is. */
static void test_payload_fallback(void **state)
{
    for (unsigned i = 0; i < ARRAY_SIZE(packers); i++) {
        const struct {
            uint64_t paddr, entry;
            bool is64;
            size_t damage_at;
        } unusual[] = {
            {PREF, PREF + 0x40, true, 8},            /* damaged at its beginning */
            {PREF - 0x1000, PREF + 0x40, true, 0},   /* outside of what the header asks for */
            {PREF, PREF + VMLINUX_LEN + 8, true, 0}, /* entry in the bss */
            {PREF + INIT_SIZE - 0x1000, PREF + INIT_SIZE - 0x1000, true, 0},
            {PREF, PREF + 0x40, false, 0}, /* a 64-bit vmlinux in a 32-bit image */
        };

        for (unsigned j = 0; j < ARRAY_SIZE(unusual); j++) {
            struct boot_fixture f;

            boot_fixture_open(&f, MIB(64));
            load_packed(&f, i, unusual[j].paddr, unusual[j].entry, unusual[j].is64, unusual[j].damage_at);
            assert_ready(&f, unusual[j].is64, PREF + (unusual[j].is64 ? 0x200 : 0));
            boot_fixture_close(&f);
        }
    }
}

/* --- initrd, command line, damage ------------------------------------------------------------- */

static void test_initrd(void **state)
{
    struct boot_fixture f;
    struct image *image = new_image(true);
    uint8_t *initrd = malloc(MIB(64));

    memset(initrd, 'I', MIB(64));
    boot_fixture_open(&f, MIB(64));
    f.initrd = (struct boot_blob){.path = "initrd", .data = initrd, .size = 5000, .fd = -1};
    assert_int_equal(boot_fixture_load(&f, image->data, image->size), 0);
    assert_int_equal(guest_get(&f, BOOT_PARAMS + 0x218, 4), MIB(64) - 2 * PAGE_SIZE);
    assert_int_equal(guest_get(&f, BOOT_PARAMS + 0x21c, 4), 5000);
    assert_memory_equal(guest_at(&f, MIB(64) - 2 * PAGE_SIZE, 5000), initrd, 5000);

    poke(image->data, 0x22c, MIB(40) - 1, 4); /* initrd_addr_max */
    assert_int_equal(boot_fixture_load(&f, image->data, image->size), 0);
    assert_int_equal(guest_get(&f, BOOT_PARAMS + 0x218, 4), MIB(40) - 2 * PAGE_SIZE);

    f.initrd.size = MIB(20); /* exactly what the kernel leaves */
    assert_int_equal(boot_fixture_load(&f, image->data, image->size), 0);
    assert_int_equal(guest_get(&f, BOOT_PARAMS + 0x218, 4), PREF + INIT_SIZE);
    f.initrd.size++;
    boot_fixture_refuses(&f, image->data, image->size, "does not fit");
    poke(image->data, 0x22c, 0x7fffffff, 4);
    f.initrd.size = MIB(64);
    boot_fixture_refuses(&f, image->data, image->size, "give it more than 84 MiB");
    boot_fixture_close(&f);
    free(initrd);
    free(image);
}

static void test_cmdline(void **state)
{
    struct boot_fixture f;
    struct image *image = new_image(true);
    char line[2050];

    memset(line, 'a', sizeof(line));
    line[2047] = 0;
    boot_fixture_open(&f, MIB(64));
    f.config.cmdline = line;
    assert_int_equal(boot_fixture_load(&f, image->data, image->size), 0);
    assert_string_equal(guest_at(&f, BOOT_CMDLINE, 2048), line);
    line[2047] = 'a';
    line[2048] = 0;
    boot_fixture_refuses(&f, image->data, image->size, "2048 bytes; kernel 'image' takes at most 2047");
    poke(image->data, 0x206, 0x205, 2); /* before the header said how much */
    boot_fixture_refuses(&f, image->data, image->size, "at most 255");
    boot_fixture_close(&f);
    free(image);
}

static void test_damage(void **state)
{
    static const struct {
        unsigned at, bytes;
        uint64_t value;
        const char *why;
    } damage[] = {
        {0x206, 2, 0x201, "protocol 2.01"},
        {0x211, 1, 0, "zImage"},
        {0x1f4, 4, 0xffffffff, "truncated"},
        {0x1f4, 4, 0, "truncated"},
        {0x1f1, 1, 0xff, "truncated"},
        {0x258, 8, 0x1000, "must be in RAM"},
        {0x258, 8, 0xffffffffffffff00, "must be in RAM"},
        {0x258, 8, MIB(62), "needs memory up to 66 MiB; the VM has 64 MiB"},
        {0x260, 4, 0xfffffff0, "must be in RAM"},
        {0x260, 4, MIB(60), "needs memory up to 76 MiB"},
    };
    struct boot_fixture f;

    boot_fixture_open(&f, MIB(64));
    for (unsigned i = 0; i < ARRAY_SIZE(damage); i++) {
        struct image *image = new_image(true);

        poke(image->data, damage[i].at, damage[i].value, damage[i].bytes);
        boot_fixture_refuses(&f, image->data, image->size, damage[i].why);
        free(image);
    }
    boot_fixture_close(&f);
}

/* Every length: an error or a load, never more bytes than there are (the sanitizers watch). */
static void test_truncation(void **state)
{
    struct boot_fixture f;
    struct image *image = new_image(true);

    boot_fixture_open(&f, MIB(64));
    for (size_t size = 1; size < image->size - 16; size += size < 0x2a0 ? 1 : 97) {
        uint8_t *copy = malloc(size);

        memcpy(copy, image->data, size);
        boot_fixture_refuses(&f, copy, size, "image");
        free(copy);
    }
    boot_fixture_close(&f);
    free(image);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_entry64),          cmocka_unit_test(test_entry32),
        cmocka_unit_test(test_payload),          cmocka_unit_test(test_payload_fallback),
        cmocka_unit_test(test_payload_segments), cmocka_unit_test(test_payload_slack),
        cmocka_unit_test(test_payload_refused),  cmocka_unit_test(test_initrd),
        cmocka_unit_test(test_cmdline),          cmocka_unit_test(test_damage),
        cmocka_unit_test(test_truncation),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
