/* What prefill works on: the call, a task's part of it, and tiles of keys and values packed for the
 * inner loops. */
#ifndef CTXSWEEP_PACKING_H
#define CTXSWEEP_PACKING_H

#include "attention_job.h"
#include "dot_products.h"

struct plan {
    struct job *job;
    int64_t units;  /* 32-bit units of a packed row: a float, or two bfloat16 */
    int64_t padded; /* D rounded up to whole vectors */
    int64_t part_tokens, parts, rows; /* rows: of a part, rounded up to whole blocks */
    char *scratch;                    /* per thread */
    int64_t scratch_bytes, next_task, next_thread, tasks;
};

/* What a thread holds of its task. */
struct part {
    const struct plan *plan;
    int64_t row, head, first, rows; /* sequence; KV head; position of the first query; real rows */
    const float *slopes;
    uint32_t *q;      /* [rows, units] */
    float *out;       /* [rows, padded] */
    float *tops;      /* [rows] */
    float *sums;      /* [rows, LANES] */
    uint32_t *k, *v;  /* packed tile: [units, TILE] and [TILE or TILE / 2, padded] */
    float *scores;    /* [BLOCK, TILE] */
    uint32_t *weights; /* [BLOCK, TILE or TILE / 2] */
    float *biases;     /* [TILE] */
    float *spare;      /* [padded] */
};

/* A tile: keys start .. start + count - 1. `odd`: a value is infinite or NaN, so that it must not
 * even meet a weight of 0. */
struct tile {
    int64_t start, count;
    int windowed, odd;
};

/* A stored row as floats [padded], scaled, or as bfloat16 in the first half of that. */
static void unpack(const struct job *job, int64_t token, int64_t padded, float *out)
{
    const char *from = job->pages + token * job->head_dim * storage_bytes(job->type);
    if (job->narrow && job->type == BFLOAT16) {
        memset(out, 0, padded * 2);
        memcpy(out, from, job->head_dim * 2);
        return;
    }
    float factor = job->scales ? job->scales[token] : storage_factor(job->type);
    widen_row(job->type, from, job->head_dim, padded, out);
    for (int64_t d = 0; d < padded && factor != 1; d += LANES)
        put(out + d, get(out + d) * factor);
    for (int64_t d = 0; d < padded && job->narrow; d += LANES)
        put_narrow((char *)out + 2 * d, get(out + d)); /* over floats that have been read */
}

static void pack_key(const struct part *part, int64_t at)
{
    for (int64_t u = 0; u < part->plan->units; u++)
        part->k[u * TILE + at] = ((const uint32_t *)part->spare)[u];
}

/* Returns whether a value is infinite or NaN. */
static int pack_value(const struct part *part, int64_t at)
{
    int64_t padded = part->plan->padded;
    uint32_t odd = 0;
    if (part->plan->job->narrow) {
        const uint16_t *from = (const uint16_t *)part->spare;
        uint16_t *to = (uint16_t *)(part->v + at / 2 * padded) + at % 2;
        for (int64_t d = 0; d < padded; d++) {
            to[2 * d] = from[d];
            odd |= (from[d] & 0x7f80) == 0x7f80;
        }
    } else {
        const uint32_t *from = (const uint32_t *)part->spare;
        memcpy(part->v + at * padded, from, padded * 4);
        for (int64_t d = 0; d < padded; d++)
            odd |= (from[d] & 0x7f800000) == 0x7f800000;
    }
    return odd != 0;
}

static void pack_tile(const struct part *part, struct tile *tile)
{
    const struct plan *plan = part->plan;
    const struct job *job = plan->job;
    const int32_t *table = job->table + part->row * job->table_width;
    int64_t side = job->kv_heads * job->page_count * job->page_size;
    tile->odd = 0;
    if (tile->count < TILE) {
        memset(part->k, 0, plan->units * TILE * 4);
        memset(part->v, 0, TILE * plan->padded * (job->narrow ? 2 : 4));
    }
    for (int64_t i = 0; i < tile->count; i++) {
        int64_t position = tile->start + i, page = table[position / job->page_size];
        int64_t token = (part->head * job->page_count + page) * job->page_size +
                        position % job->page_size;
        unpack(job, token, plan->padded, part->spare);
        pack_key(part, i);
        unpack(job, side + token, plan->padded, part->spare);
        tile->odd |= pack_value(part, i);
    }
}

static void pack_queries(const struct part *part, int64_t first_token)
{
    const struct plan *plan = part->plan;
    const struct job *job = plan->job;
    size_t bytes = job->head_dim * (job->narrow ? 2 : 4);
    const char *q = (const char *)job->q + (part->row * job->kv_heads + part->head) * job->group *
                                               job->tokens * bytes;
    memset(part->q, 0, plan->rows * plan->units * 4);
    for (int64_t row = 0; row < part->rows; row++) {
        int64_t token = first_token + row / job->group, group = row % job->group;
        memcpy(part->q + row * plan->units, q + (group * job->tokens + token) * bytes, bytes);
    }
}

#endif
