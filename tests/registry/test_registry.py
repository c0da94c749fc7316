"""The registry with plugins handed to it: finding models, routing hooks, keeping broken plugins out."""

from __future__ import annotations

import json

import pytest

from zoo_core.capabilities import Capabilities, ModelEntry
from zoo_core.config import ModelConfig
from zoo_core.errors import ConfigError, PluginError, UnknownModelError
from zoo_core.hookspecs import CONTRACT_VERSION, hookimpl
from zoo_core.known import KNOWN
from zoo_core.registry import Registry


def with_plugins(fake_family, **plugins):
    return Registry({"fake": fake_family.plugin(), **plugins})


@pytest.mark.parametrize("name", ["zoo/fake-1b", "ZOO/Fake-1B", "fake-1b", "FAKE-1b"])
def test_a_model_is_found_in_any_case_and_by_its_short_name(fake_family, name):
    found = with_plugins(fake_family).find(name)
    assert found.name == "zoo/fake-1b" and found.architecture.family == "fake"
    assert found.config is found.entry.config and found.path is None


def test_a_short_name_of_two_models_is_refused(fake_family):
    other = fake_family.plugin("other", models=("else/fake-1b",))
    with pytest.raises(UnknownModelError, match="more than one") as caught:
        with_plugins(fake_family, other=other).find("fake-1b")
    assert "zoo/fake-1b" in caught.value.why and "else/fake-1b" in caught.value.why


def test_a_family_name_lists_its_models(fake_family):
    with pytest.raises(UnknownModelError, match="is a family") as caught:
        with_plugins(fake_family).find("fake")
    assert "zoo/fake-1b" in caught.value.why and "zoo/fake-2b" in caught.value.why


def test_an_unknown_model_suggests_the_nearest(fake_family):
    with pytest.raises(UnknownModelError) as caught:
        with_plugins(fake_family).find("zoo/fake-3b")
    assert "zoo/fake-" in caught.value.todo


@pytest.mark.parametrize(
    ("model", "package"),
    [(name, family.distribution) for family in KNOWN for name in family.models]
    + [("llama", "zoo-llama"), ("deepseek_v3", "zoo-deepseek-v3"), ("qwen/qwen-1.8b", "zoo-qwen")],
)
def test_a_model_of_a_package_that_is_missing_names_it(fake_family, model, package):
    with pytest.raises(UnknownModelError) as caught:
        with_plugins(fake_family).find(model)
    assert caught.value.todo == f"pip install {package}"


def test_a_misspelt_model_of_a_missing_package_names_both(fake_family):
    with pytest.raises(UnknownModelError) as caught:
        with_plugins(fake_family).find("facebook/lama-7b")
    assert "facebook/llama-7b" in caught.value.todo and "pip install zoo-llama" in caught.value.todo


def test_without_plugins_one_is_told_what_to_install():
    with pytest.raises(UnknownModelError) as caught:
        Registry({}).find("something")
    assert "pip install" in caught.value.todo


