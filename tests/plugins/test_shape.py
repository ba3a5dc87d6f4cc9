"""What a plugin exports, right and wrong: each fault of a factory is refused, with the text that tells it."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest

from shadowcat_registry.errors import CreationFailedError, InvalidNameError, PluginError
from shadowcat_registry.metadata import ProviderCapability
from shadowcat_registry.plugins import modules, shape
from shadowcat_registry.registry import StorageProviderRegistry

from . import made


def refusal(text: str) -> PluginError:
    with pytest.raises(PluginError) as caught:
        modules.load(made.file(text))
    assert caught.value.plugin == "glacier"
    return caught.value


SCHEMA = "def config_schema(self): return "


class TestRefused:
    @pytest.mark.parametrize(
        ("text", "rule", "reason"),
        [
            ("", "shape", "it exports no PROVIDERS"),
            ("PROVIDERS = ()", "shape", "its PROVIDERS is empty"),
            (made.factory(export="[Glacier]"), "shape", "of type list, and has to be a tuple"),
            (made.factory(export="(Glacier)"), "shape", "of type type, and has to be a tuple"),
            (made.factory(export="None"), "shape", "of type NoneType, and has to be a tuple"),
            (made.factory(export="{'glacier': Glacier}"), "shape", "of type dict"),
            (made.factory(export="('glacier',)"), "shape", "PROVIDERS[0] (str) has no `name`"),
            (made.factory(export="(Glacier, None)"), "shape", "PROVIDERS[1] (NoneType) has no `name`"),
            (made.factory(export="(Glacier, Glacier)"), "name-taken", "two of its PROVIDERS have the name"),
            (made.factory(name="memory"), "name-taken", "there is a built-in type `memory`"),
            (made.factory("def __init__(self, path): pass"), "shape", "cannot be called without arguments"),
            (made.factory("def __init__(self): exit()"), "shape", "arguments: glacier.py:10: SystemExit"),
            (made.factory("create = ..."), "shape", "type `glacier` (Glacier) has no `create(conf"),
            (made.factory("create = None"), "shape", "has no `create(config, context)`"),
            (made.factory("create = 'sqlite'"), "shape", "has a `create` that cannot be called"),
            (made.factory("def create(self, config): pass"), "shape", "be called with (config, context)"),
            (made.factory("validate_config = ..."), "shape", "has no `validate_config`"),
            (made.factory("def validate_config(self): pass"), "shape", "cannot be called with (config)"),
            (made.factory("check = 3"), "shape", "has a `check` that cannot be called"),
            (made.factory("name = ..."), "shape", "PROVIDERS[0] (Glacier) has no `name`"),
            (made.factory("name = 'Glacier'"), "shape", "that is none: 'Glacier' does not match [a-z]"),
            (made.factory("name = 'a\\nb'"), "shape", "a `name` that is not one line"),
            (made.factory("display_name = ''"), "shape", "has an empty `display_name`"),
            (made.factory("description = None"), "shape", "has a `description` of type NoneType"),
            (made.factory("description = 'x' * 501"), "shape", "not one line of at most 500 characters"),
            (made.factory("description = '\\x1b[2J'"), "shape", "not one line"),
            (made.factory("version = 1.2"), "shape", "has a `version` of type float"),
            (made.factory("version = 'latest'"), "shape", "`version` that is none (PEP 440): 'latest'"),
            (made.factory("@property def version(self): return 1 / 0"), "shape", "version`: glacier.py:5: Z"),
            (made.factory("@property def version(self): self.x"), "shape", "`version`: glacier.py:5: Attr"),
            (made.factory("@property def version(self): exit()"), "shape", "`version`: glacier.py:5: System"),
            (made.factory("capabilities = 'search'"), "shape", "`capabilities` of type str, and not a set"),
            (made.factory("capabilities = {'serch'}"), "shape", "no capability (did you mean `search`?)"),
            (made.factory("capabilities = {3}"), "shape", "claims 'int', which is no capability (there is: "),
            (made.factory("config_schema = ..."), "shape", "has no `config_schema`"),
            (made.factory("config_schema = {}"), "shape", "gives no schema: TypeError: 'dict' object is not"),
            (made.factory(SCHEMA + "1 / 0"), "shape", "gives no schema: glacier.py:7: ZeroDivisionError"),
            (made.factory(SCHEMA + "'object'"), "shape", "what is of type str is no mapping"),
            (made.factory(SCHEMA + "{'default': {1, 2}}"), "shape", "what is of type set is no mapping"),
            (made.factory(SCHEMA + "{'default': float('nan')}"), "shape", "gives no schema: ValueError"),
            (made.factory(SCHEMA + "{'title': 'x' * 70_000}"), "shape", "a schema of more than 65,536 bytes"),
            (made.factory(SCHEMA + "{'type': 'objekt'}"), "schema", "no type 'objekt'; did you mean `"),
            (made.factory(SCHEMA + "{'requierd': []}"), "schema", "no keyword 'requierd'; did you mean `"),
            (
                made.factory(SCHEMA + "{'$ref': 'https://example.invalid/schema.json'}"),
                "schema",
                "the schema: $ref leads to no place inside the schema",
            ),
            (made.factory(SCHEMA + "{'$ref': 'file:///etc/passwd'}"), "schema", "$ref leads to no place"),
            (made.factory(SCHEMA + "{'$ref': '#'}"), "schema", "refers to itself without an end"),
            (
                made.factory(SCHEMA + "{'properties': {'x': {'pattern': '^(a+)+$'}}}"),
                "schema",
                "properties/x: a pattern repeats what can be read in several ways",
            ),
            (made.factory(SCHEMA + "{'pattern': '('}"), "schema", "a pattern is not a regular expression"),
        ],
    )  # fmt: skip
    def test_a_factory_that_is_wrong_in_one_way(self, text: str, rule: str, reason: str) -> None:
        error = refusal(text)
        assert (error.rule, reason in error.reason) == (rule, True), error

    def test_all_that_is_wrong_with_a_factory_is_told_at_once(self) -> None:
        error = refusal(made.factory("version = 3", "create = ...", "capabilities = {'a'}"))
        for word in ("`version`", "`create(config, context)`", "'a'"):
            assert word in error.reason

    def test_a_schema_that_is_nested_without_an_end(self) -> None:
        error = refusal(made.factory(SCHEMA + "made()", export="(Glacier,)") + (
            "def made():\n    schema = {}\n    schema['not'] = schema\n    return schema\n"
            "PROVIDERS = (Glacier,)\n"
        ))  # fmt: skip
        assert "gives no schema" in error.reason

    def test_the_own_exception_of_a_plugin_is_the_cause(self) -> None:
        error = refusal(made.factory("@property def version(self): raise KeyError('token 1234')"))
        assert "1234" not in str(error), "its text may hold anything"
        error = refusal(made.factory("def __init__(self): raise KeyError('token 1234')"))
        assert "1234" not in str(error)
        assert isinstance(error.__cause__, KeyError)


def load(text: str) -> shape.PluginFactory:
    return modules.load(made.file(text)).factories[0]


class TestRight:
    @pytest.mark.parametrize(
        "text",
        [
            made.GLACIER,
            made.factory(),
            made.factory(export="(Glacier(),)"),
            made.factory("capabilities = ['search']"),
            made.factory("create = ...", "async def acreate(self, config, context): pass"),
            made.factory("def create(self, *arguments): pass"),
            made.factory("create = max"),
            "class Text(str): pass\n" + made.factory("name = Text('glacier')"),
            made.factory(SCHEMA + "__import__('types').MappingProxyType({'title': 'x'})"),
        ],
    )
    def test_a_factory_that_is_right(self, text: str) -> None:
        factory = load(text)
        assert (factory.name, factory.version) == ("glacier", "1.2.0")
        assert type(factory.name) is str
        assert {type(it) for it in factory.capabilities} <= {ProviderCapability}

    def test_what_it_says_is_asked_once(self) -> None:
        """A version that is another one each time is the one that was checked, for everybody."""
        text = (
            "@property def version(self): self.n = getattr(self, 'n', 0) + 1; return f'{self.n}.0'",
            "def config_schema(self): self.m = getattr(self, 'm', 0) + 1; return {'title': str(self.m)}",
        )
        plugin = modules.load(made.file(made.factory(*text)))
        (factory,), (report,) = plugin.factories, plugin.reports
        for _ in range(3):
            assert factory.version == report.version == "1.0"
            assert factory.config_schema() == report.schema == {"title": "1"}

    def test_an_optional_method_is_there_only_if_the_factory_has_it(self) -> None:
        plain = load(made.factory())
        assert not [it for it in ("acreate", "check", "close") if hasattr(plain, it)]
        rich = load(made.factory("def check(self, config, context): pass", "def close(self): pass"))
        assert hasattr(rich, "check")
        assert hasattr(rich, "close")

    def test_a_check_of_a_config_that_breaks_is_a_refusal_that_tells_no_value(self) -> None:
        factory = load(made.factory("def validate_config(self, config): raise KeyError(config['token'])"))
        with pytest.raises(ValueError, match="failed with KeyError") as caught:
            factory.validate_config({"token": "1234"})
        assert "1234" not in str(caught.value)
        assert isinstance(caught.value.__cause__, KeyError)

    def test_what_wants_to_end_the_process_is_an_error_like_any_other(self, tmp_path: Path) -> None:
        text = "import sys\n" + made.factory(
            "def validate_config(self, config): config and sys.exit()",
            "def create(self, config, context): raise sys.exit()",
        )
        factory = load(text)
        with pytest.raises(ValueError, match="failed with RuntimeError") as caught:
            factory.validate_config({"a": 1})
        assert isinstance(caught.value.__cause__.__cause__, SystemExit)  # type: ignore[union-attr] # kept
        with closing(StorageProviderRegistry(base_directory=tmp_path)) as registry:
            registry.register(factory)
            with pytest.raises(CreationFailedError, match="RuntimeError"):
                registry.create_storage("glacier")

    def test_a_ctrl_c_of_the_user_ends_what_it_does(self) -> None:
        text = "import signal\n" + made.factory("def create(self, *_): signal.raise_signal(signal.SIGINT)")
        with pytest.raises(KeyboardInterrupt):
            load(text).create({}, None)  # type: ignore[arg-type]

    def test_a_storage_of_it_is_opened_and_used(self, tmp_path: Path) -> None:
        with closing(StorageProviderRegistry(base_directory=tmp_path)) as registry:
            registry.register(load(made.GLACIER), config={"depth": 2})
            with registry.create_storage("glacier") as storage:
                with storage.record("s", tape_id="t") as tape:
                    tape.append("client_to_server", b"{}")
                assert storage.get_meta("t")[0]["stats"]["frame_count"] == 1


DECORATED = '''
from shadowcat_registry import provider
from shadowcat_registry.providers.memory import MemoryBackend

@provider(name="glacier", version="1.2.0", capabilities={"search"}, schema={"type": "object"})
class Glacier(MemoryBackend):
    """On ice.

    And more."""

    def __init__(self, config, context):
        super().__init__(context.logger, max_bytes=1 << 20, max_tapes=100)

    @staticmethod
    def validate_config(config):
        if config:
            raise ValueError("there is nothing to be configured")

class Deeper(Glacier):
    pass
'''


class TestDecorator:
    def test_a_backend_class_is_a_provider_type(self, tmp_path: Path) -> None:
        factory = load(DECORATED + "PROVIDERS = (Glacier,)")
        assert (factory.name, factory.display_name, factory.description) == ("glacier", "Glacier", "On ice")
        assert factory.capabilities == {ProviderCapability.SEARCH}
        with pytest.raises(ValueError, match="nothing to be configured"):
            factory.validate_config({"x": 1})
        with closing(StorageProviderRegistry(base_directory=tmp_path)) as registry:
            registry.register(factory)
            with registry.create_storage("glacier") as storage:
                storage.record("s", tape_id="t").finalize()
                assert [meta["tape_id"] for meta in storage.list_all()] == ["t"]

    def test_a_derived_class_is_none_by_that(self) -> None:
        assert "cannot be called without arguments" in refusal(DECORATED + "PROVIDERS = (Deeper,)").reason

    def test_what_is_wrong_is_told_at_the_line_of_the_class(self) -> None:
        import shadowcat_registry as sr

        with pytest.raises(InvalidNameError):
            sr.provider(name="Glacier", version="1")
        with pytest.raises(ValueError, match=r"'serch' is no capability \(did you mean `search`\?\)"):
            sr.provider(name="glacier", version="1", capabilities={"serch"})
        assert "PEP 440" in refusal(DECORATED.replace("1.2.0", "new") + "PROVIDERS = (Glacier,)").reason
        error = refusal(DECORATED.replace("{'search'}", "{'serch'}").replace('{"search"}', '{"serch"}'))
        assert error.reason == "glacier.py:5: ValueError: 'serch' is no capability (did you mean `search`?)"
        assert "'Glacier' cannot name" in refusal(DECORATED.replace('"glacier"', '"Glacier"')).reason
        taking_less = DECORATED.replace("self, config, context", "self, config") + "PROVIDERS = (Glacier,)"
        assert "has a class that cannot be called with (config, context)" in refusal(taking_less).reason

    def test_a_class_without_it_is_told_of_it(self) -> None:
        error = refusal("class Glacier: pass\nPROVIDERS = (Glacier,)")
        assert "has no `name`" in error.reason
        assert error.remedy is not None
        assert error.remedy.startswith("write @provider(name=…, version=…) above a backend class")

    def test_the_class_is_registered_as_its_factory_would_be(self, tmp_path: Path) -> None:
        import shadowcat_registry as sr
        from shadowcat_registry.providers.memory import MemoryProviderFactory

        @sr.provider(name="glacier", version="1")
        class Glacier: ...

        with closing(StorageProviderRegistry(base_directory=tmp_path)) as registry:
            registry.register(Glacier)
            assert registry.get_provider_info("glacier").version == "1"
            with pytest.raises(TypeError, match="MemoryProviderFactory is a class with no `@provider`"):
                registry.register(MemoryProviderFactory)
        assert sr.Catalog([Glacier]).factory("glacier").version == "1"

    def test_the_class_stays_what_it_is(self) -> None:
        import shadowcat_registry as sr

        class Backend:
            """One."""

            def __init__(self, config: object, context: object) -> None:
                self.config = config

        assert sr.provider(name="glacier-two", version="1")(Backend) is Backend
        assert Backend(3, None).config == 3
