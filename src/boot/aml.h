/*
 * boot/aml.h: writes ACPI machine language (ACPI 6.4, chapter 20) into a fixed
 * buffer. Names of objects are single segments of up to four characters.
 */
#ifndef BOOT_AML_H
#define BOOT_AML_H

#include "base/types.h"

struct aml {
    uint8_t *buf;
    size_t len, cap;
    bool full; /* something did not fit: the result is not to be used */
};

/* Objects that contain others: write what is inside, then close with the value that opening gave. */
size_t aml_scope(struct aml *aml, const char *path); /* "\\_SB_" */
size_t aml_device(struct aml *aml, const char *name);
size_t aml_package(struct aml *aml, uint8_t elements);
size_t aml_resources(struct aml *aml); /* a buffer; closed with aml_end_resources */
void aml_end(struct aml *aml, size_t open);
void aml_end_resources(struct aml *aml, size_t open);

void aml_name(struct aml *aml, const char *name); /* Name(name, <what is written next>) */
void aml_integer(struct aml *aml, uint32_t value);
void aml_string(struct aml *aml, const char *text);
void aml_eisa_id(struct aml *aml, const char *id); /* "PNP0501" */

/* Resource descriptors (ACPI 6.4, 6.4.2). */
void aml_io(struct aml *aml, uint16_t base, uint8_t len);
void aml_irq(struct aml *aml, unsigned irq);
void aml_memory32(struct aml *aml, uint32_t base, uint32_t len); /* at a fixed place, writable */
/* Address ranges a bridge passes on (6.4.3.5): numbers of buses, memory. */
void aml_bus_range(struct aml *aml, uint16_t first, uint16_t last);
void aml_memory_range(struct aml *aml, uint32_t base, uint32_t len);

#endif
