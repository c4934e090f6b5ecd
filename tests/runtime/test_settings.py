"""A process that is not told what it needs says which variables to set, and exits with code 2."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import SecretStr
from pydantic_settings import BaseSettings

from compose.sandbox.app import SandboxSettings
from events.runtime.settings import ENV_PREFIX, ServiceSettings, read_settings
from fulfillment_svc.gateway import FulfillmentSettings
from notification_svc.gateway import NotificationSettings
from payment_svc.gateway import ProviderSettings
from payment_svc.service import PaymentSettings
from saga_tracker.settings import TrackerSettings

GOOD = {
    "BROKER_URL": "amqp://toy:toy@127.0.0.1/",
    "DATABASE_URL": "postgresql://toy:toy@127.0.0.1/toy",
    "HTTP_PORT": "8000",
}


@pytest.fixture(autouse=True)
def _nothing_set(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith(ENV_PREFIX):
            monkeypatch.delenv(name)


def complaints(kind: type[BaseSettings], capsys: pytest.CaptureFixture[str]) -> list[str]:
    """The variables that reading these settings complains about."""
    with pytest.raises(SystemExit) as exit_:
        read_settings(kind)
    assert exit_.value.code == 2
    lines = capsys.readouterr().err.splitlines()
    assert all(line.startswith(f"configuration: {ENV_PREFIX}") for line in lines)
    return [line.split()[1].removesuffix(":") for line in lines]


@pytest.mark.parametrize(
    ("kind", "gateways"),
    [
        (ServiceSettings, []),
        (TrackerSettings, []),
        (ProviderSettings, ["PROVIDER_URL"]),
        (FulfillmentSettings, ["CARRIER_URL", "DIRECTORY_URL"]),
        (NotificationSettings, ["DIRECTORY_URL", "PUSH_URL", "SMTP_URL"]),
    ],
)
def test_every_missing_variable_is_named(
    kind: type[BaseSettings], gateways: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    expected = {f"MURMURATION_{name}" for name in [*GOOD, *gateways]}
    assert set(complaints(kind, capsys)) == expected


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("HTTP_PORT", "eighty"),
        ("MAX_MESSAGE_BYTES", "300000"),
        ("DATABASE_POOL_SIZE", "1"),
        ("BATCH_SIZE", "0"),
        ("CALL_TIMEOUT_SECONDS", "-1"),
        ("LOG_FORMAT", "xml"),
        ("BROKER_NODES", "rabbitmq-2:5672"),
        ("BROKER_NODES", '["rabbitmq-2"]'),
        ("STEP_DEADLINE_SECONDS", "{payment: 3}"),
        ("STEP_DEADLINE_SECONDS", '{"payment": -3}'),
        ("STEP_DEADLINE_SECONDS", '{"cooking": 3}'),
    ],
)
def test_a_wrong_value_is_named(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for good_name, good in GOOD.items():
        monkeypatch.setenv(ENV_PREFIX + good_name, good)
    kind = TrackerSettings if name.startswith("STEP") else ServiceSettings
    read_settings(kind)
    monkeypatch.setenv(ENV_PREFIX + name, value)
    assert complaints(kind, capsys) == [ENV_PREFIX + name]


@pytest.mark.parametrize(
    ("value", "table"),
    [
        (None, {"default": 1_000_000}),
        ("5000", {"default": 5_000}),
        ('{"default": 5000, "JPY": 0, "KWD": 1000000000000}', {"default": 5_000, "JPY": 0, "KWD": 10**12}),
    ],
)
def test_the_limit_of_what_needs_an_approval_is_a_number_or_a_table(
    value: str | None, table: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, good in (GOOD | {"PROVIDER_URL": "http://127.0.0.1:1/"}).items():
        monkeypatch.setenv(ENV_PREFIX + name, good)
    if value is not None:
        monkeypatch.setenv(ENV_PREFIX + "APPROVAL_LIMIT_MINOR", value)
    assert read_settings(PaymentSettings).approval_limit_minor == table


@pytest.mark.parametrize(
    "value",
    [
        "-1",
        "true",
        "many",
        "[1]",
        '{"JPY": 1}',
        '{"default": -1}',
        '{"default": "1"}',
        '{"default": 1.0}',
        '{"default": 1, "EUX": 1}',
        '{"default": 1, "XAU": 1}',
        '{"default": 1, "jpy": 1}',
    ],
)
def test_any_other_limit_is_refused(
    value: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, good in (GOOD | {"PROVIDER_URL": "http://127.0.0.1:1/"}).items():
        monkeypatch.setenv(ENV_PREFIX + name, good)
    monkeypatch.setenv(ENV_PREFIX + "APPROVAL_LIMIT_MINOR", value)
    assert complaints(PaymentSettings, capsys) == [ENV_PREFIX + "APPROVAL_LIMIT_MINOR"]


def test_a_token_does_not_show_up_in_a_printout(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, good in GOOD.items():
        monkeypatch.setenv(ENV_PREFIX + name, good)
    monkeypatch.setenv(ENV_PREFIX + "ADMIN_TOKEN", "let-me-in")
    assert "let-me-in" not in repr(read_settings(ServiceSettings))


SECRET_SETTINGS = [
    (ServiceSettings, "ADMIN_TOKEN"),
    (ServiceSettings, "BROKER_URL"),
    (ServiceSettings, "DATABASE_URL"),
    (TrackerSettings, "PROVIDER_LEDGER_URL"),
    (ProviderSettings, "PROVIDER_URL"),
    (ProviderSettings, "PROVIDER_TOKEN"),
    (FulfillmentSettings, "CARRIER_TOKEN"),
    (FulfillmentSettings, "DIRECTORY_TOKEN"),
    (NotificationSettings, "PUSH_TOKEN"),
    (NotificationSettings, "SMTP_PASSWORD"),
    (SandboxSettings, "ADMIN_TOKEN"),
]
GATEWAYS = dict.fromkeys(("PROVIDER_URL", "CARRIER_URL", "DIRECTORY_URL", "PUSH_URL"), "http://127.0.0.1:1/")


@pytest.mark.parametrize(("kind", "name"), SECRET_SETTINGS)
def test_a_secret_may_be_in_a_file(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    kind: type[BaseSettings],
    name: str,
) -> None:
    every = {
        **GOOD,
        **GATEWAYS,
        "SMTP_URL": "smtp://127.0.0.1:1",
        "SMTP_USERNAME": "mail",
        "SMTP_PASSWORD": "x",
    }
    for other, good in every.items():
        if other != name:
            monkeypatch.setenv(ENV_PREFIX + other, good)
    monkeypatch.delenv(ENV_PREFIX + name, raising=False)
    secret = tmp_path / "secret"
    secret.write_text("http://of:the-file@127.0.0.1/\n")
    monkeypatch.setenv(f"{ENV_PREFIX}{name}_FILE", str(secret))
    found = getattr(read_settings(kind), name.lower())
    plain = found.get_secret_value() if isinstance(found, SecretStr) else found
    assert plain == "http://of:the-file@127.0.0.1/"

    monkeypatch.setenv(ENV_PREFIX + name, "http://of:the-variable@127.0.0.1/")
    with pytest.raises(SystemExit, match="2"):
        read_settings(kind)
    variable = ENV_PREFIX + name
    complaint = f"configuration: {variable}: {variable}_FILE is set as well; leave out one of them\n"
    assert capsys.readouterr().err == complaint

    monkeypatch.delenv(variable)
    secret.unlink()
    with pytest.raises(SystemExit, match="2"):
        read_settings(kind)
    assert capsys.readouterr().err == f"configuration: {variable}_FILE: No such file or directory\n"


def test_an_empty_file_is_as_good_as_none(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name, good in GOOD.items():
        monkeypatch.setenv(ENV_PREFIX + name, good)
    (tmp_path / "empty").write_text("\n")
    monkeypatch.setenv(f"{ENV_PREFIX}ADMIN_TOKEN_FILE", str(tmp_path / "empty"))
    assert read_settings(ServiceSettings).admin_token is None


def test_a_process_exits_with_code_2_and_no_traceback() -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith(ENV_PREFIX)}
    ended = subprocess.run(
        [sys.executable, "-m", "payment_svc"], env=environment, capture_output=True, text=True, check=False
    )
    assert ended.returncode == 2
    assert ended.stdout == ""
    assert "MURMURATION_PROVIDER_URL" in ended.stderr
    assert "Traceback" not in ended.stderr
