/*
 * guest/channel.c: frames over a virtio port, or the second serial port where
 * there is none; docs/job-channel.md.
 * Writes block: the monitor always takes what it has given credit for.
 */
#include <errno.h>
#include <fcntl.h>
#include <glob.h>
#include <stdio.h>
#include <string.h>
#include <termios.h>
#include <unistd.h>

#include "guest.h"

bool write_all(int fd, const void *data, size_t len)
{
    const uint8_t *p = data;

    while (len > 0) {
        ssize_t n = write(fd, p, len);

        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return false;
        p += n;
        len -= (size_t)n;
    }
    return true;
}

static bool is_named(const char *path, const char *name)
{
    char text[64];
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t n = fd < 0 ? 0 : read(fd, text, sizeof(text));

    if (fd >= 0)
        close(fd);
    return n == (ssize_t)strlen(name) + 1 && memcmp(text, name, strlen(name)) == 0;
}

/* "/sys/class/virtio-ports/vport1p0/name" says what /dev/vport1p0 is. */
static int open_virtio_port(void)
{
    char path[64];
    glob_t found;
    int fd = -1;

    if (glob("/sys/class/virtio-ports/*/name", 0, NULL, &found) != 0)
        return -1;
    for (size_t i = 0; i < found.gl_pathc && fd < 0; i++)
        if (is_named(found.gl_pathv[i], JOB_PORT)) {
            snprintf(path, sizeof(path), "/dev/%.32s", found.gl_pathv[i] + strlen("/sys/class/virtio-ports/"));
            path[strcspn(path + strlen("/dev/"), "/") + strlen("/dev/")] = 0;
            fd = open(path, O_RDWR | O_CLOEXEC);
        }
    globfree(&found);
    return fd;
}

static int open_serial_port(void)
{
    struct termios t;
    int fd = open("/dev/ttyS1", O_RDWR | O_NOCTTY | O_CLOEXEC);

    if (fd < 0)
        return -1;
    if (tcgetattr(fd, &t) < 0) { /* a port that is not there opens, but answers nothing */
        close(fd);
        return -1;
    }
    cfmakeraw(&t);
    t.c_cflag |= CLOCAL | CREAD;
    t.c_cflag &= ~(tcflag_t)CRTSCTS;
    t.c_cc[VMIN] = 1;
    t.c_cc[VTIME] = 0;
    cfsetspeed(&t, B115200);
    tcsetattr(fd, TCSANOW, &t);
    tcflush(fd, TCIFLUSH);
    return fd;
}

bool channel_open(struct channel *ch)
{
    ch->len = 0;
    ch->fd = open_virtio_port();
    if (ch->fd < 0)
        ch->fd = open_serial_port();
    if (ch->fd < 0)
        return false;
    channel_send(ch, JOB_READY, JOB_MAGIC, JOB_MAGIC_LEN);
    return true;
}

bool channel_receive(struct channel *ch, void (*fn)(void *opaque, uint8_t type, const uint8_t *data, size_t len),
                     void *opaque)
{
    size_t pos = 0;
    ssize_t n;

    do
        n = read(ch->fd, ch->buf + ch->len, sizeof(ch->buf) - ch->len);
    while (n < 0 && errno == EINTR);
    if (n <= 0)
        return false;
    ch->len += (size_t)n;
    while (ch->len - pos >= JOB_HEADER) {
        size_t len = (size_t)ch->buf[pos + 1] | (size_t)ch->buf[pos + 2] << 8;

        if (len > JOB_PAYLOAD)
            return false;
        if (ch->len - pos < JOB_HEADER + len)
            break;
        fn(opaque, ch->buf[pos], ch->buf + pos + JOB_HEADER, len);
        pos += JOB_HEADER + len;
    }
    ch->len -= pos;
    memmove(ch->buf, ch->buf + pos, ch->len);
    return true;
}

void channel_send(struct channel *ch, uint8_t type, const void *data, size_t len)
{
    uint8_t frame[JOB_HEADER + JOB_PAYLOAD] = {type, (uint8_t)len, (uint8_t)(len >> 8)};

    if (len > 0)
        memcpy(frame + JOB_HEADER, data, len);
    write_all(ch->fd, frame, JOB_HEADER + len);
}

void channel_send_u32(struct channel *ch, uint8_t type, uint32_t value)
{
    const uint8_t data[] = {(uint8_t)value, (uint8_t)(value >> 8), (uint8_t)(value >> 16), (uint8_t)(value >> 24)};

    channel_send(ch, type, data, sizeof(data));
}

void channel_flush(struct channel *ch)
{
    while (tcdrain(ch->fd) < 0 && errno == EINTR)
        ;
}
