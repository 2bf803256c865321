/*
 * bench/real.c: runs the real programs, one after the other, and times each by
 * the monotonic clock: as a guest's init, or natively in the same root (real
 * ROOT). A figure's last word is a checksum of what the program printed, so that
 * real.sh can tell whether a guest computed what the host did.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "report.h"

#define JOBS   "/bench/jobs"
#define OUTPUT "/tmp/output"
#define LINE   1024

static char *const environment[] = {
    "PATH=/usr/bin", "HOME=/", "LC_ALL=C", "PYTHONHASHSEED=0", "PYTHONDONTWRITEBYTECODE=1", "PERL_HASH_SEED=0", NULL};

static uint64_t checksum(void)
{
    uint64_t sum = 14695981039346656037u; /* FNV-1a */
    uint8_t data[65536];
    int fd = open(OUTPUT, O_RDONLY);
    ssize_t n;

    while (fd >= 0 && (n = read(fd, data, sizeof(data))) > 0)
        for (ssize_t i = 0; i < n; i++)
            sum = (sum ^ data[i]) * 1099511628211u;
    if (fd >= 0)
        close(fd);
    return sum;
}

static _Noreturn void run(const char *command)
{
    int out = open(OUTPUT, O_WRONLY | O_CREAT | O_TRUNC, 0600);

    if (out >= 0 && dup2(out, STDOUT_FILENO) >= 0 && chdir("/bench") == 0)
        execle("/usr/bin/dash", "sh", "-c", command, (char *)NULL, environment);
    perror(command);
    _exit(127);
}

static void measure(const char *name, const char *command)
{
    uint64_t start = now(), end;
    pid_t pid = fork();
    int status;

    if (pid == 0)
        run(command);
    waitpid(pid, &status, 0);
    end = now();
    if (status)
        printf("BENCH failed %s, wait status %#x\n", name, (unsigned)status);
    else
        printf("BENCH real %s %lu %016lx\n", name, end - start, checksum());
    fflush(stdout);
}

int main(int argc, char **argv)
{
    char line[LINE], *command;
    FILE *jobs;

    if (getpid() != 1 && (argc != 2 || !enter_root(argv[1]))) {
        fprintf(stderr, "usage: real ROOT; it must be possible to chroot there (%s)\n", strerror(errno));
        return 2;
    }
    report_start();
    jobs = fopen(JOBS, "re");
    while (jobs && fgets(line, sizeof(line), jobs)) {
        line[strcspn(line, "\n")] = 0;
        command = strchr(line, ' ');
        if (line[0] == '#' || !command)
            continue;
        *command++ = 0;
        measure(line, command + strspn(command, " "));
    }
    if (!jobs)
        perror(JOBS);
    report_end();
    return 0;
}
