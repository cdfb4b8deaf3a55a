"""PLY files as tables: the header's elements, and the records of each, in all three PLY encodings."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np

from shared_protocol.errors import InvalidInput

_TYPES = {
    "char": "i1", "uchar": "u1", "short": "i2", "ushort": "u2", "int": "i4", "uint": "u4",
    "float": "f4", "double": "f8", "int8": "i1", "uint8": "u1", "int16": "i2", "uint16": "u2",
    "int32": "i4", "uint32": "u4", "float32": "f4", "float64": "f8",
}  # fmt: skip
_ORDERS = {"binary_little_endian": "<", "binary_big_endian": ">", "ascii": ""}
_HEADER_LIMIT = 64 * 1024
_LARGEST_DIGITS = 15
_BLOCK = 4096
"""Records gathered at a time, so that they stay in the cache."""
_TEXT_ROWS = 4096
"""Lines of text turned into numbers at a time: bounds the memory of their words."""
EXPECTED = "a Gaussian-splatting PLY (INRIA's 3DGS or PlayCanvas' compressed layout)"
REMEDY = "Export it again as PLY from the program that trained it."
COPY_AGAIN = "Copy or download the file again."


@dataclass(frozen=True)
class Element:
    """One element of the header: `count` records of `fields` (name, numpy type without byte order).

    A list property has the type "": records with one have no fixed size.
    """

    name: str
    count: int
    fields: tuple[tuple[str, str], ...]

    @property
    def names(self) -> list[str]:
        return [name for name, _ in self.fields]


class Table:
    """The records of one element, taken out column by column as any numpy type."""

    def __init__(self, element: Element, rows: np.ndarray) -> None:
        self._rows = rows
        self._column = {name: i for i, name in enumerate(element.names)}
        self.names = element.names
        self.kinds = {kind for _, kind in element.fields}
        self.count = element.count

    @property
    def plain(self) -> np.ndarray | None:
        """(count, properties) view of the file's own float32 numbers, None where it has other types."""
        rows = self._rows
        return rows if rows.dtype.names is None and rows.dtype == np.dtype("<f4") else None

    def take(self, names: Sequence[str], dtype: type | str = np.float32) -> np.ndarray:
        """(count, len(names)) array, a copy."""
        if self._rows.dtype.names is None:
            # Plain 2D array: a structured array's fields are several times slower to gather.
            at = [self._column[name] for name in names]
            if at == list(range(at[0], at[0] + len(at))):
                return self._rows[:, at[0] : at[0] + len(at)].astype(dtype)
            result = np.empty((self.count, len(names)), dtype=dtype)
            for start in range(0, self.count, _BLOCK):
                result[start : start + _BLOCK] = self._rows[start : start + _BLOCK].take(at, axis=1)
            return result
        result = np.empty((self.count, len(names)), dtype=dtype)
        with np.errstate(over="ignore", invalid="ignore"):
            for i, name in enumerate(names):
                result[:, i] = self._rows[name]
        return result


def read_tables(data: bytes | memoryview, wanted: Sequence[str]) -> dict[str, Table]:
    """The elements named in `wanted` that the file has.

    Raises InvalidInput for what is no PLY, a broken header, a truncated body, and a list property in or
    before a wanted element.
    """
    encoding, elements, offset = parse_header(data)
    order = _ORDERS[encoding]
    body = memoryview(data)[offset:]
    if len({e.name for e in elements}) != len(elements):
        raise InvalidInput("the PLY names an element twice", EXPECTED, REMEDY)
    last = max((i for i, e in enumerate(elements) if e.name in wanted), default=-1)
    tables = {}
    if encoding == "ascii":
        lines = iter(bytes(body).splitlines()) if last >= 0 else iter(())
        for element in elements[: last + 1]:
            rows = _text_rows(lines, element)
            if element.name in wanted:
                tables[element.name] = Table(element, rows)
        return tables
    at = 0
    for element in elements[: last + 1]:
        record = _record(element, order)
        end = at + element.count * record.itemsize
        if end > len(body):
            raise InvalidInput(
                f"the PLY is truncated: {len(body) - at} bytes of data for {element.count} "
                f"{'Gaussians' if element.name == 'vertex' else f'records of {element.name!r}'}",
                f"{end - at} bytes",
                COPY_AGAIN,
            )
        if element.name in wanted:
            tables[element.name] = Table(element, _binary_rows(body[at:end], element, record))
        at = end
    return tables


def header(encoding: str, elements: Sequence[Element], comment: str = "") -> bytes:
    """The header of a file with these elements, and a line of comment."""
    long_names = {"i1": "char", "u1": "uchar", "i4": "int", "u4": "uint", "f4": "float", "f8": "double"}
    lines = ["ply", f"format {encoding} 1.0", *([f"comment {comment}"] if comment else [])]
    for element in elements:
        lines.append(f"element {element.name} {element.count}")
        lines += [f"property {long_names[kind]} {name}" for name, kind in element.fields]
    return "\n".join([*lines, "end_header\n"]).encode("ascii")


