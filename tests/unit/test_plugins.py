"""Plugins: declarations in their source, their use in a config, and the effects of an edit."""

import ast
import copy
import subprocess
import sys
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

import pytest
from builders import SOURCE
from presets import CONFIG, ROOT, SCHEMA, merge, read_yaml
from torch import nn

from slimdiff.catalog.families import FAMILIES, PRECONDITIONINGS
from slimdiff.config import lookup, resolve
from slimdiff.config.validate import validate
from slimdiff.diffusion.denoiser import Denoiser, PreconditioningSettings
from slimdiff.diffusion.processes import NOISE_SCHEDULES
from slimdiff.errors import UserError
from slimdiff.io.settings import canonical
from slimdiff.plugins import NetworkFamily, declarations
from slimdiff.runtime.fingerprint import Codebase, package

EXAMPLE = read_yaml("examples/config.yaml")
FILE = "examples/my_recipes.py"
HEAD = "from slimdiff.plugins import family, source, step\n"
OPTION = "{'k': {'type': 'integer'}}"
STEP = f"{HEAD}\n@step('mine', settings={OPTION})\ndef mine(network, settings, seed):\n    pass\n"


@pytest.fixture(autouse=True)
def in_the_repository(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    forget()


def forget() -> None:
    declarations.read.cache_clear()
    declarations._load_catalog.cache_clear()


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write(folder: Path, text: str, name: str = "mine.py") -> str:
    (folder / name).write_text(text, encoding="utf-8")
    forget()
    return name


def codes(path: str = "mine.py") -> dict[str, str]:
    """Return name → digest of the declarations in `path`."""
    forget()
    return {found.declared.name: found.code for found in declarations.read(path)}


def verdict(overlay: dict[str, Any]) -> str:
    """Return the error for the example's configuration with `overlay` merged over it."""
    merged = merge(merge(CONFIG, EXAMPLE), overlay)
    with pytest.raises(UserError) as caught:
        validate(merged, SCHEMA, {"config.yaml": CONFIG, "examples/config.yaml": EXAMPLE, "my.yaml": overlay})
    assert "\n" not in str(caught.value)
    return str(caught.value)


# --- declarations


def test_the_example_is_read_correctly() -> None:
    found = declarations.load_catalog([FILE])
    assert list(found.steps) == ["low-rank", "round-mantissa"]
    assert [found.steps[name].declared.restores for name in found.steps] == [True, False]
    assert found.sources["shapes"].declared.classes == ["disk", "square", "cross"]
    family = found.families["residual"].declared.as_family
    assert family.samplers == ("heun", "euler-maruyama")
    assert (family.training, family.sampler) == (("label_dropout",), ("guidance", "guidance_interval"))


@pytest.mark.parametrize("name", PRECONDITIONINGS)
def test_a_family_has_the_options_of_its_preconditioning(name: str) -> None:
    """A noise schedule and min-SNR, if the schedule decides the noise levels."""
    settings = [PreconditioningSettings(name, noise_schedule=schedule) for schedule in NOISE_SCHEDULES]
    ranges = {Denoiser(nn.Identity(), each).sigma_range() for each in settings}
    declared = NetworkFamily("mine", {"k": {"type": "integer"}}, [name], ["heun"])
    assert declared.as_family.training == (("noise_schedule", "min_snr_gamma") if len(ranges) > 1 else ())


def test_reading_imports_neither_torch_nor_the_plugin(folder: Path) -> None:
    path = write(folder, f"import torch\nraise SystemExit('it ran')\n{STEP}")
    script = f"import sys; from slimdiff.plugins.declarations import read; n = len(read({path!r}))"
    script += "; print(n, 'torch' in sys.modules)"
    done = subprocess.run(
        [sys.executable, "-c", script], env={"PYTHONPATH": str(SOURCE)}, capture_output=True, text=True, timeout=60
    )
    assert done.stdout.split() == ["1", "False"], done.stderr


@pytest.mark.parametrize(
    "head",
    [
        "from slimdiff.plugins import step as mark\nfrom slimdiff.plugins import family\n@mark",
        "from slimdiff import plugins\n@plugins.step",
        "import slimdiff.plugins\n@slimdiff.plugins.step",
        "import slimdiff.plugins as p\n@p.step",
    ],
)
def test_every_spelling_of_a_decorator_is_read(folder: Path, head: str) -> None:
    (found,) = declarations.read(
        write(folder, f"{head}('mine', settings=KEYS)\ndef f(n, s, r): ...\nKEYS = {OPTION}\n")
    )
    assert (found.declared.name, found.entry["path"]) == ("mine", "mine.py")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("def f(:\n", r"^mine\.py, line 1: "),
        ("x = 1\n", r"^mine\.py registers nothing: "),
        (STEP + STEP.removeprefix(HEAD), r"^mine\.py, line 7: @step: 'mine' .*twice"),
        (
            f"{HEAD}@step('Mine', settings={{}})\ndef f(n, s, r): ...\n",
            r"line 2: @step: the name is 'Mine'; allowed: ",
        ),
        (
            f"{HEAD}@step('a', settings=dict(k=1))\ndef f(n, s, r): ...\n",
            r"settings is dict\(k=1\); allowed: a literal",
        ),
        (f"{HEAD}@step('a', settings={{'k': 3}})\ndef f(n, s, r): ...\n", r"settings\.k is 3; allowed: a JSON schema"),
        (
            f"{HEAD}@step('a', settings={{'k': {{'type': 'int'}}}})\ndef f(n, s, r): ...\n",
            r"settings\.k is not a JSON sch",
        ),
        (f"{HEAD}@step('a')\ndef f(n, s, r): ...\n", r"missing 1 required positional argument: 'settings'"),
        (f"{HEAD}@step('a', keys={{}})\ndef f(n, s, r): ...\n", r"unexpected keyword argument 'keys'"),
        (f"{HEAD}@step\ndef f(n, s, r): ...\n", r"line 2: write @step\(…\)"),
        (f"{HEAD}@source('a', classes=['x'])\ndef f(o, d): ...\n", r"classes is \['x'\]; allowed: .*two"),
        (f"{HEAD}@source('a', classes=['x', ' x'])\ndef f(o, d): ...\n", r"classes is .*; allowed: the distinct"),
        (
            f"{HEAD}@family('a', network={{}}, preconditionings=['edm'], samplers=['hein'])\ndef f(n, c, s, g): ...\n",
            r"samplers is \['hein'\]; allowed: some of heun, ",
        ),
    ],
)
def test_unreadable_declarations_are_refused_with_their_line(folder: Path, text: str, said: str) -> None:
    with pytest.raises(UserError, match=said) as caught:
        declarations.read(write(folder, text))
    assert "\n" not in str(caught.value)


