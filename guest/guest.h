/*
 * guest/guest.h: the default guest's init: one static program, the first
 * process. init.c sets the system up and picks a mode; job.c, shell.c and
 * demo.c are the modes; channel.c is the job channel's guest end.
 */
#ifndef GUEST_GUEST_H
#define GUEST_GUEST_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#include "backend/char/job_protocol.h"

#define STATUS_TROUBLE        125 /* init itself failed */
#define STATUS_NOT_EXECUTABLE 126
#define STATUS_NOT_FOUND      127

/* --- init.c ------------------------------------------------------------------------------------- */

/* Ends the machine with this status, by the exit port; where there is none, by powering off. */
_Noreturn void guest_exit(int status);
_Noreturn void guest_power(int how); /* RB_POWER_OFF, RB_AUTOBOOT */
/* To the console: one line. */
void guest_say(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
/* A descriptor that becomes readable when a child has ended or a power signal (USR1, USR2, TERM, INT) has come. The
 * signals are blocked; children undo that with guest_unblock_signals. */
int guest_signal_fd(void);
void guest_unblock_signals(void);
/* Takes what has come. Reaps every child; returns true and its status as a shell counts it (128 + n) if pid was among
 * them. Power signals do not return. */
bool guest_take_signals(int fd, pid_t pid, int *status);

/* --- drivers.c ----------------------------------------------------------------------------------- */

/* Returns when the devices' drivers have found what they look for, consoles and ports too. */
void guest_load_drivers(void);

/* --- shares.c ------------------------------------------------------------------------------------ */

/* The tags, parted by commas; the text is taken apart. */
void guest_mount_shares(char *tags);
/* The share of that tag becomes the root. False: it did not, and was said why. */
bool guest_enter_host_root(const char *tag);

/* --- network.c ----------------------------------------------------------------------------------- */

void guest_set_up_network(bool user_mode);

/* --- the modes ---------------------------------------------------------------------------------- */

_Noreturn void job_mode(void);
_Noreturn void shell_mode(void);
_Noreturn void demo_mode(void);

/* --- channel.c ---------------------------------------------------------------------------------- */

struct channel {
    int fd; /* -1: neither port */
    size_t len;
    uint8_t buf[JOB_HEADER + JOB_PAYLOAD];
};

/* Opens the virtio port JOB_PORT, else /dev/ttyS1 as a raw line, and says READY. False: there is none. */
bool channel_open(struct channel *ch);
/* Reads what is there and calls fn for each whole frame. False: the port is gone or sent nonsense. */
bool channel_receive(struct channel *ch, void (*fn)(void *opaque, uint8_t type, const uint8_t *data, size_t len),
                     void *opaque);
void channel_send(struct channel *ch, uint8_t type, const void *data, size_t len);
void channel_send_u32(struct channel *ch, uint8_t type, uint32_t value);
/* Waits until the port has sent everything. */
void channel_flush(struct channel *ch);

bool write_all(int fd, const void *data, size_t len);

#endif
