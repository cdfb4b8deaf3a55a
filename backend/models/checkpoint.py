"""Published checkpoints (.pt, .pth, .ckpt, .safetensors), read as data, mapped rather than loaded.

PyTorch's files go through its restricted unpickler, which runs no code of the file; whatever else is in there
is refused. What training wrapped around the weights is taken off: `module` and `state_dict` dictionaries,
names that begin with `module.`.
"""

import contextlib
import pickletools
import re
import warnings
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch._weights_only_unpickler import UnpicklingError

from shared_protocol.errors import AccessDenied, InvalidInput, WeightsError

WRAPPERS = ("module", "state_dict", "model")
PREFIX = "module."
SUFFIXES = (".pt", ".pth", ".ckpt", ".bin", ".safetensors")
_AGAIN = "Fetch it again."
_PICKLE_BYTES = 16 << 20
"""Of a file that is looked through for what it calls."""


@dataclass(frozen=True)
class Checkpoint:
    """An open file.

    shapes  name -> shape of every tensor, wrappers taken off
    tensor  name -> the tensor, as it is stored; valid while the file is open
    """

    path: Path
    shapes: dict[str, tuple[int, ...]]
    tensor: Callable[[str], torch.Tensor]


@contextlib.contextmanager
def open_checkpoint(path: Path) -> Iterator[Checkpoint]:
    """Open a file. WeightsError for what is no checkpoint, damaged, or holds code; AccessDenied."""
    try:
        _refuse_others(path)
        if path.suffix.lower() == ".safetensors":
            with safe_open(path, framework="pt") as stored:
                shapes = {name: tuple(stored.get_slice(name).get_shape()) for name in stored.keys()}  # noqa: SIM118
                plain = _stripped(shapes)
                yield Checkpoint(
                    path,
                    {plain[name]: shape for name, shape in shapes.items()},
                    _by_plain_name(plain, stored.get_tensor),
                )
        else:
            tensors = _load(path)
            plain = _stripped(tensors)
            named = {plain[name]: tensor for name, tensor in tensors.items()}
            yield Checkpoint(path, {n: tuple(t.shape) for n, t in named.items()}, named.__getitem__)
    except SafetensorError as error:
        raise WeightsError(f"{path.name} is damaged or cut off ({error})", "a whole file", _AGAIN) from error
    except PermissionError:
        raise AccessDenied(
            f"{path} cannot be read", "a file you may read", "Change its permissions."
        ) from None


def _refuse_others(path: Path) -> None:
    """Refuse what is no checkpoint by what it looks like, before a reader stumbles over it."""
    if path.is_dir():
        if (path / "model_index.json").exists() or any(path.glob("*diffusion_pytorch_model*")):
            raise WeightsError(
                f"{path.name} is a model in diffusers' layout, a folder",
                "the publisher's single file",
                "Give the file itself: python -m backend models list names it.",
            )
        raise WeightsError(f"{path.name} is a folder", "a checkpoint", "Give the file itself.")
    if path.suffix.lower() not in SUFFIXES:
        raise InvalidInput(f"{path.name} is not a checkpoint", "a file ending in " + ", ".join(SUFFIXES))
    if not path.exists():
        raise WeightsError(f"{path} does not exist", "a checkpoint")
    with path.open("rb") as stream:
        start = stream.read(512).lstrip()
    if not start:
        raise WeightsError(f"{path.name} is empty", "a whole file", _AGAIN)
    if start.startswith(b"version https://git-lfs"):
        raise WeightsError(
            f"{path.name} is a pointer of Git LFS, not the file it stands for",
            "the file itself",
            "Run git lfs pull in its repository, or download the file from its page.",
        )
    if start[:1] == b"<" and re.match(rb"<(!doctype|html|head|\?xml)", start.lower()):
        raise WeightsError(
            f"{path.name} is a web page, as a download leaves it that needed a login",
            "a checkpoint",
            "Log in at its page, accept its terms, and download it again.",
        )


def _by_plain_name(
    plain: dict[str, str], get: Callable[[str], torch.Tensor]
) -> Callable[[str], torch.Tensor]:
    stored = {new: old for old, new in plain.items()}
    return lambda name: get(stored[name])


def _stripped(names: dict) -> dict[str, str]:
    """Stored name -> name without the prefix that parallel training puts before all of them."""
    every = bool(names) and all(name.startswith(PREFIX) for name in names)
    return {name: name.removeprefix(PREFIX) if every else name for name in names}


def _load(path: Path) -> dict[str, torch.Tensor]:
    zipped = zipfile.is_zipfile(path)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of odd pickles, which are read or refused below
            value = torch.load(path, map_location="cpu", weights_only=True, mmap=zipped)
    except UnpicklingError as error:
        raise _refusal(path, str(error), zipped) from error
    except (RuntimeError, EOFError, ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise WeightsError(f"{path.name} is damaged or cut off ({reason})", "a whole file", _AGAIN) from error
    while isinstance(value, dict):
        tensors = {str(n): t for n, t in value.items() if isinstance(t, torch.Tensor)}
        inner = next((value[w] for w in WRAPPERS if isinstance(value.get(w), dict)), None)
        if inner is None or (tensors and len(tensors) > len(WRAPPERS)):
            break
        value = inner
    if not isinstance(value, dict) or not tensors:
        raise WeightsError(f"{path.name} holds no dictionary of tensors", "a model's weights", _AGAIN)
    return tensors


def _refusal(path: Path, text: str, zipped: bool) -> WeightsError:
    """Why the restricted unpickler stopped, in one sentence."""
    found = re.search(r"GLOBAL (\S+)|function (\S+)|global `?([\w.]+)`?", text)
    name = next(group for group in found.groups() if group).rstrip(".`") if found else _foreign(path)
    if name:
        return WeightsError(
            f"{path.name} uses '{name}', which is code and not data",
            "tensors in dictionaries",
            "Take checkpoints only from sources you trust; a safetensors file of it can hold no code.",
        )
    state = "holds more than tensors" if zipped else "is damaged or no PyTorch checkpoint"
    return WeightsError(f"{path.name} {state}", "tensors in dictionaries", _AGAIN)


def _foreign(path: Path) -> str:
    """What a pickle calls that is neither torch's nor a dictionary, read off its opcodes; empty: nothing."""
    words: list[str] = []
    try:
        if zipfile.is_zipfile(path):
            with zipfile.ZipFile(path) as archive:
                inner = next((name for name in archive.namelist() if name.endswith("data.pkl")), None)
                data = archive.read(inner) if inner else b""
        else:
            with path.open("rb") as stream:
                data = stream.read(_PICKLE_BYTES)
        for code, value, _ in pickletools.genops(data):
            called = ""
            if code.name == "GLOBAL":
                called = str(value).replace(" ", ".")
            elif code.name == "STACK_GLOBAL":
                called = ".".join(words[-2:])
            elif isinstance(value, str):
                words.append(value)
            if called and not called.startswith(("torch.", "collections.OrderedDict")):
                return called
    except (ValueError, OSError, zipfile.BadZipFile, IndexError):
        pass  # what follows is no pickle: the caller says that it is damaged
    return ""
