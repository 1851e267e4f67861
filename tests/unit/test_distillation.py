"""Distillation: targets against plain loops, trained students, and the noise levels at which recipes sample them."""

import pytest
import torch
from builders import MODELS, TRAININGS
from finetunings import CHANNELS, equal, run, settings_of, start_of
from killing import terminated_at_save
from presets import CONFIG

from slimdiff.checkpoints import weights
from slimdiff.config import lookup, resolve
from slimdiff.diffusion.denoiser import NO_LABEL, NoisyBatch, build_denoiser
from slimdiff.diffusion.guidance import Guided
from slimdiff.diffusion.noise import ImageNoise
from slimdiff.diffusion.samplers import SamplerSettings, sample
from slimdiff.errors import UserError
from slimdiff.io.settings import build
from slimdiff.models.registry import build_network
from slimdiff.training.distillation import Distill, DistillSettings

LOW, HIGH, RHO = 0.01, 5.0, 7.0
GUIDANCE = {"ncsn": 1.0, "ddpm": 1.5, "unet2d": 1.5}
EPOCHS = {"ncsn": 10, "ddpm": 10, "unet2d": 30}  # after which a student follows its teacher


@pytest.fixture(scope="module")
def starts(tmp_path_factory):
    """Weights, record and settings of a training, by family."""
    return {family: start_of(tmp_path_factory.mktemp(family), family, epochs=25) for family in MODELS}


def distillation(**changes):
    """Return settings of a distillation."""
    requested = {"steps": 2, "teacher": "heun", "substeps": 2, "sigma_min": LOW, "sigma_max": HIGH, "rho": RHO}
    requested |= changes
    return {"grid": requested["steps"] * requested["substeps"], **requested}


def distill_of(network, **changes):
    return Distill(build(DistillSettings, distillation(**changes), "distill"), network)


def denoiser_of(family, seed=1):
    """Return the denoiser of a network with noise in every weight; an untrained network's output is 0."""
    network = build_network(MODELS[family](), seed=seed).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in network.parameters():
            parameter += 0.02 * torch.randn(parameter.shape, generator=generator)
    return build_denoiser(network, MODELS[family](), TRAININGS[family]())


def batch_of(hooks, denoiser, family, n=12):
    """Return images, noise levels, noise and labels as a training draws them."""
    generator = torch.Generator().manual_seed(3)
    sigma = hooks.training_sigmas(denoiser, n, generator)
    size = MODELS[family]()["image_size"]
    x_0, noise = (torch.randn(n, 1, size, size, generator=generator) for _ in range(2))
    labels = torch.arange(n) % 3 - 1 if MODELS[family]()["network"]["classes"] else None  # none, 0, 1
    return x_0, sigma, noise, labels


def karras(index, steps):
    """Return one noise level of Karras et al. 2022, equation 5, without tensors."""
    if index == steps:
        return 0.0
    high, low = HIGH ** (1 / RHO), LOW ** (1 / RHO)
    return float((high + index / (steps - 1) * (low - high)) ** RHO)


@pytest.mark.parametrize("family", MODELS)
def test_a_student_equal_to_its_teacher_has_no_loss(family):
    """One Euler step against one Euler step has no loss; against Heun or several steps there is one."""
    denoiser = denoiser_of(family)
    for solver, substeps, nothing in (("euler", 1, True), ("heun", 1, False), ("euler", 2, False)):
        hooks = distill_of(denoiser.network, steps=4, teacher=solver, substeps=substeps)
        x_0, sigma, noise, labels = batch_of(hooks, denoiser, family)
        with torch.no_grad():
            loss = hooks.loss(denoiser, NoisyBatch(x_0, sigma, noise, labels), 0.0)
            plain = denoiser.loss(x_0, sigma, noise, labels)
        assert loss.shape == plain.shape
        assert bool((loss < 1e-6 * plain).all()) == nothing, (solver, substeps)


@pytest.mark.parametrize("solver", ["heun", "euler"])
@pytest.mark.parametrize("family", MODELS)
def test_one_step_to_the_target_ends_where_a_plain_loop_of_the_teacher_does(family, solver):
    """In Python floats, image by image, with guidance as two separate evaluations."""
    denoiser, steps, substeps, scale = denoiser_of(family), 3, 2, GUIDANCE[family]
    hooks = distill_of(denoiser.network, steps=steps, teacher=solver, substeps=substeps, guidance=scale)
    x_0, sigma, noise, labels = batch_of(hooks, denoiser, family)
    x = x_0 + sigma[:, None, None, None] * noise
    targets = hooks.target(denoiser, x, sigma, labels)

    @torch.no_grad()
    def slope(y, level, label):
        labels = torch.full((1,), level)
        if label is None:
            return (y - denoiser(y, labels)) / level
        requested, free = denoiser(y, labels, label), denoiser(y, labels, torch.tensor([NO_LABEL]))
        return (y - (free + scale * (requested - free))) / level

    begins = set()
    for index in range(len(x)):
        begin = min(range(steps), key=lambda i: abs(karras(substeps * i, 6) - float(sigma[index])))
        assert float(sigma[index]) == pytest.approx(karras(substeps * begin, 6), rel=1e-5)
        begins.add(begin)
        y, label = x[index : index + 1], None if labels is None else labels[index : index + 1]
        for position in range(substeps * begin, substeps * (begin + 1)):
            level, following = karras(position, 6), karras(position + 1, 6)
            first = slope(y, level, label)
            ahead = y + (following - level) * first
            if solver == "heun" and following > 0:
                ahead = y + (following - level) * (first + slope(ahead, following, label)) / 2
            y = ahead
        level, end = karras(substeps * begin, 6), karras(substeps * (begin + 1), 6)
        reached = x[index] + (end - level) * (x[index] - targets[index]) / level
        assert torch.allclose(reached, y[0], atol=2e-5)
    assert begins == {0, 1, 2}


