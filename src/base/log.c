#include "base/log.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/types.h"

unsigned trace_mask;
static int trace_fd = STDERR_FILENO;

static const char *const names[] = {
#define X(id, name, help) name,
    TRACE_LIST(X)
#undef X
};

/* One write(2) a line, so that lines of several threads do not mix. */
static void line(int fd, const char *prefix, const char *fmt, va_list ap)
{
    char text[1024];
    int n = snprintf(text, sizeof(text), "%s: ", prefix);
    int m = vsnprintf(text + n, sizeof(text) - (size_t)n - 1, fmt, ap);

    n += MIN(MAX(m, 0), (int)sizeof(text) - n - 2);
    text[n++] = '\n';
    while (write(fd, text, (size_t)n) < 0 && errno == EINTR)
        ;
}

void trace_line(enum trace_category category, const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    line(trace_fd, names[category], fmt, ap);
    va_end(ap);
}

int trace_parse(const char *list, unsigned *mask, struct error *err)
{
    *mask = 0;
    while (*list) {
        size_t len = strcspn(list, ",");
        unsigned i;

        for (i = 0; i < TRACE_COUNT; i++)
            if (strlen(names[i]) == len && !strncmp(names[i], list, len))
                break;
        if (i == TRACE_COUNT)
            return error_set(err, -EINVAL, "--trace: no category '%.*s'; there are exec,int,mmu,io,msr,bt", (int)len,
                             list);
        *mask |= 1u << i;
        list += len;
        if (*list == ',')
            list++;
    }
    return 0;
}

void trace_set_fd(int fd)
{
    trace_fd = fd;
}

#define LOG(name, prefix)                                                                                              \
    void name(const char *fmt, ...)                                                                                    \
    {                                                                                                                  \
        va_list ap;                                                                                                    \
                                                                                                                       \
        va_start(ap, fmt);                                                                                             \
        line(STDERR_FILENO, prefix, fmt, ap);                                                                          \
        va_end(ap);                                                                                                    \
    }
LOG(log_error, "trapeze")
LOG(log_warn, "trapeze: warning")
LOG(log_info, "trapeze")
