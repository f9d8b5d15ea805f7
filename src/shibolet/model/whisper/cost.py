"""What a pack costs: multiply-adds of the model and bytes that wait for the backward pass, from shapes alone.

Operations are those of the mathematics: two a multiply-add, attention over pairs that see each other, nothing that is
computed twice. Bytes are an explicit list of the tensors that autograd keeps in the functions of `packed.py` and in
fused encoder layers (`fused.py`) on a GPU; each line of a list names what it stands for.

Shapes: U utterances, A encoder states (1500 an utterance), T tokens of texts and prompts, L label positions.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from shibolet.model.blueprint import Linear, Parameters
from shibolet.model.fast import loss_bytes
from shibolet.model.whisper.lengths import WINDOW_FRAMES, WINDOW_STATES, num_states
from shibolet.model.whisper.parts import is_tied, num_layers_of, part_of

_STAT = 4  # bytes of a float32 a row: a norm's mean or deviation, attention's log-sum of a head
_FEATURE = 4  # bytes of a feature, whatever the model's precision


@dataclass(frozen=True, slots=True)
class PackSize:
    """The numbers of a pack that decide what it costs."""

    tokens: int = 0  # A + T: what a pack is filled by
    states: int = 0
    labels: int = 0
    utterances: int = 0
    causal_pairs: int = 0  # of the decoder: positions and what they see
    cross_pairs: int = 0  # its positions and the states that they see
    state_pairs: int = 0  # of the encoder

    @classmethod
    def of(cls, utterances: Iterable[tuple[int, int, int]]) -> "PackSize":
        """The size of a pack of utterances of (tokens, mel frames, labels)."""
        total = [0] * 7
        for tokens, frames, labels in utterances:
            states = num_states(frames)
            text = tokens - states
            one = (tokens, states, labels, 1, text * (text + 1) // 2, text * states, states**2)
            total = [a + b for a, b in zip(total, one, strict=True)]
        return cls(*total)

    @property
    def text(self) -> int:
        """T."""
        return self.tokens - self.states


@dataclass(frozen=True, slots=True)
class _Attention:
    """The four projections of an attention with their adapters."""

    query: Linear
    key: Linear
    value: Linear
    output: Linear

    @property
    def is_adapted(self) -> bool:
        return any(one.rank for one in (self.query, self.key, self.value, self.output))


class Cost:
    """Operations and kept bytes of one model in which certain parameters train."""

    def __init__(self, model: Parameters, trainable: Iterable[str], width: int) -> None:
        """`trainable` are parameter names, `width` the bytes of a weight."""
        self._sizes, self._width, self._layers = model.config, width, num_layers_of(model)
        parts = {part_of(name) for name in trainable}
        self._parts = {part for part, _ in parts}
        of_kind = lambda kind: {layer for part, layer in parts if part == kind}  # noqa: E731
        self._encoder_trains, self._decoder_trains = of_kind("encoder.layers"), of_kind("decoder.layers")
        self._cross_trains = of_kind("cross_attention")
        self._head_trains = "head" in self._parts or ("embeddings" in self._parts and is_tied(model))
        shapes = {name: tuple(weight.shape) for name, weight in model.named_parameters()}
        self._attentions = [
            [
                _Attention(*(
                    Linear.of(shapes, f"model.decoder.layers.{layer}.{kind}.{name}")
                    for name in ("q_proj", "k_proj", "v_proj", "out_proj")
                ))
                for kind in ("self_attn", "encoder_attn")
            ]
            for layer in range(self._layers["decoder"])
        ]  # fmt: skip

    size_of = staticmethod(PackSize.of)

    def operations(self, size: PackSize, encoder: bool = True) -> int:
        """Of one forward and backward pass; without the encoder's where its output is kept."""
        d, ffn = self._sizes.d_model, self._sizes.decoder_ffn_dim
        total, states_want = self._encoder_operations(size) if encoder else (0, False)
        graph = bool(self._parts & {"embeddings", "decoder.positions"})  # whether what comes next wants a gradient
        for layer, (own, cross) in enumerate(self._attentions):
            trains, crosses = layer in self._decoder_trains, layer in self._cross_trains
            wants = graph or trains
            total += _attention(own, size.text, size.text, size.causal_pairs, (wants, wants), trains)
            graph = wants or own.is_adapted
            wants = graph or crosses
            total += _attention(cross, size.text, size.states, size.cross_pairs, (wants, states_want), crosses)
            graph = wants or cross.is_adapted or states_want
            total += 2 * size.text * 2 * d * ffn * (1 + (graph or trains) + trains)
            graph |= trains
        graph |= "decoder.norm" in self._parts
        return total + 2 * size.labels * d * self._sizes.vocab_size * (1 + graph + self._head_trains)

    def _encoder_operations(self, size: PackSize) -> tuple[int, bool]:
        """Those of the encoder, and whether its output wants a gradient."""
        sizes, e = self._sizes, self._sizes.d_model
        graph = "encoder.conv" in self._parts
        conv = [WINDOW_FRAMES * 3 * sizes.num_mel_bins * e, WINDOW_STATES * 3 * e * e]
        total = 2 * size.utterances * (sum(conv) + graph * (sum(conv) + conv[1]))  # audio wants no gradient
        graph |= "encoder.positions" in self._parts
        for layer in range(self._layers["encoder"]):
            trains = layer in self._encoder_trains
            graph |= trains
            total += 2 * size.states * (4 * e * e + 2 * e * sizes.encoder_ffn_dim) * (1 + graph + trains)
            total += 4 * size.state_pairs * e * (1 + 2 * graph)
        return total, graph or "encoder.norm" in self._parts

    def kept(self, size: PackSize, encoder: bool = True) -> list[tuple[str, int, int]]:
        """(part, bytes that its forward keeps, bytes that its backward needs besides), in the order of the forward.

        What a frozen encoder needs while it computes stands where its backward's would.
        """
        sizes, w, d = self._sizes, self._width, self._sizes.d_model
        heads, ffn = sizes.decoder_attention_heads, sizes.decoder_ffn_dim
        of_states = ("encoder.norm", size.states * d * w, 0)  # inputs of keys and values, the same for all layers
        parts, states_want = self._encoder_kept(size) if encoder else ([], False)
        if self._cross_trains or not encoder:  # kept states are in the pack, trained on or not
            parts.append(of_states)
        norm = d * w + 2 * _STAT  # its input, the residual stream
        graph = bool(self._parts & {"embeddings", "decoder.positions"})
        for layer, (own, cross) in enumerate(self._attentions):
            trains, crosses = layer in self._decoder_trains, layer in self._cross_trains
            graph |= trains
            row = norm if graph else 0
            row += d * w if trains else 0  # input of q, k and v
            graph |= own.is_adapted
            row += (4 * d * w + heads * _STAT) if graph else 0  # queries, keys, values, output
            row += sum(_adapter_row(one, w, graph) for one in (own.query, own.key, own.value, own.output))
            parts.append(("decoder.layers", size.text * row, size.text * 4 * d * w if graph else 0))

            graph |= crosses
            row = norm if graph else 0
            row += d * w if crosses else 0  # input of q
            graph |= cross.is_adapted or states_want
            row += (2 * d * w + heads * _STAT) if graph else 0  # queries, output
            row += sum(_adapter_row(one, w, graph) for one in (cross.query, cross.output))
            of_state = 2 * d * w if graph else 0  # keys, values
            of_state += sum(_adapter_row(one, w, states_want) for one in (cross.key, cross.value))
            passing = (2 + 2 * states_want) * d * w if graph else 0  # their gradients, those of states
            parts.append(("cross_attention", size.text * row + size.states * of_state, size.states * passing))

            graph |= trains
            row = norm + ffn * w if graph else 0  # and gelu's input
            row += (d + ffn) * w if trains else 0  # inputs of fc1, fc2
            parts.append(("decoder.layers", size.text * row, size.text * (2 * d + ffn) * w if graph else 0))
        if graph or "decoder.norm" in self._parts:
            parts.append(("decoder.norm", size.labels * norm, size.labels * d * w))
        return [part for part in parts if any(part[1:])]

    def _encoder_kept(self, size: PackSize) -> tuple[list[tuple[str, int, int]], bool]:
        """The encoder's, its features among them, and whether its output wants a gradient."""
        sizes, w, e = self._sizes, self._width, self._sizes.d_model
        ffn = sizes.encoder_ffn_dim
        features = size.utterances * WINDOW_FRAMES * sizes.num_mel_bins
        parts, graph = [("encoder.conv", features * _FEATURE, 0)], "encoder.conv" in self._parts
        if graph:
            rounded = features * w if w != _FEATURE else 0  # input of the first
            # before and after the first gelu, which has two rows a state; before the second
            parts.append(("encoder.conv", size.states * 5 * e * w + rounded, size.states * 4 * e * w))
        graph |= "encoder.positions" in self._parts
        for layer in range(self._layers["encoder"]):
            trains = layer in self._encoder_trains
            graph |= trains
            row = 2 * (e * w + 2 * _STAT)  # inputs of both norms
            row += 4 * e * w + sizes.encoder_attention_heads * _STAT  # queries, keys, values, output
            row += ffn * w  # gelu's input
            row += 2 * e * w if trains else 0  # inputs of q/k/v and fc1; the output's is attention's, fc2's made again
            passing = (ffn + 2 * e) * w if graph else (2 * ffn + 3 * e) * w
            parts.append(("encoder.layers", size.states * row if graph else 0, size.states * passing))
        graph |= "encoder.norm" in self._parts
        if graph:
            parts.append(("encoder.norm", size.states * (e * w + 2 * _STAT), size.states * 2 * e * w))
        return parts, graph

    def loss_bytes(self, size: PackSize) -> tuple[int, int]:
        """Bytes while the loss is computed: its gradients, which stay, and one chunk of logits, which goes."""
        return loss_bytes(size.labels, self._sizes.d_model, self._sizes.vocab_size, self._width, self._head_trains)


def _attention(
    one: _Attention, rows: int, key_rows: int, pairs: int, wants: tuple[bool, bool], trains: bool
) -> int:  # fmt: skip
    """Operations of an attention; `wants`: whether inputs of queries and those of keys and values want a gradient."""
    queries, keys = wants
    graph = queries or keys or trains or bool(one.query.rank or one.key.rank or one.value.rank)
    projections = (
        rows * one.query.multiply_adds(queries, trains)
        + key_rows * (one.key.multiply_adds(keys, trains) + one.value.multiply_adds(keys, trains))
        + rows * one.output.multiply_adds(graph, trains)
    )
    return 2 * projections + 4 * pairs * one.query.outputs * (1 + 2 * graph)


def _adapter_row(one: Linear, width: int, wants: bool) -> int:
    """Bytes a row of an adapter: its input after dropout, which is its own, the narrow product, the dropout's mask."""
    return one.inputs * (width + wants) + one.rank * width if one.rank else 0
