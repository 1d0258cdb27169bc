"""Physics presets: the numbers of one experiment, from a TOML file.

Schema. Every number is a quantity, `{ value = 0.98, unit = "1", tag = "measured", source = "Main 2025, Table 1" }`,
whose tag is `measured`, `derived` or `assumed`. Units: `ns us ms s` for times (`ps ns us ms` for short ones), `m km` for
lengths, `dB/km` for loss, `1 %` for ratios, probabilities and fidelities. An unknown key is an error. `inf` is allowed for t1
and t2.

    name = "oxford-2025"                 # letters, digits, '_', '.', '-'
    paper = "Main et al., Nature 638, 383 (2025)"

    [nodes.alice]                        # a node model; a testbed's nodes name one
    measurement_crosstalk = {...}        # depolarising probability put on every other held storage qubit of the node
                                         #   each time one of its communication qubits is measured
    [nodes.alice.clock]                  # a clock that disciplines itself to the network's time. May be left out
    accuracy = {...}                     # short time: how far off it is in the mean, at most, and never the same for two
    jitter = {...}                       # short time, root mean square
    interval = {...}                     # time from one of its reports to the next
    [nodes.alice.communication]          # qubits that links herald into
    t1 = {...}                           # time
    t2 = {...}                           # time, at most twice t1
    initialise_error = {...}             # probability to begin in |1>
    readout_error = {...}                # probability that a measurement reports the other bit, the same for 0 and 1
    one_qubit_gate_fidelity = {...}      # average gate fidelity; the error is depolarising
    two_qubit_gate_fidelity = {...}      # likewise; a gate between two kinds has the lower one of theirs
    [nodes.alice.storage]                # qubits that programs live in: the same keys. May be left out

A third kind of qubit, `reference`, needs no numbers: it never decoheres, it is initialised and read without error and
every gate that touches one is noiseless. It exists in simulations only, to hold the other half of a Choi state.

    [links.central]                      # a link model; a testbed's links name one
    heralds = ["psi+", "psi-"]           # Bell states that are heralded, equally often. Left out: those two
    attempt_period = {...}               # time from one attempt to the next; 0 only in an ideal world
    success_probability = {...}          # of an attempt, by any herald; or a [links.central.photonics] table
    burst.attempts_on = {...}            # time of attempts between two recoolings. May be left out
    burst.recooling = {...}              # time of a recooling
    werner_fidelity = {...}              # the state heralded: Werner state; or
    density_matrix = {...}               # measured, for herald psi+; or that of the photonics, if neither is there

    [links.central.density_matrix]       # not a quantity, but with a tag and a source too
    tag = "measured"
    source = "Main 2025, Fig. 2"
    magnitude = [[...], [...], [...], [...]]     # basis 00 01 10 11, the link's first end first
    phase_pi_upper = { "01" = -1.85, "12" = 0.0 }  # units of pi, above the diagonal. Or `real` and `imag`, both 4x4

    [links.central.photonics]
    scheme = "double-click"              # the default; or single-click, time-bin, direct (`bellwire.sim.schemes`)
    bright_ratio = {...}                 # single-click only: population of the bright state, unless a window says another
    bin_separation = {...}               # time-bin only: from one excitation of an attempt to the other
    detector_efficiency = {...}
    dark_count_probability = {...}       # of one detector, per attempt
    visibility = {...}
    refractive_index = {...}             # unit "1"
    wave_packet.shape = "exponential"    # of the photons: or "gaussian". May be left out: then times cost no overlap
    wave_packet.width = {...}            # lifetime; of a Gaussian the standard deviation of the intensity
    [links.central.photonics.first]      # the arm of the link's first end; `second` likewise, but for scheme direct
    collection_efficiency = {...}
    coupling_efficiency = {...}
    fibre_length = {...}
    fibre_loss = {...}                   # dB/km

For another herald than psi+ the state is the same but for a Pauli on the second end's qubit (Z for psi-). The attempt
period of a photonic link is at least the time in which light reaches the station and the herald comes back; for time-bin
and its two excitations, `bin_separation` longer.
"""

from __future__ import annotations

import importlib.resources
import re
import tomllib
from pathlib import Path
from typing import Any, TypeVar

import msgspec

from bellwire.protocols.errors import BackendError, ConfigError
from bellwire.protocols.herald import DOUBLE_CLICK, SCHEMES, SINGLE_CLICK, TIME_BIN, Scheme
from bellwire.protocols.ids import NAME_PATTERN
from bellwire.protocols.instructions import BellState
from bellwire.sim.channels import check_times
from bellwire.sim.photonics import PacketShape, PhotonArm, PhotonicLink, WavePacket
from bellwire.sim.quantity import (
    LENGTH_M,
    LOSS_DB_PER_KM,
    RATIO,
    SHORT_TIME_PS,
    TIME_NS,
    MeasuredMatrix,
    ProvenanceRow,
    Quantity,
    Source,
    Table,
    number,
    provenance_of,
)
from bellwire.sim.schemes import MODELS, Heralding
from bellwire.sim.states import ComplexArray, frozen, shift_frame, werner_state

