/* Lanes, one after the other, through all that is to be done with each. */

#include "lanes.h"

/* Numbers that are written over on the way. */
long lanes_space(const Step *steps, long count) {
    long most = 0;
    for (long at = 0; at < count; at++) {
        long what = steps[at].what, needed = 0;
        if (what == FILTERED || what == FILTERED_BACK) needed = filtered_space(&steps[at].form);
        if (what == NARROW || what == NARROW_BACK) needed = narrow_space(&steps[at].form);
        if (needed > most) most = needed;
    }
    return most;
}

/* Lanes from `first` up to `last` through `count` steps. */
void lanes(const Step *steps, long count, long first, long last, float *space) {
    for (long lane = first; lane < last; lane++)
        for (const Step *step = steps; step < steps + count; step++) {
            const Form *f = &step->form;
            void *p[PARTS];
            for (int at = 0; at < PARTS; at++) p[at] = step->parts[at] ? step->parts[at] + lane * step->apart[at] : 0;
            switch (step->what) {
            case FILTERED: filtered(f, p[0], p[1], p[2], p[3], p[4], space); break;
            case FILTERED_BACK: filtered_back(f, p[0], p[1], p[2], p[3], p[4], p[5], p[6], space); break;
            case NARROW: narrow(f, p[0], p[1], p[2], p[3], p[4], space); break;
            case NARROW_BACK: narrow_back(f, p[0], p[1], p[2], p[3], p[4], p[5], p[6], space); break;
            case CHANNELS_FIRST: channels_first(f, p[0], p[1]); break;
            case CHANNELS_LAST: channels_last(f, p[0], p[1]); break;
            }
        }
}
