"""The files of `deploy/`: they are read by what they are for, and name only what exists."""

import configparser
import re
import shlex
import shutil
import subprocess
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

import usageflow
from usageflow.cli.app import app
from usageflow.cli.up import FLUSH_S_MAX, SERVER_STOP_S_MAX
from usageflow.config import Settings, variable

ROOT = Path(usageflow.__file__).parents[1]
DEPLOY = ROOT / "deploy"
FILES = sorted(path for path in DEPLOY.iterdir() if path.is_file())
SETTINGS = {variable(item.name): item for item in fields(Settings)}
COMMANDS: dict[str, Any] = get_command(app).commands  # type: ignore[attr-defined]
UNITS = ["usageflow.service", "usageflow-proxy.service"]
DRAINED_S = 2 * Settings().drain_timeout_s
"""A proxy drains its requests, then its spool."""


def text_of(name: str) -> str:
    """The text of a file."""
    return (DEPLOY / name).read_text(encoding="utf-8")


def parse_command(words: list[str]) -> None:
    """Read a command line of `usageflow` as the program would. Raises what it would."""
    COMMANDS[words[0]].make_context(words[0], words[1:])


def unit(name: str) -> configparser.RawConfigParser:
    """A systemd unit; of what is written several times the last."""
    parser = configparser.RawConfigParser(strict=False)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read_string(text_of(name))
    return parser


def environment(name: str) -> dict[str, str]:
    """The variables that a unit sets."""
    return dict(re.findall(r"(?m)^Environment=(\w+)=(.+)$", text_of(name)))


@pytest.fixture(scope="module")
def manifests() -> dict[str, Any]:
    """The Kubernetes objects by kind."""
    yaml = pytest.importorskip("yaml")
    return {each["kind"]: each for each in yaml.safe_load_all(text_of("kubernetes-sidecar.yaml"))}


@pytest.fixture(scope="module")
def sidecar(manifests: dict[str, Any]) -> dict[str, Any]:
    """The proxy's container."""
    pod: dict[str, Any] = manifests["Deployment"]["spec"]["template"]["spec"]
    (found,) = (each for each in pod["containers"] if each["name"] == "usageflow")
    return dict(found)


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_variables_are_settings(path: Path) -> None:
    """Nothing sets what nobody reads."""
    named = set(re.findall(r"\bUSAGEFLOW_[A-Z_]+\b", path.read_text(encoding="utf-8")))
    assert named <= SETTINGS.keys() | {"USAGEFLOW_CONFIG"}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_settings_in_comments_exist(path: Path) -> None:
    """A comment that names a limit or a timeout names it as it is."""
    text = path.read_text(encoding="utf-8")
    named = set(re.findall(r"\b[a-z]+_[a-z_]+_(?:s|max)\b", text))
    assert named <= {item.name for item in fields(Settings)}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_commands_exist(path: Path) -> None:
    """Every `usageflow COMMAND` in comments and text, with its options."""
    text = path.read_text(encoding="utf-8")
    for found in re.finditer(r"(?:\busageflow|`) (config|keys|proxy|serve|up)\b([^`\n#]*)", text):
        words = [found[1], *shlex.split(found[2], comments=True)]
        command = COMMANDS[words[0]]
        if hasattr(command, "commands"):
            command, words = command.commands[words[1]], words[1:]
        known = {option for parameter in command.params for option in parameter.opts}
        assert {word for word in words if word.startswith("--")} <= known, found[0]


def test_every_file_is_explained() -> None:
    """In the list of the folder, and by a comment of its own at the top."""
    listed = set(re.findall(r"`([^`/ ]+)`(?:, `([^`/ ]+)`)? \|", text_of("README.md")))
    names = {name for pair in listed for name in pair if name} | {"README.md"}
    assert names == {path.name for path in FILES}
    for path in FILES:
        assert path.read_text(encoding="utf-8").startswith("# ")


@pytest.mark.parametrize("name", UNITS)
def test_units_run_commands_that_exist(name: str) -> None:
    """With options that exist, and environments that are settings."""
    service = unit(name)["Service"]
    program, *words = shlex.split(service["ExecStart"])
    assert Path(program).name == "usageflow"
    parse_command(words)
    settings = Settings.read(environment(name))
    assert settings.spool_dir.startswith(f"/var/lib/{service['StateDirectory']}/")
    assert service["WorkingDirectory"] == f"/var/lib/{service['StateDirectory']}"


