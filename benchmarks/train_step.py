r"""One MAE training step (forward, backward, AdamW): ours, the textbook algorithm, Hugging Face's.

ViT-B in fp32 on one CPU thread, batch 8, and ViT-L in bf16 on a GPU:

    python benchmarks/train_step.py
    python benchmarks/train_step.py --device cuda --compile --precision bf16 \
        --model vit_large_patch16_224 --batch 256

Same weights, same images, same masks, same optimizer; steps interleaved, so that a busy machine slows all of
them. Time is the median of the rounds: wall on a GPU (synchronised), CPU time per thread on a CPU. The ratio
is the median over rounds of the textbook's time by its own. FLOPs are counted on meta tensors, forward and
backward; the peak is a large matrix product of the same precision, measured here and now.
"""

import argparse
import copy
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from mae_peers import HuggingFace, Textbook
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from mae.methods import METHODS
from mae.methods.mae import MAE
from mae.models.masking import masking
from mae.models.vit import build


class Ours(nn.Module):
    """The project's method, loss alone."""

    def __init__(self, method: MAE) -> None:
        super().__init__()
        self.method = method

    def forward(self, images: Tensor, noise: Tensor) -> Tensor:
        return self.method(images, noise)["loss"]


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="vit_base_patch16_224")
    parser.add_argument("--img-size", type=int, default=224)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=7, help="measured rounds, after --warmup")
    parser.add_argument("--warmup", type=int, default=2)
    parser.add_argument("--mask-ratio", type=float, default=0.75)
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--precision", default="fp32", choices=["fp32", "bf16"])
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads")
    parser.add_argument("--without", nargs="*", default=[], choices=["textbook", "hugging face"])
    parser.add_argument("--out", type=Path, help="append the table to this Markdown file")
    return parser.parse_args()


def flops(contestant: Callable[[str], nn.Module], options: argparse.Namespace) -> float:
    """FLOPs of one image, forward and backward."""
    with torch.device("meta"):
        module = contestant("meta")
        side = options.img_size
        images, noise = torch.randn(1, 3, side, side), torch.rand(1, module.method.noise_shape[0])
        with FlopCounterMode(display=False) as counter:
            module(images, noise).backward()
    return counter.get_total_flops()


def clock(device: str, threads: int) -> float:
    """Seconds: wall on a GPU, CPU time per thread on a CPU (a neighbour's load does not count)."""
    if device == "cuda":
        torch.cuda.synchronize()
        return time.perf_counter()
    return time.process_time() / threads


def peak(device: str, dtype: torch.dtype, threads: int) -> float:
    """FLOP/s of a large matrix product, the best of several."""
    side = 8192 if device == "cuda" else 1536
    a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    best = float("inf")
    for _ in range(8):
        begin = clock(device, threads)
        a @ b
        best = min(best, clock(device, threads) - begin)
    return 2 * side**3 / best


def step(
    module: nn.Module, optimizer: torch.optim.Optimizer, inputs: tuple, options: argparse.Namespace
) -> Tensor:
    with torch.autocast(options.device, torch.bfloat16, enabled=options.precision == "bf16"):
        loss = module(*inputs)
    loss.backward()
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return loss.detach()


def measure(modules: dict[str, nn.Module], options: argparse.Namespace) -> dict[str, list[float]]:
    """Seconds of every round, by contestant; raises where their losses on one batch are not the same."""
    side, device = options.img_size, options.device
    length = modules["ours"].method.noise_shape[0]
    inputs = (
        torch.randn(options.batch, 3, side, side, device=device),
        torch.rand(options.batch, length, device=device),
    )
    with torch.no_grad():
        losses = {name: module.to(device)(*inputs).item() for name, module in modules.items()}
    if max(losses.values()) - min(losses.values()) > 1e-3:
        raise SystemExit(f"not the same model: {losses}")
    print(f"loss on the first batch: {losses}", flush=True)
    optimizers = {
        name: torch.optim.AdamW(
            [p for p in module.parameters() if p.requires_grad], lr=1e-4, betas=(0.9, 0.95), fused=True
        )
        for name, module in modules.items()
    }
    if options.compile:
        modules = {name: torch.compile(module) for name, module in modules.items()}
    seconds: dict[str, list[float]] = {name: [] for name in modules}
    names = list(modules)
    for number in range(options.warmup + options.rounds):
        for name in names[number % len(names) :] + names[: number % len(names)]:
            begin = clock(device, options.threads)
            step(modules[name], optimizers[name], inputs, options)
            taken = clock(device, options.threads) - begin
            if number >= options.warmup:
                seconds[name].append(taken)
        print(f"round {number + 1}", flush=True)
    return seconds


def main() -> None:
    options = parse()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    torch.set_float32_matmul_precision("highest")

    def ours(device: str) -> Ours:
        with torch.device(device):
            vit = build(options.model, img_size=options.img_size)
            return Ours(
                METHODS["mae"](vit, masking=masking("random", vit.patch_embed.grid_size, options.mask_ratio))
            )

    makers: dict[str, Callable[[str], nn.Module]] = {"ours": ours}
    makers["textbook"] = lambda device: Textbook(ours(device).method, options.mask_ratio)
    work = {name: flops(maker, options) for name, maker in makers.items()}
    work["hugging face"] = work["textbook"]  # the same algorithm
    modules: dict[str, nn.Module] = {"ours": ours("cpu")}
    if "textbook" not in options.without:
        modules["textbook"] = Textbook(copy.deepcopy(modules["ours"].method), options.mask_ratio)
    if "hugging face" not in options.without:
        modules["hugging face"] = HuggingFace(modules["ours"].method, options.mask_ratio)
    seconds = measure(modules, options)
    top = peak(
        options.device, torch.bfloat16 if options.precision == "bf16" else torch.float32, options.threads
    )
    report(seconds, work, top, options)


def report(
    seconds: dict[str, list[float]], work: dict[str, float], top: float, options: argparse.Namespace
) -> None:
    machine = (
        torch.cuda.get_device_name() if options.device == "cuda" else f"CPU, {options.threads} thread(s)"
    )
    lines = [
        f"### {options.model} at {options.img_size}, {options.precision}, batch {options.batch}"
        f"{', compiled' if options.compile else ''}",
        f"{machine} ({platform.machine()}); torch {torch.__version__}; {options.rounds} interleaved rounds; "
        f"measured matrix-product peak {top / 1e12:.3f} TFLOP/s",
        "",
        "| | ms per step | images/s | times the textbook's speed | GFLOP per image | share of peak |",
        "|---|---|---|---|---|---|",
    ]
    base = seconds.get("textbook", seconds["ours"])
    for name, taken in seconds.items():
        middle = statistics.median(taken)
        ratio = statistics.median([b / own for b, own in zip(base, taken, strict=True)])
        share = work[name] * options.batch / middle / top
        lines.append(
            f"| {name} | {middle * 1e3:.1f} | {options.batch / middle:.2f} | {ratio:.3f} "
            f"| {work[name] / 1e9:.1f} | {share:.0%} |"
        )
    print("\n".join(lines))
    if options.out:
        with options.out.open("a") as file:
            file.write("\n".join(lines) + "\n\n")


if __name__ == "__main__":
    main()
