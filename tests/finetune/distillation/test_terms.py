"""The terms of several teachers, what they own, and what of the batch each sees."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from rtool.finetune.config.distillation import DistilConfig
from rtool.finetune.distillation.losses import cosine_loss, softened_divergence
from rtool.finetune.distillation.teacher_outputs import FeatureTap, TeacherOutputs
from rtool.finetune.distillation.terms import ClassMeans, Connector, Distiller

torch.manual_seed(0)
STUDENT, LABELS = torch.randn(6, 4), torch.tensor([0, 1, 1, 0])
SAID = [TeacherOutputs(torch.randn(6, 4)), TeacherOutputs(torch.randn(6, 3))]


def distiller(terms: list[dict[str, object]], said: list[TeacherOutputs] = SAID, **keywords: object) -> Distiller:
    weights = [1, 3]
    teachers = [{"reference": name, "weight": weight} for name, weight in zip("ab", weights, strict=True)]
    config = DistilConfig.model_validate({"teachers": teachers[: len(said)], "terms": terms})
    torch.manual_seed(1)
    given = {"tap": None, "maps": {}, "scores": None, **keywords}
    return Distiller(config, 4, 2, said, given["tap"], given["maps"], given["scores"])


def test_a_term_is_the_mean_over_teachers_by_their_weights_and_only_other_sizes_are_projected():
    module = distiller([{"kind": "cosine"}, {"kind": "rkd_distance"}])
    assert [type(projection).__name__ for projection in module.projections] == ["Identity", "Linear"]
    values = [
        cosine_loss(STUDENT, SAID[0].embeddings),
        cosine_loss(module.projections[1](STUDENT), SAID[1].embeddings),
    ]
    found = module(STUDENT, LABELS, SAID)
    assert found.shape == (2,)
    torch.testing.assert_close(found[0], (values[0] + 3 * values[1]) / 4)


def test_relations_alone_need_no_projection():
    assert list(distiller([{"kind": "rkd_distance"}, {"kind": "similarity"}]).parameters()) == []


def test_terms_of_labels_see_the_images_that_have_one():
    module = distiller([{"kind": "class_centres"}, {"kind": "logits"}])
    before = module(STUDENT, LABELS, SAID)
    other = [
        TeacherOutputs(torch.cat([said.embeddings[:4], torch.randn(2, said.embeddings.shape[1])])) for said in SAID
    ]
    torch.testing.assert_close(
        distiller([{"kind": "class_centres"}, {"kind": "logits"}])(STUDENT, LABELS, other), before
    )


def test_a_teacher_with_scores_is_compared_with_those_of_the_student():
    said = [TeacherOutputs(torch.randn(6, 4), torch.randn(6, 2))]
    module = distiller([{"kind": "logits", "temperature": 3}], said, scores=lambda embeddings: embeddings[:, :2])
    expected = softened_divergence(STUDENT[:4, :2], said[0].logits[:4], 3.0)
    torch.testing.assert_close(module(STUDENT, LABELS, said), expected[None])


def test_means_per_class_follow_the_teacher_and_unseen_classes_are_left_out():
    config = DistilConfig.model_validate(
        {"teachers": "a", "terms": [{"kind": "logits", "scale": 10, "temperature": 2}]}
    )
    module = ClassMeans(4, 5, config.terms[0])
    rows, labels = torch.randn(3, 4), torch.tensor([0, 2, 2])
    loss = module(rows, rows, labels)
    assert loss.item() == pytest.approx(0, abs=1e-6)
    unit = F.normalize(rows)
    torch.testing.assert_close(module.sums[2], unit[1] + unit[2])
    assert module.sums[[1, 3, 4]].abs().sum() == 0
    module.eval()
    before = module.sums.clone()
    module(rows, rows, labels)
    assert torch.equal(module.sums, before)


def test_a_connector_measures_the_relative_square_at_the_smaller_size():
    connector = Connector(3, 2)
    student, teacher = torch.randn(2, 3, 4, 6), torch.randn(2, 2, 2, 3)
    pooled = student.reshape(2, 3, 2, 2, 3, 2).mean((3, 5))
    mapped = torch.einsum("oc,nchw->nohw", connector.convolution.weight[:, :, 0, 0], pooled)
    expected = ((mapped - teacher) ** 2).mean() / (teacher**2).mean()
    torch.testing.assert_close(connector(student, teacher), expected)


def test_a_tap_leaves_no_hook_and_forgets_what_was_taken():
    network = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.Flatten())
    tap = FeatureTap(network, ["0"], "student")
    images = torch.zeros(1, 3, 5, 5)
    with tap.watching():
        network(images)
    assert tap.taken()["0"].shape == (1, 4, 3, 3)
    network(images)
    assert not network[0]._forward_hooks
    with pytest.raises(Exception, match="never called itself"):
        tap.taken()


def test_kept_embeddings_do_not_depend_on_which_others_were_missing(tmp_path):
    from rtool.finetune.distillation.kept_embeddings import KeptTeacher
    from rtool.finetune.embedding.cache import EmbeddingCache

    sizes = []

    class Linear:
        name, decision = "linear", None

        def outputs(self, pixels: torch.Tensor) -> TeacherOutputs:
            sizes.append(len(pixels))
            return TeacherOutputs(pixels.flatten(1).float()[:, :3])

    pixels = torch.randint(0, 256, (20, 2, 2, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    teacher = KeptTeacher(Linear(), EmbeddingCache(tmp_path, "0" * 64))
    teacher.outputs(pixels[:3])
    teacher.flush()
    again = KeptTeacher(Linear(), EmbeddingCache(tmp_path, "0" * 64))
    found = again.outputs(pixels).embeddings
    np.testing.assert_array_equal(found.numpy(), pixels.flatten(1).float()[:, :3].numpy())
    assert sizes == [16, 16, 16]  # 3 images, then the 17 that were missing, in chunks of one size
