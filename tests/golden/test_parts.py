"""Goldens of parts that no tiny run shows well: defaults, patches, figures, schedules, masks."""

import random
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import torch
from evaluation.detection.detections import imperfect, scene
from golden import trees
from golden.bench import Bench, digest, sums
from golden.frame import ONE_PASS, TRAINED, Case, Values, golden_test
from torch import nn

from mae.data.loading.seeding import seed_generators
from mae.engine.loop import FitOptions, fit
from mae.engine.optim import adamw, lars, sgd
from mae.engine.schedule import scaled_lr, warmup_cosine, warmup_linear, warmup_multistep
from mae.evaluation.classification.classifier import build_classifier
from mae.evaluation.classification.heads import AttentiveHead, linear_head, probe_head
from mae.evaluation.classification.imagenet_variants import (
    ALEXNET_ERRORS,
    corruption_errors,
    mean_corruption_error,
)
from mae.evaluation.classification.mixing import Mixing
from mae.evaluation.classification.protocols import PROTOCOLS, Recipe, make_optimizer
from mae.evaluation.confidence import (
    bootstrap_interval,
    paired_gain,
    paired_statistic_gain,
    statistic_interval,
)
from mae.evaluation.detection.ap_records import ResampledAP, paired_ap, resampled_ap
from mae.evaluation.detection.coco_ap import evaluate_detections
from mae.evaluation.representation.attention_maps import attention_maps, centre_share
from mae.evaluation.representation.nearest_neighbours import knn_votes
from mae.evaluation.representation.projection import project
from mae.evaluation.segmentation.iou import iou_figures, paired_miou, pixel_counts, resampled_miou
from mae.interchange.checkpoint_files import save_encoder
from mae.interchange.convert import convert
from mae.interchange.import_export import export, import_
from mae.methods import METHODS
from mae.methods.pictures import pictures
from mae.models import vit as encoders
from mae.models.colours import ColourBins, spread_tiles, tile_colours
from mae.models.detection.detector import build_detector
from mae.models.hog import hog
from mae.models.masking import MASKINGS, masking
from mae.models.patches import (
    normalise,
    patchify,
    pixels_at,
    put,
    sincos_positions,
    take,
    unnormalise,
    unpatchify,
)
from mae.models.pca import Moments, PatchPCA
from mae.models.segmentation.segmenter import build_segmenter
from mae.models.segmentation.sliding_window import most_likely, slide, window_starts
from mae.models.targets import build_target
from mae.randomness import seed_process
from mae.registry.gate import decide, decide_gain

SMALL: dict[str, Any] = {
    "name": "vit_tiny_patch16_224",
    "img_size": 32,
    "patch_size": 8,
    "embed_dim": 32,
    "depth": 4,
    "num_heads": 2,
}
TRAININGS = ("tokenizer", "pretrain", "linear", "attentive", "partial", "finetune", "scratch")
DENSE = ("detect", "segment")
EVALUATIONS = ("knn", "linear", "attentive", "partial", "finetune", "scratch")


def drawn(*shape: int, seed: int = 0) -> torch.Tensor:
    """Numbers of mean 0 and variance 1, the same on every machine."""
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape)).float()


def images(count: int = 2, side: int = 32) -> torch.Tensor:
    """Pictures (N, 3, side, side), roughly normalised."""
    pictures_ = [torch.from_numpy(trees.pixels(seed, side, side)) for seed in range(count)]
    return torch.stack(pictures_).permute(0, 3, 1, 2).float() / 64 - 2


def filled(module: nn.Module, scale: float = 0.2) -> nn.Module:
    """The module with weights that do not depend on how it is initialised; norms stay near one."""
    with torch.no_grad():
        for number, parameter in enumerate(module.parameters()):
            base = 1.0 if parameter.ndim == 1 and float(parameter.mean()) > 0.5 else 0.0
            parameter.copy_(base + scale * drawn(*parameter.shape, seed=number))
    return module


