/* Convolutions of few channels, with the ReLU behind them: those on the pictures themselves.
 *
 * Pictures have their channels first and are in float32, [images, in, height, width]; what comes out has its channels
 * last, in float32 or in bfloat16. A row of outputs is one product of matrices, whose left one is read from
 * the picture where it lies.
 */

#include "lanes.h"
#include "products.h"

/* Numbers in a patch, as in `convolutions.py`. */
enum { MOST = 128 };

INLINE long filled(long count) { return (count + WIDE - 1) / WIDE * WIDE; }

/* Of a picture with its padding; numbers up to a whole vector. */
INLINE long padded_high(const Form *f) { return f->height + 2 * f->top; }
INLINE long padded_wide(const Form *f) { return f->width + 2 * f->left; }
INLINE long padded_of(const Form *f) { return filled(f->in * padded_high(f) * padded_wide(f)); }

/* Numbers in a patch, and with zeros up to a whole vector. */
INLINE long patch_of(const Form *f) { return f->in * f->high * f->wide; }
INLINE long filled_of(const Form *f) { return filled(patch_of(f)); }

/* Where the numbers of a patch lie in a padded picture, behind its first. */
INLINE void patch_at(const Form *f, long *places) {
    for (long c = 0; c < f->in; c++)
        for (long i = 0; i < f->high; i++)
            for (long j = 0; j < f->wide; j++) *places++ = (c * padded_high(f) + i) * padded_wide(f) + j;
}

/* Where the numbers of a picture's row lie in the padded one. */
INLINE long row_at(const Form *f, long c, long y) { return (c * padded_high(f) + y + f->top) * padded_wide(f) + f->left; }

/* As many numbers as whole vectors have. */
INLINE void round_all(int rounded, float *numbers, long count) {
    for (long at = 0; rounded && at < count; at += WIDE) store(numbers + at, rounded_if(1, load(numbers + at)));
}

INLINE void pad(const Form *f, int rounded, const float *picture, float *padded) {
    memset(padded, 0, padded_of(f) * sizeof *padded);
    for (long c = 0; c < f->in; c++)
        for (long y = 0; y < f->height; y++, picture += f->width)
            memcpy(padded + row_at(f, c, y), picture, f->width * sizeof *picture);
    round_all(rounded, padded, padded_of(f));
}

INLINE void unpad(const Form *f, const float *padded, float *picture) {
    for (long c = 0; c < f->in; c++)
        for (long y = 0; y < f->height; y++, picture += f->width)
            memcpy(picture, padded + row_at(f, c, y), f->width * sizeof *picture);
}

INLINE void forward(const Form *f, int rounded, const float *given, const float *kernels, const float *bias, void *made,
                    uint8_t *kept, float *space) {
    long places[MOST], high = out_high(f), wide = out_wide(f), patch = patch_of(f), at = 0;
    float *turned = space, *row = turned + filled_of(f) * f->out, *padded = row + wide * f->out;
    patch_at(f, places);
    for (long out = 0; out < f->out; out++)
        for (long k = 0; k < patch; k++) turned[k * f->out + out] = kernels[out * patch + k];
    round_all(rounded, turned, patch * f->out);
    for (long image = 0; image < f->images; image++) {
        pad(f, rounded, given + image * f->in * f->height * f->width, padded);
        for (long y = 0; y < high; y++) {
            Left left = {padded + y * f->stride * padded_wide(f), f->stride, 0, 0, places};
            product(wide, patch, f->out, left, turned, row, 0);
            for (long x = 0; x < wide; x++)
                for (long out = 0; out < f->out; out += WIDE, at += WIDE) {
                    vec number = load(row + x * f->out + out);
                    if (bias) number += rounded_if(rounded, load(bias + out));
                    ints zero = f->rectified ? number <= 0 : (ints){0};
                    store_image(rounded, made, at, where(zero, zeros(), number));
                    if (kept) store_bytes(kept + at, zero & 1);
                }
        }
    }
}

