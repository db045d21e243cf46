"""Writes the replies of `golden/*.json` anew, for a change that is meant: the diff is what to review.

python -m tests.api.record_golden
"""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import httpx

from reranker_serve.app import create_app
from reranker_serve.backends.fake import fake_scorer
from tests.conftest import fake_settings

FOLDER = Path(__file__).parent / "golden"
CHANGING = ("id", "created", "timings")


async def record() -> None:
    app = create_app(fake_settings(model_name="fake", max_documents="20"), fake_scorer())
    transport = httpx.ASGITransport(app)
    async with app.router.lifespan_context(app), httpx.AsyncClient(transport=transport, base_url="http://test") as http:
        for path in sorted(FOLDER.glob("*.json")):
            case = json.loads(path.read_text())
            reply = await http.post(case["path"], json=case["request"], headers=case.get("headers"))
            body = reply.json()
            case["status"] = reply.status_code
            case["changing"] = [name for name in CHANGING if isinstance(body, dict) and name in body]
            case["reply"] = (
                {name: value for name, value in body.items() if name not in CHANGING}
                if isinstance(body, dict)
                else body
            )
            path.write_text(json.dumps(case, indent=2) + "\n")


if __name__ == "__main__":
    asyncio.run(record())
