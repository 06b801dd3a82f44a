/* Rotate new queries and keys, then write keys and values into their pages, token by token: what
 * paged_cache/storage.py says, in one pass. The angles of a token serve all its heads. */
#include <stdlib.h>

#include "pages.h"
#include "parallel.h"
#include "vectors.h"

enum { TOKENS_PER_TASK = 16 };

/* x [B, H, T, D] with any strides (in elements) but the last, which is 1. */
struct heads {
    const char *data;
    int64_t batch_stride, head_stride, token_stride, heads;
};

/* Mirrored by Job in c.py; shapes as in rope_append. */
struct job {
    struct heads q, k, v; /* q.heads 0: nothing to rotate */
    char *rotated;        /* [B, Hq, T, D] contiguous */
    char *pages;          /* [2, Hkv, P, page_size, D] */
    float *scales;        /* [2, Hkv, P, page_size], int8 only */
    const int32_t *table;
    const int64_t *starts;
    const float *inv_freq; /* [half] or NULL */
    int64_t batch, tokens, head_dim, half, page_count, page_size, table_width;
    float attention_factor;
    int32_t given, stored; /* enum storage */
    struct team team;
    int64_t bad_row, bad_page; /* where append() found a page missing */
};

struct plan {
    struct job *job;
    float *scratch; /* per thread: cos [half], sin [half], a row */
    int64_t scratch_floats, next_task, next_thread, tasks;
};

/* Angles in float32 as in transformers; their sine and cosine by Taylor series around the nearest
 * multiple of pi / 2, which float64 subtracts without loss up to millions of radians. */
static void turn(const struct job *job, int64_t position, float *cosine, float *sine)
{
    for (int64_t i = 0; i < job->half; i++) {
        double angle = (float)position * job->inv_freq[i];
        double quarters = angle * 0.63661977236758134 + 0x1.8p52 - 0x1.8p52;
        double r = angle - quarters * 1.5707963267948966, s = r * r;
        double c = 1 - s / 2 * (1 - s / 12 * (1 - s / 30 * (1 - s / 56 * (1 - s / 90))));
        double d = r * (1 - s / 6 * (1 - s / 20 * (1 - s / 42 * (1 - s / 72))));
        int quarter = (int)quarters & 3;
        double x = quarter & 1 ? -d : c, y = quarter & 1 ? c : d;
        cosine[i] = (float)(quarter & 2 ? -x : x) * job->attention_factor;
        sine[i] = (float)(quarter & 2 ? -y : y) * job->attention_factor;
    }
}

static void rotate(float *row, int64_t half, const float *cosine, const float *sine)
{
    for (int64_t i = 0; i < half; i++) {
        float a = row[i], b = row[i + half];
        row[i] = a * cosine[i] - b * sine[i];
        row[i + half] = b * cosine[i] + a * sine[i];
    }
}

