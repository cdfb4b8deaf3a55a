"""From one picture to an orbit, as each published model does it: conditions, guidance, cameras, decoding.

Numbers are those of the released code where paper and code differ; pictures are [-1, 1], white behind the
object. What is random is drawn on the CPU, so that a seed gives the same noise on every device.
"""

import contextlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from backend.models import conditioning
from backend.models.cameras import Orbit, even_ring
from backend.models.depth import depth_condition
from backend.models.load import FULL, PublishedModel
from backend.models.sampling import Condition, Guidance, noise_levels, sample
from backend.models.vae import LATENT_SCALE

RGB_FROM_LATENT = np.array(
    [
        [0.3512, 0.2297, 0.3227],
        [0.3250, 0.4974, 0.2350],
        [-0.2829, 0.1762, 0.2721],
        [-0.2120, -0.2616, -0.7177],
    ],
    dtype=np.float32,
)
"""A linear guess of the pictures, good enough to watch: latents are Stable Diffusion's."""
DECODED_TOGETHER = 4
"""Frames: the image decoder's memory grows with them; the temporal one takes all, as the published code."""


@dataclass(frozen=True)
class OrbitModel:
    """What is fixed by training.

    frames, size   views and pixels
    radius, fov    of the cameras, in units of the object's longest side; degrees
    fill           the object's longest side over the frame that the training pictures have
    """

    name: str
    frames: int
    size: int
    steps: int
    guidance: Guidance
    cond_aug: float
    radius: float
    fov: float
    fill: float


HI3D = OrbitModel("hi3d", 16, 512, 25, Guidance("linear", 1.0, 2.5), 0.02, 1.5, 49.13, 0.73)
"""Lens 35 mm on 32 mm at distance 1.5: the SyncDreamer renders it was trained on."""
HI3D_SECOND = OrbitModel("hi3d", 16, 1024, 25, Guidance("linear", 1.0, 2.0), 0.02, 1.5, 49.13, 0.73)
V3D = OrbitModel("v3d", 18, 512, 25, Guidance("constant", last=3.5), 0.02, 2.0, 60.0, 0.7)
SV3D_U = OrbitModel("sv3d_u", 21, 576, 50, Guidance("triangle", 1.0, 2.5), 1e-5, 2.0, 33.8, 0.75)
SV3D_P = OrbitModel("sv3d_p", 21, 576, 50, Guidance("triangle", 1.0, 2.5), 1e-5, 2.0, 33.8, 0.75)


@dataclass(frozen=True)
class Watch:
    """What a long computation tells and asks.

    step(done, total, text)  reports and raises when the user cancelled; check() only raises
    show(draw)               offers a picture: draw() gives (H, W, 3) float32, 0..1
    """

    step: Callable[[int, int, str], None] = lambda done, total, text: None
    check: Callable[[], None] = lambda: None
    show: Callable[[Callable[[], np.ndarray]], None] = lambda draw: None


def generator_of(random: np.random.Generator) -> torch.Generator:
    """torch's random numbers out of a stage's."""
    return torch.Generator().manual_seed(int(random.integers(2**62)))


def latents_picture(latents: torch.Tensor) -> np.ndarray:
    """[T, 4, h, w] -> one picture (H, W, 3), 0..1, of all frames side by side in rows."""
    values = latents.detach().float().cpu().numpy()
    frames = np.clip(np.einsum("tchw,cr->thwr", values, RGB_FROM_LATENT) * 0.5 + 0.5, 0, 1)
    columns = math.ceil(math.sqrt(len(frames)))
    rows = math.ceil(len(frames) / columns)
    height, width = frames.shape[1:3]
    sheet = np.ones((rows * height, columns * width, 3), dtype=np.float32)
    for index, frame in enumerate(frames):
        row, column = divmod(index, columns)
        sheet[row * height : (row + 1) * height, column * width : (column + 1) * width] = frame
    return sheet


