"""Every bound of the protocol in one place (spec 1 §3.4). What a peer can make grow is bounded here."""

from __future__ import annotations

MAX_MESSAGE_BYTES = 65_536
"""A longer message frame is refused before it is parsed."""

MAX_NODE_ID_CHARS = 64
MAX_NAME_CHARS = 64
MAX_ID_CHARS = 160
MAX_TEXT_CHARS = 1_024

MAX_PEERS = 4_096
"""Sessions that one endpoint keeps."""

MAX_ENDPOINTS = 8
"""Endpoints that one participant names to the broker."""

MAX_ENDPOINT_CHARS = 256
PUBLIC_KEY_BYTES = 32
"""A participant's CURVE public key."""

MAX_MEETINGS = 65_536
"""Pairs of participants of which a broker remembers that it has introduced them to each other."""

MAX_HELD_MESSAGES = 8_192
"""Messages to or from one peer that wait while its path changes."""

MAX_HELD_BYTES = 8_388_608
"""Octets of those messages."""

MAX_REPORTED_PEERS = 256
"""Peers that a report names, of each kind, and those that one `session.known` names."""

MAX_PENDING_REQUESTS = 8_192
"""Requests of one endpoint that await their answer."""

MAX_ANSWERED_REQUESTS = 2_048
"""Requests of one peer whose answers are kept, so that a repeated request is answered again and not handled again."""

MAX_ANSWERED_BYTES = 4_194_304
"""Octets of those answers, for one peer."""

MAX_LINK_REQUESTS = 256
"""CREATE requests that one link queues."""

MAX_TEST_ROUNDS = 1_024
"""Test rounds of one link from which its fidelity is estimated: the last ones."""

MAX_PAIRS_PER_REQUEST = 1_000_000
MAX_ATTEMPTS_PER_WINDOW = 2**40
MAX_GATES = 1_024
"""Teleported gates that one node has under way."""

MAX_STATION_WINDOWS = 1_024
"""Windows that one station has under way."""

MAX_LINK_WINDOWS = 256
"""Windows of one link that its station has under way, so that no link takes the place of the others."""

MAX_DURATION_NS = 10**18
"""The longest time that can be asked for, so that a deadline fits into 63 bits on any clock (30 years)."""

MAX_PROGRAM_STEPS = 1_024
MAX_GATE_PEERS = 64
"""Nodes that a step allows to open gates on a qubit."""

MAX_BATCH_INSTRUCTIONS = 1_024
"""Instructions in one batch for a backend; a longer one is not executed, and all of it is answered with `Failed`."""

MAX_QUBITS_PER_APPLICATION = 256
MAX_TOMBSTONES = 4_096
"""Ended pairs and windows that one link remembers, so that a late message about one is answered with how it ended."""

MAX_JOURNAL_ENTRIES = 16_384
"""Entries that a node's journal keeps for `story`."""

MAX_TIME_LEASES = 1_024
"""Participants that one source of time serves."""

MAX_BURST_EXCHANGES = 16
MIN_TIME_INTERVAL_NS = 10_000_000
"""Bursts of one lease do not come faster."""

MAX_TIME_LEASE_NS = 3_600_000_000_000

MAX_TOPICS = 4_096
"""Topics of a broker that somebody hears."""

MAX_TOPICS_PER_PEER = 64
MAX_NOTICES_PER_S = 20_000
"""Notices per second that the events of one publisher set off, once the first of a second has gone out."""

PATH_KEY_BYTES = 32
"""The key of a side path of time."""

MAX_HOST_CHARS = 45
"""An address of IPv4 or IPv6, as people write it."""

MAX_DATAGRAM_BYTES = 1_024
"""A longer datagram on a side path is dropped unread."""

INT64_MAX = 2**63 - 1