@pytest.mark.parametrize("name", UNITS)
def test_units_wait_for_the_end(name: str) -> None:
    """Nobody is killed who still drains or ships, and signals only the first process."""
    needed_s = DRAINED_S + FLUSH_S_MAX + (SERVER_STOP_S_MAX if name == "usageflow.service" else 0)
    service = unit(name)["Service"]
    assert int(service["TimeoutStopSec"]) > needed_s
    assert service["KillMode"] == "mixed"
    assert service["ExecReload"] == "/bin/kill -HUP $MAINPID"
    assert int(service["LimitNOFILE"]) > 2 * Settings().connections_max


@pytest.mark.parametrize("name", UNITS)
def test_units_are_confined(name: str) -> None:
    """What every service of ours must have."""
    service = unit(name)["Service"]
    for key, value in {
        "DynamicUser": "yes",
        "NoNewPrivileges": "yes",
        "ProtectSystem": "strict",
        "ProtectHome": "yes",
        "PrivateTmp": "yes",
        "CapabilityBoundingSet": "",
    }.items():
        assert service[key] == value


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="needs systemd")
@pytest.mark.parametrize("name", UNITS)
def test_systemd_understands_the_units(name: str, tmp_path: Path) -> None:
    """Every key and value; our program stands in for where it would be installed."""
    program = tmp_path / "usageflow"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    file = tmp_path / name
    file.write_text(text_of(name).replace("/opt/usageflow/bin/usageflow", str(program)))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(file)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert [line for line in done.stderr.splitlines() if name in line] == []


def test_the_image_is_made_of_files_that_exist() -> None:
    """Each of them is let through to the build; what is not let through is not copied."""
    copied = re.findall(r"(?m)^COPY (?!--from)(.+) \S+$", text_of("Dockerfile"))
    names = {name for line in copied for name in line.split()}
    assert names == set(re.findall(r"(?m)^!(.+)$", text_of("Dockerfile.dockerignore")))
    for name in names:
        assert (ROOT / name).exists()


def test_the_image_runs_the_proxy() -> None:
    """As nobody in particular, with its own settings, stopped as we stop."""
    text = text_of("Dockerfile")
    env = dict(re.findall(r"\b(USAGEFLOW_\w+)=(\S+?)(?: \\)?$", text, re.MULTILINE))
    own = {name: value for name, value in env.items() if not value.startswith("http")}
    settings = Settings.read(own)
    assert 'ENTRYPOINT ["usageflow"]\nCMD ["proxy"]' in text
    parse_command(["proxy"])
    assert "STOPSIGNAL SIGTERM" in text
    assert re.search(r"(?m)^USER \d+$", text)
    (volume,) = re.findall(r"(?m)^VOLUME (\S+)$", text)
    assert settings.spool_dir.startswith(volume)
    ports = re.findall(r"(?m)^EXPOSE (\d+) (\d+)$", text)
    assert settings.admin_listen is not None
    assert ports == [
        tuple(each.rpartition(":")[2] for each in (settings.listen, settings.admin_listen))
    ]
    assert f"http://127.0.0.1:{ports[0][1]}/healthz" in text


def test_the_image_is_installed_by_hash() -> None:
    """From the lock, and nothing else is fetched."""
    installs = re.findall(r"pip install (.+?)(?: \\)?$", text_of("Dockerfile"), re.MULTILINE)
    assert installs == [
        "--no-cache-dir --require-hashes -r requirements/all.txt",
        "--no-cache-dir --no-deps --no-build-isolation .",
    ]


@pytest.mark.parametrize("name", UNITS)
def test_units_are_installed_as_the_image_is(name: str) -> None:
    """From a checkout by hash, never by a name that may be somebody else's on an index."""
    text = text_of(name)
    assert re.findall(r"(?m)^#.*bin/pip install (.+)$", text) == [
        "--require-hashes -r requirements/all.txt",
        "--no-deps --no-build-isolation .",
    ]
    for path in re.findall(r"(?m)^#   install .*?(\S+) /etc/\S+\.(?:service|toml|system/)", text):
        assert (ROOT / path).is_file()


