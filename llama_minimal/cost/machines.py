"""Machines by name: memory, bandwidth, arithmetic, links, power, as their makers and renters publish them.

Looked up in November 2026: glennklockwood.com/garden/processors (A100, H100), the datasheet figures for H100 SXM and
H200 SXM as resellers repeat them (bfloat16 without sparsity is half of the figure in large print), waredb.com for the
RTX 4090, grokipedia.com and the maker's "242 TFLOPS with sparsity" for the L4. Between nodes: 400 Gb/s per H100, as
torchtitan's docs/performance.md has it; 200 Gb/s per A100 and 10 Gb/s beside a desktop are our assumption. Rents are
what mercatus-ai.com/blog/cloud-gpu-pricing and pricegpu.pages.dev list for May and early 2026, cheapest to dearest;
those of the RTX 4090, L4 and A100 40GB are not looked up, and left out.
"""

from dataclasses import dataclass, replace

from llama_minimal.config.checks import check_number


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """Hold what one GPU offers, and how it is tied to others."""

    name: str
    memory: float
    """Bytes."""
    bandwidth: float
    """Bytes that it reads from its memory in a second."""
    flops: float
    """Floating-point operations a second, dense products of bfloat16."""
    link: float
    """Bytes a second to a GPU of the same node, one way."""
    network: float
    """Bytes a second to a GPU of another node, one way."""
    node: int
    """GPUs of a node."""
    power: float
    """Watts at most."""
    rent: tuple[float, float] | None = None
    """Dollars an hour, from the cheapest offer to the dearest."""

    def __post_init__(self) -> None:
        for name in ("memory", "bandwidth", "flops", "link", "network", "node", "power"):
            check_number(name, getattr(self, name))


def _gpu(
    name: str, memory: float, bandwidth: float, flops: float, link: float, network: float, **rest: object
) -> Machine:
    giga = {"memory": memory, "bandwidth": bandwidth, "link": link, "network": network}
    return Machine(name=name, flops=flops * 1e12, **{key: value * 1e9 for key, value in giga.items()}, **rest)


# GB, GB/s, TFLOP/s, GB/s, GB/s. A device has a little more than its name says: "40 GB" are 42.4e9 bytes.
MACHINES = {
    machine.name: machine
    for machine in (
        _gpu("a100-40gb", 40, 1555, 312, 300, 25, node=8, power=400),
        _gpu("a100-80gb", 80, 2039, 312, 300, 25, node=8, power=400, rent=(0.80, 3.00)),
        _gpu("h100-80gb", 80, 3350, 989.4, 450, 50, node=8, power=700, rent=(1.99, 5.00)),
        _gpu("h200-141gb", 141, 4800, 989.4, 450, 50, node=8, power=700, rent=(2.50, 7.00)),
        _gpu("rtx-4090", 24, 1008, 165.2, 32, 1.25, node=2, power=450),
        _gpu("l4-24gb", 24, 300, 121, 32, 1.25, node=8, power=72),
    )
}


def machine(name: str, *, memory: float | None = None) -> Machine:
    """Return a machine by name, with another memory if one is given.

    Raises:
        ValueError: if there is no such machine, or the memory is none.

    Example:
        >>> machine("a100-80gb").memory
        80000000000.0
    """
    if name not in MACHINES:
        raise ValueError(f"machine={name!r} is unknown; known are {', '.join(MACHINES)}")
    found = MACHINES[name]
    return found if memory is None else replace(found, memory=check_number("memory", memory))
