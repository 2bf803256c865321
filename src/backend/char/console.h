/*
 * backend/char/console.h: the user's terminal as a serial line: raw mode, with
 * Ctrl-A as the escape to the monitor. One a process: there is one terminal.
 */
#ifndef BACKEND_CHAR_CONSOLE_H
#define BACKEND_CHAR_CONSOLE_H

#include "backend/char/chardev.h"
#include "base/error.h"
#include "base/loop.h"

/* What the user does to the terminal. Called on the loop's thread; each may be NULL. */
struct console_events {
    void *opaque;
    void (*quit)(void *opaque);                                     /* Ctrl-A X */
    void (*resized)(void *opaque, unsigned rows, unsigned columns); /* after SIGWINCH */
};

/* in must be a terminal (-ENOTTY): it is made raw until the backend is freed, the process exits or dies of a signal
 * that nobody else handles. Output goes to out, as with chardev_fd_new. What the device has no room for is kept, up to
 * 4 KiB, so that Ctrl-A is always heard. */
struct chardev *chardev_console_new(struct loop *loop, int in, int out, const struct console_events *events,
                                    struct error *err);

/* Gives the terminal back as it was. Async-signal-safe, any thread, any number of times. */
void console_restore_terminal(void);

/* The terminal's size; false: fd is none, or it does not know. */
bool console_size(int fd, unsigned *rows, unsigned *columns);

#endif
