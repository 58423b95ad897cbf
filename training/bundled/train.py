"""Trains the bundled base model from nothing, on problems it generates, by a curriculum of size.

    python training/bundled/train.py --out runs/bundled --steps 6000

Every number that decides the result is in `recipe.py`. A run that is stopped goes on where its last
checkpoint was; `train.jsonl` beside it holds one line for each logged step. Knows nothing of
forgetting: what comes out is an ordinary Hugging Face folder.
"""

import argparse
import json
import random
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from recipe import Recipe, build_model, build_optimizers, set_rates
from tokenizers import Tokenizer
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedTokenizerFast, Qwen3ForCausalLM

from snello.bundled.problems import Kind, Problem, Size, answer_of, is_right, pose
from snello.bundled.tokenizer import CHAT_TEMPLATE, build_tokenizer


@dataclass
class Progress:
    """Where a run stands."""

    reach: float
    step: int = 0
    smooth: float = 3.0
    """Smoothed loss on the replies."""

    num_problems: int = 0
    """Seeds used so far; the next problem gets this one."""

    started: float = field(default_factory=time.time)


def draw_batch(recipe: Recipe, progress: Progress) -> list[Problem]:
    """Problems of one size, so that padding is small."""
    dice, reach = random.Random(f"{recipe.seed}/{progress.step}"), progress.reach
    num_steps = 2 + int(dice.random() * (1 + reach * 52))
    size = Size(num_steps, num_steps + dice.randint(1, 4), 16 + int(dice.random() * reach * 950))
    level = 1 + int(dice.random() * (1 + 5 * reach) * 0.999)
    ledger_share = 1.0 if reach < recipe.puzzles_from else recipe.ledger_share
    num_tokens = 13 * num_steps + size.filler_words + 24
    problems = []
    for number in range(-(-recipe.tokens_per_step // num_tokens)):
        kind: Kind = "ledger" if dice.random() < ledger_share else "chain_sum"
        seed = progress.num_problems + number
        problems.append(pose(kind, level=level, seed=seed, size=size))
    return problems


def encode(
    tokenizer: Tokenizer, problems: list[Problem], prompt_weight: float
) -> tuple[Tensor, Tensor]:
    """Return token ids (B, T) padded with 0 on the right, and the weight of each as a target."""
    rows, weights = [], []
    for problem in problems:
        prompt = tokenizer.encode(f"<|user|>{problem.question}<|end|><|assistant|><think>").ids
        reply = tokenizer.encode(f"{problem.reply}<|end|>").ids
        rows.append(torch.tensor(prompt + reply))
        weights.append(torch.tensor([prompt_weight] * len(prompt) + [1.0] * len(reply)))
    pad = torch.nn.utils.rnn.pad_sequence
    return pad(rows, batch_first=True), pad(weights, batch_first=True)


def loss_of(model: Qwen3ForCausalLM, ids: Tensor, weights: Tensor) -> tuple[Tensor, Tensor]:
    """Weighted next-token loss, and the plain loss on the replies alone."""
    logits = model(input_ids=ids[:, :-1], use_cache=False).logits.float()
    loss = functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten(), reduction="none")
    weights = weights[:, 1:].flatten()
    return (loss * weights).sum() / weights.sum(), loss[weights == 1.0].mean()


@torch.no_grad()
def probe(model: Qwen3ForCausalLM, tokenizer: Tokenizer, level: int, count: int = 24) -> float:
    """Share of fresh ledger problems answered right at temperature 0.8."""
    model.eval()
    right = 0
    for problem in (pose("ledger", level=level, seed=10**8 + i) for i in range(count)):
        prompt = tokenizer.encode(f"<|user|>{problem.question}<|end|><|assistant|><think>").ids
        out = model.generate(
            torch.tensor([prompt]), max_new_tokens=480, do_sample=True, temperature=0.8, top_k=0
        )
        right += is_right(problem, answer_of(tokenizer.decode(out[0, len(prompt) :].tolist())))
    model.train()
    return right / count


def save_model(folder: Path, model: Qwen3ForCausalLM, tokenizer: Tokenizer) -> None:
    """Write an ordinary Hugging Face folder."""
    model.save_pretrained(folder)
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        eos_token="<|end|>",
        pad_token="<|pad|>",
        unk_token="<|unk|>",
        chat_template=CHAT_TEMPLATE,
        model_max_length=2048,
        clean_up_tokenization_spaces=False,
    ).save_pretrained(folder)


