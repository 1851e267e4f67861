"""Knowledge distillation: its gradients against those of separate losses and plain loops, and resumption."""

import pytest
import torch
from builders import MODELS, TRAININGS
from finetunings import CHANNELS, equal, run, settings_of, start_of
from killing import terminated_at_save

from slimdiff.diffusion.denoiser import NoisyBatch, build_denoiser
from slimdiff.errors import UserError
from slimdiff.models.registry import build_network
from slimdiff.training.knowledge import KnowledgeDistillation, KnowledgeSettings

CASES = [(family, "edm") for family in MODELS] + [("ncsn", "score"), ("ddpm", "epsilon"), ("unet2d", "v")]


def denoiser_of(family, preconditioning="edm", seed=1, **training):
    """Return the denoiser of a network with noise in every weight; an untrained network's output is 0."""
    network = build_network(MODELS[family](), seed=seed).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.02 * torch.randn(parameter.shape, generator=generator)
    return build_denoiser(network, MODELS[family](), TRAININGS[family](preconditioning=preconditioning, **training))


def batch_of(denoiser, family, n=6):
    """Return images, noise levels, noise and labels as a training draws them."""
    generator = torch.Generator().manual_seed(3)
    sigma = denoiser.training_sigmas(n, generator)
    size = MODELS[family]()["image_size"]
    x_0, noise = (torch.randn(n, 1, size, size, generator=generator) for _ in range(2))
    labels = torch.arange(n) % 3 - 1 if MODELS[family]()["network"]["classes"] else None  # none, 0, 1
    return NoisyBatch(x_0, sigma, noise, labels)


def gradient(denoiser, losses):
    parts = torch.autograd.grad(losses.mean(), [*denoiser.network.parameters()], allow_unused=True)
    return torch.cat([part.flatten() for part in parts if part is not None])


@pytest.mark.parametrize(("family", "preconditioning"), CASES)
def test_gradients_are_those_of_the_weighted_sum_of_two_losses(family, preconditioning):
    """The teacher's loss here is the squared distance of the estimates, over c_out²: EDM, equation 8."""
    student, teacher = (denoiser_of(family, preconditioning, seed) for seed in (1, 2))
    batch = x_0, sigma, noise, labels = batch_of(student, family)
    hooks = KnowledgeDistillation(KnowledgeSettings("knowledge", 0.3), teacher.network)
    actual = gradient(student, hooks.loss(student, batch, 0.0))

    x = x_0 + sigma[:, None, None, None] * noise
    with torch.no_grad():
        wanted = teacher(x, sigma, labels)
    distance = (student(x, sigma, labels) - wanted).square().flatten(1).sum(1) / student.coefficients(sigma)[1] ** 2
    expected = gradient(student, 0.7 * student.loss(x_0, sigma, noise, labels) + 0.3 * distance)
    assert float((actual - expected).norm() / expected.norm()) < 1e-4


@pytest.mark.parametrize("family", MODELS)
def test_a_student_equal_to_its_teacher_has_no_loss(family):
    denoiser = denoiser_of(family)
    hooks = KnowledgeDistillation(KnowledgeSettings("knowledge", 1.0, 2.0), denoiser.network)
    batch = batch_of(denoiser, family)
    assert bool((hooks.loss(denoiser, batch, 0.0) < 1e-5 * batch.x_0[0].numel()).all())
    with torch.no_grad():  # the teacher is a copy
        for parameter in denoiser.network.parameters():
            parameter.mul_(0.5)
    assert bool((hooks.loss(denoiser, batch, 0.0) > 0.01 * batch.x_0[0].numel()).all())


@pytest.mark.parametrize("family", MODELS)
def test_features_count_relative_to_the_teachers(family):
    """Against a plain loop over images and modules; a teacher's scale does not matter, its direction does."""
    student, teacher = (denoiser_of(family, seed=seed) for seed in (1, 2))
    x_0, sigma, noise, labels = batch_of(student, family)
    with torch.no_grad():
        without, loss = (
            KnowledgeDistillation(KnowledgeSettings("knowledge", 0.5, features), teacher.network).loss(
                student, NoisyBatch(x_0, sigma, noise, labels), 0.0
            )
            for features in (0.0, 3.0)
        )
    features = []
    for denoiser in (student, teacher):
        seen = []
        handles = [
            denoiser.network.get_submodule(name).register_forward_hook(
                lambda module, inputs, output, seen=seen: seen.append(output[0] if type(output) is tuple else output)
            )
            for name in denoiser.network.feature_modules()
        ]
        with torch.no_grad():
            denoiser(x_0 + sigma[:, None, None, None] * noise, sigma, labels)
        features.append(seen)
        for handle in handles:
            handle.remove()
    assert len({tuple(output.shape[1:]) for output in features[0]}) > 1
    for index in range(len(x_0)):
        pairs = [(own[index].double(), theirs[index].double()) for own, theirs in zip(*features, strict=True)]
        errors = [float((own - theirs).norm() / theirs.norm()) ** 2 for own, theirs in pairs]
        expected = float(without[index]) + 3.0 * x_0[index].numel() * sum(errors) / len(errors)
        assert float(loss[index]) == pytest.approx(expected, rel=1e-4)
    assert not any(module._forward_hooks for module in student.network.modules())


def test_a_resumed_distillation_equals_an_uninterrupted_one(tmp_path):
    start = start_of(tmp_path, "ncsn")
    settings = settings_of(start, steps=(CHANNELS,), epochs=2)
    settings["hook"] = {"distill": {"method": "knowledge", "weight": 0.5}}
    undisturbed = run(start, tmp_path / "a", settings=settings)
    with terminated_at_save(3):
        run(start, tmp_path / "b", 0.0, settings=settings)
    resumed = run(start, tmp_path / "b", settings=settings)
    assert resumed.record["interruptions"] == 1
    assert equal(undisturbed, resumed)
    assert not equal(undisturbed, run(start, tmp_path / "c", settings={**settings, "hook": {}}))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"weight": 0.0}, "distill.weight is 0.0; allowed: above 0, up to 1"),
        ({"weight": 1.5}, "distill.weight is 1.5; allowed: above 0, up to 1"),
        ({"weight": 1.0, "features": -1.0}, "distill.features is -1.0; allowed: 0 or more"),
    ],
)
def test_impossible_distillations_are_refused(settings, message):
    with pytest.raises(UserError, match=message):
        KnowledgeDistillation(KnowledgeSettings("knowledge", **settings), build_network(MODELS["ncsn"](), seed=0))


def test_features_of_a_narrower_student_are_refused(tmp_path):
    start = start_of(tmp_path, "ncsn")
    settings = settings_of(start, steps=(CHANNELS,))
    settings["hook"] = {"distill": {"method": "knowledge", "weight": 1.0, "features": 1.0}}
    with pytest.raises(UserError, match=r"distill\.features: norm1 has 4 channels, in the teacher 8"):
        run(start, tmp_path / "a", settings=settings)