def vit(**changed: Any) -> Any:
    return filled(encoders.build(**{**SMALL, **changed})).eval()


def schedules(_: Bench) -> Values:
    """Rates of each schedule over its steps."""
    steps = range(23)
    cosine = partial(warmup_cosine, peak=2.0, floor=0.1, warmup=5, total=20)
    linear = partial(warmup_linear, peak=2.0, floor=0.1, warmup=5, total=20)
    multistep = partial(warmup_multistep, peak=2.0, milestones=(10, 15), warmup=5)
    return {
        "cosine": [cosine(step) for step in steps],
        "cosine_by_default": [warmup_cosine(step, peak=1.0, total=10) for step in range(11)],
        "linear": [linear(step) for step in steps],
        "linear_by_default": [warmup_linear(step, peak=1.0, total=10) for step in range(11)],
        "multistep": [multistep(step) for step in steps],
        "scaled": [scaled_lr(0.5, 64), scaled_lr(1.5e-4, 4096)],
    }


def groups_of(name: str, optimizer: torch.optim.Optimizer) -> Values:
    """Return the settings of an optimizer's groups, and the count of numbers in each."""
    rows = []
    for group in optimizer.param_groups:
        momenta = group.get("betas", (group.get("momentum", 0.0),))
        count = sum(parameter.numel() for parameter in group["params"])
        rows.append(([group.get("weight_decay", 0.0), group.get("lr_scale", 1.0), *momenta], count))
    return {
        name: [float(number) for settings, _ in sorted(rows) for number in settings],
        f"{name}.sizes": [count for _, count in sorted(rows)],
    }


def optimizers(_: Bench) -> Values:
    """Groups of each optimizer, their defaults, and where three steps of each lead."""
    detector, segmenter = _detector(), _segmenter("upernet")
    method = METHODS["mae"](
        encoders.build(**SMALL), decoder_embed_dim=16, decoder_depth=1, decoder_num_heads=2
    )
    found: Values = {
        **groups_of("pretraining", adamw(method, lr=1.0)),
        **groups_of("detector", adamw(detector, lr=1.0, layer_decay=0.7)),
        **groups_of("segmenter", adamw(segmenter, lr=1.0, layer_decay=0.7)),
    }
    for name in PROTOCOLS:
        classifier = build_classifier(name, SMALL, 5, blocks=1.5 if name == "partial" else None)
        recipe = Recipe(weight_decay=0.0) if PROTOCOLS[name].optimizer == "lars" else Recipe()
        found |= groups_of(name, make_optimizer(PROTOCOLS[name].optimizer, classifier, recipe, 0.1))
    for name, make in (
        ("adamw", partial(adamw, lr=0.1)),
        ("lars", partial(lars, lr=3.0)),
        ("sgd", partial(sgd, lr=0.1, weight_decay=0.1)),
    ):
        layer = filled(nn.Linear(4, 3))
        optimizer = make(layer)
        for _step in range(3):
            optimizer.zero_grad()
            layer(drawn(5, 4)).square().mean().backward()
            optimizer.step()
        found[f"{name}.steps"] = torch.cat([p.detach().flatten() for p in layer.parameters()]).tolist()
    return found


def confidence(_: Bench) -> Values:
    """Bootstrap intervals of means and of other statistics."""
    ours, theirs = (np.random.default_rng(seed).random(80) < 0.6 for seed in (1, 2))
    numbers = np.random.default_rng(3).normal(size=40)

    def middle(rows: np.ndarray) -> float:
        return float(np.median(numbers[rows]))

    return {
        "mean": list(bootstrap_interval(ours)),
        "mean_seeded": list(bootstrap_interval(numbers, confidence=0.8, resamples=500, seed=4)),
        "gain": list(paired_gain(ours, theirs)),
        "statistic": list(statistic_interval(middle, 40)),
        "statistic_seeded": list(statistic_interval(middle, 40, confidence=0.8, resamples=200, seed=4)),
        "paired": list(paired_statistic_gain(lambda rows: (middle(rows), middle(rows) / 2), 40)),
    }


