/*
 * tests/boot/writer.c: writes with fsync, for soak_kill.sh, and finds out later
 * whether all is there that was said to be safe.
 *
 *   writer load DIR            writers write until they are stopped; each record that has been made durable is said on
 *                              standard output in one line: "ACK WRITER RECORDS."
 *   writer check DIR N N N N   the first N records of each writer are in its file; status 0, or 1 and a line
 */
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define WRITERS   4
#define ROOM      20000u
#define NAME_MAX_ 512

/* A record's bytes and length follow from its number. */
static size_t make_record(unsigned writer, unsigned number, uint8_t *data)
{
    uint64_t x = (writer + 1) * 0x9e3779b97f4a7c15ull + number * 0xbf58476d1ce4e5b9ull;
    size_t len;

    x ^= x >> 31;
    len = 1 + x % (writer == 0 ? 100 : writer == 1 ? 5000 : ROOM);
    for (size_t i = 0; i < len; i++) {
        x = x * 6364136223846793005ull + 1442695040888963407ull;
        data[i] = (uint8_t)(x >> 56);
    }
    return len;
}

static void path_of(char *path, const char *dir, unsigned writer, const char *what)
{
    snprintf(path, NAME_MAX_, "%s/%s%u", dir, what, writer);
}

/* Work for the journal: a name comes and goes. */
static void churn(const char *dir, unsigned writer)
{
    char path[NAME_MAX_], other[NAME_MAX_];
    int fd;

    path_of(path, dir, writer, "temporary");
    path_of(other, dir, writer, "renamed");
    fd = open(path, O_WRONLY | O_CREAT, 0600);
    if (fd >= 0)
        close(fd);
    rename(path, other);
    unlink(other);
}

static _Noreturn void load(const char *dir, unsigned writer)
{
    static uint8_t data[ROOM];
    char path[NAME_MAX_], line[64];
    int fd;

    path_of(path, dir, writer, "file");
    fd = open(path, O_WRONLY | O_CREAT | O_APPEND, 0600);
    for (unsigned number = 0; fd >= 0; number++) {
        size_t len = make_record(writer, number, data);

        if (write(fd, data, len) != (ssize_t)len || (writer % 2 ? fsync(fd) : fdatasync(fd)) < 0)
            break;
        len = (size_t)snprintf(line, sizeof(line), "ACK %u %u.\n", writer, number + 1);
        if (write(STDOUT_FILENO, line, len) != (ssize_t)len)
            break;
        if (number % 8 == 7)
            churn(dir, writer);
    }
    perror("writer");
    _exit(1);
}

static int check(const char *dir, unsigned writer, unsigned count)
{
    static uint8_t want[ROOM], got[ROOM];
    char path[NAME_MAX_];
    FILE *file;

    if (!count)
        return 0;
    path_of(path, dir, writer, "file");
    file = fopen(path, "re");
    for (unsigned number = 0; number < count; number++) {
        size_t len = make_record(writer, number, want);

        if (!file || fread(got, 1, len, file) != len || memcmp(got, want, len)) {
            printf("LOST writer %u: record %u of %u that were acknowledged\n", writer, number + 1, count);
            return 1;
        }
    }
    fclose(file);
    return 0;
}

int main(int argc, char **argv)
{
    int status = 0;

    if (argc == 3 && !strcmp(argv[1], "load")) {
        for (unsigned i = 0; i < WRITERS; i++)
            if (fork() == 0)
                load(argv[2], i);
        wait(&status);
        return 1;
    }
    if (argc == 3 + WRITERS && !strcmp(argv[1], "check")) {
        for (unsigned i = 0; i < WRITERS; i++)
            status |= check(argv[2], i, (unsigned)atoi(argv[3 + i]));
        return status;
    }
    fprintf(stderr, "usage: writer load DIR | check DIR N N N N\n");
    return 2;
}
