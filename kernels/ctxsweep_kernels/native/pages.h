/* Block tables: logical page -> physical page, as in paged_cache. */
#ifndef CTXSWEEP_PAGES_H
#define CTXSWEEP_PAGES_H

#include <stdint.h>

enum outcome { DONE, NO_MEMORY, NO_PAGE };

/* The first of the logical pages first .. last that is not in a pool of `page_count`, or -1. */
static inline int64_t missing_page(const int32_t *table, int64_t first, int64_t last,
                                   int64_t page_count)
{
    for (int64_t page = first; page <= last; page++)
        if (table[page] < 0 || table[page] >= page_count)
            return page;
    return -1;
}

#endif
