/*
 * engine/bt/perfmap.c: `--perf-map`: /tmp/perf-PID.map, where perf looks for
 * names of code that is in no file: a line "start size name" for each
 * translation and each thunk, as they are made. The file is the process's: one
 * for all its VMs. Any vCPU's thread.
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "engine/bt/bt_internal.h"

static pthread_once_t once = PTHREAD_ONCE_INIT;
static char path[32];
static _Atomic int fd = -1;
static int open_error;

/* What an earlier process of that number left is not ours to write to. */
static void open_map(void)
{
    snprintf(path, sizeof(path), "/tmp/perf-%d.map", (int)getpid());
    unlink(path);
    fd = open(path, O_WRONLY | O_CREAT | O_EXCL | O_APPEND | O_NOFOLLOW | O_CLOEXEC, 0644);
    open_error = fd < 0 ? errno : 0;
}

/* One write(2) a line: threads do not mix. */
static void add(const void *start, uint32_t size, const char *name)
{
    char line[96];
    int n = snprintf(line, sizeof(line), "%lx %x %s\n", (unsigned long)start, size, name);

    if (write(fd, line, (size_t)n) != n)
        fd = -1; /* a full disk: names are lost, the guest runs on */
}

static uint32_t end_of_thunk(const struct bt_thunks *thunk, uint32_t start)
{
    uint32_t end = thunk->end;

#define X(name)                                                                                                        \
    if (thunk->name > start)                                                                                           \
        end = MIN(end, thunk->name);
    BT_THUNKS(X)
#undef X
    return end;
}

int bt_perf_map_open(struct error *err)
{
    pthread_once(&once, open_map);
    return open_error ? error_set(err, -open_error, "--perf-map: %s: %s", path, strerror(open_error)) : 0;
}

bool bt_perf_map_is_on(void)
{
    return fd >= 0;
}

void bt_perf_map_thunks(const struct bt_vcpu *vcpu)
{
    const struct bt_thunks *thunk = &vcpu->thunk;

    if (fd < 0)
        return;
#define X(name) add(bt_host(vcpu, thunk->name), end_of_thunk(thunk, thunk->name) - thunk->name, "trapeze:" #name);
    BT_THUNKS(X)
#undef X
}

void bt_perf_map_code(const struct bt_vcpu *vcpu, const struct bt_code *code)
{
    char name[48];

    if (fd < 0)
        return;
    snprintf(name, sizeof(name), "guest%s:0x%lx", block_mode(code->block) == MODE_LONG64 ? "" : "32",
             vcpu->soft.cpu.rip);
    add(bt_host(vcpu, code->start), code->end - code->start, name);
    add(bt_host(vcpu, code->cold_start), code->cold_end - code->cold_start, name);
}
