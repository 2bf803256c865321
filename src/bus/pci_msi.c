/*
 * bus/pci_msi.c: a function's interrupts: its pin, the MSI message that can
 * take the pin's place (PCI 3.0, 6.8.1), and MSI-X (6.8.2).
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "bus/pci_internal.h"

/* MSI capability, 64-bit address, one vector with its mask. Offsets from the capability. */
enum { MSI_CONTROL = 2, MSI_ADDRESS = 4, MSI_DATA = 12, MSI_MASK = 16, MSI_PENDING = 20, MSI_LENGTH = 24 };
#define MSI_ENABLE   0x0001u
#define MSI_64BIT    0x0080u
#define MSI_MASKABLE 0x0100u

enum { MSIX_CONTROL = 2, MSIX_TABLE = 4, MSIX_PBA = 8, MSIX_LENGTH = 12 };
#define MSIX_ENABLE        0x8000u
#define MSIX_FUNCTION_MASK 0x4000u
#define MSIX_BAR_SIZE      0x1000
#define MSIX_PBA_OFFSET    0x800u
#define ENTRY_CONTROL      3
#define ENTRY_MASKED       1u

_Static_assert(PCI_MSIX_MAX * sizeof(struct msix_entry) <= MSIX_PBA_OFFSET, "the table ends before the pending bits");

/* A message is a memory write of the function's. */
static bool may_send(const struct pci_function *function)
{
    return pci_get16(function, PCI_COMMAND) & PCI_COMMAND_MASTER;
}

/* --- the pin and MSI -------------------------------------------------------------------------- */

static bool msi_on(const struct pci_function *function)
{
    return function->msi && pci_get16(function, function->msi + MSI_CONTROL) & MSI_ENABLE;
}

static bool msix_on(const struct pci_function *function)
{
    return function->msix && pci_get16(function, function->msix + MSIX_CONTROL) & MSIX_ENABLE;
}

static void draw(struct pci_function *function)
{
    struct pci_host *host = function->host;
    bool level = function->intx && !msi_on(function) && !msix_on(function) &&
                 !(pci_get16(function, PCI_COMMAND) & PCI_COMMAND_NO_INTX);
    unsigned line = function->slot % PCI_INTX_LINES;

    if (level == function->intx_drawn)
        return;
    function->intx_drawn = level;
    host->drawn[line] += level ? 1 : -1u;
    irq_set(&host->config.intx[line], host->drawn[line] > 0);
}

/* Sends the one MSI if it is wanted (its pending bit) and may go. */
static void flush_msi(struct pci_function *function)
{
    const struct msi_sink *sink = &function->host->config.msi;
    unsigned msi = function->msi;
    struct msi_message message;

    if (!msi_on(function) || (function->config[msi + MSI_MASK] & 1) || !(function->config[msi + MSI_PENDING] & 1))
        return;
    function->config[msi + MSI_PENDING] = 0;
    message.address = pci_get32(function, msi + MSI_ADDRESS) | (uint64_t)pci_get32(function, msi + MSI_ADDRESS + 4)
                                                                   << 32;
    message.data = pci_get16(function, msi + MSI_DATA);
    if (may_send(function))
        sink->send(sink->opaque, &message);
}

void pci_set_intx(struct pci_function *function, bool level)
{
    bool rises;

    lock_take(&function->host->lock);
    rises = level && !function->intx;
    function->intx = level;
    function->config[PCI_STATUS] =
        (uint8_t)((function->config[PCI_STATUS] & ~PCI_STATUS_INTERRUPT) | (level ? PCI_STATUS_INTERRUPT : 0));
    if (rises && msi_on(function)) {
        function->config[function->msi + MSI_PENDING] = 1;
        flush_msi(function);
    }
    draw(function);
    lock_drop(&function->host->lock);
}

/* --- MSI-X ------------------------------------------------------------------------------------ */

static void flush_vector(struct pci_function *function, unsigned vector)
{
    const struct msix_entry *entry = &function->table[vector];
    const struct msi_message message = {entry->word[0] | (uint64_t)entry->word[1] << 32, entry->word[2]};
    uint64_t bit = BIT(vector % 64);

    if (!(function->pending[vector / 64] & bit) || !msix_on(function) ||
        (pci_get16(function, function->msix + MSIX_CONTROL) & MSIX_FUNCTION_MASK) ||
        (entry->word[ENTRY_CONTROL] & ENTRY_MASKED))
        return;
    function->pending[vector / 64] &= ~bit;
    if (may_send(function))
        msi_send_again(&function->host->config.msi, &function->routes[vector], &message);
}

