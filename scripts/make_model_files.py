"""Makes the model files of other frameworks that the tests load: tests/data/models, a few kilobytes each.

    python scripts/make_model_files.py tensorflow    # needs the package tensorflow (tensorflow-cpu is enough)
    python scripts/make_model_files.py signatures    # needs it, too
    python scripts/make_model_files.py paddle        # needs the package paddlepaddle

Each framework's own answers to one request are written beside its files: tests compare with them, not with ours.
"""

import os
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

DATA = Path(__file__).parent.parent / "tests" / "data" / "models"


def dense() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Weights and biases of a layer of 4 inputs and 3 outputs, and a request of 5 rows."""
    random = np.random.default_rng(0)
    weights, bias, x = (random.standard_normal(shape).astype(np.float32) for shape in ((4, 3), (3,), (5, 4)))
    return weights, bias, x


def tensorflow() -> None:
    """A SavedModel with its weights in variables, the same as a frozen graph, and as a TensorFlow Lite model."""
    import tensorflow as tf  # noqa: PLC0415  each framework only where it is asked for
    from tensorflow.python.framework.convert_to_constants import (  # noqa: PLC0415
        convert_variables_to_constants_v2,
    )

    weights, bias, x = dense()

    class Dense(tf.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.w, self.b = tf.Variable(weights), tf.Variable(bias)

        @tf.function(input_signature=[tf.TensorSpec([None, 4], tf.float32, name="x")])  # type: ignore[untyped-decorator]
        def __call__(self, x: Any) -> dict[str, Any]:
            return {"y": tf.nn.relu(tf.linalg.matmul(x, self.w) + self.b)}

    module = Dense()
    function = module.__call__.get_concrete_function()
    tf.saved_model.save(module, DATA / "saved_model", signatures={"serving_default": function})
    (DATA / "saved_model" / "fingerprint.pb").unlink()
    (DATA / "saved_model" / "assets").rmdir()
    frozen = convert_variables_to_constants_v2(function).graph.as_graph_def()
    (DATA / "frozen.pb").write_bytes(frozen.SerializeToString(deterministic=True))
    lite = tf.lite.TFLiteConverter.from_saved_model(str(DATA / "saved_model"))
    (DATA / "dense.tflite").write_bytes(lite.convert())
    texts = tf.function(lambda s: tf.gather(s, [0])).get_concrete_function(tf.TensorSpec([3], tf.string, name="s"))
    (DATA / "strings.tflite").write_bytes(tf.lite.TFLiteConverter.from_concrete_functions([texts]).convert())
    np.savez(DATA / "tensorflow.npz", x=x, y=module(x)["y"].numpy())


def signatures() -> None:
    """SavedModels that differ in their signatures, and one that counts its calls."""
    import tensorflow as tf  # noqa: PLC0415  as above

    row = tf.TensorSpec([None, 4], tf.float32, name="x")

    class Counter(tf.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.count = tf.Variable(0.0)

        @tf.function(input_signature=[row])  # type: ignore[untyped-decorator]
        def count_up(self, x: Any) -> dict[str, Any]:
            self.count.assign_add(1.0)
            return {"y": x + self.count}

        @tf.function(input_signature=[row])  # type: ignore[untyped-decorator]
        def double(self, x: Any) -> dict[str, Any]:
            return {"x": 2 * x, "version": tf.constant([1, 2])}

    module = Counter()
    for name, served in {
        "counter": {"serving_default": module.count_up, "double": module.double},
        "not_counted": {"serving_default": module.double, "count": module.count_up},
        "two_signatures": {"double": module.double, "count": module.count_up},
        "no_signature": None,
    }.items():
        tf.saved_model.save(module, DATA / name, served, tf.saved_model.SaveOptions(save_debug_info=False))
        (DATA / name / "fingerprint.pb").unlink()
        (DATA / name / "assets").rmdir()
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        x = tf.compat.v1.placeholder(tf.float32, [None, 4], name="net/in")
        y = tf.multiply(x, 3.0, name="net/out")
        training = tf.compat.v1.placeholder_with_default(False, [])
        y = tf.cond(training, lambda y=y: y + 1, lambda y=y: y)
        tf.compat.v1.saved_model.simple_save(session, str(DATA / "tensorflow_1"), {"images": x}, {"scores": y})


def paddle() -> None:
    """A Paddle inference model: the program and its weights."""
    os.environ["FLAGS_enable_pir_api"] = "0"  # noqa: SIM112  so it is called; openvino reads .pdmodel, not .json
    import paddle as framework  # noqa: PLC0415

    weights, bias, x = dense()
    framework.enable_static()
    main, start = framework.static.Program(), framework.static.Program()
    with framework.static.program_guard(main, start):
        data = framework.static.data("x", [None, 4], "float32")
        layer = framework.nn.Linear(4, 3)
        y = framework.nn.functional.relu(layer(data))
    executor = framework.static.Executor(framework.CPUPlace())
    executor.run(start)
    for parameter, value in zip((layer.weight, layer.bias), (weights, bias), strict=True):
        framework.static.global_scope().find_var(parameter.name).get_tensor().set(value, framework.CPUPlace())
    with tempfile.TemporaryDirectory() as folder:
        framework.static.save_inference_model(f"{folder}/dense", [data], [y], executor, program=main)
        for file in Path(folder).iterdir():
            (DATA / file.name).write_bytes(file.read_bytes())
    [answer] = executor.run(main, feed={"x": x}, fetch_list=[y])
    np.savez(DATA / "paddle.npz", x=x, y=answer)


if __name__ == "__main__":
    DATA.mkdir(parents=True, exist_ok=True)
    {"tensorflow": tensorflow, "signatures": signatures, "paddle": paddle}[sys.argv[1]]()
