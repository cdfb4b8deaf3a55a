"""The published files: which networks each holds, under which names, and what in it is of no use.

Every name of a file belongs to a part, or to a list of what is known to be unused; anything else is an error
that says the name.
"""

import contextlib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import nn

from backend.models import clip, lpips, midas, pixelnerf, sizes, unet, vae
from backend.models.checkpoint import open_checkpoint
from backend.models.rules import Comparison, Rule, compare, explain, parameters_of, same_name
from shared_protocol.errors import WeightsError


@dataclass(frozen=True)
class Network:
    """A kind of network that files hold.

    settings  the published ones; None where it has none
    sizes     settings from shapes below its prefix
    build     settings -> module; rule: settings -> its names
    """

    settings: Any
    sizes: Callable[[sizes.Shapes], Any]
    build: Callable[[Any], nn.Module]
    rule: Callable[[Any], Rule]


def _always(rule: Rule) -> Callable[[Any], Rule]:
    return lambda settings: rule


def _aesthetic_sizes(shapes: sizes.Shapes) -> clip.ClipSettings:
    start = "aesthetic_model."
    return sizes.clip_sizes(
        {n.removeprefix(start): s for n, s in shapes.items() if n.startswith(start)}, quick=True
    )


UNET = Network(unet.UNetSettings(), sizes.unet_sizes, unet.VideoUNet, unet.unet_rule)
CLIP = Network(clip.ClipSettings(), sizes.clip_sizes, clip.ClipVision, _always(clip.clip_rule))
ENCODER = Network(vae.VaeSettings(), sizes.vae_sizes, vae.VaeEncoder, vae.vae_rule)
IMAGE_DECODER = Network(vae.VaeSettings(), sizes.vae_sizes, vae.ImageDecoder, vae.vae_rule)
VIDEO_DECODER = Network(vae.VaeSettings(), sizes.vae_sizes, vae.VideoDecoder, vae.vae_rule)
AESTHETIC = Network(clip.VIT_L, _aesthetic_sizes, clip.Aesthetic, _always(clip.aesthetic_rule))
DEPTH = Network(midas.DepthSettings(), sizes.depth_sizes, midas.DepthNet, _always(midas.depth_rule))
FEATURES = Network(None, lambda shapes: None, lambda settings: pixelnerf.ImageFeatures(), _always(same_name))
VGG = Network(None, lambda shapes: None, lambda settings: lpips.VggTrunk(), _always(same_name))
LPIPS = Network(None, lambda shapes: None, lambda settings: lpips.LpipsHeads(), _always(same_name))
PIXELNERF = Network(None, lambda shapes: None, lambda settings: pixelnerf.PixelNerf(), _always(same_name))


@dataclass(frozen=True)
class Part:
    """One network of a file.

    prefix  before its names
    used    False: it is there, and nothing here needs it
    """

    name: str
    network: Network
    prefix: str
    used: bool = True


@dataclass(frozen=True)
class Layout:
    """A published file.

    in_channels, vector_width  of its UNet; None where it has none
    leftovers  patterns of names that belong to no network and are of no use
    words      what it is, for messages
    """

    name: str
    words: str
    parts: tuple[Part, ...]
    in_channels: int | None = None
    vector_width: int | None = None
    leftovers: tuple[str, ...] = ()

    def part(self, name: str) -> Part:
        """The part of this name."""
        return next(part for part in self.parts if part.name == name)

    def published(self, part: Part) -> Any:
        """The part's settings in the published file."""
        settings = part.network.settings
        if part.network is UNET:
            return unet.UNetSettings(in_channels=self.in_channels or 8, vector_width=self.vector_width or 768)
        return settings


_CLIP = "conditioner.embedders.0.open_clip.model."
_TEXT = r"conditioner\.embedders\.0\.open_clip\.model\."
_AESTHETIC_TEXT = r"conditioner\.embedders\.1\.aesthetic_model\."


def _text_leftovers(prefix: str) -> str:
    return prefix + "(" + "|".join(re.escape(name) for name in sorted(clip.TEXT_LEFTOVERS)) + ")"


def _svd_family(
    name: str,
    words: str,
    condition: int,
    decoder: Network,
    vector_width: int,
    in_channels: int = 8,
    others: tuple[Part, ...] = (),
    leftovers: tuple[str, ...] = (),
    first_encoder: bool = False,
) -> Layout:
    """condition: index of the embedder that holds the condition's encoder.

    first_encoder  whether the first stage's own encoder is of use
    """
    inside = f"conditioner.embedders.{condition}.encoder."
    parts = (
        Part("unet", UNET, "model.diffusion_model."),
        Part("clip", CLIP, _CLIP),
        Part("encoder", ENCODER, inside),
        Part("condition_decoder", IMAGE_DECODER, inside, used=False),
        Part("decoder", decoder, "first_stage_model."),
        Part("first_encoder", ENCODER, "first_stage_model.", used=first_encoder),
        *others,
    )
    return Layout(name, words, parts, in_channels, vector_width, (_text_leftovers(_TEXT), *leftovers))


