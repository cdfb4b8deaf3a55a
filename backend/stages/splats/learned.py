"""What a fit on a torch device learns, between the device and numpy; and how the pictures pull at it."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from backend.geometry.splat_adam import Adam
from backend.geometry.splat_parameters import HIGHER_DEGREES, Rates, Raw
from backend.geometry.splat_targets import Target

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Drawn:
    """One picture of the Gaussians, differentiable.

    planes   (4, H, W): R, G, B, alpha
    centres  (1, G, 2) in pixels, or (G, 2); part of the graph, so that their gradient can be asked for
    seen     (G,) bool: which reach the picture
    """

    planes: "torch.Tensor"
    centres: "torch.Tensor"
    seen: "torch.Tensor"


class Learned:
    """The raw numbers of the Gaussians on a device, and their Adam.

    Between steps they can be taken to numpy and back, for what a strategy of `densify.py` does with them.
    """

    NAMES = ("positions", "log_scales", "rotations", "logits", "base", "higher")
    """base and higher: harmonics of degree 0, and above."""

    def __init__(self, raw: Raw, rates: Rates, extent: float, device: str, taken: int = 0) -> None:
        """extent: of `Rates.position`; taken: steps that Adam has made before."""
        import torch

        arrays = vars(raw) | {"base": raw.harmonics[:, :1], "higher": raw.harmonics[:, 1:]}
        self._device, self._rates, self._extent, self._taken = device, rates, extent, taken
        for name in self.NAMES:
            leaf = torch.tensor(arrays[name], dtype=torch.float32, device=device, requires_grad=True)
            setattr(self, name, leaf)
        self._first = {
            "positions": rates.position * extent, "log_scales": rates.scale, "rotations": rates.rotation,
            "logits": rates.opacity, "base": rates.harmonics, "higher": rates.harmonics * HIGHER_DEGREES,
        }  # fmt: skip
        self._names = [name for name in self.NAMES if getattr(self, name).numel()]
        groups = [{"params": [getattr(self, name)], "lr": self._first[name]} for name in self._names]
        self.optimiser = torch.optim.Adam(groups, eps=1e-15)

    def __len__(self) -> int:
        return len(self.positions)

    def activated(self, coefficients: int) -> "tuple[torch.Tensor, ...]":
        """As `Gaussians`, with the first so many harmonics."""
        import torch

        harmonics = torch.cat([self.base, self.higher[:, : coefficients - 1]], 1)
        return (
            self.positions, torch.exp(self.log_scales), self.rotations, torch.sigmoid(self.logits), harmonics
        )  # fmt: skip

    def step(self, decay: float) -> None:
        """One step of Adam along the gradients there are; decay: share of the first rates."""
        for name, group in zip(self._names, self.optimiser.param_groups, strict=True):
            falls = self._rates.all_fall or name == "positions"
            group["lr"] = self._first[name] * (decay if falls else 1.0)
        self.optimiser.step()
        self._taken += 1

    def raw(self) -> Raw:
        """Copies in numpy."""
        arrays = [getattr(self, name).detach().cpu().numpy() for name in self.NAMES]
        return Raw(*(np.array(array) for array in arrays[:4]), np.concatenate(arrays[4:], axis=1))

    def adam(self, raw: Raw) -> Adam:
        """The moments in numpy, for `raw`."""
        import torch

        def moment(name: str, kind: str) -> np.ndarray:
            parts = []
            for part in ("base", "higher") if name == "harmonics" else (name,):
                leaf = getattr(self, part)
                parts.append(self.optimiser.state.get(leaf, {}).get(kind, torch.zeros_like(leaf)))
            return np.ascontiguousarray(torch.cat(parts, 1).cpu() if len(parts) > 1 else parts[0].cpu())

        moments = {name: (moment(name, "exp_avg"), moment(name, "exp_avg_sq")) for name in vars(raw)}
        return Adam.resumed(vars(raw), moments)

    def changed(self, raw: Raw, adam: Adam) -> "Learned":
        """The same for other rows; as in 3DGS, steps are counted for all alike."""
        import torch

        result = Learned(raw, self._rates, self._extent, self._device, self._taken)
        for name in result._names:
            leaf = getattr(result, name)
            whole = "harmonics" if name in ("base", "higher") else name
            first, second = (
                torch.as_tensor(values.reshape(getattr(raw, whole).shape), device=self._device)
                for values in adam.moments(whole)
            )
            part = {"base": slice(0, 1), "higher": slice(1, None)}.get(name)
            first, second = (first, second) if part is None else (first[:, part], second[:, part])
            result.optimiser.state[leaf] = {
                "step": torch.tensor(float(self._taken)),
                "exp_avg": first.clone(),
                "exp_avg_sq": second.clone(),
            }
        return result


class Pull:
    """Adds up on the device how the pictures pull, for `Keep.count`."""

    def __init__(self, gaussians: int, device: str) -> None:
        import torch

        self._pull, self._seen = torch.zeros(gaussians, device=device), torch.zeros(gaussians, device=device)

    def add(self, drawn: Drawn, target: Target) -> None:
        """After the backward pass of one view; as `centre_pull`."""
        gradient = drawn.centres.grad
        if gradient is None:  # nothing of the picture depends on them
            return
        length = gradient.reshape(-1, 2).norm(dim=1) * (0.5 * target.pixels**0.5)
        self._pull += length * drawn.seen
        self._seen += drawn.seen

    def sums(self) -> tuple[np.ndarray, np.ndarray]:
        return self._pull.cpu().numpy(), self._seen.cpu().numpy().astype(np.int32)
