"""Digest of code: the SHA-256 of a module and all that it imports, without comments and docstrings."""

import ast
import hashlib
from collections.abc import Iterator
from pathlib import Path

_LIBRARY = __name__.partition(".")[0]
_WITH_DOCSTRING = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def code_digest(entry: Path) -> str:
    """Return the SHA-256 of a module's code and of the code it imports from this project, directly or not.

    It is the same for versions that differ only in comments, docstrings or formatting.

    Args:
        entry: file of a module. Its own package and `transfer`, next to it, are this project.
    """
    root = _root(entry)
    code = [(path.relative_to(root).as_posix(), _code(path)) for path in imported_modules(entry)]
    return hashlib.sha256(repr(code).encode()).hexdigest()


def imported_modules(entry: Path) -> list[Path]:
    """Return the files of a module and of this project's modules that it imports, directly or not, sorted."""
    root = _root(entry)
    packages = {_LIBRARY, entry.resolve().relative_to(root).parts[0]}
    modules = {entry.resolve()}
    waiting = [*modules]
    while waiting:
        names = [name for name in _imports(waiting.pop()) if name.partition(".")[0] in packages]
        files = {root.joinpath(*name.split(".")).with_suffix(".py") for name in names}
        new = {file for file in files if file.is_file()} - modules
        modules |= new
        waiting += new
    return sorted(modules)


def _root(entry: Path) -> Path:
    """Return the folder that holds a module's outermost package."""
    return next(folder for folder in entry.resolve().parents if not (folder / "__init__.py").exists())


def _imports(path: Path) -> Iterator[str]:
    """Yield the dotted names that a module imports, anywhere in it; a name may be an attribute of a module."""
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def _code(path: Path) -> str:
    """Return a module's syntax tree without docstrings as text; comments and formatting are not in the tree."""
    tree = ast.parse(path.read_bytes())
    for node in ast.walk(tree):
        if isinstance(node, _WITH_DOCSTRING) and ast.get_docstring(node, clean=False) is not None:
            del node.body[0]
    return ast.dump(tree)
