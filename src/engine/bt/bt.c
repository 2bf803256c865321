/*
 * engine/bt/bt.c: binary translation behind the contract of engine/engine.h.
 * Start reading at run.c.
 */
#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>

#include "engine/bt/bt_internal.h"
#include "engine/bt/emit.h"
#include "engine/bt/shadow.h"
#include "engine/soft/ops.h"
#include "engine/soft/timer.h"

static void dropped(struct soft_vcpu *soft, struct block *block)
{
    if (block->translation)
        bt_code_drop((struct bt_vcpu *)soft, block->translation);
}

static void flushed(struct soft_vcpu *soft)
{
    bt_cache_flush((struct bt_vcpu *)soft);
    bt_code_free_dying((struct bt_vcpu *)soft);
}

static void protect(struct soft_vcpu *soft, gpa_t gpa)
{
    bt_shadow_protect((struct bt_vcpu *)soft, gpa);
}

/* Sandboxes may forbid pages that can be executed. */
static int probe(struct error *err)
{
    void *page = mmap(NULL, PAGE_SIZE, PROT_READ | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

    if (page == MAP_FAILED)
        return error_set(err, -EPERM, "bt: the host lets no page be executed that was not loaded from a file");
    munmap(page, PAGE_SIZE);
    return 0;
}

static int vm_create(struct engine_vm **vm, const struct engine_config *config, struct error *err)
{
    static const struct soft_hooks hooks = {.dropped = dropped, .flushed = flushed, .protect = protect};
    const size_t cache = config->code_cache;
    int rc;

    if (cache && (cache < ENGINE_CODE_CACHE_MIN || cache > ENGINE_CODE_CACHE_MAX))
        return error_set(err, -ERANGE, "bt: a code cache of %zu bytes", cache);
    rc = config->perf_map ? bt_perf_map_open(err) : 0;
    if (rc)
        return rc;
    rc = soft_op_vm_create(vm, "bt", config, &hooks, err);
    if (rc)
        return rc;
    if (vclock_is_manual(config->clock))
        return 0;
    (*vm)->soft.timer = soft_timer_new(&(*vm)->soft);
    if ((*vm)->soft.timer)
        return 0;
    soft_op_vm_destroy(*vm);
    return error_set(err, -EAGAIN, "bt: no thread for the timer");
}

static void vcpu_destroy(struct engine_vcpu *engine)
{
    struct bt_vcpu *vcpu = (struct bt_vcpu *)engine;

    soft_vcpu_fini(&vcpu->soft);
    bt_shadow_fini(vcpu);
    bt_cache_fini(vcpu);
    if (vcpu->returns)
        munmap(vcpu->returns, BT_RETURN_BYTES);
    soft_op_vcpu_free(engine);
}

/* Its bottom has a key that is no return address, and room above it for one look at what is not there. */
static int make_return_stack(struct bt_vcpu *vcpu)
{
    vcpu->returns = mmap(NULL, BT_RETURN_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (vcpu->returns == MAP_FAILED) {
        vcpu->returns = NULL;
        return -ENOMEM;
    }
    vcpu->frame.base = (uint64_t)vcpu->returns + BT_RETURN_BYTES - 64;
    bt_near(vcpu)->limit = (uint64_t)vcpu->returns + BT_STACK_SLACK;
    bt_forget_returns(vcpu);
    return 0;
}

static int vcpu_create(struct engine_vcpu **result, struct engine_vm *vm, unsigned id, struct error *err)
{
    struct bt_vcpu *vcpu;
    int rc = soft_op_vcpu_create(result, sizeof(*vcpu), BT_REGIONS_FENCE, "bt", vm, id, err);

    if (rc)
        return rc;
    vcpu = (struct bt_vcpu *)*result;
    vcpu->frame.host_mxcsr = 0x1f80;
    vcpu->gs = emit_has_gs();
    for (unsigned i = 0; i < ARRAY_SIZE(bt_near(vcpu)->fits); i++)
        bt_near(vcpu)->fits[i] = PAGE_SIZE - (1u << i);
    bt_forget_jumps(vcpu);
    bt_shadow_init(vcpu);
    rc = make_return_stack(vcpu);
    if (!rc)
        rc = bt_cache_init(vcpu, vcpu->soft.vm->code_cache);
    if (!rc) {
        bt_make_thunks(vcpu);
        bt_perf_map_thunks(vcpu);
        return 0;
    }
    vcpu_destroy(*result);
    return error_set(err, rc, "bt: no memory for translated code, or the host lets no page be executed");
}

static void run(struct engine_vcpu *vcpu, struct exit *exit, uint64_t budget)
{
    soft_run((struct soft_vcpu *)vcpu, exit, budget, bt_run_block);
}

const struct engine_ops engine_bt = {
    .name = "bt",
    .summary = "binary translation: guest code runs as host code",
    .maps_ram = true,
    SOFT_OPS,
    .probe = probe,
    .vm_create = vm_create,
    .vcpu_create = vcpu_create,
    .vcpu_destroy = vcpu_destroy,
    .run = run,
    .report = bt_report,
};
