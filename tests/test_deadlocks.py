"""What calls back into the registry, each in a process of its own: one that hangs is ended, and says with
the stacks of all its threads where it hung."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

_PRELUDE = """
import faulthandler, logging, threading
faulthandler.dump_traceback_later({seconds}, exit=True)
from shadowcat_registry.errors import RegistryError
from shadowcat_registry.metadata import ProviderSpec
from shadowcat_registry.generations import Change, SetDefault
from shadowcat_registry.registry import StorageProviderRegistry
from tests import fakes


def Factory(name, on_create=lambda context: None, on_close=None):
    return fakes.Factory(name, on_create=lambda _, context: on_create(context), on_close=on_close)


def everything(registry, name):
    '''Whatever foreign code may come to call.'''
    registry.list_providers()
    registry.get_provider_info(name)
    registry.get_default_config(name)
    registry.holders(name)
    registry.health(name)
    registry.check(name)
    registry.find_by_capability("search")
    registry.add_init_hook(lambda _: None)
    registry.register(Factory("by-the-way"))
    registry.create_storage("by-the-way", instance_id="i").close()
    with registry.open_storage("by-the-way"):
        registry.set_default("by-the-way")
        registry.get_default_storage().close()
    for attempt in (lambda: registry.find_instance("i"), lambda: registry.unregister("nobody")):
        try:
            attempt()
        except RegistryError:
            pass
    registry.unregister("by-the-way")


def together(*calls):
    threads = [threading.Thread(target=call) for call in calls]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


