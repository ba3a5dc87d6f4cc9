"""The awaitable names: the same operations, off the loop, over several loops, and safe to cancel."""

from __future__ import annotations

import asyncio
import contextvars
import json
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import suppress
from typing import Any, TypeVar

import pytest

from shadowcat_registry import frame_queue
from shadowcat_registry.aio import Lane, LoopThread, off_loop
from shadowcat_registry.errors import (
    CreationFailedError,
    DependencyCycleError,
    InitHookError,
    InvalidMessageError,
    ProviderExistsError,
    ProviderInUseError,
    ProviderNotFoundError,
    RunningLoopError,
    StorageClosedError,
    StorageUnavailableError,
)
from shadowcat_registry.recorder import TapeRecorder
from shadowcat_registry.registry import StorageProviderRegistry
from shadowcat_registry.storage import TapeStorage

from .fakes import PATIENCE_SECONDS, Backend, Factory, Gate, Running, until

T = TypeVar("T")


@pytest.fixture
def registry() -> Iterator[StorageProviderRegistry]:
    registry = StorageProviderRegistry()
    yield registry
    registry.close()


def run(coroutine: Coroutine[Any, Any, T]) -> T:
    return asyncio.run(asyncio.wait_for(coroutine, PATIENCE_SECONDS))


async def passed(event: Callable[[], object]) -> None:
    """Wait for what another thread does, without blocking the loop."""
    await asyncio.to_thread(event)


class AsyncFactory(Factory):
    """One that offers both; `create` must not be used by the awaitable names."""

    def __init__(self, name: str = "fake", **options: Any) -> None:
        super().__init__(name, **options)
        self.loops: list[asyncio.AbstractEventLoop] = []
        self.on_acreate: Callable[[Any], Coroutine[Any, Any, object]] | None = None

    async def acreate(self, config: Any, context: Any) -> Backend:
        self.loops.append(asyncio.get_running_loop())
        if self.on_acreate is not None:
            await self.on_acreate(context)
        return super().create(config, context)


class OnlyAsync(AsyncFactory):
    create = property()  # it has none

    async def acreate(self, config: Any, context: Any) -> Backend:
        self.loops.append(asyncio.get_running_loop())
        backend = Backend(config, context, self.on_close)
        self.backends.append(backend)
        return backend


