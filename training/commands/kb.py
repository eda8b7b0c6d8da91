"""`solemate kb`: what is indexed, what is found, and when it is good enough to answer with."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from core.errors import ConfigError
from core.opening import calibration_file, open_retriever
from core.printing import Json, err, out, print_json, print_rows
from core.running import run
from core.settings import Settings, at_root

if TYPE_CHECKING:
    from core.calibration import OperatingPoint
    from core.index import Index, IndexFolder
    from core.retrieval import Retriever

group = typer.Typer(no_args_is_help=True, help="The knowledge base and its index.")

CALIBRATION_QUESTIONS = ("data/questions.jsonl", "data/unanswerable.jsonl")
QUESTIONS = ("data/eval/retrieval.jsonl", "data/eval/unanswerable.jsonl")


@group.command()
def build(context: typer.Context) -> None:
    """Index the knowledge base; nothing is done when the index holds it already."""
    _, retriever = run(open_retriever(context.obj))
    out.print(f"The index holds {len(retriever.snapshot.index)} chunks.")


@group.command()
def add(
    context: typer.Context,
    knowledge: Annotated[Path, typer.Argument(help="A JSON file like knowledge_base.json.")],
) -> None:
    """Add a knowledge file to the index, or replace what came from one of its name before."""
    before, index = run(_kb_folder(context.obj, lambda folder: folder.add(knowledge)))
    name = knowledge.name
    out.print(f"{_counts(before, index, name)} Calibrate with `solemate kb calibrate`.")


@group.command()
def remove(
    context: typer.Context,
    origin: Annotated[str, typer.Argument(help="The file's name, as `kb list` shows it.")],
) -> None:
    """Take everything that came from a file out of the index."""
    name = Path(origin).name
    before, index = run(_kb_folder(context.obj, lambda folder: folder.remove(name)))
    out.print(_counts(before, index, name))


@group.command("list")
def list_chunks(context: typer.Context, as_json: Json = False) -> None:
    """List what is indexed."""
    _, retriever = run(open_retriever(context.obj))
    index = retriever.snapshot.index
    rows = [
        {
            "id": chunk.id,
            "title": chunk.title,
            "topic": chunk.topic,
            "lang": chunk.lang,
            "source": chunk.source,
            "file": origin,
        }
        for chunk, origin in zip(index.chunks, index.origins, strict=True)
    ]
    print_rows(rows, as_json)


@group.command()
def search(
    context: typer.Context,
    question: Annotated[str | None, typer.Argument(help="What to look for.")] = None,
    knowledge: Annotated[Path | None, typer.Option(help="Search this file instead.")] = None,
    batch: Annotated[
        Path | None, typer.Option(help='JSON lines {"id", "question"} to rank.')
    ] = None,
    as_json: Json = False,
) -> None:
    """Show what retrieval finds for a question, or for a file of questions."""
    if (question is None) == (batch is None):
        raise ConfigError("Give a question, or --batch with a file of questions; not both.")
    run(_search(context.obj, question, knowledge, batch, as_json))


@group.command()
def calibrate(
    context: typer.Context,
    questions: Annotated[
        list[Path] | None, typer.Option(help="Question files; default: those of data/.")
    ] = None,
    wrong: Annotated[
        float, typer.Option(min=0, max=1, help="Of what has no answer, the share that may get one.")
    ] = 0.26,
    refused: Annotated[
        float,
        typer.Option(
            min=0, max=1, help="Of what has no answer, the share to refuse; we ask back the rest."
        ),
    ] = 0.23,
    as_json: Json = False,
) -> None:
    """Fit to this knowledge base when to answer, ask back and refuse."""
    files = questions or [at_root(name) for name in CALIBRATION_QUESTIONS]
    run(_calibrate(context.obj, files, wrong, refused, as_json))


@group.command("eval")
def evaluate_retrieval(
    context: typer.Context,
    questions: Annotated[
        list[Path] | None, typer.Option(help="Question files; default: data/eval/.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Measure recall and refusals on held-out questions."""
    files = questions or [at_root(name) for name in QUESTIONS]
    run(_evaluate_retrieval(context.obj, files, as_json))


