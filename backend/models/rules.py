"""Name rules: which tensor of a published file fills which parameter of our module, and how.

A rule is a function from a parameter's name to a `Take`; it is total over the module, so a missing, an
unknown or a misshapen tensor can be named exactly. Nothing is loaded "as far as it goes".
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

import torch
from torch import nn

from shared_protocol.errors import WeightsError

Change = Callable[[torch.Tensor], torch.Tensor]
"""Of a file's tensor into a parameter's; works on the meta device, so that shapes can be checked alone."""


def unchanged(tensor: torch.Tensor) -> torch.Tensor:
    """The tensor itself."""
    return tensor


def squeezed(tensor: torch.Tensor) -> torch.Tensor:
    """(O, I, 1, 1) weights of a 1x1 convolution -> (O, I) of a linear layer; others stay."""
    return tensor[:, :, 0, 0] if tensor.ndim == 4 and tensor.shape[2:] == (1, 1) else tensor


def transposed(tensor: torch.Tensor) -> torch.Tensor:
    """(I, O) -> (O, I)."""
    return tensor.t()


@dataclass(frozen=True)
class Third:
    """Part 0, 1 or 2 of the rows of a tensor that holds query, key and value below one another."""

    part: int

    def __call__(self, tensor: torch.Tensor) -> torch.Tensor:
        rows = tensor.shape[0] // 3
        return tensor[self.part * rows : (self.part + 1) * rows]


@dataclass(frozen=True)
class Take:
    """What fills one parameter.

    source   name in the file
    change   file's tensor -> parameter's
    absent   makes the parameter's value from its shape where the file may lack the tensor; None: it may not
    """

    source: str
    change: Change = unchanged
    absent: Callable[[torch.Size], torch.Tensor] | None = None

    def below(self, prefix: str) -> "Take":
        """The same with a prefix before the name in the file."""
        return Take(prefix + self.source, self.change, self.absent)


Rule = Callable[[str], Take]


def same_name(name: str) -> Take:
    """The rule of modules that keep the published names."""
    return Take(name)


def identity_kernel(shape: torch.Size) -> torch.Tensor:
    """1x1 convolution that changes nothing: (C, C, 1, 1) the unit matrix, (C,) zeros."""
    if len(shape) == 1:
        return torch.zeros(shape)
    return torch.eye(shape[0], shape[1]).reshape(shape)


@dataclass(frozen=True)
class Comparison:
    """How a file's tensors fit modules.

    takes      parameter name -> Take, for what can be filled
    missing    names that the file lacks
    unknown    names in the file that nothing takes
    misshapen  sentences "NAME has shape (..), expected (..)"
    """

    takes: Mapping[str, Take]
    missing: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()
    misshapen: tuple[str, ...] = ()
    used: frozenset[str] = field(default=frozenset())

    @property
    def exact(self) -> bool:
        return not (self.missing or self.unknown or self.misshapen)


def parameters_of(module: nn.Module) -> dict[str, torch.Size]:
    """Name and shape of everything that a file must fill."""
    return {name: tensor.shape for name, tensor in module.state_dict().items()}


def compare(
    wanted: Mapping[str, torch.Size],
    rule: Rule,
    found: Mapping[str, tuple[int, ...]],
    ignored: Callable[[str], bool] = lambda name: False,
) -> Comparison:
    """Lay a file's names and shapes beside a module's.

    wanted   parameter -> shape; found: the file's name -> shape
    ignored  whether a name that nothing takes is known to be of no use
    """
    takes, missing, misshapen, used = {}, [], [], set()
    for name, shape in wanted.items():
        take = rule(name)
        if take.source not in found:
            if take.absent is None:
                missing.append(take.source)
            else:
                takes[name] = take
            continue
        used.add(take.source)
        takes[name] = take
        given = changed_shape(take, found[take.source])
        if given != tuple(shape):
            there = tuple(found[take.source])
            misshapen.append(f"{take.source} has shape {there}, expected {published_shape(take, shape)}")
    unknown = [name for name in found if name not in used and not ignored(name)]
    return Comparison(takes, tuple(missing), tuple(unknown), tuple(misshapen), frozenset(used))


def changed_shape(take: Take, shape: Iterable[int]) -> tuple[int, ...] | None:
    """The shape after the change; None where the change does not apply to such a tensor."""
    try:
        return tuple(take.change(torch.empty(tuple(shape), device="meta")).shape)
    except (IndexError, RuntimeError):
        return None


def published_shape(take: Take, shape: Iterable[int]) -> tuple[int, ...]:
    """The shape a file's tensor has, of the parameter's shape."""
    shape = tuple(shape)
    if isinstance(take.change, Third):
        return (3 * shape[0], *shape[1:])
    if take.change is transposed:
        return shape[::-1]
    if take.change is squeezed and len(shape) == 2:
        return (*shape, 1, 1)
    return shape


def explain(comparison: Comparison, what: str, remedy: str = "") -> WeightsError:
    """One sentence for what does not fit, naming the first of each kind; every name is in the details."""
    parts = []
    for words, names in (
        ("lacks", comparison.missing),
        ("holds unknown tensors:", comparison.unknown),
        ("holds misshapen tensors:", comparison.misshapen),
    ):
        if names:
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            parts.append(f"{words} {', '.join(names[:3])}{more}")
    return WeightsError(
        f"{what} {'; '.join(parts)}",
        remedy=remedy,
        missing=list(comparison.missing),
        unknown=list(comparison.unknown),
        misshapen=list(comparison.misshapen),
    )


def filled(
    module: nn.Module, comparison: Comparison, tensor_of: Callable[[str], torch.Tensor]
) -> dict[str, torch.Tensor]:
    """The module's state dict out of a file's tensors; `comparison` must be exact."""
    state = {}
    for name, shape in parameters_of(module).items():
        take = comparison.takes[name]
        if take.source in comparison.used:
            state[name] = take.change(tensor_of(take.source))
        else:
            assert take.absent is not None
            state[name] = take.absent(shape)
    return state
