"""A program for an environment with TensorFlow: writes the contract's model as a SavedModel, packages it, checks it."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np

sys.path.extend(sys.argv[2].split(":"))  # behind TensorFlow's own libraries

import runtime_contract as contract
import tensorflow as tf
import text_contract

from ganglion.artifacts.package import Signature, TensorSpec, write_package
from ganglion.core.errors import ModelError
from ganglion.serving.model import LoadedModel


class Model(tf.Module):
    def __init__(self) -> None:
        self.weights = tf.Variable(contract.WEIGHTS)

    @tf.function(input_signature=[tf.TensorSpec((None, 3), tf.float32, "x")])
    def serve(self, x):
        return {"y": x @ self.weights + 1}


class Shout(tf.Module):
    @tf.function(input_signature=[tf.TensorSpec((None,), tf.string, "text"), tf.TensorSpec((None,), tf.int64, "times")])
    def serve(self, text, times):
        return {"loud": text + "!", "score": tf.cast(times, tf.float32) + 0.5}


def refusal(folder: Path) -> str:
    try:
        LoadedModel(folder)
    except ModelError as error:
        return str(error)
    return ""


place = Path(sys.argv[1])
model = Model()
tf.saved_model.save(model, str(place / "saved_model"), signatures={"serving_default": model.serve})
shout = Shout()
tf.saved_model.save(shout, str(place / "shout"), signatures={"serving_default": shout.serve})
tf.saved_model.save(model, str(place / "unsigned"), signatures={"other": model.serve})


def package(name: str, source: str, signature: Signature) -> Path:
    files = {
        f"saved_model/{file.relative_to(place / source)}": file
        for file in (place / source).rglob("*")
        if file.is_file()
    }
    write_package(place / name, runtime="tensorflow", signature=signature, files=files)
    return place / name


good = package("good", "saved_model", contract.SIGNATURE)
odd = Signature(inputs=(TensorSpec("pixels", "float32", (-1, 3)),), outputs=contract.SIGNATURE.outputs)
served = {"x": np.ones((1, 3), np.float32)}
found = {
    "problems": contract.problems(good),
    "text problems": contract.problems(package("text", "shout", text_contract.SIGNATURE), text_contract.CHECKS),
    "unsigned": refusal(package("bad", "unsigned", contract.SIGNATURE)),
    "odd": refusal(package("odd", "saved_model", odd)),
    "same": bool(
        np.allclose(LoadedModel(good).predict(served)[0]["y"], model.serve(tf.constant(served["x"]))["y"].numpy())
    ),
}
sys.stdout.write(json.dumps(found) + "\n")
