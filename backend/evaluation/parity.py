"""`python -m backend.evaluation.parity DIR`: our networks against recorded outputs of the reference code.

Configuration, shapes and inputs come from the file (`fixtures.py`); our modules get its weights through the
key rules that load published files.
One line a fixture, a JSON object last; exit 1 when a bound is broken or a fixture is not understood.
"""

import argparse
import json
import re
import sys
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from backend.evaluation.fixtures import (
    GUIDANCES,
    Fixture,
    frames_of,
    guidance_in,
    number_after,
    read_fixture,
    rule_weight,
)
from shared_protocol.errors import InvalidInput, OrreryError

UNET, VAE, SAMPLER, SCALARS, DEPTH, PIXELNERF = 2e-5, 3e-5, 5e-5, 1e-6, 1e-5, 1e-4
THREADS = 2


@dataclass(frozen=True)
class Outcome:
    """Of one fixture.

    error    the maximal difference, relative to its bound's own
    bound    what it may be
    fault    why it was not understood, or could not be computed; then error is None
    parts    the maximal difference of each output
    """

    name: str
    kind: str = ""
    error: float | None = None
    bound: float = 0.0
    fault: str = ""
    parts: Mapping[str, float] | None = None

    @property
    def passed(self) -> bool:
        return self.error is not None and self.error <= self.bound

    def line(self) -> str:
        if self.error is None:
            return f"{self.name}: not understood: {self.fault}"
        words = "within" if self.passed else "BEYOND"
        return f"{self.name}: {self.kind}, maximal error {self.error:.2e}, {words} the bound {self.bound:.0e}"


def ruled(module: Any, rule: Any, prefix: str = "") -> Any:
    """The module with the fixtures' weights, through its key rule; in evaluation mode."""
    import torch

    from backend.models.rules import compare, filled, parameters_of, published_shape

    wanted = parameters_of(module)
    takes = [(rule(name), shape) for name, shape in wanted.items()]
    shapes = {take.source: published_shape(take, shape) for take, shape in takes if take.absent is None}
    comparison = compare(wanted, rule, shapes)
    state = filled(
        module, comparison, lambda name: torch.from_numpy(rule_weight(prefix + name, shapes[name]))
    )
    module.load_state_dict(state)
    return module.eval().requires_grad_(False)


def _tensor(array: np.ndarray) -> Any:
    import torch

    return torch.from_numpy(np.ascontiguousarray(array, dtype=np.float32))


