/*
 * engine/bt/shadow.h: shadow spaces. The pages of a hot address space's user half
 * are mapped at the host as the guest has them, in regions of the monitor's own
 * address space, so that user code reaches them without a look into the soft TLB: a
 * shadow of the guest's page tables that the host's processor walks.
 *
 * A linear address has a region by its upper bits; bt_vcpu.region says what is to be
 * added to it. On both sides of a region nothing is mapped as far as a displacement
 * reaches. Where a region is not mapped its word makes an address that no processor
 * accepts. What is not mapped faults at the host: the signal's handler has the
 * instruction done by its semantics, and the page is mapped then if it can be.
 *
 * Like the TLB, the shadow may be behind the guest's tables until the guest flushes
 * what it changed: then it is compared with them, before user code runs again.
 *
 * Thread: the vCPU's own.
 */
#ifndef ENGINE_BT_SHADOW_H
#define ENGINE_BT_SHADOW_H

#include "engine/bt/bt_internal.h"

void bt_shadow_init(struct bt_vcpu *vcpu);
void bt_shadow_fini(struct bt_vcpu *vcpu);

/* The guest runs user code: is its space to have the shadow, or to lose it? Between blocks. */
void bt_shadow_consider(struct bt_vcpu *vcpu);
/* What the guest has changed goes: before user code runs by a shadow that is stale. false: there is none any more. */
bool bt_shadow_refresh(struct bt_vcpu *vcpu);
/* The page may not be written any more without asking. */
void bt_shadow_protect(struct bt_vcpu *vcpu, gpa_t gpa);

/* Did an access of translated code fault at the host? Then its instruction has been executed by its semantics by now
 * (done: without a fault of the guest's), and the page it went to is mapped. false: it cannot be. */
bool bt_shadow_faulted(const struct bt_vcpu *vcpu);
bool bt_shadow_map(struct bt_vcpu *vcpu, bool done);
/* Around translated code: faults of this thread there are taken as above. */
void bt_shadow_enter(struct bt_vcpu *vcpu);
void bt_shadow_leave(void);

#endif