_NAME = re.compile(NAME_PATTERN)


class QubitModel(Table, frozen=True, kw_only=True):
    """Noise of one kind of qubit in one node model. Keys as in the module's schema; raises ValueError."""

    t1: Quantity
    t2: Quantity
    initialise_error: Quantity
    readout_error: Quantity
    one_qubit_gate_fidelity: Quantity
    two_qubit_gate_fidelity: Quantity

    def __post_init__(self) -> None:
        check_times(self.t1_ns, self.t2_ns)
        number(self.initialise_error, "initialise_error", RATIO, high=1.0)
        number(self.readout_error, "readout_error", RATIO, high=1.0)
        number(self.one_qubit_gate_fidelity, "one_qubit_gate_fidelity", RATIO, low=1 / 3, high=1.0)
        number(self.two_qubit_gate_fidelity, "two_qubit_gate_fidelity", RATIO, low=1 / 5, high=1.0)

    @property
    def t1_ns(self) -> float:
        """Relaxation time."""
        return number(self.t1, "t1", TIME_NS, infinite=True)

    @property
    def t2_ns(self) -> float:
        """Coherence time."""
        return number(self.t2, "t2", TIME_NS, infinite=True)


class ClockModel(Table, frozen=True, kw_only=True):
    """A clock of a node's hardware that disciplines itself."""

    accuracy: Quantity
    jitter: Quantity
    interval: Quantity

    def __post_init__(self) -> None:
        number(self.accuracy, "accuracy", SHORT_TIME_PS, high=1e12)
        number(self.jitter, "jitter", SHORT_TIME_PS, high=1e12)
        number(self.interval, "interval", TIME_NS, low=1e6, high=1e12)


class NodeModel(Table, frozen=True, kw_only=True):
    """Noise of one node's hardware."""

    communication: QubitModel
    storage: QubitModel | None = None
    measurement_crosstalk: Quantity
    clock: ClockModel | None = None

    def __post_init__(self) -> None:
        number(self.measurement_crosstalk, "measurement_crosstalk", RATIO, high=1.0)


class BurstModel(Table, frozen=True, kw_only=True):
    """Duty cycle of attempts."""

    attempts_on: Quantity
    recooling: Quantity

    def __post_init__(self) -> None:
        number(self.attempts_on, "attempts_on", TIME_NS)
        number(self.recooling, "recooling", TIME_NS)


class ArmModel(Table, frozen=True, kw_only=True):
    """One side of a photonic link."""

    collection_efficiency: Quantity
    coupling_efficiency: Quantity
    fibre_length: Quantity
    fibre_loss: Quantity

    def __post_init__(self) -> None:
        self.arm()

    def arm(self) -> PhotonArm:
        """Give the arm as the photonics has it."""
        return PhotonArm(
            collection_ratio=number(self.collection_efficiency, "collection_efficiency", RATIO, high=1.0),
            coupling_ratio=number(self.coupling_efficiency, "coupling_efficiency", RATIO, high=1.0),
            fibre_length_m=number(self.fibre_length, "fibre_length", LENGTH_M),
            fibre_loss_db_per_km=number(self.fibre_loss, "fibre_loss", LOSS_DB_PER_KM),
        )


class WavePacketModel(Table, frozen=True, kw_only=True):
    """The envelope of a link's photons."""

    shape: PacketShape
    width: Quantity

    def __post_init__(self) -> None:
        self.packet()

    def packet(self) -> WavePacket:
        """Give the wave packet as the photonics has it."""
        width_ns = number(self.width, "width", TIME_NS)
        if width_ns == 0:
            raise ValueError("`width` is 0, expected a positive time")
        return WavePacket(shape=self.shape, width_ns=width_ns)


