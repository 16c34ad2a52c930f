"""HOST: profiles made on a device: bundles are brought there, `edgekit.profiling` runs there, records come back."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec

from edgekit.errors import DeviceError
from edgekit.profiling.calls import MOST_IMAGES
from edgekit.profiling.devices.connection import Connection
from edgekit.profiling.devices.delivery import Tree, bundle_tree, code_tree, data_tree, deliver
from edgekit.profiling.devices.environment import code_environment
from edgekit.profiling.devices.known import Device
from edgekit.profiling.protocol import Event, Profiled, SessionJob, SessionProgress, SessionResult, SkippedBundle
from edgekit.profiling.record import Profile, Settings
from edgekit.runtimes.bundle.folder import Bundle
from edgekit.worker import call
from edgekit.worker.process import MODULE

HEARTBEAT = 2.0
"""Seconds between two signs of life to a device."""

PATIENCE = 20.0
"""Seconds without one after which a device gives up."""

_PIP = re.compile(r"pip install edgekit\[[^]]*\]")  # what an engine that is missing advises where it is missing


def profile_on(
    device: Device,
    bundles: Sequence[Bundle],
    settings: Settings,
    report: Callable[[Event], None],
    *,
    each: Sequence[Settings] = (),
    imports: tuple[str, ...] = (),
    heartbeat: float = HEARTBEAT,
    patience: float = PATIENCE,
) -> tuple[Profile, ...]:
    """Profile bundles on a device, in turns, as `edgekit.profiling.session.run_session` does here.

    Args:
        device: where.
        bundles: of this machine; only what the device lacks is sent.
        settings: how; their ``data`` are images of this machine, which are sent as well.
        report: is given all events but an error, in whose place one is raised. Paths in them are those of this machine.
        each: the settings of every bundle where they differ, as in `SessionJob`.
        imports: modules of the user's that register decoders; their files are sent with the code.
        heartbeat: seconds between two signs of life to the device.
        patience: seconds without one after which it ends what runs there.

    Returns:
        The records, as they were reported; each is whole.

    Raises:
        DeviceError: the device cannot be reached, is not set up, or was lost in the middle.
        UsageError: a module of ``imports`` has no file to send.
        EdgekitError: what was raised there.
    """
    with Connection(device) as connection:
        if not connection.facts.environment:
            engines = " ".join(f"--engine {name}" for name in sorted({bundle.manifest.engine for bundle in bundles}))
            raise DeviceError(f"{device.name}: is not set up yet: edgekit device setup {device.name} {engines}")
        code, job, names = _prepared(connection, bundles, settings, each, imports, report)
        pipes = connection.become([connection.facts.interpreter, "-m", MODULE], code_environment(code))
        found = call.ask(
            call.Channel(device.name, "the session there", DeviceError, *pipes, connection.lost),
            call.called("edgekit.profiling.session:answer", job, imports, patience),
            SessionResult,
            lambda text, share: report(SessionProgress(text=text, share=share)),
            heartbeat=heartbeat,
        ).result.found
    told = [names.local(event) for event in found]
    for event in told:
        report(event)
    if left := names.left:
        raise DeviceError(f"{device.name}: finished without a record of {', '.join(map(str, left))}; try again")
    return tuple(event.profile for event in told if isinstance(event, Profiled))


class _Names:
    """Translate the messages of a session on a device to this machine's paths.

    ``bundles`` are those here by their paths there, ``data`` the images likewise.
    """

    def __init__(self, device: str, bundles: dict[str, list[Bundle]], data: dict[str, str]) -> None:
        self._device = device
        self._bundles = bundles
        self._data = data

    def local(self, event: Profiled | SkippedBundle) -> Profiled | SkippedBundle:
        """The same event in the words of this machine."""
        if isinstance(event, Profiled):
            return Profiled(profile=self._profile(event.profile))
        bundle = self._taken(event.bundle)
        reason = event.reason.replace(event.bundle, str(bundle.path))
        install = f"edgekit device setup {self._device} --engine {bundle.manifest.engine}"
        return SkippedBundle(bundle=str(bundle.path), reason=_PIP.sub(install, reason))

    def _taken(self, path: str) -> Bundle:
        """The bundle that is at a path there; the same content may have been given by several paths here."""
        given = self._bundles.get(path)
        if not given:
            raise DeviceError(f"{self._device}: the device reports {path!r}, which it was not asked for")
        return given.pop(0)

    @property
    def left(self) -> list[Path]:
        """Bundles that nothing was said of."""
        return [bundle.path for given in self._bundles.values() for bundle in given]

    def _profile(self, profile: Profile) -> Profile:
        bundle = self._taken(profile.subject.path)
        subject = msgspec.structs.replace(profile.subject, path=str(bundle.path))
        data = self._data.get(profile.settings.data, profile.settings.data)
        settings = msgspec.structs.replace(profile.settings, data=data)
        return msgspec.structs.replace(profile, subject=subject, settings=settings)


def _prepared(
    connection: Connection,
    bundles: Sequence[Bundle],
    settings: Settings,
    each: Sequence[Settings],
    imports: tuple[str, ...],
    report: Callable[[Event], None],
) -> tuple[str, SessionJob, _Names]:
    """Bring everything there: the code's folder, the job in the device's words, and the way back from these."""
    sources = sorted({one.data for one in (settings, *each) if one.data})
    images = [data_tree(source, MOST_IMAGES) for source in sources]
    trees = [code_tree(imports), *(bundle_tree(bundle) for bundle in bundles), *(tree for tree, _ in images)]
    code, *paths = _delivered(connection, trees, report)
    folders = [
        f"{path}/{single}" if single else path for path, (_, single) in zip(paths[len(bundles) :], images, strict=True)
    ]
    data = dict(zip(sources, folders, strict=True))
    far = [f"{path}/{bundle.path.resolve().name}" for path, bundle in zip(paths, bundles, strict=False)]
    local: dict[str, list[Bundle]] = {}
    for path, bundle in zip(far, bundles, strict=True):
        local.setdefault(path, []).append(bundle)

    def there(one: Settings) -> Settings:
        return msgspec.structs.replace(one, data=data.get(one.data, ""))

    job = SessionJob(
        bundles=tuple(far),
        settings=there(settings),
        each=tuple(there(one) for one in each),
        key=connection.device.name,
        imports=imports,
    )
    return code, job, _Names(connection.device.name, local, {folder: source for source, folder in data.items()})


def _delivered(connection: Connection, trees: Sequence[Tree], report: Callable[[Event], None]) -> tuple[str, ...]:
    said = ""

    def on_bytes(sent: int, every: int) -> None:
        nonlocal said
        text = f"sending to {connection.device.name}: {sent / 1e6:.1f} of {every / 1e6:.1f} MB"
        if text != said and every >= 1e5:
            said = text
            report(SessionProgress(text=text, share=0.0))

    return deliver(connection, trees, on_bytes).paths
