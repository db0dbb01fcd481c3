"""Writes the newc cpio archive that the kernel unpacks as its initramfs.

Written here, not by cpio(1), because the archive holds a device node, which only root could
make on disk first.

Source: Linux, Documentation/driver-api/early-userspace/buffer-format.rst.
"""

import stat

_TRAILER = "TRAILER!!!"


class CpioArchive:
    """Collects entries and renders them as one uncompressed archive."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._entries = 0

    def add_directory(self, name: str) -> None:
        """Adds a directory that everyone may enter.

        Args:
            name: Its path in the archive, without a leading slash.
        """
        self._add(name, stat.S_IFDIR | 0o755)

    def add_program(self, name: str, content: bytes) -> None:
        """Adds an executable file.

        Args:
            name: Its path in the archive, without a leading slash.
            content: Its bytes.
        """
        self._add(name, stat.S_IFREG | 0o755, content)

    def add_character_device(self, name: str, major: int, minor: int) -> None:
        """Adds a character device node for root.

        Args:
            name: Its path in the archive, without a leading slash.
            major: The device's major number.
            minor: The device's minor number.
        """
        self._add(name, stat.S_IFCHR | 0o600, device=(major, minor))

    def render(self) -> bytes:
        """Renders the archive.

        Returns:
            All entries added so far, and the trailer.
        """
        return b"".join(self._parts) + _entry(0, _TRAILER, 0, b"", (0, 0))

    def _add(
        self, name: str, mode: int, content: bytes = b"", device: tuple[int, int] = (0, 0)
    ) -> None:
        self._entries += 1
        self._parts.append(_entry(self._entries, name, mode, content, device))


def _entry(inode: int, name: str, mode: int, content: bytes, device: tuple[int, int]) -> bytes:
    path = name.encode() + b"\0"
    # ino, mode, uid, gid, nlink, mtime, filesize, devmajor, devminor, rdevmajor, rdevminor,
    # namesize, check; time 0 makes equal inputs give equal archives.
    numbers = (inode, mode, 0, 0, 1, 0, len(content), 0, 0, *device, len(path), 0)
    header = b"070701" + b"".join(b"%08X" % number for number in numbers)
    return _padded(header + path) + _padded(content)


def _padded(part: bytes) -> bytes:
    return part + bytes(-len(part) % 4)
