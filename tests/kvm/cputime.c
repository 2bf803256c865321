/* cputime.c: runs a command and prints the microseconds of processor time that it took: all its threads, user and
 * system. Its status is the command's. */
#include <stdio.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

static long us(const struct timeval *t)
{
    return t->tv_sec * 1000000L + t->tv_usec;
}

int main(int argc, char **argv)
{
    struct rusage used;
    int status;
    pid_t pid = argc > 1 ? fork() : -1;

    if (pid < 0)
        return 2;
    if (pid == 0) {
        dup2(STDERR_FILENO, STDOUT_FILENO);
        execvp(argv[1], argv + 1);
        _exit(127);
    }
    if (wait4(pid, &status, 0, &used) < 0 || !WIFEXITED(status))
        return 2;
    printf("%ld\n", us(&used.ru_utime) + us(&used.ru_stime));
    return WEXITSTATUS(status) == 1 ? 0 : WEXITSTATUS(status); /* isa-debug-exit ends QEMU with 1 */
}
