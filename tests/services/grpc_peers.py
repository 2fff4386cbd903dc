"""Install what tests/integration/test_grpc_peers.py talks to: Triton, and TensorFlow's stubs.

    python -m tests.services.grpc_peers FOLDER

TensorFlow itself is not installed: of its wheel only generated protobuf modules are unpacked (1 of 270 MB).
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import venv
import zipfile
from pathlib import Path

TENSORFLOW = "2.21.0"


def install(folder: Path) -> None:
    """Install what is missing."""
    triton = folder / "triton"
    if not (triton / "bin" / "python").exists():
        print("installing Triton (nvidia-pytriton)", flush=True)
        venv.create(triton, with_pip=True)
        pip(triton / "bin" / "python", "install", "nvidia-pytriton", "onnxruntime")
    stubs = folder / "tfs"
    if not (stubs / "tensorflow_serving").exists():
        print("unpacking TensorFlow Serving's stubs", flush=True)
        with tempfile.TemporaryDirectory() as wheels:
            wanted = [f"tensorflow-serving-api=={TENSORFLOW}", f"tensorflow-cpu=={TENSORFLOW}"]
            pip(Path(sys.executable), "download", "--no-deps", "-d", wheels, *wanted)
            for wheel in Path(wheels).glob("*.whl"):
                unpack(wheel, stubs)


def pip(python: Path, *arguments: str) -> None:
    """Run pip; ends the program where it fails."""
    subprocess.run([python, "-m", "pip", "--quiet", "--disable-pip-version-check", *arguments], check=True)


def unpack(wheel: Path, folder: Path) -> None:
    """Unpack the stubs of a wheel, and the messages that they are made of."""
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()
        stubs = [name for name in names if name.startswith("tensorflow_serving/")]
        messages = [name for name in names if name.startswith("tensorflow/") and name.endswith("_pb2.py")]
        archive.extractall(folder, [*stubs, *messages])


if __name__ == "__main__":
    install(Path(sys.argv[1]))