def test_the_sidecar_is_configured_by_settings(sidecar: dict[str, Any]) -> None:
    """Every variable is one of ours, and together they are settings that can run."""
    env = {each["name"]: each.get("value", "from a secret") for each in sidecar["env"]}
    settings = Settings.read(env)
    assert settings.upstream == "http://127.0.0.1:9000"
    assert env["USAGEFLOW_API_KEY"] == "from a secret"
    parse_command(sidecar["args"])


def test_the_service_reaches_the_api_only_through_the_proxy(
    manifests: dict[str, Any], sidecar: dict[str, Any]
) -> None:
    """Its port is the proxy's, and that of the admin address is in no Service."""
    ports = {each["name"]: each["containerPort"] for each in sidecar["ports"]}
    env = {each["name"]: each.get("value", "") for each in sidecar["env"]}
    (port,) = manifests["Service"]["spec"]["ports"]
    assert port["targetPort"] == "metered"
    assert env["USAGEFLOW_LISTEN"].endswith(f":{ports['metered']}")
    assert env["USAGEFLOW_ADMIN_LISTEN"].endswith(f":{ports['admin']}")
    selected = manifests["Service"]["spec"]["selector"]
    assert manifests["Deployment"]["spec"]["template"]["metadata"]["labels"] == selected


def test_the_pod_has_time_to_stop(manifests: dict[str, Any], sidecar: dict[str, Any]) -> None:
    """The API outlives the proxy's requests, and the pod outlives both."""
    pod = manifests["Deployment"]["spec"]["template"]["spec"]
    stops = {
        each["name"]: int(each["lifecycle"]["preStop"]["exec"]["command"][1])
        for each in pod["containers"]
    }
    drained_s = stops["usageflow"] + Settings().drain_timeout_s
    assert stops["api"] > drained_s
    needed_s = stops["usageflow"] + DRAINED_S + FLUSH_S_MAX
    assert pod["terminationGracePeriodSeconds"] > needed_s


def test_the_sidecar_is_probed_and_confined(sidecar: dict[str, Any]) -> None:
    """On the admin port; it can write to its volumes only, and the spool is one of them."""
    paths = {
        kind: sidecar[f"{kind}Probe"]["httpGet"] for kind in ("startup", "readiness", "liveness")
    }
    assert {each["port"] for each in paths.values()} == {"admin"}
    assert [each["path"] for each in paths.values()] == ["/readyz", "/readyz", "/healthz"]
    context = sidecar["securityContext"]
    assert (context["readOnlyRootFilesystem"], context["allowPrivilegeEscalation"]) == (True, False)
    mounts = {each["name"]: each["mountPath"] for each in sidecar["volumeMounts"]}
    env = {each["name"]: each.get("value", "") for each in sidecar["env"]}
    assert env["USAGEFLOW_SPOOL_DIR"].startswith(mounts["spool"] + "/")


def test_nginx_waits_longer_than_the_proxy() -> None:
    """It sends to where the proxy listens, keeps connections less long, and waits for its 504."""
    text = text_of("nginx.conf")
    settings = Settings()
    assert f"server {settings.listen};" in text
    (kept_s,) = re.findall(r"keepalive_timeout (\d+)s;", text)
    assert int(kept_s) < settings.client_idle_timeout_s
    (read_s,) = re.findall(r"proxy_read_timeout (\d+)s;", text)
    assert int(read_s) > settings.upstream_read_timeout_s


@pytest.mark.skipif(shutil.which("nginx") is None, reason="needs nginx")
def test_nginx_understands_its_file(tmp_path: Path) -> None:
    """All but the certificate, which is not here."""
    site = re.sub(r"(?m)^\s*(ssl_|listen).*$", "", text_of("nginx.conf"))
    (tmp_path / "site.conf").write_text(site)
    (tmp_path / "nginx.conf").write_text(
        f"pid {tmp_path}/pid; error_log {tmp_path}/log; events {{}} "
        f"http {{ access_log off; include {tmp_path}/site.conf; }}"
    )
    done = subprocess.run(
        [str(shutil.which("nginx")), "-t", "-q", "-c", str(tmp_path / "nginx.conf")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
