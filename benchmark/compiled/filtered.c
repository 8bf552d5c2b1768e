/* 3x3 convolutions of stride 1 by minimal filtering, with the ReLU and the pooling behind them.
 *
 * Tiles of a lane go through all three steps together, so that what is between them stays in the processor's cache;
 * kernels are transformed each time, because that is sooner done than reading four times as many numbers from memory.
 */

#include <float.h>

#include "filtering.h"
#include "lanes.h"
#include "products.h"

/* Tiles that go together: with fewer the weights are read too often, with more what is between leaves the cache. */
enum { TOGETHER = 32 };

/* Which output under a window gets the gradient, 0 to 3; or none, because the ReLU gave zero. */
enum { UNDER = 4, NONE = UNDER };

INLINE long tile_rows(const Form *f) { return (out_high(f) + SIDE - 1) / SIDE; }
INLINE long tile_columns(const Form *f) { return (out_wide(f) + SIDE - 1) / SIDE; }
INLINE long tiles_of(const Form *f) { return f->images * tile_rows(f) * tile_columns(f); }

/* Numbers from one of the 36 matrices to the next. A power of two would put all of them on one place of the cache. */
INLINE long apart(long rows, long columns) { return rows * columns + WIDE; }

typedef struct {
    long image, row, column;
} Tile;

INLINE Tile tile_at(const Form *f, long at) {
    long each = tile_rows(f) * tile_columns(f);
    return (Tile){at / each, at % each / tile_columns(f), at % tile_columns(f)};
}

/* Where the 6x6 inputs of a tile lie within its lane; -1 where there is padding. */
INLINE void inputs_at(const Form *f, Tile tile, long *places) {
    for (long i = 0; i < REACH; i++)
        for (long j = 0; j < REACH; j++) {
            long y = SIDE * tile.row + i - f->top, x = SIDE * tile.column + j - f->left;
            int inside = y >= 0 && y < f->height && x >= 0 && x < f->width;
            *places++ = inside ? ((tile.image * f->height + y) * f->width + x) * f->in : -1;
        }
}

/* Outputs of a tile, a side, as they come out. */
INLINE long made_side(const Form *f) { return f->pooled ? SIDE / 2 : SIDE; }

/* How many of a tile's rows or columns there are, of as many as come out: the last tile may reach beyond. */
INLINE long there(const Form *f, long tile, long made) { return least(made_side(f), made - made_side(f) * tile); }

/* Where an output of a tile lies within its lane. */
INLINE long output_at(const Form *f, Tile tile, long i, long j) {
    long y = made_side(f) * tile.row + i, x = made_side(f) * tile.column + j;
    return ((tile.image * made_high(f) + y) * made_wide(f) + x) * f->out;
}

/* To `products`, [36, tiles, in], the inputs of tiles `first` and on. */
INLINE void products_of_inputs(const Form *f, int rounded, const void *given, long first, long tiles, float *products) {
    for (long t = 0; t < tiles; t++) {
        long places[PRODUCTS];
        inputs_at(f, tile_at(f, first + t), places);
        for (long channel = 0; channel < f->in; channel += WIDE) {
            vec x[PRODUCTS], y[PRODUCTS];
            for (int p = 0; p < PRODUCTS; p++)
                x[p] = places[p] < 0 ? zeros() : load_image(rounded, given, places[p] + channel);
            both_ways(of_inputs, REACH, REACH, x, y);
            for (int p = 0; p < PRODUCTS; p++) store(products + p * apart(tiles, f->in) + t * f->in + channel, y[p]);
        }
    }
}

/* Adds to the gradient of the inputs what `products`, [36, tiles, in], tell of tiles `first` and on. */
INLINE void inputs_of_products(const Form *f, const float *products, long first, long tiles, float *of_given) {
    for (long t = 0; t < tiles; t++) {
        long places[PRODUCTS];
        inputs_at(f, tile_at(f, first + t), places);
        for (long channel = 0; channel < f->in; channel += WIDE) {
            vec x[PRODUCTS], y[PRODUCTS];
            for (int p = 0; p < PRODUCTS; p++) x[p] = load(products + p * apart(tiles, f->in) + t * f->in + channel);
            both_ways(to_inputs, REACH, REACH, x, y);
            for (int p = 0; p < PRODUCTS; p++)
                if (places[p] >= 0) {
                    float *at = of_given + places[p] + channel;
                    store(at, load(at) + y[p]);
                }
        }
    }
}

