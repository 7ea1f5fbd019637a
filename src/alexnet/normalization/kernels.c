/* Both response normalizations, forward and backward, in one pass over memory.

   s = k + a · S(x²),   y = x · s^(−β),   dx = g · s^(−β) − 2 a β · x · M(g · x · s^(−β−1))

   S sums over a window of neighbors, M over those in whose window one is: the same window mirrored. Both are sums of
   flat arrays shifted by a stride, over zeros at the borders, which every compiler turns into vector code. Storage is
   float32 or bfloat16; all sums are float32. A value depends on its own neighbors alone and is summed in a fixed order,
   so results do not depend on the number of threads. */

#include <math.h>

#include "../kernels/kernels.h"

/* At a time: places where those are contiguous, maps of a spatial window, values where channels are contiguous; and
   values that a thread takes. */
enum { PLACES = 128, MAPS = 32, TOGETHER = 1024, ELEMENTS = 16384 };

typedef struct {
    const void *g, *x; /* g is NULL in the forward pass */
    void *out;
    int bf16, size, relu;
    float a, beta, k;
    long outer, channels, inner; /* response: the tensor is (outer, channels, inner) */
    long height, width, place_stride, map_stride, rows_at_once;
} norm_t;

/* s^(−1/4) to within a few units of the last place, without the roots and divisions that would take most of the time:
   dividing the exponent by −4 gives the first digit, and each step of Newton's method for r⁻⁴ = s doubles the digits. */
INLINE float inverse_fourth_root(float s) {
    int32_t bits;
    float r;
    memcpy(&bits, &s, 4);
    bits = 0x4f584000 - (bits >> 2);
    memcpy(&r, &bits, 4);
    for (int step = 0; step < 3; step++) {
        float square = r * r;
        r *= 1.25f - 0.25f * s * (square * square);
    }
    return r;
}

