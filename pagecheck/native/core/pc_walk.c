/* Where a file has data.
 *
 * Facts: a lookup costs 0.2 to 1 us, on some file systems more the farther it has to look, and much
 * more where the disk has to be read. Reading a page's data costs about as much.
 * Decision: no lookup is made that another one has answered. Where runs are one page long,
 * SEEK_DATA behind a page that has data says both that the run ends there and where the next one
 * begins, so that SEEK_HOLE is asked for only where a run is longer than that.
 *
 * A page is a hole only if all of it is; so lookups begin at the edges of pages. Only ENXIO says
 * that there is no more data: after any other error everything is taken for data. */
#include "pc_walk.h"

#include <errno.h>
#include <unistd.h>

#include "pc_ring.h"

#define LOOKUPS_PER_CLOCK 16u
#define EMPTY_MAX 1024u /* runs that end where they begin: the file changes under the walk */

off_t pc_walk_seek_file(void *fd, off_t at, int whence)
{
    return lseek(*(const int *)fd, at, whence);
}

void pc_walk_begin(pc_walk *walk)
{
    walk->done = 0;
    walk->data = -1;
    walk->single = walk->all_data = false;
    walk->next = (pc_bits_run){0, 0};
}

static off_t page_begin(const pc_walk *walk, uint64_t page)
{
    return (off_t)(walk->start + page * walk->page_bytes);
}

/* The page that a byte of the file is in, or the number of pages if it is behind them. */
static uint64_t page_of(const pc_walk *walk, uint64_t offset)
{
    uint64_t page = (offset - walk->start) / walk->page_bytes;
    return page < walk->pages ? page : walk->pages;
}

/* The page that begins at a byte of the file or after it, likewise. */
static uint64_t page_from(const pc_walk *walk, uint64_t offset)
{
    return page_of(walk, offset + walk->page_bytes - 1);
}

/* The next data or hole; the end of the pages where there is none. After an error that says
 * nothing, `at` itself: it is data, as all that follows. */
static off_t look(pc_walk *walk, off_t at, int whence)
{
    off_t found = walk->seek(walk->context, at, whence);
    if (found >= at)
        return found;
    if (found < 0 && errno == ENXIO)
        return page_begin(walk, walk->pages);
    walk->all_data = true;
    return at;
}

static void set_holes(const pc_walk *walk, uint64_t first, uint64_t end)
{
    pc_bits_set_shared(walk->hole, first, end - first);
    pc_bits_set_shared(walk->zero, first, end - first);
}

/* Where the run ends that begins with page `first`, which has data at byte `data`. */
static uint64_t run_end(pc_walk *walk, uint64_t first, off_t data)
{
    if (walk->single && first + 1 < walk->pages) {
        walk->data = look(walk, page_begin(walk, first + 1), SEEK_DATA);
        if (!walk->all_data && page_of(walk, (uint64_t)walk->data) > first + 1)
            return first + 1;
        data = walk->data;
        walk->data = -1;
    }
    off_t hole = walk->all_data ? data : look(walk, data, SEEK_HOLE);
    return walk->all_data ? walk->pages : page_from(walk, (uint64_t)hole);
}

/* Finds the next run of pages with data, and sets the bits of those before it. False: there are no
 * more. The run is empty where the file was changed between two lookups. */
static bool find(pc_walk *walk)
{
    off_t data = walk->data;
    if (walk->done == walk->pages)
        return false;
    if (data < 0 && !walk->all_data)
        data = look(walk, page_begin(walk, walk->done), SEEK_DATA);
    walk->data = -1;
    uint64_t first = walk->all_data ? walk->done : page_of(walk, (uint64_t)data);
    set_holes(walk, walk->done, first);
    walk->done = first;
    if (first == walk->pages)
        return false;
    walk->next.first = first;
    walk->next.end = walk->done = walk->all_data ? walk->pages : run_end(walk, first, data);
    walk->single = walk->next.end - first == 1;
    return true;
}

/* Adds the run that was found, unless it makes the stretch too long. Whether that is complete. */
static bool add_run(pc_walk *walk, uint64_t most, pc_stretch *stretch)
{
    uint64_t pages = walk->next.end - walk->next.first;
    if (stretch->pages == 0)
        stretch->first = walk->next.first;
    else if (pages > most - stretch->pages)
        return true;
    stretch->span = walk->next.end - stretch->first;
    stretch->pages += pages;
    walk->next.first = walk->next.end;
    return stretch->pages >= most;
}

bool pc_walk_next(pc_walk *walk, uint64_t most, pc_stretch *stretch)
{
    *stretch = (pc_stretch){0, 0, 0};
    int64_t until_ns = pagecheck_now_ns() + walk->look_ns;
    for (uint32_t lookups = 0; lookups < EMPTY_MAX || stretch->pages != 0; lookups++) {
        if (walk->next.first == walk->next.end && !find(walk))
            return stretch->pages != 0;
        if (add_run(walk, most, stretch))
            break;
        if (lookups % LOOKUPS_PER_CLOCK == 0 && pagecheck_now_ns() >= until_ns)
            break;
    }
    return true;
}
