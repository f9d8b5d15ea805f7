"""What pyproject.toml says of a wheel: protects who installs it from files and packages that only a checkout has."""

import tomllib
from pathlib import Path

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
