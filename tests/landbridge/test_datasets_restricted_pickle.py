import builtins
import codecs
import os
import pickle
import subprocess

import numpy as np
import pytest

from landbridge.datasets import DatasetError
from landbridge.datasets.restricted_pickle import load_restricted_pickle

REBUILD_ARRAY = np.empty(0).__reduce__()[0]
REBUILD_SCALAR = np.float64(0).__reduce__()[0]


class Call:
    """Pickles as the call of a function, with or without a state for the result."""

    def __init__(self, function, *arguments, state=None):
        self.reduced = (function, arguments) if state is None else (function, arguments, state)

    def __reduce__(self):
        return self.reduced


def load(path, content):
    path.write_bytes(content)
    return load_restricted_pickle(path)


@pytest.fixture
def path(tmp_path):
    return tmp_path / "gnd_evil.pkl"


class TestAdmitted:
    @pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
    def test_built_in_types(self, path, protocol):
        value = {
            "numbers": [1, -(2**70), 2.5, True, None],
            "text": "Notre-Dame de Reims, façade",
            b"bytes": (b"", b"\xff\x00"),
            "sets": [{1, 2}, frozenset({3})],
        }
        assert load(path, pickle.dumps(value, protocol)) == value

    @pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
    @pytest.mark.parametrize(
        "array",
        [
            np.arange(6).reshape(2, 3),
            np.asfortranarray(np.arange(6, dtype=np.float32).reshape(2, 3)),
            np.arange(3, dtype=">i4"),
            np.array(["Zürich", "a"]),
            np.array([b"x", b"yz"]),
            np.array(["a", None, [1]], dtype=object),
            np.array([[True], [False]]),
            np.array(5, np.uint8),
            np.zeros((0, 4)),
        ],
        ids=repr,
    )
    def test_arrays(self, path, protocol, array):
        loaded = load(path, pickle.dumps(array, protocol))
        assert isinstance(loaded, np.ndarray)
        assert (loaded.dtype.newbyteorder("="), loaded.shape) == (array.dtype.newbyteorder("="), array.shape)
        assert loaded.tolist() == array.tolist()

    @pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
    @pytest.mark.parametrize("scalar", [np.int64(-3), np.float32(2.5), np.str_("é"), np.bool(True)], ids=repr)
    def test_scalars(self, path, protocol, scalar):
        loaded = load(path, pickle.dumps(scalar, protocol))
        assert loaded == scalar
        assert type(loaded) is type(scalar)

    def test_an_array_written_by_numpy_1(self, path):
        modern = pickle.dumps(np.arange(3), protocol=3)
        assert b"cnumpy._core.multiarray\n" in modern
        ancient = modern.replace(b"cnumpy._core.multiarray\n", b"cnumpy.core.multiarray\n")
        assert load(path, ancient).tolist() == [0, 1, 2]

    def test_an_array_written_by_python_2(self, path):
        # What Python 2 and numpy 1 wrote for {'junk': array([1, 2], dtype=int32), 'bbx': set(['\xe9'])}: text
        # is bytes there, and read as Latin-1 here.
        content = (
            b"\x80\x02}q\x00(U\x04junkcnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
            b"(K\x01K\x02\x85cnumpy\ndtype\nU\x02i4K\x00K\x01\x87R(K\x03U\x01<NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xff"
            b"K\x00tb\x89U\x08\x01\x00\x00\x00\x02\x00\x00\x00tbU\x03bbxc__builtin__\nset\n]U\x01\xe9a\x85Ru."
        )
        loaded = load(path, content)
        assert loaded["junk"].tolist() == [1, 2]
        assert loaded["bbx"] == {"é"}