def test_two_files_cannot_declare_the_same(folder: Path) -> None:
    write(folder, STEP, "one.py")
    write(folder, STEP, "two.py")
    with pytest.raises(UserError, match=r"^two\.py: step 'mine' .*one\.py"):
        declarations.load_catalog(["one.py", "two.py"])


# --- effects of an edit

THREE = f'''"""Three of a kind."""
import tools
from tools2 import deep
import torch
{HEAD}
SIZE = 3
OTHER = {{}}

def shared(x):
    return x * SIZE

@torch.no_grad()
def only_a(x):
    return shared(x)

@step("a", settings={{}})
def a(network, settings, seed):
    """Do a."""
    return only_a(tools.one)

@step("b", settings={{}})
def b(network, settings, seed):
    return shared(2)

@step("c", settings={{}})
def c(network, settings, seed):
    return deep(OTHER)
'''


@pytest.fixture
def three(folder: Path) -> Path:
    write(folder, "one = 1\n", "tools.py")
    write(folder, "from tools3 import x\ndef deep(y): return y, x\n", "tools2.py")
    write(folder, "x = 1\n", "tools3.py")
    write(folder, THREE)
    return folder


@pytest.mark.parametrize(
    ("name", "old", "new", "touched"),
    [
        ("mine.py", "return only_a(tools.one)", "return only_a(tools.one) + 1", "a"),
        ("mine.py", "    return shared(x)\n", "    return shared(x) + 1\n", "a"),
        ("mine.py", '"a", settings={}', '"a", settings={"k": {"type": "integer"}}', "a"),
        ("mine.py", "SIZE = 3", "SIZE = 4", "ab"),
        ("mine.py", "OTHER = {}", "OTHER = {}\nOTHER['x'] = 1", "abc"),  # runs on loading, so it counts for all
        ("mine.py", "OTHER = {}", "OTHER = {}\nprint(OTHER)", "abc"),
        ("mine.py", "OTHER = {}", "OTHER = {}\nUNUSED = 3", ""),
        ("mine.py", "OTHER = {}", "OTHER = {}\n\n@shared\ndef hidden(): ...", "abc"),  # shared may note it somewhere
        ("mine.py", "OTHER = {}", "OTHER = {}\nMADE = shared(2)", "abc"),
        ("mine.py", "OTHER = {}", "OTHER = {}\nMADE = torch.zeros(2)", ""),
        ("mine.py", "return deep(OTHER)", "return eval('deep')(OTHER)", "c"),
        ("mine.py", '"""Do a."""', '"""Call a."""  # a comment', ""),
        ("mine.py", '"""Three of a kind."""', "", ""),
        ("tools.py", "one = 1", "one = 2", "a"),
        ("tools.py", "one = 1", "one = 1  # a remark", ""),
        ("tools2.py", "return y, x", "return x, y", "c"),
        ("tools3.py", "x = 1", "x = 2", "c"),
    ],
)
def test_an_edit_changes_the_digests_of_steps_that_reach_it(
    three: Path, name: str, old: str, new: str, touched: str
) -> None:
    before, text = codes(), (three / name).read_text(encoding="utf-8")
    assert text.count(old) == 1
    write(three, text.replace(old, new), name)
    after = codes()
    assert "".join(key for key in before if before[key] != after[key]) == touched


