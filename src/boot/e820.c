/*
 * boot/e820.c: the memory map the guest is told of, in e820's form.
 */
#include "boot/boot_internal.h"

#define E820_RAM      1
#define E820_RESERVED 2

uint64_t boot_low_end(const struct boot_config *config)
{
    return MIN(config->memory, BOOT_MMIO_HOLE);
}

unsigned boot_e820(const struct boot_config *config, struct boot_e820 *entries, unsigned max)
{
    uint64_t low = boot_low_end(config);
    const struct boot_e820 all[] = {
        {0, MIN(low, BOOT_EBDA), E820_RAM},
        {BOOT_EBDA, BOOT_HIGH_START - BOOT_EBDA, E820_RESERVED},
        {BOOT_HIGH_START, low > BOOT_HIGH_START ? low - BOOT_HIGH_START : 0, E820_RAM},
        {BOOT_PCI_ECAM, BOOT_PCI_ECAM_SIZE, E820_RESERVED},
        {GIB(4), config->memory - low, E820_RAM},
    };
    unsigned n = 0;

    for (unsigned i = 0; i < ARRAY_SIZE(all) && n < max; i++)
        if (all[i].size > 0)
            entries[n++] = all[i];
    return n;
}
