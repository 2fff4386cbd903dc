"""What a whole gateway tells of requests that never became any."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

from tests.runtime.running import running


async def test_a_malformed_head_is_counted_and_logged_though_there_was_no_request(tmp_path: Path) -> None:
    log = tmp_path / "access.log"
    folder = tmp_path / "policies"
    folder.mkdir()
    page = "endpoints: {}\n"
    async with running(folder, page, f"log: {{level: warning, access: {log}}}\n") as gateway:
        reader, writer = await asyncio.open_connection(*gateway.worker.http_address)
        writer.write(b"GET / HTTP/1.1\r\nHost : x\r\n\r\n")
        answer = await reader.read()
        writer.close()
        await writer.wait_closed()
        assert answer.startswith(b"HTTP/1.1 400 ")
        assert b'headgate_unread_total{code="bad_request",status="400"} 1.0' in gateway.worker.metrics()
    (line,) = [json.loads(text) for text in log.read_text().splitlines()]
    assert (line["client"], line["status"], line["reason"]) == ("127.0.0.1", 400, "bad_request")