class TestOffLoop:
    def test_runs_in_another_thread_and_in_this_context(self) -> None:
        variable = contextvars.ContextVar("variable", default="unset")

        async def main() -> tuple[threading.Thread, str]:
            variable.set("here")
            return await off_loop(lambda: (threading.current_thread(), variable.get()))

        thread, value = run(main())
        assert thread is not threading.main_thread()
        assert value == "here"

    @pytest.mark.parametrize("error", [ValueError("no"), SystemExit(3), KeyboardInterrupt()])
    def test_what_is_raised_is_the_callers(self, error: BaseException) -> None:
        async def main() -> BaseException | None:
            def fail() -> None:
                raise error

            lane = Lane()
            job = asyncio.ensure_future(_caught(lane.run(fail)))
            return await job

        assert run(main()) is error

    def test_a_stop_iteration_does_not_hang(self) -> None:
        with pytest.raises(RuntimeError, match="StopIteration"):
            run(off_loop(lambda: next(iter(()))))

    def test_what_nobody_has_any_more_is_discarded(self) -> None:
        gate, discarded = Gate(), threading.Event()

        def make() -> str:
            gate()
            return "made"

        async def main() -> None:
            task = asyncio.create_task(off_loop(make, lambda value: {"made": discarded}[value].set()))
            await passed(gate.reached)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            gate.open()

        run(main())
        assert discarded.wait(PATIENCE_SECONDS)

    def test_a_result_that_a_cancellation_overtakes_is_discarded(self) -> None:
        discarded = threading.Event()

        async def main() -> None:
            task = asyncio.create_task(off_loop(lambda: "made", lambda _: discarded.set()))
            await asyncio.sleep(0)
            while not task._fut_waiter.done():  # type: ignore[attr-defined]  # it is there, and not delivered
                await asyncio.sleep(0)
                if task.done():  # delivered already: this time it was too late to cancel
                    discarded.set()
                    return
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

        run(main())
        assert discarded.wait(PATIENCE_SECONDS)

    def test_what_comes_after_the_loop_was_closed_is_discarded(self) -> None:
        gate, discarded = Gate(), threading.Event()
        loop = asyncio.new_event_loop()
        task = loop.create_task(off_loop(gate, lambda _: discarded.set()))
        loop.run_until_complete(asyncio.sleep(0))
        gate.reached()
        task.cancel()
        loop.run_until_complete(asyncio.gather(task, return_exceptions=True))
        loop.close()
        gate.open()
        assert discarded.wait(PATIENCE_SECONDS)

    def test_the_calls_of_a_lane_are_made_in_their_order_one_at_a_time(self) -> None:
        order: list[int] = []
        inside = threading.Lock()

        def call(number: int) -> None:
            assert inside.acquire(blocking=False), "two at once"
            order.append(number)
            inside.release()

        async def main() -> None:
            lane = Lane()
            await asyncio.gather(*(lane.run(lambda number=number: call(number)) for number in range(200)))  # type: ignore[misc]

        run(main())
        assert order == list(range(200))

    def test_a_call_that_is_cancelled_before_its_turn_is_not_made(self) -> None:
        gate, made = Gate(), []

        async def main() -> None:
            lane = Lane()
            first = asyncio.create_task(lane.run(gate))
            await passed(gate.reached)
            second = asyncio.create_task(lane.run(lambda: made.append(2)))
            third = asyncio.create_task(lane.run(lambda: made.append(3)))
            await asyncio.sleep(0)
            second.cancel()
            await asyncio.sleep(0)
            gate.open()
            await asyncio.gather(first, third)

        run(main())
        assert made == [3]


async def _caught(awaitable: Coroutine[Any, Any, object]) -> BaseException | None:
    try:
        await awaitable
    except BaseException as error:  # noqa: BLE001 - the answer
        return error
    return None


class TestLoopThread:
    def test_has_one_loop_until_it_is_stopped_and_begins_anew(self) -> None:
        async def where() -> asyncio.AbstractEventLoop:
            return asyncio.get_running_loop()

        thread = LoopThread()
        first, second = thread.run(where(), "", ""), thread.run(where(), "", "")
        assert first is second
        thread.stop(PATIENCE_SECONDS)
        assert first.is_closed()
        assert thread.run(where(), "", "") is not first
        thread.stop(PATIENCE_SECONDS)

    def test_stopping_ends_who_waits(self) -> None:
        thread, begun = LoopThread(), threading.Event()

        async def forever() -> None:
            begun.set()
            await asyncio.Event().wait()

        waiting = Running(lambda: thread.run(forever(), "", ""))
        assert begun.wait(PATIENCE_SECONDS)
        thread.stop(PATIENCE_SECONDS)
        assert waiting.error() is not None

    def test_refuses_to_block_a_loop(self) -> None:
        async def nothing() -> None: ...

        async def main() -> None:
            LoopThread().run(nothing(), "this", "that")

        with pytest.raises(RunningLoopError, match=r"this would block .* `await that\("):
            run(main())


