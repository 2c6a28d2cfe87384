"""Read line-based files in blocks of whole records, in bounded memory."""

from __future__ import annotations

import codecs
import dataclasses
from collections.abc import Iterator

from lepton_tasks.core.errors import ConfigError, DataError
from lepton_tasks.data.sources.files import Stream, TableFile

BLOCK = 4 << 20  # bytes: larger blocks are not faster to parse, and a worker holds several
_LONGEST = 64 << 20  # maximum bytes of a record; more means an unclosed quote or a binary file
_PIECE = 128 << 20  # bytes: local files are divided into pieces of about this size, to use all cores


Rejection = tuple[int | None, str, str]
"""Line number, text and reason of an unreadable row."""


@dataclasses.dataclass(frozen=True)
class Range:
    """Whole records of a file.

    Attributes:
        start: First byte.
        stop: First byte after it; None for the end of the file.
        line: Number of its first line, from 1.
    """

    start: int = 0
    stop: int | None = None
    line: int = 1


@dataclasses.dataclass(frozen=True)
class Block:
    """Whole records.

    Attributes:
        line: Number of the first line in the file, from 1.
        data: The bytes; the last record of a file may lack its end of line.
    """

    line: int
    data: bytes


def read_blocks(file: TableFile, span: Range = Range(), *, quote: str | None = None) -> Iterator[Block]:
    """The records of a range in blocks of about `BLOCK` bytes.

    Args:
        file: The file.
        span: The range; anything but the whole file requires a file with a `path`.
        quote: Quote character; line ends inside quotes do not end a record.

    Raises:
        DataError: a quote is not closed, or the file is not text.
    """
    if span.start or span.stop is not None:
        assert file.path is not None  # only `cut` makes such ranges
        with file.path.open("rb") as raw:
            raw.seek(span.start)
            left = None if span.stop is None else span.stop - span.start
            yield from _blocks(Stream(raw, file.address, None), left, span.line, quote, file.address)
        return
    with file.open() as stream:
        yield from _blocks(stream, None, span.line, quote, file.address)


def _blocks(stream: Stream, left: int | None, line: int, quote: str | None, address: str) -> Iterator[Block]:
    mark = quote.encode() if quote else None
    rest = b""
    while data := stream.read(BLOCK if left is None else min(BLOCK, left)):
        left = None if left is None else left - len(data)
        rest += data
        end = _end_of_records(rest, mark)
        if end:
            block, rest = rest[:end], rest[end:]
            yield Block(line, block)
            line += block.count(b"\n")
        elif len(rest) > _LONGEST:
            raise _endless(address, line)
    if mark and rest.count(mark) % 2 and rest.count(b"\n") > 1:
        raise _endless(address, line)
    if rest:
        yield Block(line, rest)


def _endless(address: str, line: int) -> DataError:
    return DataError(
        f"a record from line {line:,} on does not end: a quote is not closed, or this is not text.",
        where=address,
        fix="Correct the file, or declare that it has no quotes: `quote: null` in `data.source.params`.",
    )


def _end_of_records(data: bytes, quote: bytes | None) -> int:
    """End of the last complete record; 0 if there is none."""
    end = data.rfind(b"\n") + 1
    if quote is None:
        return end
    quotes = data.count(quote, 0, end)
    while end and quotes % 2:
        before = data.rfind(b"\n", 0, end - 1) + 1
        quotes -= data.count(quote, before, end)
        end = before
    return end


def records(block: Block, quote: str | None) -> Iterator[tuple[int, bytes]]:
    """First line number of each record, and its bytes without the line end; blank lines are skipped."""
    mark = quote.encode() if quote else None
    pending: list[bytes] = []
    quotes = 0
    for number, line in enumerate(block.data.split(b"\n"), block.line):
        pending.append(line)
        quotes += line.count(mark) if mark else 0
        if quotes % 2 == 0:
            record = b"\n".join(pending).removesuffix(b"\r")
            if record:
                yield number - len(pending) + 1, record
            pending, quotes = [], 0
    if pending:
        yield number - len(pending) + 1, b"\n".join(pending)


def without_first(block: Block, quote: str | None) -> tuple[bytes, Block]:
    """The first record of a block, and the rest; leading blank lines are skipped."""
    for line, record in records(block, quote):
        end = block.data.find(b"\n", block.data.index(record) + len(record)) + 1 or len(block.data)
        return record, Block(line + record.count(b"\n") + 1, block.data[end:])
    return b"", Block(block.line, b"")


