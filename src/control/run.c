/*
 * control/run.c: `trapeze run`: the machine's surroundings (clock, loop,
 * terminal, signals) are made, it runs, and its end becomes an exit status.
 */
#include "control/run.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "backend/block/block.h"
#include "backend/fs/fs.h"
#include "base/log.h"
#include "base/loop.h"
#include "control/disk_kernel.h"
#include "control/guest.h"
#include "control/monitor.h"
#include "control/stats.h"
#include "control/streams.h"
#include "machine/machine.h"

/* What a run is made of; everything here is freed by release(). */
struct session {
    const struct config *config;
    struct guest guest;
    char cmdline[4096], disk_cmdline[4096];
    struct vclock *clock;
    struct loop *loop;
    struct streams streams;
    bool streams_open;
    struct machine *machine;
    struct block *disk[CONFIG_DISKS];
    struct fs *share[MACHINE_SHARES];
    struct disk_kernel from_disk;
    struct config effective; /* the user's, with the disk's kernel */
    struct net *net;
    struct vsock_host *vsock;
    struct monitor *monitor;
    int trace_fd;
};

/* The signal that asked for the end, and whom it stops. */
static volatile sig_atomic_t end_signal;
static struct machine *_Atomic stoppable;

static void on_signal(int number)
{
    struct machine *machine = atomic_load(&stoppable);

    end_signal = number;
    if (machine)
        machine_stop(machine);
}

static void catch_signals(void)
{
    static const int ends[] = {SIGINT, SIGTERM, SIGHUP, SIGQUIT};
    struct sigaction action = {.sa_handler = on_signal};

    for (unsigned i = 0; i < ARRAY_SIZE(ends); i++)
        sigaction(ends[i], &action, NULL);
    signal(SIGPIPE, SIG_IGN);
}

/* What the default guest is to mount. */
static void list_shares(const struct config *config, char *words, size_t size)
{
    size_t n = 0;

    *words = '\0';
    for (unsigned i = 0; i < config->share_count && n < size; i++)
        n += (size_t)snprintf(words + n, size - n, "%s%s", i ? "," : " trapeze.share=", config->share[i].tag);
    if (config->host_root && n < size)
        snprintf(words + n, size - n, " trapeze.root=" GUEST_ROOT_TAG);
}

/* Kernel, initrd and command line: the user's, or the default guest's. */
static int choose_guest(struct session *session, struct machine_config *machine, struct error *err)
{
    const struct config *config = session->config;
    char shares[(CONFIG_TAG_MAX + 1) * (CONFIG_SHARES + 1) + 64];
    int n;

    machine->kernel = config->kernel;
    machine->initrd = config->initrd;
    if (!config->kernel) {
        int rc = guest_find(&session->guest, err);

        if (rc)
            return rc;
        machine->kernel = session->guest.kernel;
        if (!config->initrd)
            machine->initrd = session->guest.initrd;
    }
    list_shares(config, shares, sizeof(shares));
    n = snprintf(session->cmdline, sizeof(session->cmdline), "%s%s%s%s%s%s", config->kernel ? "" : GUEST_CMDLINE,
                 config->kernel ? "" : session->streams.words, config->kernel ? "" : shares,
                 config->kernel || config->net != CONFIG_NET_USER ? "" : " trapeze.net=user",
                 config->kernel || !config->append ? "" : " ", config->append ? config->append : "");
    if (n >= (int)sizeof(session->cmdline))
        return error_set(err, -E2BIG, "--append: the kernel's command line is longer than %zu bytes",
                         sizeof(session->cmdline) - 1);
    machine->cmdline = session->cmdline;
    return 0;
}

