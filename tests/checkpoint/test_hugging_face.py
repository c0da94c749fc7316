"""Hugging Face folders: what was published comes back bit for bit, whatever the layout or the fusing in between."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from zoo_core.checkpoint import LocalTensor, Reader, contents, export_hf, save_checkpoint, save_hf, whole_tensors
from zoo_core.errors import CheckpointError
from zoo_core.layout import expand, split

PLUGINS = Path(__file__).parents[2] / "plugins"
GOLDEN = sorted(path.parent for path in PLUGINS.glob("*/tests/golden/*/config.json"))


def published(folder):
    files = folder.glob("model*.safetensors")
    return {name: array for path in files for name, array in load_file(path).items()}


def golden_model(folder, **changes):
    family = folder.parts[len(PLUGINS.parts)]
    plugin = pytest.importorskip(f"zoo_{family}")
    config = plugin.capabilities().config_class.from_hf(json.loads((folder / "config.json").read_text()))
    config = config.replace(**{k: v for k, v in changes.items() if k in vars(config)})
    return config, expand(plugin.tp_mappings(config), config.num_hidden_layers)


def equal(found, expected):
    assert set(found) == set(expected)
    for name, array in expected.items():
        assert found[name].dtype == array.dtype and found[name].shape == array.shape, name
        assert found[name].tobytes() == array.tobytes(), name


def hf_folder(folder, tensors, config=None, **more):
    folder.mkdir(parents=True)
    save_file(tensors, folder / "model.safetensors", **more)
    (folder / "config.json").write_text(json.dumps(config or {}))
    return folder


@pytest.mark.parametrize("folder", GOLDEN, ids=lambda path: path.name)
@pytest.mark.parametrize("fused", [False, True], ids=["separate", "fused"])
def test_a_published_folder_comes_back_bit_equal(folder, fused, tmp_path):
    config, table = golden_model(folder, fuse_attention_qkv=fused, fuse_attention_ffn=fused)
    with Reader(folder, table) as reader:
        assert reader.check() == ()
        weights = {name: reader.read_local(name) for name, rule in table.items() if rule.single == name}
        dtype = reader.dtype_of(next(iter(table)))
    save_hf(
        tmp_path / "hf",
        whole_tensors(table, weights, dtype),
        table=table,
        config=config,
        dtype=dtype,
        max_shard_size=20_000,
    )
    equal(published(tmp_path / "hf"), published(folder))
    checkpoint = save_checkpoint(
        tmp_path,
        1,
        whole_tensors(table, weights, dtype),
        entries=contents(table, dtype),
        table=table,
        config=config,
        state={},
        layout={},
    )
    plain_config, plain = golden_model(folder)
    export_hf(checkpoint, tmp_path / "again", table=plain, source_table=table, config=plain_config)
    equal(published(tmp_path / "again"), published(folder))
    assert sorted(path.name for path in (tmp_path / "again").iterdir()) == ["config.json", "model.safetensors"]


def toy_published(toys, table, seed=0, dtype=np.float32):
    """The Hugging Face tensors of the separate toy table, and the weights they come from."""
    values = toys.values(table, seed)
    weights = {name: values["weight", name].astype(dtype) for name in table}
    tensors = {
        rule.hf: np.array(weights[name].T if rule.hf_transposed else weights[name], order="C")
        for name, rule in table.items()
        if rule.single == name
    }
    return weights, tensors


@pytest.mark.parametrize("tp", [1, 2, 4])
def test_every_rank_reads_its_slice_of_the_transpose(tp, toys, tmp_path):
    table = toys.table(toys.config())
    weights, tensors = toy_published(toys, table)
    with Reader(hf_folder(tmp_path / "hf", tensors), table) as reader:
        for name, rule in table.items():
            for rank in range(tp):
                local = split(weights[name], rule, tp, rank)
                found = reader.read_local(name, tp, rank)
                assert found.flags.c_contiguous and np.array_equal(found, local), name
                assert np.array_equal(reader.read_local(name, tp, rank, (2, 9)), toys.flat_of(local, (2, 9))), name


@pytest.mark.parametrize("fused", [False, True])
def test_ranks_export_together(fused, toys, tmp_path):
    config = toys.config()
    table, plain = toys.table(config, fused=fused), toys.table(config)
    _, tensors = toy_published(toys, plain)
    source = hf_folder(tmp_path / "hf", tensors)

    def work(ranks):
        with Reader(source, table) as reader:
            shards = [
                LocalTensor(r, reader.read_local(n, 4, ranks.rank), degree=4, rank=ranks.rank) for n, r in table.items()
            ]
        return save_hf(
            tmp_path / "out", shards, table=table, config=config, dtype="float32", ranks=ranks, max_shard_size=6000
        )

    assert toys.run(4, work) == [tmp_path / "out"] * 4
    equal(published(tmp_path / "out"), tensors)
    index = json.loads((tmp_path / "out/model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == sum(array.nbytes for array in tensors.values())


def test_a_tied_head_is_the_embedding_and_a_stored_copy_is_tolerated(toys, tmp_path, caplog):
    table = toys.table(toys.config(tie_word_embeddings=True))
    weights, tensors = toy_published(toys, table)
    for folder, held in (("without", tensors), ("with", tensors | {"lm_head.weight": tensors["model.embed.weight"]})):
        with Reader(hf_folder(tmp_path / folder, held), table) as reader, caplog.at_level(logging.WARNING):
            assert reader.check() == ()
            assert np.array_equal(
                reader.read_local("lm_head.weight", 2, 1), reader.read_local("toy.embed.weight", 2, 1)
            )
    assert caplog.text == ""


@pytest.mark.parametrize("rename", [lambda n: n.removeprefix("model."), lambda n: "base." + n], ids=["bare", "wrapped"])
def test_names_with_and_without_a_base_prefix(rename, toys, tmp_path):
    table = toys.table(toys.config())
    weights, tensors = toy_published(toys, table)
    renamed = {name if name == "lm_head.weight" else rename(name): array for name, array in tensors.items()}
    with Reader(hf_folder(tmp_path / "hf", renamed), table) as reader:
        assert reader.check() == ()
        assert all(np.array_equal(reader.read_local(name), weights[name]) for name in table)


def test_leftovers_are_said_once_and_computed_tables_are_not(toys, tmp_path, caplog):
    table = toys.table(toys.config())
    _, tensors = toy_published(toys, table)
    tensors |= {"model.layers.0.self_attn.rotary_emb.inv_freq": np.ones(4), "model.surprise": np.ones(2)}
    with Reader(hf_folder(tmp_path / "hf", tensors), table) as reader, caplog.at_level(logging.WARNING):
        assert reader.check() == ("model.surprise",)
    assert "model.surprise" in caplog.text and "inv_freq" not in caplog.text


def test_a_missing_tensor_and_a_wrong_shape_are_named(toys, tmp_path):
    table = toys.table(toys.config())
    _, tensors = toy_published(toys, table)
    name = "model.layers.1.attn.k_proj.weight"
    short = {k: v for k, v in tensors.items() if k != name}
    with Reader(hf_folder(tmp_path / "short", short), table) as reader:
        with pytest.raises(CheckpointError, match=name) as caught:
            reader.check()
        assert "toy.layers.1.attn.k_proj.weight [24, 4]" in str(caught.value)
    wrong = tensors | {name: np.zeros((4, 23), np.float32)}
    with Reader(hf_folder(tmp_path / "wrong", wrong), table) as reader:
        with pytest.raises(CheckpointError, match=r"has shape \[4, 23\]") as caught:
            reader.read_local("toy.layers.1.attn.k_proj.weight")
        assert "[4, 24]" in str(caught.value) and "wrong/model.safetensors" in str(caught.value)
    with pytest.raises(CheckpointError, match="no weights"):
        Reader(tmp_path, table)


def test_damaged_files_are_refused_by_name(toys, tmp_path):
    table = toys.table(toys.config())
    _, tensors = toy_published(toys, table)
    whole = hf_folder(tmp_path / "hf", tensors)
    content = (whole / "model.safetensors").read_bytes()
    damages = {
        "empty": b"",
        "text": b"version https://git-lfs.github.com/spec/v1\n",
        "head": content[:100],
        "short": content[:-1],
        "long": content + b"x",
        "json": content[:8] + b"!" + content[9:],
    }
    for kind, damaged in damages.items():
        folder = tmp_path / kind
        shutil.copytree(whole, folder)
        (folder / "model.safetensors").write_bytes(damaged)
        with pytest.raises(CheckpointError, match="not a whole safetensors file") as caught:
            Reader(folder, table)
        assert str(folder / "model.safetensors") in str(caught.value)


def test_an_index_that_does_not_fit_its_files_is_refused(toys, tmp_path):
    table = toys.table(toys.config())
    weights, _ = toy_published(toys, table)
    out = save_hf(
        tmp_path / "hf",
        whole_tensors(table, weights, "float32"),
        table=table,
        config={},
        dtype="float32",
        max_shard_size=9000,
    )
    shards = sorted(out.glob("*.safetensors"))
    shutil.copy(shards[0], shards[1])
    with pytest.raises(CheckpointError, match=shards[1].name):
        Reader(out, table)
    shards[1].unlink()
    with pytest.raises(CheckpointError, match=shards[1].name):
        Reader(out, table)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_is_kept_or_widened_exactly(dtype, toys, tmp_path):
    table = toys.table(toys.config())
    kind = np.float16 if dtype == "float16" else np.uint16
    weights, _ = toy_published(toys, table)
    weights = {name: np.asarray(array * 1000).astype(np.int32).astype(kind) for name, array in weights.items()}
    out = save_hf(tmp_path / "hf", whole_tensors(table, weights, dtype), table=table, config={}, dtype=dtype)
    again = export_hf(out, tmp_path / "again", table=table, config={})
    wide = export_hf(out, tmp_path / "wide", table=table, config={}, dtype="float32")
    back = export_hf(wide, tmp_path / "back", table=table, config={}, dtype=dtype)
    content = (out / "model.safetensors").read_bytes()
    assert (again / "model.safetensors").read_bytes() == content
    assert (back / "model.safetensors").read_bytes() == content
    with Reader(wide, table) as reader:
        assert reader.dtype_of("toy.out.scale") == "float32"


def test_an_export_never_touches_a_folder_in_use(toys, tmp_path):
    table = toys.table(toys.config())
    weights, _ = toy_published(toys, table)
    (tmp_path / "hf").mkdir()
    (tmp_path / "hf/notes.txt").write_text("mine")
    with pytest.raises(CheckpointError, match="not empty"):
        save_hf(tmp_path / "hf", whole_tensors(table, weights, "float32"), table=table, config={}, dtype="float32")
    assert [path.name for path in tmp_path.rglob("*")] == ["hf", "notes.txt"]
    partial = {name: weights[name] for name in list(weights)[:-1]}
    with pytest.raises(CheckpointError, match="lm_head.weight"):
        save_hf(tmp_path / "new", whole_tensors(table, partial, "float32"), table=table, config={}, dtype="float32")
    assert not (tmp_path / "new").exists() and not (tmp_path / "new.tmp").exists()
