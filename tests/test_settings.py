from __future__ import annotations

from pathlib import Path

import pytest

from reranker_serve.environment import environment_name, load_settings
from reranker_serve.errors import SettingsError
from reranker_serve.keys import parse_key
from reranker_serve.rates import Kind, Limit, Period, Rates
from reranker_serve.settings import Settings

NO_FILE = Path("/nonexistent")


def read(environ: dict[str, str], env_file: Path = NO_FILE) -> tuple[Settings, list[str]]:
    return load_settings(environ, env_file=env_file)


def test_the_defaults() -> None:
    settings, warnings = read({})
    assert warnings == []
    assert (settings.host, settings.port, settings.workers) == ("0.0.0.0", 8000, 1)
    assert settings.model_name == settings.served_name == "BAAI/bge-reranker-v2-m3"
    assert settings.model_path is None
    assert settings.model_cache_dir == Path("models")
    assert (settings.use_offline_mode, settings.use_fp16) == (False, True)
    assert (settings.max_length, settings.batch_size) == (512, 32)
    assert (settings.device, settings.api_keys, settings.log_level) == (None, (), "INFO")
    assert settings.api_key is None
    assert (settings.cpu_threads, settings.strict_model) == (None, False)
    assert (settings.max_documents, settings.max_body_bytes, settings.max_queue_tokens) == (10_000, 2**25, 2_000_000)
    assert (settings.cache_entries, settings.request_timeout) == (100_000, 300)


def test_the_environment_wins_over_the_file_and_empty_means_not_set(tmp_path: Path) -> None:
    file = tmp_path / ".env"
    file.write_text("RERANKER_PORT=9000\nRERANKER_MAX_LENGTH=256\nRERANKER_DEVICE=\nOTHER=1\n# RERANKER_HOST=x\n")
    settings, warnings = read({"RERANKER_PORT": "9001", "RERANKER_LOG_LEVEL": " "}, file)
    assert (settings.port, settings.max_length, settings.device, settings.log_level) == (9001, 256, None, "INFO")
    assert warnings == []


MALFORMED = [
    ("PORT", "eighty", "integer"),
    ("PORT", "0", "greater"),
    ("PORT", "70000", "65535"),
    ("WORKERS", "-1", "greater"),
    ("MAX_LENGTH", "7", "greater than or equal to 8"),
    ("BATCH_SIZE", "1.5", "integer"),
    ("USE_OFFLINE_MODE", "maybe", "boolean"),
    ("DEVICE", "tpu", "cuda"),
    ("DEVICE", "cuda:x", "cuda"),
    ("DEVICE", "cuda:0,cuda:0", "each GPU once"),
    ("DEVICE", "cuda:1,cuda:01", "each GPU once"),
    ("DEVICE", "cuda:0,cpu", "cuda:0,cuda:2"),
    ("DEVICE", "cuda,cuda:1", "cuda:0,cuda:2"),
    ("CPU_LANES", "0", "greater"),
    ("REQUEST_TIMEOUT", "0", "greater"),
    ("BATCH_TIMEOUT", "0", "greater"),
    ("DRAIN_TIMEOUT", "0", "greater"),
    ("READ_TIMEOUT", "0", "greater"),
    ("KEEP_ALIVE", "0", "greater"),
    ("DRAIN_DELAY", "-1", "greater than or equal to 0"),
    ("MAX_CONNECTIONS", "0", "greater"),
    ("ENABLE_DOCS", "2", "boolean"),
    ("ENABLE_PAGE", "2", "boolean"),
    ("ENABLE_METRICS", "2", "boolean"),
    ("REQUEST_TIMEOUT", "nan", "less than"),
    ("LOG_LEVEL", "verbose", "'INFO'"),
    ("LOG_FORMAT", "xml", "'json'"),
    ("REQUEST_TIMEOUT", "inf", "less than"),
    ("USE_FP16", "half", "boolean"),
    ("STRICT_MODEL", "2", "boolean"),
    ("TRUST_TEXT", "some", "boolean"),
    ("CPU_THREADS", "0", "greater"),
    ("QUANTIZATION", "int4", "'int8'"),
    ("MIN_SCORE", "-0.1", "greater"),
    ("MIN_SCORE", "nan", "less than"),
    ("MIN_PROBABILITY", "1.1", "less than"),
    ("MIN_PROBABILITY", "0.9", "needs RERANKER_CALIBRATION"),
    ("MAX_DOCUMENTS", "0", "greater"),
    ("MAX_BODY_BYTES", "1k", "integer"),
    ("MAX_BODY_BYTES", "1000", "1024"),
    ("MAX_BUFFERED_BYTES", "33554431", "should be at least RERANKER_MAX_BODY_BYTES"),
    ("MAX_QUEUE_TOKENS", "-5", "greater"),
    ("MAX_QUEUE_SECONDS", "0", "greater than 0"),
    ("CACHE_ENTRIES", "-1", "greater"),
    ("PORT", "80\n81", "integer"),
    ("RATE_LIMIT", "600", "should be like '600 requests"),
    ("RATE_LIMIT", "0 requests", "should be like"),
    ("RATE_LIMIT", "5 requests, 5 requests", "should be like"),
    ("RATE_LIMIT", "5 requests,", "should be like"),
    ("RATE_LIMIT", "5 documents", "should be like"),
    ("RATE_LIMIT", "5 requests a year", "should be like '600 requests, 2000000 tokens a day'"),
    ("RATE_LIMIT", "1 token a minute, 2 tokens", "none of them twice"),
    ("LIMITS_URL", "store:6379", "should be like 'redis://"),
    ("CORS_ORIGINS", "app.example.com", "like 'https://app.example.com'"),
    ("CORS_ORIGINS", "https://app.example.com/", "without a path"),
    ("CORS_ORIGINS", "https://App.example.com", "in lower case"),
    ("CORS_ORIGINS", "https://app.example.com, *", "should be '*', or"),
    ("CORS_ORIGINS", "null", "should be '*', or"),
    ("CORS_ORIGINS", ",", "should be '*', or"),
    ("API_KEY", ",,", "at least one key"),
    ("API_KEY", " , ", "at least one key"),
    ("API_KEY", "good,sha256:abc", "64 hex digits"),
]


