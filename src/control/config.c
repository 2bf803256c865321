/* control/config.c: defaults and the parsing of values. */
#include "control/config.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

void config_init(struct config *config)
{
    *config = (struct config){.engine = "auto", .memory = CONFIG_MEMORY_DEFAULT};
}

/* The binary unit's shift: K M G T, with nothing, "B" or "iB" after it; -1: no such unit. */
static int unit_shift(const char *unit)
{
    static const char letters[] = "KMGT";
    const char *letter;

    if (!*unit)
        return 0;
    letter = strchr(letters, *unit & ~0x20);
    if (!letter || (unit[1] && strcasecmp(unit + 1, "B") && strcasecmp(unit + 1, "iB")))
        return -1;
    return 10 * (int)(letter - letters + 1);
}

int config_parse_memory(const char *option, const char *text, uint64_t *bytes, struct error *err)
{
    char *end;
    unsigned long long n;
    int shift;

    errno = 0;
    n = strtoull(text, &end, 10);
    shift = unit_shift(end);
    if (end == text || *text == '-' || *text == '+' || shift < 0)
        return error_set(err, -EINVAL, "%s: '%s' is not a size; give one like 512M or 2G", option, text);
    if (errno || n > CONFIG_MEMORY_MAX >> shift || n << shift < CONFIG_MEMORY_MIN)
        return error_set(err, -ERANGE, "%s: %s is out of range; a guest has from %luM to %luG", option, text,
                         (unsigned long)(CONFIG_MEMORY_MIN >> 20), (unsigned long)(CONFIG_MEMORY_MAX >> 30));
    *bytes = (uint64_t)(n << shift) & PAGE_MASK;
    return 0;
}
