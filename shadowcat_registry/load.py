"""A path → a valid `Manifest`, or every finding at once; once, or again and again.

Opens the manifest and what it includes, and remembers of one load what spares work in the next.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Hashable, Mapping
from functools import partial
from pathlib import Path

from .assemble import Assembled, Known, assemble
from .catalog import Catalog
from .errors import ManifestError, ManifestNotFoundError
from .includes import DirectoryListings, PartReader, expand, listings
from .interpolate import describe
from .manifest import Manifest
from .metadata import PluginInfo, PluginUse
from .parse import MAX_BYTES
from .plugin_types import PluginTypes
from .settled import MovedError, Settled
from .sight import read_settled


def load_manifest(
    path: Path,
    catalog: Catalog,
    *,
    environ: Mapping[str, str] | None = None,
    unresolved: bool = False,
    plugins: PluginUse = "import",
) -> Manifest:
    """Read and check the manifest at `path`, once; `environ` stands for the environment.

    `plugins` says how far to go with those that it asks for. With `verify`, none of their code runs, and a
    provider of a type that only a plugin can have is not checked, which is a warning; with `probe`, it is by
    the schema that another process has found. With `unresolved`, neither the environment nor a `${file:…}`
    nor any plugin is looked at: a reference stands for any value that its field may have. What comes out of
    any of these is right or wrong, and not to be used otherwise.

    Raises:
        ManifestNotFoundError: it cannot be read, with the reason.
        ManifestError: it is invalid, with all findings.
    """
    loader = ManifestLoader(path, catalog, environ=environ, unresolved=unresolved, plugins=plugins)
    # What is printed of this frame along with an error must not show a secret.
    del environ
    try:
        return loader.load()
    finally:
        loader.keep(None)


def parse_manifest(
    data: bytes,
    path: Path,
    catalog: Catalog,
    environ: Mapping[str, str] | None = None,
    *,
    unresolved: bool = False,
) -> Manifest:
    """Check `data` as the manifest at `path`, which is not read; what it includes is. `unresolved` as for
    `load_manifest`.

    Raises:
        ManifestError: it is invalid, with all findings.
    """
    loader = ManifestLoader(path, catalog, environ=environ, unresolved=unresolved)
    try:
        assembled = loader._assemble(data)  # noqa: SLF001 - its other door
    finally:
        loader.keep(None)
        del data, environ  # as above
    return _manifest_of(assembled)


def read_manifest(path: Path) -> bytes:
    """What stands in the file, that nobody writes at this moment; no more of it than tells that it is too
    large.

    Raises:
        ManifestNotFoundError: it cannot be read, with the reason.
    """
    try:
        return read_settled(path, limit_bytes=MAX_BYTES + 1)
    except FileNotFoundError:
        raise ManifestNotFoundError(str(path)) from None
    except OSError as error:
        raise ManifestNotFoundError(str(path), describe(error)) from None
    except ValueError:
        raise ManifestNotFoundError(repr(str(path)), "this is no path") from None


class ManifestLoader:
    """Loads one manifest again and again, and does again only what may come out differently.

    A file with the same content is not parsed again. A provider that was right is not checked again, as
    long as the declaration, what its references give, and the schema of its type are the same; so what
    `validate_config` says may depend on nothing else. What is kept is what the last load used: it holds
    secrets no longer than the manifest does. All methods may be called from any thread. Once `cancelled` is
    set, a load waits for no plugin any more.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        catalog: Catalog,
        *,
        environ: Mapping[str, str] | None = None,
        unresolved: bool = False,
        plugins: PluginUse = "import",
        cancelled: threading.Event | None = None,
    ) -> None:
        self._path, self._catalog, self._unresolved = Path(path), catalog, unresolved
        self._use: PluginUse = "ignore" if unresolved else plugins
        # Not `resolve()`, which would follow links.
        self._absolute = Path(os.path.abspath(path))  # noqa: PTH100
        self._environ = os.environ if environ is None else environ
        # Guards the swap of the fields below; nothing is called under it, so two loads may run at once.
        self._lock = threading.Lock()
        self._plugins = PluginTypes(self._environ, cancelled)
        self._known = Known()
        self._files: tuple[Path, ...] = (self._absolute,)
        self._patterns: tuple[Path, ...] = ()

    def load(
        self,
        *,
        require_end_marker: bool = False,
        plugins: PluginUse | None = None,
        settled: Settled | None = None,
    ) -> Manifest:
        """Read and check the manifest as it is now. With `require_end_marker` each file has to have one,
        whether or not it says so itself: what runs may say so. `plugins`: as far as this, once.
        With `settled`, no plugin runs that had not settled.

        Raises:
            ManifestNotFoundError: it cannot be read, with the reason.
            ManifestError: it is invalid, with all findings.
            RuntimeClosedError: it was cancelled while it waited for a plugin.
            MovedError: what a plugin would run may be half of something; `files` knows of it.
        """
        data = read_manifest(self._path)
        assembled = self._assemble(
            data,
            require_end_marker=require_end_marker,
            use=plugins or self._use,
            is_file=True,
            settled=settled,
        )
        del data  # as above
        return _manifest_of(assembled)

    def load_kept(self, texts: Mapping[Path, str]) -> Manifest:
        """Check these texts, by absolute path, as the manifest; what its references name is as it is now.

        `files` says afterwards what it said before: these texts are not what is on the disk.

        Raises:
            ManifestError: it is invalid, with all findings.
        """
        kept = {path: text.encode("utf-8", "surrogatepass") for path, text in texts.items()}
        reader = PartReader({}, kept)
        reader.read(self._absolute, str(self._path), kept.get(self._absolute, b""))
        assembled = assemble(
            reader,
            self._absolute,
            self._catalog,
            self._environ,
            plug_in=partial(self._plugins.plug_in, use=self._use, manifest=None, settled=None),
            unresolved=self._unresolved,
            known=Known(),
        )
        return _manifest_of(assembled)

    def files(self) -> tuple[Path, ...]:
        """Every file that the last load asked for, right or wrong, and every other that its patterns match
        by now: whose change is a change of the manifest, or may put it right. Quick enough for each second.
        """
        with self._lock:
            files, patterns = self._files, self._patterns
        matches: list[Path] = []
        known = DirectoryListings()
        for pattern in patterns:
            try:
                matches += expand(pattern, known)
            except OSError:
                # Which files there are is not known; the next load says so. Not silence: what was known
                # is watched on.
                continue
        return tuple(dict.fromkeys([*files, *matches]))

    def listings(self) -> dict[Path, set[str]]:
        """The directories in which files may appear that the last load would have asked for, each with the
        patterns of their names. As quick."""
        with self._lock:
            patterns = self._patterns
        return listings(patterns)

    def keep(self, manifest: Manifest | None) -> None:
        """This one runs now, None: none does. The code of plugins that it does not use is given up, and lives
        as long as something else uses it."""
        self._plugins.keep(manifest.plugins if manifest is not None else None)

    def tidy(self, users: Callable[[], Hashable]) -> None:
        """Have code of plugins go that was given up and that nothing uses; `users` says who may."""
        self._plugins.tidy(users)

    def plugins(self, running: Manifest) -> tuple[PluginInfo, ...]:
        """Those of the manifest that runs, and those that it does not ask for any more, while something uses
        their code."""
        return self._plugins.as_they_stand(running.plugins)

    def _assemble(
        self,
        data: bytes,
        *,
        require_end_marker: bool = False,
        use: PluginUse | None = None,
        is_file: bool = False,
        settled: Settled | None = None,
    ) -> Assembled:
        """`is_file`: the data stand in the file, so it matters who may write that."""
        with self._lock:
            known = self._known
        reader = PartReader(known.documents)
        path = self._absolute
        reader.read(path, str(self._path), data)
        plug_in = partial(
            self._plugins.plug_in,
            use=use or self._use,
            manifest=path if is_file else None,
            settled=settled,
        )
        try:
            assembled = assemble(
                reader,
                path,
                self._catalog,
                self._environ,
                plug_in=plug_in,
                unresolved=self._unresolved,
                known=known,
                require_end_marker=require_end_marker,
            )
        except MovedError as error:
            with self._lock:
                self._files = tuple(dict.fromkeys([*self._files, *reader.files, *error.files]))
                self._patterns = tuple(dict.fromkeys([*self._patterns, *reader.patterns, *error.patterns]))
            raise
        with self._lock:
            self._known = assembled.known
            self._files, self._patterns = assembled.files, (*reader.patterns, *assembled.patterns)
        return assembled


def _manifest_of(assembled: Assembled) -> Manifest:
    if assembled.manifest is not None:
        return assembled.manifest
    raise ManifestError(assembled.findings, assembled.excerpts, assembled.digest)
