"""Reference files of other tools: read exactly, refused clearly, and never run."""

from __future__ import annotations

import contextlib
import os
import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings, strategies as st

from lightning_imgmetrics._files import write_atomically
from lightning_imgmetrics.data.statistics_files import FORMATS, read_statistics
from lightning_imgmetrics.errors import IncompatibleStates, NonFiniteFeatures


def moments(d: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    x = np.random.default_rng(seed).normal(size=(3 * d, d))
    return x.mean(0), np.cov(x, rowvar=False)


MU, SIGMA = moments(6)
MU_S, SIGMA_S = moments(9, 1)
FEATURES = np.random.default_rng(2).normal(size=(5, 4)).astype(np.float32)
IMAGES = np.random.default_rng(3).integers(0, 256, (7, 4, 5, 3), np.uint8)


def same(found: tuple[torch.Tensor, torch.Tensor], mean: np.ndarray, cov: np.ndarray) -> None:
    assert [x.dtype for x in found] == [torch.float64] * 2
    np.testing.assert_array_equal(found[0].numpy(), mean)
    np.testing.assert_array_equal(found[1].numpy(), cov)


@pytest.fixture
def save(tmp_path: Path) -> Callable[..., Path]:
    def written(name: str, **arrays: Any) -> Path:
        np.savez_compressed(tmp_path / name, **arrays)
        return tmp_path / name

    return written


def edm2(path: Path, content: Any, protocol: int = 4) -> Path:
    path.write_bytes(pickle.dumps(content, protocol=protocol))
    return path


def test_fid_npz(save: Callable[..., Path]) -> None:
    stats = read_statistics(str(save("fid.npz", mu=MU, sigma=SIGMA)))
    assert (stats.format, stats.n, stats.features, stats.image_shape) == ("fid-npz", None, None, None)
    assert set(stats.moments) == {"fid"}
    same(stats.moments["fid"], MU, SIGMA)
    assert list(stats.images()) == []


def test_features_of_kid_of_dgm_eval_and_bare(save: Callable[..., Path], tmp_path: Path) -> None:
    np.save(tmp_path / "bare.npy", FEATURES)
    reps = save("reps.npz", reps=FEATURES, model="dinov2", hparams=np.array({"seed": 0}, dtype=object))
    files = {"clean-fid-kid": save("kid.npz", feats=FEATURES), "dgm-eval": reps, "npy": tmp_path / "bare.npy"}
    for form, path in files.items():
        stats = read_statistics(path)
        assert (stats.format, stats.n, stats.moments) == (form, 5, {})
        assert stats.features is not None
        assert stats.features.dtype == torch.float32
        np.testing.assert_array_equal(stats.features.numpy(), FEATURES)


def test_types_of_features(tmp_path: Path) -> None:
    for stored, read in (("f2", torch.float32), (">f4", torch.float32), ("f8", torch.float64), ("i4", torch.float64)):
        np.save(tmp_path / "x.npy", (100 * FEATURES).astype(stored))
        features = read_statistics(tmp_path / "x.npy").features
        assert features is not None
        assert features.dtype == read
        np.testing.assert_allclose(features.numpy(), (100 * FEATURES).astype(stored).astype("f8"), rtol=1e-6)


def test_adm(save: Callable[..., Path]) -> None:
    stats = read_statistics(save("adm.npz", arr_0=IMAGES, mu=MU, sigma=SIGMA, mu_s=MU_S, sigma_s=SIGMA_S))
    assert (stats.format, stats.n, stats.image_shape) == ("adm", None, IMAGES.shape)
    same(stats.moments["fid"], MU, SIGMA)
    same(stats.moments["sfid"], MU_S, SIGMA_S)
    batches = list(stats.images(3))
    assert [tuple(x.shape) for x in batches] == [(3, 3, 4, 5), (3, 3, 4, 5), (1, 3, 4, 5)]
    np.testing.assert_array_equal(torch.cat(batches).permute(0, 2, 3, 1).numpy(), IMAGES)


def test_samples_of_adm_have_no_moments(save: Callable[..., Path]) -> None:
    stats = read_statistics(save("samples.npz", arr_0=IMAGES, arr_1=np.arange(7)))
    assert (stats.format, stats.moments, stats.image_shape) == ("adm", {}, IMAGES.shape)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_edm2(tmp_path: Path, protocol: int) -> None:
    content = {"num_images": 50000, "fid": {"mu": MU, "sigma": SIGMA}}
    content["fd_dinov2"] = {"mu": MU_S, "sigma": np.asfortranarray(SIGMA_S + np.triu(1e-9 * SIGMA_S))}
    stats = read_statistics(edm2(tmp_path / "ref.pkl", content, protocol))
    assert (stats.format, stats.n) == ("edm2", 50000)
    same(stats.moments["fid"], MU, SIGMA)
    same(stats.moments["fd_dinov2"], MU_S, content["fd_dinov2"]["sigma"])


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_both_module_paths_of_numpy(tmp_path: Path, protocol: int) -> None:
    """NumPy 2 renamed `numpy.core`; files of both have to be read by both."""
    content = {"num_images": np.int64(9), "fid": {"mu": MU.astype(">f4"), "sigma": SIGMA}}
    data = pickle.dumps(content, protocol=protocol)
    assert (b"numpy._core." in data) != (b"numpy.core." in data)
    for other in (b"numpy._core.", b"numpy.core."):
        swapped = data
        for name in (b"numpy._core.multiarray", b"numpy.core.multiarray"):
            new = other + b"multiarray"
            swapped = swapped.replace(bytes([len(name)]) + name, bytes([len(new)]) + new)  # a counted string
            swapped = swapped.replace(b"c" + name + b"\n", b"c" + new + b"\n")  # a line
        swapped = _reframed(swapped) if protocol == 4 else swapped
        assert other in swapped
        (tmp_path / "ref.pkl").write_bytes(swapped)
        stats = read_statistics(tmp_path / "ref.pkl")
        assert stats.n == 9
        same(stats.moments["fid"], MU.astype("f4"), SIGMA)


def _reframed(data: bytes) -> bytes:
    """A protocol 4 pickle whose one frame counts its bytes anew."""
    assert data[2:3] == b"\x95"
    return data[:3] + struct.pack("<Q", len(data) - 11) + data[11:]


class _Calls:
    def __init__(self, function: Callable[..., Any], *args: Any):
        self.call = function, args

    def __reduce__(self) -> Any:
        return self.call


EVIL: dict[str, Callable[[str], Any]] = {
    "os.system": lambda path: _Calls(os.system, f"touch {path}"),
    "eval": lambda path: _Calls(eval, f"open({path!r}, 'w')"),
    "open": lambda path: _Calls(open, path, "w"),
    "nested reduce": lambda path: _Calls(getattr, _Calls(__import__, "os"), "system"),
    "a method of numpy": lambda path: _Calls(MU.tofile, path),
    "numpy.load": lambda path: _Calls(np.load, path),
    "inside an array": lambda path: np.array([_Calls(os.system, f"touch {path}")], dtype=object),
    "inside a key": lambda path: {"fid": {"mu": MU, "sigma": _Calls(os.system, f"touch {path}")}},
}


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("what", EVIL)
def test_code_in_a_pickle_is_not_run(tmp_path: Path, what: str, protocol: int) -> None:
    (tmp_path / "work").mkdir()
    path = edm2(tmp_path / "ref.pkl", {"fid": EVIL[what](str(tmp_path / "work" / "ran"))}, protocol)
    with pytest.raises(IncompatibleStates, match=r"ref.pkl cannot be read: .*refused"):
        read_statistics(path)
    assert list((tmp_path / "work").iterdir()) == []


@pytest.mark.parametrize(
    ("program", "why"),
    [
        (b"\x80\x02cnumpy\nndarray\n(K\x01\x85cnumpy\ndtype\nX\x01\x00\x00\x00O\x85RC\x08aaaaaaaatR.", "refused"),
        (b"\x80\x02cnumpy\nndarray\n(K\x01\x85X\x02\x00\x00\x00f8tR.", "may not be called"),
        (b"\x80\x02cnumpy\ndtype\n}X\x09\x00\x00\x00_functionNsb.", "state of a function may not be set"),
        (b"\x80\x02c_codecs\nencode\nX\x01\x00\x00\x00aX\x05\x00\x00\x00rot13\x86R.", "refused"),
        (b"\x80\x04\x8c\x05numpy\x8c\x0endarray.tofile\x93.", "refused"),
        (b"\x80\x02cnumpy\ndtype\n)\x81.", "type"),
    ],
    ids=["object buffer", "constructor", "state of a function", "codec", "dotted name", "new"],
)
def test_hand_written_programs(tmp_path: Path, program: bytes, why: str) -> None:
    (tmp_path / "ref.pkl").write_bytes(program)
    with pytest.raises(IncompatibleStates, match=f"cannot be read: .*{why}"):
        read_statistics(tmp_path / "ref.pkl")


@pytest.mark.parametrize("value", [np.array([{}, []], dtype=object), np.array(["a"]), np.zeros(2, "f8,f8"), 1j])
def test_arrays_of_other_things_are_refused(tmp_path: Path, value: Any) -> None:
    with pytest.raises(IncompatibleStates, match="refused"):
        read_statistics(edm2(tmp_path / "ref.pkl", {"fid": {"mu": value, "sigma": SIGMA}}))


@settings(max_examples=200, deadline=None)
@given(cut=st.integers(0, 2000), flips=st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 255)), max_size=4))
def test_damaged_pickles_give_one_error(
    tmp_path_factory: pytest.TempPathFactory, cut: int, flips: list[tuple[int, int]]
) -> None:
    data = bytearray(pickle.dumps({"num_images": 9, "fid": {"mu": MU, "sigma": SIGMA}}, protocol=4))
    for place, byte in flips:
        data[place % len(data)] = byte
    path = tmp_path_factory.getbasetemp() / "damaged.pkl"
    path.write_bytes(bytes(data[: len(data) - cut % len(data)]))
    with contextlib.suppress(IncompatibleStates, NonFiniteFeatures):  # and nothing else
        read_statistics(path)


