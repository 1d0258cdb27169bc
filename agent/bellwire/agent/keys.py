"""The command `bellwire keys`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from zmq.utils import z85

from bellwire.protocols.errors import ConfigError
from bellwire.protocols.ids import node_id
from bellwire.protocols.messages import Role
from bellwire.shell.options import KEYS, Json, show_json, show_table
from bellwire.transport.keys import PUBLIC_SUFFIX, SECRET_SUFFIX, authorize, generate, load_public, revoke

app = typer.Typer()
keys = typer.Typer(
    no_args_is_help=True,
    help="Make and list the keys by which participants know each other, and say who is let in.\n\n"
    "Whoever's public key (NAME.key) lies in a broker's folder of authorized keys is let in under that name. The broker "
    "follows the folder while it runs.",
)
app.add_typer(keys, name="keys", rich_help_panel=KEYS)


@keys.command("new")
def new(
    name: Annotated[str, typer.Argument(help="Of the participant, as others will call it.")],
    role: Annotated[Role, typer.Option(help="What the participant is.")],
    directory: Annotated[Path, typer.Option("--dir", help="Where the two files go.")] = Path(),
    json: Json = False,
) -> None:
    """Make a key pair: NAME.key for everybody, NAME.key_secret for its owner alone.

    Example: `bellwire keys new alice --role agent --dir keys`
    """
    secret = generate(directory, node_id(name), role)
    public = load_public(secret.with_suffix(PUBLIC_SUFFIX))
    if json:
        show_json({"name": name, "role": role.value, "public": _text(public.public), "secret_file": str(secret)})
    else:
        typer.echo(f"{secret.with_suffix(PUBLIC_SUFFIX)}\n{secret}")


@keys.command("list")
def list_keys(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="A folder of keys.")] = Path(), json: Json = False
) -> None:
    """Show whose keys are in a folder. Secrets are never shown."""
    if not directory.is_dir():
        raise ConfigError(f"{directory}: no such folder")
    rows = []
    for path in sorted(directory.glob(f"*{PUBLIC_SUFFIX}")):
        key = load_public(path)
        secret = path.with_suffix(SECRET_SUFFIX).exists()
        rows.append({"name": key.name, "role": key.role.value, "public": _text(key.public), "secret": secret})
    if json:
        show_json(rows)
    else:
        shown = [(row["name"], row["role"], row["public"], "yes" if row["secret"] else "no") for row in rows]
        show_table(f"Keys in {directory}", ("name", "role", "public key", "secret here"), shown)


@keys.command("authorize")
def authorize_key(
    key: Annotated[Path, typer.Argument(metavar="FILE", help="A public key: NAME.key.")],
    directory: Annotated[Path, typer.Option("--in", help="The folder of authorized keys.")],
    json: Json = False,
) -> None:
    """Let a participant in: put its public key into a folder of authorized keys.

    Example: `bellwire keys authorize alice.key --in authorized`
    """
    added = authorize(key, directory)
    path = directory / f"{added.name}{PUBLIC_SUFFIX}"
    if json:
        show_json({"name": added.name, "role": added.role.value, "public": _text(added.public), "file": str(path)})
    else:
        typer.echo(f"{path}: {added.name} ({added.role}) is authorized")


@keys.command("revoke")
def revoke_key(
    name: Annotated[str, typer.Argument(help="Of the participant.")],
    directory: Annotated[Path, typer.Option("--in", help="The folder of authorized keys.")],
    json: Json = False,
) -> None:
    """Let a participant in no more: its connections to a running broker end within a second.

    Example: `bellwire keys revoke alice --in authorized`
    """
    path = revoke(node_id(name), directory)
    if json:
        show_json({"name": name, "file": str(path)})
    else:
        typer.echo(f"{path}: {name} is not authorized any more")


def _text(public: bytes) -> str:
    encoded: bytes = z85.encode(public)
    return encoded.decode("ascii")
