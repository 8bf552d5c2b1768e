/* What a convolution works on. */

#pragma once

#include "numbers.h"

/* Images of a lane, [images, height, width, in], its kernels, [out, in, high, wide], and what is behind them. */
typedef struct {
    long images;
    long height, width, in, out;
    long high, wide, stride;
    long top, left; /* padding with zeros, on both sides */
    long rectified, pooled; /* a ReLU, and a maximum over 2x2 that do not overlap */
    long rounded; /* images in bfloat16, and weights rounded so */
} Form;

INLINE long least(long a, long b) { return a < b ? a : b; }

/* Of the outputs, before they are pooled. */
INLINE long out_high(const Form *f) { return (f->height + 2 * f->top - f->high) / f->stride + 1; }
INLINE long out_wide(const Form *f) { return (f->width + 2 * f->left - f->wide) / f->stride + 1; }

/* Behind the pooling, if there is one. */
INLINE long made_high(const Form *f) { return f->pooled ? out_high(f) / 2 : out_high(f); }
INLINE long made_wide(const Form *f) { return f->pooled ? out_wide(f) / 2 : out_wide(f); }

/* Numbers of a lane's images. */
INLINE long given_of(const Form *f) { return f->images * f->height * f->width * f->in; }
