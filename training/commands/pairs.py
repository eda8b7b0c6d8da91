"""`solemate pairs …`: preference pairs, from people's thumbs to what a run is trained on."""

from __future__ import annotations

import getpass
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from core.errors import ConfigError
from core.opening import open_store
from core.printing import Json, err, out, print_json, print_rows, printable
from core.running import run
from core.settings import Settings

if TYPE_CHECKING:
    from training.collect import Collected
    from training.lineage import Lineage
    from training.pairs import PreferencePair

# Modules that load torch are imported where they are needed: `pairs list` takes no second.

group = typer.Typer(no_args_is_help=True, help="Preference pairs out of people's thumbs.")

Operator = Annotated[str, typer.Option("--as", help="Your name in the audit; default: your login.")]
_DAY = 86_400.0
_MOST_REASONS = 20


class Shown(StrEnum):
    """Which pairs to list."""

    OPEN = "open"
    WAITING = "waiting"
    ACCEPTED = "accepted"
    REFUSED = "refused"
    WITHDRAWN = "withdrawn"
    ALL = "all"


class Style(StrEnum):
    """How a file of pairs is written."""

    SOURCE = "source"
    ALPACA = "alpaca"
    SHAREGPT = "sharegpt"
    KTO = "kto"


@group.command()
def collect(context: typer.Context, as_json: Json = False) -> None:
    """Make pairs of all thumbs that have none yet; the scheduler does it by itself."""
    collected = run(_collect(context.obj))
    if as_json:
        print_json(
            {
                "new": [pair.id for pair in collected.new],
                "states": Counter(pair.state for pair in collected.new),
                "withdrawn": collected.withdrawn,
                "held": collected.held,
                "alarms": [alarm.sentence for alarm in collected.alarms],
            }
        )
    else:
        _print_collected(collected)


@group.command("list")
def list_pairs(
    context: typer.Context,
    state: Annotated[Shown, typer.Option(help="Which ones.")] = Shown.ALL,
    limit: Annotated[int, typer.Option(min=1, help="The newest so many.")] = 50,
    as_json: Json = False,
) -> None:
    """List pairs with their state, and why a pair is refused or waits."""
    found = run(_read(context.obj, state))[-limit:]
    if as_json:
        print_json([_summary(pair) for pair in found])
        return
    table = Table()
    for name in ("pair", "state", "origin", "question", "chosen", "why"):
        table.add_column(name, no_wrap=True)
    for pair in found:
        texts = (pair.question, pair.chosen, pair.refusal)
        table.add_row(pair.id[:8], pair.state, pair.origin, *map(_line, texts))
    out.print(table if found else "No pairs. `solemate pairs collect` makes them of thumbs.")


@group.command()
def show(
    context: typer.Context,
    pair: Annotated[str, typer.Argument(help="The id, or how it begins.")],
    as_json: Json = False,
) -> None:
    """Show a pair with its prompt, and its way from the thumb to the adapters."""
    found = run(_lineage(context.obj, pair))
    if as_json:
        print_json(_lineage_json(found))
    else:
        print_lineage(found)


@group.command()
def review(
    context: typer.Context,
    pairs: Annotated[list[str] | None, typer.Argument(help="These; default: what waits.")] = None,
    unanswered: Annotated[
        bool, typer.Option("--unanswered", help="Answer thumbs-down that have no better answer.")
    ] = False,
    operator: Operator = "",
) -> None:
    """Accept, edit, refuse or skip pairs one by one; a named pair also after a decision."""
    done = run(_review(context.obj, pairs or [], unanswered, operator or getpass.getuser()))
    out.print(", ".join(f"{count} {what}" for what, count in done.items()) or "Nothing waits.")


@group.command("export")
def export_pairs(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(help="Where to; .jsonl for source, .json else.")],
    style: Annotated[Style, typer.Option("--format", help="The format.")] = Style.SOURCE,
    everything: Annotated[
        bool, typer.Option("--all", help="Young pairs and those over the cap as well.")
    ] = False,
) -> None:
    """Write the accepted pairs as a run would have them; `kto` writes thumbs without a pair."""
    wanted = ".jsonl" if style is Style.SOURCE else ".json"
    if file.suffix != wanted:
        raise ConfigError(
            f"The format {style.value!r} goes into a {wanted} file, not {file.name!r}."
        )
    count = run(_export(context.obj, file, style, everything))
    out.print(f"{count} rows are in {escape(str(file))}.")


