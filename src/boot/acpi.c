/*
 * boot/acpi.c: the ACPI tables (ACPI 6.4): RSDP, XSDT, FADT, FACS, MADT, MCFG, DSDT,
 * laid one after another in the BIOS area, where a kernel that is given no
 * pointer finds them too.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "boot/aml.h"
#include "boot/boot_internal.h"

#define OEM_ID       "TRPEZE"
#define OEM_TABLE_ID "TRAPEZE "
#define CREATOR_ID   "TRPZ"

#define LAPIC_BASE 0xfee00000u
#define AREA_SIZE  (BOOT_HIGH_START - BOOT_BIOS_TABLES)
#define CPUS_MAX   255 /* APIC IDs of the 8-bit MADT entries: 0..254 */

struct header { /* 5.2.6 */
    char signature[4];
    uint32_t length;
    uint8_t revision, checksum;
    char oem_id[6], oem_table_id[8];
    uint32_t oem_revision;
    char creator_id[4];
    uint32_t creator_revision;
} __attribute__((packed));

struct rsdp { /* 5.2.5.3 */
    char signature[8];
    uint8_t checksum;
    char oem_id[6];
    uint8_t revision;
    uint32_t rsdt, length;
    uint64_t xsdt;
    uint8_t extended_checksum, reserved[3];
} __attribute__((packed));

struct gas { /* generic address, 5.2.3.2 */
    uint8_t space, bit_width, bit_offset, access_size;
    uint64_t address;
} __attribute__((packed));
#define GAS_IO 1

struct fadt { /* 5.2.9, revision 6 */
    struct header h;
    uint32_t facs, dsdt;
    uint8_t reserved0, profile;
    uint16_t sci_int;
    uint32_t smi_cmd;
    uint8_t acpi_enable, acpi_disable, s4bios_req, pstate_cnt;
    uint32_t pm1a_evt, pm1b_evt, pm1a_cnt, pm1b_cnt, pm2_cnt, pm_tmr, gpe0, gpe1;
    uint8_t pm1_evt_len, pm1_cnt_len, pm2_cnt_len, pm_tmr_len, gpe0_len, gpe1_len, gpe1_base, cst_cnt;
    uint16_t p_lvl2_lat, p_lvl3_lat, flush_size, flush_stride;
    uint8_t duty_offset, duty_width, day_alarm, month_alarm, century;
    uint16_t iapc_boot_arch;
    uint8_t reserved1;
    uint32_t flags;
    struct gas reset_reg;
    uint8_t reset_value;
    uint16_t arm_boot_arch;
    uint8_t minor;
    uint64_t x_facs, x_dsdt;
    struct gas x_pm1a_evt, x_pm1b_evt, x_pm1a_cnt, x_pm1b_cnt, x_pm2_cnt, x_pm_tmr, x_gpe0, x_gpe1;
    struct gas sleep_control, sleep_status;
    uint64_t hypervisor;
} __attribute__((packed));
_Static_assert(sizeof(struct fadt) == 276, "FADT of revision 6");

enum {
    FADT_WBINVD = 1 << 0,
    FADT_PROC_C1 = 1 << 2,
    FADT_NO_PWR_BUTTON = 1 << 4,
    FADT_NO_SLP_BUTTON = 1 << 5,
    FADT_NO_FIXED_RTC = 1 << 6,
    FADT_RESET_REG = 1 << 10,
};
enum { IAPC_LEGACY_DEVICES = 1 << 0, IAPC_8042 = 1 << 1, IAPC_NO_VGA = 1 << 2, IAPC_NO_ASPM = 1 << 4 };
#define NO_C2 0xfff /* P_LVL2_LAT above 100: there is no such state */
#define NO_C3 0xfff

struct facs { /* 5.2.10; on a 64-byte boundary */
    char signature[4];
    uint32_t length, hardware_signature, waking_vector, global_lock, flags;
    uint64_t x_waking_vector;
    uint8_t version, reserved[31];
} __attribute__((packed));
_Static_assert(sizeof(struct facs) == 64, "FACS");