bool pci_send_msix(struct pci_function *function, unsigned vector)
{
    bool can;

    lock_take(&function->host->lock);
    can = vector < function->setup.msix_vectors && msix_on(function);
    if (can) {
        function->pending[vector / 64] |= BIT(vector % 64);
        flush_vector(function, vector);
    }
    lock_drop(&function->host->lock);
    return can;
}

bool pci_msix_enabled(struct pci_function *function)
{
    bool on;

    lock_take(&function->host->lock);
    on = msix_on(function);
    lock_drop(&function->host->lock);
    return on;
}

void pci_update_interrupts(struct pci_function *function)
{
    if (!function->setup.msix_vectors)
        return;
    draw(function);
    flush_msi(function);
    for (unsigned i = 0; i < function->setup.msix_vectors; i++)
        flush_vector(function, i);
}

static uint64_t table_read(void *opaque, uint64_t offset, unsigned size)
{
    struct pci_function *function = opaque;
    unsigned entry = (unsigned)(offset / sizeof(struct msix_entry));
    uint32_t value = 0;

    lock_take(&function->host->lock);
    if (entry < function->setup.msix_vectors)
        value = function->table[entry].word[offset / 4 % 4];
    else if (offset >= MSIX_PBA_OFFSET && offset < MSIX_PBA_OFFSET + sizeof(function->pending))
        value = (uint32_t)(function->pending[(offset - MSIX_PBA_OFFSET) / 8] >> (offset & 4) * 8);
    lock_drop(&function->host->lock);
    return value;
}

static void table_write(void *opaque, uint64_t offset, uint64_t value, unsigned size)
{
    struct pci_function *function = opaque;
    unsigned entry = (unsigned)(offset / sizeof(struct msix_entry));

    if (size != 4 || entry >= function->setup.msix_vectors) /* narrower writes are undefined (6.8.2) */
        return;
    lock_take(&function->host->lock);
    function->table[entry].word[offset / 4 % 4] = (uint32_t)value;
    flush_vector(function, entry);
    lock_drop(&function->host->lock);
}

static const struct bus_ops table_ops = {table_read, table_write, .max_size = 4};

/* --- construction ------------------------------------------------------------------------------- */

static void add_msi(struct pci_function *function)
{
    uint8_t body[MSI_LENGTH - 2] = {0};
    unsigned at = pci_add_capability(function, PCI_CAP_MSI, body, sizeof(body));

    pci_put16(function, at + MSI_CONTROL, MSI_64BIT | MSI_MASKABLE);
    function->writable[at + MSI_CONTROL] = MSI_ENABLE;
    memset(&function->writable[at + MSI_ADDRESS], 0xff, 8);
    function->writable[at + MSI_ADDRESS] = 0xfc;
    memset(&function->writable[at + MSI_DATA], 0xff, 2);
    function->writable[at + MSI_MASK] = 1;
    function->msi = at;
}

static void add_msix(struct pci_function *function)
{
    uint8_t body[MSIX_LENGTH - 2] = {0};
    unsigned at = pci_add_capability(function, PCI_CAP_MSIX, body, sizeof(body));

    pci_put16(function, at + MSIX_CONTROL, (uint16_t)(function->setup.msix_vectors - 1));
    pci_put32(function, at + MSIX_TABLE, PCI_MSIX_BAR);
    pci_put32(function, at + MSIX_PBA, MSIX_PBA_OFFSET | PCI_MSIX_BAR);
    function->writable[at + MSIX_CONTROL + 1] = (MSIX_ENABLE | MSIX_FUNCTION_MASK) >> 8;
    function->msix = at;
}

int pci_add_interrupts(struct pci_function *function, struct error *err)
{
    unsigned vectors = function->setup.msix_vectors;

    if (vectors > PCI_MSIX_MAX)
        return error_set(err, -EINVAL, "pci: %u interrupt vectors; a device has %d", vectors, PCI_MSIX_MAX);
    function->table = calloc(vectors, sizeof(*function->table));
    function->routes = calloc(vectors, sizeof(*function->routes));
    if (!function->table || !function->routes)
        return error_set(err, -ENOMEM, "pci: no memory");
    for (unsigned i = 0; i < vectors; i++)
        function->table[i].word[ENTRY_CONTROL] = ENTRY_MASKED;
    function->config[PCI_INTERRUPT_PIN] = 1; /* INTA */
    function->config[PCI_INTERRUPT_LINE] = (uint8_t)function->host->config.intx[function->slot % PCI_INTX_LINES].pin;
    function->writable[PCI_INTERRUPT_LINE] = 0xff;
    add_msi(function);
    add_msix(function);
    return pci_add_bar(function, PCI_MSIX_BAR, MSIX_BAR_SIZE, &table_ops, function, err);
}