def test_a_body_must_fit_what_all_bodies_may_take() -> None:
    with pytest.raises(
        SettingsError, match="RERANKER_MAX_BUFFERED_BYTES='268435456' is not valid: it should be at least"
    ):
        read({"RERANKER_MAX_BODY_BYTES": "268435457"})


def test_every_setting_that_can_be_malformed_is_tried() -> None:
    any_text = {
        "host",
        "model_name",
        "model_path",
        "model_revision",
        "model_cache_dir",
        "prompt",
        "instruction",
        "calibration",
        "tls_certfile",
        "tls_keyfile",
        "api_key_file",
        "usage_file",
    }
    assert {name.lower() for name, _, _ in MALFORMED} == Settings.model_fields.keys() - any_text


@pytest.mark.parametrize(("name", "value", "said"), MALFORMED)
def test_a_malformed_value_is_one_line_that_names_the_variable(name: str, value: str, said: str) -> None:
    with pytest.raises(SettingsError) as caught:
        read({f"RERANKER_{name}": value})
    line = str(caught.value)
    assert line.startswith(f"RERANKER_{name}=")
    assert said in line
    assert "\n" not in line


def test_an_unknown_name_is_warned_about_with_the_nearest_known_one(tmp_path: Path) -> None:
    file = tmp_path / ".env"
    file.write_text("RERANKER_MODELPATH=x\n")
    _, warnings = read({"RERANKER_BATCHSIZE": "3", "PATH": "/bin"}, file)
    assert len(warnings) == 2
    assert "RERANKER_MODELPATH is ignored; the nearest known one is RERANKER_MODEL_PATH" in warnings[0]
    assert "RERANKER_BATCHSIZE is ignored; the nearest known one is RERANKER_BATCH_SIZE" in warnings[1]


def test_what_kubernetes_sets_for_a_service_named_reranker_is_recognised() -> None:
    settings, warnings = read(
        {
            "RERANKER_PORT": "tcp://10.0.0.1:8000",
            "RERANKER_PORT_8000_TCP": "tcp://10.0.0.1:8000",
            "RERANKER_PORT_8000_TCP_PROTO": "tcp",
            "RERANKER_PORT_8000_TCP_PORT": "8000",
            "RERANKER_PORT_8000_TCP_ADDR": "10.0.0.1",
            "RERANKER_SERVICE_HOST": "10.0.0.1",
            "RERANKER_SERVICE_PORT": "8000",
            "RERANKER_SERVICE_PORT_HTTP": "8000",
        }
    )
    assert settings.port == 8000
    assert "port" not in settings.model_fields_set
    (warning,) = warnings
    assert "Kubernetes" in warning
    assert "enableServiceLinks: false" in warning


