"""The server of this project: it follows the genome files by itself, so it is only ever asked what it serves."""

from typing import Final

import httpx
from pydantic import BaseModel, ValidationError

from daemon.errors import RuntimeUnreachable
from daemon.runtimes.failures import in_words
from daemon.runtimes.runtime import Observation

TIMEOUT: Final = 5.0
"""Seconds; the server answers this question from memory."""


class GenomeReport(BaseModel):
    """What a server says of one persona; `in_flight` counts requests per TRAIT@VERSION, or base."""

    persona: str
    revision: int
    base_model: str = ""
    traits: dict[str, int] = {}
    in_flight: dict[str, int] = {}
    error: str | None = None


class GenomesReport(BaseModel):
    """The answer of GET /v1/genomes."""

    genomes: list[GenomeReport]


class EmbeddedRuntime:
    """`persona serve`, here or on another machine."""

    kind = "embedded"

    def __init__(self, name: str, url: str, token: str = "", key: str = "serve.token") -> None:
        """The token stands at `key` in config.toml."""
        self.name = name
        self._key = key
        self.url = url.rstrip("/")
        headers = {"authorization": f"Bearer {token}"} if token else {}
        # Proxies of the environment are meant for the internet, not for a server of one's own.
        self._client = httpx.AsyncClient(headers=headers, trust_env=False)

    async def observe(self) -> dict[str, Observation]:
        """The revision served now, per persona; raises RuntimeUnreachable."""
        return {report.persona: Observation(report.revision, report.error) for report in await self.reports()}

    async def reports(self) -> list[GenomeReport]:
        """All that the server says of its personas; raises RuntimeUnreachable."""
        try:
            response = await self._client.get(f"{self.url}/v1/genomes", timeout=TIMEOUT)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            what = in_words(error, TIMEOUT)
            raise RuntimeUnreachable(f"The server at {self.url} does not answer ({what}); is it running?") from None
        if response.status_code == httpx.codes.UNAUTHORIZED:
            raise RuntimeUnreachable(f"The server at {self.url} wants another token; set {self._key} to its own.")
        if response.status_code != httpx.codes.OK:
            raise RuntimeUnreachable(f"The server at {self.url} answers /v1/genomes with {response.status_code}.")
        try:
            return GenomesReport.model_validate_json(response.content).genomes
        except ValidationError:
            raise RuntimeUnreachable(f"What answers at {self.url} is not `persona serve`.") from None

    async def close(self) -> None:
        """Let go of the connections."""
        await self._client.aclose()
