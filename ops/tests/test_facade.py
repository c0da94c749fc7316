"""The lazy façade."""

import subprocess
import sys

import pytest

import zoo_ops


def test_importing_does_not_import_paddle():
    code = (
        "import sys, zoo_ops; zoo_ops.RopeScaling; zoo_ops.Kernels; zoo_ops.initial; zoo_ops.Batch\n"
        "assert 'paddle' not in sys.modules and 'zoo_core' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_every_name_is_there_and_no_module_hides_one():
    import pkgutil

    modules = {m.name for m in pkgutil.iter_modules(zoo_ops.__path__)}
    assert not modules & set(zoo_ops.__all__)
    for name in zoo_ops.__all__:
        assert callable(getattr(zoo_ops, name))
    assert set(zoo_ops.__all__) <= set(dir(zoo_ops))
    with pytest.raises(AttributeError, match="nothing_such"):
        zoo_ops.nothing_such  # noqa: B018
