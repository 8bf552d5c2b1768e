/* The maps of minimal filtering, F(4x4, 3x3) of Lavin and Gray, "Fast algorithms for convolutional neural networks",
 * CVPR 2016: with their matrices B, G and A, a tile of outputs is A'[(G g G') * (B' d B)]A of its 6x6 inputs d and the
 * weights g, and every gradient is the transposed maps. `benchmark/lane_tiles.py` has the matrices as such.
 */

#pragma once

#include "numbers.h"

enum { SIDE = 4, REACH = 6, PRODUCTS = REACH * REACH, KERNEL = 3 };

/* A matrix times vectors that lie s apart, to others that lie t apart. */
typedef void Map(const vec *x, long s, vec *y, long t);

/* B'. */
INLINE void of_inputs(const vec *x, long s, vec *y, long t) {
    vec even = x[4 * s] - 4 * x[2 * s], odd = x[3 * s] - 4 * x[s];
    vec half = x[4 * s] - x[2 * s], twice = 2 * (x[3 * s] - x[s]);
    y[0] = 4 * x[0] - 5 * x[2 * s] + x[4 * s];
    y[t] = even + odd;
    y[2 * t] = even - odd;
    y[3 * t] = half + twice;
    y[4 * t] = half - twice;
    y[5 * t] = 4 * x[s] - 5 * x[3 * s] + x[5 * s];
}

/* B. */
INLINE void to_inputs(const vec *x, long s, vec *y, long t) {
    vec ones = x[s] + x[2 * s], twos = x[3 * s] + x[4 * s];
    vec one = x[s] - x[2 * s], two = 2 * (x[3 * s] - x[4 * s]);
    y[0] = 4 * x[0];
    y[t] = 4 * (x[5 * s] - one) - two;
    y[2 * t] = -5 * x[0] - 4 * ones - twos;
    y[3 * t] = one + two - 5 * x[5 * s];
    y[4 * t] = x[0] + ones + twos;
    y[5 * t] = x[5 * s];
}

/* A'. */
INLINE void to_outputs(const vec *x, long s, vec *y, long t) {
    vec ones = x[s] + x[2 * s], twos = x[3 * s] + x[4 * s];
    vec one = x[s] - x[2 * s], two = x[3 * s] - x[4 * s];
    y[0] = x[0] + ones + twos;
    y[t] = one + 2 * two;
    y[2 * t] = ones + 4 * twos;
    y[3 * t] = one + 8 * two + x[5 * s];
}

/* A. */
INLINE void of_outputs(const vec *x, long s, vec *y, long t) {
    vec even = x[0] + x[2 * s], odd = x[s] + x[3 * s];
    vec far = x[0] + 4 * x[2 * s], farther = 2 * x[s] + 8 * x[3 * s];
    y[0] = x[0];
    y[t] = even + odd;
    y[2 * t] = even - odd;
    y[3 * t] = far + farther;
    y[4 * t] = far - farther;
    y[5 * t] = x[3 * s];
}

/* Products by the reciprocals of numbers take a tenth of the time of quotients. */
#define OVER(number) (1.0f / (number))

/* G. */
INLINE void of_weights(const vec *x, long s, vec *y, long t) {
    vec even = (x[0] + x[2 * s]) * OVER(6), odd = x[s] * OVER(6);
    vec far = (x[0] + 4 * x[2 * s]) * OVER(24), farther = x[s] * OVER(12);
    y[0] = x[0] * OVER(4);
    y[t] = -even - odd;
    y[2 * t] = odd - even;
    y[3 * t] = far + farther;
    y[4 * t] = far - farther;
    y[5 * t] = x[2 * s];
}

/* G'. */
INLINE void to_weights(const vec *x, long s, vec *y, long t) {
    vec ones = (x[s] + x[2 * s]) * OVER(6), twos = x[3 * s] + x[4 * s];
    y[0] = x[0] * OVER(4) - ones + twos * OVER(24);
    y[t] = (x[2 * s] - x[s]) * OVER(6) + (x[3 * s] - x[4 * s]) * OVER(12);
    y[2 * t] = twos * OVER(6) - ones + x[5 * s];
}

/* y, [to, to], is the map of every column of x, [from, from], and then of every row. */
INLINE void both_ways(Map map, int from, int to, const vec *x, vec *y) {
    vec half[PRODUCTS];
    for (int column = 0; column < from; column++) map(x + column, from, half + column, from);
    for (int row = 0; row < to; row++) map(half + row * from, 1, y + row * to, 1);
}
