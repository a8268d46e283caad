# Copyright 2026 The CMPF authors. Licensed under the Apache License, Version 2.0.
"""Validation of datasets: opens every file and reports all issues together."""

from __future__ import annotations

from cmpf.data.datasets.issues import Issue, IssueKind
from cmpf.data.datasets.validate.checking import Report, report_of, validate

__all__ = ["Issue", "IssueKind", "Report", "report_of", "validate"]