@pytest.mark.parametrize("form", ["fid", "adm", "edm2", "npy"])
def test_truncated_and_empty_files(save: Callable[..., Path], tmp_path: Path, form: str) -> None:
    if form == "npy":
        path = tmp_path / "x.npy"
        np.save(path, FEATURES)
    elif form == "edm2":
        path = edm2(tmp_path / "x.pkl", {"fid": {"mu": MU, "sigma": SIGMA}})
    else:
        path = save("x.npz", mu=MU, sigma=SIGMA, **({"arr_0": IMAGES} if form == "adm" else {}))
    whole = path.read_bytes()
    for length in (0, 3, 20, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        with pytest.raises(IncompatibleStates, match=path.name):
            read_statistics(path)


def test_a_damaged_member_names_its_key(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    np.savez(path, mu=MU, sigma=SIGMA)
    data = bytearray(path.read_bytes())
    place = data.index(SIGMA[2].tobytes())
    data[place] ^= 1
    path.write_bytes(bytes(data))
    with pytest.raises(IncompatibleStates, match=r"x.npz: `sigma` cannot be read: .*CRC"):
        read_statistics(path)


def test_damaged_images_are_found_when_they_are_read(tmp_path: Path) -> None:
    path = tmp_path / "x.npz"
    images = np.random.default_rng(0).integers(0, 256, (7, 64, 64, 3), np.uint8)
    np.savez(path, arr_0=images)
    data = bytearray(path.read_bytes())
    data[data.index(images[6].tobytes())] ^= 1
    path.write_bytes(bytes(data))
    batches = read_statistics(path).images(3)
    assert len(next(batches)) == 3
    with pytest.raises(IncompatibleStates, match=r"x.npz: `arr_0` is damaged at image [36].*CRC"):
        list(batches)


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"mu": MU}, "expected `mu` and `sigma`, `sigma` is missing"),
        ({"mu": MU, "sigma": SIGMA, "sigma_s": SIGMA_S}, "expected `mu_s` and `sigma_s`, `mu_s` is missing"),
        ({"mu": MU[None], "sigma": SIGMA}, r"`mu` must be \(d\), got shape \(1, 6\)"),
        ({"mu": MU, "sigma": SIGMA[0]}, r"`sigma` must be \(d d\), got shape \(6,\)"),
        ({"mu": MU[:5], "sigma": SIGMA}, r"`sigma` must be \(5, 5\) as `mu` has d = 5, got shape \(6, 6\)"),
        ({"mu": MU, "sigma": SIGMA[:, :5]}, r"`sigma` must be \(6, 6\) as `mu` has d = 6, got shape \(6, 5\)"),
        ({"mu": MU[:0], "sigma": SIGMA[:0, :0]}, r"`sigma` must be \(d, d\), got shape \(0, 0\)"),
        ({"mu": MU, "sigma": np.triu(SIGMA)}, "`sigma` must be symmetric within 1e-06 of"),
        ({"mu": MU.astype(complex), "sigma": SIGMA}, "`mu` must be an array of numbers, got complex128"),
        ({"mu": MU.astype(str), "sigma": SIGMA}, "`mu` must be an array of numbers, got <U"),
        ({"mu": MU.astype(object), "sigma": SIGMA}, "`mu` cannot be read: Object arrays"),
        ({"feats": FEATURES[:0]}, r"`feats` must hold at least one row, got shape \(0, 4\)"),
        ({"reps": FEATURES[0]}, r"`reps` must be \(n d\), got shape \(4,\)"),
        ({"arr_0": FEATURES}, r"`arr_0` must be images \(n, h, w, 3\) uint8, got shape \(5, 4\) float32"),
        ({"arr_0": IMAGES[..., :1]}, r"`arr_0` must be images \(n, h, w, 3\) uint8, got shape \(7, 4, 5, 1\) uint8"),
        ({"arr_0": IMAGES.astype(np.float32)}, r"`arr_0` must be images .* float32"),
    ],
)
def test_arrays_that_do_not_fit(save: Callable[..., Path], arrays: dict[str, np.ndarray], message: str) -> None:
    with pytest.raises(IncompatibleStates, match=r"x\.npz: " + message):
        read_statistics(save("x.npz", **arrays))


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_numbers_that_are_not_finite(save: Callable[..., Path], tmp_path: Path, bad: float) -> None:
    mean, features = MU.copy(), FEATURES.copy()
    mean[3] = features[0, 1] = bad
    with pytest.raises(NonFiniteFeatures, match=r"x.npz: `mu` must be finite"):
        read_statistics(save("x.npz", mu=mean, sigma=SIGMA))
    with pytest.raises(NonFiniteFeatures, match=r"x.npz: `feats` must be finite"):
        read_statistics(save("x.npz", feats=features))
    with pytest.raises(NonFiniteFeatures, match=r"x.pkl: `fd_dinov2.mu` must be finite"):
        read_statistics(edm2(tmp_path / "x.pkl", {"fd_dinov2": {"mu": mean, "sigma": SIGMA}}))


