"""Key files: permissions, overwriting, malformed ones, and the directory of authorized keys (spec 1 §2.2)."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest
import zmq
import zmq.auth
from zmq.utils import z85

from bellwire.protocols.errors import ConfigError
from bellwire.protocols.ids import NodeId
from bellwire.protocols.messages import Role
from bellwire.transport.keys import AuthorizedKeys, authorize, generate, load_public, load_secret, revoke

ALICE = NodeId("alice")


def one_line(error: pytest.ExceptionInfo[ConfigError]) -> str:
    text = str(error.value)
    assert "\n" not in text
    return text


def test_generated_keys_have_their_permissions_whatever_the_umask(tmp_path: Path) -> None:
    former = os.umask(0o077)
    try:
        secret = generate(tmp_path, ALICE, Role.AGENT)
    finally:
        os.umask(former)
    assert secret == tmp_path / "alice.key_secret"
    assert stat.S_IMODE(secret.stat().st_mode) == 0o600
    assert stat.S_IMODE((tmp_path / "alice.key").stat().st_mode) == 0o644


def test_generated_keys_are_read_back_the_same(tmp_path: Path) -> None:
    pair = load_secret(generate(tmp_path / "new" / "directory", ALICE, Role.STATION))
    public = load_public(tmp_path / "new" / "directory" / "alice.key")
    assert (pair.name, pair.role, pair.public) == (public.name, public.role, public.public)
    assert (public.name, public.role) == ("alice", Role.STATION)
    assert zmq.curve_public(z85.encode(pair.secret)) == z85.encode(pair.public)


def test_generated_keys_are_certificates_that_pyzmq_reads(tmp_path: Path) -> None:
    path = generate(tmp_path, ALICE, Role.AGENT)
    pair = load_secret(path)
    assert zmq.auth.load_certificate(path) == (z85.encode(pair.public), z85.encode(pair.secret))
    assert zmq.auth.load_certificate(tmp_path / "alice.key") == (z85.encode(pair.public), None)


def test_key_pair_printed_shows_no_secret(tmp_path: Path) -> None:
    path = generate(tmp_path, ALICE, Role.AGENT)
    pair = load_secret(path)
    assert "secret" not in repr(pair)
    assert repr(pair.secret) not in repr(pair)
    assert z85.encode(pair.secret).decode() not in (tmp_path / "alice.key").read_text()


@pytest.mark.parametrize("kept", ["alice.key", "alice.key_secret"])
def test_generate_over_an_existing_file_changes_nothing(tmp_path: Path, kept: str) -> None:
    (tmp_path / kept).write_text("precious")
    with pytest.raises(ConfigError) as error:
        generate(tmp_path, ALICE, Role.AGENT)
    assert "exists already" in one_line(error)
    assert [path.name for path in tmp_path.iterdir()] == [kept]
    assert (tmp_path / kept).read_text() == "precious"


@pytest.mark.parametrize(
    ("name", "role"), [("", Role.AGENT), ("../alice", Role.AGENT), ("broker", Role.AGENT), ("alice", Role.BROKER)]
)
def test_generate_with_a_name_that_none_may_have_is_refused(tmp_path: Path, name: str, role: Role) -> None:
    with pytest.raises(ConfigError) as error:
        generate(tmp_path, NodeId(name), role)
    one_line(error)
    assert not list(tmp_path.iterdir())


def test_generate_in_a_directory_that_cannot_be_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError) as error:
        generate(tmp_path / "file" / "keys", ALICE, Role.AGENT)
    assert "cannot write keys" in one_line(error)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660])
def test_secret_key_readable_by_others_is_refused(tmp_path: Path, mode: int) -> None:
    path = generate(tmp_path, ALICE, Role.AGENT)
    path.chmod(mode)
    with pytest.raises(ConfigError) as error:
        load_secret(path)
    text = one_line(error)
    assert f"{mode:04o}" in text
    assert str(path) in text


def test_missing_key_is_one_line_with_its_path(tmp_path: Path) -> None:
    for load in (load_secret, load_public):
        with pytest.raises(ConfigError) as error:
            load(tmp_path / "nobody.key")
        assert str(tmp_path / "nobody.key") in one_line(error)


MALFORMED: dict[str, Callable[[str], str | bytes]] = {
    "empty": lambda text: "",
    "binary": lambda text: b"\xff\xfe\x00",
    "too long": lambda text: text + "#" * 20_000,
    "no name": lambda text: text.replace("name =", "nom ="),
    "bad name": lambda text: text.replace("name = alice", "name = a b"),
    "broker's name": lambda text: text.replace("name = alice", "name = broker"),
    "no role": lambda text: text.replace("role =", "rôle ="),
    "bad role": lambda text: text.replace("role = agent", "role = king"),
    "no key": lambda text: text.replace("public-key", "publicity"),
    "short key": lambda text: text.replace('public-key = "', 'public-key = "" # '),
    "no z85": lambda text: text.replace('public-key = "', 'public-key = "~')[:-2] + '"\n',
    "key out of range": lambda text: text.split("public-key")[0] + f'public-key = "{"#" * 40}"\n',
}


@pytest.mark.parametrize("how", MALFORMED)
def test_malformed_public_key_is_one_line_with_its_path(tmp_path: Path, how: str) -> None:
    generate(tmp_path, ALICE, Role.AGENT)
    path = tmp_path / "alice.key"
    broken = MALFORMED[how](path.read_text())
    path.write_bytes(broken if isinstance(broken, bytes) else broken.encode())
    with pytest.raises(ConfigError) as error:
        load_public(path)
    assert str(path) in one_line(error)


def test_secret_key_of_another_public_key_is_refused(tmp_path: Path) -> None:
    alice, bob = (generate(tmp_path, NodeId(name), Role.AGENT) for name in ("alice", "bob"))
    secret_of_bob = bob.read_text().split("secret-key")[1]
    alice.write_text(alice.read_text().split("secret-key")[0] + "secret-key" + secret_of_bob)
    with pytest.raises(ConfigError) as error:
        load_secret(alice)
    assert "does not belong" in one_line(error)


def test_public_key_taken_for_a_secret_one_is_refused(tmp_path: Path) -> None:
    generate(tmp_path, ALICE, Role.AGENT)
    (tmp_path / "alice.key").chmod(0o600)
    with pytest.raises(ConfigError) as error:
        load_secret(tmp_path / "alice.key")
    assert "secret-key" in one_line(error)


def test_authorized_keys_follow_files_that_come_and_go(tmp_path: Path) -> None:
    authorized = AuthorizedKeys(tmp_path)
    alice = load_secret(generate(tmp_path, ALICE, Role.OBSERVER))
    found = authorized.lookup(alice.public)
    assert found is not None
    assert (found.name, found.role) == ("alice", Role.OBSERVER)
    assert authorized.role_of(ALICE) is Role.OBSERVER
    assert authorized.role_of(NodeId("bob")) is None
    (tmp_path / "alice.key").unlink()
    assert authorized.lookup(alice.public) is None
    assert authorized.role_of(ALICE) is None


def test_authorized_key_replaced_in_place_is_noticed(tmp_path: Path) -> None:
    alice = load_secret(generate(tmp_path / "keys", ALICE, Role.AGENT))
    other = load_secret(generate(tmp_path / "other", ALICE, Role.AGENT))
    authorized = AuthorizedKeys(tmp_path / "keys")
    (tmp_path / "other" / "alice.key").replace(tmp_path / "keys" / "alice.key")
    assert authorized.lookup(alice.public) is None
    assert authorized.lookup(other.public) is not None


def test_authorized_keys_malformed_at_the_start_are_refused(tmp_path: Path) -> None:
    (tmp_path / "alice.key").write_text("nonsense")
    with pytest.raises(ConfigError) as error:
        AuthorizedKeys(tmp_path)
    assert "alice.key" in one_line(error)


def test_authorized_keys_in_a_missing_directory_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as error:
        AuthorizedKeys(tmp_path / "nowhere")
    assert "nowhere" in one_line(error)


def test_authorized_key_malformed_later_lets_nobody_in_and_says_why(tmp_path: Path) -> None:
    bob = load_secret(generate(tmp_path, NodeId("bob"), Role.AGENT))
    authorized = AuthorizedKeys(tmp_path)
    path = tmp_path / "alice.key"
    path.write_text("nonsense")
    assert authorized.lookup(bob.public) is not None
    assert authorized.lookup(bytes(32)) is None
    assert "no key file" in authorized.problems[path]
    path.unlink()
    assert authorized.lookup(bytes(32)) is None
    assert not authorized.problems


def test_authorized_key_in_a_file_of_another_name_is_refused(tmp_path: Path) -> None:
    generate(tmp_path, ALICE, Role.AGENT)
    (tmp_path / "alice.key").rename(tmp_path / "bob.key")
    with pytest.raises(ConfigError) as error:
        AuthorizedKeys(tmp_path)
    assert "alice.key" in one_line(error)


def test_authorized_key_found_without_reading_the_directory_is_gone_with_its_file(tmp_path: Path) -> None:
    alice = load_secret(generate(tmp_path, ALICE, Role.AGENT))
    authorized = AuthorizedKeys(tmp_path)
    bob = load_secret(generate(tmp_path, NodeId("bob"), Role.AGENT))
    assert authorized.find(bob.public) is None, "it came since"
    assert authorized.find(alice.public) is not None
    (tmp_path / "alice.key").unlink()
    assert authorized.known(alice.public) is not None
    assert authorized.find(alice.public) is None
    assert authorized.find(bob.public) is not None, "the directory was read for Alice's sake"


def test_authorized_keys_that_cannot_be_read_for_a_while_are_kept(tmp_path: Path) -> None:
    alice = load_secret(generate(tmp_path / "keys", ALICE, Role.AGENT))
    authorized = AuthorizedKeys(tmp_path / "keys")
    (tmp_path / "keys").rename(tmp_path / "aside")
    assert "no such directory" in (authorized.refresh() or "")
    assert authorized.known(alice.public) is not None
    assert authorized.lookup(alice.public) is None
    (tmp_path / "aside").rename(tmp_path / "keys")
    assert authorized.refresh() is None
    assert authorized.lookup(alice.public) is not None


def test_authorized_keys_that_everybody_can_add_to_are_refused(tmp_path: Path) -> None:
    generate(tmp_path, ALICE, Role.AGENT)
    tmp_path.chmod(0o777)
    with pytest.raises(ConfigError) as error:
        AuthorizedKeys(tmp_path)
    assert "chmod o-w" in one_line(error)
    tmp_path.chmod(0o1777)
    AuthorizedKeys(tmp_path)


def test_key_authorized_and_revoked_comes_and_goes(tmp_path: Path) -> None:
    alice = load_secret(generate(tmp_path / "own", ALICE, Role.AGENT))
    key = authorize(tmp_path / "own" / "alice.key", tmp_path / "authorized")
    assert (key.name, key.role) == ("alice", Role.AGENT)
    authorized = AuthorizedKeys(tmp_path / "authorized")
    assert authorized.lookup(alice.public) == key
    assert stat.S_IMODE((tmp_path / "authorized" / "alice.key").stat().st_mode) == 0o644
    assert [path.name for path in (tmp_path / "authorized").iterdir()] == ["alice.key"]
    assert authorize(tmp_path / "own" / "alice.key", tmp_path / "authorized") == key, "twice is once"
    assert revoke(ALICE, tmp_path / "authorized") == tmp_path / "authorized" / "alice.key"
    assert authorized.lookup(alice.public) is None
    with pytest.raises(ConfigError, match="not authorized there"):
        revoke(ALICE, tmp_path / "authorized")


def test_key_of_a_name_that_has_another_one_is_not_authorized(tmp_path: Path) -> None:
    for place in ("one", "two"):
        generate(tmp_path / place, ALICE, Role.AGENT)
    authorize(tmp_path / "one" / "alice.key", tmp_path / "authorized")
    with pytest.raises(ConfigError) as error:
        authorize(tmp_path / "two" / "alice.key", tmp_path / "authorized")
    assert "revoke it first" in one_line(error)


def test_secret_key_taken_for_a_public_one_puts_no_secret_into_the_directory(tmp_path: Path) -> None:
    path = generate(tmp_path / "own", ALICE, Role.AGENT)
    authorize(path, tmp_path / "authorized")
    assert "secret" not in (tmp_path / "authorized" / "alice.key").read_text()
