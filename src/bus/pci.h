/*
 * bus/pci.h: one PCI bus: the host bridge with both ways into configuration
 * space (ports CF8/CFC, ECAM), functions with 32-bit memory BARs, and their
 * interrupts: INTx, MSI and MSI-X (PCI Local Bus 3.0; PCI Express 4.0, 7.2.2).
 *
 * There is no firmware that would do it, so BARs have addresses from the
 * start. Configuration space is guarded by the bus's own lock, which may be
 * taken with a device's lock held: a device raises its interrupts from any
 * thread.
 */
#ifndef BUS_PCI_H
#define BUS_PCI_H

#include "base/error.h"
#include "bus/bus.h"
#include "bus/doorbell.h"
#include "bus/irq.h"

#define PCI_SLOTS       32
#define PCI_ECAM_SIZE   MIB(1) /* one bus */
#define PCI_INTX_LINES  2      /* INTA of slot s is line s % PCI_INTX_LINES; no function has another pin */
#define PCI_CONFIG_SIZE 256
#define PCI_MSIX_MAX    128 /* vectors of a function */
#define PCI_MSIX_BAR    1   /* the BAR that holds their table */
#define PCI_BELLS       16  /* doorbells of a function */

struct pci_host;
struct pci_function;

struct pci_host_config {
    gpa_t ecam;
    gpa_t window; /* 32-bit addresses for BARs */
    uint32_t window_size;
    struct msi_sink msi; /* called with the bus's lock held; it must not call back */
    struct irq_line intx[PCI_INTX_LINES];
    struct doorbell_host bells; /* place is called with the bus's lock held */
};

struct pci_host *pci_host_new(struct bus *bus, const struct pci_host_config *config, struct error *err);
void pci_host_free(struct pci_host *host); /* and all functions */

struct pci_function_config {
    uint16_t vendor, device, subsystem_vendor, subsystem;
    uint32_t class_code; /* 24 bits: base class, subclass, interface */
    uint8_t revision;
    unsigned msix_vectors; /* 0: neither MSI-X nor MSI nor an interrupt pin */

    /* Accesses to what pci_hook_config names: before a read (which then sees what the function puts there), after a
     * write. Without the bus's lock; NULL: none. */
    void (*config_read)(void *opaque, unsigned offset, unsigned size);
    void (*config_written)(void *opaque, unsigned offset, unsigned size);
    void *opaque;
};

/* Puts a function into the next free slot. NULL with a message: no slot, no memory, no room in the window. */
struct pci_function *pci_add(struct pci_host *host, const struct pci_function_config *config, struct error *err);
/* A memory BAR; size is a power of two, at least 4096. Offsets in ops are from its start. */
int pci_add_bar(struct pci_function *function, unsigned bar, uint32_t size, const struct bus_ops *ops, void *opaque,
                struct error *err);
/* Appends a capability: id, next, then body. Returns its offset, 0: no room. Read-only but for the bytes that
 * pci_hook_config opens. */
unsigned pci_add_capability(struct pci_function *function, uint8_t id, const void *body, unsigned len);
/* Makes [offset, offset + len) writable and its accesses known to the function. One range a function. */
void pci_hook_config(struct pci_function *function, unsigned offset, unsigned len);
void pci_config_get(struct pci_function *function, unsigned offset, void *data, unsigned len);
void pci_config_put(struct pci_function *function, unsigned offset, const void *data, unsigned len);

/* Writes at `offset` of the BAR, and at count - 1 addresses each `step` further, may become ring(opaque, number), on a
 * thread of the machine's, instead of reaching the BAR's ops. Once a function. */
void pci_add_bells(struct pci_function *function, unsigned bar, uint32_t offset, uint32_t step, unsigned count,
                   void (*ring)(void *opaque, unsigned number), void *opaque);

/* A memory access as if it came through BAR `bar`. Without the bus's lock. False: there is nothing. */
bool pci_bar_access(struct pci_function *function, unsigned bar, uint64_t offset, unsigned size, bool write,
                    uint64_t *data);

/* The interrupt pin; a rising edge is a message while MSI is enabled. Any thread. */
void pci_set_intx(struct pci_function *function, bool level);
/* Sends MSI-X vector n, or makes it pending while it is masked. False: MSI-X is not enabled, or there is no such
 * vector. Any thread. */
bool pci_send_msix(struct pci_function *function, unsigned vector);
bool pci_msix_enabled(struct pci_function *function);

#endif
