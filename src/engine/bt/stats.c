/*
 * engine/bt/stats.c: what --stats tells of calls that translated code makes of
 * the monitor: how many of each kind (base/counters.h), and of which
 * instructions.
 */
#include "engine/bt/bt_internal.h"
#include "x86/zydis.h"

#define TOP 10

_Static_assert(ZYDIS_MNEMONIC_MAX_VALUE < BT_MNEMONICS, "a counter for each");

void bt_count_callout(struct bt_vcpu *vcpu, const struct bt_site *site)
{
    struct counters *counters = &vcpu->soft.cpu.counters;

    counters->callouts++;
    switch (site->kind) {
    case SITE_MEMORY:
        counters->callouts_memory++;
        break;
    case SITE_BRANCH:
        counters->callouts_branch++;
        break;
    case SITE_INSTRUCTION:
        counters->callouts_instruction++;
        vcpu->called[site->code->block->insn[site->first].mnemonic]++;
        break;
    }
}

/* Into a list of the most frequent, the first most of all. */
static unsigned insert(const uint64_t *called, uint16_t *list, unsigned n, uint16_t mnemonic)
{
    unsigned at = n < TOP ? n++ : n;

    while (at && called[list[at - 1]] < called[mnemonic]) {
        if (at < TOP)
            list[at] = list[at - 1];
        at--;
    }
    if (at < TOP)
        list[at] = mnemonic;
    return n;
}

void bt_report(struct engine_vcpu *engine, engine_line_fn *line, void *opaque)
{
    const struct bt_vcpu *vcpu = (const struct bt_vcpu *)engine;
    uint16_t list[TOP];
    unsigned n = 0;

    for (uint16_t i = 0; i < BT_MNEMONICS; i++)
        if (vcpu->called[i])
            n = insert(vcpu->called, list, n, i);
    for (unsigned i = 0; i < n; i++)
        line(opaque, vcpu->called[list[i]], ZydisMnemonicGetString(list[i]));
}
