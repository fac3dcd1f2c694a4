"""Exits for a trained model that stays as it is: at each exit the norm's weight vector becomes a matrix, learned."""

# B batch, T time, D model width, L layers, n tokens

from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llama_minimal.model import Llama


class ExitNorm(nn.Module):
    """Be a model's norm after its last layer and, after an earlier one, a norm whose weight is a (D, D) matrix.

    Where the model's own norm gives x/rms(x) · w, an exit gives x/rms(x) · A. It sees by hooks which layer ran last;
    at first A is diag(w), so nothing has changed yet.

    Source: Belrose et al. 2023, "Eliciting Latent Predictions from Transformers with the Tuned Lens", put an affine map
    of its own after each layer of a frozen model, in front of the model's norm and output layer.
    """

    def __init__(self, model: Llama) -> None:
        super().__init__()
        self.norm, self.depth = model.norm, model.config.n_layers
        matrix = torch.diag(model.norm.weight.detach())
        self.matrices = nn.ParameterList([matrix.clone() for _ in range(model.config.n_layers - 1)])
        for depth, layer in enumerate(model.layers.values(), start=1):
            layer.register_forward_hook(partial(self._reached, depth))

    def _reached(self, depth: int, *_: object) -> None:
        self.depth = depth

    def forward(self, x: Tensor) -> Tensor:
        if self.depth > len(self.matrices):
            return self.norm(x)
        return F.rms_norm(x, x.shape[-1:], eps=self.norm.eps) @ self.matrices[self.depth - 1]


@torch.no_grad()
def exit_states(model: Llama, tokens: Tensor, *, rows: int = 16) -> Tensor:
    """Return x/rms(x) after each layer, (L, B, T, D).

    Args:
        tokens: (B, T) ids.
        rows: read at a time.
    """
    found = []
    for part in tokens.split(rows):
        (x, rope, where), states = model.begin(part, None, None), []
        for layer in model.layers.values():
            x = layer(x, rope, **where)
            states.append(F.rms_norm(x, x.shape[-1:], eps=model.config.norm_eps))
        found.append(torch.stack(states))
    return torch.cat(found, dim=1)


def least_squares(model: Llama, states: Tensor) -> ExitNorm:
    """Return exits whose matrix makes of a state the nearest thing to what the output layer reads at the end.

    Args:
        states: (L, …, D), from ``exit_states``.
    """
    exits, flat = ExitNorm(model), states.flatten(1, -2)  # (L, n, D)
    wanted = flat[-1] * model.norm.weight.detach()
    for matrix, x in zip(exits.matrices, flat, strict=False):
        matrix.data = torch.linalg.lstsq(x, wanted).solution
    return exits


def train_exit(
    model: Llama, matrix: Tensor, states: Tensor, targets: Tensor, *, steps: int, lr: float, seed: int
) -> None:
    """Train one exit's matrix on what comes next, by Adam with a rate that falls to 0.

    Args:
        matrix: (D, D), changed in place.
        states: (n, D) at this exit.
        targets: (n,) the tokens that follow.
        steps: of 512 tokens each, drawn from all.
    """
    generator = torch.Generator().manual_seed(seed)
    optimizer, output = torch.optim.Adam([matrix], lr=lr), model.output.weight.detach()
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = lr * (1 - step / steps)
        drawn = torch.randint(len(targets), (512,), generator=generator)
        loss = F.cross_entropy(states[drawn] @ matrix @ output.T, targets[drawn])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


def train_exits(
    model: Llama, exits: ExitNorm, states: Tensor, tokens: Tensor, *, steps: int, lr: float, seed: int
) -> None:
    """Train all exits, and leave the model's own weights as they are.

    Args:
        states: (L, B, T, D), from ``exit_states``.
        tokens: (B, T) the text that was read.
        steps, lr, seed: of each exit, as for ``train_exit``.
    """
    targets = tokens[:, 1:].flatten()
    for matrix, x in zip(exits.matrices, states[:, :, :-1].flatten(1, -2), strict=False):
        train_exit(model, matrix, x, targets, steps=steps, lr=lr, seed=seed)
