"""What is tested is what is installed, and it is whole."""

from __future__ import annotations

import importlib.metadata
import json
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import pytest

import shadowcat_registry

PACKAGE = Path(shadowcat_registry.__file__).parent
ROOT = Path(__file__).parents[1]


class TestInstallation:
    def test_the_tests_run_against_what_is_installed(self) -> None:
        distribution = importlib.metadata.distribution("shadowcat-registry")
        origin = json.loads(distribution.read_text("direct_url.json") or "{}")
        if origin.get("dir_info", {}).get("editable"):
            assert PACKAGE.parent == ROOT
        else:
            assert Path(str(distribution.locate_file("shadowcat_registry"))) == PACKAGE

    def test_the_command_is_installed(self) -> None:
        (script,) = importlib.metadata.entry_points(group="console_scripts", name="shadowcat-registry")
        from shadowcat_registry.cli import main

        assert script.load() is main

    def test_it_is_typed(self) -> None:
        assert (PACKAGE / "py.typed").exists()

    def test_importing_a_name_that_does_not_exist_is_an_ordinary_error(self) -> None:
        with pytest.raises(AttributeError, match="has no attribute 'nonsense'"):
            shadowcat_registry.nonsense  # noqa: B018


class TestSchemaFiles:
    def check(self, site: Path) -> Path:
        """Schemas and starter are found by the package in `site`, whatever the working directory; returns
        where that is."""
        program = (
            "import shadowcat_registry\n"
            "from shadowcat_registry.schema_files import manifest_schema, provider_schema, starter_manifest\n"
            "print(shadowcat_registry.__file__)\n"
            "print(manifest_schema()['$id'], provider_schema('filesystem')['$id'], starter_manifest()[:22])"
        )
        # The folder counts as site-packages do, with its .pth files, and comes before those of this run.
        start = (
            "import site, sys\n"
            "before = len(sys.path)\n"
            f"site.addsitedir({str(site)!r})\n"
            "sys.path[:] = [*sys.path[before:], *sys.path[:before]]\n"
        )
        done = subprocess.run(
            [sys.executable, "-I", "-B", "-c", start + program],
            capture_output=True,
            text=True,
            check=False,
            timeout=30,
        )
        assert done.returncode == 0, done.stderr
        home, said = done.stdout.split("\n", 1)
        assert "registry.schema.json" in said
        assert "filesystem.schema.json" in said
        assert "# yaml-language-server" in said
        return Path(home).resolve()

    def copy(self, to: Path) -> None:
        shutil.copytree(
            PACKAGE, to / "shadowcat_registry", ignore=shutil.ignore_patterns("__pycache__", "schemas")
        )

    def schemas(self) -> Path:
        from shadowcat_registry.schema_files import schema_directory

        return schema_directory()

    def copy_what_is_shipped(self, to: Path) -> None:
        shutil.copytree(self.schemas(), to / "schemas")
        shutil.copy(self.schemas().parent / "registry.yaml", to)

    def test_they_are_found_beside_the_code(self, tmp_path: Path) -> None:
        self.copy(tmp_path)
        self.copy_what_is_shipped(tmp_path / "shadowcat_registry")
        assert self.check(tmp_path).is_relative_to(tmp_path.resolve())

    def test_they_are_found_from_a_checkout(self, tmp_path: Path) -> None:
        self.copy(tmp_path)
        self.copy_what_is_shipped(tmp_path)
        assert self.check(tmp_path).is_relative_to(tmp_path.resolve())

    @pytest.mark.skipif(not (ROOT / "shadowcat_registry").exists(), reason="needs a checkout")
    def test_they_are_found_from_an_editable_install(self, tmp_path: Path) -> None:
        """It is a line in a .pth file, and what the wheel would hold beside the code is there without it."""
        (tmp_path / "_shadowcat_registry.pth").write_text(f"{ROOT}\n", encoding="utf-8")
        (tmp_path / "shadowcat_registry" / "schemas").mkdir(parents=True)
        assert self.check(tmp_path) == (ROOT / "shadowcat_registry" / "__init__.py").resolve()

    def test_a_broken_installation_says_what_to_do(self, tmp_path: Path) -> None:
        self.copy(tmp_path)
        (tmp_path / "schemas").mkdir()  # somebody else's
        with pytest.raises(AssertionError, match="install shadowcat-registry again"):
            self.check(tmp_path)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`wheel` and `sdist`: what hatchling makes of this tree without any network, unpacked."""
    pytest.importorskip("hatchling")
    if not (ROOT / "pyproject.toml").exists():
        pytest.skip("needs the tree that packages are made of")
    target = tmp_path_factory.mktemp("built")
    build(ROOT, "wheel", target / "wheel")
    build(ROOT, "sdist", target / "sdist")
    return target


def build(tree: Path, option: str, target: Path) -> None:
    """Build a package of `tree` and unpack it into `target`."""
    archives = target.with_name(f"{target.name}-archive")
    command = [sys.executable, "-m", "hatchling", "build", "-t", option, "-d", str(archives)]
    subprocess.run(command, cwd=tree, check=True, capture_output=True, timeout=50)
    (archive,) = archives.iterdir()
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as wheel:
            wheel.extractall(target)
    else:
        with tarfile.open(archive) as sdist:
            for member in sdist.getmembers():  # `extractall` wants a filter that early releases lack
                if (content := sdist.extractfile(member)) is not None:
                    path = target / member.name
                    path.parent.mkdir(parents=True, exist_ok=True)
                    path.write_bytes(content.read())


def files(directory: Path) -> set[str]:
    return {path.relative_to(directory).as_posix() for path in directory.rglob("*") if path.is_file()}


class TestPackages:
    def tree(self, built: Path) -> Path:
        (tree,) = (built / "sdist").iterdir()
        return tree

    def test_the_wheel_finds_its_schemas(self, built: Path) -> None:
        home = TestSchemaFiles().check(built / "wheel")
        assert home == (built / "wheel" / "shadowcat_registry" / "__init__.py").resolve()

    def test_the_sdist_finds_its_schemas(self, built: Path) -> None:
        tree = self.tree(built)
        home = TestSchemaFiles().check(tree)
        assert home == (tree / "shadowcat_registry" / "__init__.py").resolve()

    def test_the_wheel_holds_the_package_and_what_it_reads(self, built: Path) -> None:
        held = {name for name in files(built / "wheel") if ".dist-info/" not in name}
        package = {f"shadowcat_registry/{name}" for name in files(ROOT / "shadowcat_registry")}
        schemas = {f"shadowcat_registry/schemas/{name}" for name in files(ROOT / "schemas")}
        expected = package | schemas | {"shadowcat_registry/registry.yaml"}
        assert held == {name for name in expected if "__pycache__" not in name}

    def test_the_sdist_holds_what_the_wheel_and_the_tests_are_made_of(self, built: Path) -> None:
        held = files(self.tree(built))
        for folder in ("shadowcat_registry", "schemas", "tests"):
            there = {f"{folder}/{name}" for name in files(ROOT / folder)}
            assert {name for name in there if "__pycache__" not in name} <= held
        assert {"registry.yaml", "README.md", "LICENSE", "pyproject.toml"} <= held
        assert not [
            name for name in held if "cache" in name or name.startswith((".venv", ".hypothesis", "dist"))
        ]

    def test_the_wheel_of_the_sdist_is_that_of_the_tree(self, built: Path, tmp_path: Path) -> None:
        build(self.tree(built), "wheel", tmp_path / "wheel")
        ours, theirs = built / "wheel", tmp_path / "wheel"
        assert files(ours) == files(theirs)
        for name in files(ours):
            assert (ours / name).read_bytes() == (theirs / name).read_bytes(), name
