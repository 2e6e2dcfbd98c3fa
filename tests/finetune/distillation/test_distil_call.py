"""`rtool.distil`: a run from three names."""

import json

import rtool


def test_three_names_make_a_run_that_nears_its_teacher(tiny_model, teacher_file, tmp_path):
    overrides = ["epochs=2", "data.batch=8", "model.size=[32,16]", f"output={tmp_path}", "tracking.tensorboard=false"]
    overrides += ["data.memory_gb=1", "distil.teachers.0.size=[48,24]", "distil.teachers.0.preprocessing=imagenet"]
    people = "synthetic-people:identities=8,images=4,seed=1,size=32x16"
    student = str(tiny_model["reference"])
    result = rtool.distil(teacher_file, student, people, overrides, labels=False, quiet=True)
    rows = [json.loads(line) for line in (result.run_dir / "metrics.jsonl").read_text().splitlines()]
    cosine = [row["losses"]["distil_cosine"] for row in rows if row["kind"] == "train"]
    assert cosine[-1] < cosine[0]
    assert rtool.inspect(result.last).outputs[0].shape[1:] == (16,)  # the student's own embedding, without a projection
