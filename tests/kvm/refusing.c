/*
 * tests/kvm/refusing.c: runs a command for which KVM refuses something: refusing WHAT COMMAND [ARGUMENT]...
 * A seccomp filter answers that ioctl with an error, or a question for a capability with no. Status 125: there is no
 * seccomp here.
 */
#include <errno.h>
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
    unsigned request, argument; /* ANY: whatever it is */
    int error;                  /* 0: the answer is 0 */
} kinds[] = {
    {"version", KVM_GET_API_VERSION, ANY, ENOTTY},
    {"irqchip-capability", KVM_CHECK_EXTENSION, KVM_CAP_SPLIT_IRQCHIP, 0},
    {"immediate-exit", KVM_CHECK_EXTENSION, KVM_CAP_IMMEDIATE_EXIT, 0},
    {"many-vcpus", KVM_CHECK_EXTENSION, KVM_CAP_MAX_VCPUS, 0}, /* then there are four */
    {"cpuid", KVM_GET_SUPPORTED_CPUID, ANY, ENOMEM},
    {"vm", KVM_CREATE_VM, ANY, ENOMEM},
    {"busy", KVM_CREATE_VM, ANY, EBUSY},
    {"irqchip", KVM_ENABLE_CAP, ANY, ENOMEM},
    {"memory", KVM_SET_USER_MEMORY_REGION, ANY, ENOMEM},
    {"vcpu", KVM_CREATE_VCPU, ANY, ENOMEM},
    {"second-vcpu", KVM_CREATE_VCPU, 1, ENOMEM},
    {"state", KVM_SET_REGS, ANY, EINVAL},
    {"run", KVM_RUN, ANY, ENOMEM},
    /* These it can do without. */
    {"ioeventfd", KVM_IOEVENTFD, ANY, ENOSPC},
    {"irqfd", KVM_IRQFD, ANY, ENOSPC},
};

static int refuse(unsigned kind)
{
    struct sock_filter filter[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_ioctl, 0, 5),
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, args[1])),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, kinds[kind].request, 0, 3),
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, args[2])),
        BPF_JUMP(BPF_JMP | (kinds[kind].argument == ANY ? BPF_JGE : BPF_JEQ) | BPF_K,
                 kinds[kind].argument == ANY ? 0 : kinds[kind].argument, 0, 1),
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
