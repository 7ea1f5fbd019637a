/* Vectors of LANES values for the processor TARGET; `vectors.h` includes this file. */

typedef float vec __attribute__((vector_size(4 * LANES)));
typedef int32_t ints __attribute__((vector_size(4 * LANES)));
typedef int16_t shorts __attribute__((vector_size(4 * LANES)));
typedef uint16_t halves __attribute__((vector_size(2 * LANES)));

/* Copies LANES values, or fewer. All lengths are constants, so that no function is called. */
INLINE TARGET void copy(void *to, const void *from, long count, size_t bytes) {
    if (count >= LANES) {
        memcpy(to, from, LANES * bytes);
        return;
    }
    for (long part = LANES / 2, done = 0; part; part /= 2)
        if (count & part) {
            memcpy((char *)to + done * bytes, (const char *)from + done * bytes, part * bytes);
            done += part;
        }
}

/* The values from `start` on; if there are fewer than LANES, zeros follow. */
INLINE TARGET vec load(const void *from, long start, long count, int bf16) {
    if (bf16) {
        halves narrow = {0};
        copy(&narrow, (const uint16_t *)from + start, count, sizeof(uint16_t));
        return (vec)(FROM_HALVES(narrow) << 16);
    }
    vec values = {0};
    copy(&values, (const float *)from + start, count, sizeof(float));
    return values;
}

INLINE TARGET void store(void *to, vec values, long start, long count, int bf16) {
    if (bf16) {
        ints bits = (ints)values, nan = values != values;
        ints rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
        halves narrow = TO_HALVES((rounded & ~nan) | (nan & 0x7fc0));
        copy((uint16_t *)to + start, &narrow, count, sizeof(uint16_t));
    } else {
        copy((float *)to + start, &values, count, sizeof(float));
    }
}

/* s^(−1/4), for s > 0 to within a relative error of 0.0006. */
INLINE TARGET vec first_root(vec s) {
#ifdef RSQRT
    vec root = RSQRT(s);
    return root * RSQRT(root);
#else
    /* Dividing the exponent by −4 gives the first digit, and each step of Newton's method for r⁻⁴ = s doubles them. */
    vec r = (vec)(0x4f584000 - ((ints)s >> 2));
    r *= 1.25f - 0.25f * s * (r * r) * (r * r);
    return r * (1.25f - 0.25f * s * (r * r) * (r * r));
#endif
}
