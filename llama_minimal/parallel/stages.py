"""Where to cut a model into stages, and what two stages then have in common."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch.distributed as dist
from torch import nn

from llama_minimal import cost
from llama_minimal.config import LlamaConfig
from llama_minimal.model import Llama
from llama_minimal.parallel.mesh import Mesh
from llama_minimal.reference.parallel import balance as balanced


@dataclass(frozen=True, slots=True)
class Cut:
    """Say which layers each stage has: stage s those from ``borders[s]`` to ``borders[s + 1]``, the end excluded."""

    config: LlamaConfig
    borders: tuple[int, ...]

    @property
    def n_stages(self) -> int:
        """How many stages there are."""
        return len(self.borders) - 1

    def apply_to(self, model: Llama, stage: int) -> None:
        """Leave in a model what one stage needs, in place; the names of the parameters stay."""
        first, end = self.borders[stage : stage + 2]
        model.layers = nn.ModuleDict({str(i): model.layers[str(i)] for i in range(first, end)})
        if stage > 0:
            model.tok_embeddings = None
        if stage < self.n_stages - 1:
            model.norm = model.output = None
            if own := getattr(model.tok_embeddings, "own_table", None):  # one that was kept as the output layer
                own()

    def shared(self) -> dict[str, tuple[int, ...]]:
        """Return the parts that stand in several stages: name in a whole model → stages."""
        stages: dict[str, list[int]] = {}
        for stage in range(self.n_stages):
            for unit in self._units(stage):
                stages.setdefault(unit, []).append(stage)
        return {unit: tuple(where) for unit, where in stages.items() if len(where) > 1}

    def _units(self, stage: int) -> list[str]:
        ends = ["tok_embeddings"] if stage == 0 or (stage == self.n_stages - 1 and self.config.tie_embeddings) else []
        layers = (f"layers.{i}" for i in range(*self.borders[stage : stage + 2]))
        return list(dict.fromkeys([*ends, *(whole_name(name, self.config) for name in layers)]))

    def parameters_of(self, unit: str, model: Llama) -> list[nn.Parameter]:
        """Return a stage's parameters that belong to a part of the whole model."""
        named = ((whole_name(name, self.config), parameter) for name, parameter in model.named_parameters())
        return [parameter for name, parameter in named if name.startswith(f"{unit}.")]


def whole_name(name: str, config: LlamaConfig, *, is_quantized: bool = False) -> str:
    """Return how a tensor of a stage is called in a whole model, where one that is shared has its first name.

    Args:
        is_quantized: whether it is the codes or the grids of a layer; a tied table's are those of the output layer.
    """
    if config.tie_embeddings:
        table, kept_as = ("tok_embeddings.table.", "output.") if is_quantized else ("output.", "tok_embeddings.")
        name = name.replace(table, kept_as) if name.startswith(table) else name
    if name.startswith("layers."):
        _, layer, *rest = name.split(".")
        first = int(layer) // config.share_layers * config.share_layers
        return ".".join(["layers", str(first), *rest])
    return name


def make_cut(config: LlamaConfig, n_stages: int, sizes: Sequence[int] | None = None) -> Cut:
    """Return stages of about equal numbers of parameters, or of given numbers of layers.

    Args:
        sizes: layers of each stage, such as (2, 2, 2).

    Raises:
        ValueError: if there are fewer layers than stages, or the sizes do not fit.
    """
    if config.n_layers < n_stages:
        raise ValueError(
            f"pipeline={n_stages} needs a layer for each stage, and the model has n_layers={config.n_layers}; "
            f"give {config.n_layers} or fewer"
        )
    if sizes is None:
        sizes = balanced(cost.layer_sizes(config), n_stages)
    elif len(sizes) != n_stages or sum(sizes) != config.n_layers or min(sizes) < 1:
        raise ValueError(
            f"balance={tuple(sizes)} must be {n_stages} numbers of layers, each at least 1, that add up to "
            f"n_layers={config.n_layers}, such as {tuple(balanced(cost.layer_sizes(config), n_stages))}"
        )
    borders = [0]
    for size in sizes:
        borders.append(borders[-1] + size)
    return Cut(config, tuple(borders))


def new_groups(mesh: Mesh, stages: Iterable[Sequence[int]]) -> list[dist.ProcessGroup]:
    """Return, for each choice of stages, a group of the processes of this one's pipeline that are those stages."""
    columns = mesh.torch_mesh.mesh.flatten(1).T.tolist()  # (data · tensor, pipeline) ranks
    mine = []
    for chosen in stages:
        for column in columns:  # every process takes part in making every group
            group = dist.new_group([column[stage] for stage in chosen])
            if mesh.rank in column:
                mine.append(group)
    return mine
