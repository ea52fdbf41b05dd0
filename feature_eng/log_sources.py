"""Where a log's rows lie: Parquet and CSV files, cut into pieces that fit in memory."""

from __future__ import annotations

import io
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.csv as pa_csv
import pyarrow.parquet as pq

Paths = str | Path | Sequence[str | Path]

PIECE_BYTES = 64 * 2**20
PARQUET, CSV = (".parquet", ".pq"), (".csv",)


@dataclass(frozen=True)
class Slice:
    """Part of one file: rows `start` to `stop` of a Parquet file's row group, or those bytes of a CSV file.

    `size` is in Arrow bytes, roughly; `rows` is exact for Parquet, and for CSV the lines.
    """

    path: Path
    start: int
    stop: int
    group: int = 0
    first_row: int = 0
    size: int = 0
    rows: int = 0

    def where(self, row: int) -> str:
        """Name a row of the slice for a person; rows count from 0, below a CSV file's header."""
        if self.path.suffix in CSV and self.first_row < 0:
            return f"row {row} after byte {self.start} of {self.path.name}"
        return f"row {self.first_row + row} of {self.path.name}"


@dataclass(frozen=True)
class Piece:
    """Adjacent slices that are read together, about `PIECE_BYTES` of Arrow data."""

    index: int
    slices: tuple[Slice, ...]

    @property
    def rows(self) -> int:
        """How many rows it has, roughly."""
        return sum(part.rows for part in self.slices)


def log_files(paths: Paths) -> list[Path]:
    """List the Parquet and CSV files that a path, a list, a glob or a folder stands for, in name order.

    Raises:
        FileNotFoundError: a path stands for no file.
        ValueError: a file is neither Parquet nor CSV.
    """
    listed = [paths] if isinstance(paths, (str, Path)) else list(paths)
    if not listed:
        raise FileNotFoundError("paths must name at least one file; got none")
    return [file for path in listed for file in _expand(str(path))]


def _expand(path: str) -> list[Path]:
    if path and Path(path).is_dir():
        inside = Path(path).rglob("*")
        found = [file for file in inside if file.suffix in PARQUET + CSV and not file.name.startswith((".", "_"))]
    elif Path(path).is_file():
        found = [Path(path)]
    else:
        root = Path(path).anchor
        found = [file for file in Path(root).glob(path[len(root) :]) if file.is_file()] if path else []
    if not found:
        raise FileNotFoundError(f"log must be Parquet or CSV files; got {path}, where there are none")
    for file in found:
        if file.suffix not in PARQUET + CSV:
            raise ValueError(f"log must be Parquet (.parquet, .pq) or CSV (.csv); got {file}")
    return sorted(found)


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    try:
        yield
    except pa.ArrowInvalid as error:
        kind = "CSV in UTF-8" if path.suffix in CSV else "Parquet"
        raise ValueError(f"{path} must be {kind}; got an error: {error}") from None


