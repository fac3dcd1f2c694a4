"""Fine-tune by itself: measure, search, train, measure again, report. What is done is noted, and not repeated."""

import json
import math
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import torch

from llama_minimal.checkpoint import save, save_adapter
from llama_minimal.files import replace_file
from llama_minimal.finetuning.asking import spread
from llama_minimal.finetuning.baselines import Majority, NaiveBayes, NearestPrompt
from llama_minimal.finetuning.grouping import answer_of, prompt_of
from llama_minimal.finetuning.material import Material, Say, bits_per_byte
from llama_minimal.finetuning.measuring import Measured
from llama_minimal.finetuning.report import render
from llama_minimal.finetuning.search import Arm, affordable_steps, arms, schedule, search
from llama_minimal.finetuning.state import ADAPTER, PAGE, REPORT, TRAINING, State, remove_training
from llama_minimal.finetuning.summary import (
    answers_summary,
    data_summary,
    forgetting_summary,
    repeat_command,
    sizes,
    training_summary,
    versions,
)
from llama_minimal.finetuning.trainings import VALIDATIONS, new_model, new_trainer, seconds_of, steps_per_epoch
from llama_minimal.lora import adapters, merge_and_unload
from llama_minimal.metrics import METRICS, read_metrics
from llama_minimal.model import Llama
from llama_minimal.settings import TuneConfig
from llama_minimal.training import Trainer, TrainingDivergedError

Runner = Callable[[Trainer, str], object]
"""Trains to the end, under a title; or raises, and then the tuning stops."""

_MOST_ASKED = {"labels": 1000, "pairs": 200, "chat": 200}  # examples of the test part that are measured
_MOST_GUESSES = 1000  # texts times labels for which the base model is asked before
_MOST_EPOCHS = 20
_ROOM = 0.95  # share of the minutes that may be planned


def run_to_the_end(trainer: Trainer, title: str) -> None:
    """Train without a word."""
    for _ in trainer.run():
        pass


