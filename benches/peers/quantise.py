"""Makes files of integers for contestants of `cargo xtask bench-peers`: python quantise.py MODEL.onnx INT8.{onnx,xml}.

Calibrated on random noise, which is what the model's input is.
"""

import sys

import numpy

PICTURES = 32


def noises(shape):
    generator = numpy.random.default_rng(1)
    return [generator.standard_normal(shape, numpy.float32) for _ in range(PICTURES)]


def onnxruntime(model, output):
    """Static, per channel, as ONNX Runtime's documentation advises for processors with VNNI: values without sign."""
    import onnx
    from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Reader(CalibrationDataReader):
        def __init__(self):
            shape = [size.dim_value for size in onnx.load(model).graph.input[0].type.tensor_type.shape.dim]
            self.left = iter(noises(shape))

        def get_next(self):
            noise = next(self.left, None)
            return None if noise is None else {"noise": noise}

    prepared = output + ".prepared"
    quant_pre_process(model, prepared)
    quantize_static(
        prepared,
        output,
        Reader(),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QInt8,
    )


def openvino(model, output):
    """Post-training quantisation by NNCF."""
    import nncf
    import openvino

    network = openvino.Core().read_model(model)
    data = nncf.Dataset(noises(list(network.input(0).shape)))
    openvino.save_model(nncf.quantize(network, data, subset_size=PICTURES), output, compress_to_fp16=False)


model, output = sys.argv[1:]
(openvino if output.endswith(".xml") else onnxruntime)(model, output)
