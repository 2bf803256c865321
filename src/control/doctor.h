/*
 * control/doctor.h: `trapeze doctor`: what works on this host, how fast, and
 * why not if not.
 */
#ifndef CONTROL_DOCTOR_H
#define CONTROL_DOCTOR_H

#include "base/types.h"

#define DOCTOR_TEXT 256

/* A feature of the host that matters to a guest or an engine. */
struct doctor_fact {
    const char *id, *name; /* for programs, for people */
    bool available;
    char text[DOCTOR_TEXT]; /* what there is, or why not and how to get it */
};

/* Fills in up to max facts; returns how many there are. */
unsigned doctor_host(struct doctor_fact *facts, unsigned max);

/* Prints the report; the exit status: 0 if a plain `trapeze run` can work here, else 1. */
int control_doctor(bool json);

#endif
