/*
 * control/image.c: disk images. A Debian one is made by Debian's own tools: mmdebstrap
 * unpacks and configures packages in a folder, as root or in a user namespace,
 * and from within there mke2fs writes the folder as a file system. No virtual
 * machine, no loop device.
 */
#include "control/image.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pwd.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "backend/block/block.h"
#include "base/log.h"

#define PACKAGES                                                                                                       \
    "systemd-sysv,udev,dbus,linux-image-cloud-amd64,initramfs-tools,iproute2,iputils-ping,procps,ca-certificates"

/* Before packages are configured: an initramfs with what our machine has, not with every driver there is. */
#define INITRAMFS_HOOK                                                                                                 \
    "mkdir -p \"$1/etc/initramfs-tools/conf.d\" && echo MODULES=list >\"$1/etc/initramfs-tools/conf.d/trapeze\" && "   \
    "printf 'virtio_pci\\nvirtio_blk\\nvirtio_net\\nvirtio_console\\n' >>\"$1/etc/initramfs-tools/modules\""

/* A root that logs in on the console without a password, a card that asks for its address, a name. Where there is a
 * virtio terminal, as on a user's own, systemd finds it early and gives a login there: none on the serial line then.
 * Free memory is kept aside in small amounts only: the rest is the host's again. */
#define SETUP_HOOK                                                                                                     \
    "set -e; cd \"$1\"; chroot . passwd -q -d root; echo trapeze >etc/hostname; "                                      \
    "printf '127.0.0.1 localhost\\n127.0.1.1 trapeze\\n' >etc/hosts; "                                                 \
    "printf '[Match]\\nName=e*\\n[Network]\\nDHCP=ipv4\\n' >etc/systemd/network/80-dhcp.network; "                     \
    "chroot . systemctl -q enable systemd-networkd; chroot . systemctl -q disable systemd-networkd-wait-online || :; " \
    "rm -f etc/resolv.conf; echo nameserver 10.0.2.3 >etc/resolv.conf; "                                               \
    "mkdir -p etc/systemd/system/serial-getty@ttyS0.service.d; "                                                       \
    "printf '[Unit]\\nConditionPathExists=!/dev/hvc0\\n' >etc/systemd/system/serial-getty@ttyS0.service.d/hvc0.conf; " \
    "mkdir -p etc/sysctl.d; echo vm.percpu_pagelist_high_fraction=128 >etc/sysctl.d/trapeze.conf; "                    \
    "echo '/dev/vda / ext4 errors=remount-ro 0 1' >etc/fstab"

/* The file's name comes in the environment: it may have any characters. /proc and /sys are mounted in the folder; what
 * mke2fs gets is a copy without them, and without devices: not everybody may make them, and the kernel does. */
#define FILE_HOOK                                                                                                      \
    "set -e; copy=$(mktemp -d \"${1%/*}/image.XXXXXX\"); trap 'rm -rf \"$copy\"' EXIT; chmod 755 \"$copy\"; "          \
    "tar -C \"$1\" --one-file-system --exclude='./dev/*' --xattrs --xattrs-include='*' -cf - . | "                     \
    "tar -C \"$copy\" --xattrs --xattrs-include='*' -xpf -; "                                                          \
    "mke2fs -q -F -t ext4 -L root -E root_owner=0:0 -d \"$copy\" \"$TRAPEZE_IMAGE\""

int image_overlay(const char *base, const char *path, struct error *err)
{
    return block_create_overlay(base, path, err);
}

/* Runs a program to its end; its standard output is our standard error. */
static int run_program(char *const *argv, struct error *err)
{
    pid_t pid = fork();
    int status;

    if (pid < 0)
        return error_set(err, -errno, "%s: %s", argv[0], strerror(errno));
    if (pid == 0) {
        dup2(STDERR_FILENO, STDOUT_FILENO);
        execvp(argv[0], argv);
        _exit(127);
    }
    while (waitpid(pid, &status, 0) < 0)
        if (errno != EINTR)
            return error_set(err, -errno, "%s: %s", argv[0], strerror(errno));
    if (WIFEXITED(status) && WEXITSTATUS(status) == 127)
        return error_set(err, -ENOENT, "%s is needed, but not installed (Debian package %s)", argv[0], argv[0]);
    if (status)
        return error_set(err, -EIO, "%s failed; what it said is above", argv[0]);
    return 0;
}

/* --- as an ordinary user ------------------------------------------------------------------------ */

static bool in_path(const char *program)
{
    const char *path = getenv("PATH");
    char full[PATH_MAX];

    for (; path && *path; path += strcspn(path, ":"), path += *path == ':') {
        snprintf(full, sizeof(full), "%.*s/%s", (int)strcspn(path, ":"), path, program);
        if (access(full, X_OK) == 0)
            return true;
    }
    return false;
}