registry = StorageProviderRegistry(construction_timeout_seconds=60)
"""


def _run(program: str, seconds: float = 20.0) -> subprocess.CompletedProcess[str]:
    source = _PRELUDE.format(seconds=seconds) + textwrap.dedent(program) + "\nprint('done')\n"
    return subprocess.run(
        [sys.executable, "-W", "error", "-c", source],
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
        cwd=Path(__file__).parents[1],
    )


def _assert_ends(program: str, seconds: float = 20.0) -> None:
    ended = _run(program, seconds)
    assert (ended.returncode, ended.stdout) == (0, "done\n"), ended.stderr
    assert "Traceback" not in ended.stderr


class TestCallingBack:
    def test_from_a_hook(self) -> None:
        _assert_ends(
            """
            registry.add_init_hook(lambda name: name == "a" and everything(registry, name))
            registry.register(Factory("a"))
            """
        )

    def test_from_a_factory_that_opens_a_dependent(self) -> None:
        _assert_ends(
            """
            registry.register(Factory("below", lambda context: everything(registry, "below")))

            def create(context):
                context.open("below")
                everything(registry, "above")

            registry.register(Factory("above", create))
            together(*[lambda: registry.open_storage("above").close()] * 4)
            """
        )

    def test_from_a_backend_that_is_closed(self) -> None:
        _assert_ends(
            """
            registry.register(Factory("a", on_close=lambda: everything(registry, "b")))
            registry.register(Factory("b"))
            registry.create_storage("a").close()
            registry.open_storage("a").close()
            registry.unregister("a")
            """
        )

    def test_from_a_listener_that_is_told_of_a_retirement(self) -> None:
        _assert_ends(
            """
            registry.register(Factory("a"))
            registry.register(Factory("b"))
            registry.on_retired(lambda name: everything(registry, "b"))
            handle = registry.open_storage("a")
            registry.retire(registry.commit([Change("a", registry.snapshot()["a"], None)]))
            handle.close()
            assert "a" not in registry
            """
        )

    def test_from_a_handler_of_the_log(self) -> None:
        _assert_ends(
            """
            class Handler(logging.Handler):
                def emit(self, record):
                    everything(registry, "a")

            logging.getLogger("shadowcat_registry").addHandler(Handler())
            logging.getLogger("shadowcat_registry").propagate = False
            registry.register(Factory("a"))
            registry.on_retired(lambda name: 1 / 0)
            registry.register(Factory("b"))
            handle = registry.open_storage("b")
            registry.commit([Change("b", registry.snapshot()["b"], None)])
            handle.close()
            """
        )

    def test_between_two_registries(self) -> None:
        _assert_ends(
            """
            other = StorageProviderRegistry()
            barrier = threading.Barrier(2)

            def open_in(registry, once=[]):
                def create(context):
                    if threading.current_thread() not in once:
                        once.append(threading.current_thread())
                        barrier.wait()
                        registry.open_storage("shared").close()
                        everything(registry, "shared")
                return create

            registry.register(Factory("shared"))
            other.register(Factory("shared"))
            registry.register(Factory("a", open_in(other)))
            other.register(Factory("a", open_in(registry)))
            together(lambda: registry.open_storage("a").close(), lambda: other.open_storage("a").close())
            registry.close()
            other.close()
            """
        )

    def test_in_a_circle_over_two_registries_ends_in_an_error(self) -> None:
        _assert_ends(
            """
            other = StorageProviderRegistry()
            barrier = threading.Barrier(2)
            registry.register(Factory("a", lambda context: (barrier.wait(), other.open_storage("b"))))
            other.register(Factory("b", lambda context: (barrier.wait(), registry.open_storage("a"))))
            refused = []

            def attempt(call):
                try:
                    call().close()
                except RegistryError as error:
                    refused.append(type(error).__name__)

            together(
                lambda: attempt(lambda: registry.open_storage("a")),
                lambda: attempt(lambda: other.open_storage("b")),
            )
            assert refused == ["DependencyCycleError", "DependencyCycleError"], refused
            """
        )

    def test_while_a_reload_prepares(self) -> None:
        _assert_ends(
            """
            registry.register(Factory("a"))
            started, opened = threading.Event(), threading.Event()

            def create(context):
                started.set()
                assert opened.wait(30)
                everything(registry, "a")

            def reload():
                staged = registry.stage(ProviderSpec("b", "b", {}), Factory("b", create))
                with registry.staging([staged]):
                    registry.run_hooks(staged)
                    registry.warm(staged)
                registry.retire(registry.commit([Change("b", None, staged)], SetDefault("b")))

            def use():
                assert started.wait(30)
                registry.open_storage("a").close()
                opened.set()

            together(reload, use)
            registry.get_default_storage().close()
            """
        )


@pytest.mark.skipif(sys.platform == "win32", reason="there are no interval timers")
class TestInterrupts:
    def test_a_signal_whose_handler_raises_never_leaves_the_lock_held(self) -> None:
        """What Ctrl-C does, many times over. Leases of storages that nobody got are another matter."""
        _assert_ends(
            """
            import random, signal, sys

            class Interrupt(BaseException):
                pass

            def interrupt(*_):
                if armed:
                    raise Interrupt

            armed, count = False, 0
            signal.signal(signal.SIGALRM, interrupt)
            sys.unraisablehook = lambda _: None  # some come in a finalizer
            registry.register(Factory("a"))
            registry.open_storage("a").close()
            delay = random.Random(1)
            while count < 300:
                try:
                    signal.setitimer(signal.ITIMER_REAL, delay.uniform(1e-6, 3e-5))
                    armed = True
                    for _ in range(8):
                        registry.open_storage("a").close()
                    armed = False
                except Interrupt:
                    armed = False
                    count += 1
                    assert not registry._generations.lock.locked(), f"held after {count} interrupts"
            """
        )


class TestTheGuard:
    def test_says_where_all_threads_hang(self) -> None:
        hung = _run(
            """
            one, other, barrier = threading.Lock(), threading.Lock(), threading.Barrier(2)

            def grab(first, second):
                with first:
                    barrier.wait()
                    faulthandler.dump_traceback_later(1, exit=True)  # from here on, not while it imports
                    with second:
                        pass

            together(lambda: grab(one, other), lambda: grab(other, one))
            """
        )
        assert hung.returncode == 1
        assert "done" not in hung.stdout
        assert hung.stderr.count("in grab") == 2

    def test_finds_foreign_code_that_runs_under_the_lock(self) -> None:
        hung = _run(
            """
            def hook(name):
                with registry._generations.lock:
                    faulthandler.dump_traceback_later(1, exit=True)
                    registry.set_default(name)

            registry.add_init_hook(hook)
            registry.register(Factory("a"))
            """
        )
        assert hung.returncode == 1
        assert "set_default" in hung.stderr
