/* cli/run.c: `trapeze run`. */
#include <stdio.h>
#include <string.h>

#include "base/log.h"
#include "cli/commands.h"
#include "cli/options.h"
#include "control/config.h"
#include "control/run.h"

static bool wants_help;

#define SET_STRING(name, member)                                                                                       \
    static int name(void *target, const char *value, struct error *err)                                                \
    {                                                                                                                  \
        ((struct config *)target)->member = value;                                                                     \
        return 0;                                                                                                      \
    }
SET_STRING(set_kernel, kernel)
SET_STRING(set_initrd, initrd)
SET_STRING(set_append, append)
SET_STRING(set_engine, engine)
SET_STRING(set_trace_file, trace_file)

static int set_memory(void *target, const char *value, struct error *err)
{
    return config_parse_memory("--memory", value, &((struct config *)target)->memory, err);
}

static int set_cpus(void *target, const char *value, struct error *err)
{
    return config_parse_cpus(value, &((struct config *)target)->cpus, err);
}

static int set_code_cache(void *target, const char *value, struct error *err)
{
    return config_parse_code_cache("--code-cache", value, &((struct config *)target)->code_cache, err);
}

static int set_disk(void *target, const char *value, struct error *err)
{
    return config_add_disk(target, value, err);
}

static int add_share(void *target, const char *value, struct error *err)
{
    return config_add_share(target, value, err);
}

static int set_root(void *target, const char *value, struct error *err)
{
    return config_set_root(target, value, err);
}

static int set_net(void *target, const char *value, struct error *err)
{
    return config_set_net(target, value, err);
}

static int add_publish(void *target, const char *value, struct error *err)
{
    return config_add_publish(target, value, err);
}

static int set_vsock(void *target, const char *value, struct error *err)
{
    return config_set_vsock(target, value, err);
}

static int set_control(void *target, const char *value, struct error *err)
{
    ((struct config *)target)->control = value;
    return 0;
}

static int set_stats(void *target, const char *value, struct error *err)
{
    ((struct config *)target)->stats = true;
    return 0;
}

static int set_perf_map(void *target, const char *value, struct error *err)
{
    ((struct config *)target)->perf_map = true;
    return 0;
}

static int set_demo(void *target, const char *value, struct error *err)
{
    ((struct config *)target)->demo = true;
    return 0;
}

static int set_trace(void *target, const char *value, struct error *err)
{
    return trace_parse(value, &((struct config *)target)->trace_mask, err);
}

static int set_help(void *target, const char *value, struct error *err)
{
    wants_help = true;
    return 0;
}

static const struct option_row options[] = {
    {"--kernel", "FILE", "bzImage or ELF (PVH, multiboot) to boot; the default guest's if not given", set_kernel},
    {"--initrd", "FILE", "initial RAM disk", set_initrd},
    {"--append", "TEXT", "added to the kernel's command line; with --kernel it is the whole", set_append},
    {"--memory", "SIZE", "guest RAM: 512M (the default), 2G; from 4M to 1024G", set_memory},
    {"--cpus", "N", "processors: 1 (the default) to 64, each a thread of this host", set_cpus},
    {"--disk", "FILE[,...]", "a disk: a file, or ...,ro or ...,scratch (writes are forgotten), ...,id=NAME; several",
     set_disk},
    {"--share", "DIR[:TAG][,...]",
     "a directory of this host, at /mnt/TAG in the default guest; ...,ro or ...,writeback (docs/shares.md); several",
     add_share},
    {"--root", "host",
     "default guest: its root is this host's, what it writes is forgotten; COMMAND runs as you, where you are",
     set_root},
    {"--net", "KIND", "user (the default: no rights needed), none, or tap=NAME", set_net},
    {"--publish", "PORTS", "HOSTPORT:GUESTPORT: that port of this host leads to the guest; several", add_publish},
    {"--vsock", "PATH[,cid=N]", "sockets between host and guest, over the Unix socket PATH", set_vsock},
    {"--control", "PATH", "a socket for `trapeze control`: the balloon's size, the guest's use of memory", set_control},
    {"--engine", "NAME", "auto (the default), kvm, bt, interp, or lockstep[:A,B]", set_engine},
    {"--code-cache", "SIZE", "bt: translated code kept for a processor at most: 256M (the default); from 256K to 1G",
     set_code_cache},
    {"--demo", NULL, "default guest: show what runs there, then end", set_demo},
    {"--stats", NULL, "print counters at the end", set_stats},
    {"--perf-map", NULL, "bt: name translated code for perf, in /tmp/perf-PID.map", set_perf_map},
    {"--trace", "LIST", "write a trace of some of exec,int,mmu,io,msr,bt", set_trace},
    {"--trace-file", "FILE", "where to; standard error if not given", set_trace_file},
    {"--help", NULL, "this text", set_help},
};

static int help(void)
{
    printf("Usage: trapeze run [OPTION]... [-- COMMAND [ARGUMENT]...]\n\n"
           "Boots a guest. Without --kernel it is the default guest, a Debian kernel with a small root in RAM: it\n"
           "gives a shell or, after --, runs COMMAND: its standard streams are ours, and so is its status.\n\n"
           "Options:\n");
    options_help(options, ARRAY_SIZE(options));
    printf(
        "\nOn a terminal, Ctrl-A X ends the guest and Ctrl-A H lists the other keys.\n\n"
        "Exit status: the guest's own (exit port, COMMAND's status); 0 after power-off or Ctrl-A X; 2 for a mistake\n"
        "in what was asked; %d if the guest reset itself (a kernel panic does); %d after a triple fault;\n"
        "%d if the monitor could not go on; 128 + N when signal N ended it.\n\n"
        "Examples:\n"
        "  trapeze run\n"
        "  trapeze run --root host -- make test\n"
        "  echo hi | trapeze run -- cat\n"
        "  trapeze run --kernel vmlinuz --initrd initrd.img --append 'console=ttyS0' --memory 1G\n",
        STATUS_RESET, STATUS_SHUTDOWN, STATUS_MONITOR);
    return 0;
}

int command_run(int argc, char **argv)
{
    struct config config;
    struct error err;
    int rest, status;

    config_init(&config);
    if (options_parse(options, ARRAY_SIZE(options), &config, argc, argv, &rest, &err)) {
        config_free(&config);
        log_error("%s", err.message);
        return STATUS_USAGE;
    }
    if (wants_help)
        return help();
    if (rest < argc && strcmp(argv[rest - 1], "--")) {
        log_error("'%s' is no option; a command for the guest goes after `--`", argv[rest]);
        return STATUS_USAGE;
    }
    if (rest < argc)
        config.command = argv + rest;
    status = control_run(&config);
    config_free(&config);
    return status;
}
