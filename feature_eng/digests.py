"""Checksums that tell whether a file is as it was written."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from pathlib import Path

BLOCK_BYTES = 64 * 2**20
_CHUNK = 1 << 20


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file's bytes in hexadecimal; a file of any size is read in small chunks."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def blocks_sha256(path: Path) -> str:
    """Return a checksum whose parts can be computed side by side, in hexadecimal; see `joined_digest`."""
    return joined_digest(list(_block_digests(path)))


def joined_digest(blocks: Sequence[bytes]) -> str:
    """Return the checksum of a file by the SHA-256 of each of its blocks of 64 MiB.

    That of a file of one block is its SHA-256; that of a larger one is the SHA-256 of its blocks', one after the other.
    """
    return blocks[0].hex() if len(blocks) == 1 else hashlib.sha256(b"".join(blocks)).hexdigest()


def _block_digests(path: Path) -> Iterator[bytes]:
    with path.open("rb") as file:
        for _ in range(0, path.stat().st_size, BLOCK_BYTES):
            digest = hashlib.sha256()
            for _ in range(0, BLOCK_BYTES, _CHUNK):
                digest.update(file.read(_CHUNK))
            yield digest.digest()
