"""What launching layers as graphs takes the host beside the launches: layers like the 1.7B's, graphs that do nothing.

    python benchmarks/launch_host.py --phase A

A phase of the shipped recipe over small layers, as many as the 1.7B has, on a CPU. A row a tower, in milliseconds, the
least of many turns because others use the machine too: `look` is to look at its weights, `walk` the same by walking
through modules in each step, as before; `step` is a whole forward and backward pass, with the look.
"""

import argparse
import json
import time
from collections.abc import Callable
from types import SimpleNamespace

import torch
from real_size import Stepper, new_model, recipe_config
from torch import Tensor, nn

from shibolet.model.fast.graphs import Chain, _Recording, _Span

ROWS = 256


class Empty(Chain):
    """Recordings launch nothing."""

    def _is_on_gpu(self, x: Tensor) -> bool:
        return True

    def _get_ready(self) -> None:
        self._gradients = [[torch.zeros_like(weight) for weight in weights] for weights in self._trained]

    def _recorded(self, x: Tensor, inputs: list[Tensor], shape) -> _Recording:
        nothing = SimpleNamespace(replay=lambda: None)
        rows = [torch.zeros_like(x) for _ in range(2 * len(self._parts) + 2)]
        spans = [
            _Span(nothing, nothing, *rows[2 * n : 2 * n + 4], self._trained[n], self._gradients[n], is_first=n == 0)
            for n in range(len(self._parts))
        ]
        return _Recording(None, spans, inputs)


def milliseconds(works: dict[str, Callable[[], object]], turns: int) -> dict[str, float]:
    """Of each; they take turns."""
    least = dict.fromkeys(works, float("inf"))
    for _ in range(turns):
        for name, work in works.items():
            started = time.perf_counter()
            work()
            least[name] = min(least[name], time.perf_counter() - started)
    return {f"{name}_ms": round(1000 * seconds, 3) for name, seconds in least.items()}


def run(tower: str, layers: nn.ModuleList, has_gradient: bool, turns: int) -> dict:
    chain = Empty(lambda layers, x, inputs, shape: x * 1.0, layers)
    x = torch.zeros(ROWS, 32, dtype=torch.bfloat16, requires_grad=has_gradient)
    trained = [weight for weight in layers.parameters() if weight.requires_grad]

    def step() -> None:
        for weight in trained:
            weight.grad = None
        found = chain(x, [x.detach()], None)
        if found.requires_grad:
            found.backward(torch.ones_like(found))

    for _ in range(2):
        step()
    works = {
        "look": lambda: [(w.data_ptr(), w.requires_grad) for of_layer in chain._weights() for w in of_layer],
        "walk": lambda: [(w.data_ptr(), w.requires_grad) for layer in layers for w in layer.parameters()],
        "step": step,
    }
    return {"tower": tower, "trained": len(trained), **milliseconds(works, turns)}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--phase", default="A")
    parser.add_argument("--turns", type=int, default=100)
    args = parser.parse_args()
    torch.set_num_threads(1)
    model, config = new_model(torch.device("cpu"), tiny=True), recipe_config()
    Stepper(model, config, next(phase for phase in config.phases if phase.name == args.phase))
    decoder, encoder = model.model.language_model, model.model.audio_tower
    for row in (
        run("decoder", decoder.layers[:-1], True, args.turns),
        run("encoder", encoder.layers, False, args.turns),
    ):
        print(json.dumps({"phase": args.phase, **row}), flush=True)


if __name__ == "__main__":
    main()