def gate(_: Bench) -> Values:
    """Decisions on challengers: clearly better, hardly better, equal, first of all."""
    draw = np.random.default_rng(0)
    champion = draw.random(400) < 0.5
    found: Values = {}
    for name, share in (("better", 0.7), ("hardly", 0.53), ("worse", 0.3)):
        challenger = np.where(draw.random(400) < 0.7, draw.random(400) < share, champion)
        decision = decide(challenger, champion, min_gain=0.01, confidence=0.95, seed=3)
        found[name] = [
            float(decision.promote),
            *(float(x or 0) for x in (decision.gain, decision.low, decision.high)),
        ]
    found["equal"] = decide(champion, champion, min_gain=0.0, confidence=0.9, seed=0).promote * 1
    found["first"] = decide(champion, None, min_gain=0.5, confidence=0.9, seed=0).promote * 1
    for name, gain in (
        ("small", (0.02, 0.01, 0.03)),
        ("unsure", (0.2, -0.01, 0.3)),
        ("clear", (0.2, 0.1, 0.3)),
    ):
        decision = decide_gain(0.5, 0.3, gain, samples=9, min_gain=0.05, confidence=0.95)
        found[f"gain.{name}"] = decision.promote * 1
    return found


def detections(_: Bench) -> Values:
    """COCO's figures, curves and records of imperfect results, and AP over resampled images."""
    truth = scene(seed=0)
    found: Values = {}
    records = {}
    for kind in ("bbox", "segm"):
        for seed in (0, 1):
            evaluated = evaluate_detections(truth, imperfect(truth, seed), kind)
            found[f"{kind}.{seed}"] = list(evaluated.figures.values())
            records[kind, seed] = evaluated.records
        found[f"{kind}.curve"] = sums([value for row in evaluated.curve for value in row.values()])
        found[f"{kind}.classes"] = [float(row["AP"]) for row in evaluated.categories]
    first, second = (records["bbox", seed] for seed in (0, 1))
    count = len(first.image_ids)
    found["matched"] = digest([first.matched.tolist(), first.ignored.tolist(), first.objects.tolist()])
    found["resampled"] = list(statistic_interval(resampled_ap(first), count, resamples=40))
    found["paired"] = list(paired_statistic_gain(paired_ap(first, second), count, resamples=40))
    found["weighted"] = ResampledAP(first)(np.arange(count))
    return found


def overlaps(_: Bench) -> Values:
    """Intersection over union of label maps, and over resampled images."""
    draw = np.random.default_rng(0)
    labels = draw.integers(0, 5, (6, 20, 30))
    labels[draw.random(labels.shape) < 0.1] = 255
    ours, theirs = (
        np.where(np.random.default_rng(seed).random(labels.shape) < 0.6, labels % 5, 2) for seed in (1, 2)
    )
    counts = [
        np.stack(
            [
                pixel_counts(torch.from_numpy(p), torch.from_numpy(g), 6)
                for p, g in zip(guess, labels, strict=True)
            ]
        )
        for guess in (ours, theirs)
    ]
    figures = iou_figures(counts[0])
    return {
        "counts": digest(counts[0].tolist()),
        "figures": [figures[name] for name in ("mIoU", "mAcc", "aAcc")],
        "classes": [-1.0 if value is None else value for value in (*figures["IoU"], *figures["Acc"])],
        "resampled": list(statistic_interval(resampled_miou(counts[0]), 6, resamples=50)),
        "paired": list(paired_statistic_gain(paired_miou(*counts), 6, resamples=50)),
    }