class TestOpening:
    def test_all_four_names_give_a_storage(self, registry: StorageProviderRegistry) -> None:
        factory = Factory("filesystem")
        registry.register(factory)

        async def main() -> None:
            async with await registry.aopen_storage("filesystem") as one:
                assert one.provider == "filesystem"
            async with await registry.aget_default_storage() as other:
                assert other.storage_type == "memory"
            async with await registry.acreate_storage("filesystem", instance_id="mine"):
                found = await registry.afind_instance("mine")
                await found.aclose()
                assert found.closed
            with pytest.raises(ProviderNotFoundError):
                await registry.aopen_storage("nobody")

        run(main())
        assert factory.create_count == 2
        assert registry.get_provider_info("filesystem").instance_count == 0

    def test_the_holder_is_the_line_that_called_and_its_thread(
        self, registry: StorageProviderRegistry
    ) -> None:
        registry.register(Factory())

        async def main() -> None:
            for _ in range(2):  # the first opens it, the second finds it open
                (storage,) = await asyncio.gather(registry.aopen_storage("fake"))
                (holder,) = registry.holders("fake")
                line = main.__code__.co_firstlineno + 2
                assert (holder.acquired_at, holder.thread) == (f"{__file__}:{line}", "MainThread")
                await storage.aclose()

        run(main())

    def test_fifty_coroutines_and_fifty_threads_get_one_construction(
        self, registry: StorageProviderRegistry
    ) -> None:
        gate = Gate()
        factory = Factory("filesystem", on_create=gate)
        registry.register(factory)

        async def main() -> None:
            threads = [Running(registry.get_default_storage) for _ in range(50)]
            tasks = [asyncio.create_task(registry.aget_default_storage()) for _ in range(50)]
            count = lambda: registry.get_provider_info("filesystem").instance_count == 100  # noqa: E731
            await passed(lambda: until(count))
            gate.open()
            for storage in [*await asyncio.gather(*tasks), *(thread.result() for thread in threads)]:
                storage.close()

        run(main())
        assert factory.create_count == 1

    def test_a_construction_does_not_hold_the_loop_up(self, registry: StorageProviderRegistry) -> None:
        gate = Gate()
        registry.register(Factory(on_create=gate))

        async def main() -> None:
            opening = asyncio.create_task(registry.aopen_storage("fake"))
            while not gate._reached.is_set():  # the loop goes round, or this test never ends
                await asyncio.sleep(0)
            gate.open()
            await (await opening).aclose()

        run(main())

    def test_nor_does_a_lock_that_somebody_holds(self, registry: StorageProviderRegistry) -> None:
        registry.register(Factory())
        registry.open_storage("fake").close()

        async def main() -> None:
            with registry._generations.lock:
                opening = asyncio.create_task(registry.aopen_storage("fake"))
                await asyncio.sleep(0)
                assert not opening.done()
            await (await opening).aclose()

        run(main())

    def test_a_failure_is_everybodys(self, registry: StorageProviderRegistry) -> None:
        def fail(*_: object) -> None:
            raise OSError("no")

        registry.register(Factory(on_create=fail))

        async def main() -> list[object]:
            calls = [registry.aopen_storage("fake") for _ in range(5)]
            return list(await asyncio.gather(*calls, return_exceptions=True))

        assert {type(error) for error in run(main())} == {CreationFailedError}

    def test_works_in_several_loops_at_once_and_one_after_the_other(
        self, registry: StorageProviderRegistry
    ) -> None:
        registry.register(AsyncFactory())

        async def main() -> None:
            async with (
                await registry.aopen_storage("fake") as storage,
                await storage.arecord("s") as tape,
            ):
                assert await tape.aappend("client_to_server", b"{}") == 0

        for call in [Running(lambda: run(main())) for _ in range(4)]:
            call.result()
        run(main())