/* To `row`, [w, out], the gradient of a row of outputs before the ReLU; adds it to that of the bias. */
INLINE void of_row(const Form *f, int rounded, const void *gradient, const uint8_t *kept, long at, float *row,
                   float *of_bias) {
    for (long x = 0; x < out_wide(f); x++)
        for (long out = 0; out < f->out; out += WIDE, at += WIDE) {
            vec number = load_image(rounded, gradient, at);
            if (kept) number = where(load_bytes(kept + at) == 0, number, zeros());
            store(row + x * f->out + out, number);
            if (of_bias) store(of_bias + out, load(of_bias + out) + number);
        }
}

INLINE void backward(const Form *f, int rounded, const void *gradient, const uint8_t *kept, const float *given,
                     const float *kernels, float *of_given, float *of_kernels, float *of_bias, float *space) {
    long places[MOST], high = out_high(f), wide = out_wide(f), patch = patch_of(f), whole = filled_of(f);
    long picture = f->in * f->height * f->width;
    float *turned = space, *straight = turned + whole * f->out, *row = straight + whole * f->out;
    float *patches = row + wide * f->out, *padded = patches + wide * whole, *of_padded = padded + padded_of(f);
    patch_at(f, places);
    if (of_bias) memset(of_bias, 0, f->out * sizeof *of_bias);
    if (of_kernels) memset(turned, 0, patch * f->out * sizeof *turned);
    for (long out = 0; of_given && out < f->out; out++)
        for (long k = 0; k < whole; k++) straight[out * whole + k] = k < patch ? kernels[out * patch + k] : 0;
    if (of_given) round_all(rounded, straight, f->out * whole);
    for (long image = 0; image < f->images; image++) {
        if (of_kernels) pad(f, rounded, given + image * picture, padded);
        if (of_given) memset(of_padded, 0, padded_of(f) * sizeof *of_padded);
        for (long y = 0; y < high; y++) {
            long from = y * f->stride * padded_wide(f);
            of_row(f, rounded, gradient, kept, (image * high + y) * wide * f->out, row, of_bias);
            if (of_kernels) {
                Left left = {padded + from, 0, f->stride, places, 0};
                product(patch, wide, f->out, left, row, turned, 1);
            }
            if (of_given) {
                Left left = {row, f->out, 1, 0, 0};
                product(wide, f->out, whole, left, straight, patches, 0);
                for (long x = 0; x < wide; x++)
                    for (long k = 0; k < patch; k++)
                        of_padded[from + x * f->stride + places[k]] += patches[x * whole + k];
            }
        }
        if (of_given) unpad(f, of_padded, of_given + image * picture);
    }
    for (long out = 0; of_kernels && out < f->out; out++)
        for (long k = 0; k < patch; k++) of_kernels[out * patch + k] = turned[k * f->out + out];
}

/* Numbers that `narrow` and `narrow_back` write over. */
long narrow_space(const Form *f) {
    return 2 * filled_of(f) * f->out + out_wide(f) * (f->out + filled_of(f)) + 2 * padded_of(f);
}

/* Pictures and kernels to `made`, [images, h, w, out]; to `kept`, as many bytes, where the gradient does not go. There
 * may be no bias and no `kept`; the number of outgoing channels is a multiple of 16, and a patch has at most 128 numbers. */
void narrow(const Form *f, const float *given, const float *kernels, const float *bias, void *made, uint8_t *kept,
            float *space) {
    if (f->rounded)
        forward(f, 1, given, kernels, bias, made, kept, space);
    else
        forward(f, 0, given, kernels, bias, made, kept, space);
}

/* The gradients of the pictures, of the kernels and of the bias, of that of `made`. Each of the three may be missing;
 * kernels belong to the first, pictures to the second. */
void narrow_back(const Form *f, const void *gradient, const uint8_t *kept, const float *given, const float *kernels,
                 float *of_given, float *of_kernels, float *of_bias, float *space) {
    if (f->rounded)
        backward(f, 1, gradient, kept, given, kernels, of_given, of_kernels, of_bias, space);
    else
        backward(f, 0, gradient, kept, given, kernels, of_given, of_kernels, of_bias, space);
}
