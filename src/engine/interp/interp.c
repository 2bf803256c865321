/* engine/interp/interp.c: the reference engine behind the contract of engine/engine.h. */
#include <stdlib.h>

#include "engine/soft/ops.h"
#include "engine/soft/run.h"

static int vm_create(struct engine_vm **vm, const struct engine_config *config, struct error *err)
{
    static const struct soft_hooks no_hooks;

    return soft_op_vm_create(vm, "interp", config, &no_hooks, err);
}

static int vcpu_create(struct engine_vcpu **vcpu, struct engine_vm *vm, unsigned id, struct error *err)
{
    return soft_op_vcpu_create(vcpu, ALIGN_UP(sizeof(struct soft_vcpu), 64), 0, "interp", vm, id, err);
}

static void run(struct engine_vcpu *vcpu, struct exit *exit, uint64_t budget)
{
    soft_run((struct soft_vcpu *)vcpu, exit, budget, soft_run_block);
}

const struct engine_ops engine_interp = {
    .name = "interp",
    .summary = "emulates every instruction; works everywhere",
    .counts = true,
    SOFT_OPS,
    .probe = soft_op_probe,
    .vm_create = vm_create,
    .vcpu_create = vcpu_create,
    .vcpu_destroy = soft_op_vcpu_destroy,
    .run = run,
};
