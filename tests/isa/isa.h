/*
 * tests/isa/isa.h: the host CPU as oracle. Each instruction form runs natively
 * in this process and in each software engine, on the same random and corner
 * states; everything architectural must agree.
 *
 * forms.c finds the forms, policy.c says which are left out and why,
 * instance.c makes concrete instructions, states.c and operands.c states for
 * them, native.c and guest.c run them, compare.c compares, undefined.c knows
 * what the manuals leave undefined.
 */
#ifndef TESTS_ISA_ISA_H
#define TESTS_ISA_ISA_H

#include <Zydis/Zydis.h>

#include "base/types.h"
#include "engine/engine.h"
#include "x86/cpu.h"
#include "x86/cpuid.h"

/* --- randomness: one generator, so that a seed repeats a run ------------------- */
struct isa_rng {
    uint64_t s;
};

static inline uint64_t isa_rand(struct isa_rng *rng) /* splitmix64 */
{
    uint64_t z = rng->s += 0x9e3779b97f4a7c15;

    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9;
    z = (z ^ z >> 27) * 0x94d049bb133111eb;
    return z ^ z >> 31;
}

static inline unsigned isa_pick(struct isa_rng *rng, unsigned n) /* 0..n-1 */
{
    return (unsigned)((isa_rand(rng) >> 32) * n >> 32);
}

static inline bool isa_chance(struct isa_rng *rng, unsigned percent)
{
    return isa_pick(rng, 100) < percent;
}

/* --- instructions and their forms ---------------------------------------------- */
struct isa_insn {
    ZydisDecodedInstruction insn;
    ZydisDecodedOperand op[ZYDIS_MAX_OPERAND_COUNT];
    uint8_t bytes[16];
    uint8_t length;
    enum x86_mode mode; /* MODE_LONG64, MODE_COMPAT32, MODE_COMPAT16 */
    uint64_t rip;       /* where it lies */
};

/* An instruction form: mnemonic, opcode, operand kinds, widths and encodings, and the prefixes that change what it
 * does. */
struct isa_form {
    char *name; /* all of that as text: also the key */
    struct isa_insn example;
    const char *reason;              /* not NULL: why it is left out; policy.c */
    uint64_t states, faulted;        /* run; of those, not completed (or REP, in progress) */
    uint64_t differences, undefined; /* different; different in what is undefined only */
    uint64_t undefined_flags;        /* the flags of which that was true */
    uint64_t undefined_results;      /* how often it was something else than a flag */
};

struct isa_forms {
    struct isa_form *form;
    unsigned count;
};

/* Decodes with the host's rules. false: undefined. */
bool isa_decode(struct isa_insn *in, enum x86_mode mode, const uint8_t *bytes, unsigned size);
/* The vendors differ in a few things: near branches with 66h, far pointers with REX.W. */
bool isa_host_is_intel(void);
/* The text that names the form of an instruction. */
void isa_key(const struct isa_insn *in, char *text, unsigned size);
/* Walks the whole opcode space of a mode and adds each form once. */
void isa_find_forms(struct isa_forms *forms, enum x86_mode mode);
void isa_free_forms(struct isa_forms *forms);

/* --- policy ----------------------------------------------------------------------- */
/* Why a form is not compared, or NULL. */
const char *isa_reason(const struct isa_insn *in);
/* Does Trapeze offer all that the instruction needs in CPUID? */
bool isa_offered(const struct isa_insn *in);

/* --- instances ----------------------------------------------------------------------- */
/* A random instruction of the form: registers, addressing, immediates. index counts instances (it walks the values of
 * an 8-bit immediate). Placed in the code window. false: none was found. */
bool isa_make_instance(struct isa_insn *in, const struct isa_form *form, struct isa_rng *rng, unsigned index);

/* --- memory windows: at the same linear addresses natively and in the guest ------------ */
enum isa_window_kind { WINDOW_CODE, WINDOW_LOW, WINDOW_DATA, WINDOW_STACK, WINDOWS };

struct isa_window {
    uint64_t lin;
    unsigned pages;
    unsigned readonly; /* the last so many pages are read-only */
};
extern const struct isa_window isa_windows[WINDOWS];
#define ISA_PAGES 9 /* of all windows together */

