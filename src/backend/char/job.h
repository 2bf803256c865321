/*
 * backend/char/job.h: the monitor's end of the job channel: a character
 * backend for COM2 that starts a command in the default guest and relays its
 * standard streams, window size, signals and exit status.
 */
#ifndef BACKEND_CHAR_JOB_H
#define BACKEND_CHAR_JOB_H

#include "backend/char/chardev.h"
#include "backend/char/job_protocol.h"
#include "base/error.h"
#include "base/loop.h"

struct job_config {
    const char *const *argv; /* ends in NULL. NULL: no job; only window sizes are told (the console's) */
    const char *const *env;  /* "NAME=value" added to the guest's own; NULL: nothing */
    const char *dir;         /* where it begins; NULL: where the guest's init is */
    const uint32_t *ids;     /* in whose name: user, group and further groups; NULL: root's */
    unsigned id_count;       /* 0, or from 2 to JOB_IDS_MAX */
    int in, out,
        err;       /* -1: end of input at once, output dropped. They stay the caller's, their flags are not touched */
    bool terminal; /* the job gets a terminal; all its output comes to out */
    uint16_t rows, cols; /* of the user's terminal; 0: unknown */
};

/* -E2BIG: more than JOB_ARGS_MAX bytes of arguments or environment. The strings are copied. The process should ignore
 * SIGPIPE. Before free: the loop does not run any more. */
struct chardev *chardev_job_new(struct loop *loop, const struct job_config *config, struct error *err);

/* Any thread. */
void chardev_job_winsize(struct chardev *chardev, uint16_t rows, uint16_t cols);
void chardev_job_signal(struct chardev *chardev, int number); /* 1..64; kept until it can be sent */

/* After the loop has stopped: writes out what the guest had sent, waiting for the reader as long as there is one. */
void chardev_job_drain(struct chardev *chardev);
/* True and the status (0..255) once the guest has reported it. Any thread. */
bool chardev_job_status(struct chardev *chardev, int *status);

#endif