def test_a_step_that_looks_up_names_dynamically_depends_on_its_whole_folder(three: Path) -> None:
    write(three, THREE.replace("return deep(OTHER)", "return eval('deep')(OTHER)"))
    before = codes()
    write(three, "one = 2\n", "tools.py")
    after = codes()
    assert [name for name in before if before[name] != after[name]] == ["a", "c"]


def test_only_the_used_part_of_a_neighbouring_package_counts(folder: Path) -> None:
    (folder / "parts").mkdir()
    for name in ("__init__", "one", "two"):
        write(folder, "x = 1\ny = 1\n", f"parts/{name}.py")
    write(folder, STEP.replace("    pass", "    from parts.one import x\n    return x"))
    before = codes()
    write(folder, "x = 2\n", "parts/two.py")
    write(folder, "x = 1\ny = 2\n", "parts/one.py")
    assert codes() == before
    write(folder, "print('loaded')\n", "parts/__init__.py")
    assert codes() != before
    write(folder, "x = 1\n", "parts/__init__.py")
    write(folder, "x = 2\n", "parts/one.py")
    assert codes() != before


def test_code_of_slimdiff_that_a_plugin_reaches_counts(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(folder, f"from slimdiff.models.groups import conv_groups\n{STEP.replace('pass', 'conv_groups(1, 1, 1)')}")
    before = codes()

    def edit(module: str, name: str) -> dict[str, str]:
        """Return the digests after a statement is added to the function `name`."""
        source = package().module(module)
        tree = copy.deepcopy(source.tree)
        (function,) = [node for node in tree.body if getattr(node, "name", None) == name]
        function.body.append(ast.Pass())
        edited = Codebase(package().roots, {module: tree}, package())
        monkeypatch.setattr(declarations, "package", lambda: edited)
        return codes()

    assert edit("slimdiff.models.groups", "conv_groups") != before
    assert edit("slimdiff.plugins", "step") != before
    assert edit("slimdiff.plugins.loading", "_step") != before, "plugin loading runs in every job with a plugin"
    assert edit("slimdiff.io.files", "atomic") == before


# --- the configuration


def test_the_example_is_valid() -> None:
    validate(merge(CONFIG, EXAMPLE), SCHEMA, {"examples/config.yaml": EXAMPLE})


def test_an_unused_plugin_changes_no_settings() -> None:
    """Adding one to `plugins` reruns nothing."""
    named = merge(CONFIG, {"plugins": [FILE]})
    for entry in CONFIG["matrix"]:
        for optimization in entry["optimizations"]:
            cell = (entry["dataset"], entry["model"], optimization, 0)
            training = (entry["dataset"], entry["model"], lookup.training_of(CONFIG, optimization), 0)
            for plain, other in (
                (resolve.row_settings(CONFIG, *cell), resolve.row_settings(named, *cell)),
                (resolve.train_settings(CONFIG, *training), resolve.train_settings(named, *training)),
                (resolve.data_settings(CONFIG, cell[0]), resolve.data_settings(named, cell[0])),
            ):
                assert canonical(plain) == canonical(other)
                assert '"plugins"' not in canonical(plain)


def test_settings_name_the_plugin_functions_that_a_stage_uses() -> None:
    config = merge(CONFIG, EXAMPLE)
    code = codes(FILE)

    def used(found: dict[str, Any]) -> list[str]:
        for entry in found.get("plugins", ()):
            assert entry == {**entry, "path": FILE, "code": code[entry["name"]]}
        return [entry["name"] for entry in found.get("plugins", ())]

    both = ("shapes", "residual", "low-rank-25+mantissa-4", 0)
    plain = ("shapes", "residual", "mantissa-4", 0)
    assert used(resolve.data_settings(config, "shapes")) == ["shapes"]
    assert used(resolve.train_settings(config, "shapes", "residual", "plain", 0)) == ["residual"]
    assert used(resolve.compress_settings(config, *both)) == ["residual", "low-rank", "round-mantissa"]
    assert used(resolve.compress_settings(config, *plain)) == ["residual", "round-mantissa"]
    assert used(resolve.sample_settings(config, *both)) == ["residual", "low-rank"]
    assert used(resolve.profile_settings(config, *plain)) == ["residual"], "a dense file needs no step to be read"
    assert used(resolve.score_settings(config, *both)) == []
    assert used(resolve.compress_settings(config, "shapes", "ncsn", "l1-30", 0)) == []
    assert used(resolve.compress_settings(config, "shapes", "ncsn", "mantissa-4", 0)) == ["round-mantissa"]


def test_plugin_steps_run_between_prune_and_quantize_in_file_order() -> None:
    recipe = {"quantize": {"linear": "8bit"}, "round-mantissa": {"bits": 3}, "low-rank": {"share": 0.5}}
    config = merge(
        merge(CONFIG, EXAMPLE),
        {"optimizations": {"mine": {"training": "plain", **recipe, "prune": {"method": "l1", "amount": 0.1}}}},
    )
    found = resolve.compress_settings(config, "shapes", "residual", "mine", 0)["steps"]
    assert [next(iter(step)) for step in found] == ["prune", "low-rank", "round-mantissa", "quantize"]


@pytest.mark.parametrize(
    ("overlay", "key", "words"),
    [
        ({"plugins": ["nowhere.py"]}, "plugins[0]", ("'nowhere.py'", "does not exist")),
        ({"plugins": ["/tmp/x.py"]}, "plugins[0]", ("'/tmp/x.py'", "relative")),
        ({"plugins": ["../x.py"]}, "plugins[0]", ("'../x.py'", "without ..")),
        ({"plugins": ["README.md"]}, "plugins[0]", ("'README.md'", ".py")),
        ({"plugins": ["my-recipes.py"]}, "plugins[0]", ("'my-recipes.py'", "a name that Python can import")),
        ({"plugins": ["statistics.py"]}, "plugins[0]", ("'statistics.py'", "the standard library", "rename")),
        ({"plugins": ["a/numbers.py"]}, "plugins[0]", ("'a/numbers.py'", "the standard library", "rename")),
        ({"plugins": ["yaml.py"]}, "plugins[0]", ("'yaml.py'", "an installed package", "rename")),
        ({"plugins": ["__main__.py"]}, "plugins[0]", ("'__main__.py'", "a name that Python can import")),
        ({"plugins": ["a/__init__.py"]}, "plugins[0]", ("'a/__init__.py'", "a name that Python can import")),
        ({"plugins": ["class.py"]}, "plugins[0]", ("'class.py'", "a name that Python can import")),
        ({"plugins": ["None.py"]}, "plugins[0]", ("'None.py'", "a name that Python can import")),
        ({"plugins": FILE}, "plugins", (f"'{FILE}'", "a list")),
        (
            {"optimizations": {"mantissa-4": {"round-mantissa": {"bits": 23}}}},
            "optimizations.mantissa-4.round-mantissa.bits",
            ("is 23", "at least 0"),
        ),
        (
            {"optimizations": {"mantissa-4": {"round-mantissa": {"bits": 3, "bit": 3}}}},
            "optimizations.mantissa-4.round-mantissa.bit",
            ("unknown key", "bits"),
        ),
        (
            {"optimizations": {"mantissa-4": {"round-mantisa": {"bits": 3}}}},
            "optimizations.mantissa-4.round-mantisa",
            ("unknown key", "did you mean round-mantissa?", "plugins"),
        ),
        (
            {"optimizations": {"baseline": {"prune": {"method": "l1", "amount": 0.1, "scope": "extremes"}}}},
            "optimizations.baseline.prune.scope",
            ("is extremes", "residual", "global, middle"),
        ),
        (
            {"models": {"residual": {"network": {"width": 5}}}},
            "models.residual.network.width",
            ("is 5", "a whole number"),
        ),
        (
            {"models": {"residual": {"network": {"depth": 5}}}},
            "models.residual.network.depth",
            ("unknown key", "width"),
        ),
        (
            {"models": {"residual": {"network": {"classes": 4}}}},
            "models.residual.network.classes",
            ("is 4", "shapes: 3"),
        ),
        (
            {"models": {"residual": {"sampler": {"method": "ode"}}}},
            "models.residual.sampler.method",
            ("is ode", "heun, euler-maruyama"),
        ),
        (
            {"models": {"residual": {"training": {"preconditioning": "v"}}}},
            "models.residual.training.preconditioning",
            ("is v", "edm, score"),
        ),
        (
            {"models": {"residual": {"training": {"groups": 2}}}},
            "models.residual.training.groups",
            ("is 2", "residual: 1"),
        ),
        ({"models": {"residual": {"sampler": {"snr": 0.1}}}}, "models.residual.sampler.snr", ("ncsn", "residual")),
        (
            {"models": {"residual": {"family": "resdual"}}},
            "models.residual.family",
            ("'resdual'", "residual", "plugins"),
        ),
        ({"datasets": {"shapes": {"options": {"n": 3}}}}, "datasets.shapes.options.n", ("unknown key", "train_images")),
        ({"datasets": {"digits": {"options": {}}}}, "datasets.digits.options", ("plugin", "digits")),
    ],
)
def test_mistakes_are_refused_in_one_line_before_any_job(
    overlay: dict[str, Any], key: str, words: tuple[str, ...]
) -> None:
    message = verdict(overlay)
    assert message.startswith(f"my.yaml: {key} ")
    assert not [word for word in words if word not in message], message


def test_without_the_plugin_its_names_are_unknown() -> None:
    """If a config lacks `plugins`, the message says where such names come from."""
    valid = {"plugins": [], "datasets": EXAMPLE["datasets"], "models": EXAMPLE["models"], "optimizations": {}}
    merged = merge(CONFIG, valid)
    with pytest.raises(UserError, match=r"datasets\.shapes\.options is an unknown key"):
        validate(merged, SCHEMA, {"my.yaml": merged})
    merged["datasets"]["shapes"].pop("options")
    with pytest.raises(UserError, match=r"datasets\.shapes\.source is 'shapes'; allowed: mnist, .*plugins"):
        validate(merged, SCHEMA, {"my.yaml": merged})
    merged["datasets"].pop("shapes")
    with pytest.raises(UserError, match=r"models\.residual\.family is 'residual'; allowed: ncsn, ddpm.*plugins"):
        validate(merged, SCHEMA, {"my.yaml": merged})


def test_names_of_slimdiff_are_refused(folder: Path) -> None:
    path = write(folder, STEP.replace("'mine'", "'prune'"))
    merged = merge(CONFIG, {"plugins": [path], "matrix": []})
    with pytest.raises(UserError, match=r"^mine\.py: step 'prune' .*rename it"):
        validate(merged, SCHEMA, {"config.yaml": merged})


def test_reading_and_validating_load_no_plugin() -> None:
    assert set(FAMILIES) == {"ncsn", "ddpm", "unet2d"}


@pytest.mark.parametrize(
    ("files", "plugins", "said"),
    [
        ({"mine.py": "import tabnanny\n", "tabnanny.py": ""}, ["mine.py"], ("tabnanny.py", "the standard library")),
        ({"mine.py": "def f():\n    import yaml\n", "yaml.py": ""}, ["mine.py"], ("yaml.py", "an installed package")),
        (
            {"a/one.py": "import common\n", "a/common.py": "", "b/two.py": "import common\n", "b/common.py": ""},
            ["a/one.py", "b/two.py"],
            ("b/common.py and a/common.py have one name",),
        ),
        ({"a/mine.py": "", "b/mine.py": ""}, ["a/mine.py", "b/mine.py"], ("b/mine.py and a/mine.py have one name",)),
    ],
)
def test_files_that_python_would_mistake_are_refused_before_any_job(
    files: dict[str, str],
    plugins: list[str],
    said: tuple[str, ...],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What a plugin imports counts as the plugin itself."""
    monkeypatch.chdir(tmp_path)
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        step = f"@step({name.replace('/', '-').removesuffix('.py')!r}, settings={{}})\ndef g(n, s, r): ...\n"
        registration = step if name in plugins else ""
        (tmp_path / name).write_text(HEAD + text + registration, encoding="utf-8")
    declarations._load_catalog.cache_clear()
    declarations.read.cache_clear()
    with pytest.raises(UserError) as caught:
        declarations.load_catalog(plugins)
    assert all(part in str(caught.value) for part in said)


def test_a_package_without_a_file_of_its_own_is_not_hidden(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As google is for onnx: neither by a plugin nor by a file that it imports. A folder of the user's is none."""
    (tmp_path / "site" / "vendor" / "tool").mkdir(parents=True)
    (tmp_path / "work" / "recipes").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "work")
    for place in (".", str(tmp_path / "site")):
        monkeypatch.syspath_prepend(place)
    registration = "@step('free', settings={})\ndef g(n, s, r): ...\n"
    for name, text in {
        "vendor": registration,
        "mine": f"import vendor\n{registration}",
        "recipes": registration,
    }.items():
        Path(f"{name}.py").write_text(HEAD + text, encoding="utf-8")
    forget()
    assert str(declarations.path_problem("vendor.py")).startswith(
        "is 'vendor.py', the name of a module of an installed"
    )
    for path in ("vendor.py", "mine.py"):
        with pytest.raises(UserError, match=r"^vendor\.py has the name of a module of an installed package .*vendor\)"):
            declarations.read(path)
    assert declarations.path_problem("recipes.py") is None
    assert declarations.read("recipes.py")


def test_a_package_that_is_installed_to_be_edited_is_not_hidden(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Finder:
        @staticmethod
        def find_spec(name: str, path: object = None, target: object = None) -> ModuleSpec | None:
            return ModuleSpec(name, None, origin="/src/edited.py") if name == "edited" else None

    monkeypatch.setattr(sys, "meta_path", [*sys.meta_path, Finder])
    assert declarations.library_of("edited", tmp_path) == "an installed package (/src/edited.py)"
    assert declarations.library_of("edited_too", tmp_path) is None


def test_a_file_next_to_a_plugin_that_it_does_not_import_is_free(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(f"{HEAD}@step('free', settings={{}})\ndef g(n, s, r): ...\n", encoding="utf-8")
    (tmp_path / "statistics.py").write_text("", encoding="utf-8")
    assert [found.declared.name for found in declarations.read(str(tmp_path / "mine.py"))] == ["free"]
