/* Causal attention of a chunk of tokens over a paged cache, bound by arithmetic.
 *
 * A task is a part of the query rows (tokens x G heads) of one KV head. Its keys and values come in
 * tiles that are packed once for all of its rows: keys transposed, so that one query element meets a
 * whole vector of keys; in bfloat16 both in pairs, as the dot-product instruction wants them. A block
 * of rows then passes a tile as in FlashAttention-2 (arXiv:2307.08691): scores, an online softmax in
 * base 2, and the tile's share of the output. How rows are parted depends on the shapes alone, so the
 * threads do not change a result. */
#include <stdlib.h>

#include "packing.h"

enum { PART_FLOATS = 64 * 1024 }; /* of a part's output: with its queries it stays in the L2 cache */

#define LOG2_E 1.44269504f

/* ---- one block of rows over one tile ---- */

static int64_t position_of(const struct part *part, int64_t row)
{
    return part->first + smaller(row, part->rows - 1) / part->plan->job->group;
}

/* The keys of a tile that the query at `position` sees are from .. to - 1. */
static int64_t seen_from(const struct job *job, const struct tile *tile, int64_t position)
{
    int64_t from = tile->windowed ? position - job->window + 1 - tile->start : 0;
    return from < 0 ? 0 : smaller(from, tile->count);
}

static int64_t seen_to(const struct tile *tile, int64_t position)
{
    int64_t to = position + 1 - tile->start;
    return to < 0 ? 0 : smaller(to, tile->count);
}

/* Soft cap and ALiBi. */
static void adjust(const struct part *part, const struct tile *tile, int64_t row, int64_t position,
                   float *scores)
{
    const struct job *job = part->plan->job;
    float slope = part->slopes ? part->slopes[row % job->group] : 0;
    for (int64_t t = 0; t < TILE; t++) {
        float distance = (float)(tile->start + t - position);
        part->biases[t] = slope * distance;
    }
    for (int64_t t = 0; t < TILE; t += LANES) {
        vf s = get(scores + t);
        if (job->softcap > 0)
            s = job->softcap * hyperbolic_tangent(s / job->softcap);
        put(scores + t, s + get(part->biases + t));
    }
}

/* Rounded here once and for all: fused into the expressions that use it, the maximum of a row would
 * be another one for its weights than for what they are merged with. */
__attribute__((noinline)) static float in_base_2(float top)
{
    return top == -INFINITY ? 0 : top * LOG2_E;
}

/* Raw scores of one row to weights, its output so far shrunk where its maximum has grown. */
INLINE void soften(int narrow, const struct part *part, int64_t row, float *scores,
                   uint32_t *weights)
{
    vf top = get(scores), total = splat(0);
    for (int64_t t = LANES; t < TILE; t += LANES)
        top = maximum(get(scores + t), top);
    float before = part->tops[row], now = highest(top), base = in_base_2(now);
    float *sums = part->sums + row * LANES, *out = part->out + row * part->plan->padded;
    if (now > before) {
        vf less = splat(in_base_2(before) - base);
        float shrink = before == -INFINITY ? 0 : power_of_2(0, less)[0];
        part->tops[row] = now;
        put(sums, get(sums) * shrink);
        for (int64_t d = 0; d < part->plan->padded; d += LANES)
            put(out + d, get(out + d) * shrink);
    } else {
        base = in_base_2(before);
    }
    for (int64_t t = 0; t < TILE; t += 2 * LANES) {
        vf low = power_of_2(narrow, get(scores + t) * LOG2_E - base);
        vf high = power_of_2(narrow, get(scores + t + LANES) * LOG2_E - base);
        total += low + high;
        put_weights(narrow, weights, t, low, high);
    }
    put(sums, get(sums) + total);
}

/* One row's share of a tile, of the keys that it sees alone: 0 x NaN of a hidden value is not 0. */
static void weigh_seen(const struct part *part, int64_t row, int64_t from, int64_t to,
                       const uint32_t *weights)
{
    int64_t padded = part->plan->padded;
    float *out = part->out + row * padded;
    for (int64_t t = from; t < to; t++)
        for (int64_t d = 0; d < padded; d++)
            out[d] += packed_weight(part->plan->job->narrow, weights, t) *
                      packed_value(part->plan->job->narrow, part->v, t, d, padded);
}

INLINE void add_tile(int narrow, const struct part *part, const struct tile *tile, int64_t block,
                     int masked)
{
    const struct plan *plan = part->plan;
    const struct job *job = plan->job;
    int adjusted = part->slopes || job->softcap > 0;
    int64_t width = narrow ? TILE / 2 : TILE;
    for (int half = 0; half < BLOCK; half += SCORE_ROWS)
        score_tile(narrow, part->q + (block + half) * plan->units, part->k, plan->units, job->scale,
                   part->scores + half * TILE);
    for (int64_t i = 0; i < BLOCK; i++) {
        int64_t row = block + i, position = position_of(part, row);
        float *scores = part->scores + i * TILE;
        if (adjusted)
            adjust(part, tile, row, position, scores);
        if (masked) {
            int64_t from = seen_from(job, tile, position), to = seen_to(tile, position);
            for (int64_t t = 0; t < TILE; t++)
                scores[t] = t >= from && t < to ? scores[t] : -INFINITY;
        }
        soften(narrow, part, row, scores, part->weights + i * width);
        if (masked && tile->odd)
            weigh_seen(part, row, seen_from(job, tile, position), seen_to(tile, position),
                       part->weights + i * width);
    }
    if (masked && tile->odd)
        return;
    int64_t units = narrow ? (tile->count + 1) / 2 : tile->count;
    weigh_block(narrow, part->weights, part->v, units, width, plan->padded,
                part->out + block * plan->padded);
}

