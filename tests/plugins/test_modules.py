"""Verified bytes as modules: what they may do, what they may not, and that nothing of them stays."""

from __future__ import annotations

import builtins
import gc
import pickle
import sys
import threading
import traceback
import types
import weakref
from pathlib import Path

import pytest

from shadowcat_registry.errors import PluginError
from shadowcat_registry.plugins import modules
from shadowcat_registry.plugins.records import VerifiedSource

from . import made

EXPORT = made.factory()


def names() -> set[str]:
    return {name for name in sys.modules if name.startswith(modules.PACKAGE)}


def refusal(source: VerifiedSource | str) -> PluginError:
    before = names()
    with pytest.raises(PluginError) as caught:
        modules.load(made.file(source) if isinstance(source, str) else source)
    assert names() == before, "nothing of it is left"
    return caught.value


UNSPEAKABLE = """class Odd(Exception):
    def __str__(self): raise SystemExit
    __repr__ = __str__
raise Odd
"""


class TestImport:
    @pytest.mark.parametrize(
        ("text", "reason"),
        [
            ("x = (", "glacier.py:1: SyntaxError: '(' was never closed"),
            ("\n\nif x:\nprint()", "glacier.py:4: IndentationError: expected an indented block"),
            ("\nraise ValueError('token 1234')", "glacier.py:2: ValueError"),
            ("\nint('token 1234')", "glacier.py:2: ValueError"),
            ("import os\nos.environ['NO_BUCKET']", "glacier.py:2: KeyError: 'NO_BUCKET'"),
            ("{}['token 1234']", "glacier.py:1: KeyError"),
            ("\nopen('/nonexistent/ice')", "FileNotFoundError: No such file or directory: /nonexistent/ice"),
            ("raise SystemExit(0)", "glacier.py:1: SystemExit"),
            ("import sys\nsys.exit('token 1234')", "glacier.py:2: SystemExit"),
            ("raise KeyboardInterrupt", "glacier.py:1: KeyboardInterrupt"),
            ("raise GeneratorExit", "glacier.py:1: GeneratorExit"),
            ("class Odd(BaseException): pass\nraise Odd('token 1234')", "glacier.py:2: Odd"),
            (UNSPEAKABLE, "glacier.py:4: Odd"),
            ("def f(): f()\nf()", "glacier.py:1: RecursionError: maximum recursion depth exceeded"),
            ("(" * 250 + ")" * 250, "glacier.py:1: SyntaxError: too many nested parentheses"),
            ("x = " + "-" * 100_000 + "1", "Error"),
            ("x = 1\0", "SyntaxError"),
            ("# coding: klingon", "SyntaxError: unknown encoding: klingon"),
            ("import glacier", "glacier.py:1: ModuleNotFoundError: No module named 'glacier'"),
            ("from . import cold", "only a package has modules of its own"),
            ("from .. import errors", "only a package has modules of its own"),
            ("assert False", "glacier.py:1: AssertionError"),
            ("await x", "SyntaxError: 'await' outside function"),
        ],
    )  # fmt: skip
    def test_whatever_its_body_raises_is_a_refusal_with_its_own_line(self, text: str, reason: str) -> None:
        error = refusal(text)
        assert error.rule == "import"
        assert reason in error.reason
        assert "1234" not in str(error), "its text may hold anything"
        assert error.__cause__ is not None

    def test_the_line_is_that_of_the_module_of_the_package(self) -> None:
        source = made.package({"__init__.py": "from .cold import store", "cold/store.py": "\n1 / 0"})
        assert refusal(source).reason == "arctic/cold/store.py:2: ZeroDivisionError"

    def test_a_package_that_calls_itself_by_its_name_is_told_how_it_is_done(self) -> None:
        error = refusal(made.package({"__init__.py": "from arctic.cold import x", "cold.py": "x = 1"}))
        assert error.remedy == "import the plugin's own modules relatively: from . import …"

    def test_one_that_reads_the_environment_is_told_when_it_may(self) -> None:
        error = refusal("import os\nos.environ['NO_BUCKET']")
        assert error.remedy is not None
        assert error.remedy.startswith("read the environment in `create`")

    def test_a_ctrl_c_of_the_user_is_one(self) -> None:
        with pytest.raises(KeyboardInterrupt):
            modules.load(made.file("import signal\nsignal.raise_signal(signal.SIGINT)"))
        with pytest.raises(KeyboardInterrupt):
            modules.load(made.file("import signal, time\nwhile 1: signal.raise_signal(signal.SIGINT)"))
        assert names() == {modules.PACKAGE}

    def test_changed_builtins_are_refused_and_mended(self) -> None:
        before = dict(vars(builtins))
        text = "import builtins\nbuiltins.open = print\nbuiltins.mine = 3\ndel builtins.sum\n"
        assert refusal(text + EXPORT).reason.startswith("its import changed mine, open, sum in `builtins`")
        assert vars(builtins) == before
        refusal(text + "1 / 0")
        assert vars(builtins) == before, "also where it fails for another reason"

    @pytest.mark.parametrize("is_daemon", [True, False])
    def test_a_thread_left_running_is_refused(self, is_daemon: bool) -> None:
        end = threading.Event()
        vars(sys.modules[modules.PACKAGE])["end"] = end  # what the test and the plugin both reach
        text = f"""
            import sys, threading
            def work():
                sys.modules[{modules.PACKAGE!r}].end.wait()
            threading.Thread(target=work, daemon={is_daemon}).start()
        """
        try:
            error = refusal(text + "\n" + "\n".join(" " * 12 + line for line in EXPORT.splitlines()))
        finally:
            end.set()
            del vars(sys.modules[modules.PACKAGE])["end"]
        assert error.reason == "its import left a thread running, with what begins at glacier.py:3"

    def test_a_thread_that_has_ended_is_fine(self) -> None:
        modules.load(made.file("import threading\nthreading.Thread(target=lambda: None).start()\n" + EXPORT))

    def test_what_a_probe_was_told_has_to_be_what_it_says_here(self) -> None:
        source = made.file(made.factory())
        reports = modules.load(source).reports
        modules.load(source, probed=reports)
        other = modules.load(made.file(made.factory("version = '2.0'"))).reports
        with pytest.raises(PluginError, match="are not those that it told its probe"):
            modules.load(source, probed=other)

    def test_its_name_may_be_that_of_any_module(self) -> None:
        """A name of the standard library is refused before; here it takes nobody's place."""
        before = sys.modules["json"]
        plugin = modules.load(made.file("import json\nassert json.dumps\n" + EXPORT, name="json"))
        assert sys.modules["json"] is before
        modules.forget(plugin)

    def test_nobody_else_finds_it(self) -> None:
        modules.forget(modules.load(made.file(EXPORT)))
        for name in ("glacier", f"{modules.PACKAGE}.glacier", f"{modules.PACKAGE}.glacier_0"):
            with pytest.raises(ModuleNotFoundError):
                __import__(name)