def patches(_: Bench) -> Values:
    """Patches, their pixels, positions, statistics, and back."""
    pictures_, ids = images(), torch.tensor([[3, 0, 9], [15, 2, 1]])
    cut = patchify(pictures_, 8)
    normal = normalise(cut)
    oblong = patchify(pictures_, (4, 8))
    return {
        "patches": sums(cut),
        "oblong": sums(oblong),
        "back": float((unpatchify(oblong, (4, 8), (8, 4)) - pictures_).abs().max()),
        "pixels": sums(pixels_at(pictures_, 8, ids)),
        "normal": sums(normal),
        "unnormal": sums(unnormalise(normal * 0.5, cut)),
        "taken": sums(take(cut, ids)),
        "put": sums(put(take(normal, ids), ids, onto=cut)),
        "positions": sums(sincos_positions(32, (3, 5))),
        "first_positions": sincos_positions(8, (2, 3)).flatten().tolist(),
    }


def hidden(name: str, _: Bench) -> Values:
    """Return the patches that a kind of mask hides, by share and by number, on two grids."""
    found: Values = {}
    for grid in ((4, 4), (7, 5)):
        for ratio in (0.6, 0.75, 9):
            kind = masking(name, grid, ratio)
            noise = torch.from_numpy(np.random.default_rng(2).random((3, *kind.noise_shape))).float()
            mask = kind(noise)
            found[f"{grid[0]}x{grid[1]}.{ratio}"] = mask.masked_ids.flatten().tolist()
    return found


def targets(_: Bench) -> Values:
    """Return each target of images, its loss, and its prediction as pixels."""
    pictures_, encoder = images(), vit()
    moments, basis = Moments(192), PatchPCA((4, 4), (8, 8), components=6)
    moments.add(patchify(images(40), 8).flatten(0, 1))
    basis.take(moments)
    found: Values = {"pca.variances": basis.variances.tolist(), "pca.explained": basis.explained.item()}
    true = patchify(pictures_, 8)
    for name, fitted in (
        ("pixels", None),
        ("normalised_pixels", None),
        ("hog", None),
        ("mean_colour", None),
        ("mosaic", None),
        ("pca", basis),
    ):
        target = build_target(name, encoder, fitted)
        said = target(pictures_)
        predicted = drawn(2, 16, target.width)
        found |= {f"{name}.said": sums(said), f"{name}.loss": float(target.loss(predicted, said))}
        shown = target.as_pixels(predicted, true)
        if shown is not None:
            found[f"{name}.shown"] = sums(shown)
    return found


def colours_and_gradients(_: Bench) -> Values:
    """Colours as classes and back, tiles, histograms of gradients of odd patches."""
    pictures_ = images(3, 24)
    bins = ColourBins((0.4, 0.5, 0.6), (0.2, 0.3, 0.25))
    tiles = tile_colours(pictures_, 8, 2)
    classes = bins.classes(tiles)
    return {
        "tiles": sums(tiles),
        "classes": digest(classes),
        "colours": sums(bins.colours(classes)),
        "spread": sums(spread_tiles(tiles, 8)),
        "hog": sums(hog(pictures_, 12)),
        "hog_oblong": sums(hog(pictures_, (6, 4))),
    }


def encoding(_: Bench) -> Values:
    """Tokens of an encoder: all, some, corrupted, after a block, causal; resampled positions."""
    encoder, pictures_ = vit(), images()
    mask = torch.arange(16)[None].repeat(2, 1) % 3 == 0
    ids = torch.tensor([[0, 4, 7, 9], [1, 2, 3, 15]])
    with torch.no_grad():
        found: Values = {
            "all": sums(encoders.encode(encoder, pictures_)),
            "visible": sums(encoders.encode(encoder, pictures_, ids)),
            "corrupt": sums(encoders.encode(encoder, pictures_, corrupt=(mask, drawn(1, 1, 32)))),
            "block": sums(encoders.tokens_after(encoder, pictures_, 1)),
            "causal": sums(encoders.tokens_after(encoder, pictures_, 2, causal=True)),
            "averaged": sums(vit(pool="avg", num_classes=3)(pictures_)),
        }
        resized = encoders.resize_positions(encoder.state_dict(), (4, 4), (6, 3))["pos_embed"]
    torch.manual_seed(0)
    fresh = encoders.build(**SMALL)
    encoders.initialise(fresh)
    scales = {name: float(value.detach().square().mean().sqrt()) for name, value in fresh.named_parameters()}
    return found | {
        "positions": sums(resized),
        "fresh.patches": scales["patch_embed.proj.weight"],
        "fresh.token": scales["cls_token"],
        "fresh.mlp": scales["blocks.0.mlp.fc1.weight"],
        "fresh.positions": sums(fresh.state_dict()["pos_embed"]),
    }


