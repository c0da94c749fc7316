"""Shards of PaddleNLP and FleetX, split by plain numpy, come together as the model they were split from."""

from __future__ import annotations

import pickle

import numpy as np
import pytest

from zoo_core.checkpoint import Reader
from zoo_core.errors import CheckpointError
from zoo_core.registry import registry
from zoo_core.train.prepare import other_fusing


def model(name, **changes):
    found = registry().find(name)
    config = found.config.replace(
        **{**found.architecture.capabilities.scales["tiny"], "num_hidden_layers": 2, **changes}
    )
    return found.architecture.table(config), other_fusing(found, config), config


def values(table, seed=0):
    """Whole parameters as zoo has them: [in, out], heads [vocabulary, hidden]."""
    rng = np.random.default_rng(seed)
    return {
        name: rng.standard_normal(rule.shape).astype(np.float32) for name, rule in table.items() if rule.single == name
    }


def write(path, held):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(pickle.dumps(held, 4))


def read(folder, table, fused):
    with Reader(folder, table, fused) as reader:
        assert reader.check() == ()
        return {name: reader.read_local(name) for name, rule in table.items() if rule.single == name}


def equal(found, expected):
    assert set(found) == set(expected)
    for name, array in expected.items():
        assert found[name].dtype == array.dtype and np.array_equal(found[name], array), name


def in_paddle(held):
    """As PaddleNLP has them: the head is [hidden, vocabulary]."""
    return {name: array.T.copy() if name == "lm_head.weight" else array for name, array in held.items()}


def llama_shard(held, rank, degree, kv_whole=False):
    """PaddleNLP's split of a Llama, on parameters laid out as PaddleNLP does."""
    out = {}
    for name, array in held.items():
        if name.endswith(("q_proj.weight", "gate_proj.weight", "up_proj.weight", "lm_head.weight")):
            out[name] = np.split(array, degree, axis=1)[rank]
        elif name.endswith(("k_proj.weight", "v_proj.weight")):
            out[name] = array if kv_whole else np.split(array, degree, axis=1)[rank]
        elif name.endswith(("o_proj.weight", "down_proj.weight", "embed_tokens.weight")):
            out[name] = np.split(array, degree, axis=0)[rank]
        else:
            out[name] = array
        out[name] = np.ascontiguousarray(out[name])
    return out


@pytest.mark.parametrize(("degree", "kv_whole"), [(2, False), (4, True)])
def test_tensor_parallel_shards_of_llama(tmp_path, degree, kv_whole):
    table, fused, _ = model("meta-llama/Llama-2-7b")
    held = values(table)
    for rank in range(degree):
        shard = llama_shard(in_paddle(held), rank, degree, kv_whole)
        write(tmp_path / f"model_state.tp{rank:02d}.pdparams", shard)
    equal(read(tmp_path, table, fused), held)


def test_pipeline_stages_of_paddlenlp_have_single_card_names(tmp_path):
    table, fused, _ = model("meta-llama/Llama-2-7b")
    held = values(table)
    for rank in range(2):
        shard = llama_shard(in_paddle(held), rank, 2)
        first = {n: a for n, a in shard.items() if "layers.0." in n or "embed" in n}
        write(tmp_path / f"model_state.tp{rank:02d}_pp00.pdparams", first)
        write(tmp_path / f"model_state.tp{rank:02d}_pp01.pdparams", {n: a for n, a in shard.items() if n not in first})
    equal(read(tmp_path, table, fused), held)
    (tmp_path / "model_state.tp01_pp00.pdparams").unlink()
    with pytest.raises(CheckpointError, match=r"model_state\.tp01_pp00\.pdparams is missing"):
        Reader(tmp_path, table, fused)


def interleaved(q, k, v, groups):
    """PaddleNLP's fused projection: for each key/value head its queries, its key, its value."""
    pieces = zip(*(np.split(part, groups, axis=-1) for part in (q, k, v)), strict=True)
    return np.concatenate([np.concatenate(piece, axis=-1) for piece in pieces], axis=-1)


