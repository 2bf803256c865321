/* The memory map for all sizes, the ACPI tables' form, and files that cannot be opened or read. */
#include "boot_fixture.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

static uint64_t ram_in(const struct boot_e820 *map, unsigned n)
{
    uint64_t sum = 0;

    for (unsigned i = 0; i < n; i++)
        sum += map[i].type == 1 ? map[i].size : 0;
    return sum;
}

static void test_e820(void **state)
{
    static const struct {
        uint64_t memory;
        unsigned entries;
        uint64_t low, high; /* the third entry's size, the fifth's */
    } sizes[] = {
        {MIB(2), 4, MIB(1), 0},
        {MIB(512), 4, MIB(511), 0},
        {GIB(3), 4, GIB(3) - MIB(1), 0},
        {GIB(3) + PAGE_SIZE, 5, GIB(3) - MIB(1), PAGE_SIZE},
        {GIB(1024), 5, GIB(3) - MIB(1), GIB(1021)},
    };

    for (unsigned i = 0; i < ARRAY_SIZE(sizes); i++) {
        const struct boot_config config = {.memory = sizes[i].memory};
        struct boot_e820 map[BOOT_E820_MAX] = {0};
        unsigned n = boot_e820(&config, map, BOOT_E820_MAX);

        assert_int_equal(n, sizes[i].entries);
        assert_int_equal(map[0].size, 0x9fc00);
        assert_int_equal(map[1].type, 2);
        assert_int_equal(map[2].size, sizes[i].low);
        assert_int_equal(map[3].base, BOOT_PCI_ECAM);
        assert_int_equal(map[3].type, 2);
        assert_int_equal(map[4].size, sizes[i].high);
        assert_int_equal(map[4].base, n == 5 ? GIB(4) : 0);
        assert_int_equal(ram_in(map, n), sizes[i].memory - (0x100000 - 0x9fc00));
        for (unsigned j = 1; j < n; j++)
            assert_true(map[j - 1].base + map[j - 1].size <= map[j].base);
        assert_int_equal(boot_e820(&config, map, 2), 2);
    }
}

/* --- ACPI ------------------------------------------------------------------------------------------ */

static const struct boot_acpi_config acpi = {
    .cpus = 3,
    .ioapic_base = 0xfec00000,
    .pm_base = 0x600,
    .sci_irq = 9,
    .reset_port = 0xcf9,
    .reset_value = 6,
    .s5_type = 5,
};

static uint8_t sum(struct boot_fixture *f, gpa_t gpa, uint64_t len)
{
    const uint8_t *p = guest_at(f, gpa, len);
    uint8_t s = 0;

    while (len--)
        s = (uint8_t)(s + *p++);
    return s;
}

/* The table's length, after its signature and checksum have been checked. */
static uint32_t check_table(struct boot_fixture *f, gpa_t gpa, const char *signature)
{
    uint32_t len = (uint32_t)guest_get(f, gpa + 4, 4);

    assert_memory_equal(guest_at(f, gpa, 4), signature, 4);
    assert_int_equal(sum(f, gpa, len), 0);
    return len;
}

static bool contains(struct boot_fixture *f, gpa_t gpa, uint32_t len, const void *what, size_t what_len)
{
    return memmem(guest_at(f, gpa, len), len, what, what_len);
}

