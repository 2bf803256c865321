/*
 * backend/char/job_protocol.h: the job channel on a virtio port or COM2, for
 * both its ends: the monitor (job.c) and the default guest's init.
 * docs/job-channel.md explains.
 */
#ifndef BACKEND_CHAR_JOB_PROTOCOL_H
#define BACKEND_CHAR_JOB_PROTOCOL_H

/* A frame: type (1 byte), length of the payload (2 bytes, little-endian), payload. */
#define JOB_HEADER  3
#define JOB_PAYLOAD 4096 /* at most */

enum job_frame {
    /* to the guest */
    JOB_ARGV = 0x01,       /* appended to the argument list: strings that end in NUL; may be cut anywhere */
    JOB_ENV = 0x02,        /* the same for the environment */
    JOB_START = 0x03,      /* flags (1), rows (2), columns (2): run it */
    JOB_STDIN = 0x04,      /* data */
    JOB_STDIN_EOF = 0x05,  /* nothing: no more data will come */
    JOB_WINSIZE = 0x06,    /* rows (2), columns (2) */
    JOB_SIGNAL = 0x07,     /* number (1): to the job's process group */
    JOB_OUT_CREDIT = 0x08, /* bytes (4) of stdout and stderr that may be sent beyond what was allowed before */
    JOB_OUT_CLOSED = 0x09, /* stream (1): 1 stdout, 2 stderr: nobody reads it any more */
    JOB_DIR = 0x0a,        /* path: where the job begins; its end is the frame's */
    JOB_USER = 0x0b,       /* user (4), group (4), further groups (4 each): in whose name; without it: root's */
    /* to the monitor */
    JOB_READY = 0x81,     /* JOB_MAGIC: the first frame; what comes before it is noise */
    JOB_STDOUT = 0x82,    /* data */
    JOB_STDERR = 0x83,    /* data */
    JOB_IN_CREDIT = 0x84, /* bytes (4) of stdin that may be sent beyond what was allowed before */
    JOB_EXIT = 0x85,      /* status (1); the last frame */
};

#define JOB_MAGIC     "trapeze1"
#define JOB_MAGIC_LEN 8

#define JOB_PORT "trapeze.job" /* the virtio port's name */

#define JOB_TERMINAL 1 /* JOB_START flag: give the job a terminal of its own */

#define JOB_IN_WINDOW  32768  /* bytes of stdin on their way at the most */
#define JOB_OUT_WINDOW 65536  /* bytes of stdout and stderr together */
#define JOB_ARGS_MAX   131072 /* bytes of arguments; and of environment */
#define JOB_IDS_MAX    (JOB_PAYLOAD / 4)

#endif
