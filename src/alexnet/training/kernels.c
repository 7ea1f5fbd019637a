/* The paper's update (section 5) in one pass over memory:  v ← m v − lr · weight_decay · w − lr · g,  w ← w + v. */

#include "../kernels/kernels.h"

enum { CHUNK = 65536 };

typedef struct {
    float *w, *v;
    const float *g;
    long count;
    float momentum, lr, weight_decay;
} update_t;

FOR_EACH_PROCESSOR
static int update_chunk(const void *task, long index) {
    const update_t *u = task;
    long start = index * CHUNK, count = u->count - start < CHUNK ? u->count - start : CHUNK;
    float *restrict w = u->w + start, *restrict v = u->v + start;
    const float *restrict g = u->g + start;
    float momentum = u->momentum, lr = u->lr, weight_decay = u->weight_decay;
    for (long i = 0; i < count; i++) {
        v[i] = momentum * v[i] - lr * weight_decay * w[i] - lr * g[i];
        w[i] += v[i];
    }
    return 1;
}

int paper_update(float *w, const float *g, float *v, long count, float momentum, float lr, float weight_decay,
                 int threads) {
    update_t u = {w, v, g, count, momentum, lr, weight_decay};
    return in_parallel(update_chunk, &u, (count + CHUNK - 1) / CHUNK, threads);
}
