"""`.delf`, `.delg_local` and `.delg_global` against Google's own Protocol Buffers."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from extractor.features import LocalFeatures
from extractor.files import FeatureFileError, delf

descriptor_pb2 = pytest.importorskip("google.protobuf.descriptor_pb2", reason="protobuf is not installed")
descriptor_pool = pytest.importorskip("google.protobuf.descriptor_pool")
message_factory = pytest.importorskip("google.protobuf.message_factory")

FIELD = descriptor_pb2.FieldDescriptorProto
NUMBERS = ("x", "y", "scale", "orientation", "strength")


def schema(name, packed=True, extra=False):
    """The message classes `DelfFeatures` and `DatumProto`."""
    file = descriptor_pb2.FileDescriptorProto(name=f"{name}.proto", package=name, syntax="proto2")

    def message(called, *fields):
        made = file.message_type.add(name=called)
        for number, (field, kind, repeated) in enumerate(fields, 1):
            added = made.field.add(name=field, number=number)
            added.label = FIELD.LABEL_REPEATED if repeated else FIELD.LABEL_OPTIONAL
            if isinstance(kind, str):
                added.type, added.type_name = FIELD.TYPE_MESSAGE, f".{name}.{kind}"
            else:
                added.type = kind
                added.options.packed = repeated and packed
        if extra:
            made.field.add(name="text", number=77, label=FIELD.LABEL_OPTIONAL, type=FIELD.TYPE_STRING)
            made.field.add(name="whole", number=78, label=FIELD.LABEL_OPTIONAL, type=FIELD.TYPE_INT64)
            made.field.add(name="double", number=79, label=FIELD.LABEL_OPTIONAL, type=FIELD.TYPE_DOUBLE)
            made.field.add(name="single", number=80, label=FIELD.LABEL_OPTIONAL, type=FIELD.TYPE_FLOAT)
            made.nested_type.add(name="Group").field.add(
                name="inner", number=1, label=FIELD.LABEL_OPTIONAL, type=FIELD.TYPE_STRING
            )
            group = made.field.add(name="group", number=81, label=FIELD.LABEL_OPTIONAL)
            group.type, group.type_name = FIELD.TYPE_GROUP, f".{name}.{called}.Group"

    message("DatumShape", ("dim", FIELD.TYPE_INT64, True))
    message("FloatList", ("value", FIELD.TYPE_FLOAT, True))
    message("DatumProto", ("shape", "DatumShape", False), ("float_list", "FloatList", False))
    message(
        "DelfFeature",
        ("descriptor", "DatumProto", False),
        *((field, FIELD.TYPE_FLOAT, False) for field in NUMBERS),
    )
    message("DelfFeatures", ("feature", "DelfFeature", True))
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return [
        message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{name}.{called}"))
        for called in ("DelfFeatures", "DatumProto")
    ]


Official, OfficialDatum = schema("delf")
Unpacked, UnpackedDatum = schema("unpacked", packed=False)
Extended, _ = schema("extended", extra=True)


def message(kind, count, dimension, seed=0, extra=False):
    rng = np.random.default_rng(seed)
    made = kind()
    for _ in range(count):
        feature = made.feature.add()
        for name in NUMBERS:
            setattr(feature, name, float(np.float32(rng.uniform(0, 2000))))
        feature.descriptor.shape.dim.append(dimension)
        feature.descriptor.float_list.value.extend(rng.normal(size=dimension).astype(np.float32))
        if extra:
            for part in (feature, feature.descriptor, feature.descriptor.float_list, made):
                part.text, part.whole, part.double, part.single = "word", -5, 0.5, 0.25
                part.group.inner = "within"
    return made


def expected(made):
    return {
        "keypoints": np.array([[f.x, f.y] for f in made.feature], np.float32).reshape(-1, 2),
        "scales": np.array([f.scale for f in made.feature], np.float32),
        "scores": np.array([f.strength for f in made.feature], np.float32),
        "descriptors": np.array([f.descriptor.float_list.value for f in made.feature], np.float32),
    }


def assert_same(found, wanted):
    assert found.keys() == wanted.keys()
    for name, array in wanted.items():
        np.testing.assert_array_equal(found[name], array, err_msg=name)


@pytest.mark.parametrize(("kind", "extra"), [(Official, False), (Unpacked, False), (Extended, True)], ids=str)
@pytest.mark.parametrize(("count", "dimension"), [(1, 1), (3, 2), (7, 40), (5, 128), (2, 1024)])
def test_what_protobuf_writes_is_read(tmp_path, kind, extra, count, dimension):
    made = message(kind, count, dimension, extra=extra)
    (tmp_path / "a.delf").write_bytes(made.SerializeToString())
    assert_same(delf.read_local(tmp_path / "a.delf"), expected(made))


def test_descriptors_without_shape_and_fields_left_out_are_read(tmp_path):
    made = Official()
    made.feature.add(x=3.5).descriptor.float_list.value.extend([1, 2])
    made.feature.add(y=4).descriptor.float_list.value.extend([3, 4])
    (tmp_path / "a.delf").write_bytes(made.SerializeToString())
    found = delf.read_local(tmp_path / "a.delf")
    assert found["keypoints"].tolist() == [[3.5, 0], [0, 4]]
    assert found["scales"].tolist() == found["scores"].tolist() == [0, 0]
    assert found["descriptors"].tolist() == [[1, 2], [3, 4]]


def test_parts_that_occur_twice_are_joined_as_protobuf_joins_them(tmp_path):
    first, second = message(Official, 2, 3, seed=1), message(Official, 2, 3, seed=2)
    joined = first.SerializeToString() + second.SerializeToString()
    (tmp_path / "a.delf").write_bytes(joined)
    assert_same(delf.read_local(tmp_path / "a.delf"), expected(Official.FromString(joined)))
    # The values of one descriptor in two parts, packed and not.
    one, other = OfficialDatum(), UnpackedDatum()
    one.float_list.value.extend([1, 2])
    other.float_list.value.extend([3])
    parts = one.SerializeToString() + other.SerializeToString()
    assert list(OfficialDatum.FromString(parts).float_list.value) == [1, 2, 3]
    (tmp_path / "a.delg_global").write_bytes(parts)
    assert delf.read_global(tmp_path / "a.delg_global")["global_descriptor"].tolist() == [1, 2, 3]


def local(count, dimension, seed=0):
    rng = np.random.default_rng(seed)
    descriptors = rng.normal(size=(count, dimension)).astype(np.float32)
    descriptors /= np.linalg.norm(descriptors, axis=1, keepdims=True)
    numbers = rng.uniform(0, 2000, (count, 4)).astype(np.float32)
    return LocalFeatures(numbers[:, :2], numbers[:, 2], numbers[:, 3], descriptors)


@pytest.mark.parametrize(("count", "dimension"), [(1, 1), (3, 31), (4, 32), (7, 40), (2, 5000)])
def test_what_is_written_is_byte_for_byte_what_protobuf_writes(tmp_path, count, dimension):
    features = local(count, dimension)
    delf.write_local(tmp_path / "a.delf", features)
    made = Official()
    for place in range(count):
        feature = made.feature.add(
            x=features.keypoints[place, 0],
            y=features.keypoints[place, 1],
            scale=features.scales[place],
            orientation=0,
            strength=features.scores[place],
        )
        feature.descriptor.shape.dim.append(dimension)
        feature.descriptor.float_list.value.extend(features.descriptors[place])
    assert (tmp_path / "a.delf").read_bytes() == made.SerializeToString()

    delf.write_global(tmp_path / "a.delg_global", features.descriptors[0])
    datum = OfficialDatum()
    datum.shape.dim.append(dimension)
    datum.float_list.value.extend(features.descriptors[0])
    assert (tmp_path / "a.delg_global").read_bytes() == datum.SerializeToString()
    found = delf.read_global(tmp_path / "a.delg_global")["global_descriptor"]
    np.testing.assert_array_equal(found, features.descriptors[0])


def test_int8_descriptors_are_written_as_unit_vectors(tmp_path):
    features = local(3, 8).quantised()
    delf.write_local(tmp_path / "a.delf", features)
    found = delf.read_local(tmp_path / "a.delf")["descriptors"]
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-6)
    np.testing.assert_allclose(found, local(3, 8).descriptors, atol=0.01)


def test_no_features_make_an_empty_file_and_back(tmp_path):
    delf.write_local(tmp_path / "a.delf", LocalFeatures.empty(40))
    assert (tmp_path / "a.delf").read_bytes() == b"" == Official().SerializeToString()
    found = delf.read_local(tmp_path / "a.delf")
    assert [found[name].shape for name in found] == [(0, 2), (0,), (0,), (0, 0)]


def test_every_cut_is_an_error_that_names_the_file_or_leaves_whole_features(tmp_path):
    made = message(Official, 3, 5)
    whole = made.SerializeToString()
    path = tmp_path / "a.delf"
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        if length % (len(whole) // 3) == 0:
            assert len(delf.read_local(path)["scores"]) == length // (len(whole) // 3)
        else:
            with pytest.raises(FeatureFileError, match=r"a\.delf: .*cut off"):
                delf.read_local(path)
    datum = made.feature[0].descriptor.SerializeToString()
    for length in range(1, len(datum)):
        path.write_bytes(datum[:length])
        if length == len(made.feature[0].descriptor.shape.SerializeToString()) + 2:
            with pytest.raises(FeatureFileError, match="0 values"):
                delf.read_global(path)
        else:
            with pytest.raises(FeatureFileError, match="cut off"):
                delf.read_global(path)


@pytest.mark.parametrize("length", [2**31, 2**63, 2**64 - 1])
def test_lengths_beyond_the_file_are_cuts(tmp_path, length):
    data = [0x0A]
    while length >= 0x80:
        data.append(length & 0x7F | 0x80)
        length >>= 7
    (tmp_path / "a.delf").write_bytes(bytes([*data, length, 0, 0]))
    with pytest.raises(FeatureFileError, match="cut off"):
        delf.read_local(tmp_path / "a.delf")


def test_descriptors_of_another_length_or_shape_are_named(tmp_path):
    path = tmp_path / "a.delf"
    made = message(Official, 3, 4)
    made.feature[2].descriptor.float_list.value.append(1)
    path.write_bytes(made.SerializeToString())
    with pytest.raises(FeatureFileError, match=r"a\.delf: descriptor 2 has 5 values, and should have 4"):
        delf.read_local(path)
    made.feature[2].descriptor.shape.dim[0] = 5
    path.write_bytes(made.SerializeToString())
    with pytest.raises(FeatureFileError, match=r"descriptor 2 has 5 values"):
        delf.read_local(path)
    made = message(Official, 2, 4)
    made.feature[0].descriptor.shape.dim[0] = 3
    path.write_bytes(made.SerializeToString())
    with pytest.raises(FeatureFileError, match=r"descriptor 0 has 4 values, and should have 3"):
        delf.read_local(path)


@pytest.mark.parametrize(
    ("shape", "right"), [([4], True), ([1, 4], True), ([4, 1], True), ([2, 2], False), ([3], False)]
)
def test_a_global_file_holds_one_vector(tmp_path, shape, right):
    datum = OfficialDatum()
    datum.shape.dim.extend(shape)
    datum.float_list.value.extend([1, 2, 3, 4])
    path = tmp_path / "a.delg_global"
    path.write_bytes(datum.SerializeToString())
    if right:
        assert delf.read_global(path)["global_descriptor"].tolist() == [1, 2, 3, 4]
    else:
        with pytest.raises(FeatureFileError, match="another shape than one vector"):
            delf.read_global(path)


@settings(max_examples=300, deadline=None)
@given(st.binary(max_size=80), st.integers(0, 2**32 - 1))
def test_any_bytes_are_read_or_refused_as_protobuf_does(tmp_path_factory, junk, seed):
    """Damage in the middle of a file: never a crash, and never other values than Protocol Buffers read."""
    rng = np.random.default_rng(seed)
    data = bytearray(message(Official, 2, 3, seed=1).SerializeToString())
    place = int(rng.integers(0, len(data)))
    data[place : place + len(junk)] = junk
    path = tmp_path_factory.getbasetemp() / "damaged.delf"
    path.write_bytes(data)
    try:
        found = delf.read_local(path)
    except FeatureFileError:
        return
    made = Official.FromString(bytes(data))
    lengths = {len(feature.descriptor.float_list.value) for feature in made.feature}
    assert len(lengths) <= 1
    wanted = expected(made)
    wanted["descriptors"] = wanted["descriptors"].reshape(len(made.feature), -1 if made.feature else 0)
    assert_same(found, wanted)
