/* cli/main.c: `trapeze COMMAND ...`. */
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "base/types.h"
#include "cli/commands.h"
#include "control/config.h"

static const struct command {
    const char *name, *summary;
    int (*run)(int argc, char **argv);
} commands[] = {
    {"run", "boot a guest and run it to its end", command_run},
    {"doctor", "say which engines work here, how fast, and why not", command_doctor},
    {"image", "make disk images", command_image},
    {"control", "ask something of a running machine", command_control},
};

static int help(void)
{
    printf("Trapeze boots unmodified guest operating systems, by software alone where it must be: it\n"
           "needs no privileges and no /dev/kvm, and takes a real one where there is one.\n\n"
           "Usage: trapeze COMMAND [OPTION]...\n"
           "       trapeze --help | --version\n\n"
           "Commands:\n");
    for (unsigned i = 0; i < ARRAY_SIZE(commands); i++)
        printf("  %-10s %s\n", commands[i].name, commands[i].summary);
    printf("\n`trapeze COMMAND --help` tells more about one, `man trapeze` all.\n");
    return 0;
}

/* A standard stream that was closed is /dev/null: else something of ours would get its number. */
static void open_standard_streams(void)
{
    int fd;

    do
        fd = open("/dev/null", O_RDWR);
    while (fd >= 0 && fd <= STDERR_FILENO);
    if (fd >= 0)
        close(fd);
}

int main(int argc, char **argv)
{
    const char *word = argc > 1 ? argv[1] : "--help";

    open_standard_streams();
    if (!strcmp(word, "--help") || !strcmp(word, "-h") || !strcmp(word, "help"))
        return help();
    if (!strcmp(word, "--version")) {
        printf("trapeze %s\n", TRAPEZE_VERSION);
        return 0;
    }
    for (unsigned i = 0; i < ARRAY_SIZE(commands); i++)
        if (!strcmp(commands[i].name, word))
            return commands[i].run(argc - 1, argv + 1);
    log_error("no command '%s'; `trapeze --help` lists them", word);
    return STATUS_USAGE;
}
