/* The paper's update (section 5) in one pass over memory:  v ← m v − rate · decay · w − rate · g,  w ← w + v. */

#include "../kernels/kernels.h"

enum { PART = 65536 };

typedef struct {
    float *w, *v;
    const float *g;
    long count;
    float momentum, rate, decay;
} update_t;

FOR_EACH_PROCESSOR
static void update_part(const void *task, long number) {
    const update_t *u = task;
    long start = number * PART, count = u->count - start < PART ? u->count - start : PART;
    float *restrict w = u->w + start, *restrict v = u->v + start;
    const float *restrict g = u->g + start;
    float momentum = u->momentum, rate = u->rate, decay = u->decay;
    for (long i = 0; i < count; i++) {
        v[i] = momentum * v[i] - rate * decay * w[i] - rate * g[i];
        w[i] += v[i];
    }
}

void paper_update(float *w, const float *g, float *v, long count, float momentum, float rate, float decay,
                  int threads) {
    update_t u = {w, v, g, count, momentum, rate, decay};
    in_parallel(update_part, &u, (count + PART - 1) / PART, threads);
}
