"""A hot standby is no shard: nothing looks prepared there, and no lock of it holds anybody back."""

from __future__ import annotations

from typing import TYPE_CHECKING

import psycopg
import pytest

from proxy.demo.embedded import EmbeddedServer
from proxy.shards.control import ControlLinks
from proxy.shards.endpoint import ShardEndpoint
from proxy.shards.errors import ShardError
from proxy.shards.link import open_link

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def was_primary(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EmbeddedServer]:
    """A server with something prepared that runs as a standby now."""
    directory = tmp_path_factory.mktemp("standby")
    with EmbeddedServer(directory / "s0", durable=False) as server:
        with psycopg.connect(server.dsn(), autocommit=True) as client:
            client.execute("BEGIN")
            client.execute("CREATE TABLE t (a int)")
            client.execute("PREPARE TRANSACTION 'there'")
            assert client.execute("SELECT count(*) FROM pg_prepared_xacts").fetchone() == (1,)
        server.stop()
        (server.directory / "standby.signal").touch()
        server.start()
        yield server


async def test_it_is_not_served(was_primary: EmbeddedServer) -> None:
    with psycopg.connect(was_primary.dsn(), autocommit=True) as client:
        assert client.execute("SELECT count(*) FROM pg_prepared_xacts").fetchone() == (0,), "the trap must be there"
    endpoint = ShardEndpoint("s0", 0, was_primary.dsn())
    control = ControlLinks([endpoint])
    failures: list[str] = []
    control.on_failure(lambda _shard, error: failures.append(error.sqlstate))
    with pytest.raises(ShardError, match="is a standby"):
        async with control.connection(0):
            pytest.fail("a control link to a standby")
    with pytest.raises(ShardError, match="is a standby"):
        await control.probe(0)
    with pytest.raises(ShardError, match="is a standby"):
        await open_link(endpoint, role="postgres", password=None)
    assert failures == ["57P03"]
    await control.close()
