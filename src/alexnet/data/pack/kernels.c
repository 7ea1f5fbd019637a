/* Resizing with Pillow's own whole-number arithmetic, so that it gives Pillow's pixels: weights of 22 bits after the
   point, first along the rows, rounded to 8 bits, then along the columns. */

#include "../../kernels/kernels.h"

enum { POINT = 22, ROWS = 16 };

typedef int32_t ints_t __attribute__((vector_size(4 * ROWS)));
typedef uint8_t bytes_t __attribute__((vector_size(ROWS)));

/* By way of arrays, which compilers turn into the one instruction that there is for it. */
INLINE ints_t widened(const uint8_t *values) {
    int32_t wide[ROWS];
    ints_t result;
    for (int r = 0; r < ROWS; r++) wide[r] = values[r];
    memcpy(&result, wide, sizeof result);
    return result;
}

/* What is left of the point, as a byte: 0 for what is below it, 255 for what is above. */
INLINE void store_bytes(uint8_t *to, ints_t sums) {
    int32_t wide[ROWS];
    sums >>= POINT;
    sums &= sums > 0;
    sums = (sums & (sums < 256)) | ((sums > 255) & 255);
    memcpy(wide, &sums, sizeof wide);
    for (int r = 0; r < ROWS; r++) to[r] = (uint8_t)wide[r];
}

/* The lower, or upper, halves of two vectors, taken in turns. */
#if defined(__clang__)
#define TURNS(x, y, ...) __builtin_shufflevector(x, y, __VA_ARGS__)
#else
#define TURNS(x, y, ...) __builtin_shuffle(x, y, (bytes_t){__VA_ARGS__})
#endif
#define LOWER(x, y) TURNS(x, y, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23)
#define UPPER(x, y) TURNS(x, y, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31)

/* Rows of 16 × 16 bytes become columns: four times, the first half of the rows is shuffled into the second. */
INLINE void transpose(uint8_t *to, long to_row, const uint8_t *from, long from_row) {
    bytes_t one[ROWS], other[ROWS];
    for (int r = 0; r < ROWS; r++) memcpy(&one[r], from + r * from_row, ROWS);
    for (int twice = 0; twice < 2; twice++) {
        for (int r = 0; r < ROWS / 2; r++) {
            other[2 * r] = LOWER(one[r], one[r + ROWS / 2]);
            other[2 * r + 1] = UPPER(one[r], one[r + ROWS / 2]);
        }
        for (int r = 0; r < ROWS / 2; r++) {
            one[2 * r] = LOWER(other[r], other[r + ROWS / 2]);
            one[2 * r + 1] = UPPER(other[r], other[r + ROWS / 2]);
        }
    }
    for (int r = 0; r < ROWS; r++) memcpy(to + r * to_row, &one[r], ROWS);
}

/* Which pixels each new one sums, and with what weights: taps[i] of them from first[i]; `most` weights are kept for
   each. */
typedef struct {
    const int32_t *first, *taps, *weights;
    long most;
} sums_t;

/* ROWS rows. Value i of all of them stands together in `turned`, so that a vector holds one value of each. All rows are
   read and written in pieces of 16 bytes: up to 15 bytes beyond their ends. */
INLINE void squeeze_rows(const uint8_t *from, long row, uint8_t *to, long to_row, uint8_t *turned, uint8_t *squeezed,
                         long side, const sums_t *across) {
    long left = across->first[0], right = across->first[side - 1] + across->taps[side - 1];
    ints_t half = {0};
    half += 1 << (POINT - 1);
    for (long i = 0; i < 3 * (right - left); i += ROWS) transpose(turned + i * ROWS, ROWS, from + 3 * left + i, row);
    for (long x = 0; x < side; x++) {
        const uint8_t *values = turned + (across->first[x] - left) * 3 * ROWS;
        ints_t red = half, green = half, blue = half;
        for (long t = 0; t < across->taps[x]; t++, values += 3 * ROWS) {
            int32_t weight = across->weights[x * across->most + t];
            red += widened(values) * weight;
            green += widened(values + ROWS) * weight;
            blue += widened(values + 2 * ROWS) * weight;
        }
        store_bytes(squeezed + 3 * x * ROWS, red);
        store_bytes(squeezed + (3 * x + 1) * ROWS, green);
        store_bytes(squeezed + (3 * x + 2) * ROWS, blue);
    }
    for (long i = 0; i < 3 * side; i += ROWS) transpose(to + i, to_row, squeezed + i * ROWS, ROWS);
}

/* from: rows of `width` pixels; to: (side, side, 3). Runs on the caller's thread. Gives 0 where memory is out. */
FOR_EACH_PROCESSOR
int resize(const uint8_t *from, uint8_t *to, long width, long side, const int32_t *x_first, const int32_t *x_taps,
           const int32_t *x_weights, long x_most, const int32_t *y_first, const int32_t *y_taps,
           const int32_t *y_weights, long y_most) {
    sums_t across = {x_first, x_taps, x_weights, x_most};
    long values = 3 * side, padded = values + ROWS, top = y_first[0], bottom = y_first[side - 1] + y_taps[side - 1];
    uint8_t *between = malloc((bottom - top + ROWS) * padded);
    uint8_t *turned = malloc((3 * width + ROWS) * ROWS), *squeezed = calloc(padded, ROWS);
    uint8_t *last = calloc(3 * width + ROWS, ROWS);
    int32_t *sums = malloc(values * sizeof(int32_t));
    int enough = between && turned && squeezed && last && sums;
    for (long y = top; enough && y < bottom; y += ROWS) {
        const uint8_t *rows = from + 3 * y * width;
        long row = 3 * width;
        if (y + ROWS >= bottom) { /* what lies behind the last rows is not ours to read */
            for (long r = 0; r < bottom - y; r++) memcpy(last + r * (row + ROWS), rows + r * row, row);
            rows = last;
            row += ROWS;
        }
        squeeze_rows(rows, row, between + (y - top) * padded, padded, turned, squeezed, side, &across);
    }
    for (long y = 0; enough && y < side; y++) {
        for (long i = 0; i < values; i++) sums[i] = 1 << (POINT - 1);
        for (long t = 0; t < y_taps[y]; t++) {
            const uint8_t *row = between + (y_first[y] + t - top) * padded;
            int32_t weight = y_weights[y * y_most + t];
            for (long i = 0; i < values; i++) sums[i] += row[i] * weight;
        }
        for (long i = 0; i < values; i++) {
            int32_t value = sums[i] >> POINT;
            to[y * values + i] = (uint8_t)(value < 0 ? 0 : value > 255 ? 255 : value);
        }
    }
    free(between);
    free(turned);
    free(squeezed);
    free(last);
    free(sums);
    return enough;
}
