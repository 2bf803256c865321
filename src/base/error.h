/*
 * base/error.h: an error that carries a message for a person. Functions that
 * can fail return 0 or a negative errno (or NULL) and fill a struct error.
 */
#ifndef BASE_ERROR_H
#define BASE_ERROR_H

struct error {
    char message[512]; /* one line, no newline: the thing, what is wrong, what would be right */
};

/* Sets err's message (err may be NULL) and returns code, which is a negative errno. */
int error_set(struct error *err, int code, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

#endif
