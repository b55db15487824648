"""A secret is typed on a page that the client's user opens: both eras, over the gateway."""

from __future__ import annotations

import asyncio
import json
from typing import Any
from urllib.parse import urlencode
from urllib.request import Request, urlopen

import pytest
from fastmcp.client.elicitation import ElicitResult

from .daemon_harness import ERAS, WAYS, Installation, failure

VALUE = "typed by the owner alone"


def type_it(url: str) -> int:
    with urlopen(Request(url, urlencode({"value": VALUE}).encode()), timeout=30) as answer:  # noqa: S310
        return answer.status


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Any:
    home = Installation(tmp_path_factory.mktemp("typing"))
    try:
        yield home
    finally:
        home.close()


async def test_what_the_owner_types_reaches_the_vault_and_no_client(home: Installation) -> None:
    urls: list[str] = []
    heard: list[object] = []

    async def open_it(_message: str, _type: Any, params: Any, *_: Any) -> Any:
        heard.append(params)
        urls.append(params.url)
        assert await asyncio.to_thread(type_it, params.url) == 200
        return ElicitResult(action="accept")

    with home.up() as daemon:
        key = home.token("typist")
        for way in WAYS:
            for era in ERAS:
                name = f"key-{way}-{era}"
                async with daemon.client(way, era, token=key, elicit=open_it) as client:
                    kept = await client.call_tool("secret_set", {"name": name})
                    heard.append(kept)
                    again = await client.call_tool(
                        "secret_set", {"name": name}, raise_on_error=False
                    )
                    assert failure(again)["code"] == "secret_exists"
                assert kept.structured_content
                assert kept.structured_content["name"] == name
        listed = json.loads(home.cli("secret", "list", "--json").stdout)
        names = {one["name"] for one in listed["entries"]}
    assert len(names) == len(urls) == len(set(urls)) == len(WAYS) * len(ERAS)
    assert VALUE not in repr(heard)