class Run:
    """One training run and its folder."""

    def __init__(self, folder: Path, recipe: Recipe, num_steps: int) -> None:
        torch.manual_seed(recipe.seed)
        self.folder, self.recipe, self.num_steps = folder, recipe, num_steps
        self.tokenizer = build_tokenizer()
        self.model = build_model(recipe, self.tokenizer.get_vocab_size())
        self.optimizers = build_optimizers(self.model, recipe)
        self.progress = Progress(reach=recipe.first_reach)
        folder.mkdir(parents=True, exist_ok=True)
        described = asdict(recipe) | {"steps": num_steps}
        (folder / "recipe.json").write_text(json.dumps(described, indent=1) + "\n")
        if (folder / "state.pt").exists():
            self.restore(torch.load(folder / "state.pt", weights_only=True))

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a saved state."""
        self.model.load_state_dict(state["model"])
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
        self.progress = Progress(
            reach=state["reach"],
            step=state["step"],
            smooth=state["smooth"],
            num_problems=state["seed"],
        )

    def take_step(self) -> None:
        """Draw a batch, follow its gradient, and move the curriculum."""
        recipe, progress = self.recipe, self.progress
        problems = draw_batch(recipe, progress)
        ids, weights = encode(self.tokenizer, problems, recipe.prompt_weight)
        set_rates(self.optimizers, recipe, progress.step, self.num_steps)
        with torch.autocast("cpu", torch.bfloat16):
            loss, reply_loss = loss_of(self.model, ids, weights)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad()
        progress.step += 1
        progress.num_problems += len(problems)
        progress.smooth = 0.9 * progress.smooth + 0.1 * reply_loss.item()
        if progress.smooth < recipe.curriculum_bar:
            progress.reach = min(1.0, progress.reach + recipe.curriculum_step)

    def log(self) -> None:
        """Append a line to train.jsonl; half way and at the end with answers to fresh problems."""
        progress = self.progress
        row: dict[str, float] = {
            "step": progress.step,
            "reach": round(progress.reach, 3),
            "loss": round(progress.smooth, 4),
            "num_problems": progress.num_problems,
            "seconds": round(time.time() - progress.started, 1),
        }
        if progress.step in (self.num_steps // 2, self.num_steps):
            row |= {f"right_at_level_{level}": self.probe(level) for level in (1, 6)}
        with (self.folder / "train.jsonl").open("a") as file:
            file.write(json.dumps(row) + "\n")
        print(row, flush=True)

    def probe(self, level: int) -> float:
        """Share of fresh problems of one level answered right."""
        return probe(self.model, self.tokenizer, level)

    def save(self) -> None:
        """Write the model, and all that is needed to go on."""
        save_model(self.folder / "model", self.model, self.tokenizer)
        state = {
            "model": self.model.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "step": self.progress.step,
            "reach": self.progress.reach,
            "smooth": self.progress.smooth,
            "seed": self.progress.num_problems,
        }
        temporary = self.folder / "state.tmp"
        torch.save(state, temporary)
        temporary.replace(self.folder / "state.pt")


def main() -> None:
    """Train until `--steps`, with a log line every 50 steps and a checkpoint every 250."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=6000)
    parser.add_argument("--threads", type=int, default=2)
    flags = parser.parse_args()
    torch.set_num_threads(flags.threads)
    run = Run(flags.out, Recipe(), flags.steps)
    while run.progress.step < run.num_steps:
        run.take_step()
        if run.progress.step % 50 == 0:
            run.log()
        if run.progress.step % 250 == 0 or run.progress.step == run.num_steps:
            run.save()


if __name__ == "__main__":
    main()
