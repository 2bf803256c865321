/*
 * engine/soft/run.h: the software engines' run loop. An engine gives the
 * function that runs a block of which no instruction needs a look of its own.
 */
#ifndef ENGINE_SOFT_RUN_H
#define ENGINE_SOFT_RUN_H

#include "engine/soft/soft.h"

/* What a block or a step came to: SOFT_LEAVE with *exit filled in. */
enum soft_outcome { SOFT_GO_ON, SOFT_LEAVE };

/* Runs the block at CS:RIP, and whatever follows it. Does not retire more than `end` instructions
 * (counters.instructions) in all; there is room for the whole block. */
typedef enum soft_outcome soft_block_fn(struct soft_vcpu *vcpu, struct block *block, struct exit *exit, uint64_t end);

/* The body of engine_ops.run. */
void soft_run(struct soft_vcpu *vcpu, struct exit *exit, uint64_t budget, soft_block_fn *run_block);

/* By interpretation: a soft_block_fn. */
enum soft_outcome soft_run_block(struct soft_vcpu *vcpu, struct block *block, struct exit *exit, uint64_t end);

/* Must the block's instructions be looked at one by one now (single-step, breakpoints, shadows, ...)? */
bool soft_stepping(const struct soft_vcpu *vcpu, const struct block *block);
/* An instruction returned X86_FAULT or X86_EXIT: delivers the exception, or leaves with what could not be done by the
 * guest's own means. */
enum soft_outcome soft_leave(struct soft_vcpu *vcpu, struct exit *exit, enum x86_rc rc);

#endif
