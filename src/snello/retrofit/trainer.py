"""The retrofit from start to end: steps, losses, checkpoints, and going on after a stop.

Knows nothing of how a token is evicted or what a row holds. What a step does depends on the config,
the step's number and the weights alone, so that a resumed run ends where the other would have.
"""

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from snello import __version__
from snello.config.retrofit import RetrofitConfig
from snello.dms.loss import compression_loss
from snello.dms.schedule import Ramp
from snello.retrofit.batches import Batch, Plan
from snello.retrofit.fading import Fading
from snello.retrofit.journal import Journal, Row
from snello.retrofit.objective import Objective, Parts, Phase
from snello.retrofit.optimizer import build_optimizer, rate_share, set_rates
from snello.retrofit.planning import open_plan
from snello.retrofit.processes import Processes, join_processes
from snello.retrofit.runfolder import RunFolder, check_folder, open_folder, removed_on_failure
from snello.retrofit.state import collect_optimizer, collect_trained, restore
from snello.retrofit.stopping import StopRequest
from snello.retrofit.student import Student, build_student


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How a run ended."""

    folder: Path
    step: int
    """Steps done, over all starts of the run."""

    is_finished: bool
    """False after Ctrl-C: the same command goes on."""

    measured_factor: float = 1.0
    """Dense over live tokens at the ends of held-out rows, as decided at inference."""

    measured_kl: float = 0.0
    """Mean KL on the same rows, in nats."""

    num_trained: int = 0
    is_first: bool = True
    """Whether this is the process that speaks and writes."""


def run(
    config: RetrofitConfig,
    *,
    on_row: Callable[[Row], None] | None = None,
    origin: Mapping[str, str] | None = None,
) -> Outcome:
    """Retrofit a model, or go on with a run that was stopped.

    Args:
        config: all that decides the result.
        on_row: called with every logged row, in the first process.
        origin: what the adapter's card says of how it came about.

    Raises:
        ValueError: settings, base, data or folder that will not do; nothing has been written then.
        OSError: the disk is full; the last saved state stays.
    """
    check_folder(config)
    with join_processes(config) as processes:
        student = build_student(config, processes.device)
        plan = open_plan(config, student, num_processes=processes.count)
        trainer = Trainer(config, student, plan, processes)
        return trainer.run(on_row, origin or {})


class Trainer:
    """One start of a run. Invariant: after `step` steps the weights are those of step `step`."""

    def __init__(
        self, config: RetrofitConfig, student: Student, plan: Plan, processes: Processes
    ) -> None:
        self.config, self.student, self.plan, self.processes = config, student, plan, processes
        self.ramp = Ramp(
            factor=config.factor,
            ramp_steps=config.num_ramp_steps,
            total_steps=config.steps,
            warmup_steps=config.num_fade_steps,
        )
        self.fading = Fading(student.decoder)
        objective = Objective(student.decoder, student.teacher, config).to(processes.device)
        optimizer = build_optimizer(config, student.decision_parameters, student.body_parameters)
        self.num_trained = sum(p.numel() for p in objective.parameters() if p.requires_grad)
        self.objective, self.optimizer = processes.spread(objective, optimizer)
        self.step = 0
        self.origin: dict[str, str] = {}

    def run(self, on_row: Callable[[Row], None] | None, origin: Mapping[str, str]) -> Outcome:
        """Train to the end, or until Ctrl-C."""
        folder = self._open()
        self.origin = dict(origin)
        journal = Journal(folder, self.config, self.processes, on_row, step=self.step)
        with StopRequest() as stop, journal:
            while self.step < self.config.steps:
                started = time.perf_counter()
                row = self._take_step(stop)
                journal.add(replace(row, seconds=time.perf_counter() - started))
                if row.stops:
                    self._save_state(folder)
                    return self._outcome(folder, is_finished=False)
                self._save_due(folder)
        return self._finish(folder)

    def _open(self) -> RunFolder:
        """Open the folder in the first process, and go on from its state in all."""
        if self.processes.is_first:
            open_folder(self.config)
        self.processes.wait()
        folder = RunFolder(self.config.out)
        state = folder.read_state()
        if state is not None:
            restore(self.objective, self.optimizer, state)
            self.step = state["step"]
            self.fading.resume(self.ramp.fade_at(self.step - 1))
            if self.processes.is_first:
                folder.trim_log(self.step)
        return folder

    def _take_step(self, stop: StopRequest) -> Row:
        """Run one step and return what it measured, summed over processes."""
        batches = self._batches(self.step)
        weight = self.processes.add_up(torch.stack([b.weights.sum() for b in batches]).sum()[None])
        fade = self.ramp.fade_at(self.step)
        self.fading.set(fade, before=self.ramp.fade_at(self.step - 1) if self.step else 1.0)
        phase = Phase(self.step, evicts=fade == 0.0)
        set_rates(self.optimizer, rate_share(self.config, self.step))
        totals = torch.zeros(7, device=self.processes.device, dtype=torch.float64)
        for number, batch in enumerate(batches):
            is_last = number == len(batches) - 1
            with self.processes.accumulating(self.objective, is_last=is_last):
                parts: Parts = self.objective(batch, phase)
                loss, compression = self._weigh(parts, weight[0])
                self.processes.backward(loss)
            own = [*(part.detach() for part in parts), compression, batch.real.sum()]
            totals += torch.stack([value.double() for value in own])
        stops = torch.tensor([float(stop.is_asked)], device=totals.device, dtype=torch.float64)
        summed = self.processes.add_up(torch.cat([totals, stops]))
        norm = self._update(summed)
        self.step += 1
        return self._describe(summed, float(weight[0]), norm, bool(summed[-1]))

    def _weigh(self, parts: Parts, weight: Tensor) -> tuple[Tensor, Tensor]:
        """Return one micro batch's share of the loss, and of its compression term.

        Processes average their gradients, so every share is taken `count` times. The evicted mean
        is over the rows of all processes, with the gradient of the own rows.
        """
        count = self.processes.count
        distillation = parts.divergence * count / weight.clamp_min(1e-9)
        counted = torch.stack([parts.evictions.detach(), parts.num_decisions])
        summed = self.processes.add_up(counted)
        if not float(summed[1]):
            return distillation, torch.zeros_like(distillation)
        own = parts.evictions * count / summed[1]
        mean = own + (summed[0] / summed[1] - own).detach()
        term = compression_loss(mean, self.ramp.target_at(self.step)) / self.config.accumulation
        weighed = self.config.compression_weight * term
        return distillation + weighed, term.detach() / count

    def _update(self, summed: Tensor) -> float:
        """Apply the gradients.

        Raises:
            ValueError: they are not finite; the weights are then those of the step before.
        """
        trained = [p for p in self.objective.parameters() if p.requires_grad]
        norm = self.processes.clip(trained, self.config.clip_norm)
        if not (math.isfinite(norm) and bool(torch.isfinite(summed).all())):
            raise ValueError(
                f"the loss of step {self.step} is not finite (divergence {float(summed[0]):.3g}, "
                f"gradient norm {norm:.3g}); {self.config.out} keeps the last good checkpoint. "
                "Start again with a lower --learning-rate and another --out."
            )
        self.optimizer.step()
        self.optimizer.zero_grad()
        return norm

    def _batches(self, step: int) -> list[Batch]:
        """Return this process's micro batches of a step."""
        rows, device = self.config.rows, self.processes.device
        firsts = [
            (micro * self.processes.count + self.processes.rank) * rows
            for micro in range(self.config.accumulation)
        ]
        return [self.plan.batch(step, range(first, first + rows)).to(device) for first in firsts]

    def _describe(self, summed: Tensor, weight: float, norm: float, stops: bool) -> Row:
        divergence, evictions, decisions, dense, live, compression, tokens, _ = summed.tolist()
        kl = divergence / max(weight, 1e-9)
        return Row(
            step=self.step,
            loss=kl + self.config.compression_weight * compression,
            kl=kl,
            compression=compression,
            factor=self.ramp.factor_at(self.step - 1),
            target=self.ramp.target_at(self.step - 1),
            kept_fraction=1.0 - evictions / decisions if decisions else 1.0,
            measured_factor=dense / live if live else 1.0,
            gradient_norm=norm,
            learning_rate=self.optimizer.param_groups[0]["lr"],
            num_tokens=int(tokens),
            stops=stops,
        )

    def _save_due(self, folder: RunFolder) -> None:
        """Write what is due after the step just taken: a factor's checkpoint, the state."""
        if self.step < self.config.steps:
            for whole, step in self.ramp.steps_of_whole_factors().items():
                if step == self.step - 1:
                    self._save_model(folder.path / f"factor-{whole}", float(whole))
        if self.step % self.config.save_every_steps == 0 or self.step == self.config.steps:
            self._save_state(folder)

    def _save_state(self, folder: RunFolder) -> None:
        trained = collect_trained(self.objective)
        optimizer = collect_optimizer(self.objective, self.optimizer)
        if self.processes.is_first:
            folder.write_state({"step": self.step, "trained": trained, "optimizer": optimizer})
        self.processes.wait()

    def _save_model(self, path: Path, factor: float) -> tuple[float, float]:
        """Measure the model as it decides at inference, and write it; return factor and KL."""
        measured = self._measure()
        trained = collect_trained(self.objective)
        if self.processes.is_first:
            card = self.student.describe(self._provenance(*measured), factor=factor)
            with removed_on_failure(path):
                self.student.save(path, card, trained)
        self.processes.wait()
        return measured

    @torch.no_grad()
    def _measure(self) -> tuple[float, float]:
        """Return factor and KL under hard decisions, on the rows that follow the last step's."""
        sums = torch.zeros(6, device=self.processes.device, dtype=torch.float64)
        for batch in self._batches(self.config.steps):
            parts: Parts = self.objective(
                batch, Phase(self.config.steps, evicts=True, is_hard=True)
            )
            sums += torch.stack([value.double() for value in (*parts, batch.weights.sum())])
        divergence, _, _, dense, live, weight = self.processes.add_up(sums).tolist()
        return dense / max(live, 1.0), divergence / max(weight, 1e-9)

    def _provenance(self, factor: float, kl: float) -> dict[str, Any]:
        config = self.config
        source = "replies of the base, " if config.replies == "base" else ""
        return {
            "snello_version": __version__,
            "data": source + config.data,
            "mixture": asdict(config.mixture) if config.data == "bundled" else None,
            "train": config.train,
            "step": self.step,
            "steps": config.steps,
            "seed": config.seed,
            "measured_factor": round(factor, 4),
            "measured_kl_nats": round(kl, 6),
            "origin": self.origin,
        }

    def _finish(self, folder: RunFolder) -> Outcome:
        factor, kl = self._save_model(folder.path, self.config.factor)
        return replace(
            self._outcome(folder, is_finished=True), measured_factor=factor, measured_kl=kl
        )

    def _outcome(self, folder: RunFolder, *, is_finished: bool) -> Outcome:
        return Outcome(
            folder=folder.path,
            step=self.step,
            is_finished=is_finished,
            num_trained=self.num_trained,
            is_first=self.processes.is_first,
        )
