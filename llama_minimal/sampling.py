"""From logits to the next token: filters on the distribution, and the draw.

Here rows never touch: in float32 and from there on, a row's token is a function of its logits and its number alone.
What a row's logits are depends a little on the batch, because PyTorch may add up a matrix product in another order
for another number of rows. In float32 that is a matter of the seventh digit, and no token changes but by a rare
accident. In bfloat16, where numbers have two to three digits, two tokens that are nearly as likely may change places:
a row of a batch then goes on, from there, otherwise than its prompt alone.
"""

# B batch, V vocabulary

import math
from collections.abc import Sequence
from copy import copy

import torch
import torch.nn.functional as F
from torch import Tensor

from llama_minimal.config.checks import check_seed
from llama_minimal.devices import as_float64, float64_device
from llama_minimal.settings import Sampling

NEVER = float("-inf")  # the logit of probability 0


def top_k_filter(logits: Tensor, k: int) -> Tensor:
    """Keep the k most likely tokens of each row, (B, V) -> (B, V) (Fan et al. 2018)."""
    kth = logits.topk(min(k, logits.size(-1)), dim=-1).values[..., -1:]
    return logits.masked_fill(logits < kth, NEVER)


def top_p_filter(logits: Tensor, p: float) -> Tensor:
    """Keep each row's smallest set of tokens with probability p or more (Holtzman et al. 2020, §3.1)."""
    ordered, order = logits.sort(dim=-1, descending=True, stable=True)
    probability = ordered.softmax(-1)
    # What the more likely tokens have together. The first token stays, however small p is.
    before = F.pad(probability.cumsum(-1)[..., :-1], (1, 0), value=-1.0)
    surplus = before >= p
    return logits.masked_fill(surplus.scatter(-1, order, surplus), NEVER)


def min_p_filter(logits: Tensor, p: float) -> Tensor:
    """Keep the tokens with at least p times the top probability of their row (Nguyen et al. 2024, §3)."""
    return logits.masked_fill(logits < logits.amax(-1, keepdim=True) + torch.tensor(p).log(), NEVER)


def divide_by_temperature(logits: Tensor, temperature: float) -> Tensor:
    """Divide by the temperature, (B, V) -> (B, V).

    Of a temperature below 1/1000, whose quotients might overflow, the likeliest token's logit becomes 0, which
    changes no probability; below float32's smallest normal number, about 1e-38, that number takes its place.
    """
    if temperature >= 1e-3:
        return logits / temperature
    return (logits - logits.amax(-1, keepdim=True)) / max(temperature, torch.finfo(torch.float32).tiny)


def penalize_repetition(logits: Tensor, seen: Tensor, penalty: float) -> Tensor:
    """Make the tokens in ``seen`` (B, V) less likely: divide what is positive, multiply what is negative.

    Source: Keskar et al. 2019, "CTRL", §4.1, which divides only; to multiply negative logits is the transformers
    library's way.
    """
    return torch.where(seen, torch.where(logits > 0, logits / penalty, logits * penalty), logits)


def filter_logits(logits: Tensor, sampling: Sampling, seen: Tensor | None = None) -> Tensor:
    """Apply a ``Sampling``'s penalty, temperature and filters, in this order, (B, V) -> (B, V)."""
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    if sampling.repetition_penalty != 1 and seen is not None:
        logits = penalize_repetition(logits, seen, sampling.repetition_penalty)
    if sampling.temperature > 0:
        logits = divide_by_temperature(logits, sampling.temperature)
    if sampling.top_k is not None:
        logits = top_k_filter(logits, sampling.top_k)
    if sampling.top_p is not None:
        logits = top_p_filter(logits, sampling.top_p)
    if sampling.min_p is not None:
        logits = min_p_filter(logits, sampling.min_p)
    return logits


def choose(logits: Tensor, uniform: Tensor | None = None) -> Tensor:
    """Return the most likely token, or the one that a uniform number points to.

    The tokens' probabilities cut the interval [0, 1) into pieces; a number in a piece picks its token. So a
    draw is a function of its number, whatever the batch and the device.

    Args:
        logits: (B, V); −inf is never chosen.
        uniform: (B,) in [0, 1), float64; None takes the most likely.

    Returns:
        (B,) token ids.

    Raises:
        ValueError: if a row holds NaN or +∞, or nothing but −∞.
    """
    if uniform is None:
        largest, best = _largest(logits)
        _check_finite(largest)
        return best
    cumulative = as_float64(logits).softmax(-1).cumsum(-1)
    _check_finite(cumulative[:, -1].tolist())
    target = uniform[:, None].to(cumulative) * cumulative[:, -1:]
    chosen = torch.searchsorted(cumulative, target, right=True)[:, 0]  # the first piece that ends after it
    return chosen.to(logits.device)


def _largest(logits: Tensor) -> tuple[list[float], Tensor]:
    """Return the largest number of each row and where it first stands, (B,) each; NaN counts as the largest."""
    if logits.device.type != "cpu" or logits.dtype != torch.float32:
        largest, best = logits.max(-1)
        return largest.tolist(), best  # on a GPU this waits for the logits, as whoever reads the token does anyway
    # NumPy's takes 3 µs in place of 29 (findings/argmax_of_a_row.sh). After a pass through the weights no code and no
    # number is in the processor's caches, and every further call here takes 10 µs or more.
    rows = logits.detach().numpy()
    best = rows.argmax(-1)
    return [row.item(i) for row, i in zip(rows, best.tolist(), strict=True)], torch.from_numpy(best)


