/*
 * control/monitor.h: the control socket: what can be asked of a running
 * machine. A request is a line of words, its answer a line with a JSON object;
 * what cannot be done is answered {"error": "..."}. Thread: the loop's.
 */
#ifndef CONTROL_MONITOR_H
#define CONTROL_MONITOR_H

#include "base/error.h"
#include "base/loop.h"
#include "machine/machine.h"

struct monitor;

/* Listens at path from now on; serves once it has a machine. NULL with a line for the user. */
struct monitor *monitor_new(struct loop *loop, const char *path, struct error *err);
/* end: called when a client asks for the machine's end. Before the loop runs. */
void monitor_serve(struct monitor *monitor, struct machine *machine, void (*end)(void *opaque, int signal),
                   void *opaque);
void monitor_free(struct monitor *monitor); /* before the machine; NULL: nothing */

/* The other end: sends one request and prints the answer. Exit status: 0; 1: the answer is an error; 2: there is no
 * machine, or it has gone. */
int monitor_ask(const char *path, int words, char **word);
/* Prints the list of requests. */
void monitor_help(void);

#endif
