"""Every protocol of the table: trained and frozen parts, rates and tokens."""

import pytest
import torch
from evaluation.classification.classifiers import CLASSES, TINY, make, pretrained_state
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.loss import LabelSmoothingCrossEntropy, SoftTargetCrossEntropy
from torch import nn

from mae.data.transforms.image import Normalize
from mae.engine.loop import FitOptions
from mae.engine.optim import adamw
from mae.evaluation.classification.classifier import Classifier, train_classifier
from mae.evaluation.classification.protocols import PROTOCOLS, Recipe, freeze
from mae.models import vit as encoder

STEPS = 4
PLAIN = Recipe(base_lr=0.02, weight_decay=0.0, random_erasing=0, mixup=0, cutmix=0)


@pytest.fixture(scope="module")
def pretrained():
    return pretrained_state()


def batches(start, attempt):
    for step in range(start, STEPS):
        draw = torch.Generator().manual_seed(step)
        labels = torch.randint(0, CLASSES, (8,), generator=draw)
        images = torch.randint(0, 80, (8, 3, 16, 16), generator=draw, dtype=torch.uint8)
        images[torch.arange(8), :, labels * 4] += 150  # a bright row tells the class
        yield {"images": images, "labels": labels}


def train(classifier, recipe=PLAIN, steps=STEPS, **settings):
    return train_classifier(
        classifier,
        settings.pop("batches", batches),
        recipe=recipe,
        steps=steps,
        warmup_steps=1,
        global_batch=8 * 32,
        normalize=Normalize(IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD),
        options=FitOptions(seed=3, **settings),
    )


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_what_trains_changes_and_what_is_frozen_stays_bit_for_bit(protocol, pretrained):
    classifier = make(protocol, pretrained, drop_path=0.3)
    before = {name: value.clone() for name, value in classifier.state_dict().items()}
    fitted = train(classifier)
    assert fitted.values["loss"] > 0
    trained = {name for name, parameter in classifier.named_parameters() if parameter.requires_grad}
    statistics = {name for name, _ in classifier.named_buffers() if name.startswith("head.")}
    for name, value in classifier.state_dict().items():
        changed = not torch.equal(value, before[name])
        assert changed == (name in trained | statistics), name


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_every_trainable_parameter_gets_a_gradient_and_the_loss_is_one_finite_number(protocol, pretrained):
    classifier = make(protocol, pretrained).train()
    with torch.no_grad():
        for layer in classifier.modules():  # a head of std 2e-5 would hide what is below it
            if isinstance(layer, nn.Linear):
                layer.weight.normal_(std=0.2)
    loss = classifier(torch.randn(4, 3, 16, 16), torch.tensor([0, 1, 2, 3]))["loss"]
    assert loss.shape == ()
    loss.backward()
    for name, parameter in classifier.named_parameters():
        assert (parameter.grad is not None and parameter.grad.abs().sum() > 0) == parameter.requires_grad, (
            name
        )


@pytest.mark.parametrize("protocol", PROTOCOLS)
def test_it_learns_and_the_same_seed_gives_the_same_weights(protocol, pretrained):
    def run():
        classifier = make(protocol, pretrained, seed=1)
        losses = []
        repeat = lambda start, attempt: (next(batches(0, 0)) for _ in range(start, 40))  # noqa: E731
        rate = {"linear": 30.0, "linear_mean": 30.0, "attentive": 0.5}.get(protocol, 5e-3)
        recipe = Recipe(
            base_lr=rate, weight_decay=0.0, layer_decay=None, random_erasing=0, mixup=0, cutmix=0, smoothing=0
        )
        train(classifier, recipe, 40, batches=repeat, log_every=1, log=lambda _, v: losses.append(v["loss"]))
        return classifier.state_dict(), losses

    state, losses = run()
    assert losses[-1] < 0.5 * losses[0]
    if protocol == "finetune":
        torch.testing.assert_close(run()[0], state, rtol=0, atol=0)


def test_probe_statistics_change_in_training_only(pretrained):
    classifier = make("linear", pretrained)
    mean = classifier.head[0].running_mean
    before = mean.clone()
    classifier.eval().logits(torch.randn(4, 3, 16, 16))
    torch.testing.assert_close(mean, before, rtol=0, atol=0)
    classifier.train().logits(torch.randn(4, 3, 16, 16))
    assert not torch.equal(mean, before)


def test_frozen_parts_stay_in_evaluation_mode(pretrained):
    half = make("partial", pretrained, blocks=1.5, drop_path=0.3).train()
    first, middle, last = half.encoder.blocks
    assert not any(module.training for module in first.modules())
    assert not middle.attn.training
    assert not middle.drop_path1.training
    assert middle.mlp.training
    assert middle.drop_path2.training
    assert all(module.training for module in last.modules())
    assert not any(module.training for module in make("linear", pretrained).train().encoder.modules())


def trainable(depth, blocks):
    vit = encoder.build(**TINY | {"depth": depth}, pool="avg")
    freeze(vit, "blocks", blocks)
    return {name for name, parameter in vit.named_parameters() if parameter.requires_grad}