class PhotonicsModel(Table, frozen=True, kw_only=True):
    """A photonic link with a station between its ends."""

    scheme: str = DOUBLE_CLICK.name
    bright_ratio: Quantity | None = None
    bin_separation: Quantity | None = None
    wave_packet: WavePacketModel | None = None
    first: ArmModel
    second: ArmModel | None = None
    detector_efficiency: Quantity
    dark_count_probability: Quantity
    visibility: Quantity
    refractive_index: Quantity

    def __post_init__(self) -> None:
        if self.scheme not in MODELS:
            raise ValueError(f"`scheme` is {self.scheme!r}, expected one of {', '.join(MODELS)}")
        for key, needed in (
            ("bright_ratio", self.scheme == SINGLE_CLICK.name),
            ("bin_separation", self.scheme == TIME_BIN.name),
            ("second", SCHEMES[self.scheme].midpoint),
        ):
            if (getattr(self, key) is not None) is not needed:
                raise ValueError(f"scheme {self.scheme} {'needs' if needed else 'has no'} `{key}`")
        if self.bright_ratio is not None and self.default_bright_ratio in (0.0, 1.0):
            raise ValueError("`bright_ratio` is neither 0 nor 1")
        self.link()

    def link(self) -> PhotonicLink:
        """Give the link as the photonics has it."""
        try:
            return PhotonicLink(
                first=self.first.arm(),
                second=None if self.second is None else self.second.arm(),
                refractive_index=number(self.refractive_index, "refractive_index", RATIO, low=1.0, high=9.0),
                detector_efficiency_ratio=number(self.detector_efficiency, "detector_efficiency", RATIO, high=1.0),
                dark_count_probability=number(self.dark_count_probability, "dark_count_probability", RATIO, high=1.0),
                visibility_ratio=number(self.visibility, "visibility", RATIO, high=1.0),
                wave_packet=None if self.wave_packet is None else self.wave_packet.packet(),
            )
        except BackendError as error:
            raise ValueError(str(error)) from None

    @property
    def default_bright_ratio(self) -> float | None:
        """Population of the bright state unless a window says another; None for schemes without."""
        return None if self.bright_ratio is None else number(self.bright_ratio, "bright_ratio", RATIO, high=1.0)

    @property
    def shortest_attempt_ns(self) -> float:
        """How long an attempt takes at least: light to the detectors and the herald back, for each excitation in turn."""
        bins_ns = 0.0 if self.bin_separation is None else number(self.bin_separation, "bin_separation", TIME_NS)
        return self.link().round_trip_ns + bins_ns

    def heralding(self, bright_ratio: float | None = None, offset_ns: float = 0.0) -> Heralding:
        """Give what the scheme makes of the link. Raises BackendError for a bright ratio that the scheme does not take."""
        ratio = self.default_bright_ratio if bright_ratio is None else bright_ratio
        return MODELS[self.scheme].heralding(self.link(), bright_ratio=ratio, offset_ns=offset_ns)


class LinkModel(Table, frozen=True, kw_only=True):
    """How a link heralds: how often, and what state. Keys as in the module's schema; raises ValueError."""

    attempt_period: Quantity
    heralds: tuple[BellState, ...] = (BellState.PSI_PLUS, BellState.PSI_MINUS)
    success_probability: Quantity | None = None
    photonics: PhotonicsModel | None = None
    burst: BurstModel | None = None
    werner_fidelity: Quantity | None = None
    density_matrix: MeasuredMatrix | None = None

    def __post_init__(self) -> None:
        if not self.heralds or len(set(self.heralds)) != len(self.heralds):
            raise ValueError("`heralds` is empty or names a Bell state twice")
        if (self.success_probability is None) == (self.photonics is None):
            raise ValueError("expected either `success_probability` or `photonics`")
        if self.werner_fidelity is not None and self.density_matrix is not None:
            raise ValueError("expected only one of `werner_fidelity` and `density_matrix`")
        heralding = self.heralding()
        period_ns = number(self.attempt_period, "attempt_period", TIME_NS)
        if self.burst is not None and not 0 < period_ns <= number(self.burst.attempts_on, "attempts_on", TIME_NS):
            raise ValueError("`burst.attempts_on` is shorter than one attempt, or `attempt_period` is 0")
        if self.photonics is not None:
            shortest_ns = self.photonics.shortest_attempt_ns
            if period_ns < shortest_ns and heralding.success_probability > 0:
                raise ValueError(
                    f"`attempt_period` is shorter than light to the detectors and back, {shortest_ns:.0f} ns"
                )

    @property
    def scheme(self) -> Scheme | None:
        """How it heralds; None when the model says only how often, and what."""
        return None if self.photonics is None else SCHEMES[self.photonics.scheme]

    def heralding(self, bright_ratio: float | None = None, offset_ns: float = 0.0) -> Heralding:
        """Give success probability per attempt and state per herald, from whichever source the model names.

        Args:
            bright_ratio: of a window, for schemes that have one; None for the model's own.
            offset_ns: by how much the ends' emission times differ.

        Raises:
            BackendError: when the model has no such ratio.
        """
        if bright_ratio is not None and (self.scheme is None or not self.scheme.bright):
            raise BackendError("this link heralds without a bright ratio")
        physical = self.photonics.heralding(bright_ratio, offset_ns) if self.photonics is not None else None
        if physical is not None:
            strange = [herald.value for herald in self.heralds if herald not in physical.states]
            if strange:
                raise ValueError(f"`heralds` has {strange[0]!r}, which the scheme does not herald")
            probability = physical.success_probability * len(self.heralds) / len(physical.states)
        else:
            assert self.success_probability is not None
            probability = number(self.success_probability, "success_probability", RATIO, high=1.0)
        given = self._state_for_psi_plus()
        if given is not None:
            states = {to: frozen(shift_frame(given, BellState.PSI_PLUS, to)) for to in self.heralds}
        elif physical is not None:
            states = {herald: physical.states[herald] for herald in self.heralds}
        else:
            raise ValueError("expected `werner_fidelity`, `density_matrix` or `photonics` to give the state heralded")
        return Heralding(success_probability=probability, states=states)

    def _state_for_psi_plus(self) -> ComplexArray | None:
        if self.density_matrix is not None:
            return self.density_matrix.state()
        if self.werner_fidelity is not None:
            return werner_state(number(self.werner_fidelity, "werner_fidelity", RATIO, high=1.0))
        return None


