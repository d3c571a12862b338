"""Checks ONNX files against their test data: python onnx_check.py MODEL TEST_DATA_FOLDER ...

Each model has to pass ONNX's own checker, shape inference included, and ONNX Runtime has to make of `input_0.pb` (and of
the class in `input_1.pb`) what `output_0.pb` says, up to 1e-4 of its range. `requirements.txt` beside this file has the packages.
"""

import sys
from pathlib import Path

import numpy
import onnx
import onnxruntime

LIMIT = 1e-4


def tensor(path):
    return onnx.numpy_helper.to_array(onnx.load_tensor(path))


def check(model, folder):
    onnx.checker.check_model(model, full_check=True)
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    names = [value.name for value in session.get_inputs()]
    inputs = {name: tensor(folder / f"input_{place}.pb") for place, name in enumerate(names)}
    expected = tensor(folder / "output_0.pb")
    (image,) = session.run(["image"], inputs)
    assert image.shape == expected.shape, f"{model}: {image.shape} is not {expected.shape}"
    error = numpy.abs(image - expected).max() / numpy.ptp(expected)
    print(f"{model}: ONNX Runtime {onnxruntime.__version__} differs by {error:.1e} of the range")
    # A difference that is not a number is not below the limit either.
    assert error <= LIMIT, f"{model}: more than {LIMIT:.0e}"


def main():
    models, folders = sys.argv[1::2], sys.argv[2::2]
    if not models or len(models) != len(folders):
        sys.exit(__doc__)
    for model, folder in zip(models, folders):
        check(model, Path(folder))


main()
