"""What pyproject.toml says of a wheel: protects who installs it from files and packages that only a checkout has."""

import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "src" / "shibolet"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def test_a_wheel_has_every_file_of_the_package():
    """A template or a recipe that is not listed is missing only where nobody of this project looks."""
    patterns = PROJECT["tool"]["setuptools"]["package-data"]["shibolet"]
    listed = {path for pattern in patterns for path in PACKAGE.glob(pattern)}
    wanted = {path for path in PACKAGE.rglob("*") if path.is_file() and path.suffix not in (".py", ".pyc")}
    assert len(wanted) > 20 and not sorted(wanted - listed)


def test_every_pattern_finds_files():
    patterns = PROJECT["tool"]["setuptools"]["package-data"]["shibolet"]
    assert all(any(PACKAGE.glob(pattern)) for pattern in patterns)


def test_who_develops_has_the_packages_of_every_extra_with_their_bounds():
    """`make test-lowest` installs `dev` and `demo`: a bound that stands in another extra alone is tried nowhere.

    Nothing that is installed with `docs` is imported: `make docs` alone runs it.
    """
    extras = PROJECT["project"]["optional-dependencies"]
    tried = {*extras["dev"], *extras["demo"]}
    for name in extras.keys() - {"docs"}:
        assert not set(extras[name]) - tried, name


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
@pytest.mark.parametrize("has_urls", [False, True])
def test_a_release_waits_for_the_addresses_of_the_project(tmp_path, has_urls):
    """A package index keeps what was uploaded: a page without a link to the source cannot be mended."""
    shutil.copy(ROOT / "Makefile", tmp_path)
    urls = '[project.urls]\nSource = "https://project.example"\n' if has_urls else ""
    (tmp_path / "pyproject.toml").write_text(f'[project]\nname = "shibolet"\n{urls}', encoding="utf-8")
    makefile = (tmp_path / "Makefile").read_text(encoding="utf-8").replace("$(MAKE) dist", "@echo builds")
    (tmp_path / "Makefile").write_text(makefile, encoding="utf-8")
    done = subprocess.run(["make", "--no-print-directory", "release"], cwd=tmp_path, capture_output=True, text=True)
    if has_urls:
        assert (done.returncode, done.stdout) == (0, "builds\n")
    else:
        assert done.returncode and "pyproject.toml has no [project.urls]; fill it in" in done.stdout
