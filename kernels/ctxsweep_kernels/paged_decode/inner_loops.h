/* Scores and weighted values of one tile of keys, for every storage type. */
#ifndef CTXSWEEP_INNER_LOOPS_H
#define CTXSWEEP_INNER_LOOPS_H

#include "vectors.h"

enum {
    TILE = 64,                 /* tokens */
    ROWS = LANES == 8 ? 2 : 4, /* query rows whose sums fit the registers together */
    CACHE_LINE = 64,
};

/* What a thread works on: one tile of one KV head. Rows of K and V are found by pointer, in the
 * pages or, widened to float, in the thread's scratch. */
struct tile {
    int64_t count;
    const char *k[TILE], *v[TILE];
    int64_t position[TILE];
    float k_scale[TILE], v_scale[TILE];
};

/* Ask for a line of the next tile: the processor's own prefetchers stop at every 4 KiB, and the
 * order in which a tile is read here is not one that they follow. */
INLINE void prefetch(const char *at) { __builtin_prefetch(at, 0, 2); }

/* scores [rows][TILE]: q . k for all keys of a tile. Four keys at a time meet `rows` queries, so
 * that every load feeds several multiply-adds; add_pairs then sums across lanes. */
INLINE void scores_of(enum storage type, int rows, const char *const *k, int64_t count,
                      const char *const *next, const float *q, int64_t dim, float *scores)
{
    for (int64_t t = 0; t < count; t += LANES) {
        vf parts[ROWS][LANES / 4];
        for (int part = 0; part < LANES / 4; part++) {
            const char *const *key = k + t + 4 * part;
            vf sums[ROWS][4] = {0};
            for (int64_t d = 0; d < dim; d += LANES) {
                vf keys[4];
                for (int i = 0; i < 4; i++)
                    keys[i] = load(type, key[i], d);
                if (next && d * storage_bytes(type) % CACHE_LINE == 0)
                    for (int i = 0; i < 4; i++)
                        prefetch(next[t + 4 * part + i] + d * storage_bytes(type));
                for (int row = 0; row < rows; row++)
                    for (int i = 0; i < 4; i++)
                        sums[row][i] += get(q + row * dim + d) * keys[i];
            }
            for (int row = 0; row < rows; row++)
                parts[row][part] = add_pairs(add_pairs(sums[row][0], sums[row][1]),
                                             add_pairs(sums[row][2], sums[row][3]));
        }
        for (int row = 0; row < rows; row++) {
            for (int left = LANES / 4; left > 1; left /= 2)
                for (int i = 0; i < left / 2; i++)
                    parts[row][i] = add_pairs(parts[row][2 * i], parts[row][2 * i + 1]);
            put(scores + row * TILE + t, parts[row][0]);
        }
    }
}

/* out [rows][stride] += weights [rows][TILE] . v, `vectors` vectors of the head dimension. A tile
 * is summed from zero: sums of sums keep more digits than one long sum. */
INLINE void weigh_columns(enum storage type, int rows, int vectors, const char *const *v,
                          int64_t count, const char *const *next, const float *weights, int64_t at,
                          int64_t stride, float *out)
{
    vf sums[ROWS][4] = {0};
    for (int64_t t = 0; t < count; t++) {
        vf values[4];
        if (next)
            for (size_t byte = 0; byte < vectors * LANES * storage_bytes(type); byte += CACHE_LINE)
                prefetch(next[t] + at * storage_bytes(type) + byte);
        for (int i = 0; i < vectors; i++)
            values[i] = load(type, v[t], at + i * LANES);
        for (int row = 0; row < rows; row++)
            for (int i = 0; i < vectors; i++)
                sums[row][i] += weights[row * TILE + t] * values[i];
    }
    for (int row = 0; row < rows; row++)
        for (int i = 0; i < vectors; i++) {
            float *to = out + row * stride + at + i * LANES;
            put(to, get(to) + sums[row][i]);
        }
}

INLINE void weigh_values(enum storage type, int rows, const char *const *v, int64_t count,
                         const char *const *next, const float *weights, int64_t dim, float *out)
{
    int64_t at = 0;
    for (; at + 4 * LANES <= dim; at += 4 * LANES)
        weigh_columns(type, rows, 4, v, count, next, weights, at, dim, out);
    for (; at + 2 * LANES <= dim; at += 2 * LANES)
        weigh_columns(type, rows, 2, v, count, next, weights, at, dim, out);
    for (; at < dim; at += LANES)
        weigh_columns(type, rows, 1, v, count, next, weights, at, dim, out);
}

/* One compiled copy per storage type, so that nothing is decided inside a loop. */
#define FOR_EACH_ROW_COUNT(type, call)                                                             \
    if (rows == 1)                                                                                 \
        call(type, 1);                                                                             \
    else if (rows == 2)                                                                            \
        call(type, 2);                                                                             \
    else if (rows == ROWS)                                                                         \
        call(type, ROWS);
#define SPECIALISE(type)                                                                           \
    static void scores_##type(int rows, const struct tile *tile, const char *const *next,          \
                              const float *q, int64_t dim, float *scores)                          \
    {                                                                                              \
        FOR_EACH_ROW_COUNT(type, CALL_SCORES)                                                      \
    }                                                                                              \
    static void values_##type(int rows, const char *const *v, int64_t count,                       \
                              const char *const *next, const float *weights, int64_t dim,          \
                              float *out)                                                          \
    {                                                                                              \
        FOR_EACH_ROW_COUNT(type, CALL_VALUES)                                                      \
    }
#define CALL_SCORES(type, rows) scores_of(type, rows, tile->k, tile->count, next, q, dim, scores)
#define CALL_VALUES(type, rows) weigh_values(type, rows, v, count, next, weights, dim, out)
SPECIALISE(FLOAT32)
SPECIALISE(BFLOAT16)
SPECIALISE(FLOAT16)
SPECIALISE(FLOAT8_E4M3)
SPECIALISE(FLOAT8_E5M2)
SPECIALISE(INT8)

static const struct inner_loops {
    void (*scores)(int, const struct tile *, const char *const *, const float *, int64_t, float *);
    void (*values)(int, const char *const *, int64_t, const char *const *, const float *, int64_t,
                   float *);
} INNER_LOOPS[] = {
    {scores_FLOAT32, values_FLOAT32},         {scores_BFLOAT16, values_BFLOAT16},
    {scores_FLOAT16, values_FLOAT16},         {scores_FLOAT8_E4M3, values_FLOAT8_E4M3},
    {scores_FLOAT8_E5M2, values_FLOAT8_E5M2}, {scores_INT8, values_INT8},
};

#endif
