"""What is said of the zoo without building it is what a built network has."""

from collections import Counter

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

import rtool
from rtool.converters.zoo.facts import FACTS, NEED_OPTIONS
from rtool.converters.zoo.registry import ZOO, architecture_preprocessing, build_architecture


def test_every_architecture_has_its_facts():
    assert [*FACTS, *NEED_OPTIONS] == list(ZOO)
    assert {name for name, row in ZOO.items() if row.needed} == set(NEED_OPTIONS)


@pytest.mark.parametrize("name", [name for name in FACTS if name not in ("iresnet100", "iresnet200")])
def test_facts_are_those_of_the_network(name: str):
    facts, size = FACTS[name], architecture_preprocessing(name)
    assert facts.preprocessing == size
    with torch.device("meta"), torch.no_grad():
        network = build_architecture(name).eval()
        with FlopCounterMode(display=False) as flops:
            outputs = network(torch.empty(1, size.channels, size.height, size.width))
    assert facts.parameters == sum(parameter.numel() for parameter in network.parameters())
    assert facts.buffers == sum(buffer.numel() for buffer in network.buffers() if buffer.is_floating_point())
    assert facts.macs == flops.get_total_flops() // 2
    assert facts.embedding == (outputs if isinstance(outputs, torch.Tensor) else outputs[0]).shape[1]
    assert dict(facts.layers) == Counter(type(m).__name__ for m in network.modules() if not list(m.children()))


def test_osnet_costs_what_its_paper_says():
    found = rtool.inspect("osnet_x1_0")
    assert round(found.macs / 1e6) == 979  # arXiv:1905.00953, table 1: 978.9 M for 256x128
    assert round(found.parameters / 1e6, 1) == 2.2
    assert found.architecture == "osnet_x1_0"
    assert found.size_bytes == 4 * (found.parameters + found.buffers)