class TestRefused:
    @pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
    @pytest.mark.parametrize(
        ("function", "named"),
        [
            (os.system, "system"),
            (builtins.eval, "eval"),
            (builtins.exec, "exec"),
            (builtins.getattr, "getattr"),
            (builtins.open, "open"),
            (builtins.__import__, "__import__"),
            (subprocess.check_output, "check_output"),
            (pickle.loads, "loads"),
            (np.load, "load"),
            (np.fromfile, "fromfile"),
            (np.memmap, "memmap"),
            (np.frombuffer, "frombuffer"),
            (np.loadtxt, "loadtxt"),
        ],
        ids=lambda value: getattr(value, "__name__", value),
    )
    def test_functions_are_refused_by_name_and_never_called(self, path, tmp_path, protocol, function, named):
        with pytest.raises(DatasetError, match=rf"gnd_evil.pkl was refused: it asks for [\w.]+\.{named}\."):
            load(path, pickle.dumps(Call(function, f"touch {tmp_path}/called"), protocol))
        assert sorted(tmp_path.iterdir()) == [path]

    @pytest.mark.parametrize(
        ("module", "name"),
        [
            ("numpy", "ndarray.tofile"),
            ("numpy", "core.multiarray.scalar"),
            ("numpy.core.multiarray", "fromfile"),
            ("numpy._core.multiarray", "fromfile"),
            ("builtins", "set.__class__"),
            ("builtins", "bytearray"),
            ("copyreg", "_reconstructor"),
            ("collections", "OrderedDict"),
            ("landbridge.datasets.restricted_pickle", "load_restricted_pickle"),
        ],
    )
    def test_the_list_is_exact(self, path, module, name):
        content = b"\x80\x04" + b"".join(
            b"\x8c" + bytes([len(word)]) + word.encode() for word in (module, name)
        )
        with pytest.raises(DatasetError, match=f"it asks for {module}.{name}"):
            load(path, content + b"\x93.")

    def test_other_codecs(self, path):
        with pytest.raises(DatasetError, match="it asks for the encoding zlib_codec"):
            load(path, pickle.dumps(Call(codecs.encode, "text", "zlib_codec"), protocol=2))

    @pytest.mark.parametrize(
        ("code", "state"),
        [
            # Objects with the flags of numbers, and objects hidden as a field or in a subarray.
            ("O8", (3, "|", None, None, None, -1, -1, 0)),
            ("V8", (3, "|", None, None, None, 8, 1, 0)),
            ("i8", (3, "|", None, ("x",), {"x": (np.dtype("O"), 0)}, 8, 1, 0)),
            ("i8", (3, "|", (np.dtype("O"), (1,)), None, None, 8, 1, 0)),
        ],
    )
    def test_addresses_are_never_taken_for_objects(self, path, code, state):
        dtype = Call(np.dtype, code, False, True, state=state)
        array = Call(REBUILD_ARRAY, np.ndarray, (0,), b"b", state=(1, (1,), dtype, False, b"A" * 8))
        with pytest.raises(DatasetError, match="it asks for an array"):
            load(path, pickle.dumps(array))
        with pytest.raises(DatasetError, match="it asks for an array"):
            load(path, pickle.dumps(Call(REBUILD_SCALAR, dtype, b"A" * 8)))

    @pytest.mark.parametrize(
        ("shape", "code", "data", "message"),
        [
            ((2,), "O8", [1], "objects made of"),
            ((1,), "O8", b"A", "objects made of"),
            ((-1, -1), "i1", b"A", "array of shape"),
            ((2,), "i8", b"A" * 8, "buffer size"),
            ((3,), "i1", 3, "bytes-like object is required"),
            ((1,), "U1", b"\xff" * 4, "letters that do not exist"),
        ],
    )
    def test_data_that_does_not_fit_the_array(self, path, shape, code, data, message):
        dtype = Call(np.dtype, code, False, True, state=(3, "|", None, None, None, -1, -1, 0))
        array = Call(REBUILD_ARRAY, np.ndarray, (0,), b"b", state=(1, shape, dtype, False, data))
        with pytest.raises(DatasetError, match=message):
            load(path, pickle.dumps(array))

    @pytest.mark.parametrize(
        "content", [b"", b"\x80", b"not a pickle", pickle.dumps([1, 2])[:-3], b"\x80\x09N."]
    )
    def test_damaged_files(self, path, content):
        with pytest.raises(DatasetError, match=r"gnd_evil\.pkl was refused: "):
            load(path, content)

    def test_a_file_that_is_not_there(self, path):
        with pytest.raises(FileNotFoundError):
            load_restricted_pickle(path)
