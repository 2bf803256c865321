/*
 * control/streams.h: what the guest's serial ports are connected to: COM1, the
 * console, to the user's terminal or standard streams; COM2 to the job channel.
 * A terminal and a job have a virtio port too, which takes over when the guest
 * writes to it.
 */
#ifndef CONTROL_STREAMS_H
#define CONTROL_STREAMS_H

#include "backend/char/chardev.h"
#include "base/loop.h"
#include "control/config.h"

struct streams {
    struct chardev *serial[2], *terminal_port, *job_port; /* for struct machine_config; NULL: not connected */
    char words[128];                                      /* what the default guest's command line must say */

    /* private */
    struct chardev *console, *job; /* the backends; serial[] may be a switch's fronts */
    struct chardev_switch *sw[2];  /* COM1 and the virtio console; COM2 and the virtio port */
    struct chardev *keyboard;      /* a job's terminal: the console backend in front of the job channel */
    int keys[2];                   /* its way there: a pipe */
    int watched;                   /* standard output once more, watched for its reader's end */
    bool terminal;                 /* the user's terminal is ours */
    void (*end)(void *opaque, int signal);
    void *opaque;
};

/* end is called, on the loop's thread, when the user is gone or wants to go: signal 0 for Ctrl-A X, or the signal that
 * fits (SIGPIPE). 0, or a negative errno with a message. */
int streams_open(struct streams *streams, const struct config *config, struct loop *loop,
                 void (*end)(void *opaque, int signal), void *opaque, struct error *err);
/* Once the loop has stopped: what the guest sent is written out, the terminal is as it was. */
void streams_close(struct streams *streams);

#endif
