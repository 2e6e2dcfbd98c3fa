"""The demo with few training steps: every step is real, and every figure is in the summary and in the report."""

import json
import warnings
from functools import partial
from types import SimpleNamespace

import onnx
import pytest
import torch

from rtool.benchmarks import demo, latency, serving
from rtool.benchmarks.whole_flow import flow
from rtool.converters import export
from rtool.converters.bundles.reference import load_model
from rtool.errors import InputError

FEW_STEPS = (
    "epochs=1",
    "steps_per_epoch=2",
    "data.train=synthetic-people:identities=16,images=8,seed=11,cameras=1",
    "data.evaluate=synthetic-people:identities=8,images=8,seed=12,cameras=1",
    "model.calibration_images=32",
)


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    """A demo whose measurements of speed are real but short: their length decides only how precise a figure is.

    The student, which has no source graph, is written by torch's older exporter, in a tenth of the time.
    """

    def short_load_test(*arguments, window, max_windows, **options):
        assert window >= 1.0
        assert max_windows >= 3
        return serving(*arguments, window=0.2, max_windows=3, **options)

    def short_latency(*arguments, rounds, **options):
        assert rounds >= 20
        return latency(*arguments, rounds=3, warmup=1, **options)

    def export_quickly(origin, path, **options):
        if path.name != "distilled.onnx":
            return export(origin, path, **options)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.onnx.export(load_model(origin).module, torch.zeros(options["batch"], 3, 64, 32), path, dynamo=False)
        return SimpleNamespace(path=path)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(flow, "export", export_quickly)
        patch.setattr(flow, "serving", short_load_test)
        patch.setattr(flow, "latency", short_latency)
        patch.setattr(flow, "TritonServer", partial(flow.TritonServer, stop_timeout=0.0))
        return demo(tmp_path_factory.mktemp("demo") / "run", overrides=FEW_STEPS)


def test_every_hop_is_within_its_tolerance(result):
    assert [hop.name for hop in result.summary.hops if not hop.passed] == []
    assert len(result.summary.hops) == 7


def test_the_served_models_are_the_exported_ones_to_the_last_bit(result):
    served = [hop for hop in result.summary.hops if "Triton" in hop.name]
    assert [hop.max_abs for hop in served] == [0.0, 0.0, 0.0]


def test_the_student_is_measured_and_timed_beside_its_teacher(result):
    assert 0 < result.summary.distilled.mean_average_precision < 1
    assert [row.model for row in result.summary.latency][-1] == "distilled student fp32"
    student = onnx.load(result.report.parent / "distilled.onnx")
    assert [size.dim_value for size in student.graph.input[0].type.tensor_type.shape.dim] == [16, 3, 64, 32]


def test_too_little_gain_fails_the_demo_though_every_hop_passed(result):
    assert result.summary.gain < result.summary.required_gain  # two steps teach nothing
    assert not result.summary.passed


def test_the_summary_file_and_the_page_hold_the_same_numbers(result):
    stored = json.loads(result.summary_file.read_text())
    assert stored["after"]["mean_average_precision"] == result.summary.after.mean_average_precision
    assert len(stored["hops"]) == 7
    page = result.report.read_text()
    assert all(hop.name in page for hop in result.summary.hops)
    assert page.count("data:image/png;base64,") == 2


def test_versions_of_the_model_stand_side_by_side_in_the_repository(result):
    repository = result.report.parent / "model_repository"
    assert sorted(path.parent.name for path in repository.glob("osnet_x0_25_b16/*/model.onnx")) == ["1", "2"]


def test_a_folder_that_holds_something_else_is_left_alone(tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(InputError, match="has no demo in it"):
        demo(tmp_path)
    assert (tmp_path / "thesis.txt").read_text() == "years of work"
