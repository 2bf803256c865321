/*
 * guest/channel.c: frames over the second serial port; docs/job-channel.md.
 * Writes block: the monitor always takes what it has given credit for.
 */
#include <errno.h>
#include <fcntl.h>
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

bool channel_open(struct channel *ch)
{
    struct termios t;

    ch->len = 0;
    ch->fd = open("/dev/ttyS1", O_RDWR | O_NOCTTY | O_CLOEXEC);
    if (ch->fd < 0)
        return false;
    if (tcgetattr(ch->fd, &t) < 0) { /* a port that is not there opens, but answers nothing */
        close(ch->fd);
        ch->fd = -1;
        return false;
    }
    cfmakeraw(&t);
    t.c_cflag |= CLOCAL | CREAD;
    t.c_cflag &= ~(tcflag_t)CRTSCTS;
    t.c_cc[VMIN] = 1;
    t.c_cc[VTIME] = 0;
    cfsetspeed(&t, B115200);
    tcsetattr(ch->fd, TCSANOW, &t);
    tcflush(ch->fd, TCIFLUSH);
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
