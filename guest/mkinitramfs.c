/*
 * guest/mkinitramfs.c: writes an initramfs (cpio, "newc" format; the kernel's
 * Documentation/driver-api/early-userspace/buffer-format.rst). Needs neither
 * root nor cpio, and gives the same bytes for the same input.
 *
 * usage: mkinitramfs OUTPUT < LIST, where each line of LIST is one of
 *   dir PATH MODE | file PATH MODE SOURCE | link PATH TARGET | char PATH MODE MAJOR MINOR
 * with paths that have no leading slash and no blanks, and modes in octal.
 */
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define LINE  4096
#define BLOCK 512

struct entry {
    const char *name;
    unsigned mode; /* with the file type */
    unsigned major, minor;
    const void *data;
    size_t size;
};

static unsigned long written;

static void put(FILE *out, const void *data, size_t len)
{
    fwrite(data, 1, len, out);
    written += len;
}

static void pad(FILE *out, unsigned align)
{
    static const char zero[BLOCK];

    put(out, zero, (align - written % align) % align);
}

static void put_entry(FILE *out, const struct entry *e)
{
    static unsigned inode;
    char header[111];

    snprintf(header, sizeof(header), "070701%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X%08X", ++inode, e->mode, 0,
             0, 1, 0, (unsigned)e->size, 0, 0, e->major, e->minor, (unsigned)strlen(e->name) + 1, 0);
    put(out, header, 110);
    put(out, e->name, strlen(e->name) + 1);
    pad(out, 4);
    put(out, e->data, e->size);
    pad(out, 4);
}

static int put_file(FILE *out, struct entry *e, const char *source)
{
    FILE *in = fopen(source, "rb");
    struct stat st;
    void *data = NULL;
    int rc = -1;

    if (!in || fstat(fileno(in), &st) < 0 || st.st_size > UINT32_MAX)
        goto out;
    data = malloc((size_t)st.st_size + 1);
    if (!data || fread(data, 1, (size_t)st.st_size, in) != (size_t)st.st_size)
        goto out;
    e->data = data;
    e->size = (size_t)st.st_size;
    put_entry(out, e);
    rc = 0;
out:
    if (rc < 0)
        fprintf(stderr, "mkinitramfs: %s: %s\n", source, errno ? strerror(errno) : "it changed while it was read");
    free(data);
    if (in)
        fclose(in);
    return rc;
}

static int put_line(FILE *out, char *line)
{
    char *word[5] = {0}, *rest = line, *w;
    struct entry e = {0};
    unsigned n = 0;

    while (n < 5 && (w = strsep(&rest, " \n")))
        if (*w)
            word[n++] = w;
    if (n == 0)
        return 0;
    e.name = word[1];
    e.mode = n > 2 ? (unsigned)strtoul(word[2], NULL, 8) & 07777 : 0;
    if (n == 3 && strcmp(word[0], "dir") == 0) {
        e.mode |= S_IFDIR;
    } else if (n == 3 && strcmp(word[0], "link") == 0) {
        e.mode = S_IFLNK | 0777;
        e.data = word[2];
        e.size = strlen(word[2]);
    } else if (n == 5 && strcmp(word[0], "char") == 0) {
        e.mode |= S_IFCHR;
        e.major = (unsigned)atoi(word[3]);
        e.minor = (unsigned)atoi(word[4]);
    } else if (n == 4 && strcmp(word[0], "file") == 0) {
        e.mode |= S_IFREG;
        return put_file(out, &e, word[3]);
    } else {
        fprintf(stderr, "mkinitramfs: a line that begins with \"%s\" is not understood\n", word[0]);
        return -1;
    }
    put_entry(out, &e);
    return 0;
}

int main(int argc, char **argv)
{
    char line[LINE];
    FILE *out;
    int rc = 0;

    if (argc != 2) {
        fprintf(stderr, "usage: mkinitramfs OUTPUT < LIST\n");
        return 2;
    }
    out = fopen(argv[1], "wb");
    while (out && rc == 0 && fgets(line, sizeof(line), stdin))
        rc = put_line(out, line);
    if (out && rc == 0) {
        put_entry(out, &(const struct entry){.name = "TRAILER!!!"});
        pad(out, BLOCK);
    }
    if (!out || fflush(out) != 0 || ferror(out)) {
        fprintf(stderr, "mkinitramfs: %s: %s\n", argv[1], strerror(errno));
        rc = -1;
    }
    if (out)
        fclose(out);
    if (rc < 0)
        unlink(argv[1]);
    return rc < 0 ? 1 : 0;
}
