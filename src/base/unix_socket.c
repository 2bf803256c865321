/* base/unix_socket.c: see unix_socket.h. */
#include "base/unix_socket.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#define BACKLOG 128

static int fill_address(struct sockaddr_un *address, const char *path)
{
    *address = (struct sockaddr_un){.sun_family = AF_UNIX};
    if (!*path || strlen(path) >= sizeof(address->sun_path))
        return -ENAMETOOLONG;
    strcpy(address->sun_path, path);
    return 0;
}

int unix_socket_connect(const char *path)
{
    struct sockaddr_un address;
    int rc = fill_address(&address, path), fd;

    if (rc)
        return rc;
    fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return -errno;
    if (connect(fd, (struct sockaddr *)&address, sizeof(address)) == 0)
        return fd;
    rc = -errno;
    close(fd);
    return rc;
}

/* A socket file that a process which is no more has left behind. */
static void remove_stale(const char *path)
{
    struct stat st;
    int fd;

    if (lstat(path, &st) < 0 || !S_ISSOCK(st.st_mode))
        return;
    fd = unix_socket_connect(path);
    if (fd >= 0)
        close(fd);
    else if (fd == -ECONNREFUSED)
        unlink(path);
}

int unix_socket_listen(const char *option, const char *path, struct error *err)
{
    struct sockaddr_un address;
    mode_t mask;
    int rc = fill_address(&address, path), fd;

    if (rc)
        return error_set(err, rc, "%s: '%s' is no name for a socket: it needs from 1 to %zu letters", option, path,
                         sizeof(address.sun_path) - 1);
    remove_stale(path);
    fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return error_set(err, -errno, "%s: no socket: %s", option, strerror(errno));
    mask = umask(0177);
    rc = bind(fd, (struct sockaddr *)&address, sizeof(address)) < 0 || listen(fd, BACKLOG) < 0 ? -errno : 0;
    umask(mask);
    if (!rc)
        return fd;
    close(fd);
    return error_set(err, rc, "%s: socket '%s': %s", option, path, strerror(-rc));
}

void unix_socket_unlisten(int fd, const char *path)
{
    close(fd);
    unlink(path);
}
