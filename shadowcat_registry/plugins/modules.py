"""From verified bytes to a module that runs, and out of the process again.

A generation of a plugin is one tree of modules made from one digest: exactly the bytes of its source are
compiled, nothing is looked up on `sys.path`, read again or written. Its names are its own, so that an old
generation lives beside a new one as long as somebody uses it: what it imports relatively, also late and
within a function, is its own. Knows nothing of where the bytes come from, nor of what is done with factories.
"""

from __future__ import annotations

import builtins
import linecache
import sys
import threading
import typing
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.machinery import ModuleSpec
from importlib.util import decode_source
from itertools import count
from types import ModuleType
from typing import Any, Final

from ..errors import PluginError
from . import shape
from .blame import advice, is_interrupt, line_of
from .effects import Surroundings, left_running
from .records import TypeReport, VerifiedSource

PACKAGE: Final = "shadowcat_registry_plugins"
"""Where the modules live. Nobody finds anything in it on a disk."""
_LOOK_AGAIN_SECONDS: Final = 0.1
"""How often a thread that waits for the import of another looks whether that can still end."""


def _package() -> ModuleType:
    package = ModuleType(PACKAGE, "The modules of plugins; each is put here by what has verified it.")
    package.__path__ = []
    return package


sys.modules.setdefault(PACKAGE, _package())

# Each step on these is one operation of a dict, so they need no lock.
_numbers: Final = count(1)
_generations: Final[dict[int, weakref.ref[_Generation]]] = {}
"""Number → generation; a number is never used again."""


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class LoadedPlugin:
    """A plugin whose code has run. Whoever holds it, or anything that came out of it, keeps its code."""

    name: str
    sha256: str
    """Of the bytes that run."""
    factories: tuple[shape.PluginFactory, ...]
    reports: tuple[TypeReport, ...]
    """What the factories said of themselves, in the same order."""
    generation: _Generation = field(repr=False)


def load(
    source: VerifiedSource, *, probed: Sequence[TypeReport] | None = None, with_schemas: bool = True
) -> LoadedPlugin:
    """Run a plugin, as a new generation, whether or not there is one of the same bytes.

    `probed` is what a probe was told by the same bytes; a plugin that says something else here is refused.
    `with_schemas` is that of `shape.check`.
    A Ctrl-C of the user during the import goes on as `KeyboardInterrupt`; whatever else comes out of the
    plugin is its refusal, and is the `__cause__`.

    Raises:
        PluginError: rule `import` for what the code does, else as `shape.check`. Nothing of it is left in
            `sys.modules`.
    """
    generation = _Generation(source)
    surroundings = Surroundings()
    try:
        factories, reports = _run(source, generation, with_schemas)
        fault = surroundings.mend_builtins() or left_running(generation.builtins, generation.places.get)
        if fault is not None:
            raise PluginError(
                source.name, "import", fault, "let the import have no effects; work in `create`"
            )
        shape.check_same(source.name, probed, reports)
    except BaseException:
        generation.forget()
        surroundings.mend_builtins()
        raise
    generation.is_loaded = True
    return LoadedPlugin(source.name, source.sha256, factories, reports, generation)


def forget(plugin: LoadedPlugin) -> None:
    """It is superseded: no name leads to it any more. What still uses it goes on, and the last one that
    lets go of it lets it go. Idempotent."""
    plugin.generation.forget()
    # `Optional[Config]` in an old module is remembered by `typing`, and with it the class and the module.
    for clear in getattr(typing, "_cleanups", ()):
        clear()


def living() -> Mapping[str, int]:
    """How many generations of each plugin are alive: the current ones, and old ones that something still
    uses, or that have not been collected yet."""
    found: dict[str, int] = {}
    for number, reference in _generations.copy().items():
        generation = reference()
        if generation is None:
            _generations.pop(number, None)
        elif generation.is_loaded:
            found[generation.name] = found.get(generation.name, 0) + 1
    return found


def places_of(source: VerifiedSource) -> Mapping[str, str]:
    """The file names that code of this source has in tracebacks → as they are shown to people."""
    return _Source(PACKAGE, source).places


