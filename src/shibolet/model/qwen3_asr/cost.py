"""What a pack costs: multiply-adds of the model and bytes that wait for the backward pass, from shapes alone.

Operations are those of the mathematics: two a multiply-add, attention over pairs that see each other, nothing that is
computed twice. Bytes are an explicit list of the tensors that autograd keeps under packed attention and in fused layers
(`fused.py`); each line of a list names what it stands for.

Shapes: T tokens, A audio tokens, L label positions, C one-second chunks.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from shibolet.model.blueprint import Linear, Parameters
from shibolet.model.fast import loss_bytes
from shibolet.model.qwen3_asr.lengths import CHUNK_FRAMES, WINDOW_TOKENS, num_audio_tokens
from shibolet.model.qwen3_asr.parts import is_tied, part_of

_BEFORE_ATTENTION = 3  # of a layer's projections: q, k, v
_STAT = 4  # bytes of a float32 a row: a norm's deviation, attention's log-sum of a head


@dataclass(frozen=True, slots=True)
class PackSize:
    """The numbers of a pack that decide what it costs."""

    tokens: int = 0
    audio_tokens: int = 0
    labels: int = 0
    chunks: int = 0
    causal_pairs: int = 0  # of the decoder: positions and what they see
    window_pairs: int = 0  # of the encoder's attention windows

    @classmethod
    def of(cls, utterances: Iterable[tuple[int, int, int]]) -> "PackSize":
        """The size of a pack of utterances of (tokens, mel frames, labels)."""
        total = [0] * 6
        for tokens, frames, labels in utterances:
            audio = num_audio_tokens(frames)
            full, rest = divmod(audio, WINDOW_TOKENS)
            one = (tokens, audio, labels, -(-frames // CHUNK_FRAMES), tokens * (tokens + 1) // 2)
            total = [a + b for a, b in zip(total, (*one, full * WINDOW_TOKENS**2 + rest**2), strict=True)]
        return cls(*total)


class Cost:
    """Operations and kept bytes of one model in which certain parameters train."""

    def __init__(self, model: Parameters, trainable: Iterable[str], width: int) -> None:
        """`trainable` are parameter names, `width` the bytes of a weight."""
        self._audio, self._text, self._width = model.config.audio_config, model.config.text_config, width
        parts = {part_of(name) for name in trainable}
        of_kind = lambda kind: {layer for part, layer in parts if part == kind}  # noqa: E731
        self._conv_trains, self._projector_trains = bool(of_kind("encoder.conv")), bool(of_kind("projector"))
        self._embeddings_train = bool(of_kind("embeddings"))
        self._head_trains = bool(of_kind("head")) or (self._embeddings_train and is_tied(model))
        self._encoder_trains, self._decoder_trains = of_kind("encoder.layers"), of_kind("decoder.layers")
        self._linears = _projections(model)

    size_of = staticmethod(PackSize.of)

    def operations(self, size: PackSize, encoder: bool = True) -> int:
        """Of one forward and backward pass; without the encoder's where its output is kept."""
        e, ffn, text = self._audio.d_model, self._audio.encoder_ffn_dim, self._text
        total, graph = 0, False  # whether what comes next has an input that wants a gradient
        if encoder:
            graph, conv = self._conv_trains, self._conv_forward()
            total += 2 * size.chunks * (sum(conv) + graph * (sum(conv) + sum(conv[1:])))  # audio wants no gradient
            for layer in range(self._audio.encoder_layers):
                trains = layer in self._encoder_trains
                graph |= trains
                total += 2 * size.audio_tokens * (4 * e * e + 2 * e * ffn) * (1 + graph + trains)
                total += 4 * size.window_pairs * e * (1 + 2 * graph)
        trains = self._projector_trains
        graph |= trains
        total += 2 * size.audio_tokens * (e * e + e * self._audio.output_dim) * (1 + graph + trains)
        graph |= self._embeddings_train
        for layer, linears in enumerate(self._linears):
            trains, adapted = layer in self._decoder_trains, any(linear.rank for linear in linears)
            graph |= trains or adapted
            each = [li.base * (1 + graph + trains) + li.adapter * 3 for li in linears]
            rows = self._rows_after_attention(size, layer)
            total += 2 * (size.tokens * sum(each[:_BEFORE_ATTENTION]) + rows * sum(each[_BEFORE_ATTENTION:]))
            total += 4 * size.causal_pairs * text.num_attention_heads * text.head_dim * (1 + 2 * graph)
        return total + 2 * size.labels * text.hidden_size * text.vocab_size * (1 + graph + self._head_trains)

    def kept(self, size: PackSize, encoder: bool = True) -> list[tuple[str, int, int]]:
        """(part, bytes that its forward keeps, bytes that its backward needs besides), in the order of the forward."""
        w, e, d = self._width, self._audio.d_model, self._text.hidden_size
        ffn, inner = self._audio.encoder_ffn_dim, self._text.intermediate_size
        graph, parts = False, []
        if encoder:
            graph = self._conv_trains
            if graph:
                maps = [positions * self._audio.downsample_hidden_size for positions in self._conv_positions()]
                row = 2 * sum(maps) + CHUNK_FRAMES * self._audio.num_mel_bins  # before and after each gelu; the input
                parts.append(("encoder.conv", size.chunks * row * w, size.chunks * maps[0] * w))
            for layer in range(self._audio.encoder_layers):
                trains = layer in self._encoder_trains
                graph |= trains
                if not graph:
                    continue
                row = 2 * (e * w + 2 * _STAT)  # inputs of both norms
                row += 4 * e * w + self._audio.encoder_attention_heads * _STAT  # queries, keys, values, output
                row += ffn * w  # gelu's input
                row += (2 * e + ffn) * w if trains else 0  # inputs of q/k/v, fc1, fc2; the output's is attention's
                parts.append(("encoder.layers", size.audio_tokens * row, size.audio_tokens * (ffn + 2 * e) * w))
        graph |= self._projector_trains
        if graph:
            row = 2 * e * w + 2 * _STAT  # inputs of the norm and of gelu
            row += 2 * e * w if self._projector_trains else 0  # inputs of both linears
            parts.append(("projector", size.audio_tokens * row, size.audio_tokens * (e + d) * w))
        graph |= self._embeddings_train
        heads, key_heads = self._text.num_attention_heads, self._text.num_key_value_heads
        queries, keys = heads * self._text.head_dim, key_heads * self._text.head_dim
        for layer, linears in enumerate(self._linears):
            trains, adapters = layer in self._decoder_trains, [linear for linear in linears if linear.rank]
            graph |= trains or bool(adapters)
            if not graph:
                continue
            row = d * w + _STAT  # input of the first norm: the residual stream
            row += (queries + keys) * w  # inputs of the norms of queries and keys
            row += 2 * (queries + keys) * w + heads * _STAT  # queries, keys, values, output
            adapted = any(linear.rank for linear in linears[:_BEFORE_ATTENTION])
            row += d * w if trains or adapted else 0  # input of q/k/v; that of o is attention's output
            row += sum(a.rank * w for a in adapters)  # the narrow products; a mask is made again from its seed
            after = d * w + _STAT + 2 * inner * w  # input of the second norm, gate and up
            after += d * w if trains else 0  # input of gate and up; down's is made again
            rows = self._rows_after_attention(size, layer)
            parts.append(
                ("decoder.layers", size.tokens * row + rows * after, size.tokens * 2 * d * w + rows * (inner + d) * w)
            )
        if graph:
            parts.append(("decoder.norm", size.labels * (d * w + _STAT), size.labels * d * w))
        return parts

    def _rows_after_attention(self, size: PackSize, layer: int) -> int:
        """Rows that a decoder layer goes on with: of the last one only those that get a logit."""
        return size.labels if layer == len(self._linears) - 1 else size.tokens

    def loss_bytes(self, size: PackSize) -> tuple[int, int]:
        """Bytes while the loss is computed: its gradients, which stay, and one chunk of logits, which goes."""
        text = self._text
        return loss_bytes(size.labels, text.hidden_size, text.vocab_size, self._width, self._head_trains)

    def _conv_positions(self) -> list[int]:
        """Positions of each convolution's output on one chunk."""
        bins, frames, positions = self._audio.num_mel_bins, CHUNK_FRAMES, []
        for _ in range(3):
            bins, frames = -(-bins // 2), -(-frames // 2)
            positions.append(bins * frames)
        return positions

    def _conv_forward(self) -> list[int]:
        """Multiply-adds of the three convolutions and of `conv_out` on one chunk."""
        c = self._audio.downsample_hidden_size
        first, second, third = self._conv_positions()
        return [9 * c * first, 9 * c * c * second, 9 * c * c * third, c * third * self._audio.d_model]


def _projections(model: Parameters) -> list[list[Linear]]:
    """q, k, v, o, gate, up and down of each decoder layer, with their adapters."""
    shapes = {name: tuple(weight.shape) for name, weight in model.named_parameters()}
    of_layer = [f"self_attn.{name}_proj" for name in "qkvo"] + [f"mlp.{name}_proj" for name in ("gate", "up", "down")]
    return [
        [Linear.of(shapes, f"model.language_model.layers.{layer}.{module}") for module in of_layer]
        for layer in range(model.config.text_config.num_hidden_layers)
    ]
