"""Damaged files of every format: an error of one sentence or the right numbers, within bounds of memory and time."""

import subprocess
import sys
import tracemalloc
import zipfile
from pathlib import Path

import pytest
from beside import load

files = load(__file__, "small_files")


@pytest.mark.parametrize("name", files.FORMATS)
def test_damaged_files_are_refused_or_read_right(tmp_path, name):
    tracemalloc.start()
    try:
        outcomes = files.survey(files.FORMATS[name], tmp_path, 500, seed=0)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    # The files have some 2 kB; what a size out of a damaged header would claim is beyond any bound.
    assert peak < 2**24
    # Both ends of the survey are in it: neither is everything refused, nor nothing noticed.
    assert outcomes["refused"] > 200
    assert outcomes["read"] > 20


def test_the_survey_notices_a_reader_that_trusts(tmp_path):
    # numpy.load is such a reader: it has other exceptions for a damaged file.
    trusting = files.Format(files.write_npz, files.trusting_npz, files.FORMATS["npz"].header)
    with pytest.raises(zipfile.BadZipFile):
        files.survey(trusting, tmp_path, 500, seed=0)


@pytest.mark.slow
@pytest.mark.parametrize("name", files.FORMATS)
def test_ten_thousand_damaged_files_fit_into_a_small_process(name):
    script = Path(__file__).with_name("small_files.py")
    done = subprocess.run(
        [sys.executable, "-W", "error", script, name, "10000", "1"],
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr
