/* Vectors of float, as wide as this machine's registers, in the vector extensions that GCC and
 * Clang share; the same source is AVX-512, AVX2, NEON or plain SSE code. Everything that a cache
 * can store is widened to float on its way into a register. */
#ifndef CTXSWEEP_VECTORS_H
#define CTXSWEEP_VECTORS_H

#include <math.h>
#include <stdint.h>
#include <string.h>
#if defined(__x86_64__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

#if defined(__AVX512F__) && defined(__AVX512BW__)
#define LANES 16
#elif defined(__AVX2__)
#define LANES 8
#else
#define LANES 4
#endif

#define INLINE static inline __attribute__((always_inline))

typedef float vf __attribute__((vector_size(4 * LANES)));
typedef int32_t vi __attribute__((vector_size(4 * LANES)));
typedef uint16_t v16 __attribute__((vector_size(2 * LANES)));
typedef int8_t v8 __attribute__((vector_size(LANES)));

/* The order of STORAGE_DTYPES in paged_cache/storage.py. */
enum storage { FLOAT32, BFLOAT16, FLOAT16, FLOAT8_E4M3, FLOAT8_E5M2, INT8 };

INLINE size_t storage_bytes(enum storage type)
{
    return type == FLOAT32 ? 4 : type <= FLOAT16 ? 2 : 1;
}

/* e4m3 is widened 2^8 too small (see load): whoever uses the value multiplies by this. */
INLINE float storage_factor(enum storage type) { return type == FLOAT8_E4M3 ? 256.0f : 1.0f; }

INLINE vf splat(float x) { return x - (vf){0}; }

INLINE vf pick(vi mask, vf yes, vf no) { return (vf)(((vi)yes & mask) | ((vi)no & ~mask)); }

INLINE vf larger(vf a, vf b) { return pick(a > b, a, b); }

INLINE vf get(const float *at)
{
    vf x;
    memcpy(&x, at, sizeof x);
    return x;
}

INLINE void put(float *at, vf x) { memcpy(at, &x, sizeof x); }

/* Integers to wider integers. GCC 12 spells out __builtin_convertvector in halves or even byte by
 * byte, where x86 has one instruction. */
INLINE vi wide_from_u16(v16 x)
{
#if LANES == 16
    return (vi)_mm512_cvtepu16_epi32((__m256i)x);
#elif LANES == 8
    return (vi)_mm256_cvtepu16_epi32((__m128i)x);
#else
    return __builtin_convertvector(x, vi);
#endif
}

INLINE v16 u16_from_i8(v8 x)
{
#if LANES == 16
    return (v16)_mm256_cvtepi8_epi16((__m128i)x);
#elif LANES == 8
    return (v16)_mm_cvtepi8_epi16(_mm_cvtsi64_si128((long long)x));
#else
    return __builtin_convertvector(x, v16);
#endif
}

INLINE vi wide_from_i8(v8 x)
{
#if LANES == 16
    return (vi)_mm512_cvtepi8_epi32((__m128i)x);
#elif LANES == 8
    return (vi)_mm256_cvtepi8_epi32(_mm_cvtsi64_si128((long long)x));
#else
    typedef int16_t s16 __attribute__((vector_size(2 * LANES)));
    return __builtin_convertvector(__builtin_convertvector(x, s16), vi);
#endif
}

INLINE vf widen_half(v16 bits)
{
#if defined(__AVX512F__) && LANES == 16
    return (vf)_mm512_cvtph_ps((__m256i)bits);
#elif defined(__F16C__) && LANES == 8
    return (vf)_mm256_cvtph_ps((__m128i)bits);
#elif defined(__aarch64__)
    return (vf)vcvt_f32_f16((float16x4_t)bits);
#else /* Moved into float's fields the exponent is 2^112 too small; infinity and NaN keep theirs. */
    vi wide = wide_from_u16(bits), size = wide & 0x7fff;
    vf x = (vf)(size << 13) * splat(0x1p112f);
    return (vf)((vi)x | ((size >= 0x7c00) & 0x7f800000) | (wide & 0x8000) << 16);
#endif
}

/* LANES values from the element `at` of a row on; e4m3 comes out divided by storage_factor, and
 * its NaN as 480: a row that may hold one goes through widen_row. */