@group.command("import")
def import_file(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(help="A file in any of the export's formats.")],
    accept: Annotated[
        bool, typer.Option("--accept", help="Accept what passes the filters.")
    ] = False,
    operator: Operator = "",
) -> None:
    """Take pairs from a file; they pass the same filters and the same review."""
    run(_import(context.obj, file, accept, operator or getpass.getuser()))


@group.command("bad-cases")
def bad_cases(
    context: typer.Context,
    days: Annotated[float, typer.Option(min=0.01, help="The last so many days.")] = 30.0,
    sheet: Annotated[Path | None, typer.Option(help="Write an XLSX sheet to read.")] = None,
    as_json: Json = False,
) -> None:
    """Group thumbs-down by reason, topic and adapter; a sheet holds every one of them."""
    if sheet is not None and sheet.suffix != ".xlsx":
        raise ConfigError(f"The sheet is an .xlsx file, not {sheet.name!r}.")
    run(_bad_cases(context.obj, days, sheet, as_json))


async def _collect(settings: Settings) -> Collected:
    from training.collect import collect_pairs
    from training.pair_rules import open_rules

    async with open_store(settings, exclusive=False) as store, open_rules(settings) as rules:
        return await collect_pairs(store, rules, time.time())


async def _read(settings: Settings, shown: Shown) -> list[PreferencePair]:
    from training.pairs import OPEN, PairState, read_pairs

    states = {Shown.ALL: frozenset(PairState), Shown.OPEN: OPEN}
    async with open_store(settings, exclusive=False) as store:
        return await read_pairs(store, states.get(shown) or {PairState(shown)})


async def _lineage(settings: Settings, name: str) -> Lineage:
    from training.lineage import lineage_of
    from training.pairs import pair_named

    async with open_store(settings, exclusive=False) as store:
        return await lineage_of(store, await pair_named(store, name))


async def _review(
    settings: Settings, names: Sequence[str], unanswered: bool, operator: str
) -> Counter[str]:
    from training.collect import collect_pairs
    from training.pair_rules import open_rules
    from training.pairs import pair_named
    from training.review_terminal import ReviewDesk

    async with (
        open_store(settings, exclusive=False) as store,
        open_rules(settings, regenerate=False) as rules,
    ):
        _print_collected(await collect_pairs(store, rules, time.time()), err)
        read = partial(out.input, markup=False)
        desk = ReviewDesk(store, rules, operator, out, read, time.time)
        if unanswered:
            return await desk.answer()
        named = [await pair_named(store, name) for name in names]
        return await desk.review(named or None)


async def _export(settings: Settings, file: Path, style: Style, everything: bool) -> int:
    from training.exchange import Format, write_export
    from training.pairs import PairState, PoolRules, accepted, read_pairs, unpaired

    rules, now = PoolRules.of(settings), time.time()
    async with open_store(settings, exclusive=False) as store:
        if style is Style.KTO:
            rated = await unpaired(store, now, rules)
            return write_export(file, Format.KTO, (), rated)
        found = (
            [pair for pair in await read_pairs(store, {PairState.ACCEPTED}) if pair.whole]
            if everything
            else await accepted(store, now, rules)
        )
    return write_export(file, Format(style), found, ())


async def _import(settings: Settings, file: Path, accept: bool, operator: str) -> None:
    from training.exchange import import_pairs, read_import
    from training.pair_rules import open_rules
    from training.pairs import PairState

    pairs = read_import(file, time.time())
    async with (
        open_store(settings, exclusive=False) as store,
        open_rules(settings, regenerate=False) as rules,
    ):
        done = await import_pairs(store, pairs, rules, time.time(), operator, accept=accept)
    states = Counter(pair.state for pair in done.pairs)
    counted = ", ".join(f"{states[state]} {state}" for state in PairState if states[state])
    out.print(f"{len(pairs)} rows: {counted or 'none new'}, {done.known} known before.")
    for pair in [pair for pair in done.pairs if pair.state is PairState.REFUSED][:_MOST_REASONS]:
        err.print(f"[yellow]refused[/yellow] {pair.id[:8]}: {escape(pair.refusal)}")