def test_a_folder_is_read_by_its_model_type(fake_family, tmp_path):
    config = {**fake_family.config(num_hidden_layers=3).to_hf(), "model_type": "fake"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    found = with_plugins(fake_family).find(str(tmp_path))
    assert found.entry is None and found.path == tmp_path and found.config.num_hidden_layers == 3


@pytest.mark.parametrize(
    ("content", "error", "text"),
    [
        ("{", ConfigError, "cannot read"),
        ("{}", ConfigError, "no model_type"),
        ('{"model_type": "fake"}', ConfigError, "not a usable fake"),
        ('{"model_type": "fakes"}', UnknownModelError, "did you mean 'fake'"),
        ('{"model_type": "llama"}', UnknownModelError, "pip install zoo-llama"),
    ],
)
def test_a_folder_that_cannot_be_used_says_why(fake_family, tmp_path, content, error, text):
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(error) as caught:
        with_plugins(fake_family).find(str(tmp_path))
    assert text in str(caught.value)


def test_a_folder_without_config_says_so(fake_family, tmp_path):
    with pytest.raises(UnknownModelError, match="no config.json"):
        with_plugins(fake_family).find(str(tmp_path))


def test_each_hook_is_answered_by_the_owner_alone(fake_family):
    other = fake_family.plugin("other", models=("zoo/other",))
    found = with_plugins(fake_family, other=other)
    for family in ("fake", "other"):
        architecture = found.family(family)
        assert architecture.build_model(fake_family.config())[0] == family
        assert architecture.tokenizer(fake_family.config(), None) == (family, None)
    table = found.family("fake").table(fake_family.config())
    assert "fake.layers.7.attn.q.weight" in table
    assert found.family("fake").pipe_layers(fake_family.config())[0].prefix == "fake.embed"


def test_a_plugin_with_a_family_may_wrap_a_hook_of_another(fake_family):
    @hookimpl(wrapper=True, specname="build_model")
    def wrapping(config):
        return ("wrapped", (yield))

    found = with_plugins(fake_family, other=fake_family.plugin("other", models=("zoo/other",), wrapping=wrapping))
    assert found.broken == ()
    assert found.family("fake").build_model(fake_family.config())[0] == "wrapped"


def test_a_plugin_may_only_wrap(fake_family):
    from types import ModuleType

    @hookimpl(wrapper=True)
    def tokenizer(config, path):
        return ("wrapped", (yield))

    extension = ModuleType("extension")
    extension.tokenizer = tokenizer
    found = with_plugins(fake_family, extension=extension)
    assert found.broken == () and len(found.architectures) == 1
    assert found.family("fake").tokenizer(fake_family.config(), None)[0] == "wrapped"


def test_a_hook_that_returns_nothing_names_the_plugin(fake_family):
    @hookimpl
    def build_model(config):
        return None

    found = with_plugins(fake_family, other=fake_family.plugin("other", models=(), build_model=build_model))
    with pytest.raises(PluginError, match="other returned nothing from build_model"):
        found.family("other").build_model(fake_family.config())


@hookimpl
def bild_model(config):
    return None


@hookimpl(specname="build_model")
def build_model_of_model(model):
    return model


@hookimpl(specname="build_model")
def build_model_of_anything(**anything):
    return anything


@hookimpl
def raising():
    raise RuntimeError("no sizes file")


@hookimpl
def not_capabilities():
    return {"family": "bad"}


def unmarked(config):
    return None


@pytest.mark.parametrize(
    ("attributes", "reason"),
    [
        ({"bild_model": bild_model}, "'bild_model' is not a hook; did you mean 'build_model'"),
        ({"build_model": build_model_of_model}, "build_model() takes 'model'; it must be build_model(config)"),
        ({"build_model": build_model_of_anything}, "takes *anything"),
        ({"capabilities": raising}, "capabilities() raised RuntimeError: no sizes file"),
        ({"capabilities": not_capabilities}, "capabilities() returned dict, not Capabilities"),
        ({"tokenizer": None}, "lacks the hook tokenizer"),
        ({"pipe_layers": unmarked}, "pipe_layers() is not marked with @hookimpl"),
        ({"contract_version": CONTRACT_VERSION + 1}, "contract version 2; this zoo-core speaks version 1"),
        ({"contract_version": "1"}, "contract_version is '1'; versions are 1 to 1"),
        ({"models": ("zoo/a", "ZOO/A")}, "lists the model 'ZOO/A' twice"),
    ],
)
def test_a_broken_plugin_is_reported_and_the_others_work(fake_family, attributes, reason):
    if "capabilities" in attributes:
        attributes = {"capabilities": hookimpl(specname="capabilities")(attributes["capabilities"])}
    options = {"models": ("zoo/bad",), **attributes}
    found = with_plugins(fake_family, bad=fake_family.plugin("bad", **options))
    (broken,) = found.broken
    assert broken.name == "bad" and reason in broken.reason and broken.todo
    assert found.find("fake-1b").architecture.family == "fake"
    assert [a.family for a in found.architectures] == ["fake"]


def test_a_scale_with_an_unknown_field_is_broken(fake_family):
    @hookimpl
    def capabilities():
        entry = ModelEntry("zoo/bad", fake_family.config())
        return Capabilities("bad", fake_family.FakeConfig, ("bad",), (entry,), scales={"tiny": {"hiden_size": 8}})

    found = with_plugins(fake_family, bad=fake_family.plugin("bad", capabilities=capabilities))
    assert "scales['tiny'] sets 'hiden_size'" in found.broken[0].reason


@pytest.mark.parametrize(
    ("first", "second", "claim"),
    [
        (
            {"family": "twin", "models": ("a/x",)},
            {"family": "Twin", "models": ("b/y",), "model_types": ()},
            "family 'twin'",
        ),
        ({"family": "p", "models": ("a/same",)}, {"family": "q", "models": ("A/Same",)}, "model 'a/same'"),
        (
            {"family": "p", "models": ("a/x",), "model_types": ("kind",)},
            {"family": "q", "models": ("b/y",), "model_types": ("kind",)},
            "model_type 'kind'",
        ),
    ],
)
def test_two_plugins_with_one_claim_are_both_named(fake_family, first, second, claim):
    found = with_plugins(fake_family, one=fake_family.plugin(**first), two=fake_family.plugin(**second))
    assert {broken.name for broken in found.broken} == {"one", "two"}
    for broken in found.broken:
        assert "one" in broken.reason and "two" in broken.reason and claim in broken.reason
    assert [a.family for a in found.architectures] == ["fake"]
    with pytest.raises(PluginError, match="broken") as caught:
        found.find(first["models"][0])
    assert "one" in str(caught.value) and "two" in str(caught.value)


def test_a_wrapper_that_breaks_capabilities_is_blamed_itself(fake_family):
    from types import ModuleType

    @hookimpl(wrapper=True)
    def capabilities():
        yield
        raise RuntimeError("wrapping went wrong")

    extension = ModuleType("extension")
    extension.capabilities = capabilities
    found = with_plugins(fake_family, extension=extension)
    assert [broken.name for broken in found.broken] == ["extension"]
    assert "wrapping went wrong" in found.broken[0].reason
    assert found.find("fake-1b").architecture.family == "fake"


@pytest.mark.parametrize("value", ["abc", None, 0, -1, 1.5, True], ids=str)
@pytest.mark.parametrize("size", ["vocab_size", "num_attention_heads", "num_hidden_layers"])
def test_a_size_that_is_no_positive_whole_number_is_named(size, value):
    sizes = dict.fromkeys(["vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads"], 4)
    with pytest.raises(ConfigError, match=size):
        ModelConfig(**{**sizes, "intermediate_size": 8, size: value})
