"""Live previews: small enough for a message, cheap, and never the end of a stage."""

import io
import time

import numpy as np
import pytest
from PIL import Image

from backend.pipeline.preview import BACKGROUND, LONGEST_SIDE, MAX_BYTES, encode_preview
from backend.pipeline.stage import StageContext
from backend.worker import reports
from backend.worker.reports import Reports
from shared_protocol.errors import Cancelled


def test_a_picture_becomes_a_small_jpeg_over_grey():
    picture = np.zeros((900, 600, 4), np.float32)
    picture[300:600, 200:400] = (1, 0.5, 0, 1)
    data = encode_preview(picture)
    image = Image.open(io.BytesIO(data))
    assert (image.format, image.size) == ("JPEG", (256, LONGEST_SIDE))
    assert image.getpixel((5, 5)) == pytest.approx([BACKGROUND * 255] * 3, abs=3)
    assert image.getpixel((128, 192)) == pytest.approx([255, 128, 0], abs=12)


def test_even_noise_fits_a_message():
    noise = np.random.default_rng(1).random((2000, 2000, 3), np.float32)
    noise[0, 0] = np.nan
    assert len(encode_preview(noise)) <= MAX_BYTES


def test_without_anybody_who_looks_nothing_is_drawn():
    context = StageContext("one", None, "fake")
    context.preview("one", lambda: pytest.fail("drawn for nobody"))


def test_pictures_of_a_name_come_once_a_second_and_a_failed_one_harms_nobody(monkeypatch, capsys):
    sent, now = [], [100.0]
    monkeypatch.setattr(reports.time, "monotonic", lambda: now[0])
    told = Reports("0" * 32, lambda record, data: sent.append((record.name, len(data))))
    grey = np.full((32, 32, 3), 0.5, np.float32)
    for _ in range(30):
        told.preview("orbit", lambda: grey)
        told.preview("splats", lambda: grey)
        now[0] += 0.1
    assert [name for name, _ in sent].count("orbit") == 3
    now[0] += 5
    told.preview("orbit", lambda: 1 / 0)
    assert "ZeroDivisionError" in capsys.readouterr().err
    assert len(sent) == 6

    def cancelled():
        raise Cancelled("now")

    with pytest.raises(Cancelled):
        told.preview("surface", cancelled)
    assert time.monotonic() == now[0]
