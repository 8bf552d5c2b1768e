/* Vectors of numbers: how they are read, written and rounded. */

#pragma once

#include <stdint.h>
#include <string.h>
#if defined(__AVX512BF16__)
#include <immintrin.h>
#endif

#define INLINE static inline __attribute__((always_inline))

/* Numbers in a vector of the processor that this is compiled for. */
#if defined(__AVX512F__)
enum { WIDE = 16 };
#elif defined(__AVX__)
enum { WIDE = 8 };
#else
enum { WIDE = 4 };
#endif

typedef float vec __attribute__((vector_size(4 * WIDE)));
typedef int32_t ints __attribute__((vector_size(4 * WIDE)));
typedef uint32_t bits __attribute__((vector_size(4 * WIDE)));
typedef uint16_t shorts __attribute__((vector_size(2 * WIDE)));
typedef uint8_t bytes __attribute__((vector_size(WIDE)));

INLINE vec zeros(void) { return (vec){0}; }

INLINE vec same(float number) { return number - zeros(); }

INLINE vec load(const float *from) {
    vec found;
    memcpy(&found, from, sizeof found);
    return found;
}

INLINE void store(float *to, vec numbers) { memcpy(to, &numbers, sizeof numbers); }

INLINE vec where(ints mask, vec yes, vec no) { return (vec)(((ints)yes & mask) | ((ints)no & ~mask)); }

/* The larger ones; not a number where either is not. */
INLINE vec larger(vec a, vec b) { return where((a != a) | (a > b), a, b); }

INLINE float sum(vec numbers) {
    float found = 0;
    for (int k = 0; k < WIDE; k++) found += numbers[k];
    return found;
}

/* Numbers rounded to 8 significant bits, ties to even, as their upper shorts; what is not a number stays so. */
INLINE shorts bfloat16(vec numbers) {
#if defined(__AVX512BF16__)
    return (shorts)_mm512_cvtneps_pbh((__m512)numbers);
#else
    bits raw = (bits)numbers, nearest = (raw + 0x7fff + ((raw >> 16) & 1)) >> 16;
    bits found = (bits)where(numbers == numbers, (vec)nearest, (vec)((raw >> 16) | 0x40));
    return __builtin_convertvector(found, shorts);
#endif
}

INLINE vec from_bfloat16(shorts numbers) { return (vec)(__builtin_convertvector(numbers, bits) << 16); }

INLINE vec rounded_if(int rounded, vec numbers) { return rounded ? from_bfloat16(bfloat16(numbers)) : numbers; }

/* Numbers of an image, which is in bfloat16 or in float32, from its `at`-th on. */
INLINE vec load_image(int rounded, const void *image, long at) {
    if (!rounded) return load((const float *)image + at);
    shorts found;
    memcpy(&found, (const uint16_t *)image + at, sizeof found);
    return from_bfloat16(found);
}

INLINE void store_image(int rounded, void *image, long at, vec numbers) {
    if (!rounded) {
        store((float *)image + at, numbers);
        return;
    }
    shorts made = bfloat16(numbers);
    memcpy((uint16_t *)image + at, &made, sizeof made);
}

INLINE ints load_bytes(const uint8_t *from) {
    bytes found;
    memcpy(&found, from, sizeof found);
    /* In two steps: some compilers take a byte at a time in one. */
    return __builtin_convertvector(__builtin_convertvector(found, shorts), ints);
}

INLINE void store_bytes(uint8_t *to, ints numbers) {
    bytes made = __builtin_convertvector(numbers, bytes);
    memcpy(to, &made, sizeof made);
}
