/* backend/char/null.c: output is dropped, there is no input. */
#include <errno.h>
#include <stdlib.h>

#include "backend/char/backends.h"

static void null_write(struct chardev *chardev, const uint8_t *data, size_t len)
{
}

static void null_accept_input(struct chardev *chardev)
{
}

static void null_free(struct chardev *chardev)
{
    free(chardev);
}

static const struct chardev_ops null_ops = {
    .write = null_write,
    .accept_input = null_accept_input,
    .free = null_free,
};

struct chardev *chardev_null_new(struct error *err)
{
    struct chardev *chardev = calloc(1, sizeof(*chardev));

    if (!chardev)
        error_set(err, -ENOMEM, "null serial backend: no memory");
    else
        chardev->ops = &null_ops;
    return chardev;
}