METHOD_SETTINGS: dict[str, dict[str, Any]] = {
    "mae": {"decoder_embed_dim": 16, "decoder_depth": 1, "decoder_num_heads": 2},
    "cae": {"target": "pixels"},
    "beit": {"target": "mean_colour"},
    "mocov3": {"hidden_dim": 32, "out_dim": 16},
    "supervised": {"num_classes": 5},
}


def method_alone(name: str, _: Bench) -> Values:
    """A method with its own defaults: loss and parts of one pass, fixed noise, its pictures, its teacher."""
    kind = METHODS[name]
    settings = dict(METHOD_SETTINGS.get(name, {}))
    encoder = encoders.build(**SMALL)
    if "target" in settings:
        settings["target"] = build_target(settings["target"], encoder)
    torch.manual_seed(0)
    method = kind(encoder, **settings)
    scales = [float(p.detach().square().mean().sqrt()) for p in method.parameters()]
    method = filled(method, 0.1)
    inputs: list[torch.Tensor] = [images(6) * (1 - 0.3 * view) for view in range(method.views)]
    if method.labels:
        inputs.append(torch.arange(6) % 5)
    noise = None
    if method.noise_shape:
        noise = torch.from_numpy(np.random.default_rng(1).random((6, *method.noise_shape))).float()
        inputs.append(noise)
    parts = method(*inputs)
    parts["loss"].backward()
    gradient = (
        torch.stack([p.grad.square().sum() for p in method.parameters() if p.grad is not None]).sum().sqrt()
    )
    method.after_step(0.25)
    found: Values = {
        "initial": sums(scales),
        **{part: float(value.detach()) for part, value in parts.items()},
        "gradient": float(gradient),
        "state": sums([float(value.double().abs().sum()) for value in method.state_dict().values()]),
    }
    shown = pictures(method, images(6), noise, (0.4, 0.5, 0.6), (0.2, 0.3, 0.25))
    return found | {"pictures": [float(len(shown.columns)), *sums(shown.panels)]}


def evaluations(_: Bench) -> Values:
    """Logits of each protocol's classifier, heads, votes, attention, projections."""
    pictures_ = images(6)
    found: Values = {}
    for name in PROTOCOLS:
        classifier = build_classifier(
            name, SMALL, 5, blocks=1.5 if name == "partial" else None, drop_path=0.0
        )
        trainable = sum(p.numel() for p in classifier.parameters() if p.requires_grad)
        found[f"{name}.trainable"] = trainable
        scale = classifier.head[-1].weight if isinstance(classifier.head, nn.Sequential) else None
        if scale is not None:
            found[f"{name}.head"] = float(scale.detach().square().mean().sqrt())
        filled(classifier).eval()
        found[f"{name}.logits"] = sums(classifier.logits(pictures_).detach())
        found[f"{name}.loss"] = float(classifier(pictures_, torch.arange(6) % 5)["loss"].detach())
    torch.manual_seed(0)
    found["heads"] = [
        float(torch.cat([p.detach().flatten() for p in make(32, 5, 2).parameters()]).square().mean().sqrt())
        for make in (linear_head, probe_head, AttentiveHead)
    ]
    votes = knn_votes(drawn(30, 8), torch.arange(30) % 4, drawn(7, 8, seed=1), num_classes=4)
    near = knn_votes(
        drawn(30, 8), torch.arange(30) % 4, drawn(7, 8, seed=1), num_classes=4, k=3, temperature=0.2
    )
    for pool in ("token", "avg"):
        maps = attention_maps(vit(), pictures_, pool)
        found |= {f"attention.{pool}": sums(maps), f"centre.{pool}": centre_share(maps).tolist()}
    places = project(drawn(20, 6).numpy(), "pca", 0)
    return found | {"votes": sums(votes), "near": sums(near), "projected": sums(np.abs(places))}


