/*
 * machine/machine.h: a whole virtual machine: board, vCPUs, life cycle.
 */
#ifndef MACHINE_MACHINE_H
#define MACHINE_MACHINE_H

#include "backend/block/block.h"
#include "backend/char/chardev.h"
#include "backend/fs/fs.h"
#include "backend/net/net.h"
#include "backend/vsock/host.h"
#include "base/balloon.h"
#include "base/error.h"
#include "base/types.h"
#include "engine/engine.h"

struct machine;

#define MACHINE_DISKS  16
#define MACHINE_SHARES 9

struct machine_disk {
    struct block *block; /* the caller's */
    const char *id;      /* serial number; "" for none */
};

struct machine_share {
    struct fs *fs; /* the caller's */
    const char *tag;
};

struct machine_config {
    const struct engine_ops *engine;
    const char *kernel, *initrd, *cmdline;
    uint64_t memory; /* bytes */
    unsigned cpus;
    size_t code_cache;         /* bytes of translated code a processor keeps; 0: the engine's default */
    bool perf_map;             /* tell perf the names of translated code */
    struct chardev *serial[2]; /* COM1 console, COM2 job channel; NULL: nothing connected. Owned by the caller. */
    /* The same by virtio-console, for guests that have a driver: a terminal; a port named JOB_PORT. */
    struct chardev *terminal, *job_port;
    struct machine_disk disk[MACHINE_DISKS];
    unsigned disk_count;
    struct machine_share share[MACHINE_SHARES];
    unsigned share_count;
    struct net *net;          /* the caller's; NULL: no network card */
    struct loop *loop;        /* the caller's; its clock is the VM's */
    struct vsock_host *vsock; /* the caller's; NULL: no vsock */
    uint32_t vsock_cid;       /* the guest's address there */
};

/* How a VM ended. */
enum machine_end {
    MACHINE_RUNNING,
    MACHINE_POWEROFF, /* ACPI S5 */
    MACHINE_RESET,    /* keyboard controller, ACPI reset register, port CF9 */
    MACHINE_EXIT,     /* exit port: code is the guest's status */
    MACHINE_SHUTDOWN, /* triple fault */
    MACHINE_STOPPED,  /* machine_stop(): the user */
    MACHINE_ERROR,
};
struct machine_result {
    enum machine_end end;
    int code;        /* MACHINE_EXIT: 0..255 */
    char text[2048]; /* MACHINE_SHUTDOWN, MACHINE_ERROR: for the user; may have several lines */
};

/* The engine of that name ("auto": the fastest that works here), and why in one line for the user. -EINVAL: there is
 * none of that name; else why it cannot work here. */
int machine_choose_engine(const char *name, const struct engine_ops **engine, char *why, size_t size,
                          struct error *err);

/* The engines in auto's order, the best first; NULL after the last. */
const struct engine_ops *machine_engine(unsigned i);

struct engine_speed {
    double mips;        /* million instructions a second in a small loop */
    double native_mips; /* the same loop on the host's processor */
    bool hardware;      /* not slower than a quarter of that: nobody emulates */
};
#define HARDWARE_SHARE 4
/* Takes some milliseconds. For an engine whose probe() says that it works. */
int machine_measure_engine(const struct engine_ops *engine, struct engine_speed *speed, struct error *err);
/* May `auto` take an engine that works? Software always; hardware if it outruns the best software in that loop.
 * figures: of both, if they were measured. -ENODEV: it does not. */
int machine_judge_engine(const struct engine_ops *engine, char *figures, size_t size, struct error *err);

/* NULL with one line for the user. */
struct machine *machine_new(const struct machine_config *config, struct error *err);
void machine_free(struct machine *machine);
/* Runs to the end: starts the vCPU threads and runs the loop in this one. */
void machine_run(struct machine *machine, struct machine_result *result);
void machine_stop(struct machine *machine); /* any thread, async-signal-safe */
/* The balloon, as in its device's header; any thread. get: false: this machine has none. */
bool machine_balloon_get(const struct machine *machine, struct balloon_info *info);
void machine_balloon_set(struct machine *machine, uint64_t bytes);
void machine_balloon_refresh(struct machine *machine);
/* Sum over all vCPUs, after machine_run. false: its number of instructions is not of all that the guest executed. */
bool machine_counters(const struct machine *machine, struct counters *sum);
/* What the engine has counted besides, line by line, vCPU by vCPU. */
void machine_report(const struct machine *machine, engine_line_fn *line, void *opaque);

#endif
