/* Vectors of float32. Includes the file KERNELS once for each kind of processor, with a vector of its own size.

   In that file, `vec`, the functions below and the names that it defines by OF_PROCESSOR belong to one kind. Callers
   take CHOSEN(name). */

#include "kernels.h"

#define JOINED(name, processor) name##_##processor
#define JOIN(name, processor) JOINED(name, processor)
#define OF_PROCESSOR(name) JOIN(name, PROCESSOR)

#define vec OF_PROCESSOR(vec)
#define ints OF_PROCESSOR(ints)
#define shorts OF_PROCESSOR(shorts)
#define halves OF_PROCESSOR(halves)
#define copy OF_PROCESSOR(copy)
#define load OF_PROCESSOR(load)
#define store OF_PROCESSOR(store)
#define first_root OF_PROCESSOR(first_root)

#define FROM_HALVES(values) __builtin_convertvector(values, ints)
#define TO_HALVES(values) __builtin_convertvector(values, halves)
#define FROM_BYTES(values) __builtin_convertvector(values, shorts)
#define PROCESSOR any
#define LANES 4
#define TARGET
#include "lanes.h"
#include KERNELS

#if defined(__x86_64__)
#include <immintrin.h>

#undef PROCESSOR
#undef LANES
#undef TARGET
#define PROCESSOR avx2
#define LANES 8
#define TARGET __attribute__((target("avx2,fma")))
#define RSQRT(s) (vec) _mm256_rsqrt_ps((__m256)(s))
#define PAIR_SUMS(a, b) (ints) _mm256_madd_epi16((__m256i)(a), (__m256i)(b))
#include "lanes.h"
#include KERNELS

#undef PROCESSOR
#undef LANES
#undef TARGET
#undef RSQRT
#undef PAIR_SUMS
#undef FROM_HALVES /* GCC makes them of two parts each */
#undef TO_HALVES
#undef FROM_BYTES
#define FROM_HALVES(values) (ints) _mm512_cvtepu16_epi32((__m256i)(values))
#define TO_HALVES(values) (halves) _mm512_cvtepi32_epi16((__m512i)(values))
#define FROM_BYTES(values) (shorts) _mm512_cvtepi8_epi16((__m256i)(values))
#define PROCESSOR avx512
#define LANES 16
#define TARGET __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,fma")))
#define RSQRT(s) (vec) _mm512_rsqrt14_ps((__m512)(s))
#define PAIR_SUMS(a, b) (ints) _mm512_madd_epi16((__m512i)(a), (__m512i)(b))
#include "lanes.h"
#include KERNELS

#define CHOSEN(name) (processor() == AVX512 ? name##_avx512 : processor() == AVX2 ? name##_avx2 : name##_any)
#else
#define CHOSEN(name) name##_any
#endif
