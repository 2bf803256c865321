/* control/image.h: `trapeze image`: makes disk images. */
#ifndef CONTROL_IMAGE_H
#define CONTROL_IMAGE_H

#include "base/error.h"

/* An empty copy-on-write child of a disk. 0, or a negative errno with a line for the user. */
int image_overlay(const char *base, const char *path, struct error *err);

#endif