def mixed(_: Bench) -> Values:
    """Batches partly erased and mixed."""
    bytes_ = torch.stack([torch.from_numpy(trees.pixels(seed, 32, 32)) for seed in range(7)]).permute(
        0, 3, 1, 2
    )
    found: Values = {}
    for name, recipe in (
        ("defaults", Recipe()),
        ("cutmix", Recipe(mixup=0.0, random_erasing=0.0)),
        ("erasing", Recipe(mixup=0.0, cutmix=0.0, random_erasing=1.0)),
    ):
        seed_process(3, 1)
        mixing = Mixing(lambda one: one.float() / 255, recipe, 5, torch.device("cpu"))
        pixels, labels = mixing(bytes_, torch.arange(7) % 5)
        found |= {
            f"{name}.pixels": sums(pixels),
            f"{name}.labels": sums(labels),
            f"{name}.rest": mixing.smoothing,
        }
    return found


def robustness(_: Bench) -> Values:
    """Corruption errors against AlexNet's."""
    errors = {
        name: [0.1 * (1 + at % 4) + 0.05 * level for level in range(5)]
        for at, name in enumerate(ALEXNET_ERRORS)
    }
    return {"errors": list(corruption_errors(errors).values()), "mean": mean_corruption_error(errors)}


def _detector(**changed: Any) -> Any:
    settings = {
        "window": 3,
        "global_blocks": (1, 3),
        "channels": 16,
        "box_dim": 16,
        "rois": 32,
        "detections": 8,
    }
    return build_detector(SMALL, 3, image_size=40, **{**settings, **changed})


def _segmenter(head: str, **changed: Any) -> Any:
    settings = {"channels": 16, "auxiliary_channels": 8, "taps": (0, 1, 2, 3)}
    return build_segmenter(SMALL, 3, crop=32, head=head, **{**settings, **changed})


def detector(_: Bench) -> Values:
    """Losses and objects of a detector with its defaults, weights fixed; the map, the pyramid."""
    model = filled(_detector(drop_path=0.0), 0.05)
    pictures_ = torch.cat([images(2, 40)])
    boxes = torch.tensor([[4.0, 6.0, 22.0, 30.0], [10.0, 2.0, 38.0, 18.0]])
    masks = torch.zeros(2, 40, 40, dtype=torch.uint8)
    masks[0, 6:30, 4:22] = masks[1, 2:18, 10:38] = 1
    aims = [{"boxes": boxes, "labels": torch.tensor([0, 2]), "masks": masks} for _ in range(2)]
    torch.manual_seed(0)
    losses = {name: float(value.detach()) for name, value in model.train()(pictures_, aims).items()}
    model.eval()
    with torch.no_grad():
        map_ = model.vit(pictures_)
        levels = model.pyramid(map_)
        shapes = [{"size": (50, 60), "inner": (34, 40)}, {"size": (40, 40), "inner": (40, 40)}]
        found = model.detect(pictures_, shapes)
    fresh = _detector()
    return {
        **losses,
        "map": sums(map_),
        **{f"level_{name}": [float(level.shape[-1]), *sums(level)] for name, level in levels.items()},
        "objects": [len(one["boxes"]) for one in found],
        "boxes": sums(torch.cat([one["boxes"] for one in found])),
        "scores": sums(torch.cat([one["scores"] for one in found])),
        "areas": sums([float(sum(map(ord, mask["counts"]))) for one in found for mask in one["masks"]]),
        "fresh": sums([float(p.detach().square().mean().sqrt()) for p in fresh.parameters()]),
    }


