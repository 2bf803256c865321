/*
 * tests/boot/failing.c: runs a command whose disks fail: failing read|write|flush|none COMMAND [ARGUMENT]...
 * A seccomp filter answers the system calls that do such a thing with EIO, and those of io_uring with ENOSYS. Status
 * 125: there is no seccomp here.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

static const struct {
    const char *name;
    unsigned call[2];
} kinds[] = {
    {"read", {SYS_preadv, SYS_preadv2}},
    {"write", {SYS_pwritev, SYS_pwritev2}},
    {"flush", {SYS_fdatasync, SYS_fsync}},
    {"none", {SYS_io_uring_setup, SYS_io_uring_setup}},
};

int main(int argc, char **argv)
{
    for (unsigned i = 0; argc > 2 && i < sizeof(kinds) / sizeof(kinds[0]); i++) {
        struct sock_filter filter[] = {
            BPF_STMT(BPF_LD | BPF_W | BPF_ABS, 0), /* the system call's number */
            BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_io_uring_setup, 2, 0),
            BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, kinds[i].call[0], 2, 0),
            BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, kinds[i].call[1], 1, 2),
            BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | ENOSYS),
            BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EIO),
            BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
        };
        const struct sock_fprog program = {sizeof(filter) / sizeof(filter[0]), filter};

        if (strcmp(argv[1], kinds[i].name))
            continue;
        if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) || prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program))
            return 125;
        execvp(argv[2], argv + 2);
        perror(argv[2]);
        return 127;
    }
    fprintf(stderr, "usage: failing read|write|flush|none COMMAND [ARGUMENT]...\n");
    return 2;
}