LAYOUTS: dict[str, Layout] = {
    layout.name: layout
    for layout in (
        _svd_family("svd_xt", "Stable Video Diffusion XT", 3, VIDEO_DECODER, 768),
        _svd_family(
            "svd_xt_image_decoder", "Stable Video Diffusion XT with the image decoder", 3, IMAGE_DECODER, 768
        ),
        _svd_family("sv3d_u", "SV3D_u", 1, IMAGE_DECODER, 256),
        _svd_family("sv3d_p", "SV3D_p", 1, IMAGE_DECODER, 1280),
        _svd_family(
            "hi3d_stage1",
            "Hi3D's first stage",
            3,
            IMAGE_DECODER,
            768,
            others=(Part("aesthetic", AESTHETIC, "conditioner.embedders.1."),),
            leftovers=(_text_leftovers(_AESTHETIC_TEXT),),
        ),
        _svd_family(
            "hi3d_stage2",
            "Hi3D's second stage",
            3,
            IMAGE_DECODER,
            512,
            in_channels=17,
            others=(Part("depth", DEPTH, "conditioner.embedders.2.model.model."),),
            first_encoder=True,
            leftovers=(r"conditioner\.embedders\.2\.model\.model\.pretrained\.model\.head\.(weight|bias)",),
        ),
        Layout(
            "v3d_object",
            "V3D",
            (
                Part("unet", UNET, "model.diffusion_model."),
                Part("decoder", VIDEO_DECODER, "first_stage_model."),
                Part("first_encoder", ENCODER, "first_stage_model."),
            ),
            8,
            768,
        ),
        Layout(
            "v3d_scene",
            "V3D's scene model",
            (
                Part("unet", UNET, "model.diffusion_model."),
                Part("image_features", FEATURES, "conditioner.embedders.N.image_encoder."),
                Part("pixelnerf", PIXELNERF, "conditioner.embedders.N.pixelnerf_encoder."),
            ),
            136,
            768,
        ),
        Layout(
            "midas_dpt_hybrid",
            "MiDaS DPT-hybrid",
            (Part("depth", DEPTH, ""),),
            leftovers=(r"pretrained\.model\.head\.(weight|bias)",),
        ),
        Layout("vgg16", "VGG-16", (Part("trunk", VGG, ""),), leftovers=(r"classifier\.\d+\.(weight|bias)",)),
        Layout("lpips_vgg_heads", "the heads of LPIPS for VGG-16", (Part("heads", LPIPS, ""),)),
    )
}


@dataclass(frozen=True)
class Fit:
    """A file that fits a layout: settings and comparison of each used part."""

    settings: Mapping[str, Any]
    comparisons: Mapping[str, Comparison]


def build_on_meta(network: Network, settings: Any) -> nn.Module:
    """The module without memory for its parameters."""
    with torch.device("meta"):
        module = network.build(settings)
    return module.to("meta")  # some blocks make their few numbers with a constructor that knows no device


def lay_beside(
    layout: Layout, shapes: sizes.Shapes, wanted: frozenset[str] | None = None, strict: bool = False
) -> tuple[Fit, Comparison]:
    """Compare a file's names and shapes with a layout's.

    shapes  of the file, wrappers taken off
    wanted  names of the parts that are needed; None: all used ones
    strict  take the published sizes, whatever the file's shapes say
    Returns the parts and one comparison of the whole file.
    """
    settings, comparisons, missing, misshapen = {}, {}, [], []
    known: set[str] = set()
    for part in layout.parts:
        below = {
            name.removeprefix(part.prefix): shape
            for name, shape in shapes.items()
            if name.startswith(part.prefix)
        }
        needed = part.used if wanted is None else part.name in wanted
        own = layout.published(part)
        if not strict:
            with contextlib.suppress(KeyError, ValueError, IndexError, ZeroDivisionError, RuntimeError):
                guessed = part.network.sizes(below)
                _parameters(part.network, guessed)  # a bent tensor may give sizes that cannot be built
                own = guessed
        rule = part.network.rule(own)
        comparison = compare(_parameters(part.network, own), rule, below, ignored=lambda name: True)
        known |= {part.prefix + name for name in comparison.used}
        if not needed:
            continue
        missing += [part.prefix + name for name in comparison.missing]
        misshapen += [part.prefix + sentence for sentence in comparison.misshapen]
        if part.network is UNET:
            misshapen += _wrong_widths(layout, part, own)
        settings[part.name] = own
        comparisons[part.name] = comparison
    unknown = [
        name
        for name in shapes
        if name not in known and not any(re.fullmatch(pattern, name) for pattern in layout.leftovers)
    ]
    whole = Comparison({}, tuple(missing), tuple(unknown), tuple(dict.fromkeys(misshapen)), frozenset(known))
    return Fit(settings, comparisons), whole