class TestBytes:
    def test_the_bytes_are_what_runs_whatever_stands_on_the_disk(self, tmp_path: Path) -> None:
        (tmp_path / "glacier.py").write_text("raise SystemExit")
        cache = tmp_path / "__pycache__"
        cache.mkdir()
        for tag in (sys.implementation.cache_tag, "x"):
            (cache / f"glacier.{tag}.pyc").write_bytes(b"poison")
        before = sorted(tmp_path.rglob("*"))
        plugin = modules.load(made.file(EXPORT, directory=tmp_path))
        assert plugin.factories[0].name == "glacier"
        assert sorted(tmp_path.rglob("*")) == before, "nothing is written"
        modules.forget(plugin)

    def test_a_poisoned_cache_of_a_real_module_is_not_looked_at(self, tmp_path: Path) -> None:
        """What Python would have taken instead of the source, had it imported it."""
        import importlib.util
        import py_compile

        path = tmp_path / "glacier.py"
        path.write_text("raise SystemExit('poisoned')")
        py_compile.compile(str(path), importlib.util.cache_from_source(str(path)),
                           invalidation_mode=py_compile.PycInvalidationMode.UNCHECKED_HASH)  # fmt: skip
        path.write_text(EXPORT)
        modules.forget(modules.load(made.file(path.read_text(), directory=tmp_path)))

    def test_a_declared_encoding_and_a_byte_order_mark_count(self) -> None:
        text = '# coding: latin-1\nICE = "\xe9"\nassert len(ICE) == 1\n' + EXPORT
        content = text.encode("latin-1")
        source = VerifiedSource("glacier", made.PLUGINS, False, {"glacier.py": content}, "0" * 64, "pinned")
        modules.load(source)
        modules.load(made.file("\ufeff" + EXPORT))

    def test_nothing_is_opened_while_it_is_loaded_and_no_stack_looked_at(self) -> None:
        """To walk the stacks of running threads has crashed Python 3.11."""
        opened = []
        is_watching = True

        def watch(event: str, arguments: tuple[object, ...]) -> None:
            if is_watching and event in ("open", "sys._current_frames"):
                opened.append((event, *arguments))

        sys.addaudithook(watch)
        source = made.package({"__init__.py": "from .cold import x\n" + EXPORT, "cold.py": "x = 1"})
        modules.forget(modules.load(source))
        is_watching = False
        assert opened == []

    def test_a_traceback_shows_its_lines_and_no_other_generations(self) -> None:
        for word in ("one", "two", "three"):
            text = made.factory(f"def validate_config(self, config): raise RuntimeError  # {word}")
            factory = modules.load(made.file(text)).factories[0]
            with pytest.raises(ValueError, match="RuntimeError") as caught:
                factory.validate_config({})
            shown = "".join(traceback.format_exception(caught.value))
            assert f"raise RuntimeError  # {word}" in shown
            assert f'File "{made.PLUGINS / "glacier.py"}#' in shown

    def test_a_traceback_of_a_broken_body_shows_its_lines(self) -> None:
        assert "    int('ice')\n" in "".join(traceback.format_exception(refusal("int('ice')")))