def cut(file: TableFile, *, quote: str | None = None) -> list[Range]:
    """Independently readable ranges of a large local file; a single range for any other file.

    Scans the file once to count lines and quotes, at a tenth of the cost of parsing it.
    """
    path = file.path
    if path is None or file.packed or (file.size or 0) < 2 * _PIECE:
        return [Range()]
    mark = quote.encode() if quote else None
    spans: list[Range] = []
    start = position = quotes = 0
    line = first = 1
    with path.open("rb") as stream:
        while data := stream.read(BLOCK):
            if position - start >= _PIECE and (end := _first_end(data, mark, quotes)):
                spans.append(Range(start, position + end, first))
                start, first = position + end, line + data.count(b"\n", 0, end)
            position += len(data)
            line += data.count(b"\n")
            quotes += data.count(mark) if mark else 0
    return [*spans, Range(start, None, first)]


def _first_end(data: bytes, mark: bytes | None, quotes: int) -> int:
    """End of the first record, given the number of preceding quotes; 0 if there is none."""
    end = 0
    while following := data.find(b"\n", end) + 1:
        quotes += data.count(mark, end, following) if mark else 0
        end = following
        if quotes % 2 == 0:
            return end
    return 0


def head(file: TableFile, size: int, *, quote: str | None = None) -> Block:
    """The first complete records of a file, about `size` bytes.

    Raises:
        DataError: the file is empty, in UTF-16, or has unsupported line ends.
    """
    with file.open() as stream:
        data = stream.read(size)
        while len(data) < size and (more := stream.read(size - len(data))):
            data += more
    if not data.strip(b"\xef\xbb\xbf\r\n\t "):
        raise DataError("the file is empty.", where=file.address, fix="Remove it, or write it again.")
    for mark, name in ((codecs.BOM_UTF16_LE, "UTF-16"), (codecs.BOM_UTF16_BE, "UTF-16")):
        if data.startswith(mark):
            raise DataError(
                f"is encoded as {name}.",
                where=file.address,
                fix="Convert it to UTF-8 first (iconv -f UTF-16 -t UTF-8).",
            )
    if b"\r" in data and b"\n" not in data:
        raise DataError(
            "its lines end with a carriage return alone, as on classic Mac OS.",
            where=file.address,
            fix="Convert it first: tr '\\r' '\\n'.",
        )
    if len(data) < size:
        return Block(1, data)
    return Block(1, data[: _end_of_records(data, quote.encode() if quote else None)] or data)


def without_mark(block: Block) -> Block:
    """The block without a byte order mark."""
    return Block(block.line, block.data.removeprefix(codecs.BOM_UTF8)) if block.line == 1 else block


def decoded(block: Block, encoding: str, quote: str | None = None) -> tuple[Block, list[Rejection]]:
    """The block in UTF-8; undecodable records are rejected and become blank lines."""
    try:
        text = block.data.decode(encoding)
    except UnicodeDecodeError:
        return _decoded_by_record(block, encoding, quote)
    return (block if encoding.lower() in ("utf-8", "utf8") else Block(block.line, text.encode())), []


def _decoded_by_record(block: Block, encoding: str, quote: str | None) -> tuple[Block, list[Rejection]]:
    refused: list[Rejection] = []
    lines: list[bytes] = []
    for line, record in records(block, quote):
        lines += [b""] * (line - block.line - len(lines))
        try:
            lines += record.decode(encoding).encode().split(b"\n")
        except UnicodeDecodeError as error:
            reason = f"byte 0x{error.object[error.start]:02x} at {error.start} is not {encoding}"
            refused.append((line, record.decode(encoding, "backslashreplace"), reason))
    return Block(block.line, b"\n".join(lines) + b"\n"), refused


def check_encoding(encoding: str) -> None:
    """Raise `ConfigError` unless Python supports the encoding, and its line ends and delimiters are ASCII."""
    signs = '\n\r,;\t|"'
    try:
        fits = signs.encode(encoding) == signs.encode()
    except LookupError as error:
        raise ConfigError(
            f"{encoding!r} is not an encoding that Python supports.",
            where="data.source.params.encoding",
            fix="E.g. latin-1.",
        ) from error
    if not fits:
        raise ConfigError(
            f"files in {encoding!r} cannot be read line by line.",
            where="data.source.params.encoding",
            fix="Convert them to UTF-8 first.",
        )
