/* Local response normalization across channels and over positions, forward and backward, in one pass over memory.

   s = k + a · S(x²),   y = x · s^(−β),   dx = g · s^(−β) − 2 a β · x · Sᵀ(g · x · s^(−β−1))

   S sums over a window of neighbors, Sᵀ over those in whose window one is, which is the reversed window. Both are sums
   of flat arrays shifted by a stride, with zeros at the borders, which every compiler vectorizes. Storage is float32
   or bfloat16; all sums are float32. Each value is summed over its own neighbors in a fixed order, so results do not
   depend on the number of threads. */

#include <float.h>
#include <math.h>

#include "../kernels/kernels.h"

/* Block sizes: positions (contiguous), channels (spatial window), values (channels last); and values per task. */
enum { POSITIONS = 128, PLANES = 32, BLOCK = 1024, ELEMENTS = 16384 };

typedef struct {
    const void *g, *x; /* g is NULL in the forward pass */
    void *out;
    int bf16, size, relu;
    float a, beta, k;
    long outer, channels, inner; /* across channels: the tensor is (outer, channels, inner) */
    long height, width, position_stride, plane_stride, rows_per_task;
} norm_t;

/* s^(−1/4) to within a few units in the last place, without the square roots and divisions that would take most of
   the time: dividing the exponent by −4 gives the first digit, and each step of Newton's method for r⁻⁴ = s doubles
   the digits. At infinity the steps diverge, so that 0 must be chosen, which costs a tenth of the time of a kernel. */
INLINE float inverse_fourth_root(float s, int finite) {
    int32_t bits;
    float r;
    memcpy(&bits, &s, 4);
    bits = 0x4f584000 - (bits >> 2);
    memcpy(&r, &bits, 4);
    for (int step = 0; step < 3; step++) {
        float square = r * r;
        r *= 1.25f - 0.25f * s * (square * square);
    }
    return !finite && s > FLT_MAX ? 0 : r;
}

/* s^(−β), and 1 / s for the backward pass, which is a by-product. */
INLINE float inverse_power(float s, float beta, int finite, float *inverse) {
    if (beta != 0.75f) {
        *inverse = 1 / s;
        return powf(s, -beta);
    }
    float r = inverse_fourth_root(s, finite), square = r * r;
    *inverse = square * square;
    return r * square;
}

INLINE void load(float *to, const void *from, long start, long count, int bf16) {
    if (bf16)
        for (long i = 0; i < count; i++) to[i] = from_bf16(((const uint16_t *)from)[start + i]);
    else
        memcpy(to, (const float *)from + start, count * sizeof(float));
}

INLINE void store(void *to, const float *from, long start, long count, int bf16) {
    if (bf16)
        for (long i = 0; i < count; i++) ((uint16_t *)to)[start + i] = to_bf16(from[i]);
    else
        memcpy((float *)to + start, from, count * sizeof(float));
}

/* Sum of `size` values, `stride` apart. */
INLINE float window(const float *restrict values, long stride, int size) {
    float sum = values[0];
    for (int j = 1; j < size; j++) sum += values[j * stride];
    return sum;
}

/* Squares of `length` values; whether sums of `count` of them are finite. */
INLINE int square(const norm_t *n, float *restrict squares, const float *restrict x, long length, long count) {
    int32_t largest = 0; /* positive floats are in the order of their bits, and behind them infinity and NaN */
    float bound;
    for (long i = 0; i < length; i++) {
        int32_t bits;
        squares[i] = x[i] * x[i];
        memcpy(&bits, &squares[i], 4);
        largest = bits > largest ? bits : largest;
    }
    memcpy(&bound, &largest, 4);
    return n->k + n->a * (float)count * bound <= FLT_MAX;
}

/* A loop with its constant FINITE, 1 if all sums are. */
#define LOOP(finite, statement)                        \
    {                                                  \
        enum { FINITE = finite };                      \
        for (long i = 0; i < length; i++) statement;   \
    }
#define FOR_EACH_VALUE(statement)      \
    if (finite)                        \
        LOOP(1, statement)             \
    else                               \
        LOOP(0, statement)

/* One row of `length` values whose neighbors are `stride` apart. `squares` and `terms` have size · stride more values
   than the row, zeros around it; the first before · stride are zeros. */
INLINE void normalize_row(const norm_t *n, float *restrict g, float *restrict x, float *restrict squares,
                          float *restrict terms, float *restrict out, long length, long stride, int size, float beta) {
    long before = size / 2 * stride, after = (size - 1 - size / 2) * stride;
    float a = n->a, k = n->k, factor = 2 * a * beta, inverse;
    if (n->relu)
        for (long i = 0; i < length; i++) x[i] = x[i] < 0 ? 0 : x[i];
    int finite = square(n, squares + before, x, length, size);
    if (!g) {
        FOR_EACH_VALUE(
            out[i] = x[i] * inverse_power(k + a * window(squares + i, stride, size), beta, FINITE, &inverse))
        return;
    }
    FOR_EACH_VALUE({
        float scaled = g[i] * inverse_power(k + a * window(squares + i, stride, size), beta, FINITE, &inverse);
        g[i] = scaled;
        terms[after + i] = scaled * x[i] * inverse;
    })
    for (long i = 0; i < length; i++) out[i] = g[i] - factor * x[i] * window(terms + i, stride, size);
    if (n->relu)
        for (long i = 0; i < length; i++) out[i] = x[i] <= 0 ? 0 : out[i];
}

