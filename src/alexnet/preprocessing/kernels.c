/* From stored images to what a network sees, in one pass: crop, mirror, subtract the mean, add a color, divide. */

#include "../kernels/kernels.h"

typedef struct {
    const uint8_t *images;  /* (·, side, side, 3) */
    const int64_t *numbers; /* which image each crop is cut from */
    const int64_t *top, *left;
    const uint8_t *mirrored;
    const float *mean;  /* one color; or (side, side, 3), cut at `mean_start`, or where the crop is */
    const float *color; /* (crops, 3), or NULL */
    const float *std;   /* (3) */
    void *out;          /* (crops, size, size, 3) */
    int bf16, mean_kind;
    long side, size, mean_start;
} crops_t;

enum { ONE_COLOR, CENTRAL, ALIGNED };

/* A row of pixels, from right to left where mirrored. */
#define ROW(type, name)                                                                  \
    INLINE void name(type *restrict to, const type *restrict from, long pixels, int mirrored) { \
        if (!mirrored) {                                                                 \
            memcpy(to, from, 3 * pixels * sizeof(type));                                 \
            return;                                                                      \
        }                                                                                \
        for (long i = 0; i < pixels; i++)                                                \
            for (int c = 0; c < 3; c++) to[3 * i + c] = from[3 * (pixels - 1 - i) + c];  \
    }
ROW(uint8_t, row_of_image)
ROW(float, row_of_mean)

FOR_EACH_PROCESSOR
static void one_crop(const void *task, long number) {
    const crops_t *t = task;
    long values = 3 * t->size, side = t->side;
    float *buffer = malloc(4 * values * sizeof(float) + values);
    float *restrict mean = buffer, *restrict color = mean + values, *restrict std = color + values;
    float *restrict out = std + values;
    uint8_t *restrict row = (uint8_t *)(out + values);
    for (long i = 0; i < values; i++) {
        std[i] = t->std[i % 3];
        color[i] = t->color ? t->color[3 * number + i % 3] : 0;
        mean[i] = t->mean[i % 3];
    }
    const uint8_t *image = t->images + t->numbers[number] * side * side * 3;
    long top = t->top[number], left = t->left[number];
    for (long y = 0; y < t->size; y++) {
        row_of_image(row, image + ((top + y) * side + left) * 3, t->size, t->mirrored[number]);
        if (t->mean_kind == CENTRAL)
            memcpy(mean, t->mean + ((t->mean_start + y) * side + t->mean_start) * 3, values * sizeof(float));
        else if (t->mean_kind == ALIGNED)
            row_of_mean(mean, t->mean + ((top + y) * side + left) * 3, t->size, t->mirrored[number]);
        for (long i = 0; i < values; i++) out[i] = ((float)row[i] - mean[i] + color[i]) / std[i];
        long start = (number * t->size + y) * values;
        if (t->bf16)
            for (long i = 0; i < values; i++) ((uint16_t *)t->out)[start + i] = to_bf16(out[i]);
        else
            memcpy((float *)t->out + start, out, values * sizeof(float));
    }
    free(buffer);
}

void crops(const uint8_t *images, const int64_t *numbers, const int64_t *top, const int64_t *left,
           const uint8_t *mirrored, const float *mean, const float *color, const float *std, void *out, int bf16,
           int mean_kind, long count, long side, long size, int threads) {
    crops_t t = {images, numbers, top,  left, mirrored,  mean, color,
                 std,    out,     bf16, mean_kind, side, size, (side - size) / 2};
    in_parallel(one_crop, &t, count, threads);
}