class FineTuning:
    """Tune a model on examples in a folder, or go on where a former attempt stopped.

    Args:
        material: the base model and the examples.
        config: what is given, and how many minutes there are.
        state: of the folder.
        begun: what ``time.monotonic()`` was at the start.
        say: called with lines for the user.
        train: runs each training.
    """

    def __init__(
        self,
        material: Material,
        config: TuneConfig,
        state: State,
        *,
        begun: float | None = None,
        say: Say = lambda line: None,
        train: Runner = run_to_the_end,
    ) -> None:
        self.material, self.config, self.state, self.say, self.train = material, config, state, say, train
        self._begun = time.monotonic() if begun is None else begun
        self._spent = state.values["seconds"]  # by former attempts
        self._asked = spread(material.split.test, at_most=_MOST_ASKED[material.kind])
        self.arms = arms(
            material.kind, dim=material.base.config.dim, method=config.method, rank=config.rank, lr=config.lr
        )
        for arm in self.arms:  # so that what cannot be is refused before anything is written
            new_model(material, arm, seed=config.seed)

    def run(self) -> dict[str, Any]:
        """Do what is left to be done, write model and report values to the folder, and return the report.

        Raises:
            OSError: if something cannot be written.
            TrainingDivergedError: if the last training fails.
        """
        before = self._before()
        steps = self._steps()
        arm = self._search(steps)
        return self._finish(arm, steps, self._train(arm, steps), before)

    def note(self, **values: Any) -> None:
        """Note values in the folder, and for how long all has taken so far."""
        self.state.note(**values, seconds=self._seconds())

    def _seconds(self) -> float:
        return self._spent + time.monotonic() - self._begun

    def _before(self) -> list[Measured]:
        """Return what baselines and the base model answer to the examples of the test part."""
        if (found := self.state["before"]) is None:
            started = time.monotonic()
            measured = self._baselines()
            many = len(self._asked) * len(self.material.asking.labels)
            if many <= _MOST_GUESSES:
                measured.append(self._measure("the base model, untuned", "before", self.material.base))
            forgetting = bits_per_byte(self.material, self.material.base)
            found = {"measured": [asdict(one) for one in measured], "bits_per_byte": forgetting}
            self.note(before=found, measuring=time.monotonic() - started)
        measured = [
            Measured(**one | {"predictions": tuple(one["predictions"]), "scores": tuple(one["scores"])})
            for one in found["measured"]
        ]
        for one in measured:
            self.say(f"  {one.name}: {self.material.asking.metric} {one.mean:.1f}")
        return measured

    def _baselines(self) -> list[Measured]:
        train = self.material.split.train
        prompts, answers = [prompt_of(one) for one in train], [answer_of(one) for one in train]
        found = {"the most frequent answer": Majority(answers)}
        if self.material.task.labels:
            found["naive Bayes"] = NaiveBayes(prompts, answers)
        if self.material.kind != "labels":
            found["the answer to the nearest prompt"] = NearestPrompt(prompts, answers)
        asked = [prompt_of(one) for one in self._asked]
        return [self._scored(name, "baseline", one.predict(asked)) for name, one in found.items()]

    def _measure(self, name: str, kind: Any, model: Llama) -> Measured:
        return self._scored(name, kind, self.material.asking.ask(model, self._asked))

    def _scored(self, name: str, kind: Any, predictions: list[str]) -> Measured:
        scores = self.material.asking.score(predictions, self._asked)
        return Measured(name=name, kind=kind, predictions=tuple(predictions), scores=scores)

    def _steps(self) -> int:
        """Return the steps of the last training: as given, else what the time allows."""
        if self.config.steps:
            return self.config.steps
        if self.state["steps"] is None:
            per_step, per_validation = seconds_of(self.material, self.arms, self.config)
            steps = affordable_steps(
                len(self.arms),
                seconds=self.config.minutes * 60 * _ROOM - self._seconds() - 1.5 * self.state["measuring"],
                per_step=per_step,
                per_validation=per_validation,
                validations=VALIDATIONS,
                at_most=_MOST_EPOCHS * steps_per_epoch(self.material, self.arms[0]),
            )
            self.note(steps=steps)
        return self.state["steps"]

    def _search(self, steps: int) -> Arm:
        if len(self.arms) > 1:
            rounds = ", ".join(f"{n} for {short}" for n, short in schedule(len(self.arms), steps=steps))
            self.say(f"trying {len(self.arms)} ways to tune ({rounds} steps); the best gets {steps}")
        return search(self.arms, steps=steps, loss=self._loss)

    @property
    def _losses(self) -> dict[str, dict[str, float | None]]:
        """The lowest validation losses that are noted, by the name of the arm and its steps; None of what diverged."""
        return self.state.values["losses"]

    def _loss(self, arm: Arm, steps: int) -> float:
        """Return the lowest validation loss of an arm after so many steps; one that is noted is not trained again."""
        noted = self._losses.get(arm.name, {})
        if str(steps) not in noted:
            trainer = new_trainer(self.material, arm, steps, self.config)
            with torch.random.fork_rng():
                torch.manual_seed(self.config.seed)
                try:
                    self.train(trainer, arm.name)
                except TrainingDivergedError:
                    trainer.best.loss = None
            noted = noted | {str(steps): trainer.best.loss}
            self.note(losses=self._losses | {arm.name: noted})
        loss = noted[str(steps)]
        self.say(f"  {arm.name}, {steps} steps: " + ("diverged" if loss is None else f"validation loss {loss:.3f}"))
        return math.inf if loss is None else loss

    def _train(self, arm: Arm, steps: int) -> Trainer:
        """Train the arm that was chosen, with snapshots; return the trainer, whose model has the best weights."""
        self.say(f"training: {arm.name}, {steps} steps")
        out = self.state.folder / TRAINING
        trainer = new_trainer(self.material, arm, steps, self.config, out=out)
        with torch.random.fork_rng():
            torch.manual_seed(self.config.seed)
            if trainer.resume():
                self.say(f"went on at step {trainer.step} of {steps}")
            try:
                self.train(trainer, "training")
            finally:
                self.note()
        trainer.load_best()
        return trainer

    def _finish(self, arm: Arm, steps: int, trainer: Trainer, before: list[Measured]) -> dict[str, Any]:
        """Measure the tuned model, and write it and the report."""
        material, folder, model = self.material, self.state.folder, trainer.model.eval()
        self.say(f"asking the tuned model {len(self._asked):,} times")
        measured = [*before, self._measure("the tuned model", "tuned", model)]
        forgotten = bits_per_byte(material, model)
        n_trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
        self._save(model)
        command = self.state.values["command"]
        losses = {(name, n): loss for name, by_steps in self._losses.items() for n, loss in by_steps.items()}
        curve = read_metrics(folder / TRAINING / METRICS)
        report = {
            **answers_summary(material, self._asked, measured),
            "base": material.base_name,
            **training_summary(self.arms, losses, arm, steps, curve),
            "forgetting": forgetting_summary(material, self.state["before"]["bits_per_byte"], forgotten),
            "cost": {
                "minutes": self._seconds() / 60,
                "tokens": trainer.step * trainer.config.batch_size * trainer.config.seq_len,
                "parameters": sum(p.numel() for p in model.parameters()),
                "parameters_trained": n_trained,
                "bytes": sizes(folder),
            },
            "data": data_summary(material, command["sha256"]),
            "command": repeat_command(command, self.config, arm, steps),
            "versions": versions(),
        }
        replace_file(folder / REPORT, json.dumps(report, indent=1, ensure_ascii=False).encode("utf-8"))
        replace_file(folder / PAGE, render(report).encode("utf-8"))
        self.note(finished=True)
        remove_training(folder)
        return report

    def _save(self, model: Llama) -> None:
        """Write the model as one that ``load`` opens; an adapter for writing text also by itself."""
        if adapters(model):
            if not model.config.labels:
                save_adapter(model, self.state.folder / ADAPTER, base=self.material.base_name)
            merge_and_unload(model)
        save(model, self.state.folder, self.material.asking.tokenizer)
