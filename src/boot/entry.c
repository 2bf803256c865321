/*
 * boot/entry.c: the processor's state at a kernel's first instruction, and the
 * low memory that goes with it: GDT, page tables, command line, initrd.
 */
#include <errno.h>
#include <string.h>

#include "boot/boot_internal.h"
#include "x86/cpuid.h"

#define SEL_CODE 0x10
#define SEL_DATA 0x18
#define SEL_TSS  0x20

#define ATTR_CODE32 0xc09b /* P, S, execute/read, accessed; D, G */
#define ATTR_CODE64 0xa09b /* the same with L for D */
#define ATTR_DATA   0xc093 /* P, S, read/write, accessed; B, G */
#define ATTR_TSS    0x008b /* busy TSS, 32-bit or 64-bit by mode */

#define MTRR_UC         0
#define MTRR_WB         6
#define MTRR_ENABLE     BIT(11)
#define MTRR_VALID      BIT(11)
#define APIC_SVR_ENABLE BIT(8)

#define PTE_P  BIT(0)
#define PTE_W  BIT(1)
#define PTE_A  BIT(5)
#define PTE_D  BIT(6)
#define PTE_PS BIT(7)

static int fault(const char *what, gpa_t gpa, struct error *err)
{
    return error_set(err, -EFAULT, "%s: no guest memory at %#llx", what, (unsigned long long)gpa);
}

/* A flat 4 GiB descriptor (or a TSS of 0x67 bytes at 0) from attributes as in struct x86_segment. */
static uint64_t descriptor(uint16_t attr, uint32_t limit)
{
    return (uint64_t)(limit & 0xffff) | (uint64_t)(attr & 0xff) << 40 | (uint64_t)(limit >> 16 & 0xf) << 48 |
           (uint64_t)(attr >> 12) << 52;
}

static int write_gdt(const struct boot_job *job, uint16_t code, struct error *err)
{
    const uint64_t gdt[] = {0, 0, descriptor(code, 0xfffff), descriptor(ATTR_DATA, 0xfffff), descriptor(ATTR_TSS, 0x67),
                            0};
    struct x86_cpu *cpu = job->cpu;

    if (mem_write(job->mem, BOOT_GDT, gdt, sizeof(gdt)) < 0)
        return fault("boot GDT", BOOT_GDT, err);
    cpu->gdtr = (struct x86_table){.base = BOOT_GDT, .limit = sizeof(gdt) - 1};
    cpu->idtr = (struct x86_table){.base = 0, .limit = 0};
    for (unsigned i = 0; i < ARRAY_SIZE(cpu->seg); i++)
        cpu->seg[i] = (struct x86_segment){.limit = 0xffffffff, .selector = SEL_DATA, .attr = ATTR_DATA};
    cpu->seg[SEG_CS] = (struct x86_segment){.limit = 0xffffffff, .selector = SEL_CODE, .attr = code};
    cpu->tr = (struct x86_segment){.limit = 0x67, .selector = SEL_TSS, .attr = ATTR_TSS};
    cpu->ldtr = (struct x86_segment){0};
    return 0;
}

/* What kernels expect firmware to have done: memory is write-back but for the device hole (with the MTRRs off Linux
 * goes without PAT), and the local APIC passes the 8259's interrupts and NMI (virtual wire mode: Intel MP
 * specification 1.4, 3.6.2.2). */
static void set_up_firmware_state(struct x86_cpu *cpu)
{
    const uint64_t hole = GIB(4) - BOOT_MMIO_HOLE;

    cpu->msr.mtrr_def_type = MTRR_ENABLE | MTRR_WB;
    cpu->msr.mtrr_var[0] = BOOT_MMIO_HOLE | MTRR_UC;
    cpu->msr.mtrr_var[1] = ((BIT(x86_phys_bits()) - 1) & ~(hole - 1)) | MTRR_VALID;
    cpu->lapic.svr = APIC_SVR_ENABLE | 0xff;
    cpu->lapic.lvt[LVT_LINT0] = APIC_EXTINT << 8;
    cpu->lapic.lvt[LVT_LINT1] = APIC_NMI << 8;
}

static void clear_registers(struct x86_cpu *cpu, uint64_t entry)
{
    set_up_firmware_state(cpu);
    memset(cpu->gpr, 0, sizeof(cpu->gpr));
    cpu->rip = entry;
    cpu->rflags = FLAG_FIXED;
    cpu->cr2 = cpu->cr3 = cpu->cr4 = 0;
    cpu->msr.efer = 0;
}

