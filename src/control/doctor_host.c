/* control/doctor_host.c: what this host offers: one check a row, each by trying rather than by version numbers. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/capability.h>
#include <linux/io_uring.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "control/doctor.h"

#define HWCAP2_FSGSBASE_BIT BIT(1) /* AT_HWCAP2 on x86: asm/hwcap2.h */

/* The value after "name:" in a file of such lines, as the kernel's are. false: there is none. */
static bool field(const char *path, const char *name, char *value, size_t size)
{
    FILE *f = fopen(path, "re");
    char *line = NULL;
    size_t capacity = 0, len = strlen(name);
    bool found = false;

    while (f && !found && getline(&line, &capacity, f) > 0) {
        const char *colon = strchr(line, ':');

        if (strncmp(line, name, len) || !colon || strspn(line + len, " \t") != (size_t)(colon - line) - len)
            continue;
        colon += 1 + strspn(colon + 1, " \t");
        snprintf(value, size, "%.*s", (int)strcspn(colon, "\n"), colon);
        found = true;
    }
    free(line);
    if (f)
        fclose(f);
    return found;
}

static bool has_flag(const char *flag)
{
    char flags[8192], padded[32];

    if (!field("/proc/cpuinfo", "flags", flags, sizeof(flags)))
        return false;
    snprintf(padded, sizeof(padded), " %s ", flag);
    strncat(flags, " ", sizeof(flags) - strlen(flags) - 1);
    return strstr(flags, padded);
}

static bool check_processor(char *text)
{
    char model[128] = "of an unknown model";

    field("/proc/cpuinfo", "model name", model, sizeof(model));
    snprintf(text, DOCTOR_TEXT, "%s, %ld processors online%s", model, sysconf(_SC_NPROCESSORS_ONLN),
             has_flag("hypervisor") ? "; this system is itself a virtual machine" : "");
    return true;
}

static bool check_virtualization(char *text)
{
    const char *kind = has_flag("vmx") ? "VT-x" : has_flag("svm") ? "SVM" : NULL;

    if (kind)
        snprintf(text, DOCTOR_TEXT, "%s%s", kind, has_flag("hypervisor") ? ", nested in another hypervisor's" : "");
    else if (has_flag("hypervisor"))
        snprintf(text, DOCTOR_TEXT, "neither VT-x nor SVM: the hypervisor below does not pass them on (nesting)");
    else
        snprintf(text, DOCTOR_TEXT, "neither VT-x nor SVM; they may be switched off in the firmware");
    return kind;
}

static bool check_keys(char *text)
{
    int key = pkey_alloc(0, 0);

    if (key < 0) {
        snprintf(text, DOCTOR_TEXT, "%s",
                 errno == ENOSYS    ? "not in this kernel"
                 : !has_flag("pku") ? "the processor has none"
                                    : "the processor has them, this kernel does not let programs use them");
        return false;
    }
    pkey_free(key);
    snprintf(text, DOCTOR_TEXT, "usable");
    return true;
}

static bool check_fsgsbase(char *text)
{
    bool can = getauxval(AT_HWCAP2) & HWCAP2_FSGSBASE_BIT;

    snprintf(text, DOCTOR_TEXT, "%s",
             can ? "usable by programs" : "not switched on by the kernel (Linux 5.9), or not there");
    return can;
}

static bool check_avx2(char *text)
{
    bool can = __builtin_cpu_supports("avx2");

    snprintf(text, DOCTOR_TEXT, "%s",
             can ? "guests have it too" : "not there: guests have no vector instructions that this processor lacks");
    return can;
}

