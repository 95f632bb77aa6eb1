# SPDX-License-Identifier: Apache-2.0
"""The generated tables of docs/validation.md: ``python -m tests.validate.docs`` writes them, a test compares them."""

from __future__ import annotations

import re
from pathlib import Path

from numabench.analysis.signatures import SIGNATURES
from numabench.validation.baseline import build
from numabench.validation.metrics import REGISTRY
from numabench.validation.validate import validate

from .reference import core_to_core_before, earlier, judged, machines, published

FILE = Path(__file__).parents[2] / "docs" / "validation.md"
FAULTS = ("unexplained", "invalid measurement")


def metrics() -> str:
    rows = [f"| `{m.name}` | {m.unit} | {m.better} | {m.about} |" for m in REGISTRY]
    return "\n".join(["| metric | unit | better | what |", "|---|---|---|---|", *rows])


def signatures() -> str:
    rows = [
        f"| {s.cause} | {'; '.join(s.shows)} | {'; '.join(s.against) or '-'} | {s.check} | {s.remedy} |"
        for s in SIGNATURES
    ]
    return "\n".join(
        ["| cause | shown by | spoken against by | what tells it apart | remedy |", "|---|---|---|---|---|", *rows]
    )


def replay() -> str:
    """One row per reference machine: verdicts, the run before, what its source could not explain."""
    rows = ["| machine | latency | bandwidth | against the run before | known anomaly |", "|---|---|---|---|---|"]
    all_of_them = machines()
    for name, one in all_of_them.items():
        known = [a for a in one["known_anomalies"] if a["verdict"].startswith(FAULTS)]
        result = judged(one)
        if result is None and not known:
            continue
        said = {"latency": "not published", "bw.read": "not published"}
        for check in result.checks if result else ():
            if check.layer == "symmetry" and not (check.reason == "NO_DATA" and check.text == "not measured"):
                words = f"{check.verdict}: {check.text.partition(';')[0]}" if check.verdict != "PASS" else "PASS"
                words = "nothing to compare" if check.verdict == "SKIP" else words
                old = said[check.name]
                said[check.name] = words if old in ("not published", "PASS") else f"{old}; {words}"
            elif check.reason == "UNEVEN":
                said["bw.read"] = f"{check.verdict}: {check.name}, {check.instance}: {check.value:.2f}"
            elif check.reason == "INVALID":
                said["latency"] = f"{check.verdict}: {check.name}"
        before = earlier(one, all_of_them)
        drift, held = "", None
        if before is not None:
            then, now = published(before), published(one)
            assert then is not None
            assert now is not None
            held = validate(now, host=name, baseline=build([validate(then, host=before["name"])]))
        else:
            held = core_to_core_before(one, all_of_them)
        if held is not None:
            bad = [c for c in held.checks if c.layer == "baseline" and c.verdict != "PASS"]
            drift = "; ".join(f"{c.verdict}: {c.label} {c.value:.4g} {c.unit}" for c in bad) or "PASS"
        about = "; ".join(f"{a['kind']} ({a['field']}): {a['verdict']}" for a in known)
        rows.append(f"| {name} | {said['latency']} | {said['bw.read']} | {drift or '-'} | {about or '-'} |")
    return "\n".join(rows)


BLOCKS = {"metrics": metrics, "signatures": signatures, "replay": replay}


def updated(text: str) -> str:
    """The document with its blocks made anew."""
    for name, make in BLOCKS.items():
        pattern = re.compile(rf"(<!-- {name}: .*? -->\n).*?(<!-- end -->)", re.S)
        assert pattern.search(text), name
        block = make()
        text = pattern.sub(lambda m, block=block: f"{m[1]}{block}\n{m[2]}", text)  # type: ignore[misc]
    return text


if __name__ == "__main__":
    FILE.write_text(updated(FILE.read_text()))
