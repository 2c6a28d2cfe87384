"""Parquet files of flat tables, written with NumPy and the standard library.

The serving image has no pyarrow, which is 152 MB, for files that are only written there. What is written is the
plainest form of the format: one row group, a page a column, PLAIN values, gzip, every column optional.

Source: https://github.com/apache/parquet-format (README.md, Encodings.md, src/main/thrift/parquet.thrift), and Thrift's
compact protocol, https://github.com/apache/thrift/blob/master/doc/specs/thrift-compact-protocol.md
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np

Kind = Literal["time", "int", "float", "text"]

_MAGIC = b"PAR1"
_I32, _I64, _BINARY, _LIST, _STRUCT = 5, 6, 8, 9, 12  # Thrift's types
_PLAIN, _RLE, _GZIP = 0, 3, 2
_INT64, _DOUBLE, _BYTE_ARRAY = 2, 5, 6
_OPTIONAL = 1
_PHYSICAL = {"time": _INT64, "int": _INT64, "float": _DOUBLE, "text": _BYTE_ARRAY}
_CONVERTED = {"time": 10, "text": 0}  # TIMESTAMP_MICROS, which is UTC; UTF8
_DTYPES = {"time": "<i8", "int": "<i8", "float": "<f8"}

_Field = tuple[int, int, Any]


def parquet(columns: Mapping[str, Kind], rows: Sequence[Mapping[str, Any]]) -> bytes:
    """A file's bytes.

    Args:
        columns: Name and kind: ``time`` in whole microseconds since the epoch, ``int`` and ``float`` of 64 bits,
            ``text``.
        rows: Their values; one that is missing or None is null.
    """
    parts, chunks, position = [_MAGIC], [], len(_MAGIC)
    for name, kind in columns.items():
        page, about = _column(name, kind, [row.get(name) for row in rows], position)
        parts.append(page)
        chunks.append([(2, _I64, position), (3, _STRUCT, about)])
        position += len(page)
    size = sum(len(part) for part in parts[1:])
    group: list[_Field] = [(1, _LIST, (_STRUCT, chunks)), (2, _I64, size), (3, _I64, len(rows))]
    root: list[_Field] = [(4, _BINARY, b"schema"), (5, _I32, len(columns))]
    schema = [root, *(_element(name, kind) for name, kind in columns.items())]
    footer = _struct(
        [
            (1, _I32, 1),
            (2, _LIST, (_STRUCT, schema)),
            (3, _I64, len(rows)),
            (4, _LIST, (_STRUCT, [group])),
            (6, _BINARY, b"lepton"),
        ]
    )
    return b"".join([*parts, footer, len(footer).to_bytes(4, "little"), _MAGIC])


def _element(name: str, kind: Kind) -> list[_Field]:
    fields = [(1, _I32, _PHYSICAL[kind]), (3, _I32, _OPTIONAL), (4, _BINARY, name.encode())]
    return fields + ([(6, _I32, _CONVERTED[kind])] if kind in _CONVERTED else [])


def _column(name: str, kind: Kind, values: Sequence[Any], position: int) -> tuple[bytes, list[_Field]]:
    """A column's page, and what the footer says of it."""
    there = [value for value in values if value is not None]
    plain = _levels(values) + (_texts(there) if kind == "text" else np.array(there, _DTYPES[kind]).tobytes())
    packed = zlib.compress(plain, level=6, wbits=31)
    numbers: list[_Field] = [(1, _I32, len(values)), (2, _I32, _PLAIN), (3, _I32, _RLE), (4, _I32, _RLE)]
    header = _struct([(1, _I32, 0), (2, _I32, len(plain)), (3, _I32, len(packed)), (5, _STRUCT, numbers)])
    about: list[_Field] = [
        (1, _I32, _PHYSICAL[kind]),
        (2, _LIST, (_I32, [_PLAIN, _RLE])),
        (3, _LIST, (_BINARY, [name.encode()])),
        (4, _I32, _GZIP),
        (5, _I64, len(values)),
        (6, _I64, len(header) + len(plain)),
        (7, _I64, len(header) + len(packed)),
        (9, _I64, position),
    ]
    return header + packed, about


def _levels(values: Sequence[Any]) -> bytes:
    """Which values are there, a bit each, as one bit-packed run."""
    bits = np.packbits(np.array([value is not None for value in values], bool), bitorder="little").tobytes()
    run = _varint(len(bits) << 1 | 1) + bits
    return len(run).to_bytes(4, "little") + run


def _texts(values: Sequence[str]) -> bytes:
    encoded = [value.encode("utf-8", "replace") for value in values]
    return b"".join(part for text in encoded for part in (len(text).to_bytes(4, "little"), text))


def _varint(value: int) -> bytes:
    parts = bytearray()
    while value > 0x7F:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*parts, value])


def _struct(fields: Sequence[_Field]) -> bytes:
    """Fields (number, type, value) in ascending order, as Thrift's compact protocol has them."""
    parts, last = [], 0
    for number, kind, value in fields:
        parts += [bytes([(number - last) << 4 | kind]), _value(kind, value)]
        last = number
    return b"".join(parts) + b"\0"


def _value(kind: int, value: Any) -> bytes:
    if kind in (_I32, _I64):
        return _varint(value << 1)  # zigzag of what is never negative
    if kind == _BINARY:
        return _varint(len(value)) + bytes(value)
    if kind == _STRUCT:
        return _struct(value)
    of, items = value
    head = bytes([len(items) << 4 | of]) if len(items) < 15 else bytes([0xF0 | of]) + _varint(len(items))
    return head + b"".join(_value(of, item) for item in items)
