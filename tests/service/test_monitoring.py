"""Grafana's dashboard and Prometheus' alerts: what they ask for is what a service answers."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

from pagecheck.cli.main import cli
from tests.service.test_metrics import address_of, scrape_text
from tests.support.service import StartService

FOLDER = Path(__file__).parents[2] / "docs/grafana"
ALERTS = FOLDER / "alerts.yml"
OF_PROMETHEUS = {"up"}
TARGET = {"job", "instance"}  # labels that Prometheus adds
WORDS = {"by", "without", "and", "or", "unless", "sum", "max", "rate", "increase", "le"}


def dashboard() -> dict[str, Any]:
    found: dict[str, Any] = json.loads((FOLDER / "pagecheck.json").read_text())
    return found


def expressions() -> Iterator[str]:
    """Every PromQL expression of both files."""
    for panel in dashboard()["panels"]:
        yield from (target["expr"] for target in panel.get("targets", ()))
    for variable in dashboard()["templating"]["list"]:
        if variable["type"] == "query":
            yield re.sub(r"label_values\((.*), \w+\)", r"\1", variable["query"]["query"])
    yield from rules().values()


def rules() -> dict[str, str]:
    """Expression by alert. YAML as it is written there: one, or a folded block, per alert."""
    found = {}
    for part in re.split(r"^ +- alert: ", ALERTS.read_text(), flags=re.MULTILINE)[1:]:
        name = part.split("\n")[0]
        expression = re.search(r"^ +expr: (?:>-\n((?: {10}.*\n)+)|(.*)\n)", part, re.MULTILINE)
        assert expression is not None, name
        found[name] = " ".join((expression[1] or expression[2]).split())
    return found


@pytest.fixture
def samples(start_service: StartService) -> dict[str, set[str]]:
    """The labels of every sample that a service has, by its name."""
    service = start_service("-v", "--engine", "cpu", "--metrics", "127.0.0.1:0")
    found: dict[str, set[str]] = {}
    families: list[Metric] = list(text_string_to_metric_families(scrape_text(address_of(service))))
    for family in families:
        for sample in family.samples:
            found.setdefault(sample.name, set()).update(sample.labels)
    return found


def test_every_metric_and_label_is_there(samples: dict[str, set[str]]) -> None:
    """Each metric with the labels that it is selected or summed by."""
    seen = set()
    for expression in expressions():
        names = set(re.findall(r"\bpagecheck_\w+", expression))
        assert names - samples.keys() == set(), expression
        assert names or "up" in expression
        seen |= names
        labels = set().union(*(samples[name] for name in names)) | TARGET
        for name, selected in re.findall(r"(\w+)\{(.*?)\}", expression):
            asked = set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", selected))
            allowed = TARGET | (samples[name] if name not in OF_PROMETHEUS else set())
            assert asked <= allowed, expression
        for grouped in re.findall(r"\b(?:by|without)\s*\((.*?)\)", expression):
            assert set(re.split(r",\s*", grouped)) <= labels, expression
    shown = {name for name in samples if not name.endswith(("_created", "_info"))}
    assert shown - seen == {"pagecheck_start_time_seconds"}


def test_values_of_labels_are_ones_that_there_are(start_service: StartService) -> None:
    service = start_service("-v", "--engine", "cpu", "--metrics", "127.0.0.1:0")
    text = scrape_text(address_of(service))
    asked = {
        (label, value)
        for expression in expressions()
        for label, values in re.findall(r"(state|result)=~?\"(.*?)\"", expression)
        for value in values.split("|")
    }
    assert ("state", "abandoned") in asked
    assert ("result", "undecided") in asked
    for label, value in asked:
        assert f'{label}="{value}"' in text


def test_what_an_operator_must_know_has_an_alert() -> None:
    found = rules()
    needed = {
        "PagecheckNoAnswer": 'up{job="pagecheck"} == 0',
        "PagecheckVmHeldTooLong": "pagecheck_vm_hold_seconds > pagecheck_vm_hold_limit_seconds",
        "PagecheckVmNotContinued": "pagecheck_left_processes > 0",
        "PagecheckWorkersReplaced": "increase(pagecheck_worker_restarts_total[15m])",
        "PagecheckQueueGivenUp": "pagecheck_queues{",
    }
    assert {name for name, what in needed.items() if what not in found[name]} == set()
    text = ALERTS.read_text()
    assert text.count("severity:") == text.count("summary:") == text.count("description:")
    assert text.count("severity:") == len(found)


def test_commands_that_alerts_name_are_there() -> None:
    named = re.findall(r"`pagecheck (\w+)`", ALERTS.read_text())
    assert named
    assert set(named) <= cli.commands.keys()


def test_the_dashboard_is_one() -> None:
    found = dashboard()
    panels = found["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    places = set()
    for panel in panels:
        at = panel["gridPos"]
        assert at["x"] + at["w"] <= 24
        cells = {
            (x, y)
            for x in range(at["x"], at["x"] + at["w"])
            for y in range(at["y"], at["y"] + at["h"])
        }
        assert not cells & places, panel["title"]
        places |= cells
        assert panel["type"] == "row" or panel["datasource"]["uid"] == "${datasource}"
    assert len({panel["title"] for panel in panels}) == len(panels)


TESTS = """
rule_files: [alerts.yml]
evaluation_interval: 1m
tests:
  - interval: 1m
    input_series:
      - series: 'up{job="pagecheck", instance="a"}'
        values: '1 1 0 0 0'
      - series: 'pagecheck_vm_hold_seconds{job="pagecheck", instance="a"}'
        values: '0 14 16 16 0'
      - series: 'pagecheck_vm_hold_limit_seconds{job="pagecheck", instance="a"}'
        values: '5 5 5 5 5'
      - series: 'pagecheck_queues{job="pagecheck", instance="a", state="abandoned"}'
        values: '1x20'
      - series: 'pagecheck_queues{job="pagecheck", instance="a", state="up"}'
        values: '1x20'
      - series: 'pagecheck_worker_restarts_total{job="pagecheck", instance="a"}'
        values: '0 0 2 4 6 8 8 8'
    alert_rule_test:
      - {eval_time: 1m, alertname: PagecheckVmHeldTooLong, exp_alerts: []}
      - eval_time: 2m
        alertname: PagecheckVmHeldTooLong
        exp_alerts:
          - exp_labels: {severity: critical, job: pagecheck, instance: a}
            exp_annotations:
              summary: A VM on a is held by pagecheck past its bound.
              description: >-
                It has been stopped for 16s. Its VMM does not continue it: see
                the log of pagecheck for which one it is, and continue it by the VMM's own tool.
      - {eval_time: 4m, alertname: PagecheckVmHeldTooLong, exp_alerts: []}
"""


def promtool(*arguments: object, cwd: Path = FOLDER) -> str:
    if shutil.which("promtool") is None:
        pytest.skip("no promtool: apt-get install prometheus")
    done = subprocess.run(
        ["promtool", *map(str, arguments)], cwd=cwd, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_promtool_takes_the_rules() -> None:
    assert f"{len(rules())} rules found" in promtool("check", "rules", ALERTS)


def test_the_rules_fire_as_they_should(tmp_path: Path) -> None:
    shutil.copy(ALERTS, tmp_path)
    (tmp_path / "tests.yml").write_text(TESTS)
    assert "SUCCESS" in promtool("test", "rules", "tests.yml", cwd=tmp_path)
