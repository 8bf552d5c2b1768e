/* Images with their channels last, as convolutions leave them, and channels first in float32, as all others have them. */

#include "lanes.h"

/* A square of channels and pixels at a time: both sides are read and written along memory. */
INLINE void to_first(const Form *f, int rounded, const void *made, float *to) {
    long pixels = made_high(f) * made_wide(f);
    for (long image = 0; image < f->images; image++)
        for (long start = 0; start < pixels; start += WIDE)
            for (long channel = 0; channel < f->out; channel += WIDE) {
                float square[WIDE][WIDE];
                long count = least(WIDE, pixels - start), at = (image * pixels + start) * f->out + channel;
                for (long p = 0; p < count; p++) store(square[p], load_image(rounded, made, at + p * f->out));
                for (long c = 0; c < WIDE; c++)
                    for (long p = 0; p < count; p++)
                        to[(image * f->out + channel + c) * pixels + start + p] = square[p][c];
            }
}

INLINE void to_last(const Form *f, int rounded, void *made, const float *from) {
    long pixels = made_high(f) * made_wide(f);
    for (long image = 0; image < f->images; image++)
        for (long start = 0; start < pixels; start += WIDE)
            for (long channel = 0; channel < f->out; channel += WIDE) {
                float square[WIDE][WIDE];
                long count = least(WIDE, pixels - start), at = (image * pixels + start) * f->out + channel;
                for (long c = 0; c < WIDE; c++)
                    for (long p = 0; p < count; p++)
                        square[p][c] = from[(image * f->out + channel + c) * pixels + start + p];
                for (long p = 0; p < count; p++) store_image(rounded, made, at + p * f->out, load(square[p]));
            }
}

/* What a convolution made, [images, h, w, out], to [images, out, h, w]. */
void channels_first(const Form *f, const void *made, float *to) {
    if (f->rounded)
        to_first(f, 1, made, to);
    else
        to_first(f, 0, made, to);
}

/* From [images, out, h, w] to [images, h, w, out]. */
void channels_last(const Form *f, void *made, const float *from) {
    if (f->rounded)
        to_last(f, 1, made, from);
    else
        to_last(f, 0, made, from);
}
