"""Train ``tiny-bytes``: a RoPE Llama over bytes that takes a few CPU-minutes, for fast tests.

    python tools/train_tiny_bytes.py

reads *Emma*, trains at a context of 256 bytes and writes the model's folder with the loss along the
way, on the text and on *Persuasion*, which it never learns from. The same steps, seed and threads
give the same weights on the same machine.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import altair as alt
import torch
import transformers
import vl_convert
from safetensors.torch import save_file
from torch import Tensor
from torch.nn.functional import cross_entropy
from transformers import LlamaConfig, LlamaForCausalLM

from ctxsweep.report import theme

PACKAGE = Path(__file__).resolve().parents[1] / "harness" / "ctxsweep"
TEXTS = PACKAGE / "quality" / "texts"
OUT = PACKAGE / "models" / "trained" / "tiny-bytes"
Curve = list[tuple[int, float, float]]
"""Step, loss of the text since the last point, loss of the held-out text; nats a byte."""

MODEL = {
    "vocab_size": 256,
    "hidden_size": 256,
    "intermediate_size": 704,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "max_position_embeddings": 256,
    "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0},
    "tie_word_embeddings": False,
    "bos_token_id": None,
    "eos_token_id": None,
}


@dataclass(frozen=True)
class Settings:
    """How the model is trained; AdamW, a linear warm-up, then half a cosine down to a tenth."""

    text: str = "emma"
    held_out: str = "persuasion"
    steps: int = 500
    batch: int = 8
    context: int = 256
    learning_rate: float = 1e-3
    warmup_steps: int = 40
    weight_decay: float = 2.5  # one novel is soon known by heart
    clip_norm: float = 1.0
    seed: int = 5
    point_steps: int = 25
    held_out_windows: int = 64


def read_bytes(name: str) -> Tensor:
    """The bytes of a text ``[T]``, int64."""
    return torch.frombuffer(
        bytearray((TEXTS / f"{name}.txt").read_bytes()), dtype=torch.uint8
    ).long()


def batches(text: Tensor, settings: Settings) -> Iterator[Tensor]:
    """Windows ``[batch, context + 1]`` without end: every byte once, then again, cut elsewhere."""
    random = torch.Generator().manual_seed(settings.seed)
    size = settings.context
    while True:
        start = int(torch.randint(size, (), generator=random))
        windows = text[start:].unfold(0, size + 1, size)
        order = torch.randperm(len(windows), generator=random)
        for chosen in order.split(settings.batch):
            if len(chosen) == settings.batch:
                yield windows[chosen]


def held_out_windows(text: Tensor, settings: Settings) -> Tensor:
    """Windows ``[held_out_windows, context + 1]`` at equal distances."""
    windows = text.unfold(0, settings.context + 1, settings.context)
    stride = len(windows) // settings.held_out_windows
    return windows[::stride][: settings.held_out_windows]


def mean_loss(model: LlamaForCausalLM, windows: Tensor) -> Tensor:
    """Mean nats a byte of ``windows`` ``[n, T + 1]``, every byte but the first a target."""
    with torch.autocast("cpu", torch.bfloat16):
        logits = model(windows[:, :-1], use_cache=False).logits
    return cross_entropy(logits.float().flatten(0, 1), windows[:, 1:].flatten())


@torch.inference_mode()
def evaluate(model: LlamaForCausalLM, windows: Tensor) -> float:
    """``mean_loss`` of many windows of one length."""
    parts = [mean_loss(model, part).item() * len(part) for part in windows.split(16)]
    return sum(parts) / len(windows)


def learning_rate(step: int, settings: Settings) -> float:
    """The rate of a step, counted from 0."""
    if step < settings.warmup_steps:
        return settings.learning_rate * (step + 1) / settings.warmup_steps
    done = (step - settings.warmup_steps) / max(1, settings.steps - settings.warmup_steps)
    return settings.learning_rate * (0.55 + 0.45 * math.cos(math.pi * done))


def optimiser(model: LlamaForCausalLM, settings: Settings) -> torch.optim.AdamW:
    """AdamW that decays matrices and leaves the norms' gains alone."""
    matrices = [p for p in model.parameters() if p.ndim > 1]
    gains = [p for p in model.parameters() if p.ndim <= 1]
    groups = [{"params": matrices}, {"params": gains, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, betas=(0.9, 0.95), weight_decay=settings.weight_decay)


def train(settings: Settings) -> tuple[LlamaForCausalLM, Curve]:
    """The trained model, rounded to bfloat16 and held in float32, and its curve."""
    torch.manual_seed(settings.seed)
    model = LlamaForCausalLM(LlamaConfig(**MODEL))
    stream = batches(read_bytes(settings.text), settings)
    held_out = held_out_windows(read_bytes(settings.held_out), settings)
    optimizer = optimiser(model, settings)
    curve: Curve = []
    since: list[float] = []
    for step in range(settings.steps):
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, settings)
        loss = mean_loss(model, next(stream))
        since.append(loss.item())
        if step == 0:
            curve.append((0, since[0], evaluate(model, held_out)))
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), settings.clip_norm)
        optimizer.step()
        optimizer.zero_grad()
        last = step + 1 == settings.steps
        if last:
            for weight in model.parameters():  # the last point is of the weights as they are stored
                weight.data = weight.data.bfloat16().float()
        if last or (step + 1) % settings.point_steps == 0:
            curve.append((step + 1, sum(since) / len(since), evaluate(model, held_out)))
            print("step {:4d}  train {:.4f}  held out {:.4f}".format(*curve[-1]), flush=True)
            since = []
    return model, curve


