/* bus/pci_internal.h: a function as pci.c (configuration space, BARs) and pci_msi.c (interrupts) see it. */
#ifndef BUS_PCI_INTERNAL_H
#define BUS_PCI_INTERNAL_H

#include "base/lock.h"
#include "bus/pci.h"

#define PCI_BARS 6

/* Configuration space, type 0 header (PCI 3.0, 6.1). */
enum {
    PCI_VENDOR = 0x00,
    PCI_DEVICE = 0x02,
    PCI_COMMAND = 0x04,
    PCI_STATUS = 0x06,
    PCI_REVISION = 0x08,
    PCI_BAR0 = 0x10,
    PCI_SUBSYSTEM_VENDOR = 0x2c,
    PCI_SUBSYSTEM = 0x2e,
    PCI_CAPABILITIES = 0x34,
    PCI_INTERRUPT_LINE = 0x3c,
    PCI_INTERRUPT_PIN = 0x3d,
    PCI_FIRST_CAPABILITY = 0x40,
};
#define PCI_COMMAND_MEMORY   0x0002u
#define PCI_COMMAND_MASTER   0x0004u
#define PCI_COMMAND_NO_INTX  0x0400u
#define PCI_STATUS_INTERRUPT 0x0008u
#define PCI_STATUS_CAPS      0x0010u
#define PCI_CAP_MSI          0x05
#define PCI_CAP_MSIX         0x11

struct pci_bar {
    uint32_t size; /* 0: none */
    const struct bus_ops *ops;
    void *opaque;
};

struct msix_entry {
    uint32_t word[4]; /* address low, high, data, control */
};

struct pci_bells {
    unsigned bar, count;
    uint32_t offset, step;
    int handle[PCI_BELLS];
    gpa_t placed; /* the first one's address; 0: they are nowhere */
};

struct pci_function {
    struct pci_host *host;
    unsigned slot;
    struct pci_function_config setup;
    uint8_t config[PCI_CONFIG_SIZE], writable[PCI_CONFIG_SIZE];
    unsigned next_capability, last_capability;
    unsigned hook_start, hook_end;
    struct pci_bar bar[PCI_BARS];

    bool intx;          /* the device's wish */
    bool intx_drawn;    /* it counts on the line */
    unsigned msi, msix; /* the capabilities' offsets */
    struct pci_bells bells;
    struct msix_entry *table;
    unsigned *routes; /* of the table's entries: msi_sink's */
    uint64_t pending[PCI_MSIX_MAX / 64];
};

struct pci_host {
    struct pci_host_config config;
    struct lock lock;
    uint32_t address; /* port CF8 */
    uint64_t next_bar;
    struct pci_function *slot[PCI_SLOTS];
    unsigned drawn[PCI_INTX_LINES]; /* functions that assert the line */
};

static inline uint16_t pci_get16(const struct pci_function *function, unsigned offset)
{
    return (uint16_t)(function->config[offset] | function->config[offset + 1] << 8);
}

static inline uint32_t pci_get32(const struct pci_function *function, unsigned offset)
{
    return pci_get16(function, offset) | (uint32_t)pci_get16(function, offset + 2) << 16;
}

static inline void pci_put16(struct pci_function *function, unsigned offset, uint16_t value)
{
    function->config[offset] = (uint8_t)value;
    function->config[offset + 1] = (uint8_t)(value >> 8);
}

static inline void pci_put32(struct pci_function *function, unsigned offset, uint32_t value)
{
    pci_put16(function, offset, (uint16_t)value);
    pci_put16(function, offset + 2, (uint16_t)(value >> 16));
}

/* pci_msi.c. Adds both capabilities, the table's BAR and the pin. */
int pci_add_interrupts(struct pci_function *function, struct error *err);
/* The command register, or MSI's or MSI-X's controls have been written. Bus's lock held. */
void pci_update_interrupts(struct pci_function *function);

#endif
