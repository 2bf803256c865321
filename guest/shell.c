/*
 * guest/shell.c: an interactive shell on the console. Its end is the machine's.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/reboot.h>
#include <sys/utsname.h>
#include <termios.h>
#include <unistd.h>

#include "guest.h"

/* The terminal by virtio, which knows its size; else the console's own device: /dev/console itself cannot be a
 * controlling terminal. */
static int open_terminal(int flags)
{
    static const char *const names[] = {"/dev/hvc0", "/dev/ttyS0"};

    for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        int fd = open(names[i], O_RDWR | flags);

        if (fd >= 0 && isatty(fd))
            return fd;
        if (fd >= 0)
            close(fd);
    }
    return open("/dev/console", O_RDWR | flags);
}

static pid_t start_shell(void)
{
    pid_t pid = fork();
    int fd;

    if (pid != 0)
        return pid;
    setsid();
    fd = open_terminal(0);
    ioctl(fd, TIOCSCTTY, 1);
    for (int i = 0; i < 3; i++)
        dup2(fd, i);
    if (fd > 2)
        close(fd);
    guest_unblock_signals();
    execl("/bin/sh", "-sh", (char *)NULL);
    guest_say("/bin/sh: %s", strerror(errno));
    _exit(STATUS_NOT_FOUND);
}

static void take_frame(void *opaque, uint8_t type, const uint8_t *data, size_t len)
{
    const int *terminal = opaque;

    if (type == JOB_WINSIZE && len == 4) {
        struct winsize size = {.ws_row = (unsigned short)(data[0] | data[1] << 8),
                               .ws_col = (unsigned short)(data[2] | data[3] << 8)};

        ioctl(*terminal, TIOCSWINSZ, &size);
    }
}

void shell_mode(void)
{
    int signals = guest_signal_fd(), terminal = open_terminal(O_NOCTTY | O_CLOEXEC), status;
    struct channel channel;
    struct utsname name;
    pid_t shell;

    if (uname(&name) == 0)
        dprintf(terminal, "Linux %s (%s). Ctrl-D or \"poweroff\" ends the machine.\n", name.release, name.machine);
    channel_open(&channel);
    shell = start_shell();
    for (;;) {
        struct pollfd fds[] = {{.fd = signals, .events = POLLIN}, {.fd = channel.fd, .events = POLLIN}};

        if (poll(fds, 2, -1) < 0)
            continue;
        if (fds[0].revents && guest_take_signals(signals, shell, &status))
            guest_power(RB_POWER_OFF);
        if (fds[1].revents && !channel_receive(&channel, take_frame, &terminal))
            channel.fd = -1;
    }
}
