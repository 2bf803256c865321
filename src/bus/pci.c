/*
 * bus/pci.c: configuration space and BARs. A function's 256 bytes have a mask
 * of writable bits each; what follows from a write (a BAR moved, an interrupt
 * unmasked) is worked out from the bytes afterwards.
 *
 * The window for BARs is one range of the bus; inside, an access is looked up
 * among the BARs of the functions that have memory enabled.
 */
#include "bus/pci.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "bus/pci_internal.h"

#define CONFIG_ADDRESS      0xcf8
#define CONFIG_DATA         0xcfc
#define CONFIG_ENABLE       0x80000000u
#define CONFIG_ADDRESS_BITS 0x80fffffcu
#define HOST_BRIDGE_VENDOR  0x8086 /* Intel's identity for virtual host bridges: no driver wants to tune it */
#define HOST_BRIDGE_DEVICE  0x0d57
#define CLASS_HOST_BRIDGE   0x060000
#define STATUS_FAST_BACK    0x0080 /* as most devices say; there are no cycles that could be slow */

static uint32_t ones(unsigned size)
{
    return size >= 4 ? UINT32_MAX : (1u << size * 8) - 1;
}

/* --- doorbells -------------------------------------------------------------------------- */

/* Where the first one is now: 0 while the function's memory does not answer, or not in the window. */
static gpa_t bells_address(const struct pci_function *function)
{
    const struct pci_host_config *host = &function->host->config;
    const struct pci_bells *bells = &function->bells;
    uint64_t bar = pci_get32(function, PCI_BAR0 + 4 * bells->bar) & ~15u;

    if (!(pci_get16(function, PCI_COMMAND) & PCI_COMMAND_MEMORY) || bar < host->window ||
        bar + function->bar[bells->bar].size > host->window + host->window_size)
        return 0;
    return bar + bells->offset;
}

/* They follow their BAR. Bus's lock held. */
static void place_bells(struct pci_function *function)
{
    const struct doorbell_host *host = &function->host->config.bells;
    struct pci_bells *bells = &function->bells;
    gpa_t at = bells->count ? bells_address(function) : 0, was = bells->placed;

    if (at == was)
        return;
    for (unsigned i = 0; i < bells->count && was; i++)
        host->place(host->opaque, bells->handle[i], was + i * bells->step, false);
    for (unsigned i = 0; i < bells->count && at; i++)
        host->place(host->opaque, bells->handle[i], at + i * bells->step, true);
    bells->placed = at;
}

void pci_add_bells(struct pci_function *function, unsigned bar, uint32_t offset, uint32_t step, unsigned count,
                   void (*ring)(void *opaque, unsigned number), void *opaque)
{
    const struct doorbell_host *host = &function->host->config.bells;
    struct pci_bells *bells = &function->bells;

    if (!host->add)
        return;
    *bells = (struct pci_bells){.bar = bar, .offset = offset, .step = step};
    for (; bells->count < MIN(count, PCI_BELLS); bells->count++) {
        bells->handle[bells->count] = host->add(host->opaque, ring, opaque, bells->count);
        if (bells->handle[bells->count] < 0)
            break; /* the others are seen as writes */
    }
}

/* --- configuration space ---------------------------------------------------------------- */

static bool hooked(const struct pci_function *function, unsigned offset, unsigned size)
{
    return offset < function->hook_end && offset + size > function->hook_start;
}

static uint32_t config_read(struct pci_host *host, unsigned devfn, unsigned offset, unsigned size)
{
    struct pci_function *function = devfn & 7 ? NULL : host->slot[devfn >> 3];
    uint32_t value = 0;

    if (!function)
        return ones(size);
    if (offset + size > PCI_CONFIG_SIZE)
        return 0; /* no extended capabilities */
    if (hooked(function, offset, size) && function->setup.config_read)
        function->setup.config_read(function->setup.opaque, offset, size);
    lock_take(&host->lock);
    for (unsigned i = 0; i < size; i++)
        value |= (uint32_t)function->config[offset + i] << 8 * i;
    lock_drop(&host->lock);
    return value;
}

static void config_write(struct pci_host *host, unsigned devfn, unsigned offset, uint32_t value, unsigned size)
{
    struct pci_function *function = devfn & 7 ? NULL : host->slot[devfn >> 3];

    if (!function || offset + size > PCI_CONFIG_SIZE)
        return;
    lock_take(&host->lock);
    for (unsigned i = 0; i < size; i++) {
        uint8_t *byte = &function->config[offset + i], mask = function->writable[offset + i];

        *byte = (uint8_t)((*byte & ~mask) | (value >> 8 * i & mask));
    }
    pci_update_interrupts(function);
    place_bells(function);
    lock_drop(&host->lock);
    if (hooked(function, offset, size) && function->setup.config_written)
        function->setup.config_written(function->setup.opaque, offset, size);
}

/* --- ports CF8 and CFC (PCI 3.0, 3.2.2.3.2) ------------------------------------------------ */

