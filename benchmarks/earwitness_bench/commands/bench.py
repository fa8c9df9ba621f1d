"""``earwitness bench``: score explainers."""

from __future__ import annotations

import json
import shlex
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from earwitness.cli.context import current_registry
from earwitness.cli.options import device_option, json_option
from earwitness.cli.progress import progress_bar
from earwitness.cli.shell import INTERRUPTED

if TYPE_CHECKING:
    from earwitness_bench.engines import Engine
    from earwitness_bench.runner import Summary
    from earwitness_bench.suite import Suite


def _shard(_context: click.Context, _parameter: click.Parameter, given: str | None) -> tuple[int, int]:
    """From ``K/N``, K from 1, to (K - 1, N)."""
    if given is None:
        return 0, 1
    k, slash, n = given.partition("/")
    if not (slash and k.isdecimal() and n.isdecimal() and 1 <= int(k) <= int(n)):
        raise click.BadParameter(f"expected K/N with 1 <= K <= N, such as 2/8, got {given!r}")
    return int(k) - 1, int(n)


@click.command()
@click.argument("suite", required=False, metavar="SUITE")
@click.option("--quick", is_flag=True, help="The suite `quick`: toy data, about a minute.")
@click.option("--out", type=click.Path(path_type=Path), required=True, metavar="DIR", help="Results folder.")
@device_option
@click.option(
    "--engine",
    "engine_name",
    type=click.Choice(["serial", "joblib", "ray"]),
    help="Where cells are computed. Default: serial; joblib with --jobs; ray with --address.",
)
@click.option("--jobs", type=click.IntRange(min=1), metavar="N", help="The most workers, each a process of its own.")
@click.option("--address", metavar="HOST:PORT", help="Join a Ray cluster that is running.")
@click.option("--fail-fast", is_flag=True, help="Stop at the first cell that fails.")
@click.option("--only-failed", is_flag=True, help="Compute again what has failed, and nothing else.")
@click.option("--shard", callback=_shard, metavar="K/N", help="Compute the K-th of N parts of the suite.")
@click.option("--dry-run", is_flag=True, help="Say what would be computed, and what that takes; compute one batch.")
@json_option
def bench(
    suite: str | None,
    quick: bool,
    out: Path,
    device: str,
    engine_name: str | None,
    jobs: int | None,
    address: str | None,
    fail_fast: bool,
    only_failed: bool,
    shard: tuple[int, int],
    dry_run: bool,
    as_json: bool,
) -> None:
    """Score every explainer of a SUITE: a TOML file, or the name of a shipped one.

    Every result is kept as soon as it is there. Stop it at any moment and give the same command again: nothing is lost
    and nothing is computed twice. A metric that is added to the suite later explains nothing again.

    \b
    Examples:
      earwitness bench --quick --out results
      earwitness bench esc10 --out results --jobs 8
      earwitness bench esc10 --out results --dry-run
      earwitness leaderboard results
    """
    from earwitness_bench.engines import make_engine
    from earwitness_bench.suite import load_suite, shipped_suites

    if quick and suite:
        raise click.UsageError(f"Give either {suite} or --quick, not both.")
    if not quick and not suite:
        raise click.UsageError(f"Give a suite file, --quick, or a shipped suite: {', '.join(shipped_suites())}.")
    if only_failed and not (out / "plan.json").is_file():
        raise click.UsageError(f"{out} holds no results: nothing has failed there. Leave out --only-failed.")
    loaded = load_suite(suite or shipped_suites()["quick"])
    usual = "ray" if address else "joblib" if jobs else "serial"
    engine = make_engine(engine_name or usual, jobs=jobs, address=address)
    if dry_run:
        _say_plan(loaded, out, engine, device, as_json)
        return
    started = time.monotonic()
    options = {"fail_fast": fail_fast, "only_failed": only_failed, "shard": shard}
    summary = _run(loaded, out, engine, device, as_json, options)
    _say(summary, out, round(time.monotonic() - started, 1), as_json, shard)
    if summary.left:
        raise SystemExit(1)


def _run(suite: Suite, out: Path, engine: Engine, device: str, quiet: bool, options: dict[str, Any]) -> Summary:
    """Run a suite, with what one sees of it meanwhile and what is kept of that."""
    from earwitness_bench.monitor import Said, Tally, console, log_file
    from earwitness_bench.results import write_parquet
    from earwitness_bench.runner import run_suite
    from earwitness_bench.store import Store

    store = Store(out, create=True)
    tally = Tally()
    with log_file(out) as log:

        def tell(event: Any) -> None:
            tally(event)
            log(event)

        tell(Said(f"earwitness {shlex.join(sys.argv[1:])}: suite {suite.name}, {engine.workers} x {engine.name}"))
        try:
            with console(tally, quiet=quiet):
                summary = run_suite(
                    suite,
                    out,
                    registry=current_registry(),
                    engine=engine,
                    device=device,
                    observer=tell,
                    **options,
                )
        except KeyboardInterrupt:
            tell(Said("stopped with Ctrl-C"))
            click.echo(
                f"\nStopped: {tally.line()}. Everything that was finished is in {out}; the same command goes on from "
                "there.",
                err=True,
            )
            raise SystemExit(INTERRUPTED) from None
        except Exception as error:
            tell(Said(f"stopped: {error}"))
            raise
        tell(Said(f"done: {summary.explained} explanations, {summary.scored} scores, {summary.cached} found"))
        for title, seconds in tally.speeds():
            tell(Said(f"{title}: {seconds:.3f} s a clip"))
    if options["shard"][1] == 1:
        write_parquet(store)
    return summary


def _say(summary: Summary, out: Path, seconds: float, as_json: bool, shard: tuple[int, int]) -> None:
    from earwitness_bench.leaderboard import FORMATS, make_tables
    from earwitness_bench.store import Store

    if as_json:
        facts = {"explained": summary.explained, "scored": summary.scored, "cached": summary.cached}
        more = {"failed": summary.failed, "notes": summary.notes, "left": summary.left}
        click.echo(json.dumps({"out": str(out), "seconds": seconds, **facts, **more}, indent=1))
        return
    for note in summary.notes:
        click.echo(f"note: {note}")
    if shard[1] == 1:
        click.echo(FORMATS["table"](make_tables(Store(out))))
    else:
        click.echo(f"Part {shard[0] + 1} of {shard[1]}. Where all of them are, `earwitness leaderboard` ranks them.")
    for failure in summary.failed:
        click.echo(f"failed: {failure}", err=True)
    if summary.left:
        click.echo(f"Stopped at the first failure; {summary.left} units are left.", err=True)
    click.echo(
        f"{summary.explained} explanations and {summary.scored} scores computed, {summary.cached} found, "
        f"in {seconds:g} s: {out}"
    )


def _say_plan(suite: Suite, out: Path, engine: Engine, device: str, as_json: bool) -> None:
    from earwitness_bench.forecast import as_text, forecast

    with progress_bar("measuring a batch of each explainer") as progress:
        found = forecast(suite, out, registry=current_registry(), engine=engine, device=device, progress=progress)
    click.echo(json.dumps(found.document(), indent=1) if as_json else as_text(found))
