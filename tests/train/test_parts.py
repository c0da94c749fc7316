"""The small parts of a run: the line, the table, the labels, the vocabulary, the words to resume with."""

from __future__ import annotations

import re

import numpy as np
import pytest

from zoo_core._counting import many
from zoo_core.arguments import load_arguments
from zoo_core.errors import ConfigError
from zoo_core.registry import find
from zoo_core.train.labels import as_trained
from zoo_core.train.log import Speed, StepLine, span_text
from zoo_core.train.loop import resume_command
from zoo_core.train.record import LossTable, event_kinds
from zoo_core.train.usage import Usage, flops_per_token, peak_flops

LINE = re.compile(
    r"global step \d+, epoch: \d+, batch: \d+, loss: \d+\.\d{9}, avg_reader_cost: \d+\.\d{5} sec, "
    r"avg_batch_cost: \d+\.\d{5} sec, speed: \d+\.\d{2} step/s, ips_total: \d+ tokens/s, ips: \d+ tokens/s, "
    r"learning rate: \d\.\d{5}e[+-]\d{2}"
)


def test_documented_line():
    speed = Speed(0.23392, 2.05344, 8192, 8)
    line = str(StepLine(1, 0, 0, 11.083364487, speed, 5e-5 / 9000))
    assert line == (
        "global step 1, epoch: 0, batch: 0, loss: 11.083364487, avg_reader_cost: 0.23392 sec, "
        "avg_batch_cost: 2.05344 sec, speed: 0.49 step/s, ips_total: 3989 tokens/s, ips: 499 tokens/s, "
        "learning rate: 5.55556e-09"
    )
    assert LINE.fullmatch(line)


def test_labels_as_they_follow_or_shifted_within_the_row():
    batch = {"input_ids": np.array([[5, 6, 7], [1, 2, 3]]), "labels": np.array([[6, 7, 8], [-100, -100, -100]])}
    assert as_trained(batch, False) is batch
    assert as_trained(batch, True)["labels"].tolist() == [[6, 7, -100], [-100, -100, -100]]


def test_table_keeps_the_rows_up_to_the_checkpoint(tmp_path):
    table = LossTable(tmp_path / "loss.csv")
    for step in range(1, 6):
        table.add(step, loss=1 / step, learning_rate=0.1)
    table.add(4, eval_loss=0.3)
    table.write()
    again = LossTable(tmp_path / "loss.csv")
    again.open(resumed_at=4)
    assert again.column("loss") == ([1, 2, 3, 4], [1.0, 0.5, 1 / 3, 0.25])
    assert again.column("eval_loss") == ([4], [0.3])
    fresh = LossTable(tmp_path / "loss.csv")
    fresh.open(resumed_at=0)
    assert fresh.rows == {}


def test_resume_command_replaces_what_resumes():
    words = "run pretrain --model a --resume x/checkpoint-1 --max_steps 10 --overwrite_output_dir --output_dir".split()
    words.append("my runs")
    assert resume_command(words) == "zoo run pretrain --model a --max_steps 10 --output_dir 'my runs' --resume"
    assert resume_command(words, max_steps=20).endswith("--output_dir 'my runs' --max_steps 20 --resume")
    other = "zoo run pretrain --max_steps 10 --output_dir 'my runs' --model_name_or_path a/checkpoint-1 --resume"
    assert resume_command(words, model_name_or_path="a/checkpoint-1") == other
    assert resume_command([word.replace("--model", "--model_name_or_path") for word in words]).count(" a ") == 1


def test_numbers_of_things():
    assert [many(1, "step"), many(2, "step"), many(1024, "pair of answers")] == [
        "1 step", "2 steps", "1,024 pairs of answers"
    ]  # fmt: skip
    assert [many(1, "process"), many(4, "process"), many(0, "row")] == ["1 process", "4 processes", "0 rows"]


def test_event_files(monkeypatch):
    def kinds(*flags):
        return event_kinds(load_arguments("pretrain", (), ["--model", "qwen/qwen-7b", *flags]))

    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert kinds() == {"tensorboard"}
    assert kinds("--report_to", "none") == frozenset()
    with pytest.raises(ConfigError, match="VisualDL, which is not installed"):
        kinds("--report_to", "visualdl")
    with pytest.raises(ConfigError, match="'wandb' is not known"):
        kinds("--report_to", "wandb")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    assert kinds() == {"visualdl"}


def test_flops_of_a_token():
    found = find("qwen/qwen-7b")
    sequence = 4096
    config, table = found.config, found.architecture.table(found.config)
    block = 4 * 4096 * 4096 + 3 * 4096 * 11008
    expected = 6 * (32 * block + 151936 * 4096) + 12 * 32 * 4096 * sequence
    assert flops_per_token(config, table, sequence) == pytest.approx(expected)


def test_peaks_and_the_second_line():
    assert peak_flops("NVIDIA A100-SXM4-80GB") == peak_flops("NVIDIA A800-SXM4-80GB") == 312e12
    assert (peak_flops("NVIDIA H100 PCIe"), peak_flops("NVIDIA H100 80GB HBM3")) == (756e12, 989e12)
    assert peak_flops("Some Other Device") is None
    first = Usage(100 << 20)
    assert first.says_more_than(None) and not Usage(105 << 20).says_more_than(first)
    assert Usage(120 << 20).says_more_than(first)
    assert str(Usage(52092 << 20, 0.5)) == "max_memory_allocated: 52092 MB, mfu: 50.0%"


def test_spans():
    assert [span_text(s) for s in (3.25, 250, 11100)] == ["3.2 s", "4 min 10 s", "3 h 5 min"]
