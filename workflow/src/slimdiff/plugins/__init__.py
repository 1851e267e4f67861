"""Decorators by which a user's own Python file registers compression steps, network families and sources of images.

    from slimdiff.plugins import family, source, step

    @step("round-mantissa", settings={"bits": {"type": "integer", "minimum": 0, "maximum": 23}})
    def round_mantissa(network, settings, seed): ...

Name the file in the config: `plugins: [my_recipes.py]`. The rules read its decorators without running it
(slimdiff.plugins.declarations), so every argument but `restore` is a literal; jobs import it
(slimdiff.plugins.loading).
A plugin runs with your rights: name only files that you trust. See docs/how-to.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, TypeVar

from slimdiff.catalog.families import ON_SCHEDULE, PRECONDITIONINGS, Family
from slimdiff.catalog.samplers import SAMPLER_FACTS
from slimdiff.errors import UserError
from slimdiff.io.text import comparable

SCOPES = ("global", "middle", "extremes")  # what prune.scope may be
NAME = re.compile(r"[a-z][a-z0-9]*(-[a-z0-9]+)*")
OPTION = re.compile(r"[a-z][a-z0-9_]*")
TYPED = ("type", "enum", "const", "anyOf")  # a schema needs one of these

Function = TypeVar("Function", bound=Callable[..., Any])
Options = Mapping[str, Mapping[str, Any]]  # key → JSON schema of its value; every key is required


@dataclass(frozen=True)
class Step:
    """A compression step, as its decorator declares it."""

    kind: ClassVar[str] = "step"
    name: str  # key in a recipe
    settings: Options
    restores: bool = False  # it changes the structure, so loading the model needs the plugin

    def __post_init__(self) -> None:
        _check_name(self.name)
        _check_options("settings", self.settings)


@dataclass(frozen=True)
class NetworkFamily:
    """A family of networks, as its decorator declares it."""

    kind: ClassVar[str] = "family"
    name: str  # value of `models.*.family`
    network: Options  # keys of `models.*.network`; with `classes` the network is class-conditional
    preconditionings: Sequence[str]
    samplers: Sequence[str]
    scopes: Sequence[str] = ("global",)  # of pruning: the keys of the network's prune_scopes()
    grouped: bool = False  # whether `groups` of a training divides its convolutions
    noise_scale: float = 1.0  # factor on EDM's c_noise (about -1.4 to 1.3), the network's noise level

    def __post_init__(self) -> None:
        _check_name(self.name)
        _check_options("network", self.network)
        _check_among("preconditionings", self.preconditionings, PRECONDITIONINGS)
        _check_among("samplers", self.samplers, tuple(SAMPLER_FACTS))
        _check_among("scopes", self.scopes, SCOPES)
        if not isinstance(self.grouped, bool):
            raise UserError(f"grouped is {self.grouped!r}; allowed: True, False")
        if isinstance(self.noise_scale, bool) or not isinstance(self.noise_scale, int | float) or self.noise_scale <= 0:
            raise UserError(f"noise_scale is {self.noise_scale!r}; allowed: a number above 0")

    @property
    def as_family(self) -> Family:
        """The family's options: guidance for classes, a noise schedule if a sampler or a preconditioning uses one."""
        classes = "classes" in self.network
        scheduled = any(SAMPLER_FACTS[method].scheduled for method in self.samplers)
        noise = scheduled or any(name in ON_SCHEDULE for name in self.preconditionings)
        return Family(
            tuple(self.preconditionings),
            tuple(self.samplers),
            (*(("noise_schedule", "min_snr_gamma") if noise else ()), *(("label_dropout",) if classes else ())),
            (*(("guidance", "guidance_interval") if classes else ()), *(("clip",) if scheduled else ())),
        )


@dataclass(frozen=True)
class Source:
    """A source of images, as its decorator declares it."""

    kind: ClassVar[str] = "source"
    name: str  # value of `datasets.*.source`
    classes: Sequence[str]
    options: Options = field(default_factory=dict)  # keys of `datasets.*.options`

    def __post_init__(self) -> None:
        _check_name(self.name)
        _check_options("options", self.options)
        good = isinstance(self.classes, list | tuple) and all(isinstance(name, str) for name in self.classes)
        if not good or not 2 <= len(set(map(comparable, self.classes))) == len(self.classes):
            raise UserError(f"classes is {self.classes!r}; allowed: the distinct names of two or more classes")


Declared = Step | NetworkFamily | Source
KINDS: dict[str, type[Step] | type[NetworkFamily] | type[Source]] = {
    "step": Step,
    "family": NetworkFamily,
    "source": Source,
}


@dataclass(frozen=True)
class Registered:
    """A function of a plugin and its declaration."""

    declared: Declared
    function: Callable[..., Any]
    restore: Callable[..., Any] | None = None
    path: str = ""  # of the plugin, as the user gave it
    code: str = ""  # digest of the code that the function reaches


