"""Converted models as modules on a device: mapped from disk, whole, by parts, or block by block.

full        every network stays on the device
parts       a network goes there when it is used, and makes room for the next
sequential  of the video UNet one block at a time: slow, and fits where nothing else does
"""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from backend.models.convert import settings_of
from backend.models.layouts import LAYOUTS, build_on_meta
from backend.weights.converted import read_index
from shared_protocol.errors import InvalidInput, WeightsError

PLACEMENTS = ("full", "parts", "sequential")
FULL, PARTS, SEQUENTIAL = PLACEMENTS


EXACT = ("encoder", "first_encoder", "trunk", "heads")
"""Always in float32: the encoders' activations leave half precision's range, the others measure."""


@dataclass(frozen=True)
class Placement:
    """Where networks lie and compute.

    device     "cpu", "cuda", "cuda:1"
    precision  of the numbers: float16 on a GPU, float32 on a CPU
    kind       one of PLACEMENTS; on a CPU "sequential" is as "parts"
    """

    device: torch.device
    precision: torch.dtype
    kind: str = FULL

    @classmethod
    def here(cls, kind: str = "auto", needs: dict[int, str] | None = None) -> "Placement":
        """On the GPU where there is one, else the CPU.

        kind   one of PLACEMENTS, or "auto": what the GPU's free memory allows; on a CPU full
        needs  GB of memory -> placement, from the catalogue
        """
        if kind not in ("auto", *PLACEMENTS):
            raise InvalidInput(f"no placement is called '{kind}'", "auto, " + ", ".join(PLACEMENTS))
        if not torch.cuda.is_available():
            return cls(torch.device("cpu"), torch.float32, PARTS if kind in (PARTS, SEQUENTIAL) else FULL)
        if kind == "auto":
            # What torch holds but does not use counts: it is given to whoever asks next in this process.
            unused = torch.cuda.memory_reserved() - torch.cuda.memory_allocated()
            kind = fitting((torch.cuda.mem_get_info()[0] + unused) / 1e9, needs or {})
        return cls(torch.device("cuda"), torch.float16, kind)


def fitting(gigabytes: float, needs: dict[int, str]) -> str:
    """The placement for so much free memory: of the largest size of card in `needs` that it amounts to."""
    # A card sold as 12 GB has a little more or less to offer, and its driver keeps some for itself.
    fits = [size for size in needs if size <= gigabytes * 1.1]
    return needs[max(fits)] if fits else SEQUENTIAL


class PublishedModel:
    """The converted networks of one published file."""

    def __init__(self, folder: Path, placement: Placement) -> None:
        index = read_index(folder)
        if index is None:
            raise WeightsError(
                f"{folder} holds no converted model", "its index.json", "Pull the model again."
            )
        self.folder, self.placement = folder, placement
        self.layout = LAYOUTS[index["layout"]]
        self._parts: dict[str, Any] = index["parts"]
        self._loaded: dict[str, nn.Module] = {}

    def has(self, part: str) -> bool:
        """Whether this part was converted."""
        return part in self._parts

    def settings(self, part: str) -> Any:
        """The part's sizes."""
        return settings_of(self.layout, part, self._parts[part]["settings"])

    @contextlib.contextmanager
    def using(self, part: str) -> Iterator[Any]:
        """The part, ready to compute; with less than full placement it leaves the device afterwards."""
        module = self._loaded.get(part) or self._load(part)
        placement = self.placement
        if placement.kind == FULL:
            self._loaded[part] = module.to(placement.device)
            yield module
            return
        hooks = []
        if placement.kind == SEQUENTIAL and part == "unet":
            hooks = _block_by_block(module, placement.device)
        else:
            module.to(placement.device)
        try:
            yield module
        finally:
            for hook in hooks:
                hook.remove()
            del module
            if placement.device.type == "cuda":
                torch.cuda.empty_cache()

    def _load(self, part: str) -> nn.Module:
        """The module on the CPU, its parameters mapped from the shards where they need no conversion."""
        network = self.layout.part(part).network
        module = build_on_meta(network, self.settings(part))
        precision = torch.float32 if part in EXACT else self.placement.precision
        state = {}
        try:
            for file in self._parts[part]["files"]:
                with safe_open(self.folder / file["name"], framework="pt") as shard:
                    state |= {n: shard.get_tensor(n).to(precision) for n in shard.keys()}  # noqa: SIM118
        except (OSError, SafetensorError) as error:
            raise WeightsError(
                f"{self.folder / file['name']} is damaged ({error})", "a whole file", "Pull the model again."
            ) from error
        module.load_state_dict(state, assign=True)
        _fill_constants(module)
        return module.eval().requires_grad_(False)


def _fill_constants(module: nn.Module) -> None:
    """Tables of positions, which no file holds, are counted where they were built on the meta device."""
    for inner in module.modules():
        for name, buffer in list(inner.named_buffers(recurse=False)):
            if buffer.is_meta:
                assert name == "position_ids", f"{name} has no value"
                inner.register_buffer(
                    name, torch.arange(buffer.numel()).expand(buffer.shape), persistent=False
                )


def _block_by_block(module: nn.Module, device: torch.device) -> list[Any]:
    """Let each block visit the device for its own forward pass only; the small rest stays there."""
    net = module.net
    blocks = [*net.down_blocks, net.mid_block, *net.up_blocks]
    for child in net.children():
        if not isinstance(child, nn.ModuleList) and child is not net.mid_block:
            child.to(device)
    hooks = []
    for block in blocks:
        kept = {name: parameter.data for name, parameter in block.named_parameters()}

        def enter(block: nn.Module, *_: Any) -> None:
            block.to(device)

        def leave(block: nn.Module, *_: Any, kept: dict[str, torch.Tensor] = kept) -> None:
            # Back to the very tensors: the copies on the device are let go, nothing is copied back.
            for name, parameter in block.named_parameters():
                parameter.data = kept[name]

        hooks += [block.register_forward_pre_hook(enter), block.register_forward_hook(leave)]
    return hooks
