/*
 * backend/char/backends.h: the character backends there are.
 */
#ifndef BACKEND_CHAR_BACKENDS_H
#define BACKEND_CHAR_BACKENDS_H

#include "backend/char/chardev.h"
#include "base/error.h"
#include "base/loop.h"

static inline void chardev_free(struct chardev *chardev)
{
    if (chardev)
        chardev->ops->free(chardev);
}

/* Output is dropped, there is no input. */
struct chardev *chardev_null_new(struct error *err);

/* A pair of descriptors: input from in (-1: none), output to out (-1: dropped); they may be the same. They stay the
 * caller's; their flags are restored by free, which first writes what is queued. Output is gathered for up to 2 ms;
 * when 64 KiB are queued a write waits up to a second for the reader, then drops until there is room.
 * The process should ignore SIGPIPE. */
struct chardev *chardev_fd_new(struct loop *loop, int in, int out, struct error *err);
/* At the end of input this byte is received, instead of a hang-up, which would discard what is still unread: Ctrl-D for
 * a terminal line. Before the loop runs. */
void chardev_fd_set_end_byte(struct chardev *chardev, uint8_t byte);

/* Two devices before one backend, which stays the caller's: the first has it until the second has written something,
 * then that one. What comes in goes to the one that has it; what the other writes goes out too if mix is set. The
 * fronts are freed with the switch, after their devices. */
struct chardev_switch;
struct chardev_switch *chardev_switch_new(struct chardev *back, bool mix, struct error *err);
struct chardev *chardev_switch_front(struct chardev_switch *sw, unsigned which); /* 0 or 1 */
void chardev_switch_free(struct chardev_switch *sw);                             /* NULL: nothing */

#endif
