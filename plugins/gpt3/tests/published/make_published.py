"""Write what Hugging Face transformers declares for each named model: tensor names and shapes, without allocation.

Python 3.11, torch==2.13.0 (CPU), transformers==5.23.0. Run it as `python make_published.py PYTHON-WITH-ZOO`; it writes
`published.json` beside itself, the same bytes every time: model -> number of layers and {name with `*` for the layer:
shape}. The sizes are those of the `config.json` that the plugin writes for the model, which transformers reads here.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
# The plugin runs in the project's environment, transformers in its own.
_CONFIGS = (
    "import json, zoo_gpt3; print(json.dumps({m.name: m.config.to_hf() for m in zoo_gpt3.capabilities().models}))"
)


def declared(hf: dict[str, Any]) -> dict[str, Any]:
    """Return the layers and the shapes of a model that is never allocated."""
    import torch
    import transformers

    values = {key: value for key, value in hf.items() if key not in ("model_type", "torch_dtype", "architectures")}
    with torch.device("meta"):
        model = transformers.GPT2LMHeadModel(transformers.GPT2Config(**values))
    shapes: dict[str, list[int]] = {}
    for name, parameter in model.named_parameters():
        pattern = re.sub(r"\.\d+\.", ".*.", name)
        if shapes.setdefault(pattern, list(parameter.shape)) != list(parameter.shape):
            raise SystemExit(f"{pattern} has more than one shape")
    return {"layers": model.config.n_layer, "shapes": shapes}


if __name__ == "__main__":
    if len(sys.argv) != 2:
        raise SystemExit("usage: make_published.py PYTHON-WITH-ZOO")
    listed = subprocess.run([sys.argv[1], "-c", _CONFIGS], capture_output=True, text=True, check=True).stdout
    found = {name: declared(hf) for name, hf in json.loads(listed).items()}
    lines = ",\n".join(f" {json.dumps(name)}: {json.dumps(facts)}" for name, facts in found.items())
    (HERE / "published.json").write_text("{\n" + lines + "\n}\n")