def segmenter(head: str, _: Bench) -> Values:
    """Losses and maps of a segmenter with its defaults, weights fixed."""
    model = filled(_segmenter(head, drop_path=0.0, dropout=0.0), 0.1)
    pictures_ = images(2, 32)
    labels = torch.from_numpy(np.random.default_rng(0).integers(0, 3, (2, 32, 32)))
    labels[:, :4] = 255
    with torch.no_grad():
        losses = {
            k: float(v) for k, v in model.train()(pictures_, [{"labels": one} for one in labels]).items()
        }
        model.eval()
        logits = model.logits(images(1, 40))
        map_ = model.segment(images(1, 48), (60, 50))
    fresh = _segmenter(head)
    return {
        **losses,
        "logits": sums(logits),
        "map": map_.flatten().bincount(minlength=3).double().tolist(),
        "stride": [float(side) for side in model.stride],
        "fresh": sums([float(p.detach().square().mean().sqrt()) for p in fresh.parameters()]),
    }


def sliding(_: Bench) -> Values:
    """Windows over an image, and the likeliest class at another size."""
    weights = drawn(3, 3, seed=5)

    def logits_of(windows: torch.Tensor) -> torch.Tensor:
        return torch.einsum("kc,nchw->nkhw", weights, windows) * (
            1 + windows.flatten(1).mean(1)[:, None, None, None]
        )

    logits = slide(logits_of, images(1, 40)[..., :33], window=(16, 20), stride=(10, 12), classes=3)
    return {
        "starts": [window_starts(40, 16, 10), window_starts(12, 16, 10), window_starts(37, 16, 16)],
        "logits": sums(logits),
        "likeliest": most_likely(logits, (50, 60)).flatten().bincount(minlength=3).double().tolist(),
    }


def interchange(bench: Bench) -> Values:
    """Weights of our MAE under the names of every other kind; files of other projects, out and in again."""
    method = METHODS["mae"](
        encoders.build(**SMALL), decoder_embed_dim=16, decoder_depth=1, decoder_num_heads=2
    )
    state = filled(method).state_dict()
    found: Values = {}
    for kind in ("timm", "official", "hf_encoder", "hf", "mae"):
        other = convert(state, kind)
        found |= {
            f"{kind}.names": digest(sorted(other)),
            f"{kind}.values": sums([float(value.double().sum()) for _, value in sorted(other.items())]),
        }
    found["back"] = int(sorted(convert(convert(state, "hf"), "mae")) == sorted(state))
    about = {**SMALL, "mean": [0.4, 0.5, 0.6], "std": [0.2, 0.3, 0.25]}
    save_encoder(bench.folder / "encoder.safetensors", method.encoder.state_dict(), about)
    for name, kind in (("weights.safetensors", "timm"), ("official.pth", "official"), ("folder", "hf")):
        out = bench.folder / name
        export(bench.folder / "encoder.safetensors", out, kind)
        # The others tell the colours of their images; official's become ImageNet's.
        colours = {} if kind == "official" else {"mean": [0.485, 0.456, 0.406], "std": [0.229, 0.224, 0.225]}
        config = import_(out, bench.folder / f"{kind}.safetensors", num_heads=2, img_size=48, **colours)
        found[f"{kind}.config"] = digest(config)
        found |= {f"{kind}.{key}": value for key, value in bench.lengths(f"{kind}.safetensors").items()}
    for name in ("config", "preprocessor_config"):
        found[f"hf.{name}"] = digest(bench.json(f"folder/{name}.json"))
    return found


