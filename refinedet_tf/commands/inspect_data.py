"""Reports on the data of a config before a training: numbers, defects, samples, and what to change."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from refinedet_tf.commands.options import (
    add_config_options,
    add_data_option,
    config_from,
    take_data_folder,
)
from refinedet_tf.commands.terminal import import_tensorflow
from refinedet_tf.errors import InputError, shortened_text
from refinedet_tf.files import is_file
from refinedet_tf.progress import QUIET_SECONDS, ProgressPrinter
from refinedet_tf.reports import NUMBERS, PAGE


def main(arguments: Sequence[str] | None = None, prog: str | None = None) -> None:
    """Parses the command line, looks at the data and writes the report."""
    parser = argparse.ArgumentParser(prog=prog, description=__doc__)
    add_config_options(parser, required=False)
    add_data_option(parser)
    parser.add_argument(
        "--output",
        required=True,
        type=Path,
        metavar="FOLDER",
        help=f"the folder for {PAGE}, which needs no other file, and {NUMBERS}; an older report is replaced",
    )
    options = parser.parse_args(arguments)
    folder: Path = options.output
    if is_file(folder):
        raise InputError(f"--output {shortened_text(folder)} is a file; name a folder")
    take_data_folder(options)
    config = config_from(options)

    import_tensorflow()
    from refinedet_tf.reports.inspection.findings import find_all
    from refinedet_tf.reports.inspection.report import inspect_data
    from refinedet_tf.reports.inspection.report_page import report_data

    report = inspect_data(config, lambda what: ProgressPrinter(what, QUIET_SECONDS))
    findings = find_all(report)
    page = report_data(folder, report, findings)
    for finding in findings:
        print(f"{finding.level}: {finding.text}")
    print(f"report written to {page} and {folder / NUMBERS}")
