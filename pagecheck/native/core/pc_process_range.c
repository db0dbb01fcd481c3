/* Checks of what a caller says of another process's memory. */
#include "pc_process_range.h"

#include "pc_block.h"

static bool check_pieces(const pc_piece *pieces, size_t count, uint64_t bytes, pc_error *error)
{
    uint64_t at = 0;
    for (size_t i = 0; i < count; i++) {
        const pc_piece *piece = &pieces[i];
        if (piece->begin != at || piece->end <= at || piece->end % PC_HOST_PAGE != 0 ||
            piece->absent > PC_UNREADABLE || piece->file_offset % PC_HOST_PAGE != 0 ||
            piece->file_offset > INT64_MAX - bytes)
            break;
        at = piece->end;
    }
    if (at == bytes && count <= PC_PIECES_MAX)
        return true;
    return pc_error_set(error, PC_ERROR_INVALID,
                        "%zu pieces are not %llu bytes in order (the first wrong byte is %llu)",
                        count, (unsigned long long)bytes, (unsigned long long)at);
}

const pc_piece *pc_pieces_find(const pc_piece *pieces, size_t count, uint64_t offset)
{
    size_t low = 0;
    while (count > 1) {
        size_t half = count / 2;
        if (pieces[low + half].begin <= offset)
            low += half;
        count -= half;
    }
    return &pieces[low];
}

bool pc_process_range_check(const pc_process_range *range, pc_error *error)
{
    uint64_t page = range->page_bytes;
    if (page >= PC_HOST_PAGE && (page & (page - 1)) == 0 && range->bytes != 0 &&
        range->bytes % page == 0 && range->address % PC_HOST_PAGE == 0 &&
        range->address <= INT64_MAX && range->bytes <= INT64_MAX - range->address)
        return check_pieces(range->pieces, range->piece_count, range->bytes, error);
    return pc_error_set(error, PC_ERROR_INVALID,
                        "block of %llu bytes at 0x%llx in pages of %llu: address, size or page "
                        "size is out of range",
                        (unsigned long long)range->bytes, (unsigned long long)range->address,
                        (unsigned long long)page);
}