def _run(source: VerifiedSource, generation: _Generation, with_schemas: bool) -> shape.Checked:
    blame = generation.blame
    try:
        module = generation.module(generation.root)
    except BaseException as error:
        if is_interrupt(error):
            raise
        raise PluginError(source.name, "import", blame(error), advice(source.name, error)) from error
    exported = vars(module).get("PROVIDERS", shape.MISSING)
    return shape.check(source.name, exported, blame, with_schemas=with_schemas)


class _Source:
    """The loader of all modules of one generation: what a traceback takes its lines from.

    It knows no module, since `linecache` may keep it.
    """

    def __init__(self, root: str, source: VerifiedSource) -> None:
        tag = f"#{source.sha256[:12]}"
        self.files: dict[str, tuple[str, bytes]] = {}
        """Module → its file name and content. The name says which bytes these were: the file itself may be
        another by now."""
        self.packages: set[str] = set()
        self.places: dict[str, str] = {}
        """File name → the same for people, relative to where the plugins are."""
        for name, content in source.files.items():
            *parts, last = name.removesuffix(".py").split("/")
            if not source.is_package:
                parts, last = [], "__init__"
            module = ".".join([root, *parts] if last == "__init__" else [root, *parts, last])
            path = source.path / name if source.is_package else source.path
            if module in self.files and last != "__init__":
                continue  # beside a package of that name, which goes before
            self.files[module] = f"{path}{tag}", content
            self.places[f"{path}{tag}"] = f"{source.name}/{name}" if source.is_package else name
            if source.is_package:
                self.packages.update(".".join([root, *parts[:depth]]) for depth in range(len(parts) + 1))

    def __contains__(self, module: str) -> bool:
        return module in self.files or module in self.packages

    def is_package(self, module: str) -> bool:
        return module in self.packages

    def get_source(self, module: str) -> str:
        if module not in self.files:
            raise ImportError(f"no source of {module!r}", name=module)
        return decode_source(self.files[module][1])


@dataclass(slots=True, eq=False)
class _Import:
    """A module whose body runs in a thread; others that want it wait, and hold nothing meanwhile."""

    module: ModuleType
    thread: threading.Thread
    ended: threading.Event = field(default_factory=threading.Event)


