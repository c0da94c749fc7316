"""Argument files: types that YAML and JSON get wrong, inheritance, and damage."""

from __future__ import annotations

from pathlib import Path

import pytest

from zoo_core.arguments import Arguments, load_arguments
from zoo_core.errors import ConfigError


@pytest.fixture
def load(tmp_path):
    def write_and_load(name: str, text: str, *argv: str, task: str = "pretrain") -> Arguments:
        (tmp_path / name).write_text(text, encoding="utf-8")
        return load_arguments(task, [tmp_path / name], ["--model", "m", *argv])

    return write_and_load


def test_yaml_types(load):
    training = load(
        "a.yaml",
        "learning_rate: 3e-05\nmin_learning_rate: 3e-6\nmax_steps: 1e3\n"
        "evaluation_strategy: no\nsave_strategy: 'epoch'\n"
        "bf16: 1\ndo_predict: yes\nfp16_opt_level: o2\nsave_total_limit:\nlogging_steps: 5.0\nrun_name: 12\n",
    ).training
    assert (training.learning_rate, training.min_learning_rate, training.max_steps) == (3e-5, 3e-6, 1000)
    assert (training.evaluation_strategy, training.save_strategy) == ("no", "epoch")
    assert training.bf16 is True and training.do_predict is True and training.fp16_opt_level == "O2"
    assert training.save_total_limit is None and training.logging_steps == 5 and training.run_name == "12"


def test_json_types(load):
    arguments = load(
        "a.json",
        '{"continue_training": 1, "sequence_parallel": 0, "do_train": "false", "save_total_limit": null,'
        ' "split": [8, 1, 1], "sharding": ["stage2", "offload"], "sharding_parallel_degree": 2.0, "weight_decay": 0,'
        ' "input_dir": [0.5, "a", 0.5, "b"], "report_to": "visualdl,tensorboard"}',
    )
    assert arguments.model.continue_training is True and arguments.parallel.sequence_parallel is False
    assert arguments.training.do_train is False and arguments.data.split == "8,1,1"
    assert arguments.parallel.sharding == "stage2 offload" and arguments.parallel.sharding_parallel_degree == 2
    assert arguments.data.input_dir == "0.5 a 0.5 b" and isinstance(arguments.training.weight_decay, float)
    assert arguments.training.report_to == ("visualdl", "tensorboard")
    assert "save_total_limit" not in arguments.given


def test_json_may_have_fleetx_sections(load):
    arguments = load("a.json", '{"Model": {"hidden_size": 64}, "Global": {"seed": 5}, "max_steps": 3}')
    assert arguments.overrides == {"hidden_size": 64}
    assert (arguments.training.seed, arguments.training.max_steps) == (5, 3)


def test_bases_are_laid_under(load, tmp_path):
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub/root.yaml").write_text("Global:\n  seed: 1\n  device: cpu\nOptimizer:\n  weight_decay: 0.1\n")
    (tmp_path / "sub/middle.yaml").write_text("_base_: ./root.yaml\nGlobal:\n  seed: 2\nmax_steps: 4\n")
    arguments = load("leaf.yaml", "_base_: sub/middle.yaml\nOptimizer:\nmax_steps:\n")
    assert (arguments.training.seed, arguments.training.device) == (2, "cpu")
    assert arguments.training.weight_decay == 0.1, "an empty section says nothing"
    assert arguments.training.max_steps == -1, "an empty value is the default"
    assert set(arguments.given) == {"seed", "device", "weight_decay", "model_name_or_path"}


def test_a_section_may_refuse_its_base(load, tmp_path):
    (tmp_path / "root.yaml").write_text("Optimizer:\n  weight_decay: 0.1\n  beta2: 0.95\nGlobal:\n  seed: 1\n")
    training = load("leaf.yaml", "_base_: root.yaml\nOptimizer:\n  _inherited_: False\n  beta1: 0.8\n").training
    assert (training.adam_beta1, training.adam_beta2, training.weight_decay, training.seed) == (0.8, 0.999, 0.0, 1)


