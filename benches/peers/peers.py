"""Contestants of `cargo xtask bench-peers` that Python's package index has: ONNX Runtime and OpenVINO.

python peers.py CONTESTANT MODEL THREADS NOISE OUTPUT; src/protocol.rs says how a contestant talks to the benchmark.
"""

import sys
import time

import numpy


def onnxruntime(model, threads, noise):
    """Single precision; inputs and outputs stay where they are."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    shape = session.get_inputs()[0].shape
    source = onnxruntime.OrtValue.ortvalue_from_numpy(noise.reshape(shape))
    target = onnxruntime.OrtValue.ortvalue_from_shape_and_type(shape, numpy.float32)
    binding = session.io_binding()
    binding.bind_ortvalue_input("noise", source)
    binding.bind_ortvalue_output("image", target)
    return lambda: session.run_with_iobinding(binding), target.numpy


def openvino(model, threads, noise, precision="f32"):
    """For latency. Without a hint OpenVINO chooses bf16 where the processor has it."""
    import openvino

    settings = {
        "PERFORMANCE_HINT": "LATENCY",
        "NUM_STREAMS": 1,
        "INFERENCE_NUM_THREADS": threads,
        "INFERENCE_PRECISION_HINT": precision,
    }
    compiled = openvino.Core().compile_model(model, "CPU", settings)
    request = compiled.create_infer_request()
    request.set_input_tensor(openvino.Tensor(noise.reshape(compiled.input(0).shape)))
    return request.infer, lambda: request.get_output_tensor(0).data


CONTESTANTS = {
    "onnxruntime": onnxruntime,
    "openvino": openvino,
    "openvino-bf16": lambda *arguments: openvino(*arguments, "bf16"),
}


def main():
    name, model, threads, noise, output = sys.argv[1:]
    run, image = CONTESTANTS[name](model, int(threads), numpy.fromfile(noise, "<f4"))
    run()
    image().astype("<f4").tofile(output)
    print("ready", flush=True)
    for line in sys.stdin:
        times = []
        for _ in range(int(line)):
            start = time.perf_counter_ns()
            run()
            times.append(time.perf_counter_ns() - start)
        print(*times, flush=True)


main()