int boot_enter_32(const struct boot_job *job, uint32_t entry, struct error *err)
{
    int rc = write_gdt(job, ATTR_CODE32, err);

    if (rc < 0)
        return rc;
    clear_registers(job->cpu, entry);
    job->cpu->cr0 = CR0_PE | CR0_ET;
    return 0;
}

/* 2 MiB pages: every processor with long mode has them, 1 GiB pages it may not. */
static int write_page_tables(const struct boot_job *job, struct error *err)
{
    uint64_t table[512] = {0};
    gpa_t pml4 = BOOT_PAGE_TABLES, pdpt = pml4 + PAGE_SIZE, pd = pdpt + PAGE_SIZE;

    table[0] = pdpt | PTE_P | PTE_W | PTE_A;
    if (mem_write(job->mem, pml4, table, sizeof(table)) < 0)
        return fault("boot page tables", pml4, err);
    for (unsigned i = 0; i < 4; i++)
        table[i] = (pd + i * PAGE_SIZE) | PTE_P | PTE_W | PTE_A;
    if (mem_write(job->mem, pdpt, table, sizeof(table)) < 0)
        return fault("boot page tables", pdpt, err);
    for (unsigned i = 0; i < 4; i++) {
        for (unsigned j = 0; j < 512; j++)
            table[j] = (GIB(i) + MIB(2) * j) | PTE_P | PTE_W | PTE_A | PTE_D | PTE_PS;
        if (mem_write(job->mem, pd + i * PAGE_SIZE, table, sizeof(table)) < 0)
            return fault("boot page tables", pd, err);
    }
    return 0;
}

int boot_enter_64(const struct boot_job *job, uint64_t entry, struct error *err)
{
    struct x86_cpu *cpu = job->cpu;
    int rc = write_gdt(job, ATTR_CODE64, err);

    if (rc == 0)
        rc = write_page_tables(job, err);
    if (rc < 0)
        return rc;
    clear_registers(cpu, entry);
    cpu->cr0 = CR0_PE | CR0_ET | CR0_PG;
    cpu->cr3 = BOOT_PAGE_TABLES;
    cpu->cr4 = CR4_PAE;
    cpu->msr.efer = EFER_LME | EFER_LMA;
    return 0;
}

int boot_write_cmdline(const struct boot_job *job, uint64_t max, struct error *err)
{
    size_t len = strlen(job->config->cmdline);

    max = MIN(max, BOOT_CMDLINE_MAX);
    if (len > max)
        return error_set(err, -E2BIG, "kernel command line has %zu bytes; kernel '%s' takes at most %llu", len,
                         job->kernel->path, (unsigned long long)max);
    if (mem_write(job->mem, BOOT_CMDLINE, job->config->cmdline, len + 1) < 0)
        return fault("kernel command line", BOOT_CMDLINE, err);
    return 0;
}

int boot_write_initrd(const struct boot_job *job, uint64_t kernel_end, uint64_t top, gpa_t *gpa, struct error *err)
{
    const struct boot_blob *initrd = job->initrd;
    uint64_t low = boot_low_end(job->config);
    uint64_t need = ALIGN_UP(initrd->size, PAGE_SIZE), end = ALIGN_DOWN(MIN(top, low), PAGE_SIZE);

    kernel_end = ALIGN_UP(kernel_end, PAGE_SIZE);
    if (end < kernel_end || end - kernel_end < need) {
        uint64_t wanted = (kernel_end + need + MIB(1) - 1) >> 20;

        if (wanted << 20 > MIN(top, BOOT_MMIO_HOLE))
            return error_set(err, -ENOSPC,
                             "initrd '%s': does not fit: %llu MiB, but the kernel leaves %llu MiB that it can reach",
                             initrd->path, (unsigned long long)((need + MIB(1) - 1) >> 20),
                             (unsigned long long)(end > kernel_end ? (end - kernel_end) >> 20 : 0));
        return error_set(err, -ENOSPC,
                         "initrd '%s': does not fit: %llu MiB beside the kernel; the VM has %llu MiB, "
                         "give it more than %llu MiB",
                         initrd->path, (unsigned long long)((need + MIB(1) - 1) >> 20), (unsigned long long)(low >> 20),
                         (unsigned long long)wanted);
    }
    *gpa = end - need;
    return boot_blob_copy(initrd, job->mem, *gpa, err);
}