/* Calls a function with compile-time constants for the window sizes and the power that the networks use. */
#define WITH_CONSTANTS(n, call)                          \
    if ((n)->beta != 0.75f) call((n)->size, (n)->beta);  \
    else if ((n)->size == 3) call(3, 0.75f);             \
    else if ((n)->size == 5) call(5, 0.75f);             \
    else if ((n)->size == 9) call(9, 0.75f);             \
    else call((n)->size, 0.75f);

INLINE void any_row(const norm_t *n, float *g, float *x, float *squares, float *terms, float *out, long length,
                    long stride) {
#define ROW(size, beta) normalize_row(n, g, x, squares, terms, out, length, stride, size, beta)
    WITH_CONSTANTS(n, ROW)
}

/* Channels last: some of the `outer` rows. Several become one row with zeros between them, because a single row is so
   short that its squares would be read again before they have left the processor's store buffer. */
FOR_EACH_PROCESSOR
static int norm_rows(const void *task, long task_index) {
    const norm_t *n = task;
    long channels = n->channels, pitch = channels + n->size - 1, rows_per_block = 1 + BLOCK / pitch;
    long length = rows_per_block * pitch, padded = length + n->size;
    float *buffer = calloc(3 * length + 2 * padded, sizeof(float));
    if (!buffer) return 0;
    float *x = buffer, *out = x + length, *squares = out + length, *terms = squares + padded;
    float *g = n->g ? terms + padded : NULL;
    long first = task_index * n->rows_per_task, last = first + n->rows_per_task;
    if (last > n->outer) last = n->outer;
    for (long row = first; row < last; row += rows_per_block) {
        long rows = last - row < rows_per_block ? last - row : rows_per_block;
        for (long r = 0; r < rows; r++) {
            load(x + r * pitch, n->x, (row + r) * channels, channels, n->bf16);
            if (g) load(g + r * pitch, n->g, (row + r) * channels, channels, n->bf16);
        }
        any_row(n, g, x, squares, terms, out, rows * pitch, 1);
        for (long r = 0; r < rows; r++) store(n->out, out + r * pitch, (row + r) * channels, channels, n->bf16);
    }
    free(buffer);
    return 1;
}

/* Contiguous: all channels of one strip of positions. */
FOR_EACH_PROCESSOR
static int norm_strip(const void *task, long task_index) {
    const norm_t *n = task;
    long channels = n->channels, strips = (n->inner + POSITIONS - 1) / POSITIONS;
    long position = task_index % strips * POSITIONS, start = task_index / strips * channels * n->inner + position;
    long positions = n->inner - position < POSITIONS ? n->inner - position : POSITIONS;
    long length = channels * positions, padded = length + n->size * positions;
    float *buffer = calloc(3 * length + 2 * padded, sizeof(float));
    if (!buffer) return 0;
    float *x = buffer, *out = x + length, *squares = out + length, *terms = squares + padded;
    float *g = n->g ? terms + padded : NULL;
    for (long c = 0; c < channels; c++) {
        load(x + c * positions, n->x, start + c * n->inner, positions, n->bf16);
        if (g) load(g + c * positions, n->g, start + c * n->inner, positions, n->bf16);
    }
    any_row(n, g, x, squares, terms, out, length, positions);
    for (long c = 0; c < channels; c++) store(n->out, out + c * positions, start + c * n->inner, positions, n->bf16);
    free(buffer);
    return 1;
}

/* Sums of size × size windows of an array of rows, whose positions are PLANES apart and whose rows are `row` apart; a
   sum is stored at the first position of its window. `columns` holds a row, and zeros behind it. */
INLINE void windows(const float *restrict from, float *restrict columns, float *restrict to, long height, long row,
                    int size) {
    for (long h = 0; h < height; h++, from += row, to += row) {
        for (long i = 0; i < row; i++) columns[i] = window(from + i, row, size);
        for (long i = 0; i < row; i++) to[i] = window(columns + i, PLANES, size);
    }
}

/* Copies between a tensor and an array of rows of positions of PLANES channels; a macro, for both directions. */
#define COPY(count, stride, statement)                                                          \
    for (long h = 0; h < n->height; h++)                                                        \
        for (long w = 0; w < n->width; w++)                                                     \
            for (long c = 0; c < (count); c++) {                                                \
                long packed = h * row + w * PLANES + c;                                         \
                long index = start + (h * n->width + w) * n->position_stride + c * (stride);    \
                statement;                                                                      \
            }
