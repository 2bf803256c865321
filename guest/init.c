/*
 * guest/init.c: process 1 of the default guest. Mounts what every program
 * expects, then does what the kernel command line says:
 *   trapeze.mode=shell (also without any)  a shell on the console
 *   trapeze.mode=job                       a command from the job channel
 *   trapeze.mode=demo                      a demonstration
 *   trapeze.share=TAG,...                  mounts them at /mnt/TAG
 *   trapeze.root=TAG                       that share becomes the root
 * Called as poweroff, halt or reboot by anybody else, it asks process 1.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/io.h>
#include <sys/ioctl.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

#include "guest.h"

#define EXIT_PORT 0xf4

static const struct {
    const char *source, *target, *type, *options;
    unsigned long flags;
} mounts[] = {
    {"devtmpfs", "/dev", "devtmpfs", "mode=0755", MS_NOSUID},
    {"proc", "/proc", "proc", NULL, MS_NOSUID | MS_NODEV | MS_NOEXEC},
    {"sysfs", "/sys", "sysfs", NULL, MS_NOSUID | MS_NODEV | MS_NOEXEC},
    {"devpts", "/dev/pts", "devpts", "mode=0620,ptmxmode=0666", MS_NOSUID | MS_NOEXEC},
    {"tmpfs", "/tmp", "tmpfs", "mode=1777", MS_NOSUID | MS_NODEV},
    {"tmpfs", "/run", "tmpfs", "mode=0755", MS_NOSUID | MS_NODEV},
    {"tmpfs", "/dev/shm", "tmpfs", "mode=1777", MS_NOSUID | MS_NODEV},
};

static const struct {
    const char *path, *target;
} links[] = {
    {"/dev/fd", "/proc/self/fd"},
    {"/dev/stdin", "/proc/self/fd/0"},
    {"/dev/stdout", "/proc/self/fd/1"},
    {"/dev/stderr", "/proc/self/fd/2"},
};

void guest_say(const char *fmt, ...)
{
    char line[256] = "init: ";
    size_t len = strlen(line);
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(line + len, sizeof(line) - len - 1, fmt, ap);
    va_end(ap);
    strcat(line, "\n");
    write_all(STDERR_FILENO, line, strlen(line));
}

void guest_power(int how)
{
    tcdrain(STDERR_FILENO);
    sync();
    reboot(how);
    for (;;)
        pause();
}

void guest_exit(int status)
{
    tcdrain(STDERR_FILENO);
    sync();
    if (ioperm(EXIT_PORT, 1, 1) == 0)
        outb((unsigned char)status, EXIT_PORT);
    guest_power(RB_POWER_OFF);
}

/* --- signals --------------------------------------------------------------------------------------- */

static void watched_signals(sigset_t *set)
{
    static const int numbers[] = {SIGCHLD, SIGUSR1, SIGUSR2, SIGTERM, SIGINT};

    sigemptyset(set);
    for (size_t i = 0; i < sizeof(numbers) / sizeof(numbers[0]); i++)
        sigaddset(set, numbers[i]);
}

int guest_signal_fd(void)
{
    sigset_t set;

    watched_signals(&set);
    sigprocmask(SIG_BLOCK, &set, NULL);
    return signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
}

void guest_unblock_signals(void)
{
    sigset_t set;

    watched_signals(&set);
    sigprocmask(SIG_UNBLOCK, &set, NULL);
    signal(SIGPIPE, SIG_DFL);
}

bool guest_take_signals(int fd, pid_t pid, int *status)
{
    struct signalfd_siginfo info;
    bool found = false;
    int raw;
    pid_t p;

    while (read(fd, &info, sizeof(info)) == sizeof(info)) {
        if (info.ssi_signo == SIGUSR1 || info.ssi_signo == SIGUSR2)
            guest_power(RB_POWER_OFF);
        if (info.ssi_signo == SIGTERM || info.ssi_signo == SIGINT)
            guest_power(RB_AUTOBOOT);
    }
    while ((p = waitpid(-1, &raw, WNOHANG)) > 0)
        if (p == pid) {
            *status = WIFSIGNALED(raw) ? 128 + WTERMSIG(raw) : WEXITSTATUS(raw);
            found = true;
        }
    return found;
}

