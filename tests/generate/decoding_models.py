"""Small engines of every family, and rows decoded one by one."""

from __future__ import annotations

import numpy as np

from zoo_core import find
from zoo_core.engine.build import from_seed
from zoo_core.engine.engine import Engine
from zoo_core.engine.mesh import make_mesh
from zoo_core.generate import Chooser, Sampling
from zoo_core.plan import Request, compose
from zoo_core.testing.models import random_weights
from zoo_ops import Cache

GREEDY, DRAWN = Sampling(temperature=0.0), Sampling(temperature=1.5, top_k=20, top_p=0.95)
FAMILIES = {
    "llama": "facebook/llama-7b", "chatglm": "THUDM/chatglm-6b", "chatglm2": "THUDM/chatglm2-6b",
    "bloom": "bigscience/bloom-560m", "qwen": "qwen/qwen-7b", "opt": "facebook/opt-125m", "gpt3": "gpt3-345M",
    "glm": "THUDM/glm-10b", "baichuan": "baichuan-inc/Baichuan2-13B-Base", "deepseek_v3": "deepseek-ai/DeepSeek-V3",
}  # fmt: skip


def make_engine(name, **more):
    """Two layers of random weights that let the model say many things."""
    found = find(name)
    config = found.config.replace(**{**found.architecture.capabilities.scales["tiny"], "num_hidden_layers": 2})
    mesh = make_mesh(compose(Request(task="logits", device="cpu"), found.architecture, config, name))
    engine = Engine(mesh, found.architecture, config, from_seed(5, config, 1, 0), **more)
    weights = random_weights(found.architecture.table(config))
    for single, held in engine.held.items():
        if single in weights:
            held.tensor.set_value(weights[single])
    return engine


def prompts(engine, lengths=(9, 3, 6)):
    """Random ids; what ends a prompt of the families with blanks stands at the end of each."""
    config, random = engine.config, np.random.default_rng(1)
    found = [random.integers(10, 200, length).tolist() for length in lengths]
    mask = getattr(config, "gmask_token_id", None) or (getattr(config, "mask_token_ids", None) or (None,))[-1]
    start = getattr(config, "start_token_id", None) or config.bos_token_id
    behind = [] if mask is None else [mask, start]
    return [[*ids, *behind] for ids in found]


def alone(engine, row, rules):
    """The text of one row by the loop of one prompt, without mask or filling."""
    cache = Cache(engine.config.num_hidden_layers, 1, len(row.ids) + row.max_new_tokens)

    def following(ids):
        positions = np.arange(cache.length, cache.length + len(ids))[None]
        return engine.logits({"input_ids": np.asarray([ids]), "position_ids": positions}, cache)[0, -1].numpy()

    chooser, ids, found = Chooser(row, rules), row.ids, []
    while True:
        step = chooser.next(following(ids))
        found += [] if step.token is None else [step.token]
        if step.finish:
            return found
        ids = [step.token]
