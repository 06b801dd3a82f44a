/* Attention of a few new tokens over a paged cache, bound by reading the cache once.
 *
 * A task is one stretch of one KV head of one row; its keys and values pass through the registers
 * in tiles, once for all query rows (G heads x T tokens) that share them: scores of a tile, an
 * online softmax (Milakov and Gimelshein, arXiv:1805.02867), then the tile's share of the output.
 * Stretches are merged by their log-sum-exp as in FlashAttention-2 (arXiv:2307.08691). How a row is
 * cut depends on that row alone, so neither the batch nor the threads change a result. */
#include <stdlib.h>

#include "attention_job.h"
#include "inner_loops.h"

enum {
    STRETCH_BYTES = 512 * 1024,    /* of keys and values: long against a task's fixed cost */
    BYTES_PER_THREAD = 128 * 1024, /* below it a thread costs more than it saves */
    MOST_STRETCHES = 64,           /* of one row and head: short against the merge */
};

/* The keys that some query of a row sees: the sinks, then first .. length - 1. */
struct row {
    int64_t sinks, first, visible, stretches, stretch_tokens, first_task;
};

struct plan {
    struct job *job;
    struct row *rows;
    int64_t query_rows, padded; /* G * T; D rounded up to whole vectors */
    float *partials;            /* per task and query row: output [padded], maximum, sum */
    int64_t *unfinished;        /* [B, Hkv] stretches */
    float *scratch;             /* per thread */
    int64_t scratch_floats, next_task, next_thread, tasks;
};

/* ---- one tile ---- */

/* Point a tile at keys `from .. from + count - 1` of those that the row sees. */
static void locate(const struct job *job, const struct row *row, int64_t b, int64_t head,
                   int64_t from, int64_t count, struct tile *tile)
{
    const int32_t *table = job->table + b * job->table_width;
    int64_t row_bytes = job->head_dim * storage_bytes(job->type);
    int64_t side = job->kv_heads * job->page_count * job->page_size;
    tile->count = count;
    for (int64_t i = 0; i < count;) {
        int is_sink = from + i < row->sinks;
        int64_t position = from + i + (is_sink ? 0 : row->first - row->sinks);
        int64_t slot = position % job->page_size, page = table[position / job->page_size];
        int64_t run = smaller(count - i, job->page_size - slot);
        run = is_sink ? smaller(run, row->sinks - from - i) : run;
        int64_t token = (head * job->page_count + page) * job->page_size + slot;
        for (int64_t end = i + run; i < end; i++, token++, position++) {
            tile->position[i] = position;
            tile->k[i] = job->pages + token * row_bytes;
            tile->v[i] = tile->k[i] + side * row_bytes;
            if (job->scales) {
                tile->k_scale[i] = job->scales[token];
                tile->v_scale[i] = job->scales[side + token];
            }
        }
    }
    for (int64_t i = count; i < rounded_up(count, LANES); i++) {
        tile->k[i] = tile->k[count - 1];
        tile->k_scale[i] = tile->k_scale[count - 1];
    }
}

/* Whether an e4m3 row holds a NaN, which load() does not tell from 480. */
static int holds_nan(const char *row, int64_t dim)
{
    uint8_t found = 0;
    for (int64_t d = 0; d < dim; d++)
        found |= (row[d] & 0x7f) == 0x7f;
    return found;
}

static int tile_holds_nan(const struct tile *tile, int64_t dim)
{
    int found = 0;
    for (int64_t i = 0; i < tile->count; i++)
        found |= holds_nan(tile->k[i], dim) | holds_nan(tile->v[i], dim);
    return found;
}

