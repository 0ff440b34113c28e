"""Self-contained pages: HTML files that hold their style, charts and pictures, and load or run nothing."""

from refinedet_tf.reports.pages.blocks import (
    Block,
    Code,
    Columns,
    Details,
    Finding,
    Findings,
    Picture,
    Table,
    Text,
)
from refinedet_tf.reports.pages.charts import BarChart, LineChart
from refinedet_tf.reports.pages.page import Section, make_report_folder, render_page, write_report

__all__ = [
    "BarChart",
    "Block",
    "Code",
    "Columns",
    "Details",
    "Finding",
    "Findings",
    "LineChart",
    "Picture",
    "Section",
    "Table",
    "Text",
    "make_report_folder",
    "render_page",
    "write_report",
]