static void test_acpi(void **state)
{
    struct boot_fixture f;
    gpa_t rsdp = 0, xsdt, fadt, madt, dsdt, facs;
    uint32_t len;

    boot_fixture_open(&f, MIB(16));
    assert_int_equal(boot_write_acpi(f.mem, &acpi, &rsdp, &f.err), 0);
    assert_true(rsdp >= 0xe0000 && rsdp < 0x100000 && rsdp % 16 == 0);
    assert_memory_equal(guest_at(&f, rsdp, 8), "RSD PTR ", 8);
    assert_int_equal(guest_get(&f, rsdp + 15, 1), 2);
    assert_int_equal(sum(&f, rsdp, 20), 0);
    assert_int_equal(sum(&f, rsdp, 36), 0);
    xsdt = guest_get(&f, rsdp + 24, 8);
    assert_int_equal(check_table(&f, xsdt, "XSDT"), 36 + 16);
    fadt = guest_get(&f, xsdt + 36, 8);
    madt = guest_get(&f, xsdt + 44, 8);

    assert_int_equal(check_table(&f, fadt, "FACP"), 276);
    facs = guest_get(&f, fadt + 36, 4);
    assert_int_equal(facs % 64, 0);
    assert_memory_equal(guest_at(&f, facs, 4), "FACS", 4);
    dsdt = guest_get(&f, fadt + 140, 8);
    assert_int_equal(guest_get(&f, fadt + 40, 4), dsdt);
    assert_int_equal(guest_get(&f, fadt + 46, 2), 9);
    assert_int_equal(guest_get(&f, fadt + 56, 4), 0x600);
    assert_int_equal(guest_get(&f, fadt + 64, 4), 0x604);
    assert_int_equal(guest_get(&f, fadt + 76, 4), 0x608);
    assert_int_equal(guest_get(&f, fadt + 109, 2) & 2, 0); /* no 8042 */
    assert_int_equal(guest_get(&f, fadt + 120, 8), 0xcf9);
    assert_int_equal(guest_get(&f, fadt + 128, 1), 6);

    len = check_table(&f, madt, "APIC");
    assert_int_equal(len, 44 + 3 * 8 + 12 + 2 * 10 + 6);
    assert_int_equal(guest_get(&f, madt + 44 + 16 + 3, 1), 2); /* third processor's APIC ID */
    assert_int_equal(guest_get(&f, madt + 44 + 24 + 4, 4), 0xfec00000);
    assert_int_equal(guest_get(&f, madt + 44 + 36 + 4, 4), 2); /* interrupt 0 is on pin 2 */

    len = check_table(&f, dsdt, "DSDT");
    assert_true(contains(&f, dsdt, len, "\x08_S5_\x12\x08\x04\x0a\x05\x0a\x05\x00\x00", 14));
    assert_true(contains(&f, dsdt, len, "COM1\x08_HID\x0c\x41\xd0\x05\x01", 14));
    assert_true(contains(&f, dsdt, len, "\x47\x01\xf8\x02\xf8\x02\x01\x08\x22\x08\x00\x79\x00", 13));
    assert_true(contains(&f, dsdt, len, "CP02", 4));
    assert_false(contains(&f, dsdt, len, "PS2K", 4));
    boot_fixture_close(&f);
}

static void test_acpi_variants(void **state)
{
    struct boot_acpi_config config = acpi;
    struct boot_fixture f;
    gpa_t rsdp, xsdt, fadt, dsdt, mcfg;

    boot_fixture_open(&f, MIB(16));
    config.pci_irq[0] = 10;
    config.pci_irq[1] = 11;
    assert_int_equal(boot_write_acpi(f.mem, &config, &rsdp, &f.err), 0);
    xsdt = guest_get(&f, rsdp + 24, 8);
    assert_int_equal(check_table(&f, xsdt, "XSDT"), 36 + 24);
    mcfg = guest_get(&f, xsdt + 52, 8);
    assert_int_equal(check_table(&f, mcfg, "MCFG"), 60);
    assert_int_equal(guest_get(&f, mcfg + 44, 8), BOOT_PCI_ECAM);
    dsdt = guest_get(&f, guest_get(&f, xsdt + 36, 8) + 140, 8);
    assert_true(contains(&f, dsdt, check_table(&f, dsdt, "DSDT"), "PCI0", 4));
    assert_true(contains(&f, dsdt, check_table(&f, dsdt, "DSDT"), "\x04\x0c\xff\xff\x05\x00\x00\x00\x0a\x0b", 10));
    assert_true(contains(&f, dsdt, check_table(&f, dsdt, "DSDT"), "\x86\x09\x00\x01\x00\x00\x00\xe0", 8));
    config.i8042 = true;
    config.cpus = 255;
    assert_int_equal(boot_write_acpi(f.mem, &config, &rsdp, &f.err), 0);
    xsdt = guest_get(&f, rsdp + 24, 8);
    fadt = guest_get(&f, xsdt + 36, 8);
    dsdt = guest_get(&f, fadt + 140, 8);
    assert_int_equal(guest_get(&f, fadt + 109, 2) & 2, 2);
    assert_true(contains(&f, dsdt, check_table(&f, dsdt, "DSDT"), "PS2K", 4));
    assert_true(contains(&f, dsdt, check_table(&f, dsdt, "DSDT"), "CPFE", 4));
    check_table(&f, guest_get(&f, xsdt + 44, 8), "APIC");

    config.cpus = 256;
    assert_int_equal(boot_write_acpi(f.mem, &config, &rsdp, &f.err), -EINVAL);
    config.cpus = 0;
    assert_int_equal(boot_write_acpi(f.mem, &config, &rsdp, &f.err), -EINVAL);
    boot_fixture_close(&f);
}

