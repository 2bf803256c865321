/* tests/unit/x86_fake.c: see x86_fake.h. */
#include "x86_fake.h"

#include <stdlib.h>
#include <string.h>

#include "x86/io.h"

static struct fake *of(struct x86_cpu *cpu)
{
    return container_of(cpu, struct fake, cpu);
}

static uint8_t *page(struct x86_cpu *cpu, gpa_t gpa, unsigned *flags)
{
    struct fake *f = of(cpu);

    *flags = gpa == f->watched ? X86_PAGE_WATCHED : 0;
    if (gpa < FAKE_RAM)
        return f->ram + gpa;
    if (gpa == FAKE_ROM) {
        *flags |= X86_PAGE_READONLY;
        return f->rom;
    }
    return NULL;
}

static void written(struct x86_cpu *cpu, gpa_t gpa, unsigned len)
{
    struct fake *f = of(cpu);

    assert_true((gpa & ~PAGE_MASK) + len <= PAGE_SIZE);
    if (f->written_count < FAKE_LOG)
        f->written[f->written_count++] = gpa;
}

/* Reads give the low byte of each byte's address. */
static enum x86_rc mmio(struct x86_cpu *cpu, gpa_t gpa, uint64_t *data, unsigned size, bool write)
{
    struct fake *f = of(cpu);

    assert_true(size == 1 || size == 2 || size == 4 || size == 8);
    assert_int_equal(gpa & (size - 1), 0);
    if (f->mmio_exit)
        return x86_io(cpu, X86_IO_MMIO, gpa, data, size, write);
    if (!write)
        for (unsigned i = 0; i < size; i++)
            ((uint8_t *)data)[i] = (uint8_t)(gpa + i);
    if (f->io_count < FAKE_LOG)
        f->io[f->io_count++] = (struct fake_io){gpa, *data, size, write};
    return X86_NEXT;
}

static uint64_t tsc(struct x86_cpu *cpu)
{
    return of(cpu)->ns * (FAKE_TSC_HZ / 1000000000);
}

static uint64_t tsc_hz(struct x86_cpu *cpu)
{
    return FAKE_TSC_HZ;
}

static uint64_t ns(struct x86_cpu *cpu)
{
    return of(cpu)->ns;
}

static uint64_t wall_ns(struct x86_cpu *cpu)
{
    return 1700000000123456789ull;
}

static void send_ipi(struct x86_cpu *cpu, const struct x86_apic_message *message)
{
    struct fake *f = of(cpu);

    if (f->ipi_count < FAKE_LOG)
        f->ipi[f->ipi_count++] = *message;
}

static void eoi(struct x86_cpu *cpu, uint8_t vector)
{
    struct fake *f = of(cpu);

    if (f->eoi_count < FAKE_LOG)
        f->eoi[f->eoi_count++] = vector;
}

static unsigned cpu_count(struct x86_cpu *cpu)
{
    return of(cpu)->cpus;
}

static const struct x86_bus_ops ops = {
    .page = page,
    .written = written,
    .mmio = mmio,
    .tsc = tsc,
    .tsc_hz = tsc_hz,
    .ns = ns,
    .wall_ns = wall_ns,
    .send_ipi = send_ipi,
    .eoi = eoi,
    .cpu_count = cpu_count,
};

struct fake *fake_new(uint32_t id)
{
    struct fake *f = aligned_alloc(64, ALIGN_UP(sizeof(*f), 64));

    assert_non_null(f);
    memset(f, 0, sizeof(*f));
    f->ram = calloc(1, FAKE_RAM);
    f->rom = malloc(PAGE_SIZE);
    assert_non_null(f->ram);
    assert_non_null(f->rom);
    memset(f->rom, 0x5a, PAGE_SIZE);
    f->watched = UINT64_MAX;
    f->cpus = 1;
    f->cpu.bus = &ops;
    f->cpu.tlb = &f->tlb;
    f->cpu.id = id;
    x86_tlb_init(&f->cpu);
    x86_cpu_reset(&f->cpu);
    return f;
}

void fake_free(struct fake *f)
{
    free(f->ram);
    free(f->rom);
    free(f);
}

uint64_t fake_read(const struct fake *f, gpa_t gpa, unsigned size)
{
    uint64_t value = 0;

    assert_true(gpa + size <= FAKE_RAM);
    memcpy(&value, f->ram + gpa, size);
    return value;
}

void fake_write(struct fake *f, gpa_t gpa, uint64_t value, unsigned size)
{
    assert_true(gpa + size <= FAKE_RAM);
    memcpy(f->ram + gpa, &value, size);
}

void fake_segments(struct fake *f, unsigned bits, unsigned cpl)
{
    uint16_t common = (uint16_t)(ATTR_P | ATTR_S | ATTR_G | cpl << ATTR_DPL_SHIFT);
    uint16_t size = bits == 32 ? ATTR_DB : 0;

    for (unsigned s = 0; s < 6; s++)
        f->cpu.seg[s] = (struct x86_segment){.limit = 0xffffffff, .attr = (uint16_t)(common | size | ATTR_WRITABLE)};
    f->cpu.seg[SEG_CS].attr = (uint16_t)(common | ATTR_CODE | ATTR_READABLE | (bits == 64 ? ATTR_L : size));
    x86_update_mode(&f->cpu);
}

void fake_paging(struct fake *f, uint64_t cr0, uint64_t cr3, uint64_t cr4, uint64_t efer)
{
    f->cpu.cr3 = cr3;
    f->cpu.cr4 = cr4;
    f->cpu.msr.efer = efer & EFER_LME ? efer | EFER_LMA : efer;
    f->cpu.cr0 = cr0 | CR0_PE | CR0_ET;
    x86_tlb_flush(&f->cpu);
    x86_update_mode(&f->cpu);
}