/* The content that every run starts from; page numbers count through the windows. */
struct isa_memory {
    uint8_t page[ISA_PAGES][PAGE_SIZE];
};

/* Page number of a linear address, or -1. */
int isa_page_of(uint64_t lin);
#define ISA_CODE_PAGES 2 /* the first ones */

/* --- states --------------------------------------------------------------------------- */
#define ISA_NO_VECTOR 0xff

struct isa_state {
    uint64_t gpr[16], rip, rflags, fs_base, gs_base;
    struct x86_fpu fpu;
    uint8_t ldt[6];  /* enum x86_seg, of ES, SS, DS: entry of isa_ldt[]; 0: flat */
    uint16_t sel[6]; /* enum x86_seg; outcome only */
    /* outcome */
    uint8_t vector; /* exception that ended the run; ISA_NO_VECTOR: none came */
    uint32_t error;
    uint64_t cr2;   /* for #PF */
    char note[160]; /* what went wrong instead */
};

/* A random or corner state for the instruction; pokes memory operands into memory. extra: FLAG_TF, FLAG_AC, if some
 * states may have them. */
void isa_make_state(struct isa_state *state, struct isa_memory *memory, const struct isa_insn *in, struct isa_rng *rng,
                    uint64_t extra);
/* Linear address of a memory operand in a state. */
uint64_t isa_linear(const struct isa_insn *in, const struct isa_state *state, const ZydisDecodedOperand *op);
void isa_fill_memory(struct isa_memory *memory, struct isa_rng *rng);

/* Selectors of user code, Linux's; 16-bit code is in the LDT. */
#define ISA_CS64 0x33
#define ISA_CS32 0x23
#define ISA_CS16 0x07
#define ISA_DS   0x2b

static inline uint16_t isa_code_selector(enum x86_mode mode)
{
    return mode == MODE_LONG64 ? ISA_CS64 : mode == MODE_COMPAT32 ? ISA_CS32 : ISA_CS16;
}

/* The LDT: 16-bit code, and data segments for 32-bit code that are not flat. */
#define ISA_LDT 6
extern const struct isa_segment {
    uint32_t base, limit; /* in bytes */
    uint16_t attr;        /* as struct x86_segment has them */
} isa_ldt[ISA_LDT];

static inline uint16_t isa_data_selector(unsigned entry)
{
    return entry ? (uint16_t)(entry << 3 | 7) : ISA_DS;
}

/* --- who runs them ------------------------------------------------------------------------ */
struct isa_target;
struct isa_target_ops {
    /* length bytes at offset at of the code window have changed. */
    void (*load_code)(struct isa_target *target, const struct isa_memory *memory, unsigned at, unsigned length);
    /* Loads memory (but code) and in, runs until an exception, fills out. */
    void (*run)(struct isa_target *target, const struct isa_memory *memory, const struct isa_state *in,
                struct isa_state *out, enum x86_mode mode);
    void (*kick)(struct isa_target *target); /* ends a run that does not end; any thread; may be NULL */
};
struct isa_target {
    const struct isa_target_ops *ops;
    const char *name;
    uint8_t *page[ISA_PAGES]; /* its windows, readable */
};

struct isa_target *isa_native_new(struct error *err);
/* Has it an LDT (modify_ldt)? Without one there is no 16-bit code. */
bool isa_native_ldt(void);
struct isa_target *isa_guest_new(const struct engine_ops *engine, bool shadow_soon, struct error *err);
void isa_guest_free(struct isa_target *target);
/* Restores a target's writable pages to memory; native and guest share it. */
void isa_restore_pages(struct isa_target *target, const struct isa_memory *memory);

/* --- comparison ------------------------------------------------------------------------------ */
/* Flags that the manuals leave undefined after the instruction in this state. */
uint64_t isa_undefined_flags(const struct isa_insn *in, const struct isa_state *before);
/* Is the result itself undefined (SHLD by more than the size, BSWAP of 16 bits)? */
bool isa_undefined_result(const struct isa_insn *in, const struct isa_state *before);
/* Compares outcome and memory. 0: equal; 1: different in what is undefined only; 2: different, with the reasons as
 * lines in text. */
int isa_compare(const struct isa_insn *in, const struct isa_state *before, const struct isa_state *want,
                const struct isa_state *got, struct isa_target *native, struct isa_target *target, char *text,
                unsigned size);

#endif