static int open_trace(struct session *session, struct error *err)
{
    const struct config *config = session->config;

    if (config->trace_file) {
        session->trace_fd = open(config->trace_file, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
        if (session->trace_fd < 0)
            return error_set(err, -errno, "--trace-file: %s: %s", config->trace_file, strerror(errno));
        trace_set_fd(session->trace_fd);
    }
    trace_mask = config->trace_mask;
    return 0;
}

/* The user ends it: Ctrl-A X (no signal), or there is nobody left to read what the guest says. */
static void on_end(void *opaque, int signal_number)
{
    struct session *session = opaque;

    end_signal = signal_number;
    machine_stop(session->machine);
}

_Static_assert(CONFIG_DISKS == MACHINE_DISKS, "disks");
_Static_assert(CONFIG_SHARES < MACHINE_SHARES, "shares, and the host's root");
_Static_assert(CONFIG_CODE_CACHE == ENGINE_CODE_CACHE && CONFIG_CODE_CACHE_MIN == ENGINE_CODE_CACHE_MIN &&
                   CONFIG_CODE_CACHE_MAX == ENGINE_CODE_CACHE_MAX,
               "code cache");

static int open_disks(struct session *session, struct machine_config *machine, struct error *err)
{
    const struct config *config = session->config;

    if (config->disk_count && !strncmp(config->engine, "lockstep", 8))
        return error_set(err, -EINVAL, "--disk: lockstep compares memory, and a disk writes to one side's only");
    for (unsigned i = 0; i < config->disk_count; i++) {
        const struct config_disk *disk = &config->disk[i];
        const struct block_config block = {.path = disk->path, .readonly = disk->readonly, .scratch = disk->scratch};

        session->disk[i] = block_open(&block, err);
        if (!session->disk[i])
            return -EINVAL;
        machine->disk[machine->disk_count++] = (struct machine_disk){session->disk[i], disk->id};
    }
    return 0;
}

/* A guest that is on the first disk is booted from there, unless something else was asked for. */
static int boot_from_disk(struct session *session, struct error *err)
{
    struct config *config = &session->effective;
    int rc;

    if (!config->disk_count || config->kernel || config->initrd || config->command || config->demo || config->host_root)
        return 0;
    rc = disk_kernel_find(&session->from_disk, session->disk[0], config->disk[0].path, err);
    if (rc)
        return rc == -ENOENT ? 0 : rc;
    snprintf(session->disk_cmdline, sizeof(session->disk_cmdline), "%s%s%s", DISK_CMDLINE, config->append ? " " : "",
             config->append ? config->append : "");
    config->kernel = session->from_disk.kernel;
    config->initrd = *session->from_disk.initrd ? session->from_disk.initrd : NULL;
    config->append = session->disk_cmdline;
    return 0;
}

static int open_share(struct session *session, struct machine_config *machine, const struct fs_config *config,
                      const char *option, const char *tag, struct error *err)
{
    struct fs *fs = fs_open(config, option, err);

    if (!fs)
        return -EINVAL;
    session->share[machine->share_count] = fs;
    machine->share[machine->share_count++] = (struct machine_share){fs, tag};
    return 0;
}

static int open_shares(struct session *session, struct machine_config *machine, struct error *err)
{
    static const struct fs_config root = {.path = "/", .readonly = true, .constant = true};
    const struct config *config = session->config;
    int rc = 0;

    if (!config->share_count && !config->host_root)
        return 0;
    if (!strncmp(config->engine, "lockstep", 8))
        return error_set(err, -EINVAL, "--share, --root: lockstep compares memory, and a device writes to one side's");
    for (unsigned i = 0; !rc && i < config->share_count; i++) {
        const struct config_share *share = &config->share[i];
        const struct fs_config fs = {.path = share->path, .readonly = share->readonly, .writeback = share->writeback};

        rc = open_share(session, machine, &fs, "--share", share->tag, err);
    }
    if (!rc && config->host_root)
        rc = open_share(session, machine, &root, "--root host", GUEST_ROOT_TAG, err);
    return rc;
}

/* Lockstep has no virtio devices. */
static int open_net(struct session *session, struct machine_config *machine, struct error *err)
{
    const struct config *config = session->config;

    if (config->publish_count && config->net != CONFIG_NET_USER)
        return error_set(err, -EINVAL, "--publish is for --net user");
    if (config->net == CONFIG_NET_NONE || !strncmp(config->engine, "lockstep", 8))
        return 0;
    session->net = config->net == CONFIG_NET_TAP ? net_tap_new(config->tap, err)
                                                 : net_user_new(config->publish, config->publish_count, err);
    machine->net = session->net;
    return session->net ? 0 : -EINVAL;
}

/* More than the host has work, but take turns. */
static void warn_of_turns(unsigned cpus)
{
    cpu_set_t set;
    int have = sched_getaffinity(0, sizeof(set), &set) ? 0 : CPU_COUNT(&set);

    if (have > 0 && cpus > (unsigned)have)
        log_warn("--cpus %u: this host has %d for us; the guest's processors will take turns", cpus, have);
}

static int open_vsock(struct session *session, struct machine_config *machine, struct error *err)
{
    const struct config *config = session->config;

    if (!config->vsock)
        return 0;
    if (!strncmp(config->engine, "lockstep", 8))
        return error_set(err, -EINVAL, "--vsock: lockstep has no virtio devices");
    session->vsock = vsock_host_new(session->loop, config->vsock, err);
    machine->vsock = session->vsock;
    machine->vsock_cid = config->vsock_cid;
    return session->vsock ? 0 : -EINVAL;
}

static int open_control(struct session *session, struct error *err)
{
    const struct config *config = session->config;

    if (!config->control)
        return 0;
    session->monitor = monitor_new(session->loop, config->control, err);
    return session->monitor ? 0 : -EINVAL;
}

static int prepare(struct session *session, struct error *err)
{
    struct machine_config machine = {
        .memory = session->config->memory,
        .cpus = session->config->cpus,
        .code_cache = session->config->code_cache,
        .perf_map = session->config->perf_map,
    };
    char engine_line[512];
    int rc;

    if (session->config->kernel && (session->config->command || session->config->demo || session->config->host_root))
        return error_set(err, -EINVAL,
                         "a command after `--`, --demo and --root are for the default guest: leave out --kernel");
    if (session->config->demo && session->config->host_root)
        return error_set(err, -EINVAL, "--demo and --root exclude each other");
    session->clock = vclock_new();
    session->loop = session->clock ? loop_new(session->clock) : NULL;
    if (!session->loop)
        return error_set(err, -errno, "event loop: %s", strerror(errno));
    rc = machine_choose_engine(session->config->engine, &machine.engine, engine_line, sizeof(engine_line), err);
    if (!rc)
        rc = open_trace(session, err);
    if (!rc)
        rc = open_disks(session, &machine, err);
    if (!rc)
        rc = boot_from_disk(session, err);
    if (!rc)
        rc = open_shares(session, &machine, err);
    if (!rc)
        rc = open_net(session, &machine, err);
    if (!rc)
        rc = open_vsock(session, &machine, err);
    if (!rc)
        rc = open_control(session, err);
    if (!rc) {
        session->streams_open = true;
        rc = streams_open(&session->streams, session->config, session->loop, on_end, session, err);
    }
    if (!rc)
        rc = choose_guest(session, &machine, err);
    if (rc)
        return rc;
    memcpy(machine.serial, session->streams.serial, sizeof(machine.serial));
    machine.terminal = session->streams.terminal_port;
    machine.job_port = session->streams.job_port;
    machine.loop = session->loop;
    session->machine = machine_new(&machine, err);
    if (!session->machine)
        return -EINVAL;
    if (session->monitor)
        monitor_serve(session->monitor, session->machine, on_end, session);
    log_info("%s", engine_line);
    warn_of_turns(machine.cpus);
    if (session->streams.terminal && !session->config->command)
        log_info("Ctrl-A X ends the guest, Ctrl-A H lists the keys");
    return 0;
}

/* The devices let go of the streams first; with these closed the terminal is the user's again. */
static void release(struct session *session)
{
    atomic_store(&stoppable, NULL);
    monitor_free(session->monitor);
    machine_free(session->machine);
    if (session->streams_open)
        streams_close(&session->streams);
    disk_kernel_close(&session->from_disk);
    if (session->net)
        session->net->ops->free(session->net);
    if (session->vsock)
        vsock_host_free(session->vsock);
    for (unsigned i = 0; i < CONFIG_DISKS; i++)
        if (session->disk[i])
            block_close(session->disk[i]);
    for (unsigned i = 0; i < MACHINE_SHARES; i++)
        if (session->share[i])
            fs_close(session->share[i]);
    if (session->loop)
        loop_free(session->loop);
    if (session->clock)
        vclock_free(session->clock);
    if (session->trace_fd >= 0)
        close(session->trace_fd);
}

static int exit_status(const struct machine_result *result)
{
    switch (result->end) {
    case MACHINE_POWEROFF:
        return 0;
    case MACHINE_EXIT:
        return result->code;
    case MACHINE_RESET:
        log_error("the guest reset itself (a kernel panic, or a reboot); it is not started again");
        return STATUS_RESET;
    case MACHINE_SHUTDOWN:
        log_error("%s", result->text);
        return STATUS_SHUTDOWN;
    case MACHINE_STOPPED:
        return end_signal ? STATUS_SIGNAL + end_signal : 0;
    default:
        log_error("%s", result->text);
        return STATUS_MONITOR;
    }
}

int control_run(const struct config *config)
{
    struct session session = {.effective = *config, .trace_fd = -1, .from_disk = {.fd = {-1, -1}}};
    struct machine_result result;
    struct stats stats;
    struct error err;
    int status;

    session.config = &session.effective;
    catch_signals();
    if (prepare(&session, &err)) {
        release(&session);
        log_error("%s", err.message);
        return STATUS_USAGE;
    }
    atomic_store(&stoppable, session.machine);
    if (end_signal)
        machine_stop(session.machine);
    stats_begin(&stats);
    machine_run(session.machine, &result);
    stats_end(&stats, session.machine);
    release(&session);
    status = exit_status(&result);
    if (config->stats)
        stats_print(&stats);
    stats_free(&stats);
    return status;
}
