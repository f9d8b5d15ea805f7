"""`shibolet review RUN`: the review of a run folder from its first request to its last, and its files."""

from collections.abc import Callable
from contextlib import closing, suppress
from pathlib import Path

from shibolet.errors import DataError
from shibolet.recipe import load_recipe
from shibolet.records.answers import read_answers
from shibolet.records.audited import AuditedRows
from shibolet.records.documents.alignment import AlignmentReport
from shibolet.records.reading import read_content
from shibolet.records.runfolder import RunFolder
from shibolet.report.review_page import review_page
from shibolet.rounds.reviewing.address import address_of
from shibolet.rounds.reviewing.desk import Desk
from shibolet.rounds.reviewing.label_studio import answers_in, export_tasks
from shibolet.rounds.reviewing.server import ReviewServer
from shibolet.rounds.reviewing.settling import open_journal


def serve(run_dir: Path, port: int | None, tell: Callable[[str], None]) -> None:
    """Serve the review until Ctrl-C. DataError where another process serves it."""
    folder = RunFolder(run_dir)
    _require_audit(folder)
    with closing(open_journal(folder)) as journal:
        desk = Desk(folder, load_recipe(folder.recipe), journal)
        page, _ = review_page(folder), desk.rows_json  # made before the first page asks for it
        with ReviewServer(address_of(run_dir, port), desk, page) as server:
            tell(server.address.url)
            with suppress(KeyboardInterrupt):  # the way to end it
                server.serve_forever()


def take_in_file(run_dir: Path, path: Path, by: str | None) -> str:
    """Add the answers of a file, as `answers_in` reads it; a sentence about them."""
    folder = RunFolder(run_dir)
    _require_audit(folder)
    given = answers_in(read_content(path, "give the file that was exported"), path.name, by)
    with closing(open_journal(folder)) as journal:
        new, old, unknown = Desk(folder, load_recipe(folder.recipe), journal).take_in(given)
    if not new + old:
        raise DataError(f"{path}: none of its {unknown:,} answers is about an utterance of this audit")
    said = f"{new:,} answers were taken in; {unknown:,} are about other utterances or other texts"
    return f"{said}\n{old:,} were here already, or newer ones are" if old else said


def export_to_label_studio(run_dir: Path, out_dir: Path) -> str:
    """Write the random draw, what was flagged and what was answered as tasks; a sentence about them."""
    folder = RunFolder(run_dir)
    _require_audit(folder)
    given = read_answers(folder.answers)
    wanted = {*AlignmentReport.read(folder.alignment_report()).review.draw, *(one.id for one in given)}
    tables = [path for path in (folder.audited_utterances(), folder.audited_rest) if path.is_file()]
    rows = AuditedRows(tables)
    chosen = (row for row in rows.rows(rows) if row.id in wanted or row.is_low_quality)
    num, num_silent = export_tasks(chosen, given, run_dir, out_dir)
    return f"{num:,} tasks are in {out_dir / 'tasks.json'}; {num_silent:,} utterances without sound are left out"


def _require_audit(folder: RunFolder) -> None:
    if not folder.alignment_report().is_file():
        raise DataError(f"{folder.path}: there is no audit to review; run 'shibolet audit' with the recipe first")
    folder.intact("start", "audit", "hear-rest")
