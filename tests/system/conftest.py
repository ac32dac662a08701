"""Fixtures of the system tests: gateways on every release, and a full account of a gateway when its test fails."""

import os
import pathlib
from collections.abc import Callable, Generator, Iterator
from typing import Any

import pytest

from . import basetree, gateway, pki, standins

MakeGateway = Callable[..., gateway.Gateway]
ShareGateway = Callable[[Callable[[gateway.Gateway], None]], gateway.Gateway]
_REPOSITORY = pathlib.Path(__file__).parents[2]
_gateways = pytest.StashKey[list[gateway.Gateway]]()
_failed = pytest.StashKey[bool]()


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--suite",
        action="append",
        metavar="RELEASE",
        help="boot gateways of this Debian release only; may be given several times (TEDGE_AGENTD_TEST_SUITES)",
    )


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "slow: takes longer than ten seconds")


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "suite" in metafunc.fixturenames:
        metafunc.parametrize("suite", _suites(metafunc.config))


def _suites(config: pytest.Config) -> list[str]:
    chosen: list[str] = config.getoption("--suite") or os.environ.get("TEDGE_AGENTD_TEST_SUITES", "").split()
    return chosen or list(basetree.SUITES)


@pytest.fixture(scope="session", autouse=True)
def _root() -> None:
    if os.geteuid() != 0:
        pytest.fail("the system tests boot gateways and need root: sudo make system", pytrace=False)


@pytest.fixture(scope="session")
def deb() -> pathlib.Path:
    """The package under test: $TEDGE_AGENTD_DEB or the newest one in dist/."""
    try:
        return basetree.deb_under_test(_REPOSITORY)
    except FileNotFoundError as error:
        pytest.fail(str(error), pytrace=False)


@pytest.fixture
def make_gateway(suite: str, request: pytest.FixtureRequest) -> Iterator[MakeGateway]:
    """Make gateways, still off, of the release at hand; all of them end with the test."""
    made = request.node.stash.setdefault(_gateways, [])

    def make(**options: Any) -> gateway.Gateway:
        gw = gateway.Gateway(suite, **options)
        made.append(gw)
        return gw

    try:
        yield make
    finally:
        while made:
            made.pop().close()


@pytest.fixture
def bare(make_gateway: MakeGateway) -> gateway.Gateway:
    """A running gateway with Mosquitto alone."""
    return make_gateway().boot()


@pytest.fixture
def thin_edge(make_gateway: MakeGateway) -> gateway.Gateway:
    """A running gateway with Mosquitto and thin-edge, without the package under test."""
    gw = make_gateway()
    standins.install(gw)
    gw.boot()
    standins.wait_connected(gw)
    return gw


@pytest.fixture
def gw(make_gateway: MakeGateway, deb: pathlib.Path) -> gateway.Gateway:
    """A running gateway with Mosquitto, thin-edge and the package under test."""
    gw = make_gateway(deb=deb)
    standins.install(gw)
    gw.boot()
    standins.wait_connected(gw)
    return gw


@pytest.fixture(scope="module")
def shared_gateways() -> Iterator[dict[str, gateway.Gateway]]:
    made: dict[str, gateway.Gateway] = {}
    yield made
    for gw in made.values():
        gw.close()


@pytest.fixture
def share_gateway(
    suite: str, deb: pathlib.Path, shared_gateways: dict[str, gateway.Gateway], request: pytest.FixtureRequest
) -> Iterator[ShareGateway]:
    """Return the running gateway that a module's tests have in common, for those that can put it back as it was.

    The first test has it made, and prepared by the function that it gives; a test that fails has it taken away.
    """

    def share(prepare: Callable[[gateway.Gateway], None]) -> gateway.Gateway:
        if suite not in shared_gateways:
            gw = shared_gateways[suite] = gateway.Gateway(suite, deb=deb)
            request.node.stash[_gateways] = [gw]
            standins.install(gw)
            gw.boot()
            standins.wait_connected(gw)
            prepare(gw)
        request.node.stash[_gateways] = [shared_gateways[suite]]
        return shared_gateways[suite]

    yield share
    if request.node.stash.get(_failed, False) and suite in shared_gateways:
        shared_gateways.pop(suite).close()


@pytest.fixture(scope="session")
def ca() -> pki.Authority:
    """A certificate authority for the whole run."""
    return pki.authority()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.failed and call.when != "teardown":
        item.stash[_failed] = True
        for one in item.stash.get(_gateways, []):
            report.sections += [(f"{one.suite} {title}", text) for title, text in one.report()]
    return report