def test_symmetric_up_to_rounding(save: Callable[..., Path]) -> None:
    sigma = SIGMA * (1 + np.triu(np.full((6, 6), 1e-7)))
    same(read_statistics(save("x.npz", mu=MU, sigma=sigma)).moments["fid"], MU, sigma)


def test_other_files_are_told_what_is_known(save: Callable[..., Path], tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text("a, b\n")
    others = [save("x.npz", weights=MU), tmp_path / "x.csv", edm2(tmp_path / "x.pkl", {"num_images": 3})]
    torch.save({"mu": torch.zeros(2)}, tmp_path / "x.pt")
    for path in [*others, tmp_path / "x.pt"]:
        with pytest.raises(IncompatibleStates, match=f"{path.name} is no known statistics file") as caught:
            read_statistics(path)
        assert all(f"{name}: {layout}" in str(caught.value) for name, layout in FORMATS.items())
    with pytest.raises(IncompatibleStates, match="expected a dict, got list"):
        read_statistics(edm2(tmp_path / "x.pkl", [1]))
    with pytest.raises(IncompatibleStates, match="`num_images` must be a positive integer, got 'many'"):
        read_statistics(edm2(tmp_path / "x.pkl", {"num_images": "many", "fid": {"mu": MU, "sigma": SIGMA}}))
    with pytest.raises(FileNotFoundError, match=r"nothing\.npz"):
        read_statistics(tmp_path / "nothing.npz")


def test_a_file_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "stats.npz"
    for value in (1, 2):
        write_atomically(path, lambda temporary, value=value: np.savez(temporary, x=value))
        assert np.load(path)["x"] == value
        assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), KeyboardInterrupt()])
def test_a_failed_write_leaves_the_old_file(tmp_path: Path, error: BaseException) -> None:
    path = tmp_path / "x.json"
    path.write_text("old")

    def write(temporary: Path) -> None:
        assert temporary.parent == tmp_path
        temporary.write_text("ne")
        raise error

    with pytest.raises(type(error)):
        write_atomically(path, write)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
    with pytest.raises(FileNotFoundError):
        write_atomically(path, lambda temporary: None)
    assert path.read_text() == "old"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk(tmp_path: Path) -> None:
    path = tmp_path / "x.bin"
    path.write_text("old")

    def write(temporary: Path) -> None:
        temporary.symlink_to("/dev/full")
        temporary.write_bytes(b"new" * 10_000)

    with pytest.raises(OSError, match="No space left"):
        write_atomically(path, write)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