async def _kb_folder(
    settings: Settings, work: Callable[[IndexFolder], Awaitable[Index]]
) -> tuple[Index, Index]:
    """Change the index; as it was, and as it is."""
    folder, retriever = await open_retriever(settings)
    return retriever.snapshot.index, await work(folder)


def _counts(before: Index, index: Index, name: str) -> str:
    """How many chunks a file has and had in the index, so that nothing is replaced unseen."""
    now, then = index.origins.count(name), before.origins.count(name)
    return f"Chunks of {name!r} in the index: {now} (before: {then}); of all files: {len(index)}."


async def _search(
    settings: Settings,
    question: str | None,
    knowledge: Path | None,
    batch: Path | None,
    as_json: bool,
) -> None:
    from core.retrieval import Query
    from core.retrieval_eval import load_questions, search_batch

    retriever = await _retriever_over(settings, knowledge)
    if batch is not None:
        for line in await search_batch(retriever, load_questions(batch)):
            print_json(asdict(line))
        return
    ranking = await retriever.rank(Query(question or ""))
    rows = [
        {
            "id": hit.chunk.id,
            "title": hit.chunk.title,
            "score": round(hit.score, 4),
            "probability": round(hit.probability, 4),
        }
        for hit in ranking.hits[:10]
    ]
    if as_json:
        print_json({"outcome": ranking.relevance, "results": rows})
        return
    print_rows(rows, as_json)
    out.print(f"outcome: {ranking.relevance} (confidence {ranking.confidence:.2f})")


async def _retriever_over(settings: Settings, knowledge: Path | None) -> Retriever:
    """A retriever over the knowledge base, or over one file that is not to be kept."""
    _, retriever = await open_retriever(settings)
    if knowledge is None:
        return retriever
    from core.index import Index
    from core.knowledge import load_knowledge
    from core.retrieval import Snapshot

    index = Index.of(retriever.snapshot.index.recipe, load_knowledge(knowledge), knowledge.name)
    return retriever.on(Snapshot(index, retriever.snapshot.calibration))


async def _calibrate(
    settings: Settings, questions: Sequence[Path], wrong: float, refused: float, as_json: bool
) -> None:
    from core.calibration import to_json
    from core.index import write_atomically
    from core.retrieval_eval import calibrate as fit
    from core.retrieval_eval import load_questions

    _, retriever = await open_retriever(settings)
    asked = [question for file in questions for question in load_questions(file)]
    with err.status(f"Asking {len(asked)} questions…"):
        found = await fit(retriever, asked, wrong, refused)
    write_atomically(calibration_file(settings), to_json(found))
    assert found.point is not None
    if as_json:
        print_rows([asdict(found.point)], as_json)
    else:
        out.print(_in_words(found.point), soft_wrap=True)


def _in_words(point: OperatingPoint) -> str:
    """What the thresholds do; a share of wrong answers is nothing that they tell."""
    asked_back = 1 - point.wrong - point.refused
    return (
        f"Measured on {point.questions} questions, of two kinds.\n"
        f"With an entry in the knowledge base: {point.answered:.1%} get an answer, "
        f"{point.clarified:.1%} a choice of titles, the rest a refusal.\n"
        f"Without one (most are the same questions, asked while their entry is hidden): "
        f"{point.wrong:.1%} get an answer from an entry nearby (--wrong), {asked_back:.1%} a "
        f"choice of titles, {point.refused:.1%} a refusal (--refused).\n"
        f"The second kind is the hardest there is, and rare among what people ask: "
        f"{point.wrong:.1%} is no share of wrong answers."
    )


async def _evaluate_retrieval(settings: Settings, questions: Sequence[Path], as_json: bool) -> None:
    from core.retrieval_eval import evaluate, load_questions

    _, retriever = await open_retriever(settings)
    asked = [question for file in questions for question in load_questions(file)]
    with err.status(f"Asking {len(asked)} questions…"):
        found = await evaluate(retriever, asked)
    if as_json:
        print_json(asdict(found))
        return
    figures = asdict(found)
    for rows in [value for value in figures.values() if isinstance(value, (list, tuple))]:
        print_rows(list(rows), as_json)
    print_rows([{k: v for k, v in figures.items() if isinstance(v, float)}], as_json)