/* Move a tile to float rows in scratch: odd head dimensions, and e4m3 tiles with NaN. */
static void widen(enum storage type, struct tile *tile, int64_t dim, int64_t padded, float *scratch)
{
    for (int64_t i = 0; i < rounded_up(tile->count, LANES); i++) {
        float *k = scratch + i * padded, *v = k + TILE * padded;
        if (i < tile->count) {
            widen_row(type, tile->k[i], dim, padded, k);
            widen_row(type, tile->v[i], dim, padded, v);
            tile->v[i] = (const char *)v;
        }
        tile->k[i] = (const char *)(i < tile->count ? k : scratch + (tile->count - 1) * padded);
    }
}

static int sees(const struct job *job, int64_t query, int64_t key)
{
    return key <= query && (!job->window || query - key < job->window || key < job->sinks);
}

/* Whether a query of the row must not see some key of this tile; never so with one query. */
static int is_edge(const struct job *job, const struct tile *tile, int64_t length)
{
    int hidden = 0;
    for (int64_t query = length - job->tokens; query < length; query++)
        for (int64_t i = 0; i < tile->count; i++)
            hidden |= !sees(job, query, tile->position[i]);
    return hidden;
}

/* From raw scores [TILE] of one query row to weights; `state` is its maximum and sum so far.
 * Returns by how much the output so far must shrink. */
static float soften(const struct job *job, const struct tile *tile, int masked, int64_t query,
                    float slope, float *scores, float *state)
{
    int64_t count = rounded_up(tile->count, LANES);
    for (int64_t t = 0; t < count && job->scales; t += LANES)
        put(scores + t, get(scores + t) * get(tile->k_scale + t));
    for (int64_t t = 0; t < count && job->softcap > 0; t += LANES)
        put(scores + t, job->softcap * hyperbolic_tangent(get(scores + t) / job->softcap));
    for (int64_t t = 0; t < tile->count && job->slopes; t++)
        scores[t] += slope * (float)(tile->position[t] - query);
    for (int64_t t = 0; t < tile->count && masked; t++)
        if (!sees(job, query, tile->position[t]))
            scores[t] = -INFINITY;
    for (int64_t t = tile->count; t < count; t++)
        scores[t] = -INFINITY;

    vf top = splat(state[0]), total = splat(0);
    for (int64_t t = 0; t < count; t += LANES)
        top = larger(get(scores + t), top);
    float before = state[0], now = largest(top), base = now == -INFINITY ? 0 : now;
    for (int64_t t = 0; t < count; t += LANES) {
        vf weight = exponential(get(scores + t) - base);
        total += weight;
        put(scores + t, job->scales ? weight * get(tile->v_scale + t) : weight);
    }
    float shrink = before == now ? 1 : exponential(splat(before - base))[0];
    state[0] = now;
    state[1] = state[1] * shrink + sum(total);
    return shrink;
}

/* weigh_values for the keys that `query` sees: 0 x NaN of a hidden value is not 0. */
static void weigh_seen(const struct job *job, const struct inner_loops *loops,
                       const struct tile *tile, int64_t query, const float *weights, int64_t dim,
                       float *out)
{
    for (int64_t from = 0, to; from < tile->count; from = to + 1) {
        for (to = from; to < tile->count && sees(job, query, tile->position[to]); to++)
            ;
        loops->values(1, tile->v + from, to - from, NULL, weights + from, dim, out);
    }
}

/* Add a tile to the partial results [rows][padded + 2] of query rows `first ..`. */
static void add_tile(const struct plan *plan, const struct inner_loops *loops,
                     const struct tile *tile, const struct tile *next, int masked, int64_t length,
                     const float *slopes, int64_t first, int rows, const float *q, float *partial)
{
    const struct job *job = plan->job;
    int64_t dim = plan->padded;
    float scores[ROWS * TILE];
    float *states = partial + plan->query_rows * dim;
    loops->scores(rows, tile, next ? next->k : NULL, q + first * dim, dim, scores);
    for (int row = 0; row < rows; row++) {
        int64_t at = first + row, query = length - job->tokens + at % job->tokens;
        float slope = slopes ? slopes[at / job->tokens] : 0, *out = partial + at * dim;
        float *own = scores + row * TILE;
        float shrink = soften(job, tile, masked, query, slope, own, states + 2 * at);
        for (int64_t d = 0; d < dim && shrink != 1; d += LANES)
            put(out + d, get(out + d) * shrink);
        if (masked)
            weigh_seen(job, loops, tile, query, own, dim, out);
    }
    if (!masked)
        loops->values(rows, tile->v, tile->count, next ? next->v : NULL, scores, dim,
                      partial + first * dim);
}