def fuse(held, groups, gate_up=False):
    out = dict(held)
    for name in held:
        if "q_proj" in name:
            q, k, v = (out.pop(name.replace("q_proj", part)) for part in ("q_proj", "k_proj", "v_proj"))
            out[name.replace("q_proj", "qkv_proj")] = interleaved(q, k, v, groups)
        elif gate_up and "gate_proj" in name:
            gate, up = out.pop(name), out.pop(name.replace("gate_proj", "up_proj"))
            out[name.replace("gate_proj", "gate_up_fused_proj")] = np.concatenate([gate, up], axis=-1)
    return out


def gpt_shard(held, rank, degree):
    out = {}
    for name, array in held.items():
        if "qkv_proj" in name or "linear1" in name:
            array = np.split(array, degree, axis=-1)[rank]
        elif name.endswith(("out_proj.weight", "linear2.weight", "word_embeddings.weight")):
            array = np.split(array, degree, axis=0)[rank]
        out[name] = np.ascontiguousarray(array)
    return out


def test_fused_projections_are_taken_apart(tmp_path):
    table, fused, config = model("meta-llama/Llama-2-7b")
    held = values(table)
    write(tmp_path / "model_state.pdparams", fuse(in_paddle(held), config.kv_heads, gate_up=True))
    equal(read(tmp_path, table, fused), held)
    with Reader(tmp_path, table, fused) as reader:
        for name in ("llama.layers.1.self_attn.k_proj.weight", "llama.layers.0.mlp.up_proj.weight"):
            whole = held[name]
            half = whole.shape[1] // 2
            assert np.array_equal(reader.read_local(name, 2, 1), whole[:, half:])


def fleetx_name(name, layers, offset=0):
    if "embeddings" in name:
        return "shared_layers.embed." + name.removeprefix("gpt.embeddings.")
    if ".layers." in name:
        number, rest = name.split(".layers.")[1].split(".", 1)
        return f"{int(number) + 1 - offset}.{rest}"
    return f"{layers + 1 - offset}." + name.removeprefix("gpt.decoder.norm.")


@pytest.mark.parametrize("form", ["whole", "counted", "restarting", "named", "names restarting"])
@pytest.mark.parametrize("degree", [1, 2])
def test_folders_of_fleetx(tmp_path, form, degree):
    layers = 4
    table, fused, config = model("gpt3-345M", num_hidden_layers=layers)
    held = values(table)
    together = fuse(held, config.num_attention_heads)
    for rank in range(degree):
        shard = gpt_shard(together, rank, degree)
        stages = [shard]
        if form != "whole":
            first = {n: a for n, a in shard.items() if "embeddings" in n or "layers.0." in n or "layers.1." in n}
            stages = [first, {n: a for n, a in shard.items() if n not in first}]
        for stage, part in enumerate(stages):
            if form in ("counted", "restarting"):
                start = 3 * stage if form == "restarting" else 0
                part = {f"_layers.{fleetx_name(name, layers, start)}": array for name, array in part.items()}
                if stage:  # the tied embedding is on the last stage too
                    copies = {n: a for n, a in shard.items() if "word_embeddings" in n}
                    part |= {f"_layers.{fleetx_name(name, layers)}": array for name, array in copies.items()}
            elif form == "names restarting" and stage:
                part = {
                    n.replace("layers.2.", "layers.0.").replace("layers.3.", "layers.1."): a for n, a in part.items()
                }
            for sharding in range(2):
                folder = tmp_path / f"mp_{rank:02d}_sharding_{sharding:02d}_pp_{stage:02d}"
                write(folder / "model.pdparams", part)
                (folder / "meta_state.pdopt").write_bytes(b"not read")
    equal(read(tmp_path, table, fused), held)


def test_qwen_of_the_first_generation(tmp_path):
    table, fused, _ = model("qwen/qwen-7b")
    held = values(table)
    for rank in range(2):
        out = {}
        for name, array in in_paddle(held).items():
            if "c_attn" in name:
                array = np.concatenate([np.split(part, 2, -1)[rank] for part in np.split(array, 3, -1)], -1)
            elif name.endswith(("w1.weight", "w2.weight", "lm_head.weight")):
                array = np.split(array, 2, -1)[rank]
            elif name.endswith(("c_proj.weight", "wte.weight")):
                array = np.split(array, 2, 0)[rank]
            out[name] = np.ascontiguousarray(array)
        write(tmp_path / f"model_state.tp{rank:02d}.pdparams", out)
    equal(read(tmp_path, table, fused), held)