INLINE vf load(enum storage type, const void *row, size_t at)
{
    const char *from = (const char *)row + at * storage_bytes(type);
    v16 halves;
    v8 bytes;
    if (type == FLOAT32)
        return get((const float *)from);
    if (type == BFLOAT16 || type == FLOAT16) {
        memcpy(&halves, from, sizeof halves);
        return type == FLOAT16 ? widen_half(halves)
                               : (vf)(wide_from_u16(halves) << 16);
    }
    memcpy(&bytes, from, sizeof bytes);
    if (type == INT8)
        return __builtin_convertvector(wide_from_i8(bytes), vf);
    /* e5m2 is the upper byte of float16; e4m3's exponent has the bias 7 in place of 15. */
    halves = u16_from_i8(bytes);
    return widen_half(type == FLOAT8_E5M2 ? halves << 8 : (halves << 7) & 0xbfff);
}

INLINE int64_t rounded_up(int64_t x, int64_t to) { return (x + to - 1) / to * to; }
INLINE int64_t smaller(int64_t a, int64_t b) { return a < b ? a : b; }

/* A row of `dim` values as floats, and zeros up to `padded`, a multiple of LANES. */
INLINE void widen_row(enum storage type, const char *row, int64_t dim, int64_t padded, float *out)
{
    for (int64_t d = 0; d < padded; d += LANES) {
        char rest[4 * LANES] = {0};
        const char *from = row + d * storage_bytes(type);
        if (d + LANES > dim)
            from = memcpy(rest, from, (dim - d) * storage_bytes(type));
        vf x = load(type, from, 0);
        if (type == FLOAT8_E4M3) /* |x| = 480 / 256 stands for NaN */
            x = pick((vf)((vi)x & 0x7fffffff) == 1.875f, splat(NAN), x);
        put(out + d, x);
    }
}

/* Even lanes plus odd lanes of two vectors: repeated, lane i holds the sum of vector i. */
INLINE vf add_pairs(vf a, vf b)
{
#if defined(__clang__)
#define PICK(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define PICK(a, b, ...) __builtin_shuffle(a, b, (vi){__VA_ARGS__})
#endif
#if LANES == 16
    return PICK(a, b, 0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30) +
           PICK(a, b, 1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31);
#elif LANES == 8
    return PICK(a, b, 0, 2, 4, 6, 8, 10, 12, 14) + PICK(a, b, 1, 3, 5, 7, 9, 11, 13, 15);
#else
    return PICK(a, b, 0, 2, 4, 6) + PICK(a, b, 1, 3, 5, 7);
#endif
}

INLINE float sum(vf x)
{
    float total = 0;
    for (int lane = 0; lane < LANES; lane++)
        total += x[lane];
    return total;
}

INLINE float largest(vf x)
{
    float top = x[0];
    for (int lane = 1; lane < LANES; lane++)
        top = x[lane] > top ? x[lane] : top;
    return top;
}

/* e^x for x <= 88: 2^n times the Taylor series of the rest, |r| <= ln(2) / 2, to one unit in the
 * last place; exactly 0 below -87, NaN for NaN. */
INLINE vf exponential(vf x)
{
    const vf to_integer = splat(0x1.8p23f);
    vf n = x * splat(0x1.715476p0f) + to_integer - to_integer;
    vf r = x - n * splat(0x1.62e4p-1f) - n * splat(0x1.7f7d1cp-20f);
    vf p = splat(1.0f / 5040);
    const float factorials[] = {720, 120, 24, 6, 2, 1, 1};
    for (int k = 0; k < 7; k++)
        p = p * r + splat(1 / factorials[k]);
    vi power = (__builtin_convertvector(pick(x < -87.0f, splat(0), n), vi) + 127) << 23;
    return pick(x < -87.0f, splat(0), p * (vf)power);
}

/* tanh: from e^2x, and from its own series where that would cancel. */
INLINE vf hyperbolic_tangent(vf x)
{
    vf bounded = pick(x > 10.0f, splat(10), pick(x < -10.0f, splat(-10), x));
    vf whole = 1.0f - 2.0f / (exponential(2.0f * bounded) + 1.0f);
    vf square = x * x, p = splat(0);
    /* 2^2k (2^2k - 1) B_2k / (2k)!: the Taylor coefficients, enough for |x| < 0.4. */
    const float series[] = {-1382.0f / 155925, 62.0f / 2835, -17.0f / 315, 2.0f / 15, -1.0f / 3, 1};
    for (int k = 0; k < 6; k++)
        p = p * square + splat(series[k]);
    return pick(square < 0.16f, x * p, whole);
}

#endif
