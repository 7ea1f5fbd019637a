/* From stored images to what a network sees, in one pass: crop, flip, subtract the mean, add a color, divide. */

#include "../kernels/kernels.h"

typedef struct {
    const uint8_t *images;  /* (·, side, side, 3) */
    const int64_t *indices; /* of the image that each crop is cut from */
    const int64_t *top, *left;
    const uint8_t *flipped;
    const float *mean;  /* by mean_kind: a color; (size, size, 3); or (side, side, 3), cropped like the image */
    const float *color; /* (crops, 3), or NULL */
    const float *std;   /* (3) */
    void *out;          /* (crops, size, size, 3) */
    int bf16, mean_kind;
    long side, size;
} crops_t;

enum { COLOR, FIXED, FOLLOWS_CROP };

/* A row of pixels, reversed if flipped. */
#define ROW(type, name)                                                                         \
    INLINE void name(type *restrict to, const type *restrict from, long pixels, int flipped) { \
        if (!flipped) {                                                                         \
            memcpy(to, from, 3 * pixels * sizeof(type));                                        \
            return;                                                                             \
        }                                                                                       \
        for (long i = 0; i < pixels; i++)                                                       \
            for (int c = 0; c < 3; c++) to[3 * i + c] = from[3 * (pixels - 1 - i) + c];         \
    }
ROW(uint8_t, image_row)
ROW(float, mean_row)

FOR_EACH_PROCESSOR
static int one_crop(const void *task, long crop) {
    const crops_t *t = task;
    long values = 3 * t->size, side = t->side;
    float *buffer = malloc(4 * values * sizeof(float) + values);
    if (!buffer) return 0;
    float *restrict mean = buffer, *restrict color = mean + values, *restrict std = color + values;
    float *restrict out = std + values;
    uint8_t *restrict row = (uint8_t *)(out + values);
    for (long i = 0; i < values; i++) {
        std[i] = t->std[i % 3];
        color[i] = t->color ? t->color[3 * crop + i % 3] : 0;
        mean[i] = t->mean[i % 3];
    }
    const uint8_t *image = t->images + t->indices[crop] * side * side * 3;
    long top = t->top[crop], left = t->left[crop];
    for (long y = 0; y < t->size; y++) {
        image_row(row, image + ((top + y) * side + left) * 3, t->size, t->flipped[crop]);
        if (t->mean_kind == FIXED)
            memcpy(mean, t->mean + y * values, values * sizeof(float));
        else if (t->mean_kind == FOLLOWS_CROP)
            mean_row(mean, t->mean + ((top + y) * side + left) * 3, t->size, t->flipped[crop]);
        for (long i = 0; i < values; i++) out[i] = ((float)row[i] - mean[i] + color[i]) / std[i];
        long start = (crop * t->size + y) * values;
        if (t->bf16)
            for (long i = 0; i < values; i++) ((uint16_t *)t->out)[start + i] = to_bf16(out[i]);
        else
            memcpy((float *)t->out + start, out, values * sizeof(float));
    }
    free(buffer);
    return 1;
}

int crops(const uint8_t *images, const int64_t *indices, const int64_t *top, const int64_t *left,
          const uint8_t *flipped, const float *mean, const float *color, const float *std, void *out, int bf16,
          int mean_kind, long count, long side, long size, int threads) {
    crops_t t = {images, indices, top, left, flipped, mean, color, std, out, bf16, mean_kind, side, size};
    return in_parallel(one_crop, &t, count, threads);
}
