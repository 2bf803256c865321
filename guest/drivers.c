/*
 * guest/drivers.c: loads the modules for what is on the buses, as udev would:
 * each device names its driver by its modalias. What the kernel's own defaults
 * do not suit is set.
 */
#include <errno.h>
#include <fcntl.h>
#include <glob.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "guest.h"

#define DEVICES         64
#define CONSOLE_WAIT_MS 1000

/* Only virtio's: the host bridge's alias and others have no module here. */
static const char *const buses[] = {"/sys/bus/pci/devices/*/modalias", "/sys/bus/virtio/devices/*/modalias"};
static const char *const wanted[] = {"pci:v00001AF4", "virtio:"};

static void modprobe(char **argv)
{
    pid_t pid = fork();

    if (pid == 0) {
        guest_unblock_signals();
        execv("/bin/busybox", argv);
        _exit(STATUS_NOT_FOUND);
    }
    while (pid > 0 && waitpid(pid, NULL, 0) < 0 && errno == EINTR)
        ;
}

static char *read_alias(const char *path)
{
    char text[256];
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t n = fd < 0 ? 0 : read(fd, text, sizeof(text) - 1);

    if (fd >= 0)
        close(fd);
    text[n > 0 ? n : 0] = 0;
    text[strcspn(text, "\n")] = 0;
    return strdup(text);
}

static bool any(const char *pattern)
{
    glob_t found;
    bool yes = glob(pattern, 0, NULL, &found) == 0;

    if (yes)
        globfree(&found);
    return yes;
}

/* The driver asks the device for its ports and is answered later. A port is whole when it has its name. */
static void wait_for_consoles(void)
{
    for (int i = 0; i < CONSOLE_WAIT_MS; i++) {
        if (!any("/sys/bus/virtio/drivers/virtio_console/virtio*") || any("/sys/class/virtio-ports/*/name") ||
            any("/dev/hvc0"))
            return;
        usleep(1000);
    }
}

/* So that what is freed goes back to the host: free memory is reported in pieces from 128 KiB on (the driver sets 2
 * MiB), and no more than a 128th of a zone is kept aside for a processor. */
static const struct {
    const char *path, *value;
} settings[] = {
    {"/sys/module/page_reporting/parameters/page_reporting_order", "5"},
    {"/proc/sys/vm/percpu_pagelist_high_fraction", "128"},
};

static void set_up_balloon(void)
{
    if (!any("/sys/bus/virtio/drivers/virtio_balloon/virtio*"))
        return;
    for (size_t i = 0; i < sizeof(settings) / sizeof(settings[0]); i++) {
        int fd = open(settings[i].path, O_WRONLY | O_CLOEXEC);

        if (fd >= 0) {
            write_all(fd, settings[i].value, strlen(settings[i].value)); /* a kernel that has none does without */
            close(fd);
        }
    }
}

/* The second bus has devices when the first one's driver is there. */
void guest_load_drivers(void)
{
    for (size_t bus = 0; bus < sizeof(buses) / sizeof(buses[0]); bus++) {
        char *argv[4 + DEVICES] = {"modprobe", "-q", "-a"};
        size_t n = 3;
        glob_t found;

        if (glob(buses[bus], 0, NULL, &found) == 0) {
            for (size_t i = 0; i < found.gl_pathc && n < 3 + DEVICES; i++) {
                char *alias = read_alias(found.gl_pathv[i]);

                if (alias && strncmp(alias, wanted[bus], strlen(wanted[bus])) == 0)
                    argv[n++] = alias;
                else
                    free(alias);
            }
            globfree(&found);
        }
        if (n > 3)
            modprobe(argv);
        while (n > 3)
            free(argv[--n]);
    }
    wait_for_consoles();
    set_up_balloon();
}
