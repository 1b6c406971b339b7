"What holds for every test: few threads, no telemetry, and in CI nothing is skipped."
import os

import pytest

# Read when torch, tokenizers and matplotlib are first imported, and inherited by the processes that tests start.
threads = str(min(2, os.cpu_count() or 1))
for name, value in dict(OMP_NUM_THREADS=threads, MKL_NUM_THREADS=threads, TOKENIZERS_PARALLELISM="false",
                        HF_HUB_DISABLE_TELEMETRY="1", MPLBACKEND="Agg").items():
    os.environ.setdefault(name, value)

in_ci = os.environ.get("CI", "").lower() in ("1", "true")


def fail_if_skipped(report):
    "A skip in CI is a check that silently did not happen: call it a failure. An expected failure is none."
    if in_ci and report.skipped and not hasattr(report, "wasxfail"):
        why = report.longrepr[2] if isinstance(report.longrepr, tuple) else report.longrepr
        report.outcome, report.longrepr = "failed", f"in CI nothing may be skipped: {report.nodeid}: {why}"
    return report


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item):
    report = yield
    return report if item.get_closest_marker("gpu") else fail_if_skipped(report)


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report():
    return fail_if_skipped((yield))