LAZY = {
    "__init__.py": made.factory("def create(self, config, context): return late()")
    + "def late():\n    from . import cold\n    from .cold.store import DEPTH, size\n"
    + "    return size(), DEPTH\n",
    "cold/__init__.py": "from .. import PROVIDERS\nfrom .store import *\n",
    "cold/store.py": (
        "from __future__ import annotations\nfrom dataclasses import dataclass\n"
        "from typing import ClassVar\nfrom ..unit import METRES as M\nDEPTH = 'DEPTH'\n__all__ = ['DEPTH']\n"
        "@dataclass\nclass Size:\n    metres: M = 3\n    kind: ClassVar[str] = 'x'\n"
        "def size(): return Size().metres\n"
    ),
    "unit.py": "METRES = int\n",
}


class TestPackages:
    def test_relative_imports_are_those_of_the_package(self) -> None:
        source = made.package({
            "__init__.py": "from . import a\nfrom .sub.deep import word\nfrom .sub import *\n"
            "assert (word, also, a.b.NAME) == ('w', 'x', 'b')\n" + EXPORT,
            "a.py": "from . import b\nfrom .b import NAME\nfrom .sub import deep as d\nassert d.word == 'w'",
            "b.py": "from . import a\nNAME = 'b'",  # in a circle
            "sub/__init__.py": "__all__ = ['also', 'deep']\nalso = 'x'",
            "sub/deep.py": "from ..b import NAME\nfrom .. import a\nfrom .other.more import word",
            "sub/other/more.py": "word = 'w'",  # in a namespace package
        })  # fmt: skip
        modules.forget(modules.load(source))

    @pytest.mark.parametrize(
        ("statement", "reason"),
        [
            ("from . import warm", "cannot import name 'warm'"),
            ("from .warm import x", "No module named 'arctic.warm'"),
            ("from .cold import y", "cannot import name 'y' from 'arctic.cold'"),
            ("from .cold.x import y", "No module named 'arctic.cold.x'"),
            ("from .. import errors", "leads out of the plugin"),
            ("from ..glacier import x", "leads out of the plugin"),
            ("from .....json import x", "leads out of the plugin"),
        ],
    )
    def test_what_is_not_in_the_package_is_not_found(self, statement: str, reason: str) -> None:
        assert reason in refusal(made.package({"__init__.py": statement, "cold.py": "x = 1"})).reason

    def test_each_module_runs_once(self) -> None:
        counting = "from . import runs\nruns.append(__name__)"
        source = made.package({
            "__init__.py": "runs = []\nfrom . import a, b\nfrom .a import a as _\nfrom . import a, b\n"
            "assert len(runs) == 2, runs\n" + EXPORT,
            "a.py": counting + "\na = 1", "b.py": counting + "\nfrom . import a",
        })  # fmt: skip
        modules.forget(modules.load(source))

    def test_one_that_failed_is_run_again(self) -> None:
        source = made.package({
            "__init__.py": "tries = []\ntry:\n    from . import a\nexcept ZeroDivisionError: pass\n"
            "assert 'a' not in globals()\nfrom . import a\n" + EXPORT,
            "a.py": "from . import tries\ntries.append(1)\nif len(tries) < 2: 1 / 0",
        })  # fmt: skip
        modules.forget(modules.load(source))

    def test_a_superseded_generation_imports_late_what_is_its_own(self) -> None:
        old = modules.load(made.package(LAZY))
        newer = {name: text.replace("'DEPTH'", "'NEW'", 1) for name, text in LAZY.items()}
        new = modules.load(made.package(newer))
        create = [plugin.factories[0].create for plugin in (old, new)]
        modules.forget(old)
        before = names()
        config: dict[str, object] = {}
        assert create[1](config, None) == (3, "NEW")  # type: ignore[arg-type, comparison-overlap]
        assert create[0](config, None) == (3, "DEPTH")  # type: ignore[arg-type, comparison-overlap]
        assert not [name for name in names() - before if not name.startswith(create[1].__module__)]
        modules.forget(new)
        assert names() == {modules.PACKAGE}

    def test_two_threads_that_import_one_module_late_run_it_once(self) -> None:
        source = made.package({
            "__init__.py": EXPORT + "from threading import Event\nruns, inside, go = [], Event(), Event()\n"
            "def late():\n    from .slow import x\n    return x\n",
            "slow.py": "from . import runs, inside, go\nruns.append(1)\ninside.set()\ngo.wait()\nx = 3",
        })  # fmt: skip
        plugin = modules.load(source)
        root = vars(sys.modules[plugin.factories[0].create.__module__])
        found: list[int] = []
        threads = [threading.Thread(target=lambda: found.append(root["late"]())) for _ in range(3)]
        threads[0].start()
        root["inside"].wait()
        for thread in threads[1:]:
            thread.start()
        root["go"].set()
        for thread in threads:
            thread.join()
        assert (found, root["runs"]) == ([3, 3, 3], [1])
        modules.forget(plugin)

    def test_two_threads_whose_modules_need_each_other_do_not_wait_for_ever(self) -> None:
        source = made.package({
            "__init__.py": EXPORT + "import threading\nmeet = threading.Barrier(2, timeout=10)\n"
            "def a():\n    from . import a\ndef b():\n    from . import b\n",
            "a.py": "from . import meet\nmeet.wait()\nfrom . import b",
            "b.py": "from . import meet\nmeet.wait()\nfrom . import a",
        })  # fmt: skip
        plugin = modules.load(source)
        root = vars(sys.modules[plugin.factories[0].create.__module__])
        threads = [threading.Thread(target=root[name]) for name in ("a", "b")]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(10)
        assert not [thread for thread in threads if thread.is_alive()]
        modules.forget(plugin)

    def test_one_that_is_superseded_in_the_middle_of_a_late_import_ends_it(self) -> None:
        source = made.package({
            "__init__.py": EXPORT + "from threading import Event\ninside, go = Event(), Event()\n"
            "def late():\n    from .slow import Size\n    return Size().metres\n",
            "slow.py": "from __future__ import annotations\nfrom dataclasses import dataclass\n"
            "from typing import ClassVar as C\nfrom . import inside, go\ninside.set()\ngo.wait()\n"
            "@dataclass\nclass Size:\n    kind: C[str] = 'x'\n    metres: int = 3\n",
        })  # fmt: skip
        plugin = modules.load(source)
        root = vars(sys.modules[plugin.factories[0].create.__module__])
        found: list[int] = []
        thread = threading.Thread(target=lambda: found.append(root["late"]()))
        thread.start()
        root["inside"].wait()
        modules.forget(plugin)
        root["go"].set()  # `dataclass` looks for the module of a class in `sys.modules`
        thread.join()
        assert found == [3]
        assert names() == {modules.PACKAGE}

    def test_an_import_that_a_fork_has_cut_off_is_begun_again(self) -> None:
        """In the child, the thread that was at it is gone, and nobody else will end it."""
        plugin = modules.load(made.package({"__init__.py": EXPORT, "slow.py": "x = 3"}))
        generation = plugin.generation
        name = f"{generation.root}.slow"
        gone = threading.Thread(target=lambda: None)
        gone.start()
        gone.join()
        generation._running[name] = modules._Import(types.ModuleType(name), gone)
        assert vars(generation.module(name))["x"] == 3
        modules.forget(plugin)


