"""The examples in the docstrings run and print what they say."""

import doctest
import importlib
import inspect

import pytest

import vesuvius_kit
from vesuvius_kit import postprocess


def examples():
    finder = doctest.DocTestFinder(recurse=False)
    names = {f"vk.{name}": getattr(vesuvius_kit, name) for name in vesuvius_kit.__all__}
    names |= {f"postprocess.{name}": getattr(postprocess, name) for name in postprocess.__all__}
    for name, item in sorted(names.items()):
        if callable(item):
            module = importlib.import_module(inspect.unwrap(item).__module__)
            yield from (
                pytest.param(found, id=name) for found in finder.find(item, name, module, globs={}) if found.examples
            )


@pytest.mark.parametrize("example", list(examples()))
def test_an_example_runs_and_prints_what_it_says(example, capsys):
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    failures = []
    runner.run(example, out=failures.append)
    assert not runner.summarize(verbose=False).failed, "".join(failures)