class Preset(Table, frozen=True, kw_only=True):
    """A preset: node models and link models by name."""

    name: str
    paper: Source
    nodes: dict[str, NodeModel]
    links: dict[str, LinkModel]

    def __post_init__(self) -> None:
        if not _NAME.match(self.name):
            raise ValueError("`name` is not letters, digits, '_', '.' or '-'")

    def provenance(self) -> list[ProvenanceRow]:
        """List every number with its tag and source, in the order of the schema."""
        return provenance_of({"nodes": self.nodes, "links": self.links}, "")


_PART = TypeVar("_PART", bound=Table)


def packaged_presets() -> list[str]:
    """Name the presets that come with Bellwire."""
    folder = importlib.resources.files("bellwire.sim") / "presets"
    return sorted(item.name.removesuffix(".toml") for item in folder.iterdir() if item.name.endswith(".toml"))


def load_preset(name_or_path: str | Path) -> Preset:
    """Load a preset: a packaged one by its name ("ideal"), any other by its path, which ends in `.toml`.

    Raises:
        ConfigError: one line with file and key, when the file is missing, is not TOML, or does not follow the schema.
    """
    text = str(name_or_path)
    if isinstance(name_or_path, Path) or text.endswith(".toml") or "/" in text or "\\" in text:
        try:
            return parse_preset(Path(text).read_text(encoding="utf-8"), text)
        except OSError as error:
            raise ConfigError(f"{text}: cannot read preset: {error.strerror or error}") from None
        except UnicodeDecodeError:
            raise ConfigError(f"{text}: preset is not UTF-8 text") from None
    if text not in packaged_presets():
        known = ", ".join(packaged_presets())
        raise ConfigError(f"there is no preset {text!r}: packaged are {known}; a path ends in .toml")
    resource = importlib.resources.files("bellwire.sim") / "presets" / f"{text}.toml"
    return parse_preset(resource.read_text(encoding="utf-8"), f"{text}.toml")


def parse_preset(text: str, file: str) -> Preset:
    """Make a preset of TOML text. `file` names it in errors.

    Raises:
        ConfigError: one line with file and key, when it is not TOML or does not follow the schema.
    """
    try:
        raw = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{file}: not TOML: {error}") from None
    parts: dict[str, dict[str, Any]] = {}
    for key, model in (("nodes", NodeModel), ("links", LinkModel)):
        if key not in raw:
            raise ConfigError(f"{file}: missing key `{key}`")
        tables = raw[key]
        if not isinstance(tables, dict):
            raise ConfigError(f"{file}: {key}: expected a table")
        parts[key] = {name: _convert(table, model, file, f"{key}.{name}") for name, table in tables.items()}
    head = _convert({**raw, "nodes": {}, "links": {}}, Preset, file, "")
    return Preset(name=head.name, paper=head.paper, nodes=parts["nodes"], links=parts["links"])


_PLACE = re.compile(r" - at `\$(?P<path>[^`]*)`$")
_WORDS = (
    ("Object contains unknown field", "unknown key"),
    ("Object missing required field", "missing key"),
    ("Expected `object`", "expected a table"),
    ("Expected", "expected"),
    ("Invalid", "invalid"),
)


def _convert(raw: Any, model: type[_PART], file: str, key: str) -> _PART:
    try:
        return msgspec.convert(raw, model, strict=True)
    except msgspec.ValidationError as error:
        text = str(error)
        place = _PLACE.search(text)
        if place is not None:
            text = text[: place.start()]
            key = (key + place["path"]).lstrip(".")
        for theirs, ours in _WORDS:
            if text.startswith(theirs):
                text = ours + text[len(theirs) :]
                break
        raise ConfigError(f"{file}: {key}: {text}" if key else f"{file}: {text}") from None