REGISTERED: dict[tuple[str, str], Registered] = {}  # of all loaded plugins, by kind and name
PENDING: list[Registered] = []  # of the plugin that is being imported


def step(name: str, *, settings: Options, restore: Callable[..., Any] | None = None) -> Callable[[Function], Function]:
    """Register a compression step, `f(network, settings, seed) -> record or None`, which changes the network in place.

    Args:
        name: its key in recipes.
        settings: JSON schemas of its settings by key; a recipe gives all of them.
        restore: `restore(network, record, tensors)` repeats the step's change of structure on a newly built network.
            `record` is what the step returned (JSON), `tensors` the state dict that is loaded next. A step returns a
            record if and only if it has a `restore`.
    """
    return _register(Step(name, settings, restore is not None), restore)


def family(
    name: str,
    *,
    network: Options,
    preconditionings: Sequence[str],
    samplers: Sequence[str],
    scopes: Sequence[str] = ("global",),
    grouped: bool = False,
    noise_scale: float = 1.0,
) -> Callable[[Function], Function]:
    """Register a family of networks, `f(network, channels, image_size, groups) -> nn.Module`.

    The module has `forward(x, noise_level, labels=None)`, x (N, channels, image_size, image_size) to the same shape,
    noise_level (N,), labels int64 (N,) with -1 for none; and `prune_scopes()`, names of modules by scope.

    Args:
        name: value of `models.*.family`.
        network: JSON schemas of the keys of `models.*.network`; with `classes` the network is class-conditional.
        preconditionings: of score, edm, epsilon, v.
        samplers: of SAMPLER_FACTS in slimdiff.catalog.samplers.
        scopes: the keys of `prune_scopes()`.
        grouped: whether `groups` of a training divides its convolutions; if not, `groups` must be 1.
        noise_scale: factor on EDM's c_noise.
    """
    declared = NetworkFamily(name, network, preconditionings, samplers, scopes, grouped, noise_scale)
    return _register(declared)


def source(name: str, *, classes: Sequence[str], options: Options | None = None) -> Callable[[Function], Function]:
    """Register a source, `f(options, data_dir) -> (train_images, train_labels, test_images, test_labels)`.

    Images are uint8 (N, C, H, W) with C 1 or 3, labels are integers (N,), indices of `classes`: arrays or tensors.

    Args:
        name: value of `datasets.*.source`.
        classes: names of the classes.
        options: JSON schemas of the keys of `datasets.*.options`.
    """
    return _register(Source(name, classes, options or {}))


def missing_plugins(needed: Sequence[Mapping[str, str]]) -> Iterator[str]:
    """Yield a sentence for each of `needed` (entries of path, kind, name, code) that is not loaded or has changed."""
    for entry in needed:
        registered = REGISTERED.get((entry["kind"], entry["name"]))
        what = f"{entry['kind']} {entry['name']!r} of the plugin {entry['path']}"
        if registered is None:
            yield f"{what} is needed: name that file under `plugins`, with --plugin or in load(…, plugins=[…])"
        elif registered.code != entry["code"]:
            yield (
                f"{what} has changed: it was {entry['code']} and {registered.path} has {registered.code}; restore the "
                "file, or run the workflow again"
            )


def _register(declared: Declared, restore: Callable[..., Any] | None = None) -> Callable[[Function], Function]:
    def add(function: Function) -> Function:
        PENDING.append(Registered(declared, function, restore))
        return function

    return add


def _check_name(name: object) -> None:
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise UserError(f"the name is {name!r}; allowed: lower-case letters, digits and single dashes, a letter first")


def _check_options(what: str, options: object) -> None:
    import jsonschema

    if not isinstance(options, Mapping):
        raise UserError(f"{what} is {options!r}; allowed: a mapping from keys to JSON schemas")
    for key, schema in options.items():
        if not isinstance(key, str) or not OPTION.fullmatch(key):
            raise UserError(f"{what} has the key {key!r}; allowed: lower-case letters, digits and underscores")
        if not isinstance(schema, Mapping) or not any(word in schema for word in TYPED):
            raise UserError(f"{what}.{key} is {schema!r}; allowed: a JSON schema with {', '.join(TYPED[:-1])} or anyOf")
        try:
            jsonschema.Draft202012Validator.check_schema(schema)
        except jsonschema.SchemaError as error:
            raise UserError(f"{what}.{key} is not a JSON schema: {error.message}") from None


def _check_among(what: str, given: object, allowed: Sequence[str]) -> None:
    if not isinstance(given, list | tuple) or not given or not all(item in allowed for item in given):
        raise UserError(f"{what} is {given!r}; allowed: some of {', '.join(allowed)}")
