"""The suite that a provider passes: everything that is quick."""

from __future__ import annotations

from .capabilities import CapabilityConformance, SearchConformance, TransactionConformance
from .failures import ErrorConformance, FaultConformance, SystemFaultConformance
from .following import FollowingConformance
from .keeping import DeletingConformance, IdConformance, MetadataConformance
from .listing import ListingConformance
from .processes import ProcessConformance
from .readers import ReaderConformance
from .reading import ReadingConformance
from .recording import ExclusionConformance, RecordingConformance, ResumingConformance


class TapeStorageConformance(
    RecordingConformance,
    ExclusionConformance,
    ResumingConformance,
    ReadingConformance,
    ReaderConformance,
    FollowingConformance,
    ListingConformance,
    MetadataConformance,
    DeletingConformance,
    IdConformance,
    CapabilityConformance,
    SearchConformance,
    TransactionConformance,
    ErrorConformance,
    FaultConformance,
    SystemFaultConformance,
    ProcessConformance,
):
    """What every storage has to do. Subclass it under a name that begins with `Test`, and give it

    - `factory`: what makes the factory under test: its class, a backend class below `@provider`, or a
      `PluginUnderTest`. Tests with processes of their own are skipped if it is neither that nor can be
      imported by its module and name;
    - a fixture `config`, where the defaults of the type will not do. Each test gets a place of its own:
      relative paths are relative to `tmp_path`, what is elsewhere has to be fresh for each test;
    - `recordings`, paths of tape files that have to come back byte for byte, if you have some;
    - `kills`, if a recording process should be killed more often than once.

    The fixture `storage` is the opened storage, `place` opens it more often.
    """