struct madt { /* 5.2.12 */
    struct header h;
    uint32_t lapic;
    uint32_t flags;
} __attribute__((packed));
#define MADT_PCAT_COMPAT 1 /* there are 8259s to be masked */

struct madt_lapic {
    uint8_t type, length, uid, apic_id;
    uint32_t flags;
} __attribute__((packed));
struct madt_ioapic {
    uint8_t type, length, id, reserved;
    uint32_t address, gsi_base;
} __attribute__((packed));
struct madt_override {
    uint8_t type, length, bus, irq;
    uint32_t gsi;
    uint16_t flags;
} __attribute__((packed));
struct madt_lapic_nmi {
    uint8_t type, length, uid;
    uint16_t flags;
    uint8_t lint;
} __attribute__((packed));
enum { MADT_LAPIC = 0, MADT_IOAPIC = 1, MADT_OVERRIDE = 2, MADT_LAPIC_NMI = 4 };
#define MADT_LAPIC_ENABLED     1
#define MADT_LEVEL_ACTIVE_HIGH 0xd

struct mcfg { /* PCI Firmware 3.0, 4.1.2: one segment */
    struct header h;
    uint64_t reserved0, base;
    uint16_t segment;
    uint8_t first_bus, last_bus;
    uint32_t reserved1;
} __attribute__((packed));

#define PCI_SLOTS 32u

/* The area as it is built; addresses are BOOT_BIOS_TABLES + offset. */
struct area {
    uint8_t *buf;
    size_t len;
};

static uint8_t checksum(const void *data, size_t len)
{
    const uint8_t *p = data;
    uint8_t sum = 0;

    while (len--)
        sum = (uint8_t)(sum + *p++);
    return (uint8_t)-sum;
}

/* Appends to the area; NULL: full. Zeroed. */
static void *append(struct area *area, size_t len, size_t align)
{
    size_t at = ALIGN_UP(area->len, align);

    if (at > AREA_SIZE || len > AREA_SIZE - at)
        return NULL;
    area->len = at + len;
    return area->buf + at;
}

static uint64_t address_of(const struct area *area, const void *p)
{
    return BOOT_BIOS_TABLES + (uint64_t)((const uint8_t *)p - area->buf);
}

static void *begin(struct area *area, const char *signature, uint8_t revision, size_t len)
{
    struct header *h = append(area, len, 16);

    if (!h)
        return NULL;
    memcpy(h->signature, signature, 4);
    h->revision = revision;
    memcpy(h->oem_id, OEM_ID, sizeof(h->oem_id));
    memcpy(h->oem_table_id, OEM_TABLE_ID, sizeof(h->oem_table_id));
    h->oem_revision = 1;
    memcpy(h->creator_id, CREATOR_ID, sizeof(h->creator_id));
    h->creator_revision = 1;
    return h;
}

/* The table is the last of the area and complete: length and checksum. */
static void finish(struct area *area, struct header *h)
{
    h->length = (uint32_t)(area->buf + area->len - (uint8_t *)h);
    h->checksum = checksum(h, h->length);
}

static struct gas io_register(uint16_t port, uint8_t bytes)
{
    return (struct gas){GAS_IO, (uint8_t)(bytes * 8), 0, (uint8_t)(bytes == 4 ? 3 : bytes), port};
}

/* Devices at fixed places: name, EISA ID, unit, ports, interrupt. */
static const struct platform_device {
    const char *name, *hid;
    int uid; /* -1: none */
    struct {
        uint16_t base;
        uint8_t len;
    } io[2];
    int irq; /* -1: none */
    bool needs_8042;
} platform_devices[] = {
    {"COM1", "PNP0501", 1, {{0x3f8, 8}}, 4, false},
    {"COM2", "PNP0501", 2, {{0x2f8, 8}}, 3, false},
    {"RTC", "PNP0B00", -1, {{0x70, 2}}, 8, false},
    {"PIT", "PNP0100", -1, {{0x40, 4}}, 0, false},
    {"PIC", "PNP0000", -1, {{0x20, 2}, {0xa0, 2}}, 2, false},
    {"PS2K", "PNP0303", -1, {{0x60, 1}, {0x64, 1}}, 1, true},
};