class TestPickle:
    def test_what_is_an_instance_of_the_current_generation_can_be_pickled(self) -> None:
        text = "from dataclasses import dataclass\n@dataclass\nclass Depth:\n    metres: int\n" + EXPORT
        plugin = modules.load(made.file(text))
        depth = vars(sys.modules[plugin.factories[0].create.__module__])["Depth"](3)
        assert pickle.loads(pickle.dumps(depth)) == depth
        assert pickle._loads(pickle._dumps(depth)) == depth  # type: ignore[attr-defined] # the one in Python
        modules.forget(plugin)
        with pytest.raises(pickle.PicklingError):
            pickle.dumps(depth)


TYPED = """
import abc, enum, functools, logging, typing
from dataclasses import dataclass, field
from typing import Generic, NamedTuple, Optional, TypeVar, Union

T = TypeVar("T")

class Kind(enum.Enum):
    COLD = 1

@dataclass
class Depth:
    metres: Optional["Kind"] = None
    kinds: typing.List[Kind] = field(default_factory=list)

class Shelf(Generic[T], abc.ABC):
    def get(self, key: Union[Depth, Kind, None]) -> Optional[Depth]: return self.cached(key)
    @functools.lru_cache
    def cached(self, key): return key

class Pair(NamedTuple):
    depth: Depth
    shelf: Shelf[Depth]

typing.get_type_hints(Shelf.get)
Pair(Depth(), Shelf()).shelf.get(None)
isinstance(Depth(), abc.ABC)
"""


