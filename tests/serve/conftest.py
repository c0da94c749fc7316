"""Fakes for the server's tests, which are loaded by path: tests are not a package."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(scope="session")
def small(tmp_path_factory):
    from serve_models import make_model

    return make_model(tmp_path_factory.mktemp("small"))


@pytest.fixture(scope="session")
def adapter(small, tmp_path_factory):
    from serve_models import make_adapter

    return make_adapter(tmp_path_factory.mktemp("adapter") / "poems", small)


@pytest.fixture(scope="session")
def served(small, adapter):
    from serve_models import Serving

    server = Serving(
        small, "--model_name", "small", "--adapter", f"poems={adapter}", "--api_key", "sesame",
        "--max_batch", "4", "--max_queue", "8", "--prefill_chunk", "32",
    )  # fmt: skip
    yield server
    server.close()
    assert server.process.returncode == 0, server.errors


@pytest.fixture(scope="session")
def offline(small, adapter):
    """The same model in this process."""
    from zoo_core.generate import load_model

    return load_model(small, adapters={"poems": adapter})
