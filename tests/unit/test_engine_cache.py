"""The folder of TensorRT engines, and how the provider is asked for."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from splitbed.engine import Accelerator, Engine, working_provider
from splitbed.engine.cache import EngineCache
from splitbed.errors import EngineError, ProviderMissing
from tests import models
from tests.unit.pretend_gpu import CPU, CUDA, TENSORRT, pretend_gpu

CHAIN = models.chain().SerializeToString()


def test_each_partition_has_a_folder_of_its_own(tmp_path: Path) -> None:
    cache = EngineCache(tmp_path / "engines")
    one, two = cache.folder_for("a" * 64), cache.folder_for("b" * 64)
    assert one != two
    assert cache.folder_for("a" * 64) == one
    assert one.stat().st_mode & 0o077 == 0


def test_a_digest_from_elsewhere_leads_nowhere_else(tmp_path: Path) -> None:
    cache = EngineCache(tmp_path / "engines")
    assert cache.folder_for("../../etc").parent == tmp_path / "engines"


def test_the_least_recently_used_goes(tmp_path: Path) -> None:
    cache = EngineCache(tmp_path, most_folders=2)
    first, second = cache.folder_for("1"), cache.folder_for("2")
    os.utime(first, ns=(1, 1))
    os.utime(second, ns=(2, 2))
    assert cache.folder_for("1") == first
    os.utime(first, ns=(3, 3))
    third = cache.folder_for("3")
    assert sorted(tmp_path.iterdir()) == sorted([first, third])


def test_size_is_bounded_and_the_one_in_use_stays(tmp_path: Path) -> None:
    cache = EngineCache(tmp_path, most_bytes=1000)
    for number in range(4):
        folder = cache.folder_for(str(number))
        (folder / "x.engine").write_bytes(bytes(400))
        os.utime(folder, ns=(number + 1, number + 1))
    large = cache.folder_for("0")
    assert {folder.stat().st_mtime_ns for folder in tmp_path.iterdir()} == {
        3,
        4,
        large.stat().st_mtime_ns,
    }
    (large / "y.engine").write_bytes(bytes(5000))
    assert cache.folder_for("0") == large
    assert list(tmp_path.iterdir()) == [large]
    assert [file.name for file in large.iterdir()] == ["y.engine"]


def test_an_engine_that_cannot_be_used_is_forgotten(tmp_path: Path) -> None:
    cache = EngineCache(tmp_path)
    own = cache.folder_for("1")
    assert not cache.forget(own)
    (own / "x.engine").write_bytes(b"damaged")
    assert cache.forget(own)
    assert list(own.iterdir()) == []
    (tmp_path.parent / "other").mkdir()
    (tmp_path.parent / "other" / "file").touch()
    assert not cache.forget(tmp_path.parent / "other")


# ------------------------------------------------------------------------------------- the provider


def test_tensorrt_is_first_then_cuda_then_the_cpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "0")
    gpu = pretend_gpu(monkeypatch, providers=(TENSORRT, CUDA, CPU))
    engine = Engine(
        CHAIN, provider="tensorrt", accelerator=Accelerator(cached=tmp_path), sha256="a" * 64
    )
    assert engine.provider == TENSORRT
    assert engine.bound
    (first, options), (second, cuda), third = gpu.asked[0]
    assert (first, second, third) == (TENSORRT, CUDA, CPU)
    assert options["trt_fp16_enable"] == "0"
    assert options["trt_engine_cache_enable"] == "1"
    assert Path(options["trt_engine_cache_path"]).parent == tmp_path
    assert cuda["use_tf32"] == "0"


def test_tensorrt_builds_while_it_is_prepared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "0")
    gpu = pretend_gpu(monkeypatch, providers=(TENSORRT, CUDA, CPU))
    runs = []
    gpu.before_run = lambda: runs.append(1)
    engine = Engine(CHAIN, provider="tensorrt")
    created_ns = engine.init_ns
    engine.warm_up()
    assert len(runs) == 2
    assert engine.init_ns > created_ns
    assert engine.first_inference_ns > 0


def test_without_a_digest_no_engine_is_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "0")
    gpu = pretend_gpu(monkeypatch, providers=(TENSORRT, CUDA, CPU))
    Engine(CHAIN, provider="tensorrt", accelerator=Accelerator(cached=tmp_path))
    assert "trt_engine_cache_enable" not in gpu.asked[0][0][1]
    assert list(tmp_path.iterdir()) == []


def test_auto_is_cuda_where_tensorrt_is_there_too(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend_gpu(monkeypatch, providers=(TENSORRT, CUDA, CPU))
    assert working_provider("auto") == CUDA


def test_tensorrt_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    pretend_gpu(monkeypatch)
    with pytest.raises(ProviderMissing, match=f"^{TENSORRT} was asked for and is not available"):
        Engine(CHAIN, provider="tensorrt")


def test_a_damaged_engine_is_built_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NVIDIA_TF32_OVERRIDE", "0")
    gpu = pretend_gpu(monkeypatch, providers=(TENSORRT, CUDA, CPU))
    kept = EngineCache(tmp_path).folder_for("a")
    (kept / "x.engine").write_bytes(b"damaged")

    def take(size_bytes: int, message: str) -> None:
        if list(kept.iterdir()):
            raise RuntimeError("TensorRT EP could not deserialize engine from cache: x.engine")

    monkeypatch.setattr(gpu, "take", take)
    accelerator = Accelerator(cached=tmp_path)
    assert Engine(CHAIN, provider="tensorrt", accelerator=accelerator, sha256="a").bound
    assert list(kept.iterdir()) == []


@pytest.mark.parametrize("choice", ["auto", "cpu"])
def test_nothing_is_printed_where_a_model_cannot_be_loaded(
    choice: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """An edge's standard output has one line, and somebody reads it."""
    with pytest.raises(EngineError):
        Engine(b"no model", provider=choice)  # type: ignore[arg-type]
    assert capfd.readouterr().out == ""
