"""Networks translated by a compiler that may be missing, or wrong."""

from __future__ import annotations

import numpy as np
import pytest
from torch import nn
from toy_network import Convolutions, textured

from napari_mrsr.errors import Cancelled
from napari_mrsr.inference import Control, RunOptions, RunStarted, run, super_resolve


@pytest.fixture
def compiler(monkeypatch):
    """Put a translation in the place of the real one; gives the calls that it got."""
    calls = []

    def install(translate):
        def compiled(self, *_, **__):
            def call(*inputs, **more):
                calls.append(len(inputs[0]))
                return translate(nn.Module._call_impl, self, *inputs, **more)

            self._compiled_call_impl = call

        monkeypatch.setattr(nn.Module, "compile", compiled)
        return calls

    return install


def good(impl, network, *inputs, **more):
    return impl(network, *inputs, **more)


def missing(*_, **__):
    raise RuntimeError("Failed to find C compiler.\nPlease specify one.")


def wrong(impl, network, *inputs, **more):
    return impl(network, *inputs, **more) * 1.01


def test_a_translated_network_is_used_and_can_be_stopped_between_tiles(make_volume, toy, compiler):
    volume, calls = textured(make_volume, (14, 12, 9)), compiler(good)
    expected = super_resolve(volume, toy, tile=8).data
    assert calls == []
    result = super_resolve(volume, toy, tile=8, compile=True)
    np.testing.assert_array_equal(result.data, expected)
    assert len(calls) == 1 + 8
    assert result.record["run"]["options"]["compile"]
    control, before = Control(), len(calls)
    events = run(volume, RunOptions.create(model=toy, tile=8, compile=True), control=control)
    next(events)
    control.cancel()
    with pytest.raises(Cancelled):
        next(events)
    assert len(calls) == before + 1  # the tile that is tried


@pytest.mark.parametrize(
    ("translate", "fragment"),
    [
        (missing, "toy-x2 could not be translated for cpu (RuntimeError; is a C++ compiler installed?) and runs as it is."),
        (wrong, "toy-x2 translated for cpu gives other values on a tile; it runs as it is."),
    ],
)
def test_without_a_good_compiler_the_network_runs_as_it_is(make_volume, toy, compiler, translate, fragment):
    volume = textured(make_volume, (14, 12, 9))
    expected = super_resolve(volume, toy).data
    compiler(translate)
    events = list(run(volume, RunOptions.create(model=toy, compile=True)))
    assert isinstance(events[0], RunStarted)
    assert fragment in events[0].warnings
    np.testing.assert_array_equal(events[-1].volume.data, expected)


def test_methods_without_weights_are_not_translated(make_volume, compiler, monkeypatch):
    calls = compiler(missing)
    monkeypatch.setattr(Convolutions, "forward", None)
    super_resolve(make_volume((8, 8, 8)), "nearest", compile=True)
    assert calls == []