def _record(element: Element, order: str) -> np.dtype:
    if not element.fields:
        raise InvalidInput(f"the PLY's element '{element.name}' has no property", EXPECTED, REMEDY)
    if any(not kind for _, kind in element.fields):
        raise InvalidInput(f"the PLY has a list property in its element '{element.name}'", EXPECTED, REMEDY)
    return np.dtype([(name, order + kind) for name, kind in element.fields])


def _binary_rows(body: memoryview, element: Element, record: np.dtype) -> np.ndarray:
    """(count, properties) where all have one type, else (count,) structured; a view of `body`."""
    if len({kind for _, kind in element.fields}) > 1:
        return np.frombuffer(body, record) if element.count else np.empty(0, record)
    columns = len(element.fields)
    return (np.frombuffer(body, record[0]) if element.count else np.empty(0, record[0])).reshape(-1, columns)


def _text_rows(lines, element: Element) -> np.ndarray:
    """(count, properties) float64: every type of PLY fits into it."""
    columns = len(_record(element, "").names or ())
    blocks, left = [], element.count
    while left > 0:
        block = list(islice(lines, min(left, _TEXT_ROWS)))
        words = b" ".join(block).split()
        if not block or len(words) != len(block) * columns:
            raise InvalidInput(
                f"the PLY is truncated: {element.count - left} of {element.count} lines of "
                f"'{element.name}' have {columns} numbers each",
                f"{element.count} such lines",
                COPY_AGAIN,
            )
        try:
            blocks.append(np.array(words).astype(np.float64).reshape(len(block), columns))
        except ValueError:
            raise InvalidInput(
                f"the PLY has words instead of numbers in '{element.name}'", EXPECTED, REMEDY
            ) from None
        left -= len(block)
    return np.concatenate(blocks) if blocks else np.empty((0, columns))


def parse_header(data: bytes | memoryview) -> tuple[str, list[Element], int]:
    """PLY bytes -> encoding, elements in file order, offset of the first record."""
    start = bytes(data[:_HEADER_LIMIT])
    if start[:4] not in (b"ply\n", b"ply\r", b"ply "):
        raise InvalidInput("the file is not a PLY file", EXPECTED, REMEDY)
    end = start.find(b"end_header")
    newline = start.find(b"\n", end) if end >= 0 else -1
    if newline < 0:
        raise InvalidInput("the PLY header has no end", EXPECTED, COPY_AGAIN)
    encoding = ""
    elements: list[tuple[str, int, list[tuple[str, str]]]] = []
    for line in start[:end].decode("ascii", errors="replace").splitlines()[1:]:
        words = line.split()
        if not words or words[0] in ("comment", "obj_info"):
            continue
        if words[0] == "format":
            encoding = words[1] if len(words) == 3 and words[2] == "1.0" else ""
            if encoding not in _ORDERS:
                raise InvalidInput(f"the PLY format is '{' '.join(words[1:])[:80]}'", EXPECTED, REMEDY)
        elif words[0] == "element" and len(words) == 3 and words[2].isdigit() and len(words[2]) <= (
            _LARGEST_DIGITS
        ):  # fmt: skip
            elements.append((words[1], int(words[2]), []))
        elif words[0] == "property" and elements:
            kind = _TYPES.get(words[1]) if len(words) == 3 else None
            if words[1:2] == ["list"]:
                kind = ""
            if kind is None:
                raise InvalidInput(f"the PLY has the line '{line.strip()[:80]}'", EXPECTED, REMEDY)
            elements[-1][2].append((words[-1], kind))
        else:
            raise InvalidInput(f"the PLY header has the line '{line.strip()[:80]}'", EXPECTED, REMEDY)
    if not encoding:
        raise InvalidInput("the PLY header names no format", EXPECTED, REMEDY)
    for name, _, fields in elements:
        if len(set(names := [field for field, _ in fields])) != len(names):
            raise InvalidInput(f"the properties of '{name}' in the PLY are not distinct", EXPECTED, REMEDY)
    return encoding, [Element(n, c, tuple(f)) for n, c, f in elements], newline + 1


def comments(data: bytes | memoryview) -> list[str]:
    """The comments of a PLY's header, in its order."""
    start, _, _ = bytes(data[:_HEADER_LIMIT]).partition(b"end_header")
    lines = (line.strip() for line in start.decode("ascii", errors="replace").splitlines())
    return [line.removeprefix("comment").strip() for line in lines if line.split()[:1] == ["comment"]]