/* Only a whole doubleword reaches the register; CF9 within it is somebody else's. */
static uint64_t address_read(void *opaque, uint64_t offset, unsigned size)
{
    struct pci_host *host = opaque;
    uint32_t address;

    if (size != 4)
        return ones(size);
    lock_take(&host->lock);
    address = host->address;
    lock_drop(&host->lock);
    return address;
}

static void address_write(void *opaque, uint64_t offset, uint64_t value, unsigned size)
{
    struct pci_host *host = opaque;

    if (size != 4)
        return;
    lock_take(&host->lock);
    host->address = (uint32_t)value & CONFIG_ADDRESS_BITS;
    lock_drop(&host->lock);
}

/* The address register's target; -1: not enabled, or another bus. */
static int selected(struct pci_host *host, unsigned *reg)
{
    uint32_t address;

    lock_take(&host->lock);
    address = host->address;
    lock_drop(&host->lock);
    *reg = address & 0xfc;
    return (address & CONFIG_ENABLE) && !(address >> 16 & 0xff) ? (int)(address >> 8 & 0xff) : -1;
}

static uint64_t data_read(void *opaque, uint64_t offset, unsigned size)
{
    unsigned reg;
    int devfn = selected(opaque, &reg);

    return devfn < 0 ? ones(size) : config_read(opaque, (unsigned)devfn, reg + (unsigned)offset, size);
}

static void data_write(void *opaque, uint64_t offset, uint64_t value, unsigned size)
{
    unsigned reg;
    int devfn = selected(opaque, &reg);

    if (devfn >= 0)
        config_write(opaque, (unsigned)devfn, reg + (unsigned)offset, (uint32_t)value, size);
}

/* --- ECAM ------------------------------------------------------------------------------- */

static uint64_t ecam_read(void *opaque, uint64_t offset, unsigned size)
{
    return config_read(opaque, (unsigned)(offset >> 12), offset & 0xfff, size);
}

static void ecam_write(void *opaque, uint64_t offset, uint64_t value, unsigned size)
{
    config_write(opaque, (unsigned)(offset >> 12), offset & 0xfff, (uint32_t)value, size);
}

/* --- BARs ------------------------------------------------------------------------------- */

/* The BAR that answers at an address, and the offset in it. Overlapping ones: the lowest slot's. */
static const struct pci_bar *find_bar(struct pci_host *host, uint64_t address, unsigned size, uint64_t *offset)
{
    for (unsigned slot = 0; slot < PCI_SLOTS; slot++) {
        const struct pci_function *function = host->slot[slot];

        if (!function || !(pci_get16(function, PCI_COMMAND) & PCI_COMMAND_MEMORY))
            continue;
        for (unsigned i = 0; i < PCI_BARS; i++) {
            const struct pci_bar *bar = &function->bar[i];

            *offset = address - (pci_get32(function, PCI_BAR0 + 4 * i) & ~15u);
            if (bar->size && *offset < bar->size && size <= bar->size - *offset)
                return bar;
        }
    }
    return NULL;
}

static const struct pci_bar *lookup(struct pci_host *host, uint64_t window_offset, unsigned size, uint64_t *offset)
{
    const struct pci_bar *bar;

    lock_take(&host->lock);
    bar = find_bar(host, host->config.window + window_offset, size, offset);
    lock_drop(&host->lock);
    return bar; /* a function, with its BARs' handlers, stays where it is for the VM's life */
}

static uint64_t window_read(void *opaque, uint64_t at, unsigned size)
{
    uint64_t offset;
    const struct pci_bar *bar = lookup(opaque, at, size, &offset);

    return bar ? bar->ops->read(bar->opaque, offset, size) : UINT64_MAX;
}

static void window_write(void *opaque, uint64_t at, uint64_t value, unsigned size)
{
    uint64_t offset;
    const struct pci_bar *bar = lookup(opaque, at, size, &offset);

    if (bar)
        bar->ops->write(bar->opaque, offset, value, size);
}

bool pci_bar_access(struct pci_function *function, unsigned index, uint64_t offset, unsigned size, bool write,
                    uint64_t *data)
{
    const struct pci_bar *bar = index < PCI_BARS ? &function->bar[index] : NULL;

    if (!bar || offset >= bar->size || size > bar->size - offset)
        return false;
    if (write)
        bar->ops->write(bar->opaque, offset, *data, size);
    else
        *data = bar->ops->read(bar->opaque, offset, size);
    return true;
}

/* --- construction ------------------------------------------------------------------------- */

static const struct bus_ops address_ops = {address_read, address_write, .max_size = 4, .whole = true};
static const struct bus_ops data_ops = {data_read, data_write, .max_size = 4};
static const struct bus_ops ecam_ops = {ecam_read, ecam_write, .max_size = 4};
static const struct bus_ops window_ops = {window_read, window_write, .max_size = 8};

static int claim(struct pci_host *host, struct bus *bus)
{
    int rc = bus_add_port(bus, "pci address", CONFIG_ADDRESS, 1, &address_ops, host);

    if (!rc)
        rc = bus_add_port(bus, "pci data", CONFIG_DATA, 4, &data_ops, host);
    if (!rc)
        rc = bus_add_mmio(bus, "pci ecam", host->config.ecam, PCI_ECAM_SIZE, &ecam_ops, host);
    if (!rc)
        rc = bus_add_mmio(bus, "pci", host->config.window, host->config.window_size, &window_ops, host);
    return rc;
}

