/* control/image.c: see image.h. */
#include "control/image.h"

#include "backend/block/block.h"

int image_overlay(const char *base, const char *path, struct error *err)
{
    return block_create_overlay(base, path, err);
}
