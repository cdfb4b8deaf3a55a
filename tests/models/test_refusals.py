"""What is no published checkpoint, given to `models pull --from`: one sentence, no traceback."""

import pickle
import struct

import pytest
import torch
from safetensors.torch import save_file

from backend.cli import run
from tests.support import tiny_models


class _Code:
    def __reduce__(self):
        return print, ("never said",)


def _pickle(path):
    torch.save({"state_dict": {"a": torch.ones(2)}, "hook": _Code()}, path)


def _old_pickle(path):
    path.write_bytes(pickle.dumps({"state_dict": _Code()}))


def _cut(source, path):
    data = source.read_bytes()
    path.write_bytes(data[: len(data) * 2 // 3])


def _diffusers(path):
    (path / "unet").mkdir(parents=True)
    (path / "model_index.json").write_text("{}")


CASES = {
    "code.ckpt": (_pickle, "uses 'print', which is code and not data"),
    "old.ckpt": (_old_pickle, "which is code and not data"),
    "cut.pt": (lambda p: _cut(tiny_models.write(p.parent, "hi3d_stage1"), p), "cut.pt is damaged or cut off"),
    "cut.safetensors": (
        lambda p: _cut(tiny_models.write(p.parent, "svd_xt"), p), "cut.safetensors is damaged or cut off",
    ),
    "other.safetensors": (
        lambda p: tiny_models.write(p.parent, "sv3d_p").rename(p),
        "other.safetensors is SV3D_p; expected V3D",
    ),
    "lora.safetensors": (
        lambda p: save_file({"unet.down_blocks.0.to_q.lora_A.weight": torch.ones(4, 8)}, p),
        "lora.safetensors is a LoRA",
    ),
    "diffusers.safetensors": (
        lambda p: save_file({"down_blocks.0.resnets.0.conv1.weight": torch.ones(4, 8)}, p),
        "a diffusers UNet",
    ),
    "strange.safetensors": (lambda p: save_file({"a": torch.ones(2)}, p), "is not the published file of V3D"),
    "bare.pt": (lambda p: torch.save(torch.ones(3), p), "holds no dictionary of tensors"),
    "page.safetensors": (lambda p: p.write_text("\n<!DOCTYPE html><html>Log in</html>"), "is a web page"),
    "page.ckpt": (lambda p: p.write_text("<html><head>"), "is a web page"),
    "folder": (_diffusers, "folder is a model in diffusers' layout"),
    "empty.safetensors": (lambda p: p.touch(), "empty.safetensors is empty"),
    "empty.ckpt": (lambda p: p.touch(), "empty.ckpt is empty"),
    "pointer.ckpt": (
        lambda p: p.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 6490292209\n"),
        "is a pointer of Git LFS",
    ),
    "random.safetensors": (lambda p: p.write_bytes(bytes(range(1, 200))), "is damaged or cut off"),
    "huge.safetensors": (lambda p: p.write_bytes(struct.pack("<Q", 2**40) + b"{}"), "is damaged or cut off"),
    "random.ckpt": (lambda p: p.write_bytes(bytes(range(1, 200))), "is damaged or no PyTorch checkpoint"),
    "notes.txt": (lambda p: p.write_text("hello"), "is not a checkpoint"),
    "nothing.ckpt": (lambda p: None, "does not exist"),
}  # fmt: skip


@pytest.mark.parametrize("name", CASES)
def test_it_is_refused_in_one_sentence(name, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("ORRERY_WEIGHTS", str(tmp_path / "weights"))
    make, words = CASES[name]
    make(tmp_path / name)
    code = run(["models", "pull", "v3d", "--accept-licence", "--from", str(tmp_path / name)])
    said = capsys.readouterr()
    assert code == 2 and words in said.err, said.err
    assert len(said.err.strip().splitlines()) == 1 and "Traceback" not in said.err
    assert "never said" not in said.out
    left = [path for path in (tmp_path / "weights").rglob("*") if path.is_file()]
    assert [path.name for path in left] in ([], ["recorded.json"])
