/* Products of small matrices that lie in the processor's cache. */

#pragma once

#include "numbers.h"

/* A block of sums stays in registers: measured on 32 registers of 16 numbers, 6 by 4 vectors reach the processor's peak. */
#if defined(__AVX__) && !defined(__AVX512F__)
enum { ROWS = 6, COLUMNS = 2 };
#else
enum { ROWS = 6, COLUMNS = 4 };
#endif

/* Where the numbers of the left matrix lie: those of a row and of a depth, behind `at`; so many apart, or by a table. */
typedef struct {
    const float *at;
    long across, down;
    const long *rows, *depths;
} Left;

INLINE Left below(Left a, long rows) {
    if (a.rows)
        a.rows += rows;
    else
        a.at += rows * a.across;
    return a;
}

INLINE void block(int rows, int columns, long depth, Left a, const float *b, long wide, float *c, int more) {
    const float *starts[ROWS];
    vec sums[ROWS][COLUMNS];
    for (int r = 0; r < rows; r++) {
        starts[r] = a.at + (a.rows ? a.rows[r] : r * a.across);
        for (int j = 0; j < columns; j++) sums[r][j] = more ? load(c + r * wide + j * WIDE) : zeros();
    }
    for (long k = 0; k < depth; k++) {
        long at = a.depths ? a.depths[k] : k * a.down;
        vec row[COLUMNS];
        for (int j = 0; j < columns; j++) row[j] = load(b + k * wide + j * WIDE);
        for (int r = 0; r < rows; r++) {
            vec number = same(starts[r][at]);
            for (int j = 0; j < columns; j++) sums[r][j] += number * row[j];
        }
    }
    for (int r = 0; r < rows; r++)
        for (int j = 0; j < columns; j++) store(c + r * wide + j * WIDE, sums[r][j]);
}

INLINE void strip(int columns, long rows, long depth, Left a, const float *b, long wide, float *c, int more) {
    for (; rows >= ROWS; rows -= ROWS, a = below(a, ROWS), c += ROWS * wide)
        block(ROWS, columns, depth, a, b, wide, c, more);
    for (; rows >= 2; rows -= 2, a = below(a, 2), c += 2 * wide) block(2, columns, depth, a, b, wide, c, more);
    if (rows) block(1, columns, depth, a, b, wide, c, more);
}

/* To c, [rows, wide], the product of a, [rows, depth], and b, [depth, wide]; added to what is there if there is more. */
INLINE void product(long rows, long depth, long wide, Left a, const float *b, float *c, int more) {
    long at = 0;
    for (; at + COLUMNS * WIDE <= wide; at += COLUMNS * WIDE)
        strip(COLUMNS, rows, depth, a, b + at, wide, c + at, more);
    for (; at + 2 * WIDE <= wide; at += 2 * WIDE) strip(2, rows, depth, a, b + at, wide, c + at, more);
    for (; at < wide; at += WIDE) strip(1, rows, depth, a, b + at, wide, c + at, more);
}
