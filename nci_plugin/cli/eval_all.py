"""What ``nci-ood eval all`` evaluates: every benchmark of OpenOOD's whose data and checkpoints are there."""

from __future__ import annotations

from nci_plugin.adapters.openood.roots import find_roots
from nci_plugin.checks import PluginError
from nci_plugin.cli.network import ALL, Job
from nci_plugin.inputs import NO_CSID, Inputs, MissingInputs, official_benchmarks
from nci_plugin.report.terminal import say

OTHERWISE = "digits"
"""What is evaluated without a BENCHMARK where none of OpenOOD's is there."""


def find_all(job: Job, named: bool) -> dict[str, Inputs]:
    """The benchmarks that are there, by name; where none is, OTHERWISE, unless BENCHMARK was ``named`` as ``all``.

    Says which are left out and why. Raises PluginError if nothing is there for ``all``, or on options that belong to
    one benchmark.
    """
    network, data = job.network, job.data
    of_one = {
        "--ckpt-path": network.ckpt_path is not None,
        "--net": network.net is not None,
        "--head": network.head is not None,
        "--output": data.output is not None,
        "--csid": data.csid not in (None, (NO_CSID,)),
    }
    flags = " ".join(flag for flag, was_set in of_one.items() if was_set)
    refusal = f"{flags}: cannot hold for all benchmarks; name one in the place of '{ALL}'"
    if flags and named:
        raise PluginError(refusal)
    found: dict[str, Inputs] = {}
    left_out: dict[str, str] = {}
    for name in official_benchmarks():
        try:
            found[name] = job.find(name, find_roots(name, data.data_root))
        except PluginError as error:
            left_out[name] = error.summary if isinstance(error, MissingInputs) else str(error)
    if not found:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in left_out.items())
        if named:
            raise PluginError(
                f"no benchmark of OpenOOD's can be evaluated ({reasons}); evaluate one by its name to see what is"
                " missing and how to download it"
            )
        say(f"benchmark: {OTHERWISE}, since none of OpenOOD's can be evaluated ({reasons})")
        return {OTHERWISE: job.find(OTHERWISE, find_roots(OTHERWISE, data.data_root))}
    if flags:
        raise PluginError(f"{refusal} (found: {', '.join(found)})")
    openood = next(iter(found.values())).roots.openood
    if openood:
        print(f"OpenOOD: {openood}")
    for name, reason in left_out.items():
        say(f"left out: {name}: {reason}")
    say(f"benchmarks: {', '.join(found)}")
    return found