static void write_platform_device(struct aml *aml, const struct platform_device *d)
{
    size_t dev = aml_device(aml, d->name), crs;

    aml_name(aml, "_HID");
    aml_eisa_id(aml, d->hid);
    if (d->uid >= 0) {
        aml_name(aml, "_UID");
        aml_integer(aml, (uint32_t)d->uid);
    }
    aml_name(aml, "_CRS");
    crs = aml_resources(aml);
    for (unsigned i = 0; i < ARRAY_SIZE(d->io); i++)
        if (d->io[i].len > 0)
            aml_io(aml, d->io[i].base, d->io[i].len);
    if (d->irq >= 0)
        aml_irq(aml, (unsigned)d->irq);
    aml_end_resources(aml, crs);
    aml_end(aml, dev);
}

static void write_processor(struct aml *aml, unsigned i)
{
    static const char hex[] = "0123456789ABCDEF";
    const char name[5] = {'C', 'P', hex[i >> 4 & 15], hex[i & 15], 0};
    size_t dev = aml_device(aml, name);

    aml_name(aml, "_HID");
    aml_string(aml, "ACPI0007");
    aml_name(aml, "_UID");
    aml_integer(aml, i);
    aml_end(aml, dev);
}

/* _PRT (6.2.13): for each slot {address, INTA, no link device, interrupt}. No function has another pin. */
static void write_pci_routes(struct aml *aml, const struct boot_acpi_config *config)
{
    size_t all, one;

    aml_name(aml, "_PRT");
    all = aml_package(aml, PCI_SLOTS);
    for (unsigned slot = 0; slot < PCI_SLOTS; slot++) {
        one = aml_package(aml, 4);
        aml_integer(aml, slot << 16 | 0xffff);
        aml_integer(aml, 0);
        aml_integer(aml, 0);
        aml_integer(aml, config->pci_irq[slot % ARRAY_SIZE(config->pci_irq)]);
        aml_end(aml, one);
    }
    aml_end(aml, all);
}

/* The host bridge, and the ECAM range as a resource of the board's (PCI Firmware 3.0, 4.1.2). */
static void write_pci(struct aml *aml, const struct boot_acpi_config *config)
{
    size_t device = aml_device(aml, "PCI0"), resources;

    aml_name(aml, "_HID");
    aml_eisa_id(aml, "PNP0A08");
    aml_name(aml, "_CID");
    aml_eisa_id(aml, "PNP0A03");
    aml_name(aml, "_UID");
    aml_integer(aml, 0);
    aml_name(aml, "_CRS");
    resources = aml_resources(aml);
    aml_bus_range(aml, 0, 0);
    aml_io(aml, 0xcf8, 8);
    aml_memory_range(aml, BOOT_PCI_WINDOW, BOOT_PCI_WINDOW_SIZE);
    aml_end_resources(aml, resources);
    write_pci_routes(aml, config);
    aml_end(aml, device);

    device = aml_device(aml, "MCFG");
    aml_name(aml, "_HID");
    aml_eisa_id(aml, "PNP0C02");
    aml_name(aml, "_CRS");
    resources = aml_resources(aml);
    aml_memory32(aml, BOOT_PCI_ECAM, BOOT_PCI_ECAM_SIZE);
    aml_end_resources(aml, resources);
    aml_end(aml, device);
}

static void write_dsdt_body(struct aml *aml, const struct boot_acpi_config *config)
{
    size_t scope, package;

    aml_name(aml, "_S5");
    package = aml_package(aml, 4);
    aml_integer(aml, config->s5_type);
    aml_integer(aml, config->s5_type);
    aml_integer(aml, 0);
    aml_integer(aml, 0);
    aml_end(aml, package);

    scope = aml_scope(aml, "\\_SB_");
    for (unsigned i = 0; i < config->cpus; i++)
        write_processor(aml, i);
    for (unsigned i = 0; i < ARRAY_SIZE(platform_devices); i++)
        if (config->i8042 || !platform_devices[i].needs_8042)
            write_platform_device(aml, &platform_devices[i]);
    if (config->pci_irq[0])
        write_pci(aml, config);
    aml_end(aml, scope);
}

