/* The norms of a strip of a tensor, for one kind of processor; `kernels.c` includes this file. */

/* s^(−β), and 1 / s for the backward pass. At β = 0.75, the first root is corrected by what is missing from s · r⁴ = 1,
   unless four digits are enough and the processor gave them. */
INLINE TARGET vec inverse_power(vec s, float beta, int four_digits, vec *inverse) {
    if (beta != 0.75f) {
        vec power;
        for (int i = 0; i < LANES; i++) power[i] = powf(s[i], -beta);
        *inverse = 1 / s;
        return power;
    }
    ints is_finite = s != INFINITY; /* there, 0 · ∞ comes of the roots */
    vec root = first_root(s);
    if (!four_digits || LANES < 16) {
        vec d = 1 - s * (root * root) * (root * root);
        root += root * d * (0.25f + 0.15625f * d);
    }
    vec square = root * root, power = square * root;
    *inverse = square * square;
    *inverse = (vec)((ints)*inverse & is_finite);
    return (vec)((ints)power & is_finite);
}

/* Sums of `size` vectors, `step` apart. */
INLINE TARGET vec window_sum(const float *from, long step, int size) {
    vec sum = load(from, 0, LANES, 0);
    for (int j = 1; j < size; j++) sum += load(from, j * step, LANES, 0);
    return sum;
}

/* The statement for each vector of a row: where it is in the buffers and in memory, and how many values it has. The last
   one, which may have fewer, stands apart, so that the loop calls no function. */
#define EACH_VECTOR(row, ...)                                                                    \
    for (long p = 0, most = smaller(n.pieces, available - (row) * n.pieces_per_row); p < most; p++) {  \
        long here = margin + p * pitch, there = start + (row) * n.row_step + p * n.piece_step, end = here + count; \
        for (; end - here >= LANES; here += LANES, there += LANES) {                                   \
            enum { left = LANES };                                                                     \
            __VA_ARGS__                                                                                \
        }                                                                                              \
        long left = end - here;                                                                        \
        if (left) __VA_ARGS__                                                                            \
    }

INLINE TARGET vec input(const void *from, long start, long count, int bf16, int relu) {
    vec x = load(from, start, count, bf16);
    return relu ? (vec)((ints)x & ~(x < 0)) : x;
}

/* Rows that are not one behind the other in memory are not foreseen by the processor. */
INLINE TARGET void fetch(const void *from, long start, int bf16) {
    __builtin_prefetch((const char *)from + start * (bf16 ? sizeof(uint16_t) : sizeof(float)));
}

/* What windows along a row sum: the rows themselves or, if windows reach over several rows, sums over these. */
INLINE TARGET const float *columns_of(const float *restrict rows, float *restrict columns, long length, int high, int wide) {
    if (high == 1 || wide == 1) return rows;
    for (long i = 0; i < length; i += LANES) store(columns, window_sum(rows + i, length, high), i, LANES, 0);
    return columns;
}

/* The squares of the last `high` rows are kept and, behind them, row by row as their windows are complete, the terms of
   the gradient and the scaled g. */
