/* backend/char/buffer.c: see buffer.h. Output beyond OUTPUT_MAX is dropped. */
#include "backend/char/buffer.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "base/lock.h"

#define OUTPUT_MAX 65536u

struct chardev_buffer {
    struct chardev chardev; /* first */
    struct lock lock;
    unsigned accepts;
    size_t len;
    char output[OUTPUT_MAX + 1];
};

static struct chardev_buffer *buffer_of(struct chardev *chardev)
{
    return container_of(chardev, struct chardev_buffer, chardev);
}

static void buffer_write(struct chardev *chardev, const uint8_t *data, size_t len)
{
    struct chardev_buffer *buffer = buffer_of(chardev);

    lock_take(&buffer->lock);
    len = MIN(len, OUTPUT_MAX - buffer->len);
    memcpy(buffer->output + buffer->len, data, len);
    buffer->len += len;
    buffer->output[buffer->len] = 0;
    lock_drop(&buffer->lock);
}

static void buffer_accept_input(struct chardev *chardev)
{
    struct chardev_buffer *buffer = buffer_of(chardev);

    lock_take(&buffer->lock);
    buffer->accepts++;
    lock_drop(&buffer->lock);
}

static void buffer_free(struct chardev *chardev)
{
    struct chardev_buffer *buffer = buffer_of(chardev);

    lock_destroy(&buffer->lock);
    free(buffer);
}

static const struct chardev_ops buffer_ops = {
    .write = buffer_write,
    .accept_input = buffer_accept_input,
    .free = buffer_free,
};

struct chardev *chardev_buffer_new(struct error *err)
{
    struct chardev_buffer *buffer = calloc(1, sizeof(*buffer));

    if (!buffer) {
        error_set(err, -ENOMEM, "buffer serial backend: no memory");
        return NULL;
    }
    buffer->chardev.ops = &buffer_ops;
    lock_init(&buffer->lock, LOCK_BACKEND);
    return &buffer->chardev;
}

const char *chardev_buffer_output(struct chardev *chardev, size_t *len)
{
    struct chardev_buffer *buffer = buffer_of(chardev);

    if (len)
        *len = buffer->len;
    return buffer->output;
}

void chardev_buffer_clear(struct chardev *chardev)
{
    struct chardev_buffer *buffer = buffer_of(chardev);

    lock_take(&buffer->lock);
    buffer->len = 0;
    buffer->output[0] = 0;
    lock_drop(&buffer->lock);
}

size_t chardev_buffer_feed(struct chardev *chardev, const void *data, size_t len)
{
    const struct chardev_client *client = &chardev->client;
    size_t room;

    if (!client->receive)
        return 0;
    room = client->can_receive(client->opaque); /* once: it may be another the next time */
    len = MIN(len, room);
    if (len)
        client->receive(client->opaque, data, len);
    return len;
}

void chardev_buffer_hangup(struct chardev *chardev)
{
    if (chardev->client.hangup)
        chardev->client.hangup(chardev->client.opaque);
}

unsigned chardev_buffer_accepts(struct chardev *chardev)
{
    return buffer_of(chardev)->accepts;
}
