"""Untrusted files never run code, access other folders, or allocate memory that they do not fill."""

import ast
import json
import re
import struct
from collections.abc import Callable
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import altair as alt
import pagefolder
import pandas as pd
import pytest
import synthetic
import torch
from builders import write_small_model

import slimdiff
from slimdiff.analysis import matrix
from slimdiff.analysis.claims import file as claimfile
from slimdiff.checkpoints.header import check_model_header
from slimdiff.checkpoints.model import read_tensors
from slimdiff.errors import UserError
from slimdiff.io import packed, records
from slimdiff.io.folders import listing
from slimdiff.report.figures import style
from slimdiff.report.tables import claims, markdown

PACKAGE = Path(slimdiff.__file__).parent
REPOSITORY = PACKAGE.parents[2]
ATTACK = "</script><script>alert(1)</script><img src=x onerror=alert(2)>"

# Runs text or objects as code → modules that may use it, and why that is safe.
FORBIDDEN = {
    "pickle": {"data/mnist_package.py"},  # after its SHA-256 matches, and only arrays
    "marshal": set(),
    "shelve": set(),
    "dill": set(),
    "joblib": set(),
    "eval": set(),
    "exec": set(),
    "compile": set(),
    "__import__": set(),
    "os.system": set(),
    "os.popen": set(),
    "yaml.load": set(),
    "yaml.unsafe_load": set(),
    "yaml.full_load": set(),
    "subprocess.getoutput": set(),
    "xml.etree": set(),
    "tarfile.extractall": set(),
}


def sources() -> list[tuple[str, ast.Module]]:
    files = sorted(PACKAGE.rglob("*.py"))
    assert len(files) > 100
    return [(file.relative_to(PACKAGE).as_posix(), ast.parse(file.read_text(encoding="utf-8"))) for file in files]


