/* cli/image.c: `trapeze image`. */
#include <stdio.h>
#include <string.h>

#include "base/log.h"
#include "base/types.h"
#include "cli/commands.h"
#include "cli/options.h"
#include "control/config.h"
#include "control/image.h"

#define SIZE_DEFAULT GIB(4)

static int set_size(void *target, const char *value, struct error *err)
{
    return config_parse_memory("--size", value, &((struct image_debian *)target)->size, err);
}

#define SET_STRING(name, member)                                                                                       \
    static int name(void *target, const char *value, struct error *err)                                                \
    {                                                                                                                  \
        ((struct image_debian *)target)->member = value;                                                               \
        return 0;                                                                                                      \
    }
SET_STRING(set_include, include)
SET_STRING(set_suite, suite)
SET_STRING(set_mirror, mirror)

static const struct option_row debian_options[] = {
    {"--size", "SIZE", "of the disk: 4G if not given; what is not used takes no room", set_size},
    {"--include", "PKG,...", "more packages", set_include},
    {"--suite", "NAME", "Debian's release: bookworm if not given", set_suite},
    {"--mirror", "URL", "where packages come from", set_mirror},
};

static int help(void)
{
    printf("Usage: trapeze image debian OUT.img [OPTION]...\n"
           "       trapeze image overlay BASE NEW.overlay\n\n"
           "debian   makes OUT.img, a disk with Debian that boots to a login prompt (root, no password)\n\n");
    options_help(debian_options, ARRAY_SIZE(debian_options));
    printf("\n"
           "overlay  makes NEW.overlay, a disk that begins as BASE and keeps what is written to it; BASE is not\n"
           "         changed, and must not be from then on. Any number of overlays may have the same base.\n\n"
           "Example:\n"
           "  trapeze image debian debian.img --size 8G --include git,build-essential\n"
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

static int debian(int argc, char **argv)
{
    struct image_debian image = {.size = SIZE_DEFAULT};
    struct error err;
    int rest, first = argc > 1 && argv[1][0] != '-'; /* the name may come first or last */

    if (first)
        image.path = argv[1];
    if (options_parse(debian_options, ARRAY_SIZE(debian_options), &image, argc - first, argv + first, &rest, &err)) {
        log_error("%s", err.message);
        return STATUS_USAGE;
    }
    rest += first;
    if (!image.path && rest < argc)
        image.path = argv[rest++];
    if (!image.path || rest < argc) {
        log_error("image debian takes one name: OUT.img, then options");
        return STATUS_USAGE;
    }
    if (image_debian(&image, &err)) {
        log_error("%s", err.message);
        return STATUS_MONITOR;
    }
    log_info("%s is ready: trapeze run --disk %s", image.path, image.path);
    return 0;
}

static const struct {
    const char *name;
    int (*run)(int argc, char **argv);
} kinds[] = {{"debian", debian}, {"overlay", overlay}};

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