def sv3d_azimuths(frames: int) -> tuple[float, ...]:
    """Degrees; the last frame is the input view: 17.14, 34.29 ... 342.86, 0 for 21."""
    return tuple(360.0 * (i + 1) / frames % 360 for i in range(frames))


def sv3d_path(places: Sequence[tuple[float, float]]) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Azimuths and elevations in the order the net knows: by azimuth, the input view (azimuth 0) last."""
    ordered = sorted(places, key=lambda place: place[0] % 360 or 360.0)
    return tuple(a % 360 for a, _ in ordered), tuple(e for _, e in ordered)


@contextlib.contextmanager
def _told(net: nn.Module, tell: Callable[[], None]) -> Iterator[None]:
    """Say and ask before each block whether to go on: a step of a large net takes minutes on a CPU."""
    inner = getattr(net, "net", None)
    blocks = [*inner.down_blocks, inner.mid_block, *inner.up_blocks] if inner is not None else []
    hooks = [block.register_forward_pre_hook(lambda *_: tell()) for block in blocks]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def denoised(
    model: PublishedModel,
    noise: torch.Tensor,
    condition: Condition,
    steps: int,
    guidance: Guidance,
    watch: Watch,
    words: str,
    before_step: Callable[[int, torch.Tensor, torch.Tensor], torch.Tensor] | None = None,
) -> torch.Tensor:
    """[T, 4, h, w] unit noise -> clean latents on the model's device."""
    device = model.placement.device
    there = Condition(condition.context.to(device), condition.vector.to(device), condition.concat.to(device))

    done = 0

    def tell() -> None:
        watch.step(done, steps, words)

    def on_estimate(step: int, estimate: torch.Tensor) -> None:
        nonlocal done
        done = step + 1
        tell()
        watch.show(lambda: latents_picture(estimate))

    tell()
    with model.using("unet") as net, _told(net, tell), torch.inference_mode():
        return sample(
            net,
            noise.to(device),
            there,
            noise_levels(steps),
            guidance.scales(len(noise)),
            together=model.placement.kind == FULL and device.type != "cpu",
            before_step=before_step,
            on_estimate=on_estimate,
        )


def decoded(model: PublishedModel, latents: torch.Tensor, watch: Watch, together: int = 0) -> torch.Tensor:
    """[T, 4, h, w] sampler's latents -> pictures [T, 3, 8h, 8w] on the CPU, `together` at once (0: all)."""
    together = together or len(latents)
    pieces = []
    with model.using("decoder") as decoder, torch.inference_mode():
        for start in range(0, len(latents), together):
            watch.step(start, len(latents), f"Decoding view {start + 1} of {len(latents)}")
            piece = latents[start : start + together] / LATENT_SCALE
            pieces.append(decoder(piece, len(piece)).float().cpu())
    return torch.cat(pieces).clamp(-1, 1)


def _token(model: PublishedModel, picture: torch.Tensor) -> torch.Tensor:
    """[1, 1, D]: what CLIP sees."""
    with model.using("clip") as clip, torch.inference_mode():
        return clip(picture.to(model.placement.device)).float()[:, None]


def _encoded(
    model: PublishedModel, pictures: torch.Tensor, watch: Watch, part: str = "encoder"
) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean and deviation of the unscaled latents, one frame after another."""
    moments = []
    with model.using(part) as encoder, torch.inference_mode():
        for picture in pictures.split(1):
            watch.check()
            moments.append(encoder.moments(picture.to(model.placement.device)))
    means, deviations = zip(*moments, strict=True)
    return torch.cat(means).float(), torch.cat(deviations).float()


def _noise(shape: Sequence[int], random: torch.Generator) -> torch.Tensor:
    return torch.randn(tuple(shape), generator=random)


def _latent_shape(frames: int, picture: torch.Tensor, factor: int) -> tuple[int, int, int, int]:
    return frames, 4, picture.shape[2] // factor, picture.shape[3] // factor


def aesthetic_score(model: PublishedModel, picture: torch.Tensor) -> float:
    """Of Hi3D's first stage, by its own predictor."""
    with model.using("aesthetic") as predictor, torch.inference_mode():
        return float(predictor(picture.to(model.placement.device))[0])


