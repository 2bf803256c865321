/* engine/kvm/host.c: what this host's KVM can do, and why it cannot be used. */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include "engine/kvm/kvm_internal.h"

#define DEVICE    "/dev/kvm"
#define MAX_CPUID 256

/* Without these the engine does not work; all are in Linux since the version that it names. */
static const struct {
    int capability;
    const char *name;
} needed[] = {
    {KVM_CAP_USER_MEMORY, "user memory"},
    {KVM_CAP_SET_TSS_ADDR, "TSS address"},
    {KVM_CAP_EXT_CPUID, "extended CPUID"},
    {KVM_CAP_MP_STATE, "MP state"},
    {KVM_CAP_VCPU_EVENTS, "vCPU events"},
    {KVM_CAP_DEBUGREGS, "debug registers"},
    {KVM_CAP_XSAVE, "XSAVE state"},
    {KVM_CAP_IRQ_ROUTING, "interrupt routing"},
    {KVM_CAP_SIGNAL_MSI, "MSI"},
    {KVM_CAP_READONLY_MEM, "read-only memory"},
    {KVM_CAP_SPLIT_IRQCHIP, "split interrupt controllers (Linux 4.4)"},
    {KVM_CAP_IMMEDIATE_EXIT, "immediate exit (Linux 4.11)"},
};

static struct kvm_host host;
static pthread_once_t host_once = PTHREAD_ONCE_INIT;
static int host_fd, host_error; /* for read_host() */

int kvm_ioctl(int fd, unsigned long request, const void *argument)
{
    int rc = ioctl(fd, request, argument);

    return rc < 0 ? -errno : rc;
}

static int check(int fd, int capability)
{
    int rc = kvm_ioctl(fd, KVM_CHECK_EXTENSION, (void *)(long)capability);

    return rc < 0 ? 0 : rc;
}

/* Does the processor have VMX (Intel) or SVM (AMD)? Its flags, since CPUID alone does not say whether the firmware, or
 * a hypervisor, has switched it off. */
static bool processor_virtualizes(void)
{
    FILE *f = fopen("/proc/cpuinfo", "re");
    char *line = NULL;
    size_t size = 0;
    bool found = false;

    while (f && !found && getline(&line, &size, f) > 0)
        found = !strncmp(line, "flags", 5) && (strstr(line, " vmx") || strstr(line, " svm"));
    free(line);
    if (f)
        fclose(f);
    return found;
}

static int explain_permission(int error, struct error *err)
{
    struct stat st;

    if (!stat(DEVICE, &st) && !(st.st_mode & S_IWGRP))
        return error_set(err, -error,
                         "no permission for " DEVICE ", whose mode %04o lets its owner in only: as root, give it to a "
                         "group (chgrp kvm " DEVICE "; chmod 660 " DEVICE "), and join that (usermod -aG kvm USER)",
                         (unsigned)st.st_mode & 07777);
    return error_set(err, -error,
                     "no permission for " DEVICE ": become a member of its group (usermod -aG kvm USER, then log in "
                     "again), or let the container have the device");
}

static int explain_open(int error, struct error *err)
{
    switch (error) {
    case ENOENT:
        if (processor_virtualizes())
            return error_set(err, -error, DEVICE " does not exist: load KVM's module: modprobe kvm_intel, or kvm_amd");
        return error_set(err, -error, DEVICE " does not exist, and the processor offers neither VT-x nor SVM");
    case EACCES:
    case EPERM:
        return explain_permission(error, err);
    default:
        return error_set(err, -error, DEVICE ": %s", strerror(error));
    }
}

static void read_host(void)
{
    int rc;

    host.cpuid = calloc(1, sizeof(*host.cpuid) + MAX_CPUID * sizeof(host.cpuid->entries[0]));
    if (!host.cpuid) {
        host_error = -ENOMEM;
        return;
    }
    host.cpuid->nent = MAX_CPUID;
    host_error = kvm_ioctl(host_fd, KVM_GET_SUPPORTED_CPUID, host.cpuid);
    if (host_error >= 0)
        host_error = rc = kvm_ioctl(host_fd, KVM_GET_VCPU_MMAP_SIZE, NULL);
    if (host_error < 0)
        return;
    host.run_size = (size_t)rc;
    rc = check(host_fd, KVM_CAP_MAX_VCPUS);
    host.max_cpus = MIN((unsigned)(rc ? rc : 4), KVM_MAX_CPUS);
    host.xcrs = check(host_fd, KVM_CAP_XCRS);
    host.sregs2 = check(host_fd, KVM_CAP_SREGS2);
    host.tsc_deadline = check(host_fd, KVM_CAP_TSC_DEADLINE_TIMER);
    host.emulation_exit = check(host_fd, KVM_CAP_EXIT_ON_EMULATION_FAILURE);
    host.irqfd = check(host_fd, KVM_CAP_IRQFD);
    host.ioeventfd = check(host_fd, KVM_CAP_IOEVENTFD) && check(host_fd, KVM_CAP_IOEVENTFD_ANY_LENGTH);
    host.quirks = (unsigned)check(host_fd, KVM_CAP_DISABLE_QUIRKS2);
}

const struct kvm_host *kvm_host(void)
{
    return &host;
}

int kvm_host_open(struct error *err)
{
    int fd = open(DEVICE, O_RDWR | O_CLOEXEC), rc;

    if (fd < 0)
        return explain_open(errno, err);
    rc = kvm_ioctl(fd, KVM_GET_API_VERSION, NULL);
    if (rc != KVM_API_VERSION) {
        close(fd);
        if (rc < 0)
            return error_set(err, -ENODEV, DEVICE " is not Linux's KVM: %s", strerror(-rc));
        return error_set(err, -ENODEV, DEVICE " is a KVM from before Linux 2.6.22: its version is %d, not %d", rc,
                         KVM_API_VERSION);
    }
    for (unsigned i = 0; i < ARRAY_SIZE(needed); i++) {
        if (!check(fd, needed[i].capability)) {
            close(fd);
            return error_set(err, -ENOSYS, "this kernel's KVM is too old, it lacks: %s", needed[i].name);
        }
    }
    host_fd = fd;
    pthread_once(&host_once, read_host);
    if (host_error < 0) {
        close(fd);
        return error_set(err, host_error, "KVM does not say what it can do: %s", strerror(-host_error));
    }
    return fd;
}
