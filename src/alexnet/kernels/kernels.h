/* What the kernels share: 16-bit floats, threads, and versions for several processors. */

#ifndef ALEXNET_KERNELS_H
#define ALEXNET_KERNELS_H

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define INLINE static inline __attribute__((always_inline))

/* Compiles a function for each of these processors; the dynamic loader picks one when the library is opened. */
#if defined(__x86_64__) && defined(__GLIBC__)
#define FOR_EACH_PROCESSOR __attribute__((target_clones("avx512f", "avx2", "default")))
#else
#define FOR_EACH_PROCESSOR
#endif

/* Calls work(task, index) once for each index 0 … count - 1, on up to `threads` threads. Both return 0 if they were out
   of memory, as do all functions that Python calls. */
typedef int (*work_t)(const void *task, long index);
int in_parallel(work_t work, const void *task, long count, int threads);

/* The kind of processor whose kernels run. The environment variable ATEN_CPU_CAPABILITY (default, avx2), which torch
   obeys, limits it. */
enum { ANY, AVX2, AVX512 };
int processor(void);

INLINE long smaller(long a, long b) { return a < b ? a : b; }
INLINE long rounded_up(long value, long step) { return (value + step - 1) / step * step; }

INLINE float from_bf16(uint16_t bits) {
    uint32_t wide = (uint32_t)bits << 16;
    float value;
    memcpy(&value, &wide, 4);
    return value;
}

/* Rounds to nearest, ties to even, as torch does. */
INLINE uint16_t to_bf16(float value) {
    uint32_t bits;
    memcpy(&bits, &value, 4);
    uint32_t rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
    return (bits & 0x7fffffff) > 0x7f800000 ? 0x7fc0 : (uint16_t)rounded; /* NaN stays NaN */
}

#endif