/* Does the file give a range of IDs to that name, or number? */
static bool has_range(const char *file, const char *name)
{
    char line[256], number[16];
    FILE *in = fopen(file, "re");
    bool found = false;

    snprintf(number, sizeof(number), "%u", geteuid());
    while (in && !found && fgets(line, sizeof(line), in)) {
        line[strcspn(line, ":")] = 0;
        found = !strcmp(line, name) || !strcmp(line, number);
    }
    if (in)
        fclose(in);
    return found;
}

/* Packages belong to many users, so a range of them is needed. (mmdebstrap could also pretend, with fakechroot and
 * fakeroot, but mke2fs then finds files of no known type.) */
static int check_user(struct error *err)
{
    const struct passwd *user = getpwuid(geteuid());
    const char *name = user ? user->pw_name : "YOU";

    if (!in_path("newuidmap") || !in_path("newgidmap"))
        return error_set(err, -ENOENT, "image debian needs newuidmap and newgidmap (Debian package uidmap), or root");
    if (has_range("/etc/subuid", name) && has_range("/etc/subgid", name))
        return 0;
    return error_set(err, -EPERM,
                     "image debian needs a range of user and group IDs for %s (as root: usermod --add-subuids "
                     "100000-165535 --add-subgids 100000-165535 %s), or root",
                     name, name);
}

/* In a user namespace we are somebody else, who has to come as far as the file. */
static int check_reach(const char *full, struct error *err)
{
    char folder[PATH_MAX];
    struct stat st;

    snprintf(folder, sizeof(folder), "%s", full);
    for (char *end; (end = strrchr(folder, '/'));) {
        *end = 0;
        if (stat(*folder ? folder : "/", &st) == 0 && !(st.st_mode & S_IXOTH))
            return error_set(err, -EACCES,
                             "image '%s': in its user namespace mmdebstrap is another user, who cannot get past the "
                             "folder '%s' (chmod o+x, or another place)",
                             full, folder);
    }
    return 0;
}

/* A new file of that size, locked as disks are, so that nobody boots it before it is done. A descriptor, or a negative
 * errno. shared: others may write to it until then: in a user namespace we are somebody else. */
static int make_file(const char *path, uint64_t size, bool shared, struct error *err)
{
    struct flock lock = {.l_type = F_WRLCK, .l_whence = SEEK_SET};
    int fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    int rc;

    if (fd < 0)
        return error_set(err, -errno, "image '%s': %s", path, strerror(errno));
    if (ftruncate(fd, (off_t)size) == 0 && (!shared || fchmod(fd, 0666) == 0) && fcntl(fd, F_OFD_SETLK, &lock) == 0)
        return fd;
    rc = error_set(err, -errno, "image '%s': %s", path, strerror(errno));
    close(fd);
    unlink(path);
    return rc;
}

static int bootstrap(const struct image_debian *debian, struct error *err)
{
    char include[4096], customize[] = "--customize-hook=" SETUP_HOOK, file[] = "--customize-hook=" FILE_HOOK;
    char essential[] = "--essential-hook=" INITRAMFS_HOOK;
    char *argv[] = {"mmdebstrap",
                    geteuid() ? "--mode=unshare" : "--mode=auto",
                    "--variant=minbase",
                    "--format=null",
                    include,
                    essential,
                    customize,
                    file,
                    (char *)(uintptr_t)(debian->suite ? debian->suite : "bookworm"),
                    "/dev/null",
                    (char *)(uintptr_t)debian->mirror,
                    NULL};

    if (snprintf(include, sizeof(include), "--include=%s%s%s", PACKAGES, debian->include ? "," : "",
                 debian->include ? debian->include : "") >= (int)sizeof(include))
        return error_set(err, -E2BIG, "--include: the list is too long");
    return run_program(argv, err);
}

int image_debian(const struct image_debian *debian, struct error *err)
{
    char full[PATH_MAX];
    const bool namespace = geteuid() != 0;
    int rc = namespace ? check_user(err) : 0, fd;

    if (rc)
        return rc;
    fd = make_file(debian->path, debian->size, namespace, err);
    if (fd < 0)
        return fd;
    if (!realpath(debian->path, full) || setenv("TRAPEZE_IMAGE", full, 1) < 0)
        rc = error_set(err, -errno, "image '%s': %s", debian->path, strerror(errno));
    if (!rc && namespace)
        rc = check_reach(full, err);
    if (!rc)
        rc = bootstrap(debian, err);
    if (!rc && fchmod(fd, 0644) < 0)
        rc = error_set(err, -errno, "image '%s': %s", debian->path, strerror(errno));
    if (rc)
        unlink(debian->path);
    close(fd);
    return rc;
}
