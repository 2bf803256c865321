/*
 * base/log.h: messages for the user (stderr, one line each, "trapeze: ...")
 * and the --trace categories. Any thread.
 */
#ifndef BASE_LOG_H
#define BASE_LOG_H

#include "base/error.h"

/* clang-format off */
#define TRACE_LIST(X)                                       \
    X(EXEC, "exec", "each instruction, with its bytes")     \
    X(INT,  "int",  "exceptions and interrupts delivered")  \
    X(MMU,  "mmu",  "page walks, faults and TLB flushes")   \
    X(IO,   "io",   "port and MMIO accesses")               \
    X(MSR,  "msr",  "model-specific registers")             \
    X(BT,   "bt",   "blocks translated: guest code and host code")
/* clang-format on */

enum trace_category {
#define X(id, name, help) TRACE_##id,
    TRACE_LIST(X)
#undef X
        TRACE_COUNT
};

extern unsigned trace_mask; /* bit n: category n is on */

#define trace_on(category) __builtin_expect((trace_mask >> (category)) & 1, 0)
/* TRACE(INT, "vector %u", v): a line "int: vector 14" in the trace file. */
#define TRACE(id, ...)                                                                                                 \
    do {                                                                                                               \
        if (trace_on(TRACE_##id))                                                                                      \
            trace_line(TRACE_##id, __VA_ARGS__);                                                                       \
    } while (0)

void trace_line(enum trace_category category, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* Parses "exec,int"; -EINVAL and a message for an unknown name. */
int trace_parse(const char *list, unsigned *mask, struct error *err);
/* Where trace lines go; stderr until called. The descriptor stays the caller's. */
void trace_set_fd(int fd);

void log_error(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
void log_warn(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
void log_info(const char *fmt, ...) __attribute__((format(printf, 1, 2)));

#endif
