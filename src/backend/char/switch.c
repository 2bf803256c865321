/*
 * backend/char/switch.c: two devices before one backend. A guest has the plain
 * one from its first moment and the better one when its driver is there: who
 * writes on that takes over.
 */
#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>

#include "backend/char/backends.h"

struct front {
    struct chardev chardev; /* first; its client is a device */
    struct chardev_switch *sw;
};

struct chardev_switch {
    struct chardev *back; /* its client is the switch */
    bool mix;
    _Atomic unsigned active;
    struct front *asked; /* the loop's thread's: whose room was told last */
    struct front front[2];
};

/* --- the devices' side ---------------------------------------------------------------------- */

static bool is_active(struct front *front)
{
    return front == &front->sw->front[atomic_load(&front->sw->active)];
}

static void front_write(struct chardev *chardev, const uint8_t *data, size_t len)
{
    struct front *front = container_of(chardev, struct front, chardev);
    struct chardev_switch *sw = front->sw;

    if (!is_active(front) && front == &sw->front[1]) {
        atomic_store(&sw->active, 1);
        sw->back->ops->accept_input(sw->back); /* what the first had no room for */
    }
    if (is_active(front) || sw->mix)
        sw->back->ops->write(sw->back, data, len);
}

static void front_accept_input(struct chardev *chardev)
{
    struct front *front = container_of(chardev, struct front, chardev);

    if (is_active(front))
        front->sw->back->ops->accept_input(front->sw->back);
}

static void front_free(struct chardev *chardev)
{
    /* with the switch */
}

static const struct chardev_ops front_ops = {front_write, front_accept_input, front_free};

/* --- the backend's side: the loop's thread ----------------------------------------------------- */

static size_t can_receive(void *opaque)
{
    struct chardev_switch *sw = opaque;
    const struct chardev_client *client;

    sw->asked = &sw->front[atomic_load(&sw->active)];
    client = &sw->asked->chardev.client;
    return client->can_receive ? client->can_receive(client->opaque) : 0;
}

/* To the one that has said how much it can take: the other may have become active in between. */
static void receive(void *opaque, const uint8_t *data, size_t len)
{
    struct chardev_switch *sw = opaque;
    const struct chardev_client *client = &sw->asked->chardev.client;

    if (client->receive)
        client->receive(client->opaque, data, len);
}

static void hangup(void *opaque)
{
    struct chardev_switch *sw = opaque;

    for (unsigned i = 0; i < ARRAY_SIZE(sw->front); i++) {
        const struct chardev_client *client = &sw->front[i].chardev.client;

        if (client->hangup)
            client->hangup(client->opaque);
    }
}

static void resized(void *opaque, uint16_t rows, uint16_t columns)
{
    struct chardev_switch *sw = opaque;

    for (unsigned i = 0; i < ARRAY_SIZE(sw->front); i++) {
        struct chardev *chardev = &sw->front[i].chardev;

        chardev->rows = rows;
        chardev->columns = columns;
        if (chardev->client.resized)
            chardev->client.resized(chardev->client.opaque, rows, columns);
    }
}

/* --- construction ------------------------------------------------------------------------------- */

struct chardev_switch *chardev_switch_new(struct chardev *back, bool mix, struct error *err)
{
    struct chardev_switch *sw = calloc(1, sizeof(*sw));

    if (!sw) {
        error_set(err, -ENOMEM, "serial backends: no memory");
        return NULL;
    }
    sw->back = back;
    sw->mix = mix;
    sw->asked = &sw->front[0];
    for (unsigned i = 0; i < ARRAY_SIZE(sw->front); i++)
        sw->front[i] = (struct front){
            .chardev = {.ops = &front_ops, .rows = back->rows, .columns = back->columns},
            .sw = sw,
        };
    back->client = (struct chardev_client){
        .opaque = sw, .can_receive = can_receive, .receive = receive, .hangup = hangup, .resized = resized};
    return sw;
}

struct chardev *chardev_switch_front(struct chardev_switch *sw, unsigned which)
{
    return &sw->front[which].chardev;
}

void chardev_switch_free(struct chardev_switch *sw)
{
    if (sw)
        sw->back->client = (struct chardev_client){.opaque = NULL};
    free(sw);
}