/* The largest of the four under a window, and which it is: the first of those that are within `tie`, or that are equal
 * when rounded. */
INLINE ints largest(int rounded, vec tie, const vec *four, vec *found) {
    vec a = four[0], b = four[1], c = four[2], d = four[3], upper = larger(a, b), lower = larger(c, d);
    ints second = b - a > tie, fourth = d - c > tie, below = lower - upper > tie;
    *found = larger(upper, lower);
    if (rounded) {
        vec e = rounded_if(1, a), g = rounded_if(1, b), h = rounded_if(1, c), i = rounded_if(1, d);
        second &= e != g;
        fourth &= h != i;
        below &= larger(e, g) != larger(h, i);
    }
    return (below & (2 - fourth)) | (~below & -second);
}

/* Writes the outputs of tiles `first` and on, of `products`, [36, tiles, out], and which of them get the gradient. */
INLINE void outputs_of_products(const Form *f, int rounded, const float *products, const float *bias, float tie,
                                long first, long tiles, void *made, uint8_t *kept) {
    for (long t = 0; t < tiles; t++) {
        Tile tile = tile_at(f, first + t);
        long rows = there(f, tile.row, made_high(f)), columns = there(f, tile.column, made_wide(f));
        for (long channel = 0; channel < f->out; channel += WIDE) {
            vec x[PRODUCTS], y[SIDE * SIDE], constant = zeros();
            if (bias) constant = rounded_if(rounded, load(bias + channel));
            for (int p = 0; p < PRODUCTS; p++) x[p] = load(products + p * apart(tiles, f->out) + t * f->out + channel);
            both_ways(to_outputs, REACH, SIDE, x, y);
            for (int p = 0; p < SIDE * SIDE; p++) y[p] += constant;
            for (long i = 0; i < rows; i++)
                for (long j = 0; j < columns; j++) {
                    long at = output_at(f, tile, i, j) + channel;
                    vec number = y[SIDE * i + j];
                    ints which = (ints){0};
                    if (f->pooled) {
                        const vec *corner = y + 2 * (SIDE * i + j);
                        vec four[UNDER] = {corner[0], corner[1], corner[SIDE], corner[SIDE + 1]};
                        which = largest(rounded, same(tie), four, &number);
                    }
                    if (f->rectified) {
                        ints zero = number <= 0;
                        number = where(zero, zeros(), number);
                        which = (~zero & which) | (zero & NONE);
                    }
                    store_image(rounded, made, at, number);
                    if (kept) store_bytes(kept + at, which);
                }
        }
    }
}

/* The gradient of the 4x4 outputs of a tile before ReLU and pooling. */
INLINE void of_tile(const Form *f, int rounded, const void *gradient, const uint8_t *kept, Tile tile, long channel, vec *x) {
    long rows = there(f, tile.row, made_high(f)), columns = there(f, tile.column, made_wide(f));
    for (int p = 0; p < SIDE * SIDE; p++) x[p] = zeros();
    for (long i = 0; i < rows; i++)
        for (long j = 0; j < columns; j++) {
            long at = output_at(f, tile, i, j) + channel;
            vec number = load_image(rounded, gradient, at);
            ints which = kept ? load_bytes(kept + at) : (ints){0};
            vec *corner = x + (f->pooled ? 2 : 1) * (SIDE * i + j);
            corner[0] = where(which == 0, number, zeros());
            if (f->pooled) {
                corner[1] = where(which == 1, number, zeros());
                corner[SIDE] = where(which == 2, number, zeros());
                corner[SIDE + 1] = where(which == 3, number, zeros());
            }
        }
}

