/* control/run.h: one guest from start to end. */
#ifndef CONTROL_RUN_H
#define CONTROL_RUN_H

#include "control/config.h"

/* Runs what config describes; says on standard error what a user must know. Returns the exit status (config.h). */
int control_run(const struct config *config);

#endif
