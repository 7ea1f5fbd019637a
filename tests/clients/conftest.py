"""Which tools of others are tried, and the table of what came out (docs/clients.md; `.ci/clients` writes it).

A test is marked with the package that it tries, `@pytest.mark.client("captum")`, and is skipped where that cannot be
imported. Its docstring says what is tried, in the words of the table.
"""

import importlib
import importlib.metadata
import platform
from pathlib import Path

import pytest

ROWS = {}
"""What came out by (package, what was tried): networks and verdicts."""


def pytest_addoption(parser):
    parser.addoption("--table", type=Path, help="write what agrees to this file, as Markdown")


def pytest_configure(config):
    config.addinivalue_line("markers", "client(package): a tool of others that the test tries")


def pytest_runtest_setup(item):
    package = item.get_closest_marker("client").args[0]
    tried = " ".join(item.function.__doc__.split()).rstrip(".")
    networks = item.callspec.params.get("name", "") if hasattr(item, "callspec") else ""
    item.user_properties.append(("client", (package, tried, networks)))
    try:
        importlib.import_module(package)
    except Exception as error:  # a package built for another torch raises whatever it likes
        pytest.skip(f"{type(error).__name__}: {error}".partition("\n")[0])


def pytest_runtest_logreport(report):
    client = dict(report.user_properties).get("client")
    if client and (report.when == "call" or not report.passed):
        package, tried, network = client
        networks, verdicts = ROWS.setdefault((package, tried), ([], []))
        networks.append(network)
        verdicts.append(_verdict(report, network))


def _verdict(report, network: str) -> str:
    if report.skipped:
        return f"not run: {report.longrepr[2].removeprefix('Skipped: ')}"
    return "yes" if report.passed else f"no: {network}".removesuffix(": ")


def pytest_sessionfinish(session):
    if path := session.config.getoption("table", None):
        path.write_text("\n".join(_lines()) + "\n", encoding="utf-8")


def _lines():
    system = f"Python {platform.python_version()}, torch {importlib.metadata.version('torch')}"
    yield from ("# Tools of others", "")
    yield from ("Networks of this package are plain modules of PyTorch, and the tools below take them as they are.", "")
    yield from (f"Written by `.ci/clients` with {system}; every row is a test in `tests/clients/`.", "")
    yield from ("| tool | version | what was tried | networks | agrees |", "|---|---|---|---|---|")
    for (package, tried), (networks, verdicts) in sorted(ROWS.items(), key=lambda row: row[0][0].lower()):
        names = ", ".join(f"`{name}`" for name in dict.fromkeys(networks) if name)
        agrees = "; ".join(sorted(set(verdicts) - {"yes"})) or "yes"
        yield f"| {package} | {_version(package)} | {tried} | {names} | {agrees} |"


def _version(package: str) -> str:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
