"""The conformance kit's checks of a plugin's contract fail where they should."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from zoo_core.errors import TokenizerError
from zoo_core.testing import contract


def family(tokenizer=None):
    models = tuple(SimpleNamespace(name=name, config=name) for name in ("deepseek-ai/DeepSeek-V3", "zoo/m"))
    capabilities = SimpleNamespace(models=models)
    return SimpleNamespace(family="deepseek_v3", capabilities=capabilities, tokenizer=tokenizer)


def test_a_promised_model_without_an_entry_is_told():
    contract.check_promised(family(), "zoo/m")
    with pytest.raises(AssertionError, match="no entry for .*zoo/other"):
        contract.check_promised(family(), "zoo/m", "zoo/other")
    llama = SimpleNamespace(**{**vars(family()), "family": "llama"})
    with pytest.raises(AssertionError, match="facebook/llama-7b"):
        contract.check_promised(llama)


def test_an_error_about_a_tokenizer_names_the_file_and_the_folder(tmp_path):
    def missing(config, folder):
        raise TokenizerError("no tokenizer", f"in {folder}" if folder else "no folder", "give one with vocab.json")

    contract.check_missing_tokenizer(family(missing), tmp_path, "vocab.json")
    with pytest.raises(AssertionError, match="does not name merges.txt"):
        contract.check_missing_tokenizer(family(missing), tmp_path, "merges.txt")
    with pytest.raises(AssertionError, match="deepseek-ai/DeepSeek-V3 has a tokenizer from None"):
        contract.check_missing_tokenizer(family(lambda config, folder: object()), tmp_path, "vocab.json")
