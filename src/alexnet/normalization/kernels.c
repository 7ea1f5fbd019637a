/* Local response normalization across channels and over positions, forward and backward, in one pass over memory.

   s = k + a · S(x²),   y = x · s^(−β),   dx = g · s^(−β) − 2 a β · x · Sᵀ(g · x · s^(−β−1))

   S sums over a window of neighbors, Sᵀ over those in whose window one is, which is the reversed window. Storage is
   float32 or bfloat16; all sums are float32. Each value is summed over its own neighbors in a fixed order, so results
   do not depend on the number of threads. */

#include <math.h>

#include "../kernels/kernels.h"

/* Values that are normalized at once: of an array, channels side by side, positions side by side; and how many such rows
   a task takes where they are independent. */
enum { BLOCK = 1024, PLANES = 32, POSITIONS = 512, BLOCKS = 16 };

/* A tensor as rows; windows reach over `high` of them. A row is `pieces` times `count` neighboring values of memory,
   and along it windows sum `wide` values: neighbors or, across pieces, those at the same place of the next ones. A task
   takes `rows` rows of a strip of the tensor, the last of which may be narrower. */
typedef struct {
    const void *g, *x; /* g is NULL in the forward pass */
    void *out;
    float a, beta, k;
    int bf16, relu, high, wide, across_pieces;
    long rows, strips;
    long row_step, piece_step, strip_step, outer_step; /* in memory */
    long count, all_values, values_per_strip;
    long pieces, all_pieces, pieces_per_strip, pieces_per_row;
} norm_t;

#define inverse_power OF_PROCESSOR(inverse_power)
#define window_sum OF_PROCESSOR(window_sum)
#define input OF_PROCESSOR(input)
#define fetch OF_PROCESSOR(fetch)
#define columns_of OF_PROCESSOR(columns_of)
#define norm_strip OF_PROCESSOR(norm_strip)
#define norm_task OF_PROCESSOR(norm_task)
#define KERNELS "../normalization/strip.h"
#include "../kernels/vectors.h"

static int run(const norm_t *n, long outer, int threads) {
    return in_parallel(CHOSEN(norm_task), n, outer * n->strips, threads);
}

static long parts(long whole, long part) { return (whole + part - 1) / part; }

/* Channels are normalized in `groups` groups. Channels last, x is (images, positions, channels), else (images,
   channels, positions). g is NULL in the forward pass. */
int response_norm(const void *g, const void *x, void *out, int bf16, int channels_last, long images, long channels,
                  long positions, long groups, int size, float a, float beta, float k, int relu, int threads) {
    norm_t n = {.g = g, .x = x, .out = out, .bf16 = bf16, .relu = relu, .a = a, .beta = beta, .k = k};
    channels /= groups;
    if (channels_last) { /* several positions are one row: of so few values, sums would wait for the squares */
        n.high = 1;
        n.wide = size;
        n.rows = BLOCKS;
        n.count = n.all_values = n.piece_step = channels;
        n.pieces = n.pieces_per_row = 1 + BLOCK / (channels + size);
        n.pieces_per_strip = n.rows * n.pieces;
        n.all_pieces = images * positions * groups;
        n.row_step = n.pieces * channels;
        n.strip_step = n.rows * n.row_step;
        n.strips = parts(n.all_pieces, n.pieces_per_strip);
        return run(&n, 1, threads);
    }
    n.high = size;
    n.wide = 1;
    n.rows = channels;
    n.row_step = n.all_values = positions;
    n.count = n.values_per_strip = n.strip_step = POSITIONS;
    n.pieces = n.all_pieces = 1;
    n.strips = parts(positions, POSITIONS);
    n.outer_step = channels * positions;
    return run(&n, images * groups, threads);
}

int spatial_norm(const void *g, const void *x, void *out, int bf16, int channels_last, long images, long channels,
                 long height, long width, int size, float a, float beta, float k, int threads) {
    norm_t n = {.g = g, .x = x, .out = out, .bf16 = bf16, .a = a, .beta = beta, .k = k, .high = size, .wide = size};
    n.rows = height;
    if (channels_last) {
        n.across_pieces = 1;
        n.pieces = n.all_pieces = width;
        n.piece_step = n.all_values = channels;
        n.count = n.values_per_strip = n.strip_step = PLANES;
        n.strips = parts(channels, PLANES);
        n.row_step = width * channels;
        n.outer_step = height * width * channels;
        return run(&n, images, threads);
    }
    n.count = n.all_values = n.row_step = width;
    n.pieces = n.pieces_per_strip = 1 + BLOCK / (width + size);
    n.all_pieces = images * channels;
    n.piece_step = height * width;
    n.strip_step = n.pieces * n.piece_step;
    n.strips = parts(n.all_pieces, n.pieces);
    return run(&n, 1, threads);
}
