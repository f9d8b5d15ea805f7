"""The kernels of a round's models, compiled in processes of their own while data are read and models are loaded.

Nothing waits for them. What they have not compiled is compiled where it is needed.
"""

import logging
import os
from collections.abc import Iterable, Iterator
from contextlib import suppress
from itertools import chain
from multiprocessing.connection import Connection

from shibolet.errors import ShiboletError
from shibolet.listen.processes import Child, leave_signals_to_parent
from shibolet.model.fast.compiling import Call, Widths, backward_calls, compile_alone, forward_calls, update_calls
from shibolet.model.folders import may_have_gpu
from shibolet.model.outline import kernel_widths
from shibolet.recipe import Recipe
from shibolet.records.cores import usable_cores

_LOG = logging.getLogger(__name__)
_MOST_PROCESSES, _CORES_EACH = 4, 4
_PRECISIONS = {"bf16": "bfloat16", "fp32": "float32"}


def begin_to_compile(recipe: Recipe) -> Child | None:
    """A process that compiles what a recipe's models need to hear, and then what training does; None without a GPU."""
    return Child(_serve, recipe, environment={}) if may_have_gpu() else None


def _serve(connection: Connection, recipe: Recipe) -> None:
    leave_signals_to_parent()
    os.environ["OMP_NUM_THREADS"] = "1"  # before torch is loaded, and here: in the parent another thread may load it
    try:
        compile_for(recipe)
    except Exception:  # whoever needs them says it
        _LOG.debug("no kernels were compiled ahead", exc_info=True)
    os._exit(0)  # Python's own end aborts, with a line on the terminal, where a thread of the compiler still runs


def compile_for(recipe: Recipe) -> None:
    """Compile kernels for models that are on this machine into Triton's cache; this process launches none then."""
    if not (calls := list(_calls(recipe))):
        return
    compile_alone()
    _compile(calls[:1])  # with the hash of Triton's own files, which its copies then have
    parent, num = os.getpid(), max(1, min(_MOST_PROCESSES, usable_cores() // _CORES_EACH))
    for first in range(1, num):
        if os.fork() == 0:
            try:
                leave_signals_to_parent()
                _compile(call for call in calls[1 + first :: num] if os.getppid() == parent)
            finally:
                os._exit(0)
    _compile(calls[1::num])
    for _ in range(1, num):
        os.wait()


def _calls(recipe: Recipe) -> Iterator[Call]:
    models, train = recipe.models, recipe.train
    widths = [found for name in recipe.model_names().values() if (found := _widths(name))]
    yield from chain.from_iterable(forward_calls(each, "bfloat16") for each in dict.fromkeys(widths))
    if train is None or models is None or models.base is None or (base := _widths(models.base)) is None:
        return
    dtype, lora = _PRECISIONS[train.precision], train.lora
    if train.fast == "auto":
        yield from backward_calls(base, dtype, *((lora.rank, lora.targets, lora.dropout) if lora else (0, (), 0.0)))
    yield from update_calls(dtype)
    yield from forward_calls(base, dtype)  # in bfloat16 they are those that hear


def _compile(calls: Iterable[Call]) -> None:
    for call in calls:
        try:
            call()
        except Exception:
            _LOG.debug("a kernel was not compiled ahead", exc_info=True)


def _widths(name: str) -> Widths | None:
    with suppress(ShiboletError, OSError):
        return kernel_widths(name)
