"""Sizes and counts that must fit each other, stated once: for the check of a config, and for the job that needs them.

Functions yield the keys of what does not fit, and the text that follows them in a message: ("fit",), "is pad, …". Free
of torch, as the rules must be.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from slimdiff.catalog.compositions import largest_counts
from slimdiff.catalog.families import divisors
from slimdiff.catalog.layers import unet2d_convolutions

FEATURES = 64  # of an extractor; 128 raised the floor and ordered damaged images no better
INCEPTION_FEATURES = 2048
MAX_KEPT = 10_000  # training images whose features a reference keeps; more only of classes that a composition needs
NEIGHBOURS = 5  # nearest images that bound a ball of density and coverage (Naeem et al. 2020)
MIN_SIDE = 4  # pixels of an image that an extractor or a classifier takes
MAX_SHARE = 0.98  # of zeros in a layer with an allocation: a layer of zeros alone passes nothing on
LEVELS_DOWN = 3  # halvings of the image in a ddpm
MAX_BLOCKS, MAX_LAYERS = 8, 16  # of a unet2d: blocks down, and layers of each
UNET2D_BLOCKS = {  # allowed types of blocks
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
    "up_block_types": ("UpBlock2D", "AttnUpBlock2D"),
}
STRIDES = (1, 2, 2, 2)  # of the unpadded 3×3 convolutions of an ncsn

# Key of a data set → what leaving it out means, in messages
SCORERS = {
    "extractors": "to train extractors",
    "classifier": "to train a classifier",
    "foreign_extractors": "for no fid_foreign",
}
MAX_NAMED = 12  # classes in a message

Fault = tuple[tuple[str | int, ...], str]  # keys, and the text that follows them


@dataclass(frozen=True, slots=True)
class DatasetFacts:
    """What is known of a data set without reading its images; None: only reading them tells."""

    classes: int | None = None
    names: tuple[str, ...] = ()  # of the classes, if they are the user's own
    shape: tuple[int, int, int] | None = None  # channels, height, width
    n_train: int | None = None
    n_test: int | None = None
    class_counts: tuple[int, ...] = ()  # training images; empty if unknown


BUILT_IN = {
    "mnist": DatasetFacts(10, (), (1, 28, 28), 60_000, 10_000),
    "fashion_mnist": DatasetFacts(10, (), (1, 28, 28), 60_000, 10_000),
    "cifar10": DatasetFacts(10, (), (3, 32, 32), 50_000, 10_000),
    "digits": DatasetFacts(10, (), (1, 8, 8), 1_433, 364),
}


def dataset_faults(dataset: str, facts: DatasetFacts) -> Iterator[Fault]:
    """Yield what keeps a data set from being a reference; keys below the config."""
    if facts.n_train is not None and facts.n_train < FEATURES:
        text = (
            f"has {facts.n_train} training images; allowed: {FEATURES} or more, one per feature of the extractors; add "
            "images, or lower test_fraction"
        )
        yield ("datasets", dataset), text


def comparison_faults(
    dataset: str, counts: Sequence[int], trained: Sequence[int], names: Sequence[str] = ()
) -> Iterator[Fault]:
    """Yield a class that leaves too few training images to compare with samples; keys below the config.

    Args:
        counts, trained: of each class, the images in the samples, at least one in total, and those to train.
    """
    sampled = [label for label, count in enumerate(counts) if count]
    trained = [*trained, *[0] * (len(counts) - len(trained))]
    rarest = min(sampled, key=lambda label: trained[label] / counts[label])
    left = sum(largest_counts(sum(counts), counts, trained)) if trained[rarest] else 0
    if left <= NEIGHBOURS:
        which = repr(names[rarest]) if names else f"{rarest}, counted from 0,"
        text = (
            f"gives class {which} {counts[rarest]} of {sum(counts)} samples, and data set {dataset} has "
            f"{trained[rarest]} training images of it, which leaves {left} of all classes to compare with; allowed: "
            f"{NEIGHBOURS + 1} or more; add images of that class, or set it to training"
        )
        yield ("sampling", "labels"), text


def inception_faults(kind: str, dataset: str, n_train: int | None) -> Iterator[Fault]:
    """Yield what keeps a data set from being an Inception reference; keys below the config."""
    if n_train is not None and n_train < INCEPTION_FEATURES:
        text = (
            f"needs {INCEPTION_FEATURES} training images or more, one per feature, and data set {dataset} has "
            f"{n_train}; set it to null, or add images"
        )
        yield ("inception", kind), text


def sample_faults(kind: str, n_samples: int) -> Iterator[Fault]:
    """Yield a number of samples below that of Inception's features; keys below the config."""
    if n_samples < INCEPTION_FEATURES:
        text = (
            f"is {n_samples}; allowed with inception.{kind}: {INCEPTION_FEATURES} or more, one per feature, better "
            f"10,000; raise it, or set inception.{kind} to null"
        )
        yield ("sampling", "n_samples"), text


