"""The preflight of a plan: would the real broker start with exactly this, before anything running is touched?"""

import posixpath

from .core import candidate, errors, ledger, model, observed, operations, staging
from .host import bus, preflight, services
from .observe import Inputs
from .world import World

_MEMORY = 8  # accepted candidates; a gateway alternates between one and its last good one


class Rehearsal:
    """Remembers what the broker accepted, so that a candidate is tried once."""

    def __init__(self) -> None:
        self._accepted: dict[str, None] = {}

    def refusal(
        self, plan: operations.Plan, inputs: Inputs, seen: observed.Observed, world: World
    ) -> model.Finding | None:
        """Return why the broker would not start with the plan carried out; None if it would."""
        assert inputs.conf is not None
        assert plan.path is not None
        data = seen.listener_data if plan.content is None else plan.content
        if any(isinstance(op, operations.RemoveListenerFile) and op.path == plan.path for op in plan.operations):
            data = None
        trial = candidate.candidate(
            inputs.conf, plan.path, data, interfaces=seen.network.interfaces, sandbox=candidate.Sandbox()
        )
        staged = _staged(plan, seen, world)
        key = _key(trial, staged)
        if key in self._accepted:
            return None
        options = world.settings
        try:
            result = preflight.preflight(
                world.systemd,
                preflight.Candidate(
                    files=trial.files, directories=_emptied(plan), staged=staged, staging_dir=options.staging_dir
                ),
                preflight.Broker(
                    command=(options.broker_binary, "-c", options.broker_config),
                    main_conf=options.broker_config,
                    user=options.broker_user,
                ),
                runtime_dir=world.runtime_dir,
            )
        except (preflight.PreflightError, services.UnitError, bus.BusUnavailableError) as error:
            return _unavailable(error)
        except OSError as error:
            return _unavailable(errors.TransientError(f"{error.filename}: {error.strerror}", "df -h /run"))
        if not result.accepted:
            return candidate.explain(trial, result.stderr, _keys(inputs, options.staging_dir))
        self._accepted[key] = None
        while len(self._accepted) > _MEMORY:
            self._accepted.pop(next(iter(self._accepted)))
        return None


def _emptied(plan: operations.Plan) -> tuple[str, ...]:
    """The directories that lose a file, and with it perhaps their last."""
    removals = (op.path for op in plan.operations if isinstance(op, operations.RemoveListenerFile))
    return tuple(dict.fromkeys(posixpath.dirname(path) for path in removals))


def _keys(inputs: Inputs, staging_dir: str) -> dict[str, str]:
    """Which key of tedge.toml a value in the listener file comes from, so that a refusal names the key."""
    external = inputs.wish.external if inputs.wish is not None else None
    if external is None:
        return {}
    keys = {
        f"{staging_dir}/{observed.SERVER_PAIR}": "mqtt.external.cert_file",
        f"{staging_dir}/{observed.CLIENT_CA_FILE}": "mqtt.external.ca_path",
        f"{staging_dir}/{observed.CLIENT_CA_DIRECTORY}": "mqtt.external.ca_path",
        str(external.port): "mqtt.external.bind.port",
    }
    if external.address is not None:
        keys[str(external.address)] = "mqtt.external.bind.address"
    if external.interface is not None:
        keys[external.interface] = "mqtt.external.bind.interface"
    return keys


def _staged(plan: operations.Plan, seen: observed.Observed, world: World) -> dict[str, bytes]:
    """The contents of the staging directory once the plan is carried out, hash links apart."""
    image = plan.image
    if image is None:
        good = seen.ledger.last_good
        files: dict[str, bytes] = {}
        for name, digest in good.copies.items() if good is not None else ():
            files |= _flat(world.state.kept(name, digest))
        return files
    return _flat(image)


def _flat(image: staging.Image) -> dict[str, bytes]:
    flat = dict(image.files)
    for name, entries in image.directories.items():
        flat |= {f"{name}/{entry}": content for entry, content in entries}
    return flat


def _key(trial: candidate.Candidate, staged: dict[str, bytes]) -> str:
    parts: list[bytes | str] = []
    for path, content in sorted(trial.files.items()):
        parts += [path, content]
    for name, content in sorted(staged.items()):
        parts += [name, content]
    return ledger.fingerprint(*parts)


def _unavailable(error: errors.TedgeAgentdError) -> model.Finding:
    return model.Finding(
        code="preflight-unavailable",
        severity=model.Severity.ERROR,
        where="systemd",
        message=f"what is asked for could not be tried on the side, so nothing is changed: {error}",
        remedy=error.remedy or "systemctl reload tedge-agentd tries again",
        blocks=model.Area.BROKER,
        waits=True,
    )
