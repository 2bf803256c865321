/*
 * engine/lockstep/lockstep.h: two engines run the same guest side by side and
 * are compared: the second's difference from the first is a bug in one of them.
 *
 * The leader runs a few dozen instructions, the follower the same number a few at
 * a time (often one), each in memory of its own; then all architectural state must be equal,
 * and from time to time all of RAM. Devices exist once: the leader's accesses
 * are served, the follower must ask for the same ones and gets the same answers.
 * Both see one clock, which stands still in between.
 */
#ifndef ENGINE_LOCKSTEP_LOCKSTEP_H
#define ENGINE_LOCKSTEP_LOCKSTEP_H

#include "engine/engine.h"

/* The engine that compares follower with leader (which may be the same). One pair a process. */
const struct engine_ops *lockstep_engine(const struct engine_ops *leader, const struct engine_ops *follower);

#endif
