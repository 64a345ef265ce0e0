"""Writes small networks as TensorFlow publishes DELF and DELG, and what they compute; needs TensorFlow.

    python write_published.py FOLDER

Each subfolder is a SavedModel; `expected.npz` in it holds images and maps. TF-Slim's own ResNet makes those
of TensorFlow 1, and layers of Keras, put together as the published training code does, those of TensorFlow 2.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

os.environ["TF_ENABLE_ONEDNN_OPTS"] = "0"

import numpy as np
import tensorflow as tf
import tf_slim as slim
from tf_slim.nets import resnet_v1

# As when the networks were published: loops are nodes of the graph, and variables are no resources.
tf.compat.v1.disable_control_flow_v2()
tf.compat.v1.disable_resource_variables()

DEPTH = 4  # channels inside the first blocks, 64 in what is published
HIDDEN, REDUCED, EMBEDDED = 512, 10, 48
UNITS = (2, 3, 2, 2)
SIZES = ((97, 128), (70, 101), (64, 96))
rng = np.random.default_rng(0)


def images() -> list[np.ndarray]:
    return [rng.integers(0, 256, (*size, 3), dtype=np.uint8) for size in SIZES]


def randomise(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Values for a variable: statistics of normalisations too are no zeros and ones."""
    kind = name.rpartition("/")[2]
    if kind in ("moving_variance", "gamma"):
        return rng.uniform(0.3, 1.7, shape).astype(np.float32)
    if kind in ("weights", "kernel"):
        fan = float(np.prod(shape[:-1]))
        return (rng.normal(size=shape) * (2 / fan) ** 0.5).astype(np.float32)
    return (rng.normal(size=shape) * 0.3).astype(np.float32)


# TensorFlow 1


def slim_attention(features: tf.Tensor) -> tf.Tensor:
    with tf.compat.v1.variable_scope("attention_block/attention/compute", reuse=tf.compat.v1.AUTO_REUSE):
        x = slim.conv2d(features, HIDDEN, 1, activation_fn=tf.nn.relu, scope="conv1")
        score = slim.conv2d(x, 1, 1, activation_fn=None, normalizer_fn=None, scope="conv2")
    return tf.nn.softplus(score)


def slim_network(image: tf.Tensor, stages: int, decoded: bool) -> dict[str, tf.Tensor]:
    x = (tf.cast(image, tf.float32)[None] - 128.0) / 128.0
    strides = (2, 2, 2, 1)
    blocks = [
        resnet_v1.resnet_v1_block(f"block{n + 1}", DEPTH << n, UNITS[n], strides[n]) for n in range(stages)
    ]
    with slim.arg_scope(resnet_v1.resnet_arg_scope()):
        _, points = resnet_v1.resnet_v1(
            x,
            blocks,
            is_training=False,
            global_pool=False,
            reuse=tf.compat.v1.AUTO_REUSE,
            scope="resnet_v1_50",
        )
        features = points["resnet_v1_50/block3"]
        found = {"features": features}
        seen = features
        if stages == 4:
            with tf.compat.v1.variable_scope("local_head", reuse=tf.compat.v1.AUTO_REUSE):
                reduced = slim.conv2d(
                    features, REDUCED, 1, activation_fn=None, normalizer_fn=None, scope="reduce"
                )
                restored = slim.conv2d(
                    reduced,
                    features.shape[3],
                    1,
                    activation_fn=tf.nn.relu,
                    normalizer_fn=None,
                    scope="expand",
                )
            seen = restored if decoded else features
            pooled = tf.maximum(points["resnet_v1_50/block4"], 1e-6) ** 3.0
            pooled = tf.reduce_mean(pooled, [1, 2]) ** (1 / 3.0)
            whole = slim.fully_connected(
                pooled,
                EMBEDDED,
                activation_fn=None,
                normalizer_fn=None,
                scope="global_head/embedding",
                reuse=tf.compat.v1.AUTO_REUSE,
            )
            found |= {"local": reduced, "global": whole}
        with slim.arg_scope([slim.batch_norm], is_training=False):
            found["attention"] = slim_attention(seen)
    return found