static void add_keys(const struct part *part, int64_t from, int64_t to, int windowed)
{
    const struct job *job = part->plan->job;
    struct tile tile = {.windowed = windowed};
    for (tile.start = from; tile.start < to; tile.start += TILE) {
        tile.count = smaller(TILE, to - tile.start);
        pack_tile(part, &tile);
        int64_t last = tile.start + tile.count - 1;
        for (int64_t block = 0; block < part->rows; block += BLOCK) {
            int64_t low = position_of(part, block), high = position_of(part, block + BLOCK - 1);
            if (tile.start > high || (windowed && last <= low - job->window))
                continue;
            int masked = tile.count < TILE || last > low ||
                         (windowed && tile.start <= high - job->window);
            if (job->narrow)
                add_tile(1, part, &tile, block, masked);
            else
                add_tile(0, part, &tile, block, masked);
        }
    }
}

/* ---- one task ---- */

static void finish(const struct part *part, int64_t first_token)
{
    const struct job *job = part->plan->job;
    for (int64_t row = 0; row < part->rows; row++) {
        int64_t token = first_token + row / job->group, group = row % job->group;
        int64_t head = (part->row * job->kv_heads + part->head) * job->group + group;
        float *to = job->out + (head * job->tokens + token) * job->head_dim;
        const float *from = part->out + row * part->plan->padded;
        float total = sum(get(part->sums + row * LANES));
        for (int64_t d = 0; d < job->head_dim; d++)
            to[d] = from[d] / total;
    }
}

/* Point a part's arrays into scratch; returns the bytes that they take. */
static int64_t lay_out(const struct plan *plan, struct part *part, char *scratch)
{
    int64_t rows = plan->rows, width = TILE * sizeof(float), used = 0;
    struct {
        void *place;
        int64_t bytes;
    } arrays[] = {
        {&part->q, rows * plan->units * 4},    {&part->out, rows * plan->padded * 4},
        {&part->tops, rows * 4},               {&part->sums, rows * LANES * 4},
        {&part->k, plan->units * width},       {&part->v, plan->padded * width},
        {&part->scores, BLOCK * width},        {&part->weights, BLOCK * width},
        {&part->biases, width},                {&part->spare, plan->padded * 4},
    };
    for (size_t i = 0; i < sizeof arrays / sizeof *arrays; i++) {
        char *at = scratch + used;
        memcpy(arrays[i].place, &at, sizeof at);
        used += rounded_up(arrays[i].bytes, 64);
    }
    return used;
}

static void attend(const struct plan *plan, int64_t b, int64_t head, int64_t number, char *scratch)
{
    const struct job *job = plan->job;
    int64_t first_token = number * plan->part_tokens;
    int64_t tokens = smaller(plan->part_tokens, job->tokens - first_token);
    struct part part = {
        .plan = plan,
        .row = b,
        .head = head,
        .first = job->lengths[b] - job->tokens + first_token,
        .rows = tokens * job->group,
        .slopes = job->slopes ? job->slopes + head * job->group : NULL,
    };
    lay_out(plan, &part, scratch);
    memset(part.out, 0, plan->rows * plan->padded * sizeof *part.out);
    memset(part.sums, 0, plan->rows * LANES * sizeof *part.sums);
    for (int64_t row = 0; row < plan->rows; row++)
        part.tops[row] = -INFINITY;
    pack_queries(&part, first_token);

    int64_t end = part.first + tokens;
    if (!job->window) {
        add_keys(&part, 0, end, 0);
    } else {
        int64_t sinks = smaller(job->sinks, end), first = part.first - job->window + 1;
        add_keys(&part, 0, sinks, 0);
        add_keys(&part, first > sinks ? first : sinks, end, 1);
    }
    finish(&part, first_token);
}

/* Later parts see more keys: they come first, so that the threads end together. */
static void work(void *data)
{
    struct plan *plan = data;
    const struct job *job = plan->job;
    char *scratch = plan->scratch + next_task(&plan->next_thread) * plan->scratch_bytes;
    int64_t heads = job->batch * job->kv_heads;
    for (int64_t task; (task = next_task(&plan->next_task)) < plan->tasks;) {
        int64_t number = plan->parts - 1 - task / heads, head = task % heads;
        attend(plan, head / job->kv_heads, head % job->kv_heads, number, scratch);
    }
}

/* ---- the whole call ---- */

/* Whether this build computes in bfloat16: it is asked before `narrow` is set. */
int computes_narrow(void) { return HAS_NARROW; }

enum outcome prefill(struct job *job)
{
    struct plan plan = {.job = job};
    struct part nowhere;
    int64_t threads = job->team.start ? job->team.threads : 1;
    for (int64_t b = 0; b < job->batch; b++)
        if (!check_pages(job, b))
            return NO_PAGE;
    plan.padded = rounded_up(job->head_dim, LANES);
    plan.units = job->narrow ? (job->head_dim + 1) / 2 : job->head_dim;
    plan.part_tokens = smaller(job->tokens, 1 + PART_FLOATS / plan.padded / job->group);
    plan.parts = (job->tokens + plan.part_tokens - 1) / plan.part_tokens;
    plan.rows = rounded_up(plan.part_tokens * job->group, BLOCK);
    plan.tasks = job->batch * job->kv_heads * plan.parts;
    plan.scratch_bytes = lay_out(&plan, &nowhere, NULL);
    plan.scratch = aligned_alloc(64, threads * plan.scratch_bytes);
    if (!plan.scratch)
        return NO_MEMORY;
    run_team(job->team, plan.tasks, work, &plan);
    free(plan.scratch);
    return DONE;
}
