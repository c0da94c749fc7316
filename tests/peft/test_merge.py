"""Merging: the merged model gives the adapted one's logits, for every family; the base stays; damage is noticed."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))

from peft_models import FAMILIES, SEED, batch, single, tiny  # noqa: E402

from zoo_core.checkpoint import Reader, save_hf, whole_tensors  # noqa: E402
from zoo_core.cli import main  # noqa: E402
from zoo_core.engine.build import from_both, from_seed  # noqa: E402
from zoo_core.engine.engine import Engine  # noqa: E402
from zoo_core.engine.state import from_checkpoint, save  # noqa: E402
from zoo_core.engine.switch import with_adapters_to_switch  # noqa: E402
from zoo_core.errors import CheckpointError, ConfigError  # noqa: E402
from zoo_core.peft import LoraSpec, is_adapter  # noqa: E402
from zoo_core.peft.digest import digest  # noqa: E402
from zoo_core.peft.export import write_peft  # noqa: E402
from zoo_core.peft.files import AdapterFiles, adapter_folder, fused_table  # noqa: E402
from zoo_core.peft.merge import merge_lora  # noqa: E402
from zoo_core.testing.models import random_weights  # noqa: E402
from zoo_ops import Cache  # noqa: E402

SPEC = LoraSpec(rank=3, alpha=6.0)


def base_of(family: str, folder: Path):
    """A Hugging Face folder of random weights: architecture, configuration, table, folder."""
    architecture, config = tiny(family)
    table = architecture.table(config)
    save_hf(folder, whole_tensors(table, random_weights(table), "float32"), table=table, config=config, dtype="float32")
    return architecture, config, table


def adapter_of(architecture, config, base: Path, root: Path, seed: int = 1, spec: LoraSpec = SPEC) -> Path:
    """A LoRA checkpoint whose adapters do something."""
    mesh, table = single(architecture, config), architecture.table(config)

    def values(rule):
        rng = np.random.default_rng([seed, len(rule.name), *map(ord, rule.name[-30:])])
        return rng.standard_normal(rule.shape).astype(np.float32) * 0.1

    with Reader(base, table, fused_table(architecture, config)) as reader:
        engine = Engine(mesh, architecture, config, from_both(from_checkpoint(reader, mesh), values), lora=spec)
    return save(engine, root, seed, state={})


def logits_of(architecture, config, folder: Path, adapter: Path | None = None) -> np.ndarray:
    mesh, table = single(architecture, config), architecture.table(config)
    with Reader(folder, table, fused_table(architecture, config)) as reader:
        own = {"one": adapter} if adapter else {}
        engine, switch = with_adapters_to_switch(mesh, architecture, config, reader, own)
    switch.use("one" if adapter else "")
    return engine.logits({"input_ids": batch(config)["input_ids"]}).numpy()


@pytest.mark.parametrize("family", FAMILIES)
def test_merged_logits_are_the_adapted_ones(family, tmp_path):
    base, merged = tmp_path / "base", tmp_path / "merged"
    architecture, config, table = base_of(family, base)
    before = {path.name: path.read_bytes() for path in base.iterdir()}
    adapter = adapter_of(architecture, config, base, tmp_path / "lora")
    fused = fused_table(architecture, config)
    with Reader(base, table, fused) as reader, AdapterFiles(adapter, table) as files:
        done = merge_lora(reader, files, merged, table=table, fused=fused, config=config)
        assert done.layers == len(files.modules) and 0 < done.worst <= 1 and done.error < 1e-6 < done.change
        peft = write_peft(tmp_path / "peft", table, files.spec, files.modules, files.read)
    adapted = logits_of(architecture, config, base, adapter)
    np.testing.assert_allclose(logits_of(architecture, config, merged), adapted, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(logits_of(architecture, config, base, peft), adapted, rtol=1e-5, atol=1e-5)
    assert np.abs(logits_of(architecture, config, base) - adapted).max() > 1e-2
    assert {path.name: path.read_bytes() for path in base.iterdir()} == before


def test_adapters_take_turns_over_one_model(tmp_path):
    base = tmp_path / "base"
    architecture, config, table = base_of("llama", base)
    paths = {
        "one": adapter_of(architecture, config, base, tmp_path / "lora", 1),
        "two": adapter_of(architecture, config, base, tmp_path / "lora", 2, LoraSpec(5, 5.0, targets=("q_proj",))),
    }
    with Reader(base, table) as reader:
        engine, switch = with_adapters_to_switch(single(architecture, config), architecture, config, reader, paths)
    fields = {"input_ids": batch(config)["input_ids"]}
    weights = [id(held.tensor) for name, held in engine.held.items() if not is_adapter(name)]
    found = {}
    for name in ("one", "two", "", "one"):
        switch.use(name)
        values = engine.logits(fields).numpy()
        np.testing.assert_array_equal(found.setdefault(name, values), values)
    for name, path in paths.items():
        np.testing.assert_array_equal(found[name], logits_of(architecture, config, base, path))
    np.testing.assert_array_equal(found[""], logits_of(architecture, config, base))
    assert len({values.tobytes() for values in found.values()}) == 3
    assert weights == [id(held.tensor) for name, held in engine.held.items() if not is_adapter(name)]
    with pytest.raises(ConfigError, match="no adapter tow") as error:
        switch.use("tow")
    assert error.value.todo == "did you mean two?"


def test_cached_decoding_sees_the_adapter(tmp_path):
    """DeepSeek's cached attention reads the weight of `kv_b_proj`, instead of calling the layer."""
    base = tmp_path / "base"
    architecture, config, table = base_of("deepseek_v3", base)
    adapter = adapter_of(architecture, config, base, tmp_path / "lora")
    with Reader(base, table) as reader:
        engine, switch = with_adapters_to_switch(
            single(architecture, config), architecture, config, reader, {"one": adapter}
        )
    switch.use("one")
    ids = batch(config, count=1)["input_ids"]
    whole = engine.logits({"input_ids": ids}).numpy()
    cache = Cache(config.num_hidden_layers, 1, ids.shape[1])
    parts = []
    for start, stop in ((0, 5), (5, 6), (6, 16)):
        positions = np.arange(start, stop, dtype=np.int64)[None]
        parts.append(engine.logits({"input_ids": ids[:, start:stop], "position_ids": positions}, cache).numpy())
    np.testing.assert_allclose(np.concatenate(parts, axis=1), whole, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_narrow_types_are_rounded_once(dtype, tmp_path):
    base = tmp_path / "base"
    architecture, config, table = base_of("llama", base)
    adapter = adapter_of(architecture, config, base, tmp_path / "lora")
    with Reader(base, table) as reader, AdapterFiles(adapter, table) as files:
        done = merge_lora(reader, files, tmp_path / "merged", table=table, fused={}, config=config, dtype=dtype)
    assert 0.5 < done.worst <= 1


def test_what_was_written_wrongly_is_noticed(tmp_path, monkeypatch):
    base = tmp_path / "base"
    architecture, config, table = base_of("llama", base)
    adapter = adapter_of(architecture, config, base, tmp_path / "lora")
    plain = AdapterFiles.product
    calls = []

    def product(self, module):
        calls.append(module)
        return plain(self, module) * np.float32(1.0 if len(calls) != 3 else 1.01)

    monkeypatch.setattr(AdapterFiles, "product", product)
    with Reader(base, table) as reader, AdapterFiles(adapter, table) as files:
        with pytest.raises(CheckpointError, match="does not hold what was merged"):
            merge_lora(reader, files, tmp_path / "merged", table=table, fused={}, config=config)


def test_from_the_seed_to_a_checkpoint_and_back(tmp_path):
    """B is zero at first, so a fresh adapter changes nothing; its A does not depend on anything but the name."""
    architecture, config = tiny("llama")
    mesh = single(architecture, config)
    engine = Engine(mesh, architecture, config, from_seed(SEED, config, 1, 0), lora=SPEC)
    fields = {"input_ids": batch(config)["input_ids"]}
    plain = Engine(mesh, architecture, config, from_seed(SEED, config, 1, 0)).logits(fields).numpy()
    np.testing.assert_array_equal(engine.logits(fields).numpy(), plain)
    folder = save(engine, tmp_path, 0, state={})
    assert adapter_folder(tmp_path) == folder
    with AdapterFiles(folder, architecture.table(config)) as files:
        A = files.read("llama.layers.0.self_attn.q_proj.lora_A")
        assert A.shape == (config.hidden_size, 3) and not files.read("llama.layers.0.self_attn.q_proj.lora_B").any()
        bound = 1 / np.sqrt(config.hidden_size)
        assert 0.9 * bound < np.abs(A).max() <= bound and abs(A.std() - bound / np.sqrt(3)) < 0.1 * bound


def test_the_command_names_another_base_and_refuses_a_damaged_adapter(tmp_path, capsys):
    architecture, config, _ = base_of("llama", tmp_path / "base")
    own = LoraSpec(rank=3, alpha=6.0, base=str(tmp_path / "base"), base_digest=digest(tmp_path / "base"))
    right = adapter_of(architecture, config, tmp_path / "base", tmp_path / "right", spec=own)
    gone = LoraSpec(rank=3, alpha=6.0, base="elsewhere", base_digest="0" * 32)
    other = adapter_of(architecture, config, tmp_path / "base", tmp_path / "other", spec=gone)
    assert main(["merge", "lora", str(tmp_path / "base"), str(right), str(tmp_path / "one")]) == 0
    assert "other base" not in capsys.readouterr().out
    assert main(["merge", "lora", str(tmp_path / "base"), str(other), str(tmp_path / "two")]) == 0
    assert "other base the adapter was trained on elsewhere" in capsys.readouterr().out
    assert main(["convert", str(right), str(tmp_path / "three"), "--to", "hf"]) == 2
    said = capsys.readouterr().err
    assert f"zoo merge lora BASE {right} DST" in said and "--lora_path" not in said
    np.save(tmp_path / "ids.npy", np.array([[1, 2, 3]]))
    ids = ["--ids", str(tmp_path / "ids.npy"), "--out", str(tmp_path / "logits.npy")]
    for adapter, warned in ((right, 0), (other, 1)):
        assert main(["logits", str(tmp_path / "base"), "--lora_path", str(adapter), *ids]) == 0
        assert capsys.readouterr().err.count(f"{other} was trained on elsewhere, whose files are not those") == warned
    file = next(right.glob("lora-*.safetensors"))
    content = bytearray(file.read_bytes())
    content[-5] ^= 1
    file.write_bytes(content)
    assert main(["merge", "lora", str(tmp_path / "base"), str(right), str(tmp_path / "three")]) == 2
    assert "is damaged" in capsys.readouterr().err and not (tmp_path / "three").exists()
    assert main(["logits", str(tmp_path / "base"), "--lora_path", str(right), *ids]) == 2
    said = capsys.readouterr().err
    assert f"{right} is damaged" in said and str(file) in said and "do:  copy the folder again" in said
    (right / "trainer_state.json").write_text("{")
    assert main(["logits", str(tmp_path / "base"), "--lora_path", str(right), *ids]) == 2
    said = capsys.readouterr().err
    assert f"{right / 'trainer_state.json'} is not JSON" in said and "do:  copy or download the file again" in said
