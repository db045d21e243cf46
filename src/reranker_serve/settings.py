"""Every option, declared once: its name, type, default, bounds and one sentence.

Environment names (`RERANKER_` + name), command-line flags (`--` + name) and the table in the
README derive from these fields.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationInfo, field_validator

from reranker_serve.keys import Key, parse_list
from reranker_serve.model_names import as_path, name_of
from reranker_serve.rates import Rates

# As browsers write it: lower case, no port where it is the scheme's own, no path.
ORIGIN = re.compile(r"[a-z][a-z0-9+.-]*://(\[[0-9a-f:]+\]|[a-z0-9._-]+)(:[0-9]{1,5})?")

LogLevel = Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"]
LogFormat = Literal["text", "json"]


class Settings(BaseModel):
    """The server's configuration; frozen."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    host: str = Field("0.0.0.0", min_length=1, description="address to listen on")
    port: int = Field(8000, ge=1, le=65535, description="port to listen on")
    workers: int = Field(1, ge=1, le=256, description="worker processes, which share the port and divide the cores")
    model_name: str = Field(
        "BAAI/bge-reranker-v2-m3", min_length=1, description="hub id of the model, or a path to its folder"
    )
    model_path: Path | None = Field(None, description="local model folder, wins over the name")
    model_revision: str | None = Field(None, description="commit, tag or branch of the model on the hub; else `main`")
    model_cache_dir: Path = Field(Path("./models"), description="where downloads are kept")
    use_offline_mode: bool = Field(False, description="never touch the network")
    max_length: int = Field(
        512,
        ge=8,
        le=1_048_576,
        description="longest token sequence of one pair, prompt and all; the query keeps at most half",
    )
    batch_size: int = Field(
        32,
        ge=1,
        le=65_536,
        description="inference batch: `BATCH_SIZE` x `MAX_LENGTH` tokens is the budget of one forward pass"
        " (capped on a CPU: 2,048 tokens, 4,096 of a small model)",
    )
    prompt: str | None = Field(
        None, description="name of the prompt template for a language model whose files do not tell which one it needs"
    )
    instruction: str | None = Field(
        None,
        description="instruction for models that take one, where a request brings none; the model's own when not set",
    )
    trust_text: bool = Field(
        False,
        description="read the model's control tokens in queries and documents as such, as transformers does: only for"
        " texts that no stranger writes",
    )
    device: str | None = Field(
        None,
        description="`cuda` for all GPUs, `cuda:0,cuda:2` for these, `mps` or `cpu`; detected when not set, all GPUs if"
        " there are any",
    )
    use_fp16: bool = Field(
        True,
        description="half precision where the device gains from it: on CUDA bfloat16 for a checkpoint saved in it,"
        " else float16; bfloat16 on a CPU that multiplies it natively; float32 elsewhere, and where half precision"
        " overflows",
    )
    quantization: Literal["none", "int8"] = Field(
        "none",
        description="`int8` multiplies in 8-bit integers on a CPU: faster, with scores that differ a little more;"
        " not for embedding models",
    )
    cpu_threads: int | None = Field(
        None,
        ge=1,
        le=1024,
        description="threads of a worker for the model on a CPU; when not set as `OMP_NUM_THREADS` says, else all cores"
        " / `WORKERS`",
    )
    cpu_lanes: int | None = Field(
        None,
        ge=1,
        le=64,
        description="replicas of the model on a CPU, which divide its cores and threads; when not set one for each NUMA"
        " node whose cores the process has to itself",
    )
    calibration: Path | None = Field(
        None,
        description="file that `reranker-serve calibrate` wrote for this model: each result then has its `probability`"
        " of being relevant",
    )
    min_score: float | None = Field(
        None,
        ge=0,
        le=1,
        description="documents whose `relevance_score` is below do not come back, where a request does not say"
        " otherwise (`min_score`)",
    )
    min_probability: float | None = Field(
        None,
        ge=0,
        le=1,
        description="the same for the `probability` of a calibration (`min_probability` in a request)",
    )
    api_key: SecretStr | None = Field(
        None,
        description="key a caller must present, as such or as `sha256:` and its hash; several separated by commas; open"
        " to all when neither this nor a file is set",
    )
    api_key_file: Path | None = Field(
        None,
        description="file of keys, one a line: `key` or `name: key`, and behind a key its own limits, if any, as in"
        " `RERANKER_RATE_LIMIT`; read again when it changes",
    )
    rate_limit: str | None = Field(
        None,
        description="most that a key, or an address where there are no keys, may have in a minute or a day:"
        " `600 requests`, `1000000 tokens`, `50000000 tokens a day`, or several with commas; no limit when not set",
    )
    limits_url: SecretStr | None = Field(
        None,
        description="Redis where all workers and replicas count together what callers have had: `redis://host:6379/0`;"
        " without it each counts by itself",
    )
    usage_file: Path | None = Field(
        None,
        description="SQLite file where usage is counted by day, key and model, and what keys have had of a day; without"
        " it all of that is forgotten at the end of the process",
    )
    strict_model: bool = Field(False, description="answer 404 to requests that name another model")
    max_documents: int = Field(10_000, ge=1, description="most documents in one request")
    max_body_bytes: int = Field(33_554_432, ge=1024, description="largest request body in bytes")
    max_buffered_bytes: int = Field(
        268_435_456,
        ge=1024,
        validate_default=True,
        description="most bytes of all request bodies that one process holds at once; beyond it callers get 503",
    )
    max_queue_tokens: int = Field(
        2_000_000, ge=1, description="most tokens admitted and not yet computed; beyond it callers get 429"
    )
    max_queue_seconds: float = Field(
        30.0,
        gt=0,
        le=86_400,
        description="most seconds of computing that may wait before a request, by the measured speed; beyond it, and"
        " where it could not be done within its timeout, callers get 429",
    )
    cache_entries: int = Field(
        100_000,
        ge=0,
        le=100_000_000,
        description="scores kept for pairs that are asked again, about 0.3 kB each; 0 computes every pair",
    )
    request_timeout: float = Field(
        300.0, gt=0, le=86_400, description="seconds after which a request is given up with 504"
    )
    batch_timeout: float = Field(
        300.0,
        gt=0,
        le=86_400,
        description="seconds one forward pass may take before the model counts as hanging and the process ends, so"
        " that a supervisor starts it anew",
    )
    drain_delay: float = Field(
        1.0,
        ge=0,
        le=3600,
        description="seconds after SIGTERM in which requests are still taken while `/ready` answers 503, so that a"
        " load balancer moves on",
    )
    drain_timeout: float = Field(
        30.0,
        gt=0,
        le=86_400,
        description="seconds after SIGTERM within which admitted requests are answered; what is left is dropped and"
        " counted in the log",
    )
    read_timeout: float = Field(
        30.0,
        gt=0,
        le=86_400,
        description="seconds a caller may take to send a request's headers, and again its body, and for which it may"
        " take nothing of a reply",
    )
    keep_alive: float = Field(
        75.0, gt=0, le=86_400, description="seconds a connection is kept open between requests; longer than proxies do"
    )
    max_connections: int = Field(
        4096, ge=1, le=1_000_000, description="most open connections of one process; more are closed at once"
    )
    enable_docs: bool = Field(True, description="serve `/docs` and `/openapi.json`")
    enable_page: bool = Field(True, description="serve the page for browsers at `/`")
    enable_metrics: bool = Field(True, description="serve `/metrics` and `/stats`")
    cors_origins: str | None = Field(
        None,
        description="sites whose pages may call from a browser: `https://app.example.com`, several separated by commas,"
        " or `*`; none when not set",
    )
    tls_certfile: Path | None = Field(None, description="certificate chain (PEM); serves HTTPS together with the key")
    tls_keyfile: Path | None = Field(None, description="private key of the certificate (PEM)")
    log_level: LogLevel = Field("INFO", description="`DEBUG`, `INFO`, `WARNING`, `ERROR` or `CRITICAL`")
    log_format: LogFormat = Field("text", description="`text`, or `json`: one object a line")

    @field_validator("device", mode="before")
    @classmethod
    def _known_device(cls, value: object) -> object:
        device = str(value).strip().lower() if value is not None else "auto"
        if device == "auto":
            return None
        named = [part.strip() for part in device.split(",")]
        if not re.fullmatch(r"cpu|mps|cuda|cuda:\d+(,cuda:\d+)*", ",".join(named)):
            raise ValueError("should be cuda, or GPUs like cuda:0,cuda:2, or mps, cpu or auto")
        if len({int(part.partition(":")[2] or 0) for part in named}) < len(named):
            raise ValueError("should name each GPU once")
        return ",".join(named)

    @field_validator("min_probability")
    @classmethod
    def _has_a_calibration(cls, value: float | None, info: ValidationInfo) -> float | None:
        if value is not None and info.data.get("calibration") is None:
            raise ValueError("needs RERANKER_CALIBRATION, a file that `reranker-serve calibrate` writes")
        return value

    @field_validator("max_buffered_bytes")
    @classmethod
    def _holds_a_body(cls, value: int, info: ValidationInfo) -> int:
        if value < info.data.get("max_body_bytes", 0):
            raise ValueError("should be at least RERANKER_MAX_BODY_BYTES")
        return value

    @field_validator("api_key")
    @classmethod
    def _holds_a_key(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None:
            parse_list(value.get_secret_value())
        return value

    @field_validator("rate_limit")
    @classmethod
    def _tells_rates(cls, value: str | None) -> str | None:
        if value is not None:
            Rates.parse(value)
        return value

    @field_validator("limits_url")
    @classmethod
    def _is_a_store(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and not re.fullmatch(r"(rediss?|redis\+unix)://\S+", value.get_secret_value()):
            raise ValueError("should be like 'redis://host:6379/0', 'rediss://...' or 'redis+unix:///path/to/socket'")
        return value

    @field_validator("cors_origins")
    @classmethod
    def _are_origins(cls, value: str | None) -> str | None:
        origins = _parts(value)
        if value is not None and origins != ("*",):
            wrong = [origin for origin in origins if not ORIGIN.fullmatch(origin)]
            if wrong or not origins:
                raise ValueError("should be '*', or like 'https://app.example.com', in lower case and without a path")
        return value

    @field_validator("log_level", mode="before")
    @classmethod
    def _upper(cls, value: object) -> object:
        return value.upper() if isinstance(value, str) else value

    @property
    def api_keys(self) -> tuple[Key, ...]:
        """The keys of `RERANKER_API_KEY`; those of the file are not among them."""
        return parse_list(self.api_key.get_secret_value()) if self.api_key else ()

    @property
    def needs_key(self) -> bool:
        """False if the server is open to all."""
        return self.api_key is not None or self.api_key_file is not None

    @property
    def rates(self) -> Rates | None:
        """What a caller may have, unless its key has limits of its own; None: there is no limit."""
        return Rates.parse(self.rate_limit) if self.rate_limit else None

    def token_budget(self, cap: int | None) -> int:
        """Tokens of one forward pass: what is configured, up to the `cap` where the device gains nothing from more."""
        configured = self.batch_size * self.max_length
        return configured if cap is None else min(configured, cap)

    @property
    def allowed_origins(self) -> tuple[str, ...]:
        """Sites whose pages may call; empty: none."""
        return _parts(self.cors_origins)

    @property
    def model_folder(self) -> Path | None:
        """The folder that is to be served; None where the hub's model of that name is."""
        return self.model_path.expanduser() if self.model_path else as_path(self.model_name)

    @property
    def served_name(self) -> str:
        """The model's name in replies: the hub id, or the folder's name where only a folder was given."""
        folder = self.model_folder
        if folder is None or (self.model_path and "model_name" in self.model_fields_set):
            return self.model_name
        return name_of(folder)


def _parts(text: str | None) -> tuple[str, ...]:
    return tuple(part.strip() for part in (text or "").split(",") if part.strip())