struct pci_host *pci_host_new(struct bus *bus, const struct pci_host_config *config, struct error *err)
{
    const struct pci_function_config bridge = {
        .vendor = HOST_BRIDGE_VENDOR, .device = HOST_BRIDGE_DEVICE, .class_code = CLASS_HOST_BRIDGE};
    struct pci_host *host = calloc(1, sizeof(*host));
    int rc;

    if (!host) {
        error_set(err, -ENOMEM, "pci: no memory");
        return NULL;
    }
    host->config = *config;
    host->next_bar = config->window;
    lock_init(&host->lock, LOCK_PCI);
    rc = claim(host, bus);
    if (rc < 0)
        error_set(err, rc, "pci: its ports or addresses are taken");
    if (rc < 0 || !pci_add(host, &bridge, err)) {
        pci_host_free(host);
        return NULL;
    }
    return host;
}

static void free_function(struct pci_function *function)
{
    free(function->table);
    free(function->routes);
    free(function);
}

void pci_host_free(struct pci_host *host)
{
    for (unsigned i = 0; i < PCI_SLOTS; i++)
        if (host->slot[i])
            free_function(host->slot[i]);
    lock_destroy(&host->lock);
    free(host);
}

static void fill_header(struct pci_function *function)
{
    const struct pci_function_config *setup = &function->setup;

    pci_put16(function, PCI_VENDOR, setup->vendor);
    pci_put16(function, PCI_DEVICE, setup->device);
    pci_put16(function, PCI_STATUS, STATUS_FAST_BACK);
    pci_put32(function, PCI_REVISION, setup->class_code << 8 | setup->revision);
    pci_put16(function, PCI_SUBSYSTEM_VENDOR, setup->subsystem_vendor);
    pci_put16(function, PCI_SUBSYSTEM, setup->subsystem);
    function->writable[PCI_COMMAND] = PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER;
    function->writable[PCI_COMMAND + 1] = PCI_COMMAND_NO_INTX >> 8;
    function->next_capability = PCI_FIRST_CAPABILITY;
}

struct pci_function *pci_add(struct pci_host *host, const struct pci_function_config *config, struct error *err)
{
    struct pci_function *function = calloc(1, sizeof(*function));
    unsigned slot = 0;

    while (slot < PCI_SLOTS && host->slot[slot])
        slot++;
    if (!function || slot == PCI_SLOTS) {
        error_set(err, -ENOSPC, "pci: %s", function ? "more than 31 devices" : "no memory");
        free(function);
        return NULL;
    }
    function->host = host;
    function->slot = slot;
    function->setup = *config;
    fill_header(function);
    if (config->msix_vectors && pci_add_interrupts(function, err)) {
        free_function(function);
        return NULL;
    }
    host->slot[slot] = function;
    return function;
}

int pci_add_bar(struct pci_function *function, unsigned index, uint32_t size, const struct bus_ops *ops, void *opaque,
                struct error *err)
{
    struct pci_host *host = function->host;
    uint64_t at = ALIGN_UP(host->next_bar, size);
    unsigned offset = PCI_BAR0 + 4 * index;

    if (at + size > host->config.window + host->config.window_size)
        return error_set(err, -ENOSPC, "pci: no addresses left for a device");
    host->next_bar = at + size;
    function->bar[index] = (struct pci_bar){size, ops, opaque};
    pci_put32(function, offset, (uint32_t)at);
    for (unsigned i = 0; i < 4; i++)
        function->writable[offset + i] = (uint8_t)(~(size - 1) >> 8 * i);
    return 0;
}

unsigned pci_add_capability(struct pci_function *function, uint8_t id, const void *body, unsigned len)
{
    unsigned at = function->next_capability;

    if (at + 2 + len > PCI_CONFIG_SIZE)
        return 0;
    function->config[at] = id;
    memcpy(&function->config[at + 2], body, len);
    function->config[function->last_capability ? function->last_capability + 1 : PCI_CAPABILITIES] = (uint8_t)at;
    function->config[PCI_STATUS] |= PCI_STATUS_CAPS;
    function->last_capability = at;
    function->next_capability = (unsigned)ALIGN_UP(at + 2 + len, 4);
    return at;
}

void pci_hook_config(struct pci_function *function, unsigned offset, unsigned len)
{
    memset(&function->writable[offset], 0xff, len);
    function->hook_start = offset;
    function->hook_end = offset + len;
}

void pci_config_get(struct pci_function *function, unsigned offset, void *data, unsigned len)
{
    lock_take(&function->host->lock);
    memcpy(data, &function->config[offset], len);
    lock_drop(&function->host->lock);
}

void pci_config_put(struct pci_function *function, unsigned offset, const void *data, unsigned len)
{
    lock_take(&function->host->lock);
    memcpy(&function->config[offset], data, len);
    lock_drop(&function->host->lock);
}
