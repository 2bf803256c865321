/*
 * boot/boot.h: puts a kernel, its initrd, command line and tables into guest
 * memory and says in which state the boot processor starts.
 */
#ifndef BOOT_BOOT_H
#define BOOT_BOOT_H

#include "base/error.h"
#include "mem/mem.h"
#include "x86/cpu.h"

struct boot_e820 {
    uint64_t base, size;
    uint32_t type; /* 1 RAM, 2 reserved, 3 ACPI reclaimable, 4 ACPI NVS */
};

struct boot_config {
    const char *kernel;  /* path; bzImage, ELF (PVH or multiboot 1) */
    const char *initrd;  /* path or NULL */
    const char *cmdline; /* "" if none */
    uint64_t memory;     /* bytes of guest RAM: below MMIO_HOLE at 0, the rest from 4 GiB */
    unsigned cpus;
    gpa_t rsdp;       /* ACPI root pointer, already written by boot_write_acpi */
    bool self_unpack; /* leave unpacking to the image's own code: guest code is as fast as ours */
};

#define BOOT_MMIO_HOLE 0xc0000000ull /* RAM below 4 GiB ends here at the latest */

/* Loads; fills cpu's architectural state for the first instruction (it has been reset before). -EINVAL, -ENOENT,
 * -ENOSPC, ... with one line for the user. */
int boot_load(const struct boot_config *config, struct mem *mem, struct x86_cpu *cpu, struct error *err);

/* Above RAM's hole begin the PCI bus's addresses. ECAM is reserved in the memory map: kernels want to see that. */
#define BOOT_PCI_WINDOW      0xc0000000ull
#define BOOT_PCI_WINDOW_SIZE 0x20000000ull
#define BOOT_PCI_ECAM        0xe0000000ull
#define BOOT_PCI_ECAM_SIZE   0x100000ull

/* What the ACPI tables describe. */
struct boot_acpi_config {
    unsigned cpus;
    gpa_t ioapic_base;
    uint16_t pm_base;    /* PM1a event (4), control (2), PM timer (4): pm_base + 0, 4, 8 */
    uint16_t sci_irq;    /* 9 */
    uint16_t reset_port; /* FADT reset register and the value that resets */
    uint8_t reset_value;
    uint8_t s5_type;    /* SLP_TYP of soft-off, as in the DSDT's _S5 */
    uint8_t pci_irq[2]; /* INTA of slot s is interrupt pci_irq[s % 2]; {0}: no PCI */
    bool i8042;         /* a keyboard controller that answers commands; one that only resets is not announced */
};
/* Writes RSDP, XSDT, FADT, FACS, MADT, MCFG, DSDT below 1 MiB. Returns the RSDP's address in *rsdp. */
int boot_write_acpi(struct mem *mem, const struct boot_acpi_config *config, gpa_t *rsdp, struct error *err);

/* The memory map for e820, PVH and multiboot. Returns the number of entries (at most max). */
unsigned boot_e820(const struct boot_config *config, struct boot_e820 *entries, unsigned max);

#endif