static struct header *write_dsdt(struct area *area, const struct boot_acpi_config *config)
{
    struct header *h = begin(area, "DSDT", 2, sizeof(*h));
    struct aml aml = {0};

    if (!h)
        return NULL;
    aml.buf = area->buf + area->len;
    aml.cap = AREA_SIZE - area->len;
    write_dsdt_body(&aml, config);
    if (aml.full)
        return NULL;
    area->len += aml.len;
    finish(area, h);
    return h;
}

static struct facs *write_facs(struct area *area)
{
    struct facs *f = append(area, sizeof(*f), 64);

    if (!f)
        return NULL;
    memcpy(f->signature, "FACS", 4);
    f->length = sizeof(*f);
    f->version = 2;
    return f;
}

static struct header *write_fadt(struct area *area, const struct boot_acpi_config *config, uint64_t facs, uint64_t dsdt)
{
    struct fadt *f = begin(area, "FACP", 6, sizeof(*f));

    if (!f)
        return NULL;
    f->facs = (uint32_t)facs; /* X_FIRMWARE_CTRL stays 0: only one of the two may be set (5.2.9) */
    f->dsdt = (uint32_t)dsdt;
    f->x_dsdt = dsdt;
    f->sci_int = config->sci_irq;
    f->pm1a_evt = config->pm_base;
    f->pm1_evt_len = 4;
    f->x_pm1a_evt = io_register(config->pm_base, 4);
    f->x_pm1a_evt.access_size = 2; /* two 16-bit registers */
    f->pm1a_cnt = config->pm_base + 4u;
    f->pm1_cnt_len = 2;
    f->x_pm1a_cnt = io_register((uint16_t)(config->pm_base + 4), 2);
    f->pm_tmr = config->pm_base + 8u;
    f->pm_tmr_len = 4;
    f->x_pm_tmr = io_register((uint16_t)(config->pm_base + 8), 4);
    f->p_lvl2_lat = NO_C2;
    f->p_lvl3_lat = NO_C3;
    f->century = 0x32;
    f->iapc_boot_arch = (uint16_t)(IAPC_LEGACY_DEVICES | IAPC_NO_VGA | IAPC_NO_ASPM | (config->i8042 ? IAPC_8042 : 0));
    f->flags =
        FADT_WBINVD | FADT_PROC_C1 | FADT_NO_PWR_BUTTON | FADT_NO_SLP_BUTTON | FADT_NO_FIXED_RTC | FADT_RESET_REG;
    f->reset_reg = io_register(config->reset_port, 1);
    f->reset_value = config->reset_value;
    f->minor = 4;
    memcpy(&f->hypervisor, "Trapeze", 7);
    finish(area, &f->h);
    return &f->h;
}

static bool add_entry(struct area *area, const void *entry, size_t len)
{
    void *to = append(area, len, 1);

    if (to)
        memcpy(to, entry, len);
    return to;
}

static struct header *write_madt(struct area *area, const struct boot_acpi_config *config)
{
    const struct madt_ioapic ioapic = {
        MADT_IOAPIC, sizeof(ioapic), (uint8_t)config->cpus, 0, (uint32_t)config->ioapic_base, 0};
    const struct madt_override overrides[] = {
        {MADT_OVERRIDE, sizeof(overrides[0]), 0, 0, 2, 0}, /* the PIT is on pin 2 */
        {MADT_OVERRIDE, sizeof(overrides[0]), 0, (uint8_t)config->sci_irq, config->sci_irq, MADT_LEVEL_ACTIVE_HIGH},
    };
    const struct madt_lapic_nmi nmi = {MADT_LAPIC_NMI, sizeof(nmi), 0xff /* all */, 0, 1};
    struct madt *m = begin(area, "APIC", 5, sizeof(*m));
    bool ok = m;