def test_partial_fine_tuning_trains_exactly_the_chosen_blocks():
    norm = {"fc_norm.weight", "fc_norm.bias"}
    mlp = {
        f"blocks.2.{part}.{kind}" for part in ("norm2", "mlp.fc1", "mlp.fc2") for kind in ("weight", "bias")
    }
    attention = {
        f"blocks.2.{part}.{kind}"
        for part in ("norm1", "attn.qkv", "attn.proj")
        for kind in ("weight", "bias")
    }
    last = mlp | attention
    every = {name.replace("blocks.2", f"blocks.{block}") for name in last for block in range(3)}
    assert trainable(3, 0) == norm
    assert trainable(3, 0.5) == norm | mlp
    assert trainable(3, 1) == norm | last
    assert trainable(3, 3) == norm | every


@pytest.mark.parametrize("blocks", [None, -1, 3.5, 0.25])
def test_blocks_that_the_encoder_does_not_have_are_refused(blocks, pretrained):
    with pytest.raises(ValueError, match="up to the encoder's depth 3"):
        make("partial", pretrained, blocks=blocks)


def test_layer_decay_scales_of_vit_base_are_those_of_the_paper():
    with torch.device("meta"):
        vit = encoder.build("vit_base_patch16_224", img_size=224, pool="avg")
        classifier = Classifier(PROTOCOLS["finetune"], vit, 1000)
        optimizer = adamw(classifier, lr=1e-3, layer_decay=0.65, weight_decay=0.05)
    names = {id(parameter): name for name, parameter in classifier.named_parameters()}
    groups = {names[id(p)]: group for group in optimizer.param_groups for p in group["params"]}
    assert set(groups) == set(names.values())
    for name, group in groups.items():
        part = name.removeprefix("encoder.").split(".")
        if part[0] in ("cls_token", "pos_embed", "patch_embed"):
            layer = 0
        elif part[0] == "blocks":
            layer = int(part[1]) + 1
        else:
            assert part[0] in ("fc_norm", "head")
            layer = 13
        assert group["lr_scale"] == pytest.approx(0.65 ** (13 - layer), rel=1e-12), name
        exempt = classifier.get_parameter(name).ndim <= 1 or part[0] in ("cls_token", "pos_embed")
        assert group["weight_decay"] == (0.0 if exempt else 0.05), name


def test_fine_tuning_logits_are_the_mean_of_patch_tokens_through_fc_norm_and_head(pretrained):
    classifier = make("finetune", pretrained).double().eval()
    vit = classifier.encoder
    nn.init.normal_(classifier.head.weight)
    nn.init.normal_(vit.fc_norm.weight)
    images = torch.randn(2, 3, 16, 16, dtype=torch.float64)
    tokens = vit.patch_embed.proj(images).flatten(2).transpose(1, 2) + pretrained["pos_embed"][:, 1:].double()
    first = (pretrained["cls_token"] + pretrained["pos_embed"][:, :1]).double().expand(2, -1, -1)
    tokens = torch.cat([first, tokens], dim=1)
    for block in vit.blocks:
        tokens = block(tokens)
    mean = tokens[:, 1:].mean(1)
    mean, spread = mean - mean.mean(1, keepdim=True), mean.var(1, unbiased=False, keepdim=True)
    normed = mean / (spread + 1e-6).sqrt() * vit.fc_norm.weight + vit.fc_norm.bias
    wanted = normed @ classifier.head.weight.T + classifier.head.bias
    torch.testing.assert_close(classifier.logits(images), wanted, rtol=1e-9, atol=1e-10)


def test_the_probe_sees_the_class_token_and_the_attentive_head_all_tokens(pretrained):
    images = torch.randn(5, 3, 16, 16)
    linear, attentive = make("linear", pretrained).eval(), make("attentive", pretrained).eval()
    mean = make("linear_mean", pretrained).eval()
    tokens = encoder.encode(linear.encoder, images)
    torch.testing.assert_close(linear.logits(images), linear.head(tokens[:, 0]))
    torch.testing.assert_close(mean.logits(images), mean.head(tokens[:, 1:].mean(1)))
    torch.testing.assert_close(attentive.logits(images), attentive.head(tokens))
    assert tokens.shape == (5, 5, 32)
    moved = attentive.head(tokens + torch.randn(5, 5, 1).sign() * torch.linspace(0, 1, 32))
    assert not torch.allclose(moved, attentive.head(tokens))


def test_loss_with_soft_or_smoothed_targets_equals_timms(pretrained):
    classifier = make("finetune", pretrained).eval()
    nn.init.normal_(classifier.head.weight)
    images, labels = torch.randn(4, 3, 16, 16), torch.tensor([0, 3, 1, 1])
    soft = torch.rand(4, CLASSES).softmax(1)
    logits = classifier.logits(images)
    torch.testing.assert_close(classifier(images, soft)["loss"], SoftTargetCrossEntropy()(logits, soft))
    classifier.smoothing = 0.1
    wanted = LabelSmoothingCrossEntropy(0.1)(logits, labels)
    torch.testing.assert_close(classifier(images, labels)["loss"], wanted)


def test_training_with_mixing_does_not_depend_on_what_the_loader_drew(pretrained):
    def noisy(start, attempt):
        for batch in batches(start, attempt):
            torch.rand(17)
            yield batch

    results = []
    for source in (batches, noisy):
        classifier = make("finetune", pretrained, drop_path=0.2)
        train(classifier, Recipe(base_lr=0.01), batches=source, ema_decay=0.5)
        results.append(classifier.state_dict())
    torch.testing.assert_close(results[0], results[1], rtol=0, atol=0)
