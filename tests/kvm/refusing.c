/*
 * tests/kvm/refusing.c: runs a command for which KVM refuses something: refusing WHAT COMMAND [ARGUMENT]...
 * A seccomp filter answers that ioctl, or an open() like that of the device, with an error, or a question for a
 * capability with no. Status 125: there is no seccomp here.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/kvm.h>
#include <linux/seccomp.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>

#define ANY 0xffffffffu

static const struct {
    const char *name;
    unsigned call, request, argument; /* the system call, its 2nd and 3rd argument; ANY: whatever it is */
    int error;                        /* 0: the answer is 0 */
} kinds[] = {
    {"device", SYS_openat, ANY, O_RDWR | O_CLOEXEC, ENOENT},
    {"permission", SYS_openat, ANY, O_RDWR | O_CLOEXEC, EACCES},
    {"version", SYS_ioctl, KVM_GET_API_VERSION, ANY, ENOTTY},
    {"irqchip-capability", SYS_ioctl, KVM_CHECK_EXTENSION, KVM_CAP_SPLIT_IRQCHIP, 0},
    {"immediate-exit", SYS_ioctl, KVM_CHECK_EXTENSION, KVM_CAP_IMMEDIATE_EXIT, 0},
    {"many-vcpus", SYS_ioctl, KVM_CHECK_EXTENSION, KVM_CAP_MAX_VCPUS, 0}, /* then there are four */
    {"cpuid", SYS_ioctl, KVM_GET_SUPPORTED_CPUID, ANY, ENOMEM},
    {"vm", SYS_ioctl, KVM_CREATE_VM, ANY, ENOMEM},
    {"busy", SYS_ioctl, KVM_CREATE_VM, ANY, EBUSY},
    {"irqchip", SYS_ioctl, KVM_ENABLE_CAP, ANY, ENOMEM},
    {"memory", SYS_ioctl, KVM_SET_USER_MEMORY_REGION, ANY, ENOMEM},
    {"vcpu", SYS_ioctl, KVM_CREATE_VCPU, ANY, ENOMEM},
    {"second-vcpu", SYS_ioctl, KVM_CREATE_VCPU, 1, ENOMEM},
    {"state", SYS_ioctl, KVM_SET_REGS, ANY, EINVAL},
    {"run", SYS_ioctl, KVM_RUN, ANY, ENOMEM},
    /* These it can do without. */
    {"ioeventfd", SYS_ioctl, KVM_IOEVENTFD, ANY, ENOSPC},
    {"irqfd", SYS_ioctl, KVM_IRQFD, ANY, ENOSPC},
};

/* Goes on if the word at `offset` is `value`, else `skip` statements further. */
#define WORD_IS(offset, value, skip)                                                                                   \
    BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offset),                                                                        \
        BPF_JUMP(BPF_JMP | ((value) == ANY ? BPF_JGE : BPF_JEQ) | BPF_K, (value) == ANY ? 0 : (value), 0, skip)

static int refuse(unsigned kind)
{
    struct sock_filter filter[] = {
        WORD_IS(offsetof(struct seccomp_data, nr), kinds[kind].call, 5),
        WORD_IS(offsetof(struct seccomp_data, args[1]), kinds[kind].request, 3),
        WORD_IS(offsetof(struct seccomp_data, args[2]), kinds[kind].argument, 1),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | kinds[kind].error),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
    };
    const struct sock_fprog program = {sizeof(filter) / sizeof(filter[0]), filter};

    return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) || prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program);
}

int main(int argc, char **argv)
{
    for (unsigned i = 0; argc > 2 && i < sizeof(kinds) / sizeof(kinds[0]); i++) {
        if (strcmp(argv[1], kinds[i].name))
            continue;
        if (refuse(i))
            return 125;
        execvp(argv[2], argv + 2);
        perror(argv[2]);
        return 127;
    }
    fprintf(stderr, "usage: refusing WHAT COMMAND [ARGUMENT]..., where WHAT is one of\n");
    for (unsigned i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++)
        fprintf(stderr, "  %s\n", kinds[i].name);
    return 2;
}