    if (!m)
        return NULL;
    m->lapic = LAPIC_BASE;
    m->flags = MADT_PCAT_COMPAT;
    for (unsigned i = 0; i < config->cpus && ok; i++) {
        const struct madt_lapic lapic = {MADT_LAPIC, sizeof(lapic), (uint8_t)i, (uint8_t)i, MADT_LAPIC_ENABLED};

        ok = add_entry(area, &lapic, sizeof(lapic));
    }
    ok = ok && add_entry(area, &ioapic, sizeof(ioapic)) && add_entry(area, overrides, sizeof(overrides)) &&
         add_entry(area, &nmi, sizeof(nmi));
    if (!ok)
        return NULL;
    finish(area, &m->h);
    return &m->h;
}

static struct header *write_mcfg(struct area *area)
{
    struct mcfg *m = begin(area, "MCFG", 1, sizeof(*m));

    if (!m)
        return NULL;
    m->base = BOOT_PCI_ECAM;
    finish(area, &m->h);
    return &m->h;
}

static struct header *write_xsdt(struct area *area, const uint64_t *tables, size_t count)
{
    struct header *h = begin(area, "XSDT", 1, sizeof(*h));

    if (!h || !add_entry(area, tables, count * sizeof(tables[0])))
        return NULL;
    finish(area, h);
    return h;
}

static void fill_rsdp(struct rsdp *r, uint64_t xsdt)
{
    memcpy(r->signature, "RSD PTR ", 8);
    memcpy(r->oem_id, OEM_ID, sizeof(r->oem_id));
    r->revision = 2;
    r->length = sizeof(*r);
    r->xsdt = xsdt;
    r->checksum = checksum(r, 20); /* the part of ACPI 1.0 */
    r->extended_checksum = checksum(r, sizeof(*r));
}

static bool write_all(struct area *area, const struct boot_acpi_config *config)
{
    struct rsdp *rsdp = append(area, sizeof(*rsdp), 16);
    struct header *dsdt = write_dsdt(area, config), *fadt, *madt, *mcfg, *xsdt;
    struct facs *facs = write_facs(area);
    uint64_t tables[3];
    size_t count = 0;

    if (!rsdp || !dsdt || !facs)
        return false;
    fadt = write_fadt(area, config, address_of(area, facs), address_of(area, dsdt));
    madt = write_madt(area, config);
    if (!fadt || !madt)
        return false;
    tables[count++] = address_of(area, fadt);
    tables[count++] = address_of(area, madt);
    if (config->pci_irq[0]) {
        mcfg = write_mcfg(area);
        if (!mcfg)
            return false;
        tables[count++] = address_of(area, mcfg);
    }
    xsdt = write_xsdt(area, tables, count);
    if (!xsdt)
        return false;
    fill_rsdp(rsdp, address_of(area, xsdt));
    return true;
}

int boot_write_acpi(struct mem *mem, const struct boot_acpi_config *config, gpa_t *rsdp, struct error *err)
{
    struct area area = {0};
    int rc = 0;

    if (config->cpus == 0 || config->cpus > CPUS_MAX)
        return error_set(err, -EINVAL, "%u processors; ACPI tables are for 1 to %d", config->cpus, CPUS_MAX);
    area.buf = calloc(1, AREA_SIZE);
    if (!area.buf)
        return error_set(err, -ENOMEM, "ACPI tables: out of memory");
    if (!write_all(&area, config))
        rc = error_set(err, -ENOSPC, "ACPI tables: more than %llu bytes", AREA_SIZE);
    else if (mem_write(mem, BOOT_BIOS_TABLES, area.buf, area.len) < 0)
        rc = error_set(err, -EFAULT, "ACPI tables: no guest memory at %#llx", BOOT_BIOS_TABLES);
    else
        *rsdp = BOOT_BIOS_TABLES;
    free(area.buf);
    return rc;
}