/* ---- one task ---- */

static int64_t partial_floats(const struct plan *plan)
{
    return plan->query_rows * (plan->padded + 2);
}

/* Merge the stretches of one row and head into the output. */
static void merge(const struct plan *plan, const float *partials, int64_t stretches, float *out)
{
    const struct job *job = plan->job;
    int64_t dim = plan->padded, size = partial_floats(plan);
    const float *states = partials + plan->query_rows * dim;
    float factor = storage_factor(job->type);
    for (int64_t row = 0; row < plan->query_rows; row++, out += job->head_dim) {
        float top = -INFINITY, total = 0;
        for (int64_t s = 0; s < stretches; s++)
            top = states[s * size + 2 * row] > top ? states[s * size + 2 * row] : top;
        top = top == -INFINITY ? 0 : top;
        memset(out, 0, job->head_dim * sizeof *out);
        for (int64_t s = 0; s < stretches; s++) {
            const float *state = states + s * size + 2 * row;
            const float *part = partials + s * size + row * dim;
            float weight = exponential(splat(state[0] - top))[0];
            total += weight * state[1];
            for (int64_t d = 0; d < job->head_dim; d++)
                out[d] += weight * part[d];
        }
        for (int64_t d = 0; d < job->head_dim; d++)
            out[d] *= factor / total;
    }
}

static void attend(struct plan *plan, int64_t b, int64_t head, int64_t from, int64_t to,
                   float *partial, float *scratch)
{
    const struct job *job = plan->job;
    int64_t dim = plan->padded, query_rows = plan->query_rows;
    const float *slopes = job->slopes ? job->slopes + head * job->group : NULL;
    const float *given = (const float *)job->q +
                         (b * job->kv_heads + head) * query_rows * job->head_dim;
    float *q = scratch, scale = job->scale * storage_factor(job->type);
    memset(q, 0, query_rows * dim * sizeof *q);
    for (int64_t row = 0; row < query_rows; row++)
        for (int64_t d = 0; d < job->head_dim; d++)
            q[row * dim + d] = given[row * job->head_dim + d] * scale;
    memset(partial, 0, partial_floats(plan) * sizeof *partial);
    for (int64_t row = 0; row < query_rows; row++)
        partial[query_rows * dim + 2 * row] = -INFINITY;

    struct tile tiles[2], *tile = tiles, *next = tiles + 1;
    locate(job, &plan->rows[b], b, head, from, smaller(TILE, to - from), tile);
    for (; from < to; from += TILE) {
        int64_t ahead = smaller(TILE, to - from - TILE);
        if (ahead > 0)
            locate(job, &plan->rows[b], b, head, from + TILE, ahead, next);
        int masked = job->tokens > 1 && is_edge(job, tile, job->lengths[b]);
        enum storage type = job->type;
        if (dim != job->head_dim || (type == FLOAT8_E4M3 && tile_holds_nan(tile, dim))) {
            widen(type, tile, job->head_dim, dim, scratch + query_rows * dim);
            type = FLOAT32;
        }
        for (int64_t row = 0; row < query_rows;) {
            int64_t left = query_rows - row;
            int rows = left >= ROWS ? ROWS : left >= 2 ? 2 : 1;
            const struct tile *prefetched = row == 0 && ahead == TILE ? next : NULL;
            add_tile(plan, &INNER_LOOPS[type], tile, prefetched, masked, job->lengths[b], slopes,
                     row, rows, q, partial);
            row += rows;
        }
        struct tile *spare = tile;
        tile = next;
        next = spare;
    }
}

