"""A compute-bound model, and ONNX Runtime without a server on it.

The model is 128 convolutions of 3x3 over [n, 64, 28, 28] with random weights: 7.4 GFLOP a row (a ResNet-50
has 8.2), some 30 ms on a core, so that a server's own work should not be seen. The raw contestant is what a
program without any server would do: one session of one thread per core, the fastest way on a CPU, and a call
for each row.

    python -m loadtests.serving.compute MODEL CORES SECONDS    -> {"items": …, "cpu": …, "seconds": …}
"""

from __future__ import annotations

import json
import struct
import sys
import threading
import time
from pathlib import Path

import numpy as np

CHANNELS, SIDE, LAYERS = 64, 28, 128
SHAPE = (1, CHANNELS, SIDE, SIDE)


def write_model(path: Path) -> None:
    """Write the ONNX file; the same bytes every time."""
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.default_rng(7)
    weights, nodes, name = [], [], "x"
    for layer in range(LAYERS):
        kernel = rng.normal(0, 0.05, (CHANNELS, CHANNELS, 3, 3)).astype(np.float32)
        weights.append(numpy_helper.from_array(kernel, f"w{layer}"))
        nodes.append(helper.make_node("Conv", [name, f"w{layer}"], [f"c{layer}"], pads=[1, 1, 1, 1]))
        nodes.append(helper.make_node("Relu", [f"c{layer}"], [f"r{layer}"]))
        name = f"r{layer}"
    nodes.append(helper.make_node("GlobalAveragePool", [name], ["pooled"]))
    nodes.append(helper.make_node("Flatten", ["pooled"], ["y"]))
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["n", *SHAPE[1:]])]
    outputs = [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["n", CHANNELS])]
    graph = helper.make_graph(nodes, "convolutions", inputs, outputs, weights)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    path.write_bytes(model.SerializeToString())


def request() -> tuple[dict[str, str], bytes]:
    """Return V2's fields and body for one row, as raw bytes both ways."""
    values = np.random.default_rng(3).random(SHAPE, dtype=np.float32).tobytes()
    entry = {
        "name": "x",
        "datatype": "FP32",
        "shape": SHAPE,
        "parameters": {"binary_data_size": len(values)},
    }
    head = json.dumps({"inputs": [entry], "parameters": {"binary_data_output": True}}).encode()
    return {"Inference-Header-Content-Length": str(len(head))}, struct.pack(f"{len(head)}s", head) + values


def run_raw(model: Path, cores: int, seconds: float) -> dict[str, float]:
    """Call sessions for so long; returns items done, CPU seconds and seconds."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    row = {"x": np.random.default_rng(3).random(SHAPE, dtype=np.float32)}
    sessions = [onnxruntime.InferenceSession(str(model), options) for _ in range(cores)]
    for session in sessions:
        session.run(None, row)
    done = [0] * cores
    cpu, started = time.process_time(), time.perf_counter()
    ends = started + seconds

    def work(number: int) -> None:
        while time.perf_counter() < ends:
            sessions[number].run(None, row)
            done[number] += 1

    threads = [threading.Thread(target=work, args=(number,)) for number in range(cores)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    took = time.perf_counter() - started
    return {"items": float(sum(done)), "cpu": time.process_time() - cpu, "seconds": took}


if __name__ == "__main__":
    print(json.dumps(run_raw(Path(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]))))
