/*
 * backend/char/buffer.h: a character backend in memory, for tests: it collects
 * what the device writes and feeds it what the test gives.
 */
#ifndef BACKEND_CHAR_BUFFER_H
#define BACKEND_CHAR_BUFFER_H

#include "backend/char/chardev.h"
#include "base/error.h"

struct chardev *chardev_buffer_new(struct error *err);
/* What has been written since the last call to chardev_buffer_clear; NUL-terminated, valid until more is written. */
const char *chardev_buffer_output(struct chardev *chardev, size_t *len);
void chardev_buffer_clear(struct chardev *chardev);
/* Gives as many of len bytes to the device as it has room for; returns how many. On the loop's thread, as all input. */
size_t chardev_buffer_feed(struct chardev *chardev, const void *data, size_t len);
void chardev_buffer_hangup(struct chardev *chardev);
/* How often the device has said that it has room again. */
unsigned chardev_buffer_accepts(struct chardev *chardev);

#endif