class TestCancelling:
    def test_one_waiter_cancels_nobody_else(self, registry: StorageProviderRegistry) -> None:
        gate = Gate()
        factory = Factory(on_create=gate)
        registry.register(factory)

        async def main() -> None:
            first = asyncio.create_task(registry.aopen_storage("fake"))
            await passed(gate.reached)
            second = asyncio.create_task(registry.aopen_storage("fake"))
            await passed(lambda: until(lambda: registry.get_provider_info("fake").instance_count == 2))
            first.cancel()  # the one who began the construction
            await asyncio.gather(first, return_exceptions=True)
            gate.open()
            async with await second as storage:
                assert storage.stats().tape_count == 0

        run(main())
        assert (factory.create_count, factory.open_count) == (1, 1)
        until(lambda: not registry.get_provider_info("fake").instance_count)

    @pytest.mark.parametrize("name", ["aopen_storage", "acreate_storage"])
    @pytest.mark.parametrize("kind", [Factory, AsyncFactory])
    def test_what_is_opened_for_nobody_is_closed(
        self, registry: StorageProviderRegistry, name: str, kind: type[Factory]
    ) -> None:
        gate = Gate()
        factory = kind(on_create=gate)
        registry.register(factory)

        async def main() -> None:
            tasks = [asyncio.create_task(getattr(registry, name)("fake")) for _ in range(2)]
            await passed(gate.reached)
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            gate.open()

        run(main())
        until(lambda: not registry.get_provider_info("fake").instance_count)
        assert factory.create_count >= 1
        until(lambda: factory.open_count == 0)
        registry.unregister("fake")

    def test_a_registration_leaves_nothing_behind(self, registry: StorageProviderRegistry) -> None:
        asked = threading.Event()

        async def hook(name: str) -> None:
            (await registry.aopen_storage(name)).close()
            asked.set()
            await asyncio.Event().wait()

        registry.add_init_hook(hook)
        factory = Factory()

        async def main() -> None:
            task = asyncio.create_task(registry.aregister(factory))
            await passed(lambda: asked.wait(PATIENCE_SECONDS))
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

        run(main())
        assert (list(registry), factory.open_count) == ([], 0)

    def test_a_recorder_for_nobody_is_aborted(self, registry: StorageProviderRegistry) -> None:
        registry.register(Factory())
        gate = Gate()

        async def main() -> None:
            async with await registry.aopen_storage("fake") as storage:
                backend: Any = storage.use.source.backend
                create = backend.create

                def slow(*given: object) -> object:
                    gate()
                    return create(*given)

                backend.create = slow
                task = asyncio.create_task(storage.arecord("s", tape_id="t-1"))
                await passed(gate.reached)
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
                gate.open()
                ended = lambda: [meta["status"] for meta in storage.list_all()] == ["aborted"]  # noqa: E731
                await passed(lambda: until(ended))
                await passed(lambda: until(lambda: not storage.use.tapes))

        run(main())


class TestFactories:
    def test_acreate_serves_the_awaitable_names_in_a_loop_that_stays(
        self, registry: StorageProviderRegistry
    ) -> None:
        factory = AsyncFactory()
        registry.register(factory)

        async def main() -> asyncio.AbstractEventLoop:
            await (await registry.acreate_storage("fake")).aclose()
            return asyncio.get_running_loop()

        used = [run(main()), run(main())]
        assert factory.loops[0] is factory.loops[1]
        assert factory.loops[0] not in used
        assert factory.loops[0].is_running()
        registry.create_storage("fake").close()
        assert len(factory.loops) == 2, "plain names use `create`"
        registry.close()
        assert factory.loops[0].is_closed()

    def test_one_with_acreate_alone_serves_all(self, registry: StorageProviderRegistry) -> None:
        factory = OnlyAsync()
        registry.register(factory)
        registry.create_storage("fake").close()

        async def main() -> None:
            await (await registry.acreate_storage("fake")).aclose()
            with pytest.raises(RunningLoopError, match=r"await registry\.aopen_storage"):
                registry.open_storage("fake")

        run(main())
        assert len(factory.loops) == 2
        assert registry.get_provider_info("fake").instance_count == 0

    def test_a_dependency_is_awaited_and_closed_after_who_asked(
        self, registry: StorageProviderRegistry
    ) -> None:
        order: list[str] = []
        above = AsyncFactory("above", on_close=lambda: order.append("above"))
        above.on_acreate = lambda context: context.aopen("below")
        registry.register(AsyncFactory("below", on_close=lambda: order.append("below")))
        registry.register(above)

        async def main() -> None:
            async with await registry.aopen_storage("above"):
                with pytest.raises(ProviderInUseError):
                    await registry.aunregister("below")
            await registry.aunregister("above")
            await registry.aunregister("below")

        run(main())
        assert order == ["above", "below"]

    def test_a_cycle_is_found(self, registry: StorageProviderRegistry) -> None:
        for name, other in (("a", "b"), ("b", "a")):
            factory = AsyncFactory(name)
            factory.on_acreate = lambda context, other=other: context.aopen(other)
            registry.register(factory)
        with pytest.raises(DependencyCycleError) as caught:
            run(registry.aopen_storage("a"))
        assert caught.value.names == ("a", "b", "a")


