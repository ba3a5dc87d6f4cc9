"""The last manifest that was good, kept for a start on which there is none.

In a state directory that only this user may enter, one file a manifest: all of its texts together, as they
were read, so that they are replaced as a whole. References stand in them unresolved; a manifest with a
secret written into it is not kept, and what was kept of it before is removed, since that is no longer the
last good one. Keeping never holds up a reload and never fails the process: a thread does it, which ends
with the work; what goes wrong is logged once, and the status says it.
"""

from __future__ import annotations

import json
import logging
import os
import threading
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any, Final

from . import forks
from .interpolate import describe
from .manifest import Manifest
from .metadata import format_time
from .private import make_private_directory, read_private, write_private

_FORMAT_VERSION: Final = 1
_FILE_NAME: Final = "last-good.json"
_MOST_BYTES: Final = 64 * 1024 * 1024

_logger = logging.getLogger(__name__)


class NothingKeptError(Exception):
    """There is no last good manifest to start from; the text says why."""


@dataclass(frozen=True, slots=True)
class KeptManifest:
    """What was kept: texts by absolute path, the manifest itself first."""

    texts: Mapping[Path, str] = field(repr=False)
    digest: str
    at: datetime


@dataclass(frozen=True, slots=True)
class Keeping:
    """How the keeping stands."""

    path: str | None
    """Where it is kept; None: there is no place for it."""
    digest: str | None = None
    """Of what is kept; None: nothing is, by this process."""
    at: datetime | None = None
    problem: str | None = None
    """Why what runs is not kept."""

    def as_json(self) -> dict[str, Any]:
        return {
            "path": self.path,
            "digest": self.digest,
            "at": format_time(self.at) if self.at is not None else None,
            "problem": self.problem,
        }


class LastGood:
    """Keeps the last good texts of the manifest at `path`, and gives them back."""

    def __init__(self, path: Path, environ: Mapping[str, str] | None = None) -> None:
        self._manifest = path
        self._environ = os.environ if environ is None else environ
        # Guards the fields below; nothing is called under it.
        self._lock = threading.Lock()
        self._due: Manifest | None = None
        self._worker: threading.Thread | None = None
        self._keeping = Keeping(None)
        self._said: set[str] = set()
        forks.in_child(self, LastGood._start_anew)

    def keep(self, manifest: Manifest) -> None:
        """Keep `manifest`, soon; of several that come quickly, the last. Never waits, never raises."""
        with self._lock:
            self._due = manifest
            if self._worker is not None:
                return
            self._worker = worker = threading.Thread(target=self._work, name="shadowcat-keep", daemon=True)
        try:
            worker.start()
        except RuntimeError:  # there is no thread to be had, as at the exit
            self._work()

    def close(self, timeout_seconds: float) -> None:
        """Wait for what is being kept; a disk that hangs is left alone."""
        with self._lock:
            worker = self._worker
        if worker is not None and worker.ident is not None and worker is not threading.current_thread():
            worker.join(timeout_seconds)

    def status(self) -> Keeping:
        with self._lock:
            return self._keeping

    def read(self) -> KeptManifest:
        """Raises: NothingKeptError: there is none, or it cannot be used; says why."""
        try:
            path = self._path()
            value = json.loads(read_private(path, _MOST_BYTES))
            texts = {Path(entry["path"]): str(entry["text"]) for entry in value["files"]}
            kept = KeptManifest(texts, str(value["digest"]), datetime.fromisoformat(value["at"]))
            is_ours = value["version"] == _FORMAT_VERSION and next(iter(texts), None) == self._manifest
        except FileNotFoundError as error:
            raise NothingKeptError(f"no good manifest has been kept in {error.filename}") from None
        except OSError as error:
            raise NothingKeptError(f"the manifest that was kept cannot be read: {describe(error)}") from None
        except (ValueError, LookupError, TypeError, AttributeError):
            raise NothingKeptError(f"{path} is not what this version keeps") from None
        if not is_ours:
            raise NothingKeptError(f"{path} is not what this version keeps of {self._manifest}")
        return kept

    def _path(self) -> Path:
        """Raises: OSError: there is no place for it."""
        state = Path(self._environ.get("XDG_STATE_HOME", ""))
        if not state.is_absolute():  # which the specification has ignored
            # Not `Path.home()`, which raises where there is none.
            home = Path(self._environ.get("HOME") or os.path.expanduser("~"))  # noqa: PTH111
            if not home.is_absolute():
                raise OSError(None, "there is no home directory; set XDG_STATE_HOME")
            state = home / ".local" / "state"
        key = sha256(os.fsencode(self._manifest)).hexdigest()[:16]
        return state / "shadowcat-registry" / key / _FILE_NAME

    def _work(self) -> None:
        while True:
            with self._lock:
                manifest, self._due = self._due, None
                if manifest is None:
                    self._worker = None
                    return
            try:
                keeping = self._keep(manifest)
            except OSError as error:
                keeping = Keeping(None, problem=f"it cannot be written: {describe(error)}")
            except Exception as error:
                _logger.exception("keeping the manifest failed")
                keeping = Keeping(None, problem=f"keeping it failed with {type(error).__name__}")
            with self._lock:
                self._keeping = keeping
                is_new = keeping.problem is not None and keeping.problem not in self._said
                if keeping.problem is not None:
                    self._said.add(keeping.problem)
            if is_new:
                _logger.warning("the running manifest is not kept for a later start: %s", keeping.problem)

    def _keep(self, manifest: Manifest) -> Keeping:
        path = self._path()
        if manifest.literal_secret is not None:
            with suppress(FileNotFoundError):
                path.unlink()
            place = manifest.literal_secret
            problem = f"a secret is written into it at {place}; refer to it by ${{env:…}} or ${{file:…}}"
            return Keeping(str(path), problem=problem)
        now = datetime.now(UTC)
        value = {
            "version": _FORMAT_VERSION,
            "manifest": str(self._manifest),
            "digest": manifest.digest,
            "at": now.isoformat(),
            "files": [{"path": str(it), "text": text} for it, text in manifest.texts.items()],
        }
        make_private_directory(path.parent.parent)
        make_private_directory(path.parent)
        write_private(path, json.dumps(value, indent=1).encode("utf-8", "surrogatepass"))
        return Keeping(str(path), manifest.digest, now)

    def _start_anew(self) -> None:
        """In a forked child: the thread is the parent's."""
        self._lock = threading.Lock()
        self._due, self._worker = None, None