def hi3d_first(
    model: PublishedModel,
    picture: torch.Tensor,  # [1, 3, H, W]
    elevation: float,
    random: torch.Generator,
    watch: Watch,
    *,
    frames: int = HI3D.frames,
    steps: int = HI3D.steps,
    guidance: Guidance = HI3D.guidance,
    cond_aug: float = HI3D.cond_aug,
    aesthetic: float | None = None,
) -> tuple[torch.Tensor, float]:
    """Hi3D's first stage: pictures [T, 3, H, W], frame 0 the input view; and the aesthetic score used.

    aesthetic  a score to ask for; None: what the predictor gives the picture, as the published code does
    """
    score = aesthetic_score(model, picture) if aesthetic is None else aesthetic
    noised = picture + cond_aug * _noise(picture.shape, random)
    concat, _ = _encoded(model, noised, watch)
    vector = conditioning.hi3d_first_vector(score, elevation, cond_aug)
    factor = model.settings("encoder").factor
    latents = denoised(
        model,
        _noise(_latent_shape(frames, picture, factor), random),
        Condition(_token(model, picture), vector, concat),
        steps,
        guidance,
        watch,
        "Hi3D, first stage",
    )
    return decoded(model, latents, watch, DECODED_TOGETHER), score


def anchor_weight(step: int, steps: int) -> float:
    """How far Hi3D's second stage goes back to the first stage's frames before a step: 1, .984, .938 ..."""
    return (0.5 * (1 + math.cos(step / steps))) ** 40