def dotted(node: ast.AST) -> str:
    """Return the dotted name of an expression, such as os.system; empty for anything else."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return ""


def test_the_package_never_runs_text_or_objects_as_code() -> None:
    for name, tree in sources():
        for node in ast.walk(tree):
            used: list[str] = []
            if isinstance(node, ast.Import):
                used = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                used = [node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)]
            elif isinstance(node, ast.Call):
                used = [dotted(node.func)]
            for word in used:
                root = word.partition(".")[0]
                assert name in FORBIDDEN.get(word, {name}), f"{name}, line {node.lineno}: {word}"  # type: ignore[attr-defined]
                assert name in FORBIDDEN.get(root, {name}), f"{name}, line {node.lineno}: {word}"  # type: ignore[attr-defined]
                assert not word.endswith((".extractall", ".extract")), f"{name}: {word}"


def test_pickles_are_disabled_and_no_shell_is_started() -> None:
    wanted = {
        "torch.load": ("weights_only", True),
        "np.load": ("allow_pickle", False),
        "numpy.load": ("allow_pickle", False),
    }
    seen = set()
    for name, tree in sources():
        for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
            given = {keyword.arg: keyword.value for keyword in call.keywords}
            if dotted(call.func) in wanted:
                key, value = wanted[dotted(call.func)]
                found = given.get(key)
                assert isinstance(found, ast.Constant) and found.value is value, f"{name}, line {call.lineno}"
                seen.add(dotted(call.func))
            assert "shell" not in given, f"{name}, line {call.lineno}: a shell"
    assert seen == {"torch.load", "np.load"}


def test_every_text_argument_of_a_rules_command_is_quoted() -> None:
    plain = re.compile(r"\{(params\.(?:code|identity)|resources\.gpu|threads|[a-z_.\[\]]+:q)\}")
    for path in sorted((REPOSITORY / "workflow" / "rules").glob("*.smk")):
        for block in re.findall(r"    shell:\n((?:        .*\n|\n)+)", path.read_text(encoding="utf-8")):
            for field in re.findall(r"\{[^}]*\}", block):
                assert plain.fullmatch(field), f"{path.name}: {field} may be text and is not quoted with :q"


# --- models ------------------------------------------------------------------------------------------------------


Header = dict[str, Any]


def of_model(change: Callable[[Header], Any]) -> Callable[[Header], None]:
    """Change slimdiff's header in the file's header, and drop the digest, which an attacker would recompute."""

    def apply(outer: Header) -> None:
        inner = json.loads(outer["__metadata__"]["slimdiff"])
        change(inner)
        inner.pop(records.KEY)
        outer["__metadata__"]["slimdiff"] = json.dumps(inner)

    return apply


def of_text(text: str) -> Callable[[Header], None]:
    return lambda outer: outer["__metadata__"].update(slimdiff=text)


def of_tensor(**changes: Any) -> Callable[[Header], None]:
    return lambda outer: next(value for name, value in outer.items() if name != "__metadata__").update(changes)


def forge(path: Path, change: Callable[[Header], None]) -> None:
    """Change the header of a safetensors file and keep its tensors."""
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    header = json.loads(content[8 : 8 + length])
    change(header)
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + content[8 + length :])


FORGERIES: dict[str, Callable[[Header], None]] = {
    "negative shape": of_tensor(shape=[-1]),
    "absurd shape": of_tensor(shape=[2**62, 2**62]),
    "offsets behind the end": of_tensor(data_offsets=[0, 2**62]),
    "offsets backwards": of_tensor(data_offsets=[8, 0]),
    "unknown type": of_tensor(dtype="OBJECT"),
    "no json": of_text("{"),
    "a list": of_text("[]"),
    "deep": of_text("[" * 100_000),
    "a long number": of_text("9" * 5000),
    "no structure": of_model(lambda header: header.pop("structure")),
    "structure of another kind": of_model(lambda header: header.update(structure=[{"weights": "8bit"}])),
    "structure that leaves": of_model(lambda header: header.update(structure=[{"linear": "8bit", "layers": ["../x"]}])),
    "a plugin's step": of_model(lambda header: header.update(structure=[{"step": "os.system", "record": "id"}])),
    "a family of Python's": of_model(lambda header: header["model"].update(family="__class__")),
    "a family that is none": of_model(lambda header: header["model"].update(family=[1])),
    "an absurd image": of_model(lambda header: header["model"].update(image_size=10**9)),
    "a network of terabytes": of_model(lambda header: header["model"]["network"].update(embed_dim=2_000_000_000)),
    "an endless sampler": of_model(lambda header: header["sampler"].update(steps=10**12)),
    "steps that are text": of_model(lambda header: header["sampler"].update(steps="x")),
    "an engine of its own": of_model(lambda header: header.update(engine="os")),
    "a graph that is not there": of_model(lambda header: header.update(graph={"params": 1, "params_nonzero": 1})),
    "invalid plugins": of_model(lambda header: header.update(plugins=5)),
    "no training": of_model(lambda header: header.update(training=None)),
    "no data set": of_model(lambda header: header.update(dataset=None)),
}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model") / "model.safetensors"
    write_small_model(path)
    slimdiff.load(path)
    return path


@pytest.mark.parametrize("forgery", FORGERIES)
def test_forged_headers_of_models_are_refused(model: Path, tmp_path: Path, forgery: str) -> None:
    forged, packed_path = tmp_path / "model.safetensors", tmp_path / "model.packed"
    forged.write_bytes(model.read_bytes())
    forge(forged, FORGERIES[forgery])
    paths = [forged]
    try:
        packed.pack(forged, packed_path)
        paths.append(packed_path)
    except UserError as error:
        assert str(forged) in str(error)
    for path in paths:
        with pytest.raises(UserError) as caught:
            slimdiff.load(path)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "content",
    [
        struct.pack("<Q", 2**63) + b"{}",
        struct.pack("<Q", 10**8) + b"{}",
        struct.pack("<Q", 4) + b"\xff\xfe{}",
        struct.pack("<Q", 200_000) + b"[" * 100_000 + b"]" * 100_000,
        b"",
        b"SLIMPACK" + b"\xff" * 200,
    ],
    ids=["length", "longer than the file", "no text", "deep", "empty", "packed"],
)
def test_files_that_are_not_safetensors_are_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    with pytest.raises(UserError, match=re.escape(str(path))):
        slimdiff.load(path)
    with pytest.raises(UserError, match=re.escape(str(path))):
        packed.pack(path, tmp_path / "model.packed")


def test_a_network_is_measured_before_it_is_built(model: Path) -> None:
    _, header = read_tensors(model)
    check_model_header(model, header)
    header["model"]["network"]["embed_dim"] = 200_000  # a layer of 160 GB
    with pytest.raises(UserError, match="network of"):
        check_model_header(model, header)


def test_a_plugin_that_a_header_names_is_not_loaded(model: Path, tmp_path: Path) -> None:
    evil, forged = tmp_path / "evil.py", tmp_path / "model.safetensors"
    evil.write_text(f"open({str(tmp_path / 'pwned')!r}, 'w')\n", encoding="utf-8")
    entry = {"path": str(evil), "kind": "family", "name": "evil", "code": "0"}
    forged.write_bytes(model.read_bytes())
    forge(forged, of_model(lambda header: header.update(plugins=[entry])))
    with pytest.raises(UserError, match="is needed"):
        slimdiff.load(forged)
    assert not (tmp_path / "pwned").exists()


@pytest.mark.parametrize("place", ["/etc/passwd", "../secret.bin", "secret.bin"])
def test_an_onnx_graph_cannot_read_other_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    onnx = pytest.importorskip("onnx", reason="comes with the extra `engines`")
    from onnx import TensorProto, helper

    from slimdiff.engines import onnxruntime_backend

    monkeypatch.chdir(tmp_path)
    Path("secret.bin").write_bytes(bytes(16))
    weight = TensorProto(name="w", data_type=TensorProto.FLOAT, dims=[4], data_location=TensorProto.EXTERNAL)
    for key, value in {"location": place, "offset": "0", "length": "16"}.items():
        weight.external_data.add(key=key, value=value)
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [4]) for name in ("x", "F")]
    inner = helper.make_node("Constant", [], ["w"], value=weight)
    for nodes, initializers in (([], [weight]), ([inner], [])):
        add = helper.make_node("Add", ["x", "w"], ["F"])
        graph = helper.make_graph([*nodes, add], "g", ends[:1], ends[1:], initializers)
        bytes_of = onnx.ModelProto(graph=graph).SerializeToString()
        with pytest.raises(UserError, match="reads the weights"):
            onnxruntime_backend.from_tensors(onnxruntime_backend.to_tensors(bytes_of))
    with pytest.raises(UserError, match="not ONNX"):
        onnxruntime_backend.from_tensors({"graph.onnx": torch.full((99,), 255, dtype=torch.uint8)})


ENTITY = '<!DOCTYPE net [<!ENTITY e SYSTEM "file:///etc/passwd">]>\n<net name="&e;" '


@pytest.mark.parametrize(
    ("old", "new"),
    [('offset="0"', 'offset="1000000000"'), ('offset="0"', 'offset="-8"'), ('size="16"', 'size="16000000000"')],
)
def test_an_openvino_graph_cannot_read_outside_its_constants(old: str, new: str) -> None:
    ov = pytest.importorskip("openvino", reason="comes with the extra `engines`")
    import zlib

    from slimdiff.engines import openvino_backend

    x = ov.opset13.parameter([4], ov.Type.f32, name="x")
    graph = ov.Model([ov.opset13.add(x, ov.opset13.constant([1.0, 2.0, 3.0, 4.0], ov.Type.f32))], [x], "m")
    tensors = openvino_backend.to_tensors(graph)
    description = zlib.decompress(tensors["graph.xml"].numpy().tobytes()).decode()
    assert old in description

    def read(text: str) -> Any:
        compressed = torch.frombuffer(bytearray(zlib.compress(text.encode())), dtype=torch.uint8)
        return openvino_backend.from_tensors({**tensors, "graph.xml": compressed})

    with pytest.raises(UserError, match="OpenVINO cannot read"):
        read(description.replace(old, new))
    entity = read(re.sub(r'<net name="[^"]*" ', lambda _: ENTITY, description, count=1))
    assert "root:" not in entity.get_friendly_name()


# --- folders and matrices ----------------------------------------------------------------------------------------


def test_links_out_of_a_folder_of_images_are_refused(tmp_path: Path) -> None:
    photos, secret = tmp_path / "photos", tmp_path / "secret.png"
    (photos / "cats").mkdir(parents=True)
    (photos / "cats" / "1.png").write_bytes(b"x")
    secret.write_bytes(b"mine")
    (photos / "cats" / "2.png").symlink_to("1.png")  # within the folder: allowed
    assert listing(photos) == [("cats", (photos / "cats").stat().st_size), ("cats/1.png", 1), ("cats/2.png", 1)]
    linked = tmp_path / "linked"
    linked.symlink_to(photos)
    assert listing(linked) == listing(photos), "the folder itself may be named through a link"
    for name, target in (("cats/3.png", secret), ("dogs", tmp_path), ("cats/3.png", Path("../../secret.png"))):
        (photos / name).symlink_to(target)
        with pytest.raises(UserError, match="a link that leads out of the folder"):
            listing(photos)
        (photos / name).unlink()
    (photos / "cats" / "4.png").symlink_to("nowhere.png")
    with pytest.raises(UserError, match=r"4\.png cannot be read"):
        listing(photos)


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("dataset", "../../../etc"),
        ("optimization", ATTACK),
        ("model", "a/b"),
        ("training", "x\n"),
        ("cpu_model", '=HYPERLINK("http://x")'),
        ("reason", "@SUM(A1)"),
        ("gpu_model", "\t=1"),
    ],
)
def test_a_forged_matrix_is_refused(column: str, value: str) -> None:
    changes = {"status": "failed"} if column == "reason" else {}
    with pytest.raises(UserError, match="or damaged"):
        matrix.to_frame([synthetic.row(**{**changes, column: value})])


# --- displayed text ----------------------------------------------------------------------------------------------


class Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        for name, value in attrs:
            assert not name.startswith("on")
            assert "javascript:" not in (value or "")


def test_text_in_a_figure_cannot_end_its_script(tmp_path: Path) -> None:
    frame = pd.DataFrame({"x": [1.0], "name": [ATTACK]})
    drawn = [alt.Chart(frame, title=title).mark_point().encode(x="x", tooltip="name") for title in (ATTACK, "plain")]
    style.save(alt.vconcat(*drawn), tmp_path / "figure.html")
    style.save(alt.vconcat(drawn[1]), tmp_path / "plain.html")
    found, plain = Tags(), Tags()
    found.feed((tmp_path / "figure.html").read_text(encoding="utf-8"))
    plain.feed((tmp_path / "plain.html").read_text(encoding="utf-8"))
    assert found.tags == plain.tags
    assert "img" not in found.tags


CLAIM = {
    "id": "mine",
    "claim": "it is so",
    "source": "I",
    "comparisons": ["fid_indomain(ncsn/groups-2) < fid_indomain(ncsn/baseline)"],
}


def test_claims_are_escaped_on_the_page_and_in_the_tables(tmp_path: Path) -> None:
    pagefolder.write(tmp_path, [synthetic.row()])
    record = json.loads((tmp_path / "claims.json").read_text(encoding="utf-8"))
    for claim in record["claims"]:
        claim |= {"id": ATTACK, "claim": f"{ATTACK} `{ATTACK}` [x](javascript:alert(3))", "source": ATTACK}
        claim["contradictions"] = [ATTACK]
    (tmp_path / "claims.json").write_text(json.dumps(record), encoding="utf-8")
    claims.write_all(record, tmp_path / "tables")
    assert "<script" not in (tmp_path / "tables" / "claims.md").read_text(encoding="utf-8")
    pagefolder.build(tmp_path)
    found = Tags()
    found.feed((tmp_path / "report.html").read_text(encoding="utf-8"))
    assert found.tags.count("script") == 3
    assert "alert(3)" in (tmp_path / "report.html").read_text(encoding="utf-8"), "the claim is shown as text"


def test_markdown_tables_hold_no_tags() -> None:
    shown = markdown.grid(["a"], [[ATTACK], ["1 < 2 | 3"], ["line\nbreak"]])
    assert not re.search(r"<[A-Za-z/!?]", shown)
    assert "1 < 2 \\| 3" in shown
    assert len(shown.splitlines()) == 5


@pytest.mark.parametrize("key", ["id", "claim", "source"])
@pytest.mark.parametrize("text", ["=1+1", "+1", "-1", "@SUM(A1)"])
def test_claims_cannot_be_spreadsheet_formulas(tmp_path: Path, key: str, text: str) -> None:
    path = tmp_path / "claims.yaml"
    path.write_text(json.dumps([{**CLAIM, key: text}]), encoding="utf-8")
    with pytest.raises(UserError, match=f"{key} begins with"):
        claimfile.read([path])
    path.write_text(json.dumps([CLAIM]), encoding="utf-8")
    assert [claim.id for claim in claimfile.read([path])] == ["mine"]


def test_every_test_named_by_the_docs_exists() -> None:
    page = (REPOSITORY / "docs" / "security.md").read_text(encoding="utf-8")
    named = set(re.findall(r"`(tests/[a-z_/]+\.py)`", page))
    assert {"tests/unit/test_untrusted.py", "tests/workflow/test_hostile.py"} <= named
    assert [name for name in sorted(named) if not (REPOSITORY / name).is_file()] == []