def write_slim(folder: Path, stages: int, decoded: bool) -> None:
    with tf.Graph().as_default(), tf.compat.v1.Session() as session:
        image = tf.compat.v1.placeholder(tf.uint8, [None, None, 3], name="input_image")
        scales = tf.compat.v1.placeholder(tf.float32, [None], name="input_scales")
        found = slim_network(image, stages, decoded)

        # Further scales in a loop, as the published graphs have them.
        def at_scale(number: tf.Tensor, total: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
            size = tf.cast(tf.cast(tf.shape(image)[:2], tf.float32) * scales[number], tf.int32)
            resized = tf.image.resize(tf.cast(image, tf.float32), size)
            return number + 1, total + tf.reduce_sum(slim_network(resized, stages, decoded)["attention"])

        _, total = tf.while_loop(
            lambda number, _: number < tf.shape(scales)[0], at_scale, (1, tf.reduce_sum(found["attention"]))
        )
        tf.identity(total, name="scores")
        tf.compat.v1.train.get_or_create_global_step()
        session.run(tf.compat.v1.global_variables_initializer())
        for variable in tf.compat.v1.global_variables():
            if variable.dtype.base_dtype == tf.float32:
                variable.load(randomise(variable.op.name, tuple(variable.shape)), session)
        expected = {}
        for place, pixels in enumerate(images()):
            expected[f"image{place}"] = pixels
            for name, value in session.run(found, {image: pixels}).items():
                expected[f"{name}{place}"] = value
        tf.compat.v1.saved_model.simple_save(session, str(folder), {"image": image}, {"scores": total})
        np.savez(folder / "expected.npz", **expected)


def write_datum(path: Path, values: np.ndarray) -> None:
    def varint(number: int) -> bytes:
        groups = []
        while number > 127:
            groups.append(number & 127 | 128)
            number >>= 7
        return bytes([*groups, number])

    def field(number: int, data: bytes) -> bytes:
        return varint(number << 3 | 2) + varint(len(data)) + data

    shape = field(1, b"".join(map(varint, values.shape)))
    numbers = field(1, values.astype("<f4").tobytes())
    path.write_bytes(field(1, shape) + field(2, numbers))


# TensorFlow 2

layers = tf.keras.layers


class Block(tf.keras.Model):
    def __init__(self, depth: int, stride: int, projected: bool) -> None:
        super().__init__(name="")
        self.conv2a = layers.Conv2D(depth, 1, strides=stride)
        self.bn2a = layers.BatchNormalization()
        self.conv2b = layers.Conv2D(depth, 3, padding="same")
        self.bn2b = layers.BatchNormalization()
        self.conv2c = layers.Conv2D(4 * depth, 1)
        self.bn2c = layers.BatchNormalization()
        self.projected = projected
        if projected:
            self.conv_shortcut = layers.Conv2D(4 * depth, 1, strides=stride)
            self.bn_shortcut = layers.BatchNormalization()

    def call(self, x: tf.Tensor) -> tf.Tensor:
        y = tf.nn.relu(self.bn2a(self.conv2a(x), training=False))
        y = tf.nn.relu(self.bn2b(self.conv2b(y), training=False))
        y = self.bn2c(self.conv2c(y), training=False)
        return tf.nn.relu(
            y + (self.bn_shortcut(self.conv_shortcut(x), training=False) if self.projected else x)
        )


class Backbone(tf.keras.Model):
    def __init__(self, thinned: bool, embedded: bool) -> None:
        super().__init__(name="backbone")
        self.conv1 = layers.Conv2D(DEPTH, 7, strides=2, padding="same")
        self.bn_conv1 = layers.BatchNormalization()
        self.max_pool = layers.MaxPooling2D(3, strides=2)
        self.thinned = thinned
        if thinned:
            self.subsampling_layer = layers.MaxPooling2D(1, strides=2)
        self.block_names = []
        for stage, units in enumerate(UNITS):
            for unit in range(units):
                stride = 2 if unit == 0 and stage > 0 and not (stage == 3 and thinned) else 1
                name = f"l{stage + 2}{'abcdef'[unit]}"
                setattr(self, name, Block(DEPTH << stage, stride, unit == 0))
                self.block_names.append(name)
        self.embedding_layer = layers.Dense(EMBEDDED) if embedded else None

    def maps(self, x: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        x = self.max_pool(tf.nn.relu(self.bn_conv1(self.conv1(x), training=False)))
        for name in self.block_names:
            if name == "l5a":
                third = x = self.subsampling_layer(x) if self.thinned else x
            x = getattr(self, name)(x)
        return third, x


class Attention(tf.keras.Model):
    def __init__(self) -> None:
        super().__init__(name="attention")
        self.conv1 = layers.Conv2D(HIDDEN, 1, padding="same")
        self.bn_conv1 = layers.BatchNormalization()
        self.conv2 = layers.Conv2D(1, 1, padding="same")

    def call(self, x: tf.Tensor) -> tf.Tensor:
        return tf.nn.softplus(self.conv2(tf.nn.relu(self.bn_conv1(self.conv1(x), training=False))))


class Autoencoder(tf.keras.Model):
    def __init__(self, channels: int) -> None:
        super().__init__(name="autoencoder")
        self.conv1 = layers.Conv2D(REDUCED, 1, padding="same")
        self.conv2 = layers.Conv2D(channels, 1, activation="relu", padding="same")


class Network(tf.keras.Model):
    def __init__(self, thinned: bool, embedded: bool) -> None:
        super().__init__(name="DELG")
        self.backbone = Backbone(thinned, embedded)
        self.attention = Attention()
        if embedded:
            self.autoencoder = Autoencoder(16 * DEPTH)

    def everything(self, image: tf.Tensor) -> dict[str, tf.Tensor]:
        features, last = self.backbone.maps((tf.cast(image, tf.float32)[None] - 128.0) / 128.0)
        found, seen = {"features": features}, features
        if self.backbone.embedding_layer is not None:
            found["local"] = self.autoencoder.conv1(features)
            seen = self.autoencoder.conv2(found["local"])
            pooled = tf.reduce_mean(tf.maximum(last, 1e-6) ** 3.0, [1, 2]) ** (1 / 3.0)
            found["global"] = self.backbone.embedding_layer(pooled)
        return found | {"attention": self.attention(seen)}


class Export(tf.Module):
    def __init__(self, thinned: bool, embedded: bool) -> None:
        self._model = Network(thinned, embedded)

    @tf.function(input_signature=[tf.TensorSpec([None, None, 3], tf.uint8)])
    def extract(self, image: tf.Tensor) -> dict[str, tf.Tensor]:
        return self._model.everything(image)


def write_keras(folder: Path, thinned: bool, embedded: bool) -> None:
    module = Export(thinned, embedded)
    expected = {}
    pictures = images()
    module.extract(pictures[0])
    for variable in module.variables:
        variable.assign(randomise(variable.name.partition(":")[0], tuple(variable.shape)))
    for place, pixels in enumerate(pictures):
        expected[f"image{place}"] = pixels
        for name, value in module.extract(pixels).items():
            expected[f"{name}{place}"] = value.numpy()
    tf.saved_model.save(module, str(folder))
    np.savez(folder / "expected.npz", **expected)


if __name__ == "__main__":
    root = Path(sys.argv[1])
    write_slim(root / "delf_slim" / "model", 3, False)
    channels = 16 * DEPTH
    (root / "delf_slim" / "pca").mkdir()
    write_datum(root / "delf_slim" / "pca" / "mean.datum", rng.normal(size=channels))
    write_datum(root / "delf_slim" / "pca" / "pca_proj_mat.datum", rng.normal(size=(channels, channels)))
    write_slim(root / "delg_slim_features", 4, False)
    write_slim(root / "delg_slim_decoded", 4, True)
    write_keras(root / "delf_keras", True, False)
    write_keras(root / "delg_keras", False, True)
    write_keras(root / "delg_keras_thinned", True, True)
