"""Low-rank adapters on attention projections of decoder layers: placed by peft, merged back and saved here.

A family says where they go: on an encoder servers would skip them, and its output could not be cached.
"""

from collections.abc import Collection, Mapping
from pathlib import Path
from types import MappingProxyType

import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from safetensors.torch import save_file
from torch import Tensor, nn

from shibolet.errors import ModelError
from shibolet.model.outline import outline_of
from shibolet.model.parts import select
from shibolet.records.ahead import in_lanes
from shibolet.records.files import make_folder

_LANES = 8  # layers that are merged at once


def attach_lora(
    model: nn.Module, part: str, *, rank: int, alpha: int, dropout: float, targets: list[str], seed: int
) -> None:
    """Add adapters, in the model's dtype, to the projections `targets` ("q_proj") of the decoder layers in `part`."""
    family = outline_of(model.config)
    layers = sorted({family.part_of(name)[1] for name in select(model, part)})
    config = LoraConfig(
        r=rank, lora_alpha=alpha, lora_dropout=dropout, bias="none",
        target_modules=family.adapter_pattern(layers, targets),
    )  # fmt: skip
    state = torch.random.get_rng_state()
    torch.manual_seed(seed)  # lora_A starts random: from the seed, not from what ran before
    inject_adapter_in_model(config, model)
    torch.random.set_rng_state(state)
    model.train(model.training)  # new modules start in training mode, their dropout on
    for name, parameter in model.named_parameters():
        if family.part_of(name)[0] == "lora":
            parameter.data = parameter.data.to(model.dtype)


def has_lora(model: nn.Module) -> bool:
    return any(isinstance(module, LoraLayer) for module in model.modules())


def merge_lora(model: nn.Module, adapters: Mapping[str, Tensor] = MappingProxyType({})) -> None:
    """Fold adapters into their layers, and remove them; `adapters` has those by name that the model has less exactly.

    Computed in float32, since in bf16 a tenth of the change is lost, and on the CPU, whichever device the model is on;
    several layers at once, as each is on its way from and to a GPU.
    """
    layers = [(name, module) for name, module in model.named_modules() if isinstance(module, LoraLayer)]

    @torch.no_grad()
    def merge(layer: tuple[str, LoraLayer]) -> nn.Module:
        name, module = layer
        base = module.get_base_layer()
        a, b = (
            adapters.get(f"{name}.{which}.default.weight", getattr(module, which)["default"].weight).float().cpu()
            for which in ("lora_A", "lora_B")
        )
        merged = base.weight.float().cpu() + module.scaling["default"] * (b @ a)
        base.weight.data = merged.to(base.weight)
        return base

    for (name, _), base in zip(layers, in_lanes(merge, layers, _LANES), strict=True):
        parent, _, child = name.rpartition(".")
        setattr(model.get_submodule(parent), child, base)


def save_lora(model: nn.Module, trained: Collection[str], path: Path, base: str, dtype: torch.dtype) -> None:
    """Write the adapters, and whole every module of `trained` weights, for peft's `AutoPeftModel.from_pretrained`.

    `base` is the Hub id or the folder that the adapter names. peft has no task of speech recognition, and its classes
    of a task open other classes of models: as peft does for such models, the file names the base's class and no task.
    ModelError when the model carries no adapters, or when
    a matrix was trained that is embeddings and head at once, which peft would untie.
    """
    layers = {name: module for name, module in model.named_modules() if isinstance(module, LoraLayer)}
    if not layers:
        raise ModelError("this model has no adapters; use the whole model")
    family = outline_of(model.config)
    whole = {name for name in trained if family.part_of(name)[0] != "lora"}
    if family.is_tied(model) and any(family.part_of(name)[0] == "embeddings" for name in whole):
        raise ModelError(
            "the embeddings, which are also the head, were trained: an adapter cannot hold them, so use the whole model"
        )
    one = next(iter(layers.values()))
    make_folder(path)
    LoraConfig(
        r=one.r["default"], lora_alpha=one.lora_alpha["default"], lora_dropout=0.0, bias="none",
        auto_mapping={"base_model_class": type(model).__name__, "parent_library": type(model).__module__},
        target_modules=sorted(layers),
        modules_to_save=sorted({name.rpartition(".")[0] for name in whole}) or None,
        base_model_name_or_path=base, inference_mode=True,
    ).save_pretrained(path)  # fmt: skip
    state = {f"base_model.model.{name.replace('.default', '')}": weight for name, weight in model.state_dict().items()
             if family.part_of(name)[0] == "lora" or name in whole}  # fmt: skip
    tensors = {name: weight.to(dtype).contiguous() for name, weight in state.items()}
    save_file(tensors, path / "adapter_model.safetensors", metadata={"format": "pt"})
