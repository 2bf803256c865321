/* x86/io.c: the log that makes an instruction with I/O all or nothing; see x86/io.h. */
#include "x86/io.h"

static uint64_t truncate_to(uint64_t data, unsigned size)
{
    return size >= 8 ? data : data & (BIT(8 * size) - 1);
}

enum x86_rc x86_io(struct x86_cpu *cpu, enum x86_io_kind kind, uint64_t addr, uint64_t *data, unsigned size, bool write)
{
    if (cpu->io_pos < cpu->io_count) {
        const struct x86_io *done = &cpu->io_log[cpu->io_pos];

        if (done->kind == kind && done->addr == addr && done->size == size && done->write == write) {
            cpu->io_pos++;
            if (!write)
                *data = done->data;
            return X86_NEXT;
        }
        /* Another processor changed what the instruction works on: the rest of the log is of no use. */
        cpu->io_count = cpu->io_pos;
    }
    /* No instruction of use is so long. What does not fit goes nowhere, so that the instruction comes to an end. */
    if (cpu->io_pos >= X86_IO_LOG) {
        if (!write)
            *data = truncate_to(~0ull, size);
        return X86_NEXT;
    }
    cpu->io = (struct x86_io){.kind = kind, .write = write, .size = (uint8_t)size, .addr = addr};
    if (write)
        cpu->io.data = truncate_to(*data, size);
    return X86_EXIT;
}

void x86_io_complete(struct x86_cpu *cpu, uint64_t data)
{
    if (cpu->io.kind == X86_IO_NONE || cpu->io_count >= X86_IO_LOG)
        return;
    if (!cpu->io.write)
        cpu->io.data = truncate_to(data, cpu->io.size);
    cpu->io_log[cpu->io_count++] = cpu->io;
    cpu->io.kind = X86_IO_NONE;
}
