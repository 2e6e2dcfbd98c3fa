"""The benchmark of `embed` measures the parts and the whole on the same images."""

import pytest
from PIL import Image

from rtool.benchmarks import embedding
from rtool.benchmarks.places import DEMO_MODEL


def test_the_ratio_is_of_the_whole_to_its_parts(tmp_path, monkeypatch):
    commands = []
    monkeypatch.setattr(embedding, "_command", lambda *arguments: commands.append(arguments))
    embedding.draw_jpegs(tmp_path, 20)
    assert len(list(tmp_path.glob("*.jpg"))) == 20
    assert Image.open(tmp_path / "00000.jpg").size == (128, 256)
    found = embedding.measure(DEMO_MODEL, tmp_path, rounds=1)
    parts = found["seconds"]["decoding"] + found["seconds"]["inference"]
    assert found["images"] == 20
    assert found["ratio"] == pytest.approx(found["seconds"]["embed"] * found["cores"] / parts)
    assert found["processor_ratio"] == pytest.approx(found["seconds"]["embed_processor"] / parts)
    assert commands == [(DEMO_MODEL, tmp_path)]