async def _bad_cases(settings: Settings, days: float, sheet: Path | None, as_json: bool) -> None:
    from training.bad_cases import grouped, read_bad_cases, write_sheet

    async with open_store(settings, exclusive=False) as store:
        cases = await read_bad_cases(store, time.time() - days * _DAY)
    print_rows([asdict(group) for group in grouped(cases)], as_json)
    if sheet is not None:
        write_sheet(cases, sheet)
        err.print(f"{len(cases)} cases are in {escape(str(sheet))}.")


def _print_collected(collected: Collected, console: Console = out) -> None:
    states = Counter(pair.state for pair in collected.new)
    counted = ", ".join(f"{count} {state}" for state, count in states.items()) or "none"
    console.print(
        f"New pairs: {counted}. Taken back: {collected.withdrawn}. Held back: {collected.held}."
    )
    for alarm in collected.alarms:
        console.print(f"[yellow]alarm[/yellow] {escape(alarm.sentence)}")


def print_lineage(found: Lineage) -> None:
    """The pair, then its way: verdicts, decisions, runs and adapters."""
    pair = found.pair
    out.rule(Text(f"pair {pair.id} · {pair.state} · {pair.origin}"))
    if pair.refusal:
        out.print(Text(pair.refusal, style="yellow"))
    for message in pair.prompt:
        out.print(Text.assemble((f"{message.role}: ", "bold"), printable(message.content)))
    for name, text in (("chosen", pair.chosen), ("rejected", pair.rejected)):
        out.print(Text.assemble((f"{name}: ", "bold"), printable(text)))
    out.rule("lineage")
    for row in _lineage_lines(found):
        out.print(Text(row))


def _lineage_lines(found: Lineage) -> Iterator[str]:
    pair = found.pair
    if pair.reply_id:
        yield f"reply {pair.reply_id}, answered by {pair.adapter}"
    for said in found.said:
        more = ", ".join(filter(None, (said.reason, "with a correction" if said.corrected else "")))
        yield f"{_when(said.at)} thumb {said.rating}{f' ({more})' if more else ''}"
    for row in found.decisions:
        yield f"{_when(row.at)} {row.before or 'new'} → {row.after}, by {row.who}"
    for used in found.runs:
        flagged = ", flagged for erasure" if used.flagged else ""
        made = f" → adapter {used.adapter} ({used.adapter_state}{flagged})" if used.adapter else ""
        yield f"run {used.run_id} ({used.state}), {used.split}{made}"


def _lineage_json(found: Lineage) -> dict[str, Any]:
    return {
        "pair": _summary(found.pair)
        | {
            "reply_id": found.pair.reply_id,
            "prompt": [asdict(message) for message in found.pair.prompt],
            "passages": [passage.id for passage in found.pair.passages],
        },
        "said": [asdict(one) for one in found.said],
        "decisions": [
            {"at": row.at, "who": row.who, "before": row.before, "after": row.after}
            for row in found.decisions
        ],
        "runs": [asdict(one) for one in found.runs],
    }


def _summary(pair: PreferencePair) -> dict[str, Any]:
    return {
        "id": pair.id,
        "state": pair.state,
        "origin": pair.origin,
        "question": pair.question,
        "chosen": pair.chosen,
        "rejected": pair.rejected,
        "language": pair.language,
        "reason": pair.reason,
        "adapter": pair.adapter,
        "why": pair.refusal,
        "accepted_by": list(pair.accepted_by),
        "created_at": pair.created_at,
    }


def _when(moment: float) -> str:
    return f"{datetime.fromtimestamp(moment, UTC):%Y-%m-%d %H:%M}"


def _line(text: str) -> Text:
    return Text(printable(" ".join(text.split())))
