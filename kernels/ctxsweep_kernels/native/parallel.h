/* Work on the threads that torch already has. A second pool would fight torch's own, whose threads
 * spin for a while after every operation; so the caller hands over the entry point that starts a
 * parallel region of the OpenMP library which torch has loaded (GOMP_parallel, offered by libgomp,
 * libomp and libiomp alike), and nothing is linked. */
#ifndef CTXSWEEP_PARALLEL_H
#define CTXSWEEP_PARALLEL_H

#include <stdint.h>

typedef void (*parallel_region)(void (*body)(void *), void *data, unsigned threads, unsigned flags);

struct team {
    parallel_region start; /* NULL: this thread alone */
    int64_t threads;
};

/* Run `body` on at most `most` of the team's threads at once. */
static void run_team(struct team team, int64_t most, void (*body)(void *), void *data)
{
    int64_t threads = team.threads < most ? team.threads : most;
    if (team.start && threads > 1)
        team.start(body, data, (unsigned)threads, 0);
    else
        body(data);
}

/* The next task of a shared counter: an uneven or disturbed thread takes fewer. */
static int64_t next_task(int64_t *counter)
{
    return __atomic_fetch_add(counter, 1, __ATOMIC_RELAXED);
}

#endif
