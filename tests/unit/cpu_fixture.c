/* tests/unit/cpu_fixture.c: see cpu_fixture.h. */
#include "cpu_fixture.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "x86/io.h"
#include "x86/tlb.h"

#define PTE_FLAGS 7 /* present, writable, user */

static uint8_t *fix_page(struct x86_cpu *cpu, gpa_t gpa, unsigned *flags)
{
    struct fixture *f = cpu->bus_ctx;

    *flags = 0;
    return gpa >= FIX_BASE && gpa < FIX_BASE + FIX_SIZE ? f->ram + (gpa - FIX_BASE) : NULL;
}

static void fix_written(struct x86_cpu *cpu, gpa_t gpa, unsigned len)
{
}

static enum x86_rc fix_io(struct fixture *f, uint64_t addr, uint64_t *data, bool write)
{
    f->io_addr = addr;
    if (f->io_rc)
        return f->io_rc;
    f->cpu.io_count = 1; /* as x86_io() has it */
    if (write)
        f->mmio_data = *data;
    else
        *data = f->mmio_data;
    return X86_NEXT;
}

static enum x86_rc fix_mmio(struct x86_cpu *cpu, gpa_t gpa, uint64_t *data, unsigned size, bool write)
{
    struct fixture *f = cpu->bus_ctx;

    f->mmio_calls++;
    return fix_io(f, gpa, data, write);
}

static enum x86_rc fix_port(struct x86_cpu *cpu, uint16_t port, uint32_t *data, unsigned size, bool write)
{
    struct fixture *f = cpu->bus_ctx;
    uint64_t wide = *data;
    enum x86_rc rc;

    f->port_calls++;
    rc = fix_io(f, port, &wide, write);
    *data = (uint32_t)wide;
    return rc;
}

static const struct x86_bus_ops fix_bus = {
    .page = fix_page, .written = fix_written, .mmio = fix_mmio, .port = fix_port};

struct fixture *fixture_new(void)
{
    struct fixture *f = calloc(1, sizeof(*f));
    void *ram = mmap((void *)FIX_BASE, FIX_SIZE, PROT_READ | PROT_WRITE | PROT_EXEC,
                     MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);

    if (!f || ram != (void *)FIX_BASE)
        abort();
    f->ram = ram;
    f->cpu.tlb = calloc(1, sizeof(*f->cpu.tlb));
    f->cpu.bus = &fix_bus;
    f->cpu.bus_ctx = f;
    return f;
}

void fixture_free(struct fixture *f)
{
    munmap(f->ram, FIX_SIZE);
    free(f->cpu.tlb);
    free(f);
}

static uint64_t *table(struct fixture *f, unsigned n)
{
    return (uint64_t *)(f->ram + n * PAGE_SIZE);
}

void fixture_map(struct fixture *f, uint64_t addr, bool present, bool writable)
{
    table(f, 4)[(addr - FIX_BASE) >> PAGE_SHIFT] = (addr & PAGE_MASK) | (present ? 1 : 0) | (writable ? 2 : 0) | 4;
    x86_tlb_flush(&f->cpu);
}

/* Tables in pages 1..4: 4-KiB pages for the RAM, a 2-MiB one for MMIO. */
static void build_tables(struct fixture *f)
{
    memset(f->ram, 0, 8 * PAGE_SIZE);
    table(f, 1)[0] = (FIX_BASE + 2 * PAGE_SIZE) | PTE_FLAGS;
    table(f, 2)[0] = (FIX_BASE + 3 * PAGE_SIZE) | PTE_FLAGS;
    table(f, 3)[FIX_BASE >> 21] = (FIX_BASE + 4 * PAGE_SIZE) | PTE_FLAGS;
    table(f, 3)[FIX_MMIO >> 21] = FIX_MMIO | PTE_FLAGS | 0x80;
    for (unsigned i = 0; i < 512; i++)
        table(f, 4)[i] = (FIX_BASE + i * PAGE_SIZE) | PTE_FLAGS;
}

static void flat(struct x86_cpu *cpu, uint16_t cs_attr, uint16_t data_attr, uint64_t cs, uint64_t data, uint32_t limit)
{
    for (unsigned s = 0; s < 6; s++)
        cpu->seg[s] = (struct x86_segment){
            .base = s == SEG_CS ? cs : data,
            .limit = limit,
            .selector = (uint16_t)(8 * (s + 1)),
            .attr = (uint16_t)(ATTR_P | ATTR_S | (s == SEG_CS ? 0xb | cs_attr : 3 | data_attr)),
        };
}

static void start(struct fixture *f, uint64_t cr0, uint64_t efer)
{
    struct x86_cpu *cpu = &f->cpu;

    memset(cpu->gpr, 0, sizeof(cpu->gpr));
    cpu->rflags = FLAG_FIXED;
    cpu->cr0 = cr0;
    cpu->cr3 = FIX_BASE + PAGE_SIZE;
    cpu->cr4 = CR4_PAE;
    cpu->msr.efer = efer;
    cpu->rip = 0;
    cpu->io_count = cpu->io_pos = 0;
    f->io_rc = X86_NEXT;
    f->mmio_calls = f->port_calls = 0;
    build_tables(f);
    x86_tlb_init(cpu);
    x86_update_mode(cpu);
}

void fixture_long64(struct fixture *f)
{
    flat(&f->cpu, ATTR_L | ATTR_G, ATTR_DB | ATTR_G, 0, 0, 0xffffffff);
    start(f, CR0_PE | CR0_PG | CR0_WP | CR0_NE, EFER_LME | EFER_LMA);
    f->cpu.rip = FIX_CODE;
}

void fixture_prot32(struct fixture *f)
{
    flat(&f->cpu, ATTR_DB | ATTR_G, ATTR_DB | ATTR_G, 0, 0, 0xffffffff);
    start(f, CR0_PE | CR0_NE, 0);
    f->cpu.rip = FIX_CODE;
}

void fixture_prot16(struct fixture *f)
{
    flat(&f->cpu, 0, 0, FIX_CODE, FIX_DATA, 0xffff);
    start(f, CR0_PE | CR0_NE, 0);
}

enum x86_rc fixture_exec(struct fixture *f, const uint8_t *bytes, unsigned size)
{
    struct x86_insn in;
    enum x86_rc rc;

    x86_decode(&in, f->cpu.mode, bytes, size);
    x86_io_restart(&f->cpu);
    rc = in.exec(&f->cpu, &in);
    if (rc == X86_NEXT)
        f->cpu.rip += in.length;
    if (rc != X86_EXIT)
        x86_io_forget(&f->cpu);
    return rc;
}

enum x86_rc fixture_exec_all(struct fixture *f, const uint8_t *bytes, unsigned size, unsigned *calls)
{
    enum x86_rc rc;
    unsigned n = 0;

    do {
        rc = fixture_exec(f, bytes, size);
        n++;
    } while (rc == X86_AGAIN);
    if (calls)
        *calls = n;
    return rc;
}