class TestHooks:
    def test_run_in_the_loop_of_who_awaits_and_see_what_is_staged(
        self, registry: StorageProviderRegistry
    ) -> None:
        seen: list[Any] = []

        async def hook(name: str) -> None:
            seen.append(asyncio.get_running_loop())
            seen.append(registry.get_provider_info(name).state)
            async with await registry.acreate_storage(name):
                seen.append(name in registry)

        registry.add_init_hook(hook)
        registry.add_init_hook(lambda name: seen.append(threading.current_thread()))

        async def main() -> None:
            await registry.aregister(Factory())
            assert seen[0] is asyncio.get_running_loop()

        run(main())
        assert seen[1:3] == ["pending", False]
        assert seen[3] is not threading.main_thread(), "a plain one may block"
        assert list(registry) == ["fake"]

    def test_without_a_loop_they_run_in_one_of_the_registrys_own(
        self, registry: StorageProviderRegistry
    ) -> None:
        states: list[str] = []

        async def hook(name: str) -> None:
            states.append(registry.get_provider_info(name).state)

        registry.add_init_hook(hook)
        registry.register(Factory())
        assert states == ["pending"]

    def test_inside_of_a_running_loop_register_says_what_to_use(
        self, registry: StorageProviderRegistry
    ) -> None:
        async def hook(name: str) -> None: ...

        registry.add_init_hook(hook)

        async def main() -> None:
            registry.register(Factory())

        with pytest.raises(RunningLoopError, match=r"await registry\.aregister"):
            run(main())
        assert len(registry) == 0

    @pytest.mark.parametrize("awaited", [True, False])
    def test_one_that_refuses_leaves_nothing_behind(
        self, registry: StorageProviderRegistry, awaited: bool
    ) -> None:
        factory = Factory()

        async def hook(name: str) -> None:
            (await registry.aopen_storage(name)).close()
            raise RuntimeError("no")

        registry.add_init_hook(hook)
        with pytest.raises(InitHookError, match="hook refused provider 'fake': RuntimeError"):
            run(registry.aregister(factory)) if awaited else registry.register(factory)
        assert (len(registry), factory.open_count) == (0, 0)

    def test_a_name_that_is_taken_is_refused(self, registry: StorageProviderRegistry) -> None:
        registry.register(Factory())
        with pytest.raises(ProviderExistsError):
            run(registry.aregister(Factory()))


class TestRecording:
    def test_frames_get_in_in_the_order_in_which_they_were_asked_for(
        self, registry: StorageProviderRegistry
    ) -> None:
        registry.register(Factory())

        async def main() -> None:
            async with await registry.aopen_storage("fake") as storage:
                async with await storage.arecord("s", tape_id="t-1") as tape:
                    appends = [tape.aappend("client_to_server", b"%d" % number) for number in range(100)]
                    assert await asyncio.gather(*appends) == list(range(100))
                    await tape.aflush(durable=True)
                lines = list(storage.read("t-1"))
                assert [json.loads(line)["env"]["message"] for line in lines[1:]] == list(range(100))
                assert storage.get_meta("t-1")[0]["status"] == "finalized"

        run(main())

    def test_leaving_by_an_error_aborts_with_every_frame_kept(
        self, registry: StorageProviderRegistry
    ) -> None:
        registry.register(Factory())

        async def main() -> None:
            async with await registry.aopen_storage("fake") as storage:
                with suppress(ZeroDivisionError):
                    async with await storage.arecord("s", tape_id="t-1") as tape:
                        await tape.aappend("client_to_server", b"{}")
                        raise ZeroDivisionError
                assert storage.get_meta("t-1")[0]["status"] == "aborted"
                assert len(list(storage.read("t-1"))) == 2
                tape = await storage.arecord("s", tape_id="t-2")
                await tape.aabort()
                tape = await storage.arecord("s", tape_id="t-3")
                await tape.afinalize()
                with pytest.raises(StorageClosedError):
                    await tape.aappend("client_to_server", b"{}")

        run(main())