/* --- setting up ------------------------------------------------------------------------------------ */

static void mount_all(void)
{
    for (size_t i = 0; i < sizeof(mounts) / sizeof(mounts[0]); i++) {
        mkdir(mounts[i].target, 0755);
        if (mount(mounts[i].source, mounts[i].target, mounts[i].type, mounts[i].flags, mounts[i].options) < 0 &&
            errno != EBUSY)
            guest_say("mount %s: %s", mounts[i].target, strerror(errno));
    }
    for (size_t i = 0; i < sizeof(links) / sizeof(links[0]); i++)
        if (symlink(links[i].target, links[i].path) < 0 && errno != EEXIST)
            guest_say("%s: %s", links[i].path, strerror(errno));
}

static void open_console(void)
{
    int fd = open("/dev/console", O_RDWR | O_NOCTTY);

    for (int i = 0; i < 3 && fd >= 0; i++)
        if (fd != i)
            dup2(fd, i);
    if (fd > 2)
        close(fd);
}

/* The image brings busybox's links along unless they could not be listed where it was built. */
static void install_busybox(void)
{
    pid_t pid;

    if (access("/bin/cat", F_OK) == 0)
        return;
    pid = fork();
    if (pid == 0) {
        execl("/bin/busybox", "busybox", "--install", "-s", (char *)NULL);
        _exit(STATUS_NOT_FOUND);
    }
    waitpid(pid, NULL, 0);
}

/* The word after name= on the kernel command line; "" if it is not there. */
static void read_option(const char *name, char *value, size_t size)
{
    char line[4096], *word, *rest = line;
    int fd = open("/proc/cmdline", O_RDONLY | O_CLOEXEC);
    ssize_t n = fd < 0 ? 0 : read(fd, line, sizeof(line) - 1);

    if (fd >= 0)
        close(fd);
    line[n > 0 ? n : 0] = 0;
    *value = 0;
    while ((word = strsep(&rest, " \n")))
        if (strncmp(word, name, strlen(name)) == 0 && word[strlen(name)] == '=')
            snprintf(value, size, "%s", word + strlen(name) + 1);
}

static const struct {
    const char *name;
    void (*run)(void);
} modes[] = {{"shell", shell_mode}, {"job", job_mode}, {"demo", demo_mode}};

static int ask_init(const char *applet)
{
    if (kill(1, strcmp(applet, "reboot") == 0 ? SIGTERM : SIGUSR2) == 0)
        return 0;
    fprintf(stderr, "%s: %s\n", applet, strerror(errno));
    return 1;
}

int main(int argc, char **argv)
{
    char mode[16], tags[512];

    if (getpid() != 1) {
        const char *slash = strrchr(argv[0], '/');

        return ask_init(slash ? slash + 1 : argv[0]);
    }
    signal(SIGPIPE, SIG_IGN);
    umask(022);
    mount_all();
    open_console();
    reboot(RB_DISABLE_CAD);
    sethostname("trapeze", 7);
    setenv("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", 1);
    setenv("HOME", "/root", 1);
    setenv("USER", "root", 1);
    setenv("SHELL", "/bin/sh", 1);
    install_busybox();
    guest_load_drivers();
    read_option("trapeze.root", tags, sizeof(tags));
    if (*tags && !guest_enter_host_root(tags))
        guest_exit(STATUS_TROUBLE);
    read_option("trapeze.share", tags, sizeof(tags));
    if (*tags)
        guest_mount_shares(tags);
    read_option("trapeze.net", mode, sizeof(mode));
    guest_set_up_network(strcmp(mode, "user") == 0);
    if (chdir("/root") < 0)
        guest_say("/root: %s", strerror(errno));
    read_option("trapeze.mode", mode, sizeof(mode));
    for (size_t i = 0; i < sizeof(modes) / sizeof(modes[0]); i++)
        if (strcmp(mode, modes[i].name) == 0)
            modes[i].run();
    if (*mode)
        guest_say("trapeze.mode=%s: there is shell, job and demo", mode);
    shell_mode();
}
