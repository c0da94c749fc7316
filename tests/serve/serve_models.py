"""A small model with random weights, a tokenizer that knows conversations, an adapter, and `zoo serve` over them."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import threading

import numpy as np
from safetensors.numpy import save_file

TEXT = "In the beginning God created the heaven and the earth.\n床前明月光,疑是地上霜。\n"
TEMPLATE = (
    "{% for message in messages %}<{{ message.role }}>{{ message.content }}\n{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)


def make_model(folder, positions=256):
    """Return the folder of a model whose answers are as mixed as its weights are."""
    from zoo_core import find
    from zoo_core.checkpoint import save_hf, whole_tensors
    from zoo_core.testing.models import random_weights
    from zoo_core.tokenizers import train_bpe

    (folder / "text.txt").write_text(TEXT, encoding="utf-8")
    bpe = train_bpe([folder / "text.txt"], 280, folder)
    settings = json.loads((folder / "tokenizer_config.json").read_text(encoding="utf-8"))
    (folder / "tokenizer_config.json").write_text(json.dumps({**settings, "chat_template": TEMPLATE}), encoding="utf-8")
    found = find("facebook/llama-7b")
    scale = found.architecture.capabilities.scales["tiny"]
    config = found.config.replace(**{**scale, "max_position_embeddings": positions})
    table = found.architecture.table(config)
    files = {file.name: file for file in bpe.files}
    tensors = whole_tensors(table, random_weights(table), "float32")
    return save_hf(folder / "weights", tensors, table=table, config=config, dtype="float32", files=files)


def make_adapter(folder, model):
    """Return the folder of an adapter, as PEFT writes it."""
    config = json.loads((model / "config.json").read_text(encoding="utf-8"))
    random, width, tensors = np.random.default_rng(1), config["hidden_size"], {}
    for layer in range(config["num_hidden_layers"]):
        for module in ("q_proj", "o_proj"):
            name = f"base_model.model.model.layers.{layer}.self_attn.{module}"
            tensors[f"{name}.lora_A.weight"] = random.standard_normal((2, width), np.float32)
            tensors[f"{name}.lora_B.weight"] = random.standard_normal((width, 2), np.float32)
    folder.mkdir(exist_ok=True)
    save_file(tensors, folder / "adapter_model.safetensors")
    about = {"peft_type": "LORA", "r": 2, "lora_alpha": 2, "target_modules": ["q_proj", "o_proj"], "bias": "none",
             "base_model_name_or_path": str(model), "task_type": "CAUSAL_LM"}  # fmt: skip
    (folder / "adapter_config.json").write_text(json.dumps(about), encoding="utf-8")
    return folder


class Serving:
    """A server in a process of its own, on a free port: `zoo serve` with `words`, or another `command`."""

    def __init__(self, *words, command=()):
        ports = ["--port", "0", "--web_port", "0"]
        command = command or [sys.executable, "-m", "zoo_core", "serve", *map(str, words), *ports]
        environ = {**os.environ, "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1")}
        environ.pop("ZOO_API_KEY", None)
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environ)
        self.said, self.errors = [], []
        for line in self.process.stdout:
            self.said.append(line)
            if line.startswith("serving "):
                break
        else:
            raise RuntimeError(self.process.stderr.read())
        self.url = re.search(r"at (http://\S+)/v1", self.said[-1]).group(1)
        self._readers = [
            threading.Thread(target=lambda: self.said.extend(self.process.stdout), daemon=True),
            threading.Thread(target=lambda: self.errors.extend(self.process.stderr), daemon=True),
        ]
        for reader in self._readers:
            reader.start()

    @property
    def resident(self):
        """Bytes of memory of the process."""
        with open(f"/proc/{self.process.pid}/statm", encoding="ascii") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")

    def signal(self, number):
        self.process.send_signal(number)

    def wait(self, seconds=60):
        status = self.process.wait(seconds)
        for reader in self._readers:
            reader.join(10)
        return status

    def close(self):
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.wait(30)
            except subprocess.TimeoutExpired:
                self.process.kill()
