"""Metrics of a run: one JSON object a line, and TensorBoard's files if asked."""

import json
import math
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from llama_minimal.files import replace_file
from llama_minimal.run_folder import METRICS, TENSORBOARD

__all__ = ["METRICS", "MetricsLog", "check_tensorboard", "read_metrics"]


class MetricsLog:
    """Append metrics to ``metrics.jsonl`` in a folder."""

    def __init__(self, folder: Path, *, tensorboard: bool = False) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / METRICS
        self._writer = None
        if tensorboard:
            check_tensorboard()
            from torch.utils.tensorboard import SummaryWriter

            self._writer = SummaryWriter(str(folder / TENSORBOARD))

    def write(self, metrics: dict[str, float]) -> None:
        """Append one step's metrics; they are in the file when this returns. JSON has no NaN: it becomes null."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(_line(metrics))
        if self._writer:
            for name, value in metrics.items():
                self._writer.add_scalar(name, value, metrics["step"])
            self._writer.flush()

    def forget_after(self, step: int) -> None:
        """Drop the lines of later steps, which a resumed run will write again."""
        if self.path.exists():
            lines = [_line(metrics) for metrics in read_metrics(self.path) if metrics["step"] <= step]
            replace_file(self.path, "".join(lines).encode("utf-8"))


def check_tensorboard() -> None:
    """Raise ImportError, with what to do, if TensorBoard is not installed."""
    if find_spec("tensorboard") is None:
        raise ImportError("tensorboard is not installed; run: pip install 'llama_minimal[dev]'")


def read_metrics(path: Path) -> list[dict[str, float]]:
    """Read a ``metrics.jsonl``, null as NaN; what a killed process, or a lost power supply, left there is skipped."""
    lines = path.read_text(encoding="utf-8", errors="replace").split("\n") if path.exists() else []
    rows = [row for row in map(_row, lines) if isinstance(row, dict) and "step" in row]
    return [{name: math.nan if value is None else value for name, value in row.items()} for row in rows]


def _row(line: str) -> Any:
    try:
        return json.loads(line)
    except ValueError:
        return None


def _line(metrics: dict[str, float]) -> str:
    values = {name: value if math.isfinite(value) else None for name, value in metrics.items()}
    return json.dumps(values, allow_nan=False) + "\n"
