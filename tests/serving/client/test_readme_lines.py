"""The lines of README that call a served model do what README says."""

import re
from pathlib import Path

import numpy as np
from PIL import Image

import rtool
from rtool.converters.records.preprocessing import Preprocessing
from rtool.serving import deploy


def test_the_lines_of_readme_embed_two_images(server, onnx_files, run_local, tmp_path, monkeypatch, capsys):
    readme = (Path(rtool.__file__).parent / "README.md").read_text(encoding="utf-8")
    (lines,) = (block for block in re.findall(r"```python\n(.*?)```", readme, re.DOTALL) if "serving import" in block)
    stated = Preprocessing(8, 4)
    deploy(
        onnx_files["reid"],
        name="osnet_b16",
        repository=server.repository,
        device="cpu",
        preprocessing=stated,
        url=server.url,
    )
    draw = np.random.default_rng(1)
    images = [Image.fromarray(draw.integers(0, 256, (30, 20, 3), dtype=np.uint8)) for _ in range(2)]
    monkeypatch.chdir(tmp_path)
    for name, image in zip(("query.png", "gallery.png"), images, strict=True):
        image.save(tmp_path / name)
    found: dict[str, np.ndarray] = {}
    exec(lines.replace("127.0.0.1:8001", server.url).replace(".jpg", ".png"), found)
    rows = stated(images)
    (expected,) = run_local(onnx_files["reid"], np.concatenate([rows, np.repeat(rows[-1:], 14, axis=0)]))
    np.testing.assert_array_equal(found["embeddings"], expected[:2])
    assert "16 shared memory" in capsys.readouterr().out
