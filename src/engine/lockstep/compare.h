/* engine/lockstep/compare.h: two processor states, field by field. */
#ifndef ENGINE_LOCKSTEP_COMPARE_H
#define ENGINE_LOCKSTEP_COMPARE_H

#include "mem/mem.h"
#include "x86/cpu.h"

/* Describes the differences ("rax 1 / 2, ..."), leader first; returns their number. hardware: one of them is the
 * processor's own, and what that does not tell, or has otherwise, does not count. */
unsigned compare_cpus(const struct x86_cpu *leader, const struct x86_cpu *follower, bool hardware, char *text,
                      size_t size);
/* From the page *at of a slot on: is there one that differs? *at: which. Pages that nobody has touched are left so. */
bool compare_next_page(const struct mem_slot *leader, const struct mem_slot *follower, uint64_t *at);
/* The first difference of two equal maps' content: false, and where. */
bool compare_memory(const struct mem *leader, const struct mem *follower, gpa_t *where);

#endif
