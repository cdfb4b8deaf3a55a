"""PyTorch checkpoints (.pt, .pth, .ckpt, .bin) read into numpy arrays: no torch, no code run.

Two layouts: since PyTorch 1.6 a zip with `data.pkl` and one stored entry a storage; before that a row of
pickles followed by the storages. The pickles are read by `torch_pickle`, which knows data only.
"""

import math
import mmap
import struct
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from backend.weights.torch_pickle import (
    StorageReference,
    TensorReference,
    read_pickle,
    read_pickle_bytes,
)
from shared_protocol.errors import AccessDenied, WeightsError

_LEGACY_MAGIC = 0x1950A86A20F9469CFC6C
_LEGACY_PROTOCOL = 1001
_DEEPEST = 32
_DAMAGE = (ValueError, IndexError, KeyError, TypeError, AttributeError, StopIteration, EOFError, struct.error,
           OverflowError, zipfile.BadZipFile, RuntimeError)  # fmt: skip
"""What reading nonsense can raise; zipfile says RuntimeError to an encrypted entry."""

ReadStorage = Callable[[StorageReference], np.ndarray]


def read_tensors(path: Path) -> dict[str, np.ndarray]:
    """All tensors of a checkpoint by name; names of nested dictionaries and lists are joined by dots.

    Arrays have the checkpoint's shapes and types, C-contiguous; bfloat16 comes as float32. Anything that
    is not a tensor (step counts, settings) is left out.

    Raises WeightsError for a file that is no checkpoint, is damaged or truncated, or holds code;
    AccessDenied when it cannot be read.
    """
    try:
        with path.open("rb") as stream:
            if zipfile.is_zipfile(stream):
                value, read_storage = _open_zip(stream)
            else:
                # Mapped: a length that damage made huge then reads to the end of the file and no further.
                with mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
                    value, read_storage = _open_legacy(content)
            return {name: _array(tensor, read_storage) for name, tensor in _tensors(value, "", 0)}
    except FileNotFoundError:
        raise WeightsError(f"{path} does not exist", "a PyTorch checkpoint") from None
    except PermissionError:
        raise AccessDenied(
            f"{path} cannot be read", "a file you may read", "Change its permissions."
        ) from None
    except WeightsError as error:
        raise WeightsError(f"{path.name}: {error.found}", error.expected, error.remedy) from error
    except _DAMAGE as error:
        raise WeightsError(
            f"{path.name} is damaged or no PyTorch checkpoint ({error or type(error).__name__})",
            "a file written by torch.save",
            "Fetch it again.",
        ) from error


def _tensors(value: Any, name: str, depth: int) -> Iterator[tuple[str, TensorReference]]:
    if depth > _DEEPEST:
        raise ValueError(f"more than {_DEEPEST} dictionaries inside one another")
    if isinstance(value, TensorReference):
        yield name, value
    elif isinstance(value, dict | list | tuple):
        items = value.items() if isinstance(value, dict) else enumerate(value)
        for key, item in items:
            yield from _tensors(item, f"{name}.{key}" if name else str(key), depth + 1)


def _array(tensor: TensorReference, read_storage: ReadStorage) -> np.ndarray:
    shape, strides = tensor.shape, tensor.strides
    if len(shape) != len(strides):
        raise ValueError("a tensor has another number of strides than of dimensions")
    size = math.prod(shape)
    last = tensor.offset + sum((n - 1) * s for n, s in zip(shape, strides, strict=True))
    if size and (last >= tensor.storage.count or size > tensor.storage.count):
        raise ValueError("a tensor reaches beyond its storage")
    storage = read_storage(tensor.storage)
    if not size:
        return np.zeros(shape, storage.dtype)
    window = np.lib.stride_tricks.as_strided(
        storage[tensor.offset :], shape, [s * storage.itemsize for s in strides], writeable=False
    )
    return np.array(window, order="C")


def _numbers(data: bytes, storage: StorageReference) -> np.ndarray:
    """The bytes of a whole storage -> the elements of this view."""
    if storage.dtype == "bfloat16":
        whole = (np.frombuffer(data, "<u2").astype(np.uint32) << 16).view(np.float32)
    else:
        whole = np.frombuffer(data, storage.dtype)
    part = whole[storage.start : storage.start + storage.count]
    if len(part) != storage.count:
        raise ValueError(f"a storage has {len(part)} elements instead of {storage.count}")
    return part


def _width(dtype: str) -> int:
    return 2 if dtype == "bfloat16" else np.dtype(dtype).itemsize


def _open_zip(stream: BinaryIO) -> tuple[Any, ReadStorage]:
    archive = zipfile.ZipFile(stream)
    entries = {entry.filename: entry for entry in archive.infolist()}
    pickles = [name for name in entries if name.endswith("/data.pkl")]
    if len(pickles) != 1:
        raise ValueError("a zip without data.pkl")
    root = pickles[0].removesuffix("data.pkl")

    def content(name: str) -> bytes:
        # Stored entries only, as torch writes them: a packed one could grow without limit.
        if entries[name].compress_type != zipfile.ZIP_STORED:
            raise ValueError(f"{name} is compressed")
        return archive.read(name)  # checks the length and the checksum

    if root + "byteorder" in entries and content(root + "byteorder") != b"little":
        raise ValueError("numbers in big-endian order")
    value = read_pickle_bytes(content(pickles[0]))
    return value, lambda storage: _numbers(content(f"{root}data/{storage.key}"), storage)


def _open_legacy(stream: mmap.mmap) -> tuple[Any, ReadStorage]:
    if read_pickle(stream) != _LEGACY_MAGIC or read_pickle(stream) != _LEGACY_PROTOCOL:
        raise ValueError("the first numbers are not those of a checkpoint")
    if not read_pickle(stream)["little_endian"]:
        raise ValueError("numbers in big-endian order")
    value = read_pickle(stream)
    keys = read_pickle(stream)
    widths = {tensor.storage.key: _width(tensor.storage.dtype) for _, tensor in _tensors(value, "", 0)}
    storages = {}
    for key in keys:  # in the file's order, each behind its number of elements
        (count,) = struct.unpack("<q", stream.read(8))
        size = count * widths[key]
        data = stream.read(size) if size >= 0 else b""
        if len(data) != size:
            raise ValueError(f"{size} bytes of numbers announced, {len(data)} there")
        storages[key] = data
    return value, lambda storage: _numbers(storages[storage.key], storage)
