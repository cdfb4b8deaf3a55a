"""How a video is denoised: Karras' noise levels, the velocity form, guidance over frames, Euler steps.

EDM, Karras 2022; the settings of Stable Video Diffusion: sigma from 700 to 0.002, rho 7, no churn.
"""

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import torch

from shared_protocol.errors import InvalidInput

SIGMA_MIN, SIGMA_MAX, RHO = 0.002, 700.0, 7.0


def noise_levels(
    steps: int, sigma_min: float = SIGMA_MIN, sigma_max: float = SIGMA_MAX, rho: float = RHO
) -> torch.Tensor:
    """[steps + 1] float32, falling, the last 0 (EDM, equation 5)."""
    ramp = torch.linspace(0, 1, steps)
    least, most = sigma_min ** (1 / rho), sigma_max ** (1 / rho)
    sigmas = (most + ramp * (least - most)) ** rho
    return torch.cat([sigmas, sigmas.new_zeros(1)])


@dataclass(frozen=True)
class Scaling:
    """Of a noise level: denoised = c_skip x + c_out net(c_in x, c_noise). Tensors of sigma's shape."""

    c_skip: torch.Tensor
    c_out: torch.Tensor
    c_in: torch.Tensor
    c_noise: torch.Tensor


def velocity_scaling(sigma: torch.Tensor) -> Scaling:
    """The velocity form, with EDM's noise input."""
    root = (sigma**2 + 1.0) ** 0.5
    return Scaling(1.0 / (sigma**2 + 1.0), -sigma / root, 1.0 / root, 0.25 * sigma.log())


@dataclass(frozen=True)
class Guidance:
    """Classifier-free guidance whose scale depends on the frame.

    kind   "linear": from `first` to `last` over the frames (SVD, Hi3D); "triangle": from `first` up to `last`
           half way round and back (SV3D); "constant": `last` (V3D)
    """

    kind: str
    first: float = 1.0
    last: float = 2.5

    def scales(self, frames: int) -> torch.Tensor:
        """[frames] float32."""
        if self.kind == "linear":
            return torch.linspace(self.first, self.last, frames)
        if self.kind == "triangle":
            place = torch.linspace(0, 1, frames)
            wave = 2 * (place - torch.floor(place + 0.5)).abs()
            return wave * (self.last - self.first) + self.first
        if self.kind == "constant":
            return torch.full((frames,), float(self.last))
        raise InvalidInput(f"guidance of kind '{self.kind}' is unknown", "linear, triangle or constant")


@dataclass(frozen=True)
class Condition:
    """What a sample is made from, and what it is without it.

    context  [B, tokens, D] of cross-attention
    vector   [B, V], or [B * T, V]
    concat   [B * T, C, h, w] or [B, C, h, w] (then for all frames alike), beside the noise
    """

    context: torch.Tensor
    vector: torch.Tensor
    concat: torch.Tensor

    def without(self) -> "Condition":
        """The unconditional one: tokens and pictures are zero, the vector stays."""
        return Condition(torch.zeros_like(self.context), self.vector, torch.zeros_like(self.concat))

    def framed(self, frames: int) -> "Condition":
        """With `concat` for each frame."""
        samples = len(self.context)
        if len(self.concat) == samples * frames:
            return self
        return Condition(self.context, self.vector, self.concat.repeat_interleave(frames, dim=0))


Net = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, int], torch.Tensor]
"""`VideoUNet.forward`."""


def denoise(
    net: Net, noisy: torch.Tensor, sigma: torch.Tensor, condition: Condition, frames: int
) -> torch.Tensor:
    """One estimate of the clean latents.

    noisy [B * T, 4, h, w]; sigma scalar; condition.concat [B * T, C, h, w] -> [B * T, 4, h, w]
    """
    scaling = velocity_scaling(sigma)
    samples = len(noisy) // frames
    inner = torch.cat([noisy * scaling.c_in, condition.concat], dim=1).to(noisy.dtype)
    levels = scaling.c_noise.reshape(1).expand(samples)
    answer = net(inner, levels, condition.context, condition.vector, frames)
    return answer * scaling.c_out + noisy * scaling.c_skip


def guided(
    net: Net,
    noisy: torch.Tensor,
    sigma: torch.Tensor,
    condition: Condition,
    scales: torch.Tensor,
    *,
    together: bool = True,
) -> torch.Tensor:
    """The guided estimate for one sample of T frames; scales [T].

    together  both halves in one batch; False takes half the memory and the same numbers but for rounding
    """
    frames = len(noisy)
    condition = condition.framed(frames)
    if together:
        bare = condition.without()
        both = Condition(
            torch.cat([bare.context, condition.context]),
            torch.cat([bare.vector, condition.vector]),
            torch.cat([bare.concat, condition.concat]),
        )
        without, given = denoise(net, torch.cat([noisy, noisy]), sigma, both, frames).chunk(2)
    else:
        without = denoise(net, noisy, sigma, condition.without(), frames)
        given = denoise(net, noisy, sigma, condition, frames)
    return without + scales.to(noisy)[:, None, None, None] * (given - without)


def sample(
    net: Net,
    noise: torch.Tensor,
    condition: Condition,
    sigmas: torch.Tensor,
    scales: torch.Tensor,
    *,
    together: bool = True,
    before_step: Callable[[int, torch.Tensor, torch.Tensor], torch.Tensor] | None = None,
    on_estimate: Callable[[int, torch.Tensor], None] | None = None,
) -> torch.Tensor:
    """Euler's method from pure noise to clean latents.

    noise    [T, 4, h, w] of unit variance; sigmas [S + 1] of `noise_levels`; scales [T] of `Guidance`
    before_step(i, latents, sigma)  may change the latents before step i (Hi3D's anchor)
    on_estimate(i, estimate)        sees the guided estimate of step i: progress, previews; may raise
    """
    latents = noise * torch.sqrt(1.0 + sigmas[0] ** 2)
    for step, (sigma, after) in enumerate(itertools.pairwise(sigmas)):
        if before_step is not None:
            latents = before_step(step, latents, sigma)
        estimate = guided(net, latents, sigma, condition, scales, together=together)
        if on_estimate is not None:
            on_estimate(step, estimate)
        latents = latents + (latents - estimate) / sigma * (after - sigma)
    return latents
