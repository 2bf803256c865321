/*
 * user.h: what the tests of 64-bit user mode share: the user_* tests make many
 * accesses at CPL 3, from code that is hot, while the kernel changes what lies
 * there.
 */
#ifndef USER_H
#define USER_H

#include "kit/kit.h"

/* Where a user's data may be: beside the kernel's own memory; over a 2 MiB boundary, which is two pages further, in a
 * part of the address space of its own; near the end of the lower half. */
#define USER_PLACES 3
extern const word user_places[USER_PLACES];

#define NO_FLUSH  (1ul << 63) /* of a CR3 value */
#define ADDRESS   0xffffffffff000ull
#define CALL_ELSE 0x81 /* one more interrupt that the user may call */

/* user_init(), SYSCALL, CALL_ELSE and SSE. */
void user_begin(void);
/* The kernel's code that SYSCALL leads to. */
void user_syscall(const char *code);
/* A context for code that is copied to USER_CODE. */
struct context user_code(const char *code, word size);
#define USER(code) user_code(code, CODE_SIZE(code))

/* Loads CR3 with what it has: all that is not global is forgotten. */
void user_flush(void);
/* A page whose first word is a number. */
word *user_frame(word number);

#endif
