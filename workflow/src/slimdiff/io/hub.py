"""Models of the Hugging Face Hub by name and commit: JSON files when a config is read, the weights by a rule.

The commit decides every byte: files are compared with the digests that the Hub lists for it. No pickle and no code is
fetched. huggingface_hub knows the endpoint (HF_ENDPOINT), proxies and the user's token.
"""

import contextlib
import hashlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from slimdiff.errors import TransientError, UserError
from slimdiff.io.diffusers_folder import INDEX, MAX_BYTES, MAX_JSON_BYTES, NETWORK, SCHEDULER, WEIGHTS
from slimdiff.io.files import digest
from slimdiff.io.text import one_line, size

if TYPE_CHECKING:
    from huggingface_hub import HfApi
    from huggingface_hub.hf_api import RepoSibling

NAME = re.compile(r"(?=[^@]{3,96}@)[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*@[0-9a-f]{40}", re.ASCII)
FOLDER = "hub"  # in data_dir
TIMEOUT_S = 10.0
PIPELINE = (INDEX, f"unet/{NETWORK}", f"scheduler/{SCHEDULER}", f"unet/{WEIGHTS}")
MODEL = (NETWORK, SCHEDULER, WEIGHTS)  # all at the top, with an index or without


def is_name(pretrained: str) -> bool:
    """Return whether `pretrained` is OWNER/NAME@COMMIT, with all 40 hexadecimal digits of the commit."""
    return NAME.fullmatch(pretrained) is not None


def local_folder(pretrained: str, data_dir: Path) -> Path:
    """Return the folder of a model: a path itself, or where the files of a name on the Hub are stored."""
    return data_dir / FOLDER / pretrained if is_name(pretrained) else Path(pretrained)


def fetch_description(name: str, data_dir: Path) -> None:
    """Download the JSON files of OWNER/NAME@COMMIT unless they are there; of the weights, check the size.

    Raises:
        TransientError: the Hub cannot be read, its bytes are not those of the commit, or the disk is full.
        UserError: the Hub has no such commit, the commit lacks a file, or a file is too large.
    """
    folder = local_folder(name, data_dir)
    if any(all((folder / path).is_file() for path in layout[-3:-1]) for layout in (PIPELINE, MODEL)):
        return
    for file in _list_files(name)[:-1]:
        _download(name, file, data_dir)


def fetch_weights(name: str, data_dir: Path) -> Path:
    """Download the weights of OWNER/NAME@COMMIT and return their path. Raises as fetch_description does."""
    return _download(name, _list_files(name)[-1], data_dir)


def _api() -> "HfApi":
    from huggingface_hub import HfApi

    return HfApi()


def _list_files(name: str) -> list["RepoSibling"]:
    """Return names, sizes and digests of a model's files on the Hub, the weights last, all of them small enough."""
    with _reasons(name) as (repo, commit):
        info = _api().model_info(repo, revision=commit, files_metadata=True, timeout=TIMEOUT_S)
        if info.sha != commit:
            raise ValueError(f"it lists the files of commit {info.sha!r}")
        listed = {file.rfilename: file for file in info.siblings or ()}
    paths = [path for path in (PIPELINE if PIPELINE[1] in listed else MODEL) if path in listed or path != INDEX]
    for path in paths:
        limit = MAX_BYTES if path == paths[-1] else MAX_JSON_BYTES
        if path not in listed:
            raise UserError(f"it has no {path} on the Hub; allowed: a UNet2DModel and a scheduler, in safetensors")
        n_bytes, listed_digest = listed[path].size, listed[path].lfs or listed[path].blob_id
        if not isinstance(n_bytes, int) or not listed_digest:
            raise UserError(
                f"its {path} is listed without size or digest; allowed: the Hub, or a mirror that lists both"
            )
        if not 0 < n_bytes <= limit:
            raise UserError(f"its {path} has {size(n_bytes)} on the Hub; allowed: up to {size(limit)}")
    return [listed[path] for path in paths]


def _download(name: str, file: "RepoSibling", data_dir: Path) -> Path:
    """Download one file, under a lock, into the folder of `name`, where it appears once it has the Hub's digest."""
    path = local_folder(name, data_dir) / file.rfilename
    with _reasons(name) as (repo, commit):
        part = Path(f"{local_folder(name, data_dir)}.part")
        arrived = Path(_api().hf_hub_download(repo, file.rfilename, revision=commit, local_dir=part))
        if _has_digest(arrived, file):
            path.parent.mkdir(parents=True, exist_ok=True)
            return arrived.replace(path)
    arrived.unlink()
    raise TransientError(f"its {file.rfilename} arrived with other bytes than the Hub lists; try again")


def _has_digest(path: Path, file: "RepoSibling") -> bool:
    """Whether a large file has the listed SHA-256, or git names the bytes of a small one as listed."""
    if path.stat().st_size != file.size:
        return False
    if file.lfs is not None:
        return digest(path) == file.lfs.sha256
    content = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest() == file.blob_id


@contextlib.contextmanager
def _reasons(name: str) -> Iterator[tuple[str, str]]:
    """Yield repository and commit; turn an error of huggingface_hub into one line that says what to do."""
    from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError

    repo, _, commit = name.partition("@")
    # The first base is the error of its HTTP library, which versions change. An answer that is not the Hub's, such as
    # the page of a portal, raises one of the last four.
    errors: tuple[type[BaseException], ...] = (*HfHubHTTPError.__bases__, OSError, ValueError, LookupError, TypeError)
    try:
        yield repo, commit
    except (RepositoryNotFoundError, RevisionNotFoundError) as error:
        what = "commit" if isinstance(error, RevisionNotFoundError) else "model that you may read"
        raise UserError(
            f"the Hub has no such {what}; allowed: OWNER/NAME@COMMIT; `hf auth login` if it is private or gated; unset "
            "HF_TOKEN if it holds an old token"
        ) from None
    except errors as error:
        if isinstance(error, OSError) and error.errno and not isinstance(error, ConnectionError | TimeoutError):
            raise TransientError(f"its files cannot be stored in data_dir: {one_line(error)[:300]}") from None
        raise TransientError(
            f"the Hub cannot be read ({one_line(error)[:300]}); on a machine that reaches it, run `hf download "
            f"{repo} --revision {commit} --local-dir FOLDER`, and set pretrained: FOLDER"
        ) from None