@pytest.mark.parametrize(
    ("name", "text", "words"),
    [
        ("a.json", '{"max_steps": 3,}', ["not valid JSON", "line 1"]),
        ("a.json", "[1]", ["not a JSON object"]),
        ("a.json", '{"max_steps": 3,\n "seed": 1,\n "max_steps": 4}', ["'max_steps' stands twice", "lines 1, 3"]),
        ("a.json", '{"learning_rate": NaN}', ["NaN"]),
        ("a.json", '{\n"max_stepz": 3}', ["unknown key max_stepz", "a.json, line 2", "max_steps"]),
        ("a.json", '{\n\n"max_steps": "x"}', ["max_steps = 'x'", "a.json, line 3", "a whole number"]),
        ("a.json", '{"max_steps": true}', ["max_steps = True", "a whole number"]),
        ("a.json", '{"max_steps": [3]}', ["max_steps = [3]", "a whole number"]),
        ("a.json", '{"split": {"train": 1}}', ["unknown key split.train"]),
        ("a.json", '{"output_dir": false}', ["output_dir", "text"]),
        ("a.json", '{"zero_padding": true, "intokens": false}', ["zero_padding is set twice"]),
        ("a.yaml", "max_steps: [1", ["not valid YAML"]),
        ("a.yaml", "- 1\n", ["not a mapping"]),
        ("a.yaml", "Global:\n  seed: 1\n  seed: 2\n", ["'Global.seed' stands twice", "lines 2, 3"]),
        ("a.yaml", "Modell:\n  hidden_size: 1\n", ["unknown key Modell.hidden_size", "line 2", "Model"]),
        ("a.yaml", "Data:\n  Train:\n    dataset:\n      max_sequence: 1\n", ["Data.Train.dataset.max_seq_len"]),
        ("a.yaml", "Data:\n  Eval:\n    dataset:\n      input_dirr: x\n", ["Data.Eval.dataset.input_dirr"]),
        ("a.yaml", "_base_: nowhere.yaml\n", ["nowhere.yaml does not exist", "_base_"]),
        ("a.yaml", "_base_: ./a.yaml\n", ["inherits from itself", "a.yaml -> a.yaml"]),
        ("a.yaml", "_base_: [a]\n", ["not a file name"]),
        ("a.yaml", "Distributed:\n  sharding:\n    sharding_degree: two\n", ["sharding_degree", "'two'"]),
        ("a.txt", "{}", ["unknown kind", ".json, .yaml"]),
    ],
)  # fmt: skip
def test_damage_is_named(load, name, text, words):
    with pytest.raises(ConfigError) as caught:
        load(name, text)
    assert all(word in str(caught.value) for word in words), str(caught.value)


def test_missing_and_unreadable_files(tmp_path):
    with pytest.raises(ConfigError, match=r"gone\.json does not exist"):
        load_arguments("pretrain", [tmp_path / "gone.json"])
    (tmp_path / "binary.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match=r"binary\.json cannot be read"):
        load_arguments("pretrain", [tmp_path / "binary.json"])
    with pytest.raises(ConfigError, match="cannot be read"):
        load_arguments("pretrain", [Path(tmp_path)])


def test_a_circle_of_bases(tmp_path):
    (tmp_path / "a.yaml").write_text("_base_: b.yaml\n")
    (tmp_path / "b.yaml").write_text("_base_: a.yaml\n")
    with pytest.raises(ConfigError, match=r"a\.yaml -> b\.yaml -> a\.yaml"):
        load_arguments("pretrain", [tmp_path / "a.yaml"])


def test_quantised_recipe_and_other_fleetx_habits(load):
    arguments = load(
        "a.yaml",
        "Global: {global_batch_size: 8, local_batch_size: 8, micro_batch_size: 1}\n"
        "Engine:\n  mix_precision: {use_pure_fp16: True, scale_loss: 1024}\n  eval_freq: -1\n"
        "  save_load: {save_steps: -1, save_epoch: 1}\n"
        "Optimizer:\n  name: AdamW\n  epsilon: 1e-6\n"
        "  lr: {name: LinearDecayWithWarmup, warmup: 0.1, learning_rate: 3e-5}\n"
        "Distributed: {dp_degree: , mp_degree: 8, pp_degree: 1}\n"
        "Compress:\n  pretrained:\n  Quantization: {enable: True, weight_quantize_type: abs_max, weight_bits: 8}\n"
        "Profiler: {enable: True}\n",
    )
    training = arguments.training
    assert (training.fp16, training.fp16_opt_level, training.scale_loss) == (True, "O2", 1024.0)
    assert (training.evaluation_strategy, training.save_strategy, training.eval_steps) == ("no", "epoch", None)
    assert (training.lr_scheduler_type, training.warmup_ratio, training.learning_rate) == ("linear", 0.1, 3e-5)
    assert training.adam_epsilon == 1e-6 and training.gradient_accumulation_steps == 8
    assert arguments.parallel.tp == 8 and arguments.finetune.do_qat is True
    assert arguments.finetune.weight_quantize_type == "abs_max" and arguments.finetune.weight_bits == 8
    assert "Quantization" not in arguments.warnings[0]
    assert "Profiler.enable" in arguments.warnings[0]


def test_quantised_recipe_of_the_first_fleetx_release(load):
    """It has a section of its own and two keys more, which change nothing here and are named."""
    text = (
        "Model: {name: GPT, hidden_size: 64, recompute_layers: }\n"
        "Quantization:\n  enable: True\n  weight_quantize_type: abs_max\n"
        "  activation_quantize_type: moving_average_abs_max\n  weight_bits: 8\n  activation_bits: 8\n"
        "  quantizable_layer_type: [Linear, ColumnParallelLinear]\n  for_tensorrt: {}\n  is_full_quantize: False\n"
        "  onnx_format: False\n"
    )
    arguments = load("a.yaml", text.replace("{}", "False"))
    assert arguments.finetune.do_qat is True and arguments.overrides["hidden_size"] == 64
    assert "recompute_layers" not in arguments.overrides
    assert "for_tensorrt" not in "".join(arguments.warnings)
    assert "Quantization.for_tensorrt" in load("b.yaml", text.replace("{}", "maybe")).warnings[0]