class Toy(nn.Module):
    """A line fitted to points, with noise of its own; a batch may make its loss no number."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = filled(nn.Linear(3, 2))
        self.progress: list[float] = []

    def forward(self, points: torch.Tensor, bad: torch.Tensor) -> dict[str, torch.Tensor]:
        loss = (self.layer(points) + 0.1 * torch.rand(())).square().mean()
        return {"loss": torch.where(bad > 0, torch.nan, loss)}

    def after_step(self, progress: float) -> None:
        self.progress.append(progress)


def loop(_: Bench) -> Values:
    """A toy training: accumulation, clipping, moving average, the way back after a loss that is no number."""
    toy, logged = Toy(), []

    def batches(start: int, attempt: int) -> Any:
        for number in range(2 * start, 12):
            yield drawn(4, 3, seed=number), torch.tensor(float(attempt == 0 and number == 5))

    def log(step: int, values: dict[str, float]) -> None:
        logged.append([float(step), *(values[name] for name in ("loss", "lr", "grad_norm"))])

    fitted = fit(
        toy,
        batches,
        torch.optim.SGD(toy.parameters(), lr=0.1),
        steps=6,
        learning_rate=lambda step: 0.1 / (1 + step),
        options=FitOptions(seed=3, accumulate=2, clip_grad=0.3, ema_decay=0.8, log=log, log_every=2),
    )
    assert fitted.ema is not None
    averaged = fitted.ema.layer
    return {
        "logged": [number for row in logged for number in row],
        "attempt": fitted.attempt,
        "weights": toy.layer.weight.flatten().tolist(),
        "averaged": averaged.weight.flatten().tolist(),
        "progress": toy.progress,
    }


def randomness(_: Bench) -> Values:
    """Draws after seeding, of a process and of a sample."""
    found: Values = {}
    for name, seed in (("process", seed_process), ("sample", seed_generators)):
        for key in ((0,), (0, 1, 2), (5, 0, 7)):
            seed(*key)
            found[f"{name}.{'-'.join(map(str, key))}"] = [
                torch.rand(()).item(),
                random.random(),
                float(np.random.rand()),
            ]
    return found


def single(name: str, keys: tuple[str, ...], compute: Callable[[Bench], Values], *covers: str) -> Case:
    return Case(name, keys, compute, covers, ONE_PASS)


CASES = [
    single("schedules", (*TRAININGS, *DENSE), schedules),
    Case("optimizers", (*TRAININGS, *DENSE), optimizers, tolerance=TRAINED),
    single("confidence", (*EVALUATIONS, *DENSE, "register"), confidence),
    single("gate", ("register",), gate),
    single("detections", ("detect",), detections),
    single("overlaps", ("segment",), overlaps),
    single("patches", ("pretrain", *EVALUATIONS, *DENSE), patches),
    *(single(f"mask_{name}", ("pretrain",), partial(hidden, name), f"mask.{name}") for name in MASKINGS),
    single("targets", ("pretrain",), targets),
    single("colours_and_gradients", ("pretrain", "tokenizer"), colours_and_gradients),
    single("encoding", ("pretrain", *EVALUATIONS, *DENSE), encoding),
    *(single(f"method_{name}", (f"pretrain.{name}",), partial(method_alone, name)) for name in METHODS),
    single("evaluations", EVALUATIONS, evaluations),
    single("mixed", ("partial", "finetune", "scratch"), mixed),
    single("robustness", ("robustness",), robustness),
    single("detector", ("detect",), detector),
    single("segmenter_upernet", ("segment.upernet",), partial(segmenter, "upernet")),
    single("segmenter_dpt", ("segment.dpt",), partial(segmenter, "dpt")),
    single("sliding", ("segment",), sliding),
    single("interchange", ("pretrain",), interchange),
    single("loop", (*TRAININGS, *DENSE), loop),
    single("randomness", (*TRAININGS, *DENSE), randomness),
]

test_it_gives_the_kept_values = golden_test("parts", CASES)
