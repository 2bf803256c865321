/* cli/control.c: `trapeze control`. */
#include <stdio.h>
#include <string.h>

#include "base/log.h"
#include "cli/commands.h"
#include "control/config.h"
#include "control/monitor.h"

static int help(void)
{
    printf("Usage: trapeze control SOCKET REQUEST [ARGUMENT]\n\n"
           "Asks something of a machine that runs with --control SOCKET; the answer is a line of JSON.\n\n"
           "Requests:\n");
    monitor_help();
    printf("\nExit status: 0; 1 if the answer is an error; 2 if there is no answer.\n");
    return 0;
}

int command_control(int argc, char **argv)
{
    if (argc > 1 && (!strcmp(argv[1], "--help") || !strcmp(argv[1], "-h")))
        return help();
    if (argc < 3) {
        log_error("give it a socket and a request; `trapeze control --help` lists them");
        return STATUS_USAGE;
    }
    return monitor_ask(argv[1], argc - 2, argv + 2);
}
