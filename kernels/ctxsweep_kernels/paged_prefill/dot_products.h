/* The inner loops of prefill over packed operands, in float or, where the processor multiplies pairs
 * of bfloat16 into float (AVX512-BF16), in bfloat16. `narrow` says which, and is a constant wherever
 * these are called: a unit is 32 bits, one float or two bfloat16. */
#ifndef CTXSWEEP_DOT_PRODUCTS_H
#define CTXSWEEP_DOT_PRODUCTS_H

#include "vectors.h"

#if LANES == 16 && defined(__AVX512BF16__) && defined(__AVX512DQ__)
#define HAS_NARROW 1
#else
#define HAS_NARROW 0
#endif

enum {
    TILE = 128, /* keys */
    /* Sums that fit the registers together: 24 of 32, or 8 of 16. */
    SCORE_ROWS = LANES == 16 ? 6 : 4,
    SCORE_VECTORS = LANES == 16 ? 4 : 2,
    BLOCK = 2 * SCORE_ROWS, /* rows that pass a tile together */
};

INLINE vf maximum(vf a, vf b)
{
#if LANES == 16
    return (vf)_mm512_max_ps((__m512)a, (__m512)b);
#else
    return larger(a, b);
#endif
}

INLINE float highest(vf x)
{
#if LANES == 16
    return _mm512_reduce_max_ps((__m512)x);
#else
    return largest(x);
#endif
}

/* 2^x for x <= 0 or NaN; to one unit in the last place, or as exact as bfloat16 can show it. */
INLINE vf power_of_2(int narrow, vf x)
{
#if LANES == 16 && defined(__AVX512DQ__)
    /* ln(2)^k / k!: the Taylor series of 2^r, |r| <= 1/2 */
    const float series[] = {1.52527338e-5f, 1.54035304e-4f, 1.33335581e-3f, 9.61812911e-3f,
                            5.55041087e-2f, 2.40226507e-1f, 6.93147181e-1f, 1.0f};
    vf r = (vf)_mm512_reduce_ps((__m512)x, 0), p = splat(series[narrow ? 3 : 0]);
    for (int k = narrow ? 4 : 1; k < 8; k++)
        p = p * r + splat(series[k]);
    return (vf)_mm512_scalef_ps((__m512)p, (__m512)(x - r));
#else
    return exponential(x * 0.693147181f);
#endif
}

/* A vector of floats as bfloat16, where there is any use for it. */
INLINE void put_narrow(void *at, vf x)
{
#if HAS_NARROW
    __m256bh narrow = _mm512_cvtneps_pbh((__m512)x);
    memcpy(at, &narrow, sizeof narrow);
#else
    (void)at, (void)x;
#endif
}

INLINE float float_of_bits(uint32_t bits)
{
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

/* sums + the products of one unit with a vector of units, those of a pair added up. */
INLINE vf multiply_add(int narrow, uint32_t unit, vf units, vf sums)
{
#if HAS_NARROW
    if (narrow)
        return (vf)_mm512_dpbf16_ps((__m512)sums, (__m512bh)_mm512_set1_epi32((int)unit),
                                    (__m512bh)units);
#endif
    return sums + splat(float_of_bits(unit)) * units;
}

/* scores [SCORE_ROWS, TILE] of q [SCORE_ROWS, units] and k [units, TILE], times `factor`. */
INLINE void score_tile(int narrow, const uint32_t *q, const uint32_t *k, int64_t units,
                       float factor, float *scores)
{
    for (int64_t t = 0; t < TILE; t += SCORE_VECTORS * LANES) {
        vf sums[SCORE_ROWS][SCORE_VECTORS] = {0};
        for (int64_t u = 0; u < units; u++) {
            vf keys[SCORE_VECTORS];
            for (int i = 0; i < SCORE_VECTORS; i++)
                keys[i] = get((const float *)k + u * TILE + t + i * LANES);
            for (int row = 0; row < SCORE_ROWS; row++)
                for (int i = 0; i < SCORE_VECTORS; i++)
                    sums[row][i] = multiply_add(narrow, q[row * units + u], keys[i], sums[row][i]);
        }
        for (int row = 0; row < SCORE_ROWS; row++)
            for (int i = 0; i < SCORE_VECTORS; i++)
                put(scores + row * TILE + t + i * LANES, sums[row][i] * factor);
    }
}

/* out [rows, stride] += weights [rows, width] . v [units, stride], some vectors of the columns. */
INLINE void weigh_columns(int narrow, int rows, int vectors, const uint32_t *weights,
                          const uint32_t *v, int64_t units, int64_t width, int64_t stride,
                          float *out)
{
    vf sums[BLOCK][SCORE_VECTORS] = {0};
    for (int64_t u = 0; u < units; u++) {
        vf values[SCORE_VECTORS];
        for (int i = 0; i < vectors; i++)
            values[i] = get((const float *)v + u * stride + i * LANES);
        for (int row = 0; row < rows; row++)
            for (int i = 0; i < vectors; i++)
                sums[row][i] = multiply_add(narrow, weights[row * width + u], values[i],
                                            sums[row][i]);
    }
    for (int row = 0; row < rows; row++)
        for (int i = 0; i < vectors; i++)
            put(out + row * stride + i * LANES,
                get(out + row * stride + i * LANES) + sums[row][i]);
}

/* out [BLOCK, stride] += weights [BLOCK, width] . v [units, stride]. */
INLINE void weigh_block(int narrow, const uint32_t *weights, const uint32_t *v, int64_t units,
                        int64_t width, int64_t stride, float *out)
{
    enum { HALF = SCORE_VECTORS / 2 };
    int64_t at = 0;
    for (; at + SCORE_VECTORS * LANES <= stride; at += SCORE_VECTORS * LANES)
        for (int row = 0; row < BLOCK; row += SCORE_ROWS)
            weigh_columns(narrow, SCORE_ROWS, SCORE_VECTORS, weights + row * width, v + at, units,
                          width, stride, out + row * stride + at);
    for (; at + HALF * LANES <= stride; at += HALF * LANES)
        weigh_columns(narrow, BLOCK, HALF, weights, v + at, units, width, stride, out + at);
    for (; at < stride; at += LANES)
        weigh_columns(narrow, BLOCK, 1, weights, v + at, units, width, stride, out + at);
}

/* Two vectors of weights, from the even key `at` on, into a row of units. */
INLINE void put_weights(int narrow, uint32_t *row, int64_t at, vf low, vf high)
{
#if HAS_NARROW
    if (narrow) {
        __m512bh both = _mm512_cvtne2ps_pbh((__m512)high, (__m512)low);
        memcpy((uint16_t *)row + at, &both, sizeof both);
        return;
    }
#endif
    put((float *)row + at, low);
    put((float *)row + at + LANES, high);
}

/* A weight of a row of units, and a value of packed v, one at a time. */
INLINE float packed_weight(int narrow, const uint32_t *row, int64_t at)
{
    return float_of_bits(narrow ? (uint32_t)((const uint16_t *)row)[at] << 16 : row[at]);
}

INLINE float packed_value(int narrow, const uint32_t *v, int64_t key, int64_t d, int64_t stride)
{
    if (!narrow)
        return float_of_bits(v[key * stride + d]);
    const uint16_t *pairs = (const uint16_t *)(v + key / 2 * stride);
    return float_of_bits((uint32_t)pairs[2 * d + key % 2] << 16);
}

#endif
