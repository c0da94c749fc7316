"""`pytest --zoo-record`: what passes is written, what fails is taken away, and without the option nothing is."""

from __future__ import annotations

import subprocess
import sys

import pytest

from zoo_core.matrix import sources
from zoo_core.matrix.evidence import read
from zoo_core.registry import Registry
from zoo_core.testing import recording

pytest_plugins = ["pytester"]


@pytest.fixture
def package(pytester, fake_family, monkeypatch):
    """The package folder of the one family that is installed."""
    folder = pytester.mkdir("zoo_fake")
    (folder / "modeling.py").write_text("SIZE = 1\n")
    installed = Registry({"fake": fake_family.plugin(__path__=[str(folder)])})
    monkeypatch.setattr(recording, "registry", lambda: installed)
    sources._digest.cache_clear()
    return folder


def run(pytester, body, *options):
    pytester.makepyfile(test_cells=body)
    return pytester.runpytest_inprocess("-p", "no:cacheprovider", *options)


PASSING = """
import pytest

@pytest.mark.parametrize("size", [1, 2])
def test_split(zoo_evidence, size):
    zoo_evidence("fake", "tensor_parallel", "pipeline_parallel", model="zoo/fake-1b")

def test_cache(zoo_evidence):
    zoo_evidence("fake", "generation", tier="T1")

def test_left_out(zoo_evidence):
    zoo_evidence("fake", "data_parallel")
    pytest.skip("no")
"""


def test_what_passes_is_recorded(pytester, package):
    result = run(pytester, PASSING, "--zoo-record")
    result.assert_outcomes(passed=3, skipped=1)
    result.stdout.fnmatch_lines(["zoo: fake: 3 cells recorded in evidence.json"])
    found = read(package)
    assert list(found) == ["generation", "tensor_parallel", "pipeline_parallel"]
    one = found["tensor_parallel"]
    assert (one.tier, one.test, one.tests, one.device) == ("T2", "test_cells.py::test_split[1]", 2, "cpu")
    assert one.models == ("zoo/fake-1b",) and one.versions.keys() == {"paddle", "zoo-core"} and len(one.date) == 10
    assert one.sources == sources.digests("tensor_parallel", package)
    assert found["generation"].tier == "T1"


def test_without_the_option_nothing_is_written(pytester, package):
    run(pytester, PASSING).assert_outcomes(passed=3, skipped=1)
    assert not (package / "evidence.json").exists()


def test_what_fails_loses_its_record(pytester, package):
    run(pytester, PASSING, "--zoo-record")
    failing = PASSING.replace('model="zoo/fake-1b")', ")\n    assert size == 1")
    result = run(pytester, failing, "--zoo-record")
    result.assert_outcomes(passed=2, failed=1, skipped=1)
    result.stdout.fnmatch_lines(["zoo: fake: 1 cells recorded*taken away*pipeline_parallel, tensor_parallel"])
    assert list(read(package)) == ["generation"]


@pytest.mark.parametrize("where", ["setup", "teardown"])
def test_what_fails_around_the_test_fails_it(pytester, package, where):
    before, after = ("assert 0", "pass") if where == "setup" else ("pass", "assert 0")
    body = f"""
    import pytest

    @pytest.fixture
    def around(zoo_evidence):
        zoo_evidence("fake", "tensor_parallel")
        {before}
        yield
        {after}

    def test_split(around):
        pass
    """
    run(pytester, PASSING, "--zoo-record")
    run(pytester, body, "--zoo-record").assert_outcomes(errors=1, passed=int(where == "teardown"))
    assert "tensor_parallel" not in read(package)


@pytest.mark.parametrize(
    ("claim", "said"),
    [
        ('"fake", "tensor_paralel"', "has no cell 'tensor_paralel'*did you mean 'tensor_parallel'"),
        ('"fake", "tensor_parallel", tier="T1"', "a test of tier T1 does not prove tensor_parallel"),
        ('"fake", "flash_attention"', "a test of tier T2 does not prove flash_attention"),
        ('"fake", "generation", tier="T9"', "a test of tier T9 does not prove generation"),
        ('"fakes", "generation"', "no family 'fakes'*did you mean 'fake'"),
    ],
)
def test_a_claim_that_cannot_be_fails_the_test(pytester, package, claim, said):
    result = run(pytester, f"def test_it(zoo_evidence):\n    zoo_evidence({claim})\n", "--zoo-record")
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines([f"*{line}*" for line in said.split("*")])
    assert read(package) == {}


def test_a_file_that_is_edited_while_the_tests_run_shows_as_changed(pytester, package):
    body = f"""
    def test_split(zoo_evidence):
        zoo_evidence("fake", "tensor_parallel")
        open({str(package / "modeling.py")!r}, "w").write("SIZE = 2")
    """
    run(pytester, body, "--zoo-record").assert_outcomes(passed=1)
    sources._digest.cache_clear()
    assert read(package)["tensor_parallel"].changed(sources.digests("tensor_parallel", package)) == ("plugin",)


def test_the_pytest_plugin_is_light():
    code = "import sys, zoo_core.testing.plugin as p; print({'paddle', 'numpy', 'zoo_core.registry'} & "
    code += "sys.modules.keys())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
