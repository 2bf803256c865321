/*
 * fuzz/fuzz_job.c: any bytes from the guest to the job channel, with a port
 * that takes a few bytes at a time. The first byte says how many.
 */
#include <fcntl.h>
#include <stdlib.h>
#include <unistd.h>

#include "backend/char/job.h"

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static size_t can_receive(void *opaque)
{
    return *(size_t *)opaque;
}

static void receive(void *opaque, const uint8_t *data, size_t len)
{
    if (len > *(size_t *)opaque)
        abort();
}

static const uint8_t ready[] = {0x81, 8, 0, 't', 'r', 'a', 'p', 'e', 'z', 'e', '1'};

static int null_out;

int LLVMFuzzerInitialize(int *argc, char ***argv)
{
    null_out = open("/dev/null", O_WRONLY | O_CLOEXEC);
    return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct job_config config = {.argv = (const char *[]){"a", NULL}, .in = -1, .out = null_out, .err = null_out};
    struct vclock *clock = vclock_new_manual(1000000000);
    struct loop *loop = clock ? loop_new(clock) : NULL;
    struct chardev *job = loop ? chardev_job_new(loop, &config, NULL) : NULL;
    size_t room = size ? data[0] % 17 : 0;
    int status;

    if (!job)
        abort();
    job->client = (struct chardev_client){.opaque = &room, .can_receive = can_receive, .receive = receive};
    job->ops->accept_input(job);
    if (size && data[0] & 128)
        job->ops->write(job, ready, sizeof(ready));
    for (size_t i = 1; i < size; i += 100) {
        job->ops->write(job, data + i, MIN(size - i, 100));
        loop_poll(loop);
    }
    if (chardev_job_status(job, &status) && (status < 0 || status > 255))
        abort();
    chardev_job_drain(job);
    job->ops->free(job);
    loop_free(loop);
    vclock_free(clock);
    return 0;
}
