/*
 * tests.h: the one list of engine tests, for the images (which make their
 * table of functions from it) and for the runner. A row: the test's name, and
 * how it ends: EXIT (through the exit port, with a status) or SHUTDOWN (triple
 * fault; a test that lives on fails).
 */
#ifndef ENGINE_TESTS_H
#define ENGINE_TESTS_H

enum { STATUS_PASS, STATUS_FAIL, STATUS_SKIP };

/* clang-format off */
#define TESTS_BOTH(X)                   \
    X(sensitive_sgdt, EXIT)             \
    X(sensitive_sidt, EXIT)             \
    X(sensitive_sldt, EXIT)             \
    X(sensitive_str, EXIT)              \
    X(sensitive_smsw, EXIT)             \
    X(sensitive_pushf, EXIT)            \
    X(sensitive_popf, EXIT)             \
    X(sensitive_iret, EXIT)             \
    X(sensitive_lar, EXIT)              \
    X(sensitive_lsl, EXIT)              \
    X(sensitive_verr, EXIT)             \
    X(sensitive_verw, EXIT)             \
    X(sensitive_push_segment, EXIT)     \
    X(sensitive_mov_segment, EXIT)      \
    X(sensitive_pop_segment, EXIT)      \
    X(sensitive_far_call, EXIT)         \
    X(sensitive_far_jump, EXIT)         \
    X(sensitive_far_return, EXIT)       \
    X(sensitive_int_n, EXIT)
#define TESTS_LONG(X)
#define TESTS_PROT(X)
/* clang-format on */

#ifdef __x86_64__
#define TEST_LIST(X) TESTS_BOTH(X) TESTS_LONG(X)
#else
#define TEST_LIST(X) TESTS_BOTH(X) TESTS_PROT(X)
#endif

#endif
