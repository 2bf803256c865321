/* cli/doctor.c: `trapeze doctor`. */
#include <stdio.h>

#include "base/log.h"
#include "cli/commands.h"
#include "cli/options.h"
#include "control/config.h"
#include "control/doctor.h"

struct doctor_options {
    bool json, help;
};

static int set_json(void *target, const char *value, struct error *err)
{
    ((struct doctor_options *)target)->json = true;
    return 0;
}

static int set_help(void *target, const char *value, struct error *err)
{
    ((struct doctor_options *)target)->help = true;
    return 0;
}

static const struct option_row options[] = {
    {"--json", NULL, "for programs", set_json},
    {"--help", NULL, "this text", set_help},
};

static int help(void)
{
    printf("Usage: trapeze doctor [OPTION]...\n\n"
           "Says which engines work on this host and how fast (each runs a loop for some milliseconds), why others do\n"
           "not, what the host has that matters, and which guests there are.\n\n"
           "Options:\n");
    options_help(options, ARRAY_SIZE(options));
    printf("\nExit status: 0 if `trapeze run` can work here, 1 if it cannot, 2 for a mistake in what was asked.\n");
    return 0;
}

int command_doctor(int argc, char **argv)
{
    struct doctor_options wanted = {0};
    struct error err;
    int rest;

    if (options_parse(options, ARRAY_SIZE(options), &wanted, argc, argv, &rest, &err)) {
        log_error("%s", err.message);
        return STATUS_USAGE;
    }
    if (wanted.help)
        return help();
    if (rest < argc) {
        log_error("'%s' is no option of `trapeze doctor`", argv[rest]);
        return STATUS_USAGE;
    }
    return control_doctor(wanted.json);
}