def test_keys_are_several_and_never_shown() -> None:
    settings, _ = read({"RERANKER_API_KEY": "s3cret, sch\u00fcssel ,"})
    assert settings.api_keys == (parse_key("s3cret"), parse_key("sch\u00fcssel"))
    assert "s3cret" not in repr(settings)
    assert "s3cret" not in str(settings.model_dump())


@pytest.mark.parametrize(
    ("text", "limits"),
    [
        ("600 requests", [(600, "requests", "minute")]),
        ("1 token per day", [(1, "tokens", "day")]),
        ("1000000 tokens,  600 requests a minute", [(600, "requests", "minute"), (1_000_000, "tokens", "minute")]),
        (
            "7 tokens a day, 6 requests a day, 60 tokens",
            [(60, "tokens", "minute"), (6, "requests", "day"), (7, "tokens", "day")],
        ),
    ],
)
def test_a_rate_limit_is_for_a_minute_unless_it_says_a_day(text: str, limits: list[tuple[int, Kind, Period]]) -> None:
    assert read({"RERANKER_RATE_LIMIT": text})[0].rates == Rates(tuple(Limit(*limit) for limit in limits))


def test_a_limit_is_divided_between_processes_that_do_not_know_of_each_other() -> None:
    assert Limit(600, "requests", "day").share(4) == Limit(150, "requests", "day")
    assert Limit(1, "tokens", "minute").share(4) == Limit(1, "tokens", "minute")


@pytest.mark.parametrize("url", ["redis://:s3cret@store:6379/0", "rediss://store", "redis+unix:///run/redis.sock"])
def test_the_address_of_the_store_of_limits_is_taken_and_never_shown(url: str) -> None:
    settings, _ = read({"RERANKER_LIMITS_URL": url})
    assert settings.limits_url is not None
    assert settings.limits_url.get_secret_value() == url
    assert "s3cret" not in repr(settings)


@pytest.mark.parametrize("url", ["store:6379", "memcached://s3cret", "redis:/s3cret"])
def test_an_address_of_no_store_is_one_line_without_it(url: str) -> None:
    with pytest.raises(SettingsError, match=r"RERANKER_LIMITS_URL=\*\*\* is not valid: it should be") as caught:
        read({"RERANKER_LIMITS_URL": url})
    assert "s3cret" not in str(caught.value)


def test_a_folder_is_served_under_its_name_unless_a_name_is_given(tmp_path: Path) -> None:
    folder = str(tmp_path / "my-model")
    assert read({"RERANKER_MODEL_PATH": folder})[0].served_name == "my-model"
    both = {"RERANKER_MODEL_PATH": folder, "RERANKER_MODEL_NAME": "team/reranker"}
    assert read(both)[0].served_name == "team/reranker"
    assert read({"RERANKER_MODEL_NAME": folder})[0].served_name == "my-model"
    snapshot = str(tmp_path / "models--team--my--reranker" / "snapshots" / "0123abc")
    assert read({"RERANKER_MODEL_PATH": snapshot})[0].served_name == "team/my--reranker"


@pytest.mark.parametrize("environ", [{"RERANKER_PORT": "x"}, {"RERANKER_LOG_LEVEL": "loud"}])
def test_a_key_is_in_no_error(environ: dict[str, str]) -> None:
    with pytest.raises(SettingsError) as caught:
        read(environ | {"RERANKER_API_KEY": "s3cret"})
    assert "s3cret" not in str(caught.value)
    with pytest.raises(SettingsError, match=r"RERANKER_API_KEY=\*\*\* is not valid"):
        read({"RERANKER_API_KEY": ", ,"})


def test_a_key_in_an_unknown_name_is_not_shown() -> None:
    _, warnings = read({"RERANKER_API_KEYS": "s3cret"})
    assert "RERANKER_API_KEY" in warnings[0]
    assert "s3cret" not in warnings[0]


def test_settings_cannot_be_changed() -> None:
    settings, _ = read({})
    with pytest.raises(ValueError, match="frozen"):
        settings.port = 1  # type: ignore[misc]


def test_an_env_file_that_is_not_text_is_one_line(tmp_path: Path) -> None:
    (tmp_path / ".env").write_bytes(b"RERANKER_PORT=\xff\xfe\n")
    with pytest.raises(SettingsError, match="cannot be read"):
        read({}, tmp_path / ".env")


def test_every_field_has_a_sentence() -> None:
    for name, field in Settings.model_fields.items():
        assert field.description, environment_name(name)
