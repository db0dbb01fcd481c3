"""What the guest keeps in its memory, as the host may look for it; `init.sh` writes the same."""

PAGE_BYTES = 4096
EDGE_PAGES = 256
TAG_PAGES = 256

_EDGE_VALUES = (0x01, 0x80, 0xFF, 0x10, 0x41)


def edge_page(index: int) -> bytes:
    """Builds one page of `edge.bin`: zero but for a single byte.

    The place goes from the first byte (index 0) to the last (index 255) and passes through
    every remainder modulo 64; the value is a low bit, a high bit, or several.

    Args:
        index: Which page, 0 to EDGE_PAGES - 1.

    Returns:
        PAGE_BYTES bytes.
    """
    page = bytearray(PAGE_BYTES)
    page[index * (PAGE_BYTES - 1) // (EDGE_PAGES - 1)] = _EDGE_VALUES[index % len(_EDGE_VALUES)]
    return bytes(page)


def tag_page(index: int) -> bytes:
    """Builds one page of `tag.bin`: a name that no other page has, then zeros.

    Args:
        index: Which page, 0 to TAG_PAGES - 1.

    Returns:
        PAGE_BYTES bytes.
    """
    return b"PGCHKTAG%08d" % index + bytes(PAGE_BYTES - 16)
