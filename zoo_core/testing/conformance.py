"""The conformance kit as a test class: a plugin's `tests/test_conformance.py` subclasses it and names its family.

    from zoo_core.testing import ArchConformance

    class TestConformance(ArchConformance):
        family = "mynah"

T0 needs no paddle, T1 is one process, T2 runs `zoo run pretrain` in up to four. Each test has its tier as a marker:
`pytest -m "not t2"` leaves out the runs of several processes. With `pytest --zoo-record` those that pass write the
plugin's evidence.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, TypeVar

import pytest

from zoo_core.config import ModelConfig
from zoo_core.errors import PluginError, TokenizerError, ZooError
from zoo_core.layout import objection
from zoo_core.registry import Architecture, registry
from zoo_core.testing import contract, runs, tables

if TYPE_CHECKING:
    from zoo_core.testing.plugin import ClaimCells

__all__ = ["ArchConformance"]

Test = TypeVar("Test", bound=Callable[..., None])

_ALONE = (runs.SINGLE.name, runs.LORA.name)
"""Layouts that others are compared with."""


def _tier(tier: Literal["t0", "t1", "t2"], cell: str = "contract") -> Callable[[Test], Test]:
    """Mark a test, and let it fail with a message instead of a traceback: the fault is in the plugin, not in the kit.

    Args:
        cell: what stands in front of the message: a cell of the capability matrix, or the part of the contract.
    """

    def decorate(test: Test) -> Test:
        @wraps(test)
        def told(self: Any, *given: Any, **named: Any) -> None:
            try:
                test(self, *given, **named)
            except (AssertionError, ZooError) as error:
                # pytest adds to an assertion's message what it compared, which is tensors here.
                said = str(error).partition("\nassert ")[0]
            else:
                return
            pytest.fail(f"{self.family} / {cell}: {said}", pytrace=False)

        return getattr(pytest.mark, tier)(told)  # type: ignore[no-any-return]

    return decorate


class ArchConformance:
    """What every plugin must keep to.

    Args (class attributes):
        family: of the plugin, which must be installed.
        golden: a folder of golden cases (`zoo_core.testing.golden`), if the family has them.
        layouts: names of `zoo_core.testing.runs.LAYOUTS` that T2 runs.
        trained: the named model that T2 trains at scale tiny; empty is the first.
    """

    family: ClassVar[str] = ""
    golden: ClassVar[Path | None] = None
    layouts: ClassVar[tuple[str, ...]] = tuple(runs.LAYOUTS)
    trained: ClassVar[str] = ""

    @property
    def arch(self) -> Architecture:
        """The family as the registry has it."""
        return registry().family(self.family)

    def config_of(self, model: str) -> ModelConfig:
        """The published configuration of a named model."""
        return next(entry.config for entry in self.arch.capabilities.models if entry.name == model)

    def tiny_of(self, model: str) -> ModelConfig:
        """The configuration of a named model at scale tiny."""
        return self.config_of(model).replace(**self.arch.capabilities.scales["tiny"])

    def pytest_generate_tests(self, metafunc: pytest.Metafunc) -> None:
        """Give the tests the family's models: all of them, those that differ at scale tiny, the golden cases.

        Raises:
            Failed: the family is not installed or its plugin is broken, with the reason.
        """
        names = set(metafunc.fixturenames) & {"model", "tiny", "layout", "case"}
        if not names:
            return
        try:
            capabilities = _usable(self.family).capabilities
        except ZooError as error:
            pytest.fail(str(error), pytrace=False)
        values: dict[str, list[Any]] = {
            "model": [entry.name for entry in capabilities.models],
            "layout": [name for name in runs.LAYOUTS if name in self.layouts and name not in _ALONE],
            "case": sorted(f.parent for f in self.golden.glob("*/golden.safetensors")) if self.golden else [None],
        }
        if "tiny" in names:
            distinct = {self.tiny_of(entry.name): entry.name for entry in reversed(capabilities.models)}
            values["tiny"] = sorted(distinct.values(), key=values["model"].index)
        for name in names:
            metafunc.parametrize(name, values[name], ids=[getattr(v, "name", v or "") for v in values[name]])

    @_tier("t0")
    def test_imports_without_paddle(self) -> None:
        contract.check_paddle_free(_package(self.arch))

    @_tier("t0", "config.json")
    def test_configuration_survives_a_config_json(self, model: str) -> None:
        for config in (self.config_of(model), self.tiny_of(model)):
            contract.check_config(config)

    @_tier("t0", "parameter table")
    def test_table_is_sound(self, model: str) -> None:
        for config in (self.config_of(model), self.tiny_of(model)):
            tables.check_table(self.arch, config)

    @_tier("t0", "parameter table")
    def test_splitting_and_joining_lose_no_bit(self, tiny: str) -> None:
        tables.check_splits(self.arch, self.tiny_of(tiny))

    @_tier("t0", "pipeline list")
    def test_pipeline_list_covers_the_table(self, model: str) -> None:
        for config in (self.config_of(model), self.tiny_of(model)):
            tables.check_pipe_prefixes(self.arch, config)

    @_tier("t0", "tokenizer")
    def test_a_missing_tokenizer_is_named(self, model: str, tmp_path: Path) -> None:
        for folder in (None, tmp_path):
            try:
                self.arch.tokenizer(self.config_of(model), folder)
            except TokenizerError as error:
                assert folder is None or str(folder) in str(error), f"{error.what!r} does not name the folder"
            else:
                raise AssertionError(f"tokenizer(config, {folder}) must raise TokenizerError: there are no files")

    @_tier("t1", "parameter table")
    def test_table_matches_the_model(self, tiny: str) -> None:
        tables.check_model_matches(self.arch, self.tiny_of(tiny))

    @_tier("t1", "pipeline list")
    def test_pipeline_list_is_the_model(self, tiny: str) -> None:
        from zoo_core.testing import models, pipeline

        self._need_table(tiny)
        config = self.tiny_of(tiny)
        pipeline.check_pipeline(self.arch, config, labels=models.random_ids(config, 2, 12, seed=1))

    @_tier("t1", "tensor_parallel")
    @pytest.mark.parametrize("sequence_parallel", [False, True], ids=["", "sequence parallel"])
    def test_ranks_give_the_single_cards_logits(self, tiny: str, sequence_parallel: bool) -> None:
        from zoo_core.testing import ranks

        self._need_table(tiny)
        self._skip_unsupported("tensor_parallel", *(["sequence_parallel"] if sequence_parallel else []), model=tiny)
        ranks.check_ranks(self.arch, self.tiny_of(tiny), 2, sequence_parallel)

    @_tier("t1", "generation")
    @pytest.mark.parametrize("padding", [0, 3], ids=["full", "left-padded"])
    def test_cached_decoding_is_the_uncached_pass(self, tiny: str, padding: int, zoo_evidence: ClaimCells) -> None:
        from zoo_core.testing import caches

        self._need_table(tiny)
        self._skip_unsupported("generation", model=tiny)
        zoo_evidence(self.family, "generation", tier="T1", model=tiny)
        caches.check_cache(self.arch, self.tiny_of(tiny), padding)

    @_tier("t1", "conversion")
    def test_hugging_face_folder_round_trips(self, tiny: str, tmp_path: Path) -> None:
        from zoo_core.testing import folders

        self._need_table(tiny)
        folders.check_random_round_trip(self.arch, self.tiny_of(tiny), tmp_path)

    @_tier("t1", "golden case")
    def test_equals_another_implementation(self, case: Path | None, tmp_path: Path) -> None:
        if case is None:
            pytest.skip("no golden cases: set golden to a folder of them (zoo_core.testing.golden says what they are)")
        from zoo_core.testing import folders, golden

        golden.check_golden(self.arch, case)
        folders.check_hf_round_trip(self.arch, case, tmp_path / "saved")

    @pytest.fixture(scope="class")
    def zoo_runs(self, tmp_path_factory: pytest.TempPathFactory) -> runs.Runs:
        """The runs of T2, each made when a test first asks for it."""
        model = type(self)._trained(self.arch)
        return runs.Runs(model, self.tiny_of(model).vocab_size, tmp_path_factory.mktemp(f"zoo-{self.family}"))

    @_tier("t2", "pretrain")
    def test_training_in_several_processes_equals_one(
        self, layout: str, zoo_runs: runs.Runs, zoo_evidence: ClaimCells
    ) -> None:
        spread, model = runs.LAYOUTS[layout], type(self)._trained(self.arch)
        self._need_table(model)
        refused = self._refused(*spread.cells, model=model)
        if refused:
            said = zoo_runs.refused(spread)
            assert refused in said, f"{layout} is refused without the reason that the plugin gives: {refused}\n{said}"
            return
        self._check_degrees(spread, model)
        zoo_evidence(self.family, *spread.cells, model=model)
        alone, found = zoo_runs.of(spread.alone), zoo_runs.of(spread)
        if spread.adapters:  # they start as nothing
            runs.check_losses(alone.losses[:1], zoo_runs.of(runs.SINGLE).losses[:1], "the first step of LoRA")
        runs.check_losses(found.losses, alone.losses, layout)
        table, last = self.arch.table(self.tiny_of(model)), runs.STEPS
        runs.check_weights(found.checkpoint(last), alone.checkpoint(last), table, layout, spread.adapters)

    @_tier("t2", "pretrain")
    def test_a_checkpoint_resumes_under_another_layout(self, zoo_runs: runs.Runs) -> None:
        self._need_table(type(self)._trained(self.arch))
        supported = [
            runs.LAYOUTS[name]
            for name in ("tp2xpp2", "tp2", "pp2")
            if name in self.layouts
            and not self._refused(*runs.LAYOUTS[name].cells, model=type(self)._trained(self.arch))
        ]
        if not supported:
            pytest.skip("no layout of several processes is run")
        alone, found = zoo_runs.of(runs.SINGLE), zoo_runs.resumed(supported[0])
        what = f"{supported[0].name} resumed in a single process"
        runs.check_losses(found.losses[-2:], alone.losses[-2:], what)
        table = self.arch.table(self.tiny_of(type(self)._trained(self.arch)))
        runs.check_weights(found.checkpoint(runs.STEPS), alone.checkpoint(runs.STEPS), table, what)

    @classmethod
    def _trained(cls, arch: Architecture) -> str:
        return cls.trained or arch.capabilities.models[0].name

    def _refused(self, *cells: str, model: str) -> str:
        """Why the family does not support one of the cells; empty when it supports all."""
        for cell in cells:
            support = self.arch.capabilities.support(cell, model)
            if support is not None and support.state != "declared":
                return support.why
        return ""

    def _need_table(self, model: str) -> None:
        """Skip what cannot be tested before the table, the list and the model have the same parameters."""
        if not _sound(self.family, self.tiny_of(model)):
            pytest.skip("the parameter table comes first: see the failures above")

    def _skip_unsupported(self, *cells: str, model: str) -> None:
        why = self._refused(*cells, model=model)
        if why:
            pytest.skip(why)

    def _check_degrees(self, layout: runs.Layout, model: str) -> None:
        """Scale tiny must let a supported layout be run."""
        if "--tp" in layout.degrees:
            for rule in self.arch.table(self.tiny_of(model)).values():
                why = objection(rule, 2)
                assert not why, (
                    f"{rule.name} does not split over 2 ranks at scale tiny: {why}; "
                    "choose other sizes for the scale, or declare tensor_parallel refused"
                )


@cache
def _sound(family: str, config: ModelConfig) -> bool:
    """Whether the table, the pipeline list and the model have the same parameters."""
    arch = registry().family(family)
    try:
        tables.check_table(arch, config)
        tables.check_pipe_prefixes(arch, config)
        tables.check_model_matches(arch, config)
    except (AssertionError, ZooError):
        return False
    return True


def _usable(family: str) -> Architecture:
    """The family, if it can be tested.

    Raises:
        PluginError: its plugin is broken, or has no models or no scale tiny to test with.
        UnknownModelError: no plugin has the family.
    """
    for plugin in registry().broken:
        if family in (plugin.name.partition(" ")[0], *plugin.claims):
            raise PluginError(f"plugin {plugin.name} is broken", plugin.reason, plugin.todo)
    found = registry().family(family)
    if not found.capabilities.models:
        raise PluginError(f"{family} has no models", "the kit tests the named models", "add a ModelEntry")
    if "tiny" not in found.capabilities.scales:
        raise PluginError(
            f"{family} has no scale tiny", "the kit tests at that scale", "add one to Capabilities.scales"
        )
    return found


def _package(arch: Architecture) -> str:
    assert arch.folder is not None, f"plugin {arch.name} is not a package"
    return arch.folder.name
