/* cli/image.c: `trapeze image`. */
#include <stdio.h>
#include <string.h>

#include "base/log.h"
#include "base/types.h"
#include "cli/commands.h"
#include "control/config.h"
#include "control/image.h"

static int help(void)
{
    printf("Usage: trapeze image overlay BASE NEW.overlay\n\n"
           "overlay  makes NEW.overlay, a disk that begins as BASE and keeps what is written to it; BASE is not\n"
           "         changed, and must not be from then on. Any number of overlays may have the same base.\n\n"
           "Example:\n"
           "  trapeze image overlay debian.img work.overlay\n"
           "  trapeze run --disk work.overlay\n");
    return 0;
}

static int overlay(int argc, char **argv)
{
    struct error err;

    if (argc != 3) {
        log_error("image overlay takes two names: BASE and NEW.overlay");
        return STATUS_USAGE;
    }
    if (image_overlay(argv[1], argv[2], &err)) {
        log_error("%s", err.message);
        return STATUS_USAGE;
    }
    return 0;
}

static const struct {
    const char *name;
    int (*run)(int argc, char **argv);
} kinds[] = {{"overlay", overlay}};

int command_image(int argc, char **argv)
{
    if (argc < 2 || !strcmp(argv[1], "--help"))
        return help();
    for (unsigned i = 0; i < ARRAY_SIZE(kinds); i++)
        if (!strcmp(kinds[i].name, argv[1]))
            return kinds[i].run(argc - 1, argv + 1);
    log_error("there is no 'image %s'; `trapeze image --help` lists what there is", argv[1]);
    return STATUS_USAGE;
}
