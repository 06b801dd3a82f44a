/* A call of attention over a paged cache: what decode.c and prefill.c are given. */
#ifndef CTXSWEEP_ATTENTION_JOB_H
#define CTXSWEEP_ATTENTION_JOB_H

#include "pages.h"
#include "parallel.h"

/* Mirrored by Job in attention_job.py; shapes as in paged_prefill_attention, contiguous. */
struct job {
    const void *q;       /* [B, Hkv, G, T, D], bfloat16 if `narrow`, else float */
    float *out;          /* [B, Hkv, G, T, D] */
    const char *pages;   /* [2, Hkv, P, page_size, D] */
    const float *scales; /* [2, Hkv, P, page_size], int8 only */
    const int32_t *table;
    const int64_t *lengths;
    const float *slopes; /* [Hkv, G] or NULL */
    int64_t batch, kv_heads, group, tokens, head_dim, page_count, page_size, table_width;
    int64_t window; /* 0: none */
    int64_t sinks;
    float scale, softcap; /* softcap 0: none */
    int32_t type;         /* enum storage */
    int32_t narrow;       /* compute in bfloat16; prefill only */
    struct team team;
    int64_t bad_row, bad_page; /* where check_pages() found one missing */
};

/* Whether all pages are there that the queries of row `b` see: the sinks', then the window's. */
static int check_pages(struct job *job, int64_t b)
{
    const int32_t *table = job->table + b * job->table_width;
    int64_t size = job->page_size, last = job->lengths[b] - 1, page = -1;
    int64_t first = job->window ? job->lengths[b] - job->tokens - job->window + 1 : 0;
    first = first < 0 ? 0 : first;
    int64_t sinks = job->sinks < first ? job->sinks : first;
    if (sinks)
        page = missing_page(table, 0, (sinks - 1) / size, job->page_count);
    if (page < 0)
        page = missing_page(table, first / size, last / size, job->page_count);
    job->bad_row = b;
    job->bad_page = page;
    return page < 0;
}

#endif
