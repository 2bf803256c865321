/*
 * engine/bt/leaf.h: instructions that translated code has done by a call from
 * which most of the guest's state stays where it is: vector registers, and
 * the registers that calls preserve (RBX, RBP, R12 to R14).
 */
#ifndef ENGINE_BT_LEAF_H
#define ENGINE_BT_LEAF_H

#include "engine/bt/bt_internal.h"

/* Does the instruction of the site, or leaves everything as it was for the semantics. Flags are in the frame. Returns
 * where to go on. */
typedef const void *bt_leaf_fn(struct bt_vcpu *vcpu, struct bt_site *site);

/* What does it in 64-bit mode; NULL: it has none. */
bt_leaf_fn *bt_leaf_of(const struct x86_insn *in);

#endif