static bool check_executable(char *text)
{
    void *page = mmap(NULL, PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    bool can = page != MAP_FAILED && !mprotect(page, PAGE_SIZE, PROT_READ | PROT_EXEC);

    snprintf(text, DOCTOR_TEXT, "%s",
             can ? "allowed" : "forbidden here: software engines need them for vector instructions and translation");
    if (page != MAP_FAILED)
        munmap(page, PAGE_SIZE);
    return can;
}

static bool check_io_uring(char *text)
{
    struct io_uring_params params = {0};
    int fd = (int)syscall(SYS_io_uring_setup, 1, &params);

    if (fd >= 0) {
        close(fd);
        snprintf(text, DOCTOR_TEXT, "usable");
        return true;
    }
    snprintf(text, DOCTOR_TEXT, "%s; threads serve instead",
             errno == ENOSYS  ? "not in this kernel"
             : errno == EPERM ? "forbidden (kernel.io_uring_disabled, or a sandbox)"
                              : strerror(errno));
    return false;
}

static bool check_tap(char *text)
{
    char capabilities[64] = "0";
    int fd = open("/dev/net/tun", O_RDWR | O_CLOEXEC);

    if (fd < 0) {
        snprintf(text, DOCTOR_TEXT, "/dev/net/tun: %s", strerror(errno));
        return false;
    }
    close(fd);
    field("/proc/self/status", "CapEff", capabilities, sizeof(capabilities));
    if (strtoull(capabilities, NULL, 16) >> CAP_NET_ADMIN & 1) {
        snprintf(text, DOCTOR_TEXT, "can be made and used");
        return true;
    }
    snprintf(text, DOCTOR_TEXT,
             "cannot be made (CAP_NET_ADMIN); one that is this user's can be used: ip tuntap add "
             "NAME mode tap user USER");
    return false;
}

static bool check_memory(char *text)
{
    char total[64] = "0", available[64] = "0";

    field("/proc/meminfo", "MemTotal", total, sizeof(total));
    field("/proc/meminfo", "MemAvailable", available, sizeof(available));
    snprintf(text, DOCTOR_TEXT, "%llu MiB, %llu MiB of them available", strtoull(total, NULL, 10) >> 10,
             strtoull(available, NULL, 10) >> 10);
    return true;
}

static bool check_overcommit(char *text)
{
    FILE *f = fopen("/proc/sys/vm/overcommit_memory", "re");
    int mode = 0;

    if (f && fscanf(f, "%d", &mode) != 1)
        mode = 0;
    if (f)
        fclose(f);
    snprintf(text, DOCTOR_TEXT, "%s",
             mode == 2   ? "strict: all of a guest's RAM counts from its start (vm.overcommit_memory = 2)"
             : mode == 1 ? "always"
                         : "by judgement: a guest's RAM counts when it is touched");
    return mode != 2;
}

static bool check_locked(char *text)
{
    struct rlimit limit = {0};

    getrlimit(RLIMIT_MEMLOCK, &limit);
    if (limit.rlim_cur == RLIM_INFINITY)
        snprintf(text, DOCTOR_TEXT, "no limit");
    else
        snprintf(text, DOCTOR_TEXT, "at most %" PRIu64 " KiB (ulimit -l)", (uint64_t)limit.rlim_cur >> 10);
    return limit.rlim_cur > 0;
}

static const struct {
    const char *id, *name;
    bool (*check)(char *text);
} checks[] = {
    {"processor", "processor", check_processor},
    {"virtualization", "hardware virtualization", check_virtualization},
    {"protection-keys", "protection keys", check_keys},
    {"fsgsbase", "FSGSBASE", check_fsgsbase},
    {"avx2", "AVX2", check_avx2},
    {"executable-memory", "executable mappings", check_executable},
    {"io-uring", "io_uring", check_io_uring},
    {"tap", "tap devices", check_tap},
    {"memory", "memory", check_memory},
    {"overcommit", "memory overcommit", check_overcommit},
    {"locked-memory", "locked memory", check_locked},
};

unsigned doctor_host(struct doctor_fact *facts, unsigned max)
{
    unsigned count = MIN(max, ARRAY_SIZE(checks));

    for (unsigned i = 0; i < count; i++) {
        facts[i] = (struct doctor_fact){.id = checks[i].id, .name = checks[i].name};
        facts[i].available = checks[i].check(facts[i].text);
    }
    return count;
}