@pytest.mark.parametrize("square", [False, True])
def test_a_head_is_turned_also_where_its_shape_does_not_tell(tmp_path, square):
    table, fused, _ = model("meta-llama/Llama-2-7b", **({"vocab_size": 64} if square else {}))
    held = values(table)
    write(tmp_path / "whole" / "model_state.pdparams", in_paddle(held))
    equal(read(tmp_path / "whole", table, fused), held)
    for rank in range(2):
        write(tmp_path / f"split/model_state.tp{rank:02d}.pdparams", llama_shard(in_paddle(held), rank, 2))
    equal(read(tmp_path / "split", table, fused), held)


def test_paddlenlp_safetensors_are_not_taken_for_hugging_faces(tmp_path):
    """Square weights would be read transposed without a word."""
    from safetensors.numpy import save_file

    table, fused, _ = model("meta-llama/Llama-2-7b")
    held = values(table)
    save_file(in_paddle(held), tmp_path / "model.safetensors")
    equal(read(tmp_path, table, fused), held)


def test_base_models_without_a_prefix_are_told_apart_by_shape(tmp_path):
    from safetensors.numpy import save_file

    table, fused, _ = model("meta-llama/Llama-2-7b", tie_word_embeddings=True)
    held = values(table)
    bare = {name.removeprefix("llama."): array for name, array in held.items()}
    write(tmp_path / "paddle" / "model_state.pdparams", bare)
    equal(read(tmp_path / "paddle", table, fused), held)
    (tmp_path / "hf").mkdir()
    turned = {n: np.ascontiguousarray(a.T) if "proj" in n else a for n, a in bare.items()}
    save_file(turned, tmp_path / "hf" / "model.safetensors")
    equal(read(tmp_path / "hf", table, fused), held)


def test_shards_that_do_not_belong_together_are_named(tmp_path):
    table, fused, _ = model("meta-llama/Llama-2-7b")
    held = in_paddle(values(table))

    def folder(name, change):
        for rank in range(2):
            shard = llama_shard(held, rank, 2)
            change(rank, shard)
            write(tmp_path / name / f"model_state.tp{rank:02d}.pdparams", shard)
        return tmp_path / name

    name = "llama.layers.1.mlp.up_proj.weight"
    lost = folder("lost", lambda rank, shard: shard.pop(name) if rank else None)
    with pytest.raises(CheckpointError, match=rf"{name} is missing in .*model_state\.tp01\.pdparams"):
        Reader(lost, table, fused)
    narrow = folder("narrow", lambda rank, shard: shard.update({name: shard[name][:, :-1]}) if rank else None)
    with pytest.raises(CheckpointError, match=rf"the shards of {name} differ") as caught:
        Reader(narrow, table, fused)
    assert "model_state.tp01.pdparams [64, 85]" in str(caught.value)
    other = folder("other", lambda rank, shard: shard.update({name: shard[name][:, :-1]}))
    with pytest.raises(CheckpointError, match=rf"the shards of {name} in .* have shape \[64, 85\]"):
        Reader(other, table, fused)
    extra = folder("extra", lambda rank, shard: shard.update({"llama.surprise": np.ones(3)}))
    with Reader(extra, table, fused) as reader:
        assert reader.check() == ("llama.surprise",)
    (other / "config.json").write_text('{"tensor_parallel_degree": 4}')
    with pytest.raises(CheckpointError, match=r"model_state\.tp02\.pdparams is missing, and 1 more"):
        Reader(other, table, fused)
    (other / "model_state.tp00.pdparams").unlink()
    (other / "config.json").unlink()
    with pytest.raises(CheckpointError, match=r"model_state\.tp00\.pdparams is missing"):
        Reader(other, table, fused)
