/* Resizing with Pillow's fixed-point arithmetic, so that the pixels are Pillow's: weights with 22 fraction bits, first
   along the rows, rounded to 8 bits, then along the columns. */

#include "../../kernels/kernels.h"

enum { FRACTION_BITS = 22, ROWS = 16 };

typedef int32_t ints_t __attribute__((vector_size(4 * ROWS)));
typedef uint8_t bytes_t __attribute__((vector_size(ROWS)));

/* Through arrays, which compilers turn into the one instruction that exists for this. */
INLINE ints_t widened(const uint8_t *values) {
    int32_t wide[ROWS];
    ints_t result;
    for (int r = 0; r < ROWS; r++) wide[r] = values[r];
    memcpy(&result, wide, sizeof result);
    return result;
}

/* The integer part of each sum as a byte, clipped to 0 … 255. */
INLINE void store_bytes(uint8_t *to, ints_t sums) {
    int32_t wide[ROWS];
    sums >>= FRACTION_BITS;
    sums &= sums > 0;
    sums = (sums & (sums < 256)) | ((sums > 255) & 255);
    memcpy(wide, &sums, sizeof wide);
    for (int r = 0; r < ROWS; r++) to[r] = (uint8_t)wide[r];
}

/* The lower, or upper, halves of two vectors, interleaved. */
#if defined(__clang__)
#define INTERLEAVE(x, y, ...) __builtin_shufflevector(x, y, __VA_ARGS__)
#else
#define INTERLEAVE(x, y, ...) __builtin_shuffle(x, y, (bytes_t){__VA_ARGS__})
#endif
#define LOWER(x, y) INTERLEAVE(x, y, 0, 16, 1, 17, 2, 18, 3, 19, 4, 20, 5, 21, 6, 22, 7, 23)
#define UPPER(x, y) INTERLEAVE(x, y, 8, 24, 9, 25, 10, 26, 11, 27, 12, 28, 13, 29, 14, 30, 15, 31)

/* Transposes 16 × 16 bytes: four times, the first half of the rows is interleaved with the second. */
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

/* New pixel i sums taps[i] pixels from first[i]; there is room for max_taps weights per new pixel. */
typedef struct {
    const int32_t *first, *taps, *weights;
    long max_taps;
} filter_t;

/* Resizes ROWS rows to `side` pixels. In `transposed`, value i of all rows stands together, so that a vector holds one
   value of each. Rows are read and written in pieces of 16 bytes: up to 15 bytes beyond their ends. */
INLINE void resize_rows(const uint8_t *from, long row, uint8_t *to, long to_row, uint8_t *transposed, uint8_t *resized,
                        long side, const filter_t *across) {
    long left = across->first[0], right = across->first[side - 1] + across->taps[side - 1];
    ints_t half = {0};
    half += 1 << (FRACTION_BITS - 1);
    for (long i = 0; i < 3 * (right - left); i += ROWS) transpose(transposed + i * ROWS, ROWS, from + 3 * left + i, row);
    for (long x = 0; x < side; x++) {
        const uint8_t *values = transposed + (across->first[x] - left) * 3 * ROWS;
        ints_t red = half, green = half, blue = half;
        for (long t = 0; t < across->taps[x]; t++, values += 3 * ROWS) {
            int32_t weight = across->weights[x * across->max_taps + t];
            red += widened(values) * weight;
            green += widened(values + ROWS) * weight;
            blue += widened(values + 2 * ROWS) * weight;
        }
        store_bytes(resized + 3 * x * ROWS, red);
        store_bytes(resized + (3 * x + 1) * ROWS, green);
        store_bytes(resized + (3 * x + 2) * ROWS, blue);
    }
    for (long i = 0; i < 3 * side; i += ROWS) transpose(to + i, to_row, resized + i * ROWS, ROWS);
}

/* from: rows of `width` pixels; to: (side, side, 3). Runs on the caller's thread. */
FOR_EACH_PROCESSOR
int resize(const uint8_t *from, uint8_t *to, long width, long side, const int32_t *x_first, const int32_t *x_taps,
           const int32_t *x_weights, long x_max_taps, const int32_t *y_first, const int32_t *y_taps,
           const int32_t *y_weights, long y_max_taps) {
    filter_t across = {x_first, x_taps, x_weights, x_max_taps};
    long values = 3 * side, padded = values + ROWS, top = y_first[0], bottom = y_first[side - 1] + y_taps[side - 1];
    uint8_t *intermediate = malloc((bottom - top + ROWS) * padded);
    uint8_t *transposed = malloc((3 * width + ROWS) * ROWS), *resized = calloc(padded, ROWS);
    uint8_t *last = calloc(3 * width + ROWS, ROWS);
    int32_t *sums = malloc(values * sizeof(int32_t));
    int allocated = intermediate && transposed && resized && last && sums;
    for (long y = top; allocated && y < bottom; y += ROWS) {
        const uint8_t *rows = from + 3 * y * width;
        long row = 3 * width;
        if (y + ROWS >= bottom) { /* the memory behind the last rows is not ours to read */
            for (long r = 0; r < bottom - y; r++) memcpy(last + r * (row + ROWS), rows + r * row, row);
            rows = last;
            row += ROWS;
        }
        resize_rows(rows, row, intermediate + (y - top) * padded, padded, transposed, resized, side, &across);
    }
    for (long y = 0; allocated && y < side; y++) {
        for (long i = 0; i < values; i++) sums[i] = 1 << (FRACTION_BITS - 1);
        for (long t = 0; t < y_taps[y]; t++) {
            const uint8_t *row = intermediate + (y_first[y] + t - top) * padded;
            int32_t weight = y_weights[y * y_max_taps + t];
            for (long i = 0; i < values; i++) sums[i] += row[i] * weight;
        }
        for (long i = 0; i < values; i++) {
            int32_t value = sums[i] >> FRACTION_BITS;
            to[y * values + i] = (uint8_t)(value < 0 ? 0 : value > 255 ? 255 : value);
        }
    }
    free(intermediate);
    free(transposed);
    free(resized);
    free(last);
    free(sums);
    return allocated;
}
