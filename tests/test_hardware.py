"""The table of hardware: what it computes, what it refuses to claim, and that a broken way shows."""

import pytest
import torch

from llama_minimal.integrations import hardware
from llama_minimal.model import Llama


def test_the_cpu_agrees_with_itself_on_every_path():
    found = hardware.probe("cpu")
    assert found.is_here
    assert tuple(found.paths) == hardware.PATHS
    assert found.paths["text"] == found.paths["offloading"] == "same text"
    assert all(float(found.paths[name].split()[0]) < 1e-5 for name in ("logits", "gradient", "int8"))


def test_a_device_that_is_not_here_is_not_tried_and_says_what_was_tried_elsewhere():
    for way in ("cuda", "mps", "xla"):
        found = hardware.probe(way)
        if not found.is_here:
            assert found.why_not
            assert not found.paths
    assert "not on an Apple computer" in hardware.probe("mps").tried
    assert hardware.probe("xla").tried == "nothing"


def test_what_differs_shows(monkeypatch):
    forward = Llama.forward
    calls = []

    def other(self, *args, **kwargs):
        calls.append(0)
        return forward(self, *args, **kwargs) + (len(calls) % 2 == 0)

    monkeypatch.setattr(Llama, "forward", other)
    assert float(hardware.probe("cpu").paths["logits"].split()[0]) > 1e-2


def test_a_path_that_a_device_lacks_is_named(monkeypatch):
    def lacking(device):
        raise NotImplementedError(f"{device} has no kernel\nfor that")

    monkeypatch.setitem(hardware._PATHS, "int8", lacking)
    assert hardware.probe("cpu").paths["int8"] == "NotImplementedError: cpu has no kernel"


def test_the_meta_device_and_unknown_ways_are_none():
    with pytest.raises(ValueError, match="way='meta' is not one of cpu, cuda"):
        hardware.probe("meta")


def test_the_text_has_a_line_for_each_way():
    rows = [hardware.Found("cpu", True, paths={"logits": "0e+00 apart"}), hardware.Found("xla", False, "not there")]
    text = hardware.as_text(rows)
    assert text.splitlines()[0].split() == ["cpu", "runs", "here"]
    assert "xla   not there" in text
    assert text.count("tried:") == 2
    assert set(hardware.TRIED) == set(hardware.WAYS)


def test_onnx_is_a_way_where_it_is_installed():
    pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    found = hardware.probe("onnx")
    assert found.paths["text"] == "same text"
    assert float(found.paths["logits"].split()[0]) < 1e-4
    assert torch.is_grad_enabled()
