"""Reading published files: wrappers, precisions, and what is refused."""

import pytest
import torch

from backend.models.checkpoint import open_checkpoint
from backend.models.convert import convert
from backend.models.layouts import LAYOUTS, fitting_layout
from backend.models.load import Placement, PublishedModel, fitting
from backend.weights.converted import is_whole, read_index
from shared_protocol.errors import Cancelled, InvalidInput, WeightsError
from tests.support import tiny_models

CPU = Placement(torch.device("cpu"), torch.float32)


@pytest.mark.parametrize("name", ["hi3d_stage1", "hi3d_stage2", "v3d_object", "svd_xt", "sv3d_p"])
def test_each_published_wrapping_is_taken_off(tmp_path, name):
    path = tiny_models.write(tmp_path, name)
    with open_checkpoint(path) as checkpoint:
        assert set(checkpoint.shapes) == set(tiny_models.tensors(name))
        key = next(iter(checkpoint.shapes))
        assert torch.equal(checkpoint.tensor(key), tiny_models.tensors(name)[key])


def test_half_precision_is_kept_on_disk_and_computed_in_what_the_device_wants(tmp_path):
    path = tiny_models.write(tmp_path, "v3d_object", torch.float16)
    convert(path, LAYOUTS["v3d_object"], tmp_path / "here", shard_bytes=1 << 19)
    index = read_index(tmp_path / "here")
    assert is_whole(tmp_path / "here") and len(index["parts"]["unet"]["files"]) > 1
    model = PublishedModel(tmp_path / "here", CPU)
    with model.using("unet") as net:
        weight = net.net.conv_in.weight
        assert weight.dtype == torch.float32
        stored = tiny_models.tensors("v3d_object", torch.float16)[
            "model.diffusion_model.input_blocks.0.0.weight"
        ]
        assert torch.equal(weight, stored.float())
    with model.using("first_encoder") as encoder:  # the file has no quant_conv
        assert torch.equal(encoder.quant_conv.weight[:, :, 0, 0], torch.eye(8))
        assert not encoder.quant_conv.bias.any()


def test_placements_give_the_same_numbers(tmp_path):
    convert(tiny_models.write(tmp_path, "sv3d_u"), LAYOUTS["sv3d_u"], tmp_path / "here")
    inputs = (torch.randn(2, 8, 8, 8), torch.zeros(1), torch.randn(1, 1, 24), torch.randn(1, 256), 2)
    answers = []
    for kind in ("full", "parts", "sequential"):
        model = PublishedModel(tmp_path / "here", Placement(torch.device("cpu"), torch.float32, kind))
        with model.using("unet") as net, torch.inference_mode():
            answers.append(net(*inputs))
    assert torch.equal(answers[0], answers[1]) and torch.equal(answers[0], answers[2])


def test_the_catalogues_placements_answer_for_every_size_of_gpu():
    needs = {8: "sequential", 12: "parts", 24: "full"}
    assert [fitting(size, needs) for size in (6, 8.3, 11.8, 16, 24, 80)] == [
        "sequential", "sequential", "parts", "parts", "full", "full"
    ]  # fmt: skip


def test_networks_are_placed_by_the_memory_that_is_free_now(monkeypatch):
    needs = {8: "sequential", 12: "parts", 24: "full"}
    cpu = [Placement.here(kind, needs).kind for kind in ("auto", "full", "parts", "sequential")]
    assert cpu == ["full", "full", "parts", "parts"]
    cuda = torch.cuda
    monkeypatch.setattr(cuda, "is_available", lambda: True)
    monkeypatch.setattr(cuda, "memory_reserved", lambda: 3 * 10**9)
    monkeypatch.setattr(cuda, "memory_allocated", lambda: 10**9)
    for free, kind in ((23, "full"), (12, "parts"), (5, "sequential")):
        monkeypatch.setattr(cuda, "mem_get_info", lambda free=free: (free * 10**9, 24 * 10**9))
        assert Placement.here("auto", needs).kind == kind
    assert Placement.here("parts", needs) == Placement(torch.device("cuda"), torch.float16, "parts")


class Foreign:
    def __reduce__(self):
        import os

        return os.system, ("echo never",)


def test_a_pickle_with_a_foreign_import_is_refused_by_its_name(tmp_path):
    torch.save({"state_dict": {"a": torch.ones(2)}, "callback": Foreign()}, tmp_path / "bad.ckpt")
    with (
        pytest.raises(WeightsError, match="system', which is code and not data"),
        open_checkpoint(tmp_path / "bad.ckpt"),
    ):
        pass


@pytest.mark.parametrize("name", ["hi3d_stage1", "svd_xt"])
def test_a_truncated_file_is_refused(tmp_path, name):
    path = tiny_models.write(tmp_path, name)
    path.write_bytes(path.read_bytes()[: path.stat().st_size * 2 // 3])
    with pytest.raises(WeightsError, match=f"{path.name} is damaged"):
        fitting_layout(path, [LAYOUTS[name]], name)


def test_a_text_file_and_a_missing_one_are_refused(tmp_path):
    (tmp_path / "notes.ckpt").write_text("log in to download")
    with (
        pytest.raises(WeightsError, match="damaged or no PyTorch checkpoint"),
        open_checkpoint(tmp_path / "notes.ckpt"),
    ):
        pass
    with pytest.raises(WeightsError, match="does not exist"), open_checkpoint(tmp_path / "none.pt"):
        pass
    (tmp_path / "picture.png").touch()
    with pytest.raises(InvalidInput), open_checkpoint(tmp_path / "picture.png"):
        pass


def test_another_models_file_and_a_lora_are_refused_in_one_sentence(tmp_path):
    from safetensors.torch import save_file

    path = tiny_models.write(tmp_path, "v3d_object")
    wanted = [LAYOUTS["hi3d_stage1"], LAYOUTS["hi3d_stage2"]]
    with pytest.raises(WeightsError, match=r"v3d_object.ckpt is V3D; expected Hi3D's first stage or"):
        try:
            fitting_layout(path, wanted, "hi3d")
        except WeightsError as error:
            raise WeightsError(str(error)) from error
    save_file({"lora_unet_mid.lora_down.weight": torch.ones(4, 8)}, tmp_path / "style.safetensors")
    with pytest.raises(WeightsError, match=r"style.safetensors is a LoRA"):
        fitting_layout(tmp_path / "style.safetensors", wanted, "hi3d")


def test_a_conversion_that_is_cancelled_or_does_not_fit_leaves_nothing(tmp_path):
    import threading

    cancelled = threading.Event()
    cancelled.set()
    path = tiny_models.write(tmp_path, "sv3d_u")
    with pytest.raises(Cancelled):
        convert(path, LAYOUTS["sv3d_u"], tmp_path / "out" / "here", cancelled=cancelled)
    with pytest.raises(WeightsError):
        convert(path, LAYOUTS["sv3d_p"], tmp_path / "out" / "here")
    assert list((tmp_path / "out").iterdir()) == []