/* s^(−β), and 1 / s for the backward pass, which is to be had on the way. */
INLINE float inverse_power(float s, float beta, float *inverse) {
    if (beta != 0.75f) {
        *inverse = 1 / s;
        return powf(s, -beta);
    }
    float r = inverse_fourth_root(s), square = r * r;
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

/* One stretch of `length` values whose neighbors are `stride` apart. `squares` has size · stride more than length and
   zeros around the middle, `shared` likewise; before · stride zeros come first. */
INLINE void stretch(const norm_t *n, float *restrict g, float *restrict x, float *restrict squares,
                    float *restrict shared, float *restrict out, long length, long stride, int size, float beta) {
    long before = size / 2 * stride, after = (size - 1 - size / 2) * stride;
    float a = n->a, k = n->k, factor = 2 * a * beta, inverse;
    if (n->relu)
        for (long i = 0; i < length; i++) x[i] = x[i] < 0 ? 0 : x[i];
    for (long i = 0; i < length; i++) squares[before + i] = x[i] * x[i];
    if (!g) {
        for (long i = 0; i < length; i++)
            out[i] = x[i] * inverse_power(k + a * window(squares + i, stride, size), beta, &inverse);
        return;
    }
    for (long i = 0; i < length; i++) {
        float scaled = g[i] * inverse_power(k + a * window(squares + i, stride, size), beta, &inverse);
        g[i] = scaled;
        shared[after + i] = scaled * x[i] * inverse;
    }
    for (long i = 0; i < length; i++) out[i] = g[i] - factor * x[i] * window(shared + i, stride, size);
    if (n->relu)
        for (long i = 0; i < length; i++) out[i] = x[i] <= 0 ? 0 : out[i];
}

/* Calls a function with the windows and the power of the family's networks as constants of its code, or as they are. */
#define WITH_CONSTANTS(n, call)                          \
    if ((n)->beta != 0.75f) call((n)->size, (n)->beta);  \
    else if ((n)->size == 3) call(3, 0.75f);             \
    else if ((n)->size == 5) call(5, 0.75f);             \
    else if ((n)->size == 9) call(9, 0.75f);             \
    else call((n)->size, 0.75f);

INLINE void any_stretch(const norm_t *n, float *g, float *x, float *squares, float *shared, float *out, long length,
                        long stride) {
#define STRETCH(size, beta) stretch(n, g, x, squares, shared, out, length, stride, size, beta)
    WITH_CONSTANTS(n, STRETCH)
}

/* Channels are contiguous: some of the `outer` rows. Several are done as one stretch with zeros between them, for a
   single row is so short that its squares would be read again before they have left the processor's store buffer. */
FOR_EACH_PROCESSOR
static void norm_rows(const void *task, long number) {
    const norm_t *n = task;
    long channels = n->channels, apart = channels + n->size - 1, together = 1 + TOGETHER / apart;
    long length = together * apart, padded = length + n->size;
    float *buffer = calloc(3 * length + 2 * padded, sizeof(float));
    float *x = buffer, *out = x + length, *squares = out + length, *shared = squares + padded;
    float *g = n->g ? shared + padded : NULL;
    long first = number * n->rows_at_once, last = first + n->rows_at_once;
    if (last > n->outer) last = n->outer;
    for (long row = first; row < last; row += together) {
        long rows = last - row < together ? last - row : together;
        for (long r = 0; r < rows; r++) {
            load(x + r * apart, n->x, (row + r) * channels, channels, n->bf16);
            if (g) load(g + r * apart, n->g, (row + r) * channels, channels, n->bf16);
        }
        any_stretch(n, g, x, squares, shared, out, rows * apart, 1);
        for (long r = 0; r < rows; r++) store(n->out, out + r * apart, (row + r) * channels, channels, n->bf16);
    }
    free(buffer);
}

/* Places are contiguous: one strip of all channels. */
FOR_EACH_PROCESSOR
static void norm_strip(const void *task, long number) {
    const norm_t *n = task;
    long channels = n->channels, strips = (n->inner + PLACES - 1) / PLACES;
    long place = number % strips * PLACES, start = number / strips * channels * n->inner + place;
    long places = n->inner - place < PLACES ? n->inner - place : PLACES;
    long length = channels * places, padded = length + n->size * places;
    float *buffer = calloc(3 * length + 2 * padded, sizeof(float));
    float *x = buffer, *out = x + length, *squares = out + length, *shared = squares + padded;
    float *g = n->g ? shared + padded : NULL;
    for (long c = 0; c < channels; c++) {
        load(x + c * places, n->x, start + c * n->inner, places, n->bf16);
        if (g) load(g + c * places, n->g, start + c * n->inner, places, n->bf16);
    }
    any_stretch(n, g, x, squares, shared, out, length, places);
    for (long c = 0; c < channels; c++) store(n->out, out + c * places, start + c * n->inner, places, n->bf16);
    free(buffer);
}

/* Sums of size × size windows of an array of rows, whose places lie MAPS apart and whose rows lie `row` apart; the
   first of each window is where its sum goes. `columns` holds a row, and zeros behind it. */
INLINE void windows(const float *restrict from, float *restrict columns, float *restrict to, long height, long row,
                    int size) {
    for (long h = 0; h < height; h++, from += row, to += row) {
        for (long i = 0; i < row; i++) columns[i] = window(from + i, row, size);
        for (long i = 0; i < row; i++) to[i] = window(columns + i, MAPS, size);
    }
}

/* Between a tensor and an array of rows of places of MAPS maps; a macro, since both directions are the same walk. */
#define WALK(count, stride, statement)                                                     \
    for (long h = 0; h < n->height; h++)                                                   \
        for (long w = 0; w < n->width; w++)                                                \
            for (long m = 0; m < (count); m++) {                                           \
                long at = h * row + w * MAPS + m;                                          \
                long index = start + (h * n->width + w) * n->place_stride + m * (stride);  \
                statement;                                                                 \
            }
#define WALK_EACH_WAY(statement)                  \
    if (n->map_stride == 1 && maps == MAPS)       \
        WALK(MAPS, 1, statement)                  \
    else                                          \
        WALK(maps, n->map_stride, statement)

INLINE void load_maps(const norm_t *n, float *restrict to, const void *from, long start, long maps, long row) {
    const float *restrict wide = from;
    const uint16_t *restrict narrow = from;
    if (n->bf16) {
        WALK_EACH_WAY(to[at] = from_bf16(narrow[index]))
    } else {
        WALK_EACH_WAY(to[at] = wide[index])
    }
}

INLINE void store_maps(const norm_t *n, const float *restrict from, void *to, long start, long maps, long row) {
    float *restrict wide = to;
    uint16_t *restrict narrow = to;
    if (n->bf16) {
        WALK_EACH_WAY(narrow[index] = to_bf16(from[at]))
    } else {
        WALK_EACH_WAY(wide[index] = from[at])
    }
}

/* MAPS maps of one image, or what is left of them, side by side, so that a vector holds one place of several maps. */
INLINE void maps_of_image(const norm_t *n, long number, int size, float beta) {
    long parts = (n->channels + MAPS - 1) / MAPS;
    long map = number % parts * MAPS, maps = n->channels - map < MAPS ? n->channels - map : MAPS;
    long start = number / parts * n->channels * n->height * n->width + map * n->map_stride;
    long row = (n->width + size - 1) * MAPS, length = n->height * row, padded = length + size * (row + MAPS);
    long before = size / 2 * (row + MAPS), after = (size - 1 - size / 2) * (row + MAPS);
    float a = n->a, k = n->k, factor = 2 * a * beta, inverse;
    float *buffer = calloc(3 * length + padded + row + size * MAPS, sizeof(float));
    float *restrict x = buffer, *restrict g = x + length, *restrict sums = g + length;
    float *restrict shared = sums + length, *restrict columns = shared + padded;

    load_maps(n, x, n->x, start, maps, row);
    for (long i = 0; i < length; i++) shared[before + i] = x[i] * x[i];
    windows(shared, columns, sums, n->height, row, size);
    if (!n->g) {
        for (long i = 0; i < length; i++) x[i] *= inverse_power(k + a * sums[i], beta, &inverse);
    } else {
        load_maps(n, g, n->g, start, maps, row);
        memset(shared, 0, padded * sizeof(float));
        for (long i = 0; i < length; i++) {
            g[i] *= inverse_power(k + a * sums[i], beta, &inverse);
            shared[after + i] = g[i] * x[i] * inverse;
        }
        windows(shared, columns, sums, n->height, row, size);
        for (long i = 0; i < length; i++) x[i] = g[i] - factor * x[i] * sums[i];
    }
    store_maps(n, x, n->out, start, maps, row);
    free(buffer);
}

FOR_EACH_PROCESSOR
static void norm_maps(const void *task, long number) {
    const norm_t *n = task;
#define MAPS_OF_IMAGE(size, beta) maps_of_image(n, number, size, beta)
    WITH_CONSTANTS(n, MAPS_OF_IMAGE)
}

/* `groups` parts of the channels do not see each other. channels_last: (places, channels), else (images, channels,
   places). g is NULL for the forward pass. */
void response_norm(const void *g, const void *x, void *out, int bf16, int channels_last, long images, long channels,
                   long places, long groups, int size, float a, float beta, float k, int relu, int threads) {
    norm_t n = {.g = g, .x = x, .out = out, .bf16 = bf16, .size = size, .relu = relu, .a = a, .beta = beta, .k = k};
    n.channels = channels / groups;
    if (channels_last) {
        n.outer = images * places * groups;
        n.rows_at_once = 1 + ELEMENTS / n.channels;
        in_parallel(norm_rows, &n, (n.outer + n.rows_at_once - 1) / n.rows_at_once, threads);
    } else {
        n.outer = images * groups;
        n.inner = places;
        in_parallel(norm_strip, &n, n.outer * ((places + PLACES - 1) / PLACES), threads);
    }
}

void spatial_norm(const void *g, const void *x, void *out, int bf16, int channels_last, long images, long channels,
                  long height, long width, int size, float a, float beta, float k, int threads) {
    norm_t n = {.g = g, .x = x, .out = out, .bf16 = bf16, .size = size, .a = a, .beta = beta, .k = k};
    n.channels = channels;
    n.height = height;
    n.width = width;
    n.place_stride = channels_last ? channels : 1;
    n.map_stride = channels_last ? 1 : height * width;
    in_parallel(norm_maps, &n, images * ((channels + MAPS - 1) / MAPS), threads);
}