def _check_finite(of_each_row: list[float]) -> None:
    if not all(map(math.isfinite, of_each_row)):
        raise ValueError(
            "the logits of a next token hold NaN or infinity, or allow no token at all; the weights may be damaged, "
            "or too large for float16: try --dtype bfloat16 or float32"
        )


def check_choice(sampling: Sampling, seed: int | Sequence[int]) -> int | list[int]:
    """Return seeds as ints; raise ValueError if one, or the way of choosing, is not what it must be."""
    if not isinstance(sampling, Sampling):
        raise ValueError(f"sampling={sampling!r} must be a Sampling, such as Sampling(temperature=0.8)")
    return [check_seed(one) for one in seed] if isinstance(seed, Sequence) else check_seed(seed)


def uniform_numbers(n_rows: int, n_tokens: int, *, seed: int | Sequence[int], n_kinds: int = 1) -> Tensor:
    """Draw each row's numbers from a generator of its own, in [0, 1): (kinds, B, n).

    A row's seed is seed + row, or its own. The numbers of the first kind are the same however many kinds there are.
    """
    seeds = [seed + row for row in range(n_rows)] if isinstance(seed, int) else seed
    # float32 draws are below 1 by more than float64 rounding can eat.
    generators = [torch.Generator().manual_seed(one) for one in seeds]
    draws = [torch.stack([torch.rand(n_tokens, generator=g) for g in generators]) for _ in range(n_kinds)]
    return torch.stack(draws).double()


def seen_tokens(prompts: Sequence[Sequence[int]], vocab_size: int) -> Tensor:
    """Mark the tokens of each prompt, (B, V)."""
    seen = torch.zeros(len(prompts), vocab_size, dtype=torch.bool)
    for row, prompt in enumerate(prompts):
        seen[row, torch.tensor(prompt)] = True
    return seen


class Choice:
    """Choose the tokens of a batch: by a ``Sampling``, by what each row holds already, and by its numbers.

    Place j is that of a row's jth new token. Whatever is drawn there is drawn with the place's own numbers, one for
    each purpose. So what comes to stand at a place depends on its row alone, and not on the rows beside it.

    Args:
        prompts: ids, whose tokens count as seen.
        n_places: the most new tokens of a row.
        vocab_size: embeddings of the model.
        known: ids from here on are never chosen; None chooses among all.
    """

    TOKEN, CANDIDATE, ACCEPTANCE = range(3)  # what a number is for

    def __init__(
        self,
        prompts: Sequence[Sequence[int]],
        sampling: Sampling,
        *,
        n_places: int,
        seed: int | Sequence[int],
        vocab_size: int,
        known: int | None = None,
        device: torch.device | None = None,
    ) -> None:
        seed = check_choice(sampling, seed)
        self.sampling, self.known = sampling, known if known is None or known < vocab_size else None
        self.seen = self.numbers = None
        if sampling.repetition_penalty != 1:
            self.seen = seen_tokens(prompts, vocab_size)[:, :known].to(device)  # (B, V)
        if sampling.temperature > 0:
            numbers = uniform_numbers(len(prompts), n_places, seed=seed, n_kinds=3)
            self.numbers = numbers.to(float64_device(device or torch.device("cpu")))

    def copy(self) -> "Choice":
        """Return one that may see other tokens from here on."""
        other = copy(self)
        other.seen = None if self.seen is None else self.seen.clone()
        return other

    def see(self, rows: Sequence[Sequence[int]]) -> None:
        """Take note of what each row has written, for the repetition penalty."""
        if self.seen is not None:
            for seen, tokens in zip(self.seen, rows, strict=True):
                seen[torch.tensor(tokens, dtype=torch.long, device=seen.device)] = True

    def filter(self, logits: Tensor, ahead: Tensor | None = None) -> Tensor:
        """Apply penalty, temperature and filters, (B, T, V) -> (B, T, V).

        Args:
            ahead: (B, T − 1), tokens that the rows would hold more: row b's logits t come after the first t of them.
        """
        seen = self.seen
        if seen is not None:
            seen = seen[:, None].repeat(1, logits.size(1), 1)
            ahead = None if ahead is None else ahead.clamp(max=seen.size(-1) - 1)  # an unknown one is never kept
            for t in range(1, logits.size(1)):
                seen[:, t:].scatter_(2, ahead[:, None, t - 1 : t].expand(-1, logits.size(1) - t, 1), True)
        return filter_logits(logits if self.known is None else logits[..., : self.known], self.sampling, seen)

    def choose(self, filtered: Tensor, places: Sequence[int] | Tensor, *, purpose: int = TOKEN) -> Tensor:
        """Return the token of each place, (B, T, V) -> (B, T); the first of row b is at ``places[b]``."""
        uniform = None if self.numbers is None else self.numbers_at(places, filtered.size(1), purpose).flatten()
        return choose(filtered.flatten(0, 1), uniform).view(filtered.shape[:2])

    def numbers_at(self, places: Sequence[int] | Tensor, n: int, purpose: int) -> Tensor:
        """Return the numbers of n places of each row from ``places`` on, (B, n)."""
        numbers = self.numbers[purpose]
        index = torch.as_tensor(places, device=numbers.device)[:, None] + torch.arange(n, device=numbers.device)
        return numbers.gather(1, index.clamp(max=numbers.size(1) - 1))  # what comes after the last place is not kept
