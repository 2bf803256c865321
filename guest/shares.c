/*
 * guest/shares.c: directories of the host (virtio-fs). Each share is mounted at
 * /mnt/TAG. If one of them is the host's root file system it becomes the root,
 * read-only, with a layer in memory over it that takes what is written.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#include "guest.h"

#define LOWER "/host"
#define LAYER "/layer"
#define ROOT  "/newroot"

void guest_mount_shares(char *tags)
{
    char *tag, path[64];

    mkdir("/mnt", 0755);
    while ((tag = strsep(&tags, ",")))
        if (*tag) {
            snprintf(path, sizeof(path), "/mnt/%s", tag);
            mkdir(path, 0755);
            if (mount(tag, path, "virtiofs", MS_NODEV, NULL) < 0)
                guest_say("%s: %s", path, strerror(errno));
        }
}

static bool step(const char *what, int rc)
{
    if (rc < 0)
        guest_say("the host's root: %s: %s", what, strerror(errno));
    return rc >= 0;
}

static bool mount_layers(const char *tag)
{
    mkdir(LOWER, 0755);
    mkdir(LAYER, 0755);
    mkdir(ROOT, 0755);
    return step("virtio-fs", mount(tag, LOWER, "virtiofs", MS_RDONLY | MS_NODEV, NULL)) &&
           step("tmpfs", mount("tmpfs", LAYER, "tmpfs", 0, "mode=0755,size=75%")) &&
           step("mkdir", mkdir(LAYER "/upper", 0755)) && step("mkdir", mkdir(LAYER "/work", 0755)) &&
           step("overlay", mount("host", ROOT, "overlay", 0,
                                 "lowerdir=" LOWER ",upperdir=" LAYER "/upper,workdir=" LAYER "/work"));
}

/* The host's name: /etc/hosts there knows it. */
static void take_name(void)
{
    char name[65];
    int fd = open("/etc/hostname", O_RDONLY | O_CLOEXEC);
    ssize_t n = fd < 0 ? 0 : read(fd, name, sizeof(name) - 1);

    if (fd >= 0)
        close(fd);
    name[n > 0 ? n : 0] = 0;
    name[strcspn(name, "\n")] = 0;
    if (*name)
        sethostname(name, strlen(name));
}

/* What is mounted here already goes along: a program in there finds its own processes and devices. */
bool guest_enter_host_root(const char *tag)
{
    static const char *const along[] = {"/dev", "/proc", "/sys", "/run"};
    char path[64];

    if (!mount_layers(tag))
        return false;
    for (size_t i = 0; i < sizeof(along) / sizeof(along[0]); i++) {
        snprintf(path, sizeof(path), ROOT "%s", along[i]);
        mkdir(path, 0755);
        if (!step(along[i], mount(along[i], path, NULL, MS_MOVE, NULL)))
            return false;
    }
    if (!step("chdir", chdir(ROOT)) || !step("root", mount(".", "/", NULL, MS_MOVE, NULL)) ||
        !step("chroot", chroot(".")) || !step("chdir", chdir("/")))
        return false;
    mkdir("/run/lock", 01777);
    chmod("/run/lock", 01777);
    take_name();
    return true;
}
