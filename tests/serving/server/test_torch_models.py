"""TorchScript on a real Triton: answers are torch's own, at every batch."""

import numpy as np
import pytest
import torch

from rtool.errors import InputError
from rtool.serving import TritonClient, deploy


def test_a_published_script_answers_as_torch_does(server, repository, make_torch, tmp_path):
    given = make_torch(tmp_path / "model.pt2")
    deploy(given, name="torch", repository=repository, device="cpu", url=server.url)
    images = np.random.default_rng(0).normal(size=(21, 3, 8, 4)).astype(np.float32)
    expected = torch.export.load(given).module()(torch.from_numpy(images)).detach().numpy()
    with TritonClient(server.url, "torch") as client:
        (answered,) = client.run_rows(images)
        np.testing.assert_allclose(answered, expected, rtol=0, atol=1e-6)
        with pytest.raises(InputError, match="input 'images' expected float32"):
            client.run(images[:, :2])