def _unet(meta: Mapping[str, Any], fixture: Fixture) -> dict[str, np.ndarray]:
    from backend.models.unet import UNetSettings, VideoUNet, unet_rule

    settings = UNetSettings.from_published(meta["cfg"])
    net = ruled(VideoUNet(settings), unet_rule(settings))
    inputs = {name: _tensor(fixture[name]) for name in ("in_x", "in_ts", "in_ctx", "in_y")}
    rows = len(inputs["in_x"])
    frames = frames_of(meta, rows, rows // len(inputs["in_ts"]))
    for name, given in inputs.items():
        if len(given) not in (rows, rows // frames):
            raise InvalidInput(
                f"{name} has {len(given)} rows", f"{rows // frames}, one a sample, or {rows}, one a frame"
            )
    smallest = 2 ** (len(settings.channels) - 1)
    if any(edge % smallest for edge in inputs["in_x"].shape[2:]):
        raise InvalidInput(
            f"in_x is {' x '.join(map(str, inputs['in_x'].shape[2:]))} large", f"multiples of {smallest}"
        )
    alone = next((_tensor(fixture[name]) for name in _ALONE if name in fixture), None)
    if alone is not None and alone.numel() != rows:
        raise InvalidInput(f"its image_only_indicator has shape {tuple(alone.shape)}", "one number a frame")
    alone = None if alone is None else alone.reshape(-1, frames)
    return {"out": net(*inputs.values(), frames=frames, alone=alone).numpy()}


_ALONE = ("in_image_only_indicator", "in_indicator")


def _vae(meta: Mapping[str, Any], fixture: Fixture) -> dict[str, np.ndarray]:
    from torch import nn

    from backend.models.vae import ImageDecoder, VaeEncoder, VaeSettings, VideoDecoder, vae_rule

    settings = VaeSettings.from_published(meta["cfg"])
    rule = vae_rule(settings)

    def bare(module: nn.Module, half: str, prefix: str) -> Any:
        """Its inner net; the fixtures name weights without "encoder." and "decoder."."""
        inner = getattr(module, half)

        def inner_rule(name: str) -> Any:
            take = rule(f"{half}.{name}")
            return type(take)(take.source.removeprefix(f"{half}."), take.change)

        setattr(module, half, ruled(inner, inner_rule, prefix))
        return module.eval().requires_grad_(False)

    outputs = {}
    if "enc" in fixture:
        encoder = bare(VaeEncoder(settings), "encoder", "enc.")
        outputs["enc"] = encoder.encoder(_tensor(fixture["in_img"])).numpy()
    if "dec" in fixture:
        decoder = bare(ImageDecoder(settings), "decoder", "dec.")
        outputs["dec"] = decoder.decoder(_tensor(fixture["in_z"])).numpy()
    if "vdec" in fixture:
        latents = _tensor(fixture["in_z"])
        found = re.search(r"vdec with (\d+) frames", str(meta.get("inputs", "")))
        frames = frames_of(meta, len(latents), int(found[1]) if found else len(latents))
        video = bare(VideoDecoder(settings), "decoder", "vdec.")
        outputs["vdec"] = video(latents, frames).numpy()
    return outputs


def _sampler(meta: Mapping[str, Any], fixture: Fixture) -> dict[str, np.ndarray]:
    import torch

    from backend.models.sampling import RHO, SIGMA_MAX, SIGMA_MIN, Condition, noise_levels, sample
    from backend.models.unet import UNetSettings, VideoUNet, unet_rule

    settings = UNetSettings.from_published(meta["cfg"])
    net = ruled(VideoUNet(settings), unet_rule(settings))
    text = json.dumps({key: value for key, value in meta.items() if key != "cfg"})
    given = [_tensor(fixture[f"in_{name}"]) for name in ("crossattn", "vector", "concat")]
    noise = _tensor(fixture["in_noise"])
    frames = frames_of(meta, len(noise), len(noise))
    sigmas = noise_levels(
        int(meta["steps"]),
        sigma_min=number_after(text, 'sigma_min"?:?', SIGMA_MIN),
        sigma_max=number_after(text, 'sigma_max"?:?', SIGMA_MAX),
        rho=number_after(text, r'\brho"?:?', RHO),
    )
    samples = noise.split(frames)
    outputs = {}
    for name in GUIDANCES:
        if name in fixture:
            scales = guidance_in(text, name).scales(frames)
            parts = []
            for number, part in enumerate(samples):  # ours draws one sample at a time
                own = [rows.chunk(len(samples))[number] for rows in given]
                parts.append(sample(net, part, Condition(*own), sigmas, scales))
            outputs[name] = torch.cat(parts).numpy()
    return outputs


def _scalars(meta: Mapping[str, Any], fixture: Fixture) -> dict[str, np.ndarray]:
    from backend.models.conditioning import sinusoid
    from backend.models.sampling import SIGMA_MAX, Guidance, noise_levels, velocity_scaling

    sigma_max = number_after(json.dumps(dict(meta)), 'sigma_max"?:?', SIGMA_MAX)
    outputs = {}
    for name, array in fixture.items():
        kind = re.fullmatch(r"(e|sig|lin|tri|con|vs)(\d*)[a-z]?", name)
        if kind is None:
            continue
        count = int(kind[2] or 0)
        if kind[1] == "e":
            outputs[name] = sinusoid(_tensor(fixture["t"]), count).numpy()
        elif kind[1] == "sig":
            outputs[name] = noise_levels(count, sigma_max=sigma_max).numpy()
        elif kind[1] == "vs":
            scaling = velocity_scaling(_tensor(fixture["s"]))
            outputs[name] = np.stack(
                [vars(scaling)[c].numpy() for c in ("c_skip", "c_out", "c_in", "c_noise")]
            )
        else:
            scales = array.reshape(-1)
            first, last = float(scales[0]), float(scales[-1])
            # The wave's first step, which is 2 / (frames - 1) of its height, tells how high it goes.
            height = float(scales[1] - scales[0]) * (count - 1) / 2 if len(scales) > 1 else 0.0
            guidance = {
                "lin": Guidance("linear", first, last),
                "tri": Guidance("triangle", first, first + height),
                "con": Guidance("constant", last=last),
            }[kind[1]]
            outputs[name] = guidance.scales(count).numpy().reshape(array.shape)
    return outputs


def _poses(meta: Mapping[str, Any], fixture: Fixture) -> dict[str, np.ndarray]:
    from backend.models.cameras import even_ring, published_poses
    from shared_protocol.conventions import opengl_from_opencv

    text = json.dumps(dict(meta))
    radius, level = number_after(text, r"radius", 2.0), number_after(text, r"elevation", 0.0)
    outputs = {}
    for name, array in fixture.items():
        found = re.fullmatch(r"(cv|gl)(?:_el(-?\d+))?", name)
        if found is None:
            continue
        elevation = level if found[2] is None else float(found[2])
        poses = published_poses(even_ring(len(array), elevation, radius, 60.0))
        outputs[name] = poses if found[1] == "cv" else opengl_from_opencv(poses)
    return outputs


def _depth(meta: Mapping[str, Any], fixture: Fixture) -> dict[str, np.ndarray]:
    """The depth net is a stand-in: the channels' mean and half the first one."""
    from backend.models.depth import depth_condition

    if "in_x" not in fixture:
        raise InvalidInput("the fixture does not say what its pictures are", "in_x, or x=rnd('name',shape)")
    pictures = fixture["in_x"]
    if pictures.ndim == 5:  # b c t h w
        pictures = np.moveaxis(pictures, 2, 1).reshape(-1, pictures.shape[1], *pictures.shape[3:])
    frames = _tensor(pictures)
    return {"out": depth_condition(frames, lambda x: x.mean(dim=1) + 0.5 * x[:, 0]).numpy()}


def _pixelnerf(meta: Mapping[str, Any], fixture: Fixture) -> dict[str, np.ndarray]:
    import torch

    from backend.models.pixelnerf import ImageFeatures, PixelNerf
    from backend.models.rules import same_name

    note = str(meta.get("note", ""))
    focal, centre = number_after(note, r"fx=fy", 1.2), number_after(note, r"\bc(?==)", 0.5)
    matrix = torch.tensor([[focal, 0, centre], [0, focal, centre], [0, 0, 1.0]])
    sources, targets = _tensor(fixture["src"]), _tensor(fixture["tgt"])
    features = ruled(ImageFeatures(), same_name)(_tensor(fixture["in_img"]))
    outputs = {"feat": features.numpy()}
    batch, views = sources.shape[:2]
    for name in fixture:
        if not name.startswith("rgb_"):
            continue
        variant = name.removeprefix("rgb_")
        net = PixelNerf(
            features.shape[1], int(meta["samples"]), use_std="std" in variant, use_position="pos" in variant
        )
        ruled(net, same_name)  # the fixtures' rule fills the encoding's constants too
        rgb, out = net(
            features.reshape(batch, views, *features.shape[1:]),
            sources,
            matrix.expand(batch, views, 3, 3),
            targets,
            matrix.expand(batch, targets.shape[1], 3, 3),
            int(meta["render"]),
            jitter=torch.tensor(number_after(str(meta.get("jitter", "")), r"by", 0.5)),
        )
        outputs |= {name: rgb.numpy(), f"feat_{variant}": out.numpy()}
    return outputs


@dataclass(frozen=True)
class Kind:
    """A kind of fixture, its bound, and how ours is computed: outputs of the same names."""

    words: str
    bound: float
    compute: Callable[[Mapping[str, Any], Fixture], dict[str, np.ndarray]]


def kind_of(meta: Mapping[str, Any], fixture: Fixture) -> Kind:
    """By what the file holds; InvalidInput where that is no kind known here."""
    config = meta.get("cfg")
    names = set(fixture)
    if isinstance(config, dict) and {"adm_in_channels", "num_classes"} & set(config):
        if "in_noise" in names or "steps" in meta:
            known = names | (set(meta) & {"steps"})
            _ask(known, {"in_noise", "in_crossattn", "in_concat", "in_vector", "steps"}, "sampler")
            return Kind("sampler", SAMPLER, _sampler)
        _ask(names, {"in_x", "in_ts", "in_ctx", "in_y", "out"}, "video UNet")
        return Kind("video UNet", UNET, _unet)
    if isinstance(config, dict) and {"ch", "ch_mult"} <= set(config):
        return Kind("autoencoder", VAE, _vae)
    if {"src", "tgt", "in_img", "feat"} <= names:
        return Kind("pixelNeRF", PIXELNERF, _pixelnerf)
    if names & {"cv", "gl"}:
        return Kind("poses", SCALARS, _poses)
    if "stand-in depth net" in str(meta.get("inputs", "")):
        return Kind("depth condition", DEPTH, _depth)
    if names & {"t", "s"} or any(re.fullmatch(r"(sig|lin|tri)\d+[a-z]?", name) for name in names):
        return Kind("scalars", SCALARS, _scalars)
    other = next((model for mark, model in _OTHERS.items() if mark in names or mark in meta), "a model")
    raise InvalidInput(
        f"it is of {other} that is not here",
        "a video UNet, autoencoder, sampler, scalars, poses, depth condition or pixelNeRF",
    )


_OTHERS = {
    "pts1": "DUSt3R, a model",
    "in_img_tokens": "DynamiCrafter, a model",
    "alphas_cumprod": "DynamiCrafter, a model",
}
"""By an array that only its fixtures have."""


def _ask(names: set[str], wanted: set[str], words: str) -> None:
    if not wanted <= names:
        raise InvalidInput(
            f"it lacks {', '.join(sorted(wanted - names))}", f"what a fixture of a {words} holds"
        )


_FAULTS = (
    OrreryError, ValueError, TypeError, OSError, RuntimeError, LookupError, AttributeError, ArithmeticError,
    EOFError, AssertionError, zipfile.BadZipFile,
)  # fmt: skip
"""What a file of any content may bring about."""


def examine(path: Path) -> Outcome:
    """Compare one fixture; whatever is wrong with it becomes the outcome's fault."""
    try:
        meta, arrays = read_fixture(path)
        kind = kind_of(meta, arrays)
        ours = kind.compute(meta, arrays)
    except KeyError as error:
        return Outcome(path.stem, fault=f"it lacks {error}")
    except _FAULTS as error:
        return Outcome(path.stem, fault=str(error) or type(error).__name__)
    inputs = {"t", "s", "src", "tgt"}
    unseen = [
        name
        for name, array in arrays.items()
        if name not in ours and not name.startswith("in_") and name not in inputs and np.any(array)
    ]
    if unseen or not ours:
        return Outcome(path.stem, fault=f"its outputs {', '.join(unseen) or 'are none'} are unknown")
    parts = {}
    for name, array in ours.items():
        if array.shape != arrays[name].shape:
            return Outcome(path.stem, fault=f"{name} has shape {arrays[name].shape}, ours {array.shape}")
        if arrays[name].dtype == np.float16:
            return Outcome(path.stem, fault=f"{name} is kept in half precision, coarser than any bound")
        parts[name] = _difference(array, arrays[name], relative=kind.words == "scalars")
    return Outcome(path.stem, kind.words, max(parts.values()), kind.bound, parts=parts)


def _difference(ours: np.ndarray, theirs: np.ndarray, relative: bool) -> float:
    """Maximal; of scalars relative to those above one, such as noise levels of 700."""
    difference = np.abs(ours.astype(np.float64) - theirs)
    if relative:
        difference = difference / np.maximum(1.0, np.abs(theirs))
    return float(difference.max()) if np.isfinite(difference).all() else float("inf")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m backend.evaluation.parity", description=__doc__)
    parser.add_argument("folder", type=Path, metavar="DIR", help="folder of NPZ fixtures")
    folder = parser.parse_args(arguments).folder
    paths = sorted(folder.glob("*.npz"))
    if not paths:
        sys.stderr.write(str(InvalidInput(f"{folder} holds no fixtures", "a folder of .npz files")) + "\n")
        return 2
    import torch

    torch.set_num_threads(min(THREADS, torch.get_num_threads()))
    outcomes = []
    for path in paths:
        outcomes.append(examine(path))
        sys.stdout.write(outcomes[-1].line() + "\n")
        sys.stdout.flush()
    passed = all(outcome.passed for outcome in outcomes)
    summary = {"passed": passed, "fixtures": [vars(o) | {"passed": o.passed} for o in outcomes]}
    sys.stdout.write(json.dumps(summary) + "\n")
    return 0 if passed else 1


if __name__ == "__main__":
    sys.exit(main())
