"""StarCoder2's repository: all its files in one document, in a random order, so that a file is read beside its kin.

    <repo_name>R<file_sep>path newline code<file_sep>path newline code…      half of the repositories
    <file_sep>code<file_sep>code…                                            the other half

(arXiv 2402.19173, section 5.1.) Order and half are drawn by (seed, the repository's name).
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence

from megacode.data.documents import Document, with_parts
from megacode.data.draws import REPOSITORY, happens
from megacode.data.errors import DataError
from megacode.data.formats.keyed import hash_of, words_for

KIND = "repository"
METADATA_RATE = 0.5
REPO_NAME = "<repo_name>"
FILE_SEP = "<file_sep>"


def repository_documents(
    files: Sequence[Document], seed: int, most_characters: int, metadata_rate: float = METADATA_RATE
) -> list[Document]:
    """Return the repositories' documents in the order of their names, then the files without one by path and id.

    The result depends on the files, not on their order. A repository of more than `most_characters` becomes several
    documents, each with the name again; a file is never split, so a larger file is a document by itself. A file
    without a repository keeps its id and is `<file_sep>code`; a document that has parts is formatted already and stays.
    Raises DataError for a `most_characters` below 1.
    """
    if most_characters < 1:
        raise DataError(f"a repository's document needs room for at least 1 character; found {most_characters}")
    repositories: dict[str, list[Document]] = defaultdict(list)
    alone = []
    for file in files:
        if file.parts:
            alone.append(file)
        elif file.repository:
            repositories[file.repository].append(file)
        else:
            alone.append(with_parts(file, [(FILE_SEP, file.content)]))
    together = []
    for name in sorted(repositories):
        together += _documents(name, repositories[name], seed, most_characters, metadata_rate)
    return together + sorted(alone, key=_place)


def _documents(
    name: str, files: list[Document], seed: int, most_characters: int, metadata_rate: float
) -> Iterator[Document]:
    """Yield the documents of one repository."""
    files = sorted(files, key=_place)
    told, *keys = words_for(seed, REPOSITORY, name, 1 + len(files))
    shuffled = [files[index] for index in sorted(range(len(files)), key=keys.__getitem__)]
    with_names = happens(told, metadata_rate)
    head = [(REPO_NAME, name)] if with_names else []
    groups = _groups(shuffled, most_characters - (len(name) if with_names else 0), with_names)
    for number, group in enumerate(groups, start=1):
        path = name if len(groups) == 1 else f"{name} ({number} of {len(groups)})"
        parts = head + [(FILE_SEP, _text(file, with_names)) for file in group]
        yield with_parts(_joined(name, path, group), parts)


def _groups(files: list[Document], room: int, with_paths: bool) -> list[list[Document]]:
    """Return the files in order, cut before each one that would take a group's text over `room` characters."""
    groups: list[list[Document]] = []
    used = 0
    for file in files:
        length = len(_text(file, with_paths))
        if not groups or used + length > room:
            groups.append([])
            used = 0
        groups[-1].append(file)
        used += length
    return groups


def _text(file: Document, with_path: bool) -> str:
    """Return what stands behind the file's separator."""
    return f"{file.path}\n{file.content}" if with_path else file.content


def _joined(name: str, path: str, files: list[Document]) -> Document:
    """Return a document that is about all files; its language is that of the most characters, the first by name."""
    characters: Counter[str] = Counter()
    for file in files:
        characters[file.language] += len(file.content)
    return Document(
        id=hash_of([file.id for file in files]),
        path=path,
        language=min(characters, key=lambda language: (-characters[language], language)),
        content="",
        repository=name,
        licenses=tuple(sorted({licence for file in files for licence in file.licenses})),
        stars=max(file.stars for file in files),
        date=max(file.date for file in files),
        kind=KIND,
    )


def _place(file: Document) -> tuple[str, str, str]:
    """Return what files are sorted by; the content decides between files that claim one path and id."""
    return file.path, file.id, file.content
