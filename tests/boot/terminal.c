/*
 * tests/boot/terminal.c: a user at a terminal of 33 lines by 101 columns, who
 * runs COMMAND, asks the guest's shell for the size, makes the window 40 by 77,
 * asks again, and leaves: terminal COMMAND [ARGUMENT]... Status 0: the guest
 * knew both times.
 */
#include <fcntl.h>
#include <poll.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/wait.h>
#include <unistd.h>

#define PATIENCE_MS 60000

static int terminal;
static char text[1 << 16]; /* what the command has said since the last thing that was waited for */
static size_t len;

static void set_size(unsigned short rows, unsigned short columns)
{
    const struct winsize size = {.ws_row = rows, .ws_col = columns};

    ioctl(terminal, TIOCSWINSZ, &size);
}

static void say(const char *line)
{
    usleep(200000);
    if (write(terminal, line, strlen(line)) < 0)
        exit(2);
}

/* What came before it is forgotten. */
static void wait_for(const char *what)
{
    const char *found;

    while (!(found = memmem(text, len, what, strlen(what)))) {
        struct pollfd p = {.fd = terminal, .events = POLLIN};
        ssize_t n =
            len < sizeof(text) && poll(&p, 1, PATIENCE_MS) == 1 ? read(terminal, text + len, sizeof(text) - len) : 0;

        if (n <= 0) {
            fwrite(text, 1, len, stderr);
            fprintf(stderr, "\nno '%s' came\n", what);
            exit(1);
        }
        len += (size_t)n;
    }
    found += strlen(what);
    len -= (size_t)(found - text);
    memmove(text, found, len);
}

static void be_the_command(char **argv)
{
    int fd = open(ptsname(terminal), O_RDWR);

    setsid();
    ioctl(fd, TIOCSCTTY, 0);
    for (int i = 0; i < 3; i++)
        dup2(fd, i);
    execvp(argv[0], argv);
    _exit(127);
}

int main(int argc, char **argv)
{
    int status;
    pid_t pid;

    terminal = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC);
    if (argc < 2 || terminal < 0 || grantpt(terminal) < 0 || unlockpt(terminal) < 0)
        return 2;
    set_size(33, 101);
    pid = fork();
    if (pid == 0)
        be_the_command(argv + 1);
    wait_for("# ");
    say("stty size\r");
    wait_for("33 101");
    wait_for("# ");
    set_size(40, 77);
    sleep(1);
    say("stty size; tty\r");
    wait_for("40 77");
    wait_for("/dev/hvc0");
    say("exit\r");
    wait_for("Power down");
    waitpid(pid, &status, 0);
    return status != 0;
}