/* --- files ----------------------------------------------------------------------------------------- */

static void refuses_file(const char *kernel, const char *initrd, int code, const char *why)
{
    struct boot_fixture f;

    boot_fixture_open(&f, MIB(16));
    f.config.kernel = kernel;
    f.config.initrd = initrd;
    assert_int_equal(boot_load(&f.config, f.mem, &f.cpu, &f.err), code);
    if (!strstr(f.err.message, why))
        fail_msg("\"%s\" does not say \"%s\"", f.err.message, why);
    boot_fixture_close(&f);
}

static void test_files(void **state)
{
    char dir[] = "/tmp/trapeze-test-XXXXXX", path[64], fifo[64];
    int fd;

    assert_non_null(mkdtemp(dir));
    snprintf(path, sizeof(path), "%s/kernel", dir);
    snprintf(fifo, sizeof(fifo), "%s/fifo", dir);
    refuses_file(path, NULL, -ENOENT, "No such file");
    refuses_file(dir, NULL, -EINVAL, "a directory, not a regular file");
    assert_int_equal(mkfifo(fifo, 0600), 0);
    refuses_file(fifo, NULL, -EINVAL, "a pipe or device"); /* and does not wait for a writer */
    fd = open(path, O_CREAT | O_WRONLY, 0600);
    refuses_file(path, NULL, -EINVAL, "the file is empty");
    assert_int_equal(write(fd, "what is this", 12), 12);
    refuses_file(path, NULL, -EINVAL, "not a kernel");
    refuses_file(path, dir, -EINVAL, "initrd '");
    if (geteuid() != 0) {
        assert_int_equal(fchmod(fd, 0), 0);
        refuses_file(path, NULL, -EACCES, "Permission denied");
    }
    close(fd);
    unlink(path);
    unlink(fifo);
    rmdir(dir);
}

/* An initrd that is still in its file, longer than one step of the copy; and one that shrank after it was opened. */
static void test_blob_copy(void **state)
{
    char path[] = "/tmp/trapeze-test-XXXXXX";
    struct boot_fixture f;
    struct boot_blob blob;
    uint8_t *data = malloc(MIB(1));
    int fd = mkstemp(path);

    for (size_t i = 0; i < MIB(1); i++)
        data[i] = (uint8_t)(i * 7 >> 3);
    assert_int_equal(write(fd, data, MIB(1) - 3), MIB(1) - 3);
    boot_fixture_open(&f, MIB(16));
    assert_int_equal(boot_blob_open(&blob, "initrd", path, &f.err), 0);
    assert_int_equal(boot_blob_copy(&blob, f.mem, MIB(2), &f.err), 0);
    assert_memory_equal(guest_at(&f, MIB(2), MIB(1) - 3), data, MIB(1) - 3);
    assert_int_equal(boot_blob_copy(&blob, f.mem, MIB(16) - 100, &f.err), -EFAULT);
    assert_int_equal(ftruncate(fd, 1000), 0);
    assert_int_equal(boot_blob_copy(&blob, f.mem, MIB(2), &f.err), -EIO);
    boot_blob_close(&blob);
    boot_fixture_close(&f);
    close(fd);
    unlink(path);
    free(data);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_e820),  cmocka_unit_test(test_acpi),      cmocka_unit_test(test_acpi_variants),
        cmocka_unit_test(test_files), cmocka_unit_test(test_blob_copy),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