/* To `products`, [36, tiles, out], the gradient of the outputs of tiles `first` and on. */
INLINE void products_of_outputs(const Form *f, int rounded, const void *gradient, const uint8_t *kept, long first,
                                long tiles, float *products) {
    for (long t = 0; t < tiles; t++) {
        Tile tile = tile_at(f, first + t);
        for (long channel = 0; channel < f->out; channel += WIDE) {
            vec x[SIDE * SIDE], y[PRODUCTS];
            of_tile(f, rounded, gradient, kept, tile, channel, x);
            both_ways(of_outputs, SIDE, REACH, x, y);
            for (int p = 0; p < PRODUCTS; p++) store(products + p * apart(tiles, f->out) + t * f->out + channel, y[p]);
        }
    }
}

/* To `products`, [36, rows, columns], kernels whose numbers lie so many apart from row to row and column to column. */
INLINE void products_of_kernels(int rounded, const float *kernels, long rows, long down, long columns, long right,
                                float *products) {
    enum { NUMBERS = KERNEL * KERNEL };
    for (long row = 0; row < rows; row++)
        for (long column = 0; column < columns; column += WIDE) {
            float numbers[NUMBERS][WIDE];
            vec x[NUMBERS], y[PRODUCTS];
            for (int k = 0; k < WIDE; k++)
                for (int p = 0; p < NUMBERS; p++) numbers[p][k] = kernels[row * down + (column + k) * right + p];
            for (int p = 0; p < NUMBERS; p++) x[p] = rounded_if(rounded, load(numbers[p]));
            both_ways(of_weights, KERNEL, REACH, x, y);
            for (int p = 0; p < PRODUCTS; p++) store(products + p * apart(rows, columns) + row * columns + column, y[p]);
        }
}

/* The gradient of a lane's kernels, [out, in, 3, 3], of that of the products' weights, [36, in, out]. */
INLINE void kernels_of_products(const Form *f, const float *products, float *of_kernels) {
    enum { NUMBERS = KERNEL * KERNEL };
    for (long in = 0; in < f->in; in++)
        for (long out = 0; out < f->out; out += WIDE) {
            float numbers[NUMBERS][WIDE];
            vec x[PRODUCTS], y[NUMBERS];
            for (int p = 0; p < PRODUCTS; p++) x[p] = load(products + p * apart(f->in, f->out) + in * f->out + out);
            both_ways(to_weights, REACH, KERNEL, x, y);
            for (int p = 0; p < NUMBERS; p++) store(numbers[p], y[p]);
            for (int k = 0; k < WIDE; k++)
                for (int p = 0; p < NUMBERS; p++) of_kernels[((out + k) * f->in + in) * NUMBERS + p] = numbers[p][k];
        }
}

/* What differs less is a tie: eight times the rounding of the output with the largest weights, for inputs of order one.
 * Filtering adds up in another order for each place of a tile, and rounding would choose where outputs are equal, as
 * they are everywhere at a constant start. */
INLINE float tie_of(const Form *f, const float *kernels) {
    long each = f->in * KERNEL * KERNEL;
    float most = 0;
    for (long out = 0; out < f->out; out++) {
        vec sizes = zeros();
        for (long k = 0; k < each; k += WIDE) {
            vec weights = load(kernels + out * each + k);
            sizes += larger(weights, -weights);
        }
        if (sum(sizes) > most) most = sum(sizes);
    }
    return 8 * FLT_EPSILON * most;
}

INLINE void forward(const Form *f, int rounded, const void *given, const float *kernels, const float *bias, void *made,
                    uint8_t *kept, float *space) {
    long all = tiles_of(f), room = least(all, TOGETHER);
    float *seen = space, *found = seen + PRODUCTS * apart(room, f->in);
    float *weights = found + PRODUCTS * apart(room, f->out), tie = f->pooled ? tie_of(f, kernels) : 0;
    products_of_kernels(rounded, kernels, f->in, KERNEL * KERNEL, f->out, KERNEL * KERNEL * f->in, weights);
    for (long first = 0; first < all; first += room) {
        long tiles = least(room, all - first);
        products_of_inputs(f, rounded, given, first, tiles, seen);
        for (long p = 0; p < PRODUCTS; p++) {
            Left left = {seen + p * apart(tiles, f->in), f->in, 1, 0, 0};
            product(tiles, f->in, f->out, left, weights + p * apart(f->in, f->out), found + p * apart(tiles, f->out), 0);
        }
        outputs_of_products(f, rounded, found, bias, tie, first, tiles, made, kept);
    }
}

