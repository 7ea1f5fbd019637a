/* Products with few rows for one kind of processor; `kernels.c` includes this file. */

/* Fetches what is AHEAD of a weight in its row or, near the end, in its row of the next tile. */
INLINE TARGET void fetch(const rows_t *t, long at, long i, int outputs, long bytes) {
    if (i + AHEAD / bytes >= t->inputs) at += (outputs - 1) * t->inputs;
    __builtin_prefetch((const char *)t->weight + at * bytes + AHEAD);
}

INLINE TARGET void bf16_tile(const rows_t *t, long output, long row, int outputs, int rows) {
    const float *x = (const float *)t->x + row * t->inputs;
    long first = output * t->inputs, whole = t->inputs / LANES * LANES;
    vec sums[TILE][TILE] = {{{0}}};
#define ADD_PRODUCTS(count)                                                              \
    for (int o = 0; o < outputs; o++) {                                                  \
        long at = first + o * t->inputs + i;                                             \
        vec weights = load(t->weight, at, count, 1);                                     \
        fetch(t, at, i, outputs, sizeof(uint16_t));                                      \
        for (int r = 0; r < rows; r++) sums[o][r] += weights * load(x, r * t->inputs + i, count, 0); \
    }
    long i = 0;
    for (; i < whole; i += LANES) ADD_PRODUCTS(LANES)
    if (i < t->inputs) ADD_PRODUCTS(t->inputs - i)
    for (int o = 0; o < outputs; o++)
        for (int r = 0; r < rows; r++) {
            float sum = 0;
            for (int lane = 0; lane < LANES; lane++) sum += sums[o][r][lane];
            ((float *)t->sums)[(row + r) * t->outputs + output + o] = sum;
        }
}

INLINE TARGET void int8_tile(const rows_t *t, long output, long row, int outputs, int rows) {
    const int16_t *x = (const int16_t *)t->x + row * t->inputs;
    const int8_t *weight = (const int8_t *)t->weight + output * t->inputs;
    int32_t *to = (int32_t *)t->sums + row * t->outputs + output;
    long i = 0;
#ifdef PAIR_SUMS
    ints sums[TILE][TILE] = {{{0}}};
    for (; i + 2 * LANES <= t->inputs; i += 2 * LANES)
        for (int o = 0; o < outputs; o++) {
            int8_t bytes __attribute__((vector_size(2 * LANES)));
            memcpy(&bytes, weight + o * t->inputs + i, sizeof bytes);
            fetch(t, (output + o) * t->inputs + i, i, outputs, 1);
            shorts weights = FROM_BYTES(bytes);
            for (int r = 0; r < rows; r++) {
                shorts values;
                memcpy(&values, x + r * t->inputs + i, sizeof values);
                sums[o][r] += PAIR_SUMS(weights, values);
            }
        }
#endif
    for (int o = 0; o < outputs; o++)
        for (int r = 0; r < rows; r++) {
            int32_t sum = 0;
            for (long j = i; j < t->inputs; j++) sum += weight[o * t->inputs + j] * x[r * t->inputs + j];
#ifdef PAIR_SUMS
            for (int lane = 0; lane < LANES; lane++) sum += sums[o][r][lane];
#endif
            to[r * t->outputs + o] = sum;
        }
}

INLINE TARGET void some_outputs(const rows_t *t, long output, int outputs, int int8) {
    long row = 0;
#define TILES(rows_at_once)                                          \
    for (; row + rows_at_once <= t->rows; row += rows_at_once) {     \
        if (int8)                                                    \
            int8_tile(t, output, row, outputs, rows_at_once);        \
        else                                                         \
            bf16_tile(t, output, row, outputs, rows_at_once);        \
    }
    TILES(TILE)
    TILES(1)
}

static TARGET int rows_task(const void *task, long index) {
    const rows_t *t = task;
    long output = index * OUTPUTS, end = smaller(output + OUTPUTS, t->outputs);
#define ALL_OUTPUTS(int8)                                                                    \
    for (; output + TILE <= end; output += TILE) some_outputs(t, output, TILE, int8);        \
    for (; output < end; output++) some_outputs(t, output, 1, int8);
    if (t->int8) {
        ALL_OUTPUTS(1)
    } else {
        ALL_OUTPUTS(0)
    }
    return 1;
}
