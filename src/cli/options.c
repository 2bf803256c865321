/* cli/options.c: see options.h. */
#include "cli/options.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

static const struct option_row *find(const struct option_row *rows, unsigned count, const char *word, size_t len)
{
    for (unsigned i = 0; i < count; i++)
        if (strlen(rows[i].name) == len && !strncmp(rows[i].name, word, len))
            return &rows[i];
    return NULL;
}

int options_parse(const struct option_row *rows, unsigned count, void *target, int argc, char **argv, int *rest,
                  struct error *err)
{
    int i = 1;

    for (; i < argc && argv[i][0] == '-'; i++) {
        const char *word = argv[i], *equals = strchr(word, '='), *value = NULL;
        size_t len = equals ? (size_t)(equals - word) : strlen(word);
        const struct option_row *row;
        int rc;

        if (!strcmp(word, "--")) {
            i++;
            break;
        }
        row = find(rows, count, word, len);
        if (!row)
            return error_set(err, -EINVAL, "no option '%.*s'; `trapeze %s --help` lists them", (int)len, word, argv[0]);
        if (row->argument) {
            value = equals ? equals + 1 : argv[i + 1];
            if (!value)
                return error_set(err, -EINVAL, "%s: give it a value: %s %s", row->name, row->name, row->argument);
            i += !equals;
        } else if (equals) {
            return error_set(err, -EINVAL, "%s takes no value", row->name);
        }
        rc = row->set(target, value, err);
        if (rc)
            return rc;
    }
    *rest = i;
    return 0;
}

void options_help(const struct option_row *rows, unsigned count)
{
    for (unsigned i = 0; i < count; i++) {
        char left[64];

        snprintf(left, sizeof(left), "%s %s", rows[i].name, rows[i].argument ? rows[i].argument : "");
        printf("  %-22s %s\n", left, rows[i].help);
    }
}
