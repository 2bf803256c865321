/*
 * cli/options.h: command-line options from a table, which --help is made from too.
 */
#ifndef CLI_OPTIONS_H
#define CLI_OPTIONS_H

#include "base/error.h"
#include "base/types.h"

struct option_row {
    const char *name;     /* with its dashes */
    const char *argument; /* "FILE", or NULL: takes none */
    const char *help;
    int (*set)(void *target, const char *value, struct error *err);
};

/* Parses argv[1..argc), options as "--name value" or "--name=value", up to "--" or the first word that is none; *rest
 * is its index (past "--"). -EINVAL with a message for what is unknown, lacks its value or has one too many. */
int options_parse(const struct option_row *rows, unsigned count, void *target, int argc, char **argv, int *rest,
                  struct error *err);
void options_help(const struct option_row *rows, unsigned count);

#endif
