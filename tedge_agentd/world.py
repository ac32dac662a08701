"""The machine a pass works on: every dependency of the steps, as parameters."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from . import RUNTIME_DIR
from . import settings as options
from .core import desired, errors, model
from .host import certificates, files, opened, package_lock, services, staged, state, users, walk
from .host.apparmor import Confinement
from .host.contents import Contents
from .host.environments import Environments
from .host.last_lines import LastLines
from .host.sockets import Listening
from .material import Material


def now() -> model.Stamp:
    """This moment in microseconds of CLOCK_MONOTONIC, the clock of systemd's timestamps, and which boot it is of."""
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        return model.Stamp(boot_id=file.read().strip(), usec=time.monotonic_ns() // 1000)


@dataclass(kw_only=True)
class World:
    """What the steps of a pass need. One is made at start; `settings` are read again at each pass."""

    settings: options.Settings
    systemd: services.Systemd
    state: state.State
    staged: staged.Staged
    material: Material
    contents: Contents = field(default_factory=Contents)
    confinement: Confinement = field(default_factory=Confinement)
    last_lines: LastLines = field(default_factory=LastLines)
    listening: Listening = field(default_factory=Listening)
    environments: Environments = field(init=False)
    runtime_dir: str = RUNTIME_DIR
    settings_path: str = options.PATH
    package_lock: str = package_lock.LOCK
    stamp: Callable[[], model.Stamp] = now
    epoch: Callable[[], float] = time.time
    progress: Callable[[], None] = lambda: None  # called after each step, for the watchdog
    people: users.Users = field(default_factory=users.SystemUsers)

    def __post_init__(self) -> None:
        self.environments = Environments(self.systemd)

    def roots(self) -> walk.Roots:
        return walk.Roots(managed=self.settings.managed_roots, broker_dir=self.settings.broker_dir)

    def accounts(self, system: model.SystemSettings) -> desired.Accounts:
        return desired.Accounts(
            broker_user=self.settings.broker_user,
            broker_group=self.settings.broker_group,
            client_user=system.user,
            client_group=system.group,
        )

    def broker_ids(self) -> tuple[int, int]:
        """The broker's uid and gid. Raises InputError where its package is not installed."""
        account = self.people.account(self.settings.broker_user)
        gid = self.people.group(self.settings.broker_group)
        if account is None or gid is None:
            raise errors.InputError(f"there is no user {self.settings.broker_user}", "apt install mosquitto")
        return account.uid, gid


def real(settings_path: str = options.PATH) -> World:
    """The machine we run on."""
    try:
        chosen, _ = options.parse(files.read_limited(settings_path), settings_path)
    except opened.Refused:
        chosen = options.Settings()  # the pass reports it
    return World(
        settings=chosen,
        systemd=services.Systemd(),
        state=state.State(options.STATE_DIR),
        staged=staged.Staged(chosen.staging_dir),
        material=Material(certificates.Inspector()),
        settings_path=settings_path,
    )
