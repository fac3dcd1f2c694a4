"""Metrics of a run: one JSON object a line, and TensorBoard's files if asked."""

import json
from pathlib import Path

from llama_minimal.files import replace_file

METRICS = "metrics.jsonl"


class MetricsLog:
    """Append metrics to ``metrics.jsonl`` in a folder."""

    def __init__(self, folder: Path, *, tensorboard: bool = False) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.path = folder / METRICS
        self._writer = None
        if tensorboard:
            try:
                from torch.utils.tensorboard import SummaryWriter
            except ImportError:
                raise ImportError("tensorboard is not installed; run: pip install 'llama_minimal[dev]'") from None
            self._writer = SummaryWriter(str(folder / "tensorboard"))

    def write(self, metrics: dict[str, float]) -> None:
        """Append one step's metrics; they are in the file when this returns."""
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(metrics) + "\n")
        if self._writer:
            for name, value in metrics.items():
                self._writer.add_scalar(name, value, metrics["step"])
            self._writer.flush()

    def forget_after(self, step: int) -> None:
        """Drop the lines of later steps, which a resumed run will write again."""
        lines = [json.dumps(metrics) for metrics in read_metrics(self.path) if metrics["step"] <= step]
        replace_file(self.path, "".join(line + "\n" for line in lines).encode("utf-8"))


def read_metrics(path: Path) -> list[dict[str, float]]:
    """Read a ``metrics.jsonl``; a last line that a killed process left unfinished is skipped."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    whole = [line for line in lines if line.endswith("}")]
    return [json.loads(line) for line in whole]