INLINE uint32_t bits_of(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

INLINE float float_of(uint32_t bits)
{
    float x;
    memcpy(&x, &bits, sizeof x);
    return x;
}

/* A magnitude in a format of `digits` mantissa bits and exponent bias `bias`, rounded to nearest
 * even: float's own bits cut short, or, below the format's normal numbers, an addition whose last
 * place is the format's. */
INLINE uint32_t rounded(uint32_t magnitude, int digits, int bias)
{
    int cut = 23 - digits;
    uint32_t normal = (magnitude + (1u << (cut - 1)) - 1 + (magnitude >> cut & 1)) >> cut;
    float unit = float_of((uint32_t)(127 + bias - 1 + digits) << 23);
    uint32_t subnormal = bits_of(float_of(magnitude) * unit + 0x1p23f) - bits_of(0x1p23f);
    int is_normal = magnitude >= (uint32_t)(128 - bias) << 23;
    return is_normal ? normal - ((uint32_t)(127 - bias) << digits) : subnormal;
}

INLINE uint16_t to_bfloat16(float x)
{
    uint32_t bits = bits_of(x);
    return x == x ? (bits + 0x7fff + (bits >> 16 & 1)) >> 16 : 0x7fc0;
}

INLINE uint16_t to_float16(float x)
{
    uint32_t bits = bits_of(x), code = rounded(bits & 0x7fffffff, 10, 15);
    return (bits >> 16 & 0x8000) | (x == x ? (code < 0x7c00 ? code : 0x7c00) : 0x7e00);
}

INLINE uint8_t to_float8(float x, float most, int digits, int bias)
{
    uint32_t bits = bits_of(x), magnitude = bits & 0x7fffffff;
    magnitude = magnitude < bits_of(most) ? magnitude : bits_of(most);
    return x == x ? (bits >> 24 & 0x80) | rounded(magnitude, digits, bias) : 0x7f;
}

static void narrow_row(enum storage type, const float *x, int64_t dim, void *out)
{
    uint16_t *halves = out;
    uint8_t *bytes = out;
    if (type == FLOAT32)
        memcpy(out, x, dim * sizeof *x);
    else if (type == BFLOAT16)
        for (int64_t d = 0; d < dim; d++)
            halves[d] = to_bfloat16(x[d]);
    else if (type == FLOAT16)
        for (int64_t d = 0; d < dim; d++)
            halves[d] = to_float16(x[d]);
    else if (type == FLOAT8_E4M3)
        for (int64_t d = 0; d < dim; d++)
            bytes[d] = to_float8(x[d], 448, 3, 7);
    else if (type == FLOAT8_E5M2)
        for (int64_t d = 0; d < dim; d++)
            bytes[d] = to_float8(x[d], 57344, 2, 15);
}

/* int8 with the scale max|x| / 127, which it returns; a row with NaN has the scale NaN. */
static float quantise_row(const float *x, int64_t dim, int8_t *out)
{
    float most = 0;
    int has_nan = 0;
    for (int64_t d = 0; d < dim; d++) {
        float size = float_of(bits_of(x[d]) & 0x7fffffff);
        most = size > most ? size : most;
        has_nan |= x[d] != x[d];
    }
    float scale = most / 127 > 0x1p-126f ? most / 127 : 0x1p-126f;
    for (int64_t d = 0; d < dim; d++) {
        float code = x[d] / scale + 0x1.8p23f - 0x1.8p23f;
        code = code < 127 ? code : 127;
        out[d] = (int8_t)(int32_t)(code > -127 ? code : -127);
    }
    return has_nan ? NAN : scale;
}

/* Write one row at `token` of the pool; the value is first rounded to the dtype it was given in. */
static void store(const struct job *job, int64_t token, float *row, int64_t padded)
{
    char *to = job->pages + token * job->head_dim * storage_bytes(job->stored);
    if (job->given != FLOAT32) {
        narrow_row(job->given, row, job->head_dim, row + padded);
        widen_row(job->given, (const char *)(row + padded), job->head_dim, padded, row);
    }
    if (job->stored == INT8)
        job->scales[token] = quantise_row(row, job->head_dim, (int8_t *)to);
    else
        narrow_row(job->stored, row, job->head_dim, to);
}

static void take(const struct job *job, const struct heads *from, int64_t b, int64_t head,
                 int64_t t, int64_t padded, float *row)
{
    int64_t at = b * from->batch_stride + head * from->head_stride + t * from->token_stride;
    widen_row(job->given, from->data + at * storage_bytes(job->given), job->head_dim, padded, row);
}

static void append_token(const struct job *job, int64_t b, int64_t t, float *scratch)
{
    int64_t position = job->starts[b] + t, padded = rounded_up(job->head_dim, LANES);
    int64_t page = job->table[b * job->table_width + position / job->page_size];
    int64_t side = job->k.heads * job->page_count * job->page_size;
    int64_t slot = position % job->page_size;
    float *cosine = scratch, *sine = cosine + job->half, *row = sine + job->half;
    size_t row_bytes = job->head_dim * storage_bytes(job->given);
    turn(job, position, cosine, sine);
    for (int64_t head = 0; head < job->q.heads; head++) {
        int64_t at = (b * job->q.heads + head) * job->tokens + t;
        take(job, &job->q, b, head, t, padded, row);
        rotate(row, job->half, cosine, sine);
        narrow_row(job->given, row, job->head_dim, job->rotated + at * row_bytes);
    }
    for (int64_t head = 0; head < job->k.heads; head++) {
        int64_t token = (head * job->page_count + page) * job->page_size + slot;
        take(job, &job->k, b, head, t, padded, row);
        rotate(row, job->half, cosine, sine);
        store(job, token, row, padded);
        take(job, &job->v, b, head, t, padded, row);
        store(job, side + token, row, padded);
    }
}

static void work(void *data)
{
    struct plan *plan = data;
    int64_t tasks_per_row = plan->tasks / plan->job->batch;
    float *scratch = plan->scratch + next_task(&plan->next_thread) * plan->scratch_floats;
    for (int64_t task; (task = next_task(&plan->next_task)) < plan->tasks;) {
        int64_t t = task % tasks_per_row * TOKENS_PER_TASK;
        int64_t end = smaller(t + TOKENS_PER_TASK, plan->job->tokens);
        for (; t < end; t++)
            append_token(plan->job, task / tasks_per_row, t, scratch);
    }
}

enum outcome append(struct job *job)
{
    int64_t threads = job->team.start ? job->team.threads : 1;
    struct plan plan = {.job = job};
    plan.tasks = job->batch * ((job->tokens + TOKENS_PER_TASK - 1) / TOKENS_PER_TASK);
    plan.scratch_floats = 2 * (job->half + rounded_up(job->head_dim, LANES));
    for (int64_t b = 0; b < job->batch; b++) {
        int64_t last = (job->starts[b] + job->tokens - 1) / job->page_size;
        job->bad_row = b;
        job->bad_page = missing_page(job->table + b * job->table_width,
                                     job->starts[b] / job->page_size, last, job->page_count);
        if (job->bad_page >= 0)
            return NO_PAGE;
    }
    plan.scratch = malloc(threads * plan.scratch_floats * sizeof *plan.scratch);
    if (!plan.scratch)
        return NO_MEMORY;
    run_team(job->team, plan.tasks, work, &plan);
    free(plan.scratch);
    return DONE;
}