class _Generation:
    """The modules of one plugin, and how they import each other."""

    def __init__(self, source: VerifiedSource) -> None:
        mine = weakref.ref(self)
        while _generations.setdefault(number := next(_numbers), mine) is not mine:
            pass  # only where `next` of two threads can give the same, without a GIL
        self.name = source.name
        self.root = f"{PACKAGE}.{source.name}_{number}"
        self.is_loaded = False
        """Its body has run, and what it exports is right."""
        self._source = _Source(self.root, source)
        self.places = self._source.places
        self.builtins = {**vars(builtins), "__import__": self._import}
        """Of every module: this is how an `import` statement comes here."""
        self._is_current = True
        # Each step on these is one operation of a dict, so they need no lock.
        self._modules: dict[str, ModuleType] = {}
        self._running: dict[str, _Import] = {}
        self._waiting: dict[threading.Thread, _Import] = {}
        weakref.finalize(self, _drop_lines, tuple(self.places)).atexit = False

    def blame(self, error: BaseException) -> str:
        return line_of(error, self.places.get).replace(self.root, self.name)

    def forget(self) -> None:
        self._is_current = False
        for name in self._source.files.keys() | self._source.packages:
            if name not in self._running:  # its own thread does that, when its body has run
                sys.modules.pop(name, None)

    def module(self, name: str) -> ModuleType:
        """The module of that name; its body is run once, the first time.

        Raises:
            ModuleNotFoundError: there is none.
            BaseException: whatever its body raises; it is run again the next time.
        """
        parent = self.module(name.rpartition(".")[0]) if name != self.root else None
        while True:
            running = self._running.get(name)
            if running is not None:
                if not self._wait(name, running):
                    return running.module  # of a circle: as far as it has come
                continue
            if (module := self._modules.get(name)) is not None:
                return module
            if name not in self._source:
                raise ModuleNotFoundError(f"No module named {name!r}", name=name)
            mine = _Import(self._empty_module(name), threading.current_thread())
            if self._running.setdefault(name, mine) is not mine:
                continue
            try:
                if name in self._modules:  # it has ended in between
                    continue
                self._execute(mine.module, parent)
                self._modules[name] = mine.module
            finally:
                self._running.pop(name, None)
                if not self._is_current:  # in this order: `forget` looks the other way round
                    sys.modules.pop(name, None)
                mine.ended.set()

    def _wait(self, name: str, running: _Import) -> bool:
        """Wait for the end of another thread's import; False: that thread waits for this one."""
        me = threading.current_thread()
        self._waiting[me] = running
        try:
            while not self._is_waited_for(me, running):
                if running.ended.wait(_LOOK_AGAIN_SECONDS):
                    return True
                if not running.thread.is_alive():  # this is a forked child, where it never ends
                    self._running.pop(name, None)
                    return True
            return False
        finally:
            del self._waiting[me]

    def _is_waited_for(self, thread: threading.Thread, running: _Import) -> bool:
        """Whether an import cannot end before one of `thread` has."""
        follow: _Import | None = running
        for _ in range(len(self._waiting) + 1):
            if follow is None:
                return False
            if follow.thread is thread:
                return True
            follow = self._waiting.get(follow.thread)
        return False

    def _empty_module(self, name: str) -> ModuleType:
        is_package = self._source.is_package(name)
        module = ModuleType(name)
        path, _ = self._source.files.get(name, ("", b""))
        spec = ModuleSpec(name, self._source, origin=path or None, is_package=is_package)  # type: ignore[arg-type]
        module.__spec__, module.__loader__, module.__package__ = spec, self._source, spec.parent  # type: ignore[assignment]
        if path:
            module.__file__ = path
        if is_package:
            module.__path__ = []
        vars(module)["__builtins__"] = self.builtins
        return module

    def _execute(self, module: ModuleType, parent: ModuleType | None) -> None:
        name = module.__name__
        path, content = self._source.files.get(name, (self.root, b""))
        leaf = name.rpartition(".")[2]
        sys.modules[name] = module  # dataclasses and typing look for it there
        if parent is not None:
            setattr(parent, leaf, module)  # at once: two modules may need each other
        try:
            # The bytes were verified: running them is what they are for.
            exec(compile(content, path, "exec", dont_inherit=True), vars(module))  # noqa: S102
        except BaseException:
            if parent is not None and vars(parent).get(leaf) is module:
                delattr(parent, leaf)
            sys.modules.pop(name, None)
            raise

    def _import(
        self,
        name: str,
        globals: Mapping[str, Any] | None = None,  # noqa: A002 - as of `__import__`
        locals: Mapping[str, Any] | None = None,  # noqa: A002 - as above
        fromlist: Sequence[str] | None = (),
        level: int = 0,
    ) -> ModuleType:
        """`__import__` for the code of this generation: what is relative is looked up in it."""
        package = str((globals or {}).get("__package__") or "")
        if level == 0 or f"{package}.".partition(".")[0] != PACKAGE:
            return builtins.__import__(name, globals, locals, fromlist or (), level)
        for _ in range(level - 1):
            package = package.rpartition(".")[0]
        if package != self.root and not package.startswith(f"{self.root}."):
            raise ImportError(
                "a relative import leads out of the plugin; only a package has modules of its own"
            )
        module = self.module(f"{package}.{name}" if name else package)
        if not fromlist:
            return self.module(f"{package}.{name.partition('.')[0]}" if name else package)
        if hasattr(module, "__path__"):
            wanted = list(fromlist)
            if "*" in wanted:
                wanted += [it for it in getattr(module, "__all__", ()) if isinstance(it, str)]
            for item in wanted:
                inner = f"{module.__name__}.{item}"
                if not hasattr(module, item) and inner in self._source:
                    self.module(inner)
        return module


def _drop_lines(files: Sequence[str]) -> None:
    """When a generation is gone: what tracebacks of it have left in `linecache`."""
    for file in files:
        linecache.cache.pop(file, None)