def scorer_faults(
    network: str, file: str, header: Mapping[str, Any], dataset: str, facts: DatasetFacts
) -> Iterator[Fault]:
    """Yield why a file of extractors or a classifier cannot score a data set; keys below the config.

    Args:
        network: its key in the data set, one of SCORERS.
        header: of the file.
    """
    shape, classes = tuple(header["image_shape"]), len(header["classes"])
    if network == "foreign_extractors":
        if header["dataset"] != dataset:
            return
        why = "which classify this data set itself; allowed: those of another one"
    elif header["dataset"] != dataset:
        why = f"for data set {header['dataset']!r}, not {dataset!r}"
    elif facts.shape is not None and shape != facts.shape:
        theirs, own = ("×".join(map(str, sizes)) for sizes in (shape, facts.shape))
        why = f"for images of {theirs} (channels×height×width), and those of data set {dataset} are {own}"
    elif facts.classes is not None and classes != facts.classes:
        why = f"for {classes} classes, and data set {dataset} has {facts.classes}"
    else:
        return
    text = f"is {file!r}, {why}; correct it, or leave the key out {SCORERS[network]}"
    yield ("datasets", dataset, network), text


def model_faults(model: Mapping[str, Any], dataset: str, facts: DatasetFacts) -> Iterator[Fault]:
    """Yield what keeps a model from training on a data set; keys below the entry of `models:`.

    Args:
        model: an entry of `models:`.
    """
    classes = model["network"].get("classes", 0)
    if classes and facts.classes and classes != facts.classes:
        more = f" and {len(facts.names) - MAX_NAMED} more" if len(facts.names) > MAX_NAMED else ""
        named = f" ({', '.join(map(repr, facts.names[:MAX_NAMED]))}{more})" if facts.names else ""
        text = (
            f"is {classes}; allowed with data set {dataset}: {facts.classes}, its number of classes{named}, or 0 "
            "(unconditional)"
        )
        yield ("network", "classes"), text
    size = model["image_size"]
    if model["fit"] == "pad" and facts.shape is not None and size < max(facts.shape[1:]):
        step = _size_step(model["family"], model["network"]) * model.get("patch", 1)
        enough = math.ceil(max(facts.shape[1:]) / step) * step
        text = (
            f"is pad, which cannot shrink the {facts.shape[1]}×{facts.shape[2]} images of data set {dataset} to "
            f"{size}×{size}; allowed: resize, or an image_size of {enough} or more"
        )
        yield ("fit",), text