def file_stamps(files: Iterable[Path]) -> list[tuple[str, int, int]]:
    """Return each file's path, bytes and nanoseconds of change: what must be the same for work on them to go on."""
    return [(str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in files]


def file_columns(path: Path) -> list[str]:
    """Return the names of a file's columns.

    Raises:
        ValueError: the file is not what its name says.
    """
    with _naming(path):
        if path.suffix in CSV:
            return list(pa_csv.read_csv(io.BytesIO(_header(path))).column_names)
        return list(pq.read_schema(path).names)


def cut(files: Iterable[Path], columns: Sequence[str], piece_bytes: int = PIECE_BYTES) -> list[Piece]:
    """Cut files into pieces, without reading their values.

    Args:
        files: in the order that the log's rows have.
        columns: the ones that will be read; a piece is larger where they are few.
        piece_bytes: Arrow bytes of a piece, roughly.
    """
    packed: list[list[Slice]] = []
    filled = 0
    for part in (part for file in files for part in _slices(file, columns, piece_bytes)):
        if not packed or filled + part.size > piece_bytes:
            packed.append([])
            filled = 0
        packed[-1].append(part)
        filled += part.size
    return [Piece(index, tuple(slices)) for index, slices in enumerate(packed)]


def _slices(path: Path, columns: Sequence[str], piece_bytes: int) -> Iterator[Slice]:
    return _csv_slices(path, piece_bytes) if path.suffix in CSV else _parquet_slices(path, columns, piece_bytes)


def _parquet_slices(path: Path, columns: Sequence[str], piece_bytes: int) -> Iterator[Slice]:
    metadata = pq.read_metadata(path)
    first_row = 0
    for group in range(metadata.num_row_groups):
        described = metadata.row_group(group)
        chunks = [described.column(index) for index in range(described.num_columns)]
        read = [chunk for chunk in chunks if chunk.path_in_schema.split(".")[0] in columns]
        rows = described.num_rows
        size = max(sum(chunk.total_uncompressed_size for chunk in read), 8 * rows * len(read), 1)
        step = max(1, min(rows, rows * piece_bytes // size))
        for start in range(0, rows, step):
            stop = min(start + step, rows)
            yield Slice(path, start, stop, group, first_row, size * (stop - start) // rows, stop - start)
        first_row += rows


def _csv_slices(path: Path, piece_bytes: int) -> Iterator[Slice]:
    start = len(_header(path))
    first_row = 0
    for stop, lines in _line_ends(path, start, piece_bytes):
        yield Slice(path, start, stop, first_row=first_row, size=stop - start, rows=lines)
        start, first_row = stop, -1


def _header(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.readline()


def _line_ends(path: Path, start: int, step: int) -> Iterator[tuple[int, int]]:
    """Find offsets about `step` apart that end a row, outside quotes, and about how many lines lie between."""
    with path.open("rb") as file:
        file.seek(start)
        quoted, kept, lines = False, 0, 0
        while block := file.read(step):
            quoted ^= bool(block.count(b'"') % 2)
            end = _last_row_end(block, quoted)
            start += len(block)
            lines += block.count(b"\n")
            if end:
                kept = start - len(block) + end
                yield kept, lines
                lines = 0
        if start > kept:
            yield start, lines + 1


def _last_row_end(block: bytes, quoted: bool) -> int:
    """Return the offset behind the last line end outside quotes, else 0; `quoted` is the state at the end."""
    end = len(block)
    while (newline := block.rfind(b"\n", 0, end)) >= 0:
        quoted ^= bool(block.count(b'"', newline, end) % 2)
        if not quoted:
            return newline + 1
        end = newline
    return 0


def read_slice(part: Slice, columns: Sequence[str], coded: Collection[str] = ()) -> pa.Table:
    """Read the named columns of a slice; CSV values stay text, so that all pieces read alike.

    Args:
        part: the slice.
        columns: names, in the order of the result.
        coded: columns whose strings come as dictionaries where the file holds them so: three times as fast.

    Raises:
        ValueError: the file is not what its name says.
    """
    with _naming(part.path):
        return _read_csv(part, columns) if part.path.suffix in CSV else _read_parquet(part, list(columns), coded)


def _read_csv(part: Slice, columns: Sequence[str]) -> pa.Table:
    with part.path.open("rb") as file:
        file.seek(part.start)
        text = _header(part.path) + file.read(part.stop - part.start)
    convert = pa_csv.ConvertOptions(
        include_columns=list(columns),
        column_types={name: pa.string() for name in columns},
        strings_can_be_null=True,
        null_values=[""],
    )
    parse = pa_csv.ParseOptions(newlines_in_values=True)
    read = pa_csv.ReadOptions(use_threads=False, block_size=max(len(text), 1))
    return pa_csv.read_csv(io.BytesIO(text), read, parse, convert)


def _read_parquet(part: Slice, columns: list[str], coded: Collection[str]) -> pa.Table:
    metadata = pq.read_metadata(part.path)
    with pq.ParquetFile(part.path, metadata=metadata, read_dictionary=_dictionaries(metadata, part, coded)) as file:
        if part.rows == file.metadata.row_group(part.group).num_rows:
            return file.read_row_group(part.group, columns=columns, use_threads=False).select(columns)
        return _rows(file, part, columns)


def _dictionaries(metadata: pq.FileMetaData, part: Slice, columns: Collection[str]) -> list[str]:
    """Return the paths of these columns' strings, a list's are below its name, where the slice has dictionaries."""
    if not part.rows:
        return []
    group, schema = metadata.row_group(part.group), metadata.schema
    found = ((schema.column(index), group.column(index)) for index in range(metadata.num_columns))
    texts = (leaf.path for leaf, chunk in found if leaf.converted_type == "UTF8" and chunk.has_dictionary_page)
    return [path for path in texts if path.split(".")[0] in columns]


def _rows(file: pq.ParquetFile, part: Slice, columns: list[str]) -> pa.Table:
    size = part.stop - part.start
    taken, seen = [], 0
    for batch in file.iter_batches(min(size, 65_536), row_groups=[part.group], columns=columns, use_threads=False):
        first, last = max(part.start - seen, 0), min(part.stop - seen, batch.num_rows)
        if first < last:
            taken.append(batch.slice(first, last - first))
        seen += batch.num_rows
        if seen >= part.stop:
            break
    return pa.Table.from_batches(taken).select(columns)