class TestGenerations:
    @pytest.mark.ci
    def test_200_loads_of_20_kib_leave_no_old_module_alive(self) -> None:
        padding = "".join(f"ICE_{n} = 'frozen water number {n}'\n" for n in range(600))
        alive: list[weakref.ref[object]] = []
        for number in range(200):
            source = made.file(f"NUMBER = {number}\n{TYPED}{padding}{EXPORT}", name="shelf")
            plugin = modules.load(source)
            assert len(source.files["shelf.py"]) > 20 * 1024
            factory = plugin.factories[0]
            module = sys.modules[factory.create.__module__]
            alive += map(weakref.ref, (plugin, factory, factory.factory, module, vars(module)["Depth"]))
            if number % 50 == 0:
                with pytest.raises(NotImplementedError) as caught:
                    factory.create({}, None)  # type: ignore[arg-type]
                "".join(traceback.format_exception(caught.value))
                del caught
            modules.forget(plugin)
            del plugin, factory, module
            if number % 50 == 0:
                gc.collect()
        gc.collect()
        assert [reference for reference in alive if reference() is not None] == []
        assert modules.living().get("shelf", 0) == 0
        import linecache

        assert not [file for file in linecache.cache if "shelf.py#" in file]

    def test_those_that_are_used_are_counted(self) -> None:
        plugins = [modules.load(made.file(EXPORT, name="counted")) for _ in range(3)]
        assert modules.living()["counted"] == 3
        held = plugins[0].factories[0].create
        for plugin in plugins[:2]:
            modules.forget(plugin)
            modules.forget(plugin)  # a second time is nothing
        del plugins[:2], plugin
        gc.collect()
        assert modules.living()["counted"] == 2
        del held
        gc.collect()
        assert modules.living()["counted"] == 1
        modules.forget(plugins[0])

    def test_one_that_was_refused_is_gone_with_its_error(self) -> None:
        for text in ("1 / 0", made.factory("version = 3")):
            refusal(made.file(text, name="gone"))
        assert "gone" not in modules.living()

    def test_several_threads_load_at_once(self) -> None:
        loaded: list[modules.LoadedPlugin] = []
        sources = [made.package(LAZY), made.file(TYPED + EXPORT), made.file(EXPORT, name="other")]
        start = threading.Barrier(6)

        def work(source: VerifiedSource) -> None:
            start.wait()
            loaded.extend(modules.load(source) for _ in range(10))

        threads = [threading.Thread(target=work, args=(source,)) for source in sources * 2]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(loaded) == 60
        assert len({plugin.factories[0].create.__module__ for plugin in loaded}) == 60
        for plugin in loaded:
            modules.forget(plugin)
        assert names() == {modules.PACKAGE}