INLINE TARGET int norm_strip(norm_t n, long task, int high, int wide, float beta, int bf16) {
    long strip = task % n.strips, start = task / n.strips * n.outer_step + strip * n.strip_step;
    long count = smaller(n.count, n.all_values - strip * n.values_per_strip);
    long available = n.all_pieces - strip * n.pieces_per_strip;
    long pitch = rounded_up(n.count + (n.across_pieces ? 0 : wide - 1), LANES), apart = n.across_pieces ? pitch : 1;
    long margin = rounded_up((wide - 1) * apart, LANES), length = n.pieces * pitch + 2 * margin;
    long above = high / 2, below = high - 1 - above, before = wide / 2 * apart, after = (wide - 1) * apart - before;
    long step = wide == 1 ? length : apart;
    int size = wide == 1 ? high : wide, has_g = n.g != NULL;
    float a = n.a, k = n.k, factor = 2 * a * beta;
    long kept = above + 1, buffers = 1 + high + (has_g ? high + kept : 0);
    void *allocated = calloc(buffers * length + 16, sizeof(float));
    if (!allocated) return 0;
    float *squares = (float *)(((uintptr_t)allocated + 63) / 64 * 64), *columns = squares + high * length;
    float *terms = columns + length, *scaled = terms + high * length;

    for (long row = 0; row < n.rows + below + (has_g ? above : 0); row++) {
        long middle = row - below, ready = middle - above; /* rows whose sums are complete, of squares and of terms */
        float *square = squares + row % high * length;
        if (row < n.rows)
            EACH_VECTOR(row, {
                vec x = input(n.x, there, left, bf16, n.relu);
                store(square, x * x, here, LANES, 0);
                if (high > 1) fetch(n.x, there + n.row_step, bf16);
            })
        else
            memset(square, 0, length * sizeof(float));
        if (middle < 0) continue;
        float *term = terms + middle % high * length, *scale = scaled + middle % kept * length;
        if (middle < n.rows) {
            const float *sums = columns_of(squares, columns, length, high, wide) - before;
            EACH_VECTOR(middle, {
                vec inverse, power = inverse_power(k + a * window_sum(sums + here, step, size), beta, bf16 && !has_g, &inverse);
                vec x = input(n.x, there, left, bf16, n.relu);
                if (has_g) {
                    power *= load(n.g, there, left, bf16);
                    if (high > 1) fetch(n.g, there + n.row_step, bf16);
                    store(scale, power, here, LANES, 0);
                    store(term, power * x * inverse, here, LANES, 0);
                } else {
                    store(n.out, power * x, there, left, bf16);
                }
            })
        } else {
            memset(term, 0, length * sizeof(float));
        }
        if (!has_g || ready < 0) continue;
        const float *sums = columns_of(terms, columns, length, high, wide) - after;
        scale = scaled + ready % kept * length;
        EACH_VECTOR(ready, {
            vec x = input(n.x, there, left, bf16, n.relu);
            vec dx = load(scale, here, LANES, 0) - factor * x * window_sum(sums + here, step, size);
            store(n.out, n.relu ? (vec)((ints)dx & ~(x <= 0)) : dx, there, left, bf16);
        })
    }
    free(allocated);
    return 1;
}

/* Functions with constants for the windows of the networks. */
#define STRIP(name, high, wide, beta, bf16)                                      \
    static TARGET int OF_PROCESSOR(name)(const norm_t *n, long task) {           \
        return norm_strip(*n, task, high, wide, beta, bf16);                     \
    }
#define STRIPS(bf16)                         \
    STRIP(along_3_##bf16, 1, 3, 0.75f, bf16)                \
    STRIP(along_5_##bf16, 1, 5, 0.75f, bf16)                \
    STRIP(along_9_##bf16, 1, 9, 0.75f, bf16)                \
    STRIP(over_3_##bf16, 3, 1, 0.75f, bf16)                 \
    STRIP(over_5_##bf16, 5, 1, 0.75f, bf16)                 \
    STRIP(both_3_##bf16, 3, 3, 0.75f, bf16)                 \
    STRIP(both_5_##bf16, 5, 5, 0.75f, bf16)                 \
    STRIP(other_##bf16, n->high, n->wide, n->beta, bf16)
STRIPS(0)
STRIPS(1)

static TARGET int norm_task(const void *task, long index) {
    const norm_t *n = task;
    int windows = n->beta == 0.75f ? 100 * n->high + n->wide : 0;
#define CASE(windows, name) \
    case windows: return n->bf16 ? OF_PROCESSOR(name##_1)(n, index) : OF_PROCESSOR(name##_0)(n, index);
    switch (windows) {
        CASE(103, along_3)
        CASE(105, along_5)
        CASE(109, along_9)
        CASE(301, over_3)
        CASE(501, over_5)
        CASE(303, both_3)
        CASE(505, both_5)
    }
    return n->bf16 ? OF_PROCESSOR(other_1)(n, index) : OF_PROCESSOR(other_0)(n, index);
}