static void work(void *data)
{
    struct plan *plan = data;
    struct job *job = plan->job;
    float *scratch = plan->scratch + next_task(&plan->next_thread) * plan->scratch_floats;
    for (int64_t task; (task = next_task(&plan->next_task)) < plan->tasks;) {
        int64_t b = job->batch - 1;
        while (plan->rows[b].first_task > task)
            b--;
        struct row *row = &plan->rows[b];
        int64_t head = (task - row->first_task) / row->stretches;
        int64_t stretch = (task - row->first_task) % row->stretches, at = b * job->kv_heads + head;
        int64_t from = stretch * row->stretch_tokens;
        int64_t to = smaller(from + row->stretch_tokens, row->visible);
        float *partial = plan->partials + task * partial_floats(plan);
        attend(plan, b, head, from, to, partial, scratch);
        if (__atomic_sub_fetch(&plan->unfinished[at], 1, __ATOMIC_ACQ_REL) == 0)
            merge(plan, partial - stretch * partial_floats(plan), row->stretches,
                  job->out + at * plan->query_rows * job->head_dim);
    }
}

/* ---- the whole call ---- */

/* Which keys a row sees and how they are cut. */
static struct row cut(const struct job *job, int64_t length, int64_t first_task)
{
    int64_t first = job->window ? length - job->tokens - job->window + 1 : 0;
    first = first < 0 ? 0 : first;
    int64_t sinks = smaller(job->sinks, first), visible = sinks + length - first;
    int64_t tokens = STRETCH_BYTES / (2 * job->head_dim * storage_bytes(job->type));
    if (tokens < visible / MOST_STRETCHES)
        tokens = visible / MOST_STRETCHES;
    tokens = rounded_up(tokens + 1, TILE);
    return (struct row){sinks, first, visible, (visible + tokens - 1) / tokens, tokens, first_task};
}

enum outcome decode(struct job *job)
{
    struct plan plan = {.job = job, .query_rows = job->group * job->tokens};
    int64_t heads = job->batch * job->kv_heads, threads = job->team.start ? job->team.threads : 1;
    int64_t bytes = 0, row_bytes = job->head_dim * storage_bytes(job->type);
    enum outcome outcome = NO_MEMORY;
    plan.padded = rounded_up(job->head_dim, LANES);
    plan.scratch_floats = (plan.query_rows + 2 * TILE) * plan.padded;
    plan.rows = malloc(job->batch * sizeof *plan.rows);
    plan.unfinished = malloc(heads * sizeof *plan.unfinished);
    if (!plan.rows || !plan.unfinished)
        goto end;
    for (int64_t b = 0; b < job->batch; b++) {
        plan.rows[b] = cut(job, job->lengths[b], plan.tasks);
        plan.tasks += job->kv_heads * plan.rows[b].stretches;
        bytes += 2 * job->kv_heads * plan.rows[b].visible * row_bytes;
        for (int64_t head = 0; head < job->kv_heads; head++)
            plan.unfinished[b * job->kv_heads + head] = plan.rows[b].stretches;
        if (!check_pages(job, b)) {
            outcome = NO_PAGE;
            goto end;
        }
    }
    plan.scratch = malloc(threads * plan.scratch_floats * sizeof *plan.scratch);
    plan.partials = malloc(plan.tasks * partial_floats(&plan) * sizeof *plan.partials);
    if (plan.scratch && plan.partials) {
        run_team(job->team, smaller(plan.tasks, 1 + bytes / BYTES_PER_THREAD), work, &plan);
        outcome = DONE;
    }
end:
    free(plan.rows);
    free(plan.unfinished);
    free(plan.scratch);
    free(plan.partials);
    return outcome;
}