#define COPY_PLANES(statement)                           \
    if (n->plane_stride == 1 && planes == PLANES)        \
        COPY(PLANES, 1, statement)                       \
    else                                                 \
        COPY(planes, n->plane_stride, statement)

INLINE void load_planes(const norm_t *n, float *restrict to, const void *from, long start, long planes, long row) {
    const float *restrict wide = from;
    const uint16_t *restrict narrow = from;
    if (n->bf16) {
        COPY_PLANES(to[packed] = from_bf16(narrow[index]))
    } else {
        COPY_PLANES(to[packed] = wide[index])
    }
}

INLINE void store_planes(const norm_t *n, const float *restrict from, void *to, long start, long planes, long row) {
    float *restrict wide = to;
    uint16_t *restrict narrow = to;
    if (n->bf16) {
        COPY_PLANES(narrow[index] = to_bf16(from[packed]))
    } else {
        COPY_PLANES(wide[index] = from[packed])
    }
}

/* PLANES channels of one image, or the remaining ones, side by side, so that a vector holds one position of each. */
INLINE void planes_of_image(const norm_t *n, long task_index, int *done, int size, float beta) {
    long blocks = (n->channels + PLANES - 1) / PLANES;
    long plane = task_index % blocks * PLANES, planes = n->channels - plane < PLANES ? n->channels - plane : PLANES;
    long start = task_index / blocks * n->channels * n->height * n->width + plane * n->plane_stride;
    long row = (n->width + size - 1) * PLANES, length = n->height * row, padded = length + size * (row + PLANES);
    long before = size / 2 * (row + PLANES), after = (size - 1 - size / 2) * (row + PLANES);
    float a = n->a, k = n->k, factor = 2 * a * beta, inverse;
    float *buffer = calloc(3 * length + padded + row + size * PLANES, sizeof(float));
    if (!buffer) return;
    float *restrict x = buffer, *restrict g = x + length, *restrict sums = g + length;
    float *restrict terms = sums + length, *restrict columns = terms + padded;

    load_planes(n, x, n->x, start, planes, row);
    int finite = square(n, terms + before, x, length, (long)size * size);
    windows(terms, columns, sums, n->height, row, size);
    if (!n->g) {
        FOR_EACH_VALUE(x[i] *= inverse_power(k + a * sums[i], beta, FINITE, &inverse))
    } else {
        load_planes(n, g, n->g, start, planes, row);
        memset(terms, 0, padded * sizeof(float));
        FOR_EACH_VALUE({
            g[i] *= inverse_power(k + a * sums[i], beta, FINITE, &inverse);
            terms[after + i] = g[i] * x[i] * inverse;
        })
        windows(terms, columns, sums, n->height, row, size);
        for (long i = 0; i < length; i++) x[i] = g[i] - factor * x[i] * sums[i];
    }
    store_planes(n, x, n->out, start, planes, row);
    free(buffer);
    *done = 1;
}

FOR_EACH_PROCESSOR
static int norm_planes(const void *task, long task_index) {
    const norm_t *n = task;
    int done = 0; /* a return value would make GCC merge what should stay apart */
#define PLANES_OF_IMAGE(size, beta) planes_of_image(n, task_index, &done, size, beta)
    WITH_CONSTANTS(n, PLANES_OF_IMAGE)
    return done;
}

/* Channels are normalized in `groups` groups. Channels last, x is (images, positions, channels), else (images,
   channels, positions). g is NULL in the forward pass. */
int response_norm(const void *g, const void *x, void *out, int bf16, int channels_last, long images, long channels,
                  long positions, long groups, int size, float a, float beta, float k, int relu, int threads) {
    norm_t n = {.g = g, .x = x, .out = out, .bf16 = bf16, .size = size, .relu = relu, .a = a, .beta = beta, .k = k};
    n.channels = channels / groups;
    if (channels_last) {
        n.outer = images * positions * groups;
        n.rows_per_task = 1 + ELEMENTS / n.channels;
        return in_parallel(norm_rows, &n, (n.outer + n.rows_per_task - 1) / n.rows_per_task, threads);
    }
    n.outer = images * groups;
    n.inner = positions;
    return in_parallel(norm_strip, &n, n.outer * ((positions + POSITIONS - 1) / POSITIONS), threads);
}

int spatial_norm(const void *g, const void *x, void *out, int bf16, int channels_last, long images, long channels,
                 long height, long width, int size, float a, float beta, float k, int threads) {
    norm_t n = {.g = g, .x = x, .out = out, .bf16 = bf16, .size = size, .a = a, .beta = beta, .k = k};
    n.channels = channels;
    n.height = height;
    n.width = width;
    n.position_stride = channels_last ? channels : 1;
    n.plane_stride = channels_last ? 1 : height * width;
    return in_parallel(norm_planes, &n, images * ((channels + PLANES - 1) / PLANES), threads);
}
