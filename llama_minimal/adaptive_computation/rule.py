"""The rule by which a drawn candidate is kept, and what it promises."""

# V vocabulary

from torch import Tensor

from llama_minimal.config.checks import check_integer, check_number


def acceptance_probability(p: Tensor, q: Tensor) -> Tensor:
    """Return with which probability to keep a token drawn from q where p is wanted: min(1, p/q).

    Args:
        p, q: what each gives to the token, of any shape; q > 0 for a token that was drawn.

    Source: Leviathan et al. 2023, "Fast Inference from Transformers via Speculative Decoding".
    """
    return (p / q).clamp(max=1).nan_to_num(1.0)  # 0/0: no token of this kind is drawn


def residual_distribution(p: Tensor, q: Tensor) -> Tensor:
    """Return the distribution of the token in the place of one not kept: max(0, p − q), made to sum to 1.

    Where q takes nothing away that is worth a number, it is p itself.

    Args:
        p, q: (…, V).

    Source: Leviathan et al. 2023.
    """
    rest = (p - q).clamp(min=0)
    total = rest.sum(-1, keepdim=True)
    return (rest / total).where(total > 0, p)


def expected_tokens(acceptance: float, n: int) -> float:
    """Return how many tokens a pass of the model gives on average: 1 + α + α² + … + αⁿ = (1 − αⁿ⁺¹)/(1 − α).

    The i-th candidate is kept if all before it are, so with probability αⁱ; one token more comes in any case.

    Args:
        acceptance: α, the probability that a candidate is kept, taken as the same everywhere: Σ min(p, q).
        n: candidates of a step.

    Raises:
        ValueError: if α is no probability, or n no number of candidates.

    Source: Leviathan et al. 2023.

    Example:
        >>> expected_tokens(0.5, 2)
        1.75
    """
    if not 0 <= acceptance <= 1:
        raise ValueError(f"acceptance={acceptance} is a probability; give one from 0 to 1, such as 0.8")
    check_integer("n", n, at_least=0)
    return float(sum(acceptance**i for i in range(n + 1)))


def expected_speedup(acceptance: float, n: int, *, cost: float, pass_cost: float = 1.0) -> float:
    """Return how many times as fast speculative decoding is: tokens of a step over what a step costs.

    (1 + α + … + αⁿ) / (n·c + v)

    Args:
        acceptance, n: as in ``expected_tokens``.
        cost: c, what a step of the draft takes, in steps of the model.
        pass_cost: v, what the pass over n + 1 tokens takes, in steps of the model; 1 where memory is what takes time.

    Raises:
        ValueError: as ``expected_tokens``, or if a cost is negative, or the pass costs nothing.

    Source: Leviathan et al. 2023 (with v = 1).
    """
    check_number("cost", cost, at_least=0.0)
    check_number("pass_cost", pass_cost)
    return expected_tokens(acceptance, n) / (n * cost + pass_cost)
