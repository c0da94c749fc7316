"""The conformance kit's checks of tables fail where they should."""

from __future__ import annotations

import importlib.util
import json
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from zoo_core.layout import Column, Replicate, Vocab, expand, is_norm
from zoo_core.testing import tables

PUBLISHED = Path(__file__).parents[2] / "tools" / "published.py"
RULES = (
    Vocab("m.embed.weight", (8, 4), "embed.weight"),
    Column("m.layers.*.experts.*.up.weight", (4, 6), "layers.*.experts.*.up.weight", experts=range(2)),
    Column("m.layers.*.q.weight", (4, 4), "layers.*.qk.weight", hf_run=(0, 8), transpose=False),
    Column("m.layers.*.k.weight", (4, 4), "layers.*.qk.weight", hf_run=(4, 8), transpose=False),
    Replicate("m.layers.*.norm.weight", (4,), "layers.*.norm.weight"),
    Replicate("m.layers.*.count", (2,), "layers.*.count", buffer=True),
    Vocab("head.weight", (8, 4), "head.weight", tied_to="m.embed.weight"),
)
SHAPES = {"embed.weight": (8, 4)}
for layer in range(3):
    SHAPES |= {f"layers.{layer}.experts.{expert}.up.weight": (6, 4) for expert in range(2)}
    SHAPES |= {f"layers.{layer}.qk.weight": (4, 8), f"layers.{layer}.norm.weight": (4,), f"layers.{layer}.count": (2,)}
SHAPES["head.weight"] = (8, 4)


@dataclass(frozen=True)
class FakeConfig:
    num_hidden_layers: int = 3

    def replace(self, **changes):
        return replace(self, **changes)


def family(model=None):
    entry = SimpleNamespace(name="zoo/m", config=FakeConfig())
    return SimpleNamespace(
        capabilities=SimpleNamespace(models=(entry,)),
        table=lambda config: expand(RULES, config.num_hidden_layers),
        rules=lambda config: RULES,
        build_model=lambda config: model,
    )


@pytest.fixture(scope="module")
def tool():
    spec = importlib.util.spec_from_file_location("published", PUBLISHED)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_published_tensors_are_written_once_and_compared(tool, tmp_path):
    """Runs of one tensor, experts, buffers, and the copy of a tied row included."""
    tool.write(tmp_path / "shapes.json", {"zoo/m": SHAPES, "zoo/same": SHAPES})
    (entry,) = json.loads((tmp_path / "shapes.json").read_text())
    assert entry["models"] == ["zoo/m", "zoo/same"]
    assert entry["tensors"]["layers.{0-2}.experts.{0-1}.up.weight"] == [6, 4]
    assert len(entry["tensors"]) == 6
    tables.check_published(family(), "zoo/m", tmp_path)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"embed.weight": (4, 8)}, r"embed.weight is \(8, 4\) in the table and \(4, 8\)"),
        ({"layers.3.norm.weight": (4,)}, "layers.3.norm.weight is missing in the table"),
        ({"head.weight": None}, "head.weight is .* and missing in the reference"),
    ],
)
def test_other_published_tensors_are_told(changes, said, tool, tmp_path):
    other = {name: shape for name, shape in {**SHAPES, **changes}.items() if shape}
    tool.write(tmp_path / "shapes.json", {"zoo/m": other})
    with pytest.raises(AssertionError, match=said):
        tables.check_published(family(), "zoo/m", tmp_path)


def test_a_model_that_no_file_has_is_told(tool, tmp_path):
    tool.write(tmp_path / "shapes.json", {"zoo/other": SHAPES})
    with pytest.raises(AssertionError, match="0 entries for zoo/m"):
        tables.check_published(family(), "zoo/m", tmp_path)


def test_a_gap_in_the_layers_is_not_written(tool, tmp_path):
    without = {name: shape for name, shape in SHAPES.items() if name != "layers.1.norm.weight"}
    with pytest.raises(SystemExit, match="norm.weight .* 2 tensors, and 3"):
        tool.write(tmp_path / "shapes.json", {"zoo/m": without})


def built(buffer):
    from paddle import nn

    model = nn.Layer()
    for name, rule in expand(RULES, 3).items():
        *path, last = name.split(".")
        at = model
        for part in path:
            if part not in at._sub_layers:
                at.add_sublayer(part, nn.Layer())
            at = at._sub_layers[part]
        parameter = model.m.embed.weight if rule.single != name else at.create_parameter(list(rule.shape))
        if last == "count" and buffer:
            at.register_buffer(last, parameter.detach())
        else:
            at.add_parameter(last, parameter)
    return model


def test_a_buffer_is_no_parameter():
    entry = family().capabilities.models[0]
    tables.check_model_matches(family(built(buffer=True)), entry.config)
    with pytest.raises(AssertionError, match="m.layers.0.count is a buffer in the table"):
        tables.check_model_matches(family(built(buffer=False)), entry.config)


@pytest.mark.parametrize(
    ("name", "norm"),
    [("m.norm.weight", True), ("m.ln_1.bias", True), ("m.layernorm_embedding.weight", True), ("m.normal", False),
     ("m.q_proj.weight", False), ("weight", False)],
)  # fmt: skip
def test_a_norm_is_known_by_its_module(name, norm):
    assert is_norm(name) is norm