def ncsn_sizes(image_size: int) -> list[int]:
    """Return the height of an ncsn's image and of each level's activations; below 1 where the image is too small."""
    sizes = [image_size]
    for stride in STRIDES:
        sizes.append((sizes[-1] - 3) // stride + 1)
    return sizes


def _ncsn_faults(image_size: int, patch: int, network: Mapping[str, Any]) -> Iterator[Fault]:
    sizes = ncsn_sizes(image_size // patch)
    if sizes[-1] < 1:
        least = next(size for size in range(100) if ncsn_sizes(size)[-1] > 0)
        of_patch = f" with patch {patch}" if patch > 1 else ""
        yield ("image_size",), f"is {image_size}; allowed{of_patch}: {least * patch} or more pixels"
    channels, norms = network["channels"], network["norm_groups"]
    # The last norm has the second level's groups and the first level's channels.
    for level, width in enumerate((channels[0], math.gcd(channels[0], channels[1]), *channels[2:])):
        # A norm over one value returns 0: on the innermost level, a group needs two channels or more than a pixel.
        alone = level == len(norms) - 1 and sizes[-1] == 1 and norms[level] == width
        if width % norms[level] or alone:
            allowed = ", ".join(divisors(width).split(", ")[: -1 if alone else None])
            size = f", image_size {image_size} and patch {patch}" if alone else ""
            text = f"is {norms[level]}; allowed with channels {list(channels)}{size}: {allowed or 'none'}"
            yield ("network", "norm_groups", level), text


def _size_step(family: str, network: Mapping[str, Any]) -> int:
    """Return what the side of the network's own images must be a multiple of."""
    if family == "unet2d":
        return int(2 ** (len(network["block_out_channels"]) - 1))
    return 2**LEVELS_DOWN if family == "ddpm" else 1


def _ddpm_faults(image_size: int, patch: int, network: Mapping[str, Any]) -> Iterator[Fault]:
    if network["base"] % network["heads"]:
        text = f"is {network['heads']}; allowed: {divisors(network['base'])}"
        yield ("network", "heads"), text


def _unet2d_faults(image_size: int, patch: int, network: Mapping[str, Any]) -> Iterator[Fault]:
    widths = network["block_out_channels"]
    if not 1 <= len(widths) <= MAX_BLOCKS:
        yield ("network", "block_out_channels"), f"names {len(widths)} blocks; allowed: 1 to {MAX_BLOCKS}"
        return
    if not 1 <= network["layers_per_block"] <= MAX_LAYERS:
        yield ("network", "layers_per_block"), f"is {network['layers_per_block']}; allowed: 1 to {MAX_LAYERS}"
    for key, allowed in UNET2D_BLOCKS.items():
        if len(network[key]) != len(widths):
            yield ("network", key), f"names {len(network[key])} blocks; allowed: {len(widths)}, as block_out_channels"
        for index, kind in enumerate(network[key]):
            if kind not in allowed:
                yield ("network", key, index), f"is {kind!r}; allowed: {', '.join(allowed)}"
    norms = [("norm_num_groups", math.gcd(*widths), min(widths[-2:]))]  # key, what it divides, smallest innermost width
    if network.get("add_attention", True) and network.get("attn_norm_num_groups") is not None:
        norms.append(("attn_norm_num_groups", widths[-1], widths[-1]))
    for key, common, inner in norms:
        # A norm over one value returns 0: on a level of one pixel, a group needs two channels or more.
        alone = image_size // patch == _size_step("unet2d", network) and network[key] == inner
        if common % network[key] or alone:
            size = f" and, with image_size {image_size} and patch {patch}, fewer than {inner}" if alone else ""
            yield ("network", key), f"is {network[key]}; allowed: {divisors(common)}{size}"
    frequencies = widths[0] // 2
    if frequencies and network.get("freq_shift", 0) >= frequencies:
        text = f"is {network['freq_shift']}; allowed: below {frequencies}, the number of frequencies"
        yield ("network", "freq_shift"), text
    width, attending = network["attention_head_dim"], [widths[-1]] if network.get("add_attention", True) else []
    for key, order in (("down_block_types", widths), ("up_block_types", widths[::-1])):
        attending += [c for kind, c in zip(network[key], order, strict=False) if kind.startswith("Attn")]
    if width is not None and attending and width > min(attending):
        yield ("network", "attention_head_dim"), f"is {width}; allowed: up to {min(attending)}, or null"


NETWORK_FAULTS: dict[str, Callable[[int, int, Mapping[str, Any]], Iterator[Fault]]] = {
    "ncsn": _ncsn_faults,
    "ddpm": _ddpm_faults,
    "unet2d": _unet2d_faults,
}


def network_faults(family: str, image_size: int, network: Mapping[str, Any], patch: int = 1) -> Iterator[Fault]:
    """Yield sizes in a network that do not fit each other; keys below the entry of `models:`.

    Args:
        network, patch: of an entry of `models:`.
    """
    if family not in NETWORK_FAULTS:
        if patch != 1:
            yield ("patch",), f"is {patch}; allowed for family {family} of a plugin: 1; its network can take patches"
        return
    step = patch * _size_step(family, network)
    if image_size % step:
        near = max(step, image_size // step * step)
        of_patch = f" with patch {patch}" if patch > 1 else ""
        yield (
            ("image_size",),
            f"is {image_size}; allowed for family {family}{of_patch}: multiples of {step}, such as {near} or "
            f"{near + step}",
        )
    yield from NETWORK_FAULTS[family](image_size, patch, network)


def uniform_amounts(image_size: int, network: Mapping[str, Any]) -> list[float]:
    """Return the shares of channels whose removal leaves a unet2d with other block_out_channels, ascending."""
    widths, head = network["block_out_channels"], network["attention_head_dim"]
    norms = [network["norm_num_groups"], *([n] if (n := network.get("attn_norm_num_groups")) is not None else [])]
    parts = math.gcd(*(width // math.lcm(*norms) for width in widths), *([head] if head is not None else []))
    amounts = []
    for kept in range(parts - 1, 0, -1):
        narrow = {**network, "freq_shift": 0, "block_out_channels": [width * kept // parts for width in widths]}
        narrow["attention_head_dim"] = None if head is None else head * kept // parts
        if not any(network_faults("unet2d", image_size, narrow)):
            amounts.append(1 - kept / parts)
    return amounts


def allocation_faults(amount: float) -> Iterator[Fault]:
    """Yield an `amount` of zeros that no allocation to layers can place; keys below `prune`."""
    if amount > MAX_SHARE:
        yield (
            ("amount",),
            f"is {amount}; allowed with this allocation: up to {MAX_SHARE}; every layer keeps some weights",
        )


def conv_weights(family: str, channels: int, network: Mapping[str, Any], groups: int | str = 1) -> int | None:
    """Return the number of weights in the convolutions of a network: most of its parameters; None for a plugin's.

    Args:
        channels: of the images, or of their patches.
        groups: of the training; layers that it does not divide count as divided, so the result is never too large.
    """
    if family == "ncsn":
        a, b, c, d = network["channels"]
        pairs = [(a, b), (b, c), (c, d), (d, c), (2 * c, b), (2 * b, a)]
        return 9 * sum(_over(*pair, groups) for pair in (*pairs, (channels, a), (2 * a, channels)))
    if family == "unet2d":
        total = 0
        for _, c_in, c_out, side in unet2d_convolutions(network):
            inner = side == 3 and c_in and c_out
            total += side**2 * _over(c_in or channels, c_out or channels, groups if inner else 1)
        return total
    if family != "ddpm":
        return None
    a = network["base"]
    outer = groups if network["grouped"] == "all" else 1
    bottom = [(4 * a, 8 * a), (8 * a, 8 * a), (8 * a, 8 * a), (8 * a, 8 * a), (8 * a, 4 * a), (4 * a, 4 * a)]
    around = [pair for width, out in ((a, 2 * a), (2 * a, 4 * a), (4 * a, 4 * a)) for pair in _blocks(width, out, out)]
    ups = ((8 * a, 2 * a), (4 * a, a), (2 * a, a))
    around += [pair for width, out in ups for pair in _blocks(width, width // 2, out)]
    inner = sum(_over(*pair, groups) for pair in bottom) + sum(_over(*pair, outer) for pair in around)
    return 9 * (inner + channels * a + a * a)


def _blocks(width: int, middle: int, out: int) -> Sequence[tuple[int, int]]:
    """Return the channels of the convolutions of a level of a ddpm."""
    return (width, width), (width, width), (width, middle), (middle, out)


def _over(c_in: int, c_out: int, groups: int | str) -> int:
    return c_in * c_out // (math.gcd(c_in, c_out) if groups == "max" else int(groups))