INLINE void backward(const Form *f, int rounded, const void *gradient, const uint8_t *kept, const void *given,
                     const float *kernels, void *of_given, float *of_kernels, float *of_bias, float *space) {
    long all = tiles_of(f), room = least(all, TOGETHER);
    float *seen = space, *found = seen + PRODUCTS * apart(room, f->in);
    float *weights = found + PRODUCTS * apart(room, f->out), *of_products = weights + PRODUCTS * apart(f->in, f->out);
    float *of_inputs = rounded ? of_products + PRODUCTS * apart(f->in, f->out) : of_given;
    if (of_given) {
        products_of_kernels(rounded, kernels, f->out, KERNEL * KERNEL * f->in, f->in, KERNEL * KERNEL, weights);
        memset(of_inputs, 0, given_of(f) * sizeof *of_inputs);
    }
    if (of_bias) memset(of_bias, 0, f->out * sizeof *of_bias);
    for (long first = 0; first < all; first += room) {
        long tiles = least(room, all - first);
        products_of_outputs(f, rounded, gradient, kept, first, tiles, found);
        if (of_bias) {
            /* In the second row and column of A are ones: this product has every output of its tile once. */
            const float *constants = found + (REACH + 1) * apart(tiles, f->out);
            for (long t = 0; t < tiles; t++, constants += f->out)
                for (long out = 0; out < f->out; out += WIDE)
                    store(of_bias + out, load(of_bias + out) + load(constants + out));
        }
        if (of_kernels) {
            products_of_inputs(f, rounded, given, first, tiles, seen);
            for (long p = 0; p < PRODUCTS; p++) {
                Left left = {seen + p * apart(tiles, f->in), 1, f->in, 0, 0};
                float *sums = of_products + p * apart(f->in, f->out);
                product(f->in, tiles, f->out, left, found + p * apart(tiles, f->out), sums, first > 0);
            }
        }
        if (of_given) {
            for (long p = 0; p < PRODUCTS; p++) {
                Left left = {found + p * apart(tiles, f->out), f->out, 1, 0, 0};
                const float *right = weights + p * apart(f->in, f->out);
                product(tiles, f->out, f->in, left, right, seen + p * apart(tiles, f->in), 0);
            }
            inputs_of_products(f, seen, first, tiles, of_inputs);
        }
    }
    if (of_kernels) kernels_of_products(f, of_products, of_kernels);
    if (of_given && rounded)
        for (long k = 0; k < given_of(f); k += WIDE) store_image(1, of_given, k, load(of_inputs + k));
}

/* Numbers that `filtered` and `filtered_back` write over. */
long filtered_space(const Form *f) {
    long room = least(tiles_of(f), TOGETHER);
    return PRODUCTS * (apart(room, f->in) + apart(room, f->out) + 2 * apart(f->in, f->out)) + given_of(f);
}

/* Images and kernels to `made`, [images, h, w, out]; to `kept`, as many bytes, where the gradient goes. There may be no
 * bias and no `kept`. Numbers of channels are multiples of 16. */
void filtered(const Form *f, const void *given, const float *kernels, const float *bias, void *made, uint8_t *kept,
              float *space) {
    if (f->rounded)
        forward(f, 1, given, kernels, bias, made, kept, space);
    else
        forward(f, 0, given, kernels, bias, made, kept, space);
}

/* The gradients of the images, of the kernels and of the bias, of that of `made`. Each of the three may be missing;
 * kernels belong to the first, images to the second. */
void filtered_back(const Form *f, const void *gradient, const uint8_t *kept, const void *given, const float *kernels,
                   void *of_given, float *of_kernels, float *of_bias, float *space) {
    if (f->rounded)
        backward(f, 1, gradient, kept, given, kernels, of_given, of_kernels, of_bias, space);
    else
        backward(f, 0, gradient, kept, given, kernels, of_given, of_kernels, of_bias, space);
}