@cache
def _parameters(network: Network, settings: Any) -> dict[str, torch.Size]:
    return parameters_of(build_on_meta(network, settings))


def _wrong_widths(layout: Layout, part: Part, settings: unet.UNetSettings) -> list[str]:
    """Sentences about the two widths by which the family's UNets differ."""
    found = []
    base = settings.channels[0]
    if settings.in_channels != layout.in_channels:
        found.append(
            f"{part.prefix}input_blocks.0.0.weight has shape {(base, settings.in_channels, 3, 3)}, "
            f"expected {(base, layout.in_channels, 3, 3)}"
        )
    if settings.vector_width != layout.vector_width:
        wide = 4 * base
        found.append(
            f"{part.prefix}label_emb.0.0.weight has shape {(wide, settings.vector_width)}, "
            f"expected {(wide, layout.vector_width)}"
        )
    return found


def fit(layout: Layout, shapes: sizes.Shapes, what: str, wanted: frozenset[str] | None = None) -> Fit:
    """The parts of a file; WeightsError in one sentence where it is not of this layout.

    what  the file's name for messages
    """
    found, whole = lay_beside(layout, shapes, wanted)
    if whole.exact:
        return found
    other = recognise(shapes)
    if other and other != layout.words:
        raise WeightsError(f"{what} is {other}", layout.words, f"Give the file of {layout.words}.")
    # Whichever sizes explain the file with fewer faults name the tensors that are really wrong.
    published = lay_beside(layout, shapes, wanted, strict=True)[1]
    fewest = min((whole, published), key=lambda c: len(c.missing) + len(c.unknown) + len(c.misshapen))
    raise explain(
        fewest,
        f"{what} is not the published file of {layout.words}: it",
        "Fetch it again from its publisher.",
    )


_FOREIGN = (
    (r"(.*\.)?lora_(down|up|A|B|a|b)\b.*|lora_(unet|te).*", "a LoRA, a small change of another file"),
    (r"enc_blocks\.\d+\..*", "DUSt3R or MASt3R"),
    (r"image_proj_model\..*", "DynamiCrafter"),
    (r"cond_stage_model\..*", "Stable Diffusion, which makes single pictures"),
    (r"(down_blocks|up_blocks)\.\d+\..*", "a diffusers UNet, not the publisher's single file"),
    (r"unet\.(down|up)_blocks\..*", "LGM"),
)


def recognise(shapes: sizes.Shapes) -> str:
    """In words, what a file with these tensors is; empty where nobody here knows it."""
    for pattern, words in _FOREIGN:
        if any(re.fullmatch(pattern, name) for name in shapes):
            return words
    if {"features.0.weight", "features.28.weight", "classifier.0.weight"} <= set(shapes):
        return LAYOUTS["vgg16"].words
    start = "model.diffusion_model."
    try:
        key = (shapes[start + "input_blocks.0.0.weight"][1], shapes[start + "label_emb.0.0.weight"][1])
    except (KeyError, IndexError):
        return LAYOUTS["midas_dpt_hybrid"].words if "scratch.layer1_rn.weight" in shapes else ""
    markers = {
        name: all(any(key.startswith(p.prefix) for key in shapes) for p in layout.parts if p.used)
        for name, layout in LAYOUTS.items()
        if (layout.in_channels, layout.vector_width) == key
    }
    temporal = any(".time_mix_conv." in name for name in shapes)
    clip_there = any(name.startswith(_CLIP) for name in shapes)
    for name in ("hi3d_stage1", "hi3d_stage2", "v3d_scene", "sv3d_u", "sv3d_p"):
        if markers.get(name):
            return LAYOUTS[name].words
    if not markers:
        return ""
    if not clip_there:
        return LAYOUTS["v3d_object"].words
    return LAYOUTS["svd_xt" if temporal else "svd_xt_image_decoder"].words


def fitting_layout(path: Path, layouts: list[Layout], model: str) -> Layout:
    """Which of these layouts a file is of, by its content; WeightsError in one sentence where of none."""
    with open_checkpoint(path) as checkpoint:
        for layout in layouts:
            if lay_beside(layout, checkpoint.shapes)[1].exact:
                return layout
        words = recognise(checkpoint.shapes)
        if words in [layout.words for layout in layouts] or len(layouts) == 1:
            layout = next((known for known in layouts if known.words == words), layouts[0])
            fit(layout, checkpoint.shapes, path.name)
        wanted = " or ".join(layout.words for layout in layouts)
        raise WeightsError(f"{path.name} is {words or 'no known model'}", f"{wanted}, for {model}")