def test_the_teacher_is_not_trained():
    denoiser = denoiser_of("ncsn")
    hooks = distill_of(denoiser.network)
    x_0, sigma, noise, _ = batch_of(hooks, denoiser, "ncsn")
    x = x_0 + sigma[:, None, None, None] * noise
    before = hooks.target(denoiser, x, sigma, None)
    with torch.no_grad():
        for parameter in denoiser.network.parameters():
            parameter.mul_(0.5)
    assert torch.equal(hooks.target(denoiser, x, sigma, None), before)
    assert not any(parameter.requires_grad for parameter in hooks.teacher.parameters())


def ends(family, network, method, steps, guidance, grid=None):
    """Return samples from noise that no training saw."""
    denoiser = build_denoiser(network.eval(), MODELS[family](), TRAININGS[family]())
    settings = SamplerSettings(method, steps, LOW, HIGH, RHO, grid, guidance=guidance)
    labels = torch.arange(16) % 2 if MODELS[family]()["network"]["classes"] else None
    size = MODELS[family]()["image_size"]
    with torch.no_grad():
        return sample(Guided(denoiser, labels, guidance), ImageNoise(9, range(16)), (1, size, size), settings).x


@pytest.mark.parametrize("family", MODELS)
def test_a_student_ends_closer_to_its_teacher_than_an_untrained_one(tmp_path, starts, family):
    scale = GUIDANCE[family]
    settings = settings_of(starts[family], steps=(), epochs=EPOCHS[family], label_dropout=0.0)
    trained = run(starts[family], tmp_path, settings={**settings, "hook": {"distill": distillation(guidance=scale)}})
    teacher = weights.read_training(starts[family][0], "raw")[0]
    student = build_network(MODELS[family](), seed=0)
    student.load_state_dict(trained.weights["raw"])
    wanted = ends(family, teacher, "heun", 4, scale)
    untaught = float((ends(family, teacher, "euler", 2, scale, 4) - wanted).square().mean())
    taught = float((ends(family, student, "euler", 2, 1.0, 4) - wanted).square().mean())
    assert taught < 0.6 * untaught


def test_a_resumed_distillation_equals_an_uninterrupted_one(tmp_path, starts):
    """With a student narrower than its teacher, which is neither pruned nor saved in the state."""
    settings = settings_of(starts["ncsn"], steps=(CHANNELS,), epochs=2)
    settings["hook"] = {"distill": distillation()}
    undisturbed = run(starts["ncsn"], tmp_path / "a", settings=settings)
    with terminated_at_save(3):
        run(starts["ncsn"], tmp_path / "b", 0.0, settings=settings)
    resumed = run(starts["ncsn"], tmp_path / "b", settings=settings)
    assert resumed.record["interruptions"] == 1
    assert equal(undisturbed, resumed)
    plain = run(starts["ncsn"], tmp_path / "c", settings={**settings, "hook": {}})
    assert not equal(undisturbed, plain)


@pytest.mark.parametrize("model", ["ncsn", "ddpm"])
def test_recipes_sample_students_at_their_trained_noise_levels(model):
    """A student that is a teacher runs at its own trained levels."""
    family = CONFIG["models"][model]["family"]
    denoiser = denoiser_of(family)
    learnt, folded = {}, []
    for training in ("distilled-4", "distilled-2"):
        requested = resolve.finetune_settings(CONFIG, "mnist", model, training, 0)["hook"]["distill"]
        hooks = Distill(build(DistillSettings, requested, "distill"), denoiser.network)
        learnt[training] = hooks.levels(denoiser)[:: hooks.settings.substeps].tolist()
        heard = []

        class Listening(Guided):
            def __call__(self, x, sigma):
                heard.append(float(sigma[0]))  # noqa: B023
                return x

        sampler = build(SamplerSettings, lookup.sampler_options(CONFIG, model, training), "sampler")
        sample(Listening(denoiser), ImageNoise(0, range(2)), (1, 4, 4), sampler)
        assert [*heard, 0.0] == learnt[training]
        folded.append(hooks.settings.guidance)
    assert folded == [CONFIG["models"][model]["sampler"]["guidance"], 1.0]
    assert learnt["distilled-4"][::2] == learnt["distilled-2"]
    assert hooks.levels(denoiser).tolist() == learnt["distilled-4"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"teacher": "ode"}, "distill.teacher is 'ode'; allowed: heun, euler"),
        ({"grid": 6}, "distill.grid is 6; allowed: multiples of steps · substeps, 4"),
    ],
)
def test_impossible_distillations_are_refused(changes, message):
    with pytest.raises(UserError, match=message):
        distill_of(build_network(MODELS["ncsn"](), seed=0), **changes)
