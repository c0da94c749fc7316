"""Weights that other frameworks wrote: PyTorch's pickles, Paddle's, and what its distributed runs leave behind.

Nothing in such a file is run: `pickled` walks through it and builds tensors, containers, strings and numbers only.
"""

from __future__ import annotations

from zoo_core.checkpoint.foreign.dist_ckpt import distributed_folder, is_distributed
from zoo_core.checkpoint.foreign.folder import Foreign, foreign_weights, has_foreign
from zoo_core.checkpoint.foreign.names import Form, as_single, form_of, is_head, presented

__all__ = [
    "Foreign",
    "Form",
    "as_single",
    "distributed_folder",
    "foreign_weights",
    "form_of",
    "has_foreign",
    "is_distributed",
    "is_head",
    "presented",
]