def hi3d_second(
    model: PublishedModel,
    frames: torch.Tensor,  # [T, 3, H, W] at the final size; frame 0 the user's own picture
    elevation: float,
    random: torch.Generator,
    watch: Watch,
    *,
    steps: int = HI3D_SECOND.steps,
    guidance: Guidance = HI3D_SECOND.guidance,
    cond_aug: float = HI3D_SECOND.cond_aug,
    anchor: bool = True,
) -> torch.Tensor:
    """Hi3D's second stage: the same views, finer [T, 3, H, W].

    anchor  pull the latents back to the frames before each step; in the released code, not in the paper
    """
    noised = frames + cond_aug * _noise(frames.shape, random)
    concat, _ = _encoded(model, noised, watch)
    with model.using("depth") as net, torch.inference_mode():
        depths = []
        for frame in noised.split(1):
            watch.check()
            depths.append(depth_condition(frame.to(model.placement.device), net))
    concat = torch.cat([torch.cat(depths).to(concat), concat], dim=1)  # [T, 9 + 4, h, w]
    factor = model.settings("encoder").factor
    noise = _noise(_latent_shape(len(frames), frames, factor), random)
    before_step = None
    if anchor:
        part = "first_encoder" if model.has("first_encoder") else "encoder"
        mean, deviation = _encoded(model, frames, watch, part)
        clean = (mean + deviation * _noise(mean.shape, random).to(mean)) * LATENT_SCALE

        def pulled_back(step: int, latents: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
            weight = anchor_weight(step, steps)
            return latents * (1 - weight) + (noise.to(latents) * sigma + clean.to(latents)) * weight

        before_step = pulled_back
    latents = denoised(
        model,
        noise,
        Condition(_token(model, frames[:1]), conditioning.hi3d_second_vector(elevation, cond_aug), concat),
        steps,
        guidance,
        watch,
        "Hi3D, second stage",
        before_step,
    )
    return decoded(model, latents, watch, 1)


def v3d(
    model: PublishedModel,
    base: PublishedModel,  # Stable Video Diffusion XT: its CLIP and first encoder
    picture: torch.Tensor,
    random: torch.Generator,
    watch: Watch,
    *,
    frames: int = V3D.frames,
    steps: int = V3D.steps,
    guidance: Guidance = V3D.guidance,
    cond_aug: float = V3D.cond_aug,
    fps: float = 1.0,
    motion: float = 300.0,
) -> torch.Tensor:
    """V3D: pictures [T, 3, H, W], frame 0 the input view.

    fps, motion, cond_aug  constants left over from SVD; its script has 1, 300, 0.02, its demo 0, 0, 0.05
    """
    mean, deviation = _encoded(base, picture, watch, "first_encoder")
    latent = mean + deviation * _noise(mean.shape, random).to(mean)
    latent = latent + cond_aug * _noise(mean.shape, random).to(mean)  # in latent space, unlike the others
    factor = base.settings("first_encoder").factor
    latents = denoised(
        model,
        _noise(_latent_shape(frames, picture, factor), random),
        Condition(_token(base, picture), conditioning.svd_vector(fps, motion, cond_aug), latent),
        steps,
        guidance,
        watch,
        "V3D",
    )
    return decoded(model, latents, watch)


def sv3d(
    model: PublishedModel,
    picture: torch.Tensor,
    random: torch.Generator,
    watch: Watch,
    *,
    path: tuple[tuple[float, ...], tuple[float, ...]] | None = None,
    frames: int = SV3D_U.frames,
    steps: int = SV3D_U.steps,
    guidance: Guidance = SV3D_U.guidance,
    cond_aug: float = SV3D_U.cond_aug,
) -> torch.Tensor:
    """SV3D: pictures [T, 3, H, W], the last frame the input itself.

    path  azimuths and elevations of `sv3d_path`, in degrees (SV3D_p); None: SV3D_u
    """
    noised = picture + cond_aug * _noise(picture.shape, random)
    concat, _ = _encoded(model, noised, watch)
    if path is None:
        vector = conditioning.sv3d_u_vector(cond_aug)
    else:
        frames = len(path[0])
        vector = conditioning.sv3d_p_vector(cond_aug, path[1], path[0])
    factor = model.settings("encoder").factor
    latents = denoised(
        model,
        _noise(_latent_shape(frames, picture, factor), random),
        Condition(_token(model, picture), vector, concat),
        steps,
        guidance,
        watch,
        "SV3D",
    )
    pictures = decoded(model, latents, watch, DECODED_TOGETHER)
    pictures[-1:] = picture.cpu()
    return pictures


def ring_of(model: OrbitModel, frames: int, elevation: float) -> Orbit:
    """The cameras of an even ring whose frame 0 is the input view."""
    return even_ring(frames, elevation, model.radius, model.fov)


def path_of(model: OrbitModel, path: tuple[tuple[float, ...], tuple[float, ...]]) -> Orbit:
    """The cameras of an SV3D path, the input view first."""
    azimuths, elevations = ((*values[-1:], *values[:-1]) for values in path)
    return Orbit(azimuths, elevations, model.radius, model.fov)


def as_picture(rgba: np.ndarray, size: int) -> torch.Tensor:
    """(S, S, 4) float32 straight alpha -> [1, 3, size, size] in [-1, 1] on white."""
    from backend.geometry.images import resize_rgba

    square = resize_rgba(rgba, size)
    white = square[..., :3] * square[..., 3:] + (1 - square[..., 3:])
    return torch.from_numpy(np.ascontiguousarray(white.transpose(2, 0, 1), dtype=np.float32))[None] * 2 - 1


def as_arrays(pictures: torch.Tensor) -> np.ndarray:
    """[T, 3, H, W] in [-1, 1] -> (T, H, W, 3) float32, 0..1."""
    values: Any = (pictures.permute(0, 2, 3, 1).clamp(-1, 1) + 1) / 2
    return np.ascontiguousarray(values.numpy())
