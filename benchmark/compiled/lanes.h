/* What a lane can go through: one part of it for each, the others below. */

#pragma once

#include "form.h"

long filtered_space(const Form *f);
void filtered(const Form *f, const void *given, const float *kernels, const float *bias, void *made, uint8_t *kept,
              float *space);
void filtered_back(const Form *f, const void *gradient, const uint8_t *kept, const void *given, const float *kernels,
                   void *of_given, float *of_kernels, float *of_bias, float *space);

long narrow_space(const Form *f);
void narrow(const Form *f, const float *given, const float *kernels, const float *bias, void *made, uint8_t *kept,
            float *space);
void narrow_back(const Form *f, const void *gradient, const uint8_t *kept, const float *given, const float *kernels,
                 float *of_given, float *of_kernels, float *of_bias, float *space);

void channels_first(const Form *f, const void *made, float *to);
void channels_last(const Form *f, void *made, const float *from);

/* A function above: its place in this list, what it works on, and where its arguments lie; those of the next lane lie
 * so many bytes behind. Some may be missing. */
enum { FILTERED, FILTERED_BACK, NARROW, NARROW_BACK, CHANNELS_FIRST, CHANNELS_LAST };
enum { PARTS = 7 };

typedef struct {
    long what;
    Form form;
    char *parts[PARTS];
    long apart[PARTS];
} Step;

long lanes_space(const Step *steps, long count);
void lanes(const Step *steps, long count, long first, long last, float *space);
