"""Atomic writes, and folders that are traversed once."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest
from conftest import random_images
from PIL import Image

from lightning_imgmetrics._files import write_atomically
from lightning_imgmetrics.data.sources import ImageFolder


def test_new_files_follow_the_umask_and_replaced_ones_keep_their_mode(tmp_path: Path) -> None:
    def private(part: Path) -> None:
        part.write_text("new")
        part.chmod(0o600)

    before = os.umask(0o022)
    try:
        write_atomically(tmp_path / "a", private)
        assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o644
        (tmp_path / "a").chmod(0o640)
        write_atomically(tmp_path / "a", private)
        assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o640
    finally:
        os.umask(before)


def test_links_and_devices_are_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "real").write_text("old")
    (tmp_path / "link").symlink_to("real")
    write_atomically(tmp_path / "link", lambda part: part.write_text("new"))
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_text() == "new"
    write_atomically(os.devnull, lambda part: part.write_text("gone"))
    assert stat.S_ISCHR(os.stat(os.devnull).st_mode)


def test_folders_that_link_to_each_other_count_once(tmp_path: Path) -> None:
    for name, other in (("a", "b"), ("b", "a")):
        (tmp_path / name).mkdir()
        Image.fromarray(random_images(1, 8)[0].permute(1, 2, 0).numpy()).save(tmp_path / name / "x.png")
        (tmp_path / name / "link").symlink_to(f"../{other}")
    assert len(ImageFolder(tmp_path)) == 2


@pytest.mark.skipif(hasattr(os, "geteuid") and os.geteuid() == 0, reason="root may read every folder")
def test_a_folder_that_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "closed").mkdir(mode=0)
    with pytest.raises(ValueError, match="closed cannot be read"):
        ImageFolder(tmp_path)