def draw(curve: Curve, settings: Settings, path: Path) -> None:
    """The curve as a PNG."""
    names = {settings.text: 1, f"{settings.held_out} (held out)": 2}
    rows = [
        {"step": point[0], "loss": point[column], "text": name}
        for point in curve
        for name, column in names.items()
    ]
    colour = alt.Scale(domain=list(names), range=list(theme.LIGHT.series[:2]))
    chart = (
        alt.Chart(alt.InlineData(values=rows), width=720, height=360)
        .mark_line(point=True)
        .encode(
            x=alt.X("step:Q", title=f"steps of {settings.batch} × {settings.context} bytes"),
            y=alt.Y("loss:Q", title="loss (nats per byte)", scale=alt.Scale(zero=False)),
            color=alt.Color("text:N", title=None, scale=colour, legend=alt.Legend(orient="top")),
            strokeDash=alt.StrokeDash("text:N", legend=None, sort=list(names)),
        )
        .properties(title="tiny-bytes: loss while it was trained")
    )
    config = theme.vega_config(theme.LIGHT, theme.STATIC_FONT)
    path.write_bytes(
        vl_convert.vegalite_to_png(chart.to_dict(), scale=2, config=config, allowed_base_urls=[])
    )


def write(model: LlamaForCausalLM, folder: Path) -> None:
    """The weights in bfloat16 and the configuration, as transformers reads them."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = {n: t.bfloat16().contiguous() for n, t in model.state_dict().items()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    model.config.dtype = torch.bfloat16
    model.config.architectures = ["LlamaForCausalLM"]
    model.config.save_pretrained(folder)
    (folder / "tokenizer_config.json").write_text('{"ctxsweep_tokenizer": "bytes"}\n')


def write_record(curve: Curve, settings: Settings, cpu_seconds: float, folder: Path) -> None:
    """``training.json`` and ``training.png``."""
    record = {
        "settings": asdict(settings),
        "sha256": {
            name: hashlib.sha256((TEXTS / f"{name}.txt").read_bytes()).hexdigest()
            for name in (settings.text, settings.held_out)
        },
        "versions": {"torch": torch.__version__, "transformers": transformers.__version__},
        "threads": torch.get_num_threads(),
        "cpu_seconds": round(cpu_seconds, 1),
        "curve": [[step, round(train, 5), round(held, 5)] for step, train, held in curve],
        "curve_columns": ["step", f"{settings.text} (nats per byte)", f"{settings.held_out}"],
    }
    (folder / "training.json").write_text(json.dumps(record, indent=1) + "\n")
    draw(curve, settings, folder / "training.png")


def main() -> None:
    """Train and write the folder."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=OUT, help="the folder (default: %(default)s)")
    parser.add_argument("--threads", type=int, default=1)
    for name in ("steps", "batch", "seed"):
        parser.add_argument(f"--{name}", type=int, default=getattr(Settings, name))
    asked = parser.parse_args()
    settings = Settings(steps=asked.steps, batch=asked.batch, seed=asked.seed)
    torch.set_num_threads(asked.threads)
    torch.use_deterministic_algorithms(True)
    start = time.process_time()
    model, curve = train(settings)
    seconds = time.process_time() - start
    write(model, asked.out)
    write_record(curve, settings, seconds, asked.out)
    print(f"{asked.out}: {seconds:.0f} CPU-seconds")


if __name__ == "__main__":
    main()
