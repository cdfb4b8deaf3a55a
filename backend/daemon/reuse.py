"""Which stages of a submission have their result in the store already.

The key of a stored result depends on decoded pictures and on engines, which only a worker knows. So a worker
tells the key of each stage, and the daemon remembers it under a chain: a hash of the pictures, the seed and
the options of all stages up to this one. A submission with the same chain will find the same result.
"""

import dataclasses
import hashlib
import json
from collections.abc import Callable, Sequence

from backend import __version__
from backend.pipeline.artifacts import ArtifactStore
from backend.pipeline.options import override, preset
from shared_protocol.messages import Submit


def chains(submit: Submit, stages: Sequence[str]) -> dict[str, str]:
    """Stage -> chain, for the stages of the recipe in their order."""
    options = override(preset(submit.quality), submit.options)
    source = submit.recipe.partition("_to_")[0]  # an orbit alone begins as the whole does
    start = [__version__, source, [picture.sha256 for picture in submit.inputs], submit.seed]
    chain = hashlib.sha256(json.dumps(start).encode()).hexdigest()
    found = {}
    for stage in stages:
        own = dataclasses.asdict(options[stage]) if stage in options else {}
        chain = hashlib.sha256(json.dumps([chain, stage, own], sort_keys=True).encode()).hexdigest()
        found[stage] = chain
    return found


def stored_stages(
    submit: Submit, stages: Sequence[str], store: ArtifactStore, key_of: Callable[[str], str]
) -> tuple[str, ...]:
    """The stages, from the first on, whose result is stored; key_of: chain -> key of a result or ""."""
    found: list[str] = []
    for stage, chain in chains(submit, stages).items():
        key = key_of(chain)
        if not key or store.find(key) is None:
            break
        found.append(stage)
    return tuple(found)