class TestClosing:
    def test_the_registry_can_be_closed_from_a_loop(self, registry: StorageProviderRegistry) -> None:
        factory = AsyncFactory()
        registry.register(factory)

        async def main() -> None:
            await (await registry.aopen_storage("fake")).aclose()
            assert await registry.aclose() == ()

        run(main())
        assert factory.open_count == 0


class TestTheQueue:
    """Over a storage whose appends a test can hold up."""

    @pytest.fixture
    def storage(self, registry: StorageProviderRegistry) -> Iterator[TapeStorage]:
        registry.register(Factory())
        with registry.open_storage("fake") as storage:
            yield storage

    @staticmethod
    def slowed(tape: TapeRecorder) -> tuple[Gate, list[int]]:
        """The first append waits at the gate; the sizes of all."""
        gate = Gate()
        sizes: list[int] = []
        append = tape._appender.append

        def slow(lines: Any) -> None:
            if not sizes:
                gate()
            sizes.append(len(lines))
            append(lines)

        tape._appender.append = slow  # type: ignore[method-assign]
        return gate, sizes

    def test_what_waits_is_written_together_and_in_order(self, storage: TapeStorage) -> None:
        async def main() -> None:
            async with await storage.arecord("s", tape_id="t") as tape:
                gate, sizes = self.slowed(tape)
                first = asyncio.create_task(tape.aappend("client_to_server", b"0"))
                await passed(gate.reached)
                calls = [tape.aappend("client_to_server", b"%d" % n) for n in range(1, 50)]
                rest = [asyncio.create_task(call) for call in calls]
                await asyncio.sleep(0)
                flush = asyncio.create_task(tape.aflush())
                await asyncio.sleep(0)
                last = asyncio.create_task(tape.aappend_many([("client_to_server", b"50")]))
                gate.open()
                assert await asyncio.gather(first, *rest) == list(range(50))
                await flush
                assert await last == range(50, 51)
                assert sizes == [1, 49, 1]

        run(main())
        messages = [json.loads(line)["env"]["message"] for line in list(storage.read("t"))[1:]]
        assert messages == list(range(51))

    def test_what_is_cancelled_before_its_turn_is_not_recorded(self, storage: TapeStorage) -> None:
        async def main() -> None:
            async with await storage.arecord("s", tape_id="t") as tape:
                gate, sizes = self.slowed(tape)
                first = asyncio.create_task(tape.aappend("client_to_server", b"0"))
                await passed(gate.reached)
                rest = [asyncio.create_task(tape.aappend("client_to_server", b"%d" % n)) for n in range(1, 4)]
                await asyncio.sleep(0)
                rest[1].cancel()
                first.cancel()  # too late: it is being written
                await asyncio.sleep(0)
                gate.open()
                assert [await rest[0], await rest[2]] == [1, 2]
                assert sizes == [1, 2]

        run(main())
        messages = [json.loads(line)["env"]["message"] for line in list(storage.read("t"))[1:]]
        assert messages == [0, 1, 3]

    def test_a_wrong_message_is_nobody_elses_error(self, storage: TapeStorage) -> None:
        async def main() -> list[object]:
            async with await storage.arecord("s", tape_id="t") as tape:
                calls = [
                    tape.aappend("client_to_server", b"1"),
                    tape.aappend("client_to_server", b"two\nlines"),
                    tape.aappend("sideways", b"3"),  # type: ignore[arg-type]
                    tape.aappend("client_to_server", b"4"),
                ]
                return list(await asyncio.gather(*calls, return_exceptions=True))

        answers = run(main())
        assert [answers[0], answers[3]] == [0, 1]
        assert isinstance(answers[1], InvalidMessageError)
        assert isinstance(answers[2], ValueError)

    def test_a_failure_is_told_to_all_whose_frames_were_in_it(self, storage: TapeStorage) -> None:
        def fail(lines: object) -> None:
            raise OSError("broken")

        async def main() -> None:
            tape = await storage.arecord("s", tape_id="t")
            append = tape._appender.append
            tape._appender.append = fail  # type: ignore[method-assign]
            calls = [tape.aappend("client_to_server", b"1") for _ in range(5)]
            errors = await asyncio.gather(*calls, return_exceptions=True)
            assert {type(error) for error in errors} == {StorageUnavailableError}
            assert len({id(error) for error in errors}) == 5
            tape._appender.append = append  # type: ignore[method-assign]
            assert await tape.aappend("client_to_server", b"1") == 0
            await tape.afinalize()

        run(main())

    def test_several_loops_use_one_recorder(self, storage: TapeStorage) -> None:
        async def work(tape: TapeRecorder) -> list[int]:
            return list(await asyncio.gather(*(tape.aappend("client_to_server", b"1") for _ in range(100))))

        with storage.record("s", tape_id="t") as tape:
            calls = [Running(lambda: run(work(tape))) for _ in range(4)]
            seqs = [call.result() for call in calls]
        assert sorted(seq for each in seqs for seq in each) == list(range(400))
        assert all(each == sorted(each) for each in seqs)

    def test_a_loop_that_is_closed_meanwhile_is_no_ones_trouble(self, storage: TapeStorage) -> None:
        with storage.record("s", tape_id="t") as tape:
            gate, _ = self.slowed(tape)
            loop = asyncio.new_event_loop()
            task = loop.create_task(tape.aappend("client_to_server", b"1"))
            loop.run_until_complete(asyncio.sleep(0))
            gate.reached()
            task.cancel()
            loop.run_until_complete(asyncio.gather(task, return_exceptions=True))
            loop.close()
            gate.open()
            assert run(tape.aappend("client_to_server", b"2")) == 1

    def test_a_batch_is_bounded(self, storage: TapeStorage, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(frame_queue, "_BATCH_FRAMES", 10)
        monkeypatch.setattr(frame_queue, "_BATCH_BYTES", 100)

        async def main() -> None:
            async with await storage.arecord("s", tape_id="t") as tape:
                gate, sizes = self.slowed(tape)
                first = asyncio.create_task(tape.aappend("client_to_server", b"0"))
                await passed(gate.reached)
                sized = [b"1"] * 25 + [b"x" * 60] * 3
                rest = [asyncio.create_task(tape.aappend("client_to_server", each)) for each in sized]
                await asyncio.sleep(0)
                gate.open()
                await asyncio.gather(first, *rest)
                assert sizes == [1, 10, 10, 7, 1]

        run(main())

    def test_one_thread_serves_who_awaits_each_frame_and_ends_with_the_tape(
        self, storage: TapeStorage, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(frame_queue, "_LINGER_SECONDS", PATIENCE_SECONDS)
        threads: set[int] = set()

        async def main() -> None:
            async with await storage.arecord("s", tape_id="t") as tape:
                append = tape._appender.append

                def note(lines: Any) -> None:
                    threads.add(threading.get_ident())
                    append(lines)

                tape._appender.append = note  # type: ignore[method-assign]
                for _ in range(50):
                    await tape.aappend("client_to_server", b"1")

        run(main())
        assert len(threads) == 1
